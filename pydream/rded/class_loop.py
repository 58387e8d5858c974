"""The classes of a run: their images scored in order, then each assembled and written."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from functools import partial

from pydream.allocator import keep_freed_memory
from pydream.data.unreadable import Unreadable
from pydream.progress import track
from pydream.rded.classes import OpenClasses, ScoredClass
from pydream.rded.finishing import finish_classes
from pydream.rded.groups import needed_images
from pydream.rded.patches import PatchMaker, Preselection
from pydream.rded.run import RdedRun
from pydream.rded.scoring import ScoringLimits, score
from pydream.rded.selection import WITH_FEATURES

_MOST_FINISHING = 4  # classes that may wait to be assembled and written


def distill_classes(run: RdedRun, selection: Preselection, own: Collection[int]) -> None:
    """Score some classes in order, then assemble and write each.

    On a GPU, assembly runs alongside the scoring, and the encoding of a class's images alongside
    the next classes. On the CPU they take turns: see `scoring`.
    """
    config, labels = run.config, range(len(run.source.class_names))
    before = {label for label in own if run.assembled(label) is not None}
    finished = {label for label in labels if label not in own} | before  # or left to others
    if len(finished) == len(labels) and not run.ranks.connected:
        return
    maker = patch_maker(run)
    with_features = config.select in WITH_FEATURES
    needed = needed_images(maker, selection, finished)
    limits = ScoringLimits(config.batch_size, run.decode, config.workers, run.memory)
    unreadable = unreadable_so_far(run, selection, before)
    # Other rules choose once a class is complete, and have their winners decoded again.
    early = [count if config.select == "realistic" else 0 for count in run.key_patches]
    classes = OpenClasses(maker, selection, early, finished)
    on_cpu = maker.observer.device.type == "cpu"
    with (
        # An observer's activations are hundreds of megabytes, which glibc would otherwise map anew
        # for every layer: 7 % of a run with ResNet-18 in bfloat16.
        keep_freed_memory() if on_cpu else nullcontext(),
        track("scoring", int(needed.sum()) * maker.crops, "patches", divided=True) as advance,
        _one_by_one(beside=not on_cpu) as do,
    ):
        batches = score(
            maker,
            selection,
            needed,
            limits,
            run.watch,
            features=with_features,
            combine=config.combine,
        )
        for batch in batches:
            with run.watch("cut winners"):
                classes.add(batch)
            complete: list[ScoredClass] = []
            try:
                for scored in classes.pop_complete():
                    unreadable.add(
                        {
                            int(selection.indices[candidate]): why
                            for candidate, why in scored.errors.items()
                        }
                    )
                    complete.append(scored)
            finally:  # those before a class with too many unreadable images are kept
                if complete:
                    do(partial(finish_classes, run, maker, selection, complete))
            advance(len(batch.candidates) * maker.crops)
    run.writer.settle()
    unreadable.say()


def patch_maker(run: RdedRun) -> PatchMaker:
    """Return what draws the crops of a run and makes patches of them."""
    return PatchMaker(
        run.source,
        run.observers[0],
        side=run.side,
        factor=run.factor,
        crops=run.config.method.crops,
        cells=run.config.method.cells,
        canvas=run.config.canvas,
        seed=run.config.seed,
        further=run.observers[1:],
    )


@contextmanager
def _one_by_one(*, beside: bool) -> Iterator[Callable[[Callable[[], None]], None]]:
    """Yield a function that runs jobs one after another: alongside the block, or at once.

    Jobs alongside the block are finished when the block ends. A long queue makes the block wait.
    """
    if not beside:
        yield lambda work: work()
        return
    waiting: deque[Future[None]] = deque()
    with ThreadPoolExecutor(1) as thread:

        def submit(work: Callable[[], None]) -> None:
            waiting.append(thread.submit(work))
            while waiting and (waiting[0].done() or len(waiting) > _MOST_FINISHING):
                waiting.popleft().result()

        yield submit
        for future in waiting:
            future.result()


def unreadable_so_far(run: RdedRun, selection: Preselection, finished: set[int]) -> Unreadable:
    """Return the images that were unreadable when finished classes were scored."""
    unreadable = Unreadable(run.source, len(selection.indices), run.config.allow_skipped)
    records = [run.assembled(label) for label in sorted(finished)]
    skipped = [image for record in records if record is not None for image in record["skipped"]]
    if skipped:
        index_of = {run.source.keys[index]: index for index in selection.indices.tolist()}
        unreadable.add({index_of[image["key"]]: image["reason"] for image in skipped})
    return unreadable
