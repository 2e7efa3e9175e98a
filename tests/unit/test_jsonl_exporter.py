"""Lines of JSON in files: whole ones, in the right file, whatever happens to it."""

from __future__ import annotations

import errno
import io
import json
import os
import re
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aioaudit.delivery.pipeline import Pipeline
from aioaudit.events import AnyEvent, TaskCancel
from aioaudit.exporter import Exporter, ExporterError, NotTakenError
from aioaudit.exporters.jsonl import JsonlExporter
from aioaudit.exporters.memory import MemoryExporter
from aioaudit.identity import Run
from tests.logs import read

RUN = Run()
START = RUN.start_event(["everything"])


def event(**more: Any) -> TaskCancel:
    keys: dict[str, Any] = {"name": "worker-1", "task": 7, "coro": "app:work", "accepted": True}
    return TaskCancel(
        ts="2026-01-01T00:00:00.000000Z",
        seq=RUN.next_seq(),
        run=RUN.id,
        pid=RUN.pid,
        thread="MainThread",
        **keys | more,
    )


@pytest.fixture
def exporter_of() -> Iterator[Callable[..., JsonlExporter]]:
    made: list[JsonlExporter] = []

    def make(target: Any) -> JsonlExporter:
        made.append(JsonlExporter(target))
        return made[-1]

    yield make
    for each in made:
        each.shutdown()


MakeExporter = Callable[..., JsonlExporter]


# -- files ---------------------------------------------------------------------------


