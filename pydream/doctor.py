"""Diagnosis of an installation: its build, the devices found, and what would be used."""

from __future__ import annotations

import importlib
import inspect
import os
import platform
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from pydream.errors import first_line
from pydream.formatting import byte_words
from pydream.gpus import cuda_version, missing_kernels
from pydream.memory_limits import memory_limit, physical_memory
from pydream.processors import usable_processors
from pydream.versions import PACKAGE

_REQUIRED = (PACKAGE, "torch", "torchvision", "numpy", "scipy", "pillow", "pyarrow", "fsspec")
_OPTIONAL = ("timm",)
_VARIABLES = (
    "PYDREAM_DATA",
    "PYDREAM_ISA",
    "PYDREAM_NVTX",
    "OMP_NUM_THREADS",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "CUDA_VISIBLE_DEVICES",
)
# Sources of images, as they are named, and the packages that each needs: (import, what to install).
_SOURCES: dict[str, tuple[tuple[str, str], ...]] = {
    "folders, tables, .zip, .tar, .npz, digits, torchvision's sets": (),
    "WebDataset shards, .parquet": (("pyarrow", "pyarrow"),),
    "datasets.Dataset": (("datasets", "datasets"),),
    "s3://": (("s3fs", "pydream-distill[s3]"),),
    "gs://": (("gcsfs", "pydream-distill[gs]"),),
    "hf://": (("huggingface_hub", "pydream-distill[hf]"),),
    "https://": (("aiohttp", "pydream-distill[http]"),),
    "other URLs of fsspec": (("fsspec", "fsspec"),),
}
_NO_MODULE = "pydream._C cannot be imported"


@dataclass(frozen=True)
class CompiledModule:
    """The module with the C++ kernels.

    Attributes
    ----------
    path
        File of the module.
    compiler
        Compiler that built it.
    available
        Instruction sets with kernels in the module that the processor supports.
    native_bfloat16
        True if the processor multiplies bfloat16 natively.
    active
        Instruction set in use; None if ``PYDREAM_ISA`` names one that is not available.
    """

    path: str | None
    compiler: str
    available: list[str]
    native_bfloat16: bool
    active: str | None


@dataclass(frozen=True)
class Threads:
    """Number of threads: those torch uses, those of the machine, and those this process may use."""

    torch: int | None
    machine: int | None
    allowed: int


@dataclass(frozen=True)
class Memory:
    """Memory in bytes: of the machine, and the limit of this process, or None."""

    machine: int | None
    limit: int | None


@dataclass(frozen=True)
class Gpu:
    """A GPU as torch sees it; ``kernels`` states whether this build has kernels for it."""

    name: str
    capability: str
    memory: int
    kernels: bool


@dataclass(frozen=True)
class Cuda:
    """CUDA, as torch sees it, and this build's kernels for it.

    Attributes
    ----------
    torch_built_for
        Version of CUDA that torch was built for; None for a torch without CUDA.
    devices
        The GPUs.
    architectures
        Architectures that this build has kernels for; None without CUDA kernels.
    driver, runtime
        Versions of the driver, and of the runtime in the build.
    error
        Error of a faulty driver.
    """

    torch_built_for: str | None
    devices: list[Gpu]
    architectures: str | None
    driver: str | None
    runtime: str | None
    error: str | None

    def as_json(self) -> dict[str, Any]:
        """Return the facts, without absent versions and errors."""
        facts = asdict(self)
        if self.architectures is None:
            del facts["driver"], facts["runtime"]
        if self.error is None:
            del facts["error"]
        return facts


@dataclass(frozen=True)
class Diagnosis:
    """The installation and the machine.

    Attributes
    ----------
    versions
        Versions of Python and of every package; None for a missing one.
    module
        The compiled module; None if it cannot be imported.
    threads, memory, cuda
        Processor, memory and GPUs.
    ops
        For every op, the implementation on each device.
    sources
        For every kind of source, the packages to install before it can be opened.
    environment
        Environment variables that pydream reads.
    problems
        Descriptions of problems to fix, one line each.
    """

    versions: dict[str, str | None]
    module: CompiledModule | None
    threads: Threads
    memory: Memory
    cuda: Cuda
    ops: dict[str, dict[str, str]]
    sources: dict[str, list[str]]
    environment: dict[str, str | None]
    problems: list[str]

    def as_json(self) -> dict[str, Any]:
        """Return all fields, ready for JSON."""
        module = {"error": _NO_MODULE} if self.module is None else asdict(self.module)
        return {**asdict(self), "module": module, "cuda": self.cuda.as_json()}


