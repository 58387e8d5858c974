"""Errors of the command line, in one line each."""

from __future__ import annotations

import difflib
import itertools
import sys
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from pydream.cli.options import PROFILED, Commands, named_command, option_names
from pydream.errors import PydreamError

if TYPE_CHECKING:
    from tyro._arguments import ArgumentDefinition
    from tyro._errors import ParseErrorEvent

_NEAREST = 3


@contextmanager
def one_line_errors(commands: Commands) -> Iterator[None]:
    """Turn tyro's parsing errors in the block into PydreamError.

    The hook is not part of tyro's public interface. Without it, tyro prints its own, longer errors.
    """
    try:
        from tyro._errors import on_parse_error
    except ImportError:
        yield
        return

    def refuse(event: ParseErrorEvent) -> None:
        command = named_command(sys.argv[1:], commands)
        message = _message(event, command, commands)
        if message is not None:
            raise PydreamError(f"{message}; see `{' '.join(['pydream', *command, '--help'])}`")

    with on_parse_error(refuse):
        yield


def _message(event: ParseErrorEvent, command: Sequence[str], commands: Commands) -> str | None:
    """Return the message of an error; None for kinds of errors that this version does not know."""
    from tyro import _errors

    unknown = _unknown(event, command, commands)
    if unknown is not None:
        return unknown
    words = " ".join(command)
    if isinstance(event, _errors.MissingArgs):
        names = [_shown(missing.arg) for missing in event.missing_arguments]
        return f"{words} needs {' and '.join(names)}"
    if isinstance(event, _errors.MissingSubcommand):
        return f"name a command: {', '.join(event.subcommand_spec.parser_from_name)}"
    if isinstance(event, _errors.BadValue):
        return f"{words}: {_shown(event.argument)} needs a value"
    if isinstance(event, _errors.InvalidChoice):
        choices = ", ".join(event.choices)
        return f"{words}: {_shown(event.argument)} takes {choices}; got {event.value!r}"
    if isinstance(event, _errors.InstantiationFailure) and event.argument is not None:
        kind = str(event.argument.lowered.metavar).replace("{None}|", "").strip("{}")
        option = _shown(event.argument)
        given = " ".join(_given(option)) or event.message.partition("\n")[0]
        return f"{words}: {option} takes {kind}; got {given}"
    return None


def _unknown(event: ParseErrorEvent, command: Sequence[str], commands: Commands) -> str | None:
    """Name the unknown word and the nearest known ones; None if all words are known."""
    from tyro import _errors

    tokens: list[str] = getattr(event, "tokens", [])
    if not command:
        first = "".join(sys.argv[1:2]).partition("=")[0]
        if first.startswith("-"):
            return f"options come after the command; got {first} before it"
        if not isinstance(event, _errors.UnrecognizedArgs):
            return None
        return f"there is no command {tokens[0]!r}{_nearest(tokens[0], commands)}"
    words, options = " ".join(command), option_names(command, commands)
    for argument in sys.argv[1:]:
        option = _name(argument)
        if option.startswith("--") and option not in options:
            typed = argument.partition("=")[0]
            return f"{words} has no option {typed}{_nearest(typed, options)}"
    if not tokens:
        return None
    option = _name(tokens[0])
    if len(command) > 1 and option in options:
        side = "before" if option in option_names(command[:1], commands) else "after"
        return f"{words}: {option} goes {side} {command[1]}"
    if command == ["profile"] and not tokens[0].startswith("-"):
        near = _nearest(tokens[0], PROFILED)
        return f"profile runs {', '.join(PROFILED)}; got {tokens[0]!r}{near}"
    return f"{words}: {tokens[0]!r} is one word too many"


def _nearest(word: str, names: Iterable[str]) -> str:
    """Return a clause with the names spelled similarly to a word; empty if there are none."""
    near = difflib.get_close_matches(word, list(names), _NEAREST)
    if not near:
        return ""
    return f"; the nearest {'is' if len(near) == 1 else 'are'} {', '.join(near)}"


def _name(word: str) -> str:
    """Return the option for a word of the command line, as in help."""
    return word.partition("=")[0].replace("_", "-")


def _given(option: str) -> list[str]:
    """Return the values last given to an option, after ``=`` or after it."""
    places = [place for place, word in enumerate(sys.argv) if _name(word) == option]
    if not places:
        return []
    _, equals, value = sys.argv[places[-1]].partition("=")
    after = itertools.takewhile(lambda word: not word.startswith("--"), sys.argv[places[-1] + 1 :])
    return [value, *after] if equals else [*after]


def _shown(argument: ArgumentDefinition) -> str:
    """Return an argument as written on the command line: of several names, the one given."""
    if argument.is_positional():
        return str(argument.lowered.metavar)
    names = argument.lowered.name_or_flags
    given = {_name(word) for word in sys.argv[1:]}
    return next((name for name in names if name in given), names[0])
