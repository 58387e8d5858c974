"""The matching loop: some steps of the synthetic images with one network after another."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from pydream.allocator import keep_freed_memory
from pydream.dream.config import PRESETS, ResolvedConfig
from pydream.dream.network import STRATEGY, NetworkTrainer, fresh_network
from pydream.dream.real import ClassImages
from pydream.dream.sampler import RepresentativeSampler
from pydream.dream.synthetic import LossAndSlope, SyntheticImages
from pydream.matching import Matcher, answer_distance
from pydream.ops import collage, diff_augment, multi_formation, random_augment
from pydream.replay import Replayed
from pydream.seeds import derived_seed, drawn_order
from pydream.streams import to_device
from pydream.tiling import Tiling
from pydream.timeline import stage

# Purposes of the seeds of an iteration.
_INITIAL, _NETWORK, _EPOCH, _AUGMENT, _REAL, _SYNTHETIC, _TRAIN = range(7)
# Limit of images in one pass of the network, so that a wide ConvNet-3 needs only some GB.
_PIXELS_TOGETHER = 1 << 20

Rows = tuple[Tensor, Tensor | None]


class StepInputs(NamedTuple):
    """Inputs of a matching step besides the synthetic images and the network.

    Attributes
    ----------
    rows
        int64 (k, B): the real images to match, by class.
    weights
        float32 (k, B): weight of each real image; None if all have the same.
    formations
        int64 (k, Y): the images to match, of the IPC · f² of a multi-formation; None for all.
    augmentation
        float32 (k, 13): one draw of the augmentation for each class.
    """

    rows: Tensor
    weights: Tensor | None
    formations: Tensor | None
    augmentation: Tensor


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
    ) -> None:
        self.config, self.real, self.make_network = config, real, make_network
        self.device = real.pixels.device
        self.parts = tuple(parts_of_classes(config, real) if parts is None else parts)
        self.classes = tuple(itertools.chain(*self.parts))
        ends = itertools.accumulate(map(len, self.parts), initial=0)
        self._places = [slice(*pair) for pair in itertools.pairwise(ends)]  # of the parts
        self._tiling = Tiling(real.side, config.factor, config.cells)
        self._labels = torch.tensor(self.classes, device=self.device)
        # One network is reinitialised again and again, because a captured step reads its weights in
        # place.
        self._network = fresh_network(make_network, config.seed, self.device)
        self._matcher = Matcher(
            self._network,
            config.match,
            with_norm_and_bias=config.with_norm_and_bias,
            with_classifier=config.with_classifier,
        )
        self._replayed: tuple[SyntheticImages, Replayed[StepInputs]] | None = None
        self._many_classes = PRESETS[config.recipe].many_classes and config.per_cluster == 1
        self._sampler = self._representatives(config.batch_real, config.per_cluster)

    def _representatives(self, count: int, per_cluster: int) -> RepresentativeSampler:
        return RepresentativeSampler(
            self.real.pixels,
            self.real.labels,
            count,
            per_cluster=per_cluster,
            many_classes=self._many_classes,
            interval=self.config.interval,
            transform=None if self.config.exact else self.real.normalise,
            classes=self.classes,
            seed=self.config.seed,
        )

    @keep_freed_memory()
    def initial(self) -> tuple[Tensor, Tensor]:
        """Select real images of every class, and tile them as the run's first images.

        Returns
        -------
        Tensor
            float32 (k, IPC, C, S, S), in [0, 1].
        Tensor
            int64 (k, IPC, f²): the row of the real image in each cell.
        """
        config = self.config
        count = config.ipc * config.factor**2
        seed = derived_seed(config.seed, _INITIAL)
        if config.sampler == "representative":
            self._renew_network(seed)
            chosen = torch.stack(
                [chosen[:count] for chosen in self._representatives(count, 1)(self._network)]
            )
        else:
            chosen = self._random_rows(seed, 0, count)[0]
        # The image of rank k * IPC + i is cell k of image i.
        return self._tiled(chosen), chosen.view(len(chosen), -1, config.ipc).mT.contiguous()

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
        seed = derived_seed(config.seed, _NETWORK, iteration)
        with stage("fresh network", self.device):
            trainer = self._renew_network(seed)
        synthetic.clamp()
        step_on = self._replayed_step(synthetic)
        shape = (config.inner_loop, self.real.num_classes)
        drawn = random_augment(
            shape[0] * shape[1], self.real.side, STRATEGY, seed=derived_seed(seed, _AUGMENT)
        )
        augmentations = to_device(drawn.view(*shape, -1)[:, self.classes], self.device)
        losses = torch.zeros(len(self.parts), device=self.device)
        for step, augmentation in enumerate(augmentations):
            with stage("choose real images", self.device):
                rows, weights = self._real_rows(seed, step)
            formations = self._formations(seed, step)
            with stage("step", self.device):
                losses += step_on(StepInputs(rows, weights, formations, augmentation))
            if config.network_images:
                with stage("train network", self.device):
                    trainer.train(config.network_images, derived_seed(seed, _TRAIN, step))
        return (losses.double() / config.inner_loop).tolist()

    def _renew_network(self, seed: int) -> NetworkTrainer:
        """Reinitialise the network and pretrain it for `network_epochs` epochs."""
        fresh = fresh_network(self.make_network, derived_seed(seed, _NETWORK), self.device)
        self._network.load_state_dict(fresh.state_dict())
        self._sampler.restart()
        trainer = NetworkTrainer(self._network, self.real)
        for epoch in range(self.config.network_epochs):
            trainer.train(len(self.real.labels), derived_seed(seed, _EPOCH, epoch))
        return trainer

    def _replayed_step(self, synthetic: SyntheticImages) -> Replayed[StepInputs]:
        """Return the step for these images, which is captured once where possible."""
        if self._replayed is None or self._replayed[0] is not synthetic:
            step = Replayed[StepInputs](
                lambda inputs: self._step(synthetic, inputs),
                (synthetic.values, synthetic.velocity),
            )
            self._replayed = synthetic, step
        return self._replayed[1]

    def _step(self, synthetic: SyntheticImages, inputs: StepInputs) -> Tensor:
        """Update the images of every class once; return the loss of each part."""
        if not self.config.exact:
            return synthetic.step_together(lambda images: self._gradient_in_parts(images, inputs))

        def of_class(label: int, images: Tensor) -> LossAndSlope:
            classes = slice(label, label + 1)
            loss, slope = self._gradient(images[None], classes, inputs, together=False)
            return loss, slope[0]

        losses = synthetic.step_in_turn(of_class)
        return torch.stack([losses[place].sum() for place in self._places])

    def _gradient_in_parts(self, images: Tensor, inputs: StepInputs) -> LossAndSlope:
        """Return the loss of each part, and the slope of all."""
        losses, slopes = zip(
            *(self._gradient(images[part], part, inputs, together=True) for part in self._places),
            strict=True,
        )
        return torch.stack(losses), torch.cat(slopes)

    def _gradient(
        self, images: Tensor, classes: slice, inputs: StepInputs, *, together: bool
    ) -> LossAndSlope:
        """Return the loss of some classes, and its derivative with respect to their images.

        Shapes: images (k, IPC, C, S, S) of the k classes.
        """
        config, side = self.config, self.real.side
        labels, real = self._labels[classes], self.real.take(inputs.rows[classes])
        weights = None if inputs.weights is None else inputs.weights[classes]
        formations = None if inputs.formations is None else inputs.formations[classes]
        augmentation = inputs.augmentation[classes]
        # One class at a time keeps a CPU busy. Under vmap, the gradients of ConvNet-3's weights at
        # width 128 take 3 times as long there for real images, and 1.5 times for synthetic ones.
        together = together and self.device.type == "cuda"
        with torch.no_grad(), stage("answers to real", self.device):
            expected = self._matcher(
                self._augmented(real, augmentation), labels, weights, together=together
            )
        images = images.detach().requires_grad_()
        with stage("answers to synthetic", self.device):
            formed = multi_formation(images, config.factor, side)
            if formations is not None:
                formed = formed[torch.arange(len(formed), device=self.device)[:, None], formations]
            found = self._matcher(self._augmented(formed, augmentation), labels, together=together)
        with stage("distance", self.device):
            loss = answer_distance(found, expected, config.match, config.metric)
        with stage("derivative", self.device):
            (derivative,) = torch.autograd.grad(loss, images)
        return loss.detach(), derivative

    def _augmented(self, images: Tensor, augmentation: Tensor) -> Tensor:
        """Normalise and augment (k, B, C, S, S), each class by one draw."""
        normalised = self.real.normalise(images).flatten(0, 1)
        augmented: Tensor = diff_augment(normalised, augmentation).view(images.shape)
        return augmented

    def _real_rows(self, seed: int, step: int) -> Rows:
        """Return the (K, B) rows of the real images to match, and the weight of each."""
        if self.config.sampler == "random":
            return self._random_rows(seed, step, self.config.batch_real)
        return _padded(self._sampler(self._network))

    def _random_rows(self, seed: int, step: int, count: int) -> Rows:
        rows = []
        for label in self.classes:
            begin, end = self.real.offsets[label], self.real.offsets[label + 1]
            order = drawn_order(derived_seed(seed, _REAL, step, label), end - begin)
            rows.append(torch.from_numpy(begin + order[:count]))
        padded, weights = _padded(rows)
        return to_device(padded, self.device), (
            None if weights is None else to_device(weights, self.device)
        )

    def _formations(self, seed: int, step: int) -> Tensor | None:
        """Draw the images to match of each class's multi-formation; None for all."""
        config = self.config
        count = config.ipc * config.factor**2
        if count <= config.batch_synthetic:
            return None
        drawn = [
            drawn_order(derived_seed(seed, _SYNTHETIC, step, label), count)
            for label in self.classes
        ]
        rows = torch.stack(
            [torch.from_numpy(class_rows[: config.batch_synthetic]) for class_rows in drawn]
        )
        return to_device(rows, self.device)


