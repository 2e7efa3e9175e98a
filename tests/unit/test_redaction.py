"""What must not leave the process is replaced in all that does, and in nothing else."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import random
import re
import sys
import time
from collections.abc import Callable, Coroutine, Sequence
from pathlib import Path
from typing import Any

import msgspec.inspect
import pytest

import aioaudit
from aioaudit import events, session
from aioaudit.chain.links import Link
from aioaudit.core import Created, Returned, Site, odd_names, python
from aioaudit.delivery.redacting import Redacting
from aioaudit.events import Event, TaskCancel, TaskDone
from aioaudit.exporters.jsonl import JsonlExporter
from aioaudit.exporters.logging import LoggingExporter
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.live.tasks import Look
from aioaudit.redaction import (
    LONGEST,
    MASK,
    WITH_SECRETS,
    Redaction,
    compiled,
    family_of,
    hide_in_arguments,
    hide_secrets,
)
from aioaudit.settings import REDACTABLE, SettingsError, build, from_environ
from tests.conftest import ROOT

SECRET = "hunter2-and-more"


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        ("https://shop:{}@host/path?x=1", "https://shop:***@host/path?x=1"),
        (
            "cannot reach postgres://shop:p{}@db:5432/x",
            "cannot reach postgres://shop:***@db:5432/x",
        ),
        ("redis://:{}@cache", "redis://:***@cache"),
        ("https://a:p@{}@host", "https://a:***@host"),
        ("amqp://shop:{}…", "amqp://shop:***…"),
        ("password={}", "password=***"),
        ("PGPASSWORD={} psql", "PGPASSWORD=*** psql"),
        ("db_password: {}, retried", "db_password: ***, retried"),
        ("login failed (password:{})", "login failed (password:***)"),
        ("{{'password': '{} with blanks', 'n': 1}}", "{{'password': '***', 'n': 1}}"),
        ('{{"apiKey": "{}"}}', '{{"apiKey": "***"}}'),
        ('{{\\"client_secret\\": \\"{}\\"}}', '{{\\"client_secret\\": \\"***\\"}}'),
        ("Config(access_token={}, retries=3)", "Config(access_token=***, retries=3)"),
        ("accessToken := {}", "accessToken := ***"),
        ("aws_secret_access_key = {}/x+y", "aws_secret_access_key = ***"),
        ("GET /x?X-Amz-Signature={}&page=2", "GET /x?X-Amz-Signature=***&page=2"),
        ("JSESSIONID={}; Path=/", "JSESSIONID=***; Path=/"),
        ("Authorization: Bearer {}", "Authorization: Bearer ***"),
        ("Authorization: Basic {}", "Authorization: Basic ***"),
        ("[('X-Api-Key', '{}')]", "[('X-Api-Key', '***')]"),
        ("refused: Bearer {}", "refused: Bearer ***"),
        ("cookie: a={}; b={}", "cookie: ***"),
        ('{{"password": "a\\"{}", "n": 1}}', '{{"password": "***", "n": 1}}'),
        ("{{'password': 'a\\'{}', 'n': 1}}", "{{'password': '***', 'n': 1}}"),
        ('{{\\"token\\": \\"a\\\\\\"{}\\", \\"n\\": 1}}', '{{\\"token\\": \\"***\\", \\"n\\": 1}}'),
        ("password=it's{}, 'x'", "password=***, 'x'"),
        ("get(auth=('shop', '{}'), n=1)", "get(auth=***, n=1)"),
        ("cookies={{'a': '{}'}} sent", "cookies=*** sent"),
        ('Authorization: Digest username="a", response="{}"', "Authorization: Digest ***"),
        ("X-Api-Key:{} refused", "X-Api-Key:*** refused"),
        ("https://shop:a/{}@host/", "https://shop:***@host/"),
        ("task amqp://shop:{}… with OSError: x", "task amqp://shop:***… with OSError: x"),
        ("no such token: ghp_0123456789abc…", "no such token: ***"),
        ("unknown key sk-proj-01234…", "unknown key ***"),
        (
            "Command '['curl', '--token', '{}']' failed",
            "Command '['curl', '--token', '***']' failed",
        ),
        ("curl --api-token {} --retry 3 failed", "curl --api-token *** --retry 3 failed"),
        ("key AKIAIOSFODNN7EXAMPLE is unknown", "key *** is unknown"),
        ("ghp_0123456789abcdefghijABCDEFGHIJ", "***"),
        ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl has expired", "*** has expired"),
        ("-----BEGIN RSA PRIVATE KEY-----\n{}", "***"),
    ],
)
def test_an_obvious_secret_is_hidden_and_all_else_stays(text: str, hidden: str) -> None:
    assert hide_secrets(text.format(SECRET, SECRET)) == hidden.format()
    assert hide_secrets(hidden.format()) == hidden.format()  # what is hidden already stays so


@pytest.mark.parametrize(
    "text",
    [
        *("Task-12", "page of bread", "fetch https://host:8080/path@x", "max_tokens=4096"),
        *("KeyError: 'token'", "TokenError: bad", "InvalidTokenError: Signature has expired"),
        *("while handling PasswordError: too short", "bearer token expired"),
        *("Basic authentication failed", "shop.auth.token:refresh at shop/token.py:12"),
        *("asked by shop.secret:rotate", "monkey=1 author=x compass=N passenger=7"),
        *("token_url=https://host/token", "--token-file /run/secrets/x", "password_length=8"),
        *("timeout=5", "Password:", "token=", "the loop was blocked by app:parse at b.py:7"),
        "0f8fad5b-d9cb-469f-a165-70867728950e",
    ],
)
def test_what_is_no_secret_is_left_alone(text: str) -> None:
    assert hide_secrets(text) is text


@pytest.mark.parametrize(
    "hostile",
    [
        *(
            "-a.--",
            "-a.pass",
            "--.",
            "-a.",
            "token",
            "secretAKIA",
            "eyJ-",
            "://a:",
            "://a:@",
            "cookie (",
        ),
        *("authorization: digest ", "--password ", 'password="', 'pass\\"', "pass-", "(password:["),
    ],
)
def test_no_text_takes_much_longer_than_others(hostile: str) -> None:
    """It may come from whoever talks to the program, and `re` lets no other thread run meanwhile."""

    def seconds(text: str) -> float:
        text = text[:200]
        found: list[float] = []
        for _ in range(5):
            begun = time.thread_time()
            hide_secrets(text)
            hide_in_arguments([text])
            found.append(time.thread_time() - begun)
        return min(found)

    plain = seconds("login of shop failed, password=hunter2 " * 9)
    assert seconds("--token" + hostile * 200) < 15 * plain
    assert seconds(hostile * 200) < 15 * plain


def test_arguments_lose_the_values_of_options_that_are_secrets() -> None:
    given = (
        f"app.py --password {SECRET} --db-password={SECRET},x --token --verbose -token {SECRET}"
        f" --token-file /run/x url=https://a:{SECRET}@c PGPASSWORD={SECRET};x --port 80 token"
    )
    assert " ".join(hide_in_arguments(given.split())) == (
        "app.py --password *** --db-password=*** --token --verbose -token ***"
        " --token-file /run/x url=https://a:***@c PGPASSWORD=*** --port 80 token"
    )


@pytest.mark.parametrize(
    ("pattern", "text", "hidden"),
    [
        ("customer-*", "order of customer-17, customer-18 done", "order of *** *** done"),
        ("customer-??", "customer-17a", "***a"),
        ("*@example.com", "mail to bob@example.com, bob@other.com", "mail to ***, bob@other.com"),
        ("CUSTOMER-*", "customer-17", "***"),
        ("from * to *", "moved from a.b to c.d now", "moved *** now"),
        ("a.b", "a.b axb", "*** axb"),
        ("*secret*", "my-secret-x public", "*** public"),
    ],
)
def test_a_pattern_is_found_anywhere_and_its_stars_end_at_blanks(
    pattern: str, text: str, hidden: str
) -> None:
    assert compiled(pattern).sub(MASK, text) == hidden


# -- the setting -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "rules"),
    [
        ("", ("secrets",)),
        (" , ", ("secrets",)),
        ("secrets", ("secrets",)),
        ("off", ()),
        (" NO ", ()),
        ("name", ("secrets", "name")),
        (
            "Name=customer-*, argv ,message=* token *",
            ("secrets", "name=customer-*", "argv", "message=* token *"),
        ),
        ("*=order-*,name=*,name", ("secrets", "*=order-*", "name")),
    ],
)
def test_rules_are_keys_and_patterns_beside_the_secrets(value: str, rules: tuple[str, ...]) -> None:
    found = from_environ({"AIOAUDIT": "1", "AIOAUDIT_REDACT": value})
    assert found is not None
    assert found.redact == rules
    assert build(redact=[value]).redact == rules


@pytest.mark.parametrize(
    ("value", "error"),
    [
        (
            "mesage=x",
            "AIOAUDIT_REDACT='mesage=x': 'mesage' is no key of text (did you mean 'message'?); allowed: KEY or KEY=PATTERN",
        ),
        (
            "name,off",
            "AIOAUDIT_REDACT='name,off': 'off' turns redaction off and cannot stand among others",
        ),
        (
            "name=",
            "AIOAUDIT_REDACT='name=': 'name=': there is no pattern; allowed: words in which * stands",
        ),
        ("message=.*token.*", "'message=.*token.*': .* is a regular expression's, write *;"),
        ("message=a.?", "'message=a.?': .? is a regular expression's, write ?;"),
        (r"name=\d+", "\\ means nothing in a pattern, write ? for any one character;"),
        ("name=[0-9]", "[ means nothing in a pattern"),
        ("=x", "'' is no key of text"),
    ],
)
def test_a_rule_that_would_hide_nothing_is_one_clear_error(value: str, error: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(error)):
        from_environ({"AIOAUDIT": "1", "AIOAUDIT_REDACT": value})


def test_each_text_of_each_event_can_be_hidden_by_a_key() -> None:
    known = {family_of(each) for cls in events.AnyEvent.__args__ for each in cls.__struct_fields__}
    assert known - {None} == set(REDACTABLE)
    assert set(WITH_SECRETS) <= set(REDACTABLE)


def test_the_page_lists_every_key_that_a_log_may_hold() -> None:
    page = (ROOT / "docs" / "privacy.md").read_text(encoding="utf-8")
    told: dict[str, tuple[str | None, bool]] = {}
    for row in re.findall(r"^\| (`.*?) \| .* \| (.*?) \| (.*?) \|$", page, re.MULTILINE):
        for key in re.findall(r"`(\w+)`", row[0]):
            assert key not in told, f"{key} is there twice"
            told[key] = (row[1].strip("`") if row[1] != "-" else None, row[2] == "yes")
    fields = {each for cls in events.AnyEvent.__args__ for each in cls.__struct_fields__} | {
        "event"
    }
    assert set(told) == fields  # a new one has to say what may be in it
    for key, (family, looked_for) in told.items():
        assert family == family_of(key), key
        assert looked_for == (family in WITH_SECRETS), key
    texts = {
        field.name
        for cls in events.AnyEvent.__args__
        for field in msgspec.structs.fields(cls)
        if "Str" in repr(msgspec.inspect.type_info(field.type))
    }
    # What no rule reaches is made by aioaudit, or a number of the system's or of OpenTelemetry's.
    assert {each for each in texts if family_of(each) is None} == {
        *("ts", "run", "version", "python", "coverage", "parent_run", "process", "ancestors"),
        *("signal", "faults", "events", "reason", "origin_reason", "other_reason", "kind"),
        *("origin_signal", "network", "trace_id", "span_id", "parent_span_id", "span_kind"),
    }


# -- records -----------------------------------------------------------------------------------


def done(**given: Any) -> TaskDone:
    """An end of a task, with what is *given*."""
    fields: dict[str, Any] = {
        "ts": "",
        "seq": 1,
        "run": "r",
        "pid": 1,
        "thread": "MainThread",
        "task": 1,
        "coro": "app:main",
        "name": "Task-1",
        "outcome": "raised",
    }
    return TaskDone(**(fields | given))


def test_a_key_stands_for_those_that_repeat_it_and_for_what_quotes_it() -> None:
    link = Link(
        what="failed",
        name="customer-17",
        by_name="customer-18",
        error="E: customer-19",
        detail="handed on by task customer-20 with E",
    )
    hidden = Redaction(build(redact="name=customer-*").redact).of(link)
    assert (hidden.name, hidden.by_name) == (MASK, MASK)
    assert hidden.error == "E: customer-19"
    assert hidden.detail == "handed on by task *** with E"
    hidden = Redaction(build(redact="name").redact).of(link)
    assert (hidden.name, hidden.detail) == (MASK, MASK)
    hidden = Redaction(build(redact="*=customer-*").redact).of(link)
    assert hidden.error == "E: ***"


def test_what_may_leave_stays_the_very_same_object() -> None:
    event = done(error="ValueError: bad thing", error_at="/srv/token.py:3")
    assert Redaction().of(event) is event
    assert Redaction(()).of(done(error=f"password={SECRET}")).error == f"password={SECRET}"
    assert Redaction(build(redact="at=/srv/*").redact).of(event).error_at == MASK


def test_a_text_that_is_longer_than_any_of_ours_is_cut_before_it_is_looked_through() -> None:
    long = "x" * LONGEST + f" password={SECRET}"
    hidden = Redaction().of(done(error=long)).error
    assert hidden == "x" * LONGEST + "…"
    start = session_start(["app.py", long])
    assert Redaction().of(start).argv == ["app.py", "x" * LONGEST + "…"]


def session_start(argv: list[str]) -> events.ProcessStart:
    """A first line with these arguments."""
    return events.ProcessStart(
        ts="",
        seq=1,
        run="r",
        pid=1,
        thread="t",
        schema=1,
        version="",
        python="",
        ppid=1,
        argv=argv,
        coverage=[],
    )


def test_both_cores_know_a_plain_name() -> None:
    numbers = random.Random(3)
    letters = "abcXYZ0189_-./=: é"
    names: list[Any] = [
        "",
        "Task-1",
        "a" * 15,
        "a" * 16,
        "a-" * 99,
        "a=b",
        "a:b",
        "a b",
        "é",
        object(),
    ]
    names += ["".join(numbers.choices(letters[:14], k=numbers.randrange(40))) for _ in range(300)]
    names += ["".join(numbers.choices(letters, k=numbers.randrange(9))) for _ in range(300)]

    def records(made: Any, returned: Any, site: Any) -> list[Any]:
        born = [made(at, at, 1, site, name, None) for at, name in enumerate(names, 1)]
        return [*born, *(returned(each.seq, 2, each, 1) for each in born), done()]

    ours = records(Created, Returned, Site(None, 1, None, by_application=False))
    theirs = records(
        python.Created, python.Returned, python.Site(None, 1, None, by_application=False)
    )
    found = odd_names(ours)
    assert found == python.odd_names(theirs)
    odd = {names[at] for at in found if at < len(names)}
    assert {"a" * 16, "a=b", "a:b", "a b", "é"} <= odd
    assert not {"", "Task-1", "a" * 15, "a-" * 99} & odd
    assert found[-1] == len(ours) - 1


# -- everything that leaves --------------------------------------------------------------------


class Plugin:
    """An exporter of somebody else's, which looks at all that it can."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def export(self, given: Sequence[Event]) -> None:
        """Take it down."""
        self.seen += [repr(each) for each in given]

    def flush(self) -> None:
        """Nothing waits."""

    def shutdown(self) -> None:
        """Nothing is open."""


