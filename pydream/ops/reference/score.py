"""Realism scores and key patches in plain PyTorch."""

from __future__ import annotations

import torch

_SHOWN = 5
"""Number of rows that an error message lists."""


def _check_labels(labels: torch.Tensor, classes: int) -> None:
    """Raise ValueError for the first label out of range."""
    wrong = (labels < 0) | (labels >= classes)
    if wrong.any():
        row = int(wrong.nonzero()[0])
        raise ValueError(
            f"labels must lie in 0..{classes - 1}, got {int(labels[row])} at row {row}"
        )


def _check_rows(nan: torch.Tensor, what: str) -> None:
    """Raise ValueError naming the first marked rows, if there are any."""
    if nan.any():
        rows = nan.nonzero()[:, 0].tolist()
        first = ", ".join(str(row) for row in rows[:_SHOWN]) + (", ..." if rows[_SHOWN:] else "")
        raise ValueError(f"{what} in {len(rows)} row{'s' if rows[1:] else ''}: {first}")


def realism_scores(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """Compute `pydream.ops.realism_scores` with ``log_softmax``."""
    _check_labels(labels, logits.shape[1])
    log_probabilities = torch.log_softmax(logits.float(), dim=1)
    scores = log_probabilities.gather(1, labels.long()[:, None])[:, 0]
    _check_rows(scores.isnan(), "logits hold NaN, +inf or nothing but -inf, so there is no score,")
    return scores


def select_key_patches(
    scores: torch.Tensor, labels: torch.Tensor, per_class: int, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute `pydream.ops.select_key_patches` with two stable sorts."""
    _check_labels(labels, num_classes)
    _check_rows(scores.isnan().any(dim=1), "scores hold NaN")
    images, crops = scores.shape
    shape = (num_classes * per_class,)
    image = torch.full(shape, -1, dtype=torch.int64, device=scores.device)
    crop = image.clone()
    score = torch.full(shape, -torch.inf, dtype=torch.float32, device=scores.device)
    if images > 0 and crops > 0:
        best_crop = scores.argmax(dim=1)  # the first of equals
        best = scores.gather(1, best_crop[:, None])[:, 0]
        best_first = best.argsort(descending=True, stable=True)
        order = best_first[labels[best_first].argsort(stable=True)]  # by class, then best first
        label = labels[order].long()
        first = torch.searchsorted(label, torch.arange(num_classes, device=scores.device))
        rank = torch.arange(images, device=scores.device) - first[label]
        kept = (rank < per_class) & (best[order] > -torch.inf)
        at = (label * per_class + rank)[kept]
        image[at] = order[kept]
        crop[at] = best_crop[order[kept]]
        score[at] = best[order[kept]]
    shape_2d = (num_classes, per_class)
    return image.view(shape_2d), crop.view(shape_2d), score.view(shape_2d)


def key_patches(
    logits: torch.Tensor, labels: torch.Tensor, num_crops: int, per_class: int, num_classes: int
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute `pydream.ops.key_patches` as its two stages."""
    _check_labels(labels, min(num_classes, logits.shape[1]))
    scores = realism_scores(logits, labels.repeat_interleave(num_crops))
    return select_key_patches(scores.view(-1, num_crops), labels, per_class, num_classes)
