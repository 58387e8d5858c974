"""Decoders of JPEG beside each other: photographs a second, the same pixels or not.

    python -m benchmarks.decoders --data DIR

Each decoder takes the same photographs from memory, in one thread and in two, in turns. Of each it
is told how many pixels differ from those that pydream decodes, and how long a photograph keeps
Python's other threads waiting: a thread that only counts, beside one that decodes, loses that share
of its counts. A rival that is not installed is left out. Processes are those of PyTorch's
DataLoader, with one image an item: they include the way of pixels back through shared memory.
"""

from __future__ import annotations

import argparse
import importlib
import io
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image
from torch.utils.data import DataLoader

from benchmarks.records import RESULTS, GrowingRecord
from pydream.data.decode import decode_image

T = TypeVar("T")

Pixels = npt.NDArray[np.uint8]
Decode = Callable[[bytes], Any]

OURS = "pydream (torchvision's libjpeg-turbo)"
PROCESSES = "processes (DataLoader)"
AT_ONCE = (1, 2)
COUNTED = 1.0  # seconds
BATCH = 32  # images in a call of a decoder that takes several
NO_DEVICE = -99999  # nvImageCodec's number of the processor


def with_pillow(data: bytes) -> Pixels:
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def simplejpeg() -> Decode:
    decode: Any = importlib.import_module("simplejpeg").decode_jpeg
    return partial(decode, colorspace="RGB", fastdct=False, fastupsample=False)


def simplejpeg_into_a_buffer() -> Decode:
    """Each thread decodes into memory of its own, again and again."""
    decode: Any = simplejpeg()
    own = threading.local()

    def into(data: bytes) -> Pixels:
        if not hasattr(own, "buffer"):
            own.buffer = np.empty(3 * 4096 * 4096, np.uint8)
        found: Pixels = decode(data, buffer=own.buffer)
        return found

    return into


def opencv() -> Decode:
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    how = cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION
    return lambda data: cv2.imdecode(np.frombuffer(data, np.uint8), how)


class NvImageCodec:
    """nvImageCodec on the processor. One decoder serves one caller, with threads of its own."""

    def __init__(self) -> None:
        self._package = importlib.import_module("nvidia.nvimgcodec")
        self._one = self._decoder(1)

    def __call__(self, data: bytes) -> Pixels:
        return np.asarray(self._one.decode(data))

    def rate(self, files: Sequence[bytes], threads: int) -> float:
        """Images a second, in batches of as many as a run has under way."""
        decoder = self._decoder(threads)
        begun = time.perf_counter()
        for first in range(0, len(files), BATCH):
            for image in decoder.decode([*files[first : first + BATCH]]):
                np.asarray(image)
        return len(files) / (time.perf_counter() - begun)

    def _decoder(self, threads: int) -> Any:
        on_processor = self._package.Backend(self._package.BackendKind.CPU_ONLY)
        return self._package.Decoder(
            device_id=NO_DEVICE, max_num_cpu_threads=threads, backends=[on_processor]
        )


DECODERS: dict[str, Callable[[], Decode]] = {
    OURS: lambda: decode_image,
    "Pillow": lambda: with_pillow,
    "simplejpeg": simplejpeg,
    "simplejpeg, into a buffer": simplejpeg_into_a_buffer,
    "OpenCV": opencv,
    "nvImageCodec, CPU": NvImageCodec,
}


def rate(decode: Decode, files: Sequence[bytes], threads: int) -> float:
    """Images a second of some threads."""
    if isinstance(decode, NvImageCodec):
        return decode.rate(files, threads)
    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        for _ in pool.map(decode, files):
            pass
        return len(files) / (time.perf_counter() - begun)


def rate_of_processes(files: Sequence[bytes], processes: int) -> float:
    """Images a second of worker processes, once they have begun."""
    loader = DataLoader(
        _Decoded(files), batch_size=None, num_workers=processes, multiprocessing_context="fork"
    )
    images = iter(loader)
    next(images)
    begun = time.perf_counter()
    for _ in images:
        pass
    return (len(files) - 1) / (time.perf_counter() - begun)


class _Decoded(torch.utils.data.Dataset[torch.Tensor]):
    def __init__(self, files: Sequence[bytes]) -> None:
        self.files = files

    def __len__(self) -> int:
        return len(self.files)

    def __getitem__(self, index: int) -> torch.Tensor:
        return decode_image(self.files[index])


def kept_waiting(work: Callable[[Any], Any], inputs: Sequence[Any]) -> float:
    """Seconds that work on one input keeps other threads of Python from running."""
    alone, _ = _count_beside(lambda: time.sleep(COUNTED / 100), COUNTED)
    endless = (inputs[number % len(inputs)] for number in count())
    beside, done = _count_beside(lambda: work(next(endless)), COUNTED)
    return max(0.0, 1 - beside / alone) * COUNTED / done


def _count_beside(work: Callable[[], object], seconds: float) -> tuple[float, int]:
    """Count in one thread while another works; return the counts and how often it worked."""
    ends, done, counted = time.perf_counter() + seconds, 0, [0]

    def counting() -> None:
        number = 0
        while time.perf_counter() < ends:
            number += 1
        counted[0] = number

    thread = threading.Thread(target=counting)
    thread.start()
    while time.perf_counter() < ends:
        work()
        done += 1
    thread.join()
    return counted[0], done


def differing(decode: Decode, files: Sequence[bytes]) -> float:
    """Share of the channels' values that are not those of pydream's decoder."""
    unequal = values = 0
    for data in files:
        expected = decode_image(data).numpy()
        unequal += int((np.asarray(decode(data)) != expected).sum())
        values += expected.size
    return unequal / values


def photographs(data: Path) -> list[bytes]:
    """The JPEGs of three 8-bit channels of the sample, which all decoders read."""
    with zipfile.ZipFile(data / "imagenet-sample-200.zip") as opened:
        files = [opened.read(name) for name in opened.namelist() if name.endswith(".JPEG")]
    return [file for file in files if Image.open(io.BytesIO(file)).mode == "RGB"]


def installed(ways: Mapping[str, Callable[[], T]]) -> Iterator[tuple[str, T]]:
    """Make the ways whose packages are installed, and name the others."""
    for name, make in ways.items():
        try:
            yield name, make()
        except ImportError as error:
            print(f"{name}: left out: {error}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the photographs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    files = photographs(arguments.data)
    decoders = dict(installed(DECODERS))
    rates: dict[str, dict[int, list[float]]] = {
        name: {threads: [] for threads in AT_ONCE} for name in (*decoders, PROCESSES)
    }
    waits: dict[str, list[float]] = {name: [] for name in decoders}
    for _ in range(arguments.rounds):
        for name, decode in decoders.items():
            for threads in AT_ONCE:
                rates[name][threads].append(rate(decode, files, threads))
            waits[name].append(kept_waiting(decode, files))
        for processes in AT_ONCE:
            rates[PROCESSES][processes].append(rate_of_processes(files, processes))
    record = GrowingRecord("decoders", arguments.out)
    record.add("photographs", {"count": len(files), "rounds": arguments.rounds})
    for name, of_threads in rates.items():
        found: dict[str, Any] = {
            f"images_per_second_{threads}": median(values) for threads, values in of_threads.items()
        }
        if name in decoders:
            found["seconds_others_wait_per_image"] = median(waits[name])
            found["differing_values"] = differing(decoders[name], files)
        record.add(name, found)
        print(name, {key: float(f"{value:.4g}") for key, value in found.items()})
    print(record.path)


if __name__ == "__main__":
    main()
