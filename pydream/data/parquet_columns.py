"""The columns of a table of images: which holds the images, which the labels, and their names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from pydream.data.arrow_arrays import as_numpy, optional_numbers, strings
from pydream.data.label_tables import preferred_label_column
from pydream.entry_types import is_unicode, parse_json
from pydream.errors import PydreamError

_LISTED = 12
_NONE = optional_numbers([-1], np.int32)[0]  # instead of a class that is not known


@dataclass(frozen=True)
class Columns:
    """The columns of images and labels.

    Attributes
    ----------
    image, label
        Their names.
    in_struct
        Whether an image is a struct of ``bytes`` and ``path``, as Hugging Face's `Image` is.
    has_paths
        Whether that struct has paths.
    class_names
        Names of the classes from the schema (Hugging Face's `ClassLabel`); None if it has none.
    """

    image: str
    label: str
    in_struct: bool
    has_paths: bool
    class_names: tuple[str, ...] | None


def find_columns(schema: pa.Schema, named: Mapping[str, str], description: str) -> Columns:
    """Find the columns of images and labels in a schema.

    Parameters
    ----------
    schema
        Schema of the table, perhaps with the features of Hugging Face in its metadata.
    named
        Names that the user gave for ``"image"`` or ``"label"``.
    description
        Name of the source, for messages.

    Raises
    ------
    PydreamError
        If there is no such column, or several that may be meant.
    """
    features = _features(schema)
    for kind, name in named.items():
        if name not in schema.names:
            raise PydreamError(
                f"{description}: there is no column {name!r} for {kind}; {_listed(schema)}"
            )
    image = named.get("image") or _image_column(schema, features, description)
    label = named.get("label") or _label_column(schema, features, image, description)
    kind = schema.field(image).type
    if not _holds_images(kind):
        raise PydreamError(
            f"{description}: column {image!r} holds {kind} and no encoded images; {_listed(schema)}"
        )
    in_struct = pa.types.is_struct(kind)
    has_paths = in_struct and kind.get_field_index("path") >= 0
    names = _class_names(features.get(label))
    if not all(map(is_unicode, names or ())):
        raise PydreamError(f"{description}: the schema has names of classes that are no Unicode")
    return Columns(image, label, in_struct, has_paths, names)


def check_like(columns: Columns, schema: pa.Schema, file: object, description: str) -> None:
    """Raise PydreamError unless a file of a source has its columns, and images of the same kind."""
    for name in (columns.image, columns.label):
        if name not in schema.names:
            raise PydreamError(
                f"{file}: there is no column {name!r}, which other files of {description} have"
            )
    kind = schema.field(columns.image).type
    paths = pa.types.is_struct(kind) and kind.get_field_index("path") >= 0
    same = _holds_images(kind) and pa.types.is_struct(kind) == columns.in_struct
    if not same or (columns.has_paths and not paths):
        raise PydreamError(
            f"{file}: column {columns.image!r} holds {kind}, unlike in other files of {description}"
        )


def holds_images(schema: pa.Schema) -> bool:
    """Return whether any column may hold encoded images."""
    return any(_holds_images(field.type) for field in schema)


def _features(schema: pa.Schema) -> dict[str, Any]:
    """Return the features of Hugging Face by column; empty without them."""
    try:
        found = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
    except (KeyError, TypeError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _class_names(feature: Any) -> tuple[str, ...] | None:
    if not isinstance(feature, dict) or feature.get("_type") != "ClassLabel":
        return None
    names = feature.get("names")
    return tuple(map(str, names)) if isinstance(names, list) and names else None


def _image_column(schema: pa.Schema, features: Mapping[str, Any], description: str) -> str:
    marked = [name for name in schema.names if _type_of(features.get(name)) == "Image"]
    fitting = marked or [field.name for field in schema if _holds_images(field.type)]
    if "image" in fitting:
        return "image"
    if len(fitting) != 1:
        several = f"any of {', '.join(fitting)} may be that" if fitting else "none can be that"
        raise PydreamError(
            f"{description}: in which column are the images? {several.capitalize()}: name it as "
            f"{description}:image=COLUMN; {_listed(schema)}"
        )
    return str(fitting[0])


def _label_column(
    schema: pa.Schema, features: Mapping[str, Any], image: str, description: str
) -> str:
    marked = [name for name in schema.names if _type_of(features.get(name)) == "ClassLabel"]
    if len(marked) == 1:
        return str(marked[0])
    fitting = marked or [
        field.name for field in schema if field.name != image and _holds_labels(field.type)
    ]
    found = preferred_label_column(fitting)
    if found is None:
        raise PydreamError(
            f"{description}: in which column are the labels? Name it as "
            f"{description}:label=COLUMN; {_listed(schema)}"
        )
    return found


def _type_of(feature: Any) -> str | None:
    return feature.get("_type") if isinstance(feature, dict) else None


def _holds_images(kind: pa.DataType) -> bool:
    if pa.types.is_struct(kind):
        place = kind.get_field_index("bytes")
        return place >= 0 and _is_binary(kind.field(place).type)
    return _is_binary(kind)


def _is_binary(kind: pa.DataType) -> bool:
    return bool(pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _is_text(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind))


def _holds_labels(kind: pa.DataType) -> bool:
    return _is_text(kind) or bool(pa.types.is_integer(kind))


def _listed(schema: pa.Schema) -> str:
    names = schema.names
    return f"it has {', '.join(names[:_LISTED])}{', …' if len(names) > _LISTED else ''}"


def names_of(values: pa.ChunkedArray, columns: Columns, description: str) -> tuple[str, ...]:
    """Return the names of the classes, from the schema or the distinct labels of the train split.

    Numbers without names are sorted by value, words by their code points.

    Raises
    ------
    PydreamError
        If the column holds neither whole numbers nor words.
    """
    if not _holds_labels(values.type):
        raise PydreamError(
            f"{description}: column {columns.label!r} holds {values.type}, and a label is a whole "
            "number or a word"
        )
    if columns.class_names is not None:
        return columns.class_names
    return tuple(map(str, sorted(pc.unique(values.drop_null()).to_pylist())))


def numbers_of(
    values: pa.ChunkedArray, columns: Columns, names: tuple[str, ...], description: str
) -> npt.NDArray[np.int64]:
    """Return the label of each row, int64, below the number of classes.

    Raises
    ------
    PydreamError
        If a label is missing, out of range or not a class of the train split.
    """
    if values.null_count:
        row = pc.index(pc.is_null(values), True).as_py()
        raise PydreamError(f"{description}: row {row} has no label in column {columns.label!r}")
    numbers: npt.NDArray[np.int64]
    if columns.class_names is not None and pa.types.is_integer(values.type):
        numbers = as_numpy(values).astype(np.int64)
        wrong = (numbers < 0) | (numbers >= len(names))
    else:
        words = strings(names)
        found = pc.index_in(values.cast(pa.large_string()), value_set=words)
        numbers = as_numpy(pc.fill_null(found, _NONE)).astype(np.int64)
        wrong = numbers < 0
    if wrong.any():
        row = int(wrong.argmax())
        raise PydreamError(
            f"{description}: row {row} has the label {values[row].as_py()!r} in column "
            f"{columns.label!r}, and there are {len(names)} classes, {names[0]!r} to {names[-1]!r}"
        )
    return numbers


def are_unlabelled(values: pa.ChunkedArray) -> bool:
    """Return whether no row has a label: all are null or −1, as of ImageNet's test images."""
    if values.null_count == len(values):
        return True
    signed = pa.types.is_signed_integer(values.type)
    return signed and bool((as_numpy(values.drop_null()) == -1).all())
