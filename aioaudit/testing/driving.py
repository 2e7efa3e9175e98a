"""Private. One run of a coroutine that is cancelled at one point: what went wrong in it.

Beside the points of `aioaudit.testing.points` this is the oracle: how the task ended, what
auditing found, which tasks and asynchronous generators are left, and what the user's check says.
"""

from __future__ import annotations

import asyncio
import dis
import inspect
import sys
import weakref
from asyncio import AbstractEventLoop
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import AsyncExitStack, contextmanager
from types import CodeType, FrameType
from typing import Any, NamedTuple

from aioaudit.chain.summary import who
from aioaudit.cpython.tasks import abandon, all_tasks, coro_of, current_task
from aioaudit.events import Finding, TaskCreate
from aioaudit.findings import catalogue
from aioaudit.findings.words import sentence
from aioaudit.session import current, recording
from aioaudit.settings import shown
from aioaudit.stack.code import APPLICATION, owner_of
from aioaudit.stack.frames import error_site, suspended_at
from aioaudit.stack.handlers import swallowing_line
from aioaudit.testing.points import Case, Point, Spot, Watch, short, spot_of
from aioaudit.text import describe, escape_unprintable
from aioaudit.trail import Trail

HANGS = "hangs"
REPLACED = "replaced"
LEFT_TASK = "left_task"
LEFT_GENERATOR = "left_generator"
CHECK = "check"
TEARDOWN = "teardown"

OWN_KINDS = {
    HANGS: "it did not end in time",
    REPLACED: "it ended with another error than CancelledError",
    LEFT_TASK: "a task is left behind",
    LEFT_GENERATOR: "an asynchronous generator is left behind in a block that is to clean up",
    CHECK: "the check that was given failed",
    TEARDOWN: "what comes after the coroutine failed",
}
"""What can go wrong beside the findings of auditing."""

_NOT_OURS = frozenset({catalogue.PENDING, catalogue.DESTROYED, catalogue.AWAITED_AT_EXIT})
"""Findings about what is left behind: that is looked for here, and ended before the loop is."""

KINDS = {**OWN_KINDS, **{kind: each.title for kind, each in catalogue.CATALOGUE.items()}}
for _kind in _NOT_OURS:
    del KINDS[_kind]

_TURNS = 20
"""Turns of the loop in which what was asked to end may do so before it is looked at."""

_GRACE = 0.1
"""Seconds that a task which nobody asked to end may take for it."""

_TRIES = 5
_MOST_HANDLERS = 100
_unending: list[Any] = []
"""Coroutines that do not end, whatever is thrown into them: to let go of one warns of it."""

_busy: set[int] = set()
"""The `id` of each loop in which a run is under way."""

Make = Callable[[], Any]


class Options(NamedTuple):
    """How the runs are made; `aioaudit.testing.everywhere` says what each means."""

    check: Callable[[], Any] | None
    patience: float
    limit: int
    children: bool
    shared: bool
    """Whether the loop belongs to others, too."""


class Trouble(NamedTuple):
    """One thing that went wrong in a run: its kind, the ``path:line`` of it, and a sentence."""

    kind: str
    at: str | None
    text: str
    key: tuple[str, ...]
    """What is equal where the same goes wrong without a cancellation."""


class Run:
    """What one run showed."""

    def __init__(self, case: Case | None) -> None:
        self.case = case
        self.function = ""
        self.points: list[Point] = []
        self.after: list[Point] = []
        self.asked: Point | None = None
        self.asked_again: Point | None = None
        self.troubles: list[Trouble] = []
        self.outcome = ""
        """``cancelled``, ``returned``, ``raised`` or ``stuck``."""
        self.stuck_at: Spot | None = None
        self.error: BaseException | None = None
        self.overrun = False
        self.codes: dict[CodeType, set[int]] = {}
        """Code of the application that it was suspended in, and the lines of it."""

    @property
    def reached(self) -> bool:
        """Whether it came to the points where it was to be cancelled."""
        if self.case is None:
            return True
        return self.asked is not None and (not self.case.again or self.asked_again is not None)


