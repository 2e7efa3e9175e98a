"""Random programs in which several requests to end one task fall into one turn of the loop.

A task is inside timeouts, scopes and groups of asyncio and anyio.  In one turn, in some order,
two or three of them end it, or others do; on its way out it cleans up, cancels other tasks,
is asked again, keeps its error, or takes requests back.

Each program runs twice.  First unaudited, on tasks that report to a referee (`tests/referee.py`),
who knows the rules of asyncio and nothing of aioaudit: whose each error is at each moment.  Then
plainly and audited.  All answers have to be the referee's: of the task, of those that went down
with it, of what it cancelled while it ended, of the error itself while it was handled.

As many programs as wanted, on seeds of its own each time:

    AIOAUDIT_TEST_PROGRAMS=3000 python -m pytest tests/judges -k random
"""

from __future__ import annotations

import asyncio
import itertools
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

import aioaudit
from aioaudit.chain.links import Answer, Link
from aioaudit.chain.summary import is_known
from aioaudit.events import Event
from aioaudit.exporters.memory import MemoryExporter
from tests.loops import BY_NAME, NAMES
from tests.random_trees import PROGRAMS, SMALL, answers_of, as_many_as_wanted, is_open, patience

anyio = pytest.importorskip("anyio")

from tests.referee import Asked, Referee, Root, task_factory, watched_scopes  # noqa: E402 - needs anyio

SEEN = sys.version_info >= (3, 12)
"""Whether the arrival of a CancelledError is seen."""

pytestmark = patience

as_many_as_wanted = settings(as_many_as_wanted, suppress_health_check=list(HealthCheck))


# -- plans -------------------------------------------------------------------------------

OWNERS = ("timeout", "scope", "move_on", "fail_after", "group", "nursery")
CORES = ("future", "task", "gather", "wait_for")

HITS = {
    "timeout": ("now", "timer"),
    "scope": ("call",),
    "move_on": ("call", "timer"),
    "fail_after": ("call", "timer"),
    "group": ("child",),
    "nursery": ("child", "call"),
}
"""How an owner is made to ask."""

OTHERS = ("task", "function", "soon", "later", "thread")
"""How somebody asks who is no owner."""

THIRDS = ("", "", "function", "thread", "owner")
ENDS = ("raise", "raise", "raise", "swallow", "other", "take_back")


@dataclass(frozen=True)
class Layer:
    """One block around what the task waits for: an owner's, or one that cleans up."""

    kind: str
    third: str = ""
    which: int = 0
    guarded: bool = False
    waits: str = ""
    end: str = "raise"

    def __str__(self) -> str:
        said = [self.third, "guarded" * self.guarded, self.waits, self.end * (self.end != "raise")]
        inner = ", ".join(filter(None, said))
        return f"{self.kind}({inner})" if inner else self.kind


@dataclass(frozen=True)
class Hit:
    """Who asks: the owner with this number, if it is one, and how."""

    owner: int
    how: int


@dataclass(frozen=True)
class Plan:
    """The layers from the outermost, what stands inside them, and who asks, in order."""

    layers: tuple[Layer, ...]
    core: str
    hits: tuple[Hit, ...]
    watcher: str
    later: str = ""


owners = st.builds(Layer, kind=st.sampled_from(OWNERS))
tidies = st.builds(
    Layer,
    kind=st.sampled_from(("except", "except", "finally", "catch")),
    third=st.sampled_from(THIRDS),
    which=st.integers(0, 3),
    guarded=st.booleans(),
    waits=st.sampled_from(("", "sleep", "sleep", "pause", "pause", "shielded", "limited")),
    end=st.sampled_from(ENDS),
)
plans = st.builds(
    Plan,
    layers=st.lists(owners | tidies, min_size=2, max_size=7).map(tuple),
    core=st.sampled_from(CORES),
    hits=st.lists(
        st.builds(Hit, owner=st.integers(-2, 4), how=st.integers(0, 4)), min_size=2, max_size=3
    ).map(tuple),
    watcher=st.sampled_from(("", "awaits", "gathers")),
    later=st.sampled_from(("", "", "timeout", "fail_after", "group")),
)


# -- from a plan to a program --------------------------------------------------------------

