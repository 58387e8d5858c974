"""Descriptions in docstrings stand alone, as docs/style.md asks."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Iterator
from pathlib import Path

import pydream

PACKAGE = Path(pydream.__file__).parent
# Words that make a description depend on the name above it.
DEPENDENT = re.compile(r"(?:Of|As of|As in|As for|Likewise)\b")
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def docstrings(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Give out the docstrings of modules, classes, functions, fields and constants."""
    for node in ast.walk(tree):
        for statement in getattr(node, "body", ()) if isinstance(node, DOCUMENTED) else ():
            if not isinstance(statement, ast.Expr) or not isinstance(statement.value, ast.Constant):
                continue
            if isinstance(statement.value.value, str):
                yield statement.lineno, statement.value.value


def first_lines(docstring: str) -> Iterator[tuple[int, str]]:
    """Give out the lines that begin a paragraph or, being indented deeper, a description."""
    before = ""
    for offset, line in enumerate(inspect.cleandoc(docstring).splitlines()):
        deeper = len(line) - len(line.lstrip()) > len(before) - len(before.lstrip())
        if line.strip() and (not before.strip() or deeper):
            yield offset, line.strip()
        before = line


def dependent(tree: ast.Module) -> list[tuple[int, str]]:
    return [
        (start + offset, line)
        for start, docstring in docstrings(tree)
        for offset, line in first_lines(docstring)
        if DEPENDENT.match(line)
    ]


def test_no_description_begins_with_a_word_that_leans_on_its_name() -> None:
    wrong = [
        f"{file.relative_to(PACKAGE)}:{number}: {line}"
        for file in sorted(PACKAGE.rglob("*.py"))
        for number, line in dependent(ast.parse(file.read_text()))
    ]
    assert not wrong, "\n".join(wrong)


def test_the_search_finds_descriptions_of_parameters_and_fields_but_no_wrapped_line() -> None:
    tree = ast.parse(
        'class A:\n    """Sum\n    Of parts.\n\n    Attributes\n    ----------\n    b\n'
        '        Of it, and\n        As of that.\n    """\n\n    b: int\n    """Likewise."""\n'
    )
    assert dependent(tree) == [(8, "Of it, and"), (13, "Likewise.")]
