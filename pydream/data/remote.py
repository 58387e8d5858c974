"""Files and folders of stores, used as those of a disk are."""

from __future__ import annotations

import io
import os
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from functools import lru_cache
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple
from urllib.parse import quote, unquote

from pydream.data.layout import Tree, is_clutter, join
from pydream.data.stores import MissingObjectError, Store, mark_of, open_store, pool, size_of
from pydream.errors import ImageError, PydreamError, returned
from pydream.urls import is_url, without_secrets

_TRUSTED_SECONDS = 60  # after which a large file is checked for changes before it is read on
_LISTED_SECONDS = 300  # for which the listing of a folder serves the sources opened in it
_BUFFER = 1 << 18
# A request costs as much as some hundred kilobytes; what is read together stays within one.
_GAP, _TOGETHER = 1 << 17, 8 << 20


class State(NamedTuple):
    """What tells whether a file has changed; its size is None if the store does not tell it."""

    size: int | None
    mark: str


class RemotePath:
    """A file or folder of a store, with the methods of `pathlib.Path` that sources use.

    Parameters
    ----------
    store
        The store.
    key
        Name in the store.
    shown
        The URL, without secrets.
    state
        State of the file, if it is known.

    Raises
    ------
    PydreamError
        From all methods that ask the store, if it does not answer or denies access.
    """

    def __init__(self, store: Store, key: str, shown: str, state: State | None = None) -> None:
        self._store, self._key, self._shown = store, key, shown.rstrip("/")
        self._state = state
        self._checked = time.monotonic()

    def __str__(self) -> str:
        return self._shown

    def __eq__(self, other: object) -> bool:
        return isinstance(other, RemotePath) and self._identity == other._identity

    def __hash__(self) -> int:
        return hash(self._identity)

    @property
    def _identity(self) -> tuple[str, str]:
        return self._store.protocol, self._key

    def __lt__(self, other: RemotePath) -> bool:
        return self._shown < other._shown

    def __truediv__(self, name: str) -> RemotePath:
        return self.child(name, None)

    def child(self, name: str, state: State | None) -> RemotePath:
        """Return a file or folder in this folder, with its state if it is known."""
        key = quote(name) if self._store.is_web else name
        return RemotePath(self._store, f"{self._key}/{key}", f"{self._shown}/{name}", state)

    @property
    def name(self) -> str:
        """The last part of the path; empty for the root of a web server."""
        place = self._shown.partition("://")[2] if self._store.is_web else self._shown
        _, slash, name = place.rpartition("/")
        return name if slash else ""

    @property
    def stem(self) -> str:
        """The name without its last suffix."""
        return PurePosixPath(self.name).stem

    @property
    def suffix(self) -> str:
        """The last suffix of the name."""
        return PurePosixPath(self.name).suffix

    @property
    def parent(self) -> RemotePath:
        """The folder of the path."""
        key, shown = (text.rpartition("/")[0] for text in (self._key, self._shown))
        return RemotePath(self._store, key, shown)

    @property
    def state(self) -> State:
        """State of the file when it was listed or first asked for."""
        if self._state is None:
            self._state = self._state_now()
        return self._state

    def _state_now(self) -> State:
        info = self._store.info(self._key, self._shown)
        return State(size_of(info), mark_of(info))

    def is_file(self) -> bool:
        """Return whether there is such a file; on a web server, one whose name has a suffix."""
        if self._store.is_web and not self.suffix:
            return False
        try:
            info = self._store.info(self._key, self._shown)
        except MissingObjectError:
            return False
        if info["type"] == "directory":
            return False
        self._state = State(size_of(info), mark_of(info))
        return True

    def is_dir(self) -> bool:
        """Return whether there is such a folder."""
        if self._store.is_web and self.suffix:
            return False
        try:
            folders, files = self.list()
        except MissingObjectError:
            return False
        return bool(folders or files)

    def exists(self) -> bool:
        """Return whether there is such a file or folder."""
        return self.is_file() or self.is_dir()

    def list(self) -> tuple[list[str], dict[str, State]]:
        """Return the sorted names of the folders, and the files by name, directly in a folder."""
        folders, files = [], {}
        key = f"{self._key}/" if self._store.is_web else self._key
        for info in self._store.list(key, self._shown):
            place = str(info["name"]).rstrip("/")
            name = place.rpartition("/")[2]
            if place == self._key or not name or (self._store.is_web and "?" in name):
                continue  # the marker of the folder itself, and links that sort a listing
            name = unquote(name) if self._store.is_web else name
            if "/" in name or name in (".", ".."):
                continue  # such a link leads to another folder
            if info["type"] == "directory":
                folders.append(name)
            else:
                files[name] = State(size_of(info), mark_of(info))
        return sorted(folders), dict(sorted(files.items()))

    def open(self, mode: str = "rb", buffering: int = _BUFFER) -> io.BufferedReader:
        """Open the file for reading bytes."""
        assert mode == "rb"
        return io.BufferedReader(RemoteFile(self), buffering)

    def read_text(self, encoding: str) -> str:
        """Return the content of a text file."""
        return self.read_range(0, self.size).decode(encoding)

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        size = self.state.size
        if size is None:
            raise PydreamError(f"{self}: the server does not tell its size; fetch the file")
        return size

    def read_range(self, start: int, end: int) -> bytes:
        """Return bytes of the file. Thread-safe.

        Raises
        ------
        PydreamError
            If the file has changed since its state was asked for.
        """
        if time.monotonic() - self._checked > _TRUSTED_SECONDS:
            self._check_unchanged()
        try:
            data = self._store.read(self._key, self._shown, start, end)
        except PydreamError:
            self._check_unchanged()
            raise
        if len(data) < end - start:
            self._check_unchanged()
            raise PydreamError(f"{self}: ends before byte {end}")
        return data

    def read_whole(self, state: State) -> bytes:
        """Return the content of a small file that had this state when it was listed."""
        if state.size == 0:
            return b""
        size = self.size if state.size is None else state.size
        try:
            # One byte more tells whether it has grown.
            data = self._store.read(self._key, self._shown, 0, size + 1)
        except MissingObjectError as error:
            raise self._changed() from error
        if len(data) != size:
            raise self._changed()
        return data

    def _check_unchanged(self) -> None:
        try:
            now: State | None = self._state_now()
        except MissingObjectError:
            now = None
        if now != self.state:
            raise self._changed()
        self._checked = time.monotonic()

    def _changed(self) -> PydreamError:
        return PydreamError(f"{self}: has changed since it was listed; start again")


