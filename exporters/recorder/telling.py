"""Of what a recorder keeps, what somebody wants to hear: by the lines alone, which are in order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

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
