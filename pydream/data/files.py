"""Images as files: in a folder, or inside a zip or tar archive, which is read in place."""

from __future__ import annotations

import hashlib
import os
import tarfile
import weakref
import zipfile
import zlib
from collections.abc import Callable, Iterable
from dataclasses import replace
from functools import lru_cache, partial
from pathlib import Path
from typing import NamedTuple

from pydream.data.base import Source
from pydream.data.class_folders import find_class_folders, refuse_parts
from pydream.data.decode import first_line
from pydream.data.imagenet import find_imagenet, raised_root
from pydream.data.label_files import LabelFiles, find_label_files
from pydream.data.layout import Layout, Splits, Tree, is_image, join
from pydream.errors import ImageError, PydreamError

_COMPRESSED = {
    b"\x1f\x8b": "gunzip",
    b"BZh": "bunzip2",
    b"\xfd7zXZ": "unxz",
    b"(\xb5/\xfd": "unzstd",
}
_READABLE = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # methods of compression
# Names without these, nearly all, need no cleaning: archives hold up to millions.
_ODD = ("/.", "//")


class FileSource(Source):
    """Images that are files of a tree.

    Parameters
    ----------
    tree
        The files.
    description
        What the user named.
    split
        ``"train"`` or ``"test"``.
    table
        The file of labels to take, a path in the tree; by default it is looked for.
    """

    def __init__(self, tree: Tree, description: str, split: str, table: str | None = None) -> None:
        layout = find_splits(tree, description, table).open(split, description)
        super().__init__(
            description=description,
            split=split,
            class_names=layout.class_names,
            keys=layout.keys,
            labels=layout.labels,
            ignored=layout.ignored,
            notes=layout.notes,
        )
        self._tree = tree
        self._root = layout.root
        self._named_labels = bool(layout.labels_from)

    def read(self, index: int) -> bytes:
        """Read the encoded file; see `Source.read`."""
        return self._tree.read(join(self._root, self.keys[index]))

    def fingerprint(self, indices: Iterable[int] | None = None) -> str:
        """SHA-256 over class names, keys, and sizes or checksums; see `Source.fingerprint`.

        Labels count where they are not in the keys.
        """
        digest = hashlib.sha256("\0".join((*self.class_names, "", *self.keys)).encode())
        if self._named_labels:
            digest.update(self.labels.astype("<i8").tobytes())
        for index in range(len(self)) if indices is None else indices:
            digest.update(f"\n{self._tree.mark(join(self._root, self.keys[index]))}".encode())
        return digest.hexdigest()


def find_splits(tree: Tree, description: str, table: str | None = None) -> Splits:
    """Find out how the images of a tree are laid out and labelled.

    Parameters
    ----------
    tree
        The files.
    description
        What the user named, for messages.
    table
        The file of labels to take, a path in the tree; by default it is looked for.

    Raises
    ------
    PydreamError
        When the names contradict each other, or `table` cannot be understood.
    """
    if table is None and (splits := find_imagenet(tree, description)) is not None:
        return splits
    tables = find_label_files(tree, description, table)
    if tables.splits is not None and tables.decides:
        return tables.splits
    splits = find_class_folders(tree, description)
    if "train" not in splits.lay_out:
        return splits
    train = partial(_checked_train, splits.lay_out["train"], description, tables)
    return replace(splits, lay_out={**splits.lay_out, "train": train})


def _checked_train(lay_out: Callable[[], Layout], description: str, tables: LabelFiles) -> Layout:
    """Lay out class folders, refuse what can be no classes, and tell of tables beside them."""
    try:
        layout = lay_out()
    except PydreamError as error:
        raise PydreamError(f"{error}; {tables.problem}" if tables.problem else str(error)) from None
    refuse_parts(layout, description)
    notes = [tables.note, tables.problem if len(layout.class_names) == 1 else ""]
    return replace(layout, notes=tuple(filter(None, notes)))


