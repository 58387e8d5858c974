from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pydream import ops
from pydream.dream import RepresentativeSampler
from pydream.errors import PydreamError
from pydream.models.convnet import ConvNet

SIZES = [40, 3, 25]
SIDE = 8
# Of features of order 1, after two blocks.
REORDERED = 1e-5


def pictures(
    sizes: list[int] = SIZES, dtype: torch.dtype = torch.float32
) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (sum(sizes), 1, SIDE, SIDE), generator=generator).to(torch.uint8)
    labels = torch.arange(len(sizes)).repeat_interleave(torch.tensor(sizes))
    return (images if dtype == torch.uint8 else images.to(dtype) / 255), labels


class Flat(nn.Module):
    """Features that are the pixels, so that what is near can be seen."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.passes = 0

    def features(self, images: torch.Tensor) -> torch.Tensor:
        self.passes += 1
        return images.flatten(1) * self.scale


def test_chooses_what_is_nearest_to_the_centres_of_each_class() -> None:
    images, labels = pictures()
    chosen = RepresentativeSampler(images, labels, 10, seed=5)(Flat())
    begin = 0
    for size, rows in zip(SIZES, chosen, strict=True):
        x = images[begin : begin + size].flatten(1)
        expected = ops.representatives(x, min(10, size), seed=5)[:, 0] + begin
        assert rows.dtype == torch.int64
        assert rows.equal(expected)
        begin += size


def test_takes_several_of_each_cluster() -> None:
    images, labels = pictures()
    chosen = RepresentativeSampler(images, labels, 12, per_cluster=4)(Flat())
    assert [len(rows) for rows in chosen] == [12, 3, 12]
    assert chosen[1].tolist() == [40, 41, 42]  # no more than one cluster takes: all of them
    x = images[:40].flatten(1)
    assert chosen[0].view(3, 4).equal(ops.representatives(x, 3, 4))


def test_many_classes_takes_the_least_distances_of_all() -> None:
    images, labels = pictures([30, 2, 9])
    chosen = RepresentativeSampler(images, labels, 6, many_classes=True, seed=2)(Flat())
    x = images[:30].flatten(1)
    result = ops.kmeans(x, 6, seed=2)
    own = (x - result.centroids[result.labels]).square().sum(dim=1)
    assert own[chosen[0]].equal(own.sort().values[:6])
    assert [len(rows) for rows in chosen] == [6, 2, 6]


@pytest.mark.parametrize("per_cluster", [1, 3])
def test_weights_are_the_shares_of_the_clusters(per_cluster: int) -> None:
    images, labels = pictures()
    sampler = RepresentativeSampler(images, labels, 12, per_cluster=per_cluster, seed=3)
    chosen = sampler(Flat())
    clusters = 12 // per_cluster
    result = ops.kmeans(images[:40].flatten(1), clusters, seed=3)
    sizes = [sum(label == number for label in result.labels.tolist()) for number in range(clusters)]
    expected = [size / 40 / per_cluster for size in sizes for _ in range(per_cluster)]
    assert sampler.weights[0].tolist() == pytest.approx(expected)
    assert sampler.weights[1].tolist() == pytest.approx([1 / 3] * 3)  # a class of three
    for rows, weights in zip(chosen, sampler.weights, strict=True):
        assert rows.shape == weights.shape
        assert float(weights.sum()) == pytest.approx(1)


def test_weights_of_many_classes_are_those_of_the_clusters_chosen_from() -> None:
    images, labels = pictures([30, 2, 9])
    sampler = RepresentativeSampler(images, labels, 6, many_classes=True, seed=2)
    (rows, *_) = sampler(Flat())
    found = ops.kmeans(images[:30].flatten(1), 6, seed=2).labels.tolist()
    own = [found[row] for row in rows.tolist()]
    shares = [found.count(cluster) / own.count(cluster) for cluster in own]
    assert sampler.weights[0].tolist() == pytest.approx([share / sum(shares) for share in shares])


def test_chooses_anew_every_interval_and_for_a_new_network() -> None:
    images, labels = pictures()
    network = Flat()
    sampler = RepresentativeSampler(images, labels, 10, interval=3, batch_size=68)
    first = sampler(network)
    with torch.no_grad():
        network.scale.mul_(-2.0)
    assert sampler(network) is first
    assert sampler(network) is first
    assert network.passes == 1
    assert sampler(network) is not first
    assert network.passes == 2
    other = Flat()
    assert sampler(other)[0].equal(first[0])
    assert other.passes == 1


def test_starts_from_the_last_centroids(monkeypatch: pytest.MonkeyPatch) -> None:
    inits = []
    kmeans = ops.kmeans

    def seen(*arguments: Any, **options: Any) -> Any:
        inits.append(options["init"])
        return kmeans(*arguments, **options)

    monkeypatch.setattr(ops, "kmeans", seen)
    images, labels = pictures()
    network = Flat()
    sampler = RepresentativeSampler(images, labels, 10, interval=1)
    once, again = sampler(network), sampler(network)
    sampler(Flat())
    assert isinstance(inits[0], str)
    assert isinstance(inits[1], torch.Tensor)
    assert isinstance(inits[2], str)
    assert all(a.equal(b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_do_not_matter(batch_size: int) -> None:
    images, labels = pictures()
    expected = RepresentativeSampler(images, labels, 10)(Flat())
    chosen = RepresentativeSampler(images, labels, 10, batch_size=batch_size)(Flat())
    assert all(a.equal(b) for a, b in zip(chosen, expected, strict=True))


def test_leaves_the_network_as_it_was() -> None:
    images, labels = pictures()
    network: Any = ConvNet(3, SIDE, channels=1, depth=2, width=8, norm="batch")
    network.layers["norm"][1].eval()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    RepresentativeSampler(images, labels, 10)(network)
    assert all(value.equal(before[name]) for name, value in network.state_dict().items())
    assert [module.training for module in network.modules()] == modes
    assert all(parameter.grad is None for parameter in network.parameters())


def test_a_layer_by_name_is_the_method() -> None:
    images, labels = pictures()
    network: Any = ConvNet(3, SIDE, channels=1, depth=2, width=8, norm="instance")
    by_method = RepresentativeSampler(images, labels, 10).embed(network)
    by_name = RepresentativeSampler(images, labels, 10, layer="layers.pool.1").embed(network)
    # Watched layers run one after the other: the same sums in another order.
    torch.testing.assert_close(by_method, by_name, rtol=0.0, atol=REORDERED)
    assert not network.layers["pool"][1]._forward_hooks


def test_bytes_are_scaled_and_transformed() -> None:
    given, labels = pictures(dtype=torch.uint8)
    scaled, _ = pictures()
    sampler = RepresentativeSampler(given, labels, transform=lambda x: (x - 0.5) / 0.25)
    torch.testing.assert_close(sampler.embed(Flat()), (scaled.flatten(1) - 0.5) / 0.25)


def test_half_precision_embeddings() -> None:
    images, labels = pictures()
    sampler = RepresentativeSampler(images, labels, 10, dtype=torch.float16)
    assert sampler.embed(Flat()).dtype == torch.float16
    assert [len(rows) for rows in sampler(Flat())] == [10, 3, 10]


def test_a_class_without_images_has_none_chosen() -> None:
    images, _ = pictures([20])
    chosen = RepresentativeSampler(images, torch.tensor([1] * 8 + [3] * 12), 4)(Flat())
    assert [len(rows) for rows in chosen] == [0, 4, 0, 4]
    assert (chosen[3] >= 8).all()


def test_covers_a_class_more_evenly_than_a_random_draw() -> None:
    """Mean and largest distance of an image to the nearest of those chosen."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(600, 4, generator=generator) * torch.tensor([4.0, 2.0, 1.0, 1.0])
    images = x.view(600, 1, 2, 2)
    rows = RepresentativeSampler(images, torch.zeros(600, dtype=torch.int64), 40)(Flat())[0]
    chosen = torch.cdist(x, x[rows]).amin(dim=1)
    draws = [torch.randperm(600, generator=generator)[:40] for _ in range(20)]
    random = torch.stack([torch.cdist(x, x[draw]).amin(dim=1) for draw in draws])
    assert chosen.mean() < random.mean(dim=1).min()
    assert chosen.max() < random.amax(dim=1).median()


