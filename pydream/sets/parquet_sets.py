"""Distilled sets as parquet files with a card, as the Hugging Face Hub has data sets."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from pydream.entry_types import parse_json
from pydream.sets.distilled import DistilledSet
from pydream.sets.image_formats import image_files
from pydream.sets.manifest import Manifest

_SHARD_BYTES = 256 << 20
_GROUP_ROWS = 100  # of a row group, as the library `datasets` writes images
_CARD = "README.md"
_MANIFEST = "pydream: "  # a line of the card
# In JSON of ASCII: an escaped backslash, which would begin no pair, or a surrogate pair.
_PAIR = re.compile(r"(\\\\)|\\ud[89ab]..\\ud[c-f]..")


def write_parquet(distilled: DistilledSet, folder: Path, label: str = "label") -> None:
    """Write ``data/train-00000-of-00001.parquet`` and so on, and the card.

    The columns are ``image``, a struct of the file's bytes and its name, and the labels, with the
    names of the classes in the schema. The manifest is in the front matter of the card.

    Parameters
    ----------
    distilled
        A set of pydream.
    folder
        An empty folder.
    label
        Name of the column of labels.
    """
    shards = list(_shards(image_files(distilled.path)))
    (folder / "data").mkdir()
    num_bytes = 0
    for number, files in enumerate(shards):
        name = "-".join(("train", f"{number:05d}", "of", f"{len(shards):05d}"))
        place = folder / "data" / f"{name}.parquet"
        num_bytes += _write_shard(place, files, distilled.class_names, label)
    (folder / _CARD).write_text(_card(distilled, label, num_bytes), encoding="utf-8")


def _shards(files: Sequence[Path]) -> Iterator[list[Path]]:
    """Divide files into shards of a limited size, in order."""
    shard: list[Path] = []
    held = 0
    for file in files:
        size = file.stat().st_size
        if shard and held + size > _SHARD_BYTES:
            yield shard
            shard, held = [], 0
        shard.append(file)
        held += size
    yield shard


def _write_shard(place: Path, files: Sequence[Path], class_names: Sequence[str], label: str) -> int:
    """Write a shard, and return the bytes of its columns in memory."""
    features = {
        "image": {"_type": "Image"},
        label: {"names": list(class_names), "_type": "ClassLabel"},
    }
    kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())])
    schema = pa.schema(
        [("image", kind), (label, pa.int64())],
        {b"huggingface": json.dumps({"info": {"features": features}}).encode()},
    )
    num_bytes = 0
    # Images are compressed already.
    with pq.ParquetWriter(place, schema, compression="none") as writer:
        for start in range(0, len(files), _GROUP_ROWS):
            group = files[start : start + _GROUP_ROWS]
            images = [
                {"bytes": file.read_bytes(), "path": f"{file.parent.name}_{file.name}"}
                for file in group
            ]
            labels = [int(file.parent.name) for file in group]
            table = pa.table([pa.array(images, kind), labels], schema=schema)
            writer.write_table(table)
            num_bytes += table.nbytes
    return num_bytes


def _card(distilled: DistilledSet, label: str, num_bytes: int) -> str:
    """Return the text of the card. Its front matter is YAML, of which JSON is a part."""
    manifest = distilled.manifest
    names = {str(number): name for number, name in enumerate(distilled.class_names)}
    front: dict[str, Any] = {
        "task_categories": ["image-classification"],
        "tags": ["dataset-distillation", "pydream"],
        "configs": [
            {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}]}
        ],
        "dataset_info": {
            "features": [
                {"name": "image", "dtype": "image"},
                {"name": label, "dtype": {"class_label": {"names": names}}},
            ],
            "splits": [
                {"name": "train", "num_bytes": num_bytes, "num_examples": len(distilled.labels)}
            ],
        },
    }
    lines = [f"{name}: {_yaml(value)}" for name, value in front.items()]
    lines.append(_MANIFEST + _yaml(manifest.as_json()))
    text = (
        f"{len(distilled.labels)} images of {len(names)} classes, {manifest.side} pixels a side, "
        f"distilled by {manifest.method.upper()}. The front matter of this card has the manifest "
        "of the set (`pydream`)."
    )
    return "---\n" + "\n".join(lines) + f"\n---\n\n# A distilled set\n\n{text}\n"


def _yaml(value: Any) -> str:
    """Return a value as JSON that is YAML, too, in which a surrogate pair is no character."""
    text = json.dumps(value)
    return _PAIR.sub(lambda found: found[1] or str(json.loads(f'"{found[0]}"')), text)


def manifest_of_card(folder: Path) -> Manifest | None:
    """Return the manifest in a card that `write_parquet` wrote; None if there is none."""
    try:
        text = (folder / _CARD).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None
    _, _, rest = text.partition("---\n")
    for line in rest.partition("\n---")[0].split("\n"):
        if line.startswith(_MANIFEST):
            try:
                return Manifest.from_json(parse_json(line.removeprefix(_MANIFEST)))
            except (ValueError, KeyError, TypeError):
                return None
    return None
