from __future__ import annotations

import gzip
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from pydream.errors import PydreamError
from pydream.models import read_weights


def write_zip(path: Path, *names: str) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name in names:
            archive.writestr(name, "x")


def write_tar(path: Path) -> None:
    (path.parent / "inside").write_text("x")
    with tarfile.open(path, "w") as archive:
        archive.add(path.parent / "inside", "inside")


def write_script(path: Path) -> None:
    torch.jit.trace(torch.nn.Linear(2, 2), torch.zeros(1, 2)).save(path)


LFS = f"version https://git-lfs.github.com/spec/v1\noid sha256:{'0' * 64}\nsize 46830571\n"
PAGE = "\n <!DOCTYPE html><html><head><title>Quota exceeded</title></head></html>"


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
@pytest.mark.filterwarnings("ignore:`torch.jit:FutureWarning")
@pytest.mark.parametrize(
    ("write", "words"),
    [
        (lambda path: path.write_text(LFS), "pointer of Git LFS.*`git lfs pull`"),
        (lambda path: path.write_text(PAGE), r"a web page \('Quota exceeded'\), not the file"),
        (lambda path: path.write_text("<?xml version='1.0'?><Error/>"), "is a web page, not"),
        (lambda path: path.write_text('{"weight_map": {}}'), "is JSON text"),
        (lambda path: path.write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(90)), "HDF5.*Keras"),
        (lambda path: path.write_bytes(b"\x08\x07\x12\x07pytorch\x1a\x03"), "an ONNX graph"),
        (lambda path: path.write_bytes(gzip.compress(b"weights")), "compressed with gzip"),
        (lambda path: np.save(path.open("wb"), np.zeros(3)), "a NumPy array"),
        (lambda path: np.savez(path.open("wb"), a=np.zeros(3)), "a NumPy archive"),
        (write_tar, "is a tar archive"),
        (write_script, r"TorchScript archive.*torch\.jit\.load\(.*state_dict"),
        (lambda path: write_zip(path, "config.json", "model.weights.h5"), "is a Keras model"),
        (lambda path: write_zip(path, "readme.md"), "a zip archive with readme.md in it"),
        (lambda path: path.write_bytes(b""), "is empty"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_named(
    tmp_path: Path, write: Callable[[Path], object], words: str
) -> None:
    path = tmp_path / "w.pth"
    write(path)
    with pytest.raises(PydreamError, match=rf"w\.pth .*{words}") as error:
        read_weights(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("inside", "words"),
    [
        (".metadata", "distributed checkpoint: join it with `python -m torch.distributed"),
        ("zero_to_fp32.py", "DeepSpeed checkpoint: join it with the zero_to_fp32.py"),
        ("saved_model.pb", "a TensorFlow model"),
        ("model.safetensors", r"for example .*model\.safetensors"),
        ("readme", r"give a \.safetensors, \.pt or \.pth file"),
    ],
)
def test_a_folder_is_named_with_what_to_give_instead(
    tmp_path: Path, inside: str, words: str
) -> None:
    (tmp_path / inside).write_text("x")
    with pytest.raises(PydreamError, match=words):
        read_weights(tmp_path)


def test_one_shard_of_a_network_is_refused(tmp_path: Path) -> None:
    torch.save({"module": {"fc.weight": torch.empty(0)}}, tmp_path / "w.pt")
    with pytest.raises(PydreamError, match=r"no values for fc\.weight: it is one shard"):
        read_weights(tmp_path / "w.pt")


def rewritten(path: Path, change: Callable[[zipfile.ZipInfo], None]) -> None:
    """Write the directory of a zip again, with changes of its entries."""
    with zipfile.ZipFile(path, "a") as archive:
        for member in archive.infolist():
            change(member)
        archive.comment = b"changed"  # so that it is written


def test_a_part_that_is_marked_as_a_folder_is_refused(tmp_path: Path) -> None:
    def mark(member: zipfile.ZipInfo) -> None:
        member.external_attr |= 0x10 * member.filename.endswith("data/0")

    torch.save({"fc.weight": torch.ones(3)}, tmp_path / "w.pt")
    rewritten(tmp_path / "w.pt", mark)
    with pytest.raises(PydreamError, match=r"w\.pt is damaged: a part of it is empty"):
        read_weights(tmp_path / "w.pt")


def test_a_zip_of_an_unknown_version_is_damaged(tmp_path: Path) -> None:
    def raise_version(member: zipfile.ZipInfo) -> None:
        member.extract_version = 96

    torch.save({"fc.weight": torch.ones(3)}, tmp_path / "w.pt")
    rewritten(tmp_path / "w.pt", raise_version)
    with pytest.raises(PydreamError, match=r"w\.pt is cut short or damaged"):
        read_weights(tmp_path / "w.pt")