class Driver:
    """Runs a coroutine in the loop that is running, as often as one likes."""

    def __init__(self, make: Make, options: Options) -> None:
        self._make = make
        self._options = options
        self._trail: Trail | None = None
        self._usual: Counter[tuple[str, ...]] = Counter()
        """What was wrong in the run that nobody cancelled: a cancellation is not why."""

    @property
    def patience(self) -> float:
        """Seconds that a task may take to end."""
        return self._options.patience

    def hear(self, trail: Trail) -> None:
        """Take what is seen from *trail*, from now on: to begin another for each run takes longer."""
        self._trail = trail

    def alone(self) -> None:
        """From now on the loop belongs to nobody else."""
        self._options = self._options._replace(shared=False)

    async def run(self, case: Case | None, make: Make | None = None) -> Run:
        """One run, cancelled as *case* says, or not at all; *make* makes what is run in it.

        Raises:
            TypeError: what was given makes no coroutine.
            RuntimeError: another run is under way in this loop: each would miss steps.
            Exception: what making it, or setting up, raised.
        """
        loop = id(asyncio.get_running_loop())
        if loop in _busy:
            raise RuntimeError(
                "a coroutine is cancelled everywhere in this loop already: await one after the"
                " other, and not one inside of the other"
            )
        _busy.add(loop)
        try:
            return await self._one(case, make or self._make)
        finally:
            _busy.discard(loop)

    async def _one(self, case: Case | None, make: Make) -> Run:
        run = Run(case)
        trail = self._trail
        if trail is None:
            with recording() as trail:
                await self._run(run, trail, make)
        else:
            await self._run(run, trail, make)
            trail.events.clear()  # what many runs made would be much
        if case is None:
            self._usual = Counter(each.key for each in run.troubles)
            return run
        left: Counter[tuple[str, ...]] = Counter()
        troubles: list[Trouble] = []
        for each in run.troubles:
            left[each.key] += 1
            if left[each.key] > self._usual[each.key]:
                troubles.append(each)
        run.troubles = troubles
        return run

    async def _run(self, run: Run, trail: Trail, make: Make) -> None:
        loop = asyncio.get_running_loop()
        me = current_task()
        stack = AsyncExitStack()
        coro: Any = None
        try:
            coro = await _made(make, stack)
        except BaseException:
            # What was set up before it failed is its own to take down; nothing was entered.
            await stack.aclose()
            raise
        family = _Family(loop, trail, self._options, me)
        generators = _Generators(family)
        run.function = short(getattr(coro, "__qualname__", type(coro).__qualname__))
        code = getattr(coro, "cr_code", None)
        if code is not None and owner_of(code.co_filename) == APPLICATION:
            run.codes[code] = set()
        watch = Watch(loop, coro, run.case, self._options.limit, family.member, trace=_traces())
        begun = len(trail.events)
        with generators.watched():
            task: Any = None
            try:
                with watch.standing():
                    task = loop.create_task(coro, name=run.function)
                    family.begin(task)
                    watch.began(task)
                    ended = await self._until_done(task, watch)
                    watch.leave()
            except BaseException:
                watch.leave()
                if task is not None:
                    await put_down([task])
                if not getattr(coro, "cr_running", False):
                    coro.close()
                await stack.aclose()
                raise
            self._note(run, watch)
            if ended:
                self._judge_end(run, task, watch)
            else:
                self._judge_stuck(run, coro, watch)
                await put_down([task])
            await self._ask_check(run)
            try:
                await stack.aclose()
            except Exception as error:  # noqa: BLE001 - whatever it is, it is reported
                run.troubles.append(_failed(TEARDOWN, error))
            await self._look_for_tasks(run, family)
        if ended or run.case is None:  # one that was put down by force left what it had
            generators.judge(run)
        self._look_at_findings(run, trail.events[begun:], task, watch, family)
        del task

    async def _until_done(self, task: Any, watch: Watch) -> bool:
        """Wait for its end; false where it takes too long."""
        loop = asyncio.get_running_loop()
        patience = self._options.patience
        while not task.done():
            steps, asked = watch.steps, watch.asked is not None or watch.overrun
            left = watch.asked_at + patience - loop.time() if asked else patience
            if left <= 0:
                return False
            await asyncio.wait({task}, timeout=left)
            if not asked and watch.asked is None and watch.steps == steps and not task.done():
                return False  # it waits for what does not come
        return True

    def _note(self, run: Run, watch: Watch) -> None:
        run.points, run.after = watch.points, watch.after
        run.asked, run.asked_again = watch.asked, watch.asked_again
        run.overrun = watch.overrun
        run.troubles += [_exited(task, error) for task, error in watch.exits]
        for point in (*watch.points, *watch.after):
            for code, line in point.spot.codes:
                run.codes.setdefault(code, set()).add(line)

    # -- how it ended ---------------------------------------------------------------

    def _judge_end(self, run: Run, task: Any, watch: Watch) -> None:
        if task.cancelled():
            run.outcome = "stuck" if run.overrun else "cancelled"
            return
        error = task.exception()
        run.outcome = "returned" if error is None else "raised"
        run.error = error
        if run.asked is None or run.overrun:
            run.outcome = "stuck" if run.overrun else run.outcome
            return
        if error is not None:
            at = _error_site(error)
            text = f"it ended with {describe(error)} in place of CancelledError"
            run.troubles.append(_trouble(REPLACED, at, text + _raised(at)))
            return
        if watch.just_ended:
            return  # it was about to return that when it was asked
        if watch.delivered and not task.cancelling():
            return  # absorbed: uncancel() says that it was meant to
        kind = catalogue.SWALLOWED if watch.delivered else catalogue.LOST
        at = _kept_at(task) or watch.kept.get(_number(task))
        kept = "" if at is None else f" at {at}"
        text = f"it kept the CancelledError{kept} and returned"
        if not watch.delivered:
            text = f"it was asked to cancel at {run.asked.spot.at}, felt nothing of it and returned"
        run.troubles.append(_trouble(kind, at, f"{text} {_value(task)}"))

    def _judge_stuck(self, run: Run, coro: Any, watch: Watch) -> None:
        run.outcome = "stuck"
        run.stuck_at = spot = spot_of(coro)
        if watch.asked is None:
            return
        text = f"it did not end within {self._options.patience:g} s, and waits at {spot.at}"
        if spot.inner != spot.at:
            text += f" (in {spot.inner})"
        if not watch.delivered:
            text += "; the CancelledError has not reached it"
        run.troubles.append(_trouble(HANGS, spot.at, text))

    # -- what is left ---------------------------------------------------------------

    async def _ask_check(self, run: Run) -> None:
        check = self._options.check
        if check is None:
            return
        try:
            said = check()
            if inspect.isawaitable(said):
                await said
        except KeyboardInterrupt:
            raise
        except BaseException as error:  # an assertion of the user's, or pytest.fail()
            me = current_task()
            if isinstance(error, asyncio.CancelledError) and me is not None and me.cancelling():
                raise
            run.troubles.append(_failed(CHECK, error))

    async def _look_for_tasks(self, run: Run, family: _Family) -> None:
        patience = self._options.patience
        for _ in range(_TURNS):
            if not family.left():
                return
            await asyncio.sleep(0)
        left = family.left()
        asked = [task for task in left if task.cancelling() or _closes_generator(task)]
        if asked:
            await asyncio.wait(asked, timeout=patience)
        known = sum(self._usual[key] for key in self._usual if key[0] == LEFT_TASK)
        left = family.left()
        if len(left) > known:
            await asyncio.wait(left, timeout=_GRACE)
        left = family.left()
        for task in left:
            run.troubles.append(family.trouble(task))
        await put_down(left)

    def _look_at_findings(
        self, run: Run, events: list[Any], task: Any, watch: Watch, family: _Family
    ) -> None:
        number = _number(task)
        for each in events:
            if not isinstance(each, Finding) or not family.answers_for(each):
                continue
            if each.swallowed_at is None:  # before Python 3.12
                keeper = each.other_task if each.kind == catalogue.LOST else each.task
                each.swallowed_at = watch.kept.get(keeper or 0)
            if each.task == number and self._explains(run, each):
                continue
            if each.severity != "finding" or each.kind in _NOT_OURS:
                continue
            at = each.swallowed_at or each.waits_at or each.at
            run.troubles.append(_trouble(each.kind, at, sentence(each)))

    def _explains(self, run: Run, finding: Finding) -> bool:
        """Whether *finding*, of the task itself, says what is said already, and perhaps more."""
        for number, trouble in enumerate(run.troubles):
            if trouble.kind == finding.kind:
                if finding.kind == catalogue.LOST and finding.other_name is not None:
                    run.troubles[number] = _trouble(
                        catalogue.LOST, finding.swallowed_at, sentence(finding)
                    )
                return True
        # It has been waited for until patience ran out.
        return run.outcome == "stuck" and finding.kind == catalogue.SLOW