FILE = str(Path(__file__).with_name("a_random_program.py"))
"""Where the programs say that they stand."""


class Text:
    """The source of a program, line by line; labels name lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        self.labels: dict[str, int] = {}
        self.depth = 0

    def add(self, line: str, label: str | None = None) -> None:
        if label is not None:
            assert label not in self.labels
            self.labels[label] = len(self.lines) + 1
            line += f"  # LINE {label}"
        self.lines.append("    " * self.depth + line)


class Writer:
    """Writes the program of a plan."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.body = Text()
        self.points: list[str] = []
        self.functions: list[tuple[str, str, str | None]] = []
        self.gates: list[str] = []
        self.owners = [
            (f"owner{number}", layer.kind)
            for number, layer in enumerate(plan.layers)
            if layer.kind in OWNERS
        ]
        self.used: set[str] = set()
        self.strikes: list[str] = []
        self.timers = False

    def write(self) -> Text:
        text = self.body
        for number, (_, kind) in enumerate(self.owners):
            if kind in ("group", "nursery"):
                self._child(self.owners[number][0][5:])
        if self.plan.core in ("task", "gather", "wait_for"):
            for name in self._inner():
                text.add(f"async def {name}(w):")
                text.depth = 1
                self._waiting(name, "await w.forever()")
                text.depth = 0
        # What strikes comes first: what is left of the owners can be the third.
        for number, hit in enumerate(self.plan.hits):
            self._strike(f"strike{number}", hit)
        for number, layer in enumerate(self.plan.layers):
            if layer.third and layer.kind not in OWNERS:
                self._third(f"third{number}", layer)
        text.add("async def fails(w):")
        text.add("    raise RuntimeError('child_later')  # LINE child_later")
        text.labels["child_later"] = len(text.lines)
        text.add("async def victim(w):")
        text.depth = 1
        self._layers(0)
        self._later()
        text.depth = 0
        return text

    def _inner(self) -> list[str]:
        return ["inner0", "inner1"] if self.plan.core == "gather" else ["inner0"]

    def _child(self, number: str) -> None:
        text = self.body
        text.add(f"async def child{number}(w):")
        text.depth = 1
        text.add(f"await w.gate('child{number}')")
        text.add(f"raise RuntimeError('child{number}')", f"child{number}")
        text.depth = 0
        text.add(f"async def sibling{number}(w):")
        text.depth = 1
        self._waiting(f"sibling{number}", "await w.forever()")
        text.depth = 0

    def _waiting(self, name: str, wait: str) -> None:
        """Wait, and clean up."""
        text = self.body
        text.add("try:")
        text.depth += 1
        text.add(wait)
        text.depth -= 1
        text.add("except asyncio.CancelledError as error:")
        text.depth += 1
        self._point(name)
        text.add("await asyncio.sleep(0)")
        self._point(f"{name}_later")
        text.add("raise")
        text.depth -= 1

    def _point(self, name: str, error: str = "error") -> None:
        """Ask about the error, and cancel a task of one's own."""
        self.points.append(name)
        self.body.add(f"w.see('{name}', {error})")
        self.body.add(f"w.helpers['{name}'].cancel()", name)

    # -- who asks

    def _strike(self, name: str, hit: Hit) -> None:
        text = self.body
        left = [each for each in self.owners if each[0] not in self.used]
        if hit.owner >= 0 and left:
            owner, kind = left[hit.owner % len(left)]
            self.used.add(owner)
            ways = HITS[kind]
            self._by_owner(name, owner, kind, ways[hit.how % len(ways)])
        else:
            self._by_other(name, OTHERS[hit.how % len(OTHERS)])
        assert text.depth == 0
        self.strikes.append(name)

    def _by_owner(self, name: str, owner: str, kind: str, way: str) -> None:
        text = self.body
        text.add(f"def {name}(w):")
        text.depth = 1
        if way == "child":
            # It fails in the next turn, and the group is told in the one after that.
            text.add(f"w.open('child{owner[5:]}')")
        elif way == "call":
            text.add(f"w.soon(2, {name}_stops, w)")
            text.depth = 0
            text.add(f"def {name}_stops(w):")
            text.depth = 1
            scope = "owners['{}'].cancel_scope" if kind == "nursery" else "owners['{}']"
            text.add(f"w.{scope.format(owner)}.cancel('{name}')", name)
        elif way == "timer":
            self.timers = True
            text.add(f"w.soon(1, {name}_arms, w)")
            text.depth = 0
            text.add(f"def {name}_arms(w):")
            text.depth = 1
            if kind == "timeout":
                text.add(f"w.owners['{owner}'].reschedule(w.due())")
            else:
                text.add(f"w.owners['{owner}'].deadline = w.due()")
        else:
            text.add(f"w.soon(1, w.owners['{owner}'].reschedule, w.loop.time() - 1)")
        text.depth = 0

    def _by_other(self, name: str, way: str) -> None:
        text = self.body
        if way == "task":
            self.gates.append(name)
            text.add(f"async def {name}_supervises(w):")
            text.depth = 1
            text.add(f"await w.gate('{name}')")
            text.add(f"w.victim.cancel('{name}')", name)
            text.depth = 0
            text.add(f"def {name}(w):")
            text.depth = 1
            text.add(f"w.soon(1, w.open, '{name}')")
        else:
            text.add(f"def {name}(w):")
            text.depth = 1
            text.add(f"w.soon(1, {name}_arms, w)")
            text.depth = 0
            text.add(f"def {name}_arms(w):")
            text.depth = 1
            self._bound(name, way)
        text.depth = 0

    def _bound(self, name: str, way: str) -> None:
        text = self.body
        if way == "function":
            text.add(f"w.loop.call_soon({name}_calls, w)")
            text.depth = 0
            text.add(f"def {name}_calls(w):")
            text.depth = 1
            text.add(f"w.victim.cancel('{name}')", name)
        elif way == "soon":
            text.add(f"w.loop.call_soon(w.victim.cancel, '{name}')", name)
        elif way == "later":
            self.timers = True
            text.add(f"w.loop.call_at(w.due(), w.victim.cancel, '{name}')", name)
        else:
            text.add(f"w.in_thread({name}_asks, w)")
            text.depth = 0
            text.add(f"def {name}_asks(w):")
            text.depth = 1
            text.add(f"w.loop.call_soon_threadsafe(w.victim.cancel, '{name}')", name)

    def _third(self, name: str, layer: Layer) -> None:
        """Who asks while the task is on its way out."""
        text = self.body
        text.add(f"def {name}(w):")
        text.depth = 1
        left = [
            (owner, kind)
            for owner, kind in self.owners
            if owner not in self.used and kind in ("timeout", "scope")
        ]
        if layer.third != "owner":
            self._bound(name, layer.third)
        elif left:
            owner, kind = left[layer.which % len(left)]
            self.used.add(owner)
            if kind == "timeout":
                text.add(f"w.hurry('{owner}')")
            else:
                text.add(f"w.loop.call_soon({name}_stops, w)")
                text.depth = 0
                text.add(f"def {name}_stops(w):")
                text.depth = 1
                text.add(f"w.owners['{owner}'].cancel('{name}')", name)
        else:
            text.add("pass")
        text.depth = 0

    # -- the task

    def _layers(self, number: int) -> None:
        text = self.body
        if number == len(self.plan.layers):
            self._core()
            return
        layer = self.plan.layers[number]
        before = text.depth
        if layer.kind in OWNERS:
            self._enter(f"owner{number}", layer.kind)
            self._layers(number + 1)
        else:
            text.add("try:")
            text.depth += 1
            self._layers(number + 1)
            text.depth -= 1
            self._tidy(number, layer)
        text.depth = before

    def _enter(self, owner: str, kind: str) -> None:
        text = self.body
        enters = {
            "timeout": "async with asyncio.timeout(1000)",
            "scope": "with anyio.CancelScope()",
            "move_on": "with anyio.move_on_after(1000)",
            "fail_after": "with anyio.fail_after(1000)",
            "group": "async with asyncio.TaskGroup()",
            "nursery": "async with anyio.create_task_group()",
        }
        text.add(f"{enters[kind]} as {owner}:", owner)
        text.depth += 1
        text.add(f"w.owns('{owner}', {owner})")
        for member in ("sibling", "child"):
            name = f"{member}{owner[5:]}"
            if kind == "group":
                text.add(f"{owner}.create_task({name}(w), name='{name}')")
            elif kind == "nursery":
                text.add(f"{owner}.start_soon({name}, w, name='{name}')")

    def _core(self) -> None:
        text = self.body
        inner = [f"w.spawn({name}(w), '{name}')" for name in self._inner()]
        if self.plan.core == "future":
            text.add("await w.forever()")
        elif self.plan.core == "task":
            text.add(f"await {inner[0]}")
        elif self.plan.core == "wait_for":
            text.add(f"await asyncio.wait_for({inner[0]}, 1000)")
        else:
            text.add(f"await asyncio.gather({', '.join(inner)})")

    def _limited(self, name: str, kind: str) -> None:
        """Wait for something that never comes, for a short time."""
        text = self.body
        how = {
            "timeout": "async with asyncio.timeout(0)",
            "fail_after": "with anyio.fail_after(1000)",
        }
        text.add("try:")
        text.depth += 1
        text.add(f"{how[kind]} as {name}:", name)
        text.add(f"    w.owns('{name}', {name})")
        if kind == "fail_after":
            # Not sooner: the referee has to know it before it runs out.
            text.add(f"    {name}.deadline = anyio.current_time() + 0.001")
        text.add("    await w.forever()")
        text.depth -= 1
        text.add("except TimeoutError as late:")
        text.depth += 1
        self._point(f"{name}_late", "late")
        text.depth -= 1

    def _later(self) -> None:
        """If the task lives on, it goes on as if nothing had happened."""
        text = self.body
        text.add("await w.pause()")
        if self.plan.later in ("timeout", "fail_after"):
            self._limited("later", self.plan.later)
        elif self.plan.later == "group":
            text.add("try:")
            text.add("    async with asyncio.TaskGroup() as later:")
            text.add("        later.create_task(fails(w), name='child_later')")
            text.add("        await w.forever()")
            text.add("except ExceptionGroup as failed:")
            text.depth += 1
            self._point("later", "failed")
            text.depth -= 1
            text.add("await w.pause()")

    def _tidy(self, number: int, layer: Layer) -> None:
        text = self.body
        if layer.kind == "except":
            text.add("except asyncio.CancelledError as error:")
        elif layer.kind == "catch":
            text.add("except (TimeoutError, RuntimeError, ExceptionGroup) as error:")
        else:
            text.add("finally:")
        text.depth += 1
        error = "sys.exception()" if layer.kind == "finally" else "error"
        point = f"tidy{number}"
        self._point(point, error)
        if layer.third:
            text.add(f"third{number}(w)")
        wait = {"sleep": "await asyncio.sleep(0)", "pause": "await w.pause()"}.get(layer.waits)
        if layer.waits == "shielded":
            text.add("with anyio.CancelScope(shield=True):")
            text.add("    await w.pause()")
        elif layer.waits == "limited":
            self._limited(f"{point}_limit", "timeout")
        if wait is not None and layer.guarded:
            text.add("try:")
            text.add(f"    {wait}")
            text.add("except asyncio.CancelledError as another:")
            text.depth += 1
            self._point(f"{point}_another", "another")
            text.depth -= 1
            self._point(f"{point}_after", error)
        elif wait is not None:
            text.add(wait)
            self._point(f"{point}_after", error)
        if layer.end == "other":
            text.add(f"raise RuntimeError('{point}')", f"{point}_raises")
        elif layer.kind == "finally":
            pass
        elif layer.end == "raise":
            text.add("raise")
        elif layer.end == "take_back" and not any(
            outer.kind in OWNERS for outer in self.plan.layers[:number]
        ):
            # Inside an owner it would take what the owner is going to take itself.
            text.add("while asyncio.current_task().cancelling():")
            text.add("    asyncio.current_task().uncancel()")