def diagnose() -> Diagnosis:
    """Examine the installation and the machine; a missing part is reported, never raised."""
    problems: list[str] = []
    torch = _attempt("torch", problems)
    compiled = _attempt("pydream._C", problems)
    module = _module(compiled, problems)
    cuda = _cuda(torch, compiled, problems)
    return Diagnosis(
        versions=_versions(problems),
        module=module,
        threads=Threads(
            torch=None if torch is None else torch.get_num_threads(),
            machine=os.cpu_count(),
            allowed=usable_processors(),
        ),
        memory=Memory(machine=physical_memory(), limit=memory_limit()),
        cuda=cuda,
        ops=_ops(_attempt("pydream.ops", problems), module, cuda),
        sources=_sources(),
        environment=_environment(problems),
        problems=problems,
    )


def _attempt(name: str, problems: list[str]) -> ModuleType | None:
    """Import a module, or record why that fails: broken libraries raise more than ImportError."""
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


def _module(module: ModuleType | None, problems: list[str]) -> CompiledModule | None:
    if module is None:
        return None
    try:
        active = module.active_isa()
    except ValueError as error:  # PYDREAM_ISA names an unavailable one
        active = None
        problems.append(f"PYDREAM_ISA: {error}")
    return CompiledModule(
        path=module.__file__,
        compiler=module.compiler,
        available=module.available_isas(),
        native_bfloat16=module.native_bfloat16(),
        active=active,
    )


def _cuda(torch: ModuleType | None, module: ModuleType | None, problems: list[str]) -> Cuda:
    """Return the facts about CUDA in torch and in this build."""
    architectures = (module and module.cuda_architectures) or None
    kernels = module.cuda if module is not None and architectures is not None else None
    devices: list[Gpu] = []
    failure = None
    try:
        for index in range(0 if torch is None else torch.cuda.device_count()):
            assert torch is not None
            properties = torch.cuda.get_device_properties(index)
            devices.append(
                Gpu(
                    name=properties.name,
                    capability=f"{properties.major}.{properties.minor}",
                    memory=properties.total_memory,
                    kernels=kernels is not None and kernels.has_code_for(index),
                )
            )
            if kernels is not None:
                capability = (properties.major, properties.minor)
                reason = missing_kernels(module, index, properties.name, capability)
                if reason is not None:
                    problems.append(reason)
    except RuntimeError as error:  # a faulty driver
        failure = first_line(error)
    return Cuda(
        torch_built_for=None if torch is None else torch.version.cuda,
        devices=devices,
        architectures=architectures,
        driver=None if kernels is None else cuda_version(kernels.driver_version()),
        runtime=None if kernels is None else cuda_version(kernels.runtime_version()),
        error=failure,
    )


def _ops(
    ops: ModuleType | None, module: CompiledModule | None, cuda: Cuda
) -> dict[str, dict[str, str]]:
    """Return for every op the implementation on the CPU and on CUDA devices."""
    if ops is None:
        return {}
    on_cpu = "not usable"
    if module is not None and module.active is not None:
        on_cpu = f"compiled ({module.active})"
    on_cuda = "no device"
    if cuda.devices:
        everywhere = all(device.kernels for device in cuda.devices)
        on_cuda = f"compiled ({cuda.architectures})" if everywhere else "not usable"
        if cuda.architectures is None:
            on_cuda = "reference"
    names = [
        name
        for name, value in inspect.getmembers(ops, inspect.isfunction)
        if not name.startswith("_")
        and value.__module__.startswith(ops.__name__)
        and not value.__module__.startswith(f"{ops.__name__}._")
    ]
    # The CPU draws them for every device, so that all get the same.
    drawn = {"random_augment", "random_crop_boxes", "random_keys"}
    return {name: {"cpu": on_cpu, "cuda": on_cpu if name in drawn else on_cuda} for name in names}


