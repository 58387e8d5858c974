from __future__ import annotations

import sys
from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from pydream.errors import PydreamError
from pydream.models.class_outputs import class_outputs


def outputs(
    num_classes: int,
    names: Sequence[str],
    known: Sequence[str] | None = None,
    measured: bool = True,
) -> list[int]:
    observer: Any = SimpleNamespace(num_classes=num_classes, class_names=known)
    return class_outputs(observer, names, "SET", measured=measured)


def test_classes_are_found_by_name_or_taken_in_order() -> None:
    assert outputs(4, ["d", "b"], ("a", "b", "c", "d")) == [3, 1]
    assert outputs(3, ["x", "y", "z"]) == [0, 1, 2]


def test_other_names_for_as_many_classes_are_in_order_where_that_is_measured() -> None:
    assert outputs(2, ["0", "1"], ("cat", "dog")) == [0, 1]
    with pytest.raises(PydreamError, match="does not know the classes 0, 1 of SET"):
        outputs(2, ["0", "1"], ("cat", "dog"), measured=False)


def test_wordnet_ids_are_found_among_the_thousand_of_imagenet() -> None:
    """Tench is the first, toilet paper the last; English springer, of Imagenette, has 217."""
    assert outputs(1000, ["n01440764", "n02102040", "n15075141"]) == [0, 217, 999]
    with pytest.raises(PydreamError, match="does not know the classes n99999999"):
        outputs(1000, ["n01440764", "n99999999"])


def test_wordnet_ids_without_timm_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm.data", None)
    with pytest.raises(PydreamError, match=r"WordNet IDs.*pip install .*timm"):
        outputs(1000, ["n01440764", "n02102040"])


def test_inferring_is_advised_only_where_it_helps() -> None:
    with pytest.raises(PydreamError, match=r"has 5 classes, but SET has 2.*--class-order infer"):
        outputs(5, ["a", "b"])
    for number, measured in ((1, True), (5, False)):
        with pytest.raises(PydreamError, match="SET has 2") as error:
            outputs(number, ["a", "b"], measured=measured)
        assert "--class-order" not in str(error.value)
