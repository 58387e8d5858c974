"""Damaged images: pixels that Pillow confirms, or one line that says why there are none.

docs/reliability.md says what is promised here.
"""

from __future__ import annotations

import io
import os
import re
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from campaigns.conftest import Campaign
from campaigns.drawn_images import MutatedImages, by_pillow
from campaigns.trials import Outcome, bounded, expect_no_fault, make_trials, wrong_words
from rded_runs import settings, write_random_observer

from pydream.data import ImageError, Source, decode, device_jpeg, open_source
from pydream.data.decode import decode_image, prepare, prepare_for_gpu, read_header
from pydream.data.device_jpeg import decode_on
from pydream.rded import distill
from pydream.sets.distilled import DistilledSet, load_set

SEED = 26
# Pillow and torchvision come with builds of libjpeg-turbo of their own: one step each.
JPEG_STEPS = 2
# Memory of decoding, in decoded sizes, at three bytes a pixel. Pillow takes four bytes a pixel, and
# a progressive JPEG six more for its coefficients, eight if it has four channels. The decoders of
# WebP, AVIF and JPEG 2000 hold up to four copies of their own.
MOST_SIZES = {"jpeg": 6, "png": 3, "other": 3, "with copies": 7}
WITH_COPIES = re.compile(rb"RIFF....WEBP|....(ftyp|jP  )|\xff\x4f\xff\x51", re.DOTALL)
SMALL = 1 << 20  # pixels up to which all decoders are compared
OF_NO_RANGE = "floats.tiff"  # the only image that is refused as it is drawn
# Why an image is refused that Pillow reads: damage that Pillow overlooks, and limits.
STRICTER = re.compile(
    r"damaged PNG: (wrong checksum|cut off)|above the limit|32-bit samples|more than 200 scans"
    r"|damaged JPEG: Image is incomplete or truncated"
)


def as_folder(root: Path, files: dict[str, bytes]) -> Path:
    (root / "ant").mkdir(parents=True)
    for name, data in files.items():
        (root / "ant" / name).write_bytes(data)
    return root


