"""What `enable` returns ends what that call turned on, and nothing of what others did."""

from __future__ import annotations

import asyncio
import gc
import inspect
import json
import re
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit import session, settings
from aioaudit.delivery import journal
from aioaudit.events import Event, TaskCancel, name_of
from aioaudit.exporters.memory import MemoryExporter
from tests.waiting import PATIENCE, wait_until


@pytest.fixture(autouse=True)
def _off() -> Iterator[None]:
    """Whatever a test turns on is off after it."""
    yield
    aioaudit.disable()


def on() -> bool:
    """Whether auditing is on, asked of what a program sees of it."""
    return hasattr(asyncio.CancelledError, "source")


def use(name: str = "victim") -> None:
    """Have a task called *name* cancelled."""

    async def main() -> None:
        task = asyncio.create_task(asyncio.sleep(3600), name=name)
        await asyncio.sleep(0)
        task.cancel()
        await asyncio.wait([task])

    asyncio.run(main())


def told(exporter: MemoryExporter) -> list[str]:
    """The names of the tasks whose cancellation *exporter* was told of."""
    return [event.name for event in exporter.events if isinstance(event, TaskCancel)]


def names(events: list[Event]) -> list[str]:
    return [name_of(event) for event in events]


def test_at_the_end_of_the_block_it_is_off_and_all_is_written() -> None:
    exporter = MemoryExporter()
    with aioaudit.enable(exporter) as auditing:
        assert isinstance(auditing, aioaudit.Auditing)
        assert on()
        use()
    assert not on()
    assert told(exporter) == ["victim"]
    assert names(exporter.events)[-1] == "process.end"


def test_an_error_in_the_block_goes_on_its_way() -> None:
    with pytest.raises(ZeroDivisionError), aioaudit.enable():
        _ = 1 / 0
    assert not on()


@pytest.mark.parametrize("first", [0, 1])
def test_of_two_the_one_that_is_left_goes_on(first: int) -> None:
    exporters = [MemoryExporter(), MemoryExporter()]
    handles = [aioaudit.enable(each) for each in exporters]
    use("both")
    handles[first].disable()
    assert names(exporters[first].events)[-1] == "process.end"
    use("one")
    assert on()
    handles[1 - first].disable()
    assert not on()
    assert told(exporters[first]) == ["both"]
    assert told(exporters[1 - first]) == ["both", "one"]
    assert names(exporters[1 - first].events)[-1] == "process.end"


def test_what_two_asked_for_ends_with_the_second() -> None:
    exporter = MemoryExporter()
    with aioaudit.enable(exporter):
        with aioaudit.enable(exporter):
            use("both")
        use("one")
    assert told(exporter) == ["both", "one"]
    assert names(exporter.events).count("process.end") == 1


def test_a_second_end_of_the_same_one_takes_nothing_from_others() -> None:
    exporter = MemoryExporter()
    once = aioaudit.enable(exporter)
    aioaudit.enable(exporter)
    for _ in range(3):
        once.disable()
    use()
    aioaudit.disable()
    assert told(exporter) == ["victim"]


