"""What we export, as the packages of others load it: DD-Ranking 0.2 and rethinkdc 0.3."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from pydream.data import open_source
from pydream.data.resized import load_split
from pydream.models import build_model, save_weights
from pydream.sets import ExportConfig, export_set, label_robust_score, open_distilled
from pydream.sets.distilled import load_set

HOW = "the package is not installed: `make interop` installs it"
MEAN, STD = (0.3, 0.4, 0.5), (0.2, 0.3, 0.4)
# The observer's batch norm is folded into its convolutions, and its layout is channels last.
FOLDED = 1e-4
LABELS = [number // 5 for number in range(50)]


class Rows(torch.utils.data.Dataset[Any]):
    """Images in memory, as `ddranking` has those that it downloads."""

    def __init__(self, images: torch.Tensor, labels: torch.Tensor) -> None:
        self.images, self.targets = images, labels

    def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
        return self.images[index], int(self.targets[index])

    def __len__(self) -> int:
        return len(self.images)


@pytest.fixture
def ranking(tmp_path: Path, digits_set: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """DD-Ranking's evaluator of soft labels in the exported folder, with digits as CIFAR-10."""
    module = pytest.importorskip("ddranking.metrics.soft_label", reason=HOW)
    manifest = json.loads((digits_set / "manifest.json").read_text())
    manifest["source"]["description"] = "cifar10:data"  # one of the sets that it knows
    (digits_set / "manifest.json").write_text(json.dumps(manifest))

    torch.manual_seed(0)
    observer = tmp_path / "observer.safetensors"
    facts = {
        "arch": "convnet2",
        "side": "8",
        "mean": ",".join(map(str, MEAN)),
        "std": ",".join(map(str, STD)),
        "classes": json.dumps([str(label) for label in range(10)][::-1]),
    }
    save_weights(build_model("convnet2", num_classes=10, side=8), observer, facts)
    out = tmp_path / "out"
    export_set(ExportConfig(digits_set, "ddranking", out, observer=str(observer)))

    def digits(*_: object) -> tuple[Any, ...]:
        splits = []
        for split in ("train", "test"):
            real = load_split(
                open_source("digits", split), 8, workers=1, device=torch.device("cpu")
            )
            colours = real.images[::8].permute(0, 3, 1, 2) / 255
            mean, std = (torch.tensor(values).view(3, 1, 1) for values in (MEAN, STD))
            splits.append(Rows((colours - mean) / std, real.labels[::8]))
        same = {label: label for label in range(10)}
        return 3, (8, 8), MEAN, STD, 10, splits[0], splits[1], splits[1], same, same

    monkeypatch.setattr(module, "get_dataset", digits)
    monkeypatch.chdir(out)
    config = module.Config.from_file("config.json")
    config.update({"device": "cpu", "num_epochs": 1, "num_eval": 1, "num_workers": 0})
    evaluator = module.LabelRobustScoreSoft(config)
    evaluator.test_interval = 1
    return evaluator


def tensors() -> tuple[torch.Tensor, None, torch.Tensor, torch.Tensor]:
    """Arguments of DD-Ranking's evaluation: images, no folder of images, labels, learning rate."""
    images, labels, rate = (
        torch.load(name, weights_only=True) for name in ("images.pt", "labels.pt", "lr.pt")
    )
    return images, None, labels, rate


def test_the_teacher_of_ddranking_gives_our_labels(ranking: Any) -> None:
    images, _, labels, _ = tensors()
    (teacher,) = ranking.teacher_models
    with torch.no_grad():
        torch.testing.assert_close(teacher(images), labels, atol=FOLDED, rtol=FOLDED)


