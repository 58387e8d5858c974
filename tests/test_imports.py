"""What can be imported where something that only a part needs is missing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]
WITHOUT_TYRO = """
import sys
sys.modules["tyro"] = None  # so its import fails
import benchmarks.cuda_ops, benchmarks.gpu_check, benchmarks.pipeline_cuda
import pydream.demo, pydream.evaluate, pydream.models, pydream.rded
config = pydream.rded.RdedConfig(source="digits", observer="x.pt")
print(config.source)
"""


def test_only_the_command_line_needs_tyro():
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TYRO], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.stdout == "digits\n", done.stderr
