"""From a function of a library to what explains it: our own tables, then those of other packages.

Three questions are asked, and each has a table of its own: why does this function call
``cancel()`` (``CALL_SITES``), what is a timeout for that was entered here (``TIMEOUTS``), and
what has ended where this function ended a loop (``LOOP_ENDS``)?

Our tables for a library are imported as soon as the library is there.  Which tables installed
packages register under `GROUP` is known when auditing begins; one of theirs is imported when a
site of a library stands above a ``cancel()`` that none of ours explains.

That moment may lie where imports are not what they are: Temporal's sandbox puts another
`sys.modules` and another ``__import__`` in the place of Python's while a workflow runs, and an
import of ours would make copies of our modules in there.  Then nothing is imported, and the
next ``cancel()`` from there asks again.
"""

from __future__ import annotations

import functools
import os
import sys
from collections.abc import Callable, Mapping
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any, NamedTuple

from aioaudit.stack.code import NotNowError
from aioaudit.state.cause import Cause
from aioaudit.text import describe, say

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from aioaudit.addresses import Connection
    from aioaudit.stack.code import Explain

GROUP = "aioaudit.recognisers"
"""The entry-point group; each object is a table like `CALL_SITES` of our own recognisers.

In the same module there may be the tables ``TIMEOUTS`` and ``LOOP_ENDS``.
"""

Table = Mapping[tuple[str, str], Any]


class Tables(NamedTuple):
    """What a recogniser explains: its table for each of the three questions."""

    calls: Table
    timeouts: Table
    loop_ends: Table


def tables_of(module: object, calls: Table) -> Tables:
    """*calls* and the other tables that *module* has."""
    return Tables(calls, getattr(module, "TIMEOUTS", {}), getattr(module, "LOOP_ENDS", {}))


OWN = frozenset(
    {
        "PySide6",
        "aiohappyeyeballs",
        "aiohttp",
        "aiojobs",
        "aiotools",
        "anyio",
        "arq",
        "asgiref",
        "asyncpg",
        "daphne",
        "django",
        "faststream",
        "grpc",
        "gunicorn",
        "hypercorn",
        "ipykernel",
        "langgraph",
        "litestar",
        "mcp",
        "procrastinate",
        "pytest_asyncio",
        "quart",
        "redis",
        "sanic",
        "saq",
        "sse_starlette",
        "starlette",
        "strawberry",
        "taskiq",
        "telegram",
        "textual",
        "tornado",
        "twisted",
        "uvicorn",
        "websockets",
    }
)
"""The libraries that we have a table for, by the name that they are imported under."""

PROBED = {
    "PySide6.QtAsyncio.tasks": "PySide6",
    "aiohttp.web_protocol": "aiohttp",
    "aiotools.taskscope": "aiotools",
    "aiotools.timeouts": "aiotools",
    "anyio._backends._asyncio": "anyio",
    "websockets.protocol": "websockets",
}
"""Modules that our tables need a probe in, with the library whose table it is."""


_scandir = os.scandir  # who looks for calls that block a loop puts another in its place
_tables: dict[str, Tables] = {}
_seen: tuple[list[str], bool] | None = None
"""The path when it was searched last, and whether a table was registered there."""


def at_home() -> bool:
    """Whether importing something here and now imports it where we are."""
    try:
        return vars(sys.modules[__name__]) is globals()
    except Exception:  # noqa: BLE001 - whatever stands there now
        return False


def look_around() -> None:
    """Find out whether other packages register tables, where that is not known yet."""
    global _seen
    if _seen is not None and _seen[0] == sys.path:
        return
    _seen = list(sys.path), any(map(_registers, sys.path))
    _foreign_tables.cache_clear()


def _registers(folder: str) -> bool:
    """Whether one of the packages in *folder* of the path registers tables, as far as files tell.

    A hundredth of what `importlib.metadata` takes, which is asked where the answer is yes.
    """
    section = f"[{GROUP}]".encode()
    try:
        with _scandir(folder or ".") as entries:
            names = [each.path for each in entries if each.name.endswith(("-info", ".egg-info"))]
    except OSError:
        return os.path.isfile(folder)  # noqa: PTH113 - pathlib takes its time to import; an archive: that it does not is not known
    for name in names:
        try:
            with open(f"{name}/entry_points.txt", "rb") as file:  # noqa: PTH123 - there are hundreds
                if section in file.read():
                    return True
        except OSError:
            continue
    return False


def find(module: str, qualname: str) -> Explain | None:
    """What explains why *qualname* in *module* calls ``cancel()``, None where nobody does.

    Raises:
        NotNowError: that cannot be found out just now.
    """
    return _find(0, module, qualname)


