"""Export of a distilled set in the layouts of other tools."""

from __future__ import annotations

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pydream.data.whitening import Whitening, whitening_of
from pydream.devices import announce_device, resolve_device
from pydream.durable import make_folder
from pydream.errors import PydreamError
from pydream.files import ANOTHER_OUT, check_free, remove_leftovers, written_beside
from pydream.models import Observer, load_into, read_weights
from pydream.models.registry import construct
from pydream.processors import usable_processors
from pydream.sets import ddranking
from pydream.sets.config import ExportConfig, Layout
from pydream.sets.distilled import DistilledSet, load_set
from pydream.sets.folder_exports import copy_images, write_patches
from pydream.sets.opening import (
    check_fitted_on,
    check_image_files,
    class_order,
    load_set_observer,
    open_real,
)
from pydream.sets.parquet_sets import write_parquet
from pydream.sets.shard_sets import write_shards
from pydream.versions import package_record


@dataclass(frozen=True)
class ExportedSet:
    """Files written by `export_set`.

    Attributes
    ----------
    path
        The folder.
    to
        The layout.
    images
        Number of images.
    bytes
        Size of all files together.
    """

    path: Path
    to: Layout
    images: int
    bytes: int


@dataclass(frozen=True)
class _Labeller:
    """An observer, and its class for each class of the set."""

    observer: Observer
    order: list[int]

    def logits(self, images: Tensor) -> Tensor:
        """Return logits of normalised images, (N, K) float32 on the CPU, in the set's order."""
        return self.observer.with_class_order(self.order).logits(images).cpu()

    def normalised(self, images: Tensor) -> Tensor:
        """Return images normalised for the observer."""
        return _normalise(images, self.observer.mean, self.observer.std)


def _normalise(images: Tensor, mean: Sequence[float], std: Sequence[float]) -> Tensor:
    """Return (N, C, S, S) images less a mean and divided by a std, of each channel."""
    offset, scale = (torch.tensor(values).view(-1, 1, 1) for values in (mean, std))
    return (images - offset) / scale


def export_set(config: ExportConfig) -> ExportedSet:
    """Write a distilled set in the layout of another tool.

    ``tensors``: ``images.pt`` is [images, labels], float32 (N, 3, S, S) in [0, 1] and int64 (N,).
    With an observer, ``soft_labels.pt`` is float16 (N, K), its logits for these images.
    ``info.json`` has class names, mean, std, method and hashes.

    ``dc``: ``res.pt``, the results of DC, DSA and DM: a dict with [images, labels] as the only item
    of the list ``data``, and an empty dict ``accs_all_exps``. ``mtt``: the same images and labels
    in ``images_best.pt`` and ``labels_best.pt``. Images are float32 (N, 3, S, S), normalised with
    the mean and std of the set, or in ``mtt`` whitened (ZCA) if the set was made of whitened ones;
    labels are int64 (N,). ``info.json`` is as for ``tensors``.

    ``rded``: ``00000/class00000_id00000.png`` and so on, the files of the set byte for byte.

    ``patches``: ``medium/00000/class00000_id00000.jpg`` and so on, from which CV-DD, SRe²L++ and
    FADRM begin. JPEG files of the set are copied unless a quality is given.

    ``cim``: ``data.pt``, a dict as CIM leaves it: ``dataset``, the name of the source; ``data``,
    float32 (N, 3, S, S) in [0, 1]; ``label``, int64 (N,). ``info.json`` is as for ``tensors``.

    ``ddranking``: ``images.pt``, float32 (N, 3, S, S), normalised with the observer's mean and std,
    because DD-Ranking trains on it unchanged; ``labels.pt``, float32 (N, K), the observer's logits
    for it; ``lr.pt``, a scalar, the rate that the set has learned or DD-Ranking's for RDED;
    ``images/00000/…``, the files of the set; the observer's weights below ``teacher_models``, where
    DD-Ranking looks for a teacher; ``config.json``, for use from inside the folder.

    ``parquet``: ``data/train-00000-of-00001.parquet`` and so on, with the columns ``image`` (the
    files of the set, byte for byte) and ``label``, and ``README.md``, a card with the manifest; as
    the Hugging Face Hub and ``datasets.load_dataset`` read it.

    ``rethinkdc``: the same, with ``class_id`` in place of ``label``, as rethinkdc reads the parquet
    files of its authors. (Of class folders, it reads those of ``rded``.)

    ``webdataset``: ``train-000000.tar`` and so on, with ``KEY.png`` (the files of the set, byte for
    byte) and ``KEY.cls``, and ``classnames.txt``.

    Images are sorted by class. If the set has its own ``images.pt``, they come from there.

    Parameters
    ----------
    config
        The settings.

    Returns
    -------
    ExportedSet

    Raises
    ------
    PydreamError
        If the set, the observer or the folder cannot be used, image files of the set are not those
        that its manifest describes, the set records no mean and std where
        the layout needs them, or DD-Ranking has no network like the observer. Nothing is then
        left at ``config.out``.
    """
    check_free(config.out)
    distilled = load_set(config.set)
    check_image_files(distilled)
    remove_leftovers(config.out.parent, config.out.name)
    with written_beside(config.out, ANOTHER_OUT) as folder:
        make_folder(folder)
        _write(distilled, folder, config)
        size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
        check_free(config.out)
    return ExportedSet(config.out, config.to, len(distilled.labels), size)


