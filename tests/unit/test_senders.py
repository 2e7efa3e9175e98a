"""Who sent a signal: exactly one that may have, by the logs, or nobody."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from aioaudit.cli.why_words import signalled
from aioaudit.events import (
    ConnectionClose,
    Event,
    ProcessEnd,
    ProcessStart,
    SignalSent,
    TaskCancel,
    TaskDone,
)
from aioaudit.log.senders import BECAUSE, Sent, sender_of
from aioaudit.log.store import Log

CHILD, PARENT, OTHER = 20, 10, 30
PROCESSES = {pid: f"b007-42-{pid}-{pid}00" for pid in (CHILD, PARENT, OTHER, 40)}


def base(run: str, pid: int, seq: int, second: float) -> dict[str, Any]:
    """What every event has."""
    ts = f"2026-11-30T10:{int(second) // 60:02d}:{second % 60:09.6f}Z"
    return {"ts": ts, "seq": seq, "run": run, "pid": pid, "thread": "MainThread"}


def start(run: str, pid: int, *above: int, second: float = 0, **given: Any) -> ProcessStart:
    """A process begins."""
    fields: dict[str, Any] = {
        "schema": 1,
        "version": "",
        "python": "",
        "ppid": above[0] if above else 1,
        "argv": [],
        "coverage": [],
        "process": PROCESSES[pid],
        "ancestors": [PROCESSES[each] for each in above],
    }
    return ProcessStart(**base(run, pid, 1, second), **(fields | given))


def sent(run: str, pid: int, second: float, **given: Any) -> SignalSent:
    """A process sends a signal."""
    fields: dict[str, Any] = {"to": CHILD, "signal": "SIGTERM", "at": "a.py:1", "source": "a:stop"}
    seq = given.pop("seq", 2)
    return SignalSent(**base(run, pid, seq, second), **(fields | given))


def cancelled(second: float = 60, **given: Any) -> list[Event]:
    """A task of the child is cancelled, by default in the handler of SIGTERM."""
    fields: dict[str, Any] = {"reason": "signal", "origin": "signal", "origin_signal": "SIGTERM"}
    task: dict[str, Any] = {"task": 1, "name": "worker", "coro": "a:work"}
    return [
        TaskCancel(**base("child", CHILD, 2, second), **task, accepted=True, **(fields | given)),
        TaskDone(
            **base("child", CHILD, 3, second + 0.5),
            **task,
            outcome="cancelled",
            cancel=2,
            cancel_outcome="obeyed",
        ),
    ]


def found(*events: Event, task: str = "worker") -> Sent | None:
    """Who is named for the one task with that name that was cancelled."""
    log = Log()
    for event in events:
        log.add(event)
    [case] = log.cases(task)
    return sender_of(log, case)


FAMILY = (start("parent", PARENT), start("child", CHILD, PARENT, second=1))


def test_the_parent_that_says_so_is_named() -> None:
    who = found(*FAMILY, sent("parent", PARENT, 59.9), *cancelled())
    assert who is not None
    assert (who.run.id, who.relation, who.evidence) == ("parent", "parent", "inferred")
    [line] = signalled(who, str)
    assert line == (
        "Its process was probably killed by its parent, pid 10 (SIGTERM); a:stop sent it at a.py:1."
    )


@pytest.mark.parametrize(
    "event",
    [
        sent("parent", PARENT, 60.1),  # afterwards
        sent("parent", PARENT, 49),  # too long ago
        sent("parent", PARENT, 59.9, to=CHILD + 1),
        sent("parent", PARENT, 59.9, signal="SIGINT"),
        sent("parent", PARENT, 59.9, to=-CHILD),  # a group: who is in it?
        sent("parent", PARENT, 59.9, to=0),
    ],
)
def test_what_cannot_have_done_it_is_not_named(event: SignalSent) -> None:
    assert found(*FAMILY, event, *cancelled()) is None


def test_of_two_that_may_have_done_it_none_is_named() -> None:
    first = sent("parent", PARENT, 59.9)
    stranger = start("other", OTHER)
    assert found(*FAMILY, stranger, first, sent("other", OTHER, 59.8), *cancelled()) is None
    elsewhere = sent("parent", PARENT, 59.8, at="a.py:2", seq=3)
    assert found(*FAMILY, first, elsewhere, *cancelled()) is None
    group = sent("parent", PARENT, 59.8, to=-CHILD, seq=3)
    assert found(*FAMILY, first, group, *cancelled()) is None
    again = sent("parent", PARENT, 59.95, seq=3)  # the same line, once more
    who = found(*FAMILY, first, again, first, *cancelled())
    assert who is not None
    assert who.event.seq == 3


def test_a_number_means_something_in_its_own_boot_and_namespace_only() -> None:
    for process in ("b007-43-10-1000", "b008-42-10-1000"):
        elsewhere = start("parent", PARENT, process=process)
        assert found(elsewhere, FAMILY[1], sent("parent", PARENT, 59.9), *cancelled()) is None
    # The one that had the number before.
    young = start("child", CHILD, PARENT, second=59.95)
    assert found(FAMILY[0], young, sent("parent", PARENT, 59.9), *cancelled()) is None


def test_another_process_that_got_the_number_has_the_signals_from_then_on() -> None:
    """A worker that the kernel killed; the next one with its number, in a new container, say."""
    asked = cancelled(reason="explicit", origin="called", origin_signal=None)[:1]
    killed = sent("parent", PARENT, 300, signal="SIGKILL")
    next_one = start("next", CHILD, PARENT, second=200, process="b007-42-20-9999")
    assert found(*FAMILY, *asked, next_one, killed) is None
    for other in (
        start("again", CHILD, PARENT, second=200),  # the same, which was audited once more
        start("next", CHILD, PARENT, second=200, process="b007-43-20-9999"),
        start("next", CHILD, PARENT, second=301, process="b007-42-20-9999"),
    ):
        assert found(*FAMILY, *asked, other, killed) is not None


def test_of_a_client_that_was_killed_it_is_the_clients_process() -> None:
    """A supervisor has ended both: what was sent to the server did not make its client leave."""
    ends: dict[str, Any] = {"local": "10.0.0.2:80", "peer": "10.0.0.1:50000"}
    client: dict[str, Any] = {"task": 7, "name": "client", "coro": "a:client"}
    signal: dict[str, Any] = {"reason": "signal", "origin": "signal", "origin_signal": "SIGTERM"}
    left = [
        start("web", OTHER, PARENT, argv=["web.py"]),
        TaskCancel(**base("web", OTHER, 5, 59.8), **client, accepted=True, **signal),
        ConnectionClose(
            **base("web", OTHER, 6, 59.85),
            **client,
            cancel=5,
            local=ends["peer"],
            peer=ends["local"],
        ),
    ]
    lost = cancelled(reason="disconnect", origin="called", origin_signal=None, **ends)
    lost[1] = msgspec.structs.replace(lost[1], lifetime=30.0)
    to_server = sent("parent", PARENT, 59.7, seq=3)
    to_client = sent("parent", PARENT, 59.6, seq=4, to=OTHER)
    assert found(*FAMILY, *left, *lost, to_server) is None
    who = found(*FAMILY, *left, *lost, to_server, to_client)
    assert who is not None
    assert who.event.seq == 4
    assert signalled(who, str) == [
        "The process of web (pid 30) was probably killed by its parent, pid 10 (SIGTERM); a:stop"
        " sent it at a.py:1."
    ]


def test_where_processes_have_no_names_of_their_own_the_parents_number_says_it() -> None:
    nameless = [
        start("parent", PARENT, process=None, ancestors=None),
        start("child", CHILD, PARENT, process=None, ancestors=None),
        start("other", OTHER, process=None, ancestors=None),
    ]
    who = found(*nameless, sent("parent", PARENT, 59.9), *cancelled())
    assert who is not None
    assert who.relation == "parent"
    assert found(*nameless, sent("other", OTHER, 59.9), *cancelled()) is None


@pytest.mark.parametrize(
    ("run", "pid", "relation", "words"),
    [
        ("child", CHILD, "itself", "by itself (SIGTERM)"),
        ("above", 40, "ancestor", "by a process above its parent, pid 40 (SIGTERM)"),
        ("other", OTHER, "other", "by another process, pid 30 (SIGTERM)"),
    ],
)
def test_who_it_is_to_the_process_is_said(run: str, pid: int, relation: str, words: str) -> None:
    events = (start("above", 40), start("other", OTHER), start("parent", PARENT, 40))
    child = start("child", CHILD, PARENT, 40, second=1)
    who = found(*events, child, sent(run, pid, 59.9, seq=9), *cancelled())
    assert who is not None
    assert who.relation == relation
    assert words in signalled(who, str)[0]


def test_what_a_server_leaves_behind_at_its_end_counts_for_longer() -> None:
    shutdown = cancelled(reason="shutdown", origin="shutdown", origin_signal=None)
    calls = ["gunicorn.arbiter:Arbiter.kill_worker", "gunicorn.arbiter:Arbiter.stop"]
    who = found(*FAMILY, sent("parent", PARENT, 20, callers=calls), *shutdown)
    assert who is not None
    assert who.because == "gunicorn ended"
    assert ", because gunicorn ended; a:stop sent it" in signalled(who, str)[0]
    assert found(*FAMILY, sent("parent", PARENT, 20, signal="SIGUSR1"), *shutdown) is None
    explicit = cancelled(reason="explicit", origin="called", origin_signal=None)
    assert found(*FAMILY, sent("parent", PARENT, 59.9), *explicit) is None


def test_a_process_that_was_killed_before_its_task_could_end() -> None:
    asked = cancelled(reason="explicit", origin="called", origin_signal=None)[:1]
    killed = sent("parent", PARENT, 300, signal="SIGKILL", detail="while handling TimeoutError")
    who = found(*FAMILY, *asked, killed)
    assert who is not None
    assert signalled(who, str) == [
        "Its process was probably killed by its parent, pid 10 (SIGKILL), while handling"
        " TimeoutError; a:stop sent it at a.py:1."
    ]
    ended = ProcessEnd(**base("child", CHILD, 9, 299), written=3, dropped=0)
    assert found(*FAMILY, *asked, killed, ended) is None


def test_the_outermost_function_that_is_known_says_why() -> None:
    manage, reload = (f"gunicorn.arbiter:Arbiter.{each}" for each in ("manage_workers", "reload"))
    for calls, why in (([manage], BECAUSE[manage]), ([manage, reload], BECAUSE[reload])):
        who = found(*FAMILY, sent("parent", PARENT, 59.9, callers=calls), *cancelled())
        assert who is not None
        assert who.because == why
