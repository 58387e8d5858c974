"""JPEGs left to a GPU: which ones, and what happens to those that it refuses.

The decoder of the GPU is played by the CPU's here; tests marked with `gpu` take the real one.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pydream.data import ImageError, device_jpeg, open_source
from pydream.data.decode import EncodedJpeg, decode_image, prepare_for_gpu
from pydream.data.device_jpeg import decode_on, no_decoder
from pydream.data.prefetch import decode_ahead, read_ahead

CPU = torch.device("cpu")
needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or no_decoder(torch.device("cuda")) is not None,
    reason="needs a GPU, and a torchvision that decodes on it",
)
# nvJPEG's inverse transform and chroma upsampling round otherwise than libjpeg-turbo's.
MEAN_LEVELS = 2.0


def picture(height: int, width: int) -> Image.Image:
    down, across = np.mgrid[:height, :width]
    return Image.fromarray(np.dstack([down * 3, across * 2, down + across]).astype(np.uint8))


def encode(image: Image.Image, kind: str = "JPEG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def jpeg(height: int, width: int) -> EncodedJpeg:
    _, run = prepare_for_gpu(encode(picture(height, width)))
    encoded = run()
    assert isinstance(encoded, EncodedJpeg)
    return encoded


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is waited for on a GPU that is not there."""
    waited: list[str] = []

    class Stream:
        def synchronize(self) -> None:
            waited.append("stream")

    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: Stream())
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: waited.append("device"))
    return waited


@pytest.fixture
def stand_in(waits: list[str], monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """A decoder with the operator's signature; returns the lengths of its calls."""
    calls: list[int] = []

    def decode(data: list[torch.Tensor], mode: int, device: torch.device) -> list[torch.Tensor]:
        assert (mode, device) == (3, CPU)
        calls.append(len(data))
        return [torch.ops.image.decode_jpeg(jpeg, mode, False) for jpeg in data]

    monkeypatch.setattr(device_jpeg, "_decode_jpegs", decode)
    return calls


@pytest.mark.parametrize(
    ("data", "left"),
    [
        (encode(picture(9, 31)), True),
        (encode(picture(9, 31), progressive=True), True),
        (encode(picture(9, 31), quality=100, subsampling=0), True),
        (encode(picture(9, 31).convert("L")), False),
        (encode(picture(9, 31).convert("CMYK")), False),
        (encode(picture(9, 31), keep_rgb=True), False),
        (encode(picture(9, 31))[:-2], False),
        (encode(picture(9, 31), "PNG"), False),
    ],
    ids=["plain", "progressive", "no subsampling", "grey", "CMYK", "RGB", "cut off", "PNG"],
)
def test_only_whole_plain_jpegs_are_left(data: bytes, left: bool) -> None:
    size, run = prepare_for_gpu(data)
    assert size == 9 * 31 * 3
    try:
        image = run()
    except ImageError:
        with pytest.raises(ImageError):
            decode_image(data)
        return
    assert isinstance(image, EncodedJpeg) == left
    assert tuple(image.shape) == (9, 31, 3)
    assert image.nbytes == size
    pixels = image.decode() if isinstance(image, EncodedJpeg) else image
    assert torch.equal(pixels, decode_image(data))


def test_images_keep_their_places(stand_in: list[int]) -> None:
    plain = torch.full((2, 3, 3), 7, dtype=torch.uint8)
    images: list[Any] = [jpeg(5, 9), plain, jpeg(40, 3), jpeg(8, 8)]
    decoded, errors = decode_on(CPU, images)
    assert errors == {}
    assert stand_in == [3]
    assert decoded[1] is plain
    for image, pixels in zip(images, decoded, strict=True):
        assert pixels.is_contiguous()
        if isinstance(image, EncodedJpeg):
            assert torch.equal(pixels, image.decode())


def test_what_the_gpu_refuses_is_decoded_on_the_cpu(stand_in: list[int]) -> None:
    damaged = EncodedJpeg(jpeg(6, 6).data[:80], (6, 6, 3))
    images = [jpeg(5, 9), damaged, jpeg(8, 8)]
    decoded, errors = decode_on(CPU, images)
    assert list(errors) == [1]
    assert "damaged JPEG" in errors[1]
    assert [tuple(image.shape) for image in decoded] == [(5, 9, 3), (6, 6, 3), (8, 8, 3)]
    assert not decoded[1].any()
    assert torch.equal(decoded[2], images[2].decode())


def test_a_size_that_is_not_the_headers_is_not_believed(stand_in: list[int]) -> None:
    lying = EncodedJpeg(jpeg(6, 6).data, (6, 7, 3))
    decoded, _ = decode_on(CPU, [lying])
    assert torch.equal(decoded[0], lying.decode())


def test_no_gpu_no_decoder() -> None:
    assert no_decoder(CPU) == "it has decoders for NVIDIA's GPUs only"
    assert decode_on(CPU, [])[0] == []


@pytest.mark.parametrize("able", [True, False])
def test_work_on_either_stream_is_waited_for(
    able: bool, waits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(data: list[torch.Tensor], mode: int, device: torch.device) -> list[torch.Tensor]:
        waits.append("decode")
        if not able:
            raise RuntimeError("Error while decoding JPEG images")
        return [torch.ops.image.decode_jpeg(jpeg, mode, False) for jpeg in data]

    monkeypatch.setattr(device_jpeg, "_decode_jpegs", decode)
    image = jpeg(5, 9)
    decoded, errors = decode_on(torch.device("cuda", 0), [image])
    assert waits == ["stream", "decode"] + ([] if able else ["device"])
    assert errors == {}
    assert torch.equal(decoded[0], image.decode())


@pytest.mark.parametrize(
    "why",
    [None, "decode_jpegs_cuda: torchvision not compiled with nvJPEG support", "driver too old"],
)
def test_the_decoder_is_known_by_its_work(
    why: str | None, waits: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode(data: list[torch.Tensor], mode: int, device: torch.device) -> list[torch.Tensor]:
        if why is not None:
            raise RuntimeError(f"{why}.\nException raised from")
        return [torch.ops.image.decode_jpeg(jpeg, mode, False) for jpeg in data]

    monkeypatch.setattr(device_jpeg, "_decode_jpegs", decode)
    assert no_decoder(torch.device("cuda")) == why


def test_reading_ahead_leaves_jpegs_and_decodes_the_rest(tmp_path: Path) -> None:
    for number in range(7):
        kind = "PNG" if number % 3 == 1 else "JPEG"
        file = tmp_path / "class" / f"{number}.img.{kind.lower()}"
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(encode(picture(20 + number, 30), kind))
    source = open_source(tmp_path)
    read = list(read_ahead(source, range(7), workers=2, budget=5000))
    assert [isinstance(image, EncodedJpeg) for image in read] == [n % 3 != 1 for n in range(7)]
    for wanted, got in zip(
        decode_ahead(source, range(7), workers=2, budget=5000), read, strict=True
    ):
        assert isinstance(wanted, torch.Tensor)
        assert not isinstance(got, ImageError)
        assert torch.equal(wanted, got.decode() if isinstance(got, EncodedJpeg) else got)


@needs_gpu
def test_on_a_gpu() -> None:
    device = torch.device("cuda:0")
    images = [jpeg(64, 80), jpeg(200, 131)]
    decoded, errors = decode_on(device, images)
    assert errors == {}
    for image, pixels in zip(images, decoded, strict=True):
        assert pixels.device == device
        assert pixels.is_contiguous()
        difference = pixels.cpu().float() - image.decode().float()
        assert difference.abs().mean() <= MEAN_LEVELS
