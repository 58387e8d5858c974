"""What distinguishes the frameworks in the loop that they share."""

from __future__ import annotations

import dataclasses
import hashlib
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from plain_sets import write_set
from played_graphs import play_captures
from torch import nn

from pydream.data import Source
from pydream.data.subset import Subset
from pydream.dream import DreamConfig, distill
from pydream.dream.loop import MatchingLoop
from pydream.dream.objectives import StepInputs
from pydream.dream.real import ClassImages, load_class_images
from pydream.dream.resolved import fill_in
from pydream.dream.start import start_fingerprint
from pydream.dream.synthetic import SyntheticImages
from pydream.errors import PydreamError
from pydream.models.registry import construct
from pydream.sets.distilled import load_set
from pydream.students.augmentation import one_operation_each, one_operation_for_all

NETWORK = "convnet2-w8-instance"
# Of the mean and the standard deviation of some thousand normal numbers.
SAMPLING = 0.05


def config(framework: Any, **changes: Any) -> DreamConfig:
    values: dict[str, Any] = {"arch": NETWORK, "ipc": 2, "iterations": 4, "batch_real": 12}
    if framework == "idc":
        values |= {"network_images": 20}
    if framework in ("dc", "dsa"):
        values |= {"inner_loop": 2, "synthetic_epochs": 2}
    if framework == "dm":
        values |= {"network_epochs": 1}
    return DreamConfig("digits", framework=framework, workers=1, **{**values, **changes})


@pytest.fixture(scope="module")
def real(digits: Source) -> ClassImages:
    return load_class_images(digits, 8, device=torch.device("cpu"), workers=1, allow_skipped=0.0)[0]


def loop_of(
    real: ClassImages, framework: str, parts: Sequence[range] | None = None, **changes: Any
) -> MatchingLoop:
    settings = fill_in(config(framework, **changes), 8, 3)
    return MatchingLoop(settings, real, make_network, parts)


def make_network() -> nn.Module:
    return construct(NETWORK, num_classes=3, side=8)


def run(loop: MatchingLoop, iterations: int = 2) -> torch.Tensor:
    values, _ = loop.initial()
    synthetic = SyntheticImages(
        values, loop.config.learning_rate, classes=loop.classes, num_classes=3
    )
    for iteration in range(iterations):
        losses = loop.iterate(synthetic, iteration)
        assert len(losses) == len(loop.parts)
        assert min(losses) > 0
    return synthetic.values


def digest(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "run.json"
    }


@pytest.mark.parametrize("framework", ["dc", "dsa", "dm"])
def test_a_killed_run_goes_on_to_the_same_bytes(
    tmp_path: Path, digits: Source, monkeypatch: pytest.MonkeyPatch, framework: str
) -> None:
    whole = config(framework, out=tmp_path / "whole", checkpoint_every=2)
    distill(whole, source=digits)
    killed, iterate = dataclasses.replace(whole, out=tmp_path / "killed"), MatchingLoop.iterate

    def dying(self: MatchingLoop, synthetic: SyntheticImages, at: int) -> list[float]:
        if at == 3:
            raise SystemError
        return iterate(self, synthetic, at)

    with monkeypatch.context() as patch:
        patch.setattr(MatchingLoop, "iterate", dying)
        with pytest.raises(SystemError):
            distill(killed, source=digits)
    made = distill(dataclasses.replace(killed, resume=True), source=digits)
    assert digest(made.path) == digest(tmp_path / "whole")
    assert (load_set(made.path).manifest.config or {})["framework"] == framework
    told = {
        "dc": "2 on the synthetic images between two steps",
        "dsa": "2 on the synthetic images between two steps",
        "dm": "the networks matched are not trained",
    }
    assert told[framework] in (made.path / "report.html").read_text()


