"""Distilled sets of plain colours on disk, and what an inspection may have measured of one."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import torch

from pydream.inspection.realism import ImageMeasures, RealSamples, SetMeasures
from pydream.sets.distilled import (
    PROVENANCE_SCHEMA,
    DistilledSet,
    load_set,
)
from pydream.sets.image_formats import hash_image_files
from pydream.sets.writer import save_image


def observer_entry(
    weights_sha256: str, class_order: Sequence[int], arch: str = "convnet3"
) -> dict[str, Any]:
    """Return the entry of an observer in a manifest."""
    return {
        "arch": arch,
        "weights_sha256": weights_sha256,
        "precision": "float32",
        "top1": 0.875,
        "images": 64,
        "held_out": "test split",
        "class_order": [*class_order],
    }


def write_set(
    path: Path,
    class_names: Sequence[str] = ("ant", "bee"),
    *,
    ipc: int = 3,
    side: int = 32,
    factor: int = 1,
    scores: bool = True,
    skipped: Sequence[dict[str, str]] = (),
) -> DistilledSet:
    """Write a set of plain colours to disk, as the manifest's format 1 asks, and read it."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for label in range(len(class_names)):
        folder = path / "images" / f"{label:05d}"
        folder.mkdir(parents=True)
        for number in range(ipc):
            colour = torch.randint(256, (3,), dtype=torch.uint8, generator=generator)
            image = colour[:, None, None].expand(3, side, side)
            save_image(image, folder / f"{number:05d}.png", 95)
            for cell in range(factor**2):
                score = -(10.0 ** -(label + number + cell))
                row = dict.fromkeys(("top", "left", "height", "width"), 0)
                source = f"{label}/{cell % 2}.jpg"
                row |= {"class": label, "image": number, "cell": cell}
                rows.append(row | {"source": source, "score": score})
    if scores:
        table = pa.Table.from_pylist(rows, schema=PROVENANCE_SCHEMA)
        pq.write_table(table, path / "provenance.parquet")
    files = list(path.glob("images/*/*"))
    manifest = {
        "format": 1,
        "method": "rded",
        "package": {"name": "pydream-distill", "version": "1.2.3"},
        "config": {"canvas": "pad", "preselect": 300, "crops": 5},
        "seed": 7,
        "source": {"description": "insects.zip", "split": "train", "fingerprint": "f" * 64},
        "class_names": list(class_names),
        "class_to_idx": {name: index for index, name in enumerate(class_names)},
        "images_per_class": ipc,
        "factor": factor,
        "side": side,
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
        "observer": observer_entry("a" * 64, range(len(class_names))),
        "image_format": "png",
        "images_bytes": sum(file.stat().st_size for file in files),
        "images_sha256": hash_image_files(path),
        "skipped": list(skipped),
    }
    (path / "manifest.json").write_text(json.dumps(manifest))
    return load_set(path)


MEASURES = SetMeasures(
    images_bytes=2048,
    labels_bytes=5 * 2**20,
    effective_sources=3.96,
    observer={"arch": "resnet18", "weights_sha256": "b" * 64},
    distilled=ImageMeasures(
        realism=-0.051,
        patch_realism=-0.42,
        agreement=0.975,
        entropy=0.25,
        pairwise_distance=13.5,
        coverage_distance=12.25,
    ),
    random_real=ImageMeasures(
        realism=-0.77,
        patch_realism=None,
        agreement=0.8125,
        entropy=0.5,
        pairwise_distance=14.5,
        coverage_distance=11.75,
    ),
    real=RealSamples(source="insects.zip", classes=2, samples=1200),
)
