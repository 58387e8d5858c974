"""The version of the package in what it writes, and versions of formats in what it reads."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pydream.errors import PydreamError

PACKAGE = "pydream-distill"
__version__ = version(PACKAGE)


def package_record() -> dict[str, str]:
    """Return what files say of the package that wrote them: its ``name`` and ``version``."""
    return {"name": PACKAGE, "version": __version__}


def check_format(file: Path, version: int, newest: int) -> None:
    """See that a file is in a format that this version of the package knows.

    Parameters
    ----------
    file
        The file.
    version
        Version of its format.
    newest
        The newest version that can be read.

    Raises
    ------
    PydreamError
        If the format is newer.
    """
    if version > newest:
        raise PydreamError(
            f"{file}: format {version} is newer than the {newest} this version reads; "
            f"upgrade {PACKAGE}"
        )
