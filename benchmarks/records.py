"""The records of benchmarks: what they were measured on, written and found again."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from datetime import datetime, timezone
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from pydream import _C
from pydream.profiling import Limits

RESULTS = Path(__file__).resolve().parent / "results"
PACKAGES = (
    "pydream-distill",
    "torch",
    "torchvision",
    "numpy",
    "pillow",
    "opencv-python-headless",
    "kornia",
    "scikit-learn",
    "faiss-cpu",
    "fast-pytorch-kmeans",
    "flash-kmeans",
    "triton",
)
# Vendors as /proc/cpuinfo names them, for processors whose name does not say whose they are.
VENDORS = {"AuthenticAMD": "AMD", "GenuineIntel": "Intel", "0x41": "Arm"}


class MixedRecordsError(ValueError):
    """Records of machines that differ in speed lie in one folder."""


def machine(device: torch.device | None = None) -> dict[str, Any]:
    """Describe what a figure was measured on."""
    return {
        **({} if device is None else {"gpu": torch.cuda.get_device_name(device)}),
        **_processor(),
        "native_bfloat16": _C.native_bfloat16(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "build": {
            "compiler": _C.compiler,
            "instruction_set": _C.active_isa(),
            "cuda_architectures": _C.cuda_architectures,
            "torch_cuda": torch.version.cuda,
        },
    }


def decisive(machine: Mapping[str, Any]) -> dict[str, Any]:
    """Return the part of a machine's description that decides how fast it is.

    A GPU stands for its machine. What a record of an earlier version does not say is None.
    """
    if "gpu" in machine:
        return {"gpu": machine["gpu"]}
    return {
        **{name: machine.get(name) for name in ("processor", "vendor", "family", "model")},
        "instruction_set": machine["build"]["instruction_set"],
        "native_bfloat16": machine.get("native_bfloat16"),
        "cores": machine["cores"],
    }


def folder_of(machine: Mapping[str, Any]) -> str:
    """Name the folder of a machine's records by what decides its speed."""
    about = decisive(machine)
    name = about.get("gpu")
    if name is None:
        vendor = VENDORS.get(str(about["vendor"]), "")
        own = vendor.lower() in str(about["processor"]).lower()
        name = " ".join(
            [
                *([] if own else [vendor]),
                str(about["processor"]),
                *(f"{key} {about[key]}" for key in ("family", "model") if about[key] is not None),
                about["instruction_set"],
                *(["bf16"] if about["native_bfloat16"] else []),
                f"{about['cores']} cores",
            ]
        )
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")


def write_record(
    name: str,
    results: Mapping[str, Any],
    folder: Path = RESULTS,
    device: torch.device | None = None,
    *,
    limits: Limits | None = None,
    over: Path | None = None,
) -> Path:
    """Write results/<machine>/<date>-<name>.json; a number follows where that is taken.

    `device` is the GPU that was measured, or None for the processor; `limits` are those of the
    device, measured in the same run. With `over`, a record that this run wrote before is replaced
    by one that holds more.
    """
    now = datetime.now(timezone.utc)
    described = machine(device)
    place = folder / folder_of(described)
    place.mkdir(parents=True, exist_ok=True)
    record = {
        "name": name,
        "date": now.isoformat(timespec="seconds"),
        "machine": described,
        **({} if limits is None else {"limits": asdict(limits)}),
        "results": dict(results),
    }
    if over is not None:
        fuller = over.with_suffix(".new")
        fuller.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        return fuller.replace(over)
    stem, number = f"{now:%Y-%m-%d}-{name}", 1
    while True:
        path = place / (f"{stem}.json" if number == 1 else f"{stem}-{number}.json")
        try:
            with path.open("x", encoding="utf-8") as file:
                json.dump(record, file, indent=2)
                file.write("\n")
            return path
        except FileExistsError:
            number += 1


class GrowingRecord:
    """A record that is written again after every result: a run that is killed loses none.

    Parameters
    ----------
    name, folder, device, limits
        As for `write_record`. Without a folder nothing is written.

    Attributes
    ----------
    results
        By case.
    path
        The file, once there is one.
    """

    def __init__(
        self,
        name: str,
        folder: Path | None,
        device: torch.device | None = None,
        limits: Limits | None = None,
    ) -> None:
        self.results: dict[str, Any] = {}
        self.path: Path | None = None
        self._name, self._folder, self._device, self._limits = name, folder, device, limits

    def add(self, case: str, result: Any) -> None:
        """Take a result, or the fuller one of a case that is there, and write the record."""
        self.results[case] = result
        if self._folder is not None:
            self.path = write_record(
                self._name,
                self.results,
                self._folder,
                self._device,
                limits=self._limits,
                over=self.path,
            )


def _processor() -> dict[str, str]:
    """Return the processor's name and, where the system tells them, vendor, family and model."""
    if platform.system() == "Darwin":
        told = {
            "processor": _sysctl("machdep.cpu.brand_string"),
            "vendor": _sysctl("machdep.cpu.vendor"),
            "family": _sysctl("machdep.cpu.family"),
            "model": _sysctl("machdep.cpu.model"),
        }
    else:
        try:
            told = read_cpuinfo(Path("/proc/cpuinfo").read_text(encoding="utf-8"))
        except OSError:
            told = {}
    name = told.pop("processor", None) or platform.processor() or platform.machine()
    return {"processor": name, **{key: value for key, value in told.items() if value}}


def read_cpuinfo(text: str) -> dict[str, str]:
    """Pick name, vendor, family and model of the first processor out of Linux's /proc/cpuinfo."""
    lines = (line.partition(":") for line in text.partition("\n\n")[0].splitlines())
    fields = {name.strip(): value.strip() for name, _, value in lines}
    wanted = {
        "processor": "model name",
        "vendor": "vendor_id" if "vendor_id" in fields else "CPU implementer",
        "family": "cpu family",
        "model": "model" if "model" in fields else "CPU part",
    }
    told = {key: fields[name] for key, name in wanted.items() if name in fields}
    if "processor" in told:
        told["processor"] = told["processor"].replace("(R)", "").replace("(TM)", "")
    return told


def _sysctl(name: str) -> str:
    """Ask a Mac's kernel; an empty string where it does not know."""
    command = ["sysctl", "-n", name]
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "absent"


def newest_records(folder: Path = RESULTS) -> Iterator[dict[str, Any]]:
    """Give out the newest record of each name of each machine, in order.

    Raises
    ------
    MixedRecordsError
        Where one folder has records of machines that differ in what decides speed.
    """
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        records = []
        for file in sorted(place.glob("*.json")):
            record = json.loads(file.read_text(encoding="utf-8"))
            record["file"] = file.relative_to(folder.parent).as_posix()
            records.append(record)
        _check_one_machine(records)
        newest: dict[str, dict[str, Any]] = {}
        for record in records:
            known = newest.get(record["name"])
            if known is None or record["date"] >= known["date"]:
                newest[record["name"]] = record
        yield from (newest[name] for name in sorted(newest))


def _check_one_machine(records: list[dict[str, Any]]) -> None:
    """Refuse records of different machines, naming the files and what differs."""
    for record in records[1:]:
        first, other = (decisive(entry["machine"]) for entry in (records[0], record))
        if first != other:
            differs = [
                f"{name} is {first.get(name)} and {other.get(name)}"
                for name in {**first, **other}
                if first.get(name) != other.get(name)
            ]
            raise MixedRecordsError(
                f"{records[0]['file']} and {record['file']} are of different machines "
                f"({'; '.join(differs)}): their folders are "
                f"{folder_of(records[0]['machine'])} and {folder_of(record['machine'])}"
            )
