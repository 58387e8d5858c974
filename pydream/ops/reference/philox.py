"""Philox 4x32-10, the counter-based generator of csrc/common/philox.h, in plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

WORD_MASK = 0xFFFFFFFF
"""The bits of one word."""


def philox4x32(key: int, counter: Sequence[Tensor | int]) -> list[Tensor]:
    """Draw four random words of a key and a counter, in int64 tensors that hold 32-bit words.

    Parameters
    ----------
    key
        The 64 bits of the key.
    counter
        Four words, tensors or numbers that broadcast.

    Returns
    -------
    list of Tensor
        Four words, int64, in [0, 2^32).
    """
    c0, c1, c2, c3 = torch.broadcast_tensors(
        *(
            word if isinstance(word, Tensor) else torch.tensor(word, device="cpu")
            for word in counter
        )
    )
    k0, k1 = key & WORD_MASK, key >> 32 & WORD_MASK
    for _ in range(10):
        p0 = c0 * 0xD2511F53  # wraps at 64 bits as the unsigned product does
        p1 = c2 * 0xCD9E8D57
        c0, c1, c2, c3 = (
            (p1 >> 32 & WORD_MASK) ^ c1 ^ k0,
            p1 & WORD_MASK,
            (p0 >> 32 & WORD_MASK) ^ c3 ^ k1,
            p0 & WORD_MASK,
        )
        k0 = (k0 + 0x9E3779B9) & WORD_MASK
        k1 = (k1 + 0xBB67AE85) & WORD_MASK
    return [c0, c1, c2, c3]