def _trouble(kind: str, at: str | None, text: str) -> Trouble:
    return Trouble(kind, at, text, (kind, at or ""))


def _failed(kind: str, error: BaseException) -> Trouble:
    at = _error_site(error)
    what = "the check failed" if kind == CHECK else "the tear-down failed"
    return _trouble(kind, at, f"{what} with {describe(error)}{_raised(at)}")


def _exited(task: Any, error: BaseException) -> Trouble:
    task.exception()  # it is looked at: asyncio need not warn
    at = _error_site(error)
    name = who(task.get_name(), short(getattr(coro_of(task), "__qualname__", "")))
    return _trouble(
        REPLACED, at, f"the task {name} was to end the program with {describe(error)}{_raised(at)}"
    )


def _raised(at: str | None) -> str:
    return "" if at is None else f", raised at {at}"


def _value(task: Any) -> str:
    return escape_unprintable(shown(task.result()))


def _error_site(error: BaseException) -> str | None:
    session = current()
    return None if session is None else error_site(session.recorder.state.codes, error)[0]


def _kept_at(task: Any) -> str | None:
    session = current()
    state = None if session is None else session.recorder.state.tasks.find_state(task)
    return None if state is None else state.swallowed_at


def _number(task: Any) -> int:
    session = current()
    return 0 if session is None else session.recorder.state.tasks.number(task)


