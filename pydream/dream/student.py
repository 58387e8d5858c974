"""A student trained on synthetic images by IDC's recipe, to measure the progress of a run.

`pydream.students.train` uses the same recipe for the images of a finished set: uint8, as in the
files, with targets of any kind. Here the images are still being optimised: they are floating point
and never rounded, with any number of channels and hard labels. Their order, augmentations and mixes
are drawn as IDC draws those of the matched networks, so merging the two modules would change the
accuracies in the history of a set.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from pydream.data.resized import LabelledImages
from pydream.dream.network import (
    BATCH,
    LEARNING_RATE,
    MOMENTUM,
    WEIGHT_DECAY,
    fresh_network,
    mixed_loss,
)
from pydream.dream.real import ClassImages
from pydream.ops import diff_augment, multi_formation, random_augment
from pydream.seeds import derived_seed, drawn_order
from pydream.streams import to_device
from pydream.students.accuracy import measure_accuracy

_FALLS, _FALL = (2 / 3, 5 / 6), 0.2  # shares of the epochs, and factor of the rate
_NETWORK, _ORDER, _AUGMENT, _MIX = range(4)


def student_accuracy(
    synthetic: Tensor,
    test: LabelledImages,
    *,
    factor: int,
    real: ClassImages,
    make_network: Callable[[], nn.Module],
    flip: bool,
    epochs: int,
    seed: int,
) -> float:
    """Train a fresh network on synthetic images; return its top-1 on real ones, in [0, 1].

    Hard labels, multi-formation, SGD with a learning rate that falls to a fifth at 2/3 and 5/6 of
    the epochs, one draw of the augmentation per image, CutMix in half of the batches (IDC, ICML
    2022).

    Parameters
    ----------
    synthetic
        float32 (K, IPC, C, S, S), in [0, 1].
    test
        Test images on the same device.
    factor
        Number of cells along each side of an image.
    real
        Real images, whose mean and standard deviation normalise the others.
    make_network
        Function that makes the student.
    flip
        Mirror images, too.
    epochs
        Number of passes over the synthetic images.
    seed
        Random seed, in [0, 2^63).
    """
    formed = multi_formation(synthetic.clamp(0, 1), factor, real.side)
    images = real.normalise(formed.flatten(0, 1))
    labels = torch.arange(len(formed), device=formed.device).repeat_interleave(formed.shape[1])
    student = fresh_network(make_network, derived_seed(seed, _NETWORK), formed.device)
    optimizer = torch.optim.SGD(
        student.parameters(), LEARNING_RATE, momentum=MOMENTUM, weight_decay=WEIGHT_DECAY
    )
    falls = [int(epochs * share) for share in _FALLS]
    schedule = torch.optim.lr_scheduler.MultiStepLR(optimizer, falls, _FALL)
    strategy = "color_crop_cutout_scale_rotate" + ("_flip" if flip else "")
    for epoch in range(epochs):
        order = torch.from_numpy(drawn_order(derived_seed(seed, _ORDER, epoch), len(images)))
        augment_seed = derived_seed(seed, _AUGMENT, epoch)
        augment = random_augment(len(images), real.side, strategy, seed=augment_seed)
        batches = zip(
            torch.split(to_device(order, images.device), BATCH),
            torch.split(to_device(augment, images.device), BATCH),
            strict=True,
        )
        for step, (chosen, parameters) in enumerate(batches):
            seen = diff_augment(images[chosen], parameters)
            mix_seed = derived_seed(seed, _MIX, epoch, step)
            loss = mixed_loss(student, seen, labels[chosen], mix_seed)
            optimizer.zero_grad()
            torch.autograd.backward(loss)
            optimizer.step()
        schedule.step()
    accuracy = measure_accuracy(
        student, test, mean=real.mean.tolist(), std=real.std.tolist(), precision="float32"
    )
    return accuracy.top1