def test_ends_in_many_threads_at_once_count_once() -> None:
    exporter = MemoryExporter()
    kept = [aioaudit.enable(exporter) for _ in range(2)]
    ready = threading.Barrier(8)

    def end() -> None:
        ready.wait()
        kept[0].disable()

    threads = [threading.Thread(target=end) for _ in range(8)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    use()
    aioaudit.disable()
    assert told(exporter) == ["victim"]


def test_one_that_is_thrown_away_stays_on_until_all_is_turned_off() -> None:
    exporter = MemoryExporter()
    aioaudit.enable(exporter)
    with aioaudit.enable():
        gc.collect()
    use()
    assert on()
    aioaudit.disable()
    assert not on()
    assert told(exporter) == ["victim"]


def test_turning_all_off_ends_each_and_the_next_begins_anew() -> None:
    before = aioaudit.enable(MemoryExporter(), slow_cancel=5)
    aioaudit.disable()
    assert not on()
    exporter = MemoryExporter()
    aioaudit.enable(exporter)
    before.disable()
    use()
    aioaudit.disable()
    assert told(exporter) == ["victim"]


def test_a_recording_and_a_block_end_in_any_order() -> None:
    with aioaudit.recording() as trail:
        with aioaudit.enable(MemoryExporter()):
            use("both")
        use("one")
        assert trail.why("one") is not None
    assert not on()
    with aioaudit.enable(MemoryExporter()):
        with aioaudit.recording():
            pass
        assert on()
    assert not on()


def test_a_name_that_a_recording_has_is_free_for_an_exporter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("memory", tmp_path, monkeypatch)
    _shared.clear()
    with aioaudit.recording(), aioaudit.enable("memory"):
        use()
    assert told(_shared) == ["victim"]


def register(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a package in *folder* give `_shared` that name."""
    metadata = folder / "somebodys-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        f"[aioaudit.exporters]\n{name} = {__name__}:_given\n"
    )
    monkeypatch.syspath_prepend(str(folder))


class Shared(MemoryExporter):
    """Counts how often it was closed."""

    closed = 0

    def shutdown(self) -> None:
        self.closed += 1


_shared = Shared()


def _given() -> MemoryExporter:
    return _shared


def test_what_was_opened_is_closed_where_another_cannot_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    register("mine", tmp_path, monkeypatch)
    before = _shared.closed
    with pytest.raises(aioaudit.SettingsError, match="is no exporter"):
        aioaudit.enable("mine", "nosuchexporter")
    assert (_shared.closed - before, on()) == (1, False)
    with aioaudit.enable("mine"):
        assert _shared.closed - before == 1
    assert _shared.closed - before == 2


def test_what_the_environment_began_goes_on_after_a_block(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    session.enable_from_settings(settings.Settings(jsonl_path=str(log)))
    with aioaudit.enable("jsonl"):
        use("both")
    use("one")
    aioaudit.disable()
    assert [answer.name for answer in aioaudit.load(log).why()] == ["both", "one"]


def test_the_bridge_ends_with_the_last_that_asked_for_it() -> None:
    heard: list[str] = []
    listening = True

    def hear(event: str, _args: object) -> None:
        if listening and event == "aioaudit.task.cancel":
            heard.append(event)

    sys.addaudithook(hear)
    with aioaudit.enable():
        with aioaudit.enable("sys"):
            with aioaudit.enable("sys"):
                use()
            use()
        assert len(heard) == 2
        use()
    listening = False
    assert len(heard) == 2


def test_hooks_hear_what_the_last_asked_for_that_has_not_ended() -> None:
    heard: list[str] = []
    undo = aioaudit.addaudithook(lambda event, _args: heard.append(event))
    with aioaudit.enable(events="task.cancel"):
        with aioaudit.enable(events="task.done"):
            use()
        assert set(heard) == {"task.done"}
        heard.clear()
        with aioaudit.enable(MemoryExporter(), events="loop.start"):
            use()
        assert set(heard) == {"loop.start"}
        heard.clear()
        use()
        assert set(heard) == {"task.cancel"}
    undo()


def slow() -> float:
    """What holds for the whole process now."""
    current = session.current()
    assert current is not None
    return current.recorder.rules.slow_after


def test_a_setting_holds_until_the_call_ends_that_gave_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AIOAUDIT_SLOW_CANCEL", "2")
    with aioaudit.enable():
        assert slow() == 2
        first = aioaudit.enable(slow_cancel=3)
        second = aioaudit.enable(slow_cancel=4)
        aioaudit.enable(MemoryExporter()).disable()
        assert slow() == 4
        first.disable()
        assert slow() == 4
        second.disable()
        assert slow() == 2
        aioaudit.enable(slow_cancel=5)
        gc.collect()
        with aioaudit.enable(slow_cancel=6):
            assert slow() == 6
        assert slow() == 5
        aioaudit.disable()


@pytest.mark.parametrize(
    "call",
    [
        aioaudit.enable,
        lambda: aioaudit.enable(slow_cancel=2),
        lambda: aioaudit.enable(_shared, "sys"),
        lambda: aioaudit.enable(MemoryExporter(), slow_cancel=3).disable(),
    ],
)
def test_a_thousand_calls_leave_as_much_as_one(call: Callable[[], object]) -> None:
    with aioaudit.enable(_shared):
        counts: list[int] = []
        for _ in range(3):
            for _ in range(300):
                call()
            gc.collect()
            counts.append(len(gc.get_objects()))
        aioaudit.disable()
    assert counts[2] - counts[1] < 100


def test_a_handle_that_is_kept_keeps_nothing_of_what_has_ended() -> None:
    kept = [aioaudit.enable(MemoryExporter(), slow_cancel=1) for _ in range(2)]
    aioaudit.disable()
    gc.collect()
    sessions = [each for each in gc.get_objects() if type(each) is session.Session]
    assert (len(kept), sessions) == (2, [])


# -- exporters that hang, call back, or are none ---------------------------------------


class Held(MemoryExporter):
    """Does nothing before it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.entered = threading.Event()
        self.go = threading.Event()

    def export(self, events: Sequence[Event]) -> None:
        self.entered.set()
        self.go.wait(PATIENCE)
        super().export(events)


class HeldAtTheEnd(Held):
    """The same, but it gets no event."""

    def shutdown(self) -> None:
        self.export(())


@pytest.mark.parametrize("kind", [Held, HeldAtTheEnd])
def test_nobody_else_waits_for_an_exporter_that_hangs_at_its_end(
    kind: type[Held], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal.shutdown_all, "__defaults__", (PATIENCE,))  # for 3 seconds
    exporter = kind()
    undone: list[Callable[[], None]] = []
    aioaudit.enable()
    ending = aioaudit.enable(exporter)
    if kind is Held:
        use()
    thread = threading.Thread(target=ending.disable)
    thread.start()
    exporter.entered.wait(PATIENCE)
    wait_until(lambda: "off" in repr(ending))
    undone.append(aioaudit.addaudithook(lambda _event, _args: None))
    with aioaudit.enable(MemoryExporter()), aioaudit.recording():
        pass
    aioaudit.disable()
    undone[0]()
    assert thread.is_alive()  # it waits still: nobody waited for it
    exporter.go.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()


class CallsBack(MemoryExporter):
    """Turns auditing on, which is no use, but neither a reason to wait for one another."""

    def export(self, events: Sequence[Event]) -> None:
        aioaudit.enable()
        super().export(events)


def test_an_exporter_may_turn_auditing_on_at_its_end(capsys: pytest.CaptureFixture[str]) -> None:
    exporter = CallsBack()
    with aioaudit.enable(exporter):
        use()
    assert names(exporter.events)[-1] == "process.end"
    assert capsys.readouterr().err == ""


class Failing(MemoryExporter):
    """Has an end that fails."""

    def shutdown(self) -> None:
        raise OSError("no end")


class Losing(MemoryExporter):
    """Is none any more after its first event, or when it was turned on."""

    def lose(self) -> None:
        self.flush = self.shutdown = None  # type: ignore[assignment,method-assign]  # that is what is wrong


@pytest.mark.parametrize("used", [False, True])
@pytest.mark.parametrize("kind", [Failing, Losing])
def test_no_exporter_replaces_the_error_of_the_block(
    kind: type[MemoryExporter], used: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    exporter = kind()

    def fail() -> None:
        if isinstance(exporter, Losing):
            exporter.lose()
        if used:
            use()
        _ = 1 / 0

    with pytest.raises(ZeroDivisionError), aioaudit.enable(exporter):
        fail()
    assert not on()
    assert capsys.readouterr().err.startswith(f"aioaudit: exporter '{kind.__name__}' failed ")


def test_ctrl_c_at_the_end_of_an_exporter_that_got_nothing_is_the_programs() -> None:
    class Interrupted(MemoryExporter):
        def shutdown(self) -> None:
            signal.raise_signal(signal.SIGINT)

    handle = aioaudit.enable(Interrupted())
    with pytest.raises(KeyboardInterrupt):
        handle.disable()
    assert not on()


ONLY = "allowed: names, like 'jsonl', and exporters, objects with export, flush and shutdown"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (5, f"enable(5): this is no exporter, it has no export, flush, shutdown; {ONLY}"),
        (None, f"enable(None): this is no exporter; {ONLY}"),
        (MemoryExporter, "enable(MemoryExporter): this is a class, not an object of it; "),
        (MemoryExporter, "allowed: MemoryExporter(...)"),
        (["jsonl", "sys"], "enable(['jsonl', 'sys']): this is a list, "),
        (["jsonl", "sys"], "allowed: enable('jsonl', 'sys')"),
        ([5], f"enable([5]): this is no exporter, it has no export, flush, shutdown; {ONLY}"),
        pytest.param(10**5000, "enable(<int>): this is no exporter", id="long"),
    ],
)
def test_what_is_no_exporter_is_refused_as_it_was_written(given: Any, message: str) -> None:
    with pytest.raises(TypeError, match=re.escape(message)):
        aioaudit.enable(given)
    assert not on()


# -- another call, with other settings -------------------------------------------------


def of(log: Path) -> list[str]:
    """The names of the tasks whose cancellation *log* tells of."""
    return [answer.name for answer in aioaudit.load(log).answers()]


def test_another_path_is_another_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("AIOAUDIT_JSONL_PATH", "whole.jsonl")
    whole, part = tmp_path / "whole.jsonl", tmp_path / "part.jsonl"
    session.enable_from_settings(settings.Settings(jsonl_path=str(whole)))
    with aioaudit.enable("jsonl", jsonl_path=part, events="task.cancel"):
        use("both")
        # What is given again, or not given at all, is there already.
        aioaudit.enable("jsonl", jsonl_path="./part.jsonl").disable()
        aioaudit.enable("jsonl", events="*").disable()
        aioaudit.enable("jsonl").disable()
        use("both again")
    use("one")
    aioaudit.disable()
    assert of(whole) == ["both", "both again", "one"]
    assert of(part) == ["both", "both again"]
    lines = [json.loads(line)["event"] for line in part.read_text().splitlines()]
    assert lines == ["process.start", "task.cancel", "task.cancel", "process.end"]


def test_one_file_has_one_choice_of_events(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    first = aioaudit.enable("jsonl", jsonl_path=log, events="task.*")
    again: list[dict[str, Any]] = [
        {},
        {"jsonl_path": log},
        {"jsonl_path": tmp_path / ".." / tmp_path.name / log.name},
    ]
    for given in again:
        with pytest.raises(
            aioaudit.SettingsError,
            match=r"^events='task.cancel': 'jsonl' is on already, with another value; allowed: what",
        ):
            aioaudit.enable("jsonl", events="task.cancel", **given)
    exporter = MemoryExporter()
    second = aioaudit.enable(exporter)
    with pytest.raises(aioaudit.SettingsError, match=r"^events=\['task.cancel'\]: this Memory"):
        aioaudit.enable(exporter, events=["task.cancel"])
    aioaudit.enable(exporter, events="*").disable()
    use()
    first.disable()
    assert on()
    second.disable()
    assert not on()
    assert (of(log), told(exporter)) == (["victim"], ["victim"])


@pytest.mark.parametrize(
    ("exporters", "given", "message"),
    [
        (
            (),
            {"jsonl_path": "a.jsonl"},
            "jsonl_path='a.jsonl': this call names no exporter 'jsonl'",
        ),
        (
            ("sys",),
            {"otel_status": "cause"},
            "otel_status='cause': this call names no exporter 'otel'",
        ),
        ((MemoryExporter(),), {"otel_tasks": ["a:*"]}, "otel_tasks=['a:*']: this call names no"),
        (("jsonl",), {"recorder_size": "1MB"}, "recorder_size='1MB': this call names no exporter"),
        ((), {"recorder_dump": "exit"}, "recorder_dump='exit': this call names no exporter"),
        (("jsonl",), {"recorder_socket": False}, "recorder_socket=False: this call names no"),
    ],
)
def test_a_setting_that_would_do_nothing_is_refused(
    exporters: tuple[Any, ...], given: dict[str, Any], message: str
) -> None:
    with pytest.raises(aioaudit.SettingsError, match=f"^{re.escape(message)}"):
        aioaudit.enable(*exporters, **given)
    assert not on()


def test_a_path_that_cannot_be_written_is_blamed_on_what_gave_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "no" / "log.jsonl")
    with aioaudit.enable("jsonl", jsonl_path=path):
        use()
    assert f"; jsonl_path (here {path!r}) must name a file" in capsys.readouterr().err
    monkeypatch.setenv("AIOAUDIT_JSONL_PATH", path)
    with aioaudit.enable("jsonl"):
        use()
    assert f"; AIOAUDIT_JSONL_PATH (here {path!r}) must name a file" in capsys.readouterr().err


# -- one block each --------------------------------------------------------------------


def test_a_handle_that_has_ended_audits_no_block() -> None:
    ended = aioaudit.enable()
    ended.disable()
    with pytest.raises(RuntimeError, match=r"<aioaudit.Auditing, off> .* it has ended"), ended:
        pass
    ended = aioaudit.enable(MemoryExporter(), "sys")
    assert repr(ended) == "<aioaudit.Auditing, on, sys, MemoryExporter>"
    aioaudit.disable()
    with pytest.raises(RuntimeError, match=r"it has ended"), ended:
        pass
    handle = aioaudit.enable()
    with handle:
        with pytest.raises(RuntimeError, match="it was entered before"), handle:
            pass
        assert on()
    with pytest.raises(RuntimeError, match="it was entered before"), handle:
        pass
    assert not on()


# -- every setting is an argument ------------------------------------------------------


def test_every_setting_is_an_argument_of_its_own_name() -> None:
    keywords = [
        each.name
        for each in inspect.signature(aioaudit.enable).parameters.values()
        if each.kind is inspect.Parameter.KEYWORD_ONLY
    ]
    assert sorted(keywords) == sorted(each.field for each in settings.TABLE)


@pytest.mark.parametrize(
    ("given", "field", "value"),
    [
        ({"slow_cancel": 0.25}, "slow_cancel", 0.25),
        ({"slow_cancel": 3}, "slow_cancel", 3.0),
        ({"blocked": 0.1}, "blocked", 0.1),
        ({"blocked": "off"}, "blocked", 0.0),
        ({"otel_tasks": "ALL"}, "otel_tasks", "all"),
        ({"otel_tasks": ["shop.*:handle", "b:*"]}, "otel_tasks", "shop.*:handle,b:*"),
        ({"otel_status": "Unset"}, "otel_status", "unset"),
        ({"recorder_size": 100_000}, "recorder_size", 100_000),
        ({"recorder_size": 1e6}, "recorder_size", 1_000_000),
        ({"recorder_dump": ["exit", "signal:USR2"]}, "recorder_dump", ("exit", "signal:USR2")),
        ({"recorder_socket": False}, "recorder_socket", False),
        ({"recorder_socket": "Off"}, "recorder_socket", False),
        ({"events": []}, "events", settings.ALWAYS),
        ({"events": ""}, "events", frozenset(settings.EVENT_NAMES)),
        ({"jsonl_path": Path("x/{pid}.jsonl")}, "jsonl_path", "x/{pid}.jsonl"),
        ({"jsonl_path": ""}, "jsonl_path", settings.DEFAULT_JSONL_PATH),
    ],
)
def test_an_argument_is_stronger_than_its_variable(
    given: dict[str, Any], field: str, value: object
) -> None:
    variables = {each.name: "nonsense{" for each in settings.TABLE if each.field in given}
    built = settings.build("otel", environ=variables, **given)
    wanted: dict[str, Any] = {field: value}
    assert built == settings.Settings(("otel",))._replace(**wanted)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"slow_cancel": -1},
            "slow_cancel=-1: this is no length of time; allowed: seconds, like 0.5",
        ),
        (
            {"blocked": -1},
            "blocked=-1: this is no length of time; allowed: seconds, like 0.1, or 0 for off",
        ),
        ({"slow_cancel": float("nan")}, "slow_cancel=nan: this is no length of time;"),
        ({"slow_cancel": 10**400}, f"slow_cancel=1{199 * '0'}...: this is no length of time;"),
        ({"slow_cancel": "soon"}, "slow_cancel='soon': this is no length of time;"),
        (
            {"otel_status": "eror"},
            "otel_status='eror': 'eror' is none (did you mean 'error'?);"
            " allowed: cause, unset, error",
        ),
        ({"recorder_size": 10**5000}, "recorder_size=<int>: this is no size;"),
        ({"recorder_size": -1}, "recorder_size=-1: this is no size;"),
        ({"recorder_socket": "of"}, "recorder_socket='of': 'of' is neither on nor off;"),
        ({"recorder_size": True}, "recorder_size=True: this is no size;"),
        (
            {"recorder_dump": ["exits"]},
            "recorder_dump='exits': 'exits' is no trigger (did you mean",
        ),
        ({"otel_tasks": ["all", "a:*"]}, "otel_tasks='all,a:*': 'all' cannot stand among others;"),
        ({"events": "task.cancl"}, "events='task.cancl': 'task.cancl' is no event"),
        ({"jsonl_path": "{host}"}, "jsonl_path='{host}': {host} stands for nothing;"),
    ],
)
def test_a_bad_argument_is_named_as_it_was_written_and_nothing_is_turned_on(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(aioaudit.SettingsError, match=f"^{re.escape(message)}"):
        aioaudit.enable(**given)
    assert not on()


@pytest.mark.parametrize(
    "field", ["events", "otel_tasks", "otel_status", "jsonl_path", "recorder_dump"]
)
def test_an_argument_of_another_type_is_a_type_error(field: str) -> None:
    with pytest.raises(TypeError, match=f"^{field} is .*, not 5$"):
        aioaudit.enable(**{field: 5})  # type: ignore[arg-type]  # that is what is wrong
    with pytest.raises(TypeError, match="no setting speed"):
        settings.build(speed=5)
    assert not on()
