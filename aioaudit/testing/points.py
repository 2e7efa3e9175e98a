"""Private. Where a coroutine is suspended: what a point is called, and how to cancel just there.

A task is suspended when a step of it ends and it is not done.  All its steps are callbacks that
``loop.call_soon`` is given, so whoever stands there sees each of them begin and end, and what is
done when one has ended comes before anything else that the loop runs.  The task, its coroutine
and its class stay what they are, so all that is said about them stays true.
"""

from __future__ import annotations

import asyncio
import dis
import re
import sys
import weakref
from asyncio import AbstractEventLoop, CancelledError
from collections.abc import Callable, Generator
from contextlib import contextmanager, nullcontext
from types import CodeType, FrameType
from typing import Any, NamedTuple, TypeAlias

from aioaudit.cpython.tasks import coro_of, exception_of, must_cancel
from aioaudit.stack.code import APPLICATION, STDLIB, owner_of
from aioaudit.stack.frames import awaited_chain
from aioaudit.stack.handlers import swallowing_line

_CASE = re.compile(r"(?P<point>.+:\d+#[1-9]\d*)(?:\+(?P<again>[1-9]\d*))?")
Way: TypeAlias = tuple[tuple[str, str, int, int], ...]
"""A whole way to where something waits: file, function, its line and an offset, a frame each.

Not the `id` of its code: a program may make that anew for each run.
"""

_FRAMES = ("cr_frame", "gi_frame", "ag_frame")


class Case(NamedTuple):
    """One way to cancel: at the point *point*, and again at the *again*-th point after that.

    ``again`` is 0 where it is cancelled once.  As text, ``fetch:12#2+1``: at the second visit of
    line 12 of ``fetch``, and again where it is suspended for the first time after that.
    """

    point: str
    again: int = 0

    def __str__(self) -> str:
        return f"{self.point}+{self.again}" if self.again else self.point


def case_of(text: object) -> Case:
    """The case that *text* names.

    Raises:
        ValueError: it names none.
        TypeError: it is no text.
    """
    if not isinstance(text, str):
        raise TypeError(f"a case is to be a text, as in a report, not a {type(text).__qualname__}")
    match = _CASE.fullmatch(text)
    if match is None:
        raise ValueError(
            f"{text!r} names no case: one is written as in a report, fetch:12#2 (line 12 of fetch,"
            " second visit) or fetch:12#2+1 (and again at the first point of the clean-up)"
        )
    return Case(match["point"], int(match["again"] or 0))


class Spot(NamedTuple):
    """Where a coroutine is suspended: the line that is shown, and the whole way to it.

    ``at`` is the ``path:line`` of the innermost frame that is the application's, else of the
    innermost; ``function`` is its name; ``inner`` is the innermost ``path:line`` that is not
    Python's own; ``way`` tells one suspension from another; ``codes`` are those of
    the application, and their lines.
    """

    function: str
    at: str
    inner: str
    way: Way
    codes: tuple[tuple[CodeType, int], ...]

    @property
    def label(self) -> str:
        """``fetch:12``: the function, as short as it is still told apart, and the line."""
        return f"{self.function}:{self.at.rpartition(':')[2]}"


class Point(NamedTuple):
    """One suspension: ``name`` is ``fetch:12#2``, at the second visit of that line."""

    name: str
    spot: Spot


def short(name: str) -> str:
    """*name*, a qualified one, without the functions that it was defined in."""
    return name.rpartition("<locals>.")[2]


def frames_of(coro: Any) -> list[FrameType]:
    """The frames of a suspended coroutine, from the outermost inwards."""
    found: list[FrameType] = []
    for each in awaited_chain(coro):
        for name in _FRAMES:
            frame = getattr(each, name, None)
            if frame is not None:
                found.append(frame)
                break
    return found


def spot_of(coro: Any) -> Spot:
    """Where the suspended *coro* is."""
    best: FrameType | None = None
    frames = frames_of(coro)
    inner: FrameType | None = None
    own = False
    codes: list[tuple[CodeType, int]] = []
    for frame in frames:
        code = frame.f_code
        owner = owner_of(code.co_filename)
        is_own = owner == APPLICATION
        if owner != STDLIB:
            inner = frame
        if is_own:
            codes.append((code, frame.f_lineno))
        if is_own or not own:
            best, own = frame, is_own
    if best is None:  # compiled code shows no frames
        name = short(getattr(coro, "__qualname__", "?"))
        return Spot(name, "?:0", "?:0", (), ())
    return Spot(
        short(best.f_code.co_qualname),
        _line(best),
        _line(inner or best),
        tuple(map(_step_of, frames)),
        tuple(codes),
    )


