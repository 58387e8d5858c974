from __future__ import annotations

import pytest

from pydream.errors import PydreamError, first_line
from pydream.formatting import bytes_of, listed, size_words


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


@pytest.mark.parametrize(
    ("text", "size", "words"),
    [
        ("1B", 1, "1B"),
        ("300MB", 300_000_000, "300MB"),
        ("0.3 gb", 300_000_000, "300MB"),
        ("1.5GB", 1_500_000_000, "1500MB"),
        ("2GiB", 2**31, "2147483648B"),
        ("1.5kib", 1536, "1536B"),
        ("3TB", 3 * 10**12, "3TB"),
        ("1000B", 1000, "1KB"),
    ],
)
def test_sizes_are_read_and_written_exactly(text: str, size: int, words: str) -> None:
    assert bytes_of("budget", text) == size
    assert size_words(size) == words
    assert bytes_of("budget", words) == size


@pytest.mark.parametrize("text", ["", "MB", "12", "300XB", "-1MB", "0MB", "0.4B", "1iB", "1,5GB"])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(PydreamError, match=r"budget takes a size such as 300MB, .* got"):
        bytes_of("budget", text)


def test_an_error_for_the_user_is_one_line_whatever_it_names() -> None:
    shown = str(PydreamError("a\nb\x1b[2J\x85\u2028\ud800 é"))
    assert shown == "a\\nb\\x1b[2J\\x85\\u2028\\ud800 é"
    assert str(PydreamError(shown)) == shown
