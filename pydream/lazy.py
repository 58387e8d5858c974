"""Package members that are imported when they are first used.

Importing PyTorch takes seconds. A package whose settings the command line reads therefore names its
members here instead of importing them, so that ``pydream --help`` answers at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from types import ModuleType
from typing import Any


class _LazyPackage(ModuleType):
    """A package that imports a member on first access."""

    lazy_members: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self.lazy_members:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = _member(importlib.import_module(self.lazy_members[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system stores a submodule under its name. Where a member has the same name, as
        # `pydream.rded.distill`, the member is stored instead.
        if isinstance(value, ModuleType) and self.lazy_members.get(name) == value.__name__:
            value = _member(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.lazy_members})


def _member(module: ModuleType, name: str) -> Any:
    """Return the member of a module, or the module where it is the member itself."""
    return getattr(module, name, module)


def lazy_members(package: str, modules: Mapping[str, str]) -> None:
    """Let a package import its members on first access.

    Parameters
    ----------
    package
        Name of the package, called while the package is imported.
    modules
        The module that holds each member, by the name of the member. A subpackage holds itself.
    """
    module = sys.modules[package]
    module.__class__ = _LazyPackage
    vars(module)["lazy_members"] = dict(modules)
