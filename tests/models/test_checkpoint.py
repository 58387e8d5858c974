from __future__ import annotations

import argparse
import os
import pickle
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors
import safetensors.torch
import torch
import torchvision

from pydream.errors import PydreamError
from pydream.models import build_model, load_into, read_weights, save_weights
from pydream.models.checkpoint import hash_weights


def small(num_classes: int = 4, arch: str = "convnet2-w8") -> Any:
    torch.manual_seed(0)
    return build_model(arch, num_classes=num_classes, side=8)


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


class MakesFile:
    """Unpickling this leaves a file behind: proof that code ran."""

    def __init__(self, path: Path) -> None:
        self.path = str(path)

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (self.path,)


@pytest.mark.parametrize(
    "prefix", ["", "module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
@pytest.mark.parametrize("wrapper", [None, "model", "state_dict", "model_state_dict", "net"])
def test_torch_files_bare_or_wrapped(tmp_path: Path, wrapper: str | None, prefix: str) -> None:
    weights = small().state_dict()
    content = {prefix + name: tensor for name, tensor in weights.items()}
    if wrapper:
        content = {"epoch": 3, "optimizer": {"state": {}}, wrapper: content}
    torch.save(content, tmp_path / "w.pth")
    assert same(read_weights(tmp_path / "w.pth")[0], weights)


def test_old_torch_files_and_trainers_options(tmp_path: Path) -> None:
    weights = small().state_dict()
    content = {"state_dict": weights, "args": argparse.Namespace(lr=0.1), "arch": "resnet18"}
    torch.save(content, tmp_path / "w.tar", _use_new_zipfile_serialization=False)
    read, metadata = read_weights(str(tmp_path / "w.tar"))
    assert same(read, weights)
    assert metadata == {"arch": "resnet18"}


def test_save_and_read_back(tmp_path: Path) -> None:
    model = small().to(memory_format=torch.channels_last)
    path = tmp_path / "new" / "w.safetensors"
    save_weights(model, path, {"arch": "convnet2-w8", "side": "8"})
    weights, metadata = read_weights(path)
    assert same(weights, model.state_dict())
    assert metadata == {"arch": "convnet2-w8", "side": "8"}
    assert same(safetensors.torch.load_file(path), model.state_dict())
    assert [sibling.name for sibling in path.parent.iterdir()] == [path.name]


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "w.safetensors"
    path.write_text("mine")
    with pytest.raises(PydreamError, match=r"w\.safetensors exists"):
        save_weights(small(), path, {})
    assert path.read_text() == "mine"
    with pytest.raises(PydreamError, match="is not a folder"):
        save_weights(small(), path / "below" / "w.safetensors", {})
    assert [path.name for path in tmp_path.iterdir()] == [path.name]


@pytest.mark.parametrize("old", [False, True])
def test_code_is_refused_and_not_run(tmp_path: Path, old: bool) -> None:
    trap = tmp_path / "trap"
    content = {"state_dict": small().state_dict(), "hook": MakesFile(trap)}
    torch.save(content, tmp_path / "evil.pt", _use_new_zipfile_serialization=not old)
    with pytest.raises(PydreamError, match=r"evil\.pt is refused.*mkdir.*torch\.save") as error:
        read_weights(tmp_path / "evil.pt")
    assert not trap.exists()
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("protocol", [2, 4])
def test_plain_pickles_with_code_are_refused(tmp_path: Path, protocol: int) -> None:
    trap = tmp_path / "trap"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(MakesFile(trap), protocol))
    with pytest.raises(PydreamError, match=r"evil\.pkl is refused"):
        read_weights(tmp_path / "evil.pkl")
    assert not trap.exists()


@pytest.mark.parametrize("extra", [Path("x"), np.float64(3)])
def test_objects_beside_the_weights_are_named(tmp_path: Path, extra: object) -> None:
    torch.save({"state_dict": small().state_dict(), "extra": extra}, tmp_path / "w.pt")
    with pytest.raises(PydreamError, match=r"carries (pathlib|numpy)\S+, .*weights_only=False"):
        read_weights(tmp_path / "w.pt")


def test_whole_models_are_refused(tmp_path: Path) -> None:
    torch.save(small(), tmp_path / "w.pt")
    with pytest.raises(
        PydreamError, match=r"carries pydream\.models\.convnet\.ConvNet.*c\.state_dict"
    ):
        read_weights(tmp_path / "w.pt")


def write_archive(path: Path) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("folder/readme", "no weights")


def write_cut(path: Path) -> None:
    torch.save(small().state_dict(), path)
    path.write_bytes(path.read_bytes()[:2000])


def write_cut_safetensors(path: Path) -> None:
    save_weights(small(), path, {})
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: None, "does not exist"),
        (lambda path: path.mkdir(), "is a folder"),
        (lambda path: path.write_bytes(b""), r"is empty: copy or download it again"),
        (lambda path: path.write_text("hello, this is text"), "is not a checkpoint"),
        (lambda path: path.write_bytes(bytes(range(256)) * 9), "is not a checkpoint"),
        (write_archive, "is a zip archive with folder/readme in it, not a checkpoint: unpack it"),
        (write_cut, "is cut short or damaged"),
        (write_cut_safetensors, "is not a complete safetensors file"),
        (
            lambda path: torch.save({"epoch": 3}, path),
            "is not a checkpoint: it holds no state dict",
        ),
        (
            lambda path: torch.save([torch.zeros(2)], path),
            "is not a checkpoint: it holds no state dict",
        ),
        (lambda path: safetensors.torch.save_file({}, path), "holds no weights"),
    ],
)
def test_what_is_no_checkpoint(tmp_path: Path, write: Callable[[Path], object], words: str) -> None:
    path = tmp_path / "thing"
    write(path)
    with pytest.raises(PydreamError, match=f"thing {words}") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


