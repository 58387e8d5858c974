"""The options of each command, read from its parameters and settings, and how help groups them."""

from __future__ import annotations

import dataclasses
import inspect
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import tyro

Commands = Mapping[str, Callable[..., None]]

Json = Annotated[bool, tyro.conf.arg(help="Print the result as JSON, for scripts.")]
Whole = tyro.conf.arg(name="")
"""Makes the options of a dataclass options of the command, without a prefix."""

PROFILED = ("rded", "dream", "evaluate")
"""The commands whose runs `pydream profile` measures."""
SPEED = "Speed: never changes the result"
_VALUES_BEFORE_METHOD = {"--save": 1, "--compare": 2}

# The groups of help, in order, and their options, in order. An option in different groups for
# different commands is listed with its command.
GROUPS: Mapping[str, tuple[str, ...]] = {
    "What": (
        "set", "source", "observer", "rded arch", "observer_arch", "observer_side", "observer_mean",
        "observer_std", "class_order", "classes", "images_per_class", "image_mean", "image_std",
        "to", "ipc", "count", "factor", "side", "students", "student", "labels", "baselines",
        "image", "merge out", "parts", "most_real", "exif", "allow_skipped", "allow_weak_observer",
        "compare",
    ),
    "Method": (
        "full", "framework", "recipe", "recipes", "preset", "preselect", "crops", "select",
        "realistic_share", "combine", "small_classes", "cells", "refine", "steps", "layer",
        "canvas", "match", "sampler", "weights", "start", "metric", "arch", "iterations",
        "inner_loop", "epochs", "batch_size", "batch_real", "batch_synthetic",
        "learning_rate", "optimizer", "schedule", "falls", "fall_factor", "betas", "momentum",
        "weight_decay", "decayed", "ema_decay", "label_smoothing", "zca", "views", "operations",
        "crop_scale", "crop_ratio", "shuffle", "rand_augment", "horizontal_flip", "mix",
        "mix_probability", "mix_concentration", "temperature", "loss", "hard_weight",
        "least_observers", "batch_statistics", "best_of_last", "per_cluster", "interval",
        "network_images", "network_epochs", "synthetic_epochs", "experts", "expert_epochs",
        "max_start", "student_steps", "student_rate", "rate_learning_rate",
        "with_norm_and_bias", "with_classifier", "exact", "full_steps", "every", "top_k",
        "bits", "hard_epochs", "budget",
        "seed", "seeds", "device", "data_parallel", "precision", "compile", "decode",
    ),
    "Output": (
        "out", "image_format", "quality", "eval_every", "eval_epochs", "eval_seeds",
        "checkpoint_every", "resume", "shard", "dry_run", "save", "report", "per_class", "json",
    ),
    SPEED: ("rded batch_size", "workers", "memory_budget"),
}  # fmt: skip


@dataclasses.dataclass(frozen=True)
class Option:
    """An option or a positional argument of a command.

    Attributes
    ----------
    field
        Name of the parameter or of the field of the settings.
    owner
        The function or dataclass that declares it.
    names
        Its spellings, the preferred one first; empty for a positional argument.
    metavar
        Placeholder of its value; empty for a flag.
    default
        Value if it is omitted; `inspect.Parameter.empty` if it is required.
    help
        Description, if the annotation has one.
    """

    field: str
    owner: Any
    names: tuple[str, ...]
    metavar: str
    default: Any
    help: str | None

    @property
    def required(self) -> bool:
        """Whether the command requires the option."""
        return self.default is inspect.Parameter.empty

    @property
    def flag(self) -> bool:
        """Whether the option takes no value."""
        return not self.metavar


