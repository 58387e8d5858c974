from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn import functional

from pydream.errors import PydreamError
from pydream.matching import (
    Answers,
    Match,
    Matcher,
    answer_distance,
    answer_distance_and_slopes,
)
from pydream.models.convnet import ConvNet, Norm
from pydream.models.registry import build_model

# Both ways sum the same float64 numbers in other orders, twice differentiated.
RTOL = 1e-9
# The same in float32, through two derivatives of a batch norm of two images.
FLOAT32_RTOL = 2e-4


def network(norm: Norm = "instance") -> ConvNet:
    torch.manual_seed(0)
    return ConvNet(4, 16, width=6, depth=2, norm=norm).double()


def batches(classes: int = 3, count: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(classes, count, 3, 16, 16, generator=generator, dtype=torch.float64)
    return images, torch.arange(classes)


@pytest.mark.parametrize("norm", ["instance", "batch", "none"])
@pytest.mark.parametrize("match", ["bidirectional", "gradient", "feature"])
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("weighted", [False, True])
def test_together_is_in_turn(norm: Norm, match: Match, everything: bool, weighted: bool) -> None:
    """Also of batch norms, whose second derivatives PyTorch gets wrong under vmap."""
    matcher = Matcher(
        network(norm), match, with_norm_and_bias=everything, with_classifier=everything
    )
    images, labels = batches()
    weights = None
    if weighted:
        weights = torch.tensor([[1, 2, 3, 4], [1, 1, 1, 1], [1, 0, 0, 0]]).double()
        weights /= weights.sum(1, keepdim=True)
    images.requires_grad_()
    found = []
    for together in (True, False):
        answers = matcher(images, labels, weights, together=together)
        value = sum(gradient.square().sum() for gradient in answers.gradients)
        value = value + answers.features.square().sum()
        found.append((answers, torch.autograd.grad(value, images)[0]))
    (first, slope), (second, other_slope) = found
    assert len(first.gradients) == len(second.gradients)
    for a, b in zip([*first.gradients, first.features], [*second.gradients, second.features],
                    strict=True):  # fmt: skip
        torch.testing.assert_close(a, b, rtol=RTOL, atol=1e-12)
    torch.testing.assert_close(slope, other_slope, rtol=RTOL, atol=RTOL * float(slope.abs().max()))


def test_answers_are_those_of_a_plain_backward_pass() -> None:
    model = network()
    images, labels = batches()
    answers = Matcher(model, "bidirectional")(images, labels, together=True)
    convolutions = [parameter for parameter in model.parameters() if parameter.dim() == 4]
    assert len(answers.gradients) == len(convolutions)
    for label in range(3):
        loss = functional.cross_entropy(model(images[label]), labels[label].expand(4))
        expected = torch.autograd.grad(loss, convolutions)
        for found, wanted in zip(answers.gradients, expected, strict=True):
            torch.testing.assert_close(found[label], wanted, rtol=RTOL, atol=1e-12)
        features = model.features(images[label]).mean(0)
        torch.testing.assert_close(answers.features[label], features, rtol=RTOL, atol=1e-12)


def test_of_a_resnet() -> None:
    torch.manual_seed(0)
    model = build_model("resnetap10", num_classes=3, side=16).double()
    images, labels = batches(2, 2)
    matcher = Matcher(model, "bidirectional")
    together, in_turn = (matcher(images, labels, together=together) for together in (True, False))
    assert together.features.shape == (2, 512)
    assert len(together.gradients) == sum(parameter.dim() == 4 for parameter in model.parameters())
    for a, b in zip(together.gradients, in_turn.gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=RTOL, atol=1e-12)


def test_follows_the_network_and_leaves_it_alone() -> None:
    model = network("batch")
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    images, labels = batches()
    matcher = Matcher(model, "gradient")
    before = matcher(images, labels, together=True)
    assert all(tensor.equal(state[name]) for name, tensor in model.state_dict().items())
    assert all(parameter.grad is None for parameter in model.parameters())
    with torch.no_grad():
        model.classifier.weight.mul_(2)
    after = matcher(images, labels, together=True)
    again = Matcher(model, "gradient")(images, labels, together=True)
    assert not after.gradients[0].allclose(before.gradients[0])
    assert after.gradients[0].equal(again.gradients[0])


def plain_answers(
    model: ConvNet, parameters: Sequence[torch.Tensor], images: torch.Tensor, label: torch.Tensor
) -> list[torch.Tensor]:
    """Return mean features and gradients of one batch, by calls of the network itself."""
    loss = functional.cross_entropy(model(images), label.expand(len(images)))
    features = model.features(images).mean(0)
    return [features, *torch.autograd.grad(loss, parameters, create_graph=True)]


def slope_of_squares(parts: list[torch.Tensor], images: torch.Tensor) -> torch.Tensor:
    squares = torch.stack([part.square().sum() for part in parts])
    (slope,) = torch.autograd.grad(squares.sum(), images)
    return slope


@pytest.mark.parametrize("norm", ["instance", "batch", "frozen"])
@pytest.mark.parametrize("together", [False, True])
@pytest.mark.parametrize("everything", [False, True])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_classes_of_different_counts(
    norm: str, together: bool, everything: bool, dtype: torch.dtype
) -> None:
    """Padding is as if it were not there, in batch norms too; the kernels take float32."""
    model = network("instance" if norm == "instance" else "batch").to(dtype)
    model.train(norm != "frozen")
    counts = (4, 2, 4, 3, 2)
    images, labels = batches(5)
    labels, images = labels % 4, images.to(dtype).requires_grad_()
    weights = torch.tensor([[1 / n] * n + [0.0] * (4 - n) for n in counts], dtype=dtype)
    matcher = Matcher(
        model, "bidirectional", with_norm_and_bias=everything, with_classifier=everything
    )
    found = matcher(images, labels, weights, counts, together=together)
    slope = slope_of_squares([found.features, *found.gradients], images)
    taken = [p for p in model.parameters() if everything or p.dim() == 4]
    rtol = RTOL if dtype == torch.float64 else FLOAT32_RTOL
    for c, n in enumerate(counts):
        expected = plain_answers(model, taken, images[c, :n], labels[c])
        for a, b in zip([found.features, *found.gradients], expected, strict=True):
            scale = float(b.detach().abs().max())
            torch.testing.assert_close(a[c], b, rtol=rtol, atol=rtol * max(scale, 1e-3))
        wanted = slope_of_squares(expected, images)
        bound = rtol * float(wanted.abs().max())
        torch.testing.assert_close(slope[c], wanted[c], rtol=rtol, atol=bound)


def test_one_pass_over_classes_of_different_counts() -> None:
    model, (images, labels) = network("batch"), batches()
    counts, images = (4, 1, 3), images.requires_grad_()
    weights = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 2, 1, 0]]).double()
    weights /= weights.sum(1, keepdim=True)
    matcher = Matcher(model, "feature", one_pass=True)
    found = matcher(images, labels, weights, counts, together=True).features
    seen = torch.cat([images[c, :n] for c, n in enumerate(counts)])
    of_classes = model.features(seen).split(counts)
    shares = [weights[c, :n, None] for c, n in enumerate(counts)]
    wanted = torch.stack([(a * b).sum(0) for a, b in zip(of_classes, shares, strict=True)])
    torch.testing.assert_close(found, wanted, rtol=RTOL, atol=1e-12)


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("one_pass", [False, True])
def test_nothing_depends_on_values_that_a_gpu_would_have_to_be_waited_for(
    norm: Norm, one_pass: bool
) -> None:
    """Otherwise no CUDA graph captures a step; fake tensors have no values."""
    with FakeTensorMode():
        model = ConvNet(4, 16, width=6, depth=2, norm=norm)
        images = torch.randn(3, 4, 3, 16, 16, requires_grad=True)
        weights, labels = torch.rand(3, 4), torch.arange(3)
        match: Match = "feature" if one_pass else "bidirectional"
        matcher = Matcher(model, match, one_pass=one_pass)
        answers = matcher(images, labels, weights, (4, 2, 4), together=True)
        (slope,) = torch.autograd.grad(answers.features.sum(), images)
    assert slope.shape == images.shape


