"""Other ways to crop photographs on a GPU: patches that are resized, normalised and framed.

torchvision and CV-CUDA crop one patch at a time, DALI a batch. DALI repeats the pixels at the edge
of a box, where torchvision weighs those inside alone, so a patch's outermost pixels are others.
CV-CUDA is called as its documentation says; no run has compared it yet.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv


@dataclass(frozen=True)
class Cropping:
    """Patches of `side` in the middle of a canvas of zeros, their colours normalised."""

    side: int
    canvas: int
    mean: tuple[float, ...]
    std: tuple[float, ...]


Images = Sequence[Tensor] | Tensor


def _image_of(images: Images, patch: int, boxes: Tensor) -> Tensor:
    """Return the image of a patch: every image has as many boxes."""
    return images[patch * len(images) // len(boxes)]


def _framed(
    resize: Callable[[Tensor, list[int]], Tensor],
    images: Images,
    boxes: Tensor,
    count: int,
    crop: Cropping,
) -> Tensor:
    """Make the first patches one by one, by a function of an image and a box: (3, side, side)."""
    shape = (count, 3, crop.canvas, crop.canvas)
    patches = torch.zeros(shape, dtype=torch.bfloat16, device=boxes.device)
    patches = patches.to(memory_format=torch.channels_last)
    margin = (crop.canvas - crop.side) // 2
    for place, box in enumerate(boxes[:count].tolist()):
        part = resize(_image_of(images, place, boxes), box)
        part = tv.normalize(part, list(crop.mean), list(crop.std))
        patches[place, :, margin : margin + crop.side, margin : margin + crop.side] = part
    return patches


def by_torchvision(images: Images, boxes: Tensor, count: int, crop: Cropping) -> Tensor:
    """Crop as the published transform does."""

    def resize(image: Tensor, box: list[int]) -> Tensor:
        floats = image.permute(2, 0, 1).float() / 255
        resized: Tensor = tv.resized_crop(floats, *box, [crop.side, crop.side], antialias=True)
        return resized

    return _framed(resize, images, boxes, count, crop)


def by_cvcuda(images: Images, boxes: Tensor, count: int, crop: Cropping) -> Tensor:
    """Crop by CV-CUDA's antialiased resize."""
    import cvcuda

    def resize(image: Tensor, box: list[int]) -> Tensor:
        top, left, height, width = box
        part = (image[top : top + height, left : left + width].float() / 255).contiguous()
        resized = cvcuda.hq_resize(
            cvcuda.as_tensor(part, "HWC"),
            (crop.side, crop.side),
            interpolation=cvcuda.Interp.LINEAR,
            antialias=True,
        )
        return torch.as_tensor(resized.cuda(), device=boxes.device).permute(2, 0, 1)

    with cvcuda.as_stream(torch.cuda.current_stream(boxes.device)):
        return _framed(resize, images, boxes, count, crop)


@cache
def _dali_pipeline(count: int, crop: Cropping, device: int) -> Any:
    from nvidia.dali import Pipeline, fn, types

    pipeline = Pipeline(
        batch_size=count,
        num_threads=1,
        device_id=device,
        prefetch_queue_depth=1,
        exec_pipelined=False,
        exec_async=False,
    )
    with pipeline:
        image = fn.external_source(name="image", device="gpu", layout="HWC", no_copy=True)
        start, extent = (fn.external_source(name=name) for name in ("start", "extent"))
        in_pixels = {"normalized_anchor": False, "normalized_shape": False}
        part = fn.slice(image, start, extent, axes=(0, 1), **in_pixels)
        resized = fn.resize(part, size=[crop.side, crop.side], dtype=types.FLOAT)
        framed = fn.crop_mirror_normalize(
            resized,
            crop=(crop.canvas, crop.canvas),
            out_of_bounds_policy="pad",
            mean=[255 * value for value in crop.mean],
            std=[255 * value for value in crop.std],
            dtype=types.FLOAT16,
            output_layout="HWC",
        )
        pipeline.set_outputs(framed)
    pipeline.build()
    return pipeline


def by_dali(images: Images, boxes: Tensor, count: int, crop: Cropping) -> Tensor:
    """Crop by a pipeline of DALI, as one batch."""
    from nvidia.dali.plugin.pytorch import feed_ndarray

    pipeline = _dali_pipeline(count, crop, boxes.device.index or 0)
    given = boxes[:count].cpu().numpy().astype("int32")
    pipeline.feed_input("image", [_image_of(images, place, boxes) for place in range(count)])
    pipeline.feed_input("start", list(given[:, :2]))
    pipeline.feed_input("extent", list(given[:, 2:]))
    (found,) = pipeline.run()
    shape = (count, crop.canvas, crop.canvas, 3)
    patches = torch.empty(shape, dtype=torch.float16, device=boxes.device)
    stream = torch.cuda.current_stream(boxes.device)
    feed_ndarray(found.as_tensor(), patches, cuda_stream=stream)
    return patches.permute(0, 3, 1, 2)


class Cropper(NamedTuple):
    """A way to crop.

    Attributes
    ----------
    crop
        Function of the images, all boxes, the number of patches to make, and the settings.
    most
        Number of patches to make at most, where each takes some calls; None for all.
    edge
        Number of pixels at each edge of a patch that differ from those of torchvision.
    """

    crop: Callable[[Images, Tensor, int, Cropping], Tensor]
    most: int | None
    edge: int = 0

    def compared(self, patches: Tensor, crop: Cropping) -> Tensor:
        """Return the pixels of canvases that all croppers agree on, the margin among them."""
        margin = (crop.canvas - crop.side) // 2
        begin, end = margin, margin + crop.side
        outside = torch.ones(crop.canvas, crop.canvas, dtype=torch.bool, device=patches.device)
        outside[begin:end, begin:end] = False
        outside[begin + self.edge : end - self.edge, begin + self.edge : end - self.edge] = True
        return patches[..., outside]


# One by one, a hundred patches take as long as all of an input would take everybody else.
CROPPERS: Mapping[str, Cropper] = {
    "torchvision, a patch at a time": Cropper(by_torchvision, 100),
    "CV-CUDA, a patch at a time": Cropper(by_cvcuda, 100),
    "DALI, a batch": Cropper(by_dali, None, edge=1),
}