@pytest.mark.parametrize(
    ("framework", "changes"),
    [
        ("dm", {}),
        ("dm", {"match": "bidirectional", "weights": "clusters"}),
        ("dsa", {"synthetic_epochs": 0}),
        ("dc", {"synthetic_epochs": 0, "start": "noise", "sampler": "random"}),
    ],
)
def test_a_class_has_the_same_images_without_the_others(
    real: ClassImages, framework: str, changes: dict[str, Any]
) -> None:
    """Byte for byte, because ranks share a run by this."""
    loop = loop_of(real, framework, **changes)
    own = run(loop_of(real, framework, [range(1), range(2, 3)], **changes))
    assert own.equal(run(loop)[[0, 2]])


def test_what_shards_lack(digits: Source) -> None:
    with pytest.raises(PydreamError, match="which no shard has: start ranks"):
        distill(config("dsa", shard="0/2"), source=digits)
    with pytest.raises(PydreamError, match=r"exact dm .* through batch norms at once"):
        distill(config("dm", arch="convnet2-w8", exact=True, shard="0/2"), source=digits)


def test_noise_is_normal_in_normalised_space(real: ClassImages) -> None:
    loop = loop_of(real, "dc", sampler="random", ipc=9)
    values, origins = loop.initial()
    assert origins.shape == (3, 9, 0)
    drawn = real.normalise(values)
    assert abs(float(drawn.mean())) < SAMPLING
    assert abs(float(drawn.std()) - 1) < SAMPLING
    assert not values.clamp(0, 1).equal(values)
    assert not values[0].equal(values[1])


def test_a_set_of_noise_comes_from_nowhere(tmp_path: Path, digits: Source) -> None:
    made = distill(
        config("dc", sampler="random", iterations=1, out=tmp_path / "set"), source=digits
    )
    assert load_set(made.path).provenance is None


@pytest.mark.parametrize("framework", ["dc", "dsa", "dm"])
def test_images_leave_the_colours_only_where_that_is_published(
    real: ClassImages, framework: str
) -> None:
    changes: dict[str, Any] = {"sampler": "random", "start": "noise", "learning_rate": 1e-4}
    published = run(loop_of(real, framework, exact=True, **changes))
    assert float(published.min()) < -0.5
    kept = run(loop_of(real, framework, **changes))
    # Clamped at the beginning of an iteration, of which the last one moves them a little.
    assert float(kept.min()) > -0.01


def test_a_step_moves_normalised_images_by_the_learning_rate(real: ClassImages) -> None:
    """An image x / std moves x by std times as much: by hand, for one step of DM."""
    loop = loop_of(real, "dm", sampler="random", learning_rate=0.25)
    before, _ = loop.initial()
    synthetic = SyntheticImages(before.clone(), 0.25)
    loop.iterate(synthetic, 0)
    moved = real.normalise(synthetic.values) - real.normalise(before)
    network = loop._networks.network
    normalised = real.normalise(before).requires_grad_()
    inputs = step_inputs(loop, seed_of(loop))
    loss = torch.zeros(())
    for label in range(3):
        rows = inputs.rows[label]
        if inputs.weights is not None:
            rows = rows[inputs.weights[label] > 0]
        augmentation = inputs.augmentation
        assert augmentation is not None
        seen = [
            features(network, images, augmentation[label : label + 1]).mean(0)
            for images in (real.normalise(real.take(rows)), normalised[label])
        ]
        loss = loss + (seen[0].detach() - seen[1]).square().sum()
    (slope,) = torch.autograd.grad(loss, normalised)
    torch.testing.assert_close(moved, -0.25 * slope, rtol=1e-3, atol=1e-5)


def features(network: Any, images: torch.Tensor, augmentation: torch.Tensor) -> torch.Tensor:
    from pydream.ops.reference import augment

    embedded: torch.Tensor = network.features(augment.diff_augment(images, augmentation))
    return embedded.flatten(1)


def seed_of(loop: MatchingLoop) -> int:
    from pydream.dream.draws import Draw
    from pydream.seeds import derived_seed

    return derived_seed(loop.config.seed, Draw.NETWORK, 0)


