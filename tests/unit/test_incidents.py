"""What the list of all tasks calls an incident, and what housekeeping, in logs whose truth is known."""

from __future__ import annotations

from typing import Any

import pytest

from aioaudit.events import (
    Event,
    Finding,
    FutureCancel,
    ProcessDropped,
    ProcessEnd,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.log import Log
from aioaudit.log.incidents import housekeeping

SITE = "/venv/lib/python3.13/site-packages"
ASYNCIO = "/usr/lib/python3.13/asyncio/tasks.py:718"


def base(seq: int) -> dict[str, Any]:
    ts = f"2026-11-22T14:02:11.{seq:06d}Z"
    return {"ts": ts, "run": "r", "pid": 1, "thread": "MainThread", "seq": seq}


def made(seq: int, task: int, **more: Any) -> TaskCreate:
    return TaskCreate(**base(seq), task=task, name=f"t{task}", coro="app:work", **more)


def asked(seq: int, task: int, **more: Any) -> TaskCancel:
    more = {"accepted": True, "coro": "app:work", **more}
    return TaskCancel(**base(seq), task=task, name=f"t{task}", **more)


def back(seq: int, task: int, request: int, remaining: int = 0) -> TaskUncancel:
    known: dict[str, Any] = {
        "name": f"t{task}",
        "coro": "app:work",
        "remaining": remaining,
        "cancel": request,
        "at": "/app.py:3",
    }
    return TaskUncancel(**base(seq), task=task, **known)


def done(seq: int, task: int, outcome: Any = "cancelled", **more: Any) -> TaskDone:
    if outcome == "cancelled":
        more = {"cancel_outcome": "obeyed", **more}
    more = {"coro": "app:work", **more}
    return TaskDone(**base(seq), task=task, name=f"t{task}", outcome=outcome, **more)


def obeyed(victim: TaskCancel) -> list[Event]:
    """*victim*, and that the task obeyed it."""
    return [victim, done(victim.seq + 100, victim.task, cancel=victim.seq, coro=victim.coro)]


def kinds(*events: Event) -> dict[int, str | None]:
    log = Log()
    for event in events:
        log.add(event)
    return {case.task: housekeeping(case) for case in log.cases()}


def deadline(**more: Any) -> dict[str, Any]:
    return {
        "reason": "timeout",
        "origin": "deadline",
        "origin_reason": "timeout",
        "origin_at": "/app.py:3",
        "at": "/app.py:3",
        "suspended_at": "/app.py:4",
        "taken_back": True,
        **more,
    }


def word(reason: str = "starlette.done", **more: Any) -> dict[str, Any]:
    package = reason.partition(".")[0]
    called = {"origin": "called", "reason": reason, "origin_reason": reason}
    return {**called, "source": f"{package}.x:f", "at": f"{SITE}/{package}/x.py:5", **more}


def over(outcome: Any = "returned", **more: Any) -> dict[str, Any]:
    return {"outcome": outcome, "cancel_outcome": "absorbed", **more}


LISTENS: dict[str, Any] = {"coro": "starlette.x:listen", "suspended_at": ASYNCIO}
SHUTDOWN: dict[str, Any] = {"reason": "shutdown", "origin": "shutdown", "origin_reason": "shutdown"}


def test_a_helper_that_its_own_library_needs_no_more_is_housekeeping() -> None:
    assert kinds(*obeyed(asked(1, 7, **word(), **LISTENS))) == {7: "starlette.done"}


@pytest.mark.parametrize(
    "victim",
    [
        {"coro": "starlette.x:listen", "suspended_at": "/app/views.py:4"},
        {"coro": "app.views:page", "suspended_at": ASYNCIO},
        {"coro": "app.views:page"},
        {"coro": "anyio._core._tasks:TaskHandle._run_coro"},
        {"coro": "anyio._backends._asyncio:TaskGroup._run_wrapped_task"},
    ],
)
def test_a_word_of_a_library_hides_nothing_of_the_application(victim: dict[str, Any]) -> None:
    assert kinds(*obeyed(asked(1, 7, **word(), **victim))) == {7: None}


@pytest.mark.parametrize("reason", ["arq.closed", "uvicorn.shutdown", "arq.aborted", "explicit"])
def test_other_reasons_of_libraries_are_incidents(reason: str) -> None:
    package = reason.partition(".")[0]
    victim = {"coro": f"{package}.x:run", "suspended_at": ASYNCIO}
    assert kinds(*obeyed(asked(1, 7, **word(reason), **victim))) == {7: None}


def test_one_victim_in_the_application_makes_it_an_incident_for_all() -> None:
    events = [
        *obeyed(asked(1, 7, **word(by=3), **LISTENS)),
        asked(3, 8, reason="awaiter", cause=1, suspended_at="/app/views.py:4"),
        done(4, 8, cancel=3),
    ]
    assert kinds(*events) == {7: None, 8: None}


@pytest.mark.parametrize(
    ("end", "kind"),
    [
        ({}, "timeout"),
        ({"outcome": "raised", "error": "TimeoutError"}, None),
        ({"cancel_outcome": "swallowed"}, None),
    ],
)
def test_a_timeout_that_its_owner_handled_is_housekeeping(
    end: dict[str, Any], kind: str | None
) -> None:
    ended = done(3, 1, cancel=1, **over(**end))
    assert kinds(asked(1, 1, **deadline()), back(2, 1, 1), ended) == {1: kind}


LIBRARY_AT = f"{SITE}/redis/x.py:9"


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ({"suspended_at": "/app.py:3"}, "timeout"),
        ({"suspended_at": "/app.py:5"}, "timeout"),
        ({"suspended_at": "/app.py:6"}, None),
        ({"suspended_at": "/app.py:2"}, None),
        ({"suspended_at": "/other.py:4"}, None),
        ({"suspended_at": None}, None),
        # A library asked, and says where the application waited: nobody's block took that back.
        ({"at": "/app.py:4"}, None),
        ({"at": LIBRARY_AT, "suspended_at": LIBRARY_AT}, None),
    ],
)
def test_a_timeout_that_ended_what_knew_nothing_of_it_is_an_incident(
    lines: dict[str, Any], kind: str | None
) -> None:
    """So does a middleware that answers 503 when a handler took too long."""
    events = [asked(1, 1, **deadline(**lines)), back(2, 1, 1), done(3, 1, cancel=1, **over())]
    assert kinds(*events) == {1: kind}
    # Nor is it hidden with a later one that was handled.
    later = [asked(4, 1, **deadline()), back(5, 1, 4), done(6, 1, cancel=4, **over())]
    assert kinds(*events[:2], *later) == {1: kind}


