"""Threads that encode the images of classes, and threads that bring them to the disk."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import ExitStack
from dataclasses import dataclass
from types import TracebackType

import torch

from pydream.processors import usable_processors

_SMALL = 3 * 64 * 64  # bytes of an image up to which threads cost more than they save
# Classes that come to the disk at once: it takes those of several threads as one, and each class
# is some synchronisations that follow each other.
_ENDING = 4


@dataclass(frozen=True)
class _Class:
    """A class that is not known to be finished."""

    saved: Sequence[Future[None]]
    ended: Future[None]
    size: int  # bytes of its images

    @property
    def waiting(self) -> int:
        """Bytes of its images if some are not encoded."""
        return 0 if all(image.done() for image in self.saved) else self.size


class Encoders:
    """As many threads as this process may use processors, and some that end the classes.

    Used as a context, which ends when all classes have. A class that was begun is then finished
    even if the block raises an error.
    """

    def __init__(self) -> None:
        self._threads = ExitStack()
        self._images = ThreadPoolExecutor(usable_processors())
        self._ends = ThreadPoolExecutor(_ENDING)
        self._classes: deque[_Class] = deque()

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
            Function that waits for the images and ends the class.
        """
        numbers = range(len(images))
        runs = [numbers] if images[0].nbytes <= _SMALL else [(number,) for number in numbers]
        saved = [self._images.submit(_for_each, save, run) for run in runs]
        self._classes.append(_Class(saved, self._ends.submit(end, saved), images.nbytes))

    def wait(self, waiting: int | None = None) -> None:
        """Wait until all classes have ended.

        Parameters
        ----------
        waiting
            Wait only until classes with images that are not encoded have so many bytes at most.

        Raises
        ------
        BaseException
            What writing a class raised.
        """
        if waiting is not None:
            for earliest in self._classes:
                if sum(one.waiting for one in self._classes) <= waiting:
                    break
                wait_for(earliest.saved)
        while self._classes and (waiting is None or self._classes[0].ended.done()):
            self._classes.popleft().ended.result()


def _for_each(save: Callable[[int], None], numbers: Sequence[int]) -> None:
    for number in numbers:
        save(number)
