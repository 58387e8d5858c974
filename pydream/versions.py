"""The version of the package in files that it writes, and format versions in those it reads."""

from __future__ import annotations

from importlib.metadata import version
from pathlib import Path

from pydream.errors import PydreamError

PACKAGE = "pydream-distill"
__version__ = version(PACKAGE)


def package_record() -> dict[str, str]:
    """Return the record of the package in its files: its ``name`` and ``version``."""
    return {"name": PACKAGE, "version": __version__}


def check_format(file: Path, version: int, newest: int) -> None:
    """Check that this version of the package can read the format of a file.

    Parameters
    ----------
    file
        The file.
    version
        Version of the file's format.
    newest
        Newest readable version.

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
