"""What a log shows of a run; the clock is played."""

from __future__ import annotations

import itertools

import pytest

from pydream.progress import track


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Play the time: its one number is what the clock says."""
    now = [100.0]
    monkeypatch.setattr("pydream.progress.time.monotonic", lambda: now[0])
    return now


def test_a_log_gets_a_line_for_each_tenth_with_rate_and_time_left(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with track("training", 200, "steps") as advance:
        for step in range(200):
            clock[0] += 0.5
            advance(1, f"loss {step}" if step % 50 == 49 else "")
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    assert lines[0] == "training: 20 of 200 steps, 2.0 steps/s, 0:01:30 left"
    assert lines[4] == "training: 100 of 200 steps, 2.0 steps/s, 0:00:50 left, loss 99"
    assert lines[-1] == "training: 200 of 200 steps, 2.0 steps/s, 0:01:40 taken, loss 199"


def test_a_long_run_gets_a_line_every_half_minute(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with track("matching", 1000, "iterations") as advance:
        for _ in range(60):
            clock[0] += 7
            advance(1)
        before_the_end = capsys.readouterr().err.splitlines()
    assert len(before_the_end) == 60 * 7 // 35  # the first multiple of 7 above 30
    assert before_the_end[0] == "matching: 5 of 1,000 iterations, 7.0 s each, 1:56:05 left"


def test_a_short_run_gets_one_line_and_what_was_done_before_does_not_count_as_fast(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with track("matching", 1000, "iterations", done=900) as advance:
        for _ in range(100):
            clock[0] += 0.005
            advance(1)
    assert capsys.readouterr().err == (
        "matching: 1,000 of 1,000 iterations, 200.0 iterations/s, 0:00:00 taken\n"
    )


def test_a_run_that_fails_says_nothing_of_its_end(
    clock: list[float], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match="no more"), track("training", 3, "steps"):
        raise ValueError("no more")
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(("total", "parts"), [(0, []), (0, [2]), (1, [1]), (7, [3, 4]), (3, [5])])
def test_any_total_is_counted(
    clock: list[float], capsys: pytest.CaptureFixture[str], total: int, parts: list[int]
) -> None:
    with track("reading", total, "images") as advance:
        for part in parts:
            advance(part)
    counted = list(itertools.accumulate(parts))[-1:] or [0]
    assert capsys.readouterr().err.startswith(f"reading: {counted[0]} of {total} images")


def test_a_terminal_gets_a_bar(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    with track("reading", 3, "images", done=1) as advance:
        advance(2, "a note")
        advance(0)
    assert "reading:" not in capsys.readouterr().err