def test_a_timeout_that_a_library_handled_is_housekeeping() -> None:
    lines = {"at": LIBRARY_AT, "suspended_at": LIBRARY_AT}
    taken = back(2, 1, 1)
    taken.at = LIBRARY_AT
    end = done(3, 1, cancel=1, **over())
    assert kinds(asked(1, 1, **deadline(**lines)), taken, end) == {1: "timeout"}


def test_a_timeout_that_took_a_task_with_it_is_an_incident() -> None:
    events = [
        asked(1, 1, **deadline()),
        asked(2, 2, reason="task_group", cause=1, suspended_at="/app/views.py:4"),
        done(3, 2, cancel=2),
        back(4, 1, 1),
        done(5, 1, cancel=1, **over()),
    ]
    assert kinds(*events) == {1: None, 2: None}


def test_a_timeout_whose_owner_is_not_known_to_have_handled_it_is_an_incident() -> None:
    """``wait_for`` of Python 3.11 cancels a task, and raises in another one."""
    gets = {"coro": "asyncio.queues:Queue.get", "suspended_at": ASYNCIO}
    assert kinds(*obeyed(asked(1, 1, **deadline(**gets)))) == {1: None}


def test_what_another_request_did_to_the_task_is_not_hidden_with_the_last_one() -> None:
    """A poller with a timeout of its own swallowed what somebody else asked of it."""
    poller = [asked(1, 1, **deadline()), back(2, 1, 1), asked(3, 1, **deadline()), back(4, 1, 3)]
    end = done(9, 1, cancel=3, **over())
    assert kinds(*poller, end) == {1: "timeout"}
    call = {"origin": "called", "origin_reason": "explicit", "reason": "explicit"}
    assert kinds(*poller[:2], asked(5, 1, **call), *poller[2:], end) == {1: None}
    # Also where the last one was made to what it awaited.
    left: dict[str, Any] = {"reason": "disconnect", "origin": "called"}
    future = FutureCancel(**base(2), waiters=[7], origin_reason="disconnect", **left)
    gone = done(3, 7, cancel=2, coro="aiohttp.web_protocol:RequestHandler.start")
    assert kinds(future, gone) == {7: "idle"}
    assert kinds(asked(1, 7, **call), future, gone) == {7: None}


