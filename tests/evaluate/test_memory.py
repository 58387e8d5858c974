from __future__ import annotations

import platform
import resource

import pytest
import torch

from pydream.evaluate.memory import keep_freed_memory

# 200 MB, above every threshold of glibc: 51,200 pages of 4 KiB.
COUNT = 200 << 18
PAGES = 4 * COUNT // resource.getpagesize()


def faults() -> int:
    """Count the pages that the system maps while a large tensor is made, filled and freed."""
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(COUNT).fill_(1.0)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept_within_the_block_only() -> None:
    with keep_freed_memory():
        for _ in range(4):  # until the heap has a hole of this size
            faults()
        # The rest of the process may map a page here and there.
        assert faults() < PAGES // 100
    # Huge pages count as one fault each, so that not every page of 4 KiB must show.
    assert faults() > PAGES // 1000


def test_the_block_ends_on_errors() -> None:
    with pytest.raises(RuntimeError, match="inside"), keep_freed_memory():
        raise RuntimeError("inside")
