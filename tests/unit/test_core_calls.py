"""What the cores do of timeouts and of callbacks that are handed on: C where it is plain."""

from __future__ import annotations

import asyncio
import asyncio.futures
import asyncio.timeouts
import gc
import sys
import tracemalloc
import weakref
from collections.abc import Callable
from contextvars import ContextVar, copy_context
from functools import partial
from types import FunctionType, MethodType, SimpleNamespace
from typing import Any

import pytest

from aioaudit.core import python
from aioaudit.core.choice import PYTHONS
from aioaudit.cpython.behaviour import FREE_THREADED, RELEASE
from aioaudit.probes.futures import make_add_done_callback

CORES: list[Any] = [python]
if sys.implementation.name == "cpython" and not FREE_THREADED and PYTHONS[1] >= RELEASE:
    try:
        from aioaudit.core import native
    except ImportError:
        pass
    else:
        CORES.append(native)
every = pytest.mark.parametrize("core", CORES, ids=[core.__name__ for core in CORES])
in_c = pytest.mark.skipif(
    len(CORES) == 1 or sys.version_info < (3, 12),
    reason="no native core, or a Python that lets C take no calls of a function",
)


class Something:
    """An object that can be referred to weakly."""


# -- notes ---------------------------------------------------------------------------------


@every
def test_a_note_goes_with_what_it_is_about(core: Any) -> None:
    notes = core.new_notes()
    first, second = Something(), Something()
    notes[first] = 1
    notes[second] = 2
    notes[first] = 3
    assert (notes.get(first), notes.get(second), len(notes)) == (3, 2, 2)
    assert first in notes
    del first
    assert len(notes) == 1
    assert notes.get(Something()) is None
    assert notes.get(Something(), 9) == 9
    assert Something() not in notes
    assert notes.get(5) is None  # of which there is no weak reference
    with pytest.raises(TypeError):
        notes[5] = 1


@every
def test_an_address_that_is_used_again_has_no_note(core: Any) -> None:
    notes = core.new_notes()
    again = 0
    for _ in range(1000):
        one = Something()
        notes[one] = "of one"
        address = id(one)
        del one
        other = Something()
        again += id(other) == address
        assert notes.get(other) is None
        assert other not in notes
        del other
    assert again


@every
def test_a_note_of_what_the_collector_took_answers_nobody(core: Any) -> None:
    notes = core.new_notes()
    for _ in range(300):
        one = Something()
        one.self = one  # type: ignore[attr-defined]
        notes[one] = 1
        del one
    gc.collect()
    assert len(notes) == 0