def _step_of(frame: FrameType) -> tuple[str, str, int, int]:
    code = frame.f_code
    return code.co_filename, code.co_qualname, code.co_firstlineno, frame.f_lasti


def _line(frame: FrameType) -> str:
    return f"{frame.f_code.co_filename}:{frame.f_lineno}"


def is_suspended(coro: Any) -> bool:
    """Whether *coro* waits, and has not only been made."""
    waits: bool = getattr(coro, "cr_suspended", True)
    return waits


def await_lines(code: CodeType) -> set[int]:
    """The lines of *code* at which it can be suspended."""
    found: set[int] = set()
    for each in dis.get_instructions(code):
        if each.opname == "SEND" and each.positions and each.positions.lineno:
            found.add(each.positions.lineno)
    return found


class _Followed:
    """A task whose steps are followed."""

    __slots__ = ("coro", "kept_at", "last", "number")

    def __init__(self, coro: Any, number: int) -> None:
        self.coro = coro
        self.number = number
        self.last: Spot | None = None
        self.kept_at: str | None = None


class Watch:
    """Follows the steps of the task that runs *coro*, and cancels it as *case* says.

    *number_of* gives the number of a task that is to be followed, too, else 0: when it is
    suspended is a moment to cancel the one at.  With *trace* the lines are noted that keep a
    CancelledError, which auditing does not see then.

    Attributes:
        points: Where they were suspended before it was asked, in order.
        after: Where they were suspended after it had felt the CancelledError.
        asked: At which point it was asked.
        asked_again: At which point of those after it was asked again.
        delivered: Whether it felt the request.
        just_ended: Whether it had got what it waited for when it was asked, and ended with that.
        asked_at: When it was last asked, by the loop's clock.
        steps: How many steps of theirs have ended.
        kept: The line that kept a task's last CancelledError, by the task's number.
        overrun: Whether it had more than *most* points and was cancelled because of that.
        exits: The SystemExit of each task that it has made and that was to end the program.
    """

    def __init__(
        self,
        loop: AbstractEventLoop,
        coro: Any,
        case: Case | None,
        most: int,
        number_of: Callable[[Any], int],
        *,
        trace: bool,
    ) -> None:
        self.points: list[Point] = []
        self.after: list[Point] = []
        self.asked: Point | None = None
        self.asked_again: Point | None = None
        self.delivered = False
        self.just_ended = False
        self.asked_at = 0.0
        self.steps = 0
        self.kept: dict[int, str | None] = {}
        self.overrun = False
        self.exits: list[tuple[Any, SystemExit]] = []
        self.task: Any = None
        self._loop = loop
        self._coro = coro
        self._case = case
        self._most = most
        self._number_of = number_of
        self._trace = trace
        self._known: weakref.WeakKeyDictionary[Any, _Followed | None] = weakref.WeakKeyDictionary()
        self._visits: dict[str, int] = {}
        self._over = False

    @contextmanager
    def standing(self) -> Generator[None]:
        """Stand in the place of the loop's ``call_soon`` for the length of a block.

        Raises:
            TypeError: the loop does not let anybody stand there.
        """
        loop: Any = self._loop
        original = loop.call_soon
        before = vars(loop).get("call_soon") if hasattr(loop, "__dict__") else None

        def call_soon(callback: Any, *args: Any, context: Any = None) -> Any:
            if not self._over and self._may_follow(getattr(callback, "__self__", None)):
                callback = _Step(self, callback)
            return original(callback, *args, context=context)

        try:
            loop.call_soon = call_soon
        except AttributeError:
            raise TypeError(
                f"the steps of a task cannot be followed in a {type(loop).__qualname__}: its"
                " call_soon cannot be replaced"
            ) from None
        try:
            yield
        finally:
            if before is None:
                del loop.call_soon
            else:
                loop.call_soon = before

    def began(self, task: Any) -> None:
        """*task* is the one; a factory of eager tasks has run its first step already.

        Raises:
            TypeError: the loop's task factory runs something else than the coroutine.
        """
        self.task = task
        if task.done():
            return
        if coro_of(task) is not self._coro:
            raise TypeError(
                "the loop's task factory runs something else than the coroutine that it was"
                " given: the coroutine's own steps cannot be followed"
            )
        self._known[task] = followed = _Followed(self._coro, self._number_of(task))
        if is_suspended(self._coro):
            self._suspended(followed, again=False)

    def leave(self) -> None:
        """Follow them no more."""
        self._over = True

    def _may_follow(self, owner: Any) -> bool:
        """Whether *owner* of a callback is a task whose steps are followed, or may be.

        Nobody knows yet who makes a task when it is to have its first step.
        """
        if owner is None or not asyncio.isfuture(owner) or not hasattr(owner, "get_coro"):
            return False
        return self._known.get(owner, _UNKNOWN) is not None

    def _followed(self, task: Any) -> _Followed | None:
        """What is known of *task*, which is about to have a step; None where it is not followed."""
        if task in self._known:
            return self._known[task]
        coro = coro_of(task)
        number = self._number_of(task)
        if coro is self._coro:
            self.task = task
        elif not number:
            self._known[task] = None
            return None
        self._known[task] = followed = _Followed(coro, number)
        return followed

    def step(self, callback: Any, args: tuple[Any, ...]) -> None:
        """Run one step of a task that is followed."""
        task = callback.__self__
        followed = None if self._over else self._followed(task)
        if followed is None or task.done():
            callback(*args)
            return
        came = bool(args) and _is_cancelled(args[0])
        felt = must_cancel(task) is True or came
        is_it = task is self.task
        ours = is_it and felt and self.asked is not None and not self.delivered
        ready = ours and bool(args) and not came
        self.delivered = self.delivered or ours
        traced = self.asked is not None and self._trace and sys.gettrace() is None
        try:
            with _catching(followed) if traced else nullcontext():
                callback(*args)
        except SystemExit as error:
            # The task has it, too.  Out of the loop it would end the test's process, as if all
            # went well where its status is 0.
            if not task.done():
                raise
            if not is_it:
                self.exits.append((task, error))
        if traced:
            self.kept[followed.number] = followed.kept_at
        self.steps += 1
        if not task.done():
            self._suspended(followed, again=felt and not ours)
        elif is_it:
            self.just_ended = ready

    def _suspended(self, followed: _Followed, *, again: bool) -> None:
        """It has just been suspended; *again* says that somebody else had just cancelled it."""
        task = self.task
        if task is None or task.done() or (self.asked is not None and not self.delivered):
            return
        spot = spot_of(followed.coro)
        before, followed.last = followed.last, spot
        # A cancel scope delivers again as long as the task is in it, each time to where the
        # library that catches it waits: that is one point, and not one more for each.
        if again and before is not None and before.way == spot.way:
            return
        found = self.points if self.asked is None else self.after
        if len(found) >= self._most:
            if self.asked is None and not self.overrun:
                self.overrun = True
                self.asked_at = self._loop.time()
                task.cancel()
            return
        label = spot.label
        visit = self._visits[label] = self._visits.get(label, 0) + 1
        point = Point(f"{label}#{visit}", spot)
        found.append(point)
        if self._case is None:
            return
        if self.asked is None:
            if point.name == self._case.point:
                self.asked = point
                self._ask()
        elif len(found) == self._case.again:
            self.asked_again = point
            self._ask()

    def _ask(self) -> None:
        self.asked_at = self._loop.time()
        self.task.cancel(f"cancel_everywhere: {self._case}")


