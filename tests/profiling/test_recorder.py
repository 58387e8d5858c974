from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from pydream import timeline as timeline_module
from pydream.profiling import recorder as recorder_module
from pydream.profiling.limits import Limits, measure_limits
from pydream.profiling.recorder import Recorder
from pydream.timeline import Stopwatch, each_in_stage, recording, stage

SECONDS = 0.5  # what a stage takes on a clock that only the tests move


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Move the clock of recorders and stopwatches on: a busy machine moves no such clock."""
    now = 0.0

    def advance(seconds: float) -> None:
        nonlocal now
        now += seconds

    clock = SimpleNamespace(perf_counter=lambda: now)
    monkeypatch.setattr(recorder_module, "time", clock)
    monkeypatch.setattr(timeline_module, "time", clock)
    return advance


def test_without_a_recorder_nothing_is_kept() -> None:
    with stage("alone", nbytes=3):
        assert list(each_in_stage("more", range(3))) == [0, 1, 2]


def test_stages_lie_within_each_other(pass_time: Callable[[float], None]) -> None:
    recorder = Recorder()
    with recording(recorder):
        for _ in range(2):
            with stage("outer", nbytes=100):
                pass_time(SECONDS)
                with stage("inner", nbytes=7):
                    pass_time(SECONDS)
        with stage("inner"):
            pass
    with stage("later"):
        pass
    recorder.finish()
    assert list(recorder.totals) == ["outer", "outer / inner", "inner"]
    outer, inner, other = recorder.totals.values()
    assert (outer.calls, inner.calls, other.calls) == (2, 2, 1)
    assert (outer.nbytes, inner.nbytes, other.nbytes) == (200, 14, 0)
    assert (outer.seconds, inner.seconds, other.seconds) == (4 * SECONDS, 2 * SECONDS, 0)


def test_the_making_of_items_is_a_stage_and_their_use_is_not(
    pass_time: Callable[[float], None],
) -> None:
    def made() -> Iterator[int]:
        for number in range(3):
            with stage("part"):
                pass_time(SECONDS)
            yield number

    recorder = Recorder()
    with recording(recorder):
        for _ in each_in_stage("made", made()):
            with stage("used"):
                pass_time(2 * SECONDS)
    assert list(recorder.totals) == ["made", "made / part", "used"]
    assert recorder.totals["made"].calls == 4  # the last finds no more
    assert recorder.totals["made"].seconds == 3 * SECONDS
    assert recorder.totals["used"].seconds == 6 * SECONDS


def test_threads_have_stages_of_their_own() -> None:
    recorder = Recorder()
    together = threading.Barrier(2)

    def work() -> None:
        with stage("worker"):
            together.wait()

    with recording(recorder), stage("main"):
        threads = [threading.Thread(target=work) for _ in range(2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert list(recorder.totals) == ["main", "worker"]
    assert len(recorder.totals["worker"].threads) == 2


def test_a_stage_that_fails_is_counted() -> None:
    recorder = Recorder()
    with recording(recorder):
        with pytest.raises(ValueError, match="bad"), stage("outer"), stage("inner"):
            raise ValueError("bad")
        with stage("next"):
            pass
    assert list(recorder.totals) == ["outer", "outer / inner", "next"]
    assert all(total.calls == 1 for total in recorder.totals.values())


def test_a_stopwatchs_stages_are_stages(pass_time: Callable[[float], None]) -> None:
    recorder, watch = Recorder(), Stopwatch()
    with recording(recorder), watch("watched", nbytes=5):
        pass_time(SECONDS)
    assert recorder.totals["watched"].nbytes == 5
    assert watch.seconds["watched"] == SECONDS


def test_ranges_for_nvtx(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[str] = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda.nvtx, "range_push", seen.append)
    monkeypatch.setattr(torch.cuda.nvtx, "range_pop", lambda: seen.append("pop"))
    with stage("silent"):
        pass
    monkeypatch.setenv("PYDREAM_NVTX", "1")
    with stage("a"), pytest.raises(ValueError, match="bad"), stage("b"):
        raise ValueError("bad")
    assert seen == ["a", "b", "pop", "pop"]


def test_operations_are_those_that_torch_counts() -> None:
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 8, 3, padding=1, stride=2),
        torch.nn.ReLU(),
        torch.nn.Conv2d(8, 12, 3, groups=4, dilation=2, bias=False),
        torch.nn.ConvTranspose2d(12, 5, 2, stride=2),
        torch.nn.Flatten(),
        torch.nn.Linear(5 * 14 * 14, 11),
    )
    images = torch.rand(3, 3, 22, 22)
    queries = torch.rand(2, 3, 9, 16, requires_grad=True)

    def forward() -> torch.Tensor:
        total: torch.Tensor = model(images).sum()
        return total

    def attention() -> torch.Tensor:
        attended = torch.nn.functional.scaled_dot_product_attention(queries, queries, queries)
        return attended.sum() + torch.bmm(queries[0], queries[1].mT).sum()

    def counted(work: Callable[[], torch.Tensor]) -> tuple[int, torch.Tensor]:
        with FlopCounterMode(display=False) as counter:
            result = work()
        return counter.get_total_flops(), result

    recorder = Recorder()
    with recording(recorder):
        torch.mm(images[0, 0], images[0, 1])  # within no stage
        with stage("forward"):
            loss = forward()
            with stage("attention"):
                loss = loss + attention()
        with stage("backward"):
            loss.backward()
        with stage("inference"), torch.inference_mode():
            forward()
    assert not recorder.uncounted
    own, loss = counted(forward)
    attended, more = counted(attention)
    backward, _ = counted(lambda: (loss + more).backward())
    assert {path: total.operations for path, total in recorder.totals.items()} == {
        "forward": own,
        "forward / attention": attended,
        "backward": backward,
        "inference": own,
    }
    assert min(own, attended, backward) > 0


def test_operations_of_a_thread_are_those_of_its_stage() -> None:
    recorder = Recorder()
    together = threading.Barrier(2)

    def work(size: int) -> None:
        with stage(f"of {size}"):
            together.wait()
            torch.mm(torch.ones(size, size), torch.ones(size, size))
            together.wait()

    with recording(recorder):
        threads = [threading.Thread(target=work, args=(size,)) for size in (3, 5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    found = {path: total.operations for path, total in recorder.totals.items()}
    assert found == {"of 3": 2 * 3**3, "of 5": 2 * 5**3}


def test_the_least_time_is_that_of_the_slower_of_two() -> None:
    limits = Limits(copy_bytes=100.0, matrix_operations=1000.0, dtype="float32", threads=1)
    assert limits.least_seconds(0, 0) == 0
    assert limits.least_seconds(200, 1000) == 2
    assert limits.least_seconds(200, 4000) == 4


def test_limits_are_measured() -> None:
    found = measure_limits(torch.device("cpu"))
    assert found.dtype == "float32"
    assert found.threads == torch.get_num_threads()
    # No machine that runs this copies or multiplies a thousandth as fast, or a thousand times.
    assert 1e8 < found.copy_bytes < 1e13
    assert 1e9 < found.matrix_operations < 1e15