def _write(distilled: DistilledSet, folder: Path, config: ExportConfig) -> None:
    """Write the layout that the settings name."""
    match config.to:
        case "rded":
            copy_images(distilled, folder, "class{label:05d}_id{number:05d}")
        case "patches":
            ddranking.one_ipc(distilled.manifest, "CV-DD")
            write_patches(distilled, folder, config.quality)
        case "tensors":
            _write_tensors(distilled, folder, _labeller(config, distilled))
        case "dc" | "mtt":
            _write_normalised(distilled, folder, config.to)
        case "cim":
            _write_cim(distilled, folder)
        case "parquet":
            write_parquet(distilled, folder)
        case "rethinkdc":
            write_parquet(distilled, folder, label="class_id")
        case "webdataset":
            write_shards(distilled, folder)
        case "ddranking":
            _write_ddranking(distilled, folder, config)


def _write_tensors(distilled: DistilledSet, folder: Path, labeller: _Labeller | None) -> None:
    images, info = distilled.float_images, _facts(distilled)
    _save([images, distilled.labels], folder / "images.pt")
    if labeller is not None:
        logits = labeller.logits(labeller.normalised(images))
        _save(logits.half(), folder / "soft_labels.pt")
        info["observer"] = {
            "arch": labeller.observer.arch,
            "side": labeller.observer.network_side,
            "mean": list(labeller.observer.mean),
            "std": list(labeller.observer.std),
            "weights_sha256": labeller.observer.weights_sha256,
        }
    _write_json(info, folder / "info.json")


def _write_normalised(distilled: DistilledSet, folder: Path, to: Layout) -> None:
    """Write the files of DC, DSA and DM, or those of MTT."""
    mean, std = distilled.manifest.mean, distilled.manifest.std
    if mean is None or std is None:
        raise PydreamError(
            f"{distilled.path} records no mean and std to normalise its images with: export it "
            "--to tensors"
        )
    labels = distilled.labels
    if to == "mtt" and distilled.manifest.whitening is not None:
        images = _whitening_of(distilled)(distilled.float_images)
    else:
        images = _normalise(distilled.float_images, mean, std)
    if to == "dc":
        _save({"data": [[images, labels]], "accs_all_exps": {}}, folder / "res.pt")
    else:
        _save(images, folder / "images_best.pt")
        _save(labels, folder / "labels_best.pt")
    _write_json(_facts(distilled), folder / "info.json")


