from __future__ import annotations

import pytest

from pydream.errors import first_line
from pydream.formatting import listed


@pytest.mark.parametrize(
    ("count", "words"),
    [
        (0, ""),
        (1, "0"),
        (3, "0, 1, 2"),
        (4, "0, 1, 2 and 1 more"),
        (1003, "0, 1, 2 and 1,000 more"),
    ],
)
def test_a_long_list_is_cut_short_and_the_rest_counted(count: int, words: str) -> None:
    assert listed([str(number) for number in range(count)]) == words


@pytest.mark.parametrize(
    ("message", "words"),
    [("broken", "broken"), ("\nfirst\nsecond", "first"), ("", "ValueError"), (" \n", "ValueError")],
)
def test_an_error_is_told_in_one_line_and_by_its_name_where_it_has_none(
    message: str, words: str
) -> None:
    assert first_line(ValueError(message)) == words
