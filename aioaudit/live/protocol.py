"""Questions to a process and their answers: the one place that knows what they look like.

A connection is for one question.  It is one line of JSON, at most `MOST_ASKED` bytes with its end;
what the answer needs much room for is written to a regular file whose descriptor comes with the
question (``SCM_RIGHTS``), so that whoever answers holds nothing and waits for nobody.  The
answer is one line as well, at most `MOST_SAID` bytes, and ends the connection.

In that file `Tasks` has a line with a `LivingTask` for each task, `Events` an ordinary log.

A reader accepts keys that it does not know.  `VERSION` rises where an old reader would
misunderstand; whoever answers refuses a question of another version, in words.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeAlias

import msgspec

VERSION = 1

MOST_ASKED = 4_096
"""Bytes of a question."""

MOST_SAID = 4_096
"""Bytes of an answer: as many as go into any socket at once."""

MOST_TASKS = 10_000
"""So many living tasks are described unless more are asked for."""

WAITS, READY, RUNS, NEW, UNKNOWN = "waits", "ready", "runs", "new", "unknown"
"""What a task does: it waits for something, is to go on, goes on just now, has not begun, or
what it does changed each time that it was looked at."""


class _Question(msgspec.Struct, tag_field="ask", kw_only=True):
    version: int = VERSION


class Facts(_Question, tag="facts"):
    """How is the process?"""


class Tasks(_Question, tag="tasks"):
    """Which tasks live?  Of more than `most` some are left out, and counted."""

    most: int = MOST_TASKS


class Events(_Question, tag="events"):
    """What has happened, as far as the recorder keeps it?

    Only what has a higher number than `since`, if that is of the run that the process is in;
    without `lives` not that tasks were made, nor that they just returned.
    """

    since: int = 0
    run: str | None = None
    lives: bool = True


Question: TypeAlias = Facts | Tasks | Events


class ProcessFacts(msgspec.Struct, kw_only=True, omit_defaults=True):
    """How a process is.

    Attributes:
        pid: Its number, as it sees itself: in a container it is another one outside.
        run: The id of its run.
        started: When the run began (RFC 3339).
        now: When this was said.
        argv: Its command line, shortened.
        python: The interpreter and its version.
        version: That of aioaudit.
        on: The names of its exporters.
        tasks: How many tasks live whose making was seen; None where that is not seen.
        made: The number of the task that was made last.
        seq: The number of the event that happened last.
        size: The bytes that the recorder takes...
        limit: ... and may take.
        lost: Events that it does not keep any more, or that never came.
    """

    pid: int
    run: str
    started: str
    now: str
    argv: list[str] = []
    python: str = ""
    version: str = ""
    on: list[str] = []
    tasks: int | None = None
    made: int = 0
    seq: int = 0
    size: int = 0
    limit: int = 0
    lost: int = 0


class Answer(msgspec.Struct, kw_only=True, omit_defaults=True):
    """What a process says.

    Attributes:
        version: As `VERSION`.
        facts: How it is; None where it could not answer.
        error: Why it could not, in words.
        written: How many bytes it wrote to the file.
        left_out: How many tasks are not in there.
    """

    version: int = VERSION
    facts: ProcessFacts | None = None
    error: str | None = None
    written: int = 0
    left_out: int = 0


class LivingTask(msgspec.Struct, kw_only=True, omit_defaults=True):
    """A task that is not done.

    Attributes:
        task: Its number in the run.
        name: Its name now.
        coro: What it runs (``module:qualname``).
        parent: The number of the task that made it, where that is known.
        made: When it was made (RFC 3339), where that was seen.
        made_at: The line that made it.
        does: One of `WAITS`, `READY`, `RUNS`, `NEW`, `UNKNOWN`.
        at: The line where it waits or runs: the application's innermost, else the innermost.
        source: The function of that line.
        awaited_by: The numbers of the tasks that wait for it.
        asked: How many requests to cancel stand (``Task.cancelling()``).
        loop: The number of its loop.
    """

    task: int
    name: str
    coro: str
    parent: int | None = None
    made: str | None = None
    made_at: str | None = None
    does: str = UNKNOWN
    at: str | None = None
    source: str | None = None
    awaited_by: list[int] = []
    asked: int = 0
    loop: int | None = None


_encode = msgspec.json.Encoder().encode
decode_question = msgspec.json.Decoder[Question](Question).decode
decode_answer = msgspec.json.Decoder(Answer).decode
decode_task = msgspec.json.Decoder(LivingTask).decode

_LEAST_ROOM = 20  # bytes, with less nothing more is told


class _Head(msgspec.Struct):
    version: int = VERSION


_decode_head = msgspec.json.Decoder(_Head).decode


def version_of(question: bytes) -> int:
    """The version of a question that may mean nothing here.

    Raises:
        msgspec.MsgspecError: it is no question at all.
    """
    return _decode_head(question).version


def line_of(what: Question | Answer | LivingTask) -> bytes:
    """*what* as a line."""
    return _encode(what) + b"\n"


def shortened(words: Iterable[str], most: int = 2_000) -> list[str]:
    """*words* as far as they take no more than *most* bytes of an answer."""
    found: list[str] = []
    for each in words:
        word = each[:most]
        while len(_encode(word)) > most:  # what is escaped takes up to six times as much
            word = word[: len(word) // 2]
        found.append(word if word == each else f"{word}…")
        most -= len(_encode(word)) + 1
        if word != each or most < _LEAST_ROOM:
            if word == each:
                found.append("…")
            break
    return found
