"""Accuracy of a newly trained observer."""

from __future__ import annotations

import torch
from torch import nn

from pydream.data import Source
from pydream.data.resized import whole_images
from pydream.data.unreadable import Unreadable
from pydream.errors import PydreamError
from pydream.models.inputs import IMAGENET_MEAN, IMAGENET_STD
from pydream.models.loading import load_observer
from pydream.models.training_data import Indices
from pydream.progress import track
from pydream.ranks import Ranks


def measure_observer(
    model: nn.Module,
    source: Source,
    indices: Indices,
    *,
    side: int,
    precision: str,
    workers: int,
    ranks: Ranks,
) -> tuple[float, int]:
    """Measure the accuracy of a trained observer on whole images, of which each rank takes a part.

    Parameters
    ----------
    model
        The network, which is frozen.
    source, indices
        The images, and the indices of those to use.
    side
        Side of the images, in pixels.
    precision
        Arithmetic, as for `load_observer`.
    workers
        Number of threads that decode.
    ranks
        The ranks, which all call this.

    Returns
    -------
    tuple[float, int]
        The accuracy in [0, 1], and the number of images that can be read.

    Raises
    ------
    PydreamError
        If no image can be read.
    """
    device = next(model.parameters()).device
    observer = load_observer(
        model,
        side=side,
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        precision=precision,
        device=device,
    )
    right = images = 0
    # Never refused: the training is finished, and would be lost.
    unreadable = Unreadable(source, len(indices), None)
    part = ranks.own([1] * len(indices))
    own = indices[part.start : part.stop]
    with track("measuring observer", len(own), "images", divided=True) as advance:
        for views, places in whole_images(
            source,
            own.tolist(),
            side,
            workers=workers,
            unreadable=unreadable,
            rows=observer.tile,
            advance=advance,
        ):
            labels = torch.from_numpy(source.labels[own[places]])
            # Students are ranked by topk, which may prefer another of two equal logits than argmax.
            likeliest = observer.logits(observer.views(views)).argmax(1).cpu()
            right += int((likeliest == labels).sum())
            images += len(places)
    found = ranks.gather((right, images, unreadable.reasons))
    for _, _, reasons in found:
        unreadable.add(reasons)
    unreadable.say()
    right, images = sum(part[0] for part in found), sum(part[1] for part in found)
    if not images:
        raise PydreamError(f"{source.description}: none of {len(indices)} images can be read")
    return right / images, images
