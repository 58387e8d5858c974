"""The optimisation of a run's classes: iterations, checkpoints and measurements on the way."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from pydream.data.resized import LabelledImages
from pydream.dream.checkpoint import (
    Progress,
    checkpoint_values,
    forget_checkpoints,
    latest_checkpoint,
    read_checkpoint,
    write_checkpoint,
)
from pydream.dream.exchange import exchange
from pydream.dream.experts import Experts
from pydream.dream.loop import MatchingLoop
from pydream.dream.real import ClassImages
from pydream.dream.recipes import PRESETS
from pydream.dream.resolved import ResolvedConfig
from pydream.dream.start import first_images
from pydream.dream.student import student_accuracy
from pydream.dream.synthetic import SyntheticImages
from pydream.dream.whole_set import STUDENTS, pictures_of
from pydream.errors import PydreamError
from pydream.progress import track
from pydream.ranks import Ranks
from pydream.seeds import derived_seed
from pydream.sets.distilled import DistilledSet
from pydream.sets.writer import SetWriter
from pydream.timeline import Stopwatch

_STUDENT = 1  # purpose of a seed; iterations draw from other keys
_MOST_CLASSES_SHOWN = 10  # number of classes with pictures


@dataclass(frozen=True)
class DreamRun:
    """One run of DREAM+.

    Attributes
    ----------
    config
        The settings.
    real
        The real images.
    test
        Images that test students on the way; None without students.
    make_network
        Function that makes a network with fresh weights.
    writer
        Writer of the set.
    watch
        Stopwatch of the stages.
    ranks
        The processes that share the run.
    parts
        The parts of the classes, which the processes share out.
    experts
        The trajectories of experts; None without.
    first
        The set whose images are the first ones; None for real images and noise.
    """

    config: ResolvedConfig
    real: ClassImages
    test: LabelledImages | None
    make_network: Callable[[], nn.Module]
    writer: SetWriter
    watch: Stopwatch
    ranks: Ranks
    parts: Sequence[range]
    experts: Experts | None = None
    first: DistilledSet | None = None


def optimise(run: DreamRun) -> None:
    """Optimise the classes of this process, write their images, and measure the last students."""
    writer, ranks, config = run.writer, run.ranks, run.config
    measured = _Students(run)

    def unfinished() -> list[range]:
        return [part for part in run.parts if not all(map(writer.finished_class, part))]

    left = ranks.once(unfinished)
    shared_out = run.parts if ranks.is_shard else left
    own = [shared_out[number] for number in ranks.own([len(part) for part in shared_out])]
    own = [part for part in own if part in left]
    whole = len(left) == len(run.parts)
    needed = own if ranks.is_shard else left
    begun = ranks.once(lambda: latest_checkpoint(writer, needed))
    if left:
        with exchange(config, ranks, own, run.real.pixels.device) as gather:
            progress = _iterate_all(run, own, begun, measured if whole else None, gather)
        if progress is not None:
            with run.watch("write"):
                _write_classes(run, progress)
                forget_checkpoints(writer, own, config.iterations + 1)
        ranks.wait()
    if measured.due(config.iterations):
        measured.take(config.iterations, lambda: _finished_values(run))


def _iterate_all(
    run: DreamRun,
    own: Sequence[range],
    begun: int | None,
    students: _Students | None,
    gather: Callable[[Tensor], Tensor] | None,
) -> Progress | None:
    """Run the iterations that are left for some parts; return their state, None for no parts.

    A rank without parts keeps step with the others.
    """
    config, ranks, loop = run.config, run.ranks, None
    if own:
        loop = MatchingLoop(config, run.real, run.make_network, own, run.experts, gather)
    progress = None if loop is None else _begin(run, loop, begun)
    kept = at = begun or 0
    if loop is not None and progress is not None:
        _look(run, progress)
        if loop.device.type == "cuda":  # before the clock of the iterations starts
            with run.watch("capture", loop.device):
                loop.capture(progress.synthetic)
    with track("matching", config.iterations, "iterations", done=at) as advance:
        safe = None if progress is None else progress.copy()
        try:
            while at < config.iterations:
                if students is not None and students.due(at):
                    students.take(at, _values_of_all(run, progress, at))
                if loop is not None and progress is not None:
                    _iterate(run, loop, progress, kept)
                    _look(run, progress)
                    safe = progress.copy()
                at += 1
                if at % config.checkpoint_every == 0 or at == config.iterations:
                    _keep(run, progress, at)
                    kept = at
                advance(1, _words(run, progress, students))
        except KeyboardInterrupt:
            if safe is not None and not ranks.connected:
                write_checkpoint(run.writer, safe)
            raise
    return progress


def _begin(run: DreamRun, loop: MatchingLoop, begun: int | None) -> Progress:
    """Return the state of a loop's parts at an iteration, or at the start."""
    config, real = run.config, run.real
    if begun is not None:
        return read_checkpoint(
            run.writer,
            loop.parts,
            begun,
            learning_rate=config.learning_rate,
            num_classes=real.num_classes,
            device=loop.device,
        )
    with run.watch("initial images"):
        values, origins = _first_images(run, loop)
    rate = config.student_rate
    synthetic = SyntheticImages(
        values,
        config.learning_rate,
        classes=loop.classes,
        num_classes=real.num_classes,
        rate=None if rate is None else torch.tensor([rate, 0.0], device=loop.device),
    )
    sources = [
        [[real.keys[row] for row in cells] for cells in images] for images in origins.tolist()
    ]
    return Progress(loop.parts, synthetic, sources, losses=[[] for _ in loop.parts])


