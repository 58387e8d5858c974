"""Every option that a message names is one of the command whose code gives the message."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import pydream

pytest.importorskip("tyro", reason="the command line needs tyro")
from pydream.cli.commands import COMMANDS
from pydream.cli.options import option_names

PACKAGE = Path(pydream.__file__).parent
OPTION = re.compile(r"--[a-z]+(?:-[a-z]+)*")
OTHER_PROGRAM = re.compile("`(?!pydream )[^`]*`")
OF_SETS = ("evaluate", "relabel", "inspect")
WITH_OBSERVER = ("rded", "evaluate", "relabel", "export", "inspect")
# The commands that a module's messages are for; the longest beginning of its path counts.
COMMANDS_OF = {
    "cli/": (),
    "data/resized.py": ("rded", "dream", "observer"),
    "data/sources.py": ("rded", "dream", "dream-compare", "experts", "observer"),
    "data/unreadable.py": ("rded", "dream", "observer", "evaluate"),
    "devices.py": (),
    "dream/": ("dream",),
    "dream/compare.py": ("dream-compare",),
    "evaluate/": ("evaluate",),
    "evaluate/config.py": (),  # of several commands
    "evaluate/label_budget.py": ("relabel",),
    "evaluate/relabel.py": ("relabel",),
    "files.py": ("rded", "dream", "dream-compare", "observer", "evaluate", "export", "demo"),
    "inspection/": ("inspect",),
    "models/": WITH_OBSERVER,
    "models/class_outputs.py": ("rded",),
    "models/layers.py": ("rded", "refine"),
    "models/train.py": ("observer",),
    "merging.py": ("rded", "dream"),
    "models/training_data.py": ("observer", "dream"),
    "partial.py": ("rded", "dream", "observer"),
    "profiling/": ("profile",),
    "ranks.py": ("rded", "dream"),
    "sets/run.py": ("rded", "dream"),
    "rded/": ("rded",),
    "refinement/": ("refine",),
    "refinement/classes.py": ("rded", "refine"),
    "refinement/steps.py": ("rded", "refine"),
    "sets/": OF_SETS,
    "sets/config.py": ("export",),
    "sets/ddranking.py": ("export",),
    "sets/export.py": ("export",),
    "sets/opening.py": ("evaluate", "relabel"),
    "sets/writer.py": ("rded", "dream"),
    "students/": ("evaluate", "relabel"),
    "students/stored_labels.py": (),  # of both: what one stores, the other reads
    "tiling.py": ("rded", "dream", "evaluate"),
}
# Style sheets, and words on the options of other programs.
NO_MESSAGES = ("report/plots.py", "cli/usage.py", "lazy.py")


def messages(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give out strings of a module that are no docstrings; of f-strings, what is written there."""
    parts = {
        id(part)
        for node in ast.walk(tree)
        if isinstance(node, ast.JoinedStr)
        for part in ast.walk(node)
        if part is not node
    }
    for node in ast.walk(tree):
        for child in ast.iter_child_nodes(node):
            if isinstance(node, ast.Expr) or id(child) in parts:
                continue
            if isinstance(child, ast.JoinedStr):
                written = [part.value for part in child.values if isinstance(part, ast.Constant)]
                yield child.lineno, "".join(map(str, written))
            elif isinstance(child, ast.Constant) and isinstance(child.value, str):
                yield child.lineno, child.value


@functools.cache
def options(command: str) -> set[str]:
    return {*option_names([command], COMMANDS)}


def test_options_named_in_messages_are_options_of_their_commands() -> None:
    everywhere = set().union(*map(options, COMMANDS))
    seen, wrong = 0, []
    for file in sorted(PACKAGE.rglob("*.py")):
        module = file.relative_to(PACKAGE).as_posix()
        if module in NO_MESSAGES:
            continue
        for line, text in messages(ast.parse(file.read_text())):
            named = {*OPTION.findall(OTHER_PROGRAM.sub("", text))} - {"--help", "--version"}
            seen += len(named)
            prefix = max((prefix for prefix in COMMANDS_OF if module.startswith(prefix)), key=len,
                         default=None)  # fmt: skip
            known = everywhere
            if prefix is None and named:
                wrong.append(f"{module}:{line}: add the module's commands to COMMANDS_OF")
            elif prefix is not None and COMMANDS_OF[prefix] and "`pydream " not in text:
                known = set.intersection(*map(options, COMMANDS_OF[prefix]))
            wrong += [f"{module}:{line}: {option}" for option in sorted(named - known)]
    assert not wrong, "\n".join(wrong)
    assert seen > 40


def test_the_search_finds_options_in_plain_and_formatted_strings_but_in_no_docstring() -> None:
    tree = ast.parse('"""--a"""\nraise E(f"{x}: give --b {y} or --c-d" "; --e")\nz = "--f"')
    found = [option for _, text in messages(tree) for option in OPTION.findall(text)]
    assert sorted(found) == ["--b", "--c-d", "--e", "--f"]
