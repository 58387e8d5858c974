"""The stages of RDED except scoring (arXiv 2312.03526, section 4; Algorithm 1).

`preselect` is stage 1. `PatchMaker` draws the crops and makes patches of them (stages 2 and 3),
which `pydream.rded.scoring` shows to the observer. `select` and `assemble` are stages 4 and 5.

Random numbers are keyed by (seed, id, crop), and the rows of the observer's passes by candidate. So
the result for a class does not depend on batch size, workers, other classes, or the point at which
a run was resumed.

An image has five coordinates:

index
        Number in the `Source`, which reads images by it.
candidate
        Number in the `Preselection`, which keys scores, errors and patches.
row
        Number in a batch, or among the candidates of one class.
id
        64-bit hash of the key, which selects the random numbers.
key
        Name in the source, such as a path, which provenance and messages show.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
import torch

from pydream.allocator import in_large_pages
from pydream.data import ImageError, Source, decode_ahead, upload
from pydream.data.decode import EncodedJpeg
from pydream.data.resized import whole_view_boxes
from pydream.errors import PydreamError
from pydream.models import Observer
from pydream.ops import crop_resize, random_crop_boxes, random_keys, select_key_patches
from pydream.seeds import Draw
from pydream.streams import to_device
from pydream.tiling import CellFit, Tiling


@dataclass(frozen=True)
class Preselection:
    """The real images of a run, class by class.

    Attributes
    ----------
    indices
        (n,) int64, by candidate, ascending.
    labels
        (n,) int64: the class of each candidate.
    starts
        (C + 1,) int64: class c has the candidates starts[c] to starts[c + 1].
    """

    indices: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    starts: npt.NDArray[np.int64]

    def candidates(self, label: int) -> range:
        """Return the candidates of a class."""
        return range(int(self.starts[label]), int(self.starts[label + 1]))


@dataclass(frozen=True)
class KeyPatch:
    """A patch chosen for a distilled image.

    Attributes
    ----------
    candidate
        Candidate of the image.
    crop
        Number of the crop in its image.
    score
        Log-probability of the true class.
    """

    candidate: int
    crop: int
    score: float


@dataclass(frozen=True)
class CutPatch:
    """The pixels of a crop.

    Attributes
    ----------
    crop
        Number of the crop in its image.
    pixels
        (3, s, s) uint8, on the CPU, as `pydream.tiling.Tiling.cut` makes it.
    box
        Top, left, height and width, in pixels.
    """

    crop: int
    pixels: torch.Tensor
    box: list[int]


def preselect(source: Source, count: int, seed: int) -> Preselection:
    """Draw `count` images of every class without replacement, or all of a smaller class.

    Stage 1. Seed and identity decide the order of a class's images, and the first ones are taken: a
    further class changes no other.
    """
    ids = source.ids
    chosen = []
    for label in range(len(source.class_names)):
        indices = source.class_indices(label)
        keys = random_keys(torch.from_numpy(ids[indices]), seed=seed, draw=Draw.PRESELECTION)
        order = torch.argsort(keys, stable=True).numpy()
        chosen.append(np.sort(indices[order[:count]]))
    sizes = [len(indices) for indices in chosen]
    starts = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
    return Preselection(
        indices=np.concatenate(chosen),
        labels=np.repeat(np.arange(len(chosen)), sizes).astype(np.int64),
        starts=starts,
    )


class PatchMaker:
    """Draws the crops of an image and makes patches of them (stages 2 and 3).

    Parameters
    ----------
    source
        The real images.
    observer
        Network that decides side, mean, std and arithmetic of the patches.
    side
        Height and width of a distilled image, in pixels.
    factor
        Number of patches along each side of a distilled image.
    crops
        Number of random crops of an image, M; with 0 the whole image is its only patch.
    cells
        Way to fit a patch into its cell: by resizing it ("shrunk"), or by the least squares of
        `pydream.ops.matched_cells` ("matched").
    canvas
        Input of the observer: the patch on a canvas of its own side ("pad"), or the patch alone
        ("native").
    seed
        Random seed, in [0, 2^63).
    further
        Other observers that score the same patches. Those of another side see larger or smaller
        patches, which take the same part of their canvas.

    Raises
    ------
    PydreamError
        If an observer does not accept the patch alone (``canvas="native"``).

    Attributes
    ----------
    observer
        The observer that takes the output of `shown`.
    observers
        All observers, this one first.
    inputs
        The observers whose inputs differ in side, mean, std or dtype, this one first.
    input_of
        For each of `observers`, the number of its input among `inputs`.
    crops
        Number of patches of an image, at least 1.
    tiling
        The cells of a distilled image.
    patch_side
        Height and width of a patch that was cut for its cell, in pixels.
    """

    def __init__(
        self,
        source: Source,
        observer: Observer,
        *,
        side: int,
        factor: int,
        crops: int,
        cells: CellFit = "shrunk",
        canvas: Literal["pad", "native"] = "pad",
        seed: int = 0,
        further: Sequence[Observer] = (),
    ) -> None:
        self.source = source
        self.seed = seed
        self.crops, self._whole = max(crops, 1), crops == 0
        self.tiling = Tiling(side, factor, cells)
        self.patch_side = self.tiling.cell_side
        seen = [self._seen_by(observer, canvas, side)]
        seen += [self._seen_by(other, canvas, other.side) for other in further]
        self.observers = tuple(one for one, _ in seen)
        self.observer, self._shown_side = seen[0]
        kinds = [(one.side, one.mean, one.std, one.dtype) for one in self.observers]
        distinct = [*dict.fromkeys(kinds)]
        self.input_of = [distinct.index(kind) for kind in kinds]
        self.inputs = [self.observers[kinds.index(kind)] for kind in distinct]
        self._shown_sides = [seen[kinds.index(kind)][1] for kind in distinct]
        self._ids = torch.from_numpy(source.ids)

    def _seen_by(
        self, observer: Observer, canvas: Literal["pad", "native"], whole: int
    ) -> tuple[Observer, int]:
        """Return an observer that accepts patches of an image of side `whole`, and their side."""
        side = min(self.tiling.side, observer.side)
        if not self.tiling.matched:
            side = max(1, whole // self.tiling.factor)
        alone = canvas == "native" and side != observer.side
        return (observer.with_side(side) if alone else observer), side

    def enlarges(self, image: torch.Tensor | EncodedJpeg) -> bool:
        """Return whether a side of the image is smaller than a patch, so crops are enlarged."""
        return min(image.shape[0], image.shape[1]) < self._shown_side

    def boxes(self, indices: Sequence[int], images: Sequence[torch.Tensor]) -> torch.Tensor:
        """Draw the (n, M, 4) int32 boxes of n images: top, left, height, width."""
        if self._whole:
            return whole_view_boxes(images, self.tiling.side)[:, None]
        return self.crop_boxes(indices, [(image.shape[0], image.shape[1]) for image in images])

    def crop_boxes(self, indices: Sequence[int], sizes: Sequence[tuple[int, int]]) -> torch.Tensor:
        """Draw the boxes of random crops, as `boxes` does, by height and width of n images."""
        ids = self._ids[torch.as_tensor(np.asarray(indices, dtype=np.int64))]
        shapes = torch.tensor(sizes, dtype=torch.int64).reshape(-1, 2)
        return random_crop_boxes(shapes, self.crops, seed=self.seed, ids=ids)

    def shown(
        self,
        indices: Sequence[int],
        images: Sequence[torch.Tensor],
        out: torch.Tensor | None = None,
        number: int = 0,
    ) -> torch.Tensor:
        """Make the (n·M, 3, S, S) patches of n images for one of `inputs`, on its device."""
        observer = self.inputs[number]
        boxes, device = self.boxes(indices, images).reshape(-1, 4), observer.device
        if device.type != "cpu":
            images, boxes = upload(images, device), to_device(boxes, device)
        return crop_resize(
            list(images),
            boxes,
            self._shown_sides[number],
            canvas=observer.side,
            mean=observer.mean,
            std=observer.std,
            dtype=observer.dtype,
            channels_last=True,
            out=out,
        )

    def empty(self, count: int, number: int = 0) -> torch.Tensor:
        """Allocate the output of `shown` for n images."""
        observer = self.inputs[number]
        return in_large_pages(
            torch.empty(
                (count * self.crops, 3, observer.side, observer.side),
                dtype=observer.dtype,
                device=observer.device,
                memory_format=torch.channels_last,
            )
        )

    def cut(
        self,
        indices: Sequence[int],
        images: Sequence[torch.Tensor],
        crops: Sequence[int],
        cell: int = 0,
    ) -> list[CutPatch]:
        """Cut one crop out of each image, as uint8 pixels of this cell of a distilled image."""
        boxes = self.boxes(indices, images)[torch.arange(len(images)), torch.tensor(crops)]
        pixels = self.tiling.cut(list(images), boxes, [cell] * len(images))
        return [CutPatch(*patch) for patch in zip(crops, pixels, boxes.tolist(), strict=True)]


def select(scores: torch.Tensor, first: int, count: int) -> list[KeyPatch]:
    """Choose the best crop of every image, then the best images of the class (stage 4).

    Parameters
    ----------
    scores
        (n, M) float32, of the images of one class.
    first
        First candidate of the class.
    count
        Number of key patches.

    Returns
    -------
    list[KeyPatch]
        The key patches, best first. Of equal scores, the earlier image wins.
    """
    labels = torch.zeros(len(scores), dtype=torch.int64)
    chosen = select_key_patches(scores, labels, count, 1)
    return [
        KeyPatch(first + row, crop, value)
        for row, crop, value in zip(
            chosen.image[0].tolist(), chosen.crop[0].tolist(), chosen.score[0].tolist(), strict=True
        )
        if row >= 0
    ]


def assemble(
    maker: PatchMaker,
    selection: Preselection,
    ranked: Sequence[KeyPatch],
    known: Mapping[int, CutPatch],
    *,
    ipc: int,
    workers: int,
    budget: int,
) -> tuple[torch.Tensor, list[dict[str, object]]]:
    """Tile the key patches of a class, and cut the missing ones again (stage 5).

    Parameters
    ----------
    maker, selection
        The run's patch maker and its preselection.
    ranked
        IPC·f² key patches, best first.
    known
        Patches cut before, by candidate; patches of other crops are ignored.
    ipc
        Number of distilled images of the class.
    workers, budget
        Number of threads that decode, and bytes of decoded images that may wait.

    Returns
    -------
    tuple[torch.Tensor, list[dict[str, object]]]
        (IPC, 3, S, S) uint8, and one provenance row per patch, by image and cell.
    """
    have = {
        key: known[key.candidate]
        for key in ranked
        if key.candidate in known and known[key.candidate].crop == key.crop
    }
    missing = {key: rank // ipc for rank, key in enumerate(ranked) if key not in have}
    have |= _cut_again(maker, selection, missing, workers=workers, budget=budget)
    rows = []
    for rank, key in enumerate(ranked):
        top, left, height, width = have[key].box
        row = {
            "class": int(selection.labels[key.candidate]),
            "image": rank % ipc,
            "cell": rank // ipc,
            "source": maker.source.keys[selection.indices[key.candidate]],
            "top": top,
            "left": left,
            "height": height,
            "width": width,
            "score": key.score,
        }
        rows.append(row)
    rows.sort(key=lambda row: (row["image"], row["cell"]))
    patches = torch.stack([have[key].pixels for key in ranked])
    return maker.tiling.tile(patches[None])[0], rows


def _cut_again(
    maker: PatchMaker,
    selection: Preselection,
    cell_of: Mapping[KeyPatch, int],
    *,
    workers: int,
    budget: int,
) -> dict[KeyPatch, CutPatch]:
    """Decode the images of key patches, each once, and cut the patches for their cells."""
    keys_of: dict[int, list[KeyPatch]] = {}
    for key in cell_of:
        keys_of.setdefault(int(selection.indices[key.candidate]), []).append(key)
    images = decode_ahead(maker.source, [*keys_of], workers=workers, budget=budget)
    cut = {}
    for (index, keys), image in zip(keys_of.items(), images, strict=True):
        if isinstance(image, ImageError):
            raise PydreamError(
                f"{maker.source.description}: {maker.source.keys[index]} could be read when it "
                f"was scored, and no longer: {image}"
            )
        for key in keys:
            [cut[key]] = maker.cut([index], [image], [key.crop], cell_of[key])
    return cut
