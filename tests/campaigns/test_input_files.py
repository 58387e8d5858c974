"""Damaged archives, tables, sets and networks: an answer that a reference confirms, or one line.

docs/reliability.md says what is promised here.
"""

from __future__ import annotations

import contextlib
import csv
import io
import json
import tarfile
import zipfile
import zlib
from collections.abc import Mapping
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from campaigns.conftest import Campaign
from campaigns.file_trials import FileTrials, Look
from campaigns.mutations import Blocks, lines, pieces
from campaigns.trials import expect_no_fault, make_trials
from pictures import encode, make_pixels

from pydream.data import ImageError, open_source

SEED = 27
CLASSES = ("ant", "bee")
IMAGES = {
    f"{name}/{number}.png": encode(make_pixels(5, 4, seed=number + 9 * label), "PNG")
    for label, name in enumerate(CLASSES)
    for number in range(3)
}


def zipped() -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for number, (name, data) in enumerate(IMAGES.items()):
            kind = zipfile.ZIP_STORED if number % 2 else zipfile.ZIP_DEFLATED
            archive.writestr(zipfile.ZipInfo(name), data, kind)
    return stream.getvalue()


def tarred(members: Mapping[str, bytes], form: int = tarfile.PAX_FORMAT, mode: str = "w") -> bytes:
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode=mode, format=form) as archive:  # type: ignore[call-overload]
        for name, data in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(data)
            if name.startswith("bee"):
                member.pax_headers = {"comment": "a bee"}
            archive.addfile(member, io.BytesIO(data))
    return stream.getvalue()


def shard() -> bytes:
    members = {}
    for name, data in IMAGES.items():
        key = name.replace("/", "")
        number = str(CLASSES.index(name.partition("/")[0]))
        members[key] = data
        label = {".cls": number} if "0" in name else {".json": f'{{"label": {number}}}'}
        for ending, text in label.items():
            members[key.replace(".png", ending)] = text.encode()
    return tarred(members)


def parquet(*, as_of_hub: bool = False) -> bytes:
    """Return a file with words as labels, or with numbers and their names, as the Hub has them."""
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    rows = [{"bytes": data, "path": name} for name, data in IMAGES.items()]
    words = [name.partition("/")[0] for name in IMAGES]
    labels = [CLASSES.index(word) for word in words] if as_of_hub else words
    stream = io.BytesIO()
    table = pa.table({"image": pa.array(rows, kind), "label": labels})
    if as_of_hub:
        label = {"_type": "ClassLabel", "names": [*CLASSES]}
        features = {"image": {"_type": "Image"}, "label": label}
        described = json.dumps({"info": {"features": features}})
        table = table.replace_schema_metadata({"huggingface": described})
    pq.write_table(table, stream, row_group_size=4)
    return stream.getvalue()


def read_all(path: str) -> tuple[dict[str, bytes], dict[str, str]]:
    """Open a source, decode every image, and return contents and classes by key."""
    source = open_source(path)
    contents, classes = {}, {}
    for index, key in enumerate(source.keys):
        classes[key] = source.class_names[source.labels[index]]
        try:
            data = source.read(index)
        except ImageError:
            continue
        assert isinstance(data, bytes)
        try:
            source.image(index)
        except ImageError as error:
            if data in IMAGES.values():
                raise AssertionError(f"{key} is whole, and refused") from error
            continue
        contents[key] = data
    source.fingerprint()
    return contents, classes


def with_all(root: Path, name: str) -> str | None:
    """Expect every image with its class, as often as there are parquet files."""
    contents, classes = read_all(str(root / name.partition("/")[0]))
    found = [(data, classes[key]) for key, data in contents.items()]
    copies = max(1, len([*root.glob("p/*.parquet")]))
    wanted = [(data, key.partition("/")[0]) for key, data in IMAGES.items()] * copies
    return None if sorted(found) == sorted(wanted) else f"{len(found)} images, or other classes"


def in_zip(root: Path, name: str) -> str | None:
    """Compare with the checksums in the directory, as Python reads it."""
    contents, _ = read_all(str(root / name))
    with zipfile.ZipFile(root / name) as archive:
        for key, data in contents.items():
            own = [info for info in archive.infolist() if info.filename.endswith(key)]
            if not any((info.CRC, info.file_size) == (zlib.crc32(data), len(data)) for info in own):
                return f"{key} has other bytes than by zipfile"
    return None


def members(file: Path) -> set[bytes]:
    """Return the contents of the files of a tar, up to what `tarfile` cannot read.

    Tars that are joined by ``cat`` are one for pydream, and for ``tar --ignore-zeros``.
    """
    found = set()
    for joined in (False, True):
        opened = tarfile.open(file, ignore_zeros=joined)  # noqa: SIM115
        with contextlib.suppress(tarfile.ReadError), opened as archive:
            for member in archive:
                if member.isfile() and (content := archive.extractfile(member)):
                    found.add(content.read())
    return found


def in_tar(root: Path, name: str) -> str | None:
    """Compare with Python's reader of tars."""
    contents, _ = read_all(str(root / name))
    own = members(root / name)
    other = [key for key, data in contents.items() if data not in own]
    return f"{other} have other bytes than by tarfile" if other else None