@pytest.mark.parametrize(
    ("main", "kind"), [("returned", "shutdown"), ("raised", None), ("cancelled", None)]
)
def test_what_is_left_at_the_end_of_asyncio_run_is_housekeeping_if_nothing_failed(
    main: Any, kind: str | None
) -> None:
    events = [
        made(1, 1),
        made(2, 2, parent=1, at="/app.py:3"),
        done(3, 1, main, cancel_outcome=None),
        asked(4, 2, suspended_at="/app.py:9", **SHUTDOWN),
        done(5, 2, cancel=4),
    ]
    assert kinds(*events)[2] == kind


def test_what_had_not_begun_at_the_end_of_asyncio_run_is_an_incident() -> None:
    events = [made(1, 1), made(2, 2, parent=1, at="/app.py:3"), done(3, 1, "returned")]
    assert kinds(*events, asked(4, 2, **SHUTDOWN), done(5, 2, cancel=4)) == {2: None}


def test_a_log_that_does_not_tell_of_births_calls_nothing_left_over() -> None:
    victim = asked(4, 2, suspended_at="/app.py:9", **SHUTDOWN)
    assert kinds(victim, done(5, 2, cancel=4)) == {2: None}


@pytest.mark.parametrize("reason", ["aiohttp.closed", "aiohttp.keepalive"])
def test_an_idle_connection_that_its_server_closes_is_housekeeping(reason: str) -> None:
    left: dict[str, Any] = {"reason": reason, "origin": "called", "origin_reason": reason}
    future = FutureCancel(**base(1), waiters=[7], **left)
    for coro, kind in ("aiohttp.web_protocol:RequestHandler.start", reason), ("app:work", None):
        assert kinds(future, done(2, 7, cancel=1, coro=coro)) == {7: kind}


@pytest.mark.parametrize(
    ("coro", "kind"), [("aiohttp.web_protocol:RequestHandler.start", "idle"), ("app:work", None)]
)
def test_a_peer_that_leaves_an_idle_connection_is_housekeeping(coro: str, kind: str | None) -> None:
    left: dict[str, Any] = {
        "reason": "disconnect",
        "origin": "called",
        "origin_reason": "disconnect",
    }
    future = FutureCancel(**base(1), waiters=[7], **left)
    assert kinds(future, done(2, 7, cancel=1, coro=coro)) == {7: kind}


@pytest.mark.parametrize(
    ("waits", "kind"),
    [
        (f"{SITE}/aiohttp/web_protocol.py:632", "idle"),
        (f"{SITE}/aiohttp/streams.py:9", None),
        (ASYNCIO, None),
        ("/app/aiohttp/web_protocol.py:632", None),
    ],
)
def test_a_connection_is_idle_where_it_waits_in_a_line_of_its_own(
    waits: str, kind: str | None
) -> None:
    left: dict[str, Any] = {"reason": "disconnect", "origin": "called"}
    victim = {"coro": "aiohttp.web_protocol:RequestHandler.start", "suspended_at": waits}
    connection = obeyed(asked(1, 7, **left, origin_reason="disconnect", **victim))
    assert kinds(*connection) == {7: kind}
    handler = {"coro": "aiohttp.web_protocol:RequestHandler._handle_request"}
    more = obeyed(asked(2, 8, reason="awaiter", cause=1, suspended_at=ASYNCIO, **handler))
    assert kinds(*connection, *more) == {7: None, 8: None}


@pytest.mark.parametrize(("package", "kind"), [("hypercorn", "group"), ("app", None)])
def test_a_library_may_end_a_group_of_its_own_by_an_error(package: str, kind: str | None) -> None:
    failed = {
        "reason": "task_group",
        "origin": "failed",
        "origin_task": 4,
        "origin_source": f"{package}.utils:raise_shutdown",
        "origin_at": f"{SITE}/{package}/utils.py:154",
    }
    coro = f"{package}.x:serve"
    events = [
        asked(1, 2, **failed, suspended_at=ASYNCIO, coro=coro),
        asked(2, 3, **failed, taken_back=True, suspended_at=ASYNCIO, coro=coro),
        done(3, 2, cancel=1, coro=coro),
        back(4, 3, 2),
    ]
    end = done(5, 3, cancel=2, coro=coro, **over())
    assert kinds(*events, end) == {2: kind, 3: kind}
    end = done(5, 3, cancel=2, coro=coro, **over("raised", error="ShutdownError"))
    assert kinds(*events, end) == {2: None, 3: None}