IMAGES, LABELS = pictures()


@pytest.mark.parametrize(
    ("arguments", "options", "error", "message"),
    [
        ((IMAGES[0], LABELS), {}, ValueError, r"images must have shape \(N, C, H, W\)"),
        ((IMAGES, LABELS[1:]), {}, ValueError, r"labels must have shape \(68\), got \(67,\)"),
        ((IMAGES, LABELS.float()), {}, TypeError, "labels must be int64 or int32"),
        (
            (IMAGES, LABELS.flip(0)),
            {},
            ValueError,
            "labels must be ascending and not negative: sort",
        ),
        ((IMAGES, LABELS - 1), {}, ValueError, "labels must be ascending and not negative"),
        ((IMAGES[:0], LABELS[:0]), {}, ValueError, "images must hold at least one image"),
        ((IMAGES, LABELS, 0), {}, ValueError, "batch_real must be at least 1, got 0"),
        ((IMAGES, LABELS), {"interval": 0}, ValueError, "interval must be at least 1"),
        ((IMAGES, LABELS, 4), {"per_cluster": 5}, ValueError, "at most batch_real, 4, got 5"),
        (
            (IMAGES, LABELS),
            {"many_classes": True, "per_cluster": 2},
            ValueError,
            "no meaning with many_classes",
        ),
        ((IMAGES, LABELS), {"seed": -1}, ValueError, "seed must be at least 0"),
    ],
)
def test_refuses(
    arguments: tuple[Any, ...], options: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        RepresentativeSampler(*arguments, **options)


def test_says_which_layers_there_are() -> None:
    sampler = RepresentativeSampler(IMAGES, LABELS, layer="last")
    with pytest.raises(PydreamError, match="Sequential has no layer 'last'; it has 0, 1"):
        sampler(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)))