def in_parquet(root: Path, name: str) -> str | None:
    """Compare with pyarrow's own reading, of the row groups that it can read."""
    contents, _ = read_all(str(root / name))
    other = [key for key, data in contents.items() if data not in images(root / name)]
    return f"{other} have other bytes than by pyarrow" if other else None


def images(path: Path) -> set[bytes]:
    """Return the images of a parquet file, of the row groups that pyarrow can read."""
    own, file = set(), pq.ParquetFile(path)
    for group in range(file.num_row_groups):
        with contextlib.suppress(pa.ArrowException, OSError):
            own |= {row["bytes"] for row in file.read_row_group(group)["image"].to_pylist() if row}
    return own


def in_parquet_set(root: Path, name: str) -> str | None:
    """Compare like `in_parquet`, with the images of all files."""
    contents, _ = read_all(str(root / "p"))
    own = {data for file in root.glob("p/*") for data in images(file)}
    other = [key for key, data in contents.items() if data not in own]
    return f"{other} have other bytes than by pyarrow" if other else None


def in_table(root: Path, name: str) -> str | None:
    """Compare with a plain reading of the table: a row has the image and its class."""
    contents, classes = read_all(str(root / name))
    if any(IMAGES[key.removeprefix("photos/")] != data for key, data in contents.items()):
        return "an image has other bytes"
    data = (root / name).read_bytes()
    texts = [data.decode(code, "replace") for code in ("utf-8-sig", "cp1252", "latin-1")]
    rows = [row for text in texts for row in csv.reader(io.StringIO(text.replace("\0", "")))]
    cells = [{cell.strip() for cell in row} for row in rows]
    for key, label in classes.items():
        if not any(label.replace("\0", "") in row and len(row) > 1 for row in cells):
            return f"{key} has the class {label!r}, which no row says"
    return None


def in_list(root: Path, name: str) -> str | None:
    """Compare with the lines of the list."""
    source = open_source(f"{root / 'photos'}:classes={root / name}")
    wanted = [line.strip() for line in (root / name).read_text("utf-8-sig").splitlines()]
    wanted = [line if line in CLASSES else line.split(maxsplit=1)[0] for line in wanted if line]
    return None if [*source.class_names] == wanted else f"{source.class_names}, not {wanted}"


def in_shard(root: Path, name: str) -> str | None:
    """Compare with the members of the tar, and with the classes as they were."""
    contents, classes = read_all(str(root / "s"))
    own = members(root / name)
    other = [key for key, data in contents.items() if data not in own]
    other += [key for key, found in classes.items() if found not in CLASSES]
    return f"{other} have other bytes than by tarfile, or other classes" if other else None


TABLE = "file,label\n" + "".join(f"photos/{key},{key.partition('/')[0]}\n" for key in IMAGES)
PHOTOS = {f"photos/{key}": data for key, data in IMAGES.items()}
# By kind: the files, those that are mutated, and what reads them.
KINDS: dict[str, tuple[Mapping[str, bytes], Mapping[str, Blocks | None], Look]] = {
    "zips": ({"a.zip": zipped()}, {"a.zip": pieces(32)}, in_zip),
    "tars": (
        {
            "a.tar": tarred(IMAGES),
            "b.tar": tarred(IMAGES, tarfile.GNU_FORMAT),
            "c.tar.gz": tarred(IMAGES, mode="w:gz"),
        },
        {"a.tar": pieces(512), "b.tar": pieces(512), "c.tar.gz": pieces(64)},
        in_tar,
    ),
    "shards": (
        {"s/train-0.tar": shard(), "s/classnames.txt": b"ant\nbee\n"},
        {"s/train-0.tar": pieces(512)},
        in_shard,
    ),
    "parquet files": ({"a.parquet": parquet()}, {"a.parquet": pieces(32)}, in_parquet),
    "sets of parquet files": (
        {f"p/train-{number}.parquet": parquet(as_of_hub=True) for number in range(2)},
        {f"p/train-{number}.parquet": pieces(32) for number in range(2)},
        in_parquet_set,
    ),
    "tables of labels": ({**PHOTOS, "labels.csv": TABLE.encode()}, {"labels.csv": lines}, in_table),
    "lists of classes": ({**PHOTOS, "list.txt": b"bee a bee\nant\n"}, {"list.txt": lines}, in_list),
}


@pytest.mark.parametrize("kind", KINDS)
def test_mutated_files(campaign: Campaign, tmp_path: Path, kind: str) -> None:
    files, targets, look = KINDS[kind]
    count = campaign.trials(40, 2000)
    whole = None if kind == "lists of classes" else with_all  # whose images are not compared
    trials = FileTrials(tmp_path, files, targets, look, SEED, whole)
    outcomes = make_trials(trials, range(count))
    facts = expect_no_fault(outcomes, trials.describe, SEED)
    assert facts["answered"]
    assert facts["refused"]
    campaign.passed("inputs", f"mutated {kind}", count, **facts)