AnyPath = Path | RemotePath


def located(name: str | os.PathLike[str]) -> AnyPath:
    """Return the file or folder that a path or URL names; ``file://`` names one of the disk."""
    if not isinstance(name, str) or not is_url(name):
        return Path(name)
    if name.startswith("file://"):
        return Path(unquote(name.removeprefix("file://")))
    store, key = open_store(name)
    return RemotePath(store, key, without_secrets(name))


def folders_and_files(folder: AnyPath, suffix: str) -> tuple[list[str], list[AnyPath]]:
    """Return the names of the folders in a folder, and its files of a kind; both sorted."""
    if isinstance(folder, RemotePath):
        names, found = folder.list()
        remote = [
            folder.child(name, state if state.size is not None else None)
            for name, state in found.items()
        ]
        return (
            [name for name in names if not is_clutter(name)],
            [file for file in remote if not is_clutter(file.name) and _ends(file.name, suffix)],
        )
    folders, files = [], []
    with os.scandir(folder) as entries:
        for entry in entries:
            if is_clutter(entry.name):
                continue
            if entry.is_dir():
                folders.append(entry.name)
            elif _ends(entry.name, suffix):
                files.append(folder / entry.name)
    return sorted(folders), [*sorted(files)]


def _ends(name: str, suffix: str) -> bool:
    return name.lower().endswith(suffix)


