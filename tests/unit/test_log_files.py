"""Logs as files are: rotated, compressed, cut off, given twice; with clocks and zones of their own."""

from __future__ import annotations

import gzip
import lzma
import random
import shutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aioaudit.cli.terminal import counted, problems
from aioaudit.events import Event, ProcessDropped, ProcessStart, TaskCancel, TaskCreate
from aioaudit.log import Log, load
from aioaudit.log import sources as log_sources
from aioaudit.log.answering import load_to_answer
from aioaudit.log.sources import sources_of


def base(seq: int, run: str = "r1", ts: str | None = None) -> dict[str, Any]:
    return {
        "ts": ts or f"2026-11-22T14:{seq // 60:02d}:{seq % 60:02d}.000000Z",
        "seq": seq,
        "run": run,
        "pid": 4711,
        "thread": "MainThread",
    }


def about(task: int) -> dict[str, Any]:
    return {"task": task, "name": f"T{task}", "coro": "app:work"}


def cancel(seq: int, task: int, **more: Any) -> TaskCancel:
    keys = {**base(seq), **about(task), "accepted": True, "reason": "shutdown", **more}
    return TaskCancel(**{"origin": "shutdown", **keys})


def lines(*events: Event) -> bytes:
    return b"".join(msgspec.json.encode(event) + b"\n" for event in events)


HEAD = ProcessStart(
    **base(1), schema=1, version="9", python="3", ppid=1, argv=["app.py"], coverage=[]
)
LOG = lines(HEAD, *(cancel(seq, seq) for seq in range(2, 402)))


def said(log: Log) -> list[str]:
    return list(problems(log))


def answered(log: Log) -> list[int]:
    return [answer.task for answer in log.why()]


# -- which files, and in which order -----------------------------------------------------------


@pytest.mark.parametrize(
    "names",
    [
        ["a.jsonl.10.gz", "a.jsonl.9.gz", "a.jsonl.1", "a.jsonl"],
        ["a.jsonl-20261129.gz", "a.jsonl-20261130", "a.jsonl"],
        ["a.jsonl-20261129-08.xz", "a.jsonl-20261129-23.xz", "a.jsonl"],
        ["a.jsonl-1764500000.zst", "a.jsonl-1764503600.zst", "a.jsonl"],
        ["a.jsonl.2026-11-29", "a.jsonl.2026-11-30", "a.jsonl"],
        ["a.jsonl.2.gz", "a.jsonl", "b.jsonl.1", "b.jsonl"],
    ],
)
def test_of_one_log_the_oldest_file_comes_first(names: list[str], tmp_path: Path) -> None:
    for name in (*names, "notes.txt", "a.jsonl.bak", "jsonl.1"):
        (tmp_path / name).touch()
    expected = [str(tmp_path / name) for name in names]
    assert [source.name for source in sources_of(tmp_path)] == expected
    by_name = sorted(names)  # as a shell has them
    assert [source.name for source in sources_of([str(tmp_path / each) for each in by_name])] == (
        expected
    )


def test_files_that_are_named_keep_their_order_where_they_are_of_different_logs() -> None:
    names = ["z.jsonl", "a.jsonl", "other.log", "-", "a.jsonl.1"]
    assert [source.name for source in sources_of(names)] == [
        "z.jsonl",
        "a.jsonl.1",
        "a.jsonl",
        "other.log",
        "-",
    ]


# -- compressed files --------------------------------------------------------------------------

ZSTD = next(
    (each for each in ("compression.zstd", "backports.zstd") if log_sources.is_there(each)), None
)
COMPRESS: dict[str, Callable[[bytes], bytes]] = {"gz": gzip.compress, "xz": lzma.compress}
if ZSTD is not None:
    COMPRESS["zst"] = import_module(ZSTD).compress


