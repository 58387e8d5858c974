"""The networks that images are matched in: which ones come, and how they move between steps."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor, nn

from pydream.dream.draws import Draw
from pydream.dream.experts import Experts
from pydream.dream.network import LEARNING_RATE, NetworkTrainer, fresh_network, train_with_dsa
from pydream.dream.real import ClassImages
from pydream.dream.recipes import PRESETS
from pydream.dream.resolved import ResolvedConfig
from pydream.matching import is_batch_norm
from pydream.ops import multi_formation
from pydream.seeds import derived_seed, drawn_order
from pydream.streams import to_device
from pydream.timeline import stage

_NORM_IMAGES = 16  # real images of a class that set the statistics of batch norms
_BATCH = 256  # synthetic images in a step of training
_ORDER, _AUGMENT = range(2)


class Networks:
    """Networks that come one after another and are never trained in between (DM).

    Parameters
    ----------
    config
        Resolved settings.
    real
        The real images.
    make_network
        Function that makes a network with fresh weights, drawn from torch's global generator.
    experts
        The trajectories of experts, for those who need them.

    Attributes
    ----------
    network
        The present one. It is one module all along, whose weights change in place, because a
        captured step reads them there.
    """

    changes_choice = False
    """True if representatives are chosen by each network, False if they are chosen once."""

    def __init__(
        self,
        config: ResolvedConfig,
        real: ClassImages,
        make_network: Callable[[], nn.Module],
        experts: Experts | None = None,
    ) -> None:
        self.config, self.real, self.make_network = config, real, make_network
        self._given_experts = experts
        self.device = real.pixels.device
        self.network = fresh_network(make_network, config.seed, self.device)
        self._chooser: nn.Module | None = None

    def begin(self, seed: int) -> None:
        """Give the network the weights that it has at the beginning of an iteration."""
        self._renew(seed)

    def prepare(self, seed: int, step: int) -> None:
        """Make the network ready for a step; `move` describes the arguments."""

    def move(self, seed: int, step: int, images: Callable[[], Tensor]) -> None:
        """Change the network between a step and the next.

        Parameters
        ----------
        seed
            Random seed of the iteration.
        step
            Number of the step.
        images
            Function that returns the synthetic images of all classes, float32 (K, IPC, C, S, S).
            Ranks exchange them in it: all call it, or none.
        """

    def first_chooser(self) -> nn.Module:
        """Return the network whose features choose the first images."""
        return self.chooser()

    def chooser(self) -> nn.Module:
        """Return the network whose features choose the representatives of a step."""
        if self._chooser is None:
            seed = derived_seed(self.config.seed, Draw.SELECTION)
            kept = {name: value.clone() for name, value in self.network.state_dict().items()}
            self._renew(seed)
            self._pretrain(seed)
            self._chooser = fresh_network(self.make_network, seed, self.device)
            self._chooser.load_state_dict(self.network.state_dict())
            self.network.load_state_dict(kept)
        return self._chooser

    def _renew(self, seed: int) -> None:
        fresh = fresh_network(self.make_network, derived_seed(seed, Draw.NETWORK), self.device)
        self.network.load_state_dict(fresh.state_dict())

    def _pretrain(self, seed: int) -> NetworkTrainer:
        """Train the network for `network_epochs` epochs on all real images."""
        trainer = NetworkTrainer(self.network, self.real)
        for epoch in range(self.config.network_epochs):
            trainer.train(len(self.real.labels), derived_seed(seed, Draw.EPOCH, epoch))
        return trainer


class RealTrained(Networks):
    """Networks that are trained on real images after every step (IDC, DREAM, DREAM+)."""

    changes_choice = True

    def begin(self, seed: int) -> None:
        """Draw weights, and train for `network_epochs` epochs."""
        self._renew(seed)
        self._trainer = self._pretrain(seed)

    def move(self, seed: int, step: int, images: Callable[[], Tensor]) -> None:
        """Train on `network_images` real images."""
        if self.config.network_images:
            with stage("train network", self.device):
                seed = derived_seed(seed, Draw.TRAIN, step)
                self._trainer.train(self.config.network_images, seed)

    def first_chooser(self) -> nn.Module:
        """Return a network as it is at the beginning of an iteration."""
        self.begin(derived_seed(self.config.seed, Draw.INITIAL))
        return self.network

    def chooser(self) -> nn.Module:
        """Return the network as it is."""
        return self.network


class SyntheticTrained(RealTrained):
    """Networks that are trained on the synthetic images between two steps (DC, DSA).

    SGD without momentum, at most 256 images in a batch, and DSA's augmentation, one operation for
    each batch, where the framework augments. Before a step, batch norms take their statistics from
    16 real images of each class, and keep them during the step.

    Notes
    -----
    Zhao et al., "Dataset Condensation with Gradient Matching" (ICLR 2021), algorithm 1.
    """

    def begin(self, seed: int) -> None:
        """Draw weights, and train for `network_epochs` epochs."""
        self.network.train()
        self._renew(seed)
        self._pretrain(seed)
        self._optimizer = torch.optim.SGD(self.network.parameters(), LEARNING_RATE)

    def prepare(self, seed: int, step: int) -> None:
        """Give batch norms their statistics, and freeze them."""
        norms = [module for module in self.network.modules() if is_batch_norm(module)]
        if not norms:
            return
        rows = []
        for label, (begin, end) in enumerate(itertools.pairwise(self.real.offsets)):
            order = drawn_order(derived_seed(seed, Draw.NORM, step, label), end - begin)
            rows.append(torch.from_numpy(begin + order[:_NORM_IMAGES]))
        chosen = to_device(torch.cat(rows), self.device)
        self.network.train()
        with torch.no_grad():
            self.network(self.real.normalise(self.real.take(chosen)))
        for norm in norms:
            norm.eval()

    def move(self, seed: int, step: int, images: Callable[[], Tensor]) -> None:
        """Train for `synthetic_epochs` epochs, but not after the last step."""
        config = self.config
        if config.synthetic_epochs == 0 or step + 1 == config.inner_loop:
            return
        with torch.no_grad(), stage("train network", self.device):
            formed = multi_formation(images(), config.factor, self.real.side)
            seen = self.real.normalise(formed).flatten(0, 1)
        labels = torch.arange(len(formed), device=self.device).repeat_interleave(formed.shape[1])
        self.network.train()
        strategy = config.of_framework.strategy(flip=PRESETS[config.recipe].flip)
        for epoch in range(config.synthetic_epochs):
            of_epoch = derived_seed(seed, Draw.TRAIN, step, epoch)
            order = torch.from_numpy(drawn_order(derived_seed(of_epoch, _ORDER), len(seen)))
            batches = (
                (seen[chosen], labels[chosen])
                for chosen in torch.split(to_device(order, self.device), _BATCH)
            )
            with stage("train network", self.device):
                augment = derived_seed(of_epoch, _AUGMENT)
                train_with_dsa(self.network, self._optimizer, batches, strategy, augment)


class ExpertNetworks(Networks):
    """Networks whose weights are read from the trajectories of experts (MTT)."""

    @property
    def experts(self) -> Experts:
        """The trajectories."""
        assert self._given_experts is not None
        return self._given_experts

    def begin(self, seed: int) -> None:
        """Do nothing: a step draws weights of its own."""

    def chooser(self) -> nn.Module:
        """Return the first expert at the end of its training."""
        if self._chooser is None:
            self._chooser = fresh_network(self.make_network, self.config.seed, self.device)
            weights = self.experts.weights(0, self.experts.epochs, self.device)
            nn.utils.vector_to_parameters(weights, self._chooser.parameters())
        return self._chooser
