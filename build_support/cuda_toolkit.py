"""Finds nvcc and what to compile for; for setup.py and for the build backend beside this."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import environment

# Where no GPU says better: A100, H100 and H200, and PTX for what comes after them.
DEFAULT_ARCHITECTURES = "80-real;90"

# The wheels that together are a compiler: nvcc and its parts, the headers, the static runtime.
WHEELS = ("nvidia-cuda-nvcc>=13", "nvidia-cuda-runtime>=13", "nvidia-cuda-cccl>=13")


def mode() -> str:
    """Return PYDREAM_CUDA: auto, on or off."""
    return environment.choice("PYDREAM_CUDA", "auto", "on", "off")


def find_nvcc() -> Path | None:
    """Look for nvcc on PATH, in CUDA_HOME or CUDA_PATH, and among the installed wheels."""
    found = shutil.which("nvcc")
    if found is not None:
        return Path(found)
    for variable in ("CUDA_HOME", "CUDA_PATH"):
        candidate = Path(os.environ.get(variable, "")) / "bin" / "nvcc"
        if variable in os.environ and candidate.is_file():
            return candidate
    for place in sys.path:  # under build isolation not where sysconfig says
        for wheel in sorted(Path(place).glob("nvidia/*/bin/nvcc")):
            return wheel
    return None


def architectures() -> str:
    """Return CMake's list: PYDREAM_CUDA_ARCHS, or those of this machine's GPUs, or the default."""
    given = os.environ.get("PYDREAM_CUDA_ARCHS")
    if given:
        return given.replace(",", ";").replace(" ", ";").replace(".", "")
    try:
        answer = subprocess.run(
            ["nvidia-smi", "--query-gpu=compute_cap", "--format=csv,noheader"],
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        ).stdout
    except (OSError, subprocess.SubprocessError):
        return DEFAULT_ARCHITECTURES
    here = sorted({line.strip().replace(".", "") for line in answer.splitlines() if line.strip()})
    return (
        ";".join(f"{architecture}-real" for architecture in here if architecture.isdigit())
        or DEFAULT_ARCHITECTURES
    )
