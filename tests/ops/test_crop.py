from __future__ import annotations

import functools
import io
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import devices
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms.v2 import functional as tv

from pydream import ops
from pydream.ops.reference import crop as reference

# Two orders of summing up to 100 x 100 float32 products, on values in [0, 1].
FLOAT_TOLERANCE = 1e-5
# The same after a division by a standard deviation of 0.2, around values of up to 3.
NORMALISED_TOLERANCE = 5e-5
# One unit in the last place of the half types: rounding amplifies what float32 leaves open.
ULP = {torch.float16: 2.0**-10, torch.bfloat16: 2.0**-7}

MEAN, STD = [0.485, 0.456, 0.406, 0.5], [0.229, 0.224, 0.225, 0.2]
SHAPES = [(1, 1), (19, 111), (111, 19), (64, 64), (5, 3), (237, 300), (1, 200)]


def make_images(
    channels: int, shapes: list[tuple[int, int]] = SHAPES, seed: int = 0
) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [
        torch.randint(0, 256, (*shape, channels), dtype=torch.uint8, generator=generator)
        for shape in shapes
    ]


def some_boxes(images: list[torch.Tensor], per_image: int, seed: int = 0) -> torch.Tensor:
    """Random boxes of any shape, among them the whole image and single pixels in its corners."""
    sizes = torch.tensor([image.shape[:2] for image in images])
    boxes = ops.random_crop_boxes(sizes, per_image, scale=(1e-4, 1.0), ratio=(0.2, 5.0), seed=seed)
    boxes[:, 0] = torch.cat([torch.zeros_like(sizes), sizes], dim=1)
    boxes[:, 1] = torch.cat([sizes - 1, torch.ones_like(sizes)], dim=1)
    return boxes.flatten(0, 1)


def resized_crop(image: torch.Tensor, box: list[int], size: tuple[int, int]) -> torch.Tensor:
    """Torchvision's, of (C, H, W); PyTorch repeats the first row of outputs one pixel wide."""
    top, left, height, width = box
    if size[1] > 1:
        crop: torch.Tensor = tv.resized_crop(
            image, top, left, height, width, list(size), antialias=True
        )
        return crop
    turned: torch.Tensor = tv.resized_crop(
        image.mT, left, top, width, height, [1, size[0]], antialias=True
    )
    return turned.mT


def by_torchvision(
    images: Sequence[torch.Tensor],
    boxes: torch.Tensor,
    image_index: torch.Tensor,
    size: tuple[int, int],
    flip: torch.Tensor | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> torch.Tensor:
    """What the published pipelines do: each box out of its float image, one by one."""
    patches = []
    for patch, box in enumerate(boxes.tolist()):
        image = images[int(image_index[patch])].permute(2, 0, 1).float() / 255
        value = resized_crop(image, box, size)
        if flip is not None and flip[patch]:
            value = tv.horizontal_flip(value)
        patches.append(value if mean is None else tv.normalize(value, mean, std))
    return torch.stack(patches)


@functools.cache
def pixels_by_torchvision(channels: int, size: tuple[int, int]) -> torch.Tensor:
    images = make_images(channels)
    image_index = torch.arange(len(images)).repeat_interleave(4)
    return by_torchvision(images, some_boxes(images, 4), image_index, size)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [(1, 1), (19, 19), (111, 7), (3, 112), (32, 17)])
def test_pixels_are_torchvisions(
    isa: str, size: tuple[int, int], channels: int, channels_last: bool
) -> None:
    images = make_images(channels)
    patches = ops.crop_resize(images, some_boxes(images, 4), size, channels_last=channels_last)
    expected = pixels_by_torchvision(channels, size)
    torch.testing.assert_close(patches, expected, rtol=0, atol=FLOAT_TOLERANCE)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    assert patches.is_contiguous(memory_format=layout)


