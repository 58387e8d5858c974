from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scoring_limits import limits
from torchvision.transforms.v2 import functional as tvf

from pydream.data import Source, open_source
from pydream.models import Observer, load_observer
from pydream.rded.groups import group_size, needed_images
from pydream.rded.patches import PatchMaker, Preselection, assemble, preselect, select
from pydream.rded.scoring import ScoringLimits, batch_images, score
from pydream.timeline import Stopwatch

# Scores are logits of a float32 network on patches that agree with torchvision's to 1e-5.
SCORE_TOLERANCE = 2e-4


CROPS = 3


def make_maker(source: Source, observer: Observer) -> PatchMaker:
    return PatchMaker(source, observer, side=32, factor=2, crops=CROPS)


def test_preselect_draws_without_replacement(folder: Path) -> None:
    source = open_source(folder)
    selection = preselect(source, 5, seed=1)
    assert len(np.unique(selection.indices)) == 4 * 5
    assert (np.diff(selection.indices) > 0).all()
    assert (source.labels[selection.indices] == selection.labels).all()
    assert selection.starts.tolist() == [0, 5, 10, 15, 20]


def test_preselect_takes_all_of_a_small_class(folder: Path) -> None:
    source = open_source(folder)
    assert preselect(source, 300, seed=1).indices.tolist() == list(range(len(source)))


def test_preselect_depends_on_the_seed_and_on_nothing_else_in_the_source(folder: Path) -> None:
    source = open_source(folder)
    chosen = {
        seed: {source.keys[index] for index in preselect(source, 5, seed=seed).indices}
        for seed in (1, 2)
    }
    assert chosen[1] != chosen[2]
    (folder / "cat").rename(folder.parent / "cat")  # a class less
    fewer = open_source(folder)
    kept = {fewer.keys[index] for index in preselect(fewer, 5, seed=1).indices}
    assert kept == {key for key in chosen[1] if not key.startswith("cat/")}


def test_preselect_is_uniform(folder: Path) -> None:
    source = open_source(folder)
    times = np.zeros(len(source))
    draws = 400
    for seed in range(draws):
        times[preselect(source, 5, seed=seed).indices] += 1
    expected = draws * 5 / 11
    # A count is binomial: five standard deviations hold for all 44 images together.
    assert np.abs(times - expected).max() < 5 * np.sqrt(draws * 5 / 11 * 6 / 11)


def test_the_boxes_of_an_image_depend_on_nothing_else_in_the_source(
    folder: Path, random_observer: Path
) -> None:
    observer = load_observer(random_observer)

    def boxes_by_key() -> dict[str, list[list[int]]]:
        source = open_source(folder)
        maker = make_maker(source, observer)
        indices = list(range(len(source)))
        boxes = maker.boxes(indices, [source.image(index) for index in indices])
        return dict(zip(source.keys, boxes.tolist(), strict=True))

    before = boxes_by_key()
    (folder / "ant").rename(folder.parent / "ant")
    (folder / "bee" / "03.png").unlink()
    after = boxes_by_key()
    assert len(after) == 3 * 11 - 1
    assert all(before[key] == boxes for key, boxes in after.items())


def published_scores(
    maker: PatchMaker, observer: Observer, selection: Preselection
) -> torch.Tensor:
    """Stage 3 with torchvision's crop on float images and the network unbatched."""
    rows = []
    for candidate, index in enumerate(selection.indices):
        image = maker.source.image(int(index))
        boxes = maker.boxes([int(index)], [image])[0]
        float_image = image.permute(2, 0, 1).float() / 255
        for top, left, height, width in boxes.tolist():
            side = maker.patch_side
            patch = tvf.resized_crop(
                float_image, top, left, height, width, [side, side], antialias=True
            )
            patch = tvf.normalize(patch, list(observer.mean), list(observer.std))
            pad = (observer.side - side) // 2
            patch = F.pad(patch, [pad, observer.side - side - pad] * 2)
            logits = observer.logits(patch[None])
            label = torch.tensor([int(selection.labels[candidate])])
            rows.append(-F.cross_entropy(logits, label).item())
    return torch.tensor(rows).reshape(-1, CROPS)


