from __future__ import annotations

import torch

from pydream.data import upload

CPU = torch.device("cpu")


def test_images_arrive_unchanged_in_one_buffer() -> None:
    sizes = [(1, 1), (19, 111), (3, 5), (40, 2)]
    images = [torch.randint(0, 256, (*size, 3), dtype=torch.uint8) for size in sizes]
    images.append(images[1].permute(1, 0, 2))
    arrived = upload(images, CPU)
    assert all(there.equal(here) for there, here in zip(arrived, images, strict=True))
    assert all(there.is_contiguous() for there in arrived)
    assert len({there.untyped_storage().data_ptr() for there in arrived}) == 1


def test_no_images() -> None:
    assert upload([], CPU) == []
