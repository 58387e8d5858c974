"""The peak memory of a run, from that of its sample."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from statistics import fmean

import torch

from pydream.allocator import peak_host_bytes
from pydream.errors import ImageError
from pydream.rded.class_loop import patch_maker
from pydream.rded.memory import QUEUED
from pydream.rded.sample import Sample
from pydream.rded.scoring import ScoringLimits, batch_images
from pydream.refinement.classes import float_bytes, keeps_floats

_MEASURED = 32  # images whose size in memory is looked at
_COPIES = 3  # of all images in float32, while images.pt is written


def adds_floats(sample: Sample, counts: Sequence[int]) -> bool:
    """Return whether the run writes ``images.pt``, and its sample, a part of it, does not.

    Parameters
    ----------
    sample
        A sample of the run.
    counts
        Number of distilled images of each class of the run.
    """
    refined = sample.run.config.method.refine > 0 and keeps_floats(counts, sample.run.side)
    return refined and not sample.whole


def peak_memory(sample: Sample, counts: Sequence[int], scored: int, before: int) -> dict[str, int]:
    """Return the peak memory of a run.

    On the host it is the peak of this process, and what the sample was too small to fill of the
    memory budget: batches under way, and images that wait for their batch if decoding is ahead.

    Parameters
    ----------
    sample
        The last sample of the run, whose set is finished.
    counts
        Number of distilled images of each class of the run.
    scored
        Number of real images that the run scores.
    before
        Peak before the sample, in bytes.

    Returns
    -------
    dict[str, int]
        Bytes: ``host``, and on a GPU ``device``.
    """
    device = sample.run.observers[0].device
    host = peak_host_bytes() + _filled(sample, scored) - _filled(sample, sample.scored)
    if adds_floats(sample, counts):
        host = max(host, before + _COPIES * float_bytes(counts, sample.run.side))
    memory = {"host": host}
    if device.type == "cuda":
        memory["device"] = torch.cuda.max_memory_allocated(device)
    return memory


def _filled(sample: Sample, images: int) -> int:
    """Return the bytes of the memory budget that so many images fill."""
    run, maker = sample.run, patch_maker(sample.run)
    limits = ScoringLimits(run.config.batch_size, run.decode, run.config.workers, run.memory)
    batches, batch = QUEUED.get(maker.observer.device.type, 0) + 2, batch_images(maker, limits)
    under_way, of_image = min(images, batches * batch), _mean_bytes(sample)
    filled = min(under_way * of_image, batches * run.memory.images)
    if run.watch.seconds["wait for decoding"] < run.watch.seconds["crop"]:
        filled += min((images - under_way) * of_image, run.memory.waiting)
    if maker.observer.device.type == "cpu":  # all batches have their patches in the same memory
        patches = sum(maker.empty(1, place).nbytes for place in range(len(maker.inputs)))
        filled += min(images, batch) * patches
    return int(filled)


def _mean_bytes(sample: Sample) -> float:
    """Return the mean size of decoded images, in bytes."""
    indices = sample.selection.indices
    sizes = []
    for index in indices[:: max(1, len(indices) // _MEASURED)].tolist():
        with suppress(ImageError):
            sizes.append(sample.run.source.image(index).nbytes)
    return fmean(sizes)
