"""Private. What happens in which test: requests and findings are heard as they happen.

A test is what runs from its set-up to the set-up of the next one.  Of one that is over nothing is
kept, but of the tasks that it made and that live on.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import aioaudit
from aioaudit.core import Asked, last_of
from aioaudit.cpython.tasks import all_tasks, coro_of
from aioaudit.delivery.listening import Listener
from aioaudit.events import Finding, FutureCancel, TaskCancel
from aioaudit.session import current, enable
from aioaudit.stack.frames import suspended_at
from aioaudit.testing.texts import runs_others

if TYPE_CHECKING:
    from collections.abc import Iterator

    from aioaudit.auditing import Auditing
    from aioaudit.chain.links import Answer
    from aioaudit.core import Created
    from aioaudit.session import Session

Outlived = tuple[str, str, str, str | None, str | None]

_EVENTS = "task.*,future.cancel,finding"

MOST_FINDINGS = 1_000
"""So many findings of one test are kept; more are counted."""

MOST_LIVING = 10_000
"""Of so many tasks that live on is known which test made them."""

MOST_WAITING = 100
"""So many tasks are told of when the time of a test has run out; more are counted."""


class Test:
    """What happened in one test."""

    def __init__(self, nodeid: str, ignored: frozenset[str], first: int) -> None:
        self.nodeid = nodeid
        self.ignored = ignored
        """Kinds of findings that it accepts."""
        self.first = first
        """The number of the last task before it."""
        self.asked: set[int] = set()
        """The numbers of the tasks that were asked to cancel."""
        self.findings: list[Finding] = []
        self.more = 0
        """Findings that are not kept."""
        self.settled = 0
        """So many of `findings` have been told."""
        self.shared: list[tuple[int, int]] = []
        """Numbers of the tasks, after the one and up to the other, that fixtures made which
        other tests share."""

    def made(self, number: int) -> bool:
        """Whether the task of that *number* is its own, if it was made while it ran."""
        return number > self.first and not any(low < number <= up for low, up in self.shared)


class Maker:
    """The test that made a task which lives on."""

    __slots__ = ("ignored", "nodeid", "told")

    def __init__(self, test: Test) -> None:
        self.nodeid = test.nodeid
        self.ignored = test.ignored
        self.told = False
        """Whether it was told that it lives on."""


class Hearing:
    """Hears what happens, from `begin` to `end`.

    Attributes:
        test: The one that runs, or ran last; the first stands for what comes before any.
        outlived: Of each task that lived on after the test that made it: that test, the task's
            name, what it runs, where it was made and where it waits.
        faults: Errors of our own.
    """

    def __init__(self) -> None:
        self.test = Test("", frozenset(), 0)
        self.outlived: list[Outlived] = []
        self.faults = 0
        self._living: dict[int, Maker] = {}
        self._session: Session | None = None
        self._auditing: Auditing | None = None

    # -- on and off ------------------------------------------------------------------------

    def begin(self) -> None:
        """Turn auditing on, or again on where a test has turned it off.

        Raises:
            aioaudit.SettingsError: a variable of the environment means nothing.
            aioaudit.UnsupportedError: this interpreter cannot be instrumented safely.
        """
        session = current()
        if session is not None and session is self._session and self._is_on():
            return
        listener = Listener(
            {
                Asked: self._on_asked,
                TaskCancel: self._on_request,
                FutureCancel: self._on_future,
                Finding: self._on_finding,
            },
            self._on_fault,
        )
        self._auditing = enable(listener, events=_EVENTS)
        self._session = current()
        self._living.clear()  # of another run, with numbers of its own

    def _is_on(self) -> bool:
        auditing = self._auditing
        return auditing is not None and auditing._is_on(auditing)

    def end(self) -> None:
        """Turn off what `begin` turned on."""
        if self._auditing is not None:
            self._auditing.disable()
            self._auditing = None

    # -- what is heard ---------------------------------------------------------------------

    def _on_asked(self, record: Asked) -> None:
        self.test.asked.add(record.born.task)

    def _on_request(self, event: TaskCancel) -> None:
        if event.accepted:
            self.test.asked.add(event.task)

    def _on_future(self, event: FutureCancel) -> None:
        self.test.asked.update(event.waiters)

    def _on_finding(self, event: Finding) -> None:
        if event.severity == "finding":
            test = self.test
            if len(test.findings) < MOST_FINDINGS:
                test.findings.append(event)
            else:
                test.more += 1

    def _on_fault(self, _error: Exception) -> None:
        self.faults += 1

    # -- tests -------------------------------------------------------------------------------

    def drawn(self) -> int:
        """The number of the task that was made last."""
        session = self._session
        return 0 if session is None else last_of(session.recorder.state.tasks.next_number)

    def start(self, nodeid: str, ignored: frozenset[str]) -> Test:
        """A test begins; gives the one before it."""
        before = self.test
        self.test = Test(nodeid, ignored, self.drawn())
        return before

    def look_back(self, test: Test) -> None:
        """*test* has ended: which of its tasks live on?"""
        session = self._session
        if session is None:
            return
        born = session.recorder.state.tasks.born
        living = self._living
        if not (living or len(born)):
            return
        numbers = {made.task: made for made in list(born.values())}
        for number in [number for number in living if number not in numbers]:
            del living[number]
        for number, made in numbers.items():
            if (
                number not in living
                and len(living) < MOST_LIVING
                and test.made(number)
                and not runs_others(made.site.coro)
            ):
                living[number] = Maker(test)

    def tell_outlived(self) -> None:
        """Note which tasks of tests that have ended live still, though nobody asked them to end.

        To be called once loops had the time to end what was asked to: where another test has run.
        """
        living = self._living
        if all(maker.told for maker in living.values()):
            return
        for task, number, made in self._tasks():
            maker = living.get(number)
            if maker is None or maker.told or made is None or not made.site.by_application:
                continue
            if number not in self.test.asked and not task.cancelling():
                maker.told = True
                self.outlived.append((maker.nodeid, *self._facts(task, made)))

    def maker_of(self, finding: Finding) -> Maker | None:
        """Who made the task of *finding*, if that was a test which has ended."""
        return self._living.get(finding.task)

    # -- tasks ---------------------------------------------------------------------------------

    def _tasks(self) -> Iterator[tuple[Any, int, Created | None]]:
        """The tasks of all loops that are not done, their numbers, and what is known of them."""
        session = self._session
        if session is None:
            return
        tasks = session.recorder.state.tasks
        for loop in session.recorder.state.places.loops():
            if loop.is_closed():
                continue  # what it had was found pending
            for task in all_tasks(loop):
                if not task.done():
                    yield task, tasks.number(task), tasks.born.get(id(task))

    def _facts(self, task: Any, made: Created | None) -> tuple[str, str, str | None, str | None]:
        """Its name, what it runs, where it was made and where it waits."""
        assert self._session is not None
        state = self._session.recorder.state
        coro = coro_of(task)
        runs = state.tasks.coro_name(coro) if made is None else made.site.coro
        at = suspended_at(state.codes, coro)
        return state.tasks.name(task), runs, None if made is None else made.site.fields[1], at

    def waiting(self) -> list[tuple[Any, str, str, str | None, str | None]]:
        """Every task that is not done, the oldest first, with its `_facts`."""
        found = sorted(self._tasks(), key=lambda each: each[1])
        return [(task, *self._facts(task, made)) for task, _, made in found]

    def why(self, what: Any) -> Answer | None:
        """Why it was cancelled, as far as is known."""
        return aioaudit.why(what)
