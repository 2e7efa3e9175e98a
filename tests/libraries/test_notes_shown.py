"""Who shows the notes on errors: those whose reports people read, as they are installed."""

from __future__ import annotations

import asyncio
import io
import logging
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import rich.console
import rich.traceback
import structlog

import aioaudit

sentry_sdk = pytest.importorskip("sentry_sdk")

NOTE = "cancelled because the timeout of 0.01 s at "


@pytest.fixture(autouse=True)
def _notes() -> Iterator[None]:
    with aioaudit.enable(notes=True):
        yield


def report_with(report: Callable[[], object]) -> None:
    """Call *report* where a program does: in the task, in the ``except`` of a timeout."""

    async def main() -> None:
        try:
            async with asyncio.timeout(0.01):
                await asyncio.sleep(60)
        except TimeoutError:
            report()

    asyncio.run(main())


def test_python_itself(capsys: pytest.CaptureFixture[str]) -> None:
    report_with(lambda: sys.__excepthook__(*sys.exc_info()))
    report_with(traceback.print_exc)
    # Of both errors, twice.
    assert capsys.readouterr().err.count(f"\n{NOTE}") == 4


def test_logging() -> None:
    stream = io.StringIO()
    handler = logging.StreamHandler(stream)
    logger = logging.getLogger("tests.notes")
    logger.addHandler(handler)
    report_with(lambda: logger.exception("too slow"))  # noqa: LOG004 - it is in one
    logger.removeHandler(handler)
    assert stream.getvalue().count(f"\n{NOTE}") == 2


def test_rich() -> None:
    console = rich.console.Console(file=io.StringIO(), width=300)
    report_with(console.print_exception)
    file: Any = console.file
    assert NOTE in file.getvalue()


@pytest.mark.parametrize(
    "formatter",
    [structlog.dev.plain_traceback, structlog.dev.RichTracebackFormatter(width=300)],
    ids=["plain", "rich"],
)
def test_structlog_on_a_console(formatter: Any) -> None:
    stream = io.StringIO()
    log = structlog.wrap_logger(
        structlog.PrintLogger(stream),
        processors=[structlog.dev.ConsoleRenderer(colors=False, exception_formatter=formatter)],
    )
    report_with(lambda: log.error("too slow", exc_info=sys.exc_info()))
    assert NOTE in re.sub(r"\x1b\[[\d;]*m", "", stream.getvalue())


def test_structlogs_tracebacks_as_dicts() -> None:
    found: list[Any] = []

    def keep(_logger: Any, _name: str, event: Any) -> str:
        found.append(event["exception"])
        return ""

    log = structlog.wrap_logger(
        structlog.PrintLogger(io.StringIO()),
        processors=[structlog.processors.dict_tracebacks, keep],
    )
    report_with(lambda: log.error("too slow", exc_info=sys.exc_info()))
    [errors] = found
    assert [each["exc_notes"][0].startswith(NOTE) for each in errors] == [True, True]


def test_sentry() -> None:
    sent: list[Any] = []

    class Keeping(sentry_sdk.transport.Transport):  # type: ignore[misc,name-defined]
        def capture_envelope(self, envelope: Any) -> None:
            sent.append(envelope.get_event())

    client = sentry_sdk.Client(
        "http://key@localhost/1", transport=Keeping, default_integrations=False
    )
    with sentry_sdk.isolation_scope() as scope:
        scope.set_client(client)
        report_with(sentry_sdk.capture_exception)
    client.close()
    [event] = sent
    errors = event["exception"]["values"]
    assert [each["type"] for each in errors] == ["CancelledError", "TimeoutError"]
    for each in errors:
        assert each["value"].count(NOTE) == 1


def test_pytest() -> None:
    found: list[str] = []
    report_with(lambda: found.append(str(pytest.ExceptionInfo.from_current().getrepr())))
    [text] = found
    assert text.count(NOTE) == 2