def test_a_network_without_features_embeds_by_its_last_linear_layer() -> None:
    torch.manual_seed(0)
    images, labels = pictures()
    first = nn.Sequential(nn.Flatten(), nn.Linear(images[0].numel(), 5))
    network = nn.Sequential(*first, nn.Linear(5, 3))
    found = RepresentativeSampler(images, labels, 2)(network)
    wanted = RepresentativeSampler(images, labels, 2, layer="1")(network)
    assert all(a.equal(b) for a, b in zip(found, wanted, strict=True))


def test_a_module_named_features_does_not_embed() -> None:
    """As in torchvision's VGG and MobileNet, where layers stand between it and the last one."""

    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(1, 4, 3)
            self.classifier = nn.Sequential(nn.Dropout(), nn.Linear(4, 3))

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits: torch.Tensor = self.classifier(self.features(images).mean((2, 3)))
            return logits

    torch.manual_seed(0)
    images, labels = pictures()
    network = Network()
    found = RepresentativeSampler(images, labels).embed(network)
    with torch.no_grad():
        wanted = network.features(images).mean((2, 3))
    torch.testing.assert_close(found, wanted)


def test_embeddings_that_are_not_finite_are_named() -> None:
    images, labels = pictures()
    images[7, 0, 0, 0] = torch.nan
    with pytest.raises(ValueError, match=r"embedding of images\[7\] is not finite in float32"):
        RepresentativeSampler(images, labels)(Flat())
    images[7] = 1e6
    with pytest.raises(ValueError, match=r"images\[7\] is not finite in float16; .*bfloat16"):
        RepresentativeSampler(images, labels, dtype=torch.float16)(Flat())


@pytest.mark.slow
def test_the_example_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(Path(__file__).resolve().parents[2] / "examples")
    example = importlib.import_module("representative_matching")
    monkeypatch.setattr(example, "SEEDS", 1)
    example.main()
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["representative", "random"]
    assert all(float(line.split()[1].rstrip("%")) > 60 for line in lines)
