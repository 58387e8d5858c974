"""The classes of a set, refined in groups and written one by one."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from safetensors.torch import load, save
from torch import Tensor

from pydream.models import Observer
from pydream.models.layers import LayerFeatures
from pydream.ops import collage
from pydream.progress import track
from pydream.refinement.anchors import AnchorReader
from pydream.refinement.config import RefinementSettings
from pydream.refinement.steps import Refined, Refiner
from pydream.sets.distilled import DistilledSet
from pydream.sets.image_formats import ImageFormat
from pydream.sets.writer import SetWriter
from pydream.tiling import Tiling
from pydream.timeline import Stopwatch

# Bytes of all images in float32 up to which they are stored beside the image files: 6,900 images
# of 224 pixels at most.
_MOST_FLOATS = 4 << 30
SHOWN_CLASSES = 10  # number of classes with pictures in the report, the first ones
_LOSSES = "losses-"


@dataclass(frozen=True)
class UnrefinedClass:
    """The images of a class before its refinement.

    Attributes
    ----------
    images
        (n, 3, S, S) uint8.
    record
        What the set's writer keeps of the class; ``rows`` is its provenance.
    """

    images: Tensor
    record: Mapping[str, Any]


@dataclass(frozen=True)
class Refinement:
    """A refinement of all classes of a set.

    Attributes
    ----------
    refiner
        The steps.
    anchors
        Reader of the anchors.
    counts
        Number of images of each class.
    writer
        Writer of the refined set.
    made_by
        Tiling that made the images, to check that their sources have not changed since.
    """

    refiner: Refiner
    anchors: AnchorReader
    counts: Sequence[int]
    writer: SetWriter
    made_by: Tiling | None = None

    def run(
        self,
        read: Callable[[int], UnrefinedClass],
        watch: Stopwatch,
        *,
        image_format: ImageFormat,
        quality: int,
        groups: Sequence[range] | None = None,
    ) -> None:
        """Refine the classes that are not finished.

        Parameters
        ----------
        read
            Function that returns a class before its refinement.
        watch
            Stopwatch of the stages.
        image_format, quality
            File format of the images, and its quality.
        groups
            Groups of the refiner, by default all.
        """
        groups = self.refiner.groups(self.counts) if groups is None else groups
        unfinished = [group for group in groups if not all(map(self._finished, group))]
        total = sum(map(len, groups))
        done = total - sum(map(len, unfinished))
        with track("refining", total, "classes", done=done, divided=True) as advance:
            for group in unfinished:
                classes = {label: read(label) for label in group}
                refined = self._refine(classes, watch)
                with watch("write"):
                    self.writer.keep(
                        _losses_of(group),
                        {"losses": refined.losses, "distances": refined.distances},
                    )
                    parts = refined.values.split([self.counts[label] for label in group])
                    for (label, before), values in zip(classes.items(), parts, strict=True):
                        if not self._finished(label):
                            self._write(label, before, values, image_format, quality)
                advance(len(group))

    def _finished(self, label: int) -> bool:
        return self.writer.finished_class(label) is not None

    def _refine(self, classes: Mapping[int, UnrefinedClass], watch: Stopwatch) -> Refined:
        with watch("read anchors"):
            anchors = [
                self.anchors.read(before.record["rows"], before.images, made_by=self.made_by)
                for before in classes.values()
            ]
            for label, of_class in zip(classes, anchors, strict=True):
                if label < SHOWN_CLASSES:
                    self._keep_picture(label, of_class[:, 0].contiguous())
        with watch("refine"):
            return self.refiner(
                torch.cat([before.images for before in classes.values()]),
                torch.cat(anchors, dim=1),
                [label for label, before in classes.items() for _ in before.images],
            )

    def _keep_picture(self, label: int, anchors: Tensor) -> None:
        """Keep the anchors of an image for the report, tiled: (f², 3, S, S) uint8."""
        factor = self.refiner.factor
        tiled = collage(anchors[None], factor, factor * anchors.shape[-1])[0, 0]
        picture = tiled.permute(1, 2, 0).contiguous()
        self.writer.keep_bytes(_anchors_of(label), save({"anchors": picture}))

    def _write(
        self,
        label: int,
        before: UnrefinedClass,
        values: Tensor,
        image_format: ImageFormat,
        quality: int,
    ) -> None:
        if keeps_floats(self.counts, values.shape[-1]):
            self.writer.keep_values(label, values)
        levels = (values * 255).round().to(torch.uint8)
        self.writer.write_class(
            label, levels, before.record, image_format=image_format, quality=quality
        )


def keeps_floats(counts: Sequence[int], side: int) -> bool:
    """Return whether a refined set has its images in float32, too, in ``images.pt``."""
    return float_bytes(counts, side) <= _MOST_FLOATS


def float_bytes(counts: Sequence[int], side: int) -> int:
    """Return the bytes of all images of a set in float32."""
    return sum(counts) * 3 * side**2 * 4


def refinement_facts(
    settings: RefinementSettings,
    observers: Sequence[Observer],
    layers: Sequence[str],
    *,
    steps: int,
    seed: int,
) -> dict[str, Any]:
    """Return ``refinement`` of the manifest before the refinement: its settings and observers."""
    return {
        "steps": steps,
        "match": settings.match,
        "learning_rate": settings.learning_rate,
        "seed": seed,
        "observers": [observer.facts() for observer in observers],
        "layers": list(layers),
    }


def refinement_results(writer: SetWriter, cells: int) -> dict[str, Any]:
    """Return loss by step and distances, averaged over the cells of all classes.

    Parameters
    ----------
    writer
        Writer of the refined set, all classes of which are finished.
    cells
        Number of cells in all images.
    """
    records = [
        writer.record(name.removesuffix(".json")) or {}
        for name in writer.kept_names(f"{_LOSSES}*.json")
    ]
    by_step = zip(*(record["losses"] for record in records), strict=True)
    return {
        "loss": [sum(of_step) / cells for of_step in by_step],
        "distances": {
            name: sum(record["distances"][name] for record in records) / cells
            for name in records[0]["distances"]
        },
    }


def refinement_pictures(
    writer: SetWriter, read: Callable[[int], UnrefinedClass], distilled: DistilledSet
) -> dict[str, Tensor]:
    """Return some images of a refined set, and what they were made of, for its report.

    Parameters
    ----------
    writer
        Writer of the refined set.
    read
        Function that returns a class before its refinement.
    distilled
        The refined set.

    Returns
    -------
    dict
        By name: the anchors of the first image of some classes, tiled, and the image before and
        after the refinement; uint8 (k, H, W, 3).
    """
    shown: dict[str, list[Tensor]] = {"anchors": [], "unrefined": [], "refined": []}
    counts = distilled.manifest.class_counts
    for label in range(min(len(counts), SHOWN_CLASSES)):
        kept = writer.kept_bytes(_anchors_of(label))
        assert kept is not None
        shown["anchors"].append(load(kept)["anchors"])
        shown["unrefined"].append(read(label).images[0].permute(1, 2, 0))
        shown["refined"].append(distilled.stored[sum(counts[:label])])
    return {name: torch.stack(images) for name, images in shown.items()}


def _losses_of(group: range) -> str:
    return f"{_LOSSES}{group.start:05d}"


def _anchors_of(label: int) -> str:
    return f"{label:05d}.anchors"


def make_refiner(
    observers: Sequence[Observer],
    settings: RefinementSettings,
    *,
    steps: int,
    factor: int,
    side: int,
    seed: int,
) -> Refiner:
    """Make the steps of a refinement by some observers, which are float32."""
    return Refiner(
        [LayerFeatures(observer, settings.layer) for observer in observers],
        steps=steps,
        learning_rate=settings.learning_rate,
        factor=factor,
        side=side,
        seed=seed,
        bidirectional=settings.match == "features+gradients",
    )


def keep_unrefined(writer: SetWriter, label: int, before: UnrefinedClass) -> None:
    """Keep the images of a class in the writer's state, until they are refined."""
    stream = io.BytesIO()
    torch.save(before.images, stream)
    writer.keep_bytes(f"{label:05d}.unrefined", stream.getvalue())
    writer.keep(f"unrefined-{label:05d}", before.record)


def unrefined_record(writer: SetWriter, label: int) -> dict[str, Any] | None:
    """Return the record of a class that `keep_unrefined` kept, or None."""
    return writer.record(f"unrefined-{label:05d}")


def kept_unrefined(writer: SetWriter, label: int) -> UnrefinedClass:
    """Return a class that `keep_unrefined` kept."""
    data, record = writer.kept_bytes(f"{label:05d}.unrefined"), unrefined_record(writer, label)
    assert data is not None
    assert record is not None
    return UnrefinedClass(torch.load(io.BytesIO(data), weights_only=True), record)