@pytest.mark.parametrize("metric", ["mse", "l1", "l1_mean", "l2", "cos", "dc"])
def test_distance_of_classes_together_is_the_sum_of_each(metric: str) -> None:
    generator = torch.Generator().manual_seed(2)

    def answers() -> Answers:
        shapes = [(3, 5, 4, 3, 3), (3, 7), (3, 4, 6)]
        return Answers([torch.randn(shape, generator=generator) for shape in shapes],
                       torch.randn(3, 11, generator=generator))  # fmt: skip

    synthetic, real = answers(), answers()
    whole = answer_distance(synthetic, real, "bidirectional", metric)
    apart = [
        answer_distance(
            Answers(
                [gradient[c : c + 1] for gradient in synthetic.gradients],
                synthetic.features[c : c + 1],
            ),
            Answers([gradient[c : c + 1] for gradient in real.gradients], real.features[c : c + 1]),
            "bidirectional",
            metric,
        )
        for c in range(3)
    ]
    torch.testing.assert_close(whole, torch.stack(apart).sum(), rtol=1e-5, atol=0.0)


def test_what_is_matched_counts_alone() -> None:
    generator = torch.Generator().manual_seed(3)
    x = Answers([torch.randn(2, 3, 4, generator=generator)], torch.randn(2, 5, generator=generator))
    zero = Answers([torch.zeros(2, 3, 4)], torch.zeros(2, 5))
    expected = {
        "gradient": x.gradients[0].square().sum(),
        "feature": x.features.square().sum(),
        "bidirectional": x.gradients[0].square().sum() + x.features.square().sum(),
    }
    for match, wanted in expected.items():
        torch.testing.assert_close(answer_distance(x, zero, match, "mse"), wanted)  # type: ignore[arg-type]