# -- the program while it runs -------------------------------------------------------------


@dataclass
class Told:
    """What was said of an error at one point of the program."""

    point: str
    kind: str
    right: tuple[Asked, ...] = ()
    source: str | None = None
    answer: Answer | None = None


@dataclass
class World:
    """What a program has at hand."""

    loop: asyncio.AbstractEventLoop
    referee: Referee | None
    helpers: dict[str, asyncio.Task[Any]] = field(default_factory=dict)
    owners: dict[str, Any] = field(default_factory=dict)
    gates: dict[str, asyncio.Future[None]] = field(default_factory=dict)
    futures: list[asyncio.Future[None]] = field(default_factory=list)
    tasks: list[asyncio.Task[Any]] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    dues: Iterator[float] = field(default_factory=lambda: itertools.count(0.005, 0.002))
    first_due: float = 0.0
    last_due: float = 0.0
    late: bool = False

    victim: asyncio.Task[Any] = field(init=False)

    def spawn(self, coro: Coroutine[Any, Any, Any], name: str) -> asyncio.Task[Any]:
        task = asyncio.create_task(coro, name=name)
        self.tasks.append(task)
        return task

    async def forever(self) -> None:
        future = self.loop.create_future()
        self.futures.append(future)
        await future

    async def gate(self, name: str) -> None:
        future = self.gates[name] = self.loop.create_future()
        self.futures.append(future)
        await future

    def open(self, name: str) -> None:
        self.gates[name].set_result(None)

    async def pause(self) -> None:
        future = self.loop.create_future()
        self.futures.append(future)
        self.soon(3, release, future)
        await future

    def soon(self, turns: int, function: Callable[..., object], *args: object) -> None:
        """Call *function* after so many turns."""
        if turns == 1:
            self.loop.call_soon(function, *args)
        else:
            self.loop.call_soon(self.soon, turns - 1, function, *args)

    def due(self) -> float:
        """A time soon to come, each later than the one before."""
        self.last_due = self.loop.time() + next(self.dues)
        self.first_due = self.first_due or self.last_due
        return self.last_due

    def block(self) -> None:
        """Keep the loop busy until all timers that were set are due.

        Where one was due before, it was called in another turn than the others may be.
        """
        self.late = self.loop.time() >= self.first_due
        time.sleep(max(0.0, self.last_due - self.loop.time()) + 0.002)

    def in_thread(self, function: Callable[..., object], *args: object) -> None:
        thread = threading.Thread(target=function, args=args, name="foreign")
        thread.start()
        thread.join()

    def hurry(self, owner: str) -> None:
        """The timeout is to run out at once, if it is still there."""
        timeout = self.owners[owner]
        if "active" in repr(timeout):
            timeout.reschedule(self.loop.time() - 1)

    def owns(self, name: str, owner: Any) -> None:
        self.owners[name] = owner
        if self.referee is not None:
            self.referee.owns(name, owner)

    def see(self, point: str, error: BaseException | None) -> None:
        told = Told(point, type(error).__name__)
        self.told.append(told)
        if isinstance(error, asyncio.CancelledError):
            if self.referee is not None:
                told.right = self.referee.right(error)
            else:
                told.source = aioaudit.source(error)
                told.answer = aioaudit.why(error)