def parts_of_classes(config: ResolvedConfig, real: ClassImages) -> list[range]:
    """Divide the classes into parts, whose gradients are computed together.

    On the CPU a part is a class, because one class keeps it busy. On a GPU there are as few parts
    as memory allows, of about the same size. Last bits depend on the parts, and these on nothing
    but the settings and the real images.
    """
    count, most = real.num_classes, 1
    if real.pixels.device.type == "cuda":
        largest = max(end - begin for begin, end in itertools.pairwise(real.offsets))
        of_class = min(config.ipc * config.factor**2, config.batch_synthetic)
        images = max(min(config.batch_real, largest), of_class)
        most = max(1, _PIXELS_TOGETHER // (images * real.side**2))
    parts = -(-count // most)
    ends = [count * number // parts for number in range(parts + 1)]
    return [range(*pair) for pair in itertools.pairwise(ends)]


def _padded(rows: list[Tensor]) -> Rows:
    """Pad lists of rows to one length, (K, B), with their first row at weight 0.

    Returns
    -------
    Tensor
        int64 (K, B).
    Tensor or None
        float32 (K, B): 1 / length of the list; None if all lists have the same length.
    """
    lengths = [len(class_rows) for class_rows in rows]
    longest = max(lengths)
    if min(lengths) == longest:
        return torch.stack(rows), None
    padded = torch.stack(
        [
            torch.cat([class_rows, class_rows[:1].expand(longest - len(class_rows))])
            for class_rows in rows
        ]
    )
    place = torch.arange(longest, device=padded.device)
    length = torch.tensor(lengths, device=padded.device)[:, None]
    return padded, (place < length) / length