@every
def test_notes_do_not_grow_with_what_comes_and_goes(core: Any) -> None:
    notes = core.new_notes()
    living: list[Something] = []

    def come_and_go(count: int) -> None:
        for _ in range(count):
            living.append(one := Something())
            notes[one] = 1
            if len(living) > 50:
                # At addresses that differ: what was noted there is not simply replaced.
                living.pop(len(living) // 2)
                living.append(Something())
                living.pop(0)

    come_and_go(2000)
    tracemalloc.start()
    try:
        come_and_go(50_000)
        grown = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(notes) <= len(living)
    assert grown < 100_000


@every
def test_notes_in_a_circle_are_collected(core: Any) -> None:
    notes = core.new_notes()
    about = Something()
    value = Something()
    value.back = notes  # type: ignore[attr-defined]
    notes[about] = value
    gone = weakref.ref(value)
    del notes, value
    gc.collect()
    assert gone() is None
    assert about is not None


# -- timeouts ------------------------------------------------------------------------------


class Noted:
    """Notes timeouts with a core while it is installed, in the simplest way."""

    def __init__(self, core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
        self.notes = core.new_notes()
        self.entered: list[float | None] = []
        self.again: list[Any] = []
        self.faults: list[BaseException] = []
        self.clock = 5.0
        made = core.make_reschedule(
            python.Arming(
                cls=asyncio.Timeout,
                init=asyncio.Timeout.__init__,
                original=asyncio.Timeout.reschedule,
                maker=asyncio.timeouts.timeout,
                delay="delay",
                notes=self.notes,
                known=lambda _code: None,
                ours=0,
                enter=self._enter,
                again=self._again,
                time=lambda: self.clock,
                fault=self.faults.append,
            )
        )
        for name, probe in zip(("__init__", "reschedule"), made, strict=True):
            if probe is not None:
                monkeypatch.setattr(asyncio.Timeout, name, probe)

    def _enter(self, timeout: Any, frame: Any, now: float, given: float | None) -> Any:
        self.entered.append(given)
        self.notes[timeout] = note = SimpleNamespace(frame=frame.f_code, now=now, seconds=given)
        return note

    def _again(self, timeout: Any, note: Any, now: float) -> None:
        self.again.append((note, now))
        self.notes[timeout] = SimpleNamespace(frame=note.frame, now=now, seconds=None)


async def enter(made: Callable[[], asyncio.Timeout]) -> asyncio.Timeout:
    """Enter a timeout at this line."""
    async with made() as timeout:
        return timeout


@every
def test_what_is_given_and_when_it_is_armed_is_known(
    core: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = Noted(core, monkeypatch)

    async def main() -> None:
        loop = asyncio.get_running_loop()
        timeout: Callable[..., asyncio.Timeout] = asyncio.timeout
        for made, seconds in (
            (lambda: timeout(9), 9),
            (lambda: timeout(delay=8.5), 8.5),
            (lambda: timeout(None), None),
            (lambda: asyncio.timeout_at(loop.time() + 9), None),
            (lambda: asyncio.Timeout(loop.time() + 9), None),
        ):
            note = noted.notes.get(await enter(made))
            assert note.seconds == seconds
            assert note.now == (5.0 if seconds is None else 0.0)
            assert note.frame is enter.__code__
        async with timeout(9) as one:
            one.reschedule(when=loop.time() + 7)
            assert (noted.notes.get(one).now, len(noted.again)) == (5.0, 1)
            for wrong in ((), (1, 2)):
                with pytest.raises(TypeError):
                    one.reschedule(*wrong)
            with pytest.raises(TypeError):
                one.reschedule(whenever=1)  # type: ignore[call-arg]
        with pytest.raises(RuntimeError):
            timeout(9).reschedule(1)

    asyncio.run(main())
    assert len(noted.again) == 1
    assert not noted.faults


@every
def test_seconds_are_those_of_this_timeout(core: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted(core, monkeypatch)

    async def main() -> None:
        first, last = asyncio.timeout(1), asyncio.timeout(2)
        assert noted.notes.get(await enter(lambda: first)).seconds is None
        assert noted.notes.get(await enter(lambda: last)).seconds == 2
        again = 0
        for _ in range(100):
            lost = asyncio.timeout(3)
            address, when = id(lost), lost.when()
            del lost
            other = asyncio.Timeout(when)
            again += id(other) == address
            assert noted.notes.get(await enter(lambda one=other: one)).seconds is None  # type: ignore[misc]
            del other
        assert again

    asyncio.run(main())


@in_c
def test_a_maker_that_somebody_changed_meanwhile_is_no_danger(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    noted = Noted(CORES[1], monkeypatch)
    maker: Any = asyncio.timeouts.timeout
    monkeypatch.setattr(maker, "__defaults__", (7.5,))
    asyncio.run(enter(maker))

    def other(*_seconds: float) -> asyncio.Timeout:
        return Timeout(None)  # type: ignore[name-defined,no-any-return]  # noqa: F821

    monkeypatch.setattr(maker, "__code__", other.__code__)
    asyncio.run(enter(maker))
    asyncio.run(enter(partial(maker, 1.5, 2.5)))
    assert (noted.entered, noted.faults) == ([None, None, None], [])


@every
@pytest.mark.parametrize("shape", ["partial", "class", "more"])
def test_a_maker_that_is_none_of_asyncios_is_left_alone(
    core: Any, shape: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def more(delay: float | None, _other: object = None) -> asyncio.Timeout:
        return asyncio.Timeout(asyncio.get_running_loop().time() + (delay or 0))

    maker: Any = {"partial": partial(more), "class": asyncio.Timeout, "more": more}[shape]
    monkeypatch.setattr(asyncio.timeouts, "timeout", maker)
    noted = Noted(core, monkeypatch)
    asyncio.run(enter(lambda: maker(60)))
    assert (len(noted.entered), noted.faults) == (1, [])


@in_c
def test_what_a_known_line_enters_is_noted_in_c(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted(CORES[1], monkeypatch)

    async def main() -> list[Any]:
        # More than it takes to have the code specialised.
        entered = [await enter(lambda: asyncio.timeout(9)) for _ in range(200)]
        return [noted.notes.get(each) for each in entered]

    found = asyncio.run(main())
    assert noted.entered == [9]
    assert len({id(note) for note in found}) == 1


@in_c
def test_a_line_of_a_code_that_is_gone_is_learned_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    noted = Noted(CORES[1], monkeypatch)
    text = "async def enter():\n async with asyncio.timeout(9) as it:\n  return it"
    for count in range(1, 30):
        names: dict[str, Any] = {"asyncio": asyncio}
        exec(text, names)
        for _ in range(2):
            note = noted.notes.get(asyncio.run(names["enter"]()))
            assert note.frame is names["enter"].__code__
        assert len(noted.entered) == count
        del names, note
        gc.collect()


@in_c
def test_nothing_is_taken_any_more_once_it_is_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patched:
        gone = weakref.ref(Noted(CORES[1], patched))
    gc.collect()
    assert gone() is None

    async def main() -> None:
        for _ in range(100):
            await enter(lambda: asyncio.timeout(9))

    asyncio.run(main())


@every
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_an_error_of_ours_disarms_no_timeout(
    core: Any, error: type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    noted = Noted(core, monkeypatch)

    def fails(*_given: Any) -> Any:
        raise error

    monkeypatch.setattr(noted, "entered", SimpleNamespace(append=fails))

    async def main() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.001):
                await asyncio.sleep(9)

    if error is KeyboardInterrupt:
        with pytest.raises(KeyboardInterrupt):
            asyncio.run(main())
    else:
        asyncio.run(main())
        assert [type(each) for each in noted.faults] == [ValueError]


# -- callbacks -----------------------------------------------------------------------------


class Victim:
    """Something with a ``cancel``."""

    def cancel(self) -> None: ...

    def close(self) -> None: ...


class Handle:
    """What is given for a callback."""

    def __init__(self, origin: Any = None) -> None:
        self.origin = origin


def passing(core: Any, **given: Any) -> tuple[Any, list[Any], list[Any], list[Any]]:
    """A function that passes callbacks on; what ran its body, what it hid, and what it was told."""
    slow: list[Any] = []
    hidden: list[Any] = []
    faults: list[Any] = []
    values: dict[str, Any] = {
        "original": lambda *_, context=None: Handle(context),
        "at": 1,
        "partial": partial,
        "watch": SimpleNamespace(hidden_signals=False),
        "hide": hidden.append,
        "origin": "origin",
        "fault": faults.append,
    }
    passed = core.Passed(**values | given)

    def call(*args: Any, context: Any = None) -> Any:
        slow.append(args)
        return passed.original(*args, context=context)

    return passed.take_calls_of(call), slow, hidden, faults


@in_c
def test_a_callback_of_which_there_is_nothing_to_note_is_passed_in_c() -> None:
    call, slow, hidden, _ = passing(CORES[1])
    assert type(call) is FunctionType
    plain = [print, lambda: None, Victim().close, Victim, "no callback", [].append, str.join]
    for _ in range(3000):  # more than it takes to have the code specialised, and compiled
        for callback in plain:
            assert type(call(0, callback)) is Handle
    assert (slow, hidden) == ([], [])
    handle = call(0, print, context=5)
    assert (slow, hidden) == ([], [handle])


@in_c
@pytest.mark.parametrize(
    "callback",
    [Victim().cancel, partial(print), MethodType(partial(print), 5)],
    ids=["cancel", "partial", "of no function"],
)
def test_others_are_for_python(callback: Any) -> None:
    call, slow, _, _ = passing(CORES[1])
    call(0, callback)
    assert slow == [(0, callback)]


@in_c
def test_so_is_the_method_that_cancels_tasks_in_c() -> None:
    asks = CORES[1].Asks(
        born=CORES[1].new_table(),
        states={},
        ties={},
        active={},
        doubts={},
        adopt=print,
        released=print,
    )
    cancel = CORES[1].make_cancel(
        asks, asyncio.Future, vars(asyncio.Future)["cancel"], print, of_task=False
    )
    loop = asyncio.new_event_loop()
    bound = cancel.__get__(asyncio.Future(loop=loop))
    loop.close()
    call, slow, _, _ = passing(CORES[1])
    call(0, bound)
    assert slow == [(0, bound)]


@in_c
def test_where_every_callback_counts_python_sees_each() -> None:
    watch = SimpleNamespace(hidden_signals=False)
    call, slow, _, _ = passing(CORES[1], watch=watch)
    call(0, print)
    assert not slow
    watch.hidden_signals = True
    call(0, print)
    assert slow == [(0, print)]
    del watch.hidden_signals
    call(0, print)
    assert len(slow) == 2


@in_c
def test_what_is_called_wrongly_is_for_python_to_complain_of() -> None:
    call, slow, _, _ = passing(CORES[1])
    call(0)
    assert slow == [(0,)]
    with pytest.raises(TypeError, match="other"):
        call(0, print, other=1)
    with pytest.raises(ZeroDivisionError):
        passing(CORES[1], original=lambda *_: 1 / 0)[0](0, print)


@in_c
def test_what_has_nothing_to_hide_complains_itself() -> None:
    given: list[Any] = []

    def original(*args: Any, **keywords: Any) -> None:
        given.append((args, keywords))

    call, slow, _, _ = passing(CORES[1], original=original, watch=None, hide=None)
    call()
    call(0)
    call(0, Victim().cancel, 1)
    call(0, Victim().cancel, other=1)
    assert not slow
    assert [(len(args), len(keywords)) for args, keywords in given] == [
        (0, 0),
        (1, 0),
        (3, 0),
        (2, 1),
    ]


@in_c
def test_an_error_of_ours_loses_no_handle() -> None:
    class Odd:
        @property
        def origin(self) -> Any:
            raise ValueError

    for made in (Odd, object, lambda: Handle(1)):

        def hide(_handle: Any) -> None:
            raise ValueError

        handle = made()
        call, _, _, faults = passing(CORES[1], original=lambda *_, handle=handle: handle, hide=hide)
        assert call(0, print) is handle
        assert len(faults) == (made is not object)


@in_c
def test_only_calls_of_a_function_of_its_own_are_taken() -> None:
    passed = passing(CORES[1])[0].__closure__
    found = [cell.cell_contents for cell in passed if hasattr(cell.cell_contents, "take_calls_of")]
    for wrong in (print, None, passing, Victim.cancel, passing(CORES[1])[0]):
        with pytest.raises(TypeError):
            found[0].take_calls_of(wrong)


# -- add_done_callback -----------------------------------------------------------------------


@pytest.mark.parametrize("cls", [asyncio.Future, asyncio.futures._PyFuture])  # type: ignore[attr-defined]
def test_callbacks_see_the_context_in_which_they_were_added(cls: Any) -> None:
    nothing = SimpleNamespace(codes=None, places=None, handoffs=SimpleNamespace(by_callback={}))
    recorder: Any = SimpleNamespace(state=nothing, report_fault=lambda _error: None)
    add = make_add_done_callback(recorder, cls.add_done_callback)
    number: ContextVar[int] = ContextVar("number", default=0)
    seen: list[int] = []

    class Adding:
        def cancel(self, _future: Any) -> None:
            seen.append(number.get())

        notify = cancel

    async def main() -> None:
        future = cls(loop=asyncio.get_running_loop())
        number.set(1)
        add(future, Adding().notify)
        add(future, Adding().cancel)
        inner = copy_context()
        inner.run(number.set, 2)
        add(future, Adding().notify, context=inner)
        add(future, Adding().cancel, context=inner)
        number.set(3)
        future.set_result(None)
        await asyncio.sleep(0)

    asyncio.run(main())
    assert seen == [1, 1, 2, 2]


def test_a_callback_may_be_named_where_asyncio_names_it() -> None:
    recorder: Any = SimpleNamespace(report_fault=lambda _error: None)
    loop = asyncio.new_event_loop()
    future: Any = asyncio.futures._PyFuture(loop=loop)  # type: ignore[attr-defined]
    add = make_add_done_callback(recorder, type(future).add_done_callback)
    add(future, fn=print)
    assert future.remove_done_callback(print) == 1
    with pytest.raises(TypeError, match=r"Future\.add_done_callback\(\) takes 2 positional"):
        add(future, print, print)
    loop.close()
