from __future__ import annotations

import platform
import subprocess
import sys

import pytest

from pydream.allocator import keep_freed_memory

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
