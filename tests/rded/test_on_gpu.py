"""RDED and an evaluation whole on a GPU."""

from __future__ import annotations

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from pydream import _C
from pydream.data.device_jpeg import no_decoder
from pydream.evaluate import EvaluateConfig, evaluate_set
from pydream.rded import RdedConfig, distill
from pydream.sets.run import MadeSet

if not torch.cuda.is_available() or not _C.cuda_architectures:
    pytest.skip("needs a GPU, and a build with CUDA", allow_module_level=True)

# Logits of a small float32 network, with sums in another order: units of 6e-8 of the largest
# activation in each layer. TF32, with its 10 bits of mantissa, would show: it is off.
SAME_SCORES = 1e-3


@pytest.fixture
def config(folder: Path, random_observer: Path, tmp_path: Path) -> RdedConfig:
    return RdedConfig(
        source=str(folder),
        observer=str(random_observer),
        out=tmp_path / "set",
        ipc=2,
        factor=2,
        crops=3,
        precision="float32",
        device="cuda",
        allow_weak_observer=True,
    )


def run(config: RdedConfig, **changes: Any) -> tuple[MadeSet, dict[tuple[str, int, int], float]]:
    assert config.out is not None
    out = Path(tempfile.mkdtemp(dir=config.out.parent)) / "set"
    config = dataclasses.replace(config, out=out, **changes)
    result = distill(config)
    rows = pq.read_table(result.path / "provenance.parquet").to_pylist()
    return result, {(row["source"], row["top"], row["left"]): row["score"] for row in rows}


def test_it_chooses_what_the_cpu_chooses(config: RdedConfig) -> None:
    _, on_gpu = run(config)
    _, on_cpu = run(config, device="cpu")
    common = on_gpu.keys() & on_cpu.keys()
    assert len(common) >= 0.9 * len(on_cpu)  # near ties may fall the other way
    difference = [abs(on_gpu[image] - on_cpu[image]) for image in common]
    assert max(difference) < SAME_SCORES
    scores = np.array(sorted(on_cpu.values()))
    assert np.ptp(scores) > 10 * SAME_SCORES  # else the comparison would say nothing


def test_same_bytes_whatever_the_batch_and_the_budget(config: RdedConfig) -> None:
    first, _ = run(config)
    changes = [
        {"batch_size": 1, "workers": 1},
        {"memory_budget": 1, "workers": 3, "batch_size": 7},
    ]
    for change in changes:
        result, _ = run(config, **change)
        assert result.manifest.images_sha256 == first.manifest.images_sha256


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision(config: RdedConfig, precision: str) -> None:
    result, scores = run(config, precision=precision)
    assert result.manifest.observer is not None
    assert result.manifest.observer["precision"] == precision
    assert all(np.isfinite(score) for score in scores.values())


def test_decoding_there(config: RdedConfig) -> None:
    if no_decoder(torch.device("cuda")) is not None:
        pytest.skip("this torchvision decodes no JPEG on the GPU")
    on_gpu, there = run(config, decode="device")
    _, here = run(config, decode="host", workers=2)
    assert on_gpu.manifest.config is not None
    assert on_gpu.manifest.config["decode"] == "device"
    assert len(there.keys() & here.keys()) >= 0.5 * len(here)  # pixels differ by some levels


def test_stages_are_timed_on_the_device(config: RdedConfig) -> None:
    result, _ = run(config)
    assert result.seconds["observer"] > 0
    assert result.seconds["crop"] > 0
    assert result.seconds["observer"] < result.seconds["whole"]


def test_scores_that_are_no_numbers_are_named(config: RdedConfig, tmp_path: Path) -> None:
    from pydream.errors import PydreamError
    from pydream.models import build_model, save_weights

    model: Any = build_model("convnet2-w16", num_classes=4, side=32)
    with torch.no_grad():
        model.classifier.weight.fill_(3e38)  # finite, but no product with it is
    file = tmp_path / "damaged.safetensors"
    save_weights(model, file, {"arch": "convnet2-w16", "side": "32"})
    with pytest.raises(PydreamError, match="are not numbers"):
        run(config, observer=str(file))
    run(config)  # and nothing of it is left for the next run


def test_little_memory(config: RdedConfig) -> None:
    reference, _ = run(config)
    # cuBLAS keeps a workspace for each stream, 32 MiB on Hopper: taken before memory is limited.
    square = torch.ones(8, 8, device="cuda")
    (square @ square).sum().item()
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(0).total_memory
    # Room for the weights and little more than one small batch.
    torch.cuda.set_per_process_memory_fraction((torch.cuda.memory_reserved() + (24 << 20)) / total)
    try:
        result, _ = run(config, workers=1)
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
    assert result.manifest.images_per_class == reference.manifest.images_per_class


def test_an_evaluation(digits_observer: Path, tmp_path: Path) -> None:
    distilled = distill(
        RdedConfig(
            source="digits",
            observer=str(digits_observer),
            ipc=10,
            out=tmp_path / "digits",
            device="cuda",
        )
    )
    accuracy = {}
    for device in ("cuda", "cpu"):
        result = evaluate_set(
            EvaluateConfig(
                set=distilled.path,
                observer=str(digits_observer),
                epochs=200,
                horizontal_flip=False,
                device=device,
                out=tmp_path / device,
            )
        )
        accuracy[device] = result.rows[0].runs[0].curve[-1].top1
    # The same views from the same seed: what differs is rounding, over 200 epochs.
    assert accuracy["cuda"] > 0.8
    assert abs(accuracy["cuda"] - accuracy["cpu"]) < 0.05