@pytest.mark.parametrize(
    ("error", "kind"), [("RequestAborted", None), ("RequestProcessed", "django.done")]
)
def test_a_view_of_django_whose_client_left_is_an_incident(error: str, kind: str | None) -> None:
    source = "django.core.handlers.asgi:ASGIHandler.handle"
    line = f"{SITE}/django/core/handlers/asgi.py:207"
    failed = {
        "reason": "task_group",
        "origin": "failed",
        "origin_error": error,
        "origin_source": source,
        "origin_at": line,
    }
    listener = asked(1, 2, **failed, suspended_at=line, coro=source)
    view = asked(200, 3, **failed, suspended_at="/app/views.py:4", taken_back=True, coro=source)
    assert kinds(*obeyed(listener)) == {2: kind}
    if kind is None:
        events = [view, back(201, 3, 200), done(202, 3, cancel=200, coro=source, **over())]
        assert kinds(*events) == {3: None}


def test_an_error_of_the_application_is_an_incident() -> None:
    failed = {
        "reason": "task_group",
        "origin": "failed",
        "origin_name": "a",
        "origin_at": "/a.py:3",
    }
    assert kinds(*obeyed(asked(1, 2, **failed))) == {2: None}


@pytest.mark.parametrize(
    ("kind", "severity", "told"),
    [("swallowed", "finding", None), ("slow", "finding", "timeout"), ("lost", "note", "timeout")],
)
def test_a_task_with_a_finding_is_an_incident(kind: str, severity: Any, told: str | None) -> None:
    found = Finding(**base(9), task=1, name="t1", coro="app:work", kind=kind, severity=severity)
    events = [asked(1, 1, **deadline()), back(2, 1, 1), done(3, 1, cancel=1, **over())]
    assert kinds(*events, found) == {1: told}


@pytest.mark.parametrize(
    "gap",
    [
        ProcessDropped(**base(9), count=1),
        ProcessEnd(**base(9), written=9, dropped=0, faults=["KeyError in on_end, 1 times"]),
    ],
)
def test_a_log_that_lacks_events_calls_nothing_housekeeping(gap: Event) -> None:
    events = [asked(1, 1, **deadline()), back(2, 1, 1), done(3, 1, cancel=1, **over())]
    assert kinds(*events, gap) == {1: None}


def test_what_was_concluded_or_is_not_known_is_an_incident() -> None:
    concluded = asked(1, 1, **deadline(evidence="inferred"))
    end = done(3, 1, cancel=1, **over())
    assert kinds(concluded, back(2, 1, 1), end) == {1: None}
    assert kinds(asked(1, 1, reason="awaiter", cause=5), end) == {1: None}
    assert kinds(done(3, 1)) == {1: None}


# What a task ends that it had made: task 1 makes tasks 7 and 8, and ends them at seq 11 and 12.

CALL: dict[str, Any] = {
    "reason": "explicit",
    "origin": "called",
    "origin_reason": "explicit",
    "by": 1,
    "suspended_at": ASYNCIO,
    "cleanup": True,
    "source": "app:main",
    "at": "/a.py:9",
}


def ends_its_own(
    *more: Event,
    born: dict[str, Any] | None = None,
    call: dict[str, Any] | None = None,
    other: dict[str, Any] | None = None,
    gone: dict[str, Any] | None = None,
    asker: tuple[Any, dict[str, Any]] = ("returned", {}),
) -> dict[int, str | None]:
    """The kinds, where the making, the call (also only the *other* one), or an end is another."""
    called = {**CALL, **(call or {})}
    born = {"parent": 1, "source": "app:main", **(born or {})}
    return kinds(
        made(1, 1),
        made(2, 7, **born),
        made(3, 8, **born),
        asked(11, 7, **called),
        asked(12, 8, **{**called, **(other or {})}),
        done(13, 7, cancel=11),
        done(14, 8, **{"cancel": 12, **(gone or {})}),
        *more,
        done(99, 1, asker[0], cancel_outcome=None, **asker[1]),
    )


METHODS: dict[str, Any] = {
    "born": {"source": "app:Client.start"},
    "call": {"cleanup": False, "source": "app:Client.close"},
}
NO, YES = {7: None, 8: None}, {7: "cleanup", 8: "cleanup"}


