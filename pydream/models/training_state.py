"""State of an observer's training, so that a killed one continues to the same weights."""

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
        The one that runs, from 0.
    total
        Sum of the losses of its steps, on the device.
    loss
        Mean of the last epoch that is done.
    """

    epoch: int
    total: torch.Tensor
    loss: float


class TrainingState:
    """All that the next step of a training follows from; written to disk and read back.

    Parameters
    ----------
    run
        Run that keeps it on disk.
    model, optimizer, schedule, images
        Model in training, and the objects that train it.
    device
        Device that it is trained on.
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
        """Return whether it is some time since the state was written."""
        return time.monotonic() - self._written >= _SECONDS_BETWEEN

    def write(self, progress: TrainingProgress) -> None:
        """Write the state between two steps, in place of the last one."""
        content = {
            **{name: part.state_dict() for name, part in self._parts.items()},
            "images": self._images.state(),
            "random": torch.get_rng_state(),
            "epoch": progress.epoch,
            "total": progress.total,
            "loss": progress.loss,
        }
        if self._device.type == "cuda":
            content["random on the GPU"] = torch.cuda.get_rng_state(self._device)
        stream = io.BytesIO()
        torch.save(content, stream)
        self._run.keep_bytes(_FILE, stream.getvalue())
        self._written = time.monotonic()

    def read(self) -> TrainingProgress:
        """Take over the state that was written last; without one, begin.

        Raises
        ------
        PydreamError
            If it cannot be read.
        """
        data = self._run.kept_bytes(_FILE)
        if data is None:
            return TrainingProgress(0, torch.zeros((), device=self._device), float("nan"))
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
        except Exception as error:  # bytes that are no checkpoint fail in any way
            raise PydreamError(
                f"the checkpoint in {self._run.partial} cannot be read: remove that folder to "
                "start again"
            ) from error
        return TrainingProgress(
            content["epoch"], content["total"].to(self._device), content["loss"]
        )


@contextmanager
def interrupt_between_steps() -> Iterator[Callable[[], bool]]:
    """Let Ctrl-C wait until a step is done; a second one does not wait.

    Yields
    ------
    Callable
        Tells whether Ctrl-C was pressed. In threads other than the main one, and where somebody
        else handles it, it is left alone.
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
