"""Package members that are imported on first use.

Importing PyTorch takes seconds. So a package with settings for the command line names its members
here instead of importing them, which lets ``pydream --help`` answer at once.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from pydream.collector import nothing_collected


class _LazyPackage(ModuleType):
    """A package that imports a member on first access."""

    lazy_members: Mapping[str, str]

    def __getattr__(self, name: str) -> Any:
        if name not in self.lazy_members:
            raise AttributeError(f"module {self.__name__!r} has no attribute {name!r}")
        value = _member(imported(self.lazy_members[name]), name)
        setattr(self, name, value)
        return value

    def __setattr__(self, name: str, value: Any) -> None:
        # The import system stores a submodule under its name. If a member has the same name, such
        # as `pydream.rded.distill`, the member is stored instead.
        if isinstance(value, ModuleType) and self.lazy_members.get(name) == value.__name__:
            value = _member(value, name)
        super().__setattr__(name, value)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *self.lazy_members})


def _member(module: ModuleType, name: str) -> Any:
    """Return the member of a module, or the module if it is the member itself."""
    return getattr(module, name, module)


def lazy_members(package: str, modules: Mapping[str, str]) -> None:
    """Let a package import its members on first access.

    Parameters
    ----------
    package
        Name of the package, which calls this during its own import.
    modules
        Module of each member, by the name of the member. A subpackage is its own module.
    """
    module = sys.modules[package]
    module.__class__ = _LazyPackage
    vars(module)["lazy_members"] = dict(modules)


def imported(module: str) -> Any:
    """Import a module that takes long to import, and return it.

    Python's garbage collector is paused, which finds nothing in an import: torchvision takes 0.8 s
    then instead of 1.0.
    """
    if module in sys.modules:
        return importlib.import_module(module)
    with nothing_collected():
        return importlib.import_module(module)


@contextmanager
def imported_beside(module: str) -> Iterator[None]:
    """Import a module in a thread while the block runs; it is there when the block ends.

    A module that cannot be imported is no error here: whoever needs it imports it, and gets that.
    """
    with ThreadPoolExecutor(1) as thread:
        thread.submit(imported, module)
        yield
