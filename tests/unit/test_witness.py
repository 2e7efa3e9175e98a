"""What an exporter learns where an event happens: called there, cheap, harmless when it fails."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
import warnings
from collections.abc import Sequence
from typing import Any

import pytest

import aioaudit
from aioaudit.delivery.records import Record, event_name
from aioaudit.events import Event, TaskDone, name_of
from aioaudit.exporter import ContextNotes, Exporter, Witness
from aioaudit.identity import Run
from aioaudit.session import current

WHO: contextvars.ContextVar[str] = contextvars.ContextVar("WHO", default="nobody")


class Seeing:
    """Notes who is in the context at each event, and in which thread it happened."""

    def __init__(self) -> None:
        self.notes: ContextNotes[tuple[str, int]] = ContextNotes()
        self.told: list[tuple[str, str, str, int]] = []
        self.seen: list[str] = []

    def witness(self, item: Record) -> None:
        self.seen.append(event_name(item))
        self.notes.keep(item, (WHO.get(), threading.get_ident()))

    def export(self, events: Sequence[Event]) -> None:
        self.notes.collect(events)
        for event in events:
            noted = self.notes.take(event.seq)
            if noted is not None:
                task = str(getattr(event, "name", ""))
                self.told.append((name_of(event), task, *noted))

    def flush(self) -> None: ...

    def shutdown(self) -> None:
        self.notes.close()

    def who(self, event: str, task: str) -> str:
        """Who was in the context at the only *event* of the task *task*."""
        [found] = [who for name, named, who, _ in self.told if (name, named) == (event, task)]
        return found


def audited(main: Any, *exporters: Exporter, events: str | None = None) -> None:
    aioaudit.enable(*exporters, events=events)
    try:
        asyncio.run(main())
    finally:
        aioaudit.disable()


async def wait(who: str) -> None:
    WHO.set(who)
    try:
        await asyncio.sleep(60)
    finally:
        WHO.set(f"{who} at its end")


async def cancel(task: asyncio.Task[Any], who: str) -> None:
    WHO.set(who)
    task.cancel()


async def incident() -> None:
    WHO.set("main")
    victim = asyncio.create_task(wait("victim"), name="victim")
    early = asyncio.create_task(wait("never runs"), name="early")
    early.cancel()
    await asyncio.sleep(0)
    await asyncio.create_task(cancel(victim, "canceller"), name="canceller")
    await asyncio.wait([victim, early])
    WHO.set("changed later")


def test_a_witness_sees_the_context_of_the_maker_the_canceller_and_the_victim() -> None:
    seeing = Seeing()
    assert isinstance(seeing, Witness)
    audited(incident, seeing)
    assert seeing.who("task.create", "victim") == "main"
    assert seeing.who("task.cancel", "victim") == "canceller"
    assert seeing.who("task.done", "victim") == "victim at its end"
    assert seeing.who("task.done", "canceller") == "canceller"
    assert seeing.who("task.cancel", "early") == "main"
    assert seeing.who("task.done", "early") == "main"
    assert {thread for *_, thread in seeing.told} == {threading.get_ident()}


@pytest.mark.parametrize("wanted", ["task.cancel,task.done", "task.done"])
def test_the_victims_context_is_its_own_also_where_its_making_was_not_seen(wanted: str) -> None:
    seeing = Seeing()

    async def main() -> None:
        victim = asyncio.create_task(wait("victim"), name="victim")
        await asyncio.sleep(0)
        aioaudit.enable(seeing, events=wanted)
        await asyncio.create_task(cancel(victim, "canceller"))
        await asyncio.wait([victim])

    try:
        asyncio.run(main())
    finally:
        aioaudit.disable()
    assert seeing.who("task.done", "victim") == "victim at its end"


def test_a_task_destroyed_while_pending_is_seen_in_its_own_context() -> None:
    seeing = Seeing()

    async def forever() -> None:
        WHO.set("victim")
        await asyncio.get_running_loop().create_future()

    async def main() -> None:
        task = asyncio.create_task(forever(), name="victim")
        await asyncio.sleep(0)
        del task
        WHO.set("collector")
        gc.collect()

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ResourceWarning)
        loop_log: list[str] = []

        async def quiet() -> None:
            # Not the context: it has the task, which would live on.
            asyncio.get_running_loop().set_exception_handler(
                lambda _loop, context: loop_log.append(context["message"])
            )
            await main()

        audited(quiet, seeing)
    assert loop_log == ["Task was destroyed but it is pending!"]
    assert seeing.who("task.done", "victim") == "victim"


def test_a_witness_sees_neither_what_is_filtered_out_nor_the_exporters_own_doing() -> None:
    class Busy(Seeing):
        def export(self, events: Sequence[Event]) -> None:
            async def work() -> None:
                await asyncio.create_task(asyncio.sleep(0))

            asyncio.run(work())
            super().export(events)

    few, all_of_it = Busy(), Busy()

    async def main() -> None:
        await incident()
        session = current()
        assert session is not None
        await asyncio.to_thread(session.sinks[0][0].flush)

    aioaudit.enable(few, events="task.cancel")
    audited(main, all_of_it)
    assert few.seen == ["task.cancel", "task.cancel"]
    assert {thread for *_, thread in all_of_it.told} == {threading.get_ident()}
    assert len(all_of_it.told) == len(all_of_it.seen) > 10


def test_a_witness_that_raises_takes_its_exporter_out_of_service_and_hurts_nobody(
    capsys: pytest.CaptureFixture[str],
) -> None:
    class Broken(Seeing):
        def __init__(self) -> None:
            super().__init__()
            self.shut = 0

        def witness(self, item: Record) -> None:
            super().witness(item)
            if len(self.seen) == 3:
                raise LookupError("no such thing")

        def shutdown(self) -> None:
            self.shut += 1

    broken, other = Broken(), Seeing()
    audited(incident, broken, other)
    assert len(broken.seen) == 3
    assert broken.shut == 1
    assert len(other.seen) == len(other.told) > 3
    assert capsys.readouterr().err == (
        "aioaudit: exporter 'Broken' failed and is out of service: LookupError: no such thing\n"
    )


@pytest.mark.parametrize("limit", [RecursionError, MemoryError])
def test_a_program_at_its_limits_is_no_failure_of_the_exporter(
    capsys: pytest.CaptureFixture[str], limit: type[Exception]
) -> None:
    class Deep(Seeing):
        def witness(self, item: Record) -> None:
            super().witness(item)
            if len(self.seen) == 3:
                raise limit

    deep = Deep()
    audited(incident, deep)
    assert capsys.readouterr().err == ""
    assert len(deep.told) == len(deep.seen) > 10


def test_notes_of_lost_events_and_of_other_runs_are_let_go_and_memory_is_bounded() -> None:
    run, other = Run(), Run()

    def event(seq: int, of: Run = run) -> TaskDone:
        return TaskDone(
            ts="2026-01-01T12:00:00.000000Z",
            seq=seq,
            run=of.id,
            pid=1,
            thread="MainThread",
            task=seq,
            name="t",
            coro="app:work",
            outcome="returned",
        )

    notes: ContextNotes[int] = ContextNotes(most=10)
    notes.collect([run.start_event([])])
    for seq in range(2, 100):
        notes.keep(event(seq), seq)
    notes.keep(event(3, other), 3)
    notes.collect([event(95)])
    assert (notes.take(3), notes.take(94), notes.take(95), notes.take(95)) == (None, 94, 95, None)
    notes.collect([event(97)])
    assert (notes.take(96), notes.take(97), notes.take(99)) == (None, 97, 99)
    notes.keep(event(100), 100)
    notes.collect([other.start_event([])])
    assert notes.take(100) is None
    notes.close()
    notes.keep(event(101, other), 101)
    notes.collect([event(101, other)])
    assert notes.take(101) is None