@pytest.mark.parametrize("size", [(1, 2), (20, 40), (700, 11), (1000, 1), (9, 300)])
def test_far_down_and_far_up(isa: str, size: tuple[int, int]) -> None:
    images = make_images(3, [(1000, 2000), (1001, 53), (2, 3)])
    boxes = torch.tensor([[0, 0, 1000, 2000], [1, 0, 1000, 53], [0, 0, 2, 3]])
    patches = ops.crop_resize(images, boxes, size)
    expected = by_torchvision(images, boxes, torch.arange(3), size)
    torch.testing.assert_close(patches, expected, rtol=0, atol=FLOAT_TOLERANCE)


def test_any_number_of_source_rows_under_an_output_row(isa: str) -> None:
    """From twice as many on, output rows are summed in pairs, if rounding leaves no third one.

    It does under 33 rows for 77, 93 and some more.
    """
    images = make_images(3, [(200, 21)])
    boxes = torch.tensor([[200 - height, 1, height, 19] for height in range(30, 201)])
    patches = ops.crop_resize(images, boxes, (33, 5))
    expected = by_torchvision(images, boxes, torch.zeros(len(boxes)), (33, 5))
    torch.testing.assert_close(patches, expected, rtol=0, atol=FLOAT_TOLERANCE)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("size", [(16, 16), (19, 5)])
def test_flip_normalise_canvas_and_cast(
    isa: str, dtype: torch.dtype, size: tuple[int, int], channels_last: bool
) -> None:
    images = make_images(3)
    boxes = some_boxes(images, 5)
    generator = torch.Generator().manual_seed(1)
    image_index = torch.arange(len(images)).repeat_interleave(5)
    order = torch.randperm(len(boxes), generator=generator)
    boxes, image_index = boxes[order], image_index[order]
    flip = torch.rand(len(boxes), generator=generator) < 0.5
    canvas = (size[0] + 7, size[1] + 2)
    arguments: dict[str, Any] = {
        "image_index": image_index.int(),
        "flip": flip,
        "canvas": canvas,
        "mean": MEAN[:3],
        "std": STD[:3],
    }
    patches = ops.crop_resize(
        images, boxes, size, dtype=dtype, channels_last=channels_last, **arguments
    )
    assert patches.dtype == dtype
    expected = torch.zeros(len(boxes), 3, *canvas)
    expected[:, :, 3 : 3 + size[0], 1 : 1 + size[1]] = by_torchvision(
        images, boxes, image_index, size, flip, MEAN[:3], STD[:3]
    )
    torch.testing.assert_close(
        patches.float(), expected, rtol=ULP.get(dtype, 0), atol=NORMALISED_TOLERANCE
    )
    # The cast itself is PyTorch's, bit for bit.
    exact = ops.crop_resize(images, boxes, size, channels_last=channels_last, **arguments)
    assert torch.equal(patches, exact.to(dtype))


