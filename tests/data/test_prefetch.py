from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pictures import encode, make_pixels, write_class_folders

from pydream.data import ImageError, Source, decode_ahead, open_source, prefetch

PATIENCE = 300.0  # seconds that a thread may take before the test gives up on it


@pytest.fixture(autouse=True)
def _no_thread_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    assert set(threading.enumerate()) <= before


class Recorded(Source):
    """Pixels of given sides; notes which images were read, and can hold, fail or break them."""

    def __init__(self, sides: Sequence[int], failing: Sequence[int] = ()) -> None:
        super().__init__(
            description="recorded",
            split="train",
            class_names=["one"],
            keys=[str(number) for number in range(len(sides))],
            labels=np.zeros(len(sides), dtype=np.int64),
        )
        self.sides = sides
        self.failing = failing
        self.broken: int | None = None
        self.started: list[int] = []

    def read(self, index: int) -> np.ndarray:
        self.started.append(index)
        if index == self.broken:
            raise RuntimeError("a fault of the program")
        if index in self.failing:
            raise ImageError(f"number {index} is damaged")
        return np.full((self.sides[index], self.sides[index], 3), index % 251, dtype=np.uint8)

    def fingerprint(self, indices: object = None) -> str:
        return "none"


def check(source: Recorded, indices: Sequence[int], items: Sequence[object]) -> None:
    assert len(items) == len(indices)
    for index, item in zip(indices, items, strict=True):
        if index in source.failing:
            assert isinstance(item, ImageError)
            assert str(item) == f"number {index} is damaged"
        else:
            assert isinstance(item, torch.Tensor)
            assert item.shape == (source.sides[index], source.sides[index], 3)
            assert (item == index % 251).all()


@pytest.mark.parametrize("workers", [1, 2, 7, 300])
@pytest.mark.parametrize("budget", [1, 3 * 40 * 40, 100_000, 10**9])
def test_order_and_errors(workers: int, budget: int) -> None:
    rng = np.random.default_rng(0)
    source = Recorded(rng.integers(1, 60, 200).tolist(), failing=[0, 5, 6, 7, 100, 199])
    indices = [*rng.permutation(200).tolist(), 3, 3, 0, 3]
    check(source, indices, list(decode_ahead(source, indices, workers=workers, budget=budget)))


@pytest.mark.parametrize("workers", [1, 3])
def test_same_as_decoding_one_by_one(workers: int, tmp_path: Path) -> None:
    write_class_folders(tmp_path, {"a": 30, "b": 3}, "JPEG")
    write_class_folders(tmp_path, {"a": 5, "c": 40}, "PNG")
    (tmp_path / "b" / "bad.jpg").write_bytes(encode(make_pixels(9, 9), "JPEG")[:-30])
    (tmp_path / "b" / "bad.png").write_bytes(b"")
    source = open_source(tmp_path)
    indices = np.random.default_rng(0).permutation(len(source)).tolist()
    failed = 0
    for index, item in zip(
        indices, decode_ahead(source, indices, workers=workers, budget=10_000), strict=True
    ):
        if isinstance(item, ImageError):
            assert source.keys[index] in ("b/bad.jpg", "b/bad.png")
            failed += 1
        else:
            assert torch.equal(item, source.image(index))
    assert failed == 2


@pytest.mark.parametrize("workers", [1, 2])
def test_nothing_to_do(workers: int) -> None:
    assert list(decode_ahead(Recorded([4]), [], workers=workers, budget=1)) == []


