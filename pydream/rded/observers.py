"""The observers of an RDED run: opened, measured on real images, and described."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from pydream.data import Source
from pydream.data.resized import side_of
from pydream.errors import PydreamError
from pydream.models import Observer
from pydream.models.config import files_or_given
from pydream.models.loading import load_configured_observer
from pydream.rded.config import RdedConfig
from pydream.rded.patches import Preselection
from pydream.rded.preflight import Preflight, preflight
from pydream.sets.writer import SetWriter


def open_observers(
    config: RdedConfig,
    given: nn.Module | Sequence[nn.Module] | None,
    source: Source,
    device: torch.device,
) -> tuple[Observer, ...]:
    """Return the observers, before the order of their outputs is known.

    The first one takes images of the distilled side. The others keep the sides that their files
    name; where nothing decides, that of the first one.
    """
    side, likely = config.side, _side_of_images(source) if config.side is None else None
    observers: list[Observer] = []
    for checkpoint in files_or_given(config.observers, given):
        observer = load_configured_observer(
            checkpoint,
            config,
            arch=config.arch,
            side=side,
            likely_side=likely,
            precision=config.precision,
            device=device,
            compiled=config.compile,
        )
        observers.append(observer)
        side, likely = None, observers[0].side
        if given is not None:  # a module does not tell its side
            side = likely
    return tuple(observers)


def _side_of_images(source: Source) -> int | None:
    """Return the side of the images, if the first one can be read."""
    try:
        return side_of(source)
    except PydreamError:
        return None


def observers_identity(observers: Sequence[Observer]) -> dict[str, Any]:
    """Return the facts of the observers that decide the bytes of the set."""
    first, *others = [observer.identity() for observer in observers]
    return {
        "precision": first["precision"],  # of all; auto is another one on another machine
        "observer_identity": first,
        **({"further_observers": others} if others else {}),
    }


def measure_observers(
    config: RdedConfig,
    observers: Sequence[Observer],
    source: Source,
    held_out: Source | None,
    selection: Preselection,
    writer: SetWriter,
    budget: int,
) -> list[Preflight]:
    """Measure each observer on real images, unless an interrupted run has.

    Raises
    ------
    PydreamError
        If one of them does not fit the images; where there are several, the message names it.
    """
    if held_out is not None and held_out.class_names == source.class_names:
        among = np.arange(len(held_out))
    else:
        held_out = source
        left = np.ones(len(source), dtype=np.bool_)
        left[selection.indices] = False
        among = np.flatnonzero(left)
        if not np.bincount(source.labels[among], minlength=len(source.class_names)).all():
            among = np.arange(len(source))
    measured = []
    for number, (name, observer) in enumerate(zip(config.observers, observers, strict=True)):
        kept = writer.record(_record_name(number))
        if kept is not None:
            measured.append(Preflight(**{**kept, "order": tuple(kept["order"])}))
            continue
        found = preflight(
            source,
            held_out,
            among,
            observer,
            patches=len(selection.indices) * max(config.method.crops, 1),
            infer=config.class_order == "infer",
            allow_weak=config.allow_weak_observer,
            seed=config.seed,
            workers=config.workers,
            budget=budget,
            called="the observer" if len(observers) == 1 else f"the observer {name}",
        )
        measured.append(found)
    return measured


def keep_measured(writer: SetWriter, measured: Sequence[Preflight]) -> None:
    """Store the measurements for a later `resume`."""
    for number, found in enumerate(measured):
        writer.keep(_record_name(number), vars(found))


def _record_name(number: int) -> str:
    return "preflight" if number == 0 else f"preflight-{number + 1}"


def observers_record(
    observers: Sequence[Observer], measured: Sequence[Preflight]
) -> dict[str, Any]:
    """Return the manifest's ``observer`` and, if there are several, ``further_observers``."""
    first, *others = [
        {
            **observer.facts(),
            **observer.input_facts(),
            "top1": found.top1,
            "images": found.images,
            "held_out": found.held_out,
            "class_order": list(found.order),
        }
        for observer, found in zip(observers, measured, strict=True)
    ]
    return {"observer": first, "further_observers": others or None}
