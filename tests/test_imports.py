"""What can be imported where something that only a part needs is missing, and what is imported."""

from __future__ import annotations

import importlib
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import pydream
from pydream.lazy import imported_beside, lazy_members

REPOSITORY = Path(__file__).resolve().parents[1]
WITHOUT_TYRO = """
import sys
sys.modules["tyro"] = None  # so its import fails
import pydream
assert not {"torch", "sklearn"} & {*sys.modules}
assert pydream.open_source("digits").class_names == pydream.open_source("digits").class_names
import pydream.rded.distill  # a module with the name of a function
import benchmarks.cuda_matching, benchmarks.cuda_ops, benchmarks.gpu_check, benchmarks.pipeline_cuda
import pydream.demo, pydream.models, pydream.refinement
rooms = pydream.rded, pydream.dream, pydream.evaluate, pydream.refinement, pydream.models
for package in (pydream, *rooms):
    for name in package.__all__:
        getattr(package, name)
config = pydream.rded.RdedConfig(source="digits", observer="x.pt")
print(config.source, callable(pydream.rded.distill), pydream.ops.collage.__name__)
"""
PARSED_ONLY = """
import contextlib, io, sys
from pydream.cli import main
from pydream.cli.commands import COMMANDS
for arguments in (
    ["--version"],
    ["--help"],
    *([name, "--help"] for name in COMMANDS),
    *(["profile", name, "--help"] for name in ("rded", "dream", "evaluate")),
    ["nonsense"],
    ["rded"],
    ["rded", "x", "--observer", "y", "--nonsense"],
    ["rded", "x", "--observer", "y", "--ipc", "many"],
    ["rded", "x", "--observer", "y", "--ipc", "0"],
    ["profile"],
):
    sys.argv = ["pydream", *arguments]
    with contextlib.redirect_stdout(io.StringIO()) as out:
        with contextlib.redirect_stderr(io.StringIO()) as err:
            try:
                main()
            except SystemExit:
                pass
    assert out.getvalue() or err.getvalue(), arguments
    if arguments == ["--version"]:
        print(out.getvalue(), end="")
heavy = ("torch", "torchvision", "sklearn", "matplotlib", "pyarrow", "scipy", "timm", "numpy")
print([name for name in heavy if name in sys.modules])
"""

CALLED = """
import sys
sys.path.insert(0, "tests")
import torch
from every_op import ARGUMENTS
from pydream import ops
import pydream.evaluate.relabel, pydream.rded.distill, pydream.students.views
for name, arguments in ARGUMENTS.items():
    getattr(ops, name)(**arguments)
    if name == "crop_resize":
        ops.crop_resize(**arguments, out=torch.empty(2, 3, 5, 5))
from pydream.models import build_model, load_observer
load_observer(build_model("convnet1-w1-none", num_classes=2, side=8), side=8, mean=(0.5,) * 3,
              std=(0.5,) * 3, device="cpu", precision="float32")
print([name for name in ("torch._dynamo", "sympy", "torchvision") if name in sys.modules])
"""


def python(script: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_only_the_command_line_needs_tyro() -> None:
    assert python(WITHOUT_TYRO) == "digits True collage\n"


def test_help_errors_of_parsing_and_the_version_need_no_heavy_package() -> None:
    pytest.importorskip("tyro", reason="the command line needs tyro")
    assert python(PARSED_ONLY) == f"pydream {pydream.__version__}\n[]\n"


def test_no_op_imports_the_compiler_of_torch_nor_any_command_torchvision() -> None:
    """Each takes about as long to import as torch itself."""
    assert python(CALLED) == "[]\n"


def test_a_member_with_the_name_of_its_module_is_the_member(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "lazy_example"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "work.py").write_text("def work(): return 'done'\n\n\nother = 2\n")
    monkeypatch.syspath_prepend(tmp_path)
    module = importlib.import_module("lazy_example")
    lazy_members("lazy_example", {"work": "lazy_example.work", "other": "lazy_example.work"})
    importlib.import_module("lazy_example.work")
    assert module.work() == "done"
    assert module.other == 2
    assert "other" in dir(module)
    with pytest.raises(AttributeError, match="'lazy_example' has no attribute 'nothing'"):
        _ = module.nothing


def test_a_module_is_imported_beside_a_block(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "beside_example.py").write_text(
        "import threading\n\nthread = threading.current_thread()\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    with imported_beside("beside_example"):
        own = threading.current_thread()
    assert sys.modules["beside_example"].thread is not own


def test_a_module_that_cannot_be_imported_beside_a_block_fails_where_it_is_needed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "broken_example.py").write_text("raise ValueError('broken')\n")
    monkeypatch.syspath_prepend(tmp_path)
    with imported_beside("broken_example"):
        pass
    with pytest.raises(ValueError, match="broken"):
        importlib.import_module("broken_example")
