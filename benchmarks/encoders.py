"""Encoders of PNG beside each other: images a second, bytes of the files, the same pixels or not.

    python -m benchmarks.encoders --data DIR

Each encodes the same distilled images, 2 × 2 photographs of 112 pixels, in one thread and in two,
in turns. Recorded is also how long an image keeps Python's other threads waiting, as in
`benchmarks.decoders`. A rival that is not installed is left out.
"""

from __future__ import annotations

import argparse
import importlib
import io
import time
import zlib
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from PIL import Image

from benchmarks.decoders import installed, kept_waiting, photographs
from benchmarks.records import RESULTS, GrowingRecord
from pydream.data.image_operators import image_operator
from pydream.sets.writer import png

Pixels = npt.NDArray[np.uint8]
Encode = Callable[[Pixels], bytes]

OURS = "pydream (Pillow, runs)"
AT_ONCE = (1, 2)
CELL, FACTOR = 112, 2


def ours() -> Encode:
    return lambda image: png(torch.from_numpy(image).permute(2, 0, 1))


def torchvision(level: int) -> Encode:
    encode: Any = image_operator("encode_png")
    if encode is None:
        raise ImportError("this torchvision has no encoder of PNG")
    return lambda image: (
        encode(torch.from_numpy(image).permute(2, 0, 1).contiguous(), level).numpy().tobytes()
    )


def pillow(**how: int) -> Encode:
    def encode(image: Pixels) -> bytes:
        stream = io.BytesIO()
        Image.fromarray(image).save(stream, "PNG", **how)
        return stream.getvalue()

    return encode


def opencv(*how: str | int) -> Encode:
    cv2 = importlib.import_module("cv2")
    cv2.setNumThreads(1)
    flags = [getattr(cv2, word) if isinstance(word, str) else word for word in how]
    return lambda image: cv2.imencode(".png", image[:, :, ::-1], flags)[1].tobytes()


def imagecodecs(**how: int) -> Encode:
    encode: Any = importlib.import_module("imagecodecs").png_encode
    return partial(encode, **how)


def fpng() -> Encode:
    encode: Any = importlib.import_module("fpng_py").fpng_encode_image_to_memory
    return lambda image: encode(image.tobytes(), image.shape[1], image.shape[0], image.shape[2])


STRATEGY = "IMWRITE_PNG_STRATEGY"
ENCODERS: dict[str, Callable[[], Encode]] = {
    OURS: ours,
    "torchvision, level 1": lambda: torchvision(1),
    "Pillow, its default": pillow,
    "Pillow, level 1": lambda: pillow(compress_level=1),
    "Pillow, Huffman codes only": lambda: pillow(compress_type=zlib.Z_HUFFMAN_ONLY),
    "OpenCV, its default": opencv,
    "OpenCV, Huffman codes only": lambda: opencv(STRATEGY, "IMWRITE_PNG_STRATEGY_HUFFMAN_ONLY"),
    "OpenCV, runs": lambda: opencv(STRATEGY, "IMWRITE_PNG_STRATEGY_RLE"),
    "imagecodecs, runs": lambda: imagecodecs(level=1, strategy=zlib.Z_RLE),
    "fpng": fpng,
}


def rate(encode: Encode, images: Sequence[Pixels], threads: int) -> float:
    """Images a second of some threads."""
    with ThreadPoolExecutor(threads) as pool:
        begun = time.perf_counter()
        for _ in pool.map(encode, images):
            pass
        return len(images) / (time.perf_counter() - begun)


def collages(data: Path) -> list[Pixels]:
    """Tile the photographs of the sample, four in an image."""
    cells = [
        np.asarray(Image.open(io.BytesIO(file)).resize((CELL, CELL), Image.Resampling.BOX))
        for file in photographs(data)
    ]
    many = FACTOR**2
    return [
        np.concatenate([np.concatenate(four[:2], 1), np.concatenate(four[2:], 1)])
        for four in (cells[at : at + many] for at in range(0, len(cells) - many + 1, many))
    ]


def same_pixels(encoded: Sequence[bytes], images: Sequence[Pixels]) -> bool:
    """Whether all files hold the pixels that were encoded, in three channels."""
    return all(
        np.array_equal(np.asarray(Image.open(io.BytesIO(file))), image)
        for file, image in zip(encoded, images, strict=True)
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder with the photographs")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path, default=RESULTS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    images = collages(arguments.data)
    encoders = dict(installed(ENCODERS))
    rates: dict[str, dict[int, list[float]]] = {
        name: {threads: [] for threads in AT_ONCE} for name in encoders
    }
    waits: dict[str, list[float]] = {name: [] for name in encoders}
    for _ in range(arguments.rounds):
        for name, encode in encoders.items():
            for threads in AT_ONCE:
                rates[name][threads].append(rate(encode, images, threads))
            waits[name].append(kept_waiting(encode, images))
    record = GrowingRecord("encoders", arguments.out)
    record.add("images", {"count": len(images), "side": FACTOR * CELL, "rounds": arguments.rounds})
    for name, encode in encoders.items():
        files = [encode(image) for image in images]
        found: dict[str, Any] = {
            f"images_per_second_{threads}": median(values)
            for threads, values in rates[name].items()
        }
        found["seconds_others_wait_per_image"] = median(waits[name])
        found["bytes_per_image"] = sum(map(len, files)) / len(files)
        found["same_pixels"] = same_pixels(files, images)
        record.add(name, found)
        print(name, {key: float(f"{value:.4g}") for key, value in found.items()})
    print(record.path)


if __name__ == "__main__":
    main()
