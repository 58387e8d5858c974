"""A run whose JPEGs are decoded by a GPU; its decoder is played by the CPU's."""

from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image

from pydream.data import device_jpeg
from pydream.errors import PydreamError
from pydream.rded import RdedConfig, distill, opening
from pydream.sets.run import MadeSet


def run(folder: Path, observer: Path, out: Path, **changes: Any) -> MadeSet:
    config = RdedConfig(
        source=str(folder),
        observer=str(observer),
        out=out,
        ipc=2,
        factor=2,
        crops=3,
        allow_weak_observer=True,
        **changes,
    )
    return distill(config)


def test_the_same_images_are_distilled(
    folder: Path, random_observer: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = []

    def decode(data: list[torch.Tensor], mode: Any, device: torch.device) -> list[torch.Tensor]:
        calls.append(len(data))
        return [torch.ops.image.decode_jpeg(jpeg, mode, False) for jpeg in data]

    on_host = run(folder, random_observer, tmp_path / "host")
    assert on_host.manifest.config is not None
    assert on_host.manifest.config["decode"] == "host"
    monkeypatch.setattr(device_jpeg, "_decode_jpegs", decode)
    waited = SimpleNamespace(synchronize=lambda: None)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: waited)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda device: None)
    monkeypatch.setattr(opening, "no_decoder", lambda device: None)
    damaged = folder / "bee" / "04.jpg"
    data = damaged.read_bytes()
    small = io.BytesIO()
    Image.new("RGB", (40, 5)).save(small, "JPEG")
    damaged.write_bytes(small.getvalue()[:300] + b"\xff\xd9")  # looks whole, and small
    on_device = run(
        folder, random_observer, tmp_path / "device", decode="device", allow_skipped=0.2
    )
    assert sum(calls) > 0
    assert on_device.manifest.config is not None
    assert on_device.manifest.config["decode"] == "device"
    assert on_device.manifest.skipped is not None
    assert [image["key"] for image in on_device.manifest.skipped] == ["bee/04.jpg"]
    assert on_device.manifest.enlarged == 0  # it is in no count but that of the skipped
    damaged.write_bytes(data)
    calls.clear()
    whole = run(folder, random_observer, tmp_path / "whole", decode="device")
    assert sum(calls) == 4 * 6  # the JPEGs among eleven pictures
    assert whole.manifest.images_sha256 == on_host.manifest.images_sha256


def test_without_a_decoder(folder: Path, random_observer: Path, tmp_path: Path) -> None:
    with pytest.raises(PydreamError, match=r"no JPEG on cpu: .* GPUs only; take --decode host"):
        run(folder, random_observer, tmp_path / "set", decode="device")
    assert not (tmp_path / "set").exists()
