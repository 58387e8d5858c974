from __future__ import annotations

import platform
import resource
from pathlib import Path

import pytest
import torch

from pydream.allocator import keep_freed_memory

SIZE = 200 << 20  # far above every threshold of glibc
LITTLE = SIZE // 4  # what the rest of the process may take or give back meanwhile


def resident() -> int:
    """Return the bytes of memory that the system has given to this process."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept_within_the_block_only() -> None:
    for _ in range(2):  # the second block must do what the first does
        start = resident()
        with keep_freed_memory():
            tensor = torch.ones(SIZE, dtype=torch.uint8)
            assert resident() > start + SIZE - LITTLE
            del tensor
            assert resident() > start + SIZE - LITTLE
        assert resident() < start + LITTLE


def test_the_block_ends_on_errors() -> None:
    with pytest.raises(RuntimeError, match="inside"), keep_freed_memory():
        raise RuntimeError("inside")
