"""Numbers of distilled images by class: from files, and in proportion to the classes."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pydream.errors import PydreamError
from pydream.rded import RdedConfig
from pydream.rded.class_counts import in_proportion, ipc_words, read_counts

NAMES = ("ant", "bee", "house cat", "dog, wild")
PLAIN = ("ant", "bee", "cat")


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("counts.txt", "ant 3\nbee: 1\n"),
        ("counts.txt", "\n bee:\t1\n\n  ant ; 003 \n"),
        ("counts", "bee:,1\r\nant,3\r\n"),
        ("counts.csv", "class,images\nant,3\nbee:,1\n"),
        ("counts.CSV", '\ufeff"ant";"3"\n"bee:"; 1\n'),
        ("counts.tsv", "bee:\t1\nant\t3"),
        ("counts.json", '{"bee:": 1,\n "ant": 3}'),
        ("counts.txt", "1 1\n0 3\n"),
        ("counts.json", '{"1": 1, "ant": 3}'),
    ],
)
def test_a_file_tells_the_count_of_each_class(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text, encoding="utf-8", newline="")
    assert read_counts(tmp_path / name, ("ant", "bee:")) == (3, 1)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("counts.txt", "dog, wild 4\nhouse cat 3\nbee 2\nant 1"),
        ("counts.csv", 'bee,2\n"dog, wild",4\nhouse cat,3\nant,1'),
        ("counts.json", '{"ant": 1, "bee": 2, "house cat": 3, "dog, wild": 4}'),
    ],
)
def test_names_may_hold_spaces_and_commas(tmp_path: Path, name: str, text: str) -> None:
    (tmp_path / name).write_text(text)
    assert read_counts(tmp_path / name, NAMES) == (1, 2, 3, 4)


def test_a_name_that_is_a_number_is_no_number_of_a_class(tmp_path: Path) -> None:
    file = tmp_path / "counts.txt"
    file.write_text("2 7\n1 5\n")
    assert read_counts(file, ("1", "2")) == (5, 7)
    file.write_text("0 7\n1 5\n")
    with pytest.raises(PydreamError, match=r"counts\.txt, line 1: '0' is no class"):
        read_counts(file, ("1", "2"))


@pytest.mark.parametrize(
    ("name", "text", "message"),
    [
        ("c.txt", "ant 1\nbee 1\n\nfox 1\ncat 1", "line 4: 'fox' is no class .* ant, bee, cat"),
        ("c.txt", "ant 1\nbee 1\n3 1", "line 3: '3' is no class"),
        ("c.txt", "ant 1\n", "line 1: the file ends without a count for bee, cat"),
        ("c.txt", "", "line 1: the file ends without a count for ant, bee, cat"),
        ("c.txt", "ant 1\nbee 1\n0 2\ncat 1", "line 3: class ant is in line 1 already"),
        ("c.txt", "ant 1\nbee 0\ncat 1", "line 2: the count of class bee .* at least 1, got 0"),
        ("c.txt", "ant 1\nbee -1\ncat 1", "line 2: .* got -1"),
        ("c.txt", "ant 2.5\nbee 1\ncat 1", "line 1: the count of class ant .* got 2.5"),
        ("c.txt", "ant many\nbee 1\ncat 1", "line 1: the count of class ant .* got many"),
        ("c.txt", "ant 1\nbee\ncat 1", "line 2: give a class and its count"),
        ("c.csv", "ant,1\nbee,1,2\ncat,1", "line 2: give a class and its count"),
        ("c.csv", 'ant,1\n"bee,1\ncat,1', "line [23]: unexpected end"),
        ("c.csv", "ant,1\nclass,images\nbee,1", "line 2: 'class' is no class"),
        ("c.json", '{"ant": 1,\n"bee": 1,\n"ant": 1,\n"cat": 1}', "line 3: class ant is in line 1"),
        ("c.json", '{"ant": 1,\n"bee": 1.0,\n"cat": 1}', r"line 2: .* class bee .* got 1\.0"),
        ("c.json", '{"ant": 1,\n\n"bee": true, "cat": 1}', "line 3: .* class bee .* got true"),
        ("c.json", '{"ant": 1,\n"bee": {"x": 1}, "cat": 1}', "line 2: .* class bee .* got "),
        ("c.json", '{"ant": "\\"a\\":",\n"bee": 1}', "line 1: .* class ant .* got "),
        ("c.json", "[1, 2, 3]", "line 1: give one object"),
        ("c.json", '{"ant": 1,\n"bee" 1}', "line 2: this is not JSON"),
    ],
)
def test_faults_of_a_file_are_one_line_with_its_name_and_line(
    tmp_path: Path, name: str, text: str, message: str
) -> None:
    (tmp_path / name).write_text(text)
    with pytest.raises(PydreamError, match=f"{name}, {message}") as caught:
        read_counts(tmp_path / name, PLAIN)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "c.txt").write_bytes(b"\xff\x00ant")
    with pytest.raises(PydreamError, match=r"c\.txt: the counts cannot be read: .* UTF-8"):
        read_counts(tmp_path / "c.txt", PLAIN)


@pytest.mark.parametrize(
    ("sizes", "mean", "counts"),
    [
        ([5, 5, 5], 4, (4, 4, 4)),
        ([300, 100, 100, 1], 5, (11, 4, 4, 1)),  # 19 over 500: 11.4, 3.8 and 3.8
        ([1, 1000], 1, (1, 1)),
        ([10, 10, 1], 2, (3, 2, 1)),  # 2.5 each: the earlier class gains
        ([1, 9, 90], 10, (1, 3, 26)),  # 29 over 99: 2.64 and 26.36
        ([1, 2, 97], 1, (1, 1, 1)),
    ],
)
def test_proportional_counts_by_hand(sizes: list[int], mean: int, counts: tuple[int, ...]) -> None:
    assert in_proportion(sizes, mean) == counts


@pytest.mark.parametrize("seed", range(20))
def test_proportional_counts_are_the_largest_remainders_of_the_shares(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sizes = [int(size) for size in np.ceil(rng.pareto(1, rng.integers(1, 40)) * 10 + 0.01)]
    mean = int(rng.integers(1, 30))
    counts = in_proportion(sizes, mean)
    assert sum(counts) == mean * len(sizes)
    assert min(counts) >= 1
    # The classes whose share is below 1, found by leaving out the smallest, one at a time.
    sharing = sorted(range(len(sizes)), key=lambda label: sizes[label])
    total = mean * len(sizes)
    while Fraction(total * sizes[sharing[0]], sum(sizes[label] for label in sharing)) < 1:
        assert counts[sharing.pop(0)] == 1
        total -= 1
    whole = sum(sizes[label] for label in sharing)
    shares = {label: Fraction(total * sizes[label], whole) for label in sharing}
    lost = {label: share - counts[label] for label, share in shares.items()}
    assert all(abs(rest) < 1 for rest in lost.values())
    gained = [share % 1 for label, share in shares.items() if lost[label] < 0]
    others = [share % 1 for label, share in shares.items() if lost[label] > 0]
    assert min(gained, default=1) >= max(others, default=0)


def config(**changes: Any) -> RdedConfig:
    return RdedConfig(**{"source": "x", "observer": "y", **changes})


def test_a_number_stays_a_number_in_the_identity() -> None:
    assert config().identity()["ipc"] == 10
    assert config(ipc=3).identity()["ipc"] == 3
    assert "small_classes" not in config().identity()
    assert config(small_classes="reuse").identity()["small_classes"] == "reuse"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"ipc": 0}, "ipc must be at least 1, got 0"),
        ({"ipc": "nowhere.csv"}, r"a whole number, a file .*nowhere\.csv, and there is no such"),
        ({"ipc": "2.5"}, "a whole number, a file"),
        ({"ipc": ""}, "ipc is empty"),
        ({"ipc": "proportional"}, r"as in --ipc proportional:10; got proportional$"),
        ({"ipc": "proportional:"}, "proportional takes the mean"),
        ({"ipc": "proportional:0"}, "at least 1"),
        ({"ipc": "proportional:1.5"}, "a whole number"),
        ({"small_classes": "reuse", "crops": 0}, "crops 0 gives one: give --crops 2 or more"),
        ({"small_classes": "reuse", "crops": 1}, "crops 1 gives one: give --crops 2 or more"),
    ],
    ids=str,
)
def test_bad_settings(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PydreamError, match=message):
        config(**changes)


def test_the_default_name_of_a_set_tells_its_counts() -> None:
    assert [ipc_words(ipc) for ipc in (10, "a/tail.csv", "proportional:5")] == [
        "ipc10",
        "ipc-tail",
        "ipc5-proportional",
    ]
