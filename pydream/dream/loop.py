"""The matching loop: some steps of the synthetic images with one network after another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pydream.allocator import keep_freed_memory
from pydream.dream.batches import RealBatches
from pydream.dream.draws import Draw
from pydream.dream.experts import Experts
from pydream.dream.moving_networks import (
    ExpertNetworks,
    Networks,
    RealTrained,
    SyntheticTrained,
)
from pydream.dream.objectives import AnswersOfClasses, sees_all_classes
from pydream.dream.real import ClassImages
from pydream.dream.resolved import ResolvedConfig
from pydream.dream.synthetic import SyntheticImages
from pydream.dream.trajectory_matching import TrajectoryMatching
from pydream.ops import collage
from pydream.replay import Replayed
from pydream.seeds import derived_seed
from pydream.streams import to_device
from pydream.tiling import Tiling
from pydream.timeline import stage

# Limit of images in one pass of the network, so that a wide ConvNet-3 needs only some GB.
_PIXELS_TOGETHER = 1 << 20
_NETWORKS: dict[str, type[Networks]] = {
    "real": RealTrained,
    "synthetic": SyntheticTrained,
    "untrained": Networks,
    "experts": ExpertNetworks,
}


class MatchingLoop:
    """Optimises synthetic images by matching, with one network after another.

    Every random number follows from the seed, the iteration and the step, so an iteration can be
    repeated at any time.

    Parameters
    ----------
    config
        Resolved settings.
    real
        The real images.
    make_network
        Function that makes a network with fresh weights, drawn from torch's global generator.
    parts
        Parts of the classes, of `parts_of_classes`, whose images are optimised; by default all.
    experts
        The trajectories of experts, for MTT.
    gather
        Function that returns the images of all classes, where networks are trained on them and the
        parts are not all; it is given those of the parts, float32 (k, IPC, C, S, S).

    Attributes
    ----------
    parts, classes
        The parts, and the k classes in them.

    Notes
    -----
    The images of a class are the same whichever other classes are optimised beside it.

    DREAM+ (arXiv 2310.15052), algorithm 1, on IDC's multi-formation (Kim et al., ICML 2022).
    """

    def __init__(
        self,
        config: ResolvedConfig,
        real: ClassImages,
        make_network: Callable[[], nn.Module],
        parts: Sequence[range] | None = None,
        experts: Experts | None = None,
        gather: Callable[[Tensor], Tensor] | None = None,
    ) -> None:
        self.config, self.real = config, real
        self.device = real.pixels.device
        self._gather = gather or (lambda images: images)
        self._tiling = Tiling(real.side, config.factor, config.cells)
        kind = _NETWORKS[config.of_framework.networks]
        self._networks = kind(config, real, make_network, experts)
        if parts is None:
            parts = parts_of_classes(config, real, self._networks.network)
        self.parts = tuple(parts)
        self.classes = tuple(itertools.chain(*self.parts))
        fixed = not self._networks.changes_choice
        self._batches = RealBatches(config, real, self.classes, fixed=fixed)
        self._objective = self._what_is_matched()
        self._replayed: tuple[SyntheticImages, Replayed[Any]] | None = None

    def _what_is_matched(self) -> AnswersOfClasses | TrajectoryMatching:
        if isinstance(self._networks, ExpertNetworks):
            return TrajectoryMatching(self.config, self.real, self._networks)
        return AnswersOfClasses(self.config, self.real, self._networks, self._batches, self.parts)

    @keep_freed_memory()
    def initial(self) -> tuple[Tensor, Tensor]:
        """Return the run's first images: noise, or real images of every class, tiled.

        Returns
        -------
        Tensor
            float32 (k, IPC, C, S, S), colours on the scale of [0, 1].
        Tensor
            int64 (k, IPC, f²): the row of the real image in each cell; (k, IPC, 0) for noise.
        """
        config = self.config
        count = config.ipc * config.factor**2
        seed = derived_seed(config.seed, Draw.INITIAL)
        if config.starts_from == "noise":
            noise = self._noise(seed)
            return noise, torch.empty((*noise.shape[:2], 0), dtype=torch.int64)
        representative = config.sampler == "representative"
        chooser = self._networks.first_chooser() if representative else None
        chosen = self._batches.first(chooser, count, seed)
        # The image of rank k * IPC + i is cell k of image i.
        return self._tiled(chosen), chosen.view(len(chosen), -1, config.ipc).mT.contiguous()

    def _noise(self, seed: int) -> Tensor:
        """Draw normalised images from N(0, 1), class by class; return their colours."""
        real, drawn = self.real, []
        for label in self.classes:
            generator = torch.Generator().manual_seed(derived_seed(seed, label))
            shape = (self.config.ipc, len(real.mean), real.side, real.side)
            drawn.append(torch.randn(shape, generator=generator))
        return real.colours(to_device(torch.stack(drawn), self.device))

    def _tiled(self, chosen: Tensor) -> Tensor:
        """Tile the real images of (k, IPC · f²) rows: float32 (k, IPC, C, S, S), in [0, 1]."""
        config, real, tiling = self.config, self.real, self._tiling
        if not tiling.matched:
            return collage(real.take(chosen).contiguous(), config.factor, real.side)
        ranks = chosen.shape[1]
        cells = [rank // config.ipc for rank in range(ranks)]
        whole = torch.tensor([[0, 0, real.side, real.side]], device=self.device).repeat(ranks, 1)
        values = []
        for rows in chosen:  # class by class, because anchors take 4 bytes a pixel and more
            pixels = real.pixels[rows].permute(0, 2, 3, 1).contiguous()
            cut = tiling.cut(pixels, whole, cells, dtype=torch.float32)
            values.append(tiling.tile(cut[None])[0])
        return torch.stack(values)

    @keep_freed_memory()
    def capture(self, synthetic: SyntheticImages) -> None:
        """Capture the step on a GPU, which the first iteration does otherwise.

        Parameters
        ----------
        synthetic
            The synthetic images of the iterations; they do not change.
        """
        self._replayed_step(synthetic).prepare(self._objective.example)

    @keep_freed_memory()
    def iterate(self, synthetic: SyntheticImages, iteration: int) -> list[float]:
        """Match with one network; return the mean loss of a step for each part.

        Parameters
        ----------
        synthetic
            The synthetic images, optimised in place.
        iteration
            Number of the iteration, from 0.
        """
        config = self.config
        seed = derived_seed(config.seed, Draw.NETWORK, iteration)
        with stage("fresh network", self.device):
            self._networks.begin(seed)
        if not config.leaves_colours:
            synthetic.clamp()
        step_on = self._replayed_step(synthetic)
        losses = torch.zeros(len(self.parts), device=self.device)
        for step, inputs in enumerate(self._objective.inputs(seed)):
            with stage("step", self.device):
                losses += step_on(inputs)
            self._networks.move(seed, step, lambda: self._gather(synthetic.values))
        return (losses.double() / config.inner_loop).tolist()

    def _replayed_step(self, synthetic: SyntheticImages) -> Replayed[Any]:
        """Return the step for these images, which is captured once where possible."""
        if self._replayed is None or self._replayed[0] is not synthetic:
            objective: Any = self._objective
            rate = () if synthetic.rate is None else (synthetic.rate,)
            step = Replayed[Any](
                lambda inputs: objective.step(synthetic, inputs),
                (synthetic.values, synthetic.velocity, *rate),
                self.device,
            )
            self._replayed = synthetic, step
        return self._replayed[1]


def parts_of_classes(config: ResolvedConfig, real: ClassImages, network: nn.Module) -> list[range]:
    """Divide the classes into parts, whose gradients are computed together.

    On the CPU a part is a class, because one class keeps it busy. On a GPU there are as few parts
    as memory allows, of about the same size. Last bits depend on the parts, and these on nothing
    but the settings and the real images. Where a student of MTT or a batch norm sees all classes,
    they are one part.
    """
    count, most = real.num_classes, 1
    if config.of_framework.networks == "experts" or sees_all_classes(config, network):
        return [range(count)]
    if real.pixels.device.type == "cuda":
        largest = max(end - begin for begin, end in itertools.pairwise(real.offsets))
        of_class = min(config.ipc * config.factor**2, config.batch_synthetic)
        images = max(min(config.batch_real, largest), of_class)
        most = max(1, _PIXELS_TOGETHER // (images * real.side**2))
    parts = -(-count // most)
    ends = [count * number // parts for number in range(parts + 1)]
    return [range(*pair) for pair in itertools.pairwise(ends)]
