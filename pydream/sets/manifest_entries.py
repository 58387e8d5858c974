"""Types of the entries of a manifest, which may come from anyone."""

from __future__ import annotations

from pydream.entry_types import (
    is_mapping,
    is_number,
    is_positive,
    is_text,
    is_texts,
    is_whole,
    list_of,
    mapping_of,
    one_of,
    or_none,
)

_is_observer = mapping_of(
    {
        "arch": is_text,
        "weights_sha256": is_text,
        "precision": is_text,
        "top1": is_number,
        "images": is_whole,
        "held_out": is_text,
    },
    {
        "side": is_positive,
        "mean": list_of(is_number),
        "std": list_of(is_number),
        "origins": is_texts,
        "class_order": list_of(is_whole),
    },
)
_is_refinement = mapping_of(
    {
        "steps": is_whole,
        "learning_rate": is_number,
        "observers": list_of(mapping_of({"arch": is_text})),
        "layers": list_of(is_text),
    },
    {
        "match": is_text,
        "seed": is_whole,
        # Not yet, while a set is made.
        "loss": list_of(is_number),
        "distances": mapping_of(
            {"unrefined": is_number, "refined": is_number, "rounded": is_number}
        ),
    },
)
_is_point = mapping_of(
    {"iteration": is_whole, "loss": or_none(is_number)}, {"top1": or_none(list_of(is_number))}
)
_is_source = mapping_of(
    {"description": is_text, "split": is_text, "fingerprint": is_text}, {"ignored": is_mapping}
)
# Those of the settings that are more than shown; methods have others besides.
_is_config = mapping_of(
    {},
    {
        "canvas": is_text,
        "select": is_text,
        "realistic_share": is_number,
        "cells": one_of("shrunk", "matched"),
        "framework": is_text,
        "learning_rate": is_number,
        "iterations": is_whole,
    },
)

REQUIRED = {
    "format": is_whole,
    "class_names": list_of(is_text),
    "images_per_class": lambda value: is_whole(value) or list_of(is_whole)(value),
    "side": is_positive,
}
"""Entries that every manifest has."""

OTHERS = {
    "method": is_text,
    "factor": is_positive,
    **{
        name: or_none(check)
        for name, check in {
            "package": mapping_of({"name": is_text, "version": is_text}),
            "config": _is_config,
            "seed": is_whole,
            "source": _is_source,
            "views": one_of("crop", "dsa"),
            "mean": list_of(is_number),
            "std": list_of(lambda value: is_number(value) and value > 0),
            "whitening": is_mapping,
            "image_format": is_text,
            "images_bytes": is_whole,
            "images_sha256": is_text,
            "skipped": list_of(is_texts),
            "enlarged": is_whole,
            "filled": is_whole,
            "observer": _is_observer,
            "further_observers": list_of(_is_observer),
            "network": is_texts,
            "history": list_of(_is_point),
            "student_rate": is_number,
            "refinement": lambda value: (
                _is_refinement(value) and len(value["layers"]) == len(value["observers"])
            ),
            "labels_bytes": is_whole,
            "labels": is_mapping,
        }.items()
    },
}
"""Entries that some have."""
