"""The whole of RDED: from labelled images and an observer to a distilled set on disk."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from pydream.collector import rare_full_collections
from pydream.data import Source
from pydream.lazy import imported_beside
from pydream.progress import shared_with
from pydream.ranks import Ranks, ranks_of
from pydream.rded.class_loop import distill_classes, unreadable_so_far
from pydream.rded.config import RdedConfig
from pydream.rded.finishing import open_refinement
from pydream.rded.groups import own_groups, single_classes
from pydream.rded.opened import open_run
from pydream.rded.whole_set import finish_set
from pydream.sets.run import MadeSet, finish_together
from pydream.torch_state import usual_torch_state


@usual_torch_state()
@rare_full_collections()
def distill(
    config: RdedConfig,
    *,
    source: Source | None = None,
    observer: nn.Module | Sequence[nn.Module] | None = None,
) -> MadeSet:
    """Distil a labelled image set by RDED (arXiv 2312.03526).

    Parameters
    ----------
    config
        The settings.
    source
        The images, if they are neither a file nor a known set; ``config.source`` is then only their
        name, which must not be empty.
    observer
        A classifier of normalised (B, 3, S, S) float32 images, if it is not a file;
        ``config.observer`` is then only its name, which must not be empty, and ``config.side`` is
        required. Or several, with as many names.

    Returns
    -------
    MadeSet
        The folder of the set, its manifest, and the time each stage took.

    Raises
    ------
    PydreamError
        If an input cannot be used. Nothing half-written is then left at ``config.out``.
    UnfinishedError
        If this is a shard that has done its part, and others have not.

    Notes
    -----
    Under torchrun or srun all ranks call this alike. Each scores classes of its own, the first one
    finishes the set, and all return it.
    """
    ranks = ranks_of(config.shard)
    with shared_with(ranks), ranks.together():
        return _distill(config, ranks, source, observer)


def _distill(
    config: RdedConfig,
    ranks: Ranks,
    source: Source | None,
    observer: nn.Module | Sequence[nn.Module] | None,
) -> MadeSet:
    opened = open_run(config, ranks, source, observer)
    if isinstance(opened, MadeSet):
        return opened
    run, selection, writer = opened.run, opened.selection, opened.run.writer
    with writer.begin(ranks):
        refining = open_refinement(run, observer) if config.method.refine else None
        if ranks.first:
            opened.keep_facts(writer, refining)
        groups = single_classes(run.counts) if refining is None else refining.groups
        own = own_groups(groups, selection, ranks)
        with imported_beside("pydream.report.page"):  # half a second, at the end of the run
            distill_classes(run, selection, {label for group in own for label in group})
        if refining is not None:
            refining.run(own)

        def finish() -> MadeSet:
            if ranks.count > 1:
                unreadable_so_far(run, selection, set(range(len(run.counts)))).say()
            return finish_set(writer, run.watch)

        return finish_together(writer, ranks, len(run.counts), finish)
