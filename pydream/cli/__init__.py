"""The command line: parses into the same dataclasses as the API and calls the same functions."""

from __future__ import annotations

import atexit
import contextlib
import gc
import io
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TextIO, cast

from pydream.errors import (
    OtherRankError,
    PydreamError,
    UnfinishedError,
    is_out_of_memory,
    printable,
)
from pydream.files import RESUME, STOPPED
from pydream.launchers import place_of_rank
from pydream.processors import sleep_sooner
from pydream.progress import is_silent

_PACKAGE = Path(__file__).resolve().parents[1]
_CONTINUED = (
    "rded",
    "dream",
    "dream-compare",
    "experts",
    "refine",
    "observer",
    "evaluate",
    "relabel",
    "merge",
)
_OUT_OF_MEMORY = (
    "out of memory: end other programs, or let it take less at a time, by a smaller --batch-size, "
    "--workers or --memory-budget where the command has them"
)


def main() -> None:
    """Run the command line; exit with 2 for user errors, 130 for Ctrl-C, 1 for a closed pipe."""
    # Else Python looks for cycles among all objects of PyTorch before it ends: half a second.
    atexit.register(gc.freeze)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # characters that a terminal or a log cannot show
    output = _Output(sys.stdout or io.StringIO())  # Python has None for a closed stream
    try:
        place = place_of_rank()
        if place is not None:
            # Else PyTorch tells of every connection that a rank's end closes.
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        if place is not None and place.rank > 0:  # the first rank speaks for all
            output = _Output(io.StringIO())
        with contextlib.redirect_stdout(cast("TextIO", output)):
            try:
                _run()
            finally:
                sys.stdout.flush()  # so that a closed pipe or a full disk is noticed here
    except BrokenPipeError:
        _drop(sys.stdout, sys.stderr)
        raise SystemExit(1) from None
    except UnfinishedError as told:
        print(f"pydream: {told}", file=sys.stderr)
    except OtherRankError:
        raise SystemExit(2) from None
    except PydreamError as error:
        print(f"pydream: {printable(str(error))}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(f"pydream: {STOPPED if _is_continued() else 'stopped'}", file=sys.stderr)
        raise SystemExit(130) from None
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        advice = f"{_OUT_OF_MEMORY}; {RESUME}" if _is_continued() else _OUT_OF_MEMORY
        print(f"pydream: {advice}", file=sys.stderr)
        raise SystemExit(2) from None


def _is_continued() -> bool:
    """Return whether the command keeps what it has finished, and continues from there."""
    return sys.argv[1:2] != [] and sys.argv[1] in _CONTINUED and "--dry-run" not in sys.argv


class _Output:
    """Standard output, whose errors are distinguished from those of other files."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        with self._errors():
            return self._stream.write(text)

    def flush(self) -> None:
        with self._errors():
            self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except BrokenPipeError:
            raise
        except OSError as error:
            _drop(self._stream)
            reason = error.strerror or error
            raise PydreamError(f"standard output cannot be written: {reason}") from error


def _drop(*streams: TextIO) -> None:
    """Discard the rest of streams, which Python would flush once more at its end."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in streams:
        os.dup2(nowhere, stream.fileno())


def _run() -> None:
    if sys.argv[1:] == ["--version"]:
        from pydream import __version__

        print(f"pydream {__version__}")
        return
    from pydream.cli.several_gpus import started_on_all_gpus

    sleep_sooner()
    if started_on_all_gpus(sys.argv[1:]):
        return
    from pydream.cli.parsing import run

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
    """Print a warning of pydream as a line of its own, and those of other packages as usual."""
    if is_silent():
        return
    ours = _PACKAGE in Path(filename).resolve().parents
    python_words = warnings.formatwarning(message, category, filename, lineno, line)
    print(
        f"pydream: {printable(str(message))}" if ours else python_words.rstrip(),
        file=file or sys.stderr,
    )
