"""Prediction of what a run will take, from a sample of it: seconds, memory and bytes."""

from __future__ import annotations

import math
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from torch import nn

from pydream.allocator import peak_host_bytes
from pydream.data import Source
from pydream.errors import PydreamError
from pydream.files import ANOTHER_OUT, disk_errors, hidden_beside, remove_leftovers
from pydream.progress import say, shared_with
from pydream.ranks import ranks_of
from pydream.rded.class_loop import patch_maker
from pydream.rded.config import RdedConfig
from pydream.rded.filling import fill_up
from pydream.rded.groups import needed_images, own_groups, single_classes
from pydream.rded.opened import OpenedRun, open_run
from pydream.rded.patches import PatchMaker
from pydream.rded.predicted_memory import adds_floats, peak_memory
from pydream.rded.refined_sample import measure_refinement
from pydream.rded.sample import Sample, measure_samples
from pydream.rded.whole_set import finish_set
from pydream.refinement.classes import SHOWN_CLASSES, float_bytes
from pydream.sets.run import MadeSet
from pydream.torch_state import usual_torch_state

SPREAD = 0.15
"""Part by which the seconds of a run may differ from their prediction."""
_BY_DISTILLED = ("cut winners", "assemble", "write")  # stages whose work is distilled images


@dataclass(frozen=True)
class Prediction:
    """What a run will take.

    Attributes
    ----------
    path
        The folder of the distilled set, which does not exist yet.
    classes, images
        Number of classes and of distilled images in the set.
    scored, measured
        Number of real images that the run will score, and of those that were measured.
    seconds
        Wall-clock seconds of each stage and of the whole run, named as in ``run.json``. What no
        stage counts is in ``others``.
    memory
        Peak memory in bytes: ``host``, and on a GPU ``device``.
    bytes
        Size of all files of the set together.
    """

    path: Path
    classes: int
    images: int
    scored: int
    measured: int
    seconds: dict[str, float]
    memory: dict[str, int]
    bytes: int

    @property
    def range(self) -> tuple[float, float]:
        """The least and the most seconds of the whole run that the prediction stands for."""
        whole = self.seconds["whole"]
        return whole * (1 - SPREAD), whole * (1 + SPREAD)


@usual_torch_state()
def predict(
    config: RdedConfig,
    *,
    source: Source | None = None,
    observer: nn.Module | Sequence[nn.Module] | None = None,
) -> Prediction:
    """Predict what a run of `pydream.rded.distill` will take, from about ten seconds of it.

    The inputs are opened and checked, and the observer is measured, as in the run. Then a sample of
    the images is distilled into a temporary folder beside `config.out`, so that its disk is
    measured, and the folder is removed. Seconds are scaled by the images to score and to make.

    Parameters
    ----------
    config, source, observer
        The same as for `pydream.rded.distill`. With `resume`, what is left to do is predicted; with
        `shard`, what this shard will do if it is the last one.

    Returns
    -------
    Prediction
        Seconds, memory and bytes.

    Raises
    ------
    PydreamError
        As `pydream.rded.distill` does; also under torchrun and srun, because a single process is
        measured.
    """
    ranks = ranks_of(config.shard)
    with shared_with(ranks), ranks.together():
        if ranks.connected:
            raise PydreamError(
                "a dry run measures one process: start it without torchrun, srun and cuda:all; "
                "several ranks then share the seconds of scoring"
            )
        opened = open_run(config, ranks, source, observer)
        if isinstance(opened, MadeSet):
            return _nothing_left(opened)
        with _scratch_folder(opened.run.writer.out) as folder:
            return _predict(opened, folder, observer)


def _predict(
    opened: OpenedRun, folder: Path, observer: nn.Module | Sequence[nn.Module] | None
) -> Prediction:
    run = opened.run
    work = _work_left(opened)
    before = peak_host_bytes()
    say("dry run: a sample is distilled, measured and thrown away")
    # A shard without classes may still finish the set, which takes any images.
    samples = measure_samples(opened, work.own or range(len(run.counts)), folder)
    sample = samples[-1]
    seconds: Counter[str] = Counter()
    seconds.update({name: run.watch.seconds[name] for name in ("open", "preflight")})
    seconds.update(_scoring_seconds(samples, work))
    with sample.run.writer.begin():
        refining = None
        if run.config.method.refine:
            refined = measure_refinement(
                sample, run.config.method.refine, run.counts, work.refined, observer
            )
            seconds.update(refined.seconds)
            # The report shows the first classes before the refinement, too.
            first = range(min(len(run.counts), SHOWN_CLASSES))
            refining = refined.refining if set(first) <= set(sample.labels) else None
        opened.keep_facts(sample.run.writer, refining)
        fill_up(sample, run.counts)
        size, finishing = _finish(sample, run.counts)
    seconds.update(finishing)
    seconds["whole"] = sum(seconds.values())
    return Prediction(
        path=run.writer.out,
        classes=len(run.counts),
        images=sum(run.counts),
        scored=work.scored,
        measured=min(sample.scored, work.scored),
        seconds={name: round(value, 3) for name, value in seconds.items()},
        memory=peak_memory(sample, run.counts, work.scored, before),
        bytes=size,
    )


