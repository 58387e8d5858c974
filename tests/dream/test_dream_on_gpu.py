"""DREAM+ whole on a GPU."""

from __future__ import annotations

import warnings
from pathlib import Path

import pytest
import torch

from pydream import _C
from pydream.data import Source
from pydream.dream import DreamConfig, ExpertsConfig, distill, train_experts
from pydream.sets.run import MadeSet

if not torch.cuda.is_available() or not _C.cuda_architectures:
    pytest.skip("needs a GPU, and a build with CUDA", allow_module_level=True)

# One iteration of float32 with other sums, through ReLUs that a last bit can turn.
IMAGES_ATOL = 5e-3


def run(out: Path, digits: Source, **changes: object) -> tuple[MadeSet, torch.Tensor]:
    settings = {
        "ipc": 2,
        "arch": "convnet2-w8-instance",
        "iterations": 2,
        "inner_loop": 4,
        "batch_real": 8,
        "device": "cuda",
        **changes,
    }
    result = distill(DreamConfig("digits", out=out, **settings), source=digits)  # type: ignore[arg-type]
    return result, torch.load(result.path / "images.pt")[0]


@pytest.fixture(params=["idc", "dc", "dsa", "dm", "mtt"])
def framework(request: pytest.FixtureRequest, tmp_path: Path, digits: Source) -> dict[str, object]:
    """The settings of a framework: a few steps of each, with networks trained in between."""
    name: str = request.param
    own: dict[str, dict[str, object]] = {
        "idc": {"network_images": 16, "learning_rate": 0.02},
        "dc": {"synthetic_epochs": 2},
        "dsa": {"synthetic_epochs": 2},
        "dm": {"inner_loop": 1},
        "mtt": {
            "experts": tmp_path / "experts",
            "max_start": 1,
            "expert_epochs": 2,
            "student_steps": 4,
            "student_rate": 0.02,
            "inner_loop": 1,
            "learning_rate": 10.0,
        },
    }
    if name == "mtt":
        settings = ExpertsConfig(
            "digits",
            out=tmp_path / "experts",
            count=1,
            epochs=2,
            arch="convnet2-w8-instance",
            batch_size=24,
            device="cpu",
        )
        train_experts(settings, source=digits)
    return {"framework": name, **own[name]}


def test_same_seed_same_bytes_and_a_graph_is_captured(
    tmp_path: Path, digits: Source, framework: dict[str, object]
) -> None:
    with warnings.catch_warnings():
        # Of pydream's own warnings only: PyTorch and its libraries have others.
        warnings.filterwarnings("error", "matching runs without|pydream has no compiled kernels")
        first, images = run(tmp_path / "first", digits, **framework)
        second, again = run(tmp_path / "second", digits, **framework)  # the first graph is freed
    assert images.equal(again)
    assert first.manifest == second.manifest


def test_one_iteration_is_that_of_the_cpu(
    tmp_path: Path, digits: Source, framework: dict[str, object]
) -> None:
    settings = {
        **framework,
        **{"iterations": 1, "sampler": "random", "network_epochs": 0, "network_images": 0},
    }
    _, on_gpu = run(tmp_path / "gpu", digits, **settings)
    _, on_cpu = run(tmp_path / "cpu", digits, **{**settings, "device": "cpu"})
    torch.testing.assert_close(on_gpu, on_cpu, rtol=0.0, atol=IMAGES_ATOL)
