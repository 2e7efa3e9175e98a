"""Of what a recorder keeps, what somebody wants to hear: by the lines alone, which are in order.

Who follows a process asks again and again for what is new.  So that nobody has to go through all that
is kept each time, what comes is noted apart (`Tail`), for as long as somebody asks.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from aioaudit.exporter import Batch, Created, Returned, encode_events
from aioaudit.threads import monotonic

MOST_NEW = 10_000
"""So many new events are noted apart; who comes too late for these is told from all that is kept."""

_PATIENCE = 30.0  # seconds after which nobody is thought to ask for more
_PORTION = 500  # events that are encoded at once: for so long nobody else has the GIL
_LIVES = frozenset((Created, Returned))

_MADE = b'{"event":"task.create"'
_ENDED = b'{"event":"task.done"'
_RETURNED = b'"outcome":"returned"'
_SEQ = b'"seq":'


def wanted(portions: Iterable[bytes], since: int, *, lives: bool) -> Iterator[bytes]:
    """Of *portions* of whole lines the first, which opens the log, and of the others what is wanted.

    Args:
        portions: All lines, in the order of their numbers.
        since: Only lines with a higher number are.
        lives: Whether also those are that say that a task was made, or just returned.
    """
    rest = iter(portions)
    yield from (portion for portion in (next(rest, None),) if portion is not None)
    for portion in rest:
        if lives and not since:
            yield portion
            continue
        if since and _last_seq(portion) <= since:
            continue
        lines = portion.splitlines(keepends=True)
        yield b"".join(
            line for line in lines if (lives or not _is_life(line)) and _seq_of(line) > since
        )


class Tail:
    """What came of late, while somebody asks for what is new."""

    def __init__(self) -> None:
        self._new: deque[Any] | None = None
        self._since = 0
        self._lives = False
        self._until = 0.0

    def take(self, records: Sequence[Any]) -> None:
        """Note *records*, if anybody asks for what is new."""
        new = self._new
        if new is None:
            return
        if monotonic() > self._until:
            self._new = None
            return
        for record in records:
            if self._lives or type(record) not in _LIVES:
                if len(new) >= MOST_NEW:
                    self._since = new.popleft().seq
                new.append(record)

    def begin(self, last: int, *, lives: bool) -> None:
        """Somebody is told all up to *last*, and has asked for what is new."""
        self._new = deque()
        self._since = last
        self._lives = lives
        self._until = monotonic() + _PATIENCE

    def end(self) -> None:
        """Note nothing any more: it is another run."""
        self._new = None

    def after(self, since: int, *, lives: bool) -> Iterator[bytes] | None:
        """What has a higher number than *since*, as lines, in portions; None where not all is here."""
        new = self._new
        if new is None or since < self._since or (lives and not self._lives):
            return None
        self._until = monotonic() + _PATIENCE
        return _lines(
            [each for each in new if each.seq > since and (lives or type(each) not in _LIVES)]
        )


def _lines(records: list[Any]) -> Iterator[bytes]:
    rest = iter(records)
    while portion := list(islice(rest, _PORTION)):
        yield encode_events(Batch(portion))


def _last_seq(portion: bytes) -> int:
    return _seq_of(portion[portion.rfind(b"\n", 0, -1) + 1 :])


def _seq_of(line: bytes) -> int:
    """The number in *line*; in a text of the program's no quotation mark stands by itself."""
    begin = line.index(_SEQ) + len(_SEQ)
    end = begin
    while line[end : end + 1].isdigit():
        end += 1
    return int(line[begin:end])


def _is_life(line: bytes) -> bool:
    if line.startswith(_MADE):
        return True
    return (
        line.startswith(_ENDED)
        and _RETURNED in line
        and b'"cancel":' not in line
        and b'"cancel_outcome":' not in line
    )
