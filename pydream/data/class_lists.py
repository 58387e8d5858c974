"""Chosen classes of a source: by a file, a range, or the name of a subset of ImageNet."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from pydream.errors import PydreamError
from pydream.formatting import listed

_RANGE = re.compile(r"(\d*):(\d*)")
# Classes of ImageNet-1K by WordNet ID, in the order of the field's class numbers. imagenette and
# imagewoof are fast.ai's, the other four of ten classes those of MTT (CVPR 2022), and imagenet-100
# is that of CMC (ECCV 2020).
_SUBSETS = {
    "imagenette": (
        "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 "
        "n03445777 n03888257 "
    ),
    "imagewoof": (
        "n02096294 n02093754 n02111889 n02088364 n02086240 n02089973 n02087394 n02115641 "
        "n02099601 n02105641 "
    ),
    "imagemeow": (
        "n02123045 n02123159 n02123394 n02123597 n02124075 n02129165 n02129604 n02128925 "
        "n02128757 n02127052 "
    ),
    "imagesquawk": (
        "n01806143 n02007558 n01818515 n02051845 n02056570 n01614925 n01843383 n01518878 "
        "n01860187 n01819313 "
    ),
    "imagefruit": (
        "n07753275 n07753592 n07745940 n07747607 n07749582 n07768694 n07753113 n07720875 "
        "n07718472 n07742313 "
    ),
    "imageyellow": (
        "n02206856 n12057211 n07753592 n07749582 n12144580 n04146614 n03530642 n02129165 "
        "n01773157 n01531178 "
    ),
    "imagenet-100": (
        "n02869837 n01749939 n02488291 n02107142 n13037406 n02091831 n04517823 n04589890 "
        "n03062245 n01773797 n01735189 n07831146 n07753275 n03085013 n04485082 n02105505 "
        "n01983481 n02788148 n03530642 n04435653 n02086910 n02859443 n13040303 n03594734 "
        "n02085620 n02099849 n01558993 n04493381 n02109047 n04111531 n02877765 n04429376 "
        "n02009229 n01978455 n02106550 n01820546 n01692333 n07714571 n02974003 n02114855 "
        "n03785016 n03764736 n03775546 n02087046 n07836838 n04099969 n04592741 n03891251 "
        "n02701002 n03379051 n02259212 n07715103 n03947888 n04026417 n02326432 n03637318 "
        "n01980166 n02113799 n02086240 n03903868 n02483362 n04127249 n02089973 n03017168 "
        "n02093428 n02804414 n02396427 n04418357 n02172182 n01729322 n02113978 n03787032 "
        "n02089867 n02119022 n03777754 n04238763 n02231487 n03032252 n02138441 n02104029 "
        "n03837869 n03494278 n04136333 n03794056 n03492542 n02018207 n04067472 n03930630 "
        "n03584829 n02123045 n04229816 n02100583 n03642806 n04336792 n03259280 n02116738 "
        "n02108089 n03424325 n01855672 n02090622 "
    ),
}


def chosen_labels(text: str, class_names: Sequence[str], description: str) -> list[int]:
    """Return the labels of the chosen classes, in the order of the choice.

    Parameters
    ----------
    text
        Name of a subset, a range A:B of class numbers without B, or a text file with a class on
        each line, by name. The rest of a line after a name is ignored.
    class_names
        Names of all classes of the source.
    description
        Name of the source, for messages.

    Raises
    ------
    PydreamError
        If a class is unknown or named twice, if no class is named, or if there is no such file.
    """
    if (between := _RANGE.fullmatch(text)) is not None:
        return _between(between, len(class_names), description)
    wanted = _SUBSETS[text].split() if text in _SUBSETS else _lines(text)
    labels = {name: label for label, name in enumerate(class_names)}
    first = {name: name if name in labels else name.split(maxsplit=1)[0] for name in wanted}
    chosen = [first[name] for name in wanted]
    unknown = [name for name in chosen if name not in labels]
    if unknown:
        raise PydreamError(
            f"{text}: of {len(chosen)} classes, {description} lacks {listed(unknown)}"
        )
    twice = sorted({name for name in chosen if chosen.count(name) > 1})
    if twice:
        raise PydreamError(f"{text}: classes are named twice: {listed(twice)}")
    return [labels[name] for name in chosen]


def _between(found: re.Match[str], count: int, description: str) -> list[int]:
    first, end = int(found[1] or 0), int(found[2] or count)
    if not first < end <= count:
        raise PydreamError(
            f"classes={found[0]}: {description} has classes 0 to {count - 1}, so give 0:{count} or "
            "a part of that"
        )
    return list(range(first, end))


def _lines(text: str) -> list[str]:
    file = Path(text).expanduser()
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise PydreamError(
            f"classes={text}: cannot be read: {reason}; give a text file with a class on each "
            f"line, a range A:B, or {', '.join(_SUBSETS)}"
        ) from error
    names = [line.strip() for line in lines if line.strip()]
    if not names:
        raise PydreamError(f"{text}: names no class")
    return names
