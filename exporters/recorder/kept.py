"""What a ring keeps, with the core in Python: `aioaudit.core.native.new_kept` is the same in C.

Numbers of tasks and of events are above 0; where one may be missing, 0 stands for none.

A story goes as a whole, and those of the same task that are older go with it.  So what is kept of
a task is always the last of it: a request whose end was thrown away would look as if the task was
to end yet.  A task that takes requests back again and again (a timeout around each of its waits)
begins another story with the first request after it took back all, so its old ones may go.

Lives are kept as the records that they came as: nothing is encoded until somebody wants it.
All else is a line.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from heapq import merge
from itertools import islice
from typing import Any, TypeAlias

from aioaudit.exporter import Batch, Created, Record, Returned, encode_events
from aioaudit.text import LIMIT

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


class Kept:
    """What is kept, and what goes first.

    All is done in one thread.
    """

    def __init__(self) -> None:
        self.clear()

    def clear(self) -> None:
        """Keep nothing."""
        self.size = 0
        """The bytes that are taken now, about."""
        self._lives: deque[Life] = deque()
        self._living: dict[int, Birth] = {}
        self._others: deque[Line] = deque()
        self._stories: OrderedDict[Story, None] = OrderedDict()
        self._of_task: dict[int, Story] = {}
        self._of_request: dict[int, Story] = {}
        self._round = 0
        self.lost = 0
        """How many events were thrown away, or never came."""
        self.unneeded = 0
        """How many of them no answer needs."""
        self.lost_at: int | None = None
        """The number of one of them."""
        self._lost_names: set[str] = set()

    # -- what comes ------------------------------------------------------------------------

    def take(self, records: list[Any], at: int) -> int:
        """Keep *records* from *at* on, up to the first that is not plain; gives where that is."""
        # By far the most are births and returns, so what is done for these is written out.
        living, lives = self._living, self._lives
        size = self.size
        for record in islice(records, at, None):
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
                    self.returned(born.task, record.seq, encode_events(Batch([record])))
                    size = self.size
            else:
                break
            at += 1
        self.size = size
        return at

    def made(self, task: int, seq: int, line: bytes) -> None:
        """*task* was made, or found to live, as *line* tells, whose number is *seq*."""
        story = self._of_task.get(task)
        if story is not None:  # it was found after it was asked
            self._add(story, (seq, line))
            return
        self._living[task] = seq, line
        self.size += _MADE + len(line)

    def returned(self, task: int, seq: int, line: bytes) -> None:
        """*task* returned, and its last request, if there was any, has nothing to do with it."""
        story = self._of_task.get(task)
        if story is not None:
            self._add(story, (seq, line))
            return
        made = self._living.pop(task, None)
        if isinstance(made, Created) and _is_long(made.name_or_task):
            made = (made.seq, encode_events(Batch([made])))  # cut to what an event may hold
            self.size += len(made[1])
        self._lives.append((made, (seq, line)))
        self.size += _LINE + len(line)

    def ended(self, task: int, seq: int, line: bytes, cancel: int) -> None:
        """*task* ended otherwise; *cancel* is the request that it obeyed."""
        story = self._story(task)
        self._refer(story, cancel)
        self._add(story, (seq, line))

    def asked(
        self, task: int, seq: int, line: bytes, by: int, cause: int, begins: bool, also: int
    ) -> None:
        """*task* was asked to cancel.

        Args:
            task: Which.
            seq: The number of the request.
            line: What tells it.
            by: The task that asked.
            cause: The request that it came of.
            begins: Whether no other request to the task stands before it.
            also: Another task that it has to do with.
        """
        story = self._story(task)
        if begins and story.lines and (story.settled or len(story.lines) >= _LONG):
            story = self._next_story(task, story)
        self._ask(story, (seq, line), by, cause, also)

    def future(
        self, waiters: tuple[int, ...], seq: int, line: bytes, cause: int, by: int, also: int
    ) -> None:
        """A future was asked to cancel that the tasks *waiters* wait for; all else as of `asked`."""
        story: Story | None = None
        for task in waiters:
            other = self._story(task)
            if len(other.lines) >= _LONG:
                other = self._next_story(task, other)
            story = other if story is None or story is other else self._joined(story, other)
        self._ask(story or self._new_story(), (seq, line), by, cause, also)

    def _ask(self, story: Story, line: Line, by: int, cause: int, also: int) -> None:
        story.settled = False
        self._refer(story, cause)
        self._refer_to_task(story, by)
        self._refer_to_task(story, also)
        self._of_request[line[0]] = story
        self._add(story, line)

    def took_back(self, task: int, seq: int, line: bytes, all_of_them: bool) -> None:
        """*task* took back a request, or *all_of_them*."""
        story = self._story(task)
        self._add(story, (seq, line))
        story.settled = all_of_them and len(story.tasks) == 1

    def found(
        self,
        seq: int,
        line: bytes,
        cancel: int,
        task: int,
        other_cancel: int,
        by: int,
        other_task: int,
    ) -> None:
        """Something was found about the request *cancel*, or about *task*; the others are of it."""
        story = self._of_request.get(cancel)
        if story is None:
            story = self._story(task) if task else self._new_story()
        self._refer(story, other_cancel)
        self._refer_to_task(story, by)
        self._refer_to_task(story, other_task)
        self._add(story, (seq, line))

    def other(self, seq: int, line: bytes) -> None:
        """Something else happened."""
        self._others.append((seq, line))
        self.size += _LINE + len(line)

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
        if request:
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

    def make_room(self, limit: int) -> None:
        """Throw away what answers need least, until *limit* bytes are enough."""
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
            self.lose(count, seq, ("task.create", "task.done"))
        while self.size > limit and self._others:
            seq, line = self._others.popleft()
            self.size -= _LINE + len(line)
            self.lose(1, seq, (_name_in(line),))
        while self.size > limit and self._living:
            # Several at once: the first of a table is the further away the more have gone before.
            for task in list(islice(self._living, _AT_ONCE)):
                made = self._living.pop(task)
                self.size -= _cost_of_birth(made)
                name = _name_in(made[1]) if isinstance(made, tuple) else "task.create"
                self.lose(1, _seq_of(made), (name,))
        self.unneeded += self.lost - before
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
                self.lose(1, seq, (_name_in(line),))
            for task in each.tasks:
                del self._of_task[task]
            going += each.before
            each.clear()
            each.into = each

    def lose(self, count: int, seq: int, names: Iterable[str]) -> None:
        """*count* events are not here: one with the number *seq*; they are called *names*."""
        self.lost += count
        self._lost_names.update(names)
        if self.lost_at is None:
            self.lost_at = seq

    def names_of_lost(self) -> set[str]:
        """What those are called that are not here."""
        return set(self._lost_names)

    # -- what is told ------------------------------------------------------------------------

    def lines(self, extra: Iterable[Line]) -> Iterator[bytes]:
        """All that is kept and the lines *extra*, in order, in portions of whole lines.

        Nothing may be taken meanwhile.
        """
        for portion in _portions(self._in_order(extra)):
            yield _encoded(portion)

    def _in_order(self, extra: Iterable[Line]) -> Iterator[Created | Returned | Line]:
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
        told: list[Line] = list(extra)
        for story in self._stories:
            told += story.births.values()
            told += story.lines
        parts: list[Iterable[Any]] = [self._others]
        for items in (made, ended, told):
            parts += _sorted_parts(items)
        return merge(*parts, key=_seq_of)


def new_kept(size: int) -> Kept:  # noqa: ARG001 - the other core wants to know
    """What a recorder of *size* bytes keeps."""
    return Kept()


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