def _first_images(run: DreamRun, loop: MatchingLoop) -> tuple[Tensor, Tensor]:
    """Return the first images, and the rows of the real images in their cells, if any."""
    if run.first is None:
        return loop.initial()
    values = first_images(run.first, run.config.ipc)[list(loop.classes)]
    return values.to(loop.device), torch.empty((*values.shape[:2], 0), dtype=torch.int64)


def _keep(run: DreamRun, progress: Progress | None, at: int) -> None:
    """Write a checkpoint; forget older ones once all ranks have written theirs."""
    if progress is not None:
        write_checkpoint(run.writer, progress)
    run.ranks.wait()
    if progress is not None:
        forget_checkpoints(run.writer, progress.parts, at)


def _words(run: DreamRun, progress: Progress | None, students: _Students | None) -> str:
    """Describe the progress of a run, for its progress bar."""
    words = []
    if progress is not None and len(progress.parts) == len(run.parts):
        words.append(f"loss {sum(of_part[-1] for of_part in progress.losses):.3g}")
    if students is not None and students.top1:
        words.append(f"students {fmean([*students.top1.values()][-1]):.1%}")
    return ", ".join(words)


def _iterate(run: DreamRun, loop: MatchingLoop, progress: Progress, kept: int) -> None:
    """Run one iteration."""
    with run.watch("match", run.real.pixels.device):
        losses = loop.iterate(progress.synthetic, progress.iteration)
    progress.iteration += 1
    for of_part, loss in zip(progress.losses, losses, strict=True):
        of_part.append(loss)
    rate = progress.synthetic.rate
    if rate is not None and not float(rate[0]) > 0:
        raise PydreamError(
            f"the student's learning rate became {float(rate[0]):g} in iteration "
            f"{progress.iteration}: give a --rate-learning-rate below "
            f"{run.config.rate_learning_rate:g}; checkpoints are kept in {run.writer.partial}"
        )
    if not (math.isfinite(sum(losses)) and bool(progress.synthetic.values.isfinite().all())):
        where = f"iteration {kept}" if kept else "the start"
        raise PydreamError(
            f"the loss or the images became infinite in iteration {progress.iteration}: give a "
            f"--learning-rate below {run.config.learning_rate:g}; the checkpoint of {where} is "
            f"kept in {run.writer.partial}"
        )


def _look(run: DreamRun, progress: Progress) -> None:
    """Keep pictures of the images at the start, at the end, and at powers of two between."""
    at = progress.iteration
    if at == 0 or at == run.config.iterations or at & (at - 1) == 0:
        classes = itertools.chain(*progress.parts)
        shown = sum(label < _MOST_CLASSES_SHOWN for label in classes)
        levels = _levels(progress.synthetic.values[:shown, 0])
        progress.pictures[at] = levels.permute(0, 2, 3, 1).contiguous()


def _levels(images: Tensor) -> Tensor:
    """Round images in [0, 1] to uint8, on the CPU."""
    return (images.clamp(0, 1) * 255).round().to(torch.uint8).cpu()


