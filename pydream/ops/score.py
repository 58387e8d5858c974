"""Realism scores of patches, and the key patches chosen by them."""

from __future__ import annotations

from typing import NamedTuple, TypeAlias

import torch

from pydream import _C
from pydream.ops import _dispatch
from pydream.ops._checks import (
    TensorLike,
    as_tensor,
    check_at_least,
    check_device,
    check_dtype,
    check_no_gradient,
    check_shape,
    within_memory,
)
from pydream.ops._view import FLOATS, view
from pydream.ops.reference import score as reference

_Selection: TypeAlias = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class KeyPatches(NamedTuple):
    """The best patches of every class, best first.

    Attributes
    ----------
    image
        int64 (C, n): index of the image, -1 where the class has too few.
    crop
        int64 (C, n): crop of that image, -1 where the class has too few.
    score
        float32 (C, n): realism score, -inf where the class has too few.
    """

    image: torch.Tensor
    crop: torch.Tensor
    score: torch.Tensor


@within_memory
def realism_scores(logits: TensorLike, labels: TensorLike) -> torch.Tensor:
    """Score each row of logits by log p(label), the negative cross-entropy.

    Parameters
    ----------
    logits
        float32, float16 or bfloat16 (R, K), from the observer; columns contiguous, any row stride.
    labels
        int64 or int32 (R,), each in 0..K-1, on the same device.

    Returns
    -------
    torch.Tensor
        float32 (R,). Stable for any finite logits, and accurate near 0: a probability close to one
        keeps its relative accuracy. -inf if only the label's own logit is -inf.

    Raises
    ------
    TypeError
        For any other dtype.
    ValueError
        For other shapes, strides or devices; for logits that require a gradient, because there is
        no derivative; for a label out of range; for rows without a score, because they hold NaN,
        +inf, or only -inf: the message names them.

    Notes
    -----
    Source: Sun et al., "On the Diversity and Realism of Distilled
    Dataset", CVPR 2024, section 4.2 (the realism score of a patch).
    """
    logits = _check_logits(logits)
    labels = _check_labels(labels, logits.shape[0], "the rows of logits", logits.device, "logits")
    scores: torch.Tensor = torch.ops.pydream.realism_scores(logits, labels)
    return scores


@within_memory
def select_key_patches(
    scores: TensorLike, labels: TensorLike, per_class: int, num_classes: int
) -> KeyPatches:
    """Choose the best crop of every image, then the best images of every class.

    Parameters
    ----------
    scores
        float32 (N, M): realism scores of M crops of N images; columns contiguous, any row stride.
        -inf stands for a missing crop, which is never chosen.
    labels
        int64 or int32 (N,), each in 0..num_classes-1, on the same device.
    per_class
        Number of images to choose per class, n, at least 1.
    num_classes
        Number of classes, C, at least 1.

    Returns
    -------
    KeyPatches
        image, crop and score, each (C, n), best first. Of equal scores, the lower crop and the
        lower image come first.

    Raises
    ------
    TypeError
        For any other dtype.
    ValueError
        For other shapes, strides, devices or numbers; for an input that requires a gradient,
        because there is no derivative; for a label out of range; for NaN among the scores: the
        message names the rows.

    Notes
    -----
    Source: Sun et al., "On the Diversity and Realism of Distilled Dataset", CVPR 2024,
    section 4.2 (key patches) and algorithm 1.
    """
    scores = as_tensor(scores, "scores")
    check_shape(scores, "scores", ("N", "M"))
    check_dtype(scores, "scores", torch.float32)
    check_no_gradient(scores, "scores")
    _check_columns(scores, "scores")
    labels = _check_labels(labels, scores.shape[0], "the rows of scores", scores.device, "scores")
    per_class = check_at_least(per_class, "per_class", 1)
    num_classes = check_at_least(num_classes, "num_classes", 1)
    return KeyPatches(*torch.ops.pydream.select_key_patches(scores, labels, per_class, num_classes))


