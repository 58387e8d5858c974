"""Errors meant for the person at the keyboard: one line that says what, where, and what to do."""

from __future__ import annotations


class PydreamError(Exception):
    """Something the user gave cannot be used; the command line prints it and exits with 2."""


class ImageError(PydreamError):
    """One image cannot be read; the message is the reason, without the image's name."""


class MissingSplitError(PydreamError):
    """A source has no images, or no labelled ones, of the split that is asked for."""


def first_line(error: BaseException) -> str:
    """Return the first line of an error's message, or the error's name if it has no message."""
    return next(iter(str(error).strip().splitlines()), "") or type(error).__name__
