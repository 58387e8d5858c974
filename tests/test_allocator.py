from __future__ import annotations

import ctypes
import json
import platform
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from pydream import allocator
from pydream.allocator import in_large_pages, keep_freed_memory, peak_host_bytes

# In a process of its own: in one that has done much, a tensor may lie in memory that was used, or
# marked for large pages, before.
PROGRAM = """
import json, re, resource
from pathlib import Path
import torch
from pydream import ops
from pydream.allocator import in_large_pages, keep_freed_memory, peak_host_bytes

LARGE = 64 << 20  # bytes; twice what in_large_pages takes for large
SIZE = 200 << 20  # far above every threshold of glibc

def resident():
    file = Path("/proc/self/statm")
    return int(file.read_text().split()[1]) * resource.getpagesize() if file.exists() else 0

def flags(tensor):
    "What the system says of the memory in the middle of a tensor; None where it says nothing."
    middle = tensor.data_ptr() + tensor.nbytes // 2
    file = Path("/proc/self/smaps")
    inside = False
    for line in file.read_text().splitlines() if file.exists() else []:
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            begin, end = (int(each, 16) for each in found.groups())
            inside = begin <= middle < end
        elif inside and line.startswith("VmFlags:"):
            return line.split()

peaks = [peak_host_bytes()]
for size in (SIZE, SIZE // 2):
    torch.ones(size, dtype=torch.uint8)
    peaks.append(peak_host_bytes())

kept = []
for _ in range(2):  # the second block must do what the first does
    start = resident()
    with keep_freed_memory():
        tensor = torch.ones(SIZE, dtype=torch.uint8)
        taken = resident()
        del tensor
        kept.append([taken - start, resident() - start])
    kept[-1].append(resident() - start)

patches = torch.zeros(1, 4, 3, 8, 8, dtype=torch.uint8)
pages = {
    "fresh": flags(torch.empty(LARGE, dtype=torch.uint8)),
    "marked": flags(in_large_pages(torch.empty(LARGE, dtype=torch.uint8))),
    "collage": flags(ops.collage(patches, factor=2, size=int((LARGE / 3) ** 0.5) // 2 * 2)),
}
print(json.dumps({"peaks": peaks, "kept": kept, "pages": pages}))
"""
SIZE = 200 << 20  # as in the program
LITTLE = SIZE // 4  # what the rest of the process may take or give back meanwhile


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    """What the program has found; it was started by a process that has held more than it does."""
    torch.ones(512 << 20, dtype=torch.uint8)
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    facts: dict[str, Any] = json.loads(run.stdout)
    return facts


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept_within_the_block_only(found: dict[str, Any]) -> None:
    for taken, within, behind in found["kept"]:
        assert taken > SIZE - LITTLE
        assert within > SIZE - LITTLE
        assert behind < LITTLE


def test_the_block_ends_on_errors() -> None:
    with pytest.raises(RuntimeError, match="inside"), keep_freed_memory():
        raise RuntimeError("inside")


@pytest.mark.skipif(
    not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists(),
    reason="this system has no large pages to ask for",
)
def test_large_tensors_alone_ask_for_large_pages(found: dict[str, Any]) -> None:
    pages = found["pages"]
    if pages["fresh"] is None:
        pytest.skip("this system does not say what pages were asked for")
    assert "hg" not in pages["fresh"]
    assert "hg" in pages["marked"]
    assert "hg" in pages["collage"]


def test_tensors_elsewhere_are_left_alone() -> None:
    meta = torch.empty(64 << 20, dtype=torch.uint8, device="meta")
    assert in_large_pages(meta) is meta
    assert in_large_pages(torch.empty(0)).numel() == 0


class OtherLibrary:
    """A C library without anything that only Linux or glibc has."""


@pytest.mark.parametrize("system", ["linux", "darwin"])
def test_what_the_c_library_lacks_is_left_out(monkeypatch: pytest.MonkeyPatch, system: str) -> None:
    """As on macOS, and on Linux with another C library than glibc."""
    monkeypatch.setattr(ctypes, "CDLL", lambda name: OtherLibrary())
    monkeypatch.setattr(sys, "platform", system)
    allocator._libc.cache_clear()
    try:
        with keep_freed_memory():
            large = torch.empty(64 << 20, dtype=torch.uint8)
        assert in_large_pages(large) is large
    finally:
        monkeypatch.undo()
        allocator._libc.cache_clear()


def test_the_peak_is_of_this_program_alone(found: dict[str, Any]) -> None:
    """Not of that which started it, from which getrusage's count begins on Linux."""
    first, second, third = found["peaks"]
    # A tenth more or less is what the interpreter and its libraries take meanwhile.
    assert second - first == pytest.approx(SIZE, rel=0.1)
    assert third - second < SIZE / 10


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_a_peak_without_proc_is_in_bytes_too(
    monkeypatch: pytest.MonkeyPatch, system: str, unit: int
) -> None:
    """As on macOS, where getrusage counts bytes; elsewhere it counts KiB."""
    monkeypatch.setattr(allocator, "Path", lambda name: Path("/nonexistent"))
    usage = SimpleNamespace(ru_maxrss=5_000_000)
    monkeypatch.setattr("pydream.allocator.resource.getrusage", lambda whose: usage)
    monkeypatch.setattr(sys, "platform", system)
    assert peak_host_bytes() == 5_000_000 * unit