def _sources() -> dict[str, list[str]]:
    """Return what is missing for each kind of source."""
    return {
        name: [package for module, package in needed if find_spec(module) is None]
        for name, needed in _SOURCES.items()
    }


def _environment(problems: list[str]) -> dict[str, str | None]:
    data = os.environ.get("PYDREAM_DATA")
    if data is not None and not Path(data).is_dir():
        problems.append(f"PYDREAM_DATA names no folder: {data}")
    return {name: os.environ.get(name) for name in _VARIABLES}


def render_diagnosis(diagnosis: Diagnosis) -> RenderableType:
    """Format the result of `diagnose` for a terminal."""
    table = Table(show_header=False, box=None, pad_edge=False)
    table.add_column(style="bold", no_wrap=True)
    table.add_column(overflow="fold")
    for name, value in (
        *_package_rows(diagnosis.versions),
        *_module_rows(diagnosis.module),
        *_machine_rows(diagnosis),
    ):
        table.add_row(name, Text(value))
    problems = [Text(f"problem: {problem}", style="bold red") for problem in diagnosis.problems]
    sources = _source_table(diagnosis.sources)
    return Group(table, Text(), sources, Text(), _op_table(diagnosis.ops), *problems)


def _package_rows(versions: dict[str, str | None]) -> list[tuple[str, str]]:
    found = {name: number or "not installed" for name, number in versions.items()}
    return [
        ("pydream", found.pop(PACKAGE)),
        ("packages", ", ".join(f"{name} {number}" for name, number in found.items())),
    ]


def _module_rows(module: CompiledModule | None) -> list[tuple[str, str]]:
    if module is None:
        return [("kernels", _NO_MODULE)]
    native = "native" if module.native_bfloat16 else "not native, slower than float32"
    return [
        ("kernels", f"{module.path}, built by {module.compiler}"),
        ("instructions", f"{module.active}, of {', '.join(module.available)}"),
        ("bfloat16", native),
    ]


def _machine_rows(diagnosis: Diagnosis) -> list[tuple[str, str]]:
    threads, memory, cuda = diagnosis.threads, diagnosis.memory, diagnosis.cuda
    limit = "no limit" if memory.limit is None else f"limit {byte_words(memory.limit)}"
    size = "unknown" if memory.machine is None else byte_words(memory.machine)
    devices = "; ".join(
        f"{device.name}, capability {device.capability}, {byte_words(device.memory)}"
        for device in cuda.devices
    )
    built = f"torch built for CUDA {cuda.torch_built_for}"
    if cuda.torch_built_for is None:
        built = "torch built without CUDA"
    kernels = "no CUDA kernels built"
    if cuda.architectures is not None:
        driver = f"driver {cuda.driver}" if cuda.driver else "no driver"
        kernels = (
            f"kernels for architectures {cuda.architectures}, runtime {cuda.runtime}, {driver}"
        )
    return [
        (
            "threads",
            f"{threads.torch} used by torch, {threads.allowed} allowed, "
            f"{threads.machine} in the machine",
        ),
        ("memory", f"{size}, {limit}"),
        ("cuda", f"{built}; {devices or cuda.error or 'no device'}"),
        ("cuda kernels", kernels),
        *((name, value) for name, value in diagnosis.environment.items() if value is not None),
    ]


def _source_table(sources: dict[str, list[str]]) -> Table:
    table = Table("source", "can be opened", box=None, pad_edge=False)
    for name, missing in sources.items():
        needs = " ".join(f"'{package}'" for package in missing)
        table.add_row(Text(name), Text(f"no: pip install {needs}" if missing else "yes"))
    return table


def _op_table(ops: dict[str, dict[str, str]]) -> Table:
    table = Table("op", "cpu", "cuda", box=None, pad_edge=False)
    for name, runs in ops.items():
        table.add_row(name, runs["cpu"], runs["cuda"])
    return table
