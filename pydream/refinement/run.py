"""The refinement of a distilled set, from its folder to a new one."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pydream import report
from pydream.data import Source
from pydream.devices import announce_device, resolve_device
from pydream.errors import PydreamError
from pydream.models import Observer
from pydream.refinement.anchors import AnchorReader
from pydream.refinement.classes import (
    Refinement,
    UnrefinedClass,
    make_refiner,
    refinement_facts,
    refinement_pictures,
    refinement_results,
)
from pydream.refinement.config import RefineConfig
from pydream.refinement.steps import Refiner
from pydream.sets.distilled import DistilledSet, cells_of_class, load_set
from pydream.sets.manifest import Manifest, with_images
from pydream.sets.opening import check_image_files, exif_of, open_observer, open_real
from pydream.sets.run import MadeSet, finish_run
from pydream.sets.writer import SetWriter, check_place_of_set, finished_manifest
from pydream.tiling import Tiling
from pydream.timeline import Stopwatch
from pydream.torch_state import usual_torch_state
from pydream.versions import package_record

_QUALITY = 95  # of JPEG and WebP files, as in RDED


@usual_torch_state()
def refine(
    config: RefineConfig, *, source: Source | None = None, observers: Sequence[nn.Module] = ()
) -> MadeSet:
    """Refine a distilled set: move its cells until an observer sees in them what it sees in photos.

    Source: the residual matching of CIM (ECCV 2026); see `pydream.refinement.steps`.

    Parameters
    ----------
    config
        The settings.
    source
        The images that the set was distilled from, if they are neither a file nor a known set.
    observers
        Classifiers of normalised (B, 3, S, S) float32 images, if they are not files;
        ``config.observer`` then holds only their names.

    Returns
    -------
    MadeSet
        The folder of the refined set, its manifest, and the time each stage took.

    Raises
    ------
    PydreamError
        If an input cannot be used, or the loss becomes infinite. Nothing half-written is then left
        at ``config.out``.
    """
    watch = Stopwatch()
    device = resolve_device(config.device)
    out = config.out or Path(f"{config.set.resolve().name}-refined")
    check_place_of_set(out, resume=config.resume)
    with watch("open"):
        distilled = load_set(config.set)
        _check_refinable(distilled)
        check_image_files(distilled)
        if source is None:
            split = (distilled.manifest.source or {}).get("split", "train")
            source = open_real(config.source, distilled, split, exif_of(distilled))
        networks = [
            _open(given, distilled, config, device) for given in observers or config.observer
        ]
        manifest = distilled.manifest
        refiner = make_refiner(
            networks,
            config,
            steps=config.steps,
            factor=manifest.factor,
            side=manifest.side,
            seed=config.seed,
        )
        anchors = AnchorReader(
            source, factor=manifest.factor, side=manifest.side, workers=config.workers
        )
        identity = _identity(config, distilled, networks, refiner, anchors)
    if config.resume and (finished := finished_manifest(out, identity)) is not None:
        return MadeSet(out, finished, {})
    writer = SetWriter(out, identity, resume=config.resume)
    announce_device(config.device)
    for network in networks:
        network.announce()
    counts = distilled.labels.bincount(minlength=len(distilled.class_names)).tolist()
    with writer.begin():
        refinement = Refinement(refiner, anchors, counts, writer, _tiling_of(manifest))
        read = partial(_before, distilled)
        refinement.run(
            read,
            watch,
            image_format=manifest.image_format or "png",
            quality=_QUALITY,
        )
        manifest = _finish(
            distilled,
            writer,
            identity,
            refinement_facts(
                config, networks, refiner.layers, steps=config.steps, seed=config.seed
            ),
            watch,
        )

        def write_report(refined: DistilledSet, write: Callable[[Path, bytes], None]) -> None:
            report.write_report(refined, write, refined=refinement_pictures(writer, read, refined))

        return finish_run(writer, manifest, watch, write_report)


def _identity(
    config: RefineConfig,
    distilled: DistilledSet,
    observers: Sequence[Observer],
    refiner: Refiner,
    anchors: AnchorReader,
) -> dict[str, Any]:
    """Return everything that decides the bytes of the refined set, ready for JSON."""
    return {
        **(distilled.manifest.config or {}),
        "refined": {
            **config.identity(),
            "device": observers[0].device.type,
            "layers": refiner.layers,
            "observers": {str(n): one.identity() for n, one in enumerate(observers, 1)},
            "set": distilled.images_sha256,
            "anchors": anchors.fingerprint(distilled.provenance),
        },
    }


def _check_refinable(distilled: DistilledSet) -> None:
    manifest, path = distilled.manifest, distilled.path
    if manifest.refinement is not None:
        raise PydreamError(
            f"{path} has been refined already, in {manifest.refinement['steps']} steps: refine the "
            "set that it was made from"
        )
    if distilled.provenance is None:
        raise PydreamError(
            f"{path} does not say what it was made of, so its cells have no anchors: refine a set "
            "that has a provenance.parquet"
        )
    if manifest.factor == 1:
        raise PydreamError(
            f"{path} has one cell in each image (factor 1), which already is its anchor: refine a "
            "set of factor 2 or more"
        )


def _tiling_of(manifest: Manifest) -> Tiling | None:
    """Return the tiling that made the images of RDED; those of DREAM+ have changed since."""
    if manifest.method != "rded":
        return None
    cells = (manifest.config or {}).get("cells", "shrunk")
    return Tiling(manifest.side, manifest.factor, cells)


def _open(
    given: nn.Module | str, distilled: DistilledSet, config: RefineConfig, device: torch.device
) -> Observer:
    return open_observer(
        given,
        distilled,
        config,
        arch=config.observer_arch,
        precision="float32",
        device=device,
    )


def _before(distilled: DistilledSet, label: int) -> UnrefinedClass:
    """Read a class of a set."""
    own = (distilled.labels == label).nonzero().flatten()
    images = distilled.stored[int(own[0]) : int(own[-1]) + 1].stack()
    assert distilled.provenance is not None
    rows = cells_of_class(distilled.provenance, label).to_pylist()
    return UnrefinedClass(images.permute(0, 3, 1, 2).contiguous(), {"rows": rows})


def _finish(
    distilled: DistilledSet,
    writer: SetWriter,
    identity: dict[str, Any],
    facts: dict[str, Any],
    watch: Stopwatch,
) -> Manifest:
    """Write the other files of the refined set; return its manifest."""
    before = distilled.manifest
    assert distilled.provenance is not None
    cells = sum(before.class_counts) * before.factor**2
    with watch("write"):
        writer.write_provenance(distilled.provenance.to_pylist())
        writer.write_tensors(before.class_counts, before.side)
        return dataclasses.replace(
            with_images(before, writer.set),
            package=package_record(),
            config=identity,
            views="dsa",
            image_format=before.image_format or "png",
            refinement={**facts, **refinement_results(writer, cells)},
            labels=None,
            labels_bytes=None,
        )