def test_batch_norms_are_frozen_at_the_statistics_of_real_images(real: ClassImages) -> None:
    settings = fill_in(config("dc", arch="convnet2-w8", inner_loop=2, batch_real=4), 8, 3)
    made = MatchingLoop(settings, real, lambda: construct("convnet2-w8", num_classes=3, side=8))
    networks = made._networks
    networks.begin(3)
    norms = [m for m in networks.network.modules() if isinstance(m, nn.BatchNorm2d)]
    convolution = next(m for m in networks.network.modules() if isinstance(m, nn.Conv2d))
    assert all(norm.training and float(norm.running_mean.abs().max()) == 0 for norm in norms)  # type: ignore[union-attr]
    seen: list[torch.Tensor] = []
    hook = networks.network.register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    networks.prepare(3, 0)
    hook.remove()
    (images,) = seen
    assert len(images) == 16 + 9 + 16  # the second class has nine
    assert not any(norm.training for norm in norms)
    # One pass in training mode moves the running mean by a tenth of the way.
    expected = 0.1 * convolution(images).mean((0, 2, 3))
    torch.testing.assert_close(norms[0].running_mean, expected.detach())
    assert min(run(made)[0].shape) > 0
    networks.begin(4)
    assert all(norm.training for norm in norms)


def test_one_choice_for_all_networks_that_are_never_trained(real: ClassImages) -> None:
    loop = loop_of(real, "dm")
    chosen = []
    for seed in (1, 2):
        loop._networks.begin(seed)
        chosen.append(first_rows(loop, seed))
    assert chosen[0].equal(chosen[1])
    assert not first_rows(loop_of(real, "dm", seed=1), 1).equal(chosen[0])


def first_rows(loop: MatchingLoop, seed: int) -> torch.Tensor:
    return step_inputs(loop, seed).rows


def step_inputs(loop: MatchingLoop, seed: int) -> StepInputs:
    inputs = next(loop._objective.inputs(seed))
    assert isinstance(inputs, StepInputs)
    return inputs


@pytest.mark.parametrize(
    ("framework", "changes"),
    [
        ("idc", {}),
        ("idc", {"sampler": "random"}),
        ("idc", {"weights": "clusters", "batch_synthetic": 3}),
        ("dsa", {"sampler": "representative"}),
        ("dm", {"sampler": "random"}),
    ],
)
def test_a_step_captured_before_the_iterations_is_theirs(
    real: ClassImages, monkeypatch: pytest.MonkeyPatch, framework: str, changes: dict[str, Any]
) -> None:
    """Its inputs have the shapes of all others, here of classes with 12, 9 and 12 images."""
    expected = run(loop_of(real, framework, **changes))
    graphs = play_captures(monkeypatch)
    loop = loop_of(real, framework, **changes)
    values, _ = loop.initial()
    synthetic = SyntheticImages(values.clone(), loop.config.learning_rate, num_classes=3)
    loop.capture(synthetic)
    assert len(graphs) == 1
    assert synthetic.values.equal(values)
    for iteration in range(2):
        loop.iterate(synthetic, iteration)
    assert len(graphs) == 1
    assert synthetic.values.equal(expected)