def release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


async def watch(victim: asyncio.Task[Any], how: str) -> None:
    if how == "awaits":
        await victim
    else:
        await asyncio.gather(victim)


@dataclass
class Program:
    """A plan, written."""

    plan: Plan
    text: Text
    writer: Writer
    code: CodeType

    @classmethod
    def of(cls, plan: Plan) -> Program:
        writer = Writer(plan)
        text = writer.write()
        return cls(plan, text, writer, compile("\n".join(text.lines), FILE, "exec"))

    def __str__(self) -> str:
        return "\n".join(
            [*self.text.lines, f"# in one turn: {', '.join(self.writer.strikes)}", str(self.plan)]
        )

    async def main(self, world: World) -> None:
        """Run it, and let everything end that is not ended."""
        names: dict[str, Any] = {"asyncio": asyncio, "anyio": anyio, "sys": sys}
        exec(self.code, names)
        world.loop.set_exception_handler(lambda *_: None)
        for point in self.writer.points:
            world.helpers[point] = world.spawn(world.forever(), f"helper_{point}")
        for gate in self.writer.gates:
            _ = world.spawn(names[f"{gate}_supervises"](world), f"{gate}_supervisor")
        world.victim = world.spawn(names["victim"](world), "victim")
        if self.plan.watcher:
            _ = world.spawn(watch(world.victim, self.plan.watcher), "watcher")
        for _ in range(8):
            await asyncio.sleep(0)
        for strike in self.writer.strikes:
            names[strike](world)
        if self.writer.timers:
            world.soon(1, world.block)
        for _ in range(60):
            await asyncio.sleep(0)
        if "later" in world.owners:
            await asyncio.wait([world.victim])
        for _ in range(100):
            for future in world.futures:
                release(future)
            if all(task.done() for task in world.tasks):
                break
            await asyncio.sleep(0)
        assert all(task.done() for task in world.tasks)
        for task in world.tasks:
            if not task.cancelled():
                task.exception()

    def run(self, loop: str, referee: Referee | None) -> World:
        """Run it on a loop of that kind; where the world is too `late`, it was another program."""
        worlds: list[World] = []

        async def main() -> None:
            here = asyncio.get_running_loop()
            current = asyncio.current_task()
            assert current is not None
            current.set_name("main")
            if referee is not None:
                here.set_task_factory(task_factory(referee))
            world = World(here, referee)
            worlds.append(world)
            await self.main(world)

        BY_NAME[loop].run(main())
        return worlds[0]

    def label(self, code: CodeType, number: int) -> str | None:
        """The label of the line *number*, if *code* is this program's."""
        if code.co_filename != FILE:
            return None
        for label, line in self.text.labels.items():
            if line == number:
                return label
        return None


