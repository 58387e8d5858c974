"""The command line: parses into the same dataclasses as the API and calls the same functions."""

from __future__ import annotations

import sys

from pydream.errors import PydreamError


def main() -> None:
    """Run the command line; exit with 2 for user errors, 130 for Ctrl-C."""
    if sys.argv[1:] == ["--version"]:
        from pydream import __version__

        print(f"pydream {__version__}")
        return
    from pydream.cli.commands import run

    try:
        run()
    except PydreamError as error:
        print(f"pydream: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print(
            "pydream: stopped; what was finished is kept: `pydream rded`, `dream` and `evaluate` "
            "go on with it when the same command is given again with --resume, `relabel` without",
            file=sys.stderr,
        )
        raise SystemExit(130) from None
