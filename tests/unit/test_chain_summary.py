"""Summaries: one plain sentence for each cause, that keeps apart what is known and what is not."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aioaudit.chain.links import Link
from aioaudit.chain.summary import is_known, note, summarise, who
from aioaudit.text import escape_unprintable

OWN = Link(what="cancelled", task=7, name="Task-7", reason="task_group")


def sentence(*links: Link, **more: Any) -> str:
    call: dict[str, Any] = {
        "name": "Task-7",
        "coro": "app.shop:fetch_prices",
        "outcome": "cancelled",
        "cancel_outcome": "obeyed",
        **more,
    }
    return summarise(chain=[OWN, *links], **call)


@pytest.mark.parametrize(
    "wrapper",
    [
        "anyio._core._tasks:TaskHandle._run_coro",
        "anyio._backends._asyncio:TaskGroup._run_wrapped_task",  # before 4.16
    ],
)
def test_of_a_task_that_anyio_runs_what_it_runs_is_said(wrapper: str) -> None:
    function = wrapper.partition(":")[2]
    assert who("app.api.fetch", wrapper) == "app.api.fetch"
    assert who("", wrapper) == function
    assert who("fetch", f"app:{function}") == f"{function} (fetch)"


@pytest.mark.parametrize(
    ("root", "because"),
    [
        (
            Link(what="deadline", at="app/api.py:41", seconds=2.0),
            "the timeout of 2 s at app/api.py:41 ran out",
        ),
        (Link(what="deadline"), "a timeout ran out"),
        (
            Link(what="failed", task=3, name="load", error="KeyError: 'x'", at="db.py:17"),
            "load failed with KeyError: 'x' at db.py:17",
        ),
        (
            Link(what="failed", error="ValueError", at="a.py:3"),
            "a block failed with ValueError at a.py:3",
        ),
        (
            Link(what="signal", signal="SIGTERM", at="a.py:80"),
            "the process received SIGTERM (handler at a.py:80)",
        ),
        (Link(what="signal"), "the process received a signal"),
        (
            Link(what="shutdown", at="a.py:99"),
            "asyncio.run at a.py:99 ended and cancelled what was left",
        ),
        (
            Link(what="called", reason="explicit", source="app:stop", at="a.py:5", by_name="boss"),
            "app:stop called cancel() at a.py:5 in task boss",
        ),
        (
            Link(
                what="called", reason="thread", source="app:stop", at="a.py:5", by_name="Thread-1"
            ),
            "app:stop called cancel() at a.py:5 in thread Thread-1",
        ),
        (
            Link(what="called", reason="disconnect", source="web:serve", at="web.py:5"),
            "a peer went away, which made web:serve call cancel() at web.py:5",
        ),
        (
            Link(what="called", reason="native"),
            "native code called cancel(), below any Python frame",
        ),
        (
            Link(what="called", reason="arq.abort", source="arq:job", at="arq.py:5"),
            "arq:job called cancel() at arq.py:5 (reason arq.abort)",
        ),
        (
            Link(what="called", reason="explicit", at="a.py:5", detail="while handling OSError"),
            "plain code called cancel() at a.py:5 (while handling OSError)",
        ),
        (
            Link(
                what="called",
                reason="explicit",
                source="app:main",
                at="app.py:50",
                by_name="Task-1",
                library="saq.worker:Worker.process",
                library_at="/home/me/.venv/lib/python3.13/site-packages/saq/worker.py:374",
            ),
            "saq.worker:Worker.process (saq/worker.py:374) cancelled it, "
            "called from app:main at app.py:50 in task Task-1",
        ),
        (
            Link(what="called", reason="scope", at="app.py:50", library="mcp:Session.run"),
            "mcp:Session.run cancelled it, called from plain code at app.py:50 (reason scope)",
        ),
    ],
)
def test_every_root_has_its_clause(root: Link, because: str) -> None:
    assert is_known(root)
    assert sentence(root) == f"fetch_prices (Task-7) was cancelled because {because}"


@pytest.mark.parametrize(
    ("root", "text"),
    [
        (Link(what="cancelled", reason="unknown"), "the log does not say who asked"),
        (Link(what="called", reason="unknown"), "the log does not say who asked"),
        (
            Link(what="cancelled", reason="awaiter", at="a.py:4", detail="the line is missing"),
            "the line is missing; the last that is known is a request with reason awaiter; "
            "it was made at a.py:4",
        ),
    ],
)
def test_an_unknown_root_is_called_unknown(root: Link, text: str) -> None:
    assert not is_known(root)
    assert sentence(root) == f"fetch_prices (Task-7) was cancelled, nobody knows why: {text}"


def test_an_inferred_cause_is_called_probable() -> None:
    assert (
        sentence(Link(what="deadline"), inferred=True)
        == "fetch_prices (Task-7) was cancelled, probably because a timeout ran out"
    )


@pytest.mark.parametrize(
    ("outcome", "cancel_outcome", "end"),
    [
        ("returned", "swallowed", "; it swallowed the cancellation at a.py:9"),
        ("returned", "absorbed", "; it absorbed the cancellation with uncancel()"),
        ("raised", "replaced", "; it raised another error instead"),
        ("pending", None, "; its end is not recorded"),
        ("returned", None, ""),
    ],
)
def test_what_became_of_the_request_ends_the_sentence(
    outcome: str, cancel_outcome: str | None, end: str
) -> None:
    assert sentence(
        Link(what="deadline"),
        outcome=outcome,
        cancel_outcome=cancel_outcome,
        swallowed_at="a.py:9",
    ) == (f"fetch_prices (Task-7) was asked to cancel because a timeout ran out{end}")


def test_tasks_between_victim_and_root_are_named_while_they_are_few() -> None:
    def hop(task: int) -> Link:
        return Link(what="cancelled", task=task, name=f"T{task}")

    root = Link(what="failed", task=4, name="T4")
    assert sentence(hop(2), hop(3), Link(what="cancelled"), hop(4), root) == (
        "fetch_prices (Task-7) was cancelled because T4 failed, by way of T2, T3"
    )
    assert sentence(hop(1), hop(2), hop(3), hop(5), root) == (
        "fetch_prices (Task-7) was cancelled because T4 failed, by way of 4 other tasks"
    )


@pytest.mark.parametrize(
    ("name", "coro", "said"),
    [
        ("Task-7", "app:Client.fetch", "Client.fetch (Task-7)"),
        ("Task-7", "app:main.<locals>.worker", "worker (Task-7)"),
        ("fetch", "app:fetch", "fetch"),
        ("Task-7", "", "Task-7"),
        ("", "app:fetch", "fetch"),
    ],
)
def test_a_task_is_called_by_its_function_and_its_name(name: str, coro: str, said: str) -> None:
    assert who(name, coro) == said


@given(st.text(), st.text(), st.text())
def test_a_summary_is_one_line_of_visible_characters(name: str, coro: str, other: str) -> None:
    text = summarise(
        name=name,
        coro=coro,
        outcome="returned",
        cancel_outcome="swallowed",
        chain=[
            OWN,
            Link(what="cancelled", task=1, name=other),
            Link(what="failed", name=other, error=other, at=other, detail=other),
        ],
        swallowed_at=other,
    )
    assert text.isprintable()


def test_harmless_text_keeps_letters_and_escapes_the_rest() -> None:
    assert escape_unprintable("größe 名 [red]") == "größe 名 [red]"
    assert escape_unprintable("a\x1b[31m\n\u202eb\x9b") == r"a\x1b[31m\n\u202eb\x9b"


def test_a_note_says_probably_where_it_was_concluded_and_nothing_where_it_is_not_known() -> None:
    root = Link(what="deadline", at="app/api.py:41", seconds=2.0, detail="0.3 s late")
    because = "the timeout of 2 s at app/api.py:41 ran out"
    assert note([OWN, root]) == f"cancelled because {because}"
    assert note([OWN, root], suspended_at="db.py:9") == (
        f"cancelled because {because}; it was waiting at db.py:9"
    )
    assert note([OWN, root], inferred=True) == f"cancelled, probably because {because}"
    assert note([OWN, Link(what="called", reason="unknown")]) is None
    assert note([OWN]) is None


def test_what_is_beside_a_cause_stays_whole_in_a_note() -> None:
    detail = "while ValueError at /x/site-packages/lib.py:3 was handled"
    root = Link(what="called", source="app:stop", at="a.py:5", detail=detail)
    told = note([OWN, root], show=lambda text: text.replace("/x/", ""))
    assert told is not None
    assert told.endswith("(while ValueError at site-packages/lib.py:3 was handled)")