def test_no_network_is_trained_to_choose_random_images(
    real: ClassImages, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = loop_of(real, "dm", sampler="random")
    monkeypatch.setattr(loop._networks, "_pretrain", None)
    assert min(first_rows(loop, 1).shape) > 0


def test_weights_by_clusters_change_what_is_matched(real: ClassImages) -> None:
    assert not run(loop_of(real, "dm", weights="clusters")).equal(run(loop_of(real, "dm")))


def test_one_operation_a_call() -> None:
    words = "color_crop_cutout_flip_scale_rotate"
    rows = one_operation_each(400, 16, words, seed=3)
    assert rows[:150].equal(one_operation_each(150, 16, words, seed=3))
    kinds = [kind(row) for row in rows]
    # Flips do nothing half of the time, and crops and rotations nothing now and then.
    assert set(kinds) == {"color", "crop", "cutout", "flip", "scale", "rotate", "nothing"}
    assert all(30 <= kinds.count(word) <= 100 for word in {*kinds} - {"flip"})
    together = [
        {kind(row) for row in one_operation_for_all(8, 16, words, seed=seed)} - {"nothing"}
        for seed in range(40)
    ]
    assert max(map(len, together)) == 1
    assert len(set().union(*together)) == 6
    batch = one_operation_for_all(8, 16, "color", seed=0)
    assert len(batch.unique(dim=0)) == 8


def kind(row: torch.Tensor) -> str:
    """Name the one operation of a row; more than one of them fails."""
    nothing = torch.tensor([0, 1, 1, 1, 0, 0, 0, 1, 0, 0, 0, 0, 0.0])
    changed = {int(place) for place in (row != nothing).nonzero()}
    if not changed:
        return "nothing"
    if changed <= {0, 1, 2}:
        return "color"
    if changed <= {9, 10, 11, 12}:
        return "cutout"
    assert changed <= set(range(3, 9))
    if row[4] != 0:
        return "rotate"
    if row[3] == -1:
        return "flip"
    return "crop" if row[3] == row[7] == 1 else "scale"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"framework": "fd"}, "framework must be one of idc, dc, dsa, dm, mtt, got 'fd'"),
        ({"framework": "mtt"}, "mtt needs the trajectories of experts: make them by"),
        ({"framework": "dm", "experts": Path("x")}, "leave --experts out of dm"),
        ({"framework": "dc", "match": "trajectory"}, "dc matches gradient or .* not trajectory"),
        ({"framework": "dm", "synthetic_epochs": 1}, "synthetic_epochs is for dc and dsa, not dm"),
        ({"framework": "dm", "network_images": 100}, "network_images is for idc, not dm"),
        ({"framework": "dsa", "student_steps": 3}, "student_steps is for mtt: leave it out of dsa"),
        ({"sampler": "random", "weights": "clusters"}, "give --sampler representative"),
        ({"framework": "mtt", "experts": Path("x"), "weights": "clusters"}, "leave --weights out"),
        ({"framework": "mtt", "experts": Path("x"), "student_rate": 0.0}, "student_rate must be"),
    ],
)
def test_settings_that_do_not_go_together(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PydreamError, match=message):
        DreamConfig("digits", **changes)


@pytest.mark.parametrize(
    ("framework", "ipc", "expected"),
    [
        ("dc", 1, (1000, 1, 1, 0.1, 256, "dc", "gradient", True)),
        ("dc", 10, (1000, 10, 50, 0.1, 256, "dc", "gradient", True)),
        ("dsa", 30, (1000, 30, 20, 0.1, 256, "dc", "gradient", True)),
        ("dsa", 50, (1000, 50, 10, 0.1, 256, "dc", "gradient", True)),
        ("dm", 10, (20_000, 1, 0, 1.0, 256, "mse", "feature", False)),
        ("dm", 100, (20_000, 1, 0, 10.0, 256, "mse", "feature", False)),
    ],
)
def test_numbers_as_published(framework: Any, ipc: int, expected: tuple[Any, ...]) -> None:
    found = fill_in(DreamConfig("cifar10:x", framework=framework, ipc=ipc), 32, 10)
    assert expected == (
        found.iterations,
        found.inner_loop,
        found.synthetic_epochs,
        found.learning_rate,
        found.batch_real,
        found.metric,
        found.match,
        found.with_classifier,
    )
    assert found.arch == "convnet3-instance"
    assert found.factor == 1


