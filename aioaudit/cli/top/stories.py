"""Incidents as they happen: one cause, and all tasks that it reached so far.

What an incident is `aioaudit.log.incidents` decides, for a log that is whole; here the same is
said of a log so far.  Every line that has to do with an incident is kept, as long as there is room,
and read again when somebody opens it: so the answer is that of ``aioaudit why``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator

from aioaudit.chain.links import Link
from aioaudit.cli.top.rates import Counts
from aioaudit.events import ProcessStart, TaskCancel, TaskDone

MOST_LINES = 2_000
"""So many lines of one incident are kept, the last ones; those before are counted."""

MOST_NAMES = 1_000
"""So many tasks of one incident are known by name; more are counted."""

MOST_FAILED = 20
"""So many tasks that failed are known of who made them."""

STRETCH = 10
"""Seconds of each stretch in which cancellations of one cause are counted."""

_LINE = 100  # bytes of a line beside its text
_INCIDENT = 1_200  # of an incident without its lines


class Incident:
    """One cause, and all tasks that it reached.

    Attributes:
        run: Where it happened.
        root: The cause.
        cause: What it has in common with others.
        first: When it began, in seconds since the epoch.
        last: When the last was heard of it.
        count: How many tasks it reached, or how often it reached some again.
        tasks: Those that are known by name, with name and coroutine.
        waiting: Those that were asked and did not end yet.
        findings: How many things went wrong with it.
        before: How many lines are not kept any more.
        gone: Whether it is kept no more.
        kind: What kind of housekeeping it is; empty where it is none, None where nobody looked.
    """

    __slots__ = (
        "asker",
        "before",
        "cause",
        "count",
        "findings",
        "first",
        "gone",
        "key",
        "kind",
        "last",
        "lines",
        "makers",
        "others",
        "perhaps",
        "requests",
        "root",
        "run",
        "size",
        "tasks",
        "waiting",
    )

    def __init__(self, run: Run, key: object, root: Link, cause: Cause, second: int) -> None:
        self.run = run
        self.key = key
        self.root = root
        self.cause = cause
        self.first = second
        self.last = second
        self.count = 0
        self.tasks: dict[int, tuple[str, str]] = {}
        self.others: set[int] = set()
        """Those that it asked as well, while an earlier request was still to be delivered."""
        self.waiting: set[int] = set()
        self.findings = 0
        self.before = 0
        self.gone = False
        self.kind: str | None = None
        self.perhaps = False
        """Whether the cause is such as housekeeping has."""
        self.asker: Made | None = None
        """The task that called, where one did and its making was seen."""
        self.lines: list[bytes] = []
        self.requests: list[int] = []
        """The ``seq`` of each request in it."""
        self.makers: dict[int, Made] = {}
        """How those that it reached were made, where that was seen."""
        self.size = _INCIDENT


class Made:
    """A task that lives, or that asked others to cancel.

    Attributes:
        task: Its number.
        parent: The task that made it.
        source: The function that did.
        main: Whether nobody made it, at no line, as with what ``asyncio.run`` is given.
        asked: Whether anybody ever asked it to cancel.
        last_made: The ``seq`` of the last task that it made.
        returned: Its name, once it has returned.
        failed: Those that it had made and that did not return, the first ones.
        more_failed: Whether there are more.
    """

    __slots__ = (
        "asked",
        "failed",
        "last_made",
        "main",
        "more_failed",
        "parent",
        "returned",
        "source",
        "task",
    )

    def __init__(self, task: int, parent: int | None, source: str | None, *, main: bool) -> None:
        self.task = task
        self.parent = parent
        self.source = source
        self.main = main
        self.asked = False
        self.last_made = 0
        self.returned: str | None = None
        self.failed: tuple[TaskDone, ...] = ()
        self.more_failed = False

    def fail(self, child: TaskDone) -> None:
        """*child*, which this one had made, did not return."""
        if len(self.failed) < MOST_FAILED:
            self.failed = (*self.failed, child)
        else:
            self.more_failed = True


class Cause:
    """A line that cancelled, or failed, or ran out: what several incidents have in common.

    Attributes:
        root: What all of them say.
        times: When tasks were cancelled because of it.
        last: When the last was, in seconds since the epoch.
        loud: How many of its incidents are no housekeeping, or not known to be.
        quiet: How many are.
    """

    __slots__ = ("incident", "last", "loud", "quiet", "root", "times")

    def __init__(self, root: Link) -> None:
        self.root = root
        self.times = Counts(STRETCH)
        self.last = 0
        self.loud = 0
        self.quiet = 0
        self.incident: Incident | None = None
        """The last one, if it is there still."""


class Asked:
    """A task that was asked to cancel and did not end yet.

    Attributes:
        run: Of which run it is.
        task: Its number.
        name: Its name.
        coro: Its coroutine.
        since: When it was asked, in seconds since the epoch.
        at: Where it was suspended then.
        incident: Why it was asked.
        unsure: Whether its end may be among what the log lacks.
    """

    __slots__ = ("at", "coro", "incident", "name", "run", "since", "task", "unsure")

    def __init__(self, run: Run, event: TaskCancel, incident: Incident, since: float) -> None:
        self.run = run
        self.task = event.task
        self.name = event.name
        self.coro = event.coro
        self.since = since
        self.at = event.suspended_at
        self.incident = incident
        self.unsure = False


class Run:
    """What is known of a run of a process."""

    __slots__ = (
        "asked",
        "blind",
        "counted",
        "dropped",
        "ended",
        "faults",
        "forgotten",
        "id",
        "last",
        "living",
        "losses",
        "main_failed",
        "more_asked",
        "more_living",
        "of_request",
        "of_task",
        "pid",
        "start",
        "thinned",
    )

    def __init__(self, run: str, pid: int) -> None:
        self.id = run
        self.pid = pid
        self.start: ProcessStart | None = None
        self.last = -1
        """The ``seq`` of the last event."""
        self.ended = False
        self.blind = False
        """Whether the log does not tell how tasks end."""
        self.counted: tuple[int, int | None] | None = None
        """How many tasks were made and how many live, as the process said the last time."""
        self.dropped = 0
        self.losses: dict[int, int] = {}
        """By ``seq`` of the line that told it, how many events were lost."""
        self.thinned = False
        self.faults: dict[str, None] = {}
        self.living: dict[int, Made] = {}
        self.more_living = 0
        self.asked: dict[int, Asked] = {}
        self.more_asked = 0
        self.of_request: dict[int, Incident] = {}
        self.of_task: dict[int, list[Incident]] = {}
        self.forgotten = -1
        """No request with a ``seq`` up to this one is known any more for sure."""
        self.main_failed: TaskDone | None = None
        """The end of a task that ``asyncio.run`` ran and that did not return."""


class Shelf:
    """The incidents that are kept.

    Args:
        limit: How many bytes they may take, about.
        most: How many there may be.

    Where there is no room the one goes first that was not heard of for the longest time: of those
    that are housekeeping, then of those that are over and may be, then of those that are over, then
    of those in which a task has still to end.
    """

    def __init__(self, limit: int, most: int) -> None:
        self.limit = limit
        self.most = most
        self.size = 0
        self.gone = 0
        """How many incidents were thrown away that are no housekeeping."""
        self._quiet: OrderedDict[Incident, None] = OrderedDict()
        self._perhaps: OrderedDict[Incident, None] = OrderedDict()
        self._over: OrderedDict[Incident, None] = OrderedDict()
        self._open: OrderedDict[Incident, None] = OrderedDict()

    def __len__(self) -> int:
        return sum(map(len, self._places()))

    def __iter__(self) -> Iterator[Incident]:
        for place in self._places():
            yield from place

    def _places(self) -> tuple[OrderedDict[Incident, None], ...]:
        return self._quiet, self._perhaps, self._over, self._open

    def loud(self) -> list[Incident]:
        """Those that are no housekeeping, as far as is known; the last first."""
        found = [*self._perhaps, *self._over, *self._open]
        found.sort(key=_last, reverse=True)
        return found

    def quiet(self) -> list[Incident]:
        """Those that are housekeeping; the last first."""
        return sorted(self._quiet, key=_last, reverse=True)

    def unjudged(self) -> list[Incident]:
        """Those that are over and at which nobody has looked, the last first."""
        return list(reversed(self._perhaps))

    def put(self, incident: Incident) -> None:
        """*incident* has news, or was looked at: it is the last to go of its kind."""
        for place in self._places():
            if incident in place:
                del place[incident]
                break
        if incident.waiting:
            self._open[incident] = None
        elif incident.kind:
            self._quiet[incident] = None
        elif incident.perhaps and incident.kind is None:
            self._perhaps[incident] = None
        else:
            self._over[incident] = None

    def add_line(self, incident: Incident, line: bytes) -> None:
        """Keep *line* with *incident*, which has to be put on the shelf afterwards."""
        incident.lines.append(line)
        self._grow(incident, len(line) + _LINE)
        if len(incident.lines) >= MOST_LINES:
            half = MOST_LINES // 2
            self._grow(incident, -sum(map(len, incident.lines[:half])) - half * _LINE)
            del incident.lines[:half]
            incident.before += half

    def add_request(self, incident: Incident, seq: int) -> list[int]:
        """*seq* is a request of *incident*; the result are those that are to be forgotten."""
        incident.requests.append(seq)
        gone = incident.requests[:-MOST_LINES]
        if len(gone) < MOST_LINES:
            return []
        del incident.requests[: len(gone)]
        return gone

    def _grow(self, incident: Incident, size: int) -> None:
        incident.size += size
        self.size += size

    def begin(self, incident: Incident) -> None:
        """*incident* is new."""
        self.size += incident.size
        self.put(incident)

    def surplus(self, judge: Callable[[Incident], None]) -> Iterator[Incident]:
        """Throw away what there is no room for; each is given so that others forget it, too.

        *judge* is called for one at which nobody has looked, and puts it where it belongs.
        """
        while (self.size > self.limit or len(self) > self.most) and len(self) > 1:
            place = next(place for place in self._places() if place)
            if place is self._perhaps:
                judge(next(iter(place)))
                continue
            incident, _ = place.popitem(last=False)
            self.size -= incident.size
            self.gone += place is not self._quiet
            yield incident


def _last(incident: Incident) -> tuple[int, int]:
    return incident.last, incident.requests[-1] if incident.requests else 0
