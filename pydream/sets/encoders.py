"""Threads that encode and write images, those of several classes at a time."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from types import TracebackType

import torch

from pydream.processors import usable_processors

_SMALL = 3 * 64 * 64  # bytes of an image up to which threads cost more than they save


class Encoders:
    """As many threads as this process may use processors, and one that ends the classes.

    Used as a context, which ends when all classes have. A class that was begun is then finished
    even if the block raises an error.
    """

    def __init__(self) -> None:
        self._threads = ExitStack()
        self._images = ThreadPoolExecutor(usable_processors())
        self._ends = ThreadPoolExecutor(1)
        self._classes: deque[tuple[Future[None], int]] = deque()  # and bytes of each

    def __enter__(self) -> Encoders:
        self._threads.enter_context(self._images)
        self._threads.enter_context(self._ends)  # left first, while images are still written
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        with self._threads:
            if error is None:
                self.wait()

    def submit(
        self,
        save: Callable[[int], None],
        images: torch.Tensor,
        end: Callable[[Sequence[Future[None]]], None],
    ) -> None:
        """Begin to write the images of a class.

        Parameters
        ----------
        save
            Function that writes the image of a number.
        images
            The images, for their number and size.
        end
            Function that waits for the images and ends the class. Classes end in their order.
        """
        numbers = range(len(images))
        runs = [numbers] if images[0].nbytes <= _SMALL else [(number,) for number in numbers]
        saved = [self._images.submit(_for_each, save, run) for run in runs]
        self._classes.append((self._ends.submit(end, saved), images.nbytes))

    def wait(self, waiting: int = 0) -> None:
        """Wait until the images of unfinished classes have at most so many bytes.

        Raises
        ------
        BaseException
            What writing a class raised.
        """
        while self._classes:
            first, _ = self._classes[0]
            if not first.done() and sum(size for _, size in self._classes) <= waiting:
                break
            self._classes.popleft()
            first.result()


def _for_each(save: Callable[[int], None], numbers: Sequence[int]) -> None:
    for number in numbers:
        save(number)