# -- checks ----------------------------------------------------------------------------------


class Judge:
    """Compares what was answered with what the referee knows.

    Before 3.12 nobody sees which of several requests one delivery is of, or that there are
    two.  There each of them that stands is taken for right, none that was taken back, and an
    answer may say that it is not sure.
    """

    def __init__(self, program: Program, loop: str, referee: Referee) -> None:
        self.program = program
        self.loop = loop
        self.referee = referee
        self.wrong: list[str] = []

    def is_root(self, link: Link, root: Root) -> bool:
        """Whether *link* says what *root* is."""
        if root.what == "failed" and link.what == "failed":
            label = f"{root.label}_raises" if root.label.startswith("tidy") else root.label
            if label and link.at != f"{FILE}:{self.program.text.labels[label]}":
                return False
            return root.name is None or link.name == root.name
        if link.what != root.what or link.at != f"{FILE}:{self.program.text.labels[root.label]}":
            return False
        if root.what == "called":
            detail = link.detail or ""
            if SEEN and link.by_name != ("foreign" if link.reason == "thread" else root.by):
                return False
            if root.handling is not None:
                return detail.startswith(f"while handling {root.handling}")
            return "while handling" not in detail
        return root.what == "deadline" and link.seconds is not None and link.seconds < 1

    def is_unsure(self, answer: Answer) -> bool:
        """Whether *answer* says that it knows no more, where no more can be known."""
        if answer.root.reason == "native" and answer.root.at is None:
            # Nobody notes who gives a bound method to ``call_soon``.
            return True
        if not SEEN:
            # No delivery is seen: whose error it is can be concluded at best.
            return is_open(answer.root) or "probably because" in answer.summary
        # uvloop does not show which of several bound methods it calls.
        return self.loop == "uvloop" and not is_known(answer.root)

    def compare(self, what: str, answer: Answer | None, *right: Asked) -> None:
        """*answer* has to be of one of the requests *right*."""
        if answer is None:
            if SEEN:
                self.wrong.append(f"{what}: no answer, right: {self.say(*right)}")
            return
        if self.is_unsure(answer):
            return
        for asked in right:
            if asked.cause and any(self.is_root(answer.root, root) for root in asked.roots):
                # Nothing stood when it was asked: its own line is as good.
                return
            if any(self.is_root(answer.root, root) for root in asked.ends_at(besides=not SEEN)):
                through = [link.name for link in answer.chain if link.what == "cancelled"]
                if not SEEN or (
                    tuple(through[: len(asked.names())]) == asked.names()
                    and (not asked.reasons or answer.chain[0].reason in asked.reasons)
                ):
                    return
        chain = " <- ".join(self.link(link) for link in answer.chain)
        self.wrong.append(f"{what}: {chain}, right: {self.say(*right)}")

    def link(self, link: Link) -> str:
        number = int((link.at or ":0").rpartition(":")[2])
        label = self.program.label(self.program.code, number) or link.at
        said = [link.what, link.name, link.reason, label, link.error, link.detail]
        return " ".join(str(each) for each in said if each)

    def say(self, *right: Asked) -> str:
        return " or ".join(
            f"{' <- '.join(asked.names())} <- "
            + "/".join(
                f"{root.what} {root.label} {root.handling or ''}" for root in asked.ends_at()
            )
            for asked in right
        )

    def error(self, seen: Told, said: Told) -> None:
        """What was *said* of an error at one point, where the referee has *seen* it."""
        if seen.right:
            self.compare(f"why(error) at {seen.point}", said.answer, *seen.right)
        answer = said.answer
        if answer is not None and said.source != answer.root.source:
            self.wrong.append(f"source at {seen.point}: {said.source}, of {answer.root}")

    def task(self, name: str, answer: Answer) -> None:
        """What is answered of the task *name* after its end."""
        book = self.referee.books.get(name)
        if name == "watcher":
            victim = self.referee.books["victim"]
            right = [Asked(name, 0, cause=each) for each in victim.besides]
            right += [Asked(name, 0, cause=victim.ended_by)] if victim.ended_by is not None else []
        elif book is None:
            right = []
        elif book.ended_by is not None:
            right = [book.ended_by, *book.besides]
        else:
            right = (SEEN and book.lived_through) or book.asked
        if right:
            self.compare(name, answer, *right)
        elif name != "watcher":
            self.wrong.append(f"{name}: nobody asked it, {answer.chain}")


