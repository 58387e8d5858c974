"""Samples in float64, brought near the origin before they are rounded to float32."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from pydream.ops._problems import per_centroid

_MOST_LOOKED_AT = 255
"""Rows whose median is the new origin."""
_LEAST = 2.0**-960
"""A problem within less than this is not scaled: the scale would overflow."""


class Frame(NamedTuple):
    """Where each problem lies in float64: a sample x is ``(x - origin) * scale`` for the kernels.

    The scale is a power of two, so that it rounds nothing.
    """

    origin: Tensor  # float64 (B, D)
    scale: Tensor  # float64 (B,)

    def enter(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Return rows of the problems, `counts` of each, in the frame and in float32."""
        origin, scale = self._each(counts)
        return ((rows.double() - origin) * scale).float()

    def leave(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Return what `enter` does to where it was, in float64."""
        origin, scale = self._each(counts)
        return rows.double() / scale + origin

    def _each(self, counts: list[int]) -> tuple[Tensor, Tensor]:
        if len(counts) == 1:
            return self.origin, self.scale[:, None]
        problem = per_centroid(list(range(len(counts))), counts, self.origin.device)
        return self.origin[problem], self.scale[problem, None]


def centred(x: Tensor, offsets: list[int]) -> tuple[Tensor, Frame]:
    """Return samples (total, D) for the kernels, float32, and the frame they are in.

    The origin of a problem is, dimension by dimension, the median of at most 255 of its samples,
    evenly spaced. A median is one of the values, so it is the same whatever adds up in whatever
    order; and outliers do not move it away from where most samples are.
    """
    samples = torch.empty_like(x, dtype=torch.float32)
    origins = x.new_zeros(len(offsets) - 1, x.shape[1])
    scales = x.new_ones(len(offsets) - 1)
    for b, (begin, end) in enumerate(itertools.pairwise(offsets)):
        part = x[begin:end]
        some = part[:: -(-(end - begin) // _MOST_LOOKED_AT)]
        origin = some.sort(dim=0).values[len(some) // 2].nan_to_num(0.0, 0.0, 0.0)
        part = part - origin
        farthest = part.abs().nan_to_num(0.0, 0.0, 0.0).amax()
        scale = torch.where(farthest > _LEAST, torch.frexp(farthest).mantissa / farthest, 1.0)
        origins[b], scales[b] = origin, scale
        samples[begin:end] = part * scale
    return samples, Frame(origins, scales)
