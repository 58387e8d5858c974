"""Trajectories of experts, and images that match them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rank_processes import on_ranks
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import nn

from pydream.data import Source
from pydream.dream import (
    DreamConfig,
    Experts,
    ExpertsConfig,
    distill,
    expert_training,
    train_experts,
)
from pydream.dream.experts import write_description, write_expert
from pydream.dream.frameworks import FRAMEWORKS
from pydream.dream.loop import MatchingLoop
from pydream.dream.real import load_class_images
from pydream.errors import PydreamError
from pydream.models.registry import construct
from pydream.sets import load_set
from pydream.sets.manifest import Manifest

ARCH = "convnet2-w4-instance"


def config(out: Path, **changes: Any) -> ExpertsConfig:
    values: dict[str, Any] = {
        "count": 3,
        "epochs": 3,
        "arch": ARCH,
        "batch_size": 30,
        "workers": 1,
    }
    return ExpertsConfig("digits", out=out, **{**values, **changes})


def matching(out: Path, experts: Path, **changes: Any) -> DreamConfig:
    values: dict[str, Any] = {
        "framework": "mtt",
        "experts": experts,
        "arch": ARCH,
        "ipc": 2,
        "iterations": 3,
        "student_steps": 4,
        "max_start": 2,
        "expert_epochs": 2,
        "batch_synthetic": 4,
        "learning_rate": 1.0,
        "rate_learning_rate": 1e-6,
        "checkpoint_every": 1,
        "workers": 1,
    }
    return DreamConfig("digits", out=out, **{**values, **changes})


def digest(path: Path) -> dict[str, str]:
    return {
        str(file.relative_to(path)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(path.rglob("*"))
        if file.is_file() and file.name != "run.json"
    }


@pytest.fixture(scope="module")
def experts(digits: Source, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train_experts(config(tmp_path_factory.mktemp("e") / "experts"), source=digits).path


def test_weights_are_those_of_plain_training(
    digits: Source, experts: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Without augmentation, against SGD written out, with the batches of the run."""
    seen: list[tuple[torch.Tensor, torch.Tensor]] = []
    batches = expert_training._batches

    def kept(*given: Any) -> Any:
        for images, labels in batches(*given):
            seen.append((images.clone(), labels))
            yield images, labels

    monkeypatch.setattr(expert_training, "_batches", kept)
    plain = dataclasses.replace(FRAMEWORKS["mtt"], augmentation=())
    monkeypatch.setattr(expert_training, "FRAMEWORKS", {"mtt": plain})
    made = train_experts(config(tmp_path / "plain", count=1), source=digits)
    cpu = torch.device("cpu")
    network = construct(ARCH, num_classes=3, side=8)
    nn.utils.vector_to_parameters(made.weights(0, 0, cpu), network.parameters())
    assert len(seen) == 9  # 72 images in batches of 30, three times
    assert sorted(len(labels) for _, labels in seen[:3]) == [12, 30, 30]
    for number, (images, labels) in enumerate(seen, 1):
        loss = nn.functional.cross_entropy(network(images), labels)
        gradients = torch.autograd.grad(loss, [*network.parameters()])
        with torch.no_grad():
            for weight, gradient in zip(network.parameters(), gradients, strict=True):
                weight.sub_(gradient, alpha=0.01)
        if number % 3 == 0:
            flat = nn.utils.parameters_to_vector(network.parameters())
            torch.testing.assert_close(made.weights(0, number // 3, cpu), flat)
    first = Experts.open(experts)
    assert first.weights(0, 0, cpu).equal(made.weights(0, 0, cpu))  # the same seed
    assert not first.weights(0, 1, cpu).equal(made.weights(0, 1, cpu))  # augmented
    assert not first.weights(1, 0, cpu).equal(first.weights(0, 0, cpu))


def test_ranks_and_resumed_runs_make_the_same_bytes(
    digits: Source, experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = write_expert

    def dying(path: Path, number: int, weights: torch.Tensor) -> None:
        if number == 1:
            raise SystemError
        write(path, number, weights)

    out = tmp_path / "experts"
    with monkeypatch.context() as patch:
        patch.setattr(expert_training, "write_expert", dying)
        with pytest.raises(SystemError):
            train_experts(config(out), source=digits)
    with pytest.raises(PydreamError, match="lacks 2 of 3 experts: run `pydream experts` again"):
        Experts.open(out)
    kept = (out / "expert-00000.safetensors").stat().st_mtime_ns
    train_experts(config(out, resume=True, workers=2), source=digits)
    assert digest(out) == digest(experts)
    assert (out / "expert-00000.safetensors").stat().st_mtime_ns == kept
    more = train_experts(config(out, resume=True, count=4), source=digits)
    assert len(more.files) == 4
    assert digest(out).items() >= {
        (name, value) for name, value in digest(experts).items() if name != "experts.json"
    }


@pytest.mark.parametrize(
    ("kept", "asked", "count"), [((0,), 2, 2), ((0, 1), 1, 2), ((1,), 1, 2), ((), 1, 1)]
)
def test_a_stopped_run_settles_for_fewer_and_keeps_what_is_finished(
    digits: Source,
    experts: Path,
    tmp_path: Path,
    kept: tuple[int, ...],
    asked: int,
    count: int,
) -> None:
    out = tmp_path / "experts"
    shutil.copytree(experts, out)
    for number in {0, 1, 2} - {*kept}:
        (out / f"expert-{number:05d}.safetensors").unlink()
    with pytest.raises(PydreamError, match=r"with --resume --count 3, or with a smaller count"):
        Experts.open(out)
    made = train_experts(config(out, resume=True, count=asked), source=digits)
    assert len(made.files) == made.description["count"] == count
    train_experts(config(out, resume=True), source=digits)
    assert digest(out) == digest(experts)


def test_ranks_share_experts(tmp_path: Path) -> None:
    small = {"count": 3, "epochs": 1, "batch_size": 512}
    alone = train_experts(config(tmp_path / "alone", **small))
    on_ranks(2, train_experts, config(tmp_path / "shared", **small))
    assert digest(tmp_path / "shared") == digest(alone.path)


def test_representative_batches_are_other_experts(digits: Source, tmp_path: Path) -> None:
    made = [
        train_experts(
            config(tmp_path / name, count=1, epochs=2, sampler=name, interval=1), source=digits
        )
        for name in ("random", "representative")
    ]
    cpu = torch.device("cpu")
    one, other = (experts.weights(0, 2, cpu) for experts in made)
    assert not one.equal(other)


def test_a_killed_run_of_mtt_goes_on_to_the_same_bytes(
    digits: Source, experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = distill(matching(tmp_path / "whole", experts), source=digits)
    iterate = MatchingLoop.iterate

    def dying(self: MatchingLoop, synthetic: Any, at: int) -> list[float]:
        if at == 2:
            raise SystemError
        return iterate(self, synthetic, at)

    with monkeypatch.context() as patch:
        patch.setattr(MatchingLoop, "iterate", dying)
        with pytest.raises(SystemError):
            distill(matching(tmp_path / "killed", experts), source=digits)
    moved = tmp_path / "moved"  # experts are known by what they are, not by their place
    moved.symlink_to(experts)
    resumed = distill(matching(tmp_path / "killed", moved, resume=True), source=digits)
    assert digest(resumed.path) == digest(made.path)
    history = made.manifest.history
    assert history is not None
    assert all(entry["loss"] > 0 for entry in history[1:])


def test_the_student_rate_moves(digits: Source, experts: Path, tmp_path: Path) -> None:
    sets = [
        distill(
            matching(tmp_path / name, experts, rate_learning_rate=rate, iterations=2),
            source=digits,
        )
        for name, rate in (("slow", 1e-9), ("fast", 1e-6))
    ]
    one, other = ((made.path / "images.pt").read_bytes() for made in sets)
    assert one != other
    # Students of `pydream evaluate --recipe mtt` train at the rates of the manifests.
    rates = [Manifest.read(made.path).student_rate for made in sets]
    configs = [made.manifest.config or {} for made in sets]
    moved = [
        abs(float(rate or 0) - of["student_rate"]) for rate, of in zip(rates, configs, strict=True)
    ]
    assert moved[0] < moved[1]
    with pytest.raises(
        PydreamError, match=r"rate became -.* give a --rate-learning-rate below 0\.001"
    ):
        distill(matching(tmp_path / "wild", experts, rate_learning_rate=1e-3), source=digits)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"arch": "convnet2-w8-instance"}, "has experts of convnet2-w4-instance with"),
        ({"max_start": 3}, "experts of 3 epochs, fewer than the 4 that"),
        ({"seed": 0, "side": 12}, "parameters, not of"),
        ({"side": 9}, "experts of images with side 8, not 9: give --side 8"),  # as many parameters
        ({"exif": "apply"}, "experts of images with exif ignore, not apply: give --exif ignore"),
    ],
)
def test_experts_that_do_not_suit(
    digits: Source, experts: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(PydreamError, match=message):
        distill(matching(tmp_path / "set", experts, **changes), source=digits)
    assert not [*tmp_path.iterdir()]


def test_experts_of_whitened_images(
    digits: Source, experts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their batches have hardly any brightness in common, and other runs refuse them."""
    seen: list[torch.Tensor] = []
    batches = expert_training._batches

    def kept(*given: Any) -> Any:
        for images, labels in batches(*given):
            seen.append(images.clone())
            yield images, labels

    monkeypatch.setattr(expert_training, "_batches", kept)
    made = train_experts(config(tmp_path / "zca", count=1, zca=True), source=digits)
    rows = torch.cat(seen[:3]).flatten(1).double()
    covariance = torch.from_numpy(np.cov(rows.numpy(), rowvar=False))
    plain = torch.stack([digits.image(row) for row in range(72)]).permute(0, 3, 1, 2) / 255
    variances = torch.linalg.eigvalsh(torch.from_numpy(np.cov(plain.flatten(1), rowvar=False)))
    # Each variance v becomes v / (v + 0.1).
    found, expected = torch.linalg.eigvalsh(covariance), variances / (variances + 0.1)
    torch.testing.assert_close(found, expected, atol=1e-4, rtol=0)
    cpu = torch.device("cpu")
    assert made.weights(0, 0, cpu).equal(Experts.open(experts).weights(0, 0, cpu))
    assert "zca" not in Experts.open(experts).description["settings"]  # as before there was one
    with pytest.raises(PydreamError, match="of images that are whitened: give --zca"):
        distill(matching(tmp_path / "x", made.path), source=digits)
    with pytest.raises(PydreamError, match="that are not whitened: leave out --zca"):
        distill(matching(tmp_path / "x", experts, zca=True), source=digits)
    with pytest.raises(PydreamError, match="zca is for mtt: leave it out of dm"):
        DreamConfig("digits", framework="dm", zca=True)
    with pytest.raises(PydreamError, match="matched whole: leave out factor 2, or zca"):
        matching(tmp_path / "x", experts, zca=True, factor=2)


def test_a_run_goes_on_from_whitened_tensors(digits: Source, tmp_path: Path) -> None:
    """As MTT writes them, which may leave the range of colours."""
    cpu = torch.device("cpu")
    real, _ = load_class_images(digits, 8, device=cpu, workers=1, allow_skipped=0.0, zca=True)
    assert real.whitening is not None
    colours = real.take(torch.tensor([0, 1, 30, 31, 60, 61])) * 1.4 - 0.2
    torch.save(real.whitening(colours), tmp_path / "images_best.pt")
    torch.save(torch.arange(3).repeat_interleave(2), tmp_path / "labels_best.pt")
    made = train_experts(config(tmp_path / "zca", count=1, zca=True), source=digits)
    start = str(tmp_path / "images_best.pt")
    settings = matching(tmp_path / "set", made.path, zca=True, exact=True, start=start)
    onward = distill(dataclasses.replace(settings, learning_rate=1e-9), source=digits)
    torch.testing.assert_close(load_set(onward.path).float_images, colours, rtol=0, atol=1e-4)


def test_draws_are_uniform_over_experts_and_first_epochs(tmp_path: Path) -> None:
    """Weights that say which they are: 100 times the expert, and the epoch."""
    count, epochs, max_start, apart = 3, 5, 3, 2
    settings = {"epochs": epochs, "side": 8, "exif": "ignore"}
    facts = {"arch": ARCH, "parameters": 4, "source": "digits", "source_fingerprint": "f0"}
    write_description(tmp_path, {**facts, "count": count, "settings": settings})
    for number in range(count):
        numbered = 100.0 * number + torch.arange(epochs + 1.0)[:, None]
        write_expert(tmp_path, number, numbered.repeat(1, 4))
    made, cpu = Experts.open(tmp_path), torch.device("cpu")
    seen: Counter[float] = Counter()
    for seed in range(450):
        start, target = made.draw(seed, max_start, apart, cpu)
        assert start.shape == target.shape == (4,)
        assert target.equal(start + apart)  # of the same expert
        seen[float(start[0])] += 1
    assert sorted(seen) == [100.0 * n + e for n in range(count) for e in range(max_start)]
    # 50 each on average, with a deviation of 6.7: five of them either way
    assert all(17 <= times <= 83 for times in seen.values())
    for one, again in zip(made.draw(7, 3, 2, cpu), made.draw(7, 3, 2, cpu), strict=True):
        assert one.equal(again)


def test_a_run_does_not_go_on_with_other_experts(
    digits: Source, experts: Path, tmp_path: Path
) -> None:
    """Whether their files hold a SHA-256, or were written before there was one."""
    others = tmp_path / "experts"
    shutil.copytree(experts, others)
    weights = load_file(others / "expert-00002.safetensors")
    sha256 = hashlib.sha256(weights["weights"].numpy().tobytes()).hexdigest()
    with safe_open(others / "expert-00002.safetensors", "pt") as opened:
        assert opened.metadata() == {"sha256": sha256}
    settings = matching(tmp_path / "set", others, iterations=1)
    distill(settings, source=digits)
    again = dataclasses.replace(settings, resume=True)
    distill(again, source=digits)
    write_expert(others, 2, weights["weights"] * 1.5)
    with pytest.raises(PydreamError, match=r"\(experts '\w+' then, '\w+' now"):
        distill(again, source=digits)
    found = {Experts.open(experts).fingerprint()}
    for factor in (1, 1.5):
        old = {"weights": weights["weights"] * factor}
        save_file(old, others / "expert-00002.safetensors")
        found |= {Experts.open(others).fingerprint() for _ in range(2)}
    assert len(found) == 3
    (others / "expert-00002.safetensors").write_bytes(b"nothing")
    with pytest.raises(PydreamError, match="cannot be read as an expert"):
        Experts.open(others).fingerprint()


def test_experts_of_other_images(other_digits: Source, experts: Path, tmp_path: Path) -> None:
    with pytest.raises(PydreamError, match="experts of another image set, digits"):
        distill(matching(tmp_path / "set", experts), source=other_digits)


def test_folders_that_are_no_experts(digits: Source, experts: Path, tmp_path: Path) -> None:
    with pytest.raises(PydreamError, match="is no folder of experts: make them by pydream experts"):
        Experts.open(tmp_path)
    with pytest.raises(PydreamError, match="holds experts already: add --resume"):
        train_experts(config(experts), source=digits)
    with pytest.raises(PydreamError, match=r"made with other settings .*epochs 3 then, 4 now"):
        train_experts(config(experts, epochs=4, resume=True), source=digits)
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "thesis.txt").write_text("mine")
    with pytest.raises(PydreamError, match="exists and is not overwritten"):
        train_experts(config(mine), source=digits)
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in experts.iterdir():
        (broken / file.name).write_bytes(file.read_bytes())
    (broken / "expert-00001.safetensors").write_bytes(b"nothing")
    with pytest.raises(PydreamError, match="cannot be read as an expert"):
        Experts.open(broken).weights(1, 0, torch.device("cpu"))
    (broken / "experts.json").write_text("{")
    with pytest.raises(PydreamError, match=r"experts\.json cannot be read"):
        Experts.open(broken)
    for text in ("[]", "{}", '"format"'):
        (broken / "experts.json").write_text(text)
        with pytest.raises(PydreamError, match=r"experts\.json describes no experts of pydream"):
            Experts.open(broken)
    described = json.loads((experts / "experts.json").read_text())
    wrongs: list[dict[str, Any]] = [{"count": "3"}, {"count": 0}, {"settings": []}, {"arch": None}]
    for wrong in wrongs:
        (broken / "experts.json").write_text(json.dumps(described | wrong))
        with pytest.raises(PydreamError, match=r"experts\.json describes no experts of pydream"):
            Experts.open(broken)
    (broken / "experts.json").write_text(json.dumps(described | {"count": 10**12}))
    with pytest.raises(PydreamError, match=f"lacks {10**12 - 3} of {10**12} experts"):
        Experts.open(broken)
    (broken / "experts.json").write_text(json.dumps(described | {"parameters": 7}))
    with pytest.raises(PydreamError, match=r"it does not hold float32 of shape \(4, 7\)"):
        Experts.open(broken).weights(0, 0, torch.device("cpu"))
    (broken / "experts.json").write_text(json.dumps(described))
    write_expert(broken, 0, torch.full((4, described["parameters"]), torch.nan))
    with pytest.raises(PydreamError, match="its weights are not numbers"):
        Experts.open(broken).weights(0, 0, torch.device("cpu"))
    with pytest.raises(PydreamError, match="diverged in epoch 1: give a --learning-rate below"):
        train_experts(config(tmp_path / "wild", learning_rate=1e30), source=digits)
