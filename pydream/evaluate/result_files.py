"""The files of the result of an evaluation, under the first free number."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from pydream.evaluate.label_curve import curve_figure, label_curve
from pydream.evaluate.page import results_page
from pydream.evaluate.results import EvaluationResult, EvaluationRow, accuracy_figure, content
from pydream.files import RESUME, disk_errors, first_free, write_whole


def write_results(
    folder: Path, facts: dict[str, Any], rows: tuple[EvaluationRow, ...]
) -> EvaluationResult:
    """Write ``results-0001.json``, or the first free number; a page and figures of the same name.

    The JSON file is written last. A killed run leaves an empty one at most, and the next run takes
    its number.

    Raises
    ------
    PydreamError
        If the folder cannot be written.
    """
    text = json.dumps(content(facts, rows), indent=2) + "\n"
    figure, curve = accuracy_figure(rows), label_curve(rows)
    figures = {"Top-1 at the last epoch": figure}
    if curve:
        figures["Accuracy against the bytes of labels"] = curve_figure(curve)
    page = results_page(facts, [row.as_dict() for row in rows], figures)
    with ExitStack() as stack:
        with disk_errors(folder, RESUME):
            path = first_free(
                lambda number: folder / f"results-{number:04d}.json",
                lambda file: stack.enter_context(_claimed(file)),
            )
        places = (path.with_suffix(".png"), curve_file(path))
        for place, data in zip(places, figures.values(), strict=False):
            write_whole(place, data, RESUME)
        write_whole(path.with_suffix(".html"), page.encode(), RESUME)
        write_whole(path, text.encode(), RESUME)
    return EvaluationResult(path, facts, rows)


def curve_file(path: Path) -> Path:
    """Return the file of the figure of accuracy against bytes, of a result of some path."""
    return path.with_name(f"{path.stem}-labels.png")


@contextmanager
def _claimed(file: Path) -> Iterator[None]:
    """Keep an empty file for this process in the block, and remove it if it is still empty then.

    Raises
    ------
    FileExistsError
        If it has content, or another process keeps it.
    """
    try:
        descriptor, made = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666), True
    except FileExistsError:
        if file.stat().st_size:
            raise
        descriptor, made = os.open(file, os.O_WRONLY), False
    try:
        if not _lock(descriptor, made) or not _is_empty(descriptor, file):
            raise FileExistsError(f"{file} is of another process")
        try:
            yield
        finally:
            with contextlib.suppress(OSError):
                if _is_empty(descriptor, file):
                    file.unlink()
    finally:
        os.close(descriptor)


def _lock(descriptor: int, made: bool) -> bool:
    """Lock a file; where locks are unknown, the process that made the file may have it."""
    try:
        import fcntl
    except ImportError:  # absent on Windows
        return made
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return made
    return True


def _is_empty(descriptor: int, file: Path) -> bool:
    """Return whether a file is still the one that was opened, and empty."""
    opened = os.fstat(descriptor)
    return opened.st_size == 0 and os.path.samestat(opened, file.stat())
