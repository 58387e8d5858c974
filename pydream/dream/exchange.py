"""The synthetic images of all classes on every rank, for networks that are trained on them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, distributed

from pydream.dream.resolved import ResolvedConfig
from pydream.ranks import Ranks


@contextmanager
def exchange(
    config: ResolvedConfig, ranks: Ranks, own: Sequence[range], device: torch.device
) -> Iterator[Callable[[Tensor], Tensor] | None]:
    """Let ranks exchange their synthetic images in the block; all ranks enter it.

    Parameters
    ----------
    config
        Resolved settings.
    ranks
        The ranks, or the only process.
    own
        The parts of the classes that this rank optimises, one behind another; there may be none.
    device
        Device of the images.

    Yields
    ------
    Callable or None
        Function that is given this rank's images, float32 (k, IPC, C, S, S), and returns those of
        all classes, (K, IPC, C, S, S). All ranks with parts call it alike, and the others do not.
        None if no rank needs the images of another.

    Raises
    ------
    OtherRankError, PydreamError
        The same as `Ranks.group`.
    """
    if not (ranks.connected and config.trains_on_images and config.inner_loop > 1):
        yield None
        return
    block = (own[0].start, own[-1].stop) if own else (0, 0)
    blocks = ranks.gather(block)
    members = [number for number, (begin, end) in enumerate(blocks) if begin < end]
    with ranks.group(device):
        group = distributed.new_group(members)  # which all ranks make

        def gather(images: Tensor) -> Tensor:
            assert isinstance(group, distributed.ProcessGroup)
            everything = images.new_empty((max(end for _, end in blocks), *images.shape[1:]))
            everything[slice(*block)] = images
            for number in members:  # as they are: a sum would turn -0 into 0
                distributed.broadcast(everything[slice(*blocks[number])], number, group)
            return everything

        yield gather
