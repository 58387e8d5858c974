"""`pydream/_C.pyi` names what the compiled module has, with as many arguments."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import pydream
from pydream import _C

STUB = ast.parse((Path(pydream.__file__).parent / "_C.pyi").read_text())
CLASSES = {node.name: node for node in STUB.body if isinstance(node, ast.ClassDef)}
# Classes that only type checkers see; the module has the members, in its submodule.
IN_CUDA = {"KmeansRun": "CudaKmeansRun", "LayerList": "CudaLayerList"}


def declared(body: list[ast.stmt]) -> dict[str, int | None]:
    """Return the number of arguments of every function, without self; None for an attribute."""
    found: dict[str, int | None] = {}
    for node in body:
        if isinstance(node, ast.FunctionDef):
            found[node.name] = len([name for name in node.args.args if name.arg != "self"])
        elif isinstance(node, ast.AnnAssign):
            assert isinstance(node.target, ast.Name)
            found[node.target.id] = None
    return found


def compiled(module: object) -> dict[str, int | None]:
    """Return the same of a module or class of pybind11, by the signatures in its docstrings."""
    found: dict[str, int | None] = {}
    for name, member in vars(module).items():
        if name.startswith("_") and name != "__init__":
            continue
        signature = re.match(rf"{name}\((.*)\) ->", getattr(member, "__doc__", None) or "")
        arguments = re.findall(r"\barg\d+: |\bself: ", signature[1]) if signature else []
        found[name] = len([word for word in arguments if word != "self: "]) if signature else None
    return found


def test_the_module_is_as_declared() -> None:
    functions = declared([node for node in STUB.body if not isinstance(node, ast.ClassDef)])
    module = compiled(_C)
    classes = [module.pop(name) for name in ("KmeansSettings", "MisalignedError")]
    assert classes == [None, None]
    module.setdefault("cuda", None)  # only in a build with CUDA
    assert module == functions
    assert compiled(_C.KmeansSettings) == declared(CLASSES["KmeansSettings"].body)


@pytest.mark.skipif(not _C.cuda_architectures, reason="built without CUDA")
def test_the_cuda_submodule_is_as_declared() -> None:
    assert compiled(_C.cuda) == declared(CLASSES["CudaKernels"].body)
    for name, stub in IN_CUDA.items():
        assert compiled(getattr(_C.cuda, name)) == declared(CLASSES[stub].body)
