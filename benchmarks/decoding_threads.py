"""What Python costs around the decoding of photographs, by decoders that only sleep.

    python -m benchmarks.decoding_threads --data DIR

As many threads as a GPU's host has read photographs from class folders and "decode" them by a sleep
of 2.4 ms, the time that libjpeg-turbo takes for a photograph of 205,000 pixels. Without any cost of
Python's they would finish threads / 2.4 ms images a second. Recorded: images a second, the time of
the process for each, and the sleeps a second of as many threads that do nothing else.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
import zipfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from benchmarks.records import RESULTS, write_record
from pydream.data import Source, decode_ahead, open_source, prefetch
from pydream.data.decode import read_header

SLEEP = 2.4e-3  # seconds
CLASSES, PER_CLASS = 20, 300


def link_photographs(archive: Path, folder: Path) -> None:
    """Make class folders of hard links to some photographs."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in opened.namelist() if name.endswith(".JPEG")]
        opened.extractall(folder / "once", names)
    files = [folder / "once" / name for name in names]
    for number in range(CLASSES * PER_CLASS):
        link = folder / "train" / f"{number // PER_CLASS:02d}" / f"{number:05d}.JPEG"
        link.parent.mkdir(parents=True, exist_ok=True)
        os.link(files[number % len(files)], link)


def sleeping(
    content: bytes | np.ndarray, *, upright: bool = False
) -> tuple[int, Callable[[], torch.Tensor]]:
    """Prepare a photograph as pydream does, but for its decoding."""
    assert isinstance(content, bytes)
    header = read_header(content)
    return 3 * header.height * header.width, partial(_sleep, header.height, header.width)


def _sleep(height: int, width: int) -> torch.Tensor:
    time.sleep(SLEEP)
    return torch.empty(height, width, 3, dtype=torch.uint8)


def measure(source: Source, workers: int, budget: int) -> tuple[float, float]:
    """Images a second, and seconds of the process's own time for an image."""
    begun, own = time.perf_counter(), time.process_time()
    count = sum(1 for _ in decode_ahead(source, range(len(source)), workers=workers, budget=budget))
    return count / (time.perf_counter() - begun), (time.process_time() - own) / count


def sleeps_alone(workers: int, count: int) -> float:
    """Sleeps a second of threads that only sleep."""
    begun = time.perf_counter()
    with ThreadPoolExecutor(workers) as pool:
        for done in [pool.submit(_sleep_often, count // workers) for _ in range(workers)]:
            done.result()
    return count // workers * workers / (time.perf_counter() - begun)


def _sleep_often(count: int) -> None:
    for _ in range(count):
        time.sleep(SLEEP)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the photographs")
    parser.add_argument("--workers", type=int, default=16)
    parser.add_argument("--budget", type=int, default=256, help="MiB of decoded images that wait")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    with (
        tempfile.TemporaryDirectory() as folder,
        patch.object(prefetch, "prepare", sleeping),
    ):
        link_photographs(arguments.data / "imagenet-sample-200.zip", Path(folder))
        source = open_source(str(Path(folder) / "train"))
        rounds = [
            measure(source, arguments.workers, arguments.budget << 20)
            for _ in range(arguments.rounds)
        ]
    alone = [sleeps_alone(arguments.workers, len(source)) for _ in range(arguments.rounds)]
    rates, costs = zip(*rounds, strict=True)
    most = arguments.workers / SLEEP
    results: dict[str, Any] = {
        "workers": arguments.workers,
        "sleep_seconds": SLEEP,
        "images": CLASSES * PER_CLASS,
        "rates": rates,
        "images_per_second": median(rates),
        "share_of_what_sleep_allows": median(rates) / most,
        "sleeps_per_second_alone": median(alone),
        "share_of_sleeps_alone": median(rates) / median(alone),
        "process_seconds_per_image": median(costs),
    }
    path = write_record("decoding-threads", results, arguments.out)
    print(
        f"{median(rates):,.0f} images a second; {most:,.0f} by arithmetic, {median(alone):,.0f} by "
        "threads that only sleep",
        path,
    )


if __name__ == "__main__":
    main()
