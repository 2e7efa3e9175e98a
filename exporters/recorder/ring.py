"""What a recorder keeps: so many bytes of events, of which those that answers need go last.

Three rooms, which are cleared in this order where there is no space left:

- *lives* that are over and had no incident: made and returned, and nobody asked them to cancel;
- what is told of loops and by programs, and the making of tasks that live and that nobody asked;
- *stories*: all that is known of a task that had to do with a cancellation, or that failed, and
  of whoever asked.  The one goes first that nothing was added to, and that nothing new refers
  to, for the longest time.

A story goes as a whole, and those of the same task that are older go with it.  So what is kept of
a task is always the last of it: a request whose end was thrown away would look as if the task was
to end yet.  A task that takes requests back again and again (a timeout around each of its waits)
begins another story with the first request after it took back all, so its old ones may go.

Lives are kept as the records that they came as: nothing is encoded until somebody wants it.
All else is a line.  What was thrown away is counted.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from heapq import merge
from itertools import islice
from typing import Any, TypeAlias, cast

from aioaudit.core import Asked, Obeyed, TakenBack
from aioaudit.events import (
    Event,
    Finding,
    FutureCancel,
    ProcessDropped,
    ProcessEnd,
    ProcessStart,
    TaskCancel,
    TaskCreate,
    TaskDone,
    TaskUncancel,
)
from aioaudit.exporter import Batch, Created, Record, Returned, encode_events
from aioaudit.text import LIMIT

_OF_LIVES = frozenset((Created, Returned))

Line: TypeAlias = tuple[int, bytes]
"""A finished line, after its ``seq``."""

Birth: TypeAlias = Created | Line
"""That a task was made, as it came."""

Life: TypeAlias = Returned | tuple[Birth | None, Line]
"""That a task was made and that it returned; the first may be gone already."""

# What things take, in bytes: a test compares the sum with what the interpreter says.
_MADE = 260  # a `Created`, and its place in a table
_RETURNED = 150  # a `Returned`, and its place in a queue
_LINE = 190  # a line beside its text: the object, its number, the pair, the places of all these
_STORY = 1_100  # a story without its lines

_SHORT = 20  # characters of a name that are counted with the rest of it
_LONG = 200  # so many lines of one task are enough for one story
_MOST_STEPS = 100  # so many stories are kept because of the last one of a chain
_PORTION = 500  # lines that are given away at once: for so long nobody else has the GIL
_SORTED = 2_000  # items that are sorted at once: the same
_AT_ONCE = 200  # living tasks that make room at once


class Story:
    """What is known of a task, or of several that waited for one future, since all was settled."""

    __slots__ = ("before", "births", "into", "led", "lines", "mark", "settled", "size", "tasks")

    def __init__(self) -> None:
        self.into: Story | None = None
        """The story that this one is a part of by now; itself where it was thrown away."""
        self.mark = 0
        self.clear()

    def clear(self) -> None:
        """Hold nothing."""
        self.tasks: set[int] = set()
        """Those whose last story this is."""
        self.births: dict[int, Line] = {}
        self.lines: list[Line] = []
        self.size = _STORY
        self.led: list[Story] = []
        """Those that what happened here came of."""
        self.before: list[Story] = []
        """Older ones of the same tasks."""
        self.settled = False
        """Whether the last that was heard is that the task took back all requests."""

    def found(self) -> Story | None:
        """This story, or what it is a part of by now; None where it was thrown away."""
        story = self
        while story.into is not None:
            if story.into is story:
                return None
            story = story.into
        return story


class Ring:
    """The last events of a run.

    Args:
        limit: How many bytes all of it may take, about.

    All is done in one thread.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._take_one: dict[type[Any], Callable[[Any, Line], None]] = {
            ProcessStart: self._take_start,
            ProcessEnd: self._take_end,
            ProcessDropped: self._take_dropped,
            TaskCreate: self._take_create,
            TaskDone: self._take_done,
            Obeyed: self._take_obeyed,
            TaskCancel: self._take_cancel,
            Asked: self._take_asked,
            FutureCancel: self._take_future,
            TaskUncancel: self._take_uncancel,
            TakenBack: self._take_taken_back,
            Finding: self._take_finding,
        }
        self.start: ProcessStart | None = None
        self._clear()

    def _clear(self) -> None:
        self.size = 0
        """The bytes that are taken now."""
        self._lives: deque[Life] = deque()
        self._living: dict[int, Birth] = {}
        self._others: deque[Line] = deque()
        self._stories: OrderedDict[Story, None] = OrderedDict()
        self._of_task: dict[int, Story] = {}
        self._of_request: dict[int, Story] = {}
        self._header = b""
        self._end: Line | None = None
        self._round = 0
        self.lost = 0
        """How many events of this run are not here any more, or never came."""
        self._unneeded = 0
        self._lost_names: set[str] = set()
        self._lost_at: int | None = None  # the number of one of them
        self._faults: dict[str, None] = {}

    # -- what comes ------------------------------------------------------------------------

    def take(self, events: Sequence[Event]) -> None:
        """Keep *events*, and make room for them."""
        # By far the most are births and returns, so what is done for these is written out.
        records = cast("Sequence[Any]", getattr(events, "records", events))
        rest = [each for each in records if type(each) not in _OF_LIVES]
        lines = iter(_lines_of(rest)) if rest else iter(())
        living, lives = self._living, self._lives
        size = self.size
        for record in records:
            kind = type(record)
            if kind is Created:
                living[record.task] = record
                size += _MADE
            elif kind is Returned:
                born = record.born
                name = born.name_or_task
                made = living.pop(born.task, None)
                if made is born and type(name) is str and len(name) <= LIMIT:
                    lives.append(record)
                    size += _RETURNED
                    if len(name) > _SHORT:
                        size += 4 * len(name)
                else:
                    if made is not None:
                        living[born.task] = made
                    self.size = size
                    self._take_returned(born.task, (record.seq, encode_events(Batch([record]))))
                    size = self.size
            else:
                self.size = size
                self._take_other(kind, record, (record.seq, next(lines)))
                size = self.size
                living, lives = self._living, self._lives  # a new run has others
        self.size = size
        if size > self.limit:
            self._make_room()

    def _take_other(self, kind: type[Any], record: Any, line: Line) -> None:
        take = self._take_one.get(kind)
        if take is not None:
            take(record, line)
        else:
            self._others.append(line)
            self.size += _LINE + len(line[1])

    def _take_start(self, event: ProcessStart, line: Line) -> None:
        if self.start is None or event.run != self.start.run:
            self._clear()
        self.start = event
        self._header = line[1]

    def _take_end(self, _event: ProcessEnd, line: Line) -> None:
        self._end = line

    def _take_dropped(self, event: ProcessDropped, line: Line) -> None:
        self._lose(event.count, line[0], *event.events)
        self._faults.update(dict.fromkeys(event.faults))

    def _take_create(self, event: TaskCreate, line: Line) -> None:
        self._living[event.task] = line
        self.size += _MADE + len(line[1])

    def _take_done(self, event: TaskDone, line: Line) -> None:
        if event.outcome == "returned" and event.cancel is None and event.cancel_outcome is None:
            self._take_returned(event.task, line)
        else:
            self._take_end_of(event.task, event.cancel, line)

    def _take_obeyed(self, record: Obeyed, line: Line) -> None:
        self._take_end_of(record.born.task, record.cancel, line)

    def _take_returned(self, task: int, line: Line) -> None:
        """*task* returned, and its last request, if there was any, has nothing to do with it."""
        story = self._of_task.get(task)
        if story is not None:
            self._add(story, line)
            return
        made = self._living.pop(task, None)
        if isinstance(made, Created) and _is_long(made.name_or_task):
            made = (made.seq, encode_events(Batch([made])))  # cut to what an event may hold
            self.size += len(made[1])
        self._lives.append((made, line))
        self.size += _LINE + len(line[1])

    def _take_end_of(self, task: int, cancel: int | None, line: Line) -> None:
        story = self._story(task)
        self._refer(story, cancel)
        self._add(story, line)

    def _take_cancel(self, event: TaskCancel, line: Line) -> None:
        self._ask(event.task, line, event.by, event.cause, begins=event.behind is None)
        if event.origin_task is not None:
            self._refer_to_task(self._of_request[line[0]], event.origin_task)

    def _take_asked(self, record: Asked, line: Line) -> None:
        self._ask(record.born.task, line, record.by if record.owner is None else None, None)

    def _ask(
        self, task: int, line: Line, by: int | None, cause: int | None, *, begins: bool = True
    ) -> None:
        """*task* was asked to cancel: by the task *by*, because of the request *cause*."""
        story = self._story(task)
        if begins and story.lines and (story.settled or len(story.lines) >= _LONG):
            story = self._next_story(task, story)
        story.settled = False
        self._refer(story, cause)
        if by is not None:
            self._refer_to_task(story, by)
        self._of_request[line[0]] = story
        self._add(story, line)

    def _take_future(self, event: FutureCancel, line: Line) -> None:
        story: Story | None = None
        for task in event.waiters:
            other = self._story(task)
            if len(other.lines) >= _LONG:
                other = self._next_story(task, other)
            story = other if story is None or story is other else self._joined(story, other)
        if story is None:
            story = self._new_story()
        story.settled = False
        self._refer(story, event.cause)
        for each in (event.by, event.origin_task):
            if each is not None:
                self._refer_to_task(story, each)
        self._of_request[line[0]] = story
        self._add(story, line)

    def _take_uncancel(self, event: TaskUncancel, line: Line) -> None:
        self._take_back(event.task, line, all_of_them=event.remaining == 0)

    def _take_taken_back(self, record: TakenBack, line: Line) -> None:
        self._take_back(record.born.task, line, all_of_them=True)

    def _take_back(self, task: int, line: Line, *, all_of_them: bool) -> None:
        story = self._story(task)
        self._add(story, line)
        story.settled = all_of_them and len(story.tasks) == 1

    def _take_finding(self, event: Finding, line: Line) -> None:
        story = self._of_request.get(event.cancel or 0)
        if story is None:
            story = self._story(event.task) if event.task else self._new_story()
        self._refer(story, event.other_cancel)
        for each in (event.by, event.other_task):
            if each is not None:
                self._refer_to_task(story, each)
        self._add(story, line)

    # -- stories -----------------------------------------------------------------------------

    def _new_story(self) -> Story:
        story = Story()
        self._stories[story] = None
        self.size += _STORY
        return story

    def _story(self, task: int) -> Story:
        """The last story of *task*; a new one takes its making with it."""
        story = self._of_task.get(task)
        if story is None:
            story = self._new_story()
            made = self._living.pop(task, None)
            if made is not None:
                self.size -= _cost_of_birth(made)
                self._give_birth(story, task, made)
            self._belong(task, story)
        return story

    def _belong(self, task: int, story: Story) -> None:
        self._of_task[task] = story
        story.tasks.add(task)

    def _give_birth(self, story: Story, task: int, made: Birth) -> None:
        line = made if isinstance(made, tuple) else (made.seq, encode_events(Batch([made])))
        story.births[task] = line
        self._grow(story, _LINE + len(line[1]))

    def _grow(self, story: Story, size: int) -> None:
        story.size += size
        self.size += size

    def _next_story(self, task: int, story: Story) -> Story:
        """Another story of *task*, after *story*."""
        new = self._new_story()
        new.before.append(story)
        story.tasks.discard(task)
        line = story.births.pop(task, None)
        if line is not None:
            self._grow(story, -_LINE - len(line[1]))
            self._give_birth(new, task, line)
        self._belong(task, new)
        return new

    def _joined(self, story: Story, other: Story) -> Story:
        """One story of both: their tasks waited for the same."""
        for task in other.tasks:
            self._belong(task, story)
        for seq, _ in other.lines:
            if seq in self._of_request:
                self._of_request[seq] = story
        story.births |= other.births
        story.lines += other.lines
        story.led += other.led
        story.before += other.before
        story.size += other.size
        del self._stories[other]
        other.clear()
        other.into = story
        return story

    def _add(self, story: Story, line: Line) -> None:
        """Add *line* to *story*, which is the last to go now, but for what it came of."""
        story.lines.append(line)
        self._grow(story, _LINE + len(line[1]))
        self._touch(story)

    def _refer(self, story: Story, request: int | None) -> None:
        """What happens in *story* came of *request*."""
        if request is not None:
            self._lead(story, self._of_request.get(request))

    def _refer_to_task(self, story: Story, task: int) -> None:
        """What happens in *story* has to do with *task*, which is kept as long."""
        if task in self._of_task or task in self._living:
            self._lead(story, self._story(task))

    def _lead(self, story: Story, other: Story | None) -> None:
        if other is not None and other is not story and other not in story.led:
            story.led.append(other)

    def _touch(self, story: Story) -> None:
        """*story* and what it came of, and so on, are the last to go: the root the very last."""
        stories = self._stories
        stories.move_to_end(story)
        if not story.led:
            return
        self._round += 1
        story.mark = self._round
        chain = [story]
        for each in chain:  # which grows meanwhile
            for led in each.led:
                other = led.found()
                if other is not None and other.mark != self._round and len(chain) < _MOST_STEPS:
                    other.mark = self._round
                    stories.move_to_end(other)
                    chain.append(other)

    # -- what goes ---------------------------------------------------------------------------

    def _make_room(self) -> None:
        """Throw away what answers need least, until there is room again."""
        limit = self.limit
        lives = self._lives
        before = self.lost
        seq = 0
        size = self.size
        count = 0
        while size > limit and lives:
            life = lives.popleft()
            if isinstance(life, Returned):
                size -= _MADE + _RETURNED
                name = life.born.name_or_task
                if len(name) > _SHORT:
                    size -= 4 * len(name)
                count += 2
                seq = life.seq
                continue
            made, (seq, line) = life
            size -= _LINE + len(line)
            count += 1
            if made is not None:
                size -= _cost_of_birth(made)
                count += 1
        self.size = size
        if count:
            self._lose(count, seq, "task.create", "task.done")
        while self.size > limit and self._others:
            seq, line = self._others.popleft()
            self.size -= _LINE + len(line)
            self._lose(1, seq, _name_in(line))
        while self.size > limit and self._living:
            # Several at once: the first of a table is the further away the more have gone before.
            for task in list(islice(self._living, _AT_ONCE)):
                made = self._living.pop(task)
                self.size -= _cost_of_birth(made)
                self._lose(1, _seq_of(made), "task.create")
        self._unneeded += self.lost - before
        while self.size > limit and self._stories:
            self._throw_away(next(iter(self._stories)))

    def _throw_away(self, story: Story) -> None:
        """*story* and all that came before it goes."""
        going = [story]
        while going:
            each = going.pop().found()
            if each is None:
                continue
            del self._stories[each]
            self.size -= each.size
            for seq, line in (*each.births.values(), *each.lines):
                self._of_request.pop(seq, None)
                self._lose(1, seq, _name_in(line))
            for task in each.tasks:
                del self._of_task[task]
            going += each.before
            each.clear()
            each.into = each

    def _lose(self, count: int, seq: int, *names: str) -> None:
        self.lost += count
        self._lost_names.update(names)
        if self._lost_at is None:
            self._lost_at = seq

    # -- what is told ------------------------------------------------------------------------

    def lines(self, ts: str) -> Iterator[bytes]:
        """All that is kept, in order, in portions of whole lines; *ts* is the time now.

        It begins with the ``process.start``.  Nothing may be taken meanwhile.
        """
        yield self._header
        for portion in _portions(self._in_order(ts)):
            yield _encoded(portion)

    def _in_order(self, ts: str) -> Iterator[Created | Returned | Line]:
        made: list[Birth] = list(self._living.values())
        ended: list[Returned | Line] = []
        for life in self._lives:
            if isinstance(life, Returned):
                made.append(life.born)
                ended.append(life)
            else:
                if life[0] is not None:
                    made.append(life[0])
                ended.append(life[1])
        told: list[Line] = [line for line in (self._told_losses(ts), self._end) if line is not None]
        for story in self._stories:
            told += story.births.values()
            told += story.lines
        parts: list[Iterable[Any]] = [self._others]
        for items in (made, ended, told):
            parts += _sorted_parts(items)
        return merge(*parts, key=_seq_of)

    def _told_losses(self, ts: str) -> Line | None:
        """The line that says what is not here; its number is that of one of these."""
        start = self.start
        if start is None or not (self.lost or self._faults):
            return None
        seq = start.seq if self._lost_at is None else self._lost_at
        event = ProcessDropped(
            ts=ts,
            seq=seq,
            run=start.run,
            pid=start.pid,
            thread="aioaudit-recorder",
            count=self.lost,
            events=sorted(self._lost_names),
            faults=list(self._faults),
            unneeded=self._unneeded,
        )
        return seq, encode_events([event])


