"""Campaigns: many trials of one promise.

`make test` makes a few trials of each, and `make campaigns` all of them, with their records.
"""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from benchmarks.records import RESULTS, GrowingRecord


@dataclass
class Campaign:
    """What a test needs to know of the campaign that it is a part of.

    Attributes
    ----------
    long
        Whether all trials are made, and counted in the record.
    folder
        Where records are written.
    """

    long: bool
    folder: Path
    _records: dict[str, GrowingRecord] = field(default_factory=dict)
    _begun: float = 0.0

    def begin(self) -> None:
        """Measure the time of a part from now on."""
        self._begun = time.perf_counter()

    def trials(self, few: int, all_of_them: int) -> int:
        """Return the number of trials to make."""
        return all_of_them if self.long else few

    def passed(self, campaign: str, part: str, trials: int, **facts: object) -> None:
        """Record that all trials of a part have kept the promise; to be called last in a test.

        Parameters
        ----------
        campaign
            Name of the campaign: its record is ``campaign-<name>``.
        part
            What was tried, as a row of the table in docs/reliability.md says it.
        trials
            Number of trials.
        **facts
            What else the record says of the part, as JSON.
        """
        if self.long:
            name = f"campaign-{campaign}"
            record = self._records.setdefault(name, GrowingRecord(name, self.folder))
            seconds = round(time.perf_counter() - self._begun, 1)
            record.add(part, {"trials": trials, "seconds": seconds, **facts})


@pytest.fixture(scope="session")
def _campaigns(request: pytest.FixtureRequest) -> Campaign:
    folder = Path(request.config.getoption("--records") or RESULTS)
    return Campaign(bool(request.config.getoption("--long")), folder)


@pytest.fixture
def campaign(_campaigns: Campaign) -> Campaign:
    """The campaign of this run of the tests."""
    _campaigns.begin()
    return _campaigns
