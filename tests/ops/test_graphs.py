"""Ops captured in a CUDA graph, and replayed on other values."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from devices import as_called

from pydream import _C, ops
from pydream.ops import _images, _kmeans, _problems
from pydream.ops._centring import Frame
from pydream.streams import capture

needs_gpu = pytest.mark.skipif(
    not torch.cuda.is_available() or not _C.cuda_architectures,
    reason="needs a GPU, and a build with CUDA",
)

Tensors = tuple[torch.Tensor, ...]


def crop_inputs(generator: torch.Generator) -> Tensors:
    images = torch.randint(0, 256, (3, 40, 50, 3), dtype=torch.uint8, generator=generator)
    top_left = torch.randint(0, 20, (6, 2), generator=generator)
    return images, torch.cat([top_left, torch.full((6, 2), 20)], 1), torch.arange(6) % 2 == 0


def score_inputs(generator: torch.Generator) -> Tensors:
    logits = torch.randn(24, 10, generator=generator)
    return logits, torch.randint(10, (24,), generator=generator)


def key_patch_inputs(generator: torch.Generator) -> Tensors:
    logits, labels = score_inputs(generator)
    return logits, labels[:8] % 3


def selection_inputs(generator: torch.Generator) -> Tensors:
    return -torch.rand(8, 3, generator=generator), torch.randint(3, (8,), generator=generator)


def collage_inputs(generator: torch.Generator) -> Tensors:
    return (torch.randint(0, 256, (2, 8, 3, 9, 9), dtype=torch.uint8, generator=generator),)


def gradient_inputs(generator: torch.Generator) -> Tensors:
    return torch.randn(2, 7, 5, generator=generator), torch.randn(2, 7, 5, generator=generator)


def formation_inputs(generator: torch.Generator) -> Tensors:
    return torch.rand(3, 2, 9, 9, generator=generator), torch.randn(
        12, 2, 11, 11, generator=generator
    )


def formation_and_slope(
    op: Callable[..., Any], images: torch.Tensor, upstream: torch.Tensor
) -> Any:
    images = images.detach().requires_grad_()
    result = op(images, 2, 11)
    return result.detach(), torch.autograd.grad(result, images, upstream)[0]


def block_inputs(generator: torch.Generator) -> Tensors:
    images = torch.randn(3, 8, 6, 7, generator=generator)
    return images, torch.randn(8, generator=generator), torch.randn(3, 8, 3, 3, generator=generator)


def block_and_slopes(
    op: Callable[..., Any], images: torch.Tensor, weight: torch.Tensor, upstream: torch.Tensor
) -> Any:
    leaves = [tensor.detach().requires_grad_() for tensor in (images, weight, upstream)]
    pooled = op(leaves[0], leaves[1], leaves[1], "batch")
    slopes = torch.autograd.grad(pooled, leaves[:2], leaves[2], create_graph=True)
    second = torch.autograd.grad(slopes, leaves, [slope.detach() for slope in slopes])
    return tuple(tensor.detach() for tensor in (pooled, *slopes, *second))


def augment_inputs(generator: torch.Generator) -> Tensors:
    rows = ops.random_augment(2, 9, "color_rotate_cutout", seed=generator.initial_seed())
    return torch.randn(4, 3, 9, 9, generator=generator), rows


def augmented_and_back(op: Callable[..., Any], x: torch.Tensor, rows: torch.Tensor) -> Any:
    x = x.detach().requires_grad_()
    result = op(x, rows)
    return result.detach(), *torch.autograd.grad(result, x, result.detach())


def kmeans_inputs(generator: torch.Generator) -> Tensors:
    return (torch.randn(2, 60, 5, generator=generator),)


def nearest_inputs(generator: torch.Generator) -> Tensors:
    return (*kmeans_inputs(generator), torch.randn(2, 4, 5, generator=generator))


CASES: list[tuple[str, Callable[[torch.Generator], Tensors], Callable[..., Any]]] = [
    (
        "crop_resize",
        crop_inputs,
        lambda op, images, boxes, flip: op(images, boxes, 16, flip=flip, canvas=19),
    ),
    ("realism_scores", score_inputs, lambda op, *inputs: op(*inputs)),
    ("key_patches", key_patch_inputs, lambda op, *inputs: op(*inputs, 3, 2, 3)),
    ("select_key_patches", selection_inputs, lambda op, *inputs: op(*inputs, 2, 3)),
    ("collage", collage_inputs, lambda op, patches: op(patches, 2, 19)),
    ("kmeans", kmeans_inputs, lambda op, x: op(x, 4, max_iter=9)),
    ("nearest_samples", nearest_inputs, lambda op, *inputs: op(*inputs, 3)),
    (
        "gradient_distance",
        gradient_inputs,
        lambda op, x, y: op([x, x[0]], [y, y[0]], "l2"),
    ),
    ("multi_formation", formation_inputs, formation_and_slope),
    ("diff_augment", augment_inputs, augmented_and_back),
    ("norm_relu_pool", block_inputs, block_and_slopes),
    ("representatives", kmeans_inputs, lambda op, x: op(x, 4, 2, max_iter=9)),
]


def captured(call: Callable[[], Any]) -> tuple[torch.cuda.CUDAGraph, Any]:
    return capture(call, torch.device("cuda"))


def parts(result: Any) -> list[torch.Tensor]:
    return list(result) if isinstance(result, tuple) else [result]


@needs_gpu
@pytest.mark.parametrize(("name", "make", "call"), CASES, ids=[case[0] for case in CASES])
def test_a_replay_reads_what_lies_there_by_then(
    name: str, make: Callable[[torch.Generator], Tensors], call: Callable[..., Any]
) -> None:
    generator = torch.Generator().manual_seed(5)
    first, second = make(generator), make(generator)
    op = as_called(name)
    inputs = [tensor.cuda() for tensor in first]
    graph, result = captured(lambda: call(op, *inputs))
    for values in (second, first):
        for there, value in zip(inputs, values, strict=True):
            there.copy_(value)
        graph.replay()
        found = [tensor.clone() for tensor in parts(result)]
        wanted = parts(call(op, *(value.cuda() for value in values)))
        assert all(map(torch.equal, found, wanted))
        ops.check_values()
    before = parts(call(op, *(value.cuda() for value in second)))
    assert not all(map(torch.equal, found, before))  # else the inputs would prove nothing


@needs_gpu
def test_a_replay_reports_bad_values() -> None:
    logits, labels = (tensor.cuda() for tensor in score_inputs(torch.Generator().manual_seed(0)))
    realism_scores = as_called("realism_scores")
    graph, _ = captured(lambda: realism_scores(logits, labels))
    logits[7, 3] = torch.nan
    graph.replay()
    with pytest.raises(ValueError, match=r"logits hold NaN.* in 1 row: 7 "):
        ops.check_values()


@needs_gpu
def test_a_fault_of_before_is_raised_behind_a_capture() -> None:
    logits, labels = (tensor.cuda() for tensor in score_inputs(torch.Generator().manual_seed(0)))
    realism_scores = as_called("realism_scores")
    realism_scores(logits, labels)
    bad = logits.clone()
    bad[3, 0] = torch.nan
    realism_scores(bad, labels)
    torch.cuda.synchronize()  # the next op knows of it
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        scores = realism_scores(logits, labels)
    with pytest.raises(ValueError, match=r"logits hold NaN.* in 1 row: 3 "):
        ops.check_values()
    graph.replay()
    assert scores.equal(realism_scores(logits, labels))


@needs_gpu
def test_samples_drawn_on_the_cpu_cannot_be_captured() -> None:
    (x,) = (tensor.cuda() for tensor in kmeans_inputs(torch.Generator().manual_seed(0)))
    kmeans = as_called("kmeans")
    kmeans(x, 4, init="random", max_iter=2)
    wanted = pytest.raises(ValueError, match=r"init='random' draws samples on the CPU")
    with wanted, torch.cuda.graph(torch.cuda.CUDAGraph()):
        kmeans(x, 4, init="random", max_iter=2)
    ops.check_values()


@needs_gpu
def test_a_list_of_images_cannot_be_captured() -> None:
    images, boxes, _ = (tensor.cuda() for tensor in crop_inputs(torch.Generator().manual_seed(0)))
    crop_resize = as_called("crop_resize")
    crop_resize(list(images), boxes, 16)
    wanted = pytest.raises(ValueError, match=r"pass one batch \(N, H, W, C\)")
    with wanted, torch.cuda.graph(torch.cuda.CUDAGraph()):
        crop_resize(list(images), boxes, 16)
    crop_resize(list(images), boxes, 16)  # and the stream is as it was
    ops.check_values()


@pytest.fixture
def captures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every GPU's stream is being captured."""
    for module in (_kmeans, _problems, _images):
        monkeypatch.setattr(module, "capturing", lambda device: device.type == "cuda")


