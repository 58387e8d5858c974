"""A whole run of a method under torch's profiler: a table of its stages, and a trace."""

from __future__ import annotations

import dataclasses
import gzip
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, TypeAlias

import torch
from torch._C._profiler import _ExperimentalConfig
from torch.profiler import ProfilerActivity

from pydream import dream, rded
from pydream.allocator import peak_host_bytes
from pydream.devices import announce_device, resolve_device
from pydream.doctor import diagnose
from pydream.dream import DreamConfig
from pydream.errors import PydreamError
from pydream.evaluate import EvaluateConfig, evaluate_set
from pydream.files import check_free, first_free, write_new, written_beside
from pydream.models.loading import resolve_precision
from pydream.profiling.limits import Limits, measure_limits
from pydream.profiling.recorder import BETWEEN, Recorder
from pydream.profiling.results import FORMAT_VERSION, Profile, Stage, trace_beside
from pydream.rded import RdedConfig
from pydream.timeline import recording
from pydream.urls import without_secrets
from pydream.versions import package_record

_NEW_SAVE = "give --save the name of a new file"
MethodConfig: TypeAlias = RdedConfig | DreamConfig | EvaluateConfig

_METHODS: Mapping[type[Any], tuple[str, Callable[[Any], Any]]] = {
    RdedConfig: ("rded", rded.distill),
    DreamConfig: ("dream", dream.distill),
    EvaluateConfig: ("evaluate", evaluate_set),
}


def profile(config: MethodConfig, save: Path | None = None) -> Profile:
    """Run a method from start to end, and measure where its time goes.

    If the settings name no output folder, the output goes to a temporary folder and is discarded.
    The profiler itself takes time: about ten microseconds per operation of PyTorch.

    Parameters
    ----------
    config
        Settings of `pydream.rded.distill`, `pydream.dream.distill` or
        `pydream.evaluate.evaluate_set`.
    save
        Name of the JSON file to write; by default the first free ``profile-METHOD-N.json``.

    Returns
    -------
    Profile
        The profile, as written to the file.

    Raises
    ------
    PydreamError
        If a file exists or cannot be written; also any error of the method.
    """
    method, run = _METHODS[type(config)]
    path = save or _free_name(method)
    for file in (path, trace_beside(path)):
        check_free(file, _NEW_SAVE)
    device = resolve_device(config.device)
    announce_device(config.device)
    config = dataclasses.replace(config, device=str(device))
    limits = measure_limits(device, _arithmetic(config, device))
    recorder = Recorder()
    os.environ.setdefault("KINETO_LOG_LEVEL", "5")  # else its notes appear between pydream's lines
    with tempfile.TemporaryDirectory() as folder:
        if config.out is None:
            config = dataclasses.replace(config, out=Path(folder) / "out")
        with _traced(device) as traced, recording(recorder):
            begun = time.perf_counter()
            run(config)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            seconds = time.perf_counter() - begun
    recorder.finish()
    path = save or _free_name(method)  # another process may have taken the name meanwhile
    result = Profile(
        path=path,
        format=FORMAT_VERSION,
        package=package_record(),
        date=datetime.now(timezone.utc).isoformat(timespec="seconds"),
        method=method,
        device=str(device),
        seconds=seconds,
        limits=limits,
        memory=_peak_memory(device),
        stages=_stages(recorder, limits, seconds),
        uncounted=sorted(recorder.uncounted),
        config=json.loads(without_secrets(json.dumps(dataclasses.asdict(config), default=str))),
        machine=diagnose().as_json(),
    )
    write_new(path, result.as_text().encode(), _NEW_SAVE)
    try:
        _write_trace(traced, result.trace)
    except RuntimeError as error:
        raise PydreamError(f"{result.trace} cannot be written: {error}") from error
    return result


def _write_trace(traced: torch.profiler.profile, path: Path) -> None:
    """Write the Chrome trace, compressed; PyTorch does that line by line, five times as slowly."""
    with (
        tempfile.TemporaryDirectory() as folder,
        written_beside(path, _NEW_SAVE, new_file=True) as beside,
    ):
        plain = Path(folder) / "trace.json"
        traced.export_chrome_trace(str(plain))
        with plain.open("rb") as source, gzip.open(beside, "wb", compresslevel=1) as target:
            shutil.copyfileobj(source, target, 1 << 20)


def _free_name(method: str) -> Path:
    """Return the first free name; nothing is made there before the run has ended."""

    def refuse_taken(path: Path) -> None:
        if path.exists() or trace_beside(path).exists():
            raise FileExistsError(path)

    return first_free(lambda number: Path(f"profile-{method}-{number}.json"), refuse_taken)


def _arithmetic(config: MethodConfig, device: torch.device) -> torch.dtype:
    """Return the dtype of the method's networks."""
    precision = getattr(config, "precision", "float32")
    return getattr(torch, resolve_precision(precision, device))  # type: ignore[no-any-return]


def _traced(device: torch.device) -> torch.profiler.profile:
    activities = [ProfilerActivity.CPU]
    if device.type == "cuda":
        activities.append(ProfilerActivity.CUDA)
    try:
        everywhere = _ExperimentalConfig(profile_all_threads=True)
    except TypeError:  # before PyTorch 2.8, the trace has only the main thread
        everywhere = _ExperimentalConfig()
    return torch.profiler.profile(activities=activities, experimental_config=everywhere)


def _peak_memory(device: torch.device) -> dict[str, int]:
    """Return the peak memory since the process began, in bytes."""
    memory = {"host": peak_host_bytes()}
    if device.type == "cuda":
        memory["device"] = torch.cuda.max_memory_allocated(device)
    return memory


def _stages(recorder: Recorder, limits: Limits, whole: float) -> list[Stage]:
    """List the stages; an outer one includes the bytes and operations of those within it."""
    begun = list(recorder.totals)

    def place(path: str) -> list[int]:
        names = path.split(BETWEEN)
        return [begun.index(BETWEEN.join(names[: depth + 1])) for depth in range(len(names))]

    stages = []
    for path in sorted(begun, key=place):
        total = recorder.totals[path]
        within = [
            part
            for other, part in recorder.totals.items()
            if other == path or other.startswith(path + BETWEEN)
        ]
        nbytes = sum(part.nbytes for part in within)
        operations = sum(part.operations for part in within)
        least = limits.least_seconds(nbytes, operations)
        stages.append(
            Stage(
                path=path,
                seconds=total.seconds,
                share=total.seconds / whole,
                calls=total.calls,
                threads=len(total.threads),
                bytes=nbytes,
                operations=operations,
                of_limit=least / total.seconds if least and total.seconds else None,
            )
        )
    return stages