def refusal(
    model: torch.nn.Module, weights: dict[str, torch.Tensor], arch: str = "convnet2-w8"
) -> str:
    with pytest.raises(PydreamError) as error:
        load_into(model, "FILE", weights, arch)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_other_number_of_classes() -> None:
    before = {name: tensor.clone() for name, tensor in small(4).state_dict().items()}
    model = small(4)
    assert refusal(model, small(7).state_dict()) == (
        "classifier.weight is (7, 32) in FILE but (4, 32) in convnet2-w8: "
        "it was trained for 7 classes"
    )
    assert same(model.state_dict(), before)


def test_other_width_is_not_taken_for_other_classes() -> None:
    message = refusal(small(4), small(4, "convnet2-w16").state_dict())
    assert "layers.conv.0.weight is (16, 3, 3, 3) in FILE but (8, 3, 3, 3)" in message
    assert "classes" not in message


def test_other_architecture_lists_the_first_names() -> None:
    weights = torchvision.models.resnet18(num_classes=4).state_dict()
    message = refusal(small(4), weights)
    missing = len(small(4).state_dict()) - 2  # but the two counters
    assert "it lacks layers.conv.0.weight, layers.conv.0.bias, layers.conv.1.weight" in message
    assert f"and {missing - 3} more" in message
    assert f"unknown conv1.weight, bn1.weight, bn1.bias and {len(weights) - 3} more" in message


def test_counters_of_batch_norm_may_be_absent() -> None:
    weights = {k: v for k, v in small(4).state_dict().items() if "num_batches" not in k}
    model = small(4)
    torch.nn.init.zeros_(model.classifier.weight)
    load_into(model, "FILE", weights, "convnet2-w8")
    assert torch.equal(model.classifier.weight, weights["classifier.weight"])


def test_auxiliary_heads_are_left_out() -> None:
    theirs = torchvision.models.googlenet(num_classes=5, aux_logits=True, init_weights=False)
    ours: Any = build_model("googlenet", num_classes=5, side=32)
    load_into(ours, "FILE", theirs.state_dict(), "googlenet")
    assert torch.equal(ours.fc.weight, theirs.fc.weight)


def test_hash_is_of_names_and_contents_only() -> None:
    weights = small().state_dict()
    backwards = dict(reversed(weights.items()))
    assert hash_weights(weights) == hash_weights(backwards)
    renamed = {("x" if name == "classifier.bias" else name): v for name, v in weights.items()}
    touched = {name: tensor.clone() for name, tensor in weights.items()}
    touched["classifier.bias"][0] += 1
    reshaped = {**weights, "classifier.weight": weights["classifier.weight"].T}
    hashes = {hash_weights(state) for state in (weights, renamed, touched, reshaped)}
    assert len(hashes) == 4
