"""Runs the command line: ``python -m pydream``."""

from __future__ import annotations

from pydream.cli import main

if __name__ == "__main__":
    main()