@pytest.mark.parametrize("how", COMPRESS)
def test_a_compressed_log_is_read_as_it_is(how: str, tmp_path: Path) -> None:
    half = LOG.index(b"\n", len(LOG) // 2) + 1
    file = tmp_path / f"a.jsonl.1.{how}"
    compress = COMPRESS[how]
    file.write_bytes(compress(LOG[:half]) + compress(LOG[half:]))  # as `cat` joins two of them
    log = load(file)
    assert (said(log), log.events, answered(log)) == ([], 401, list(range(2, 402)))


@pytest.mark.parametrize("how", COMPRESS)
def test_of_a_compressed_log_that_is_half_written_the_beginning_is_used(
    how: str, tmp_path: Path
) -> None:
    numbers = random.Random(1)
    noise = [cancel(seq, seq, message=f"{numbers.getrandbits(800):x}") for seq in range(2, 4002)]
    whole = COMPRESS[how](lines(HEAD, *noise))
    (tmp_path / f"a.jsonl.{how}").write_bytes(whole[: len(whole) // 2])
    log = load(tmp_path)
    assert 100 < log.events < 3000
    assert answered(log) == list(range(2, log.events + 1))
    last = said(log)[-1]
    assert last.endswith(": the compressed file ends in the middle: what comes before is used")
    assert last.startswith(f"{tmp_path}/a.jsonl.{how}:{log.events}") or log.damaged == 1


@pytest.mark.parametrize("how", COMPRESS)
def test_of_a_compressed_log_that_is_damaged_the_beginning_is_used(
    how: str, tmp_path: Path
) -> None:
    whole = bytearray(COMPRESS[how](LOG))
    for at in range(len(whole) - 20, len(whole)):
        whole[at] ^= 0xFF
    (tmp_path / f"a.jsonl.{how}").write_bytes(whole)
    log = load(tmp_path)
    assert "the compressed file " in said(log)[-1]
    assert said(log)[-1].endswith("what comes before is used")


def test_what_unpacks_a_file_and_is_missing_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "a.jsonl.zst"
    file.write_bytes(b"\x28\xb5\x2f\xfd\x00")
    there = log_sources.is_there
    monkeypatch.setattr(log_sources, "is_there", lambda name: "zstd" not in name and there(name))
    with pytest.raises(OSError, match="it is compressed") as raised:
        load(file)
    assert raised.value.filename == str(file)
    assert raised.value.strerror == (
        "it is compressed, and backports.zstd is not installed: pip install 'aioaudit[zstd]'"
    )
    assert said(load(tmp_path)) == [f"{file}:1: cannot be read ({raised.value.strerror}); skipped"]


# -- the same twice ----------------------------------------------------------------------------


def both(*paths: Path) -> list[Log]:
    return [load(list(paths)), load_to_answer(list(paths), workers=0)]


def test_a_file_that_is_given_twice_is_read_once(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    file.write_bytes(LOG)
    other = tmp_path / "b.jsonl"
    other.hardlink_to(file)
    for log in both(file, file, other):
        assert said(log) == [
            f"{file}:1: it is given twice, and read once",
            f"{other}:1: it is {file}, read once",
        ]
        assert (counted(log), len(log.why())) == ("401 events", 400)


def test_a_rotated_file_and_what_it_was_compressed_to_count_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl.1").write_bytes(LOG + b"oops\n")
    (tmp_path / "a.jsonl.1.gz").write_bytes(gzip.compress(LOG + b"oops\n"))
    log = load_to_answer(tmp_path, workers=0)
    assert said(log)[1:] == [
        f"{tmp_path}/a.jsonl.1.gz:1: {tmp_path}/a.jsonl.1 holds the same, and was read: "
        "nothing is counted twice"
    ]
    assert (log.damaged, counted(log), len(log.why())) == (1, "401 events", 400)


def test_a_copy_that_was_made_earlier_counts_once(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_bytes(LOG)
    early = tmp_path / "b.jsonl"
    early.write_bytes(LOG[: LOG.index(b"\n", 8000) + 1])
    log = load_to_answer(tmp_path, workers=0)
    assert said(log) == [
        f"{early}:1: {tmp_path}/a.jsonl begins with the same, and was read: "
        "nothing is counted twice"
    ]
    assert counted(log) == "401 events"


def test_events_that_come_more_than_once_are_counted_once_and_told(tmp_path: Path) -> None:
    made = [TaskCreate(**base(seq), **about(seq)) for seq in range(2, 100)]
    (tmp_path / "a.jsonl").write_bytes(lines(HEAD, *made[:60]))
    (tmp_path / "b.jsonl").write_bytes(lines(HEAD, *made[50:]))
    log = load_to_answer(tmp_path, workers=0)
    assert said(log) == ["10 events of run r1 came more than once: each is counted once"]
    assert log.events - sum(log.repeats.values()) == len(made) + 2  # the header is of each file


def test_a_rotated_file_that_repeats_its_header_holds_nothing_twice(tmp_path: Path) -> None:
    requests = [cancel(seq, seq) for seq in range(2, 20)]
    (tmp_path / "a.jsonl.1").write_bytes(lines(HEAD, *requests[:10]))
    (tmp_path / "a.jsonl").write_bytes(lines(HEAD, *requests[10:]))
    log = load_to_answer(tmp_path, workers=0)
    assert (said(log), len(log.why())) == ([], 18)


# -- times -------------------------------------------------------------------------------------


def test_times_of_another_zone_are_told_in_utc(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    there = "2026-11-22T16:00:03.500000+02:00"
    events = [cancel(2, 2, ts="2026-11-22T14:00:02.000000Z"), cancel(3, 3, ts=there)]
    file.write_bytes(lines(HEAD, *events, cancel(4, 4, ts=there)))
    for log in both(file):
        assert said(log) == [
            f"{file}:3: its time is not in UTC ({there}); all such are told in UTC"
        ]
        assert [case.ts for case in log.cases()] == [
            "2026-11-22T14:00:02.000000Z",
            "2026-11-22T14:00:03.500000Z",
            "2026-11-22T14:00:03.500000Z",
        ]


def test_a_clock_that_was_set_back_is_told(tmp_path: Path) -> None:
    times = ["2026-11-22T14:00:02.000000Z", "2026-11-22T14:00:01.900000Z"]  # threads do that
    times += ["2026-11-22T13:00:00.000000Z", "2026-11-22T13:00:01.000000Z"]
    events = [cancel(seq, seq, ts=ts) for seq, ts in enumerate(times, 2)]
    for split in (len(events), 2):  # the step is within a file, or between two
        folder = tmp_path / str(split)
        folder.mkdir()
        (folder / "a.jsonl.1").write_bytes(lines(HEAD, *events[:split]))
        (folder / "a.jsonl").write_bytes(lines(*events[split:]))
        log = load_to_answer(folder, workers=0)
        assert said(log)[-1] == (
            "the clock of run r1 was set back from 2026-11-22 14:00:01.900 to "
            "2026-11-22 13:00:00.000 UTC: times before and after that do not compare"
        )
        shutil.rmtree(folder)


def test_what_the_recorder_lost_is_no_clock_that_was_set_back(tmp_path: Path) -> None:
    file = tmp_path / "a.jsonl"
    # It says so near the begin, when it writes.
    lost = ProcessDropped(**base(2, ts="2026-11-22T15:00:00.000000Z"), count=5)
    events = [cancel(seq, seq, ts=f"2026-11-22T14:00:0{seq}.000000Z") for seq in (3, 4)]
    file.write_bytes(lines(HEAD, lost, *events))
    for log in both(file):
        assert not [each for each in said(log) if "clock" in each]
