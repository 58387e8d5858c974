from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from pydream.evaluate.coresets import herding, k_centre

SIZES = [19, 1, 40, 7]


def features(sizes: list[int] = SIZES, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sum(sizes), 11, generator=generator)


def offsets(sizes: list[int] = SIZES) -> list[int]:
    return [0, *torch.tensor(sizes).cumsum(0).tolist()]


def herded(rows: torch.Tensor, count: int) -> list[int]:
    """Algorithm 4 of iCaRL word for word: the mean of the exemplars near to that of the class."""
    rows = torch.nn.functional.normalize(rows.double(), dim=1)
    mean = rows.mean(0)
    chosen: list[int] = []
    for step in range(1, min(count, len(rows)) + 1):
        total = sum((rows[place] for place in chosen), torch.zeros_like(mean))
        apart = (mean - (total + rows) / step).norm(dim=1)
        apart[chosen] = torch.inf
        chosen.append(int(apart.argmin()))
    return chosen


def farthest_first(rows: torch.Tensor, count: int) -> list[int]:
    rows = rows.double()
    chosen = [int((rows - rows.mean(0)).norm(dim=1).argmin())]
    while len(chosen) < min(count, len(rows)):
        apart = torch.cdist(rows, rows[chosen]).min(dim=1).values
        apart[chosen] = -torch.inf
        chosen.append(int(apart.argmax()))
    return chosen


@pytest.mark.parametrize("count", [1, 5, 25])
@pytest.mark.parametrize(("choose", "plain"), [(herding, herded), (k_centre, farthest_first)])
def test_every_class_as_if_it_were_alone(
    choose: Callable[..., Any], plain: Callable[..., list[int]], count: int
) -> None:
    rows, places = features(), offsets()
    found = choose(rows, places, count)
    for begin, size, chosen in zip(places[:-1], SIZES, found, strict=True):
        assert (chosen - begin).tolist() == plain(rows[begin : begin + size], count)


class OnDevice(torch.Tensor):
    """Stands for a tensor on a GPU, where sums by index have no fixed order."""

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        assert not func.__name__.startswith(("index_add", "scatter_add"))
        answer: Callable[..., Any] = super().__torch_function__
        found = answer(func, types, args, kwargs or {})
        return found.as_subclass(torch.Tensor) if func is torch.Tensor.cpu else found


@pytest.mark.parametrize("choose", [herding, k_centre])
def test_sums_have_a_fixed_order_on_every_device(choose: Callable[..., Any]) -> None:
    rows, places = features(), offsets()
    found = choose(rows.as_subclass(OnDevice), places, 5)
    for chosen, wanted in zip(found, choose(rows, places, 5), strict=True):
        assert chosen.tolist() == wanted.tolist()


@pytest.mark.parametrize("choose", [herding, k_centre])
def test_equal_rows_are_chosen_once_each(choose: Callable[..., Any]) -> None:
    rows = torch.ones(6, 3)
    (chosen,) = choose(rows, [0, 6], 4)
    assert len(set(chosen.tolist())) == 4


def test_k_centre_is_within_twice_the_best_radius() -> None:
    # Three far groups: one centre in each is the best there is.
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([[0.0, 0.0], [100.0, 0.0], [0.0, 100.0]]).repeat_interleave(20, dim=0)
    rows = groups + torch.randn(60, 2, generator=generator)
    (chosen,) = k_centre(rows, [0, 60], 3)
    assert sorted((chosen // 20).tolist()) == [0, 1, 2]
