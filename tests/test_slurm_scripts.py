"""The scripts of docs/scale.md, run as they stand, by stand-ins for Slurm's commands and Python.

There is no cluster here: a stand-in sets the variables that Slurm sets, and starts the tasks. What
a script starts as Python is noted, and then done by processes that have loaded PyTorch already.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest
from rank_processes import in_processes, run_command_there
from rded_runs import hashes, settings, write_pictures

from pydream.models import ObserverConfig, train_observer
from pydream.rded import distill

DOCS = Path(__file__).parents[1] / "docs" / "scale.md"
LIMIT = 300  # seconds for a script
TASKS = 2
# As srun does: all tasks at once, each with its number; the step fails if one does.
SRUN = f"""#!/bin/bash
[ "$1" = --kill-on-bad-exit=1 ] && shift
export SLURM_NTASKS={TASKS} SLURM_STEP_ID=0 SLURM_STEP_NODELIST=localhost SLURM_JOB_ID=$RANDOM
pids=
for number in $(seq 0 {TASKS - 1}); do
    SLURM_PROCID=$number SLURM_LOCALID=$number "$@" &
    pids="$pids $!"
done
for pid in $pids; do wait $pid || exit 1; done
"""
PYTHON = """#!/bin/bash
env | grep ^SLURM_ > started/$$.variables
printf '%s\\n' "$@" > started/$$.words
"""


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the files that the scripts name."""
    folder = tmp_path_factory.mktemp("job")
    write_pictures(folder / "imagenet")
    train_observer(
        ObserverConfig(
            str(folder / "imagenet"),
            arch="convnet2-w8",
            side=32,
            epochs=8,
            out=folder / "resnet18.safetensors",
            device="cpu",
        )
    )
    return folder


def scripts() -> list[str]:
    return re.findall(r"```sh\n(#!/bin/bash\n.*?)```", DOCS.read_text(), re.DOTALL)


def run(script: str, work: Path, **variables: str) -> None:
    commands, started = work / "bin", work / "started"
    for folder in (commands, started):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for name, content in (("srun", SRUN), ("python", PYTHON)):
        (commands / name).write_text(content)
        (commands / name).chmod(0o755)
    done = subprocess.run(
        ["bash", "-c", script],
        cwd=work,
        env={**os.environ, "PATH": f"{commands}:{os.environ['PATH']}", **variables},
        capture_output=True,
        text=True,
        timeout=LIMIT,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    variables_of_each, words_of_each = [], []
    for file in started.glob("*.words"):
        lines = file.with_suffix(".variables").read_text().splitlines()
        variables_of_each.append(dict(line.split("=", 1) for line in lines))
        words_of_each.append(file.read_text().splitlines())
    first = words_of_each[0]
    assert all(words == first for words in words_of_each)  # of one command by several tasks
    assert first[:2] == ["-m", "pydream"]
    for status, _, errors in in_processes(variables_of_each, run_command_there, work, *first[2:]):
        assert status == 0, errors


def test_both_scripts_make_the_set_of_one_process(work: Path) -> None:
    step, array = scripts()
    observer = work / "resnet18.safetensors"

    def images(path: Path) -> dict[str, str]:
        """All but what has the name of the source, which is another from another folder."""
        named = ("manifest.json", "report.html")
        return {file: own for file, own in hashes(path).items() if file not in named}

    plain = settings(work / "imagenet", observer, work / "whole", device="cpu", ipc=10, factor=1)
    whole = distill(plain).path
    run(step, work)
    assert images(work / "distilled") == images(whole)
    shutil.rmtree(work / "distilled")
    for number in range(TASKS):
        assert not (work / "distilled").exists()
        run(
            array,
            work,
            SLURM_ARRAY_TASK_ID=str(number),
            SLURM_ARRAY_TASK_COUNT=str(TASKS),
            SLURM_ARRAY_TASK_MIN="0",
        )
    assert images(work / "distilled") == images(whole)
    assert json.loads((work / "distilled" / "manifest.json").read_text())["method"] == "rded"
