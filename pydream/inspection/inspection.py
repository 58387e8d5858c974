"""Inspection of a whole distilled set: its description, its files, and its measures."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from functools import partial

from torch import nn

from pydream.data import Source, open_source
from pydream.data.whitening import whitening_of
from pydream.devices import announce_device, resolve_device
from pydream.inspection.config import InspectConfig
from pydream.inspection.facts import SetFacts, inspect_set
from pydream.inspection.realism import SetMeasures, measure_set
from pydream.processors import usable_processors
from pydream.progress import shared_with
from pydream.ranks import Ranks, ranks_of
from pydream.sets.distilled import DistilledSet
from pydream.sets.opening import exif_of, open_named_set, open_observer
from pydream.torch_state import usual_torch_state
from pydream.versions import package_record


@dataclass(frozen=True)
class Inspection:
    """Findings about a distilled set.

    Attributes
    ----------
    distilled
        The set.
    measures
        Realism and diversity, from `pydream.inspection.measure_set`.
    facts
        Description, integrity and measures, from `pydream.inspection.inspect_set`.
    """

    distilled: DistilledSet
    measures: SetMeasures
    facts: SetFacts


@usual_torch_state()
def inspect(
    config: InspectConfig, *, observer: nn.Module | None = None, source: Source | None = None
) -> Inspection:
    """Describe a distilled set, check its files, and measure it without training.

    Parameters
    ----------
    config
        The settings.
    observer
        A classifier of normalised (B, 3, S, S) float32 images, if it is not a file;
        ``config.observer`` is then only its name.
    source
        Real images to compare with, if they are neither a file nor a known set.

    Raises
    ------
    PydreamError
        If an input cannot be used.

    Notes
    -----
    Under torchrun or srun all ranks call this alike. Each measures some of the classes, and all
    return the whole result.
    """
    ranks = ranks_of(None)
    with shared_with(ranks), ranks.together():
        return _inspect(config, ranks, observer, source)


def _inspect(
    config: InspectConfig, ranks: Ranks, observer: nn.Module | None, source: Source | None
) -> Inspection:
    if source is None and config.source is not None:
        source = open_source(config.source)
    zca = None
    if config.zca and source is not None:
        zca = partial(whitening_of, source, workers=usable_processors())
    distilled = open_named_set(config, None if source is None else source.class_names, zca)
    network = None
    given = observer if observer is not None else config.observer
    if given is not None:
        network = open_observer(
            given,
            distilled,
            config,
            arch=config.observer_arch,
            precision="float32",
            device=resolve_device(config.device),
        )
        announce_device(config.device)
        network.announce()
    if source is not None:
        source.upright = exif_of(distilled) == "apply"
    ranks.agree(
        {
            "settings": {**dataclasses.asdict(config), "device": None},
            "installation": package_record(),
            "set": (distilled.class_names, distilled.labels.tolist()),
            "observer": None if network is None else network.facts(),
        }
    )
    only_undoes = config.zca and network is None  # the source has fitted the whitening
    compared = None if only_undoes else source
    measures = measure_set(distilled, network, compared, most_real=config.most_real, ranks=ranks)
    return Inspection(distilled, measures, ranks.once(partial(inspect_set, distilled, measures)))