async def in_group(one: Coroutine[Any, Any, None], other: Coroutine[Any, Any, None]) -> None:
    """Run both in one task group."""
    async with asyncio.TaskGroup() as group:
        group.create_task(one, name=f"sibling password={SECRET}")
        group.create_task(other, name=f"failing password={SECRET}")


async def told() -> None:
    """A program with a secret in every text that it has."""

    async def fails() -> None:
        raise ValueError(f"cannot reach https://shop:{SECRET}@host/")

    async def waits() -> None:
        await asyncio.sleep(60)

    async def returns() -> None:
        pass

    named = f"fetch password={SECRET}"
    await asyncio.create_task(returns(), name=named)
    late = asyncio.create_task(waits(), name="late")
    task = asyncio.create_task(waits(), name=named)
    again = asyncio.create_task(waits(), name=f"again token={SECRET}")
    await asyncio.sleep(0)
    late.set_name(f"late secret={SECRET}")
    task.cancel(f"token={SECRET}")
    for _ in range(3):
        other = asyncio.create_task(waits(), name=f"other password={SECRET}")
        await asyncio.sleep(0)
        other.cancel()
        await asyncio.wait([other])
    again.cancel()
    late.cancel()
    await asyncio.wait([task, again, late])
    with pytest.raises(ExceptionGroup):
        await in_group(waits(), fails())
    living = asyncio.create_task(waits(), name="living")
    await asyncio.sleep(0)
    living.set_name(f"living password={SECRET}")
    session_now = session.current()
    assert session_now is not None
    look = Look(session_now.recorder.state, list, session_now.recorder.redaction)
    lines, _ = look.tasks(100)
    assert SECRET not in b"".join(lines).decode()
    assert SECRET not in str(look.facts())
    raised: list[str] = []
    try:
        with aioaudit.enable(notes=True):
            living.cancel(f"password={SECRET}")
            await living
    except asyncio.CancelledError as error:
        raised += getattr(error, "__notes__", [])
    assert raised
    assert "(message: password=***)" in raised[0]
    assert SECRET not in raised[0]