def find_timeout(module: str, qualname: str) -> Explain | None:
    """What explains the timeouts that *qualname* in *module* enters, None where nobody does.

    Raises:
        NotNowError: that cannot be found out just now.
    """
    return _find(1, module, qualname)


def find_loop_end(module: str, qualname: str) -> Explain | None:
    """What explains that *qualname* in *module* ends a loop, None where nobody does.

    Raises:
        NotNowError: that cannot be found out just now.
    """
    return _find(2, module, qualname)


def is_left(module: str, qualname: str) -> bool:
    """Whether its library is known to leave tasks of this coroutine function to the end of a loop."""
    library = module.partition(".")[0]
    if library not in _tables:
        return False
    return (module, qualname) in getattr(sys.modules.get(module_of(library)), "LEFT", ())


def find_loss(module: str, qualname: str) -> Callable[[BaseException], Connection | None] | None:
    """What says of which connection an error of this class tells that its peer went away."""
    library = module.partition(".")[0]
    if library not in _tables:
        return None
    table: Table = getattr(sys.modules.get(module_of(library)), "LOSSES", {})
    return table.get((module, qualname))


@functools.lru_cache(maxsize=1000)
def find_compiled(module: str, qualname: str) -> Explain | None:
    """`find` for a coroutine function of compiled code, whose frames are nowhere to be asked."""
    return find(module, qualname)


def _find(question: int, module: str, qualname: str) -> Explain | None:
    library = module.partition(".")[0]
    explain: Explain | None = None
    if library in _tables or (library in OWN and at_home()):
        explain = own_tables(library)[question].get((module, qualname))
    if explain is None:
        if not at_home():
            raise NotNowError(module)
        try:
            explain = _foreign_tables()[question].get((module, qualname))
        except Exception:  # noqa: BLE001 - to read files in a loop may be forbidden; the next place asks again
            return None
    return explain


def module_of(library: str) -> str:
    """The name of the module that has our tables for *library*, one of `OWN`."""
    return f"aioaudit.recognisers.{library.lower()}"


def own_tables(library: str) -> Tables:
    """Our own tables for *library*, one of `OWN`."""
    tables = _tables.get(library)
    if tables is None:
        module = import_module(module_of(library))
        tables = tables_of(module, module.CALL_SITES)
        _tables[library] = tables
    return tables


@functools.cache
def _foreign_tables() -> Tables:
    """All tables of other packages as one; what cannot be loaded is said and left out.

    Raises:
        Exception: what a detector of calls that block a loop raises where files are read.
    """
    merged: list[dict[tuple[str, str], Any]] = [{}, {}, {}]
    look_around()
    if _seen is not None and not _seen[1]:
        return Tables(*merged)
    from importlib.metadata import entry_points  # 20 ms, and only here is it needed

    for point in sorted(entry_points(group=GROUP)):
        try:
            found = loaded(point)
        except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything
            say(f"recogniser {point.name!r} ({point.value}) cannot be loaded: {describe(error)}")
        else:
            for table, more in zip(merged, found, strict=True):
                table.update(more)
    return Tables(*merged)


def _as_it_is(table: Any) -> Any:
    """*table*, which a stranger has written, of no type that we could promise."""
    return table


def loaded(point: EntryPoint) -> Tables:
    """The table that *point* names, and the others of the module that it is in.

    Raises:
        TypeError: one of them is none.
        Exception: what importing a stranger's module raises.
    """
    calls = point.load()
    tables = tables_of(sys.modules.get(point.module), calls)
    for table in map(_as_it_is, tables):
        if not isinstance(table, Mapping):
            raise TypeError(f"it is a {type(table).__name__}, not a mapping of call sites")
        for site, explain in table.items():
            named = isinstance(site, tuple) and list(map(type, site)) == [str, str]
            if not named or not callable(explain):
                raise TypeError(
                    f"{site!r}: {explain!r} is not (module, qualified name): explain(frame, call)"
                )
    return tables


_failed: set[str] = set()
"""The functions, and classes of errors, whose recogniser has failed, and was named for it."""


def ask(explain: Explain, site: str, frame: FrameType, call: Any) -> Cause | None:
    """What *explain* answers for the function *site*; if it fails that is said once, and None."""
    try:
        cause = explain(frame, call)
        if cause is None or isinstance(cause, Cause):
            return cause
        raise TypeError(f"a Cause or None was expected, not {cause!r}")
    except Exception as error:  # noqa: BLE001 - the locals of another version may be any
        say_failed(site, f"its call is told unexplained: {describe(error)}")
        return None


def say_failed(site: str, words: str) -> None:
    """Say once that what we have for *site* has failed, and in *words* what that means."""
    if site not in _failed:
        _failed.add(site)
        say(f"the recogniser of {site} failed, {words}")
