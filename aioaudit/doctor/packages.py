"""What is installed, found without importing any of it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from importlib.metadata import PackageNotFoundError, packages_distributions, version


def find_spec(name: str) -> ModuleSpec | None:
    """The spec of the module *name*, None if there is none.

    `importlib.util.find_spec` imports the packages above a module; this does not.
    """
    path: Sequence[str] | None = None
    spec: ModuleSpec | None = None
    parts = name.split(".")
    for count in range(1, len(parts) + 1):
        if count > 1 and path is None:
            return None  # a module, not a package
        spec = _ask(".".join(parts[:count]), path)
        if spec is None:
            return None
        found = spec.submodule_search_locations
        path = None if found is None else list(found)
    return spec


def _ask(name: str, path: Sequence[str] | None) -> ModuleSpec | None:
    for finder in sys.meta_path:
        find = getattr(finder, "find_spec", None)
        spec: ModuleSpec | None = None if find is None else find(name, path)
        if spec is not None:
            return spec
    return None


@functools.cache
def _distributions() -> dict[str, list[str]]:
    return dict(packages_distributions())


def version_of_module(name: str) -> str | None:
    """The version of the distribution that the top-level module *name* belongs to."""
    return next(
        (found for each in _distributions().get(name, [name]) if (found := version_of(each))),
        None,
    )


def version_of(distribution: str) -> str | None:
    """The version of *distribution* as it is installed, None if it is not."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None