@within_memory
def key_patches(
    logits: TensorLike, labels: TensorLike, num_crops: int, per_class: int, num_classes: int
) -> KeyPatches:
    """Score all crops of all images and choose the key patches, reading the logits once.

    Equivalent to `realism_scores` followed by `select_key_patches`.

    Parameters
    ----------
    logits
        float32, float16 or bfloat16 (N·M, K): row i·M + m is crop m of image i; columns contiguous,
        any row stride.
    labels
        int64 or int32 (N,), one per image, in 0..K-1 and 0..num_classes-1, on the same device.
    num_crops
        Number of crops of each image, M, at least 1.
    per_class
        Number of images to choose per class, n, at least 1.
    num_classes
        Number of classes, C, at least 1.

    Returns
    -------
    KeyPatches
        image, crop and score, each (C, n), best first. Of equal scores, the lower crop and the
        lower image come first.

    Raises
    ------
    TypeError
        For any other dtype.
    ValueError
        For other shapes, strides, devices or numbers; for an input that requires a gradient,
        because there is no derivative; for a label out of range; for rows of logits without a
        score, because they hold NaN, +inf, or only -inf: the message names them.

    Notes
    -----
    Source: Sun et al., "On the Diversity and Realism of Distilled Dataset", CVPR 2024,
    section 4.2 (realism score and key patches) and algorithm 1.
    """
    logits = _check_logits(logits)
    num_crops = check_at_least(num_crops, "num_crops", 1)
    per_class = check_at_least(per_class, "per_class", 1)
    num_classes = check_at_least(num_classes, "num_classes", 1)
    rows = logits.shape[0]
    if rows % num_crops != 0:
        raise ValueError(f"logits must have num_crops = {num_crops} rows an image, got {rows} rows")
    labels = _check_labels(
        labels,
        rows // num_crops,
        "the images (rows of logits / num_crops)",
        logits.device,
        "logits",
    )
    return KeyPatches(
        *torch.ops.pydream.key_patches(logits, labels, num_crops, per_class, num_classes)
    )


def _check_columns(tensor: torch.Tensor, name: str) -> None:
    """Raise ValueError unless the columns of a matrix are contiguous."""
    if tensor.stride(1) != 1 and tensor.shape[1] > 1:
        raise ValueError(
            f"{name} must have contiguous columns, got strides {tuple(tensor.stride())}; "
            f"pass {name}.contiguous()"
        )


def _check_logits(value: TensorLike) -> torch.Tensor:
    logits = as_tensor(value, "logits")
    check_shape(logits, "logits", ("R", "K"))
    check_dtype(logits, "logits", *FLOATS)
    check_no_gradient(logits, "logits")
    _check_columns(logits, "logits")
    rows, columns = logits.shape
    if columns == 0 and rows > 0:
        raise ValueError(f"logits must have at least one column, got shape {tuple(logits.shape)}")
    return logits


def _check_labels(
    value: TensorLike, count: int, counted: str, device: torch.device, other: str
) -> torch.Tensor:
    labels = as_tensor(value, "labels")
    check_shape(labels, "labels", ("N",))
    if len(labels) != count:
        raise ValueError(f"labels must be as many as {counted}, {count}, got {len(labels)}")
    check_dtype(labels, "labels", torch.int64, torch.int32)
    check_device(labels, "labels", device, other)
    return labels


def _long(labels: torch.Tensor) -> torch.Tensor:
    """Return contiguous int64 labels, without a call into torch if they are so already."""
    if labels.dtype == torch.int64 and labels.is_contiguous():
        return labels
    return labels.to(torch.int64).contiguous()


