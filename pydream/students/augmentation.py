"""Draws of DSA's augmentation as the published loops make them: one operation for each call."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from pydream.ops import random_augment
from pydream.seeds import derived_seed, uniform

_OPERATION, _PARAMETERS = range(2)


def one_operation_each(count: int, side: int, strategy: str, *, seed: int) -> Tensor:
    """Draw one operation of a strategy for each row, and its parameters.

    Parameters
    ----------
    count
        Number of rows, M.
    side
        Side of the images, in pixels.
    strategy
        Operations of `pydream.ops.random_augment`, joined by ``_``; all are equally likely.
    seed
        Random seed, in [0, 2^63).

    Returns
    -------
    Tensor
        float32 (M, 13), on the CPU, as `pydream.ops.diff_augment` takes it. A row depends only on
        seed, side and strategy and its number.

    Notes
    -----
    Zhao and Bilen, "Dataset Condensation with Differentiable Siamese Augmentation", ICML 2021,
    section 3.3: a call of the augmentation applies one operation, drawn at random.
    """
    words = strategy.split("_")
    drawn = uniform(derived_seed(seed, _OPERATION), count)
    chosen = torch.from_numpy((drawn * len(words)).astype(np.int64))
    tables = [
        random_augment(count, side, word, seed=derived_seed(seed, _PARAMETERS, number))
        for number, word in enumerate(words)
    ]
    return torch.stack(tables)[chosen, torch.arange(count)]


def one_operation_for_all(count: int, side: int, strategy: str, *, seed: int) -> Tensor:
    """Draw one operation of a strategy for a batch, and parameters of its own for each image.

    Parameters and result are those of `one_operation_each`.
    """
    words = strategy.split("_")
    (drawn,) = uniform(derived_seed(seed, _OPERATION), 1)
    word = words[int(drawn * len(words))]
    return random_augment(count, side, word, seed=derived_seed(seed, _PARAMETERS))
