"""Doing something once a module has been imported, without importing it.

A finder at the head of `sys.meta_path` lets those after it find the module, and leaves the
spec and the loader that they give as they are, except that this one loader object gets an
``exec_module`` of ours for the time between being found and being executed.  Rejected: a
loader of our own around the real one (``__loader__`` and ``__spec__`` would show it, also to
people who only look with `importlib.util.find_spec`), an audit hook on ``import`` (it cannot
be taken away again).

Who comes later may put a finder before ours, and then ours is not asked for what that one
finds: pytest does so for the modules of its plugins.  To move to the head again would take
somebody's ``sys.meta_path.pop(0)`` for ourselves.  So at every other import, and whenever
`look` is called, we look whether they are there.

**Coming and leaving.**  ``importlib._bootstrap._find_spec`` goes through the list itself, by
index: to take an item out, with ``remove()`` or by a slice, makes an import that is under way
in another thread skip the finder behind it, and end in ModuleNotFoundError.  So the list is
never changed but replaced, and who goes through the other one finds a finder there that knows
nothing.
"""

from __future__ import annotations

import sys
import weakref
from typing import TYPE_CHECKING, Any

from aioaudit.cpython import internals

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    WhenThere = Callable[[ModuleType], None]

_modules = sys.modules
"""As it is now: Temporal's sandbox puts another in its place, with copies that are not meant."""


def is_being_imported(module: ModuleType) -> bool:
    """Whether another thread is still running the code of *module*."""
    return bool(getattr(module.__spec__, internals.INITIALIZING.name, False))


class AfterImport:
    """Waits for modules, from `begin` on until all of them are there or `remove` is called.

    Args:
        wanted: By the module's full name, what is to be called with it.
        anew: Those of them that were imported already and are waited for again: a program
            may drop a module from `sys.modules`, and what it imports then is another.
        also: More of them, which alone are not worth waiting for.
        stays: Whether to wait for those in *anew* and *also* when all others are there.
    """

    def __init__(
        self,
        wanted: Mapping[str, WhenThere],
        anew: Iterable[str] = (),
        also: Mapping[str, WhenThere] | None = None,
        *,
        stays: bool = False,
    ) -> None:
        self._wanted = {**wanted, **(also or {})}
        self._aside = frozenset() if stays else frozenset({*anew, *(also or ())})
        self._known = {name: weakref.ref(_modules[name]) for name in anew if name in _modules}
        self._list = self._before = sys.meta_path

    def begin(self) -> None:
        """See which of them are there, and wait for the others."""
        self.look()
        while self._waits():
            self._before = sys.meta_path
            found = list(self._before)
            self._list = [self, *found]
            sys.meta_path = self._list
            if self._before == found:
                return
            sys.meta_path = self._before  # somebody has changed it meanwhile

    def _waits(self) -> bool:
        return any(name not in self._aside for name in self._wanted)

    def look(self) -> None:
        """See whether one of the modules is there by now."""
        # Each loop that begins to run comes by here, and mostly none of them is there.
        if self._wanted.keys().isdisjoint(_modules.keys()):
            return
        for name in list(self._wanted):
            module = _modules.get(name)
            if module is not None and not is_being_imported(module):
                self._tell(name, module)

    def remove(self) -> None:
        """Wait no longer; who was interrupted here may do it again."""
        self._wanted.clear()
        self._known.clear()
        while self in sys.meta_path:
            there = sys.meta_path
            found = list(there)
            left = [each for each in found if each is not self]
            if there is self._list:  # the list itself is what it was, too; nobody goes through it
                if self._before != left:
                    self._before[:] = left
                left = self._before
            sys.meta_path = left
            if there == found:
                return
            sys.meta_path = there  # somebody has changed it meanwhile

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The module's spec as the finders after this one give it; None for any other module."""
        if name not in self._wanted:
            self.look()
            return None
        spec = self._ask_the_others(name, path, target)
        if spec is not None and spec.loader is not None:
            try:
                self._follow(name, spec.loader)
            except Exception as error:  # noqa: BLE001 - an import must not fail because of us
                self.cannot_follow(name, spec.loader, error)
        return spec

    def cannot_follow(self, name: str, loader: object, error: Exception) -> None:
        """*loader* shows nothing of what it does: the next import will find the module there."""

    def _ask_the_others(self, name: str, path: Any, target: ModuleType | None) -> ModuleSpec | None:
        finders = list(sys.meta_path)
        if self in finders:
            finders = finders[finders.index(self) + 1 :]
        for finder in finders:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        return None

    def _follow(self, name: str, loader: Any) -> None:
        """Have *loader* call back once it has run the module *name*."""
        if isinstance(loader, type):
            raise TypeError("it is shared by all frozen modules")
        own = vars(loader).get("exec_module")  # other watchers of imports use the same place
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if module.__name__ != name:  # a loader for a whole zip file
                execute(module)
                return
            # First, so that the module's own code finds the loader untouched and a failed
            # import leaves nothing behind: the next one is watched anew.
            if own is None:
                vars(loader).pop("exec_module", None)
            else:
                vars(loader)["exec_module"] = own
            execute(module)
            if _modules.get(name) is module:
                self._tell(name, module)

        vars(loader)["exec_module"] = exec_module

    def _tell(self, name: str, module: ModuleType) -> None:
        known = self._known.get(name)
        if known is None:
            when_there = self._wanted.pop(name, None)
        elif known() is module:  # as it was, or run again by `importlib.reload`
            return
        else:
            self._known[name] = weakref.ref(module)
            when_there = self._wanted.get(name)
        if when_there is not None:
            when_there(module)
            if not self._waits():
                self.remove()
