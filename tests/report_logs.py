"""Logs that reports are made of, whose truth is known."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from aioaudit.events import Event, Finding, FutureCancel, ProcessDropped, TaskCancel, TaskDone

HOSTILE = (
    "</script><script>window.pwned = 1</script>",
    "<!--<script>",
    "<img src=x onerror='window.pwned = 1'>",
    "\"'><svg onload=window.pwned=1>",
    "{{ 7 * 7 }}{% raw %}",
    "${window.pwned = 1}",
    "javascript:window.pwned=1",
    "\u202eright to left\u2066",
    "line\u2028separator\u2029and\x00\x1b[2J",
    "</style><style>*{display:none}",
    "]]>&lt;b&gt;",
    "__proto__",
)
"""Names, messages, errors and lines that somebody may have made for a browser."""


def write(file: Path, *events: Event) -> Path:
    """*events* as a log."""
    file.write_bytes(b"".join(msgspec.json.encode(event) + b"\n" for event in events))
    return file


def base(seq: int, run: str = "5575bbe88415") -> dict[str, Any]:
    """What every event has; a millisecond passes between two."""
    ts = f"2026-11-22T14:{seq // 60000:02d}:{seq // 1000 % 60:02d}.{seq % 1000:03d}000Z"
    return {"ts": ts, "run": run, "pid": 14282, "thread": "MainThread", "seq": seq}


def shop() -> list[Event]:
    """A price that fails takes the reviews and a page with it; then a mail that does not end."""
    price: dict[str, Any] = {"task": 2, "name": "price", "coro": "shop:price"}
    reviews: dict[str, Any] = {"task": 3, "name": "reviews", "coro": "shop:fetch"}
    stock: dict[str, Any] = {"task": 4, "name": "stock", "coro": "shop:fetch"}
    page: dict[str, Any] = {"task": 1, "name": "page", "coro": "shop:page"}
    mail: dict[str, Any] = {"task": 9, "name": "mail", "coro": "shop:stubborn"}
    failed: dict[str, Any] = {
        "reason": "task_group",
        "by": 1,
        "by_name": "page",
        "origin": "failed",
        "origin_task": 2,
        "origin_name": "price",
        "origin_error": "ConnectionResetError: upstream hung up",
        "origin_at": "shop.py:7",
        "origin_source": "shop:price",
    }
    called: dict[str, Any] = {"reason": "explicit", "source": "shop:retire", "at": "shop.py:24"}
    events: list[Event] = [
        TaskDone(
            **base(100),
            **price,
            outcome="raised",
            error="ConnectionResetError: upstream hung up",
            error_at="shop.py:7",
            lifetime=0.1,
        )
    ]
    for seq, task in ((101, reviews), (102, stock)):
        events += [
            TaskCancel(**base(seq), **task, accepted=True, suspended_at="shop.py:12", **failed),
            TaskDone(
                **base(seq + 10),
                **task,
                outcome="cancelled",
                cancel=seq,
                cancel_outcome="obeyed",
                lifetime=0.1,
            ),
        ]
    events += [
        TaskCancel(**base(103), **page, accepted=True, suspended_at="shop.py:18", **failed),
        FutureCancel(**base(104), waiters=[5], waiter_names=["waiter"], reason="chain", cause=103),
        TaskDone(
            **base(120),
            **page,
            outcome="raised",
            error="ExceptionGroup: unhandled",
            cancel=103,
            cancel_outcome="absorbed",
            lifetime=0.2,
        ),
        TaskDone(
            **base(121),
            task=5,
            name="waiter",
            coro="shop:wait",
            outcome="cancelled",
            cancel=104,
            cancel_outcome="obeyed",
            evidence="inferred",
        ),
        TaskCancel(
            **base(5000),
            **mail,
            accepted=True,
            by=8,
            by_name="main",
            message="no more mail",
            suspended_at="shop.py:30",
            **called,
            origin="called",
        ),
        TaskDone(
            **base(5010),
            **mail,
            outcome="returned",
            cancel=5000,
            cancel_outcome="swallowed",
            swallowed_at="shop.py:31",
            lifetime=5,
        ),
        Finding(
            **base(5011),
            **mail,
            kind="swallowed",
            severity="finding",
            cancel=5000,
            swallowed_at="shop.py:31",
            outcome="returned",
            **called,
        ),
        TaskDone(
            **base(6000),
            task=12,
            name="lost",
            coro="shop:fetch",
            outcome="cancelled",
            cancel=5990,
            cancel_outcome="obeyed",
        ),
    ]
    return events


def hostile() -> list[Event]:
    """What comes from the program is made for a browser, wherever it may stand."""
    events: list[Event] = []
    for number, text in enumerate(HOSTILE):
        seq = 10 * number
        task: dict[str, Any] = {"task": number + 1, "name": text, "coro": f"{text}:{text}"}
        events += [
            TaskCancel(
                **base(seq, text),
                **task,
                accepted=True,
                reason=text,
                source=text,
                at=f"{text}:7",
                by=99,
                by_name=text,
                library=text,
                library_at=f"{text}:8",
                message=text,
                suspended_at=f"{text}:9",
                detail=text,
                origin="called",
                origin_source=text,
                origin_at=f"{text}:7",
                origin_detail=text,
            ),
            TaskDone(
                **base(seq + 1, text),
                **task,
                outcome="raised",
                error=text,
                error_at=text,
                cancel=seq,
                cancel_outcome="replaced",
            ),
            Finding(
                **base(seq + 2, text),
                **task,
                kind=text,
                severity="finding",
                detail=text,
                reason=text,
            ),
            ProcessDropped(**base(seq + 3, text), count=1, faults=[text]),
        ]
    return events


def large(tasks: int, causes: int = 1) -> list[Event]:
    """*tasks* of three coroutines that end at each of *causes* calls, one after the other."""
    events: list[Event] = []
    seq = 0
    for number in range(tasks):
        each = number % 3
        task: dict[str, Any] = {
            "task": number + 10,
            "name": f"page {number}",
            "coro": f"shop:fetch_{each}",
        }
        seq += 1
        events.append(
            TaskCancel(
                **base(seq),
                **task,
                accepted=True,
                reason="explicit",
                source="shop:stop",
                at="shop.py:80",
                by=1 + number * causes // tasks,
                by_name=f"main {number * causes // tasks}",
                suspended_at=f"shop.py:{40 + each}",
                origin="called",
            )
        )
        seq += 1
        events.append(
            TaskDone(
                **base(seq), **task, outcome="cancelled", cancel=seq - 1, cancel_outcome="obeyed"
            )
        )
    return events
