"""The queue and the thread between the bus and an exporter.

The exporters here are real ones written for the purpose: slow, failing, hanging.
"""

from __future__ import annotations

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from statistics import median

import pytest

from aioaudit.core import Created
from aioaudit.delivery.journal import flush_all, shutdown_all
from aioaudit.delivery.pipeline import Pipeline
from aioaudit.delivery.records import CreationSite
from aioaudit.events import (
    Event,
    LoopClose,
    LoopStart,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    TaskCreate,
    name_of,
)
from aioaudit.exporter import Exporter, ExporterError, NotTakenError
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.identity import Run
from aioaudit.place import Place
from tests.waiting import PATIENCE, wait_until


class Bench:
    """A run, the pipelines made for it, and events numbered by it."""

    def __init__(self) -> None:
        self.run = Run()
        self.pipelines: list[Pipeline] = []

    def pipeline(
        self,
        exporter: Exporter,
        *,
        name: str = "probe",
        capacity: int = 100_000,
        hold: float = 0.05,
    ) -> Pipeline:
        made = Pipeline(
            exporter,
            name=name,
            run=self.run,
            start=self.run.start_event([]),
            capacity=capacity,
            hold=hold,
        )
        self.pipelines.append(made)
        return made

    def event(self, seq: int | None = None, kind: type[Event] = LoopStart) -> Event:
        return kind(
            ts="2026-01-01T00:00:00.000000Z",
            seq=self.run.next_seq() if seq is None else seq,
            run=self.run.id,
            pid=self.run.pid,
            thread="MainThread",
        )


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    for pipeline in made.pipelines:
        if isinstance(pipeline.exporter, Gate):
            pipeline.exporter.gate.set()
        pipeline.shutdown(timeout=PATIENCE)


class Clock:
    """Time that passes only where the pipeline waits in vain, or as the test says."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def acquire(self, lock: threading.Lock, timeout: float) -> bool:
        taken = lock.acquire(blocking=False)
        if not taken:
            self.now += timeout
        return taken


@pytest.fixture
def clock(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Clock:
    """The clock of the pipelines, where time itself is what is tested; gone before they end."""
    made = Clock()
    parts = ("journal", "ordering", "pace", "pipeline", "worker")
    cores = ("python", "native")
    for part in (*(f"delivery.{each}" for each in parts), *(f"core.{each}" for each in cores)):
        module = sys.modules.get(f"aioaudit.{part}")
        if module is None:  # the other core
            continue
        for name in {"monotonic", "sleep", "acquire"} & vars(module).keys():
            monkeypatch.setattr(module, name, getattr(made, name))
    return made


class Recorder(MemoryExporter):
    """Keeps events and notes every call and the thread it was made in."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[str] = []
        self.idents: set[int] = set()
        self.thread = 0

    def export(self, events: Sequence[Event]) -> None:
        self.calls.append("export")
        self.idents.add(threading.get_ident())
        self.thread = threading.get_native_id()
        super().export(events)

    def flush(self) -> None:
        self.calls.append("flush")

    def shutdown(self) -> None:
        self.calls.append("shutdown")


class Gate(Recorder):
    """Takes nothing until its gate is opened: an exporter that hangs."""

    def __init__(self) -> None:
        super().__init__()
        self.reached = threading.Event()
        self.gate = threading.Event()

    def export(self, events: Sequence[Event]) -> None:
        self.reached.set()
        self.gate.wait(PATIENCE)
        super().export(events)


def a_place(bench: Bench) -> Place:
    return Place(bench.run, "MainThread", 1, 1, lambda: None)


def names(events: Sequence[Event]) -> list[str]:
    return [name_of(each) for each in events]


def seqs(events: Sequence[Event]) -> list[int]:
    return [each.seq for each in events]


# -- beginnings ---------------------------------------------------------------------


