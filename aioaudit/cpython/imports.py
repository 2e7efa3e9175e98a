"""Doing something once a module has been imported, without importing it.

A finder at the head of `sys.meta_path` lets the others find the module, and sees
to it that its loader calls back after running it.  It leaves as soon as every
module it waits for is there; a module that was imported before is there at once.

Who comes later may put a finder before ours, and then ours is not asked for what
that one finds: pytest does so for the modules of its plugins, anyio's among them.  To
move to the head again would take somebody's ``sys.meta_path.pop(0)`` for ourselves.
So at every other import, and whenever `look` is called, we look whether they are there.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any

WhenThere = Callable[[ModuleType], None]


class AfterImport:
    """Waits for modules, from construction to `remove`."""

    def __init__(self, wanted: Mapping[str, WhenThere]) -> None:
        """*wanted* has, by the module's full name, what is to be called with it."""
        self._wanted = dict(wanted)
        self.look()
        if self._wanted:
            sys.meta_path.insert(0, self)

    def look(self) -> None:
        """See whether one of the modules is there by now."""
        self._look()
        if not self._wanted:
            self.remove()

    def _look(self) -> None:
        for name in list(self._wanted):
            module = sys.modules.get(name)
            if module is not None and not getattr(module.__spec__, "_initializing", False):
                self._tell(name, module)

    def remove(self) -> None:
        """Wait no longer."""
        self._wanted.clear()
        if self in sys.meta_path:
            sys.meta_path.remove(self)

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec as the other finders give it; None for what nobody waits for."""
        if name not in self._wanted:
            # To leave `sys.meta_path` now would hide the next finder from the loop that asks.
            self._look()
            return None
        for finder in list(sys.meta_path):
            find = getattr(finder, "find_spec", None)
            if finder is self or find is None:
                continue
            spec: ModuleSpec | None = find(name, path, target)
            if spec is not None:
                self._follow(name, spec.loader)
                return spec
        return None

    def _follow(self, name: str, loader: Any) -> None:
        """Have *loader* call back once it has run the module *name*."""
        try:
            original = loader.exec_module

            def exec_module(module: ModuleType) -> None:
                original(module)
                if module.__name__ == name:
                    vars(loader).pop("exec_module", None)
                    self._tell(name, module)
                    if not self._wanted:
                        self.remove()

            loader.exec_module = exec_module
        except AttributeError:
            return  # a loader that cannot be followed: the module stays as it is

    def _tell(self, name: str, module: ModuleType) -> None:
        when_there = self._wanted.pop(name, None)
        if when_there is not None:
            when_there(module)
