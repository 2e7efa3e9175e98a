"""Private. Auditing begins when asyncio does, and not before.

A start-up file runs in every process that inherits the variable, also in those
that never touch asyncio (compilers, package managers, multiprocessing's
resource tracker).  For them importing asyncio (45 ms) and opening a log would
be all cost, so a setting is only checked here, and the rest waits.

The wait is a finder on `sys.meta_path`, see `aioaudit.cpython.imports`.  Rejected:
importing asyncio at once.

What remains: a loader that takes no attribute (frozen modules) cannot be
watched.  Then one line says so and the program runs unaudited.

A program may also drop asyncio from `sys.modules` and import it anew, as
``ddtrace-run`` does where gevent is installed.  Classes, loops and the state of C
code are others then, so auditing begins anew as well, with a run of its own.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any

from aioaudit.cpython.imports import AfterImport, is_being_imported
from aioaudit.cpython.interpreters import is_main
from aioaudit.settings import VARIABLE, Settings, SettingsError, from_environ
from aioaudit.text import describe, say

if TYPE_CHECKING:
    from collections.abc import Callable, Generator
    from importlib.machinery import ModuleSpec
    from types import ModuleType

_AWAITED = "asyncio"
_OURS = "aioaudit."
_complaints: set[str] = set()
_waiting: _Watch | None = None
_settings: Settings | None = None
_end: Callable[[], None] | None = None

_KEPT = frozenset(
    f"aioaudit.{name}"
    for name in (
        *("startup", "settings", "loading", "version", "errors", "auditing"),
        *("core.choice", "core._core"),  # decided for good, and loaded once in a process
    )
)
"""What knows nothing of asyncio, and may be in the middle of starting us."""


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
        report_unaudited(str(error))
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
    if not is_main():
        return
    if _AWAITED in sys.modules:
        _activate(settings)
    else:
        # The program may go elsewhere before it imports asyncio.
        with suppress(OSError):  # the working directory was removed
            settings = settings._replace(folder=os.getcwd())  # noqa: PTH109 - pathlib is not cheap
        atexit.unregister(_missed)
        atexit.register(_missed)
        _waiting = _Watch(settings)
        _waiting.begin()


def stop_waiting() -> None:
    """Forget what `start` was told, if asyncio has not been imported since."""
    global _waiting
    watch, _waiting = _waiting, None
    if watch is not None:
        watch.remove()


def report_unaudited(message: str) -> None:
    """Say once on stderr why this process is not audited."""
    if message in _complaints:
        return
    _complaints.add(message)
    say(f"{message}; this program runs unaudited")


def _check_names(settings: Settings) -> None:
    from aioaudit.loading import check

    check(settings, VARIABLE, os.environ.get(VARIABLE))


def _activate(settings: Settings) -> None:
    global _settings, _end
    try:
        with _nothing_collected():
            from aioaudit.session import disable, enable_from_settings

            enable_from_settings(settings, _came_anew)
        _settings, _end = settings, disable
    except KeyboardInterrupt:
        raise  # meant for the program, which is running by now
    except BaseException as error:  # noqa: BLE001 - auditing must never stop a program
        report_unaudited(_words(error))


@contextmanager
def _nothing_collected() -> Generator[None, None, None]:
    """Keep the collector from going through what we import, all of which stays, again and again.

    Not where there are other threads: one may fork, and its child would never collect.
    """
    from threading import active_count  # asyncio has brought it

    if not gc.isenabled() or active_count() > 1:
        yield
        return
    try:
        gc.disable()
        yield
    finally:
        gc.enable()


def _words(error: BaseException) -> str:
    return str(error) if isinstance(error, SettingsError) else describe(error)


class _Watch(AfterImport):
    """Waits for the first import of asyncio.

    It may come from a module of ours that the program imports first, such as one with a
    recogniser of its own.  What auditing needs of that module is not there yet in the middle
    of its import, so the beginning is put off to its end.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._due = False
        super().__init__({_AWAITED: self._there})

    def find_spec(
        self, name: str, path: Any = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """As every finder of this kind; of our own modules it has to know when they are there."""
        if name.startswith(_OURS):
            self._wanted.setdefault(name, self._there)
        return super().find_spec(name, path, target)

    def look(self) -> None:
        """See what is there by now; an import of ours may have failed, too."""
        super().look()
        if self._due:
            self._begin()

    def _there(self, module: ModuleType) -> None:
        self._due |= module.__name__ == _AWAITED
        if self._due:
            self._begin()

    def _begin(self) -> None:
        under_way = (sys.modules.get(name) for name in list(self._wanted))
        if _waiting is self and not any(map(_is_half_there, under_way)):
            stop_waiting()
            _activate(self._settings)

    def cannot_follow(self, name: str, loader: object, error: Exception) -> None:
        """Say it: nobody knows when the next import will be."""
        if name.startswith(_OURS):
            self._wanted.pop(name, None)
            return
        report_unaudited(
            f"{name} comes from a {type(loader).__name__}, which cannot be watched"
            f" ({_words(error)}); call aioaudit.enable() instead"
        )
        stop_waiting()


def _is_half_there(module: ModuleType | None) -> bool:
    return module is not None and is_being_imported(module)


def _missed() -> None:
    """At the end: asyncio came by a finder before ours, and nothing was imported after it."""
    if _waiting is not None and _AWAITED in sys.modules and not _complaints:
        report_unaudited(
            f"{_AWAITED} was imported by a finder that stands before the one of aioaudit on"
            " sys.meta_path, and was not seen; call aioaudit.enable() instead"
        )


def _came_anew() -> None:
    """The program has dropped asyncio and imported another: audit that one.

    All of ours that is bound to the old one is imported anew, too.  Where loops of the old one
    still run they are not audited any more.
    """
    global _end
    settings, _end_old = _settings, _end
    _end = None
    if settings is None or _end_old is None:
        return
    _end_old()
    ours = [
        name
        for name in sys.modules
        if name.startswith(_OURS) and name not in _KEPT and not name.startswith("aioaudit.cli")
    ]
    for name in ours:
        del sys.modules[name]
    package = sys.modules.get("aioaudit")
    for name in getattr(package, "_LAZY", ()):
        vars(package).pop(name, None)
    _activate(settings)
