"""What a report draws of logs whose truth is known; no browser, and no HTML but for its escapes."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("jinja2")


from aioaudit.cli import report_model
from aioaudit.cli.report_model import Incident, Node, Report, draw
from aioaudit.cli.report_page import pages
from aioaudit.cli.why_words import by_cause, headline
from aioaudit.events import Event, ProcessDropped, TaskCancel, TaskDone
from aioaudit.log import Log
from tests.report_logs import base, hostile, large, shop


def log_of(*events: Event) -> Log:
    log = Log()
    for event in events:
        log.add(event)
    return log


def drawn(*events: Event) -> Report:
    return draw(log_of(*events), "app.jsonl")


def incident(report: Report, number: int = 0) -> tuple[Incident, list[str]]:
    """The incident with this *number*, and the texts of its piece."""
    [piece] = report.pieces
    return piece.incidents[number], piece.texts


def titles(report: Report, number: int = 0) -> list[str]:
    found, texts = incident(report, number)
    return [texts[node.title] for node in found.nodes]


def all_tasks(report: Report) -> dict[int, str]:
    """The whole sentence of each task, by its number."""
    return {
        task.id: task.who + piece.texts[task.said]
        for piece in report.pieces
        for each in piece.incidents
        for task in each.tasks
    }


def test_causes_counts_and_sentences_are_those_of_why() -> None:
    log = log_of(*shop())
    report = draw(log, "app.jsonl")
    cases = log.cases()
    rows = by_cause(cases)
    assert report.headline == headline(cases, rows)
    assert [cause.tasks for cause in report.overview.causes] == [row.tasks for row in rows]
    assert all_tasks(report) == {case.task: case.answer().summary for case in cases}


def test_who_was_cancelled_stands_below_who_did_it() -> None:
    report = drawn(*shop())
    found, texts = incident(report)
    assert titles(report) == [
        "price failed with ConnectionResetError: upstream hung up at shop.py:7, in shop:price",
        "2 x fetch",
        "page",
        "a future",
        "wait (waiter)",
    ]
    assert [node.parent for node in found.nodes] == [-1, 0, 0, 2, 3]
    assert [node.tasks for node in found.nodes] == [0, 2, 1, 0, 1]
    assert [texts[node.waited] for node in found.nodes] == ["", "shop.py:12", "shop.py:18", "", ""]


def test_what_was_concluded_and_what_nobody_knows_are_told_apart() -> None:
    report = drawn(*shop())
    found, _ = incident(report)
    assert [node.sure for node in found.nodes] == ["observed"] * 4 + ["inferred"]
    causes = report.overview.causes
    assert [cause.sure for cause in causes] == ["inferred", "observed", "unknown"]
    assert [cause.inferred for cause in causes] == [1, 0, 0]
    lost, texts = incident(report, 2)
    assert lost.nodes[0].sure == "unknown"
    assert "seq 5990" in texts[lost.nodes[0].title]


def test_who_failed_or_asked_is_in_the_time_line_without_being_a_victim() -> None:
    report = drawn(*shop())
    found, _ = incident(report)
    assert [(actor.who, actor.did) for actor in found.actors] == [("price", "failed")]
    assert found.actors[0].born is not None
    mail, _ = incident(report, 1)
    assert [(actor.id, actor.did, actor.born) for actor in mail.actors] == [(8, "asked", None)]


def test_findings_stand_with_their_incident_as_check_tells_them() -> None:
    report = drawn(*shop())
    mail, texts = incident(report, 1)
    [found] = mail.findings
    assert found.said == "stubborn (mail) swallowed a cancellation at shop.py:31 and returned"
    assert report.findings == [found]
    [task] = mail.tasks
    assert texts[task.became] == "swallowed it"
    assert any(texts[line].startswith("Finding: stubborn") for line in task.more)


def test_a_group_says_only_what_all_of_it_have_in_common() -> None:
    events = large(6)
    for number, event in enumerate(events):
        if isinstance(event, TaskCancel):
            event.coro, event.suspended_at, event.by = "shop:fetch", "shop.py:9", 1
            event.by_name, event.message = f"main {number}", f"message {number}"
            event.origin_source, event.origin_by_name = "shop:stop", "somebody"
    report = drawn(*events)
    found, texts = incident(report)
    lines = [texts[line] for node in found.nodes[1:] for line in node.lines]
    assert not re.search(r"main \d|message \d", " ".join(lines))
    assert "asked by several tasks or threads" in lines
    assert "with messages that differ" in lines


def test_a_hundred_thousand_tasks_are_a_few_boxes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report_model, "MOST_TASKS", 2_500)
    monkeypatch.setattr(report_model, "MOST_TOLD", 100)
    monkeypatch.setattr(report_model, "PIECE", 5_000)
    report = drawn(*large(3_000, causes=3))
    assert titles(report)[1:] == ["334 x fetch_0", "333 x fetch_1", "333 x fetch_2"]
    overview = report.overview
    assert overview.hit == [1000, 1000, 1000]
    assert overview.pieces == [0]
    assert [len(each.tasks) for each in report.pieces[0].incidents] == [1000, 1000, 500]
    assert report.left_out == ["the names of 500 of 3,000 tasks, which are counted"]
    assert sum(bool(task.more) for each in report.pieces[0].incidents for task in each.tasks) == 100


def test_incidents_come_in_pieces_that_are_found_by_their_numbers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(report_model, "PIECE", 100)
    report = drawn(*large(400, causes=20))
    assert [len(piece.incidents) for piece in report.pieces] == [5, 5, 5, 5]
    assert report.overview.pieces == [0, 5, 10, 15]
    assert (report.overview.causes[0].start, report.overview.causes[0].stop) == (0, 20)


def test_a_deep_chain_is_folded_and_loses_no_task() -> None:
    events: list[Event] = []
    for number in range(300):
        task: dict[str, Any] = {"task": number + 1, "name": f"t{number}", "coro": "shop:deep"}
        first: dict[str, Any] = {"origin": "called"} if number == 0 else {"cause": number}
        events += [
            TaskCancel(**base(number + 1), **task, accepted=True, reason="awaiter", **first),
            TaskDone(**base(number + 1000), **task, outcome="cancelled", cancel=number + 1),
        ]
    report = drawn(*events)
    found, _ = incident(report)
    assert len(found.nodes) < 20
    assert sum(node.tasks for node in found.nodes) == len(found.tasks) == 300
    assert [node.kind for node in found.nodes].count("fold") == 1


def test_of_many_kinds_most_are_folded_into_others() -> None:
    events = large(500)
    for number, event in enumerate(events):
        if isinstance(event, TaskCancel):
            event.coro = f"shop:kind_{number}"
    report = drawn(*events)
    found, texts = incident(report)
    assert len(found.nodes) <= report_model.MOST_GROUPS + 1
    others = [node for node in found.nodes if node.kind == "fold"]
    assert [texts[node.title] for node in others] == ["others"]
    assert sum(node.tasks for node in found.nodes) == 500


def test_what_the_log_lacks_is_said() -> None:
    report = drawn(*shop(), ProcessDropped(**base(7000), count=3))
    assert report.missing == [
        "run 5575bbe88415 lost 3 events: what was asked for may be among them"
    ]
    page = b"".join(pages(report)).decode()
    assert page.index(report.missing[0]) < page.index("Root causes")


def test_times_that_are_none_are_no_times() -> None:
    for ts in ("", "yesterday", "0001-01-01T00:00:00", "9999-12-31T23:59:59.999999-14:00"):
        events = shop()
        for event in events:
            event.ts = ts
        assert b"</html>" in b"".join(pages(drawn(*events)))


def test_no_name_ends_a_block_of_data_or_is_a_tag() -> None:
    page = b"".join(pages(drawn(*hostile()))).decode()
    blocks = re.findall(
        r'<script type="application/json" id="[\w-]+">(.*?)</script>', page, re.DOTALL
    )
    assert len(blocks) == 2
    for block in blocks:
        assert not set("<>&\u2028\u2029") & set(block)
        json.loads(block)
    assert page.count("<script") == 3
    assert page.count("</script>") == 3
    assert page.count("<style") == 1
    assert not re.search("<(img|svg|b)\\b", page)
    assert not {"\u202e", "\u2066", "\u2028", "\x00", "\x1b"} & set(page)


def test_the_page_allows_its_own_script_and_nothing_else() -> None:
    page = b"".join(pages(drawn(*shop()))).decode()
    policy = re.search('http-equiv="Content-Security-Policy" content="(.*?)"', page)
    assert policy is not None
    assert re.fullmatch(
        "default-src &#39;none&#39;; script-src &#39;sha256-[\\w+/=]+&#39;; "
        "style-src &#39;sha256-[\\w+/=]+&#39;; base-uri &#39;none&#39;; form-action &#39;none&#39;",
        policy[1],
    )
    assert not re.search(r"(src|href)=|https?://(?!www\.w3\.org/2000/svg)", page)


def test_rows_of_data_have_the_names_of_their_places() -> None:
    names = drawn(*shop()).overview.names
    assert names["node"] == list(Node.__struct_fields__)
    assert set(names) == {"task", "node", "actor", "found", "incident"}


def test_nothing_to_draw_is_known_as_such() -> None:
    assert drawn().is_empty
    assert not drawn(*shop()).is_empty
