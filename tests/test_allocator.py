from __future__ import annotations

import platform
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from pydream import ops
from pydream.allocator import in_large_pages, keep_freed_memory, peak_host_bytes

# In a process of its own: in one that has done much, a tensor may lie in memory that was freed
# before and is resident already.
PROGRAM = """
import resource
from pathlib import Path
import torch
from pydream.allocator import keep_freed_memory

SIZE = 200 << 20  # far above every threshold of glibc
LITTLE = SIZE // 4  # what the rest of the process may take or give back meanwhile

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

for _ in range(2):  # the second block must do what the first does
    start = resident()
    with keep_freed_memory():
        tensor = torch.ones(SIZE, dtype=torch.uint8)
        assert resident() > start + SIZE - LITTLE, "not taken"
        del tensor
        assert resident() > start + SIZE - LITTLE, "not kept within the block"
    assert resident() < start + LITTLE, "kept behind the block"
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept_within_the_block_only() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_the_block_ends_on_errors() -> None:
    with pytest.raises(RuntimeError, match="inside"), keep_freed_memory():
        raise RuntimeError("inside")


LARGE = 64 << 20  # bytes; twice what in_large_pages takes for large
NO_LARGE_PAGES = not Path("/sys/kernel/mm/transparent_hugepage/enabled").exists()


def may_have_large_pages(tensor: torch.Tensor) -> bool:
    """Whether the system was asked for large pages for the middle of a tensor."""
    middle = tensor.data_ptr() + tensor.nbytes // 2
    inside = False
    for line in Path("/proc/self/smaps").read_text().splitlines():
        if found := re.match(r"([0-9a-f]+)-([0-9a-f]+) ", line):
            begin, end = (int(each, 16) for each in found.groups())
            inside = begin <= middle < end
        elif inside and line.startswith("VmFlags:"):
            return "hg" in line.split()
    raise AssertionError("the tensor lies nowhere")


@pytest.mark.skipif(NO_LARGE_PAGES, reason="this system has no large pages to ask for")
def test_large_tensors_alone_ask_for_large_pages() -> None:
    assert not may_have_large_pages(torch.empty(LARGE, dtype=torch.uint8))
    assert may_have_large_pages(in_large_pages(torch.empty(LARGE, dtype=torch.uint8)))
    patches = torch.zeros(1, 4, 3, 8, 8, dtype=torch.uint8)
    side = int((LARGE / 3) ** 0.5) // 2 * 2
    assert may_have_large_pages(ops.collage(patches, factor=2, size=side))


def test_tensors_elsewhere_are_left_alone() -> None:
    meta = torch.empty(LARGE, dtype=torch.uint8, device="meta")
    assert in_large_pages(meta) is meta
    assert in_large_pages(torch.empty(0)).numel() == 0


def test_the_peak_is_of_this_program_alone() -> None:
    """Not of that which started it, from which getrusage's count begins on Linux."""
    held = torch.ones(1 << 30, dtype=torch.uint8)
    assert peak_host_bytes() > held.nbytes
    program = """
import torch
from pydream.allocator import peak_host_bytes
before = peak_host_bytes()
torch.ones(200 << 20, dtype=torch.uint8)
after = peak_host_bytes()
torch.ones(100 << 20, dtype=torch.uint8)
print(after - before, peak_host_bytes() - after)
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    grown, later = (int(each) >> 20 for each in run.stdout.split())
    # MiB; a tenth more or less is what the interpreter and its libraries take meanwhile.
    assert 180 < grown < 220
    assert later < 20
