"""Diagnosis of an installation: its build, the devices found, and what would be used."""

from __future__ import annotations

import importlib
import inspect
import os
import platform
import resource
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pydream.errors import first_line
from pydream.formatting import byte_words
from pydream.gpus import cuda_version, missing_kernels
from pydream.processors import usable_processors
from pydream.versions import PACKAGE

_REQUIRED = (PACKAGE, "torch", "torchvision", "numpy", "scipy", "pillow", "pyarrow")
_OPTIONAL = ("timm",)
_VARIABLES = (
    "PYDREAM_DATA",
    "PYDREAM_ISA",
    "PYDREAM_NVTX",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "CUDA_VISIBLE_DEVICES",
)
_CGROUPS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def diagnose() -> dict[str, Any]:
    """Look at the installation and the machine; what is missing is reported, never raised.

    Returns
    -------
    dict
        Ready for JSON. ``versions``: of Python and of every package, None where one is
        missing. ``module``: the compiled module (``path``, ``compiler``, instruction sets
        ``available`` and ``active``, ``native_bfloat16``), or why there is none (``error``).
        ``threads``: of torch, of the machine, and those this process may use. ``memory``: bytes
        of the machine, and the limit of this process or None. ``cuda``: what torch was built
        for, its ``devices``, and the ``architectures`` this build has kernels for, or None;
        versions of the ``driver`` and of the ``runtime`` in the build. ``ops``: for every op,
        what runs on each device. ``environment``: variables that are heeded.
        ``problems``: what needs mending, one line each.
    """
    problems: list[str] = []
    torch = _attempt("torch", problems)
    compiled = _attempt("pydream._C", problems)
    module = _module(compiled, problems)
    cuda = _cuda(torch, compiled, problems)
    return {
        "versions": _versions(problems),
        "module": module,
        "threads": _threads(torch),
        "memory": {"machine": _physical_memory(), "limit": _memory_limit()},
        "cuda": cuda,
        "ops": _ops(_attempt("pydream.ops", problems), module, cuda),
        "environment": _environment(problems),
        "problems": problems,
    }


def _attempt(name: str, problems: list[str]) -> ModuleType | None:
    """Import a module, or note why that fails: broken libraries raise more than ImportError."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        problems.append(f"{name} cannot be imported: {error}")
        return None


def _versions(problems: list[str]) -> dict[str, str | None]:
    found: dict[str, str | None] = {"python": platform.python_version()}
    for name in (*_REQUIRED, *_OPTIONAL):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = None
            if name in _REQUIRED:
                problems.append(f"{name} is not installed")
    return found


def _module(module: ModuleType | None, problems: list[str]) -> dict[str, Any]:
    if module is None:
        return {"error": "pydream._C cannot be imported"}
    facts: dict[str, Any] = {
        "path": module.__file__,
        "compiler": module.compiler,
        "available": module.available_isas(),
        "native_bfloat16": module.native_bfloat16(),
    }
    try:
        facts["active"] = module.active_isa()
    except ValueError as error:  # PYDREAM_ISA names one that is not there
        facts["active"] = None
        problems.append(f"PYDREAM_ISA: {error}")
    return facts


def _threads(torch: ModuleType | None) -> dict[str, int | None]:
    return {
        "torch": None if torch is None else torch.get_num_threads(),
        "machine": os.cpu_count(),
        "allowed": usable_processors(),
    }


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return None


def _memory_limit() -> int | None:
    """Return the least of the limits set on this process, in bytes: ulimit -v and cgroups."""
    limits = []
    soft, _ = resource.getrlimit(resource.RLIMIT_AS)
    if soft != resource.RLIM_INFINITY:
        limits.append(soft)
    for file in _cgroup_files():
        try:
            limits.append(int(file.read_text()))
        except (OSError, ValueError):  # not there, or "max"
            continue
    physical = _physical_memory()
    limits = [limit for limit in limits if physical is None or limit < physical]
    return min(limits, default=None)


def _cgroup_files() -> list[Path]:
    """List where limits of this process's control groups may be written, versions 1 and 2."""
    try:
        lines = _OWN_GROUPS.read_text().splitlines()
    except OSError:
        return []
    files = []
    for line in lines:
        _, controllers, group = line.split(":", 2)
        if controllers == "":
            root, name = _CGROUPS, "memory.max"
        elif "memory" in controllers.split(","):
            root, name = _CGROUPS / "memory", "memory.limit_in_bytes"
        else:
            continue
        inside = root / group.lstrip("/")
        folders = (inside, *inside.parents)
        files += [folder / name for folder in folders[: folders.index(root) + 1]]
    return files


