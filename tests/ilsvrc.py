"""Labels of ImageNet's validation images in all forms that they come in, for three classes."""

from __future__ import annotations

import shutil
import tarfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import scipy.io
import torch
from trees import write_images

# In the order of the development kit's IDs, which is not that of the names.
WNIDS = ("n02119789", "n01440764", "n02100735")
INNER = "n00001740"  # an inner node of WordNet, with an ID above those of the classes
TRUTH = (2, 0, 1, 2, 1, 0)  # the class of each validation image
LABELS = {f"ILSVRC2012_val_{n:08d}.JPEG": WNIDS[t] for n, t in enumerate(TRUTH, 1)}

Put = Callable[[Path], object]


def write_train(folder: Path) -> None:
    write_images(folder, [f"{wnid}/{wnid}_{number}.JPEG" for wnid in WNIDS for number in (3, 20)])


def put_kaggle(root: Path) -> None:
    rows = [f"{name[:-5]},{wnid} 85 1 499 272 {wnid} 1 2 3 4 " for name, wnid in LABELS.items()]
    rows.sort(key=lambda row: row[-1::-1])  # in no order
    (root / "LOC_val_solution.csv").write_text("ImageId,PredictionString\n" + "\n".join(rows))


def put_devkit(root: Path) -> None:
    data = root / "ILSVRC2012_devkit_t12" / "data"
    data.mkdir(parents=True)
    kinds = [("ILSVRC2012_ID", "u2"), ("WNID", "O"), ("words", "O"), ("gloss", "O")]
    kinds += [("num_children", "u2"), ("children", "O")]
    nodes = [(n, wnid, "a, b", "c", 0, np.zeros(0)) for n, wnid in enumerate(WNIDS, 1)]
    nodes.append((4, INNER, "entity", "d", 2, np.array([1, 2])))
    scipy.io.savemat(data / "meta.mat", {"synsets": np.array(nodes, dtype=kinds)[:, None]})
    lines = "".join(f"{label + 1}\n" for label in TRUTH)
    (data / "ILSVRC2012_validation_ground_truth.txt").write_text(lines)


def put_flat_devkit(root: Path) -> None:
    put_devkit(root)
    for file in (root / "ILSVRC2012_devkit_t12" / "data").iterdir():
        file.rename(root / file.name)


def put_packed_devkit(root: Path) -> None:
    put_devkit(root)
    with tarfile.open(root / "ILSVRC2012_devkit_t12.tar.gz", "w:gz") as archive:
        archive.add(root / "ILSVRC2012_devkit_t12", "ILSVRC2012_devkit_t12")
    shutil.rmtree(root / "ILSVRC2012_devkit_t12")


def put_meta_bin(root: Path) -> None:
    names = dict.fromkeys(WNIDS, ("a", "b"))
    torch.save((names, list(LABELS.values())), root / "meta.bin")


def put_text(root: Path) -> None:
    lines = "\n".join(f"{name} {sorted(WNIDS).index(wnid)}" for name, wnid in LABELS.items())
    (root / "val.txt").write_text(lines)


def put_ids(root: Path) -> None:
    text = "\n".join(LABELS.values())
    (root / "imagenet_2012_validation_synset_labels.txt").write_text(text)


PUTS = [put_kaggle, put_devkit, put_flat_devkit, put_packed_devkit, put_meta_bin, put_text, put_ids]