def as_zip(root: Path, files: dict[str, bytes]) -> Path:
    root.mkdir()
    with zipfile.ZipFile(root / "a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(f"ant/{name}", data)
    return root / "a.zip"


def as_tar(root: Path, files: dict[str, bytes], shard: bool = False) -> Path:
    root.mkdir()
    file = root / ("train-000.tar" if shard else "a.tar")
    with tarfile.open(file, "w") as archive:
        for name, data in files.items():
            members = {f"ant/{name}": data}
            if shard:
                members = {name: data, f"{name.partition('.')[0]}.cls": b"0"}
            for member, content in members.items():
                entry = tarfile.TarInfo(member)
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    return root if shard else file


def as_shard(root: Path, files: dict[str, bytes]) -> Path:
    return as_tar(root, files, shard=True)


def as_parquet(root: Path, files: dict[str, bytes]) -> Path:
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    images = [{"bytes": data, "path": name} for name, data in files.items()]
    labels = pa.array(["ant"] * len(images))
    root.mkdir()
    pq.write_table(pa.table({"image": pa.array(images, kind), "label": labels}), root / "a.parquet")
    return root


SOURCES: tuple[Callable[[Path, dict[str, bytes]], Path], ...] = (
    *(as_folder, as_zip, as_tar, as_shard, as_parquet),
)
Found = torch.Tensor | str


def found(decoder: Callable[[], torch.Tensor]) -> Found:
    """Return the image of a decoder, or why there is none."""
    try:
        return decoder()
    except ImageError as error:
        return str(error)


def played(data: Sequence[torch.Tensor], device: torch.device) -> list[torch.Tensor]:
    """Decode JPEGs as the GPU would."""
    return [torch.ops.image.decode_jpeg(jpeg, 3, False) for jpeg in data]


def on_device(data: bytes) -> torch.Tensor:
    """Decode as on a GPU, whose decoder the CPU's plays."""
    images, errors = decode_on(torch.device("cpu"), [prepare_for_gpu(data)[1]()])
    if errors:
        raise ImageError(errors[0])
    return images[0]


def with_pillow(data: bytes) -> torch.Tensor:
    """Decode as without torchvision's decoder of JPEGs."""
    operator, decode._torchvision_jpeg = decode._torchvision_jpeg, None
    try:
        return prepare(data)[1]()
    finally:
        decode._torchvision_jpeg = operator


def told_size(data: bytes) -> tuple[str, int]:
    """Return the kind of an image, and its pixels by its header; 0 without one."""
    try:
        header = read_header(data)
    except ImageError:
        return "other", 0
    kind = "with copies" if WITH_COPIES.match(data) else header.kind
    return kind, header.height * header.width


def differing(image: torch.Tensor, expected: np.ndarray, steps: int) -> str | None:
    if tuple(image.shape) != expected.shape:
        return f"shape {tuple(image.shape)}, where the reference has {expected.shape}"
    far = int(np.abs(image.numpy().astype(np.int16) - expected).max())
    return f"pixels are {far} steps from the reference" if far > steps else None


def disagreement(image: Found, expected: np.ndarray | str, steps: int) -> str | None:
    """Return in what an image, or its refusal, is not what Pillow and our limits say."""
    if isinstance(image, str):
        may_be_refused = isinstance(expected, str) or STRICTER.search(image)
        return None if may_be_refused else f"refused, where Pillow reads it: {image}"
    if isinstance(expected, str):
        return f"an answer, where Pillow says {expected}"
    return differing(image, expected, steps)


def alike(image: Found, other: Found) -> bool:
    """Return whether two images, or two reasons, are the same."""
    if isinstance(image, str) or isinstance(other, str):
        return isinstance(image, str) and image == other
    return torch.equal(image, other)


def judge(source: Source, index: int, data: bytes) -> Outcome:
    """Read an image through a source by every decoder, and compare what they find."""
    if source.read(index) != data:
        return Outcome("fault", "the source has other bytes")
    kind, pixels = told_size(data)
    with bounded(MOST_SIZES[kind] * 3 * pixels):
        image = found(lambda: source.image(index))
    if isinstance(image, str) and (wrong := wrong_words(image)):
        return Outcome("fault", wrong)
    if pixels > SMALL:
        return Outcome("refused" if isinstance(image, str) else "answered")
    expected, steps = by_pillow(data), JPEG_STEPS if kind == "jpeg" else 0
    if not alike(image, on_gpu := found(lambda: on_device(data))):
        return Outcome("fault", f"on a GPU it is {_shown(on_gpu)}, not {_shown(image)}")
    if kind == "jpeg" and (wrong := disagreement(found(lambda: with_pillow(data)), expected, 0)):
        return Outcome("fault", f"without torchvision's decoder: {wrong}")
    if wrong := disagreement(image, expected, steps):
        return Outcome("fault", wrong)
    if isinstance(image, str):
        return Outcome("refused", image)
    turned, upright = found(prepare(data, upright=True)[1]), by_pillow(data, upright=True)
    if isinstance(turned, str):
        return Outcome("fault", f"upright it is refused: {turned}")
    wrong = None if isinstance(upright, str) else differing(turned, upright, steps)
    return Outcome("fault" if wrong else "answered", wrong or "")


def _shown(image: Found) -> str:
    return image if isinstance(image, str) else f"{tuple(image.shape)}"


class ImageTrials:
    """Trials of images, all of a child process in one source."""

    def __init__(self, images: MutatedImages, folder: Path) -> None:
        self._images, self._folder = images, folder

    def __call__(self, numbers: Sequence[int]) -> Iterator[Outcome]:
        device_jpeg._decode = played  # in this process alone
        files = {}
        for number in numbers:
            image = self._images[number]
            files[f"{number:06d}.{image.name.rpartition('.')[2]}"] = image.data
        os.environ["XDG_CACHE_HOME"] = str(self._folder / "cache")
        root = Path(tempfile.mkdtemp(dir=self._folder)) / "set"
        way = SOURCES[numbers[0] // 100 % len(SOURCES)]
        source = open_source(str(way(root, files)))
        assert len(source) == len(files), "an image is not listed"
        for index, key in enumerate(source.keys):
            name = key.rpartition("/")[2]
            outcome = judge(source, index, files[name])
            image = self._images[int(name.partition(".")[0])]
            if (image.how, outcome.kind) == ("whole", "refused") and image.name != OF_NO_RANGE:
                outcome = Outcome("fault", f"it is whole, and refused: {outcome.words}")
            yield outcome


def test_mutated_images(campaign: Campaign, tmp_path: Path) -> None:
    images = MutatedImages(SEED)
    count = campaign.trials(300, 10_000)
    outcomes = make_trials(ImageTrials(images, tmp_path), range(count))
    facts = expect_no_fault(outcomes, images.describe, SEED)
    assert facts["answered"] > count // 10
    assert facts["refused"] > count // 10
    campaign.passed("inputs", "mutated images, by every source and decoder", count, **facts)


class RunTrials:
    """Trials of RDED on folders with some mutated images."""

    def __init__(self, images: MutatedImages, folder: Path) -> None:
        self._images, self._folder = images, folder
        self._observer = write_random_observer(folder / "observer.safetensors", num_classes=2)

    def files(self, number: int) -> dict[str, bytes]:
        """Return the images of a run by class and name: for each class one whole, and others."""
        files = {f"{name}/whole.png": self._images.whole("plain.png") for name in ("ant", "bee")}
        for place in range(10 * number, 10 * number + 10):
            image = self._images[place]
            suffix = image.name.rpartition(".")[2]
            files[f"{('ant', 'bee')[place % 2]}/{place:06d}.{suffix}"] = image.data
        return files

    def __call__(self, numbers: Sequence[int]) -> Iterator[Outcome]:
        for number in numbers:
            yield self._run(self.files(number))

    def _run(self, files: dict[str, bytes]) -> Outcome:
        with tempfile.TemporaryDirectory(dir=self._folder) as folder:
            root = Path(folder)
            reasons = {key: reason for key, data in files.items() if (reason := refusal(data))}
            kept = {key: data for key, data in files.items() if key not in reasons}
            skipped = [{"key": key, "reason": reasons[key]} for key in sorted(reasons)]
            made = self._distil(root / "all", files)
            if made.manifest.skipped != skipped:
                return Outcome("fault", f"skipped {made.manifest.skipped}, not {skipped}")
            if not torch.equal(
                load_set(made.path).images, self._distil(root / "kept", kept).images
            ):
                return Outcome("fault", "other images than without what is skipped")
            for key, data in files.items():
                if (root / "all" / key).read_bytes() != data:
                    return Outcome("fault", f"{key} has changed")
        return Outcome("answered")

    def _distil(self, root: Path, files: dict[str, bytes]) -> DistilledSet:
        for key, data in files.items():
            (root / key).parent.mkdir(parents=True, exist_ok=True)
            (root / key).write_bytes(data)
        made = f"{root}-set"
        distill(settings(root, self._observer, made, ipc=1, crops=2, factor=1, allow_skipped=1))
        return load_set(made)


def refusal(data: bytes) -> str | None:
    """Return why an image is refused, if it is."""
    image = found(lambda: decode_image(data))
    return image if isinstance(image, str) else None


def test_runs_on_mutated_images(campaign: Campaign, tmp_path: Path) -> None:
    images = MutatedImages(SEED + 1)
    count = campaign.trials(3, 300)
    outcomes = make_trials(RunTrials(images, tmp_path), range(count), at_once=25)
    facts = expect_no_fault(outcomes, lambda n: f"images {10 * n} to {10 * n + 9}", SEED + 1)
    campaign.passed("inputs", "runs of `rded` on ten mutated images each", count, **facts)