def test_no_exporter_gets_a_secret(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--token", SECRET, f"https://a:{SECRET}@b"])
    caplog.set_level(logging.DEBUG)
    memory, stream, plugin = MemoryExporter(), io.BytesIO(), Plugin()
    dumped = tmp_path / "dump.jsonl"
    raised: list[str] = []
    listening = [True]

    def listen(event: str, args: tuple[object, ...]) -> None:
        if listening and event.startswith("aioaudit."):
            raised.append(repr(args))

    sys.addaudithook(listen)
    exporters: tuple[Any, ...] = (memory, JsonlExporter(stream), LoggingExporter(), plugin)
    with aioaudit.enable(*exporters, "sys", "jsonl", "recorder", jsonl_path=tmp_path / "a.jsonl"):
        asyncio.run(told())
        aioaudit.dump(dumped)
    listening.clear()
    everything = {
        "memory": repr(memory.events),
        "stream": stream.getvalue().decode(),
        "plugin": "".join(plugin.seen),
        "file": (tmp_path / "a.jsonl").read_text(),
        "recorder": dumped.read_text(),
        "sys": "".join(raised),
    }
    for name, text in everything.items():
        assert SECRET not in text, name
        assert "password=***" in text, name
        assert "https://shop:***@host/" in text, name
    assert SECRET not in caplog.text + "".join(repr(vars(each)) for each in caplog.records)
    lines = [json.loads(line) for line in everything["file"].splitlines()]
    assert lines[0]["argv"] == ["app.py", "--token", "***", "https://a:***@b"]
    assert [each["seq"] for each in lines] == sorted({each["seq"] for each in lines})


def test_the_program_itself_is_told_all_of_it() -> None:
    heard: list[TaskCancel] = []

    def hook(event: str, args: tuple[Any, ...]) -> None:
        if event == "task.cancel":
            heard.append(args[0])

    async def main() -> aioaudit.Answer | None:
        task = asyncio.create_task(asyncio.sleep(60))
        await asyncio.sleep(0)
        task.cancel(f"password={SECRET}")
        await asyncio.wait([task])
        return aioaudit.why(task)

    aioaudit.addaudithook(hook)
    try:
        with aioaudit.enable():
            answer = asyncio.run(main())
    finally:
        aioaudit.bus.remove(hook)
    assert answer is not None
    assert answer.root.message == f"password={SECRET}"
    assert heard[0].message == f"password={SECRET}"


def run_named(*names: str) -> Callable[[], None]:
    """What runs a task of each name, one after the other."""

    async def main() -> None:
        for name in names:
            await asyncio.create_task(asyncio.sleep(0), name=name)

    return lambda: asyncio.run(main())


def test_what_happened_while_a_call_had_its_say_goes_by_that() -> None:
    redacting = Redacting()
    redacting.follow(("name=customer-*",), 2)
    redacting.follow((), 4)
    ended = [done(seq=seq, name=f"customer-{seq}", error="password=x") for seq in range(1, 7)]
    told = redacting.records(list(ended))
    assert [each.name for each in told if isinstance(each, TaskDone)] == [
        *(MASK, MASK, MASK, MASK, "customer-5", "customer-6")  # rather more than less
    ]
    errors = [each.error for each in told if isinstance(each, TaskDone)]
    assert errors == ["password=***"] * 2 + ["password=x"] * 4
    redacting.follow(("name=*-5",), 6)  # what is stricter goes for what was there before, too
    assert redacting.records(list(ended[4:5])) == [done(seq=5, name=MASK, error="password=x")]
    redacting.after_fork()
    assert redacting.records(list(ended[2:3])) == ended[2:3]


def test_of_many_rules_the_last_ones_are_known() -> None:
    redacting = Redacting()
    for number in range(30):
        redacting.follow((f"name=other-{number}",), 2 * number)
        redacting.follow(("secrets",), 2 * number + 1)
    redacting.follow((), 60)
    assert redacting.records([done(seq=60, error="password=x")]) == [
        done(seq=60, error="password=***")
    ]


def test_the_end_of_a_call_lets_nothing_out_that_waits() -> None:
    memory = MemoryExporter()
    with aioaudit.enable(memory):
        with aioaudit.enable(redact="name=customer-*"):
            run_named("customer-1")()
        run_named("customer-2")()
    names = {getattr(each, "name", None) for each in memory.events}
    assert "customer-1" not in names
    assert "customer-2" in names


def test_off_holds_for_the_line_that_opens_the_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["app.py", "--token", SECRET])
    for redact, told in ("off", SECRET), ("secrets", MASK):
        memory = MemoryExporter()
        with aioaudit.enable(memory, redact=redact):
            run_named("a")()
        [start] = [each for each in memory.events if isinstance(each, events.ProcessStart)]
        assert start.argv == ["app.py", "--token", told]


def test_a_recording_leaves_what_the_environment_asks_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("AIOAUDIT_REDACT", "name")
    memory = MemoryExporter()
    with aioaudit.enable(memory):
        with aioaudit.recording():
            run_named("customer-1")()
        run_named("customer-2")()
    assert "customer" not in repr(memory.events)
