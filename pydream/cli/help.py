"""The pages of ``--help``: options in groups, one paragraph each, and examples.

tyro groups options by the dataclass that declares them, and only under a prefix
(``--method.seed``). The settings here are flat, so these pages are generated from the same
annotations and docstrings.
"""

from __future__ import annotations

import dataclasses
import functools
import re
import shutil
import textwrap
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import docstring_parser

from pydream.cli.options import PROFILED, Commands, Option, grouped_options, options_of

_COLUMN = 24  # start of the descriptions
_WIDEST = 100
_INTRODUCTION = "Dataset distillation, fast and dependable."
_EXAMPLES = (
    "pydream demo",
    "pydream observer imagenette --arch resnet18 --out resnet18.safetensors",
    "pydream rded imagenette --observer resnet18.safetensors --ipc 10 --out distilled",
    "pydream evaluate distilled --observer resnet18.safetensors",
)
_PROFILED = (
    "Run `pydream {0}` and show where its time goes. Without --out, the result is discarded. "
    "Options of `pydream profile` itself go before the word {0}."
)


def help_page(command: Sequence[str], commands: Commands) -> str:
    """Write the help of one command or, if none is named, of the whole command line.

    Parameters
    ----------
    command
        Words that name the command: none, one, or ``("profile", method)``.
    commands
        The functions of all commands, by name.

    Returns
    -------
    str
        The page, as wide as the terminal, but at most 100 characters.
    """
    return "\n\n".join(_sections(command, commands)) + "\n"


def description(option: Option) -> str:
    """Return the description of an option as one paragraph ending with its default."""
    text = option.help or _descriptions(option.owner)[option.field]
    text = " ".join(text.split())
    if option.flag and option.default:
        return f"Turn off {text[0].lower()}{text[1:]}"
    if option.required:
        return text if not option.names else f"{text} (required)"
    if option.flag or option.default in (None, ()):
        return text
    default = option.default
    words = " ".join(map(str, default)) if isinstance(default, tuple) else str(default)
    return f"{text} (default: {words})"


def examples(command: str, commands: Commands) -> list[str]:
    """Return the example command lines in the docstring of a command."""
    parsed = docstring_parser.parse(commands[command].__doc__ or "")
    return [line for part in parsed.examples for line in (part.description or "").splitlines()]


def _sections(command: Sequence[str], commands: Commands) -> Iterator[str]:
    if not command:
        yield "usage: pydream COMMAND [options]"
        yield _filled(_INTRODUCTION)
        yield _table("Commands", [(name, _summary(name, commands)) for name in commands])
        about_help = "Show this help or, after a command, the help of that command."
        rows = [("-h, --help", about_help), ("--version", "Show the version.")]
        yield _table("Options", rows)
        yield _lines("Examples", _EXAMPLES)
        return
    name = command[-1]
    yield _usage(command, options_of(name, commands))
    if len(command) > 1:
        yield _filled(_PROFILED.format(name))
    else:
        yield _filled(_summary(name, commands))
    if name == "profile":
        about = "Profile a run of `pydream {0}`; see `pydream profile {0} --help`."
        yield _table("Commands", [(method, about.format(method)) for method in PROFILED])
    for title, options in grouped_options(name, commands).items():
        rows = [(_written(option), description(option)) for option in options]
        if title == "Output":
            rows.append(("-h, --help", "Show this help."))
        yield _table(title, rows)
    shown = [line for line in examples(command[0], commands) if name in line.split()]
    yield _lines("Examples" if len(shown) > 1 else "Example", shown)


def _usage(command: Sequence[str], options: Iterable[Option]) -> str:
    """Return a line with the command, its required options, and the place of the others."""
    words = ["usage: pydream", command[0], *(["[options]", *command[1:]] if command[1:] else [])]
    if command == ["profile"]:
        return " ".join([*words, "[options]", f"{{{','.join(PROFILED)}}} ..."])
    required = sorted((option for option in options if option.required), key=lambda it: it.names)
    return " ".join([*words, *map(_written, required), "[options]"])


def _summary(name: str, commands: Commands) -> str:
    return (commands[name].__doc__ or "").partition("\n")[0]


def _written(option: Option) -> str:
    return f"{', '.join(option.names)} {option.metavar}".strip()


@functools.cache
def _descriptions(owner: Any) -> dict[str, str]:
    """Return the descriptions of a function's parameters or a dataclass's fields, by name."""
    if not isinstance(owner, type):
        parsed = [docstring_parser.parse(owner.__doc__ or "")]
    else:
        bases = [base for base in reversed(owner.__mro__) if dataclasses.is_dataclass(base)]
        parsed = [docstring_parser.parse_from_object(base) for base in bases]
    return {part.arg_name: part.description or "" for one in parsed for part in one.params}


def _width() -> int:
    return min(shutil.get_terminal_size().columns, _WIDEST)


def _filled(text: str) -> str:
    return textwrap.fill(text, _width())


def _lines(title: str, lines: Iterable[str]) -> str:
    return "\n".join([title, *(f"  {line}" for line in lines)])


def _table(title: str, rows: Iterable[tuple[str, str]]) -> str:
    lines = [title]
    for name, text in rows:
        beside = len(name) <= _COLUMN - 4
        first = f"  {name}".ljust(_COLUMN) if beside else " " * _COLUMN
        wide = max(_width(), 2 * _COLUMN)
        if not beside:
            lines += _broken(f"  {name}", wide)
        lines.append(
            textwrap.fill(
                text,
                wide,
                initial_indent=first,
                subsequent_indent=" " * _COLUMN,
                break_on_hyphens=False,
                break_long_words=False,
            )
        )
    return "\n".join(lines)


def _broken(name: str, wide: int) -> list[str]:
    """Break an option with many choices after commas."""
    lines = [""]
    for part in re.split(r"(?<=,)", name):
        if lines[-1] and len(lines[-1]) + len(part) > wide:
            lines.append(" " * 4)
        lines[-1] += part
    return lines
