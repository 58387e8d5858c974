"""Parts of a distilled set that jobs made in folders of their own, merged into the whole set."""

from __future__ import annotations

import itertools
import os
from collections.abc import Sequence
from pathlib import Path

from pydream.errors import PydreamError
from pydream.files import check_place, with_own_name
from pydream.partial import begun_identity, differences, partial_of
from pydream.sets.config import MergeConfig
from pydream.sets.run import DRAFT, MadeSet, kept_draft
from pydream.sets.writer import SetWriter, finished_manifest
from pydream.timeline import Stopwatch


def merge(config: MergeConfig) -> MadeSet:
    """Merge the parts of a distilled set that shards made in folders of their own.

    The set has the bytes of a run by one process. The parts stay as they are. A merging that was
    killed continues, and a finished one is left as it is.

    Parameters
    ----------
    config
        The settings.

    Raises
    ------
    PydreamError
        If a folder is no part of a set or has other settings, a part is named twice or is where the
        set would be made, or a class is in no part or in two. Nothing is written then.
    """
    check_place(config.out, "name a new folder")
    parts = [_open(part) for part in config.parts]
    _check_apart(config.out, parts)
    first = parts[0]
    identity = begun_identity(first.out)
    assert identity is not None  # else `_open` would have raised
    for part in parts[1:]:
        if differing := differences(identity, begun_identity(part.out) or {}):
            raise PydreamError(
                f"{part.out} was made with other settings than {first.out} "
                f"({'; '.join(differing)}): merge parts of one set"
            )
    draft = kept_draft(first)
    owners = _owners(parts, draft.class_names)
    if (manifest := finished_manifest(config.out, identity)) is not None:
        return MadeSet(config.out, manifest, {})
    writer = SetWriter(config.out, identity, resume=True)
    watch = Stopwatch()
    with writer.begin():
        with watch("copy"):
            for part in parts:
                writer.take_over(part, [label for label, owner in owners.items() if owner is part])
        if draft.method == "rded":
            from pydream.rded.whole_set import finish_set
        else:
            from pydream.dream.whole_set import finish_set
        return finish_set(writer, watch)


def _open(part: Path) -> SetWriter:
    """Open what a shard made."""
    part = with_own_name(part)
    out = part.with_suffix("") if part.suffix == ".partial" else part
    if (out / "manifest.json").is_file():
        raise PydreamError(f"{out} is a whole set already: merge only what shards left unfinished")
    identity = begun_identity(out)
    if identity is None:
        raise PydreamError(f"{out}: no part of a set here; give what a shard had as --out")
    writer = SetWriter(out, identity, resume=True)
    if writer.record(DRAFT) is None:
        raise PydreamError(f"{out} has no finished class: run its shard first")
    return writer


def _check_apart(out: Path, parts: Sequence[SetWriter]) -> None:
    """Raise PydreamError if the set would be made in the folder of a part, or two parts are one.

    A folder is the same however it is spelled, also through links.
    """
    own = partial_of(out)
    for part in parts:
        if own.exists() and os.path.samefile(own, part.partial):
            raise PydreamError(
                f"{out} is also the part {part.out}, whose images are in {own}: name a new folder"
            )
    for first, second in itertools.combinations(parts, 2):
        if os.path.samefile(first.partial, second.partial):
            raise PydreamError(
                f"{first.out} and {second.out} are the same part: name each part once"
            )


def _owners(parts: Sequence[SetWriter], class_names: Sequence[str]) -> dict[int, SetWriter]:
    """Return the part that has each class."""
    owners: dict[int, SetWriter] = {}
    missing = []
    for label, name in enumerate(class_names):
        having = [part for part in parts if part.finished_class(label) is not None]
        if len(having) > 1:
            raise PydreamError(
                f"{having[0].out} and {having[1].out} both have class {name}: merge one of them"
            )
        if having:
            owners[label] = having[0]
        else:
            missing.append(name)
    if missing:
        raise PydreamError(
            f"{len(missing):,} of {len(class_names):,} classes are in no part, first {missing[0]}: "
            "run the shards that are missing, or those again that were stopped"
        )
    return owners
