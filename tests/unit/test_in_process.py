"""`enable`, `disable`, `recording` and hooks, inside one process: what they see, and leave behind."""

from __future__ import annotations

import asyncio
import asyncio.base_futures
import asyncio.events
import asyncio.futures
import asyncio.tasks
import asyncio.timeouts
import contextlib
import gc
import inspect
import signal
import sys
import threading
import weakref
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextvars import ContextVar, copy_context
from functools import partial
from typing import Any

import pytest

import aioaudit
from aioaudit import session
from aioaudit.events import (
    Event,
    FutureCancel,
    HookAdd,
    LoopStop,
    TaskCancel,
    TaskCreate,
    TaskDone,
    name_of,
)
from aioaudit.exporters.memory import MemoryExporter
from tests.loops import BY_NAME, every_loop, uvloop
from tests.waiting import PATIENCE


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    """Whatever a test turns on is off after it."""
    yield
    aioaudit.disable()


@pytest.fixture
def hooks() -> Iterator[Callable[[Callable[[str, tuple[Any, ...]], object]], None]]:
    """Adds hooks for the length of a test."""
    undo: list[Callable[[], None]] = []
    yield lambda hook: undo.append(aioaudit.addaudithook(hook))
    for each in undo:
        each()


async def forever() -> None:
    await asyncio.sleep(3600)


async def cancel_one(name: str = "victim") -> None:
    """Make a task called *name* and cancel it after its first step."""
    assert (await cancelled_one(name)).cancelled()


async def cancelled_one(name: str = "victim") -> asyncio.Task[None]:
    """A task called *name* that was cancelled after its first step."""
    task = asyncio.create_task(forever(), name=name)
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return task


def names(events: Sequence[Event]) -> list[str]:
    return [name_of(event) for event in events]


# -- nothing is left behind ------------------------------------------------------------

TOUCHED: list[Any] = [
    asyncio.Task,
    asyncio.Future,
    asyncio.tasks._PyTask,  # type: ignore[attr-defined]
    asyncio.futures._PyFuture,  # type: ignore[attr-defined]
    asyncio.Timeout,
    asyncio.TaskGroup,
    asyncio.Runner,
    asyncio.CancelledError,
    asyncio.Handle,
    asyncio.TimerHandle,
    asyncio.AbstractEventLoop,
    asyncio.BaseEventLoop,
    asyncio.SelectorEventLoop,
    type(asyncio.get_event_loop_policy()) if sys.version_info < (3, 14) else object,
    asyncio,
    asyncio.base_events,
    asyncio.base_futures,
    asyncio.events,
    asyncio.exceptions,
    asyncio.futures,
    asyncio.locks,
    asyncio.runners,
    asyncio.taskgroups,
    asyncio.tasks,
    asyncio.timeouts,
    asyncio.unix_events,
    gc,
    sys,
    threading,
    *((uvloop, uvloop.Loop, uvloop.Loop.__mro__[1]) if uvloop else ()),
]


def looks() -> dict[str, Any]:
    """How every function of what could be touched presents itself to whoever asks."""
    found: dict[str, Any] = {}
    for owner in TOUCHED:
        for name in list(vars(owner)):
            value = getattr(owner, name)
            if callable(value) and not isinstance(value, type):
                found[f"{owner.__name__}.{name}"] = [
                    *(_asked(ask, value) for ask in (inspect.signature, inspect.getfullargspec)),
                    *(getattr(value, key, None) for key in LOOKS),
                    getattr(value, "__annotations__", {}),
                ]
    return found


LOOKS = ("__name__", "__qualname__", "__module__", "__doc__", "__text_signature__")


def _asked(ask: Callable[[Any], Any], function: Any) -> str:
    try:
        return str(ask(function))
    except (TypeError, ValueError) as error:
        return type(error).__name__


def portrait() -> dict[str, Any]:
    """Every attribute of everything that could be touched, by identity."""
    found: dict[str, Any] = {}
    for owner in TOUCHED:
        for name, value in vars(owner).items():
            if (owner, name) not in VOLATILE:
                found[f"{owner.__name__}.{name}"] = value
        found[f"{owner.__name__} order"] = [
            name for name in vars(owner) if (owner, name) not in VOLATILE
        ]
        if isinstance(owner, type):
            found[f"{owner.__name__} flags"] = owner.__flags__ & ~VALID_VERSION_TAG
    found["meta_path"] = list(sys.meta_path)
    found["path_hooks"] = list(sys.path_hooks)
    found["gc callbacks"] = list(gc.callbacks)
    found["trace"] = (sys.gettrace(), sys.getprofile())
    if sys.version_info >= (3, 12):
        for tool in range(6):
            found[f"tool {tool}"] = sys.monitoring.get_tool(tool)
    return found


VALID_VERSION_TAG = 1 << 19
"""A flag that comes and goes with the interpreter's own caches."""