def options_of(command: str, commands: Commands) -> list[Option]:
    """Return the options of a command: those of its settings and its own parameters.

    Parameters
    ----------
    command
        Name of the command.
    commands
        All commands.
    """
    function = commands[command]
    hints = get_type_hints(function, include_extras=True)
    options: list[Option] = []
    for name, parameter in inspect.signature(function).parameters.items():
        kind = _plain(hints[name])
        if dataclasses.is_dataclass(kind):
            options += _of_settings(kind)
        elif name != "method":  # the settings of another command, after its name
            options.append(_option(name, function, hints[name], parameter.default))
    return options


def option_names(command: Sequence[str], commands: Commands) -> list[str]:
    """List the options of a command such as ``["rded"]``; for ``["profile", "rded"]`` of both."""
    names = [
        name for word in command for option in options_of(word, commands) for name in option.names
    ]
    return [*dict.fromkeys(["--help", *names])]


def grouped_options(command: str, commands: Commands) -> dict[str, list[Option]]:
    """Return the options of a command by the title of their group, positional arguments first.

    Raises
    ------
    KeyError
        If an option belongs to no group.
    """
    options = {}
    for option in options_of(command, commands):
        exception = f"{command} {option.field}"
        excepted = any(exception in names for names in GROUPS.values())
        options[exception if excepted else option.field] = option
    groups = {}
    for title, names in GROUPS.items():
        members = [options.pop(name) for name in names if name in options]
        if members:
            groups[title] = sorted(members, key=lambda option: bool(option.names))
    if options:
        raise KeyError(f"options of {command} in no group of help: {', '.join(options)}")
    return groups


def named_command(arguments: Sequence[str], commands: Commands) -> list[str]:
    """Return the command named by arguments: one word, two of ``profile METHOD``, or none."""
    command = [word for word in arguments[:1] if word in commands]
    if command == ["profile"]:
        skipped = 0  # values of options before the method, which may look like one
        for word in arguments[1:]:
            if skipped == 0 and word in PROFILED:
                return [*command, word]
            skipped = _VALUES_BEFORE_METHOD.get(word, max(0, skipped - 1))
    return command


def _of_settings(settings: Any) -> Iterator[Option]:
    hints = get_type_hints(settings, include_extras=True)
    for field in dataclasses.fields(settings):
        default = field.default
        if field.default_factory is not dataclasses.MISSING:
            default = field.default_factory()
        elif default is dataclasses.MISSING:
            default = inspect.Parameter.empty
        yield _option(field.name, settings, hints[field.name], default)


def _option(field: str, owner: Any, annotation: Any, default: Any) -> Option:
    marks = getattr(annotation, "__metadata__", ())
    kind = _plain(annotation)
    flag = kind is bool and default is not None
    given = {
        name: next((value for mark in marks if (value := getattr(mark, name, None))), None)
        for name in ("help", "metavar", "aliases")
    }
    word = ("no-" if flag and default is True else "") + field.replace("_", "-")
    names = (*(given["aliases"] or ()), f"--{word}")
    if tyro.conf.Positional in marks:
        names = ()
    metavar = "" if flag else given["metavar"] or _metavar(kind)
    return Option(field, owner, names, metavar, default, given["help"])


def _plain(annotation: Any) -> Any:
    """Return a type without marks and without None."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, types.UnionType):
        kinds = [kind for kind in get_args(annotation) if kind is not type(None)]
        if len(kinds) == 1:
            return _plain(kinds[0])
        lists = [kind for kind in kinds if Ellipsis in get_args(kind)]
        if lists:  # one value or several
            return lists[0]
    return annotation


def _metavar(kind: Any) -> str:
    """Return the placeholder for a value of a type, in the words of parsing errors."""
    if get_origin(kind) is Literal:
        return "{" + ",".join(map(str, get_args(kind))) + "}"
    if get_origin(kind) is tuple:
        parts = [_metavar(part) for part in get_args(kind) if part is not Ellipsis]
        return f"{parts[0]} ..." if Ellipsis in get_args(kind) else " ".join(parts)
    return {bool: "{True,False}", int: "INT", float: "FLOAT", str: "STR", Path: "PATH"}[kind]
