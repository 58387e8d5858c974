"""Commands that begin at the same moment, each in a process of its own.

`python at_once.py FOLDER` reads a list of command lines from the standard input, as JSON. It
imports what they need, forks a child for each, and prints their exit statuses; what the children
say is in `FOLDER/0.txt`, `FOLDER/1.txt` and so on.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple, NoReturn

_DEADLINE = 600  # seconds
_PATIENCE = 0.2  # seconds in which the children are all forked


class Ended(NamedTuple):
    """How a command ended, and what it said on both of its streams."""

    status: int
    said: str


def at_once(commands: Sequence[Sequence[object]], folder: Path, **environment: str) -> list[Ended]:
    """Run commands of pydream at the same moment, as ``pydream ARGUMENTS`` would."""
    folder.mkdir(parents=True)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", __file__, str(folder)],
        input=json.dumps([[str(word) for word in command] for command in commands]),
        env={**os.environ, **environment},
        stdout=subprocess.PIPE, text=True, timeout=_DEADLINE, check=True,
    )  # fmt: skip
    statuses = json.loads(run.stdout)
    return [
        Ended(status, (folder / f"{number}.txt").read_text())
        for number, status in enumerate(statuses)
    ]


def _child(arguments: list[str], out: Path, begin: float) -> NoReturn:
    """Run a command at a time of the clock, and end with its status."""
    status = 1
    try:
        descriptor = os.open(out, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(descriptor, 1)
        os.dup2(descriptor, 2)
        sys.argv = ["pydream", *arguments]
        time.sleep(max(0.0, begin - time.monotonic()))
        main()
        status = 0
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


if __name__ == "__main__":
    import torch

    import pydream.evaluate
    import pydream.models
    import pydream.rded
    import pydream.sets
    from pydream.cli import main

    torch.set_num_threads(1)  # a child has not the threads of its parent
    for package in (pydream.evaluate, pydream.models, pydream.rded, pydream.sets):
        for name in package.__all__:
            getattr(package, name)  # imported when it is named
    begin = time.monotonic() + _PATIENCE
    children = []
    for number, arguments in enumerate(json.load(sys.stdin)):
        child = os.fork()
        if child == 0:
            _child(arguments, Path(sys.argv[1]) / f"{number}.txt", begin)
        children.append(child)
    ends = [os.waitpid(child, 0)[1] for child in children]
    print(json.dumps([os.waitstatus_to_exitcode(end) for end in ends]))
