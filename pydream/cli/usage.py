"""What is wrong with a command line, in one line."""

from __future__ import annotations

import dataclasses
import difflib
import itertools
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, get_type_hints

from pydream.errors import PydreamError

if TYPE_CHECKING:
    from tyro._arguments import ArgumentDefinition
    from tyro._errors import ParseErrorEvent

_NEAREST = 3
Commands = Mapping[str, Callable[..., None]]


@contextmanager
def one_line_errors(commands: Commands) -> Iterator[None]:
    """Turn what tyro cannot parse inside the block into a PydreamError.

    The hook is not part of tyro's public interface. Without it tyro prints its own, longer errors.
    """
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        yield
        return

    def refuse(event: ParseErrorEvent) -> None:
        words, command = _words_of(sys.argv[1:], commands)
        message = _message(event, words, commands)
        if message is not None:
            raise PydreamError(f"{message}; see `{' '.join(['pydream', *command, '--help'])}`")

    with on_parse_error(refuse):
        yield


def options_of(command: Sequence[str], commands: Commands) -> list[str]:
    """List the options of a command, as ``["rded"]`` or ``["profile", "rded"]``."""
    hints = get_type_hints(commands[command[0]])
    if len(command) > 1:
        hints = get_type_hints(commands[command[1]])
    options = ["--help"]
    for name, kind in hints.items():
        if dataclasses.is_dataclass(kind):
            for field in dataclasses.fields(kind):
                if "Positional" not in str(field.type):
                    options.append(_option(field.name, negated=field.default is True))
            options += _aliases(kind)
        elif name not in ("return", "method"):
            options.append(_option(name))
    return options


def _aliases(settings: object) -> list[str]:
    """List other names of options that the annotations of settings give."""
    hints = get_type_hints(settings, include_extras=True)
    marks = [mark for hint in hints.values() for mark in getattr(hint, "__metadata__", ())]
    return [alias for mark in marks for alias in getattr(mark, "aliases", None) or ()]


def _option(name: str, *, negated: bool = False) -> str:
    return ("--no-" if negated else "--") + name.replace("_", "-")


def _words_of(arguments: Sequence[str], commands: Commands) -> tuple[str, list[str]]:
    """Return the command that the arguments name, in words and as a list."""
    command = [each for each in arguments[:1] if each in commands]
    if command == ["profile"]:
        command += [each for each in arguments[1:] if each in ("rded", "dream", "evaluate")][:1]
    return " ".join(command), command


def _message(event: ParseErrorEvent, command: str, commands: Commands) -> str | None:
    """Say what is wrong; None of kinds of errors that this version does not know."""
    from tyro import _errors

    unknown = _unknown(event, command, commands)
    if unknown is not None:
        return unknown
    if isinstance(event, _errors.MissingArgs):
        names = [_shown(each.arg) for each in event.missing_arguments]
        return f"{command} needs {' and '.join(names)}"
    if isinstance(event, _errors.MissingSubcommand):
        return f"name a command: {', '.join(event.subcommand_spec.parser_from_name)}"
    if isinstance(event, _errors.BadValue):
        return f"{command}: {_shown(event.argument)} needs a value"
    if isinstance(event, _errors.InvalidChoice):
        choices = ", ".join(event.choices)
        return f"{command}: {_shown(event.argument)} takes {choices}; got {event.value!r}"
    if isinstance(event, _errors.InstantiationFailure) and event.argument is not None:
        kind = str(event.argument.lowered.metavar).replace("{None}|", "").strip("{}")
        option = _shown(event.argument)
        return f"{command}: {option} takes {kind}; got {' '.join(_given(option)) or event.message}"
    return None


def _unknown(event: ParseErrorEvent, command: str, commands: Commands) -> str | None:
    """Say which word is unknown, and which come nearest to it; None where all are known."""
    from tyro import _errors

    tokens: list[str] = getattr(event, "tokens", [])
    if not command:
        if not isinstance(event, _errors.UnrecognizedArgs):
            return None
        near = difflib.get_close_matches(tokens[0], commands, _NEAREST, cutoff=0.0)
        return f"there is no command {tokens[0]!r}; the nearest are {', '.join(near)}"
    options = options_of(command.split(), commands)
    for argument in sys.argv[1:]:
        word = argument.partition("=")[0]
        if word.startswith("--") and word.replace("_", "-") not in options:
            near = difflib.get_close_matches(word, options, _NEAREST, cutoff=0.0)
            return f"{command} has no option {word}; the nearest are {', '.join(near)}"
    return f"{command}: {tokens[0]!r} is one word too many" if tokens else None


def _given(option: str) -> list[str]:
    """Return the values that an option was given."""
    after = sys.argv[sys.argv.index(option) + 1 :] if option in sys.argv else []
    return list(itertools.takewhile(lambda word: not word.startswith("--"), after))


def _shown(argument: ArgumentDefinition) -> str:
    """Return how an argument is written on the command line."""
    named = argument.lowered.metavar if argument.is_positional() else argument.display_name()
    return str(named)
