from __future__ import annotations

import pytest
import torch
from torch import nn
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


@pytest.mark.parametrize("norm", ["instance", "batch"])
@pytest.mark.parametrize("together", [False, True])
def test_images_of_weight_zero_do_not_count(norm: Norm, together: bool) -> None:
    images, labels = batches()
    matcher = Matcher(network(norm), "bidirectional")
    weights = torch.tensor([[0.5, 0.5, 0, 0]]).double().expand(3, 4)
    padded = matcher(images, labels, weights, together=together)
    alone = matcher(images[:, :2], labels, together=True)
    for a, b in zip(padded.gradients, alone.gradients, strict=True):
        torch.testing.assert_close(a, b, rtol=RTOL, atol=1e-12)


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
