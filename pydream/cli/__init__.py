"""The command line: parses into the same dataclasses as the API and calls the same functions."""

from __future__ import annotations

import io
import os
import sys
import warnings
from pathlib import Path
from typing import TextIO

from pydream.errors import PydreamError

_PACKAGE = Path(__file__).resolve().parents[1]
_STOPPED = (
    "stopped; what was finished is kept: `pydream rded`, `dream`, `observer` and `evaluate` go on "
    "with it when the same command is given again with --resume, `relabel` without"
)


def main() -> None:
    """Run the command line; exit with 2 for user errors, 130 for Ctrl-C, 1 for a closed pipe."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # what a terminal or a log cannot show
    try:
        try:
            _run()
        finally:
            sys.stdout.flush()  # so that a closed pipe is found here
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.stdout, sys.stderr):  # Python flushes them once more at its end
            os.dup2(nowhere, stream.fileno())
        raise SystemExit(1) from None
    except PydreamError as error:
        print(f"pydream: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"pydream: {_STOPPED}", file=sys.stderr)
        raise SystemExit(130) from None


def _run() -> None:
    if sys.argv[1:] == ["--version"]:
        from pydream import __version__

        print(f"pydream {__version__}")
        return
    from pydream.cli.commands import run

    with warnings.catch_warnings():
        warnings.showwarning = _show_warning
        run()


def _show_warning(
    message: Warning | str,
    category: type[Warning],
    filename: str,
    lineno: int,
    file: TextIO | None = None,
    line: str | None = None,
) -> None:
    """Print a warning of ours as a line of its own; those of other packages as Python does."""
    ours = _PACKAGE in Path(filename).resolve().parents
    python_words = warnings.formatwarning(message, category, filename, lineno, line)
    print(f"pydream: {message}" if ours else python_words.rstrip(), file=file or sys.stderr)
