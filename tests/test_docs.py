"""The documentation fits the code: examples run, commands and links exist, tables are complete."""

from __future__ import annotations

import ast
import inspect
import pkgutil
import re
import shlex
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import torch

from pydream import ops

REPOSITORY = Path(__file__).resolve().parents[1]
GUIDES = [
    page.relative_to(REPOSITORY).as_posix()
    for page in [REPOSITORY / "README.md", *sorted((REPOSITORY / "docs").rglob("*.md"))]
]
PAGES = [*GUIDES, "CONTRIBUTING.md", "benchmarks/README.md"]
MOST_LINES = 150  # of the README, which a newcomer reads to the end
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
LINK = re.compile(r"\]\(([^)\s]+)\)")
CODE = re.compile(r"`([^`\n]+)`")
OPTION = re.compile(r"--[a-z]+(?:-[a-z]+)*")
OTHER_PROGRAM = re.compile(r"^(?!pydream )[\w./]+ ")
BUILTIN = {"--help", "--version"}


def text_of(page: str) -> str:
    return (REPOSITORY / page).read_text(encoding="utf-8")


def blocks(page: str, language: str) -> list[str]:
    return [code for kind, code in BLOCK.findall(text_of(page)) if kind == language]


def anchor(heading: str) -> str:
    """Return the anchor of a heading, as GitHub and Python-Markdown make it."""
    words = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return re.sub(r"[\s]+", "-", words)


def imported(tree: ast.Module) -> dict[str, Any]:
    """Run the imports of an example alone, and return what they name."""
    names: dict[str, Any] = {}
    imports: list[ast.stmt] = [
        node for node in tree.body if isinstance(node, ast.Import | ast.ImportFrom)
    ]
    exec(compile(ast.Module(imports, []), "example", "exec"), names)
    return names


@pytest.mark.parametrize("page", GUIDES)
def test_python_examples_run_or_at_least_call_what_exists(page: str) -> None:
    names: dict[str, Any] = {}
    torch.manual_seed(0)
    for code in blocks(page, "python"):
        tree = ast.parse(code)
        if page == "docs/kernels.md" or "import torch" in code:  # needs no files of a user
            exec(compile(tree, page, "exec"), names)
            continue
        known = imported(tree)
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                called = known.get(node.func.id)
                if called is not None:
                    keywords = {
                        keyword.arg: None for keyword in node.keywords if keyword.arg is not None
                    }
                    inspect.signature(called).bind(*node.args, **keywords)


def test_every_op_has_its_shapes_and_an_example() -> None:
    text = text_of("docs/kernels.md")
    functions = [name for name in ops.__all__ if inspect.isroutine(getattr(ops, name))]
    examples = "".join(blocks("docs/kernels.md", "python"))
    for name in {*functions} - {"check_values"}:
        section = re.search(rf"^### {name}$(.*?)(?=^##|\Z)", text, re.MULTILINE | re.DOTALL)
        assert section is not None, name
        assert "| | shape | dtype |" in section[1], name
        assert f"ops.{name}(" in examples, name
        assert f"`{name}`" in text_of("README.md"), name


def commands(page: str) -> Iterator[list[str]]:
    """Yield the words of every pydream command that a page shows."""
    text = text_of(page)
    code = CODE.findall(re.sub(BLOCK, "", text))
    for block in [*blocks(page, "sh"), *re.findall(r"(?:^    .*\n)+", text, re.MULTILINE)]:
        code += block.replace("\\\n", " ").splitlines()
    for line in code:
        line = line.strip()
        if line.startswith("pydream "):
            yield shlex.split(line, comments=True)[1:]


@pytest.mark.parametrize("page", PAGES)
def test_commands_and_options_exist(page: str) -> None:
    pytest.importorskip("tyro", reason="the command line needs tyro")
    from pydream.cli.commands import COMMANDS
    from pydream.cli.options import option_names

    everywhere = {
        option for name in COMMANDS for option in option_names([name], COMMANDS)
    } | BUILTIN
    wrong = []
    for words in commands(page):
        if words[0] in BUILTIN or words[0].isupper():
            continue
        known = {*BUILTIN}
        for word in words:
            if word in COMMANDS:
                known |= {*option_names([word], COMMANDS)}
        if words[0] not in COMMANDS:
            wrong.append(f"no command {words[0]}")
        wrong += [f"{words[0]} {word}" for word in words if OPTION.match(word) and
                  word.partition("=")[0] not in known]  # fmt: skip
    if page in GUIDES:
        for code in CODE.findall(re.sub(BLOCK, "", text_of(page))):
            if not OTHER_PROGRAM.match(code):
                wrong += [option for option in OPTION.findall(code) if option not in everywhere]
    assert not wrong, wrong


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    folder = (REPOSITORY / page).parent
    broken = []
    for link in LINK.findall(re.sub(BLOCK, "", text_of(page))):
        target, _, fragment = link.partition("#")
        if "://" in target:
            continue
        file = folder / target if target else REPOSITORY / page
        if not file.exists():
            broken.append(link)
        elif fragment:
            headings = re.findall(r"^#+ (.*)$", file.read_text(encoding="utf-8"), re.MULTILINE)
            broken += [link] if fragment not in map(anchor, headings) else []
        if page.startswith("docs/") and (REPOSITORY / "docs") not in file.resolve().parents:
            broken.append(f"{link} leaves the folder that the site is built from")
    assert not broken


def test_the_readme_is_short_and_its_table_has_six_rows() -> None:
    text = text_of("README.md")
    assert len(text.splitlines()) <= MOST_LINES
    table = text.split("benchmarks, summary: begin -->")[1].split("<!--")[0]
    rows = [line for line in table.splitlines() if line.startswith("|")][2:]
    assert len(rows) == 6


def test_every_guide_is_in_the_navigation() -> None:
    navigation = text_of("mkdocs.yml")
    missing = [page for page in GUIDES if page.startswith("docs/") and
               page.removeprefix("docs/") not in navigation]  # fmt: skip
    assert not missing


def test_the_api_reference_has_functions_that_are_named_as_their_module() -> None:
    """The site is built without imports, and takes such a name for the module."""
    checked = 0
    for page in (page for page in GUIDES if page.startswith("docs/api/")):
        named = re.findall(r"^::: (\S+)$", text_of(page), re.MULTILINE)
        for package in (import_module(name) for name in named if name.count(".") == 1):
            modules = {module.name for module in pkgutil.iter_modules(package.__path__)}
            hidden = {f"{package.__name__}.{name}.{name}" for name in modules & {*package.__all__}}
            assert hidden <= {*named}, page
            checked += len(hidden)
    assert checked
