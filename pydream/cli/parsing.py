"""The arguments of this process, parsed into the call of a command."""

from __future__ import annotations

import sys

import tyro

from pydream.cli.commands import COMMANDS
from pydream.cli.help import help_page
from pydream.cli.options import named_command
from pydream.cli.usage import one_line_errors


def run() -> None:
    """Parse the arguments of this process, and run the named command or show its help."""
    arguments = sys.argv[1:]
    command = named_command(arguments, COMMANDS)
    if {"-h", "--help"} & {*arguments} and (command or arguments[0].startswith("-")):
        print(help_page(command, COMMANDS), end="")
    else:
        parse()


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
