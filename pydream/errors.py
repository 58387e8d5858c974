"""Errors meant for the user: one line that says what, where, and what to do."""

from __future__ import annotations

import errno
import re
from collections.abc import Callable
from typing import TypeVar

# Words of PyTorch's allocator, the C++ library, the loader of shared libraries, threads of Python
# and of C++, oneDNN, and Python itself, which here and there loses the MemoryError.
_OUT_OF_MEMORY = re.compile(
    "can't allocate memory|bad_alloc|Cannot allocate memory|can't start new thread"
    "|Resource temporarily unavailable|could not create a primitive$"
    "|^error return without exception set$"
)

Given = TypeVar("Given")
Result = TypeVar("Result")

_LONGEST = 2000  # characters of a message
_ERROR_LENGTH = 200  # characters of another error in it


class PydreamError(Exception):
    """An input from the user cannot be used; the command line prints the error and exits with 2.

    The message is one line, whatever the names in it: characters that do not show are escaped, and
    the middle of more than 2000 characters is left out.
    """

    def __init__(self, message: str = "") -> None:
        text = printable(message)
        if len(text) > _LONGEST:
            half = _LONGEST // 2 - 2
            text = f"{text[:half]} … {text[-half:]}"
        super().__init__(text)


class ImageError(PydreamError):
    """An image cannot be read; the message is the reason, without the image's name."""


class MissingSplitError(PydreamError):
    """A source has no images, or no labelled ones, of the requested split."""


class OtherRankError(PydreamError):
    """Another rank of the run has failed, and tells why; this one ends without a word."""


class UnfinishedError(PydreamError):
    """A shard has done its part, and others have not; this is no failure."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's name if it has no message."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__


def error_words(error: BaseException) -> str:
    """Return the name of an error and the start of its message, for a file that anyone may write.

    Its ``repr`` may be far longer: that of a UnicodeDecodeError has the whole file in it.
    """
    return f"{type(error).__name__}: {first_line(error):.{_ERROR_LENGTH}}"


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that memory, or a thread's share of it, cannot be had."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError) and error.errno == errno.ENOMEM:
        return True
    return _OUT_OF_MEMORY.search(str(error)) is not None


def printable(text: str) -> str:
    """Return a text in which characters that do not show, as a terminal's commands, are escaped."""
    text = text.encode("utf-8", "backslashreplace").decode()
    return "".join(
        character if character.isprintable() else ascii(character)[1:-1] for character in text
    )


def returned(function: Callable[[Given], Result], argument: Given) -> Result | ImageError:
    """Call a function that reads an image, and return its ImageError instead of raising it."""
    try:
        return function(argument)
    except ImageError as error:
        return error
