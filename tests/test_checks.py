"""Checks of settings: what passes, what does not, and that the error names the setting."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path

import pytest

from pydream import checks
from pydream.errors import PydreamError
from pydream.versions import check_format


@pytest.mark.parametrize(
    "check",
    [
        lambda: checks.at_least(1, ipc=1, side=None, epochs=10**9),
        lambda: checks.above_zero(learning_rate=5e-324, other=None),
        lambda: checks.share(first=0, second=1, third=0.5, fourth=None),
        lambda: checks.between(1, 100, low=1, high=100),
        lambda: checks.seed(0),
        lambda: checks.seeds((2**63 - 1, 0)),
        lambda: checks.different(labels=("hard", "own"), none=()),
    ],
)
def test_what_is_in_range_passes(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    ("check", "message"),
    [
        (lambda: checks.at_least(1, ipc=1, side=0), "side must be at least 1, got 0"),
        (lambda: checks.at_least(0, decay=math.nan), "decay must be at least 0, got nan"),
        (lambda: checks.at_least(0, decay=math.inf), "decay must be at least 0, got inf"),
        (lambda: checks.above_zero(rate=0.0), "rate must be above 0, got 0.0"),
        (lambda: checks.above_zero(rate=math.nan), "rate must be above 0, got nan"),
        (lambda: checks.share(skipped=1.5), "skipped must be 0 to 1, got 1.5"),
        (lambda: checks.share(skipped=math.nan), "skipped must be 0 to 1, got nan"),
        (lambda: checks.between(1, 100, quality=101), "quality must be 1 to 100, got 101"),
        (lambda: checks.seed(2**63), f"seed must be 0 to 2**63 - 1, got {2**63}"),
        (lambda: checks.seeds((1, -1)), "seeds must be 0 to 2**63 - 1, got -1"),
        (lambda: checks.seeds(()), "seeds must hold at least one number"),
        (lambda: checks.seeds((3, 1, 3)), "seeds must differ, got 3 1 3"),
        (lambda: checks.different(labels=("a", "a")), "labels must differ, got a a"),
    ],
)
def test_what_is_out_of_range_is_named_with_its_value(
    check: Callable[[], None], message: str
) -> None:
    with pytest.raises(PydreamError) as raised:
        check()
    assert str(raised.value) == message


def test_a_newer_format_is_refused_and_its_own_is_not(tmp_path: Path) -> None:
    check_format(tmp_path, 2, 2)
    with pytest.raises(PydreamError, match=r"format 3 is newer than the 2 .*upgrade"):
        check_format(tmp_path, 3, 2)