def open_tree(path: Path) -> Tree:
    """Open a folder, ``.zip`` or ``.tar`` for reading in place.

    Raises
    ------
    PydreamError
        When it is neither, damaged, or of a kind that cannot be read in place.
    """
    if path.is_dir():
        return FolderTree(raised_root(path))
    try:
        status = path.stat()
        identity = (status.st_dev, status.st_ino, status.st_mtime_ns, status.st_size)
        return _open_archive(path, identity)
    except OSError as error:
        raise PydreamError(f"{path}: cannot be read: {error.strerror or error}") from error


@lru_cache(maxsize=2)
def _open_archive(path: Path, identity: tuple[int, ...]) -> Tree:
    """Index an archive; kept, since a run opens both splits of the same one."""
    return ZipTree(path) if path.suffix.lower() == ".zip" else TarTree(path)


class FolderTree(Tree):
    """Files of a folder; links are followed."""

    def __init__(self, path: Path) -> None:
        self._path = str(path)

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of folders and files; see `Tree.list`."""
        full = join(self._path, path) if path else self._path
        folders, files = [], []
        try:
            with os.scandir(full) as entries:
                for entry in entries:
                    if entry.is_dir():
                        if entry.is_symlink():
                            self._refuse_cycle(entry.path)
                        folders.append(entry.name)
                    elif entry.is_file():
                        files.append(entry.name)
                    elif entry.is_symlink():  # to nothing: an error when it is read or listed
                        has_extension = "." in entry.name.lstrip(".")
                        (files if has_extension else folders).append(entry.name)
        except OSError as error:
            raise PydreamError(f"{full}: cannot be listed: {error.strerror}") from error
        return sorted(folders), sorted(files)

    def read(self, path: str) -> bytes:
        """Content of a file; see `Tree.read`."""
        try:
            with open(join(self._path, path), "rb", buffering=0) as file:
                return file.readall()
        except OSError as error:
            raise ImageError(f"cannot be read: {error.strerror}") from error

    def mark(self, path: str) -> str:
        """Size of a file in bytes; see `Tree.mark`."""
        try:
            return str(os.stat(join(self._path, path)).st_size)
        except OSError:
            return "missing"

    def _refuse_cycle(self, link: str) -> None:
        """Refuse a link that leads back to a folder on the way to it: there would be no end."""
        target = os.path.realpath(link)
        folder, inner = os.path.dirname(link), link
        while len(folder) >= len(self._path) and folder != inner:
            way = os.path.realpath(folder)
            if os.path.commonpath((way, target)) == target:
                raise PydreamError(f"{link}: links to a folder that it lies in; remove the link")
            folder, inner = os.path.dirname(folder), folder


class _ArchiveTree(Tree):
    """Folders of an archive, from the names of its members, and its bytes."""

    def __init__(self, path: Path, names: Iterable[str]) -> None:
        self._folders: dict[str, tuple[set[str], set[str]]] = {"": (set(), set())}
        for name in names:
            folder, _, file = name.rpartition("/")
            self._add_folder(folder)
            if file:
                self._folders[folder][1].add(file)
        self._descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        weakref.finalize(self, os.close, self._descriptor)

    def _add_folder(self, path: str) -> None:
        if path not in self._folders:
            parent, _, name = path.rpartition("/")
            self._add_folder(parent)
            self._folders[parent][0].add(name)
            self._folders[path] = (set(), set())

    def list(self, path: str) -> tuple[list[str], list[str]]:
        """Sorted names of folders and files; see `Tree.list`."""
        folders, files = self._folders[path]
        return sorted(folders), sorted(files)

    def _read_at(self, offset: int, size: int) -> bytes:
        """Read without moving a shared file position, so that threads do not meet."""
        try:
            data = os.pread(self._descriptor, size, offset)
        except OSError as error:
            raise ImageError(f"cannot be read from the archive: {error.strerror}") from error
        if len(data) < size:
            raise ImageError("the archive ends before the file does")
        return data


class _ZipMember(NamedTuple):
    offset: int  # of the local header
    stored_size: int
    size: int
    crc: int
    deflated: bool
    readable: bool


class ZipTree(_ArchiveTree):
    """Files inside a zip archive, stored or deflated."""

    def __init__(self, path: Path) -> None:
        self._members: dict[str, _ZipMember] = {}
        names = []
        try:
            with zipfile.ZipFile(path) as archive:
                infos = archive.infolist()
        except (zipfile.BadZipFile, ValueError, NotImplementedError) as error:
            raise PydreamError(
                f"{path}: not a readable zip archive: {first_line(error)}"
            ) from error
        for info in infos:
            name = _clean(info.filename.replace("\\", "/"))
            if name is None:
                continue
            names.append(name)
            if not info.is_dir():
                self._members[name] = _zip_member(info)
                if is_image(name):
                    _check_readable(path, info)
        super().__init__(path, names)

    def read(self, path: str) -> bytes:
        """Content of a member, checked against its checksum; see `Tree.read`."""
        member = self._members[path]
        if not member.readable:
            raise ImageError("is encrypted, or compressed in a way that cannot be read in place")
        header = self._read_at(member.offset, 30)
        if header[:4] != b"PK\x03\x04":
            raise ImageError("the archive is damaged: no local header")
        name_size = int.from_bytes(header[26:28], "little")
        extra_size = int.from_bytes(header[28:30], "little")
        data = self._read_at(member.offset + 30 + name_size + extra_size, member.stored_size)
        if member.deflated:
            try:
                data = zlib.decompressobj(-zlib.MAX_WBITS).decompress(data, member.size)
            except zlib.error as error:
                raise ImageError(f"cannot be inflated: {error}") from error
        if len(data) != member.size or zlib.crc32(data) != member.crc:
            raise ImageError("differs from the checksum in the archive")
        return data

    def mark(self, path: str) -> str:
        """CRC and size of a member; see `Tree.mark`."""
        member = self._members[path]
        return f"{member.crc:08x} {member.size}"


def _zip_member(info: zipfile.ZipInfo) -> _ZipMember:
    deflated = info.compress_type == zipfile.ZIP_DEFLATED
    readable = not info.flag_bits & 0x1 and info.compress_type in _READABLE
    return _ZipMember(
        info.header_offset, info.compress_size, info.file_size, info.CRC, deflated, readable
    )


def _check_readable(path: Path, info: zipfile.ZipInfo) -> None:
    if info.flag_bits & 0x1:
        raise PydreamError(
            f"{path}: member {info.filename!r} is encrypted; repack it without a password"
        )
    if info.compress_type not in _READABLE:
        raise PydreamError(
            f"{path}: member {info.filename!r} is compressed by method {info.compress_type}, "
            "which cannot be read in place; repack it by zip -0"
        )


class TarTree(_ArchiveTree):
    """Files inside an uncompressed tar archive."""

    def __init__(self, path: Path) -> None:
        with open(path, "rb") as file:
            start = file.read(6)
        for magic, tool in _COMPRESSED.items():
            if start.startswith(magic):
                raise PydreamError(
                    f"{path}: a compressed tar cannot be read in place; decompress it ({tool})"
                )
        self._members: dict[str, tuple[int, int]] = {}
        names = []
        try:
            with tarfile.open(path, "r:") as archive:
                for member in archive:
                    archive.members = []  # type: ignore[attr-defined]  # it would only grow
                    name = _clean(member.name + "/" * member.isdir())
                    if name is None or not (member.isdir() or member.isreg()):
                        continue
                    names.append(name)
                    if member.isreg():
                        self._members[name] = member.offset_data, member.size
        except (tarfile.TarError, ValueError, EOFError) as error:
            raise PydreamError(
                f"{path}: not a readable tar archive: {first_line(error)}"
            ) from error
        super().__init__(path, names)

    def read(self, path: str) -> bytes:
        """Content of a member; see `Tree.read`."""
        return self._read_at(*self._members[path])

    def mark(self, path: str) -> str:
        """Size of a member; see `Tree.mark`."""
        return str(self._members[path][1])


def _clean(name: str) -> str | None:
    """Member name without ``./``; None for what has no name or points out of the archive.

    A name that ends in a slash is a folder, and keeps the slash.
    """
    if not name.startswith((".", "/")) and not any(odd in name for odd in _ODD):
        return name or None
    parts = [part for part in name.split("/") if part not in ("", ".")]
    if not parts or ".." in parts:
        return None
    return "/".join(parts) + "/" * name.endswith("/")