def run_scores(
    maker: PatchMaker,
    selection: Preselection,
    how: ScoringLimits | None = None,
    needed: np.ndarray | None = None,
) -> torch.Tensor:
    needed = np.ones(len(selection.indices), dtype=bool) if needed is None else needed
    scores = torch.full((len(selection.indices), CROPS), torch.nan)
    for batch in score(maker, selection, needed, how or limits(), Stopwatch()):
        scores[batch.candidates] = batch.scores
    return scores


def test_scores_are_those_of_the_published_pipeline(folder: Path, random_observer: Path) -> None:
    source, observer = open_source(folder), load_observer(random_observer)
    maker = make_maker(source, observer)
    selection = preselect(source, 9, 0)
    ours = run_scores(maker, selection)
    published = published_scores(maker, observer, selection)
    torch.testing.assert_close(ours, published, rtol=0, atol=SCORE_TOLERANCE)
    assert published.std() > 10 * SCORE_TOLERANCE  # else the comparison would say nothing


@pytest.mark.parametrize("batch_size", [1, 40, 10_000])
@pytest.mark.parametrize("finished", [set(), {0}, {1, 2}, {3}])
def test_scores_are_the_same_bits_whatever_the_batch(
    folder: Path, random_observer: Path, batch_size: int, finished: set[int]
) -> None:
    source, observer = open_source(folder), load_observer(random_observer)
    selection = preselect(source, 9, 0)
    maker = make_maker(source, observer)
    reference = run_scores(maker, selection)
    needed = needed_images(maker, selection, finished)
    scores = run_scores(maker, selection, limits(batch_size=batch_size, workers=1), needed)
    assert torch.equal(scores[needed], reference[needed])
    unfinished = ~np.isin(selection.labels, list(finished))
    assert needed[unfinished].all()


@pytest.mark.parametrize(("tile", "crops"), [(32, 5), (32, 8), (8, 3), (1, 7), (24, 36)])
def test_a_group_fills_whole_passes(tile: int, crops: int) -> None:
    group = group_size(tile, crops)
    assert group * crops % tile == 0
    assert all(smaller * crops % tile for smaller in range(1, group))


@pytest.mark.parametrize(("precision", "bytes_of_one"), [("float32", 4), ("bfloat16", 2)])
def test_the_memory_budget_bounds_a_batch(
    folder: Path, random_observer: Path, precision: str, bytes_of_one: int
) -> None:
    observer = load_observer(random_observer, precision=precision)
    maker = PatchMaker(open_source(folder), observer, side=32, factor=2, crops=5)
    patch_bytes = 3 * 32 * 32 * bytes_of_one
    for budget in (1, 16, 256):
        images = batch_images(maker, limits(batch_size=10**6, megabytes=budget))
        group = group_size(observer.tile, 5)
        assert images % group == 0
        assert images == group or 3 * images * 5 * patch_bytes <= budget * 2**20 / 2


def test_select_takes_the_best_crop_of_the_best_images() -> None:
    scores = torch.tensor([[-3.0, -1.0], [-0.5, -0.5], [-torch.inf, -torch.inf], [-1.0, -2.0]])
    ranked = select(scores, first=10, count=4)
    assert [(patch.candidate, patch.crop, patch.score) for patch in ranked] == [
        (11, 0, -0.5),
        (10, 1, -1.0),  # the tie goes to the image that comes first
        (13, 0, -1.0),
    ]


def test_cells_hold_the_patches_their_provenance_names(folder: Path, random_observer: Path) -> None:
    source, observer = open_source(folder), load_observer(random_observer)
    maker = make_maker(source, observer)
    selection = preselect(source, 9, 0)
    scores = run_scores(maker, selection)
    ranked = select(scores[:9], 0, 8)
    images, rows = assemble(maker, selection, ranked, {}, ipc=2, workers=2, budget=2**20)
    assert images.shape == (2, 3, 32, 32)
    assert images.dtype == torch.uint8
    keys = list(source.keys)
    row: Any
    for row in rows:
        rank = row["cell"] * 2 + row["image"]
        assert row["score"] == ranked[rank].score
        pixels = source.image(keys.index(row["source"])).permute(2, 0, 1)
        patch = tvf.resized_crop(
            pixels, row["top"], row["left"], row["height"], row["width"], [16, 16], antialias=True
        )
        top, left = row["cell"] // 2 * 16, row["cell"] % 2 * 16
        cell = images[row["image"], :, top : top + 16, left : left + 16]
        assert (cell.int() - patch.int()).abs().max() <= 1  # torchvision's rounding of uint8
