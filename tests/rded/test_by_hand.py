"""Algorithm 1 in the plain steps of an example, beside the run that does it for real."""

from __future__ import annotations

import importlib
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch

from pydream.data import open_source
from pydream.rded import RdedConfig, distill
from pydream.sets.distilled import load_set

# Above what rounding changes in a score: the run shows the observer other batches, and prepared.
DISTINCT = 1e-5


def test_the_example_makes_the_images_of_a_run(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "examples")
    example = importlib.import_module("rded_by_hand")
    images, labels, ids = example.load()
    torch.manual_seed(0)
    observer = example.train_observer(images, labels, steps=0)
    with torch.no_grad():
        observer[-1].weight *= 8  # scores lie far enough apart for any processor
    by_hand = [
        example.distil(images, labels, ids, observer, label) for label in range(example.CLASSES)
    ]
    config = RdedConfig(
        "digits",
        "untrained",
        out=tmp_path / "set",
        ipc=example.IPC,
        factor=example.FACTOR,
        side=example.SIDE,
        preselect=example.PRESELECT,
        crops=example.CROPS,
        seed=example.SEED,
        precision="float32",
        device="cpu",
        allow_weak_observer=True,
    )
    source = open_source((images.numpy(), labels.numpy()))
    made = distill(config, source=source, observer=observer).path
    assert load_set(made).images.permute(0, 3, 1, 2).equal(torch.cat(by_hand))
    rows = pq.read_table(made / "provenance.parquet").to_pylist()
    for label in range(example.CLASSES):
        scores = torch.tensor([row["score"] for row in rows if row["class"] == label])
        assert scores.sort().values.diff().min() > DISTINCT
