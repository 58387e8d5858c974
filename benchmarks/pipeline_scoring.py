"""What scoring costs around the decoder: photographs scored by an observer of no work.

    python -m benchmarks.pipeline_scoring --data DIR

The 200 photographs of the sample are decoded alone, decoded and then cropped, and scored whole with
five crops of each, in turns, with as many threads each time. Recorded: seconds of each, and of the
scoring as a multiple of the decoder's own, and of decoder's and crops'.
"""

from __future__ import annotations

import argparse
import tempfile
import time
import zipfile
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.pipeline_cuda import SAMPLE
from benchmarks.records import RESULTS, write_record
from benchmarks.timing import timing
from pydream.data import ImageError, Source, decode_ahead, open_source
from pydream.models import load_observer
from pydream.rded.config import RdedConfig
from pydream.rded.memory import MemoryShares
from pydream.rded.patches import PatchMaker, Preselection, preselect
from pydream.rded.scoring import ScoringLimits, score
from pydream.timeline import Stopwatch

CLASSES, SIDE, FACTOR, CROPS = 10, 224, 2, 5
CPU = torch.device("cpu")
AT_ONCE = 32  # photographs cropped together
TARGET = 1.1  # times the decoder's own seconds
SCORING, DECODER, WITH_CROPS = "scoring", "decoder alone", "decoder, then crops"


class Free(nn.Module):
    """An observer of no work: pixels of the first row as logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images[:, 0, 0, :CLASSES].contiguous()


def unpack(archive: Path, folder: Path) -> None:
    """Put the photographs into class folders; what class they are of does not matter."""
    with zipfile.ZipFile(archive) as opened:
        names = [name for name in sorted(opened.namelist()) if not name.endswith("/")]
        for number, name in enumerate(names):
            file = folder / f"{number % CLASSES:02d}" / Path(name).name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(opened.read(name))


class Rivals:
    """The same photographs, decoded in three ways."""

    def __init__(self, source: Source, workers: int) -> None:
        self.source, self.workers = source, workers
        self.selection: Preselection = preselect(source, len(source), 0)
        self.memory = MemoryShares.of(None, CPU)
        self.maker = PatchMaker(
            source,
            load_observer(Free(), side=SIDE, device=CPU, precision="auto"),
            side=SIDE,
            factor=FACTOR,
            crops=CROPS,
            canvas="pad",
            seed=0,
        )
        self.room = self.maker.empty(AT_ONCE)

    def decode(self) -> list[torch.Tensor]:
        found = decode_ahead(
            self.source,
            self.selection.indices.tolist(),
            workers=self.workers,
            budget=self.memory.waiting,
        )
        return [image for image in found if not isinstance(image, ImageError)]

    def decode_and_crop(self) -> None:
        """Decode all, then crop some at a time into memory that is reused."""
        images, indices = self.decode(), self.selection.indices.tolist()
        for first in range(0, len(images), AT_ONCE):
            some = slice(first, first + AT_ONCE)
            out = self.room[: CROPS * len(images[some])]
            self.maker.shown(indices[some], images[some], out)

    def score(self) -> None:
        limits = ScoringLimits(RdedConfig.batch_size, "host", self.workers, self.memory)
        needed = np.ones(len(self.selection.indices), dtype=np.bool_)
        for _ in score(self.maker, self.selection, needed, limits, Stopwatch()):
            pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help=f"folder with {SAMPLE}")
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.workers)
    seconds: dict[str, list[float]] = {SCORING: [], DECODER: [], WITH_CROPS: []}
    cpu: dict[str, list[float]] = {name: [] for name in seconds}
    with tempfile.TemporaryDirectory() as folder:
        unpack(arguments.data / SAMPLE, Path(folder))
        rivals = Rivals(open_source(folder), arguments.workers)
        runs: dict[str, Callable[[], Any]] = {
            SCORING: rivals.score,
            DECODER: rivals.decode,
            WITH_CROPS: rivals.decode_and_crop,
        }
        for number in range(arguments.rounds + 1):  # the first is not counted
            for name, run in runs.items():
                begun, before = time.perf_counter(), time.process_time()
                run()
                if number:
                    seconds[name].append(time.perf_counter() - begun)
                    cpu[name].append(time.process_time() - before)
    medians = {name: median(values) for name, values in seconds.items()}
    results: dict[str, Any] = {
        "photographs": len(rivals.source),
        "workers": arguments.workers,
        "seconds": {name: asdict(timing(values)) for name, values in seconds.items()},
        "cpu_seconds": {name: median(values) for name, values in cpu.items()},
        "times_of_decoder": medians[SCORING] / medians[DECODER],
        "times_of_decoder_and_crops": medians[SCORING] / medians[WITH_CROPS],
        "target": TARGET,
    }
    for name, found in medians.items():
        print(f"{name:20s} {found:.3f} s, {results['cpu_seconds'][name]:.3f} s of the processors")
    print(
        f"scoring takes {results['times_of_decoder']:.2f} times the decoder's time (at most "
        f"{TARGET:g}), {results['times_of_decoder_and_crops']:.2f} times that of decoder and crops"
    )
    print(write_record("scoring", results, arguments.out))


if __name__ == "__main__":
    main()
