"""Division of a run's memory budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from pydream.memory_limits import usable_memory

# Batches queued on a device behind the batch whose scores the host waits for. The CPU queues none:
# its scores are ready when the call returns.
QUEUED = {"cpu": 0, "cuda": 2}
_PATCH_BATCHES = 3  # batches whose patches are in memory: prepared, scored, and not yet freed


# In MiB. A batch keeps its images, so that winners are not decoded twice: 64 photographs on a CPU
# are 40 MiB, an eighth of a budget of 320. A GPU has five batches of 200 under way.
_LEAST, _MOST = 256, {"cpu": 1024, "cuda": 8192}


def default_budget(device: torch.device) -> int:
    """Return the budget of a run on a device, in MiB: a quarter of the memory, within limits."""
    most = _MOST.get(device.type, _MOST["cpu"])
    usable = usable_memory()
    return most if usable is None else min(most, max(_LEAST, usable // 2**22))


@dataclass(frozen=True)
class MemoryShares:
    """Bytes of the memory budget that each part of a run may hold.

    While images are scored, the parts add up to the budget: half for patches, a quarter for decoded
    images that wait for their batch, and a quarter for the images of the batches under way.

    The other two parts are used at other times. The preflight ends before scoring begins, and
    leaves half of the budget to the views of its images. Winners are decoded again only if their
    batch could not keep its images. On the CPU no batch is under way at that time, so the winners
    use its quarter; on a GPU they use host memory, which holds no patches, and so do distilled
    images that wait for an encoder.

    Attributes
    ----------
    preflight
        Decoded images that wait while the accuracy of the observer is measured.
    patches
        Patches of one batch.
    waiting
        Decoded images that wait for their batch.
    images
        Images of one batch under way.
    winners
        Images of one class, decoded again to cut its winners.
    written
        Distilled images that wait for an encoder. None do on the CPU, where encoding takes turns
        with the observer.
    """

    preflight: int
    patches: int
    waiting: int
    images: int
    winners: int
    written: int

    @classmethod
    def of(cls, megabytes: int | None, device: torch.device) -> MemoryShares:
        """Divide a budget.

        Parameters
        ----------
        megabytes
            The budget, in MiB; by default `default_budget`.
        device
            Device of the observer. Batches under way are one in preparation, one being scored, and
            those in the device's queue.
        """
        if megabytes is None:
            megabytes = default_budget(device)
        half, quarter = megabytes * 2**20 // 2, megabytes * 2**20 // 4
        written = 0 if device.type == "cpu" else quarter // 2
        return cls(
            preflight=half,
            patches=half // _PATCH_BATCHES,
            waiting=quarter,
            images=quarter // (QUEUED.get(device.type, 0) + 2),
            winners=quarter - written,
            written=written,
        )