def _whitening_of(distilled: DistilledSet) -> Whitening:
    """Fit the whitening of a set again, on the images that it was distilled from."""
    advice = "to export its colours, give --to tensors"
    try:
        source = open_real(None, distilled, "train")
    except PydreamError as error:
        raise PydreamError(f"the whitening (ZCA) cannot be fitted: {error}; {advice}") from error
    check_fitted_on(distilled, source.fingerprint(), f"{source.description} has others; {advice}")
    return whitening_of(source, distilled.manifest.side, workers=usable_processors())


def _write_cim(distilled: DistilledSet, folder: Path) -> None:
    described = (distilled.manifest.source or {}).get("description", "")
    content = {
        "dataset": ddranking.dataset_name(described).lower(),
        "data": distilled.float_images,
        "label": distilled.labels,
    }
    _save(content, folder / "data.pt")
    _write_json(_facts(distilled), folder / "info.json")


def _facts(distilled: DistilledSet) -> dict[str, Any]:
    """Return the content of ``info.json``."""
    manifest = distilled.manifest
    return {
        "class_names": list(distilled.class_names),
        "images_per_class": manifest.images_per_class,
        "method": manifest.method,
        "factor": manifest.factor,
        "views": manifest.views,
        "mean": manifest.mean,
        "std": manifest.std,
        **({} if manifest.whitening is None else {"whitening": manifest.whitening}),
        "images_sha256": manifest.images_sha256,
        "package": package_record(),
    }


def _write_json(content: dict[str, Any], file: Path) -> None:
    file.write_text(json.dumps(content, indent=2) + "\n")


def _write_ddranking(distilled: DistilledSet, folder: Path, config: ExportConfig) -> None:
    ddranking.one_ipc(distilled.manifest)  # before the observer is loaded
    if distilled.manifest.whitening is not None:
        raise PydreamError(
            "ddranking holds images normalised for an observer, and this set was made of whitened "
            "ones (ZCA): export it --to mtt"
        )
    labeller = _labeller(config, distilled)
    assert labeller is not None  # guaranteed by the settings
    teacher = _teacher(config, labeller)
    observer = labeller.observer
    images = labeller.normalised(distilled.float_images)
    _save(images, folder / "images.pt")
    _save(labeller.logits(images), folder / "labels.pt")
    learned = distilled.manifest.student_rate
    rate = ddranking.LEARNING_RATE if learned is None else learned
    _save(torch.tensor(rate), folder / "lr.pt")
    copy_images(distilled, folder / "images", "{number:05d}")
    settings = ddranking.settings(distilled.manifest, teacher, observer.mean, observer.std)
    file = folder / ddranking.teacher_file(settings["dataset"], teacher.model_name)
    file.parent.mkdir(parents=True)
    _save(teacher.weights, file)
    _write_json(settings, folder / "config.json")


def _save(content: Any, file: Path) -> None:
    """Write like torch.save, but raise OSError if the disk is full."""
    stream = io.BytesIO()
    torch.save(content, stream)
    file.write_bytes(stream.getbuffer())


def _labeller(config: ExportConfig, distilled: DistilledSet) -> _Labeller | None:
    if config.observer is None:
        return None
    observer = load_set_observer(
        config.observer,
        distilled,
        config,
        arch=config.observer_arch,
        precision="float32",
        device=resolve_device(config.device),
    )
    labeller = _Labeller(observer, class_order(observer, distilled))
    announce_device(config.device)
    observer.announce()
    return labeller


def _teacher(config: ExportConfig, labeller: _Labeller) -> ddranking.Teacher:
    """Read the observer's weights in the form that DD-Ranking uses."""
    assert config.observer is not None
    observer = labeller.observer
    if observer.side != observer.network_side:
        raise PydreamError(
            f"DD-Ranking shows its teacher images of {observer.side} pixels a side as they are: "
            "leave out --observer-side, or give an observer of that side"
        )
    model = construct(observer.arch, num_classes=observer.num_classes, side=observer.side)
    load_into(model, config.observer, read_weights(config.observer)[0], observer.arch)
    return ddranking.as_teacher(model, observer.arch, observer.side, labeller.order)
