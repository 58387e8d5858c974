"""Setuptools' build backend, which asks for the CUDA compiler's wheels where they are needed."""

from __future__ import annotations

from typing import Any

import cuda_toolkit
from setuptools import build_meta
from setuptools.build_meta import (  # noqa: F401
    build_editable,
    build_sdist,
    build_wheel,
    get_requires_for_build_sdist,
    prepare_metadata_for_build_editable,
    prepare_metadata_for_build_wheel,
)


def _wheels() -> list[str]:
    needed = cuda_toolkit.mode() == "on" and cuda_toolkit.find_nvcc() is None
    return list(cuda_toolkit.WHEELS) if needed else []


def get_requires_for_build_wheel(settings: dict[str, Any] | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_wheel(settings), *_wheels()]


def get_requires_for_build_editable(settings: dict[str, Any] | None = None) -> list[str]:
    return [*build_meta.get_requires_for_build_editable(settings), *_wheels()]
