"""Other processes that look through a log: each is given portions of it, and tells what answers need.

They are started by hand, with a pipe for the question and one for the answer, and not by
`multiprocessing`: that would import the program's main module again, and wants semaphores, which
not every container has.  Whatever goes wrong with one of them, its portion is looked through here.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from queue import SimpleQueue
from typing import IO, Literal, NamedTuple, cast

import msgspec

from aioaudit.events import Event
from aioaudit.log.brief import Brief, shorten
from aioaudit.log.parsing import Trouble, decode_again, parse
from aioaudit.log.portions import Portion
from aioaudit.log.thinning import RunPart, thin

MOST = 8
"""So many processes at most: one that only gathers keeps no more of them busy."""

ALONE = 1 << 25
"""Bytes that are looked through before others are called: it takes them some time to start."""

TOGETHER = 1 << 22
"""Bytes that are sent at a time."""

_SIZE = struct.Struct("<Q")

_START = (
    "import json, sys; sys.path[:] = json.loads(sys.argv[1]); "
    "from aioaudit.log.workers import serve; serve()"
)


class Found(msgspec.Struct):
    """What a portion holds: ``kept`` are the lines of the events that are needed.

    ``events`` counts all that were read, the others as in `aioaudit.log.parsing.Parsed`.
    """

    events: int
    count: int
    unknown: int
    damaged: int
    problems: list[Trouble]
    zone: tuple[int, str] | None
    runs: list[RunPart]
    brief: Brief
    kept: list[bytes] = []


class Wanted(msgspec.Struct):
    """What is looked for: what is needed for ``answers``, and of the task called *asked* in any case;
    in which ``order`` the lines are, and none of them; or what is needed for ``spans``."""

    what: Literal["answers", "order", "spans"]
    asked: str | None = None


class _Job(msgspec.Struct):
    """What a process is asked."""

    wanted: Wanted
    portions: list[tuple[str, bytes, bool]]


def cores() -> int:
    """How many processes may help here; 0 where one does as well."""
    count = (
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    )
    return min(count, MOST) if count > 1 and sys.executable else 0


def thinned(
    portions: Iterable[Portion], wanted: Wanted, workers: int
) -> Generator[tuple[Portion, Found, list[Event]]]:
    """What is in each of *portions*, in their order, with the events that are needed.

    Args:
        portions: Some lines of a log each.
        wanted: What is looked for.
        workers: So many other processes help; they are started where there is enough to do.
    """
    ahead = ALONE
    each = iter(portions)
    for portion in each:
        yield (portion, *_here(portion, wanted))
        ahead -= len(portion.data)
        if workers and ahead < 0:
            break
    else:
        return
    crew = _Crew(workers, wanted)
    waiting: deque[_Asked] = deque()
    try:
        for batch in _batches(each):
            waiting.append(_Asked(batch, crew.ask(batch)))
            if len(waiting) > 2 * workers:
                yield from _answer_to(waiting.popleft())
        while waiting:
            yield from _answer_to(waiting.popleft())
    finally:
        crew.dismiss()


class _Asked(NamedTuple):
    """Some portions, and what will be said of each."""

    batch: list[Portion]
    answer: Future[list[tuple[Found, list[Event]]]]


def _answer_to(asked: _Asked) -> Iterator[tuple[Portion, Found, list[Event]]]:
    for portion, (found, events) in zip(asked.batch, asked.answer.result(), strict=True):
        yield portion, found, events


def _batches(portions: Iterator[Portion]) -> Iterator[list[Portion]]:
    """*portions*, as many at a time as are worth a question."""
    batch: list[Portion] = []
    size = 0
    for portion in portions:
        batch.append(portion)
        size += len(portion.data)
        if size >= TOGETHER:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _look(
    file: str, data: bytes, cut: bool, wanted: Wanted
) -> tuple[Found, list[Event], list[bytes]]:
    """What is in *data*, lines of *file*; the events that are needed, and their lines."""
    parsed = parse(file, data, cut=cut)
    brief = Brief([], [])
    runs: list[RunPart] = []
    if wanted.what == "spans":
        places, brief = shorten(parsed.events)
    else:
        places, runs = thin(parsed.events, wanted.asked)
        if wanted.what == "order":
            places = []
    found = Found(
        events=len(parsed.events),
        count=parsed.count,
        unknown=parsed.unknown,
        damaged=parsed.damaged,
        problems=parsed.problems,
        zone=parsed.zone,
        runs=runs,
        brief=brief,
    )
    events, lines = parsed.events, parsed.lines
    return found, [events[place] for place in places], [lines[place] for place in places]


def _here(portion: Portion, wanted: Wanted) -> tuple[Found, list[Event]]:
    """What is in *portion*; looked through by this process."""
    return _look(portion.file, portion.data, portion.cut, wanted)[:2]


class _Crew:
    """Some processes, and a thread for each that asks it."""

    def __init__(self, size: int, wanted: Wanted) -> None:
        self._wanted = wanted
        self._idle: SimpleQueue[subprocess.Popen[bytes] | None] = SimpleQueue()
        self._all: list[subprocess.Popen[bytes]] = []
        self._threads = ThreadPoolExecutor(size)
        self._dismissed = False
        # Not theirs: whether, and how, this program is audited.
        environment = {
            key: value for key, value in os.environ.items() if not key.startswith("AIOAUDIT")
        }
        for _ in range(size):
            process = None
            try:
                process = subprocess.Popen(
                    [sys.executable, "-I", "-c", _START, json.dumps(sys.path)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL,
                    env=environment,
                )
                self._all.append(process)
            except OSError:
                pass  # no more of them are allowed: it is done here
            self._idle.put(process)

    def ask(self, batch: list[Portion]) -> Future[list[tuple[Found, list[Event]]]]:
        """What is in each of *batch*."""
        return self._threads.submit(self._answer, batch)

    def _answer(self, batch: list[Portion]) -> list[tuple[Found, list[Event]]]:
        process = self._idle.get()
        try:
            answers = None if process is None else self._asked_of(process, batch)
        except (OSError, EOFError, UnicodeEncodeError, msgspec.MsgspecError):
            process = answers = None  # it died, or cannot be told a name: it is asked no more
        finally:
            self._idle.put(process)
        if answers is None and self._dismissed:
            return []  # nobody waits for it
        if answers is None:
            return [_here(each, self._wanted) for each in batch]
        return [(found, decode_again(found.kept)) for found in answers]

    def _asked_of(
        self, process: subprocess.Popen[bytes], batch: list[Portion]
    ) -> list[Found] | None:
        """What *process* says; None if it cannot."""
        portions = [(each.file, each.data, each.cut) for each in batch]
        _send(cast("IO[bytes]", process.stdin), _Job(self._wanted, portions))
        data = _receive(cast("IO[bytes]", process.stdout))
        return _decode_answer(data) if data else None

    def dismiss(self) -> None:
        """End them, whatever they are at."""
        self._dismissed = True
        for process in self._all:
            process.kill()
        self._threads.shutdown(cancel_futures=True)
        for process in self._all:
            with suppress(BrokenPipeError), process:  # closes the pipes, and waits for it
                pass


_decode_answer = msgspec.msgpack.Decoder(list[Found]).decode
_decode_job = msgspec.msgpack.Decoder(_Job).decode
_encode = msgspec.msgpack.Encoder().encode


def _send(stream: IO[bytes], message: object) -> None:
    data = message if isinstance(message, bytes) else _encode(message)
    stream.write(_SIZE.pack(len(data)))
    stream.write(data)
    stream.flush()


def _receive(stream: IO[bytes]) -> bytes:
    """The next message.

    Raises:
        EOFError: there is none.
    """
    head = stream.read(_SIZE.size)
    if len(head) < _SIZE.size:
        raise EOFError
    (size,) = _SIZE.unpack(head)
    data = stream.read(size)
    if len(data) < size:
        raise EOFError
    return data


def serve() -> None:
    """Answer what comes on standard input, until nothing does: the whole life of such a process."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who asks ends it
    while True:
        try:
            job = _decode_job(_receive(sys.stdin.buffer))
        except EOFError:
            return
        answers: list[Found] = []
        for file, data, cut in job.portions:
            found, _, lines = _look(file, data, cut, job.wanted)
            found.kept = lines
            answers.append(found)
        try:
            answer = _encode(answers)
        except (OverflowError, UnicodeEncodeError):  # of a hostile log: a number of 65 bits, say
            answer = b""
        _send(sys.stdout.buffer, answer)