def _traces() -> bool:
    """Whether nobody else sees which line keeps a CancelledError."""
    session = current()
    return session is not None and not session.recorder.state.cancellations.deliveries_seen


async def _made(make: Make, stack: AsyncExitStack) -> Any:
    """The coroutine of the next run; what it needs is set up, and taken down by *stack*."""
    made = make()
    if hasattr(type(made), "__aenter__"):
        made = await stack.enter_async_context(made)
    elif hasattr(type(made), "__enter__") and not inspect.iscoroutine(made):
        made = stack.enter_context(made)
    if not asyncio.iscoroutine(made) and callable(made):
        made = made()
    if not asyncio.iscoroutine(made):
        what = type(made).__qualname__
        raise TypeError(
            f"make_coroutine gave a {what}: it has to return a coroutine, or a context manager"
            " (sync or async) that gives one or a function that does"
        )
    return made


async def put_down(tasks: list[Any]) -> None:
    """End *tasks*, as far as they let themselves be ended."""
    left = set(tasks)
    for _ in range(_TRIES):
        left = {task for task in left if not task.done()}
        if not left:
            break
        for task in left:
            task.cancel("cancel_everywhere: the run is over")
        await asyncio.wait(left, timeout=_GRACE)
    for task in tasks:
        if not task.done():
            abandon(task)
            _unending.append(coro_of(task))
        elif not task.cancelled():
            task.exception()  # it is looked at: asyncio need not warn


def _closes_generator(task: Any) -> bool:
    """Whether the loop made it to close an asynchronous generator that nobody refers to."""
    return type(coro_of(task)).__name__ == "async_generator_athrow"


