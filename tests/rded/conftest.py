from __future__ import annotations

from pathlib import Path

import pytest
from rded_runs import write_pictures, write_random_observer

from pydream.models import ObserverConfig, train_observer


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Class folders of pictures: four classes of eleven, PNG and JPEG."""
    return write_pictures(tmp_path / "pictures")


@pytest.fixture
def random_observer(tmp_path: Path) -> Path:
    """A small observer of four classes with random weights, for 32 pixels a side."""
    return write_random_observer(tmp_path / "random.safetensors")


@pytest.fixture(scope="session")
def digits_observer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An observer that knows the digits."""
    out = tmp_path_factory.mktemp("observer") / "digits.safetensors"
    train_observer(
        ObserverConfig(
            source="digits", arch="convnet2-w16", epochs=6, horizontal_flip=False, out=out
        )
    )
    return out
