"""From a call site to what explains it: our own tables, then those of other packages.

Nothing is loaded before a library's frame stands above a ``cancel()``.  Then our
table for that library is imported, if we have one; a site that is not in it is
looked for in the tables that installed packages register under `GROUP`.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from importlib import import_module
from types import FrameType
from typing import TYPE_CHECKING, Any

from aioaudit.causes.cause import Cause
from aioaudit.text import describe, say

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from aioaudit.causes.code import Explain

GROUP = "aioaudit.recognisers"
"""The entry-point group; each object is a table like `CALL_SITES` of our own recognisers."""

Table = Mapping[tuple[str, str], Any]

OWN = frozenset(
    {
        "aiohappyeyeballs",
        "aiohttp",
        "aiojobs",
        "aiotools",
        "anyio",
        "arq",
        "asgiref",
        "asyncpg",
        "grpc",
        "hypercorn",
        "quart",
        "redis",
        "sanic",
        "starlette",
        "uvicorn",
        "websockets",
    }
)
"""The libraries that we have a table for, by the name that they are imported under."""

PROBED = {
    "aiotools.taskscope": "aiotools",
    "aiotools.timeouts": "aiotools",
    "anyio._backends._asyncio": "anyio",
}
"""Modules that our tables need a probe in, with the library whose table it is."""


def find(module: str, qualname: str) -> Explain | None:
    """What explains the call site *qualname* in *module*, None where nobody does."""
    library = module.partition(".")[0]
    explain = None
    if library in OWN:
        explain = own_table(library).get((module, qualname))
    if explain is None:
        try:
            explain = _foreign_tables().get((module, qualname))
        except Exception:  # noqa: BLE001 - to read files in a loop may be forbidden; the next place asks again
            return None
    return None if explain is None else _guarded(explain, f"{module}:{qualname}")


@functools.lru_cache(maxsize=1000)
def find_compiled(module: str, qualname: str) -> Explain | None:
    """The same for a coroutine function of compiled code, whose frames are nowhere to be asked."""
    return find(module, qualname)


def own_table(library: str) -> Table:
    """Our own table for *library*, one of `OWN`."""
    table: Table = import_module(f"aioaudit.recognisers.{library}").CALL_SITES
    return table


@functools.cache
def _foreign_tables() -> dict[tuple[str, str], Any]:
    """All tables of other packages as one; what cannot be loaded is said and left out.

    Raises:
        Exception: what a detector of calls that block a loop raises where files are read.
    """
    from importlib.metadata import entry_points  # 20 ms, and only here is it needed

    merged: dict[tuple[str, str], Any] = {}
    for point in sorted(entry_points(group=GROUP)):
        try:
            merged.update(loaded(point))
        except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything
            say(f"recogniser {point.name!r} ({point.value}) cannot be loaded: {describe(error)}")
    return merged


def loaded(point: EntryPoint) -> Table:
    """The table that *point* names.

    Raises:
        TypeError: it is none.
        Exception: what importing a stranger's module raises.
    """
    table = point.load()
    if not isinstance(table, Mapping):
        raise TypeError(f"it is a {type(table).__name__}, not a mapping of call sites")
    for site, explain in table.items():
        named = isinstance(site, tuple) and list(map(type, site)) == [str, str]
        if not named or not callable(explain):
            raise TypeError(
                f"{site!r}: {explain!r} is not (module, qualified name): explain(frame, call)"
            )
    return table


def _guarded(explain: Any, site: str) -> Explain:
    """*explain*, whose errors are said once and otherwise mean "not explained"."""
    failed = False

    def guarded(frame: FrameType, call: Any) -> Cause | None:
        nonlocal failed
        try:
            cause = explain(frame, call)
            if cause is None or isinstance(cause, Cause):
                return cause
            raise TypeError(f"a Cause or None was expected, not {cause!r}")
        except Exception as error:  # noqa: BLE001 - the locals of another version may be any
            if not failed:
                failed = True
                say(
                    f"the recogniser of {site} failed, its call is told unexplained: {describe(error)}"
                )
            return None

    return guarded