@pytest.mark.parametrize("std", [1e-4, 1.0, 300.0, 3e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_casts_round_as_pytorch_does_over_the_whole_range(
    isa: str, dtype: torch.dtype, std: float
) -> None:
    # The smallest and the largest standard deviations give infinite and subnormal float16 values.
    ramp = torch.arange(256, dtype=torch.uint8).reshape(1, 256, 1)
    arguments: dict[str, Any] = {"mean": [0.3], "std": [std]}
    boxes = torch.tensor([[0, 0, 1, 256]])
    exact = ops.crop_resize([ramp], boxes, (3, 1777), **arguments)
    cast = ops.crop_resize([ramp], boxes, (3, 1777), dtype=dtype, **arguments)
    assert torch.equal(cast, exact.to(dtype))


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("size", [(20, 33), (7, 1), (64, 64)])
def test_uint8_is_the_rounded_float_and_close_to_torchvisions_uint8(
    isa: str, size: tuple[int, int], channels_last: bool
) -> None:
    images = make_images(3)
    boxes = some_boxes(images, 4)
    patches = ops.crop_resize(
        images, boxes, size, dtype=torch.uint8, canvas=80, channels_last=channels_last
    )
    top, left = (80 - size[0]) // 2, (80 - size[1]) // 2
    window = patches[:, :, top : top + size[0], left : left + size[1]]
    image_index = torch.arange(len(images)).repeat_interleave(4)
    exact = by_torchvision(images, boxes, image_index, size) * 255
    # Half a level of rounding, and what float32 leaves open on the scale of 255.
    assert (window - exact).abs().max() <= 0.5 + 255 * FLOAT_TOLERANCE
    theirs = torch.stack(
        [
            resized_crop(images[i].permute(2, 0, 1), box, size)
            for i, box in zip(image_index.tolist(), boxes.tolist(), strict=True)
        ]
    )
    assert (window.int() - theirs.int()).abs().max() <= 1
    window.zero_()
    assert not patches.any()


def test_identity_keeps_every_byte(isa: str) -> None:
    image = make_images(3, [(41, 53)])[0]
    patches = ops.crop_resize([image], torch.tensor([[0, 0, 41, 53]]), (41, 53), dtype=torch.uint8)
    assert torch.equal(patches[0], image.permute(2, 0, 1))


def test_real_photographs(isa: str, data_root: Path) -> None:
    with zipfile.ZipFile(data_root / "imagenet-sample-200.zip") as archive:
        names = [name for name in archive.namelist() if name.lower().endswith((".jpg", ".jpeg"))]
        images = [
            torch.from_numpy(np.array(Image.open(io.BytesIO(archive.read(name))).convert("RGB")))
            for name in sorted(names)[:6]
        ]
    sizes = torch.tensor([image.shape[:2] for image in images])
    boxes = ops.random_crop_boxes(sizes, 5).flatten(0, 1)
    patches = ops.crop_resize(images, boxes, 112)
    image_index = torch.arange(6).repeat_interleave(5)
    expected = by_torchvision(images, boxes, image_index, (112, 112))
    torch.testing.assert_close(patches, expected, rtol=0, atol=FLOAT_TOLERANCE)


def test_a_batch_and_views_of_it_equal_a_list(isa: str) -> None:
    batch = torch.randint(0, 256, (6, 40, 50, 3), dtype=torch.uint8)
    boxes = some_boxes(list(batch), 3)
    expected = ops.crop_resize(list(batch), boxes, 16)
    assert torch.equal(ops.crop_resize(batch, boxes, 16), expected)
    assert torch.equal(ops.crop_resize(batch.numpy(), boxes.numpy(), 16), expected)
    every_other = torch.zeros(6, 80, 70, 3, dtype=torch.uint8)
    every_other[:, ::2, 10:60] = batch
    view = every_other[:, ::2, 10:60]
    assert torch.equal(ops.crop_resize(view, boxes, 16), expected)
    assert torch.equal(ops.crop_resize(list(view), boxes, 16), expected)
    constant = batch[:, :1].expand(-1, 40, -1, -1)
    assert torch.equal(
        ops.crop_resize(constant, boxes, 16), ops.crop_resize(constant.contiguous(), boxes, 16)
    )


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("channels_last", [False, True])
def test_images_and_results_at_any_address(isa: str, channels: int, channels_last: bool) -> None:
    """Rows at every place within 16 bytes, up to both ends of the memory; nothing beside them."""
    height, width, size, canvas = 37, 23, (10, 13), (13, 19)
    image = torch.randint(0, 256, (height, width, channels), dtype=torch.uint8)
    boxes = torch.tensor([[0, 0, height, width], [5, 3, 31, 19], [36, 22, 1, 1]])
    index = torch.zeros(3, dtype=torch.int64)
    settings: dict[str, Any] = {"canvas": canvas, "channels_last": channels_last}
    settings["image_index"] = index
    for dtype in (torch.uint8, torch.float16, torch.float32):
        settings["dtype"] = dtype
        expected = ops.crop_resize([image], boxes, size, **settings)
        for offset in range(17):
            stride = width * channels + offset
            memory = torch.zeros(height * stride, dtype=torch.uint8)  # the view ends with it
            view = memory[offset:].as_strided((height, width, channels), (stride, channels, 1))
            view.copy_(image)
            buffer = torch.full((expected.numel() + 2 * offset + 1,), 77, dtype=dtype)
            out = buffer[offset:].as_strided(expected.shape, expected.stride())
            ops.crop_resize([view], boxes, size, out=out, **settings)
            assert torch.equal(out, expected)
            assert bool((buffer[:offset] == 77).all())
            assert bool((buffer[offset + expected.numel() :] == 77).all())


def test_numpy_arrays_are_read_in_place(isa: str) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
    image.flags.writeable = False
    box = np.array([[3, 4, 20, 30]])
    patches = ops.crop_resize([image], box, 8, flip=np.array([True]), image_index=np.array([0]))
    expected = by_torchvision(
        [torch.tensor(image)],
        torch.from_numpy(box),
        torch.tensor([0]),
        (8, 8),
        torch.tensor([True]),
    )
    torch.testing.assert_close(patches, expected, rtol=0, atol=FLOAT_TOLERANCE)


def test_nothing_in_gives_nothing_out(isa: str) -> None:
    nothing = torch.empty(0, 4, dtype=torch.int32)
    assert ops.crop_resize(make_images(3), nothing, 8).shape == (0, 3, 8, 8)
    empty_batch = torch.empty(0, 5, 5, 2, dtype=torch.uint8)
    assert ops.crop_resize(empty_batch, nothing, 8, canvas=(9, 10)).shape == (0, 2, 9, 10)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
def test_out_is_written_whole_and_returned(
    isa: str, dtype: torch.dtype, channels_last: bool
) -> None:
    images = make_images(3)
    boxes = some_boxes(images, 2)
    arguments: dict[str, Any] = {"canvas": (21, 30), "dtype": dtype, "channels_last": channels_last}
    expected = ops.crop_resize(images, boxes, 16, **arguments)
    out = torch.full_like(expected, 77)
    assert ops.crop_resize(images, boxes, 16, out=out, **arguments) is out
    assert torch.equal(out, expected)


def test_autograd_sees_that_out_is_written() -> None:
    images = make_images(3)
    boxes = some_boxes(images, 2)
    out = ops.crop_resize(images, boxes, 8)
    slopes = torch.ones(1, requires_grad=True)
    loss = (out * slopes).sum()  # needs `out` as it is
    ops.crop_resize(images, boxes, 8, out=out)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():  # where tensors have no version
        again = torch.zeros_like(out)
        assert torch.equal(ops.crop_resize(images, boxes, 8, out=again), out)


def test_same_bytes_from_any_number_of_threads_on_every_run(isa: str) -> None:
    images = make_images(3)
    boxes = some_boxes(images, 20)
    before = torch.get_num_threads()
    try:
        results = []
        for threads in (1, 2, 3, 8, 2):
            torch.set_num_threads(threads)
            results.append(ops.crop_resize(images, boxes, 19, mean=MEAN[:3], std=STD[:3]))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert result.numpy().tobytes() == results[0].numpy().tobytes()
    alone = [
        ops.crop_resize(images, boxes[p : p + 1], 19, image_index=torch.tensor([p // 20]))
        for p in (0, 33, 139)
    ]
    together = ops.crop_resize(images, boxes, 19)
    for patch, p in zip(alone, (0, 33, 139), strict=True):
        assert torch.equal(patch[0], together[p])


@pytest.mark.parametrize("dtype", [torch.float32, torch.uint8])
@pytest.mark.parametrize("channels_last", [False, True])
def test_reference_agrees(dtype: torch.dtype, channels_last: bool) -> None:
    images = make_images(3)
    boxes = some_boxes(images, 3)
    image_index = torch.arange(len(images)).repeat_interleave(3)
    flip = torch.arange(len(boxes)) % 2 == 0
    mean, std = (None, None) if dtype == torch.uint8 else (MEAN[:3], STD[:3])
    ours = ops.crop_resize(
        images, boxes, (9, 12), flip=flip, canvas=14, mean=mean, std=std, dtype=dtype,
        channels_last=channels_last,
    )  # fmt: skip
    plain = reference.crop_resize(
        images, boxes, (9, 12), image_index, flip, (14, 14), mean, std, dtype, channels_last
    )
    assert plain.stride() == ours.stride()
    tolerance = 1 if dtype == torch.uint8 else NORMALISED_TOLERANCE
    torch.testing.assert_close(ours, plain, rtol=0, atol=tolerance)


IMAGES = make_images(3, [(20, 30), (10, 10)])
BOXES = torch.tensor([[0, 0, 20, 30], [1, 1, 9, 9]])
BAD_VALUES = [
    ({"boxes": torch.tensor([[0, 0, 5, 5], [2, 3, 9, 4]])},
     r"boxes\[1\] = \(2, 3, 9, 4\) .*not inside its image; image 1 is 10 high and 10 wide"),
    ({"boxes": torch.tensor([[0, 26, 5, 5], [2, 3, 4, 4]])},
     r"boxes\[0\] = \(0, 26, 5, 5\) .*not inside its image; image 0 is 20 high and 30 wide"),
    ({"boxes": torch.tensor([[0, 0, 5, 5], [-1, 3, 4, 4]])}, r"boxes\[1\] = \(-1, 3, 4, 4\)"),
    ({"boxes": torch.tensor([[0, 0, 0, 5], [1, 3, 4, 4]])}, r"boxes\[0\] = .* is empty"),
    ({"boxes": torch.tensor([[0, 0, 2**62, 2**62], [1, 1, 4, 4]])}, r"boxes\[0\] = .*not inside"),
    ({"boxes": torch.tensor([[2**63 - 1, 1, 1, 1], [1, 1, 4, 4]])}, r"boxes\[0\] = .*not inside"),
    ({"image_index": torch.tensor([0, 2])}, r"image_index\[1\] = 2 is out of range for 2 images"),
    ({"image_index": torch.tensor([-1, 0])}, r"image_index\[0\] = -1 is out of range"),
]  # fmt: skip


@pytest.mark.parametrize(("change", "message"), BAD_VALUES)
def test_values_out_of_range_are_quoted(
    isa: str, change: dict[str, torch.Tensor], message: str
) -> None:
    arguments: dict[str, Any] = {"images": IMAGES, "boxes": BOXES, "size": 8} | change
    with pytest.raises(ValueError, match=devices.faulty_place(message)):
        ops.crop_resize(**arguments)
    sizes = torch.tensor([image.shape[:2] for image in IMAGES])
    with pytest.raises(ValueError, match=message):
        reference.check_crop_values(
            sizes, arguments["boxes"], arguments.get("image_index", torch.arange(2))
        )


BAD_ARGUMENTS = [
    ({"images": []}, ValueError, "images is empty"),
    ({"images": "abc"}, TypeError, "images must be a tensor or speak DLPack, got str"),
    ({"images": [IMAGES[0], IMAGES[1].float()]}, TypeError, r"images\[1\] must be uint8"),
    ({"images": [IMAGES[0], IMAGES[1][0]]}, ValueError, r"images\[1\] must have shape \(H, W, C"),
    ({"images": [IMAGES[0], make_images(1)[0]]}, ValueError, r"images\[1\] has 1 channels"),
    ({"images": make_images(5)[:2]}, ValueError, r"images\[0\] must have 1 to 4 channels"),
    ({"images": [IMAGES[0].permute(1, 0, 2)] * 2}, ValueError, r"images\[0\].*\.contiguous\(\)"),
    ({"images": [IMAGES[0][:, ::2]] * 2}, ValueError, r"images\[0\].*strides"),
    ({"images": IMAGES[0]}, ValueError, r"images must have shape \(N, H, W, C\)"),
    ({"boxes": BOXES.float()}, TypeError, "boxes must be int32 or int64, got float32"),
    ({"boxes": BOXES[:, :3]}, ValueError, r"boxes must have shape \(P, 4\), got \(2, 3\)"),
    ({"boxes": BOXES[[0, 0, 0]]}, ValueError, "3 boxes are not a multiple of 2 images"),
    ({"images": torch.empty(0, 4, 4, 3, dtype=torch.uint8)}, ValueError, "multiple of 0 images"),
    ({"size": 0}, ValueError, "size must be at least 1, got 0"),
    ({"size": (3, 4, 5)}, ValueError, r"size must be a number or height and width"),
    ({"size": 2.5}, TypeError, "size must be an int, got float"),
    ({"canvas": 7}, ValueError, r"canvas \(7, 7\) is smaller than size \(8, 8\)"),
    ({"image_index": torch.tensor([0])}, ValueError, r"image_index must have shape \(2\)"),
    ({"image_index": torch.tensor([0.0, 1])}, TypeError, "image_index must be int32 or int64"),
    ({"flip": torch.tensor([0, 1])}, TypeError, "flip must be bool, got int64"),
    ({"flip": torch.tensor([True])}, ValueError, r"flip must have shape \(2\), got \(1,\)"),
    ({"mean": [0.5] * 3}, ValueError, "mean and std go together"),
    ({"mean": [0.5], "std": [0.5]}, ValueError, "mean must have 3 numbers"),
    ({"mean": [0.5] * 3, "std": [0.5, 0.0, 0.5]}, ValueError, "std must be positive"),
    ({"mean": [float("nan")] * 3, "std": [0.5] * 3}, ValueError, "mean must be finite"),
    ({"mean": [0.5] * 3, "std": [0.5] * 3, "dtype": torch.uint8}, ValueError, "dtype uint8"),
    ({"dtype": torch.float64}, TypeError, "dtype must be float32, float16, bfloat16 or uint8"),
    ({"out": torch.empty(2, 3, 8, 9)}, ValueError, r"out must have shape \(2, 3, 8, 8\)"),
    ({"out": torch.empty(2, 3, 8, 8).half()}, TypeError, "out must be float32, got float16"),
    ({"out": torch.empty(2, 8, 8, 3).permute(0, 3, 1, 2)}, ValueError, "out must be contiguous,"),
    ({"out": torch.empty(2, 3, 8, 8), "channels_last": True}, ValueError, "in channels_last"),
    ({"out": np.empty((2, 3, 8, 8))}, TypeError, "out must be a torch tensor, got ndarray"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_named(
    change: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        ops.crop_resize(**{"images": IMAGES, "boxes": BOXES, "size": 8, **change})


@devices.NOT_ON_FIBERS
@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("images", [IMAGES, [torch.stack([IMAGES[0]] * 2)]])
def test_registration(images: list[torch.Tensor], channels_last: bool) -> None:
    boxes = torch.tensor([[0, 0, 5, 6], [1, 1, 9, 9]])
    arguments = (
        images, boxes, [4, 5], None, torch.tensor([True, False]), [6, 6], MEAN[:3], STD[:3],
        torch.float32, channels_last,
    )  # fmt: skip
    arguments = devices.place(arguments)
    torch.library.opcheck(torch.ops.pydream.crop_resize, arguments)
    layout = torch.channels_last if channels_last else torch.contiguous_format
    out = devices.place(torch.zeros(2, 3, 6, 6).contiguous(memory_format=layout))
    torch.library.opcheck(torch.ops.pydream.crop_resize_out, (*arguments, out))


@devices.NOT_ON_FIBERS
def test_compiles_in_one_graph() -> None:
    crop_resize = devices.as_called("crop_resize")

    def crop(
        images: torch.Tensor, boxes: torch.Tensor, flip: torch.Tensor, out: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        first = crop_resize(images, boxes, 8, flip=flip, mean=MEAN[:3], std=STD[:3])
        second = crop_resize(images, boxes, (8, 9), canvas=10, dtype=torch.bfloat16, out=out)
        return first * 2, second

    images, boxes, flip = devices.place((IMAGES, BOXES, torch.tensor([True, False])))
    compiled = torch.compile(crop, fullgraph=True, backend="aot_eager")
    outs = devices.place([torch.zeros(2, 3, 10, 10, dtype=torch.bfloat16) for _ in range(2)])
    ours, expected = compiled(images, boxes, flip, outs[0]), crop(images, boxes, flip, outs[1])
    assert torch.equal(ours[0], expected[0])
    assert torch.equal(ours[1], expected[1])
    batch = torch.stack([images[0]] * 2)
    assert torch.equal(
        compiled(batch, boxes, flip, outs[0])[0], crop(batch, boxes, flip, outs[1])[0]
    )
