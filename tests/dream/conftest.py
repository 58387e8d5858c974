from __future__ import annotations

import numpy as np
import pytest
from sklearn.datasets import load_digits

from pydream.data import Source, open_source

CLASSES = 3
# Unequal classes, one smaller than a matching step would take of it.
PER_CLASS = (40, 9, 23)


@pytest.fixture(scope="session")
def digits() -> Source:
    """Some digits of three classes, in no order."""
    images, labels = load_digits(return_X_y=True)
    rows = [np.flatnonzero(labels == label)[:count] for label, count in enumerate(PER_CLASS)]
    chosen = np.random.default_rng(0).permutation(np.concatenate(rows))
    pixels = (images[chosen].reshape(-1, 8, 8) * 15).astype(np.uint8)
    return open_source((pixels, labels[chosen]))


@pytest.fixture(scope="session")
def other_digits() -> Source:
    """Other digits of the same classes."""
    images, labels = load_digits(return_X_y=True)
    rows = np.concatenate([np.flatnonzero(labels == label)[60:80] for label in range(CLASSES)])
    return open_source(((images[rows].reshape(-1, 8, 8) * 15).astype(np.uint8), labels[rows]))
