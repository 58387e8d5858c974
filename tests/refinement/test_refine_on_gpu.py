"""A refinement on a GPU, with its step captured as a CUDA graph."""

from __future__ import annotations

import pytest
import torch

from pydream import _C
from pydream.models import load_observer
from pydream.models.layers import LayerFeatures
from pydream.models.registry import construct
from pydream.refinement.steps import Refined, Refiner

if not torch.cuda.is_available() or not _C.cuda_architectures:
    pytest.skip("needs a GPU, and a build with CUDA", allow_module_level=True)

SIDE, FACTOR, STEPS = 32, 2, 5
# AdamW divides a derivative by its own size, so the sign of one near 0 may move a pixel by the
# learning rate, a hundredth, in each step. The mean over all pixels must agree far better.
SAME_ON_AVERAGE = 1e-3


def refined(
    arch: str, device: str, groups: int = 1, bidirectional: bool = False
) -> tuple[Refiner, Refined]:
    torch.manual_seed(0)
    network = construct(arch, num_classes=10, side=SIDE)
    observer = load_observer(network, arch=arch, side=SIDE, precision="float32", device=device)
    refiner = Refiner(
        [LayerFeatures(observer)],
        steps=STEPS,
        learning_rate=0.01,
        factor=FACTOR,
        side=SIDE,
        seed=0,
        bidirectional=bidirectional,
    )
    generator = torch.Generator().manual_seed(0)
    shape = (FACTOR**2, 5, 3, SIDE, SIDE)
    anchors = torch.randint(256, shape, dtype=torch.uint8, generator=generator)
    images = torch.randint(256, shape[1:], dtype=torch.uint8, generator=generator)
    for _ in range(groups - 1):
        refiner(255 - images, anchors, [1, 1, 2, 2, 2])
    return refiner, refiner(images, anchors, [0, 0, 9, 9, 9])


@pytest.mark.parametrize("bidirectional", [False, True])
@pytest.mark.parametrize("arch", ["convnet3-w32", "resnet18-modified", "convnet3-w32-instance"])
def test_it_moves_images_as_the_cpu_does(arch: str, bidirectional: bool) -> None:
    refiner, on_gpu = refined(arch, "cuda", bidirectional=bidirectional)
    _, on_cpu = refined(arch, "cpu", bidirectional=bidirectional)
    assert on_gpu.losses == pytest.approx(on_cpu.losses, rel=1e-3)
    assert (on_gpu.values - on_cpu.values).abs().mean() <= SAME_ON_AVERAGE
    assert all(step._graph is not None for step in refiner._steps)


@pytest.mark.parametrize("bidirectional", [False, True])
def test_a_group_does_not_depend_on_the_one_before(bidirectional: bool) -> None:
    _, first = refined("convnet3-w32", "cuda", bidirectional=bidirectional)
    _, second = refined("convnet3-w32", "cuda", groups=2, bidirectional=bidirectional)
    assert torch.equal(first.values, second.values)
    assert first.losses == second.losses
