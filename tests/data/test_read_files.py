"""Files read without the interpreter's lock have the content and size that Python reads."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from pydream import _C
from pydream.data import open_source
from pydream.data.layout import MOST_BYTES
from pydream.errors import ImageError

THROUGH_A_PIPE = """
import sys, threading
from pydream import _C
content = bytes(range(256)) * 1000  # more than a pipe holds
found = []
paths = [sys.argv[1].encode()]
reader = threading.Thread(target=lambda: found.extend(_C.read_files(paths, 1 << 30)))
reader.start()
with open(sys.argv[1], "wb") as pipe:
    pipe.write(content)
reader.join()
assert found == [content]
"""
SIZES = (0, 1, 2, 4095, 4096, 4097, 65536, (1 << 20) + 3)


def read(*paths: Path, most: int = MOST_BYTES) -> list[bytes | int]:
    return _C.read_files([os.fsencode(path) for path in paths], most)


def sizes(*paths: Path) -> list[int]:
    return _C.file_sizes([os.fsencode(path) for path in paths])


def write_files(folder: Path) -> list[Path]:
    rng = np.random.default_rng(3)
    paths = [folder / f"{size} ä\n日本" for size in SIZES]
    for path, size in zip(paths, SIZES, strict=True):
        path.write_bytes(rng.bytes(size))
    return paths


def test_many_files_at_once_are_read_whole_and_in_order(tmp_path: Path) -> None:
    paths = write_files(tmp_path)
    backwards = [*paths[::-1], *paths]
    assert read(*backwards) == [path.read_bytes() for path in backwards]
    assert read() == []
    assert sizes(*backwards) == [path.stat().st_size for path in backwards]
    assert sizes() == []


def test_what_cannot_be_read_is_a_number_among_the_others(tmp_path: Path) -> None:
    [path] = write_files(tmp_path)[3:4]
    looped = tmp_path / "loop"
    looped.symlink_to(looped)
    found = read(tmp_path / "missing", path, tmp_path, looped, tmp_path / ("x" * 300))
    wrong = (errno.ENOENT, errno.EISDIR, errno.ELOOP, errno.ENAMETOOLONG)
    assert found == [wrong[0], path.read_bytes(), *wrong[1:]]
    asked = sizes(tmp_path / "missing", path, looped, tmp_path / ("x" * 300))
    assert asked == [-wrong[0], path.stat().st_size, *(-number for number in wrong[2:])]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_of_others_is_refused(tmp_path: Path) -> None:
    (tmp_path / "locked").touch(0)
    assert read(tmp_path / "locked") == [errno.EACCES]


def test_a_file_above_the_limit_is_not_read(tmp_path: Path) -> None:
    paths = write_files(tmp_path)
    found = read(*paths, most=4096)
    assert found[:5] == [path.read_bytes() for path in paths[:5]]
    assert found[5:] == [-size for size in SIZES[5:]]
    (tmp_path / "a").mkdir()
    with open(tmp_path / "a" / "vast.png", "wb") as file:
        file.truncate(MOST_BYTES + 1)  # without a block on the disk
    with pytest.raises(ImageError, match="has 1,073,741,825 bytes, above the limit"):
        open_source(tmp_path).read(0)


def test_errors_have_the_words_of_the_system(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "0.png").touch()
    (tmp_path / "a" / "1.png").touch()
    source = open_source(tmp_path)
    (tmp_path / "a" / "0.png").unlink()
    with_one_missing = source.fingerprint()
    (tmp_path / "a" / "0.png").touch()
    assert source.fingerprint() != with_one_missing  # it is no empty file
    (tmp_path / "a" / "0.png").unlink()
    missing, empty = source.read_many([0, 1])
    assert str(missing) == f"cannot be read: {os.strerror(errno.ENOENT)}"
    assert empty == b""


@pytest.mark.parametrize("path", ["/proc/self/stat", "/sys/devices/system/cpu/possible"])
def test_files_of_unknown_size_are_read_to_their_end(path: str) -> None:
    """The first says that it is empty, the second that it is longer than it is."""
    if not Path(path).exists():
        pytest.skip(f"the system has no {path}")
    [found] = read(Path(path))
    assert isinstance(found, bytes)
    assert found.split()[0] == Path(path).read_bytes().split()[0]
    assert found.endswith(b"\n")


def test_what_grows_beyond_the_limit_is_given_up() -> None:
    """A device without an end, which says that it is empty."""
    [found] = read(Path("/dev/zero"), most=100_000)
    assert isinstance(found, int)
    assert -110_000 < found < -100_000


def test_other_threads_run_while_a_file_is_waited_for(tmp_path: Path) -> None:
    """A pipe opens once both ends are, so a reader that kept the lock would never return."""
    os.mkfifo(tmp_path / "pipe")
    done = subprocess.run(
        [sys.executable, "-c", THROUGH_A_PIPE, str(tmp_path / "pipe")], timeout=120, text=True
    )
    assert done.returncode == 0


def test_a_name_that_is_no_text_is_read(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        path.write_bytes(b"coffee")
    except OSError:
        pytest.skip("this file system has only names that are text")
    assert read(path) == [b"coffee"]
    assert sizes(path) == [6]


def test_a_name_is_not_cut_off(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"a")
    assert read(tmp_path / "a\0b") == [errno.EINVAL]
    assert sizes(tmp_path / "a\0b") == [-errno.EINVAL]


def test_no_descriptor_is_left_open(tmp_path: Path) -> None:
    paths = [*write_files(tmp_path), tmp_path, tmp_path / "missing"]
    descriptors = Path("/proc/self/fd")
    if not descriptors.exists():
        pytest.skip("the system does not list open files")
    before = len([*descriptors.iterdir()])
    for _ in range(10):
        read(*paths)
        read(*paths, most=10)
    assert len([*descriptors.iterdir()]) == before