class _Family:
    """The tasks that came of a run."""

    def __init__(self, loop: AbstractEventLoop, trail: Trail, options: Options, me: Any) -> None:
        self._loop = loop
        self._trail = trail
        self._shared = options.shared
        self._children = options.children
        self._before = all_tasks(loop) | {me}
        self._root = 0
        self._numbers: set[int | None] = set()
        self._made: dict[int, TaskCreate] = {}
        self._read = 0

    def begin(self, task: Any) -> None:
        """*task* is the one that runs the coroutine."""
        self._before.add(task)
        self._root = _number(task)
        self._numbers.add(self._root)

    def member(self, task: Any) -> int:
        """The number of *task* if it is the one of the coroutine, or to be followed with it.

        That is so where that one, or one that is followed with it, made it; 0 else.
        """
        session = current()
        born = None if session is None else session.recorder.state.tasks.born.get(id(task))
        if born is None:
            return 0
        if born.task != self._root:
            if not self._children or born.parent not in self._numbers:
                return 0
            self._numbers.add(born.task)
        return born.task

    def left(self) -> list[Any]:
        """Those that are not done, the oldest first."""
        found = [task for task in all_tasks(self._loop) - self._before if not task.done()]
        if self._shared:
            found = [task for task in found if self.has(task)]
        return sorted(found, key=_number)

    def has(self, task: Any) -> bool:
        """Whether *task* is that of the coroutine, or came of it: whether it, or a child, made it."""
        return self._came_of_it(_number(task))

    def answers_for(self, finding: Finding) -> bool:
        """Whether *finding* is about one of them, or, where the loop is theirs alone, about that."""
        if self._came_of_it(finding.task) or self._came_of_it(finding.other_task):
            return True
        root = self._creations().get(self._root)
        return not self._shared and root is not None and finding.loop == root.loop

    def _came_of_it(self, number: int | None) -> bool:
        made = self._creations()
        for _ in range(10_000):
            if number == self._root:
                return True
            event = None if number is None else made.get(number)
            if event is None:
                return False
            number = event.parent
        return False

    def trouble(self, task: Any) -> Trouble:
        """What is to be said of *task*, which is left."""
        number = _number(task)
        made = self._creations().get(number)
        session = current()
        coro = coro_of(task)
        waits = None
        if session is not None:
            waits = suspended_at(session.recorder.state.codes, coro)
        name = who(task.get_name(), made.coro if made else "")
        at = None if made is None else made.at
        text = f"the task {name}"
        text += "" if at is None else f", made at {at},"
        text += " was asked to end and has not" if task.cancelling() else " is left behind"
        text += "" if waits is None else f"; it waits at {waits}"
        return Trouble(
            LEFT_TASK, at or waits, text, (LEFT_TASK, made.coro if made else "", at or "")
        )

    def _creations(self) -> dict[int, TaskCreate]:
        events = self._trail.events
        for event in events[self._read :]:
            if isinstance(event, TaskCreate):
                self._made[event.task] = event
        self._read = len(events)
        return self._made


class _Generators:
    """The asynchronous generators that a run began, and which of them nobody has ended."""

    def __init__(self, family: _Family) -> None:
        self._family = family
        self._begun: weakref.WeakValueDictionary[int, AsyncGenerator[Any, Any]] = (
            weakref.WeakValueDictionary()
        )
        self._keys: set[int] = set()
        """Their `id`; no weak reference leads to one that is being finalized."""
        self._dropped: list[Trouble] = []
        self._me = current_task()

    @contextmanager
    def watched(self) -> Generator[None]:
        """Hear of those of this thread, beside the loop, for the length of a block."""
        before = sys.get_asyncgen_hooks()

        def begin(generator: AsyncGenerator[Any, Any]) -> None:
            task = current_task()
            if task is not None and task is not self._me and self._family.has(task):
                self._begun[id(generator)] = generator
                self._keys.add(id(generator))
            else:
                self._keys.discard(id(generator))
            if before.firstiter is not None:
                before.firstiter(generator)

        def finalize(generator: AsyncGenerator[Any, Any]) -> None:
            if id(generator) in self._keys:
                self._look_at(generator)
            if before.finalizer is not None:
                before.finalizer(generator)

        sys.set_asyncgen_hooks(begin, finalize)
        try:
            yield
        finally:
            sys.set_asyncgen_hooks(*before)

    def judge(self, run: Run) -> None:
        """Report those that are left, and those that the collector had to end."""
        for generator in list(self._begun.values()):
            self._look_at(generator)
        run.troubles += self._dropped
        self._begun.clear()

    def _look_at(self, generator: Any) -> None:
        self._keys.discard(id(generator))
        frame = generator.ag_frame
        if frame is None or generator.ag_running or not _has_to_clean_up(frame):
            return
        name = short(generator.__qualname__)
        at = f"{frame.f_code.co_filename}:{frame.f_lineno}"
        text = (
            f"the asynchronous generator {name} is left at {at}, in a block that is to clean up:"
            " that runs when the loop comes round to it, in another task (close it with"
            " contextlib.aclosing)"
        )
        self._dropped.append(Trouble(LEFT_GENERATOR, at, text, (LEFT_GENERATOR, name, at)))


def _has_to_clean_up(frame: FrameType) -> bool:
    """Whether a generator suspended in *frame* does something if it is closed there.

    It does in a ``finally``, a ``with``, and in an ``except`` that takes a GeneratorExit.
    """
    code, offset = frame.f_code, frame.f_lasti
    entries: Any = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]  # not in typeshed
    error = GeneratorExit()
    for _ in range(_MOST_HANDLERS):
        target = next((each.target for each in entries if each.start <= offset < each.end), None)
        if target is None:
            return False
        if swallowing_line(frame, code, target, error) is not None:
            return True
        offset = target  # what does not take it raises it again, to the next one outwards
    return True
