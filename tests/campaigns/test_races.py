"""Ops and commands in many threads and processes at once: the same bits, and one winner.

The long form builds the kernels a second time, for ThreadSanitizer.
"""

from __future__ import annotations

import multiprocessing
import os
import re
import shutil
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from campaigns.conftest import Campaign
from every_op import ARGUMENTS
from large_calls import ON_ONE_THREAD, Calls, calls, differing
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from pydream import ops

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
DEADLINE = 600  # seconds; a trial takes a few, a deadlock for ever
# The memory of a thread that has ended is freed by another, which waits for the kernel's word that
# it has ended. ThreadSanitizer does not see that.
SUPPRESSED = "race:_dl_deallocate_tls\n"
THREADS = 4
# Programs of this file begin so.
BEGIN = f"import sys; sys.path.insert(0, {str(HERE.parent)!r})\n"


def python(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a program in a fresh interpreter, where no test has made threads yet."""
    return subprocess.run(
        [sys.executable, "-W", "ignore", "-c", BEGIN + program, *arguments],
        capture_output=True, text=True, timeout=DEADLINE, check=False,
    )  # fmt: skip


# Under ThreadSanitizer


@pytest.fixture(scope="module")
def instrumented(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python whose kernels are compiled for ThreadSanitizer."""
    compiler = shutil.which("c++")
    if compiler is None:
        pytest.skip("no C++ compiler")
    found = subprocess.run(
        [compiler, "-print-file-name=libtsan.so"], capture_output=True, text=True, check=True
    )
    library = Path(found.stdout.strip())
    if not library.is_absolute():
        pytest.skip("the compiler has no shared library of ThreadSanitizer")
    folder = tmp_path_factory.mktemp("instrumented")
    subprocess.run(
        [sys.executable, "setup.py", "-q", "build", "--build-base", str(folder)],
        cwd=REPOSITORY,
        env={
            **os.environ,
            "PYDREAM_CUDA": "off",
            "PYDREAM_BUILD_TYPE": "Debug",
            "CXXFLAGS": "-O1 -fsanitize=thread",
        },
        check=True,
    )
    suppressions = folder / "suppressions"
    suppressions.write_text(SUPPRESSED)
    return {
        **os.environ,
        "LD_PRELOAD": str(library),
        "TSAN_OPTIONS": f"suppressions={suppressions}",
        "PYTHONPATH": os.pathsep.join([str(next(folder.glob("lib*"))), str(HERE.parent)]),
    }


def under_sanitizer(environment: dict[str, str], *arguments: str) -> str:
    """Race the calls of every op, and return what the program and ThreadSanitizer say."""
    run = subprocess.run(
        [sys.executable, str(HERE.parent / "large_calls.py"), *arguments],
        env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
        timeout=DEADLINE, check=False,
    )  # fmt: skip
    if "unexpected memory mapping" in run.stdout:
        pytest.skip("ThreadSanitizer cannot run on this kernel")
    return run.stdout


def test_kernels_have_no_data_race(campaign: Campaign, request: pytest.FixtureRequest) -> None:
    if not campaign.long:
        pytest.skip("builds the kernels a second time: only with --long")
    environment = request.getfixturevalue("instrumented")
    # A race made on purpose, so that silence means something.
    assert "WARNING: ThreadSanitizer: data race" in under_sanitizer(environment, "--into-one")
    said = under_sanitizer(environment)
    assert "the same results in all threads" in said
    assert "WARNING: ThreadSanitizer" not in said, said
    campaign.passed("races", "ops under ThreadSanitizer, from three threads", len(ARGUMENTS))


# Threads


def test_the_calls_are_those_of_every_op() -> None:
    assert calls().keys() == ARGUMENTS.keys()


def test_threads_find_what_one_thread_finds(campaign: Campaign) -> None:
    """While another thread changes how many threads each call takes."""
    each, rounds = calls(), campaign.trials(1, 20)
    before = torch.get_num_threads()
    expected = {name: call() for name, call in each.items()}
    ended = threading.Event()

    def change() -> None:
        threads = 0
        while not ended.wait(0.001):
            threads = threads % THREADS + 1
            torch.set_num_threads(threads)

    changing = threading.Thread(target=change)
    changing.start()
    try:
        with ThreadPoolExecutor(THREADS) as pool:
            jobs = [pool.submit(differing, each, expected) for _ in range(THREADS * rounds)]
            assert [job.result() for job in jobs] == [[]] * len(jobs)
    finally:
        ended.set()
        changing.join()
        torch.set_num_threads(before)
    made = len(each) * len(jobs)
    campaign.passed("races", "ops from four threads, while the number of threads changes", made)


# Processes

FORKED = f"""
import os, torch
from large_calls import calls, same
torch.set_num_threads({THREADS})
each = calls(derivatives=False)
expected = {{name: call() for name, call in each.items()}}
torch.randn(1000, 1000).sum(1)  # by the threads of PyTorch, which a child has not
def threads(): return len(os.listdir("/proc/self/task"))
for name, call in each.items():
    if os.fork() == 0:
        before = threads()
        right = same(call(), expected[name])
        print(name, right, threads() - before, flush=True)
        os._exit(0)
    os.wait()
"""


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")
def test_forked_children_have_threads_of_their_own(campaign: Campaign) -> None:
    rounds = campaign.trials(1, 8)
    for _ in range(rounds):
        run = python(FORKED)
        assert run.returncode == 0, run.stderr
        lines = [line.split() for line in run.stdout.splitlines()]
        assert {name: right for name, right, _ in lines} == dict.fromkeys(ARGUMENTS, "True")
        # So that this file's calls are shared by threads at all
        assert {name for name, _, new in lines if new == "0"} == ON_ONE_THREAD
    campaign.passed("races", "ops in forked children", rounds * len(ARGUMENTS))


FORKED_MEANWHILE = f"""
import os, threading, torch
from large_calls import calls, differing
torch.set_num_threads({THREADS})
each = calls(derivatives=False)
expected = {{name: call() for name, call in each.items()}}
ended = threading.Event()
def work():
    while not ended.is_set(): differing(each, expected)
workers = [threading.Thread(target=work) for _ in range(3)]
for worker in workers: worker.start()
for _ in range(int(sys.argv[1])):
    child = os.fork()
    if child == 0:
        os._exit(len(differing(each, expected)))
    assert os.waitpid(child, 0)[1] == 0
ended.set()
for worker in workers: worker.join()
"""


def test_children_forked_while_other_threads_are_within_ops(campaign: Campaign) -> None:
    children = campaign.trials(1, 40)
    run = python(FORKED_MEANWHILE, str(children))
    assert run.returncode == 0, run.stderr
    made = children * len(ARGUMENTS)
    campaign.passed("races", "ops in children forked while three threads are within ops", made)


def _worker(expected: dict[str, list[Tensor]]) -> list[str]:
    torch.set_num_threads(THREADS)
    return differing(calls(derivatives=False), expected)


def test_spawned_workers_find_what_one_thread_finds(campaign: Campaign) -> None:
    each: Calls = calls(derivatives=False)
    expected = {name: call() for name, call in each.items()}
    workers = campaign.trials(1, 8)
    with multiprocessing.get_context("spawn").Pool(min(workers, 2)) as pool:
        assert pool.map(_worker, [expected] * workers, chunksize=1) == [[]] * workers
    campaign.passed("races", "ops in spawned workers", workers * len(each))


class Crops(Dataset[Tensor]):
    """A crop of each of some images, which workers cut out."""

    def __len__(self) -> int:
        return 24

    def __getitem__(self, index: int) -> Tensor:
        image = (torch.arange(40 * 40 * 3) * (index + 1)).remainder(251).byte().view(1, 40, 40, 3)
        sizes, ids = torch.tensor([[40, 40]]), torch.tensor([index])
        boxes = ops.random_crop_boxes(sizes, 4, seed=5, ids=ids)[0]
        return ops.crop_resize(image, boxes, 16)


def tiled(crops: list[Tensor]) -> Tensor:
    """Collate crops into collages."""
    return ops.collage(torch.stack(crops), 2, 32)


def test_workers_of_a_loader_find_what_one_process_finds(campaign: Campaign) -> None:
    crops, kinds = Crops(), campaign.trials(1, 3)
    expected = torch.cat([*DataLoader(crops, batch_size=8, collate_fn=tiled)])
    rounds = campaign.trials(1, 5)
    for kind in ("fork", "spawn", "forkserver")[:kinds]:
        loader = DataLoader(
            crops, batch_size=8, collate_fn=tiled, num_workers=2, multiprocessing_context=kind
        )
        for _ in range(rounds):
            assert torch.equal(torch.cat([*loader]), expected), kind
    part = "ops in workers of a DataLoader: forked, spawned, of a server"
    campaign.passed("races", part, kinds * rounds * len(crops))


# Interpreters


@pytest.mark.skipif(sys.version_info < (3, 12), reason="older ones wait for their own lock")
def test_an_interpreter_beside_the_main_one_is_refused() -> None:
    run = python(
        "from pydream import _C\n"
        "interpreters = __import__('_interpreters' if sys.version_info >= (3, 13) else "
        "'_xxsubinterpreters')\n"
        "code = f'import sys; sys.path[:] = {sys.path!r}; import importlib.util as util; '\n"
        "code += f'spec = util.spec_from_file_location(\"_C\", {_C.__file__!r}); '\n"
        "code += 'util.module_from_spec(spec)'\n"
        "print(interpreters.run_string(interpreters.create(), code))"
    )
    said = run.stdout + run.stderr
    assert re.search(r"ImportError.*does not support loading in subinterpreters", said), said
    assert run.returncode in (0, 1)  # no signal