def test_sizes_that_differ_are_not_sent_while_capturing(captures: None) -> None:
    table, blocks = _kmeans._table([0, 5, 10], [2, 2], 4, torch.device("cpu"), rows=True)
    assert table.tolist() == [[0, 0, 0], [5, 2, 2], [10, 4, 4]]
    assert blocks == 4
    table, blocks = _kmeans._table([0, 5, 6], [2, 1], 4, torch.device("cpu"), rows=False)
    assert table.tolist() == [[0, 0, 0], [5, 2, 1], [6, 3, 2]]
    with pytest.raises(ValueError, match=r"pass problems of one size, \(B, N, D\), and one k"):
        _kmeans._table([0, 5, 6], [2, 1], 4, torch.device("cuda", 0), rows=True)


SENT = r"pass problems of one size, \(B, N, D\), and one k"


def test_numbers_of_problems_of_one_size_need_nothing_of_the_host(
    captures: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_problems, "send_sizes", None)
    for values, counts in (([0, 5, 10], [2, 2, 2]), ([0], [3]), ([0, 1], [1, 1])):
        found = _problems.per_centroid(values, counts, torch.device("cpu"))
        wanted = torch.tensor(values).repeat_interleave(torch.tensor(counts))
        assert found.dtype == torch.int64
        assert found.equal(wanted)
    frame = Frame(torch.randn(2, 3).double(), torch.tensor([0.5, 4.0]).double())
    rows = torch.randn(6, 3).double()
    entered = frame.enter(rows, [3, 3])
    wanted = (rows - frame.origin.repeat_interleave(3, 0)) * frame.scale.repeat_interleave(3)[
        :, None
    ]
    assert entered.equal(wanted.float())