def _cpu_realism_scores(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    labels = _long(labels)
    scores = torch.empty(logits.shape[0], dtype=torch.float32, device="cpu")
    _C.realism_scores_cpu(view(logits), view(labels), view(scores), torch.get_num_threads())
    return scores


def _cpu_select_key_patches(
    scores: torch.Tensor, labels: torch.Tensor, per_class: int, num_classes: int
) -> _Selection:
    labels = _long(labels)
    image, crop, score = _fake_select_key_patches(scores, labels, per_class, num_classes)
    threads = torch.get_num_threads()
    _C.select_key_patches_cpu(
        view(scores), view(labels), view(image), view(crop), view(score), threads
    )
    return image, crop, score


def _cpu_key_patches(
    logits: torch.Tensor, labels: torch.Tensor, num_crops: int, per_class: int, num_classes: int
) -> _Selection:
    labels = _long(labels)
    image, crop, score = _fake_select_key_patches(logits, labels, per_class, num_classes)
    threads = torch.get_num_threads()
    _C.key_patches_cpu(
        view(logits), view(labels), num_crops, view(image), view(crop), view(score), threads
    )
    return image, crop, score


def _cuda_realism_scores(
    launch: _dispatch.Launch, logits: torch.Tensor, labels: torch.Tensor
) -> torch.Tensor:
    labels = _long(labels)
    score = logits.new_empty(logits.shape[0], dtype=torch.float32)
    best = crop = None  # one per image, of several crops
    launch.module.realism_scores(view(logits), view(labels), view(score), best, crop, launch)
    return score


def _cuda_select_key_patches(
    launch: _dispatch.Launch,
    scores: torch.Tensor,
    labels: torch.Tensor,
    per_class: int,
    num_classes: int,
) -> _Selection:
    best = scores.new_empty(scores.shape[0])
    crop = torch.empty_like(best, dtype=torch.int64)
    launch.module.best_crops(view(scores), view(best), view(crop), launch)
    return _top_images(launch, best, crop, _long(labels), per_class, num_classes)


def _cuda_key_patches(
    launch: _dispatch.Launch,
    logits: torch.Tensor,
    labels: torch.Tensor,
    num_crops: int,
    per_class: int,
    num_classes: int,
) -> _Selection:
    labels = _long(labels)
    best = logits.new_empty(labels.shape[0], dtype=torch.float32)
    crop = torch.empty_like(best, dtype=torch.int64)
    score = None  # of all crops
    launch.module.realism_scores(view(logits), view(labels), score, view(best), view(crop), launch)
    return _top_images(launch, best, crop, labels, per_class, num_classes)


def _top_images(
    launch: _dispatch.Launch,
    best: torch.Tensor,
    crop: torch.Tensor,
    labels: torch.Tensor,
    per_class: int,
    num_classes: int,
) -> _Selection:
    image, out_crop, score = _fake_select_key_patches(best, labels, per_class, num_classes)
    scratch = torch.empty_like(image)
    words = launch.module.grouping_words(len(best), num_classes)
    grouping = best.new_zeros(words, dtype=torch.int32)
    launch.module.top_images(
        view(best),
        view(crop),
        view(labels),
        view(scratch),
        view(grouping),
        view(image),
        view(out_crop),
        view(score),
        launch,
    )
    return image, out_crop, score


def _fake_realism_scores(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    return logits.new_empty(logits.shape[0], dtype=torch.float32)


def _fake_select_key_patches(
    scores: torch.Tensor, labels: torch.Tensor, per_class: int, num_classes: int
) -> _Selection:
    shape = (num_classes, per_class)
    image = scores.new_empty(shape, dtype=torch.int64)
    return image, torch.empty_like(image), scores.new_empty(shape, dtype=torch.float32)


def _fake_key_patches(
    logits: torch.Tensor, labels: torch.Tensor, num_crops: int, per_class: int, num_classes: int
) -> _Selection:
    return _fake_select_key_patches(logits, labels, per_class, num_classes)


_dispatch.register(
    "realism_scores(Tensor logits, Tensor labels) -> Tensor",
    _cpu_realism_scores,
    _cuda_realism_scores,
    reference.realism_scores,
    _fake_realism_scores,
)
_dispatch.register(
    "select_key_patches(Tensor scores, Tensor labels, SymInt per_class, SymInt num_classes)"
    " -> (Tensor image, Tensor crop, Tensor score)",
    _cpu_select_key_patches,
    _cuda_select_key_patches,
    reference.select_key_patches,
    _fake_select_key_patches,
)
_dispatch.register(
    "key_patches(Tensor logits, Tensor labels, SymInt num_crops, SymInt per_class,"
    " SymInt num_classes) -> (Tensor image, Tensor crop, Tensor score)",
    _cpu_key_patches,
    _cuda_key_patches,
    reference.key_patches,
    _fake_key_patches,
)