_UNKNOWN: Any = object()


def _is_cancelled(future: Any) -> bool:
    """Whether who awaits *future*, which is done, gets a CancelledError: gather sets one."""
    return bool(future.cancelled()) or isinstance(exception_of(future), CancelledError)


class _Step:
    """One step of the task, as the loop is given it."""

    __slots__ = ("_step", "_watch")

    def __init__(self, watch: Watch, callback: Callable[..., Any]) -> None:
        self._watch = watch
        self._step = callback

    def __call__(self, *args: Any) -> None:
        self._watch.step(self._step, args)

    def __repr__(self) -> str:
        return repr(self._step)


@contextmanager
def _catching(followed: _Followed) -> Generator[None]:
    """Note which line keeps a CancelledError that is thrown into the task in the block.

    For Python 3.11, where nobody else sees one arrive.
    """

    def look(frame: FrameType, event: str, arg: Any) -> Any:
        if event == "exception" and isinstance(arg[1], CancelledError):
            followed.kept_at = None
            code = frame.f_code
            entries: Any = dis.Bytecode(code).exception_entries  # type: ignore[attr-defined]  # not in typeshed
            for entry in entries:
                if entry.start <= frame.f_lasti < entry.end:
                    followed.kept_at = swallowing_line(frame, code, entry.target, arg[1])
                    break
        return look

    frames = frames_of(followed.coro)
    for frame in frames:
        frame.f_trace = look
    sys.settrace(lambda _frame, _event, _arg: None)
    try:
        yield
    finally:
        sys.settrace(None)
        for frame in frames:
            frame.f_trace = None
