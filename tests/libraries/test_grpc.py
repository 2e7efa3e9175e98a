"""grpc.aio cancels: a real server, real clients, that cancel, are killed, stand still or time out.

All calls are made in a process of its own (`tests/recognised/grpc_calls.py`): grpc's
threads would stay in this one, and disturb tests that fork.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest

import aioaudit
from aioaudit.chain.links import Answer
from tests.conftest import clean_environ
from tests.loops import NAMES
from tests.recognising import done_by, links
from tests.waiting import PATIENCE

pytest.importorskip("grpc.aio")

PROGRAM = Path(__file__).parent / "recognised" / "grpc_calls.py"
LEFT = "the client cancelled the call, or its connection was lost"
STOPPING = "while its server was being stopped"


@pytest.fixture(scope="module", params=NAMES)
def answers(
    request: pytest.FixtureRequest, audited_python: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Answer]:
    """Every answer by the name of its task."""
    log = tmp_path_factory.mktemp("grpc") / "log.jsonl"
    done = subprocess.run(
        [audited_python, str(PROGRAM), request.param],
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log), GRPC_VERBOSITY="NONE"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert "aioaudit" not in done.stderr
    return {answer.name: answer for answer in aioaudit.load(str(log)).why()}


def told(answer: Answer) -> list[dict[str, Any]]:
    return links(answer, PROGRAM)


@pytest.mark.parametrize(
    "name", ["explicit", "awaiter", "streamed", "sending", "failing", "closed", "killed"]
)
def test_a_handler_whose_client_cancels_or_goes_away_says_so(
    answers: dict[str, Answer], name: str
) -> None:
    assert told(answers[name]) == [
        {"what": "cancelled", "name": name, "reason": "disconnect", "detail": LEFT},
        {"what": "called", "reason": "disconnect", "detail": LEFT},
    ]
    assert answers[name].cancel_outcome == "absorbed"


def test_a_handler_that_the_clients_deadline_ends_says_so(answers: dict[str, Answer]) -> None:
    said = {"reason": "timeout", "at": "handler"}
    assert told(answers["deadline"]) == [
        {"what": "cancelled", "name": "deadline", **said},
        {"what": "deadline", "detail": "the deadline that the client gave the call", **said},
    ]


@pytest.mark.parametrize(
    ("name", "detail"),
    [("graceful", "it had 0.1 s to end by itself"), ("graceless", "without grace")],
)
def test_a_handler_that_the_servers_stop_ends_names_the_line_that_stops(
    answers: dict[str, Answer], name: str, detail: str
) -> None:
    """Now and then the stop is over before the handler hears of it; then nobody is named."""
    said = {"reason": "grpc.stopped", "at": "stops", "by_name": "main", "detail": detail}
    chains = [told(answers[f"{name}_{time}"]) for time in "123"]
    whole = [chain for chain in chains if len(chain) == 2]
    assert whole
    for chain in whole:
        assert chain[0].pop("name").startswith(name)
        assert chain == [{"what": "cancelled", **said}, {"what": "called", **said}]
    assert all(chain[0]["detail"] == STOPPING for chain in chains if chain not in whole)


@pytest.mark.parametrize("name", ["in_grace", "as_it_begins"])
def test_a_client_that_leaves_while_the_server_waits_for_its_calls_is_no_stop(
    answers: dict[str, Answer], name: str
) -> None:
    """As above: its stop may be over before the handler hears that the client left."""
    chain = told(answers[name])
    assert chain[-1] in (
        {"what": "called", "reason": "disconnect", "detail": LEFT},
        {"what": "cancelled", "name": name, "reason": "grpc.cancelled", "detail": STOPPING},
    )


def test_a_call_that_is_cancelled_names_the_line_that_cancels_it(
    answers: dict[str, Answer],
) -> None:
    said = {"reason": "explicit", "at": "cancels_call", "by_name": "main"}
    assert told(answers["explicit call"]) == [
        {"what": "cancelled", "name": "explicit call", **said},
        {"what": "called", **said},
    ]
    assert answers["explicit call"].cancel_outcome == "absorbed"


def test_a_call_ends_with_the_task_that_awaits_it(answers: dict[str, Answer]) -> None:
    said = {"reason": "explicit", "at": "cancels_awaiter", "by_name": "main"}
    assert told(answers["awaiter call"]) == [
        {
            "what": "cancelled",
            "name": "awaiter call",
            "reason": "grpc.cancelled",
            "by_name": "awaiter call",
        },
        {
            "what": "cancelled",
            "name": "awaiter call",
            "reason": "awaiter",
            "by_name": "awaiter client",
        },
        {"what": "cancelled", "name": "awaiter client", **said},
        {"what": "called", **said},
    ]
    assert told(answers["streamed client"])[-1] == {
        "what": "called",
        "reason": "explicit",
        "at": "cancels_reader",
        "by_name": "main",
    }


def test_what_sends_the_requests_of_a_cancelled_call_names_the_same_line(
    answers: dict[str, Answer],
) -> None:
    said = {"reason": "explicit", "at": "cancels_sending", "by_name": "main"}
    assert told(answers["sending requests"]) == [
        {"what": "cancelled", "name": "sending requests", **said},
        {"what": "called", **said},
    ]
    assert told(answers["sending client"])[-1] == {"what": "called", **said}


def test_requests_that_fail_end_their_call_for_whoever_awaits_it(
    answers: dict[str, Answer],
) -> None:
    chain = told(answers["failing client"])
    assert [link["what"] for link in chain] == ["cancelled", "cancelled", "failed"]
    assert chain[1]["reason"] == "grpc.cancelled"
    assert chain[-1] == {
        "what": "failed",
        "name": "failing requests",
        "error": "ValueError: no more",
        "at": "fails",
    }


def test_a_call_that_its_channel_ends_names_the_line_that_closes_it(
    answers: dict[str, Answer],
) -> None:
    said = {"reason": "grpc.closed", "at": "closes_channel", "by_name": "main"}
    said |= done_by(answers["closed call"], "grpc.aio._channel:Channel")
    assert told(answers["closed call"]) == [
        {"what": "cancelled", "name": "closed call", **said},
        {"what": "called", **said},
    ]


@pytest.mark.parametrize("kind", ["unary", "stream"])
def test_a_client_in_the_span_that_sent_the_call_is_joined_by_it(
    audited_python: str, tmp_path: Path, kind: str
) -> None:
    """By the connection it is not: that belongs to grpc, and stays open."""
    pytest.importorskip("opentelemetry.sdk.trace")
    program, log = PROGRAM.with_name("grpc_traced.py"), tmp_path / "log.jsonl"
    done = subprocess.run(
        [audited_python, str(program), kind],
        env=clean_environ(AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(log), GRPC_VERBOSITY="NONE"),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    assert '"connection.close"' not in log.read_text()
    [answer] = aioaudit.load(str(log)).why("handler")
    assert "probably because its client left: " in answer.summary
    assert links(answer, program)[-1].items() >= {"what": "called", "at": "cancels"}.items()