@dataclass(frozen=True)
class _Work:
    """What a process has to do: its classes, and the images that it scores, makes and refines."""

    own: list[int]
    scored: int
    distilled: int
    refined: int


def _work_left(opened: OpenedRun) -> _Work:
    run, selection = opened.run, opened.selection
    groups = own_groups(single_classes(run.counts), selection, run.ranks)
    own = [label for group in groups for label in group]
    left = [label for label in own if run.assembled(label) is None]
    others = set(range(len(run.counts))).difference(left)
    unrefined = [label for label in own if run.writer.finished_class(label) is None]
    return _Work(
        own,
        scored=int(needed_images(patch_maker(run), selection, others).sum()),
        distilled=sum(run.counts[label] for label in left),
        refined=sum(run.counts[label] for label in unrefined),
    )


def _scoring_seconds(samples: Sequence[Sample], work: _Work) -> dict[str, float]:
    """Scale the seconds of the last sample to the whole run, stage by stage."""
    first, last = samples[0], samples[-1]
    maker, watch = patch_maker(last.run), last.run.watch.report()
    stages = {name: value for name, value in watch.items() if name != "whole"}
    by_image = work.scored / last.scored
    scale = dict.fromkeys(stages, by_image)
    scale |= dict.fromkeys(_BY_DISTILLED, work.distilled / last.distilled)
    scale["observer"] = _passes(maker, work.scored) / _passes(maker, last.scored)
    seconds = {name: value * scale[name] for name, value in stages.items()}
    between = last.seconds - sum(stages.values())
    if maker.observer.device.type == "cpu":
        whole = sum(seconds.values()) + between * by_image
    else:  # stages overlap
        whole = last.seconds * by_image
    if len(samples) > 1:  # the machine was cold
        whole += max(0.0, first.seconds - last.seconds * first.scored / last.scored)
    seconds["others"] = whole - sum(seconds.values())
    return seconds


def _passes(maker: PatchMaker, images: int) -> int:
    """Return the number of passes of the observer over the patches of some images."""
    return math.ceil(images * maker.crops / maker.observer.tile)


def _finish(sample: Sample, counts: Sequence[int]) -> tuple[int, dict[str, float]]:
    """Finish the set of a sample; return the bytes of the run's, and the seconds of the stages."""
    watch = sample.run.watch
    before, begun = dict(watch.seconds), time.perf_counter()
    made = finish_set(sample.run.writer, watch)
    whole = time.perf_counter() - begun
    seconds = {name: watch.seconds[name] - before.get(name, 0.0) for name in ("write", "report")}
    seconds["others"] = whole - sum(seconds.values())
    size = _bytes_in(made.path)
    if adds_floats(sample, counts):
        size += float_bytes(counts, sample.run.side)
    return size, seconds


def _nothing_left(made: MadeSet) -> Prediction:
    """Return the prediction for a set that is finished."""
    manifest = made.manifest
    return Prediction(
        path=made.path,
        classes=len(manifest.class_names),
        images=sum(manifest.class_counts),
        scored=0,
        measured=0,
        seconds={"whole": 0.0},
        memory={"host": peak_host_bytes()},
        bytes=_bytes_in(made.path),
    )


def _bytes_in(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


@contextmanager
def _scratch_folder(out: Path) -> Iterator[Path]:
    """Make a folder beside the set, or above if its folder is not there yet, for the block."""
    place = next(folder for folder in out.absolute().parents if folder.is_dir())
    name = f"{out.name}.dry-run"
    remove_leftovers(place, name)
    folder = hidden_beside(place / name)
    with disk_errors(place, ANOTHER_OUT):
        folder.mkdir()
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
