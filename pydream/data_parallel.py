"""Training of one network by all ranks, each on its part of every batch."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.distributed import ProcessGroup, all_reduce
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from pydream.errors import PydreamError
from pydream.ranks import Ranks
from pydream.seeds import derived_seed, own_random_numbers


class DataParallel:
    """One network trained by all ranks (PyTorch's DistributedDataParallel), or by this process.

    Every rank takes its part of each batch, and the gradients are those of the whole batch. The
    result is that of one process up to rounding, except for a network that draws random numbers
    (dropout), which draws others. A single process computes as it does without this.

    Parameters
    ----------
    ranks
        The ranks.
    group
        Group in which they exchange tensors; None for a single process.

    Attributes
    ----------
    ranks
        As given.
    """

    def __init__(self, ranks: Ranks, group: ProcessGroup | None = None) -> None:
        self.ranks, self._group = ranks, group

    @property
    def count(self) -> int:
        """Number of parts of each batch."""
        return 1 if self._group is None else self.ranks.count

    @property
    def first(self) -> bool:
        """Whether this process keeps the results."""
        return self._group is None or self.ranks.first

    def part(self, length: int) -> slice:
        """Return this rank's rows of a batch; parts differ by at most one row."""
        if self._group is None:
            return slice(0, length)
        number = self.ranks.number
        return slice(length * number // self.count, length * (number + 1) // self.count)

    def check_batch(self, smallest: int) -> None:
        """Raise PydreamError if a batch has fewer rows than there are ranks."""
        if smallest < self.count:
            raise PydreamError(
                f"a batch of {smallest} cannot be divided among {self.count} ranks: start fewer, "
                "or give a larger batch size"
            )

    def prepare(self, model: nn.Module, name: str, device: torch.device) -> nn.Module:
        """Let batch norms of a network normalise over the batches of all ranks.

        Parameters
        ----------
        model
            The network, which is changed.
        name
            Its architecture, for messages.
        device
            Device that it will be trained on.

        Raises
        ------
        PydreamError
            If it has batch norms and the device is the CPU, for which PyTorch has no such layer.
        """
        norms = [layer for layer in model.modules() if isinstance(layer, _BatchNorm)]
        if self._group is None or not norms:
            return model
        if device.type == "cpu":
            raise PydreamError(
                f"{name} has batch norm, which PyTorch synchronises between GPUs only: train it on "
                "GPUs or in one process, or take a network without, such as convnet3-instance"
            )
        of_timm = any(type(layer).__module__.startswith("timm.") for layer in norms)
        layers = importlib.import_module("timm.layers") if of_timm else nn.SyncBatchNorm
        prepared: nn.Module = layers.convert_sync_batchnorm(model, self._group)
        return prepared

    def wrap(self, model: nn.Module) -> nn.Module:
        """Return a network in training whose gradients are averaged over the ranks.

        Parameters
        ----------
        model
            The network on its device. Ranks begin with the weights of the first.
        """
        if self._group is None:
            return model
        return DistributedDataParallel(model, process_group=self._group)

    def mean(self, loss: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        """Average the losses of the parts of a batch.

        Parameters
        ----------
        loss
            Mean loss of this part, a scalar.
        rows
            Number of its rows.

        Returns
        -------
        tuple[Tensor, Tensor]
            The loss to differentiate, whose gradients `wrap` averages to those of the mean; and
            the mean over the whole batch, without gradients.
        """
        if self._group is None:
            return loss, loss.detach()
        sums = torch.stack([loss.detach() * rows, torch.full_like(loss, rows)])
        all_reduce(sums, group=self._group)
        whole = sums[1].clamp(min=1)
        return loss * (rows * self.count / whole), sums[0] / whole

    def sum(self, values: Tensor) -> Tensor:
        """Return the sum of the ranks' tensors of one shape and dtype."""
        if self._group is not None:
            all_reduce(values, group=self._group)
        return values

    @contextmanager
    def own_draws(self, seed: int, device: torch.device) -> Iterator[None]:
        """Let every rank but the first draw from random numbers of its own in the block."""
        if self._group is None or self.ranks.first:
            yield
            return
        with own_random_numbers(derived_seed(seed, self.ranks.number), device):
            yield


ALONE = DataParallel(Ranks())
"""Training by this process alone."""


@contextmanager
def data_parallel(ranks: Ranks, device: torch.device) -> Iterator[DataParallel]:
    """Let all ranks train one network at a time in the block; all ranks enter it.

    Parameters
    ----------
    ranks
        The ranks, or the only process.
    device
        Device of this rank.

    Raises
    ------
    OtherRankError, PydreamError
        The same as `Ranks.group`.
    """
    if not ranks.connected:
        yield ALONE
        return
    with ranks.group(device) as group:
        yield DataParallel(ranks, group)