@pytest.mark.parametrize("kind", ["ours", "tensors", "normalised"])
def test_a_run_goes_on_from_a_set(
    tmp_path: Path, digits: Source, real: ClassImages, kind: str
) -> None:
    settings = config("dm", iterations=1, learning_rate=1e-9, out=tmp_path / "first")
    start = distill(settings, source=digits).path
    images = load_set(start).float_images
    if kind != "ours":
        start = tmp_path / "images.pt"
        saved = real.normalise(images) if kind == "normalised" else images
        torch.save([saved, torch.arange(3).repeat_interleave(2)], start)
        images = (images * 255).to(torch.uint8).float() / 255  # as sets of other tools are read
    onward = dataclasses.replace(settings, framework="dsa", network_epochs=None, start=str(start))
    made = distill(dataclasses.replace(onward, out=tmp_path / "onward"), source=digits)
    found = load_set(made.path)
    torch.testing.assert_close(found.float_images, images, rtol=0, atol=1e-2)
    assert found.provenance is None
    # Another place of the same set is the same run.
    moved = tmp_path / f"moved{start.suffix}"
    start.rename(moved)
    again = dataclasses.replace(onward, out=made.path, start=str(moved), resume=True)
    assert distill(again, source=digits).manifest == made.manifest
    # Other tensors are another, though the image files beside them are the same.
    file = moved / "images.pt" if kind == "ours" else moved
    saved, labels = torch.load(file)
    torch.save([saved + 1e-4, labels], file)
    with pytest.raises(PydreamError, match=r"\(start 'set \w+' then, 'set \w+' now"):
        distill(again, source=digits)


@pytest.mark.parametrize("name", ["labels.pt", "soft_labels.pt"])
def test_a_start_is_known_by_the_labels_beside_it_too(tmp_path: Path, name: str) -> None:
    """They decide which class begins with which images."""
    settings = fill_in(config("dm", start=str(tmp_path)), 8, 3)
    torch.save(torch.zeros(6, 3, 8, 8), tmp_path / "images.pt")
    found = set()
    for order in ([0, 0, 1, 1, 2, 2], [0, 1, 0, 1, 2, 2]):
        torch.save(torch.eye(3)[order], tmp_path / name)
        found |= {start_fingerprint(settings, ["0", "1", "2"]) for _ in range(2)}
    assert len(found) == 2


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 3}, "has 2 images of a class, not 3: give --ipc"),
        ({"side": 9}, "has images of 8 pixels a side, not 9: give --side 8"),
        ({"factor": 2}, "has 1 × 1 cells in an image, and factor is 2: give --factor 1"),
        ({"start": "nowhere"}, "nowhere does not exist"),
    ],
)
def test_sets_that_cannot_be_started_from(
    tmp_path: Path, digits: Source, changes: dict[str, Any], message: str
) -> None:
    start = distill(config("dm", iterations=1, out=tmp_path / "first"), source=digits).path
    values = {"start": str(start), "out": tmp_path / "set", **changes}
    with pytest.raises(PydreamError, match=message):
        distill(config("dm", **values), source=digits)
    assert not (tmp_path / "set").exists()


def test_images_that_are_not_the_manifests_are_no_start(tmp_path: Path) -> None:
    """A run is known by the hash of the manifest, so they would pass for those of the set."""
    write_set(tmp_path / "set", ["0", "1", "2"], side=8)
    settings = fill_in(config("dm", start=str(tmp_path / "set")), 8, 3)
    before = start_fingerprint(settings, ["0", "1", "2"])
    images = tmp_path / "set" / "images"
    shutil.copyfile(images / "00000/00000.png", images / "00001/00000.png")
    with pytest.raises(PydreamError, match="set: the image files are not those its manifest"):
        start_fingerprint(settings, ["0", "1", "2"])
    write_set(tmp_path / "again", ["0", "1", "2"], side=8)
    again = fill_in(config("dm", start=str(tmp_path / "again")), 8, 3)
    assert start_fingerprint(again, ["0", "1", "2"]) == before


def test_a_set_of_other_classes_is_no_start(tmp_path: Path, digits: Source) -> None:
    start = distill(config("dm", iterations=1, out=tmp_path / "first"), source=digits).path
    fewer = Subset(digits, range(2))
    with pytest.raises(PydreamError, match=r"in another order \(3 classes, not 2\)"):
        distill(config("dm", start=str(start), out=tmp_path / "set"), source=fewer)
