"""Errors of the CUDA runtime, thrown or told, are not left for the next launch."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
COMPILER = shutil.which("c++")
WRONG = "invalid device ordinal"


@pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")
def test_no_failing_call_leaves_its_error_for_the_next_launch(tmp_path: Path) -> None:
    program = tmp_path / "guard_errors"
    includes = [f"-I{HERE / 'include'}", f"-I{HERE.parents[1] / 'csrc'}"]
    source = HERE / "guard_errors.cpp"
    subprocess.run(
        [str(COMPILER), "-std=c++17", *includes, str(source), "-o", str(program)], check=True
    )
    run = subprocess.run([program], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines() == [
        f"call: {WRONG}, device 0, left: no error",
        "question: none, device 0, left: no error",
        f"cudaSetDevice: {WRONG}, device 0, left: no error",
        "other device: none, device 0, left: no error",
        "device that goes: none, device 1, left: no error",
    ]
