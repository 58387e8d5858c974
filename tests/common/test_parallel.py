"""The thread pool, alone under ThreadSanitizer and through the module."""

from __future__ import annotations

import shutil
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from pydream import _C
from pydream.ops._view import view
from pydream.ops.reference import boxes as reference

REPOSITORY = Path(__file__).resolve().parents[2]
COMPILER = shutil.which("c++")
DEADLINE = 600  # seconds; a run takes a few, a deadlock for ever


def build(target: Path, *options: str) -> Path:
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    sources = [
        REPOSITORY / "csrc/common/parallel.cpp",
        Path(__file__).parent / "parallel_stress.cpp",
    ]
    subprocess.run(
        [COMPILER, "-std=c++17", "-O1", "-g", f"-I{REPOSITORY / 'csrc'}", "-pthread", *options,
         *map(str, sources), "-o", str(target)],
        check=True,
    )  # fmt: skip
    return target


def test_no_data_race(tmp_path: Path) -> None:
    program = build(tmp_path / "stress", "-fsanitize=thread")
    run = subprocess.run([program], capture_output=True, text=True, timeout=DEADLINE)
    if "unexpected memory mapping" in run.stderr:
        pytest.skip("ThreadSanitizer cannot run on this kernel")
    assert run.returncode == 0, run.stderr
    assert "WARNING: ThreadSanitizer" not in run.stderr


def test_children_forked_while_the_pool_works(tmp_path: Path) -> None:
    program = build(tmp_path / "stress")
    run = subprocess.run([program, "fork"], capture_output=True, text=True, timeout=DEADLINE)
    assert run.returncode == 0, run.stderr


def keys(ids: torch.Tensor, seed: int, threads: int) -> torch.Tensor:
    out = torch.empty_like(ids)
    _C.random_keys_cpu(view(ids), seed, 0, view(out), threads)
    return out


def test_python_threads_share_the_pool() -> None:
    ids = torch.arange(20_000)
    expected = [reference.random_keys(ids, seed, 0) for seed in range(4)]

    def work(number: int) -> bool:
        return all(
            torch.equal(keys(ids, seed, 1 + (number + seed) % 5), expected[seed])
            for _ in range(10)
            for seed in range(4)
        )

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(work, range(16)))


def test_torchs_threads_are_shared_whatever_their_number() -> None:
    ids = torch.arange(20_000)
    expected = reference.random_keys(ids, 3, 0)
    for threads in (2, 5, 1, 3, 2):
        numbers = torch.rand(1000, 1000).sum(1)  # an operation of torch's threads in between
        assert torch.equal(keys(ids, 3, threads), expected)
        assert numbers.isfinite().all()


def test_the_module_works_after_a_fork() -> None:
    script = textwrap.dedent(
        """
        import os, sys, threading, warnings
        import torch
        from pydream import ops
        warnings.simplefilter("ignore")
        torch.set_num_threads(4)
        images = torch.arange(8 * 40 * 40 * 3, dtype=torch.int64).to(torch.uint8)
        images = images.reshape(8, 40, 40, 3)
        boxes = ops.random_crop_boxes(torch.full((8, 2), 40), 50).flatten(0, 1)
        expected = ops.crop_resize(images, boxes, 20)
        stop = threading.Event()
        def busy():
            while not stop.is_set():
                ops.crop_resize(images, boxes, 20)
        threads = [threading.Thread(target=busy) for _ in range(3)]
        for thread in threads: thread.start()
        for _ in range(5):
            child = os.fork()
            if child == 0:
                out = torch.empty_like(expected)
                ops.crop_resize(images, boxes, 20, out=out)
                os._exit(0 if bytes(out.numpy()) == bytes(expected.numpy()) else 1)
            _, status = os.waitpid(child, 0)
            assert status == 0, status
        stop.set()
        for thread in threads: thread.join()
        """
    )
    run = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=DEADLINE
    )
    assert run.returncode == 0, run.stderr
