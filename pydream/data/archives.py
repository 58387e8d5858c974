"""Zip and tar archives, read in place; a compressed tar is decompressed once into a cache."""

from __future__ import annotations

import io
import os
import posixpath
import shutil
import tarfile
import threading
import weakref
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import IO, Any, NamedTuple

from pydream.collector import nothing_collected
from pydream.data.cache import COMPRESSED, decompressed, fetched, kept_bytes
from pydream.data.layout import Tree, check_bytes, is_image, join
from pydream.data.remote import AnyPath, RemotePath, read_together
from pydream.data.tar_ends import TAR_ERRORS, check_whole, find_appended, forwards
from pydream.errors import ImageError, PydreamError, first_line, returned

ARCHIVE_SUFFIXES = (
    *(".zip", ".tar", ".tgz", ".tbz", ".tbz2", ".txz", ".tzst"),
    *(".tar.gz", ".tar.bz2", ".tar.xz", ".tar.zst"),
)
"""Files with these endings, in any case, are opened as archives; their content decides the kind."""

_OTHERS = {b"Rar!": "rar", b"7z\xbc\xaf": "7z"}
_INNER_ARCHIVES = (*ARCHIVE_SUFFIXES, ".rar", ".7z")
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # methods of compression
# Nearly all names have none of these and need no cleaning: archives hold up to millions.
_ODD = ("/.", "//")
# Of a local header; the directory and the end of a zip, behind its last member, are longer.
_EXTRA_BYTES = 64
_DEEPEST = 100  # folders of a name; each is kept with its whole path
_MOST_LINKS = 40  # links that one name may follow, as on Linux
_INDEXING = threading.Lock()  # held while an archive is indexed


def open_archive(path: AnyPath) -> Tree:
    """Open an archive of any supported kind.

    Raises
    ------
    PydreamError
        If the file is not an archive, is damaged, or is of an unsupported kind.
    """
    try:
        # Up to millions of objects that all stay: the collector would take half of the time.
        with _INDEXING, nothing_collected():
            return _open(path, _identity(path))
    except OSError as error:
        raise PydreamError(f"{path}: cannot be read: {error.strerror or error}") from error


def _identity(path: AnyPath) -> tuple[object, ...]:
    """Return what changes when an archive does."""
    if isinstance(path, RemotePath):
        return path.state
    status = path.stat()
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size


@lru_cache(maxsize=4)
def _open(path: AnyPath, identity: tuple[object, ...]) -> Tree:
    """Index an archive, and keep the index, because a run opens both splits of the same archive."""
    with path.open("rb", 16) as file:
        start = file.read(6)
    for magic, kind in _OTHERS.items():
        if start.startswith(magic):
            raise PydreamError(f"{path}: {kind} archives are not read; unpack it, or pack it anew")
    for magic in COMPRESSED:
        if start.startswith(magic):
            return TarTree(decompressed(path, magic), path)
    if start.startswith((b"PK\x03\x04", b"PK\x05\x06")) or path.suffix.lower() == ".zip":
        return ZipTree(path)
    return TarTree(fetched(path), path)


