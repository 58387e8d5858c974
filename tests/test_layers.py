"""Imports point down: a room imports only rooms of lower floors, and no two import each other."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pydream

PACKAGE = Path(pydream.__file__).parent
# From the bottom up. A room is a package, or a module beside the packages; those of one floor do
# not know each other.
FLOORS = (
    "collector",
    "_C durable errors lazy marks processors allocator arithmetic streams torch_state seeds gpus "
    "entry_types timeline urls",
    "checks files formatting pages progress versions launchers memory_limits torch_files",
    "life_signs",
    "ranks",
    "ops partial doctor replay",
    "devices cluster data data_parallel tiling",
    "models",
    "sets matching",
    "students inspection",
    "evaluate report",
    "refinement",
    "rded dream",
    "demo profiling merging",
    "cli",
    "__main__",
)
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms.split()}
# What may be asked for everywhere: the package itself, for its version.
EVERYWHERE = "__init__"


def room_of(file: Path) -> str:
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Give out the rooms that a module imports, wherever in it, with the line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module == "pydream":
            names = [f"pydream.{alias.name}" for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "the package's imports are absolute"
            names = [node.module or ""]
        else:
            continue
        for name in names:
            package, _, rest = name.partition(".")
            if package == "pydream":
                room = rest.partition(".")[0]
                yield node.lineno, room if room in FLOOR_OF else EVERYWHERE


def test_every_room_has_a_floor() -> None:
    rooms = {room_of(file) for file in PACKAGE.rglob("*.py")} - {EVERYWHERE}
    assert rooms == FLOOR_OF.keys() - {"_C"}


def test_imports_point_down() -> None:
    upward = []
    for file in sorted(PACKAGE.rglob("*.py")):
        room = room_of(file)
        if room == EVERYWHERE:  # the front door, which opens every room when it is asked for
            continue
        for line, other in imports(ast.parse(file.read_text())):
            if other not in (room, EVERYWHERE) and FLOOR_OF[other] >= FLOOR_OF[room]:
                upward.append(f"{file.relative_to(PACKAGE)}:{line}: {room} imports {other}")
    assert not upward, "\n".join(upward)


def test_an_upward_import_is_seen_in_any_form() -> None:
    text = (
        "import pydream.cli\nfrom pydream.rded.config import X\ndef f():\n  from pydream import ops"
    )
    assert list(imports(ast.parse(text))) == [(1, "cli"), (2, "rded"), (4, "ops")]
