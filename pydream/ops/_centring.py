"""float64 samples, centred near the origin before they are rounded to float32."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from pydream.ops._problems import per_centroid

_MOST_LOOKED_AT = 255
"""Number of rows whose median becomes the origin."""
_LEAST = 2.0**-960
"""Smallest range of a problem that is scaled; below it, the scale would overflow."""


class Frame(NamedTuple):
    """The frame of each problem in float64: the kernels see a sample x as ``(x - origin) * scale``.

    The scale is a power of two, so it rounds nothing.
    """

    origin: Tensor  # float64 (B, D)
    scale: Tensor  # float64 (B,)

    def enter(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Transform rows, `counts` of each problem, into the frame, as float32."""
        origin, scale = self._each(counts)
        return ((rows.double() - origin) * scale).float()

    def leave(self, rows: Tensor, counts: list[int]) -> Tensor:
        """Undo `enter`: return rows in float64, outside of the frame."""
        origin, scale = self._each(counts)
        return rows.double() / scale + origin

    def _each(self, counts: list[int]) -> tuple[Tensor, Tensor]:
        if len(counts) == 1:
            return self.origin, self.scale[:, None]
        problem = per_centroid(list(range(len(counts))), counts, self.origin.device)
        return self.origin[problem], self.scale[problem, None]


def centred(x: Tensor, offsets: list[int]) -> tuple[Tensor, Frame]:
    """Return samples (total, D) for the kernels, float32, and their frame.

    The origin of a problem is the median, dimension by dimension, of at most 255 of its samples,
    evenly spaced. A median is one of the values, so it does not depend on the order of a sum, and
    outliers do not move it away from the bulk of the samples.
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