@pytest.mark.parametrize("match", ["bidirectional", "gradient", "feature"])
@pytest.mark.parametrize("metric", ["mse", "l2", "dc"])
def test_slopes_begin_the_backward_pass_of_the_distance(match: Match, metric: str) -> None:
    images, labels = batches()
    matcher = Matcher(network("instance"), match, with_norm_and_bias=True)
    real = matcher(images.flip(-1), labels, together=False)
    images.requires_grad_()
    found = matcher(images, labels, together=False)
    expected = answer_distance(found, real, match, metric)
    (wanted,) = torch.autograd.grad(expected, images, retain_graph=True)
    distance, answers, slopes = answer_distance_and_slopes(found, real, match, metric)
    assert not distance.requires_grad
    torch.testing.assert_close(distance, expected.detach(), rtol=RTOL, atol=0.0)
    (derivative,) = torch.autograd.grad(answers, images, slopes)
    torch.testing.assert_close(derivative, wanted, rtol=RTOL, atol=1e-12)


def test_an_answer_that_depends_on_no_image_is_left_out() -> None:
    x = Answers([torch.ones(2, 3, requires_grad=True), torch.ones(2, 4)], torch.ones(2, 5))
    zero = Answers([torch.zeros(2, 3), torch.zeros(2, 4)], torch.zeros(2, 5))
    distance, answers, slopes = answer_distance_and_slopes(x, zero, "bidirectional", "mse")
    assert distance.item() == 2 * (3 + 4 + 5)
    assert len(answers) == len(slopes) == 1
    assert slopes[0].equal(torch.full((6,), 2.0))


def test_any_network_has_features() -> None:
    """The input of the last linear layer; without one, the logits."""
    torch.manual_seed(0)
    images, labels = batches(2, 3)
    convolution, head = nn.Conv2d(3, 5, 16), nn.Linear(5, 2)
    linear = nn.Sequential(convolution, nn.Flatten(), nn.Linear(5, 5), nn.ReLU(), head).double()
    answers = Matcher(linear, "bidirectional")(images, labels, together=True)
    for label in range(2):
        wanted = linear[:4](images[label]).mean(0)
        torch.testing.assert_close(answers.features[label], wanted, rtol=RTOL, atol=1e-12)
    without = nn.Sequential(convolution, nn.Flatten()).double()
    answers = Matcher(without, "feature")(images, labels, together=False)
    wanted = without(images.flatten(0, 1)).view(2, 3, 5).mean(1)
    torch.testing.assert_close(answers.features, wanted, rtol=RTOL, atol=1e-12)


def test_frozen_weights_have_gradients() -> None:
    model = network()
    images, labels = batches()
    wanted = Matcher(model, "gradient")(images, labels, together=False)
    frozen = Matcher(model.requires_grad_(False), "gradient")(images, labels, together=False)
    for a, b in zip(frozen.gradients, wanted.gradients, strict=True):
        assert a.equal(b)
    assert not any(parameter.requires_grad for parameter in model.parameters())


def test_a_network_without_convolutions_is_refused() -> None:
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    with pytest.raises(PydreamError, match="Sequential has no convolution whose gradient"):
        Matcher(flat, "gradient")
    Matcher(flat, "feature")