def referee_of(program: Program, loop: str) -> tuple[Referee, World]:
    """Let a referee watch the program."""
    while True:
        referee = Referee(program.label)
        with watched_scopes(referee):
            world = program.run(loop, referee)
        for fault in referee.faults:
            raise fault
        if not world.late:
            return referee, world


def happened(world: World) -> list[str]:
    """What a program did, as far as it can tell: anyio cancels its tasks in any order."""
    told = [f"{told.point} {told.kind}" for told in world.told]
    return sorted(told + [task.get_name() for task in world.tasks if task.cancelled()])


def check(plan: Plan, loop: str) -> list[str]:
    """Run the program of *plan* both ways: the answers that are not right.

    In which order anyio cancels the tasks of a scope depends on their addresses.  Where that
    decides what happens, the two were different programs, and run again; and what is wrong
    has to be wrong again, lest the order made the difference that nobody can tell.
    """
    program = Program.of(plan)
    note(str(program))
    return judged(program, loop) and judged(program, loop)


def both_ways(
    program: Program, loop: str, audited: Callable[[], World]
) -> tuple[Referee, World, World]:
    """Run *program* watched and *audited*, until both did the same: what was seen, and the worlds."""
    for _ in range(100):
        referee, seen = referee_of(program, loop)
        while (world := audited()).late:
            pass  # the machine was too busy for it, which says nothing of the program
        if happened(world) == happened(seen):
            return referee, seen, world
    raise AssertionError("what it does depends on who watches")


