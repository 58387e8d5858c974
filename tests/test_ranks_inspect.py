"""An inspection that several ranks share: the numbers of one process."""

from __future__ import annotations

import json
from pathlib import Path

from rank_processes import on_ranks
from small_digits import Digits

from pydream.inspection import InspectConfig, inspect


def test_ranks_measure_what_one_process_measures(digits: Digits, digits_set: Path) -> None:
    file = digits_set / "manifest.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "factor": 2}))
    config = InspectConfig(
        set=digits_set, observer=str(digits.observer), source="digits", most_real=7
    )
    alone = inspect(config)
    assert alone.measures.random_real is not None
    for found in on_ranks(3, inspect, config):
        assert found.measures == alone.measures
        assert found.facts == alone.facts