VOLATILE = {
    (sys, "last_exc"),
    (sys, "last_type"),
    (sys, "last_value"),
    (sys, "last_traceback"),
    (threading, "_counter"),
    (threading, "_dangling"),
    (threading, "_active"),
    (threading, "_shutdown_locks"),
    (asyncio.tasks, "_scheduled_tasks"),
    (asyncio.tasks, "_eager_tasks"),
}


def same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert before.keys() == after.keys()
    changed = [
        key
        for key, value in before.items()
        if value is not after[key] and (callable(value) or value != after[key])
    ]
    assert changed == []


def by_recording() -> None:
    with aioaudit.recording():
        asyncio.run(_use())


def by_enabling() -> None:
    aioaudit.enable(MemoryExporter())
    aioaudit.enable(MemoryExporter())
    (uvloop or asyncio).run(_use())
    aioaudit.disable()
    aioaudit.disable()


def by_blocks() -> None:
    kept = aioaudit.enable(MemoryExporter(), slow_cancel=3)
    with aioaudit.enable("sys"):
        asyncio.run(_use())
    kept.disable()


def by_hook() -> None:
    undo = aioaudit.addaudithook(lambda *_: None)
    aioaudit.enable()
    asyncio.run(_use())
    undo()
    aioaudit.disable()


def for_cancellations_only() -> None:
    aioaudit.enable(MemoryExporter(), events="task.cancel,future.cancel")
    asyncio.run(_use())
    aioaudit.disable()


def in_a_running_loop() -> None:
    async def main() -> None:
        await _use()
        aioaudit.enable(MemoryExporter())
        await _use()
        task = asyncio.create_task(forever())
        await asyncio.sleep(0)
        task.cancel()
        aioaudit.disable()
        await asyncio.wait([task])
        await _use()

    asyncio.run(main())


def from_another_thread() -> None:
    def switch() -> None:
        aioaudit.enable(MemoryExporter())
        asyncio.run(_use())
        aioaudit.disable()

    thread = threading.Thread(target=switch)
    thread.start()
    thread.join()


async def _use() -> None:
    """A bit of everything that a probe stands in the way of."""
    await cancel_one()
    try:
        async with asyncio.timeout(0):
            await forever()
    except TimeoutError:
        pass
    loop = asyncio.get_running_loop()
    task = asyncio.create_task(forever())
    loop.call_later(0, task.cancel)
    await asyncio.wait([task])


@pytest.mark.parametrize(
    "use",
    [
        by_recording,
        by_enabling,
        by_blocks,
        by_hook,
        for_cancellations_only,
        in_a_running_loop,
        from_another_thread,
    ],
)
def test_disabling_leaves_everything_as_it_was(use: Callable[[], None]) -> None:
    asyncio.run(_use())
    use()  # what is imported at the first use is no trace
    before = portrait()
    use()
    same(before, portrait())


def test_while_it_is_on_something_is_changed() -> None:
    """The comparison above would not notice anything if this held."""
    before = portrait()
    with aioaudit.recording(), pytest.raises(AssertionError):
        same(before, portrait())


def test_what_is_replaced_presents_itself_as_what_was_there() -> None:
    before = looks()
    with aioaudit.recording():
        during = looks()
    changed = {
        name: (before[name], during[name]) for name in before if during[name] != before[name]
    }
    assert changed == {}


def test_the_types_stay_immutable_while_auditing_is_on() -> None:
    with aioaudit.recording():
        with pytest.raises(TypeError, match="immutable"):
            asyncio.Task.cancel = None  # type: ignore[method-assign, assignment]
        with pytest.raises(TypeError, match="immutable"):
            asyncio.Future.cancel = None  # type: ignore[method-assign, assignment]
    with pytest.raises(TypeError, match="immutable"):
        asyncio.Task.cancel = None  # type: ignore[method-assign, assignment]


def test_no_thread_outlives_the_recording() -> None:
    before = threading.active_count()
    with aioaudit.recording():
        asyncio.run(_use())
    assert threading.active_count() == before


def test_where_auditing_is_off_nobody_knows_anything() -> None:
    async def main() -> None:
        task = await cancelled_one()
        assert aioaudit.why(task) is None
        error = asyncio.CancelledError()
        assert aioaudit.why(error) is None
        assert aioaudit.source(error) is None
        assert not hasattr(error, "source")

    asyncio.run(main())


# -- on and off ------------------------------------------------------------------------


def test_enabling_twice_records_once() -> None:
    exporter = MemoryExporter()
    aioaudit.enable(exporter)
    aioaudit.enable(exporter)
    aioaudit.enable()
    asyncio.run(cancel_one())
    aioaudit.disable()
    told = names(exporter.events)
    assert told.count("task.cancel") == 1
    assert told.count("process.start") == 1
    assert told[0] == "process.start"
    assert told[-1] == "process.end"


def test_two_exporters_hear_the_same() -> None:
    one, two = MemoryExporter(), MemoryExporter()
    aioaudit.enable(one)
    aioaudit.enable(two)
    asyncio.run(cancel_one())
    aioaudit.disable()
    told = [
        [event for event in exporter.events if not name_of(event).startswith("process.")]
        for exporter in (one, two)
    ]
    assert told[0] == told[1]
    assert "task.cancel" in names(told[0])


