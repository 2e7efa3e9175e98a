"""The core in C, with the names and the meaning of `aioaudit.core.python`.

What is not plain enough for C is left to Python: to the very functions of the other core, where
that has one.
"""

from __future__ import annotations

from collections.abc import Callable
from types import (
    CodeType,
    FrameType,
    FunctionType,
    MethodDescriptorType,
    WrapperDescriptorType,
)
from typing import Any

from msgspec.structs import asdict

from aioaudit.core import _core, python
from aioaudit.core.line import encode_event, piece, quoted
from aioaudit.core.python import (
    MAKERS,
    Arming,
    Ending,
    Making,
    Table,
    Taking,
    name_of_new,
)
from aioaudit.cpython.frames import module_at
from aioaudit.text import LIMIT
from aioaudit.threads import monotonic
from aioaudit.weak import dropping

Asked = _core.Asked
Asks = _core.Asks
Created = _core.Created
Obeyed = _core.Obeyed
Returned = _core.Returned
TakenBack = _core.TakenBack
Site = _core.Site
in_order = _core.in_order
odd_names = _core.odd_names

_core.set_name_of_new(name_of_new)

_HAS_CALLS = hasattr(_core, "Timeouts")
"""Whether a function's calls can be taken by C, by public API: since CPython 3.12."""

Passed = _core.Passed if _HAS_CALLS else python.Passed

_OF_FUTURE, _OF_TASK, _UNCANCEL = range(3)  # kinds of methods

_MAX_SITES = 4096
"""Most instructions that are known to enter timeouts; then they are learned anew."""


def new_table(*, collected: bool = True) -> Table[Any]:
    """As `python.new_table`."""
    return _core.Table(collected=collected)


def new_counter() -> Callable[[], int]:
    """As `python.new_counter`."""
    return _core.Counter()


def last_of(counter: _core.Counter) -> int:
    """As `python.last_of`."""
    return counter.next - 1


def Queue(  # noqa: N802 - stands for the class of the other core
    capacity: int,
    wake_up: Callable[[], None],
    lose: Callable[[Any], None],
    look: Callable[[float], None],
    *,
    often: float,
    most_unseen: int,
) -> _core.Queue:
    """As `python.Queue`."""
    return _core.Queue(capacity, wake_up, lose, look, monotonic, often, most_unseen)


def make_init(making: Making, cls: Any, original: Any) -> tuple[Any, object]:
    """As `python.make_init`."""
    if not isinstance(original, WrapperDescriptorType):
        return python.make_init(making, cls, original)  # of the Python class
    births = _core.Births(
        born=making.born,
        sites=making.sites,
        direct_sites=making.direct_sites,
        next_number=making.next_number,
        next_seq=making.next_seq,
        python_tasks=making.python_tasks,
        makers=MAKERS,
        loops=making.loops,
        current_task=making.current_task,
        get_name=making.get_name,
        name_of=making.name_of,
        put=making.put,
        note=making.note,
        construct=making.construct,
        elsewhere=making.elsewhere,
        fault=making.fault,
    )
    return births.init(cls, original), births


def make_returned(ending: Ending) -> Callable[[CodeType, int, object], object]:
    """As `python.make_returned`."""
    otherwise = python.make_returned(ending)
    if not ending.plain:
        return otherwise
    return _core.Returns(
        born=ending.born,
        next_seq=ending.next_seq,
        states=ending.states,
        asks=ending.asks,
        outside=ending.outside,
        current_task=ending.of_c,
        module_at=module_at,
        put=ending.put,
        remember=ending.remember,
        otherwise=otherwise,
    )


def new_notes() -> Any:
    """As `python.new_notes`."""
    return (
        _core.Notes() if _HAS_CALLS else python.new_notes()
    )  # of which Python's way knows the inside


def make_reschedule(arming: Arming) -> tuple[Callable[..., None] | None, Callable[..., None]]:
    """As `python.make_reschedule`.

    What gives the seconds is the call of *arming.maker* itself: ``__init__`` stays as it was.
    """
    if not _HAS_CALLS:
        return python.make_reschedule(arming)
    # Of one that C cannot take the calls of, the seconds are measured.
    maker = arming.maker if _takes_only(arming.maker, arming.delay) else None
    sites: Table[tuple[float, Any, object]] = new_table()

    def enter(timeout: Any, frame: FrameType | None, now: float, given: float | None) -> None:
        note = arming.enter(timeout, frame, now, given)
        if note is None or given is None or frame is None:
            return
        if len(sites) >= _MAX_SITES:
            sites.clear()
        # Instructions lie inside their code, so the sum is the address of one.
        code = frame.f_code
        address = id(code) + frame.f_lasti
        sites[address] = given, note, dropping(code, sites, address)

    timeouts = _core.Timeouts(
        cls=arming.cls,
        original=arming.original,
        maker=maker,
        notes=arming.notes,
        sites=sites,
        aenter=getattr(getattr(arming.cls, "__aenter__", None), "__code__", None),
        time=arming.time,
        enter=enter,
        again=arming.again,
        fault=arming.fault,
    )

    # What is called is in C, and finds what it needs in the cell of this function.
    def reschedule(self: Any, when: float | None) -> None:
        timeouts.original(self, when)

    timeouts.take_calls_of(reschedule)
    return None, reschedule


def _takes_only(function: Any, name: str) -> bool:
    """Whether *function*, which may be somebody else's by now, takes the one argument *name*."""
    code = function.__code__ if isinstance(function, FunctionType) else None
    return code is not None and code.co_argcount == 1 and code.co_varnames[0] == name


def take_asks(asks: _core.Asks, taking: Taking) -> None:
    """As `python.take_asks`."""
    asks.begin(module_at=module_at, monotonic=monotonic, **asdict(taking))


def make_cancel(
    asks: _core.Asks, cls: Any, original: Any, probe: Callable[..., bool], *, of_task: bool
) -> Any:
    """As `python.make_cancel`."""
    if not isinstance(original, MethodDescriptorType):
        return probe  # of the Python class
    return asks.method(cls, original, probe, _OF_TASK if of_task else _OF_FUTURE)


def make_uncancel(asks: _core.Asks, cls: Any, original: Any, probe: Callable[..., int]) -> Any:
    """As `python.make_uncancel`."""
    if not isinstance(original, MethodDescriptorType):
        return probe  # of the Python class
    return asks.method(cls, original, probe, _UNCANCEL)


def make_callback(
    asks: _core.Asks, event: str, callback: Callable[..., object]
) -> Callable[..., object]:
    """As `python.make_callback`."""
    return asks.callback(event, callback)


def _pieces_of(site: Any) -> tuple[bytes, bytes, bytes, bytes]:
    """What the lines about all tasks made at *site* have in common, each with its comma."""
    run, pid, thread, loop = site.place.fields
    coro, at, source = site.fields
    place, runs, made_at, end = (
        b"," + each if each else b""
        for each in (
            piece(run=run, pid=pid, thread=thread, loop=loop),
            piece(coro=coro),
            piece(at=at, source=source),
            piece(coro=coro, outcome="returned"),
        )
    )
    return place, runs, made_at, end


def _quoted(named: Any) -> bytes:
    return quoted(named if isinstance(named, str) else named.name)


def lines(records: list[Any]) -> bytes:
    """As `python.lines`."""
    return _core.lines(records, _pieces_of, _quoted, encode_event, LIMIT)


def new_kept(size: int) -> Any:
    """What a recorder of *size* bytes keeps, as `aioaudit.exporters.recorder.kept.Kept`."""
    return _core.Kept(size, _pieces_of, _quoted, encode_event, LIMIT)