class RemoteFile(io.RawIOBase):
    """A file of a store, opened for reading; each read is a request, unless it was preloaded."""

    def __init__(self, path: RemotePath, ranges: Sequence[tuple[int, int]] = ()) -> None:
        super().__init__()
        self._path, self._place = path, 0
        contents = pool().map(lambda part: path.read_range(*part), ranges)
        views = [memoryview(content) for content in contents]
        self._loaded = dict(zip(ranges, views, strict=True))

    def readable(self) -> bool:
        """Return True."""
        return True

    def seekable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to a place, counted from the start, from here or from the end."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._place, os.SEEK_END: self._path.size}[whence]
        if base + offset < 0:
            raise ValueError(f"negative place in a file: {base + offset}")
        self._place = base + offset
        return self._place

    def tell(self) -> int:
        """Return the place."""
        return self._place

    def read(self, size: int | None = -1) -> Any:
        """Return the next bytes, to the end if the size is negative; a view if preloaded."""
        start, end = self._place, self._path.size
        if size is not None and size >= 0:
            end = min(start + size, end)
        self._place = end = max(start, end)
        for (first, last), content in self._loaded.items():
            if first <= start and end <= last:
                return content[start - first : end - first]
        return self._path.read_range(start, end)

    def readinto(self, buffer: Any) -> int:
        """Fill a buffer, as far as the file goes."""
        data = self.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)


def read_together(ranges: Sequence[tuple[RemotePath, int, int]]) -> list[bytes]:
    """Return ranges of files, from start to end, of which near ones are read by one request.

    Not for the threads of `pool`, for which it may wait.
    """
    order = sorted(range(len(ranges)), key=lambda place: (str(ranges[place][0]), ranges[place][1]))
    spans: list[tuple[RemotePath, int, int, list[int]]] = []
    for place in order:
        path, start, end = ranges[place]
        if spans and spans[-1][0] == path:
            _, first, last, members = spans[-1]
            if start - last <= _GAP and max(end, last) - first <= _TOGETHER:
                spans[-1] = path, first, max(end, last), [*members, place]
                continue
        spans.append((path, start, end, [place]))
    contents: list[bytes] = [b""] * len(ranges)
    found = pool().map(lambda span: span[0].read_range(span[1], span[2]), spans)
    for (_, first, _, members), data in zip(spans, found, strict=True):
        for place in members:
            _, start, end = ranges[place]
            contents[place] = data[start - first : end - first]
    return contents


class RemoteTree(Tree):
    """Files of a folder of a store. Folders are listed ahead, many at once."""

    def __init__(self, root: RemotePath) -> None:
        self._root = root
        self._lock = threading.Lock()
        self._listed: dict[str, Future[tuple[list[str], dict[str, State]]]] = {}

    def _listing(self, path: str) -> Future[tuple[list[str], dict[str, State]]]:
        with self._lock:
            if path not in self._listed:
                self._listed[path] = pool().submit(self._place(path).list)
            return self._listed[path]

    def _place(self, path: str) -> RemotePath:
        return self._root / path if path else self._root

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of folders and files; see `Tree.list`."""
        folders, files = self._listing(path).result()
        for name in folders:
            self._listing(join(path, name))
        return folders.copy(), list(files)

    def _state(self, path: str) -> State:
        folder, _, name = path.rpartition("/")
        state = self._listing(folder).result()[1].get(name)
        if state is None:
            raise ImageError("cannot be read: there is no such file")
        return state

    def read(self, path: str) -> bytes:
        """Content of a file; see `Tree.read`."""
        return self._place(path).read_whole(self._state(path))

    def read_many(self, paths: Sequence[str]) -> Sequence[bytes | ImageError]:
        """Content of files, read at once; see `Tree.read_many`."""
        # Listings are found here, because the pool's threads must not wait for each other.
        states = [returned(self._state, path) for path in paths]
        return list(pool().map(self._read_in, paths, states))

    def _read_in(self, path: str, state: State | ImageError) -> bytes | ImageError:
        return state if isinstance(state, ImageError) else self._place(path).read_whole(state)

    def size(self, path: str) -> int:
        """Size of a file; see `Tree.size`."""
        size = self._state(path).size
        return self._place(path).size if size is None else size

    def mark(self, path: str) -> str:
        """Size of a file; see `Tree.mark`."""
        return str(self.size(path))


def remote_tree(root: RemotePath) -> RemoteTree:
    """Return the files of a folder, as they were listed a short while ago or are listed now."""
    return _listed_tree(root, int(time.monotonic() // _LISTED_SECONDS))


@lru_cache(maxsize=4)
def _listed_tree(root: RemotePath, period: int) -> RemoteTree:
    return RemoteTree(root)