@pytest.mark.parametrize("counts", [[2, 2, 2], [1, 4, 2]])
def test_numbers_of_problems_that_differ_are_sent_but_not_while_capturing(
    captures: None, monkeypatch: pytest.MonkeyPatch, counts: list[int]
) -> None:
    sent = []

    def to_device(x: Any, device: torch.device) -> Any:
        sent.append(x)
        return x

    monkeypatch.setattr(_problems, "to_device", to_device)
    values = [0, 5, 6] if len(set(counts)) == 1 else [0, 1, 2]
    found = _problems.per_centroid(values, counts, torch.device("cpu"))
    assert found.equal(torch.tensor(values).repeat_interleave(torch.tensor(counts)))
    assert len(sent) == 1  # through page-locked memory on a GPU, so that the host need not wait
    with pytest.raises(ValueError, match=SENT):
        _problems.per_centroid(values, counts, torch.device("cuda", 0))
    assert len(sent) == 1


def test_weights_cannot_be_captured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_kmeans, "capturing", lambda device: True)
    x, weights = torch.randn(9, 2), torch.ones(9)
    with pytest.raises(ValueError, match=r"^weights .*call kmeans with weights outside of it$"):
        as_called("kmeans")(x, 2, weights=weights)


def test_the_addresses_of_a_list_are_not_sent_while_capturing(captures: None) -> None:
    images = [torch.zeros(5, 7, 3, dtype=torch.uint8)]
    assert _images.send_table(images, torch.device("cpu")).shape == (1, 4)
    with pytest.raises(ValueError, match=r"images is a list.*pass one batch \(N, H, W, C\)"):
        _images.send_table(images, torch.device("cuda", 0))