def _cuda(
    torch: ModuleType | None, module: ModuleType | None, problems: list[str]
) -> dict[str, Any]:
    """Say what torch sees, and what this build has kernels for."""
    facts: dict[str, Any] = {"torch_built_for": None, "devices": [], "architectures": None}
    kernels = None
    if module is not None and module.cuda_architectures:
        kernels = module.cuda
        facts["architectures"] = module.cuda_architectures
        facts["driver"] = cuda_version(kernels.driver_version())
        facts["runtime"] = cuda_version(kernels.runtime_version())
    if torch is None:
        return facts
    facts["torch_built_for"] = torch.version.cuda
    try:
        for index in range(torch.cuda.device_count()):
            properties = torch.cuda.get_device_properties(index)
            facts["devices"].append(
                {
                    "name": properties.name,
                    "capability": f"{properties.major}.{properties.minor}",
                    "memory": properties.total_memory,
                    "kernels": kernels is not None and kernels.carries(index),
                }
            )
            if kernels is not None:
                capability = (properties.major, properties.minor)
                reason = missing_kernels(module, index, properties.name, capability)
                if reason is not None:
                    problems.append(reason)
    except RuntimeError as error:  # a driver that does not work
        facts["error"] = first_line(error)
    return facts


def _ops(
    ops: ModuleType | None, module: dict[str, Any], cuda: dict[str, Any]
) -> dict[str, dict[str, str]]:
    """Say for every op what runs on the CPU and on CUDA devices."""
    if ops is None:
        return {}
    on_cpu = f"compiled ({module['active']})" if module.get("active") else "not usable"
    on_cuda = "no device"
    if cuda["devices"]:
        everywhere = all(device["kernels"] for device in cuda["devices"])
        on_cuda = f"compiled ({cuda['architectures']})" if everywhere else "not usable"
        if cuda["architectures"] is None:
            on_cuda = "reference"
    names = [
        name
        for name, value in inspect.getmembers(ops, inspect.isfunction)
        if not name.startswith("_")
        and value.__module__.startswith(ops.__name__)
        and not value.__module__.startswith(f"{ops.__name__}._")
    ]
    # Drawn on the CPU for every device, so that all get the same.
    drawn = {"random_augment", "random_crop_boxes", "random_keys"}
    return {name: {"cpu": on_cpu, "cuda": on_cpu if name in drawn else on_cuda} for name in names}


def _environment(problems: list[str]) -> dict[str, str | None]:
    data = os.environ.get("PYDREAM_DATA")
    if data is not None and not Path(data).is_dir():
        problems.append(f"PYDREAM_DATA names no folder: {data}")
    return {name: os.environ.get(name) for name in _VARIABLES}


def render_diagnosis(facts: dict[str, Any]) -> RenderableType:
    """Lay out what `diagnose` returned for a terminal."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        *_package_rows(facts["versions"]),
        *_module_rows(facts["module"]),
        *_machine_rows(facts),
    ):
        table.add_row(name, Text(value))
    problems = [Text(f"problem: {problem}", style="bold red") for problem in facts["problems"]]
    return Group(table, Text(), _op_table(facts["ops"]), *problems)


def _package_rows(versions: dict[str, str | None]) -> list[tuple[str, str]]:
    found = {name: number or "not installed" for name, number in versions.items()}
    return [
        ("pydream", found.pop(PACKAGE)),
        ("packages", ", ".join(f"{name} {number}" for name, number in found.items())),
    ]


def _module_rows(module: dict[str, Any]) -> list[tuple[str, str]]:
    if "error" in module:
        return [("kernels", module["error"])]
    native = "native" if module["native_bfloat16"] else "not native, slower than float32"
    return [
        ("kernels", f"{module['path']}, built by {module['compiler']}"),
        ("instructions", f"{module['active']}, of {', '.join(module['available'])}"),
        ("bfloat16", native),
    ]


def _machine_rows(facts: dict[str, Any]) -> list[tuple[str, str]]:
    threads, memory, cuda = facts["threads"], facts["memory"], facts["cuda"]
    limit = "no limit" if memory["limit"] is None else f"limit {byte_words(memory['limit'])}"
    size = "unknown" if memory["machine"] is None else byte_words(memory["machine"])
    devices = "; ".join(
        f"{device['name']}, capability {device['capability']}, {byte_words(device['memory'])}"
        for device in cuda["devices"]
    )
    built = f"torch built for CUDA {cuda['torch_built_for']}"
    if cuda["torch_built_for"] is None:
        built = "torch built without CUDA"
    kernels = "no CUDA kernels built"
    if cuda["architectures"] is not None:
        driver = f"driver {cuda['driver']}" if cuda["driver"] else "no driver"
        kernels = (
            f"kernels for architectures {cuda['architectures']}, "
            f"runtime {cuda['runtime']}, {driver}"
        )
    return [
        (
            "threads",
            f"{threads['torch']} used by torch, {threads['allowed']} allowed, "
            f"{threads['machine']} in the machine",
        ),
        ("memory", f"{size}, {limit}"),
        ("cuda", f"{built}; {devices or cuda.get('error', 'no device')}"),
        ("cuda kernels", kernels),
        *((name, value) for name, value in facts["environment"].items() if value is not None),
    ]


def _op_table(ops: dict[str, dict[str, str]]) -> Table:
    table = Table("op", "cpu", "cuda", box=None, pad_edge=False)
    for name, runs in ops.items():
        table.add_row(name, runs["cpu"], runs["cuda"])
    return table
