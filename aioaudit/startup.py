"""Auditing begins when asyncio does, and not before.

A start-up file runs in every process that inherits the variable, also in those
that never touch asyncio (compilers, package managers, multiprocessing's
resource tracker).  For them importing asyncio (45 ms) and opening a log would
be all cost, so a setting is only checked here, and the rest waits.

The wait is a finder on `sys.meta_path` that answers for ``asyncio`` only, by
asking the finders after it.  It leaves the spec and the loader they give as
they are, except that this one loader object gets an ``exec_module`` of ours for
the time between being found and being executed.  Rejected: a loader of our own
around the real one (``asyncio.__loader__`` and ``__spec__`` would show it, also
to people who only look with `importlib.util.find_spec`), an audit hook on
``import`` (it cannot be taken away again), importing asyncio at once.

What remains: a loader that takes no attribute (frozen modules) cannot be
watched.  Then one line says so and the program runs unaudited.
"""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from dataclasses import replace
from importlib import import_module
from typing import TYPE_CHECKING

from aioaudit.settings import VARIABLE, Settings, SettingsError, from_environ

if TYPE_CHECKING:
    from collections.abc import Sequence
    from importlib.abc import Loader
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_AWAITED = "asyncio"
_complaints: set[str] = set()
_waiting: _Watch | None = None


def start_from_environ() -> None:
    """Audit this process as the environment asks, from its first import of asyncio on.

    A setting that cannot be used is one line on stderr.
    """
    try:
        settings = from_environ(os.environ)
        if settings is None:
            return
        _check_names(settings)
    except SettingsError as error:
        complain(str(error))
    else:
        start(settings)


def start(settings: Settings) -> None:
    """Audit this process with *settings*, at once where asyncio is already imported.

    Replaces what an earlier call asked for if asyncio has not come since.
    Outside the main interpreter nothing happens: the types that auditing
    changes are shared by all of them.
    """
    global _waiting
    stop_waiting()
    if not _in_main_interpreter():
        return
    if _AWAITED in sys.modules:
        _activate(settings)
    else:
        # The program may go elsewhere before it imports asyncio.
        with suppress(OSError):  # the working directory was removed
            settings = replace(settings, folder=os.getcwd())  # noqa: PTH109 - pathlib is not cheap
        _waiting = _Watch(settings)
        sys.meta_path.insert(0, _waiting)


def stop_waiting() -> None:
    """Forget what `start` was told, if asyncio has not been imported since."""
    global _waiting
    watch, _waiting = _waiting, None
    if watch is not None:
        # A new list: taking an item out of the old one would make an import
        # that goes through it in another thread skip the next finder.
        sys.meta_path = [finder for finder in sys.meta_path if finder is not watch]


def complain(message: str) -> None:
    """Say once on stderr why this process is not audited."""
    if message in _complaints:
        return
    _complaints.add(message)
    if sys.stderr is not None:  # None under pythonw and the like
        sys.stderr.write(f"aioaudit: {message}; this program runs unaudited\n")
        sys.stderr.flush()


def _check_names(settings: Settings) -> None:
    from aioaudit.loading import check

    check(settings, VARIABLE, os.environ[VARIABLE])


def _in_main_interpreter() -> bool:
    for name in ("_interpreters", "_xxsubinterpreters"):  # since 3.13, and before
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True  # built without sub-interpreters


def _activate(settings: Settings) -> None:
    try:
        from aioaudit.session import enable_from_settings

        enable_from_settings(settings)
    except KeyboardInterrupt:
        raise  # meant for the program, which is running by now
    except BaseException as error:  # noqa: BLE001 - auditing must never stop a program
        complain(_one_line(error))


def _one_line(error: BaseException) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, SettingsError) else f"{type(error).__name__}: {text}"


class _Watch:
    """A finder that notices the first import of asyncio and then goes away."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings

    def find_spec(
        self,
        name: str,
        path: Sequence[str] | None = None,
        target: ModuleType | None = None,
    ) -> ModuleSpec | None:
        """What the finders after this one say, and a watch on it if it is asyncio."""
        if name != _AWAITED:
            return None
        spec = self._ask_the_others(name, path, target)
        if spec is not None and spec.loader is not None:
            try:
                self._watch(spec.loader)
            except Exception as error:  # noqa: BLE001 - an import must not fail because of us
                complain(
                    f"asyncio comes from a {type(spec.loader).__name__}, which cannot be watched"
                    f" ({_one_line(error)}); call aioaudit.enable() instead"
                )
        return spec

    def _ask_the_others(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None
    ) -> ModuleSpec | None:
        finders = list(sys.meta_path)
        if self in finders:
            finders = finders[finders.index(self) + 1 :]
        for finder in finders:
            find = getattr(finder, "find_spec", None)
            spec: ModuleSpec | None = None if find is None else find(name, path, target)
            if spec is not None:
                return spec
        return None

    def _watch(self, loader: Loader) -> None:
        if isinstance(loader, type):
            raise TypeError("it is shared by all frozen modules")
        own = vars(loader).get("exec_module")  # other watchers of imports use the same place
        execute = loader.exec_module

        def exec_module(module: ModuleType) -> None:
            if module.__name__ != _AWAITED:  # a loader for a whole zip file
                execute(module)
                return
            # First, so that asyncio's own code finds the loader untouched and a
            # failed import leaves nothing behind: the next one is watched anew.
            if own is None:
                vars(loader).pop("exec_module", None)
            else:
                vars(loader)["exec_module"] = own
            execute(module)
            if _waiting is self:
                stop_waiting()
                _activate(self._settings)

        vars(loader)["exec_module"] = exec_module
