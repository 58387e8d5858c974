"""Arrays of Arrow from values and back, made without pandas.

`pyarrow.array`, `pyarrow.scalar` and `Array.to_numpy` import pandas wherever it is installed, to
find out whether their argument comes from it. The import takes a third of a second.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa


def strings(values: Sequence[str]) -> pa.LargeStringArray:
    """Return an array of strings.

    Raises
    ------
    UnicodeEncodeError
        If one cannot be encoded in UTF-8.
    """
    text = "".join(values)
    try:
        encoded = text.encode()
    except UnicodeEncodeError:
        for value in values:
            value.encode()  # the error of one is about that one alone
        raise
    if len(encoded) == len(text):
        sizes = [len(value) for value in values]
    else:
        sizes = [len(value.encode()) for value in values]
    ends = np.zeros(len(values) + 1, np.int64)
    np.cumsum(sizes, out=ends[1:])
    return pa.LargeStringArray.from_buffers(len(values), pa.py_buffer(ends), pa.py_buffer(encoded))


def numbers(values: npt.NDArray[np.number], known: npt.NDArray[np.bool_] | None = None) -> pa.Array:
    """Return an array of numbers, in memory that it shares with `values` if that is contiguous.

    Parameters
    ----------
    values
        (n,) integers or floats, in the byte order of the machine.
    known
        (n,) bool: False where the array has no number; by default it has all.
    """
    data = np.ascontiguousarray(values)
    valid = None if known is None else pa.py_buffer(np.packbits(known, bitorder="little"))
    kind = pa.from_numpy_dtype(data.dtype)
    return pa.Array.from_buffers(kind, len(data), [valid, pa.py_buffer(data)])


def optional_numbers(values: Sequence[float | None], dtype: npt.DTypeLike) -> pa.Array:
    """Return an array of numbers, some of which may be missing (None).

    Raises
    ------
    OverflowError
        If `dtype` is one of integers, and does not hold a value as it is.
    """
    known = np.array([value is not None for value in values], dtype=np.bool_)
    given = np.array([0 if value is None else value for value in values])
    with np.errstate(invalid="ignore"):  # what does not fit is found below
        data = given.astype(dtype)
    if np.issubdtype(dtype, np.integer) and (data != given).any():
        raise OverflowError(f"{given[data != given][0]} does not fit into {np.dtype(dtype)}")
    return numbers(data, None if known.all() else known)


def as_numpy(values: pa.Array | pa.ChunkedArray) -> npt.NDArray[Any]:
    """Return the integers or floats of an array without missing ones; not to be written to.

    Raises
    ------
    ValueError
        If one is missing.
    """
    whole = values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values
    if whole.null_count:
        raise ValueError(f"{whole.null_count} of {len(whole)} numbers are missing")
    dtype = np.dtype(whole.type.to_pandas_dtype())
    if len(whole) == 0:
        return np.empty(0, dtype)
    return np.frombuffer(whole.buffers()[1], dtype, len(whole), whole.offset * dtype.itemsize)
