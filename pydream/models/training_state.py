"""State of an observer's training, so that a killed run continues to the same weights."""

from __future__ import annotations

import io
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from pydream.errors import PydreamError
from pydream.models.training_data import TrainingImages
from pydream.partial import PartialRun

_FILE = "checkpoint.pt"
_SECONDS_BETWEEN = 30.0


@dataclass
class TrainingProgress:
    """Progress of a training.

    Attributes
    ----------
    epoch
        Number of the current epoch, from 0.
    total
        Sum of the losses of its steps, on the device.
    loss
        Mean loss of the last finished epoch.
    ranks
        Numbers of ranks that have trained together, in order.
    """

    epoch: int
    total: torch.Tensor
    loss: float
    ranks: list[int]


class TrainingState:
    """Everything that decides the next step of a training, written to disk and read back.

    Parameters
    ----------
    run
        Run that stores the state on disk.
    model, optimizer, schedule, images
        Model in training, and the objects that train it.
    device
        Device of the training.
    """

    def __init__(
        self,
        run: PartialRun,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: torch.optim.lr_scheduler.LRScheduler,
        images: TrainingImages,
        device: torch.device,
    ) -> None:
        self._run = run
        self._parts: dict[str, Any] = {
            "model": model,
            "optimizer": optimizer,
            "schedule": schedule,
        }
        self._images, self._device = images, device
        self._written = time.monotonic()

    def is_due(self) -> bool:
        """Return whether enough time has passed since the state was written."""
        return time.monotonic() - self._written >= _SECONDS_BETWEEN

    def write(self, progress: TrainingProgress) -> None:
        """Write the state between two steps, in place of the previous one."""
        content = {
            **{name: part.state_dict() for name, part in self._parts.items()},
            "images": self._images.state(),
            "random": torch.get_rng_state(),
            "epoch": progress.epoch,
            "total": progress.total,
            "loss": progress.loss,
            "ranks": progress.ranks,
        }
        if self._device.type == "cuda":
            content["random on the GPU"] = torch.cuda.get_rng_state(self._device)
        stream = io.BytesIO()
        torch.save(content, stream)
        self._run.keep_bytes(_FILE, stream.getvalue())
        self._written = time.monotonic()

    def read(self) -> TrainingProgress:
        """Restore the last state written; without one, begin.

        Raises
        ------
        PydreamError
            If it cannot be read.
        """
        data = self._run.kept_bytes(_FILE)
        if data is None:
            return TrainingProgress(0, torch.zeros((), device=self._device), float("nan"), [])
        try:
            content: dict[str, Any] = torch.load(
                io.BytesIO(data), map_location="cpu", weights_only=True
            )
            for name, part in self._parts.items():
                part.load_state_dict(content[name])
            self._images.restore(content["images"])
            torch.set_rng_state(content["random"])
            if self._device.type == "cuda":
                torch.cuda.set_rng_state(content["random on the GPU"], self._device)
        except (MemoryError, torch.OutOfMemoryError):  # the checkpoint is good
            raise
        except Exception as error:  # a damaged checkpoint fails in any way
            raise PydreamError(
                f"the checkpoint in {self._run.partial} cannot be read: remove that folder to "
                "start again"
            ) from error
        return TrainingProgress(
            content["epoch"],
            content["total"].to(self._device),
            content["loss"],
            content.get("ranks", [1]),  # which older versions lack
        )


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Delay Ctrl-C until a step is done; a second one takes effect at once.

    Yields
    ------
    Callable
        Function that returns whether Ctrl-C was pressed. In threads other than the main one, and
        under another handler, Ctrl-C is not delayed.
    """
    pressed = threading.Event()

    def handle(number: int, frame: Any) -> None:
        if pressed.is_set():
            signal.default_int_handler(number, frame)
        pressed.set()

    ours = (
        threading.current_thread() is threading.main_thread()
        and signal.getsignal(signal.SIGINT) is signal.default_int_handler
    )
    if not ours:
        yield pressed.is_set
        return
    signal.signal(signal.SIGINT, handle)
    try:
        yield pressed.is_set
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)
