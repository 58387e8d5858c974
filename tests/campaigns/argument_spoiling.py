"""Tuples of arguments spoiled in one or two places, or in none."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import hypothesis.strategies as st
from campaigns import argument_tuples
from campaigns.argument_tuples import Draw
from campaigns.argument_values import (
    CONTENTS,
    DTYPES,
    NUMBERS,
    ODD,
    REFUSED_FORMS,
    VAST,
    WORDS,
    Dtype,
    Odd,
    Out,
    Values,
)

# A large machine has room for that many results, and would fill it.
FACTORS_OF_SIZE = ("count", "num_crops", "per_class", "num_classes")
LARGE = (2**31 - 1, 2**31, 2**32)
ODD_VALUES = st.sampled_from([*map(Odd, ODD)])
EXTREMES = st.sampled_from(
    [-1, 0, 1, 2**31 - 1, 2**31, -(2**31), 2**32, 2**62, 2**63 - 1, -(2**63), 17, 100]
)


@dataclass(frozen=True)
class Tuple:
    """Arguments of one call, by name."""

    op: str
    arguments: dict[str, Any]


def dtype(draw: Draw, value: Values) -> Values:
    return replace(value, dtype=draw(st.sampled_from(DTYPES)))


def shape(draw: Draw, value: Values) -> Values:
    """Draw another shape: a dimension more or less, or of another size."""
    sizes = list(value.shape)
    at = draw(st.integers(0, max(len(sizes) - 1, 0)))
    how = draw(st.sampled_from(["another size", "one more", "one less", "vast", "many"]))
    if how == "many":
        sizes = [1] * draw(st.sampled_from([6, 40])) + sizes
    elif how == "one more":
        sizes.insert(at, draw(st.sampled_from([1, 2, 0])))
    elif sizes and how == "one less":
        del sizes[at]
    elif sizes and how == "vast":
        most = draw(st.sampled_from([2, 0]))  # so that 63 bits count the elements
        sizes = [min(size, most) for size in sizes]
        sizes[at] = VAST
    elif sizes:
        sizes[at] = draw(st.sampled_from([0, 1, 2, 3, 18]))
    content = value.content if isinstance(value.content, str) else "whole"
    return replace(value, shape=tuple(sizes), content=content)


def content(draw: Draw, value: Values) -> Values:
    """Draw other values: of floats another kind, of integers an extreme one in one place."""
    if isinstance(value.content, str) and value.dtype in ("float32", "float16", "bfloat16"):
        return replace(value, content=draw(st.sampled_from(CONTENTS)))
    numbers = [0] * _count(value) if isinstance(value.content, str) else list(value.content)
    if numbers and value.dtype in ("int32", "int64"):
        numbers[draw(st.integers(0, len(numbers) - 1))] = draw(EXTREMES)
        return replace(value, content=tuple(numbers))
    return replace(value, below=draw(st.sampled_from([1, 2, 300])))


def _count(value: Values) -> int:
    count = 1
    for size in value.shape:
        count *= size
    return count if count <= 1000 else 0


def form(draw: Draw, value: Values) -> Values:
    return replace(value, form=draw(st.sampled_from(REFUSED_FORMS)))


def gradient(draw: Draw, value: Values) -> Values:
    return replace(value, requires_grad=True)


WAYS: tuple[Callable[[Draw, Values], Values], ...] = (dtype, shape, shape, content, content, form)


def spoiled(draw: Draw, value: Any) -> Any:
    """Draw a value in place of another, mostly of its kind."""
    if draw(st.sampled_from([False] * 5 + [True])):
        return draw(ODD_VALUES)
    if isinstance(value, Values):
        if draw(st.sampled_from([False] * 7 + [True])):
            return draw(st.sampled_from([None, [value], [value, value], 3, gradient(draw, value)]))
        return draw(st.sampled_from(WAYS))(draw, value)
    if isinstance(value, Out):
        return draw(st.sampled_from([
            replace(value, shape=(*value.shape, 1)), replace(value, shape=value.shape[1:]),
            replace(value, dtype="float64"), replace(value, dtype="int64"),
            Values(value.shape, value.dtype, "array"), Values(value.shape, value.dtype, "guest"),
        ]))  # fmt: skip
    if isinstance(value, Dtype):
        return draw(st.sampled_from([*map(Dtype, DTYPES), "float32", None, 3]))
    if isinstance(value, list) and value:
        return _spoiled_list(draw, value)
    return draw(st.sampled_from(WORDS if isinstance(value, str) else NUMBERS))


def _spoiled_list(draw: Draw, value: list[Any]) -> Any:
    how = draw(st.sampled_from(["an item", "an item", "fewer", "more", "none", "a tuple", "one"]))
    at = draw(st.integers(0, len(value) - 1))
    if how == "an item":
        return [*value[:at], spoiled(draw, value[at]), *value[at + 1 :]]
    whole = {"fewer": value[:at], "more": [*value, value[at]], "a tuple": tuple(value)}
    return whole.get(how, [] if how == "none" else value[0])


@st.composite
def tuples(draw: Draw, op: str) -> Tuple:
    """Draw arguments for an op."""
    given = getattr(argument_tuples, op)(draw)
    for _ in range(draw(st.sampled_from([0, 0, 0, 1, 1, 1, 1, 2]))):
        name = draw(st.sampled_from(sorted(given)))
        given[name] = spoiled(draw, given[name])
        if name in FACTORS_OF_SIZE and given[name] in LARGE:
            given[name] = VAST
    how = draw(st.sampled_from(["whole"] * 18 + ["left out", "unknown"]))
    if how == "left out":
        del given[draw(st.sampled_from(sorted(given)))]
    elif how == "unknown":
        given[draw(st.sampled_from(["image", "X", "axis", "Seed", "out_dtype"]))] = 1
    return Tuple(op, given)
