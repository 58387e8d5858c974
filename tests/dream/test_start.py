from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from pydream.dream.start import images_of_set
from pydream.errors import PydreamError

NAMES = ("ant", "bee")
RUN: dict[str, Any] = {"class_names": NAMES, "side": 6, "ipc": 3, "factor": 2}


def test_a_set_of_pydream_gives_its_images_and_their_names(make_set: Callable[..., Any]) -> None:
    distilled = make_set(NAMES, ipc=3, side=6, factor=2)
    values, sources = images_of_set(distilled.path, **RUN)
    assert (values.dtype, values.shape) == (torch.float32, (2, 3, 3, 6, 6))
    levels = (values * 255).round().flatten(0, 1).permute(0, 2, 3, 1)
    assert levels.equal(distilled.images.float())
    assert sources[1][2] == [f"{distilled.path.name}/images/00001/00002.png"] * 4
    exact = torch.rand(6, 3, 6, 6)
    torch.save([exact, distilled.labels], distilled.path / "images.pt")
    assert images_of_set(distilled.path, **RUN)[0].equal(exact.view(2, 3, 3, 6, 6))


def test_a_file_of_another_tool_is_sorted_and_its_normalisation_undone(tmp_path: Path) -> None:
    colours = torch.randint(256, (6, 3, 6, 6)).float() / 255
    labels = torch.tensor([1, 0, 1, 0, 0, 1])
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.3, 0.25)
    scale, offset = (torch.tensor(each).view(3, 1, 1) for each in (std, mean))
    torch.save([(colours - offset) / scale, labels], tmp_path / "dsa.pt")
    values, sources = images_of_set(tmp_path / "dsa.pt", **RUN, mean=mean, std=std)
    for label in (0, 1):
        torch.testing.assert_close(values[label], colours[labels == label])
    assert sources[1][0] == ["dsa.pt#3"] * 4


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"side": 8}, "has images of 6 pixels a side: give --side 6 in place of 8"),
        ({"class_names": ("ant", "bee", "cow")}, "has 2 classes, but the real images 3"),
        ({"class_names": ("bee", "ant")}, "class 0 is ant, but of the real images bee; .* order"),
        ({"ipc": 4}, "has 3 images of class ant, but --ipc is 4"),
        ({"factor": 1}, "has cells of factor 2: give --factor 2 in place of 1"),
    ],
)
def test_a_set_that_does_not_fit_is_refused(
    make_set: Callable[..., Any], changes: dict[str, Any], message: str
) -> None:
    path = make_set(NAMES, ipc=3, side=6, factor=2).path
    with pytest.raises(PydreamError, match=f"^--start .* {message}"):
        images_of_set(path, **{**RUN, **changes})


def test_unequal_classes_are_refused(tmp_path: Path) -> None:
    torch.save([torch.rand(5, 3, 6, 6), torch.tensor([0, 0, 0, 1, 1])], tmp_path / "a.pt")
    with pytest.raises(PydreamError, match="has 2 images of class bee, but --ipc is 3"):
        images_of_set(tmp_path / "a.pt", **RUN)