def _lines_of(records: list[Record]) -> list[bytes]:
    # JSON has no line end of any kind inside a line.
    return encode_events(Batch(records)).splitlines(keepends=True)


def _is_long(name: object) -> bool:
    """Whether a name takes more than what is counted for it; a task that has none yet does."""
    return type(name) is not str or len(name) > _SHORT


def _cost_of_birth(made: Birth) -> int:
    return _MADE + len(made[1]) if isinstance(made, tuple) else _MADE


def _seq_of(item: Created | Returned | Line) -> int:
    return item[0] if isinstance(item, tuple) else item.seq


def _name_in(line: bytes) -> str:
    """The name of the event that *line* tells, which begins with it."""
    begin = len(b'{"event":"')
    return line[begin : line.index(b'"', begin)].decode()


def _sorted_parts(items: list[Any]) -> Iterator[list[Any]]:
    """*items* in sorted pieces, each small: sorting all at once would keep the GIL for long."""
    for begin in range(0, len(items), _SORTED):
        yield sorted(items[begin : begin + _SORTED], key=_seq_of)


def _portions(items: Iterator[Any]) -> Iterator[list[Any]]:
    while portion := list(islice(items, _PORTION)):
        yield portion


def _encoded(items: list[Created | Returned | Line]) -> bytes:
    found: list[bytes] = []
    records: list[Record] = []
    for item in items:
        if isinstance(item, tuple):
            if records:
                found.append(encode_events(Batch(records)))
                records = []
            found.append(item[1])
        else:
            records.append(item)
    if records:
        found.append(encode_events(Batch(records)))
    return b"".join(found)
