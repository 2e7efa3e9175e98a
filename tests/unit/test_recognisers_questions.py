"""Every recogniser is asked every question that it may be asked, of the library as it is installed.

Each explanation gets a frame of the real function.  What the function's variables hold is
anything at all, but what they are called is the library's: a name that this version does not
have shows, and so does a question that an explanation was not made for.
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import importlib
import importlib.util
import inspect
import re
import sys
from collections.abc import Iterator
from types import CellType, CodeType, FrameType, FunctionType
from typing import Any

import pytest

from aioaudit.identity import Run
from aioaudit.recognisers import registry, stdlib
from aioaudit.recognisers.call import Call
from aioaudit.recorder.recorder import Recorder
from aioaudit.state.cause import Cause
from aioaudit.state.handoffs import TimeoutEntry

with contextlib.suppress(ImportError):
    importlib.import_module("procrastinate")  # what it needs starts programs, when imported

Site = tuple[str, str]


class Anything:
    """What a variable holds: whatever is asked of it is there."""

    def __init__(self, **known: Any) -> None:
        self.__dict__.update(known)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        made = Anything()
        self.__dict__[name] = made
        return made

    def __call__(self, *_args: Any, **_keywords: Any) -> Any:
        return Anything()

    def __getitem__(self, key: Any) -> Any:
        return Anything()

    def __iter__(self) -> Iterator[Any]:
        return iter(())

    def __len__(self) -> int:
        return 0

    def __bool__(self) -> bool:
        return True

    def __format__(self, spec: str) -> str:
        return format(1.5, spec)

    def __float__(self) -> float:
        return 1.5

    def __index__(self) -> int:
        return 15

    def __await__(self) -> Iterator[Any]:
        yield

    __hash__ = object.__hash__


def library_sites() -> Iterator[tuple[str, str, Site]]:
    """Library, question and function of all that our recognisers explain."""
    for site in stdlib.CALL_SITES:
        yield "asyncio", "calls", site
    for library in sorted(registry.OWN):
        tables = registry.own_tables(library)
        for question, table in zip(tables._fields, tables, strict=True):
            for site in table:
                yield library, question, site


def code_of(site: Site) -> CodeType | None:
    """The code of the function *site*; None where there is none in this version."""
    module, qualname = site
    try:
        spec = importlib.util.find_spec(module)
    except ImportError:
        return None
    get_code = getattr(getattr(spec, "loader", None), "get_code", None)
    left = [] if get_code is None else [get_code(module)]
    while left:
        code = left.pop()
        if code is None:
            return None
        if code.co_qualname == qualname:
            return code  # type: ignore[no-any-return]  # a loader's is of no known type
        left.extend(each for each in code.co_consts if isinstance(each, CodeType))
    return None


def names_of(code: CodeType) -> list[str]:
    return [*code.co_varnames, *code.co_cellvars, *code.co_freevars]


def fill(frame: FrameType, values: dict[str, Any]) -> None:
    """Give the variables of *frame* their *values*."""
    frame.f_locals.update(values)
    if sys.version_info < (3, 13):
        ctypes.pythonapi.PyFrame_LocalsToFast(ctypes.py_object(frame), ctypes.c_int(0))


class _EnoughError(Exception):
    """Ends a function before its first line."""


_RESUMED = inspect.CO_COROUTINE | inspect.CO_ASYNC_GENERATOR | inspect.CO_GENERATOR
_FRAMES = ("cr_frame", "ag_frame", "gi_frame")


def with_frame(site: Site, code: CodeType, values: dict[str, Any], look: Any) -> Any:
    """What *look* says of a frame of *code*, of the function *site*, whose variables hold *values*."""
    function = FunctionType(
        code,
        {"__name__": site[0], "__builtins__": __builtins__},
        closure=tuple(CellType(values[name]) for name in code.co_freevars),
    )
    count = code.co_argcount + code.co_kwonlyargcount
    names = code.co_varnames[:count]
    given = {name: values[name] for name in names[code.co_posonlyargcount :]}
    first = [values[name] for name in names[: code.co_posonlyargcount]]
    answer: list[Any] = []
    if code.co_flags & _RESUMED:
        made = function(*first, **given)
        frame = next(getattr(made, name) for name in _FRAMES if hasattr(made, name))
        fill(frame, values)
        try:
            return look(frame)
        finally:
            if not code.co_flags & inspect.CO_ASYNC_GENERATOR:
                made.close()

    def trace(frame: FrameType, event: str, _argument: object) -> None:
        if frame.f_code is code and event == "call":
            fill(frame, values)
            answer.append(look(frame))
            raise _EnoughError  # and so nothing is traced any more

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        function(*first, **given)
    except _EnoughError:
        pass
    finally:
        sys.settrace(before)
    return answer[0]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("error", [None, OSError("broken"), asyncio.CancelledError()], ids=repr)
@pytest.mark.parametrize(
    ("library", "question", "site"),
    list(library_sites()),
    ids=lambda value: value if isinstance(value, str) else ":".join(value),
)
def test_every_recogniser_answers_what_it_may_be_asked(
    library: str, question: str, site: Site, error: BaseException | None
) -> None:
    if library != "asyncio" and importlib.util.find_spec(library) is None:
        pytest.skip(f"{library} is not installed")
    code = code_of(site)
    if code is None:
        pytest.skip(f"this version of {library} has no such function, or it is compiled")
    table = stdlib.CALL_SITES
    if library != "asyncio":
        table = getattr(registry.own_tables(library), question)
    explain: Any = table[site]
    asked_of, asked_code = site, code
    if question == "timeouts":
        asked_of = "asyncio.timeouts", "Timeout._on_timeout"
        found = code_of(asked_of)
        assert found is not None
        asked_code = found
    variables = re.findall(r'local\(frame, "(\w+)"\)', inspect.getsource(explain))
    unknown = bool(variables) and not set(variables) & set(names_of(asked_code))

    async def ask() -> Any:
        loop = asyncio.get_running_loop()
        known = Recorder(Run(), frozenset()).state
        values: dict[str, Any] = {name: Anything() for name in names_of(asked_code)}
        values.update((name, error) for name in ("exc", "exc_val", "ex") if name in values)
        values.update((name, 1.5) for name in ("timeout", "grace", "seconds") if name in values)
        if asked_of[1] == "Timeout._on_timeout":
            values["self"] = Anything(when=loop.time)
            known.handoffs.timeouts[values["self"]] = TimeoutEntry(
                "app.py:3", "app:enters", 0.0, None, None
            )
        victim = loop.create_task(asyncio.sleep(60))
        call = Call(known, victim, None, None, error)
        return with_frame(asked_of, asked_code, values, lambda frame: explain(frame, call))

    cause = asyncio.run(ask())
    if unknown:
        assert cause is None, f"{asked_of} has none of {variables}"
    assert cause is None or isinstance(cause, Cause)
