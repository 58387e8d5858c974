"""Types of the entries of JSON files, which may come from anyone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from typing import Any

_LARGEST = sys.float_info.max

Check = Callable[[Any], bool]
"""Function that returns whether a value of a JSON file has a type."""


def parse_json(text: str | bytes, **options: Any) -> Any:
    """Return the value of a JSON text; `options` are those of `json.loads`.

    Raises
    ------
    ValueError
        If it is none, or nested too deeply.
    """
    try:
        return json.loads(text, **options)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def is_text(value: Any) -> bool:
    """Return whether a value is a text."""
    return type(value) is str


def is_unicode(text: str) -> bool:
    """Return whether UTF-8 can hold a text, unlike the half characters that JSON can name."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def is_whole(value: Any) -> bool:
    """Return whether a value is a whole number."""
    return type(value) is int


def is_positive(value: Any) -> bool:
    """Return whether a value is a whole number above 0."""
    return type(value) is int and value > 0


def is_number(value: Any) -> bool:
    """Return whether a value is a finite number that a float can hold."""
    return type(value) in (int, float) and abs(value) <= _LARGEST


def is_mapping(value: Any) -> bool:
    """Return whether a value has names for its entries."""
    return type(value) is dict


def is_texts(value: Any) -> bool:
    """Return whether a value has names for its entries, which are texts."""
    return type(value) is dict and all(map(is_text, value.values()))


def list_of(check: Check) -> Check:
    """Return the check of a list, whose values have a type."""
    return lambda value: type(value) is list and all(map(check, value))


def one_of(*values: str) -> Check:
    """Return the check of a value that is one of some texts."""
    return lambda value: type(value) is str and value in values


def mapping_of(required: Mapping[str, Check], others: Mapping[str, Check] | None = None) -> Check:
    """Return the check of an object, whose entries `check_entries` accepts."""

    def check(value: Any) -> bool:
        try:
            check_entries(value, required, others or {})
        except (KeyError, TypeError):
            return False
        return True

    return lambda value: is_mapping(value) and check(value)


def or_none(check: Check) -> Check:
    """Return the check of a value that has a type or is None."""
    return lambda value: value is None or check(value)


def check_entries(
    content: Mapping[str, Any], required: Mapping[str, Check], others: Mapping[str, Check]
) -> None:
    """Check the entries of a JSON file.

    Parameters
    ----------
    content
        The content of the file. Entries without a check may be anything.
    required, others
        Checks of the entries that it must have, and of those that it may have.

    Raises
    ------
    KeyError
        If a required entry is missing.
    TypeError
        If an entry has another type.
    """
    for name in (*required, *(name for name in others if name in content)):
        check = required.get(name) or others[name]
        if not check(content[name]):
            raise TypeError(f"{name} is {content[name]!r:.60}")
