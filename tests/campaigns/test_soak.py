"""Many runs in one process leave nothing in it.

docs/reliability.md says what is promised here.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from campaigns.conftest import Campaign

TESTS = Path(__file__).resolve().parents[1]
ROUNDS = 3
HOUR = 3600  # seconds
SETTLED = 10  # rounds of the long form after which nothing may grow any more
GROWTH = 0.05  # of the memory after them, as promised
# A thread of PyTorch may hold a few objects a little longer. What grows with every round is far
# beyond this within an hour.
FEW_OBJECTS = 20


def rounds(folder: Path, seconds: float, least: int) -> list[dict[str, Any]]:
    """Make rounds in a process of their own, and return what it held after each."""
    program = Path(__file__).with_name("soaking.py")
    # All of Python's warnings but those of modules that look at PyTorch's names, as `soaking` does.
    command = [sys.executable, "-W", "ignore", str(program), str(folder), str(seconds), str(least)]
    paths = os.pathsep.join((str(TESTS.parent), str(TESTS)))
    log = folder / "log"
    with log.open("w") as output:
        ended = subprocess.run(
            command, stdout=output, stderr=output, env={**os.environ, "PYTHONPATH": paths}
        )
    assert ended.returncode == 0, log.read_text()[-2000:]
    return [json.loads(line) for line in (folder / "rounds.jsonl").read_text().splitlines()]


def test_nothing_grows_from_round_to_round(tmp_path: Path, campaign: Campaign) -> None:
    found = rounds(tmp_path, float(campaign.trials(0, HOUR)), campaign.trials(ROUNDS, 2 * SETTLED))
    settled, last = found[campaign.trials(1, SETTLED - 1)], found[-1]
    growth = last["own_bytes"] / settled["own_bytes"] - 1
    assert growth <= GROWTH
    assert abs(last["objects"] - settled["objects"]) <= FEW_OBJECTS, grown(settled, last, "kinds")
    for what in ("caches", "containers"):
        assert last[what] == settled[what], grown(settled, last, what)
    for what in ("files_open", "threads", "files"):
        assert last[what] == settled[what]
    assert last["children"] == []
    campaign.passed(
        "soak",
        "rounds of `rded`, `evaluate`, `relabel`, `inspect`, `export` and `dream` in one process",
        len(found),
        growth=round(growth, 4),
        own_mebibytes=round(last["own_bytes"] / 2**20, 1),
        objects=[settled["objects"], last["objects"]],
    )


def grown(before: dict[str, Any], after: dict[str, Any], what: str) -> dict[str, tuple[int, int]]:
    """What there is another number of than before, with both numbers."""
    names = before[what].keys() | after[what].keys()
    both = {name: (before[what].get(name, 0), after[what].get(name, 0)) for name in names}
    return {name: (was, now) for name, (was, now) in both.items() if was != now}