class _ArchiveTree(Tree):
    """The folders of an archive, from the names of its members, and its content.

    Parameters
    ----------
    path
        The archive.
    names
        Names of all members, without ``./``.
    named
        Path or name that the user gave, for messages.
    left_out
        See `Tree`.
    """

    def __init__(
        self, path: AnyPath, names: Iterable[str], named: AnyPath, left_out: Counter[str]
    ) -> None:
        self.left_out = left_out
        self._folders: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        images = 0
        archive = ""
        for name in names:
            folder, _, file = name.rpartition("/")
            self._add_folder(folder)
            if file:
                self._folders[folder][1].add(file)
                images += is_image(file)
                if not archive and file.lower().endswith(_INNER_ARCHIVES):
                    archive = name
        if archive and not images:
            raise PydreamError(
                f"{named}: holds no image but archives ({archive}), which are not read inside of "
                "one; unpack it"
            )
        self._remote = path if isinstance(path, RemotePath) else None
        if isinstance(path, Path):
            self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
            weakref.finalize(self, os.close, self._descriptor)

    def _add_folder(self, path: str) -> None:
        if path not in self._folders:  # at most `_DEEPEST` times
            parent, _, name = path.rpartition("/")
            self._add_folder(parent)
            self._folders[parent][0].add(name)
            self._folders[path] = (set(), set())

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of folders and files; see `Tree.list`."""
        folders, files = self._folders[path]
        return sorted(folders), sorted(files)

    def _read_at(self, offset: int, size: int) -> bytes:
        """Read without a shared file position, so that threads do not interfere."""
        if self._remote is not None:
            return self._remote.read_range(offset, offset + size)
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise ImageError(f"cannot be read from the archive: {error.strerror}") from error
        if len(data) < size:
            raise ImageError("the archive ends before the file does")
        return data


class _ZipMember(NamedTuple):
    offset: int  # of the local header
    header: int  # bytes that it is likely to have at most
    stored_size: int
    size: int
    crc: int
    deflated: bool
    readable: bool


class ZipTree(_ArchiveTree):
    """Files inside a zip archive, stored or deflated."""

    def __init__(self, path: AnyPath) -> None:
        self._members: dict[str, _ZipMember] = {}
        left_out: Counter[str] = Counter()
        names = []
        try:
            directory, before = _zip_directory(path)
            with zipfile.ZipFile(directory) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError, EOFError) as error:
            raise PydreamError(
                f"{path}: not a readable zip archive: {first_line(error)}; it may be cut off, or a "
                "part of a split one (join those by `zip -s 0 PART.zip --out WHOLE.zip`)"
            ) from error
        for info in infos:
            name = _clean(info.filename.replace("\\", "/"))
            if name is None:
                left_out.update(_outside(info.filename))
                continue
            names.append(name)
            if not info.is_dir():
                self._members[name] = _zip_member(info, before)
                if is_image(name):
                    _check_readable(path, info)
        super().__init__(path, names, path, left_out)

    def read(self, path: str) -> bytes:
        """Content of a member, checked against its checksum; see `Tree.read`."""
        member = self._checked(path)
        return self._content(member, self._read_at(member.offset, _span(member)))

    def _checked(self, path: str) -> _ZipMember:
        member = self._members[path]
        if not member.readable:
            raise ImageError("is encrypted, or compressed in a way that cannot be read in place")
        check_bytes(max(member.size, member.stored_size))
        return member

    def read_many(self, paths: Sequence[str]) -> Sequence[bytes | ImageError]:
        """Content of members; those side by side in a store are read together."""
        found = [returned(self._checked, path) for path in paths]
        members = [member for member in found if isinstance(member, _ZipMember)]
        if self._remote is None or len(members) < len(found):
            return super().read_many(paths)
        places = [(member.offset, member.offset + _span(member)) for member in members]
        ranges = [(self._remote, start, end) for start, end in places]
        starts = zip(members, read_together(ranges), strict=True)
        return [returned(lambda pair: self._content(*pair), pair) for pair in starts]

    def _content(self, member: _ZipMember, start: bytes) -> bytes:
        """Return the content of a member from the bytes at its local header."""
        if start[:4] != b"PK\x03\x04":
            raise ImageError("the archive is damaged: no local header")
        name_size = int.from_bytes(start[26:28], "little")
        extra_size = int.from_bytes(start[28:30], "little")
        header = 30 + name_size + extra_size
        data = start[header : header + member.stored_size]
        if header > member.header:
            data += self._read_at(member.offset + len(start), header - member.header)
        if member.deflated:
            try:
                # One byte more than none: 0 would set no limit.
                limit = max(1, member.size)
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, limit)
            except zlib.error as error:
                raise ImageError(f"cannot be inflated: {error}") from error
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise ImageError("differs from the checksum in the archive")
        return data

    def size(self, path: str) -> int:
        """Size of a member; see `Tree.size`."""
        return self._members[path].size

    def mark(self, path: str) -> str:
        """CRC and size of a member; see `Tree.mark`."""
        member = self._members[path]
        return f"{member.crc:08x} {member.size}"


def _span(member: _ZipMember) -> int:
    """Return the number of bytes from the local header to the end of the data, or a few more."""
    return member.header + member.stored_size


def _zip_member(info: zipfile.ZipInfo, before: int) -> _ZipMember:
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    readable = not info.flag_bits & 0x1 and info.compress_type in _READABLE
    return _ZipMember(
        info.header_offset + before,
        30 + len(info.orig_filename.encode()) + _EXTRA_BYTES,
        info.compress_size,
        info.file_size,
        info.CRC,
        deflated,
        readable,
    )


def _zip_directory(path: AnyPath) -> tuple[Path | IO[bytes], int]:
    """Return a file with the directory of a zip, and the number of bytes that it lacks before it.

    The file is the end of the archive, in the cache, if the archive is in a store.
    """
    if isinstance(path, Path):
        return path, 0
    name = path.stem, ".directory.zip"
    end = kept_bytes(path, [path], name, "index", partial(_write_end, path))
    return io.BytesIO(end), path.size - len(end)


def _write_end(path: RemotePath, target: IO[bytes]) -> None:
    with path.open("rb") as file, zipfile.ZipFile(file) as archive:
        file.seek(archive.start_dir)
        shutil.copyfileobj(file, target)


def _check_readable(path: AnyPath, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1:
        raise PydreamError(
            f"{path}: member {info.filename!r} is encrypted; repack it without a password"
        )
    if info.compress_type not in _READABLE:
        raise PydreamError(
            f"{path}: member {info.filename!r} is compressed by method {info.compress_type}, "
            "which cannot be read in place; repack it by zip -0"
        )


class _TarMember(NamedTuple):
    offset: int  # of the data
    size: int
    stored: tuple[tuple[int, int], ...] | None  # offset and size of the parts of a sparse file


class TarTree(_ArchiveTree):
    """Files inside a tar archive, and inside tars in it.

    A tar in a tar is a folder named after it, without its suffix, as the classes of ILSVRC 2012 are
    shipped. Links to other members are followed.

    Parameters
    ----------
    path
        The archive, uncompressed.
    named
        Path or name that the user gave, for messages.
    """

    def __init__(self, path: Path, named: AnyPath) -> None:
        self._members: dict[str, _TarMember] = {}
        self._links: dict[str, str] = {}
        self._folder_names: list[str] = []
        self._left_out: Counter[str] = Counter()
        try:
            self._index(path, "", 0, path.stat().st_size)
            inner = [name for name in self._members if name.lower().endswith(".tar")]
            if inner and not any(map(is_image, self._members)):
                for name in inner:
                    member = self._members.pop(name)
                    folder = name[: -len(".tar")]
                    self._folder_names.append(f"{folder}/")  # a class, even if it is empty
                    if member.size:
                        self._index(path, folder, member.offset, member.offset + member.size)
        except TAR_ERRORS as error:
            raise PydreamError(
                f"{named}: not a readable tar archive: {first_line(error)}; it may be damaged or "
                "cut off: fetch it again"
            ) from error
        self._follow_links()
        names = (*self._folder_names, *self._members)
        super().__init__(path, names, named, self._left_out)

    def _index(self, path: Path, folder: str, offset: int, end: int) -> None:
        """Index the members between two offsets of the file, and those of tars appended to it."""
        following: int | None = offset
        with open(path, "rb") as file:
            while following is not None:
                file.seek(following)
                last = None
                with tarfile.open(fileobj=file, mode="r:", encoding="utf-8") as archive:
                    for last in forwards(archive):
                        archive.members = []  # type: ignore[attr-defined]  # it would only grow
                        self._note(last, folder)
                        if archive.offset >= end:
                            break
                    stopped = archive.offset
                check_whole(file, stopped, end, last, folder)
                following, rest = find_appended(file, stopped, end)
                if rest:
                    self._left_out["bytes behind the end of the tar"] += rest

    def _note(self, member: tarfile.TarInfo, folder: str) -> None:
        name = _clean(join(folder, _text(member.name)))
        if name is None:
            self._left_out.update(_outside(member.name))
        elif member.isdir():
            self._folder_names.append(f"{name}/")
        elif member.isreg():
            self._add(name, member)
        elif member.issym() or member.islnk():
            self._add_link(name, member, folder)
        else:
            self._left_out["devices and pipes"] += 1

    def _add(self, name: str, member: tarfile.TarInfo) -> None:
        stored: Any = member.sparse if member.issparse() else None
        self._members[name] = _TarMember(member.offset_data, member.size, stored)
        self._links.pop(name, None)  # the last member of a name counts, as in unpacking

    def _add_link(self, name: str, member: tarfile.TarInfo, folder: str) -> None:
        """Record the target of a link; a symbolic link is relative to its folder."""
        start = posixpath.dirname(name) if member.issym() else folder
        target = _text(member.linkname)
        if member.islnk():
            target = target.lstrip("/")
        self._links[name] = posixpath.normpath(posixpath.join(start, target))
        self._members.pop(name, None)

    def _follow_links(self) -> None:
        """Give links to files the content of their targets, and count the others."""
        for name, target in self._links.items():
            for _ in range(_MOST_LINKS):
                if target not in self._links:
                    break
                target = self._links[target]
            if target in self._members:
                self._members[name] = self._members[target]
            else:
                self._left_out["links that lead to no file in the archive"] += 1

    def read(self, path: str) -> bytes:
        """Content of a member; see `Tree.read`."""
        member = self._members[path]
        check_bytes(member.size)
        if member.stored is None:
            return self._read_at(member.offset, member.size)
        content, position = bytearray(member.size), member.offset
        for start, size in member.stored:
            check_bytes(start + size)
            content[start : start + size] = self._read_at(position, size)
            position += size
        return bytes(content)

    def size(self, path: str) -> int:
        """Size of a member; see `Tree.size`."""
        return self._members[path].size

    def mark(self, path: str) -> str:
        """Size of a member; see `Tree.mark`."""
        return str(self.size(path))


def _text(name: str) -> str:
    """Return the name of a member as text: UTF-8 or, failing that, Latin-1."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return name.encode("utf-8", "surrogateescape").decode("latin-1")
    return name


def _outside(name: str) -> list[str]:
    """Return the kind of a name that cannot be listed; empty for the root."""
    if name.count("/") > _DEEPEST:
        return [f"names of more than {_DEEPEST} folders"]
    return ["names that lead out of the archive"] if ".." in name else []


def _clean(name: str) -> str | None:
    """Return a member name without ``./``; None if it is empty, too deep or leads outside.

    A name that ends in a slash is a folder, and keeps the slash.
    """
    if name.count("/") > _DEEPEST:
        return None
    if not name.startswith((".", "/")) and not any(odd in name for odd in _ODD):
        return name or None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        return None
    return "/".join(parts) + "/" * name.endswith("/")
