"""The check of a machine with a GPU: what it does with steps that fail, hang or come too late."""

from __future__ import annotations

import importlib
import subprocess
import sys
import time
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
# Starts a process that would outlive it, says which, and hangs.
HANGS = """
import subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print(child.pid, flush=True)
time.sleep(600)
"""


@pytest.fixture
def check(monkeypatch):
    monkeypatch.syspath_prepend(REPOSITORY)
    return importlib.import_module("benchmarks.gpu_check")


def python(check, code, limit=60.0, name="step", **environment):
    return check.Step(name, [sys.executable, "-c", code], limit, environment)


def is_running(process: int) -> bool:
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def test_steps_that_fail_stop_no_other(check, capsys):
    planned = [
        python(check, "raise SystemExit(3)", name="first"),
        python(check, "import os; print(os.environ['COLOUR'])", name="second", COLOUR="green"),
    ]
    results = check.run_all(planned, time.monotonic() + 60)
    assert [result["outcome"] for result in results.values()] == ["failed (3)", "passed"]
    assert results["second"]["last_lines"] == ["green"]
    check.show(results, None)
    assert "give --data" in capsys.readouterr().out


def test_a_step_is_stopped_with_all_that_it_started(check):
    result = check.run(python(check, HANGS, limit=3.0))
    assert result["outcome"] == "stopped after 3 s"
    child = int(result["last_lines"][0])
    for _ in range(100):
        if not is_running(child):
            break
        time.sleep(0.1)
    assert not is_running(child)


def test_no_step_goes_beyond_the_deadline(check):
    planned = [python(check, HANGS, name="hangs"), python(check, "", name="late")]
    results = check.run_all(planned, time.monotonic() + 2)
    assert results["hangs"]["outcome"].startswith("stopped after ")
    assert results["late"]["outcome"] == "no time left"


@pytest.mark.parametrize("found", ["65.5.0", None])
def test_setuptools_too_old_is_a_failed_step_with_advice(check, monkeypatch, capsys, found):
    def version(name):
        if found is None:
            raise check.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(check, "version", version)
    results = check.check_setuptools()
    assert results["setuptools"]["outcome"] == "failed"
    check.show(results, None)
    assert "install that" in capsys.readouterr().out
    monkeypatch.setattr(check, "version", lambda name: "77.0.1")
    assert check.check_setuptools() == {}


def test_photographs_are_found_as_the_tests_find_them(check, monkeypatch, tmp_path):
    monkeypatch.setattr(check, "BESIDE", tmp_path / "beside")
    assert check.find_photographs(None) is None
    (tmp_path / "beside").mkdir()
    (tmp_path / "beside" / check.SAMPLE).touch()
    assert check.find_photographs(None) == (tmp_path / "beside").resolve()
    assert check.find_photographs(tmp_path) is None
    names = [step.name for step in check.steps(tmp_path, tmp_path)]
    assert "RDED whole" in names
    assert "RDED whole" not in [step.name for step in check.steps(tmp_path, None)]


def test_every_test_that_is_named_is_there(check):
    commands = [part for step in check.steps(Path(), None) for part in step.command]
    named = [part for part in commands if part.startswith("tests/")]
    assert "tests/rded/test_on_gpu.py" in named
    assert all((REPOSITORY / part).exists() for part in named)


def test_a_record_is_replaced_by_a_fuller_one(check, tmp_path):
    code = (
        "import sys; from pathlib import Path; from benchmarks.records import write_record as w\n"
        "folder = Path(sys.argv[1])\n"
        "first = w('x', {'a': 1}, folder)\n"
        "assert w('x', {'a': 1, 'b': 2}, folder, over=first) == first\n"
        "assert w('x', {}, folder) != first\n"
        "print(first.read_text())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
    )
    assert '"b": 2' in done.stdout, done.stderr
    assert len(list(tmp_path.rglob("*.json"))) == len(list(tmp_path.rglob("*.*"))) == 2
