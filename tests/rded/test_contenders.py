from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from scoring_limits import limits

from pydream.data import open_source
from pydream.models import load_observer
from pydream.rded.contenders import Contenders
from pydream.rded.patches import CutPatch, PatchMaker, Preselection, assemble, preselect, select
from pydream.rded.scoring import ScoredImages, score
from pydream.timeline import Stopwatch


@pytest.fixture
def maker(folder: Path, random_observer: Path) -> PatchMaker:
    observer = load_observer(random_observer)
    return PatchMaker(open_source(folder), observer, side=32, factor=2, crops=3)


def cut_of_all(
    maker: PatchMaker,
    selection: Preselection,
    scores: torch.Tensor,
    sizes: list[int],
    counts: list[int],
) -> dict[int, dict[int, CutPatch]]:
    """Feed batches of these sizes, whole classes or not, and take every class."""
    contenders = Contenders(maker, selection, counts)
    for batch in np.split(np.arange(len(scores)), np.cumsum(sizes)):
        images = [maker.source.image(int(selection.indices[candidate])) for candidate in batch]
        shapes = [(image.shape[0], image.shape[1]) for image in images]
        contenders.add(ScoredImages(batch.tolist(), scores[batch], {}, [], images, shapes))
    return {label: contenders.take(label) for label in range(4)}


@pytest.mark.parametrize("counts", [[1] * 4, [4] * 4, [100] * 4, [1, 11, 4, 100]], ids=str)
@pytest.mark.parametrize("sizes", [[], [1, 1, 20, 3], [7] * 6])
def test_the_best_of_every_class_are_held_and_no_others(
    maker: PatchMaker, sizes: list[int], counts: list[int]
) -> None:
    selection = preselect(maker.source, 300, 0)
    rng = np.random.default_rng(sum(counts))
    # Few different values: many ties, within an image and between images.
    scores = torch.from_numpy(rng.integers(-3, 0, (44, 3)).astype(np.float32))
    scores[5] = scores[30] = -torch.inf  # images that could not be used
    held = cut_of_all(maker, selection, scores, sizes, counts)
    for label in range(4):
        chosen = select(scores[label * 11 : label * 11 + 11], label * 11, counts[label])
        wanted = [key for key in chosen if key.score > -torch.inf]
        assert sorted(held[label]) == sorted(key.candidate for key in wanted)
        for key in wanted:
            index = int(selection.indices[key.candidate])
            [again] = maker.cut([index], [maker.source.image(index)], [key.crop])
            patch = held[label][key.candidate]
            assert (patch.crop, patch.box) == (again.crop, again.box)
            assert torch.equal(patch.pixels, again.pixels)


def test_winners_at_hand_are_not_decoded_again(
    maker: PatchMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    selection = preselect(maker.source, 300, 0)
    contenders = Contenders(maker, selection, [4] * 4)
    scores = torch.empty(44, 3)
    for batch in score(maker, selection, np.ones(44, dtype=bool), limits(), Stopwatch()):
        scores[batch.candidates] = batch.scores
        contenders.add(batch)
    ranked, known = select(scores[:11], 0, 4), contenders.take(0)
    options = {"ipc": 1, "workers": 1, "budget": 1 << 20}
    again, rows = assemble(maker, selection, ranked, {}, **options)
    first = ranked[0].candidate
    other_crop = dataclasses.replace(known[first], crop=known[first].crop + 1)
    mended = assemble(maker, selection, ranked, {**known, first: other_crop}, **options)
    assert torch.equal(mended[0], again)
    monkeypatch.setattr(maker.source, "read", None)
    kept, kept_rows = assemble(maker, selection, ranked, known, **options)
    assert torch.equal(kept, again)
    assert kept_rows == rows


def test_without_the_images_nothing_is_held(maker: PatchMaker) -> None:
    selection = preselect(maker.source, 300, 0)
    contenders = Contenders(maker, selection, [4] * 4)
    contenders.add(ScoredImages([0, 1], torch.zeros(2, 3), {}, [], None, [(9, 9)] * 2))
    assert contenders.take(0) == {}
