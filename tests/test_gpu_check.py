"""The check of a machine with a GPU: its steps, and what it does when they fail, hang or lack."""

from __future__ import annotations

import importlib
import json
import re
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
CALL = 9 * 60  # seconds for a part of the steps
AROUND = 30  # of them for what is around the steps: imports of torch, records, a step to be ended
# Starts a process that would outlive it, says which, and hangs.
HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def gpu_check(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("benchmarks.gpu_check")


@pytest.fixture
def gpu_steps(gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The steps on a machine with a sanitizer, and without any data."""
    module = importlib.import_module("benchmarks.gpu_steps")
    monkeypatch.setattr(module, "BESIDE", tmp_path / "beside")
    monkeypatch.setattr(module, "REPOSITORY", tmp_path / "checkout")
    monkeypatch.setattr(module.shutil, "which", lambda name: f"/usr/bin/{name}")
    return module


def python(
    gpu_check: ModuleType, code: str, limit: float = 60.0, name: str = "step", **more: Any
) -> Any:
    return gpu_check.Step(name, "tries", [sys.executable, "-c", code], limit, **more)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def ends(process: int) -> bool:
    """Return whether a process that was killed ends, which takes it a turn of the scheduler."""
    for _ in range(100):
        if not is_running(process):
            return True
        time.sleep(0.1)
    return False


def test_steps_that_fail_or_lack_something_stop_no_other(
    gpu_check: ModuleType, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    colour = "import os; print(os.environ['COLOUR'])"
    planned = [
        python(
            gpu_check,
            "import sys; sys.stdout.buffer.write(b'\\xff'); raise SystemExit(3)",
            name="a",
        ),
        python(gpu_check, "", name="b", missing="no abacus"),
        python(gpu_check, colour, name="c", environment={"COLOUR": "green"}),
        python(gpu_check, colour, name="d", environment={"COLOUR": "green"}),
        python(gpu_check, colour, name="e", environment={"COLOUR": "red"}),
        python(
            gpu_check, "print('test_crop.py::x PASSED')", name="f", shows=(r"crop\.py::\S+ PASSED",)
        ),
        python(gpu_check, "", name="g", shows=(r"crop\.py::\S+ PASSED",)),
        python(gpu_check, "0", name="h", record="cuda-ops"),
    ]
    results = dict(gpu_check.run_all(planned, tmp_path))
    assert [result["outcome"] for result in results.values()] == [
        "failed (3)",
        "left out: no abacus",
        "passed",
        "left out: as c",
        "passed",
        "passed",
        r"incomplete: no crop\.py::\S+ PASSED",
        "incomplete: no record cuda-ops",
    ]
    assert results["e"]["last_lines"] == ["red"]
    assert (tmp_path / "e.log").read_text() == "red\n"
    gpu_check.show(results)
    assert re.search(r"b +0.0 s   left out: no abacus", capsys.readouterr().out)


def test_a_log_is_whole_and_an_earlier_one_is_kept(gpu_check: ModuleType, tmp_path: Path) -> None:
    count = "for number in range(500): print(number)"
    first = gpu_check.run(python(gpu_check, count), tmp_path)
    second = gpu_check.run(python(gpu_check, "print('again')"), tmp_path)
    assert (tmp_path / first["log"]).read_text().split() == [str(number) for number in range(500)]
    assert (first["log"], second["log"]) == ("step.log", "step-2.log")
    assert first["last_lines"][-1] == "499"


def test_a_step_is_stopped_with_all_that_it_started_and_its_output_is_kept(
    gpu_check: ModuleType, tmp_path: Path
) -> None:
    result = gpu_check.run(python(gpu_check, HANGS, limit=3.0), tmp_path)
    assert result["outcome"] == "stopped after 3 s"
    child = int((tmp_path / "step.log").read_text())
    assert ends(child)


def test_a_check_that_is_stopped_shows_its_table_and_records_the_step(
    gpu_check: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    planned = [
        python(gpu_check, "1", name="before"),
        python(gpu_check, HANGS, name="hangs"),
        python(gpu_check, "2", name="after"),
    ]
    begun: list[str] = []

    class Popen(subprocess.Popen[str]):
        def wait(self, timeout: float | None = None) -> int:
            if timeout is not None and (tmp_path / "hangs.log").exists():
                while not begun:
                    begun.extend((tmp_path / "hangs.log").read_text().split("\n")[:-1])
                    time.sleep(0.05)
                for _ in range(2):  # as by `timeout` and by `make`
                    signal.raise_signal(signal.SIGTERM)
            return super().wait(timeout)

    monkeypatch.setattr(gpu_check.subprocess, "Popen", Popen)
    monkeypatch.setattr(gpu_check, "version", lambda name: "77.0.1")
    default = signal.signal(signal.SIGTERM, gpu_check._stop)
    try:
        with pytest.raises(SystemExit, match="what was measured until now is in the record"):
            gpu_check.check(planned, tmp_path, on_gpu=False)
    finally:
        signal.signal(signal.SIGTERM, default)
    outcomes = {"before": "passed", "hangs": gpu_check.STOPPED}
    (file,) = tmp_path.glob("*/*-gpu-check.json")
    results = json.loads(file.read_text())["results"]
    assert {name: result["outcome"] for name, result in results.items()} == outcomes
    table = capsys.readouterr().out.partition("=== outcome")[2]
    assert re.search(rf"hangs .*{gpu_check.STOPPED}", table)
    assert "after" not in table
    assert ends(int(begun[0]))


@pytest.mark.parametrize("there", [True, False])
def test_steps_without_a_build_need_the_module(
    gpu_check: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, there: bool
) -> None:
    (tmp_path / "pydream").mkdir()
    if there:
        (tmp_path / "pydream" / "_C.cpython-311-abacus.so").touch()
    monkeypatch.setattr(gpu_check, "REPOSITORY", tmp_path)
    gpu_check._need_module([python(gpu_check, "0", name="build")])
    if there:
        gpu_check._need_module([python(gpu_check, "0")])
        return
    with pytest.raises(SystemExit, match="no compiled module in pydream/"):
        gpu_check._need_module([python(gpu_check, "0")])


def test_the_record_is_there_before_the_next_step_begins(
    gpu_check: ModuleType, tmp_path: Path
) -> None:
    # The second fails unless the record has the first.
    look = (
        "import json, pathlib; "
        f"file, = pathlib.Path({str(tmp_path)!r}).glob('*/*-gpu-check.json'); "
        "assert list(json.loads(file.read_text())['results']) == ['metadata', 'build']"
    )
    planned = [
        python(gpu_check, "0", name="metadata"),
        python(gpu_check, "1", name="build"),
        python(gpu_check, look, name="look"),
    ]
    results = gpu_check.check(planned, tmp_path, on_gpu=False)
    assert {
        name: result["outcome"] for name, result in results.items() if name != "setuptools"
    } == {
        "metadata": "passed",
        "build": "passed",
        "look": "passed",
    }
    (file,) = tmp_path.glob("*/*.json")
    assert list(json.loads(file.read_text())["results"]) == list(results)


@pytest.mark.parametrize("found", ["65.5.0", None])
def test_setuptools_too_old_is_a_failed_step_with_advice(
    gpu_check: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    found: str | None,
) -> None:
    def version(name: str) -> str:
        if found is None:
            raise gpu_check.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(gpu_check, "version", version)
    results = gpu_check.check_setuptools()
    assert results["setuptools"]["outcome"] == "failed"
    gpu_check.show(results)
    assert "install that" in capsys.readouterr().out
    monkeypatch.setattr(gpu_check, "version", lambda name: "77.0.1")
    assert gpu_check.check_setuptools() == {}


def test_each_file_of_data_is_looked_for_by_itself(gpu_steps: ModuleType, tmp_path: Path) -> None:
    given, inside, beside = tmp_path / "given", gpu_steps.REPOSITORY / "data", gpu_steps.BESIDE
    for folder in (given, inside, beside):
        folder.mkdir(parents=True)

    def missing() -> dict[str, str]:
        return {step.name: step.missing for step in gpu_steps.steps(tmp_path, given)}

    assert missing()["rded"].startswith(f"no {gpu_steps.SAMPLE}")
    assert missing()["dream"].startswith(f"no {gpu_steps.CIFAR}")
    (beside / gpu_steps.SAMPLE).touch()
    (inside / gpu_steps.CIFAR).touch()
    assert set(missing().values()) == {None}
    assert gpu_steps.find_folder(gpu_steps.SAMPLE, given) == beside.resolve()
    assert gpu_steps.find_folder(gpu_steps.CIFAR, None) == inside.resolve()
    (given / gpu_steps.SAMPLE).touch()
    assert gpu_steps.find_folder(gpu_steps.SAMPLE, given) == given.resolve()


def test_steps_are_chosen_by_name_or_by_part(gpu_steps: ModuleType, tmp_path: Path) -> None:
    planned = gpu_steps.steps(tmp_path, None)
    names = [step.name for step in planned]
    assert gpu_steps.chosen(planned, []) == planned
    assert [step.name for step in gpu_steps.chosen(planned, ["rded", "ops"])] == ["ops", "rded"]
    parts = [{step.name for step in gpu_steps.chosen(planned, [part])} for part in gpu_steps.PARTS]
    assert set.union(*parts) == set(names)
    assert set.intersection(*parts) == {"metadata"}
    assert sum(map(len, parts)) == len(names) + 3  # no other step is in two parts
    rebuilt = [step.name for step in gpu_steps.chosen(planned, ["second", "build"])]
    assert rebuilt[:3] == ["metadata", "build", "memcheck"]
    with pytest.raises(
        ValueError, match="no step abacus; there are first, second, matching, frameworks"
    ):
        gpu_steps.chosen(planned, ["ops", "abacus"])


def test_each_part_fits_into_a_call_and_sanitizers_come_before_pipelines(
    gpu_steps: ModuleType, tmp_path: Path
) -> None:
    planned = gpu_steps.steps(tmp_path, None)
    parts = {part: gpu_steps.chosen(planned, [part]) for part in gpu_steps.PARTS}
    for of_part in parts.values():
        assert sum(step.limit for step in of_part) + AROUND <= CALL
    names = [step.name for step in parts["second"]]
    assert names[-2:] == ["rded", "dream"]
    assert set(gpu_steps.SANITIZERS) < set(names)


def test_sanitizers_see_every_tensor_and_every_family_of_kernels(
    gpu_steps: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = {step.name: step for step in gpu_steps.steps(tmp_path, None)}
    for tool in gpu_steps.SANITIZERS:
        command = planned[tool].command
        assert command[:3] == ["/usr/bin/compute-sanitizer", "--tool", tool]
        assert planned[tool].environment["PYTORCH_NO_CUDA_MEMORY_CACHING"] == "1"
        assert "-n" not in command
    compiled = {file.parent.name for file in REPOSITORY.glob("csrc/*/*_cuda.cu")} - {"common"}
    assert {family.removeprefix("multi_") for family in gpu_steps.FAMILIES} == compiled
    words = gpu_steps.FEW.split(" or ")
    for family in gpu_steps.FAMILIES:
        names = re.findall(
            r"def (test_\w+)", (REPOSITORY / f"tests/ops/test_{family}.py").read_text()
        )
        assert any(word in name for word in words for name in names), family
    monkeypatch.setattr(gpu_steps.shutil, "which", lambda name: None)
    planned = {step.name: step for step in gpu_steps.steps(tmp_path, None)}
    assert planned["memcheck"].missing == "compute-sanitizer is not installed"


def test_every_file_that_is_named_is_there(gpu_steps: ModuleType) -> None:
    for rehearse in (False, True):
        for step in gpu_steps.steps(Path(), None, rehearse=rehearse):
            for part in step.command:
                if part.startswith("tests/"):
                    assert (REPOSITORY / part).exists()
                if part.startswith("benchmarks."):
                    assert (REPOSITORY / f"{part.replace('.', '/')}.py").is_file()


def test_a_rehearsal_has_every_step_on_the_cpu(gpu_steps: ModuleType, tmp_path: Path) -> None:
    gpu_steps.make_data(tmp_path / "data")
    with zipfile.ZipFile(tmp_path / "data" / gpu_steps.CIFAR) as archive:
        assert archive.testzip() is None
    real = gpu_steps.steps(tmp_path, tmp_path / "data")
    rehearsed = gpu_steps.steps(tmp_path, tmp_path / "data", rehearse=True)
    assert [step.name for step in rehearsed] == [step.name for step in real]
    assert {step.missing for step in rehearsed} == {None}
    for step, on_gpu in zip(rehearsed, real, strict=True):
        assert ("cuda" in on_gpu.command) == ("cpu" in step.command)
        assert step.record == on_gpu.record
    few = {tuple(step.command) for step in rehearsed if step.name in gpu_steps.SANITIZERS}
    assert len(few) == 1  # the tests that run under a sanitizer, once and without it
    memcheck = next(step for step in real if step.name == "memcheck")
    assert tuple(memcheck.command[-len(next(iter(few))) :]) == next(iter(few))


def test_the_list_needs_neither_torch_nor_a_gpu(gpu_check: ModuleType) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.argv = ['gpu_check', '--list'];"
        "from benchmarks.gpu_check import main; main()"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert "memcheck" in done.stdout