def test_ddranking_evaluates_our_tensors(ranking: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """From the first line of its evaluation to the last, with students of one epoch."""
    module = pytest.importorskip("ddranking.metrics.soft_label", reason=HOW)
    known = module.REAL_DATA_TRAINING_CONFIG
    monkeypatch.setitem(known, "CIFAR10-ConvNet-2-BN", known["ImageNet1K-ResNet-18-BN"])
    found = ranking.compute_metrics(*tensors())
    assert abs(found["hard_label_recovery_mean"]) <= 100
    assert Path("results/scores.csv").is_file()


def test_ddranking_lists_our_image_files(ranking: Any, digits_set: Path) -> None:
    """By torchvision's ImageFolder, with labels of every class in turn."""
    module = pytest.importorskip("ddranking.metrics.soft_label", reason=HOW)
    files = module.datasets.ImageFolder("images", module.transforms.ToTensor())
    assert [label for _, label in files.samples] == LABELS
    own = load_set(digits_set).float_images
    assert all(torch.equal(image, own[row]) for row, (image, _) in enumerate(files))


@pytest.mark.parametrize("weight", [0.5, 0.2])
def test_the_score_of_ddranking_is_ours(
    ranking: Any, monkeypatch: pytest.MonkeyPatch, weight: float
) -> None:
    """The accuracies are given as fractions: those that it measures itself are percentages."""
    hard = {"syn": 0.2517, "real": 0.8485}
    soft = iter([0.613, 0.624])  # of the set, then of random images

    def hard_accuracy(*_: object, mode: str, **__: object) -> tuple[float, float]:
        return hard[mode], 0.01

    monkeypatch.setattr(ranking, "_compute_hard_label_metrics_helper", hard_accuracy)
    monkeypatch.setattr(
        ranking, "_compute_soft_label_metrics_helper", lambda *_, **__: (next(soft), 0.01)
    )
    found = ranking.compute_metrics(*tensors(), weight)
    ours = label_robust_score(hard["real"], hard["syn"], 0.613, 0.624, weight)
    assert found["label_robust_score_mean"] == pytest.approx(ours, rel=1e-12)


def test_rethinkdc_opens_our_class_folders(
    tmp_path: Path,
    digits_set: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    loaders = pytest.importorskip("rethinkdc.imagenet_ipc", reason=HOW)
    from torchvision.transforms import ToTensor

    list_files = loaders.ImageFolderIPC.make_dataset

    def without_new_arguments(*given: Any, allow_empty: bool = False, **named: Any) -> Any:
        """List files as release 0.3.2 does for a torchvision that knows no `allow_empty`."""
        assert not allow_empty
        return list_files(*given, **named)

    monkeypatch.setattr(loaders.ImageFolderIPC, "make_dataset", staticmethod(without_new_arguments))
    export_set(ExportConfig(digits_set, "rded", tmp_path / "out"))
    own = load_set(digits_set).float_images
    every = loaders.ImageFolderIPC(str(tmp_path / "out"), ToTensor(), image_number=5)
    assert [label for _, label in every.samples] == LABELS
    assert all(torch.equal(image, own[row]) for row, (image, _) in enumerate(every))
    assert "total images = 5" in capsys.readouterr().out
    some = loaders.ImageFolderIPC(str(tmp_path / "out"), ToTensor(), image_number=2)
    assert all(
        torch.equal(image, own[5 * (row // 2) + row % 2]) for row, (image, _) in enumerate(some)
    )


def test_rethinkdc_opens_our_parquet_files(tmp_path: Path, digits_set: Path) -> None:
    """As its command loads them, from a path with ``he-y`` in it."""
    loaders = pytest.importorskip("rethinkdc.imagenet_ipc", reason=HOW)
    datasets = pytest.importorskip("datasets")
    from torchvision.transforms import ToTensor

    datasets.disable_progress_bars()
    out = tmp_path / "he-y" / "digits"
    export_set(ExportConfig(digits_set, "rethinkdc", out))
    opened = datasets.load_dataset(str(out), cache_dir=str(tmp_path / "cache"))
    rows = loaders.HFDatasetAdapter(opened, ToTensor())
    own = load_set(digits_set).float_images
    assert [label for _, label in rows] == LABELS
    assert all(torch.equal(image, own[row]) for row, (image, _) in enumerate(rows))
    # And what its authors' files lack, the names of the classes, is not needed to open them here.
    assert torch.equal(open_distilled(out).images, load_set(digits_set).images)


def test_the_network_of_ddranking_is_ours() -> None:
    """Layer by layer, for its ConvNet as the package builds it."""
    utils = pytest.importorskip("ddranking.utils", reason=HOW)
    from pydream.sets.ddranking import as_teacher

    torch.manual_seed(0)
    model: nn.Module = build_model("convnet3-batch", num_classes=4, side=32).eval()
    teacher = as_teacher(model, "convnet3-batch", 32, [0, 1, 2, 3])
    theirs = utils.build_model(teacher.model_name, 4, (32, 32), device="cpu").eval()
    theirs.load_state_dict(teacher.weights)
    images = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(images), model(images))