def test_only_errors() -> None:
    source = Recorded([5] * 50, failing=range(50))
    check(source, range(50), list(decode_ahead(source, range(50), workers=3, budget=1)))


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("sides", [[100] * 60, [7, 130, 3, 40, 90] * 12], ids=["same", "mixed"])
def test_budget_is_kept(workers: int, sides: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """Pixels decoded and not given out stay below the budget, whatever the consumer does.

    The count here goes down just after an image is given out: one image more may be in it.
    """
    largest = 3 * max(sides) ** 2
    budget = 4 * 3 * 130 * 130
    waiting, most = 0, 0
    lock = threading.Lock()
    decode: Callable[[Any], Any] = prefetch._decode

    def counted(item: Any) -> Any:
        nonlocal waiting, most
        result = decode(item)
        with lock:
            waiting += result.numel()
            most = max(most, waiting)
        return result

    monkeypatch.setattr(prefetch, "_decode", counted)
    source = Recorded(sides)
    for number, item in enumerate(decode_ahead(source, range(60), workers=workers, budget=budget)):
        assert isinstance(item, torch.Tensor)
        with lock:
            waiting -= item.numel()
        if number == 0:  # the consumer takes its time until the budget is made use of
            deadline = time.monotonic() + PATIENCE
            while most <= budget / 4 and time.monotonic() < deadline:
                time.sleep(0.001)
        if number % 7 == 0:
            time.sleep(0.01)
    assert waiting == 0
    assert budget / 4 < most <= budget + largest


def test_image_above_the_budget_goes_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    decoded = []
    decode: Callable[[Any], Any] = prefetch._decode

    def counted(item: Any) -> Any:
        decoded.append(1)
        return decode(item)

    monkeypatch.setattr(prefetch, "_decode", counted)
    items = decode_ahead(Recorded([50] * 20), range(20), workers=4, budget=1)
    for given in range(1, 20):
        next(items)
        time.sleep(0.002)
        assert len(decoded) <= given + 1
    items.close()


def test_workers_work_ahead() -> None:
    """While the consumer holds the first image, the others are decoded up to the budget."""
    source = Recorded([300] * 100)
    items = decode_ahead(source, range(100), workers=2, budget=10 * 3 * 300 * 300)
    next(items)
    deadline = time.monotonic() + PATIENCE
    while len(source.started) < 10 and time.monotonic() < deadline:
        time.sleep(0.001)
    assert 10 <= len(source.started) <= 1 + 10 + 2 * 2  # given, decoded, and read by each worker
    items.close()


def test_closing_stops_the_threads() -> None:
    source = Recorded([30] * 100_000)
    items = decode_ahead(source, range(100_000), workers=4, budget=10**6)
    for _ in range(5):
        next(items)
    items.close()
    assert len(source.started) < 10_000
    with pytest.raises(StopIteration):
        next(items)


def test_exception_of_the_consumer_stops_the_threads() -> None:
    source = Recorded([30] * 100_000)

    def consume() -> None:
        for _ in decode_ahead(source, range(100_000), workers=4, budget=10**6):
            raise KeyError("consumer")

    with pytest.raises(KeyError):
        consume()
    assert len(source.started) < 10_000


@pytest.mark.parametrize("workers", [1, 4])
def test_other_errors_come_through(workers: int) -> None:
    source = Recorded([30] * 1000)
    source.broken = 500
    items = decode_ahead(source, range(1000), workers=workers, budget=10**5)
    with pytest.raises(RuntimeError, match="a fault of the program"):
        list(items)


def test_never_started() -> None:
    source = Recorded([3])
    decode_ahead(source, [0], workers=2, budget=1)
    assert source.started == []


@pytest.mark.parametrize(
    ("workers", "budget", "reason"),
    [(0, 1, "workers must be at least 1, got 0"), (1, 0, "budget must be at least 1 byte, got 0")],
)
def test_wrong_arguments(workers: int, budget: int, reason: str) -> None:
    with pytest.raises(ValueError, match=reason):
        decode_ahead(Recorded([3]), [0], workers=workers, budget=budget)


def test_out_of_turn_files_are_read_and_nothing_is_decoded(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 300, 400, 3), dtype=np.uint8)
    source = open_source((images, np.zeros(40, dtype=np.int64)))
    read: list[int] = []
    original = type(source).read

    def counted(self: Any, index: int) -> Any:
        read.append(index)
        return original(self, index)

    monkeypatch.setattr(type(source), "read", counted)
    turn = threading.Event()
    taken: list[Any] = []
    size = 300 * 400 * 3
    decoded = decode_ahead(source, range(40), workers=2, budget=40 * size, turn=turn)

    def take() -> None:
        taken.extend(decoded)

    taker = threading.Thread(target=take)
    taker.start()
    # A quarter of the budget, and up to one image more for each of two workers.
    deadline = time.monotonic() + PATIENCE
    while len(read) < 10 and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.1)
    assert 10 <= len(read) <= 12
    assert not taken
    turn.set()
    taker.join()
    assert sorted(read) == list(range(40))
    assert all(np.array_equal(image, wanted) for image, wanted in zip(taken, images, strict=True))


@pytest.mark.parametrize(("side", "most"), [(10, 16), (1000, 1)])
def test_few_large_files_of_a_store_are_in_memory(
    side: int, most: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(prefetch, "AT_ONCE", 2)
    source = Recorded([side] * 60)
    source.remote = True
    runs: list[int] = []
    read_many = source.read_many

    def noted(indices: Sequence[int]) -> Any:
        runs.append(len(indices))
        return read_many(indices)

    monkeypatch.setattr(source, "read_many", noted)
    check(source, range(60), list(decode_ahead(source, range(60), workers=1, budget=1 << 30)))
    assert most <= max(runs) <= 2 * most  # of pixels: 300 bytes, and 3 megabytes
    assert sum(runs) == 60


@pytest.mark.parametrize("readable", [True, False])
def test_few_files_that_are_larger_than_their_pixels_are_in_memory(
    readable: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """JPEG files with a megabyte of segments that hold no pixels, and what is no image at all."""
    plain = encode(make_pixels(8, 8), "JPEG")
    segments = b"\xff\xe5\xff\xff" + bytes(65533)
    content = plain[:2] + 16 * segments + plain[2:] if readable else bytes(1 << 20)
    source = Recorded([8] * 60)
    runs: list[int] = []

    def read_many(indices: Sequence[int]) -> list[bytes]:
        runs.append(len(indices))
        return [content] * len(indices)

    monkeypatch.setattr(source, "read_many", read_many)
    items = list(decode_ahead(source, range(60), workers=1, budget=1 << 30))
    assert all(isinstance(item, torch.Tensor if readable else ImageError) for item in items)
    assert sum(runs) == len(items) == 60
    assert 3 <= max(runs) <= 4  # of 4 MiB in a run


def test_closing_out_of_turn_stops_the_threads() -> None:
    turn = threading.Event()
    turn.set()
    decoded = decode_ahead(Recorded([9] * 5000), range(5000), workers=2, budget=999, turn=turn)
    for _ in range(60):
        next(decoded)
    turn.clear()
    time.sleep(0.1)  # until the workers wait for their turn
    closing = threading.Thread(target=decoded.close, daemon=True)
    closing.start()
    closing.join(timeout=20)
    ended = not closing.is_alive()
    turn.set()  # frees them, if they had to be
    closing.join()
    assert ended
