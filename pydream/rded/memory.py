"""How a run divides its memory budget."""

from __future__ import annotations

from dataclasses import dataclass

import torch

# Batches queued on a device behind the one whose scores the host waits for. The CPU has none: its
# scores are there when the call returns.
QUEUED = {"cpu": 0, "cuda": 2}
_PATCH_BATCHES = 3  # whose patches are in memory at once: prepared, scored, and not yet freed


@dataclass(frozen=True)
class MemoryShares:
    """Bytes that each part of a run may hold of the memory budget.

    While images are scored the parts add up to the budget: patches take half of it, decoded images
    that wait for their batch a quarter, and the images of the batches under way the last quarter.

    The other two parts are used at other times. The preflight is over before scoring begins, and
    leaves half of the budget to the views of its images. Winners are decoded again only where their
    batch could not keep its images. On the CPU no batch is under way then, so they take its
    quarter; on a GPU they take host memory, where no patches are.

    Attributes
    ----------
    preflight
        Decoded images that wait while the observer is measured.
    patches
        Patches of one batch.
    waiting
        Decoded images that wait for their batch.
    images
        Images of one batch under way.
    winners
        Images decoded again to cut winners, of one class.
    """

    preflight: int
    patches: int
    waiting: int
    images: int
    winners: int

    @classmethod
    def of(cls, megabytes: int, device: torch.device) -> MemoryShares:
        """Divide a budget.

        Parameters
        ----------
        megabytes
            The budget, in MiB.
        device
            Where the observer runs. Batches under way are one in preparation, one being scored,
            and those queued there.
        """
        half, quarter = megabytes * 2**20 // 2, megabytes * 2**20 // 4
        return cls(
            preflight=half,
            patches=half // _PATCH_BATCHES,
            waiting=quarter,
            images=quarter // (QUEUED.get(device.type, 0) + 2),
            winners=quarter,
        )
