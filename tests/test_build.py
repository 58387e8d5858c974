"""What the build finds and asks for."""

from __future__ import annotations

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pybind11
import pytest

from pydream import _C

HOOKS = (
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
)
REPOSITORY = Path(__file__).resolve().parents[1]


def load(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, REPOSITORY / f"build_support/{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(REPOSITORY / "build_support"), *sys.path])
        spec.loader.exec_module(module)
    return module


@pytest.fixture
def toolkit(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The module on a machine without nvcc and without a GPU."""
    module = load("cuda_toolkit")
    for name in ("PYDREAM_CUDA", "PYDREAM_CUDA_ARCHS", "CUDA_HOME", "CUDA_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    monkeypatch.setattr(sys, "path", [str(tmp_path / "site")])
    return module


def program(path: Path, text: str = "") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path


def test_nvcc_is_found_on_the_path_then_in_cuda_home_then_in_a_wheel(
    toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert toolkit.find_nvcc() is None
    monkeypatch.setenv("CUDA_HOME", str(tmp_path / "home"))
    assert toolkit.find_nvcc() is None
    wheel = program(tmp_path / "site/nvidia/cu13/bin/nvcc")
    assert toolkit.find_nvcc() == wheel
    home = program(tmp_path / "home/bin/nvcc")
    assert toolkit.find_nvcc() == home
    on_path = program(tmp_path / "bin/nvcc")
    assert toolkit.find_nvcc() == on_path


@pytest.mark.parametrize("given", ["80;120", "80,120", "8.0 12.0"])
def test_architectures_as_given(
    toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch, given: str
) -> None:
    monkeypatch.setenv("PYDREAM_CUDA_ARCHS", given)
    assert toolkit.architectures() == "80;120"


def test_architectures_of_the_machine(toolkit: ModuleType, tmp_path: Path) -> None:
    assert toolkit.architectures() == toolkit.DEFAULT_ARCHITECTURES
    program(tmp_path / "bin/nvidia-smi", "echo 9.0; echo 8.9; echo 9.0")
    assert toolkit.architectures() == "89-real;90-real"
    program(tmp_path / "bin/nvidia-smi", "echo 'no devices were found'")
    assert toolkit.architectures() == toolkit.DEFAULT_ARCHITECTURES
    program(tmp_path / "bin/nvidia-smi", "exit 9")
    assert toolkit.architectures() == toolkit.DEFAULT_ARCHITECTURES


def test_a_cache_that_names_programs_of_a_former_environment(tmp_path: Path) -> None:
    cache = load("cmake_cache")
    assert not cache.names_what_is_gone(tmp_path)
    ninja = program(tmp_path / "environment/bin/ninja")
    lines = ["# This is the CMakeCache file.", "CMAKE_CXX_COMPILER:STRING=c++", ""]
    lines += [f"CMAKE_MAKE_PROGRAM:FILEPATH={ninja}", f"CMAKE_HOME_DIRECTORY:INTERNAL={tmp_path}/x"]
    (tmp_path / "CMakeCache.txt").write_text("\n".join(lines))
    assert not cache.names_what_is_gone(tmp_path)
    ninja.unlink()
    assert cache.names_what_is_gone(tmp_path)


def test_warnings_are_errors_only_where_that_is_asked_for(tmp_path: Path) -> None:
    if shutil.which("cmake") is None or shutil.which("ninja") is None:
        pytest.skip("no cmake and ninja")

    def commands(*options: str) -> dict[str, list[str]]:
        """Return the words of the command that compiles each source; one of those for a name."""
        configure = ["cmake", "-S", str(REPOSITORY), "-B", str(tmp_path), *options]
        subprocess.run(configure, check=True, capture_output=True)
        entries = json.loads((tmp_path / "compile_commands.json").read_text())
        return {Path(entry["file"]).name: entry["command"].split() for entry in entries}

    plain = commands(
        "-G", "Ninja", "-DCMAKE_EXPORT_COMPILE_COMMANDS=ON",
        f"-DPython_EXECUTABLE={sys.executable}", f"-Dpybind11_DIR={pybind11.get_cmake_dir()}",
    )  # fmt: skip
    assert {path.name for path in REPOSITORY.glob("csrc/*/*.cpp")} <= plain.keys()
    assert all("-Wall" in words and "-Werror" not in words for words in plain.values())
    strict = commands("-DPYDREAM_WERROR=on")
    assert strict.keys() == plain.keys()
    assert all("-Werror" in words for words in strict.values())


def test_an_unknown_setting_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    environment = load("environment")
    monkeypatch.delenv("PYDREAM_WERROR", raising=False)
    assert environment.choice("PYDREAM_WERROR", "off", "on") == "off"
    monkeypatch.setenv("PYDREAM_WERROR", "ON")
    assert environment.choice("PYDREAM_WERROR", "off", "on") == "on"
    monkeypatch.setenv("PYDREAM_WERROR", "1")
    with pytest.raises(SystemExit, match="PYDREAM_WERROR must be one of off, on, got '1'"):
        environment.choice("PYDREAM_WERROR", "off", "on")


def test_an_unknown_mode_is_refused(toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDREAM_CUDA", "maybe")
    with pytest.raises(SystemExit, match="must be one of auto, on, off, got 'maybe'"):
        toolkit.mode()


@pytest.mark.parametrize(
    "hook", ["get_requires_for_build_wheel", "get_requires_for_build_editable"]
)
def test_the_compiler_is_asked_for_where_it_is_needed(
    toolkit: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, hook: str
) -> None:
    setuptools, build_meta = ModuleType("setuptools"), ModuleType("setuptools.build_meta")
    for name in HOOKS:
        setattr(build_meta, name, lambda settings=None: ["what setuptools wants"])
    setuptools.build_meta = build_meta  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "setuptools", setuptools)
    monkeypatch.setitem(sys.modules, "setuptools.build_meta", build_meta)
    asks = getattr(load("backend"), hook)
    assert asks() == ["what setuptools wants"]
    monkeypatch.setenv("PYDREAM_CUDA", "on")
    assert asks() == ["what setuptools wants", *toolkit.WHEELS]
    program(tmp_path / "bin/nvcc")
    assert asks() == ["what setuptools wants"]


def test_the_kernels_for_cuda_are_built_where_there_is_an_nvcc() -> None:
    """With PYDREAM_CUDA=auto a compiler that does not work is only a warning of the build."""
    toolkit = load("cuda_toolkit")
    if toolkit.mode() == "off" or toolkit.find_nvcc() is None:
        pytest.skip("no nvcc, or PYDREAM_CUDA=off")
    assert _C.cuda_architectures, "built without CUDA: python setup.py build_ext --inplace says why"
    for name in ("crop_resize", "realism_scores", "best_crops", "top_images", "collage"):
        assert callable(getattr(_C.cuda, name))
