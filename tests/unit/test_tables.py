"""What is kept of tasks, loops, codes and timeouts goes when they do."""

from __future__ import annotations

import asyncio
import ctypes
import gc
import sys
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import suppress
from types import CodeType, FunctionType
from typing import Any

import pytest

import aioaudit
from aioaudit import session
from aioaudit.core import Returned
from aioaudit.cpython.behaviour import HAS_EAGER_TASKS
from aioaudit.cpython.callbacks import gather_of, is_gather_done
from aioaudit.events import Finding, LoopStart, TaskCancel, TaskCreate, TaskDone
from aioaudit.probes.ends import _about_to_wake  # pyright: ignore[reportPrivateUsage] - nothing else reaches it on every version
from aioaudit.recorder.recorder import Recorder
from aioaudit.weak import WeakIdMap, dropping
from tests.waiting import wait_until

PROGRAM = """
import asyncio

async def child():
    try:
        await asyncio.sleep(9)
    except asyncio.CancelledError:
        raise

async def compiled():
    async with asyncio.timeout(9):
        waiting = asyncio.create_task(child())
        await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await asyncio.gather(again(3))

async def again(left):
    if left:
        await asyncio.create_task(again(left - 1))
"""


@pytest.fixture
def recorder() -> Iterator[Recorder]:
    """What is known while the test is recorded."""
    with aioaudit.recording():
        found = session.current()
        assert found is not None
        yield found.recorder


class _Thing:
    """Takes weak references; equal to every other one, and to none."""

    def __eq__(self, other: object) -> bool:
        raise AssertionError("nobody is to ask")

    def __hash__(self) -> int:
        raise AssertionError("nobody is to ask")


def test_a_value_goes_with_its_object() -> None:
    values: WeakIdMap[int] = WeakIdMap()
    one, two = _Thing(), _Thing()
    values[one] = 1
    values[two] = 2
    values[two] = 3
    assert (values.get(one), values.get(two), len(values)) == (1, 3, 2)
    assert [value for _, value in values.items()] == [1, 3]
    del one
    assert len(values) == 1
    assert two in values
    assert values.pop(two) == 3
    assert values.get(two) is None
    assert values.get(two, 7) == 7


def test_a_value_goes_with_what_the_collector_takes() -> None:
    values: WeakIdMap[int] = WeakIdMap()
    one: Any = _Thing()
    one.me = one
    values[one] = 1
    del one
    gc.collect()
    assert len(values) == 0


def test_what_a_finalizer_enters_of_the_garbage_is_not_found_again() -> None:
    """Newer collectors take it without a word (gh-91636), and its address is used again."""
    values: WeakIdMap[int] = WeakIdMap()

    class Last:
        def __init__(self, thing: _Thing) -> None:
            self.thing, self.me = thing, self

        def __del__(self) -> None:
            values[self.thing] = 1
            assert values.get(self.thing) == 1

    for _ in range(1000):
        Last(_Thing())
        gc.collect(0)
    gc.collect()
    assert len(values) <= 200
    for thing in [_Thing() for _ in range(1000)]:
        assert values.get(thing) is None
        assert thing not in values


def test_a_loop_that_died_in_the_collector_is_not_taken_for_the_next_one(
    recorder: Recorder,
) -> None:
    async def leave() -> None:
        waiting = [asyncio.ensure_future(asyncio.sleep(60)), asyncio.gather(asyncio.sleep(60))]
        await asyncio.sleep(0)
        assert len(waiting) == 2

    with aioaudit.recording() as trail:
        for _ in range(300):
            loop = asyncio.new_event_loop()
            loop.set_exception_handler(lambda _loop, _context: None)
            loop.run_until_complete(leave())
            loop.close()
            del loop
            gc.collect()
        started = [event.loop for event in trail.events if isinstance(event, LoopStart)]
        ended = [event for event in trail.events if isinstance(event, TaskDone)]
    assert len(started) == len(set(started)) == 300
    assert sum(event.outcome == "destroyed" for event in ended) >= 300
    here = recorder.state.places._here.thread
    assert here is not None
    for table in (recorder.state.tasks.states, recorder.state.places._loops, here.by_loop):
        assert len(table) <= 200


def test_what_takes_no_weak_reference_is_refused() -> None:
    values: WeakIdMap[int] = WeakIdMap()
    with pytest.raises(TypeError):
        values[1] = 1
    assert len(values) == 0


