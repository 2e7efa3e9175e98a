"""``aioaudit export``: a log as spans, sent to a collector or written to a file, or as a picture."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import IO, TYPE_CHECKING, cast

import click

from aioaudit.cli.processes import readable
from aioaudit.cli.terminal import (
    OutputClosed,
    counted,
    is_one_of,
    named,
    plural,
    print_line,
    progress,
    report_problems,
    say,
)
from aioaudit.errors import AioauditError
from aioaudit.exporter import ExporterError
from aioaudit.exporters.otel.facts import SpanFacts
from aioaudit.exporters.otel.otlp_json import JsonWriter
from aioaudit.exporters.otel.replay import LogReplay, Tell
from aioaudit.exporters.otel.upload import Collector
from aioaudit.exporters.perfetto.picture import Picture, Shape
from aioaudit.live.client import LiveError
from aioaudit.log.ordered import read_in_order
from aioaudit.log.store import EventSink
from aioaudit.opening import PlantedError, open_to_write
from aioaudit.settings import OTEL_TASKS_VARIABLE, Settings, SettingsError, build

if TYPE_CHECKING:
    from aioaudit.exporters.perfetto.packets import PacketWriter

DONE, NOTHING, BAD, REFUSED = 0, 1, 2, 3
"""Exit statuses: all spans are there, the log has none, a bad call or log, some did not arrive."""

OTLP, OTLP_JSON, PERFETTO = "otlp", "otlp-json", "perfetto"

_FILES = {OTLP_JSON: "trace.json", PERFETTO: "trace.pftrace"}
"""What needs the name of a file after it, and such a name."""


class _Command(click.Command):
    """Lets the word after ``--to otlp-json`` or ``--to perfetto`` be the file, wherever they stand."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Give that word an option of its own."""
        given: list[str] = []
        rest = iter(args)
        for arg in rest:
            given.append(arg)
            if arg == "--":
                break
            if arg == "--to":
                given.extend(islice(rest, 1))
            target = given[-1] if arg == "--to" else arg.removeprefix("--to=")
            if target in _FILES and arg != target:
                file = next(rest, None)
                if file is None:
                    raise click.UsageError(
                        f"--to {target} needs the FILE to write: --to {target} {_FILES[target]}, "
                        "or - for standard output",
                        ctx,
                    )
                given.append(f"--file={file}")
        return super().parse_args(ctx, [*given, *rest])


@click.command("export", cls=_Command)
@click.argument("logs", metavar="LOG...", nargs=-1, required=True)
@click.option(
    "--to",
    "target",
    type=click.Choice([OTLP, OTLP_JSON, PERFETTO]),
    required=True,
    metavar=f"({OTLP} | {OTLP_JSON} FILE | {PERFETTO} FILE)",
    help="A collector that speaks OTLP, a file of OTLP JSON, or a trace for Perfetto's UI"
    " (- for standard output).",
)
@click.option("--file", hidden=True)
@click.option(
    "--endpoint",
    metavar="URL",
    help="The collector; by default that of OTEL_EXPORTER_OTLP_ENDPOINT, else localhost.",
)
def command(logs: tuple[str, ...], target: str, file: str | None, endpoint: str | None) -> int:
    """Show a log in a trace view.

    LOG is a file, a folder (all *.jsonl files in it, also rotated and compressed), - for
    standard input, or the number of a process that runs with AIOAUDIT=recorder.  Its
    cancellations become the spans that AIOAUDIT=otel would have sent, with the same ids
    each time. AIOAUDIT_OTEL_TASKS, AIOAUDIT_OTEL_STATUS and the OTEL_* variables hold as
    they do there.  For Perfetto all tasks are drawn.

    Exit status: 0 if all spans are there, 1 if the log has none, 2 for a bad
    call or an unreadable log, 3 if the collector did not take all of them.
    """
    try:
        settings = build("jsonl", environ=os.environ)
        if target == OTLP:
            return _send(logs, settings, endpoint)
        if endpoint is not None:
            raise click.UsageError(f"--endpoint is for --to {OTLP}: a file is sent nowhere")
        name = cast(str, file)
        if name != "-" and any(is_one_of(log, Path(name)) for log in logs):
            raise click.UsageError(f"{name} is one of the logs; name another file to write")
        if target == PERFETTO:
            return _draw(logs, name)
        return _write(logs, settings, name)
    except (SettingsError, ExporterError, LiveError) as error:
        say(str(error))
    except OSError as error:
        say(f"cannot read {error.filename or 'standard input'}: {error.strerror}")
    return BAD


def _send(logs: tuple[str, ...], settings: Settings, endpoint: str | None) -> int:
    for package in ("opentelemetry", "opentelemetry.sdk"):
        if find_spec(package) is None:
            raise ExporterError(
                f"--to {OTLP} needs opentelemetry-sdk, which is not installed: "
                "pip install 'aioaudit[otel]'"
            )
    collector = Collector(endpoint)
    found = _read(logs, settings, collector.take)
    collector.finish()
    missing = collector.taken - collector.arrived
    if missing:
        why = collector.why or "the collector did not say why"
        say(
            f"{missing:,} of {collector.taken:,} {plural('span', collector.taken)} "
            f"did not arrive: {why}"
        )
        return REFUSED
    if not collector.taken:
        return _nothing(found, logs)
    print_line(f"{collector.taken:,} {plural('span', collector.taken)} sent")
    return DONE