class _Students:
    """Students trained on the images of all classes at some iterations, by seed.

    Attributes
    ----------
    top1
        By iteration, the accuracy of each student.
    """

    def __init__(self, run: DreamRun) -> None:
        self._run = run
        known = run.ranks.once(lambda: run.writer.record(STUDENTS)) or {}
        self.top1: dict[int, list[float]] = {int(at): values for at, values in known.items()}

    def due(self, iteration: int) -> bool:
        """Return whether students are to be measured after an iteration and have not been."""
        config = self._run.config
        if self._run.test is None or iteration in self.top1:
            return False
        return iteration == config.iterations or iteration % config.eval_every == 0

    def take(self, iteration: int, values: Callable[[], Tensor]) -> None:
        """Measure students after an iteration; ranks take turns to train them.

        Parameters
        ----------
        iteration
            Number of iterations done.
        values
            Function that returns the images of all classes, (K, IPC, C, S, S).
        """
        run, config = self._run, self._run.config
        own: dict[int, float] = {}
        images: Tensor | None = None
        with run.watch("students"):
            for number in run.ranks.take_turns(config.eval_seeds):
                run.ranks.tell(f"student {number} of iteration {iteration}")
                images = values() if images is None else images
                own[number] = self._accuracy(images, number)
            found = {
                number: top1 for part in run.ranks.gather(own) for number, top1 in part.items()
            }
        self.top1[iteration] = [found[number] for number in range(config.eval_seeds)]
        if run.ranks.first:
            run.writer.keep(STUDENTS, {str(at): top1 for at, top1 in self.top1.items()})

    def _accuracy(self, images: Tensor, number: int) -> float:
        run, config = self._run, self._run.config
        assert run.test is not None
        return student_accuracy(
            images,
            run.test,
            factor=config.factor,
            real=run.real,
            make_network=run.make_network,
            flip=PRESETS[config.recipe].flip,
            epochs=config.eval_epochs,
            seed=derived_seed(config.seed, _STUDENT, number),
        )


def _values_of_all(
    run: DreamRun, progress: Progress | None, iteration: int
) -> Callable[[], Tensor]:
    """Return a function that returns the images of all classes as they are.

    Ranks write their own in a checkpoint, and read those of the others from theirs.
    """
    if not run.ranks.connected:
        assert progress is not None
        values = progress.synthetic.values
        return lambda: values
    if progress is not None:
        write_checkpoint(run.writer, progress)
    run.ranks.wait()
    device = run.real.pixels.device
    return lambda: checkpoint_values(run.writer, run.parts, iteration).to(device)


def _finished_values(run: DreamRun) -> Tensor:
    """Return the images of all classes once they are written."""
    counts = [run.config.ipc] * run.real.num_classes
    values = run.writer.kept_values(counts, run.config.side)
    assert values is not None
    by_class = values.view(run.real.num_classes, run.config.ipc, *values.shape[1:])
    return by_class.to(run.real.pixels.device)


def _write_classes(run: DreamRun, progress: Progress) -> None:
    """Write the images of some parts, and keep what finishes the set."""
    writer = run.writer
    values = progress.synthetic.values.cpu()
    if not run.config.leaves_colours:
        values = values.clamp(0, 1)
    losses = dict(zip((part.start for part in progress.parts), progress.losses, strict=True))
    for place, label in enumerate(itertools.chain(*progress.parts)):
        if writer.finished_class(label) is not None:
            continue
        writer.keep_values(label, values[place])
        if label < _MOST_CLASSES_SHOWN:
            shown = {str(at): of_all[place] for at, of_all in progress.pictures.items()}
            writer.keep_bytes(pictures_of(label), save(shown))
        record: dict[str, Any] = {"rows": _provenance(label, progress.sources[place])}
        if label in losses:  # those of a part are with its first class
            record["losses"] = losses[label]
            if progress.synthetic.rate is not None:
                record["student_rate"] = float(progress.synthetic.rate[0])
        writer.write_class(label, _levels(values[place]), record, image_format="png", quality=100)


def _provenance(label: int, sources: list[list[str]]) -> list[dict[str, object]]:
    """Return a row for each cell of a class's images: the real image it was initialised with."""
    return [
        {
            "class": label,
            "image": number,
            "cell": cell,
            "source": key,
            **dict.fromkeys(("top", "left", "height", "width", "score")),  # the whole view
        }
        for number, cells in enumerate(sources)
        for cell, key in enumerate(cells)
    ]