def test_an_entry_stays_where_its_reference_is_let_go() -> None:
    table: dict[str, int] = {"a": 1, "b": 2}
    one = _Thing()
    kept = dropping(one, table, "a")
    dropping(one, table, "b")
    del one
    assert table == {"b": 2}
    assert kept() is None


def test_a_ctrl_c_is_not_lost_in_what_lets_go() -> None:
    """A weakref callback in Python would be where a handler runs, and its error reaches nobody."""
    values: WeakIdMap[None] = WeakIdMap()
    one = _Thing()
    values[one] = None
    (ref, _), *_ = values.entries.values()
    callback: Any = ref.__callback__
    assert not hasattr(callback.func, "__code__")


def _codes(code: CodeType) -> Iterator[CodeType]:
    for each in code.co_consts:
        if isinstance(each, CodeType):
            yield each
            yield from _codes(each)


def test_a_code_that_tasks_ran_goes_when_the_program_lets_it_go(recorder: Recorder) -> None:
    # The last code that was read through for its handlers is kept, until the next one.
    async def main() -> list[weakref.ref[CodeType]]:
        refs: list[weakref.ref[CodeType]] = []
        for number in range(20):
            namespace: dict[str, Any] = {}
            program = compile(PROGRAM, f"generated-{number}", "exec")
            exec(program, namespace)  # what the test is about
            refs.extend(map(weakref.ref, _codes(program)))
            await namespace["compiled"]()
            await asyncio.create_task(namespace["compiled"]())
        return refs

    refs = asyncio.run(main())
    gc.collect()
    left = [code for ref in refs if (code := ref()) is not None]
    assert {code.co_filename for code in left} <= {"generated-19"}
    assert len(left) <= 1


def test_a_code_at_the_address_of_another_is_told_by_its_own_name() -> None:
    seen: set[int] = set()
    reused = 0

    async def main() -> list[str]:
        nonlocal reused
        names: list[str] = []
        for number in range(100):
            namespace: dict[str, Any] = {}
            exec(f"async def made_{number}(): pass", namespace)  # what the test is about
            made = namespace.pop(f"made_{number}")
            names.append(f"made_{number}")
            reused += id(made.__code__) in seen
            seen.add(id(made.__code__))
            await asyncio.create_task(made())
            del made
        return names

    with aioaudit.recording() as trail:
        names = asyncio.run(main())
        told = [e for e in trail.events if isinstance(e, TaskCreate) and ":made_" in e.coro]
    assert reused  # else the test says nothing
    assert [each.coro.rpartition(":")[2] for each in told] == names


def test_nothing_is_left_of_a_loop(recorder: Recorder) -> None:
    async def child() -> None:
        await asyncio.sleep(9)

    async def main() -> None:
        asyncio.get_running_loop().add_signal_handler(10, print)
        task = asyncio.create_task(child())
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    def run() -> None:
        asyncio.run(main())

    run()
    gc.collect()
    here = recorder.state.places._here.thread
    assert here is not None
    loops, kinds = len(recorder.state.places._loops), len(here.by_loop)
    for _ in range(5):
        run()
    gc.collect()
    # The last one is known until the next one runs in its thread.
    assert len(recorder.state.places._loops) <= loops
    assert len(here.by_loop) <= kinds
    assert len(recorder.state.handoffs.signal_callbacks) <= 1
    # All loops were run by the same lines.
    assert sum(kind.coro.endswith("child") for kind in recorder.state.tasks.sites.values()) == 1


def test_a_signal_has_one_callback(recorder: Recorder) -> None:
    async def main() -> int:
        loop = asyncio.get_running_loop()
        for number in range(50):
            namespace: dict[str, Any] = {}
            exec(f"def handler_{number}(): pass", namespace)  # what the test is about
            loop.add_signal_handler(10, namespace[f"handler_{number}"])
        callbacks = recorder.state.handoffs.signal_callbacks.get(loop)
        assert callbacks is not None
        return len(callbacks)

    assert asyncio.run(main()) == 1


