"""What is taken from a queue, as it may leave the process: done in the exporter's own thread."""

from __future__ import annotations

from aioaudit.core import odd_names
from aioaudit.delivery.records import Record, event_of, seq_of
from aioaudit.redaction import Redaction

_MOST_BEFORE = 20
"""Rules of before that are known still; a program that changes them more often loses the oldest."""


class Redacting:
    """A `Redaction` that can be changed.

    What happened before a change goes by what held then, too: the end of one call of `enable` lets
    nothing out that happened while it had its say.
    """

    def __init__(self) -> None:
        self.now = Redaction()
        """What holds for what is said now."""
        self._before: dict[Redaction, int] = {}
        """What held before, each with the last number that it is for."""

    def follow(self, rules: tuple[str, ...], drawn: int) -> None:
        """Go by *rules* from now on; *drawn* is the number of the last event before."""
        if rules == self.now.rules:
            return
        before = {each: upto for each, upto in self._before.items() if each is not self.now}
        before[self.now] = drawn  # the last one, also where it held before
        now = next((each for each in before if each.rules == rules), None) or Redaction(rules)
        self._before = dict(list(before.items())[-_MOST_BEFORE:])
        self.now = now

    def after_fork(self) -> None:
        """In the child: its numbers begin anew."""
        self._before = {}

    def records(self, records: list[Record]) -> list[Record]:
        """*records*, in the order of their numbers, as they may leave; the same list where all may."""
        now = self.now
        found = redacted(records, now)
        for redaction, upto in self._before.items():
            if redaction is not now and found and seq_of(found[0]) <= upto:
                older = [each for each in found if seq_of(each) <= upto]
                found = redacted(older, redaction) + found[len(older) :]
        return found


def redacted(records: list[Record], redaction: Redaction) -> list[Record]:
    """*records* as they may leave by *redaction*.

    Those of a core, by far the most, hold one text that is the program's own, the task's name; so
    long as that may leave they stay what they are.
    """
    if redaction.is_off:
        return records
    found = records
    for index in range(len(records)) if redaction.looks_at_all else odd_names(records):
        made = event_of(records[index])
        event = redaction.of(made)
        if event is not made:
            if found is records:
                found = list(records)
            found[index] = event
    return found
