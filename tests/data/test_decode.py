from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from pictures import decode_with_pillow, encode, encode_png16, make_pixels
from PIL import Image

from pydream.data import decode
from pydream.data.decode import decode_image, prepare, read_header
from pydream.errors import ImageError

# Both sides decode JPEG by libjpeg-turbo, but by builds of their own, and the standard leaves the
# rounding of the inverse DCT and of the colour conversion open: one step each.
JPEG_STEPS = 2

SIZES = [(1, 1), (1, 19), (19, 1), (7, 13), (64, 48), (111, 17)]


def check(image: torch.Tensor, expected: np.ndarray, steps: int = 0) -> None:
    assert image.dtype == torch.uint8
    assert image.shape == expected.shape
    assert image.is_contiguous()
    assert np.abs(image.numpy().astype(int) - expected.astype(int)).max() <= steps


@pytest.fixture(params=["torchvision", "pillow"])
def jpeg_decoder(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Also the fallback for a torchvision that no longer has the operator."""
    if request.param == "pillow":
        monkeypatch.setattr(decode, "_torchvision_jpeg", None)
    name: str = request.param
    return name


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize(
    "options",
    [{}, {"progressive": True}, {"subsampling": 0}, {"restart_marker_blocks": 1}, {"quality": 5}],
    ids=str,
)
@pytest.mark.usefixtures("jpeg_decoder")
def test_jpeg(height: int, width: int, options: dict[str, object]) -> None:
    data = encode(make_pixels(height, width), "JPEG", **options)
    check(decode_image(data), decode_with_pillow(data), JPEG_STEPS)


@pytest.mark.usefixtures("jpeg_decoder")
def test_grey_jpeg_has_equal_channels() -> None:
    data = encode(Image.fromarray(make_pixels(20, 31)).convert("L"), "JPEG")
    image = decode_image(data)
    check(image, decode_with_pillow(data), JPEG_STEPS)
    assert torch.equal(image[..., 0], image[..., 1])
    assert torch.equal(image[..., 0], image[..., 2])


@pytest.mark.parametrize("transform", [0, 2], ids=["CMYK", "YCCK"])
@pytest.mark.usefixtures("jpeg_decoder")
def test_jpeg_of_four_colours(transform: int) -> None:
    inks = np.random.default_rng(0).integers(0, 256, (20, 31, 4), dtype=np.uint8)
    data = bytearray(encode(Image.frombytes("CMYK", (31, 20), inks.tobytes()), "JPEG"))
    data[data.index(b"Adobe") + 11] = transform
    check(decode_image(bytes(data)), decode_with_pillow(bytes(data)), JPEG_STEPS)


@pytest.mark.usefixtures("jpeg_decoder")
def test_exif_orientation_is_not_applied() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # rotated by a quarter
    data = encode(make_pixels(10, 30), "JPEG", exif=exif)
    assert decode_image(data).shape == (10, 30, 3)


def test_jpeg_header_behind_long_segments_and_fill_bytes() -> None:
    data = encode(make_pixels(10, 30), "JPEG", exif=b"Exif\0\0" + bytes(60000), comment=b"x" * 999)
    data = data[:2] + b"\xff\xff\xff" + data[2:]
    assert read_header(data)[:3] == ("jpeg", 10, 30)
    check(decode_image(data), decode_with_pillow(data), JPEG_STEPS)


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1"])
@pytest.mark.parametrize(("height", "width"), SIZES)
def test_png(mode: str, height: int, width: int) -> None:
    data = encode(Image.fromarray(make_pixels(height, width)).convert(mode), "PNG")
    assert read_header(data)[:3] == ("png", height, width)
    check(decode_image(data), decode_with_pillow(data))


def test_alpha_is_dropped_and_not_blended() -> None:
    pixels = np.dstack([make_pixels(5, 6), np.arange(30, dtype=np.uint8).reshape(5, 6)])
    check(decode_image(encode(pixels, "PNG")), pixels[..., :3])


def test_grey_png_of_16_bits_is_scaled() -> None:
    samples = np.linspace(0, 65535, 91).astype(np.uint16).reshape(7, 13)
    data = encode(samples, "PNG")
    check(decode_image(data), np.repeat((samples // 256).astype(np.uint8)[..., None], 3, axis=2))


@pytest.mark.parametrize("channels", [3, 4])
def test_colour_png_of_16_bits_is_scaled(channels: int) -> None:
    samples = np.random.default_rng(0).integers(0, 65536, (7, 13, channels), dtype=np.uint16)
    data = encode_png16(samples, {3: 2, 4: 6}[channels])
    check(decode_image(data), (samples[..., :3] // 256).astype(np.uint8))


def test_grey_tiff_of_16_bits_is_scaled() -> None:
    samples = np.linspace(0, 65535, 91).astype(np.uint16).reshape(7, 13)
    data = encode(samples, "TIFF")
    check(decode_image(data), np.repeat((samples // 256).astype(np.uint8)[..., None], 3, axis=2))


def test_tiff_of_floats_is_refused() -> None:
    data = encode(np.linspace(0, 1, 91, dtype=np.float32).reshape(7, 13), "TIFF")
    with pytest.raises(ImageError, match="TIFF of 32-bit samples"):
        decode_image(data)


@pytest.mark.parametrize(
    ("kind", "options"),
    [("WEBP", {"lossless": True}), ("BMP", {}), ("TIFF", {}), ("TIFF", {"compression": "jpeg"})],
    ids=str,
)
def test_other_kinds(kind: str, options: dict[str, object]) -> None:
    data = encode(make_pixels(21, 34), kind, **options)
    assert read_header(data)[:3] == ("other", 21, 34)
    check(decode_image(data), decode_with_pillow(data))


def test_first_frame_of_an_animation() -> None:
    frames = [Image.fromarray(make_pixels(8, 9, seed)).quantize(16) for seed in range(3)]
    data = encode(frames[0], "GIF", save_all=True, append_images=frames[1:])
    image: Any = Image.open(io.BytesIO(data))
    assert image.n_frames == 3
    check(decode_image(data), np.asarray(frames[0].convert("RGB")))


def encodings() -> dict[str, bytes]:
    pixels = make_pixels(64, 48)
    return {
        "jpeg": encode(pixels, "JPEG"),
        "progressive": encode(pixels, "JPEG", progressive=True),
        "restart": encode(pixels, "JPEG", restart_marker_blocks=2),
        "cmyk": encode(Image.fromarray(pixels).convert("CMYK"), "JPEG"),
        "png": encode(pixels, "PNG"),
        "webp": encode(pixels, "WEBP"),
        "bmp": encode(pixels, "BMP"),
        "gif": encode(Image.fromarray(pixels).quantize(16), "GIF"),
        "tiff": encode(pixels, "TIFF"),
    }


@pytest.mark.filterwarnings("ignore:Truncated File Read")
@pytest.mark.parametrize("share", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("kind", encodings())
def test_truncated_files_are_errors(kind: str, share: float) -> None:
    data = encodings()[kind]
    with pytest.raises(ImageError):
        decode_image(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["jpeg", "progressive", "restart", "png"])
def test_every_cut_is_an_error(kind: str) -> None:
    data = encodings()[kind]
    for length in range(len(data)):
        with pytest.raises(ImageError):
            decode_image(data[:length])


def test_every_flipped_byte_of_a_png_is_an_error() -> None:
    data = encode(make_pixels(5, 6), "PNG")
    for position in range(len(data)):
        damaged = bytearray(data)
        damaged[position] ^= 0x55
        with pytest.raises(ImageError):
            decode_image(bytes(damaged))


def test_damaged_jpegs_decode_or_are_errors() -> None:
    """A decoder may see damage or not, but nothing other than ImageError comes out."""
    data = encodings()["jpeg"]
    rng = np.random.default_rng(0)
    reasons = []
    for _ in range(300):
        damaged = bytearray(data)
        for position in rng.integers(2, len(data), 4):
            damaged[position] = rng.integers(256)
        try:
            image = decode_image(bytes(damaged))
        except ImageError as error:
            reasons.append(str(error))
        else:
            assert image.dtype == torch.uint8
            assert image.shape[2] == 3
    assert 0 < len(reasons) < 300
    assert not any("\n" in reason or ".cpp" in reason for reason in reasons)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "empty file"),
        (b"hello, this is text", "not an image of a known format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not an image of a known format"),
        (b"\xff\xd8\xff", "cut off"),
        (b"\xff\xd8\xff\xd9", "without a frame header"),
        (b"\x89PNG\r\n\x1a\n", "cut off"),
    ],
)
def test_what_is_no_image(data: bytes, reason: str) -> None:
    with pytest.raises(ImageError, match=reason):
        decode_image(data)


def test_reason_of_a_truncated_jpeg_is_short() -> None:
    data = encodings()["jpeg"]
    with pytest.raises(ImageError, match=r"^damaged JPEG: Image is incomplete or truncated$"):
        decode_image(data[: len(data) // 2])


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "bmp", "gif", "tiff"])
def test_pixel_limit(kind: str) -> None:
    data = encodings()[kind]
    assert decode_image(data, max_pixels=64 * 48).shape == (64, 48, 3)
    with pytest.raises(ImageError, match=r"48×64 = 3,072 pixels, above the limit of 3,071"):
        decode_image(data, max_pixels=64 * 48 - 1)


def test_decompression_bomb_is_refused_by_default() -> None:
    data = bytearray(encodings()["jpeg"])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 9] = b"\xff\xff\xff\xff"
    with pytest.raises(ImageError, match=r"65535×65535 = 4,294,836,225 pixels.*178,956,970"):
        decode_image(bytes(data))


def test_image_without_height_is_refused() -> None:
    data = bytearray(encodings()["jpeg"])
    frame = data.index(b"\xff\xc0")
    data[frame + 5 : frame + 7] = b"\0\0"
    with pytest.raises(ImageError, match="48×0 pixels"):
        decode_image(bytes(data))


@pytest.mark.parametrize("shape", [(5, 7), (5, 7, 1), (5, 7, 3)])
def test_pixels_become_rgb(shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    size, run = prepare(pixels)
    expected = np.broadcast_to(pixels.reshape(5, 7, -1), (5, 7, 3))
    assert size == 5 * 7 * 3
    check(run(), expected)


def test_read_only_pixels_are_copied() -> None:
    pixels = np.zeros((5, 7, 3), dtype=np.uint8)
    pixels.flags.writeable = False
    _, run = prepare(pixels)
    run().fill_(1)
    assert pixels.max() == 0


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "LA", "P", "1", "CMYK", "I;16"])
def test_an_image_larger_than_a_strip_is_the_same(
    monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    monkeypatch.setattr(decode, "_STRIP", 40)
    image = Image.fromarray(make_pixels(20, 31))
    if mode == "I;16":
        image = Image.fromarray(np.arange(620, dtype=np.uint16).reshape(20, 31) * 100)
        high = (np.asarray(image) // 256).astype(np.uint8)
        expected = np.repeat(high[..., None], 3, axis=2)
    else:
        image = image.convert(mode)
        expected = np.asarray(image.convert("RGB"))
    check(decode_image(encode(image, "TIFF")), expected)