def test_enabling_again_begins_a_new_run() -> None:
    one, two = MemoryExporter(), MemoryExporter()
    for exporter in (one, two):
        aioaudit.enable(exporter)
        asyncio.run(cancel_one())
        aioaudit.disable()
    assert len({event.run for event in one.events + two.events}) == 2
    assert names(one.events) == names(two.events)


def test_an_unknown_exporter_is_refused_and_nothing_is_changed() -> None:
    before = portrait()
    with pytest.raises(ValueError, match="nonsense"):
        aioaudit.enable("nonsense")
    same(before, portrait())
    assert not hasattr(asyncio.CancelledError(), "source")


@every_loop
def test_enabled_from_a_thread_while_the_loop_runs(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    exporter = MemoryExporter()

    async def main() -> None:
        older = asyncio.create_task(forever(), name="older")
        await asyncio.sleep(0)
        await asyncio.to_thread(aioaudit.enable, exporter)
        younger = asyncio.create_task(forever(), name="younger")
        await asyncio.sleep(0)
        older.cancel()
        younger.cancel()
        await asyncio.wait([older, younger])
        await asyncio.to_thread(aioaudit.disable)
        await cancel_one("unheard")

    run(main())
    asked = [event for event in exporter.events if isinstance(event, TaskCancel)]
    assert [(event.name, event.preexisting) for event in asked] == [
        ("older", True),
        ("younger", False),
    ]
    ends = [event for event in exporter.events if isinstance(event, TaskDone)]
    ended = {event.name: event for event in ends}
    assert ended["older"].cancel == asked[0].seq
    assert ended["older"].preexisting
    assert ended["older"].lifetime is None
    assert ended["younger"].cancel == asked[1].seq
    assert "unheard" not in ended
    number = ended["younger"].task
    [made] = [e for e in exporter.events if isinstance(e, TaskCreate) and e.task == number]
    assert made.parent is not None


def test_a_creation_is_told_by_the_name_that_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the first one, which wakes the exporter up before the name is set (until 3.13)."""
    monkeypatch.setattr("aioaudit.delivery.pipeline._NAMING", PATIENCE)  # however late this thread
    exporter = MemoryExporter()

    async def main() -> None:
        aioaudit.enable(exporter)
        for name in ("first", "second"):
            await asyncio.create_task(asyncio.sleep(0), name=name)

    asyncio.run(main())
    aioaudit.disable()
    made = [event.name for event in exporter.events if isinstance(event, TaskCreate)]
    assert made[:2] == ["first", "second"]


def test_the_last_of_several_recordings_turns_auditing_off_whichever_it_is() -> None:
    outer, inner = aioaudit.recording(), aioaudit.recording()
    outer.__enter__()
    inner.__enter__()
    outer.__exit__(None, None, None)
    assert session.current() is not None
    inner.__exit__(None, None, None)
    assert session.current() is None


def test_auditing_that_was_turned_on_meanwhile_outlives_a_recording() -> None:
    with aioaudit.recording():
        aioaudit.enable()
    try:
        assert session.current() is not None
    finally:
        aioaudit.disable()


def test_nested_recordings_both_hear_and_the_outer_one_goes_on() -> None:
    with aioaudit.recording() as outer:
        with aioaudit.recording() as inner:
            asyncio.run(cancel_one("first"))
            assert inner.why("first") is not None
        asyncio.run(cancel_one("second"))
    assert inner.why("second") is None
    assert outer.why("first") is not None
    assert outer.why("second") is not None
    assert not hasattr(asyncio.CancelledError(), "source")


def test_a_recording_leaves_auditing_on_where_it_was_on() -> None:
    exporter = MemoryExporter()
    aioaudit.enable(exporter)
    with aioaudit.recording() as trail:
        asyncio.run(cancel_one("first"))
    asyncio.run(cancel_one("second"))
    aioaudit.disable()
    asked = [event.name for event in exporter.events if isinstance(event, TaskCancel)]
    assert asked == ["first", "second"]
    assert trail.why("second") is None


def test_a_trail_gives_the_first_of_several_answers_or_all_of_them() -> None:
    with aioaudit.recording() as trail:
        for name in ("twin", "other", "twin"):
            asyncio.run(cancel_one(name))
    twins = trail.answers("twin")
    assert [answer.name for answer in twins] == ["twin", "twin"]
    assert trail.why("twin") == twins[0]
    assert [answer.name for answer in trail.answers()] == ["twin", "other", "twin"]
    assert trail.answers("nobody") == []


def test_an_error_in_the_block_ends_the_recording() -> None:
    before = portrait()
    with pytest.raises(KeyError), aioaudit.recording():
        raise KeyError("x")
    same({key: before[key] for key in before}, portrait())


@every_loop
def test_a_trail_answers_by_task_error_name_and_number(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    async def main() -> None:
        task = asyncio.create_task(forever(), name="victim")
        await asyncio.sleep(0)
        task.cancel()
        answer = source = None
        try:
            await task
        except asyncio.CancelledError as error:
            answer, source = trail.why(error), aioaudit.source(error)
        assert source is not None
        by_task = trail.why(task)
        by_name = trail.why("victim")
        assert answer is not None
        assert by_task is not None
        assert by_name == by_task
        assert trail.why(by_task.task) == by_task
        assert aioaudit.why(task) == by_task
        assert by_task.outcome == "cancelled"
        assert by_task.cancel_outcome == "obeyed"
        assert [link.what for link in by_task.chain] == ["cancelled", "called"]
        assert answer.root == by_task.root
        other = asyncio.create_task(asyncio.sleep(0), name="other")
        await other
        for unknown in (other, "other", 10_000, "nobody", asyncio.CancelledError(), ValueError()):
            assert trail.why(unknown) is None

    with aioaudit.recording() as trail:
        run(main())


def test_only_wanted_events_are_told_and_numbered() -> None:
    exporter = MemoryExporter()
    aioaudit.enable(exporter, events="task.cancel")
    asyncio.run(cancel_one())
    asyncio.run(cancel_one())
    aioaudit.disable()
    assert names(exporter.events) == ["process.start", "task.cancel", "task.cancel", "process.end"]
    assert [event.seq for event in exporter.events] == [1, 2, 3, 4]


# -- hooks -----------------------------------------------------------------------------


def test_hooks_are_called_in_order_in_the_thread_of_the_event(hooks: Any) -> None:
    heard: list[tuple[str, str, Any, int]] = []
    hooks(lambda event, args: heard.append(("one", event, args, threading.get_ident())))
    hooks(lambda event, args: heard.append(("two", event, args, threading.get_ident())))
    aioaudit.enable()
    asyncio.run(cancel_one())
    aioaudit.disable()
    assert [entry[0] for entry in heard[1:]] == ["one", "two"] * (len(heard) // 2)
    # The second hook was heard of by the first, before auditing was on.
    assert heard[0][:2] == ("one", "hook.add")
    for one, two in zip(heard[1::2], heard[2::2], strict=True):
        assert one[1:] == two[1:]
        assert one[3] == threading.get_ident()
        assert isinstance(one[2][0], Event)
        assert one[1] == name_of(one[2][0])
        assert len(one[2]) == 1
    told = [entry[1] for entry in heard[1::2]]
    assert told.index("task.create") < told.index("loop.start") < told.index("task.cancel")
    assert told.index("task.cancel") < told.index("task.done") < told.index("loop.close")


def test_a_hook_hears_of_a_task_before_it_runs_and_of_a_cancel_before_it_is_made(
    hooks: Any,
) -> None:
    order: list[str] = []

    async def run() -> None:
        order.append("runs")
        try:
            await forever()
        finally:
            order.append("cancelled")

    def hook(event: str, args: tuple[Any, ...]) -> None:
        # Not by its name: until 3.13 a task gets its name after it was made.
        if args[0].coro.endswith("<locals>.run"):
            order.append(event)

    hooks(hook)

    async def main() -> None:
        aioaudit.enable(events="task.create,task.cancel,task.done")
        task = asyncio.create_task(run(), name="victim")
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])
        aioaudit.disable()

    asyncio.run(main())
    assert order == ["task.create", "runs", "task.cancel", "cancelled", "task.done"]


@every_loop
def test_a_hook_may_forbid_a_task(
    run: Callable[[Coroutine[Any, Any, Any]], Any], hooks: Any
) -> None:
    heard: list[str] = []

    def forbid(event: str, args: tuple[Any, ...]) -> None:
        if event == "task.create" and args[0].coro.endswith("forbidden"):
            raise PermissionError("not this one")

    async def forbidden() -> None:
        heard.append("it ran")

    async def main() -> None:
        coro = forbidden()
        with pytest.raises(PermissionError, match="not this one"):
            await asyncio.create_task(coro)
        assert inspect.getcoroutinestate(coro) == inspect.CORO_CLOSED
        with pytest.raises(ExceptionGroup) as caught:
            async with asyncio.TaskGroup() as group:
                group.create_task(forbidden())
        assert caught.group_contains(PermissionError)
        with pytest.raises(PermissionError):
            await asyncio.ensure_future(forbidden())
        with pytest.raises(PermissionError):
            await asyncio.Task(forbidden(), loop=asyncio.get_running_loop())
        if sys.version_info >= (3, 12):
            eager: Any = asyncio.Task
            with pytest.raises(PermissionError):
                eager(forbidden(), loop=asyncio.get_running_loop(), eager_start=True)
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    hooks(forbid)
    hooks(lambda event, _: heard.append(event))
    exporter = MemoryExporter()
    aioaudit.enable(exporter)
    run(main())
    aioaudit.disable()
    gc.collect()  # a coroutine that was never awaited would warn now
    made = [event for event in exporter.events if isinstance(event, TaskCreate)]
    assert not [event for event in made if event.coro.endswith("forbidden")]
    assert heard.count("task.create") == len(made)  # the hook after it was not called
    assert "it ran" not in heard


@every_loop
def test_a_hook_may_forbid_a_cancellation(
    run: Callable[[Coroutine[Any, Any, Any]], Any], hooks: Any
) -> None:
    class NotNow(BaseException):
        pass

    def forbid(event: str, args: tuple[Any, ...]) -> None:
        if event in ("task.cancel", "future.cancel") and closed:
            raise NotNow(event)

    closed = [True]

    async def wait(future: asyncio.Future[None]) -> None:
        await future

    async def main() -> None:
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        task = asyncio.create_task(wait(future), name="victim")
        await asyncio.sleep(0)
        with pytest.raises(NotNow, match=r"task\.cancel"):
            task.cancel()
        with pytest.raises(NotNow, match=r"future\.cancel"):
            future.cancel()
        assert task.cancelling() == 0
        assert not future.cancelled()
        await asyncio.sleep(0)
        assert not task.done()
        assert aioaudit.why(task) is None
        closed.clear()
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled()

    hooks(forbid)
    exporter = MemoryExporter()
    aioaudit.enable(exporter)
    run(main())
    aioaudit.disable()
    asked = [e for e in exporter.events if isinstance(e, TaskCancel | FutureCancel)]
    assert names(asked) == ["task.cancel"]
    [end] = [e for e in exporter.events if isinstance(e, TaskDone) and e.name == "victim"]
    assert end.cancel == asked[0].seq


def test_a_loop_that_a_handler_of_a_signal_stops_is_not_stopped_by_the_task_that_runs() -> None:
    loop = asyncio.new_event_loop()
    before = signal.signal(signal.SIGUSR1, lambda *_: loop.stop())

    async def innocent_task() -> None:
        signal.raise_signal(signal.SIGUSR1)

    with aioaudit.recording() as trail:
        task = loop.create_task(innocent_task(), name="innocent")
        loop.run_forever()
        loop.run_until_complete(task)
        loop.close()
    signal.signal(signal.SIGUSR1, before)
    first = next(event for event in trail.events if isinstance(event, LoopStop))
    assert (first.by, first.by_name) == (None, None)
    assert str(first.at).startswith(__file__)


@every_loop
def test_a_hook_may_forbid_a_loop_to_stop(
    run: Callable[[Coroutine[Any, Any, Any]], Any], hooks: Any
) -> None:
    stops: list[LoopStop] = []

    def forbid(event: str, args: tuple[Any, ...]) -> None:
        if event == "loop.stop" and args[0].source and "main" in args[0].source:
            stops.append(args[0])
            raise PermissionError("run on")

    async def main() -> str:
        with pytest.raises(PermissionError, match="run on"):
            asyncio.get_running_loop().stop()
        await asyncio.sleep(0.01)
        return "ran on"

    hooks(forbid)
    aioaudit.enable()
    assert run(main()) == "ran on"
    [stop] = stops
    assert stop.pending == 1
    assert stop.by_name is not None
    assert str(stop.at).startswith(__file__)


@every_loop
def test_what_can_no_longer_be_prevented_goes_to_the_unraisable_hook(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    hooks: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    unraisable: list[Any] = []
    monkeypatch.setattr(sys, "unraisablehook", unraisable.append)

    def object_to_all(event: str, args: tuple[Any, ...]) -> None:
        if event in ("task.done", "task.uncancel", "loop.start", "loop.close"):
            raise PermissionError(event)

    async def main() -> str:
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError:
            task.uncancel()
        await cancel_one()
        await asyncio.create_task(asyncio.sleep(0))
        return "done"

    hooks(object_to_all)
    aioaudit.enable()
    assert run(main()) == "done"
    aioaudit.disable()
    told = [str(each.exc_value) for each in unraisable]
    assert set(told) == {"task.done", "task.uncancel", "loop.start", "loop.close"}
    for each in unraisable:
        assert each.exc_type is PermissionError
        assert each.exc_traceback is not None


def test_a_new_hook_is_an_event_and_may_be_refused(hooks: Any) -> None:
    heard: list[tuple[str, Any]] = []
    exporter = MemoryExporter()

    def guard(event: str, args: tuple[Any, ...]) -> None:
        heard.append((event, args[0]))
        if event == "hook.add" and "intruder" in args[0].hook:
            raise PermissionError("no")

    def intruder(event: str, args: tuple[Any, ...]) -> None:
        raise AssertionError("it was refused")

    def guest(event: str, args: tuple[Any, ...]) -> None:
        pass

    aioaudit.enable(exporter)
    hooks(guard)
    hooks(intruder)
    hooks(guest)
    asyncio.run(cancel_one())
    aioaudit.disable()
    added = [event for name, event in heard if name == "hook.add"]
    prefix = "test_a_new_hook_is_an_event_and_may_be_refused.<locals>."
    assert [each.hook.split(":")[1] for each in added] == [f"{prefix}intruder", f"{prefix}guest"]
    told = [event for event in exporter.events if isinstance(event, HookAdd)]
    assert told[-1] == added[-1]


def test_what_cannot_be_called_is_no_hook() -> None:
    with pytest.raises(TypeError, match="'text'"):
        aioaudit.addaudithook("text")  # type: ignore[arg-type]


def test_a_hook_alone_is_enough_to_be_heard_and_nothing_is_built_without_one(hooks: Any) -> None:
    aioaudit.enable()
    init = asyncio.Task.__init__
    heard: list[str] = []
    hooks(lambda event, _: heard.append(event))
    # Creations are watched only where somebody listens.
    assert asyncio.Task.__init__ is not init
    asyncio.run(cancel_one())
    assert {"task.create", "task.cancel", "task.done"} <= set(heard)


def test_a_program_may_raise_events_of_its_own(hooks: Any) -> None:
    heard: list[tuple[str, tuple[Any, ...]]] = []
    hooks(lambda event, args: heard.append((event, args)))
    aioaudit.audit("shop.sold", "a book", 3)
    assert heard == [("shop.sold", ("a book", 3))]


def test_a_hook_that_uses_asyncio_does_not_run_in_circles(hooks: Any) -> None:
    depth: list[int] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "task.cancel" and len(depth) < 5:
            depth.append(args[0].task)
            args_task = next((t for t in asyncio.all_tasks() if t.get_name() == "second"), None)
            if args_task is not None and args[0].name == "first":
                args_task.cancel()

    async def main() -> tuple[bool, bool]:
        first = asyncio.create_task(forever(), name="first")
        second = asyncio.create_task(forever(), name="second")
        await asyncio.sleep(0)
        first.cancel()
        await asyncio.wait([first, second])
        return first.cancelled(), second.cancelled()

    hooks(hook)
    aioaudit.enable()
    assert asyncio.run(main()) == (True, True)
    assert len(depth) == 2


# -- the bridge to sys.audit -------------------------------------------------------------


# -- exporters ---------------------------------------------------------------------------


class Failing(MemoryExporter):
    """Fails at the first batch that holds a cancellation."""

    def export(self, events: Sequence[Event]) -> None:
        if any(isinstance(event, TaskCancel) for event in events):
            raise RuntimeError("out of ink")
        super().export(events)


def test_an_exporter_that_fails_is_said_once_and_the_others_go_on(
    capfd: pytest.CaptureFixture[str],
) -> None:
    good = MemoryExporter()
    aioaudit.enable(Failing(), good)
    for _ in range(3):
        asyncio.run(cancel_one())
    aioaudit.disable()
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert "Failing" in lines[0]
    assert "out of ink" in lines[0]
    assert len([event for event in good.events if isinstance(event, TaskCancel)]) == 3


class UsesAsyncio(MemoryExporter):
    """Sends its events with asyncio, cancels and times out while it does so."""

    def export(self, events: Sequence[Event]) -> None:
        super().export(events)
        asyncio.run(self._send())

    async def _send(self) -> None:
        await cancel_one("of the exporter")
        try:
            async with asyncio.timeout(0):
                await forever()
        except TimeoutError:
            pass


def test_what_an_exporter_does_with_asyncio_is_not_heard() -> None:
    exporter, other = UsesAsyncio(), MemoryExporter()
    aioaudit.enable(exporter, other)
    asyncio.run(cancel_one())
    aioaudit.disable()
    plain = MemoryExporter()
    aioaudit.enable(plain)
    asyncio.run(cancel_one())
    aioaudit.disable()
    for each in (exporter, other):
        assert names(each.events) == names(plain.events)
        threads = {e.thread for e in each.events if not name_of(e).startswith("process.")}
        assert threads == {threading.current_thread().name}


# -- several loops and threads -------------------------------------------------------------


def test_several_loops_in_several_threads_are_kept_apart() -> None:
    def work(number: int) -> None:
        run = (uvloop if uvloop and number % 2 else asyncio).run

        async def main() -> None:
            task = asyncio.current_task()
            assert task is not None
            task.set_name(f"main-{number}")
            for turn in range(20):
                inner = asyncio.create_task(forever(), name=f"inner-{number}-{turn}")

                async def wait(inner: asyncio.Task[None] = inner) -> None:
                    await inner

                outer = asyncio.create_task(wait(), name=f"outer-{number}-{turn}")
                await asyncio.sleep(0)
                await asyncio.sleep(0)
                outer.cancel()
                await asyncio.wait([outer])

        run(main())

    with aioaudit.recording() as trail:
        threads = [
            threading.Thread(target=work, args=(number,), name=f"thread-{number}")
            for number in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        events = trail.events
    loops: dict[str, set[int | None]] = {}
    for event in events:
        if isinstance(event, TaskCreate | TaskCancel | TaskDone) and event.name[:5] in (
            "inner",
            "outer",
        ):
            assert event.thread == f"thread-{event.name.split('-')[1]}"
            loops.setdefault(event.thread, set()).add(event.loop)
    assert len(loops) == 4
    assert all(len(numbers) == 1 for numbers in loops.values())
    assert len({number for numbers in loops.values() for number in numbers}) == 4
    numbers = [event.seq for event in events]
    assert numbers == sorted(set(numbers))
    for number in range(4):
        for turn in range(20):
            answer = trail.why(f"inner-{number}-{turn}")
            assert answer is not None
            assert [(link.what, link.name) for link in answer.chain] == [
                ("cancelled", f"inner-{number}-{turn}"),
                ("cancelled", f"outer-{number}-{turn}"),
                ("called", None),
            ]
            assert answer.root.by_name == f"main-{number}"


def test_turning_it_on_and_off_from_threads_while_loops_run_harms_nobody() -> None:
    stop = threading.Event()
    failures: list[BaseException] = []

    async def work() -> None:
        while not stop.is_set():
            task = await cancelled_one()
            assert task.cancelled()
            assert await asyncio.create_task(asyncio.sleep(0, "value")) == "value"
            try:
                async with asyncio.timeout(0):
                    await forever()
            except TimeoutError:
                pass

    def loop(run: Callable[[Coroutine[Any, Any, Any]], Any]) -> None:
        try:
            run(work())
        except BaseException as error:  # noqa: BLE001 - whatever it is, the test wants to know
            failures.append(error)

    threads = [threading.Thread(target=loop, args=(each.run,)) for each in BY_NAME.values()]
    before = portrait()
    for thread in threads:
        thread.start()
    for _ in range(15):
        aioaudit.enable(MemoryExporter())
        aioaudit.disable()
    stop.set()
    for thread in threads:
        thread.join()
    assert failures == []
    same(before, portrait())


# -- invisible ------------------------------------------------------------------------------


async def _look() -> list[Any]:
    """What a program can see of its tasks."""
    loop = asyncio.get_running_loop()
    task: Any = asyncio.create_task(forever(), name="seen", context=None)
    seen: list[Any] = [type(task), task.get_coro().__name__, task._callbacks]
    await asyncio.sleep(0)
    seen += [str(task).replace(hex(id(task)), ""), task.cancelling(), task.get_stack()[0].f_lineno]
    done: list[Any] = []
    task.add_done_callback(done.append)
    seen.append(len(task._callbacks))
    seen.append(task.remove_done_callback(done.append))
    task.cancel("a message")
    seen += [task.cancelling(), str(task._fut_waiter).split(" at ")[0]]
    try:
        await task
    except asyncio.CancelledError as error:
        seen += [error.args, error.__cause__, error.__context__ is None]
        trace = error.__traceback__
        while trace is not None:
            seen.append((trace.tb_frame.f_code.co_name, trace.tb_lineno))
            trace = trace.tb_next
    seen += [str(task), done, len(asyncio.all_tasks()), hasattr(task, "__dict__") and vars(task)]
    seen += [loop.get_debug(), len(loop._ready) if hasattr(loop, "_ready") else 0]
    return [str(each) for each in seen]


@every_loop
def test_the_program_sees_what_it_would_see_without(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    plain = run(_look())
    with aioaudit.recording():
        audited = run(_look())
    assert audited == plain


number: ContextVar[int] = ContextVar("number", default=0)


class Notes:
    """Callbacks that note which context they are called in, one of them called as a cancel is."""

    def __init__(self) -> None:
        self.seen: list[tuple[Any, int]] = []

    def note(self, given: Any = None) -> None:
        self.seen.append((type(given).__name__, number.get()))

    cancel = note


async def _contexts() -> list[Any]:
    """The contexts that callbacks see, of all kinds and added in all ways."""
    loop = asyncio.get_running_loop()
    notes = Notes()
    given = copy_context()
    given.run(number.set, 2)

    def in_python() -> Any:
        return asyncio.futures._PyFuture(loop=loop)  # type: ignore[attr-defined]

    futures = [loop.create_future(), in_python(), loop.create_task(forever())]
    handles: list[Any] = []
    number.set(1)
    for callback in (notes.note, notes.cancel, partial(notes.cancel)):
        for future in futures:
            future.add_done_callback(callback)
            future.add_done_callback(callback, context=given)
            future.add_done_callback(callback, context=None)
        handles.append(loop.call_later(0.001, callback))
        handles.append(loop.call_later(0.001, callback, context=given))
        handles.append(loop.call_later(0.001, callback, context=None))
        handles.append(loop.call_at(loop.time(), callback, None, context=given))
        for call in (loop.call_soon, loop.call_soon_threadsafe):
            handles += [call(callback), call(callback, None, context=given)]
    number.set(3)
    while len(notes.seen) < len(handles):  # noqa: ASYNC110 - nothing but callbacks is to be called
        await asyncio.sleep(0.001)
    notes.seen.sort()  # timers of one moment go off in any order
    for future in futures[:2]:
        future.set_result(None)
    futures[2].cancel()
    await asyncio.wait([futures[2]])
    await asyncio.sleep(0)
    return notes.seen


async def _by_name() -> list[Any]:
    """Calls that name what asyncio's classes in Python have names for."""
    loop = asyncio.get_running_loop()
    future: Any = asyncio.futures._PyFuture(loop=loop)  # type: ignore[attr-defined]
    future.add_done_callback(fn=print)
    task: Any = asyncio.tasks._PyTask(asyncio.sleep(0), loop=loop)  # type: ignore[attr-defined]
    task.set_name(value="named")
    await task
    return [future.remove_done_callback(print), task.get_name()]


@pytest.mark.parametrize("look", [_contexts, _by_name])
@every_loop
def test_callbacks_are_called_as_without(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    look: Callable[[], Coroutine[Any, Any, list[Any]]],
) -> None:
    plain = run(look())
    with aioaudit.recording():
        audited = run(look())
    assert audited == plain


def test_debug_mode_shows_no_frame_of_ours() -> None:
    async def main() -> list[str]:
        task = asyncio.create_task(forever())
        trace = [frame.filename for frame in task._source_traceback]  # type: ignore[attr-defined]
        task.cancel()
        return trace

    plain = asyncio.run(main(), debug=True)
    with aioaudit.recording():
        audited = asyncio.run(main(), debug=True)
    assert audited == plain


@every_loop
def test_tasks_and_errors_live_no_longer_than_without(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    class Error(Exception):
        pass

    async def main() -> None:
        gc.disable()
        try:
            task = asyncio.create_task(forever())
            await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            watched: list[Any] = [weakref.ref(task), weakref.ref(task.get_coro())]

            async def fail() -> None:
                raise Error

            failed = asyncio.create_task(fail())
            await asyncio.wait([failed])
            error = failed.exception()
            watched += [weakref.ref(failed), weakref.ref(error)]
            del task, failed, error, fail
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            assert [ref() for ref in watched] == [None] * 4
        finally:
            gc.enable()

    run(main())
    with aioaudit.recording():
        run(main())


@every_loop
def test_an_error_that_nobody_looked_at_is_still_reported(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
) -> None:
    told: list[dict[str, Any]] = []

    async def fail() -> None:
        raise ValueError("unseen")

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: told.append(context))
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task

    with aioaudit.recording():
        run(main())
        gc.collect()
    assert [context["message"] for context in told] == ["Task exception was never retrieved"]


def test_a_recorder_keeps_nothing_of_what_is_over() -> None:
    """After many tasks, cancelled and not, its tables are as empty as before."""
    from aioaudit.session import current

    async def one() -> None:
        await _use()
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(forever())
                group.create_task(asyncio.wait_for(forever(), 0))
        except* TimeoutError:
            pass

    async def main() -> None:
        for _ in range(3):
            await one()

    def sizes() -> dict[str, int]:
        session = current()
        assert session is not None
        gc.collect()
        known = session.recorder.state
        tables: dict[str, Any] = {
            "born": known.tasks.born,
            "states": known.tasks.states,
            "ties": known.cancellations.ties,
            "failures": known.failures._first,
            "notes": known.handoffs.by_callback,
            "active": known.cancellations.active,
        }
        return {name: len(table) for name, table in tables.items()}

    async def long() -> None:
        await asyncio.create_task(main())
        before = sizes()
        for _ in range(5):
            await asyncio.create_task(main())
        assert sizes() == before

    with aioaudit.recording():
        asyncio.run(long())
        (uvloop or asyncio).run(long())


async def swallows(times: int) -> None:
    """Keep as many cancellations, the last of them not."""
    for _ in range(times):
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
    await asyncio.sleep(3600)


async def absorbs() -> None:
    """Take one request back, then wait."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(0):
            await asyncio.sleep(3600)
    try:
        await asyncio.sleep(3600)
    except asyncio.CancelledError:
        task = asyncio.current_task()
        assert task is not None
        task.uncancel()
    await asyncio.sleep(3600)


@every_loop
@pytest.mark.parametrize("works", [lambda: swallows(2), absorbs, lambda: swallows(0)])
def test_all_requests_to_a_task_are_told_as_the_log_tells_them(
    run: Callable[[Coroutine[Any, Any, Any]], Any],
    works: Callable[[], Coroutine[Any, Any, None]],
) -> None:
    async def main() -> asyncio.Task[None]:
        task = asyncio.create_task(works(), name="victim")
        for message in ("first", "second", "third"):
            for _ in range(5):
                await asyncio.sleep(0)
            task.cancel(message)
            task.cancel("and again")
        await asyncio.wait([task])
        task.cancel("too late")
        return task

    with aioaudit.recording() as trail:
        task = run(main())
        live, told = trail.why(task), trail.why("victim")
        assert live is not None
        assert live == told
        assert len(live.requests) > 3
        assert live.requests[-1].became == "late"
        assert aioaudit.why(task) == live