def test_a_thread_with_the_number_of_another_has_its_own_name() -> None:
    async def main() -> list[int]:
        async def child() -> None:
            await asyncio.sleep(9)

        numbers: list[int] = []
        for number in range(2):
            task = asyncio.create_task(child(), name=f"victim-{number}")
            await asyncio.sleep(0)
            thread = threading.Thread(target=task.cancel, name=f"asker-{number}")
            thread.start()
            numbers.append(thread.ident or 0)
            thread.join()
            task.get_loop().call_soon_threadsafe(lambda: None)
            await asyncio.wait([task])
        return numbers

    with aioaudit.recording() as trail:
        one, two = asyncio.run(main())
        asked = [e for e in trail.events if isinstance(e, TaskCancel)]
    if one != two:
        pytest.skip("this system gave the two threads two numbers")
    assert [each.thread for each in asked] == ["asker-0", "asker-1"]


def test_the_collector_may_ask_where_it_is_while_that_is_being_found_out(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task that it destroys tells its loop, wherever the collector happens to run."""
    loop = asyncio.new_event_loop()
    places: list[Any] = []

    class Collected(WeakIdMap[Any]):
        def __init__(self) -> None:
            if not places:
                places.append(None)
                places.append(recorder.state.places.place(loop))
            super().__init__()

    def ask() -> None:
        places.append(recorder.state.places.place(loop))

    monkeypatch.setattr("aioaudit.state.places.WeakIdMap", Collected)
    thread = threading.Thread(target=ask, name="collected")
    thread.start()
    thread.join()
    loop.close()
    assert [each.thread for each in places[1:]] == ["collected", "collected"]


def test_two_loops_that_take_turns_are_known_once(recorder: Recorder) -> None:
    async def child() -> None:
        pass

    loops = [asyncio.new_event_loop() for _ in range(2)]
    try:
        places = {id(recorder.state.places.place(loop)) for _ in range(5) for loop in loops}
        for _ in range(3):
            for loop in loops:
                loop.run_until_complete(child())
    finally:
        for loop in loops:
            loop.close()
    assert len(places) == 2


class _Silent(asyncio.SelectorEventLoop):
    def call_exception_handler(self, context: Any) -> None:
        """Tell nobody."""


def test_tasks_that_are_lost_without_a_word_are_not_counted() -> None:
    async def main() -> None:
        async def forever() -> None:
            await asyncio.get_running_loop().create_future()

        lost = [asyncio.create_task(forever()) for _ in range(10)]
        await asyncio.sleep(0)
        assert not any(each.done() for each in lost)

    with aioaudit.recording():
        loop = _Silent()
        loop.run_until_complete(main())
        loop.close()
        del loop
        gc.collect()
        # What was made a moment ago may still be in the making.
        wait_until(lambda: session.living_tasks() == 0)


def test_living_tasks_are_counted() -> None:
    async def main() -> int | None:
        async def forever() -> None:
            await asyncio.get_running_loop().create_future()

        tasks = [asyncio.create_task(forever()) for _ in range(10)]
        await asyncio.sleep(1.2)
        count = session.living_tasks()
        for task in tasks:
            task.cancel()
        return count

    with aioaudit.recording():
        assert asyncio.run(main()) == 11


def test_nothing_of_ours_is_on_a_timeout(recorder: Recorder) -> None:
    async def main() -> tuple[set[str], set[str]]:
        async with asyncio.timeout(9) as timeout:
            await asyncio.sleep(0)
        audited = set(vars(timeout))
        assert len(recorder.state.handoffs.timeouts) == 1
        del timeout
        assert len(recorder.state.handoffs.timeouts) == 0
        return audited, audited & {name for name in audited if "aioaudit" in name}

    audited, ours = asyncio.run(main())
    assert audited
    assert not ours


class _Task(asyncio.Task[Any]):
    pass


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="nothing says there whether a class is cached"
)
def test_classes_are_still_cached_after_a_thousand_recordings() -> None:
    """CPython gives a class a thousand versions (3.13), and caches nothing of it after the last."""

    async def main() -> None:
        await asyncio.create_task(asyncio.sleep(0))

    for _ in range(1_100):
        with aioaudit.recording():
            pass
    asyncio.run(main())
    loop = asyncio.new_event_loop()
    loop.close()
    classes = [asyncio.Task, asyncio.Future, _Task, asyncio.timeouts.Timeout, *type(loop).__mro__]
    give = ctypes.pythonapi.PyUnstable_Type_AssignVersionTag
    assert [each for each in classes if not give(ctypes.py_object(each))] == []


@pytest.mark.skipif(
    sys.version_info < (3, 12), reason="nothing says there whether a class is cached"
)
def test_a_recording_inside_another_uses_up_nothing_either() -> None:
    with aioaudit.recording():
        test_classes_are_still_cached_after_a_thousand_recordings()


def test_the_error_of_a_group_is_read_once_for_all_that_it_cancels() -> None:
    asked = 0

    class DearError(Exception):
        def __str__(self) -> str:
            nonlocal asked
            asked += 1
            return "dear"

    async def fail() -> None:
        await asyncio.sleep(0)
        raise DearError

    async def inner() -> None:
        async with asyncio.TaskGroup() as group:
            for _ in range(20):
                group.create_task(fail())

    async def outer(siblings: int) -> int:
        nonlocal asked
        asked = 0
        with suppress(BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                for _ in range(siblings):
                    group.create_task(asyncio.sleep(9))
                group.create_task(inner())
        return asked

    with aioaudit.recording():
        few, many = asyncio.run(outer(5)), asyncio.run(outer(50))
    assert 0 < few == many


async def at_once() -> None:
    pass


async def other() -> None:
    await asyncio.sleep(60)


@pytest.mark.skipif(sys.version_info < (3, 12), reason="such records come of sys.monitoring")
def test_a_task_that_nobody_noted_is_not_taken_for_the_one_that_had_its_address(
    recorder: Recorder,
) -> None:
    tasks = recorder.state.tasks

    async def main() -> None:
        gone = asyncio.create_task(asyncio.sleep(0), name="gone")
        await gone
        [returned] = [each for each in tasks.recently_returned if each.born.name == "gone"]
        again = tasks.state(gone)
        assert (again.task, again.coro) == (returned.born.task, returned.born.coro)

        unseen = asyncio.create_task(other(), name="unseen")
        await asyncio.sleep(0)
        tasks.born.pop(id(unseen), None)
        tasks.recently_returned.append(
            Returned(returned.seq, returned.ns, returned.born, id(unseen))
        )
        state = tasks.state(unseen)
        assert state.task != returned.born.task
        assert state.coro.endswith(":other")
        unseen.cancel()
        await asyncio.wait([unseen])

        ended = asyncio.create_task(asyncio.sleep(0))
        await ended
        tasks.recently_returned.append(
            Returned(returned.seq, returned.ns, returned.born, id(ended))
        )
        assert tasks.state(ended).task != returned.born.task

    with aioaudit.recording():
        asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="such records come of sys.monitoring")
@pytest.mark.parametrize("name", ["short", "long " * 50, "half \ud83d", 7], ids=ascii)
def test_a_task_that_returned_keeps_its_number_whatever_it_is_called(
    recorder: Recorder, name: Any
) -> None:
    class Renamed(asyncio.Task):  # type: ignore[type-arg]  # of whatever
        def get_name(self) -> str:
            return "another"

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for kind in (asyncio.Task, Renamed):
            task = kind(asyncio.sleep(0), loop=loop, name=name)
            number = recorder.state.tasks.number(task)
            await task
            assert id(task) not in recorder.state.tasks.born
            assert recorder.state.tasks.number(task) == number
            renamed = kind(asyncio.sleep(0), loop=loop)
            number = recorder.state.tasks.number(renamed)
            renamed.set_name(name)
            await renamed
            assert recorder.state.tasks.number(renamed) == number

    with aioaudit.recording():
        asyncio.run(main())


def test_a_task_that_returned_keeps_its_number_where_a_hook_hears_of_it(
    recorder: Recorder,
) -> None:
    # No core takes its end in by itself then.
    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(0))
        number = recorder.state.tasks.number(task)
        await task
        assert recorder.state.tasks.number(task) == number
        assert not task.cancel()

    with aioaudit.recording() as trail:
        remove = aioaudit.addaudithook(lambda _event, _args: None)
        asyncio.run(main())
        remove()
    [request] = [e for e in trail.events if isinstance(e, TaskCancel)]
    assert not request.preexisting


@pytest.mark.skipif(not HAS_EAGER_TASKS, reason="no task ends in its first step")
@pytest.mark.parametrize("name", [None, "at once"])
def test_a_task_that_ended_in_its_first_step_is_asked_about_and_keeps_its_number(
    name: str | None,
) -> None:
    # Before gh-122332 whoever asked such a task for its coroutine ended the process.
    async def main() -> None:
        start: Any = {"eager_start": True}  # since 3.12
        task = asyncio.Task(at_once(), loop=asyncio.get_running_loop(), **start)
        if name is not None:
            task.set_name(name)
        assert (task.cancel(), aioaudit.why(task)) == (False, None)

    with aioaudit.recording() as trail:
        asyncio.run(main())
    [made] = [e for e in trail.events if isinstance(e, TaskCreate) and e.coro.endswith("at_once")]
    [finding] = [e for e in trail.events if isinstance(e, Finding)]
    assert (finding.kind, finding.task) == ("already_done", made.task)
    assert (finding.name, finding.preexisting) == (name or made.name, False)


def test_a_task_that_its_class_has_not_made_yet_is_left_to_fail_by_itself() -> None:
    said: list[object] = []

    class Early(asyncio.Task):  # type: ignore[type-arg]  # of whatever
        def __init__(self, *args: Any, **keywords: Any) -> None:
            said.append(self.cancel())
            said.append(aioaudit.why(self))
            super().__init__(*args, **keywords)

    async def main() -> None:
        await Early(at_once(), loop=asyncio.get_running_loop())

    asyncio.run(main())
    without = said[:]
    said.clear()
    with aioaudit.recording():
        asyncio.run(main())
    assert said == without


def test_who_waits_is_found_though_a_signal_adds_to_the_queue_of_the_loop() -> None:
    async def main() -> None:
        loop: Any = asyncio.get_running_loop()
        awaited = asyncio.create_task(asyncio.sleep(0))
        waiter = asyncio.create_task(waits_for(awaited))
        await asyncio.sleep(0)
        [(wakes, _)] = awaited._callbacks

        class Handle:
            """Another callback comes while this one is looked at."""

            _args = (awaited,)

            @property
            def _callback(self) -> Any:
                if len(loop._ready) == 1:
                    another = asyncio.Handle(print, (), loop)
                    loop._ready.append(another)  # as a signal's handler would
                return wakes

        before, loop._ready = loop._ready, deque([Handle()])
        try:
            assert waiter in _about_to_wake(awaited)
        finally:
            loop._ready = before
        await waiter

    asyncio.run(main())


async def waits_for(awaited: asyncio.Task[None]) -> None:
    await awaited


def test_what_one_line_enters_shares_a_note_until_it_is_rescheduled(recorder: Recorder) -> None:
    notes = recorder.state.handoffs.timeouts

    async def enter(delay: float | None) -> asyncio.Timeout:
        async with asyncio.timeout(delay) as timeout:
            await asyncio.sleep(0)
            return timeout

    async def main() -> None:
        _, one, other, longer = [await enter(each) for each in (9, 9, 9, 10)]
        assert notes.get(one) is notes.get(other)  # the same line, the same seconds
        assert [each and each.seconds for each in map(notes.get, (one, longer))] == [9, 10]
        endless, again = [await enter(None) for _ in range(2)]
        first, second = notes.get(endless), notes.get(again)
        assert first is not second  # of these the time counts at which they were entered
        loop = asyncio.get_running_loop()
        async with asyncio.timeout(9) as moved:
            before = notes.get(moved)
            moved.reschedule(loop.time() + 5)
            after = notes.get(moved)
            await asyncio.sleep(0)
        assert before is not None
        assert after is not None
        assert (before.seconds, after.seconds) == (9, None)
        assert (after.at, after.source) == (before.at, before.source)
        assert abs(after.armed - loop.time()) < 2

    asyncio.run(main())


def test_a_gather_is_found_by_the_code_of_its_callback_as_well_as_by_its_name() -> None:
    async def main() -> None:
        for keeps in (False, True):
            task: Any = asyncio.ensure_future(asyncio.sleep(0))
            outer = asyncio.gather(task, return_exceptions=keeps)
            [callback] = [each for each, _ in task._callbacks if is_gather_done(each)]
            assert gather_of(callback) == (outer, keeps)
            other = FunctionType(
                callback.__code__.replace(),  # equal, and not the same
                callback.__globals__,
                closure=callback.__closure__,
            )
            assert not is_gather_done(other)
            assert gather_of(other) == (outer, keeps)
            await outer

    asyncio.run(main())