def test_a_line_that_another_process_is_just_writing_is_no_torn_one(
    exporter_of: MakeExporter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if sys.platform == "linux":  # the kernel says when that is done: no time need pass for it
        monkeypatch.setattr("aioaudit.exporters.jsonl.sleep", lambda _seconds: None)
    path = tmp_path / "shared.jsonl"
    path.touch(mode=0o600)
    line = b"x" * 200_000_000 + b"\n"

    def write() -> None:  # as another process does; the file grows page by page
        with path.open("ab", buffering=0) as file:
            file.write(line)

    writer = threading.Thread(target=write)
    writer.start()
    while path.stat().st_size == 0:
        pass
    exporter_of(path).export([event()])
    writer.join()
    written = path.read_bytes()
    path.unlink()  # tests keep what they write
    first, ours, rest = written.split(b"\n")
    assert (len(first), rest) == (len(line) - 1, b"")
    assert json.loads(ours)["event"] == "task.cancel"


def test_it_is_an_exporter() -> None:
    assert isinstance(JsonlExporter("nowhere"), Exporter)


def test_what_is_exported_is_in_the_file_at_once_and_reads_back_equal(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    path = tmp_path / "log.jsonl"
    exporter = exporter_of(path)
    events = [START, event(), event(reason="timeout", cause=3)]
    exporter.export(events)
    assert read(path) == events


def test_nothing_is_created_before_the_first_export(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    exporter = exporter_of(tmp_path / "log.jsonl")
    exporter.flush()
    exporter.export([])
    exporter.shutdown()
    assert list(tmp_path.iterdir()) == []


def test_pid_in_the_path_stands_for_the_number_of_the_process(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    exporter_of(tmp_path / "a-{pid}-{other}.jsonl").export([START])
    assert [each.name for each in tmp_path.iterdir()] == [f"a-{os.getpid()}-{{other}}.jsonl"]


def test_a_relative_path_stays_in_the_folder_where_the_exporter_was_made(
    tmp_path: Path, exporter_of: MakeExporter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    exporter = exporter_of("log.jsonl")
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    exporter.export([START])
    assert read(tmp_path / "log.jsonl") == [START]


def test_a_new_file_is_for_its_owner_only(tmp_path: Path, exporter_of: MakeExporter) -> None:
    path = tmp_path / "log.jsonl"
    before = os.umask(0)
    try:
        exporter_of(path).export([START])
    finally:
        os.umask(before)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_an_existing_file_is_appended_to_and_keeps_its_mode(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    path = tmp_path / "log.jsonl"
    exporter_of(path).export([START])
    path.chmod(0o644)
    later = [Run().start_event([]), event()]
    exporter_of(path).export(later)
    assert read(path) == [START, *later]
    assert stat.S_IMODE(path.stat().st_mode) == 0o644


@pytest.mark.parametrize("name", ["log.jsonl", "log-{pid}.jsonl"])
def test_after_a_line_that_was_cut_off_the_next_one_begins_a_line(
    tmp_path: Path, exporter_of: MakeExporter, name: str
) -> None:
    path = tmp_path / name.replace("{pid}", str(os.getpid()))
    path.write_bytes(b'{"event":"task.crea')
    exporter_of(tmp_path / name).export([START])
    assert path.read_bytes().splitlines()[0] == b'{"event":"task.crea'
    assert msgspec.json.decode(path.read_bytes().splitlines()[1], type=AnyEvent) == START


def test_the_descriptor_is_not_inherited_by_programs(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    before = open_descriptors()
    exporter_of(tmp_path / "log.jsonl").export([START])
    [fd] = open_descriptors() - before
    assert not os.get_inheritable(fd)


def test_shutdown_closes_the_file_and_a_later_export_opens_it_again(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    path = tmp_path / "log.jsonl"
    exporter = exporter_of(path)
    before = open_descriptors()
    exporter.export([START])
    exporter.shutdown()
    assert open_descriptors() == before
    exporter.shutdown()
    last = event()
    exporter.export([last])
    assert read(path) == [START, START, last]


def open_descriptors() -> set[int]:
    return {int(each.name) for each in Path("/dev/fd").iterdir() if each.exists()}


# -- text -----------------------------------------------------------------------------

NASTY = [
    "plain",
    'quotes " and \\ backslashes',
    "new\nlines\r\nand\x85other\u2028separators\x0b\x0c\x1c",
    "\x1b[31mescapes\x07\x00",
    "ümläut 日本 😀",
    "lone \udc80 surrogates \ud800",
    "x" * 10_000,
]


@pytest.mark.parametrize("text", NASTY)
@pytest.mark.parametrize("name", ["log.jsonl", "log-{pid}.jsonl"])
def test_no_text_breaks_a_line(
    tmp_path: Path, exporter_of: MakeExporter, name: str, text: str
) -> None:
    start = RUN.start_event([text])
    pipeline = Pipeline(exporter_of(tmp_path / name), name="jsonl", run=RUN, start=start)
    cancelled = event(name=text, message=text, detail=text, origin_error=text)
    after = event()
    pipeline.put(cancelled)
    pipeline.put(after)
    assert pipeline.shutdown()
    [path] = tmp_path.iterdir()
    *lines, rest = path.read_bytes().split(b"\n")
    assert rest == b""
    objects = [json.loads(line) for line in lines]
    assert [(each["event"], each["seq"]) for each in objects] == [
        ("process.start", start.seq),
        ("task.cancel", cancelled.seq),
        ("task.cancel", after.seq),
        ("process.end", after.seq + 1),
    ]
    expected = text.encode("utf-8", "backslashreplace").decode()
    assert objects[0]["coverage"] == [expected]
    texts = {objects[1][key] for key in ("name", "message", "detail", "origin_error")}
    assert texts == {expected}


# -- rotation and forks --------------------------------------------------------------


@pytest.mark.parametrize("name", ["log.jsonl", "log-{pid}.jsonl"])
def test_when_the_file_is_moved_away_a_new_one_begins_with_the_process_start(
    tmp_path: Path, exporter_of: MakeExporter, name: str
) -> None:
    path = tmp_path / name.replace("{pid}", str(os.getpid()))
    exporter = exporter_of(tmp_path / name)
    first, second, third = event(), event(), event()
    exporter.export([START, first])
    path.rename(tmp_path / "old")
    exporter.export([second])
    exporter.export([third])
    assert read(tmp_path / "old") == [START, first]
    assert read(path) == [START, second, third]


def test_when_the_file_is_removed_a_new_one_begins_with_the_process_start(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    path = tmp_path / "log.jsonl"
    exporter = exporter_of(path)
    exporter.export([START, event()])
    path.unlink()
    last = event()
    exporter.export([last])
    assert read(path) == [START, last]


def test_when_the_file_is_emptied_in_place_it_begins_with_the_process_start_again(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    path = tmp_path / "log.jsonl"
    exporter = exporter_of(path)
    exporter.export([START, event()])
    os.truncate(path, 0)
    last = event()
    exporter.export([last])
    assert read(path) == [START, last]


def test_when_the_rotator_made_the_new_file_already_it_is_used(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    path = tmp_path / "log.jsonl"
    exporter = exporter_of(path)
    exporter.export([START])
    path.rename(tmp_path / "old")
    path.touch(mode=0o640)
    last = event()
    exporter.export([last])
    assert read(path) == [START, last]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640


def test_a_descriptor_that_became_another_file_is_left_alone(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    """A daemon that closes every descriptor and opens its own must not find our lines in them."""
    path, foreign = tmp_path / "log.jsonl", tmp_path / "foreign"
    before = open_descriptors()
    exporter = exporter_of(path)
    exporter.export([START])
    [ours] = open_descriptors() - before
    other = os.open(foreign, os.O_WRONLY | os.O_CREAT)
    os.dup2(other, ours)
    os.close(other)
    last = event()
    exporter.export([last])
    assert foreign.read_bytes() == b""
    assert read(path) == [START, START, last]
    os.write(ours, b"still open")
    os.close(ours)
    assert foreign.read_bytes() == b"still open"


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts writes in /proc")
@pytest.mark.parametrize("name", ["log.jsonl", "log-{pid}.jsonl"])
def test_a_batch_is_one_write_however_many_share_the_file(
    tmp_path: Path, exporter_of: MakeExporter, name: str
) -> None:
    # Each write gives up the GIL, and it may take long to get it back.
    def writes() -> int:
        found = re.search(r"syscw: (\d+)", Path("/proc/self/io").read_text())
        return int(found[1]) if found else 0

    exporter = exporter_of(tmp_path / name)
    exporter.export([START])
    before = writes()
    exporter.export([START] * 500)
    assert writes() == before + 1


# -- trouble ----------------------------------------------------------------------------


def test_a_folder_that_does_not_exist_is_an_error_that_says_what_would_be_right(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    path = tmp_path / "no" / "log-{pid}.jsonl"
    with pytest.raises(ExporterError) as caught:
        exporter_of(path).export([START])
    resolved = str(path).replace("{pid}", str(os.getpid()))
    assert str(caught.value) == (
        f"cannot open '{resolved}' for writing: No such file or directory; path_or_stream "
        f"(here '{path}') must name a file that can be written, in a folder that exists"
    )
    assert not path.parent.exists()


def test_a_folder_in_place_of_a_file_is_an_error_too(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    with pytest.raises(ExporterError, match=re.escape(os.strerror(errno.EISDIR))):
        exporter_of(tmp_path).export([START])


def test_a_bad_path_is_one_line_on_stderr_and_the_program_runs_on(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = Run()
    pipeline = Pipeline(
        JsonlExporter(tmp_path / "no" / "x.jsonl"),
        name="jsonl",
        run=run,
        start=run.start_event([]),
    )
    pipeline.open_now()
    assert not pipeline.shutdown()
    assert capsys.readouterr().err == (
        f"aioaudit: exporter 'jsonl' failed and is out of service: cannot open "
        f"'{tmp_path}/no/x.jsonl' for writing: No such file or directory; path_or_stream "
        f"(here '{tmp_path}/no/x.jsonl') must name a file that can be written, in a folder that "
        "exists\n"
    )


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_a_full_disk_takes_nothing_and_says_so(exporter_of: MakeExporter) -> None:
    with pytest.raises(NotTakenError) as caught:
        exporter_of("/dev/full").export([START])
    assert str(caught.value) == (
        "cannot write to '/dev/full': No space left on device"
        " (make room, or name another place in path_or_stream)"
    )
    assert caught.value.taken == 0


def test_when_the_folder_goes_away_the_events_wait_for_it_to_come_back(
    tmp_path: Path, exporter_of: MakeExporter
) -> None:
    folder = tmp_path / "logs"
    folder.mkdir()
    path = folder / "log.jsonl"
    exporter = exporter_of(path)
    exporter.export([START])
    path.unlink()
    folder.rmdir()
    last = event()
    with pytest.raises(NotTakenError, match="cannot open"):
        exporter.export([last])
    folder.mkdir()
    exporter.export([last])
    assert read(path) == [START, last]


@pytest.mark.skipif(sys.platform == "win32", reason="named pipes")
def test_a_named_pipe_without_a_reader_does_not_hold_the_program_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    run = Run()
    pipeline = Pipeline(JsonlExporter(path), name="jsonl", run=run, start=run.start_event([]))
    pipeline.open_now()
    assert not pipeline.shutdown(timeout=0.2)  # to open the pipe would wait for ever
    assert "did not finish within 0.2 s" in capsys.readouterr().err
    reader = os.open(path, os.O_RDONLY)  # lets the thread come to its end
    try:
        data = b""
        while b"process.end" not in data:
            data += os.read(reader, 65536)
    finally:
        os.close(reader)


# -- streams ----------------------------------------------------------------------------


def test_a_stream_of_bytes_is_written_flushed_and_left_open(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    events = [START, event()]
    with path.open("wb") as stream:
        exporter = JsonlExporter(stream)
        exporter.export(events)
        exporter.flush()
        exporter.shutdown()
        assert read(path) == events
        assert not stream.closed


def test_a_stream_of_text_is_written_flushed_and_left_open(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    events = [START, event(name="ümläut 日本 😀")]
    with path.open("w", encoding="utf-8") as stream:
        exporter = JsonlExporter(stream)
        exporter.export(events)
        exporter.shutdown()
        assert read(path) == events
        assert not stream.closed


def test_a_stream_in_another_encoding_gets_the_same_text_escaped(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    events = [START, event(name="ümläut 日本 😀")]
    with path.open("w", encoding="ascii") as stream:
        JsonlExporter(stream).export(events)
    assert path.read_bytes().isascii()
    assert read(path) == events


def test_a_raw_stream_that_takes_little_at_a_time_gets_everything() -> None:
    class Slow(io.RawIOBase):
        data = b""

        def writable(self) -> bool:
            return True

        def write(self, data: Any) -> int:
            self.data += bytes(data[:10])
            return min(10, len(data))

    stream = Slow()
    JsonlExporter(stream).export([START])  # type: ignore[arg-type]  # a BinaryIO in all but name
    assert msgspec.json.decode(stream.data, type=AnyEvent) == START


def test_anything_with_a_write_method_is_a_stream() -> None:
    class Sink:
        def __init__(self) -> None:
            self.parts: list[bytes] = []

        def write(self, data: bytes) -> None:
            self.parts.append(bytes(data))

    sink = Sink()
    JsonlExporter(sink).export([START])  # type: ignore[arg-type]  # less than a BinaryIO is enough
    assert msgspec.json.decode(b"".join(sink.parts), type=AnyEvent) == START


def test_a_closed_stream_takes_the_exporter_out_of_service(
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = Run()
    stream = io.BytesIO()
    stream.close()
    pipeline = Pipeline(JsonlExporter(stream), name="jsonl", run=run, start=run.start_event([]))
    pipeline.open_now()
    assert not pipeline.shutdown()
    assert capsys.readouterr().err == (
        "aioaudit: exporter 'jsonl' failed and is out of service: "
        "ValueError: I/O operation on closed file.\n"
    )


def test_what_is_neither_path_nor_stream_is_refused() -> None:
    with pytest.raises(TypeError) as caught:
        JsonlExporter(5)  # type: ignore[arg-type]  # that is the point
    assert str(caught.value) == "JsonlExporter takes a path or a stream with a write method, not 5"


def test_a_file_and_a_list_get_the_same_events(tmp_path: Path, exporter_of: MakeExporter) -> None:
    memory = MemoryExporter()
    events = [START, event(), event(origin="deadline", origin_seconds=0.5)]
    exporter_of(tmp_path / "log.jsonl").export(events)
    memory.export(events)
    assert read(tmp_path / "log.jsonl") == memory.events
