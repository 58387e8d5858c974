from __future__ import annotations

import io
import os
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from benchmarks.records import write_record
from benchmarks.timing import THREADS
from pydream.profiling import Limits, measure_limits


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Real images, kept beside the repository or where PYDREAM_DATA says."""
    repository = Path(__file__).resolve().parents[1]
    root = Path(os.environ.get("PYDREAM_DATA", repository.parent / "shared" / "data"))
    if not root.is_dir():
        pytest.skip(f"no data at {root}: set PYDREAM_DATA to a folder with the real images")
    return root


@pytest.fixture(scope="session")
def photographs(data_root: Path) -> list[torch.Tensor]:
    """Forty ImageNet photographs: uint8 (H, W, 3) each."""
    with zipfile.ZipFile(data_root / "imagenet-sample-200.zip") as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        return [
            torch.from_numpy(np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")))
            for name in sorted(names)[::5][:40]
        ]


@pytest.fixture(scope="session")
def limits() -> Limits:
    """What two threads of this machine copy and multiply, measured in this run."""
    before = torch.get_num_threads()
    torch.set_num_threads(THREADS)
    try:
        return measure_limits(torch.device("cpu"))
    finally:
        torch.set_num_threads(before)


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest, limits: Limits) -> Iterator[dict[str, Any]]:
    """Results by case; written to one file when the module's benchmarks have run."""
    results: dict[str, Any] = {}
    yield results
    if results:
        name = request.module.__name__.rpartition(".")[2].removeprefix("bench_")
        print(f"\n{write_record(name, results, limits=limits)}")
