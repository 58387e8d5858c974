"""Purposes of the random numbers of a run."""

from __future__ import annotations

import enum


class Draw(enum.IntEnum):
    """What a seed is derived for; the numbers are part of the meaning of a seed."""

    INITIAL = 0  # the first images
    NETWORK = 1  # an iteration, and the weights of its network
    EPOCH = 2  # an epoch of training before a network is used
    AUGMENT = 3  # the augmentation of the images matched
    REAL = 4  # random real images
    SYNTHETIC = 5  # those of the synthetic images that a step takes
    TRAIN = 6  # the training of a network between two steps
    SELECTION = 7  # the one network that chooses representatives for all iterations
    NORM = 8  # the real images that set the statistics of batch norms
