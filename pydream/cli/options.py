"""Marks on the parameters of commands, for tyro."""

from __future__ import annotations

from typing import Annotated

import tyro

Json = Annotated[bool, tyro.conf.arg(help="Print the result as JSON, for machines.")]
Whole = tyro.conf.arg(name="")
"""The options of a dataclass are those of the command, without a prefix."""
