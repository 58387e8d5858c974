"""The arguments of this process, parsed into the call of a command."""

from __future__ import annotations

import os
import sys

import tyro

from pydream.cli.commands import COMMANDS
from pydream.cli.help import help_page
from pydream.cli.options import named_command
from pydream.cli.usage import one_line_errors
from pydream.errors import PydreamError


def run() -> None:
    """Parse the arguments of this process, and run the named command or show its help."""
    arguments = sys.argv[1:]
    command = named_command(arguments, COMMANDS)
    if {"-h", "--help"} & {*arguments} and (command or arguments[0].startswith("-")):
        print(help_page(command, COMMANDS), end="")
        return
    if command[:1] != ["doctor"]:  # which names it beside other problems
        _check_instruction_set()
    parse()


def _check_instruction_set() -> None:
    """Raise PydreamError if PYDREAM_ISA names an instruction set that is not available here."""
    if "PYDREAM_ISA" not in os.environ:
        return
    from pydream import _C

    try:
        _C.active_isa()
    except ValueError as error:
        raise PydreamError(f"PYDREAM_ISA: {error}; unset it") from error


def parse() -> None:
    """Let tyro parse the arguments and call the command."""
    app = tyro.extras.SubcommandApp()
    for name, function in COMMANDS.items():
        app.command(name=name)(function)
    with one_line_errors(COMMANDS):
        app.cli(
            prog="pydream",
            description="Dataset distillation, fast and dependable.",
            config=(tyro.conf.FlagCreatePairsOff, tyro.conf.OmitSubcommandPrefixes),
        )
