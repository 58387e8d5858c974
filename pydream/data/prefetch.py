"""Decoding ahead of the consumer, in threads, in order, within a memory budget."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Generic, TypeVar

import numpy as np
import torch

from pydream.data.decode import EncodedJpeg, prepare, prepare_for_gpu
from pydream.data.source import Source
from pydream.data.stores import AT_ONCE
from pydream.errors import ImageError
from pydream.timeline import stage

T = TypeVar("T")
_Prepare = Callable[[bytes | np.ndarray], tuple[int, Callable[[], T]]]

# A worker takes several images at once, because waking a thread costs as much as decoding a CIFAR
# image: at most 32 images, and 4 MiB of pixels or half of what a worker has of the budget. Where
# decoding takes turns with other work, 256 KiB: a photograph is then taken alone, so that a turn
# ends soon.
_RUN_BYTES = 4 << 20
_RUN_BYTES_IN_TURN = 256 << 10
_RUN_IMAGES = 32
# Photographs next to each other in an archive of a store are read by one request: 16 images or
# 2 MiB of files, whichever is less, because many runs are held in memory.
_RUN_REMOTE = 16
_RUN_REMOTE_BYTES = 2 << 20


def decode_ahead(
    source: Source,
    indices: Sequence[int],
    *,
    workers: int,
    budget: int,
    turn: threading.Event | None = None,
) -> Generator[torch.Tensor | ImageError, None, None]:
    """Decode images in threads, and yield them in order.

    Parameters
    ----------
    source
        Source of the images.
    indices
        Indices of the images, in the order of the results; repeats are allowed.
    workers
        Number of threads that decode, at least 1. They also read; where reading waits for a
        network, other threads do, as many as requests may be in flight.
    budget
        Bytes of pixels that may be decoded, or in decoding, before the consumer takes them. One
        image is always admitted, however large.
    turn
        Event without which files are read, but few or no images decoded.

    Yields
    ------
    Tensor or ImageError
        uint8 (H, W, 3) for each index, or the reason that the image cannot be read. Closing the
        generator stops the threads.

    Raises
    ------
    ValueError
        If `workers` or `budget` is below 1.
    """
    return _Pipeline(
        source, indices, workers, budget, partial(prepare, upright=source.upright), turn
    ).results()


def read_ahead(
    source: Source, indices: Sequence[int], *, workers: int, budget: int
) -> Generator[torch.Tensor | EncodedJpeg | ImageError, None, None]:
    """Like `decode_ahead`, but leave JPEGs that a GPU can decode undecoded."""
    return _Pipeline(
        source, indices, workers, budget, partial(prepare_for_gpu, upright=source.upright)
    ).results()


@dataclass(frozen=True)
class _Run(Generic[T]):
    """Images from a position on: the bytes of each, and the function that decodes it.

    Its bytes are those of the file or those of the pixels, whichever are more.
    """

    position: int
    prepared: list[tuple[int, Callable[[], T] | ImageError]]


class _Pipeline(Generic[T]):
    """Workers that claim runs of positions, reserve memory in order of position, decode, publish.

    Memory is granted in order of position, so the image that the consumer waits for never waits for
    memory of later ones.
    """

    def __init__(
        self,
        source: Source,
        indices: Sequence[int],
        workers: int,
        budget: int,
        prepare: _Prepare[T],
        turn: threading.Event | None = None,
    ) -> None:
        if workers < 1:
            raise ValueError(f"workers must be at least 1, got {workers}")
        if budget < 1:
            raise ValueError(f"budget must be at least 1 byte, got {budget}")
        self._source = source
        self._prepare_content = prepare
        self._turn = turn
        self._indices = indices
        self._workers = min(workers, len(indices))
        self._readers = min(AT_ONCE, len(indices)) if source.remote else 0  # threads besides
        self._budget = budget
        # Each change wakes the one thread that waits for it: of 16 workers woken by every change,
        # 15 would only take the interpreter's lock from the others.
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)  # what the consumer wants
        self._wanted = -1  # its position
        self._waiting: dict[int, threading.Condition] = {}  # for memory, by position
        self._taking = threading.Lock()
        self._reading: deque[Future[_Run[T]]] = deque()
        self._run_length = 1
        self._claimed = 0  # positions below it are claimed by a worker
        self._reserved = 0  # positions below it have their memory
        self._held = 0  # bytes decoded or in decoding, and not yet taken
        self._finished: dict[int, tuple[list[T | ImageError], int]] = {}  # by first position; bytes
        self._failure: BaseException | None = None
        self._closed = False

    def results(self) -> Generator[T | ImageError, None, None]:
        readers = ThreadPoolExecutor(self._readers or 1, thread_name_prefix="pydream-read")
        threads = [
            threading.Thread(
                target=self._work, args=[readers], name=f"pydream-decode-{number}", daemon=True
            )
            for number in range(self._workers)
        ]
        try:
            for thread in threads:
                thread.start()
            position = 0
            while position < len(self._indices):
                items, size = self._take(position)
                position += len(items)
                yield from items[:-1]
                self._release(size)
                yield items[-1]
        finally:
            with self._lock:
                self._closed = True
                for waiting in self._waiting.values():
                    waiting.notify()
            if self._turn is not None:  # out of turn, workers would wait for ever
                self._turn.set()
            readers.shutdown(cancel_futures=True)
            for thread in threads:
                if thread.ident is not None:
                    thread.join()

    def _take(self, position: int) -> tuple[list[T | ImageError], int]:
        with self._lock:
            self._wanted = position
            while position not in self._finished:
                if self._failure is not None:
                    raise self._failure
                self._arrived.wait()
            return self._finished.pop(position)

    def _release(self, size: int) -> None:
        with self._lock:
            self._held -= size
            self._wake_next()

    def _wake_next(self) -> None:
        """Wake the worker whose turn it is to reserve memory, if it waits."""
        if self._reserved in self._waiting:
            self._waiting[self._reserved].notify()

    def _work(self, readers: ThreadPoolExecutor) -> None:
        waiting: deque[_Run[T]] = deque()  # read, but not decoded
        try:
            while not self._closed:
                if not waiting or self._reads_on(waiting):
                    run = self._next(readers)
                    if run is not None:
                        waiting.append(run)
                        continue
                    if not waiting:
                        return
                if self._turn is not None:
                    self._turn.wait()
                if self._closed or not self._decode_run(waiting.popleft()):
                    return
        except BaseException as error:
            with self._lock:
                self._failure = error
                self._arrived.notify()

    def _reads_on(self, waiting: deque[_Run[T]]) -> bool:
        """Return whether to read more while decoding must wait its turn."""
        if self._turn is None or self._turn.is_set():
            return False
        size = sum(size for run in waiting for size, _ in run.prepared)
        return size < self._budget // (4 * self._workers)

    def _next(self, readers: ThreadPoolExecutor) -> _Run[T] | None:
        """Return the next images, read; None if there are no more.

        They are read here, or those of a network ahead of here, as many as requests may be in
        flight.
        """
        if not self._readers:
            run = self._claim()
            return self._read(run) if run else None
        with self._taking:
            while not self._closed and len(self._reading) < self._readers:
                run = self._claim()
                if not run:
                    break
                self._reading.append(readers.submit(self._read, run))
            first = self._reading.popleft() if self._reading else None
        return first.result() if first is not None else None

    def _read(self, run: range) -> _Run[T]:
        with stage("read"):
            contents = self._source.read_many([self._indices[position] for position in run])
            prepared = [self._prepare(content) for content in contents]
        self._adapt(contents, prepared)
        return _Run(run.start, prepared)

    def _decode_run(self, run: _Run[T]) -> bool:
        """Decode images as memory is granted for them; return False if the pipeline was closed."""
        position, prepared = run.position, run.prepared
        while prepared:
            granted = self._reserve(position, [size for size, _ in prepared])
            if not granted:
                return False
            ready, prepared = prepared[:granted], prepared[granted:]
            decoded = sum(size for size, _ in ready)
            with stage("decode", nbytes=decoded):
                items = [_decode(decode) for _, decode in ready]
            self._publish(position, items, decoded)
            position += granted
        return True

    def _claim(self) -> range:
        """Claim the next positions; empty if all are claimed."""
        with self._lock:
            left = len(self._indices) - self._claimed
            # Shorter runs towards the end, so that the workers finish together.
            shares = max(2 * self._workers, self._readers)
            length = max(1, min(self._run_length, left // shares))
            run = range(self._claimed, self._claimed + min(length, left))
            self._claimed = run.stop
            return run

    def _prepare(
        self, content: bytes | np.ndarray | ImageError
    ) -> tuple[int, Callable[[], T] | ImageError]:
        if isinstance(content, ImageError):
            return 0, content
        try:
            size, decode = self._prepare_content(content)
        except ImageError as error:
            return 0, error
        return max(size, _size(content)), decode

    def _adapt(
        self,
        contents: Sequence[bytes | np.ndarray | ImageError],
        prepared: list[tuple[int, Callable[[], T] | ImageError]],
    ) -> None:
        files = [_size(content) for content in contents]  # also those that cannot be decoded
        sizes = [max(size, file) for (size, _), file in zip(prepared, files, strict=True)]
        mean = sum(sizes) // len(sizes)
        limit = _RUN_BYTES if self._turn is None else _RUN_BYTES_IN_TURN
        limit = min(limit, self._budget // (2 * self._workers))
        length = min(_RUN_IMAGES, limit // max(1, mean))
        if self._source.remote:
            mean = sum(files) // len(files)
            length = max(length, min(_RUN_REMOTE, _RUN_REMOTE_BYTES // max(1, mean)))
        self._run_length = max(1, length)

    def _reserve(self, position: int, sizes: list[int]) -> int:
        """Wait for memory for at least the first size; return how many fit, 0 if closed."""
        with self._lock:
            while not self._closed:
                granted = self._grant(sizes) if self._reserved == position else 0
                if granted:
                    self._reserved += granted
                    self._wake_next()
                    return granted
                self._waiting[position] = threading.Condition(self._lock)
                self._waiting[position].wait()
                del self._waiting[position]
            return 0

    def _grant(self, sizes: list[int]) -> int:
        granted = 0
        for size in sizes:
            if self._held and self._held + size > self._budget:
                break
            self._held += size
            granted += 1
        return granted

    def _publish(self, position: int, items: list[T | ImageError], size: int) -> None:
        with self._lock:
            self._finished[position] = items, size
            if position == self._wanted:
                self._arrived.notify()


def _size(content: bytes | np.ndarray | ImageError) -> int:
    """Return the bytes of an image as stored."""
    if isinstance(content, ImageError):
        return 0
    return content.nbytes if isinstance(content, np.ndarray) else len(content)


def _decode(decode: Callable[[], T] | ImageError) -> T | ImageError:
    if isinstance(decode, ImageError):
        return decode
    try:
        return decode()
    except ImageError as error:
        return error