def _write(logs: tuple[str, ...], settings: Settings, name: str) -> int:
    with ExitStack() as closing:
        file = _SpanFile(name, closing)
        try:
            found = _read(
                logs, settings, file.take, file.begin_again if file.can_begin_again else None
            )
            written = file.finish()
            if not written:
                return _nothing(found, logs)
        except _NotWrittenError as error:
            say(f"cannot write {name}: {error}")
            return BAD
    if name != "-":
        print_line(f"{written:,} {plural('span', written)} written to {name}")
    return DONE


def _draw(logs: tuple[str, ...], name: str) -> int:
    if find_spec("perfetto") is None:
        raise ExporterError(
            f"--to {PERFETTO} needs perfetto, which is not installed: "
            "pip install 'aioaudit[perfetto]'"
        )
    with ExitStack() as closing:
        file = _TraceFile(name, closing)
        picture = Picture(file.draw)
        try:
            with readable(logs) as files, progress() as report:
                found = read_in_order(files, picture.take_all, progress=report)
            picture.finish()
            report_problems(found)
            if not found.events:
                return _nothing(found, logs)
            file.finish()
        except _NotWrittenError as error:
            say(f"cannot write {name}: {error}")
            return BAD
    if name != "-":
        tasks, requests = picture.tasks, picture.requests
        print_line(
            f"{tasks:,} {plural('task', tasks)}, {requests:,} {plural('request', requests)} to "
            f"cancel drawn in {name}: open it at https://ui.perfetto.dev"
        )
    return DONE


class _NotWrittenError(AioauditError):
    """What went wrong with the file that was to be written, not with a log."""


class _File:
    """The file to write, opened when there is something to write."""

    def __init__(self, name: str, closing: ExitStack) -> None:
        self._name = name
        self._closing = closing

    def _open(self) -> IO[bytes]:
        if self._name == "-":
            return sys.stdout.buffer
        try:
            fd = open_to_write(self._name, append=False, mode=0o666)
        except PlantedError as error:
            raise _NotWrittenError(str(error)) from None
        return self._closing.enter_context(os.fdopen(fd, "wb"))

    @contextmanager
    def _failing(self) -> Generator[None]:
        try:
            yield
        except BrokenPipeError:  # whoever reads standard output has enough
            raise OutputClosed from None
        except OSError as error:
            raise _NotWrittenError(error.strerror) from None


class _SpanFile(_File):
    """A file of spans."""

    writer: JsonWriter | None = None

    @property
    def can_begin_again(self) -> bool:
        """Whether what was written can be taken back."""
        path = Path(self._name)
        with self._failing():
            return self._name != "-" and (path.is_file() or not path.exists())

    def begin_again(self) -> None:
        """Take back what was written."""
        if self.writer is not None:
            with self._failing():
                self.writer.begin_again()

    def take(self, pid: int, spans: Sequence[SpanFacts]) -> None:
        """Write *spans*."""
        with self._failing():
            if self.writer is None:
                self.writer = JsonWriter(self._open())
            self.writer.take(pid, spans)

    def finish(self) -> int:
        """Write the end; how many spans were written."""
        if self.writer is None:
            return 0
        with self._failing():
            self.writer.finish()
            self._closing.close()
        return self.writer.written


class _TraceFile(_File):
    """A trace of Perfetto."""

    writer: PacketWriter | None = None

    def draw(self, shape: Shape) -> None:
        """Write *shape*."""
        from aioaudit.exporters.perfetto.packets import PacketWriter  # it needs perfetto

        with self._failing():
            if self.writer is None:
                self.writer = PacketWriter(self._open())
            self.writer.draw(shape)

    def finish(self) -> None:
        """All is written."""
        with self._failing():
            self._closing.close()


def _read(
    logs: tuple[str, ...],
    settings: Settings,
    tell: Tell,
    take_back: Callable[[], None] | None = None,
) -> EventSink:
    """Give the spans of *logs* to *tell*; after *take_back*, all of them once more."""
    spans = LogReplay(settings.otel_tasks, settings.otel_status, tell)

    def again() -> None:
        spans.forget()
        if take_back is not None:
            take_back()

    with readable(logs) as files, progress() as report:
        found = read_in_order(
            files,
            spans.take,
            take_brief=spans.take_brief if spans.plain else None,
            again=None if take_back is None else again,
            progress=report,
        )
    spans.finish()
    report_problems(found)
    return found


def _nothing(found: EventSink, logs: tuple[str, ...]) -> int:
    if not found.events:
        say(f"no event of aioaudit in {named(logs)}: there is nothing to export")
        return BAD
    say(
        f"no task to show in this log ({counted(found)}): none was "
        f"touched by a cancellation or an error; {OTEL_TASKS_VARIABLE}=all shows the others too"
    )
    return NOTHING
