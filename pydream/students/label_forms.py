"""Forms of stored logits: how many of each row are kept, and in how many bits."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch

from pydream.students.config import Bits


class Layout(NamedTuple):
    """Type and shape of a stored tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        """Size in bytes."""
        return int(np.prod(self.shape)) * self.dtype.itemsize


@dataclass(frozen=True)
class LabelForm:
    """Form of stored logits.

    Attributes
    ----------
    top_k
        Number of highest logits kept of each row; None for all. For the others, the logarithm of
        their summed exponentials is stored, and readers divide it evenly among them.
    bits
        Bits of each logit. With 8 or 4, a row has a step of its own, and its logits are counted in
        steps below its highest.
    """

    top_k: int | None = None
    bits: Bits = 16

    def kept(self, num_classes: int) -> int:
        """Return the number of logits kept of each row."""
        return num_classes if self.top_k is None else self.top_k

    def layout(self, rows: int, num_classes: int) -> dict[str, Layout]:
        """Return the tensors of an epoch, by name."""
        kept = self.kept(num_classes)
        if self.bits == 16:
            tensors = {"logits": Layout(torch.float16, (rows, kept))}
        else:
            tensors = {
                "codes": Layout(torch.uint8, (rows, -(-kept * self.bits // 8))),
                "highest": Layout(torch.float16, (rows,)),
                "step": Layout(torch.float16, (rows,)),
            }
        if self.top_k is not None:
            tensors["classes"] = Layout(_class_dtype(num_classes), (rows, kept))
            tensors["others"] = Layout(torch.float32, (rows,))
        return tensors

    def most_bytes(self, rows: int, num_classes: int) -> int:
        """Return a size that the file of an epoch cannot exceed, some bytes above its true one."""
        layout = self.layout(rows, num_classes)
        size = sum(one.nbytes for one in layout.values())
        header = {
            name: {"dtype": "F16", "shape": one.shape, "data_offsets": [size, size]}
            for name, one in layout.items()
        }
        # safetensors writes 8 bytes with the length of its header, and pads that to 8 bytes; it
        # writes no spaces, as json does.
        return 16 + len(json.dumps(header)) + size

    def encode(self, logits: torch.Tensor, temperature: float) -> dict[str, torch.Tensor]:
        """Return the tensors that hold some logits.

        Parameters
        ----------
        logits
            (R, K) float32, of magnitudes that float16 can hold.
        temperature
            Temperature that the logits beyond `top_k` are divided by before they are summed.

        Returns
        -------
        dict[str, Tensor]
            On the CPU, as `layout` describes them.
        """
        logits = logits.cpu()
        tensors = {}
        if self.top_k is not None:
            highest = logits.topk(self.top_k, dim=1)
            others = logits.scatter(1, highest.indices, -torch.inf) / temperature
            tensors = {
                "classes": highest.indices.to(_class_dtype(logits.shape[1])),
                "others": torch.logsumexp(others, dim=1),
            }
            logits = highest.values
        if self.bits == 16:
            return {"logits": logits.half(), **tensors}
        return {**_quantise(logits, self.bits), **tensors}

    def logits(self, stored: Mapping[str, torch.Tensor], num_classes: int) -> torch.Tensor:
        """Return the logits that are kept of some rows, (B, kept) float32."""
        if self.bits == 16:
            return stored["logits"].float()
        codes = stored["codes"]
        if self.bits == 4:
            codes = torch.stack([codes & 15, codes >> 4], dim=2).flatten(1)
        below = codes[:, : self.kept(num_classes)] * stored["step"].float()[:, None]
        return stored["highest"].float()[:, None] - below

    def probabilities(
        self, stored: Mapping[str, torch.Tensor], num_classes: int, temperature: float
    ) -> torch.Tensor:
        """Return the class probabilities of some rows.

        Parameters
        ----------
        stored
            Those rows of the tensors of an epoch.
        num_classes
            Number of classes.
        temperature
            Temperature that the logits are divided by before the softmax.

        Returns
        -------
        Tensor
            (B, K) float32.
        """
        logits = self.logits(stored, num_classes) / temperature
        if self.top_k is None:
            return torch.softmax(logits, dim=1)
        kept = self.top_k
        shares = torch.softmax(torch.cat([logits, stored["others"][:, None]], dim=1), dim=1)
        even = shares[:, kept:] / max(num_classes - kept, 1)
        return even.repeat(1, num_classes).scatter(1, stored["classes"].long(), shares[:, :kept])


def _class_dtype(num_classes: int) -> torch.dtype:
    """Return the smallest type for the number of a class."""
    if num_classes <= 2**8:
        return torch.uint8
    return torch.int16 if num_classes <= 2**15 else torch.int32


def _quantise(logits: torch.Tensor, bits: int) -> dict[str, torch.Tensor]:
    """Count each logit in steps below the highest of its row.

    The highest and the step are rounded upwards to float16, so that the steps reach all logits and
    none is off by more than half a step.
    """
    most = 2**bits - 1
    highest = _rounded_up(logits.amax(1))
    below = highest.float()[:, None] - logits
    step = _rounded_up(below.amax(1) / most)
    counted = below / step.float().clamp(min=torch.finfo(torch.float32).tiny)[:, None]
    codes = counted.round().clamp(0, most).to(torch.uint8)
    if bits == 4:
        codes = torch.nn.functional.pad(codes, (0, codes.shape[1] % 2))
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    return {"codes": codes.contiguous(), "highest": highest, "step": step}


def _rounded_up(values: torch.Tensor) -> torch.Tensor:
    """Return the smallest float16 values that are not below float32 ones."""
    given = values.numpy()
    half = given.astype(np.float16)
    return torch.from_numpy(np.where(half < given, np.nextafter(half, np.float16(np.inf)), half))