def test_a_task_may_end_what_it_had_made_beside_its_work() -> None:
    assert ends_its_own() == YES
    assert ends_its_own(born={"source": "app:main.<locals>.<listcomp>"}) == YES
    assert ends_its_own(gone={"outcome": "returned", "cancel_outcome": "swallowed"}) == YES
    for close in ("__aexit__", "aclose", "_close", "shutdown", "disconnect", "cleanup"):
        call = {"cleanup": False, "source": f"app:Client.{close}"}
        assert ends_its_own(born=METHODS["born"], call=call) == YES
    # And what those had made goes with them.
    child = [
        made(15, 9, parent=7, source="app:beat"),
        asked(16, 9, reason="awaiter", cause=11, suspended_at=ASYNCIO, by=7),
        done(17, 9, cancel=16),
    ]
    assert ends_its_own(*child) == {**YES, 9: "cleanup"}


@pytest.mark.parametrize(
    "other",
    [
        {"born": {"parent": 2}},
        {"born": {"source": "app:other"}},
        {"born": {"source": "app:main.<locals>.<lambda>"}},
        {"call": {"cleanup": False}},
        {"call": {"by": None}},
        {"call": {"reason": "thread", "origin_reason": "thread"}},
        {"call": {"detail": "while handling OSError", "origin_detail": "while handling OSError"}},
        {"call": {"library": "saq.worker:Worker.stop", "origin_library": "saq.worker:Worker.stop"}},
        {"call": {"evidence": "inferred"}},
        {"other": {"suspended_at": None}},
        {"gone": {"outcome": "raised", "cancel_outcome": "replaced", "error": "OSError"}},
        {"gone": {"outcome": "raised", "cancel_outcome": "swallowed", "error": "OSError"}},
        {"asker": ("raised", {"error": "OSError"})},
        {"asker": ("cancelled", {})},
        {**METHODS, "born": {"source": "app:Server.start"}},
        {**METHODS, "call": {"cleanup": False, "source": "app:Client.drop"}},
        {**METHODS, "call": {"cleanup": False, "source": "app:close"}},
        {
            "born": {"source": "app:main.<locals>.start"},
            "call": {"cleanup": False, "source": "app:main.<locals>.close"},
        },
    ],
)
def test_where_that_is_not_sure_it_is_an_incident(other: dict[str, Any]) -> None:
    assert ends_its_own(**other) == NO


@pytest.mark.parametrize(
    "more",
    [
        # Somebody else awaited one of them.
        [
            made(4, 9, parent=2, source="app:main"),
            asked(15, 9, reason="awaiter", cause=11, suspended_at=ASYNCIO, by=7),
            done(16, 9, cancel=15),
        ],
        # Something else that it had made failed, or was cancelled.
        [made(4, 9, parent=1), done(15, 9, "raised", cancel_outcome=None, error="OSError")],
        [made(4, 9, parent=1), asked(5, 9, **{**CALL, "cleanup": False}), done(6, 9, cancel=5)],
        # It was asked itself: a deadline of its own had run out.
        [asked(4, 1, **deadline()), back(5, 1, 4)],
    ],
)
def test_who_ends_its_own_had_no_trouble(more: list[Event]) -> None:
    got = ends_its_own(*more)
    assert [got[7], got[8]] == [None, None]


def test_what_it_had_made_and_was_housekeeping_is_no_trouble() -> None:
    helper = {"coro": "starlette.x:listen", "suspended_at": ASYNCIO}
    more = [made(4, 9, parent=1), *obeyed(asked(5, 9, **word(), **helper))]
    assert ends_its_own(*more) == {**YES, 9: "starlette.done"}


def test_what_just_stops_something_does_so_at_the_end_of_the_work() -> None:
    """A command may stop a job at any time, and who gave it goes on with the next one."""
    stop: dict[str, Any] = {
        "born": {"source": "app:Jobs.start"},
        "call": {"cleanup": False, "source": "app:Jobs.stop"},
    }
    assert ends_its_own(**stop) == YES
    assert ends_its_own(made(20, 9, parent=1, source="app:Jobs.start"), **stop) == NO
    assert ends_its_own(made(20, 9, parent=1, source="app:Jobs.start"), **METHODS) == YES


def test_who_lives_on_may_still_come_to_harm() -> None:
    events = [
        made(1, 1),
        made(2, 7, parent=1, source="app:main"),
        asked(11, 7, **CALL),
        done(13, 7, cancel=11),
    ]
    assert kinds(*events) == {7: None}


def test_it_is_decided_anew_where_more_is_read() -> None:
    log = Log()
    for event in (asked(1, 1, **deadline()), back(2, 1, 1), done(4, 1, cancel=1, **over())):
        log.add(event)
    assert [housekeeping(case) for case in log.cases()] == ["timeout"]
    log.add(asked(3, 2, reason="gather", cause=1))
    assert [housekeeping(case) for case in log.cases()] == [None, None]