def judged(program: Program, loop: str) -> list[str]:
    events: list[Event] = []
    remembered: dict[str, Answer | None] = {}

    def audited() -> World:
        with aioaudit.recording() as trail:
            world = program.run(loop, None)
            events[:] = trail.events
            remembered.update({task.get_name(): trail.why(task) for task in world.tasks})
        return world

    referee, seen, world = both_ways(program, loop, audited)
    judge = Judge(program, loop, referee)
    said = {told.point: told for told in world.told}
    for told in seen.told:
        judge.error(told, said[told.point])
    answers = {answer.name: answer for answer in answers_of(events).values()}
    for name, answer in answers.items():
        judge.task(name, answer)
    check_alike(judge, world, answers, remembered)
    if SEEN:
        asked = {name for name, book in referee.books.items() if book.asked}
        judge.wrong.extend(f"{name}: not listed" for name in asked - answers.keys())
    return judge.wrong


def check_alike(
    judge: Judge,
    world: World,
    answers: dict[str, Answer],
    remembered: dict[str, Answer | None],
) -> None:
    """Who asks the living program gets what the log says afterwards."""
    for name, answer in answers.items():
        if remembered.get(name) not in (None, answer):
            judge.wrong.append(f"{name}: from the log {answer}, living {remembered[name]}")
    for told in world.told:
        helper = answers.get(f"helper_{told.point}")
        if told.answer is None or helper is None or helper.chain[1:] == told.answer.chain:
            continue
        judge.wrong.append(f"{told.point}: of the error {told.answer.chain}, helper {helper.chain}")


