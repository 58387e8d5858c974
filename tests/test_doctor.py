from __future__ import annotations

import importlib
import inspect
import json
import os
import subprocess
import sys
from importlib.metadata import PackageNotFoundError
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

import pydream
from pydream import _C, doctor, memory_limits, ops
from pydream.doctor import Diagnosis, diagnose, render_diagnosis


def shown(diagnosis: Diagnosis) -> str:
    console = Console(width=300)
    with console.capture() as capture:
        console.print(render_diagnosis(diagnosis))
    return capture.get()


def test_a_working_installation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYDREAM_DATA", raising=False)
    diagnosis = diagnose()
    facts = json.loads(json.dumps(diagnosis.as_json()))
    assert facts["versions"]["pydream-distill"] == pydream.__version__
    assert facts["versions"]["numpy"] == np.__version__
    assert facts["versions"]["python"] == sys.version.split()[0]
    assert facts["module"]["path"] == _C.__file__
    assert facts["module"]["active"] == _C.active_isa()
    assert facts["module"]["available"] == _C.available_isas()
    assert facts["threads"]["torch"] == torch.get_num_threads()
    assert facts["threads"]["machine"] == os.cpu_count()
    assert facts["cuda"]["torch_built_for"] == torch.version.cuda
    assert len(facts["cuda"]["devices"]) == torch.cuda.device_count()
    assert facts["cuda"]["architectures"] == (_C.cuda_architectures or None)
    assert facts["problems"] == []
    text = shown(diagnosis)
    for words in (_C.compiler, _C.active_isa(), pydream.__version__, "collage"):
        assert words in text


def test_every_op_is_listed(isa: str) -> None:
    found = diagnose().ops
    functions = {name for name in ops.__all__ if inspect.isfunction(getattr(ops, name))}
    functions.remove("check_values")
    assert set(found) == functions
    assert all(runs["cpu"] == f"compiled ({isa})" for runs in found.values())
    for drawn in ("random_augment", "random_crop_boxes", "random_keys"):
        assert found[drawn]["cuda"] == f"compiled ({isa})"


@pytest.mark.parametrize("missing", ["pydream._C", "torch", "pydream.ops"])
def test_what_cannot_be_imported_is_a_problem(
    monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    real = importlib.import_module

    def failing(name: str) -> Any:
        if name == missing:
            raise OSError("undefined symbol: _ZN3c10")
        return real(name)

    monkeypatch.setattr(importlib, "import_module", failing)
    diagnosis = diagnose()
    assert f"{missing} cannot be imported: undefined symbol: _ZN3c10" in diagnosis.problems
    assert "undefined symbol" in shown(diagnosis)


def test_a_missing_package_is_a_problem_unless_optional(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(doctor, "version", no_version)
    diagnosis = diagnose()
    assert "torchvision is not installed" in diagnosis.problems
    assert not any("timm" in problem for problem in diagnosis.problems)
    assert "timm not installed" in shown(diagnosis)


def test_an_unknown_instruction_set_and_data_folder_are_problems(tmp_path: Path) -> None:
    command = "import json, pydream.doctor as d; print(json.dumps(d.diagnose().as_json()))"
    environment = {"PYDREAM_ISA": "mmx", "PYDREAM_DATA": str(tmp_path / "nowhere")}
    done = subprocess.run(
        [sys.executable, "-c", command],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=True,
    )
    facts = json.loads(done.stdout)
    assert facts["module"]["active"] is None
    assert set(facts["environment"].items()) >= set(environment.items())
    assert any("'mmx' is not available here" in problem for problem in facts["problems"])
    assert any("nowhere" in problem for problem in facts["problems"])
    assert {runs["cpu"] for runs in facts["ops"].values()} == {"not usable"}


def test_the_least_memory_limit_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    limits = {"": "max", "slice": "3000000", "slice/job": "max", "memory/old": "2000000"}
    for group, limit in limits.items():
        folder = tmp_path / group
        folder.mkdir(parents=True, exist_ok=True)
        old = group.startswith("memory")
        (folder / ("memory.limit_in_bytes" if old else "memory.max")).write_text(limit + "\n")
    monkeypatch.setattr(memory_limits, "_CGROUPS", tmp_path)
    monkeypatch.setattr("pydream.memory_limits.resource.getrlimit", lambda which: (-1, -1))

    def groups(lines: str) -> None:
        file = tmp_path / "self"
        file.write_text(lines)
        monkeypatch.setattr(memory_limits, "_OWN_GROUPS", file)

    groups("0::/slice/job\n")
    assert diagnose().memory.limit == 3000000
    groups("4:cpu,memory:/old\n0::/slice/job\n")
    assert diagnose().memory.limit == 2000000
    groups("0::/\n1:cpu:/slice\n")
    assert diagnose().memory.limit is None
