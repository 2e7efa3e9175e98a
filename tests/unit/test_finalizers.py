"""Called by the interpreter itself: what the collector, a last reference or a signal interrupts.

Each program has an `innocent` function and a task that runs it.  Whatever cancels the victim
meanwhile, neither may be named.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import sys
import weakref
from collections.abc import Callable, Generator, Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import msgspec
import pytest

import aioaudit
from aioaudit.chain.links import Answer
from aioaudit.events import Event, LoopStop
from tests.waiting import PATIENCE

HERE = Path(__file__)


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    """The collector runs as it does elsewhere after a test, and threads take turns."""
    threshold, interval = gc.get_threshold(), sys.getswitchinterval()
    yield
    sys.setswitchinterval(interval)
    gc.enable()
    gc.set_threshold(*threshold)


def line(label: str) -> str:
    [number] = [
        number
        for number, text in enumerate(HERE.read_text().splitlines(), 1)
        if text.endswith(f"# LINE {label}")
    ]
    return f"{HERE}:{number}"


class Holder:
    """What goes, and takes something with it."""

    kept: Any = None


# -- what is set up on an object that goes ---------------------------------------------


def finalize(holder: Holder, task: asyncio.Task[None]) -> str | None:
    weakref.finalize(holder, task.cancel)
    return None


def finalize_function(holder: Holder, task: asyncio.Task[None]) -> str:
    def stop() -> None:
        task.cancel()  # LINE finalize_function

    weakref.finalize(holder, stop)
    return "finalize_function"


def weak_callback(holder: Holder, task: asyncio.Task[None]) -> str:
    def dropped(_ref: object) -> None:
        task.cancel()  # LINE weak_callback

    KEPT.append(weakref.ref(holder, dropped))
    return "weak_callback"


def weak_callback_of_any(holder: Holder, task: asyncio.Task[None]) -> str:
    KEPT.append(weakref.ref(holder, lambda *_: task.cancel()))  # LINE weak_callback_of_any
    return "weak_callback_of_any"


def weak_callback_partial(holder: Holder, task: asyncio.Task[None]) -> str:
    def dropped(victim: asyncio.Task[None], _ref: object) -> None:
        helper(victim)

    def helper(victim: asyncio.Task[None]) -> None:
        victim.cancel()  # LINE weak_callback_partial

    KEPT.append(weakref.ref(holder, functools.partial(dropped, task)))
    return "weak_callback_partial"


def weak_callback_bound(holder: Holder, task: asyncio.Task[None]) -> str | None:
    KEPT.append(weakref.ref(holder, task.cancel))
    return None


def weak_dictionary(holder: Holder, task: asyncio.Task[None]) -> str:
    class Last:
        def __del__(self) -> None:
            task.cancel()  # LINE weak_dictionary

    kept: weakref.WeakKeyDictionary[Holder, Last] = weakref.WeakKeyDictionary()
    kept[holder] = Last()
    KEPT.append(kept)
    return "weak_dictionary"


def method(holder: Holder, task: asyncio.Task[None]) -> str:
    class Last:
        def __del__(self) -> None:
            task.cancel()  # LINE method

    holder.kept = Last()
    return "method"


def generator(holder: Holder, task: asyncio.Task[None]) -> str:
    def inner() -> Generator[None, None, None]:
        try:
            yield
        finally:
            task.cancel()  # LINE generator

    def outer() -> Generator[None, None, None]:
        yield from inner()

    holder.kept = outer()
    next(holder.kept)
    return "generator"


def coroutine(holder: Holder, task: asyncio.Task[None]) -> str:
    class Once:
        def __await__(self) -> Generator[None, None, None]:
            yield

    async def waits() -> None:
        try:
            await Once()
        finally:
            task.cancel()  # LINE coroutine

    holder.kept = waits()
    holder.kept.send(None)
    return "coroutine"


def to_the_loop(holder: Holder, task: asyncio.Task[None]) -> str | None:
    give: Callable[..., object] = task.get_loop().call_soon_threadsafe
    weakref.finalize(holder, give, task.cancel)
    return None


def to_the_loop_bound(holder: Holder, task: asyncio.Task[None]) -> str | None:
    give = functools.partial(task.get_loop().call_soon_threadsafe, task.cancel)
    KEPT.append(weakref.ref(holder, give))
    return None


def exception_handler(holder: Holder, task: asyncio.Task[None]) -> str:
    def handler(_loop: object, context: dict[str, Any]) -> None:
        assert context["message"].endswith("was never retrieved")
        task.cancel()  # LINE exception_handler

    task.get_loop().set_exception_handler(handler)
    holder.kept = task.get_loop().create_future()
    holder.kept.set_exception(OSError("nobody looks"))
    return "exception_handler"


KEPT: list[Any] = []
"""What has to outlive the function that makes it."""

SETUPS = [
    finalize,
    finalize_function,
    weak_callback,
    weak_callback_of_any,
    weak_callback_partial,
    weak_callback_bound,
    weak_dictionary,
    method,
    generator,
    coroutine,
    to_the_loop,
    to_the_loop_bound,
    exception_handler,
]


Setup = Callable[[Holder, "asyncio.Task[None]"], "str | None"]


# -- who runs meanwhile ----------------------------------------------------------------


class Box:
    """Has a place for a holder."""

    held: object = None


Work = Callable[[list[Any], Box], None]


def nothing(_value: object = None) -> None:
    """A function of no effect."""


def innocent_lists(_items: list[Any], _box: Box) -> None:
    found: list[Any] = []
    for _ in range(30_000):
        found.append([found])  # a call and a list, each of which may collect


def innocent_calls(_items: list[Any], _box: Box) -> None:
    kept: list[Any] = []
    for _ in range(3_000):
        kept.extend(map(list, [(), ()]))  # what is made here is made inside of a call
        sorted(range(3), key=lambda _: len(kept))
        nothing(nothing())  # type: ignore[func-returns-value]  # the argument is of no interest


def innocent_comprehension(_items: list[Any], _box: Box) -> None:
    _ = [{"a": [each]} for each in range(30_000)]


def innocent_clear(items: list[Any], _box: Box) -> None:
    items.clear()


def innocent_pop(items: list[Any], _box: Box) -> None:
    nothing(items.pop())


def innocent_delete(items: list[Any], _box: Box) -> None:
    del items[:]


def innocent_attribute(items: list[Any], box: Box) -> None:
    box.held = items.pop()
    box.held = None


def innocent_local(items: list[Any], _box: Box) -> None:
    one = items.pop()
    one = None  # noqa: F841 - the last reference goes here


COLLECTING: list[Work] = [innocent_lists, innocent_calls, innocent_comprehension]
DROPPING: list[Work] = [
    innocent_clear,
    innocent_pop,
    innocent_delete,
    innocent_attribute,
    innocent_local,
]


async def forever() -> None:
    await asyncio.sleep(3600)


async def watched(setup: Setup, work: Work) -> tuple[asyncio.Task[None], str | None]:
    """The victim, which ends as *work* lets go of what *setup* has made; the line that cancels."""
    cyclic = work in COLLECTING
    victim = asyncio.create_task(forever(), name="victim")
    await asyncio.sleep(0)
    items: list[Any] = []
    gc.collect()
    gc.disable()

    def make() -> str | None:
        holder = Holder()
        if cyclic:
            holder.me = holder  # type: ignore[attr-defined]  # only the collector finds it
        else:
            items.append(holder)
        return setup(holder, victim)

    label = make()

    async def innocent_task() -> None:
        # The exporter's thread is not given the GIL meanwhile: else it may be the one that collects.
        sys.setswitchinterval(1000)
        gc.set_threshold(500, 1, 1)
        if cyclic:
            gc.enable()
        work(items, Box())

    innocent = asyncio.create_task(innocent_task(), name="innocent")
    await asyncio.wait([victim], timeout=PATIENCE)
    gc.enable()
    await innocent
    KEPT.clear()
    assert victim.cancelled()
    return victim, label


def check(answer: Answer | None, label: str | None, *, reason: str | None = None) -> None:
    assert answer is not None
    text = msgspec.json.encode(answer).decode()
    assert "innocent" not in text, text
    root = answer.root
    assert root.what == "called"
    assert root.at == (None if label is None else line(label))
    assert root.reason == (reason or ("native" if label is None else "explicit"))


@pytest.mark.parametrize("work", COLLECTING + DROPPING, ids=lambda work: work.__name__[9:])
@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
def test_who_runs_when_something_is_finalized_is_not_blamed(setup: Setup, work: Work) -> None:
    with aioaudit.recording() as trail:
        victim, label = asyncio.run(watched(setup, work))
        check(trail.why(victim), label)
    for event in trail.events:
        assert getattr(event, "by_name", None) != "innocent", event


@pytest.mark.parametrize("work", COLLECTING, ids=lambda work: work.__name__[9:])
def test_a_callback_of_the_collector_blames_nobody(work: Work) -> None:
    def setup(_holder: Holder, task: asyncio.Task[None]) -> str:
        def collecting(phase: str, _info: dict[str, int]) -> None:
            if phase == "start" and not task.cancelling():
                gc.callbacks.remove(collecting)
                task.cancel()  # LINE collecting

        gc.callbacks.append(collecting)
        return "collecting"

    with aioaudit.recording() as trail:
        victim, label = asyncio.run(watched(setup, work))
        check(trail.why(victim), label)


def test_a_future_that_a_weak_reference_cancels_blames_nobody() -> None:
    async def main() -> asyncio.Task[None]:
        future = asyncio.get_running_loop().create_future()

        async def waits() -> None:
            await future

        victim = asyncio.create_task(waits(), name="victim")
        await asyncio.sleep(0)
        items = [Holder()]
        KEPT.append(weakref.ref(items[0], future.cancel))

        async def innocent_task() -> None:
            innocent_clear(items, Box())

        await asyncio.create_task(innocent_task(), name="innocent")
        await asyncio.wait([victim])
        KEPT.clear()
        return victim

    with aioaudit.recording() as trail:
        check(trail.why(asyncio.run(main())), None)


def test_a_loop_that_a_finalizer_stops_was_stopped_by_no_bystander() -> None:
    loop = asyncio.new_event_loop()
    items = [Holder()]
    with aioaudit.recording() as trail:
        weakref.finalize(items[0], loop.stop)
        loop.call_soon(innocent_clear, items, Box())
        loop.run_forever()
        loop.close()
    [stop] = [event for event in trail.events if isinstance(event, LoopStop)]
    assert stop.at is None
    assert stop.source == "weakref:finalize.__call__"


class Drops:
    """An exporter in whose thread the last reference to something goes."""

    def __init__(self) -> None:
        self.items: list[Any] = []

    def export(self, _events: Sequence[Event]) -> None:
        self.items.clear()

    def flush(self) -> None:
        """Nothing is kept."""

    def shutdown(self) -> None:
        """Nothing is open."""


@pytest.mark.parametrize("setup", SETUPS, ids=lambda setup: setup.__name__)
def test_what_is_finalized_in_the_thread_of_an_exporter_is_told_as_well(setup: Setup) -> None:
    exporter = Drops()

    async def main() -> tuple[asyncio.Task[None], str | None]:
        victim = asyncio.create_task(forever(), name="victim")
        await asyncio.sleep(0)
        holders = [Holder()]
        label = setup(holders[0], victim)
        exporter.items.append(holders.pop())  # by no name here, which might be the last to go
        while not victim.done():
            await asyncio.create_task(asyncio.sleep(0.001), name="innocent")
        KEPT.clear()
        return victim, label

    with aioaudit.recording() as trail, aioaudit.enable(exporter):
        victim, label = asyncio.run(main())
        by_the_loop = setup is to_the_loop_bound  # which calls it in its own thread
        check(trail.why(victim), label, reason=None if by_the_loop else "thread")


def test_a_loop_that_is_stopped_in_the_thread_of_an_exporter_says_so_too() -> None:
    exporter = Drops()
    loop = asyncio.new_event_loop()

    async def ticks() -> None:
        await asyncio.sleep(0)
        holders = [Holder()]
        weakref.finalize(holders[0], loop.stop)
        exporter.items.append(holders.pop())
        while True:
            await asyncio.create_task(asyncio.sleep(0.001))

    with aioaudit.recording() as trail, aioaudit.enable(exporter):
        ticking = loop.create_task(ticks())
        loop.run_forever()
        ticking.cancel()
        loop.run_until_complete(asyncio.wait([ticking]))
        loop.close()
        stops = [event for event in trail.events if isinstance(event, LoopStop)]
    first = stops[0]
    assert (first.source, first.by_name) == ("weakref:finalize.__call__", None)


# -- what is called all the same -------------------------------------------------------


def explained(call: Callable[[asyncio.Task[None]], object]) -> Answer:
    """The answer for a task that *call* cancels in another task, named ``asker``."""

    async def main() -> asyncio.Task[None]:
        victim = asyncio.create_task(forever(), name="victim")
        await asyncio.sleep(0)

        async def asks() -> None:
            call(victim)

        await asyncio.create_task(asks(), name="asker")
        await asyncio.wait([victim])
        return victim

    with aioaudit.recording() as trail:
        answer = trail.why(asyncio.run(main()))
    assert answer is not None
    return answer


def closes(victim: asyncio.Task[None]) -> None:
    def steps() -> Generator[None, None, None]:
        try:
            yield
        finally:
            victim.cancel()  # LINE closes

    made = steps()
    next(made)
    made.close()


def through_a_property(victim: asyncio.Task[None]) -> None:
    class Ends:
        @property
        def end(self) -> bool:
            return victim.cancel()  # LINE through_a_property

    _ = Ends().end


def through_an_operator(victim: asyncio.Task[None]) -> None:
    class Ends:
        def __add__(self, _other: object) -> bool:
            return victim.cancel()  # LINE through_an_operator

    _ = Ends() + 1


def through_a_builtin(victim: asyncio.Task[None]) -> None:
    list(map(asyncio.Task.cancel, [victim]))  # LINE through_a_builtin


def through_a_finalizer_called_by_hand(victim: asyncio.Task[None]) -> None:
    holder = Holder()
    end = weakref.finalize(holder, victim.cancel)
    end()  # LINE through_a_finalizer_called_by_hand


def with_a_block(victim: asyncio.Task[None]) -> None:
    class Ends:
        def __enter__(self) -> None:
            pass

        def __exit__(self, *_: object) -> None:
            victim.cancel()  # LINE with_a_block

    with Ends():
        pass


@pytest.mark.parametrize(
    "call",
    [
        closes,
        through_a_property,
        through_an_operator,
        through_a_builtin,
        through_a_finalizer_called_by_hand,
        with_a_block,
    ],
)
def test_who_calls_by_other_means_is_named(call: Callable[[asyncio.Task[None]], object]) -> None:
    root = explained(call).root
    assert (root.what, root.reason, root.by_name) == ("called", "explicit", "asker")
    assert root.at == line(call.__name__)


# -- handlers of signals ---------------------------------------------------------------


def taking_itself_off(victim: asyncio.Task[None]) -> Callable[..., None]:
    def handler(number: int, _frame: FrameType | None) -> None:
        signal.signal(number, signal.SIG_DFL)
        victim.cancel()

    return handler


def with_arguments_before(victim: asyncio.Task[None]) -> Callable[..., None]:
    def handler(
        task: asyncio.Task[None], _why: str, _number: int, _frame: FrameType | None
    ) -> None:
        task.cancel()

    return functools.partial(handler, victim, "it is time")


@pytest.mark.parametrize("make", [taking_itself_off, with_arguments_before])
def test_a_signals_handler_of_any_form_is_told_as_the_signal(
    make: Callable[[asyncio.Task[None]], Callable[..., None]],
) -> None:
    async def main() -> asyncio.Task[None]:
        victim = asyncio.create_task(forever(), name="victim")
        await asyncio.sleep(0)

        async def innocent_task() -> None:
            os.kill(os.getpid(), signal.SIGUSR1)
            innocent_lists([], Box())

        before = signal.signal(signal.SIGUSR1, make(victim))
        try:
            await asyncio.create_task(innocent_task(), name="innocent")
            await asyncio.wait([victim])
        finally:
            signal.signal(signal.SIGUSR1, before)
        return victim

    with aioaudit.recording() as trail:
        answer = trail.why(asyncio.run(main()))
    assert answer is not None
    assert (answer.root.what, answer.root.signal) == ("signal", "SIGUSR1")
    assert "innocent" not in msgspec.json.encode(answer).decode()


def test_a_function_that_is_given_its_callers_frame_is_no_signals_handler() -> None:
    def report(_level: int, _frame: FrameType, task: asyncio.Task[None]) -> None:
        task.cancel()  # LINE report

    def call(victim: asyncio.Task[None]) -> None:
        calls = [report]
        calls[0](15, sys._getframe(), victim)

    root = explained(call).root
    assert (root.what, root.at, root.by_name) == ("called", line("report"), "asker")
