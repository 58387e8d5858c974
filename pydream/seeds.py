"""Random numbers that depend only on a seed and their purpose."""

from __future__ import annotations

import enum
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import numpy.typing as npt
import torch


class Draw(enum.IntEnum):
    """Purposes of the random keys of real images: `draw` of `pydream.ops.random_keys`.

    Two purposes draw independently from one seed. The numbers are part of the meaning of a seed. 0
    is the default of `random_keys`, which orders the rows of a distilled set.
    """

    PRESELECTION = 1  # the images that RDED cuts patches from
    PREFLIGHT = 2  # the images that an observer is tried on
    RANDOM_BASELINE = 3  # the random images that a distilled set is compared with
    HOLD_OUT = 4  # the training images on which a new observer is measured
    REAL_SAMPLES = 5  # the real images that realism and diversity are compared with


def derived_seed(seed: int, *purpose: int) -> int:
    """Derive the seed of one purpose, in [0, 2^63).

    Parameters
    ----------
    seed
        Random seed of the run.
    purpose
        Numbers that identify the purpose; different purposes give independent random numbers.
    """
    state = np.random.SeedSequence(seed, spawn_key=purpose).generate_state(1, np.uint64)
    return int(state[0]) >> 1


def uniform(seed: int, count: int) -> npt.NDArray[np.float64]:
    """Draw numbers in [0, 1) from the raw words of Philox, which no NumPy version may change."""
    words = np.asarray(np.random.Philox(key=seed).random_raw(count), dtype=np.uint64)
    numbers: npt.NDArray[np.float64] = (words >> np.uint64(11)) * 2.0**-53
    return numbers


def drawn_order(seed: int, count: int) -> npt.NDArray[np.int64]:
    """Draw an order of `count` items."""
    return np.argsort(uniform(seed, count), kind="stable")


@contextmanager
def own_random_numbers(seed: int, device: torch.device) -> Iterator[None]:
    """Seed PyTorch's generators of the CPU and of a device during the block, then restore them."""
    cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if cuda else []):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reach every GPU
        if cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        yield