def test_an_unused_pipeline_gives_its_exporter_nothing_but_the_end(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    threads = threading.active_count()
    assert pipeline.flush()
    assert pipeline.shutdown()
    assert exporter.calls == ["shutdown"]
    assert threading.active_count() == threads


def test_the_first_event_brings_the_process_start_before_it(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    pipeline.put(bench.event())
    wait_until(lambda: len(exporter.events) == 2)
    assert names(exporter.events) == ["process.start", "loop.start"]
    assert isinstance(exporter.events[0], ProcessStart)
    assert seqs(exporter.events) == [1, 2]


def test_open_now_gives_the_process_start_without_an_event(bench: Bench) -> None:
    exporter = Recorder()
    bench.pipeline(exporter).open_now()
    wait_until(lambda: exporter.events)
    assert names(exporter.events) == ["process.start"]


def test_an_event_is_exported_within_50_ms_of_its_put(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    pipeline.open_now()
    pipeline.flush()

    def delay() -> float:
        wanted = len(exporter.events) + 1
        put_at = time.monotonic()
        pipeline.put(bench.event())
        wait_until(lambda: len(exporter.events) == wanted)
        return time.monotonic() - put_at

    # On a busy machine the thread comes late now and then, but not all the time.
    wait_until(lambda: median(delay() for _ in range(10)) < 0.05)


@pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="counts switches in /proc")
def test_an_idle_pipeline_never_wakes_up(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    pipeline.put(bench.event())
    pipeline.flush()

    def switches() -> list[str]:
        status = Path(f"/proc/self/task/{exporter.thread}/status").read_text()
        return [line for line in status.splitlines() if "ctxt_switches" in line]

    def slept_all_the_time() -> bool:
        before = switches()
        time.sleep(0.4)
        return switches() == before

    wait_until(slept_all_the_time)  # it looks a few times more, then sleeps for good


def test_a_task_made_just_now_may_get_its_name_before_it_is_exported(
    bench: Bench, clock: Clock
) -> None:
    """A loop with a factory names what that made only then, up to 3.13.0; uvloop, too."""
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    pipeline.set_idle(False)  # nobody starts the thread: the turns are the test's
    site = CreationSite(a_place(bench), "app:work", None, None, 0)

    def make(number: int) -> Created:
        made = Created(bench.run.next_seq(), number, 10**18, site, f"Task-{number}", None)
        pipeline.put(made)
        return made

    def exported(*, everything: bool = False) -> list[str]:
        pipeline.turn(everything=everything, flush=False)
        return [each.name for each in exporter.events if isinstance(each, TaskCreate)]

    assert make(1).name == "Task-1"
    last = make(2)
    assert [exported(), exported()] == [["Task-1"], ["Task-1"]]
    last.name = "worker"
    # For a moment only, though nothing else comes; and whoever waits for all has it.
    clock.now += 1
    assert exported() == ["Task-1", "worker"]
    make(3)
    assert exported(everything=True) == ["Task-1", "worker", "Task-3"]


def test_a_task_made_just_now_is_exported_though_nothing_else_comes(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    site = CreationSite(a_place(bench), "app:work", None, None, 0)
    pipeline.put(Created(bench.run.next_seq(), 1, 10**18, site, "worker", None))
    wait_until(lambda: names(exporter.events) == ["process.start", "task.create"])


# -- order --------------------------------------------------------------------------


def test_what_comes_out_of_order_goes_out_in_order(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter, hold=PATIENCE)
    for seq in (4, 2, 3, 5):
        pipeline.put(bench.event(seq))
    assert pipeline.flush()
    assert seqs(exporter.events) == [1, 2, 3, 4, 5]


def test_what_follows_a_gap_waits_for_the_missing_event(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter, hold=PATIENCE)
    pipeline.put(bench.event(3))
    wait_until(lambda: pipeline.ordering.has_gap)
    looks = pipeline.pace.steps
    wait_until(lambda: pipeline.pace.steps > looks + 5)
    assert seqs(exporter.events) == [1]
    pipeline.put(bench.event(2))
    wait_until(lambda: len(exporter.events) == 3)
    assert seqs(exporter.events) == [1, 2, 3]


def test_a_gap_that_nobody_fills_is_passed_and_counted(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    pipeline.set_idle(False)  # nothing starts the thread before all of them are there
    for _ in range(8):
        bench.run.next_seq()  # numbers 2 to 9
    for seq in (3, 5, 9):
        pipeline.put(bench.event(seq))
    pipeline.open_now()
    wait_until(lambda: len(exporter.events) == 5)
    assert seqs(exporter.events) == [1, 3, 5, 9, 10]
    assert pipeline.dropped == 5
    told = exporter.events[-1]
    assert isinstance(told, ProcessDropped)
    assert (told.count, told.events) == (5, [])  # nobody knows what they were
    pipeline.skip(6)  # later than ever
    assert pipeline.shutdown()
    end = exporter.events[-1]
    assert isinstance(end, ProcessEnd)
    assert (end.seq, end.written, end.dropped) == (11, 5, 4)


def test_nothing_waits_for_a_number_that_was_skipped(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter, hold=PATIENCE)
    pipeline.skip(2)
    pipeline.skip(3)
    pipeline.put(bench.event(4))
    pipeline.skip(5)
    pipeline.put(bench.event(6))
    wait_until(lambda: len(exporter.events) == 3)
    assert seqs(exporter.events) == [1, 4, 6]


def test_an_event_that_comes_too_late_is_counted_as_lost(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter, hold=PATIENCE)
    for _ in range(4):
        bench.run.next_seq()  # numbers 2 to 5
    pipeline.put(bench.event(4))
    pipeline.skip(2)
    assert pipeline.flush()  # holds nothing back
    assert pipeline.dropped == 1
    pipeline.put(bench.event(3, LoopClose))
    pipeline.put(bench.event(5))
    assert pipeline.flush()
    assert pipeline.dropped == 1  # not twice
    assert pipeline.shutdown()
    first, four, *rest = exporter.events
    assert seqs([first, four]) == [1, 4]
    told = [each for each in rest if isinstance(each, ProcessDropped)]
    assert [each.count for each in told] == [1]


# -- keeping pace -------------------------------------------------------------------


@pytest.fixture
def held_gil() -> Iterator[None]:
    """The GIL changes hands only where somebody lets it go: no thread is relieved of it."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(1000)
    yield
    sys.setswitchinterval(before)


def spin(seconds: float) -> None:
    """Work for *seconds* without giving the GIL up."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pass


@pytest.mark.usefixtures("held_gil")
@pytest.mark.parametrize("capacity", [100_000, 10], ids=["room", "full"])
def test_a_thread_that_puts_all_the_time_gives_way_where_the_exporter_is_behind(
    bench: Bench, capacity: int
) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter, capacity=capacity)
    pipeline.open_now()
    assert pipeline.flush()
    deadline = time.monotonic() + PATIENCE
    while len(exporter.events) < 1000:
        assert time.monotonic() < deadline, "no event was exported while others came"
        pipeline.put(bench.event())


@pytest.mark.usefixtures("held_gil")
def test_rare_events_are_not_left_behind_either(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    pipeline.open_now()
    assert pipeline.flush()
    deadline = time.monotonic() + PATIENCE
    while len(exporter.events) < 10:
        assert time.monotonic() < deadline, "no event was exported while others came"
        pipeline.put(bench.event())
        spin(0.01)


@pytest.mark.usefixtures("held_gil")
def test_an_event_that_is_waited_for_is_exported_beside_a_thread_that_never_stops(
    bench: Bench,
) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    pipeline.open_now()
    assert pipeline.flush()
    pipeline.put(bench.event())
    deadline = time.monotonic() + PATIENCE
    while len(exporter.events) < 2:  # the thread may take a while to wake up
        assert time.monotonic() < deadline, "the event was not exported"
        pipeline.urge()
        spin(0.03)


@pytest.mark.usefixtures("held_gil")
def test_what_is_missing_is_looked_for_in_all_that_waits_before_it_is_given_up(
    bench: Bench, clock: Clock
) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter, hold=1.0)
    pipeline.put(bench.event(3))
    wait_until(lambda: pipeline.ordering.has_gap)
    for seq in (*range(4, 3000), 2):
        pipeline.put(bench.event(seq))
    clock.now += 1.1  # the time is up before the thread, which has no GIL, looks again
    wait_until(lambda: len(exporter.events) >= 2999)
    assert seqs(exporter.events) == list(range(1, 3000))
    assert pipeline.dropped == 0


def test_an_exporter_that_hangs_costs_who_puts_next_to_nothing(bench: Bench, clock: Clock) -> None:
    exporter = Gate()
    pipeline = bench.pipeline(exporter, capacity=1_000_000)
    pipeline.open_now()
    assert exporter.reached.wait(PATIENCE)
    event = bench.event()
    tries = [0.0]
    puts = 0
    end = clock.now + 2
    while clock.now < end:
        pipeline.put(event)
        pipeline.urge()
        clock.now += 20e-6
        puts += 1
        if pipeline.pace.next_try != tries[-1]:
            tries.append(pipeline.pace.next_try)
    # It gave way a few times, ever more rarely, since that did not help.
    assert 3 < len(tries) < 20
    assert puts * 20e-6 > 2 * 0.99
    pauses = [later - earlier for earlier, later in pairwise(tries[1:])]
    assert pauses[-1] > 2 * pauses[0]


# -- losses -------------------------------------------------------------------------


def test_a_full_queue_loses_what_comes_counts_it_and_says_so(bench: Bench) -> None:
    exporter = Gate()
    pipeline = bench.pipeline(exporter, capacity=10)
    pipeline.open_now()
    assert exporter.reached.wait(PATIENCE)
    for _ in range(10):
        pipeline.put(bench.event())
    for _ in range(7):
        pipeline.put(bench.event(kind=LoopClose))
    assert pipeline.dropped == 7
    exporter.gate.set()
    wait_until(lambda: len(exporter.events) == 12)
    pipeline.put(bench.event())
    assert pipeline.flush()
    dropped = exporter.events[11]
    assert isinstance(dropped, ProcessDropped)
    assert (dropped.count, dropped.events) == (7, ["loop.close"])
    assert names(exporter.events) == [
        "process.start", *["loop.start"] * 10, "process.dropped", "loop.start"
    ]  # fmt: skip
    assert seqs(exporter.events) == [*range(1, 12), 19, 20]


def test_four_threads_lose_nothing_and_keep_the_order(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter, hold=PATIENCE)

    def produce() -> None:
        for _ in range(20_000):
            pipeline.put(bench.event())

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pipeline.shutdown(timeout=PATIENCE)
    assert seqs(exporter.events) == list(range(1, 80_003))


def test_with_a_tiny_queue_four_threads_lose_exactly_what_is_counted(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter, capacity=50, hold=PATIENCE)

    def produce() -> None:
        for _ in range(20_000):
            pipeline.put(bench.event())

    threads = [threading.Thread(target=produce) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert pipeline.shutdown(timeout=PATIENCE)
    kept = [each for each in exporter.events if isinstance(each, LoopStart)]
    told = [each for each in exporter.events if isinstance(each, ProcessDropped)]
    end = exporter.events[-1]
    assert isinstance(end, ProcessEnd)
    assert len(kept) + end.dropped == 80_000
    assert sum(each.count for each in told) == end.dropped > 0
    assert end.written == len(exporter.events) - 1
    assert all(each.events == ["loop.start"] for each in told)
    assert seqs(exporter.events) == sorted(set(seqs(exporter.events)))


# -- trouble ------------------------------------------------------------------------


class Broken(Recorder):
    def __init__(self, error: BaseException) -> None:
        super().__init__()
        self.error = error

    def export(self, events: Sequence[Event]) -> None:
        super().export(events)
        raise self.error


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (ValueError("no\nsuch \x1b[31mthing"), r"ValueError: no such \x1b[31mthing"),
        (ExporterError("the pipe is blocked"), "the pipe is blocked"),
        (SystemExit(3), "SystemExit: 3"),
    ],
)
def test_an_exporter_that_raises_is_reported_once_and_the_others_go_on(
    bench: Bench, capsys: pytest.CaptureFixture[str], error: BaseException, said: str
) -> None:
    broken, sound = Broken(error), Recorder()
    first, second = bench.pipeline(broken, name="broken"), bench.pipeline(sound, name="sound")
    for _ in range(3):
        event = bench.event()
        first.put(event)
        second.put(event)
    assert not first.flush()
    for _ in range(2):
        event = bench.event()
        first.put(event)
        second.put(event)
    assert not first.flush()
    assert second.flush()
    assert not first.shutdown()
    assert broken.calls == ["export", "shutdown"]
    assert seqs(sound.events) == [2, 3, 4, 5, 6, 7]
    assert capsys.readouterr().err == (
        f"aioaudit: exporter 'broken' failed and is out of service: {said}\n"
    )
    assert first.dropped == 6  # five, and the process.start


@pytest.mark.parametrize("verb", ["flush", "shutdown"])
def test_an_exporter_that_raises_in_another_verb_is_reported_too(
    bench: Bench, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    def fail() -> None:
        raise RuntimeError(verb)

    exporter = Recorder()
    setattr(exporter, verb, fail)
    pipeline = bench.pipeline(exporter)
    pipeline.put(bench.event())
    assert not pipeline.shutdown()
    assert capsys.readouterr().err == (
        f"aioaudit: exporter 'probe' failed and is out of service: RuntimeError: {verb}\n"
    )


def test_where_memory_runs_out_the_exporter_goes_on_and_says_so_once(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    refused = [False]

    def monotonic() -> float:
        if refused and pipeline.worker.is_here():
            refused.clear()
            raise MemoryError
        return time.monotonic()

    monkeypatch.setattr("aioaudit.delivery.pipeline.monotonic", monotonic)
    for _ in range(2):
        refused.append(True)
        pipeline.put(bench.event())
        assert pipeline.flush()
        assert not refused
    assert seqs(exporter.events) == [1, 2, 3]
    refused.append(True)
    assert pipeline.shutdown()
    end = exporter.events[-1]
    assert isinstance(end, ProcessEnd)
    assert (end.written, end.dropped) == (3, 0)
    said = "aioaudit: exporter 'probe' was interrupted, and tries again: MemoryError\n"
    assert capsys.readouterr().err == said


class Sulky(Recorder):
    """Takes at most `takes` events, then none until told otherwise."""

    def __init__(self, takes: int) -> None:
        super().__init__()
        self.takes = takes

    def export(self, events: Sequence[Event]) -> None:
        taken = min(self.takes, len(events))
        self.takes -= taken
        super().export(events[:taken])
        if taken < len(events):
            raise NotTakenError("no room", taken)


def test_what_an_exporter_cannot_take_is_kept_and_offered_again(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    exporter = Sulky(takes=3)
    pipeline = bench.pipeline(exporter, capacity=5)
    for _ in range(5):
        pipeline.put(bench.event())
    assert not pipeline.flush()
    for _ in range(8):
        pipeline.put(bench.event())
    assert not pipeline.flush()
    assert seqs(exporter.events) == [1, 2, 3]
    exporter.takes = 1000
    wait_until(lambda: len(exporter.events) == 12)
    assert names(exporter.events)[-1] == "process.dropped"
    assert seqs(exporter.events) == [*range(1, 12), 15]
    assert capsys.readouterr().err == (
        "aioaudit: exporter 'probe' takes no events for now: no room; "
        "up to 5 wait until it does, or are lost with the end of the program\n"
    )
    assert pipeline.shutdown()
    end = exporter.events[-1]
    assert isinstance(end, ProcessEnd)
    assert (end.written, end.dropped) == (12, 3)


class Miscounting(MemoryExporter):
    """Does not say what it took in a number, and what it says cannot be shown."""

    def __init__(self, late: bool) -> None:
        super().__init__()
        self.late = late

    def export(self, events: Sequence[Event]) -> None:  # noqa: ARG002 - as the protocol has it
        error = NotTakenError("no room", 0 if self.late else 2.5)  # type: ignore[arg-type]  # that is what is wrong
        error.taken = "two"  # type: ignore[assignment]  # the same
        raise error


@pytest.mark.parametrize(("late", "said"), [(False, "2.5"), (True, "'two'")])
def test_a_count_that_is_none_is_one_line_that_says_so(
    bench: Bench, capfd: pytest.CaptureFixture[str], late: bool, said: str
) -> None:
    pipeline = bench.pipeline(Miscounting(late))
    pipeline.put(bench.event())
    assert not pipeline.shutdown()
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("aioaudit: exporter 'probe' failed and is out of service: TypeError: ")
    assert said in line


class UnspeakableError(ExporterError):
    """Cannot be shown."""

    def __str__(self) -> str:
        raise OSError("no words")


def test_an_error_that_cannot_be_shown_is_one_line_too(
    bench: Bench, capfd: pytest.CaptureFixture[str]
) -> None:
    class Failing(MemoryExporter):
        def export(self, events: Sequence[Event]) -> None:  # noqa: ARG002 - as the protocol has it
            raise UnspeakableError

    pipeline = bench.pipeline(Failing())
    pipeline.put(bench.event())
    assert not pipeline.shutdown()
    [line] = capfd.readouterr().err.splitlines()
    assert line.endswith("out of service: UnspeakableError: <its __str__ raised>")


def test_trouble_that_lasts_to_the_end_is_counted_and_told_once(
    bench: Bench, capsys: pytest.CaptureFixture[str]
) -> None:
    exporter = Sulky(takes=2)
    pipeline = bench.pipeline(exporter)
    for _ in range(4):
        pipeline.put(bench.event())
    assert not pipeline.shutdown()
    # One line: either says that these events are lost if nothing changes.
    assert capsys.readouterr().err in (
        "aioaudit: exporter 'probe' takes no events for now: no room; "
        "the last 3 events are lost unless it does at once\n",
        "aioaudit: exporter 'probe' takes no events for now: no room; "
        "up to 100,000 wait until it does, or are lost with the end of the program\n",
    )
    assert exporter.calls[-1] == "shutdown"
    assert pipeline.dropped == 3


def test_an_exporter_that_hangs_holds_the_end_up_once_and_not_for_long(
    bench: Bench, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    exporter = Gate()
    pipeline = bench.pipeline(exporter)
    pipeline.put(bench.event())
    assert exporter.reached.wait(PATIENCE)
    began = clock.now
    assert not pipeline.shutdown(timeout=0.2)
    assert not pipeline.shutdown(timeout=5)
    assert clock.now - began == pytest.approx(0.2)
    assert capsys.readouterr().err == (
        "aioaudit: exporter 'probe' did not finish within 0.2 s; 2 events may be lost\n"
    )


def test_several_pipelines_share_one_timeout(
    bench: Bench, clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    exporters = [Gate(), Gate(), Gate()]
    pipelines = [bench.pipeline(each, name=str(at)) for at, each in enumerate(exporters)]
    for pipeline in pipelines:
        pipeline.put(bench.event())
    for exporter in exporters:
        assert exporter.reached.wait(PATIENCE)
    began = clock.now
    assert not flush_all(pipelines, 0.2)
    assert clock.now - began == pytest.approx(0.2)
    assert not shutdown_all(pipelines, 0.2)
    assert clock.now - began == pytest.approx(0.4)
    assert len(capsys.readouterr().err.splitlines()) == 3


# -- flush and shutdown ----------------------------------------------------------------


def test_flush_exports_everything_put_before_from_any_thread(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    results: list[bool] = []

    def work() -> None:
        for _ in range(50):
            event = bench.event()
            pipeline.put(event)
            flushed = pipeline.flush()
            results.append(flushed and event in exporter.events)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    # A number drawn before but put after another thread's flush comes too late;
    # that is a loss that is told, never one in silence.
    assert results.count(True) + pipeline.dropped == 200


def test_shutdown_writes_the_counts_closes_and_is_idempotent(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    pipeline.put(bench.event())
    assert pipeline.shutdown(signal="SIGTERM")
    assert pipeline.shutdown()
    assert pipeline.flush()
    end = exporter.events[-1]
    assert isinstance(end, ProcessEnd)
    assert (end.seq, end.written, end.dropped, end.signal) == (3, 2, 0, "SIGTERM")
    assert exporter.calls[-3:] == ["export", "flush", "shutdown"]
    assert exporter.calls.count("shutdown") == 1
    pipeline.put(bench.event())
    assert pipeline.dropped == 1
    assert len(exporter.events) == 3
    if Path("/proc/self/task").exists():
        wait_until(lambda: not Path(f"/proc/self/task/{exporter.thread}").exists())


def test_an_exporter_that_flushes_its_own_pipeline_is_refused(bench: Bench) -> None:
    answers: list[bool] = []

    class Selfish(Recorder):
        def export(self, events: Sequence[Event]) -> None:
            answers.append(pipeline.flush())
            super().export(events)

    exporter = Selfish()
    pipeline = bench.pipeline(exporter)
    pipeline.put(bench.event())
    assert pipeline.shutdown()
    assert answers == [False, False]
    assert names(exporter.events) == ["process.start", "loop.start", "process.end"]


def test_the_exporter_works_in_the_one_thread_that_the_pipeline_names(bench: Bench) -> None:
    seen: list[int | None] = []

    class Curious(Recorder):
        def export(self, events: Sequence[Event]) -> None:
            seen.append(pipeline.worker.ident)
            super().export(events)

    exporter = Curious()
    pipeline = bench.pipeline(exporter)
    pipeline.put(bench.event())
    assert pipeline.shutdown()
    assert set(seen) == exporter.idents
    assert threading.get_ident() not in exporter.idents
    assert pipeline.worker.ident is None


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_signal_handler_may_put_and_flush_whatever_it_interrupts(bench: Bench) -> None:
    exporter = Recorder()
    pipeline = bench.pipeline(exporter)
    answers: list[bool] = []
    depth = 0
    over = False

    def ring_again() -> None:
        if not over and depth < 5:  # more of them would only wait for a thread that is late
            signal.setitimer(signal.ITIMER_REAL, 0.001)

    def on_signal(*_: object) -> None:
        nonlocal depth
        depth += 1
        ring_again()
        pipeline.put(bench.event())
        answers.append(pipeline.flush(timeout=PATIENCE))
        depth -= 1
        ring_again()

    before = signal.signal(signal.SIGALRM, on_signal)
    ring_again()
    try:
        deadline = time.monotonic() + 0.7
        puts = 0
        while time.monotonic() < deadline:
            pipeline.put(bench.event())
            puts += 1
            if puts % 10 == 0:
                answers.append(pipeline.flush(timeout=PATIENCE))
    finally:
        over = True
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert pipeline.shutdown()
    assert all(answers)
    # The number of an event may be drawn, and its put be interrupted by a flush.
    assert len(exporter.events) + pipeline.dropped >= bench.run.next_seq() - 1
    assert seqs(exporter.events) == sorted(set(seqs(exporter.events)))