def known(*layers: str, core: str = "future", hits: tuple[Hit, ...]) -> Plan:
    kinds = [Layer("except", waits="sleep") if kind == "tidy" else Layer(kind) for kind in layers]
    return Plan(tuple(kinds), core, hits, "awaits")


@pytest.mark.parametrize(
    ("plan", "points", "end"),
    [
        # Behind an inner timeout somebody asks as well: the error goes on because of that.
        (
            known("except", "timeout", "except", hits=(Hit(0, 0), Hit(-1, 0))),
            {"tidy2": "owner1", "tidy0": "strike1"},
            "strike1",
        ),
        # The other way round it is that one's from the start.
        (
            known("except", "timeout", "except", hits=(Hit(-1, 0), Hit(0, 0))),
            {"tidy2": "strike0", "tidy0": "strike0"},
            "strike0",
        ),
        # The outer timeout was first, and the inner one takes only its own.
        (
            known("timeout", "except", "timeout", "except", hits=(Hit(0, 0), Hit(0, 0))),
            {"tidy3": "owner0", "tidy1": "owner0"},
            "owner0",
        ),
        # A scope is asked to end in the turn of somebody's request, and delivers on the way out.
        (
            known("except", "scope", "tidy", hits=(Hit(-1, 0), Hit(0, 0))),
            {"tidy2": "strike0", "tidy0": "strike0"},
            "strike0",
        ),
        # A child fails, and the timeout inside its group runs out behind it.
        (
            known("group", "except", "timeout", hits=(Hit(0, 0), Hit(0, 0))),
            {"tidy1": "child0"},
            "child0",
        ),
    ],
)
def test_the_referee_knows(plan: Plan, points: dict[str, str], end: str) -> None:
    referee, world = referee_of(Program.of(plan), "asyncio")

    def says(*asked: Asked) -> set[str]:
        return {root.label for each in asked for root in each.ends_at()}

    seen = {told.point: says(*told.right[:1]) for told in world.told if told.point in points}
    assert seen == {point: {label} for point, label in points.items()}
    book = referee.books["victim"]
    assert says(*([book.ended_by] if book.ended_by else book.lived_through)) == {end}


def test_what_a_scope_takes_back_in_one_go_is_alike() -> None:
    """A group of asyncio hands on an error that no scope takes for its own, though all are left."""
    layers = map(Layer, ("group", "except", "scope", "nursery", "except", "except", "group"))
    plan = Plan(tuple(layers), "future", (Hit(1, 0), Hit(1, 1), Hit(1, 0)), "")
    assert judged(Program.of(plan), "asyncio") == []


@pytest.mark.parametrize("loop", NAMES)
@as_many_as_wanted
@given(plan=plans)
def test_whose_an_error_is_when_requests_collide(plan: Plan, loop: str) -> None:
    wrong = check(plan, loop)
    assert wrong == [], "\n".join(wrong)


@settings(as_many_as_wanted, max_examples=PROGRAMS or 40)
@given(plan=plans, loop=st.sampled_from(sorted(BY_NAME)))
def test_cancellations_alone_name_nobody_else_when_requests_collide(plan: Plan, loop: str) -> None:
    """A log of cancels has no ends, so it may know less; what it names was asked of that task."""
    program = Program.of(plan)
    note(str(program))
    events: list[Event] = []

    def audited() -> World:
        exporter = MemoryExporter()
        aioaudit.enable(exporter, events=SMALL)
        try:
            world = program.run(loop, None)
        finally:
            aioaudit.disable()
        events[:] = exporter.events
        return world

    referee, _, _ = both_ways(program, loop, audited)
    judge = Judge(program, loop, referee)
    for answer in answers_of(events).values():
        book = referee.books[answer.name]
        judge.compare(answer.name, answer, *book.asked)
    assert judge.wrong == [], "\n".join(judge.wrong)
