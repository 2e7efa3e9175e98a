"""Traffic of every kind, and how large each table of ours is meanwhile.

`tests/process/test_growth.py` runs it for seconds, ``tools/soak.py`` for minutes.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import os
import signal
import sys
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import suppress
from types import CellType, FunctionType, MethodType, ModuleType
from typing import Any

import aioaudit
from aioaudit.exporters.jsonl import JsonlExporter
from aioaudit.session import current
from aioaudit.state.tasks import _SETTLED, Tasks

PACKAGE = "aioaudit"

FILLING = {
    # path of a table: so many entries it may have, and it fills up to that
    ".recently_returned": 4096,
    "._recent._requests": 10_000,
    "._ended": 10_000,
    "._requests": 10_000,
    ".durations": 10_000,
    ".redaction.now._known": 1_000,
    "_seen": 100_000,
}
"""Tables that keep the last so and so many, whatever they are about."""


# -- tables ----------------------------------------------------------------------------


def tables() -> dict[str, int]:
    """How many entries the tables have that can be reached from the package, by their path.

    Those that belong to the entries of another table are added up: ``states[*].requests``.
    """
    found: dict[str, int] = {}
    seen: set[int] = set()
    ahead: deque[tuple[str, Any]] = deque()
    for name, module in sorted(sys.modules.items()):
        if name.partition(".")[0] == PACKAGE and isinstance(module, ModuleType):
            ahead.append((name, module))
    while ahead:
        path, each = ahead.popleft()
        if id(each) in seen:
            continue
        seen.add(id(each))
        if isinstance(each, dict | list | set | deque):
            found[path] = found.get(path, 0) + len(each)
        elif isinstance(each, functools._lru_cache_wrapper):
            found[path] = each.cache_info().currsize
        ahead.extend(_inside(path, each))
    return found


def _inside(path: str, each: Any) -> Iterator[tuple[str, Any]]:
    """What *each* holds, as far as it may be or hold a table of ours."""
    if isinstance(each, dict):
        for value in list(each.values()):
            yield f"{path}[*]", value
    elif isinstance(each, list | set | frozenset | tuple | deque):
        for value in list(each):
            yield f"{path}[*]", value
    elif isinstance(each, CellType):
        with suppress(ValueError):  # empty
            yield path, each.cell_contents
    elif isinstance(each, MethodType):
        yield f"{path}.self", each.__self__
    elif isinstance(each, functools.partial):
        yield f"{path}.func", each.func
        yield f"{path}.args", each.args
    elif not isinstance(each, weakref.ref):
        for name, value in _named(each):
            yield f"{path}.{name}", value


def _named(each: Any) -> Iterator[tuple[str, Any]]:
    """The variables of a module, a class or a function of ours, the attributes of an instance."""
    home = each.__name__ if isinstance(each, ModuleType) else getattr(each, "__module__", None)
    if not isinstance(home, str) or home.partition(".")[0] != PACKAGE:
        return
    if isinstance(each, FunctionType):
        yield from zip(each.__code__.co_freevars, each.__closure__ or (), strict=True)
        yield "defaults", each.__defaults__
    elif isinstance(each, ModuleType | type):
        for name, value in list(vars(each).items()):
            if not isinstance(value, ModuleType) and not name.startswith("__"):
                yield name, value
    else:
        yield from _attributes(each)


def _attributes(each: Any) -> Iterator[tuple[str, Any]]:
    names: dict[str, None] = dict.fromkeys(getattr(each, "__dict__", ()))
    for cls in type(each).__mro__:
        for known in ("__slots__", "__struct_fields__"):
            slots = vars(cls).get(known, ())
            if isinstance(slots, str | tuple | list):
                names.update(dict.fromkeys([slots] if isinstance(slots, str) else slots))
    for name in names:
        with suppress(AttributeError):  # a slot that is empty
            yield name, getattr(each, name)


def grown(before: dict[str, int], after: dict[str, int], *, most: int) -> list[str]:
    """The tables that have more than *most* entries more, or more than they ever may."""
    told: list[str] = []
    for path, size in sorted(after.items()):
        limit = next((limit for end, limit in FILLING.items() if path.endswith(end)), None)
        was = before.get(path, 0)
        if size > limit if limit is not None else size - was > most:
            told.append(f"{path}: {was:,} -> {size:,}")
    return told


def memory() -> float:
    """Megabytes of the process that are in memory; 0 where the system does not say."""
    try:
        with open("/proc/self/statm", encoding="ascii") as file:  # noqa: PTH123 - it is no file
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        return 0.0


# -- traffic ---------------------------------------------------------------------------


_COMPILED = """
import asyncio

async def child():
    try:
        await asyncio.sleep(9)
    except asyncio.CancelledError:
        raise

async def compiled_{number}():
    waiting = asyncio.create_task(child())
    try:
        async with asyncio.timeout(0):
            await waiting
    except TimeoutError:
        pass
    await asyncio.wait([waiting])
"""


async def _forever() -> None:
    await asyncio.get_running_loop().create_future()


async def _nothing() -> None:
    pass


async def _deaf() -> None:
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(9)
    await asyncio.sleep(0)


async def _fails() -> None:
    await asyncio.sleep(0)
    raise ValueError("boom")


async def _cancelled(*tasks: asyncio.Task[Any]) -> None:
    await asyncio.sleep(0)
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def _cancels() -> None:
    task = asyncio.create_task
    await _cancelled(task(_forever()), task(_deaf()), task(asyncio.wait_for(_forever(), 9)))
    unstarted = task(_forever())
    unstarted.cancel("a message")
    await asyncio.wait([unstarted])
    loop = asyncio.get_running_loop()
    by_timer, by_end, by_thread = (task(_forever()) for _ in range(3))
    loop.call_later(0, by_timer.cancel)
    by_timer.add_done_callback(lambda _: by_end.cancel())
    await asyncio.wait([by_timer, by_end])
    thread = threading.Thread(target=loop.call_soon_threadsafe, args=(by_thread.cancel,))
    thread.start()
    await asyncio.wait([by_thread])
    thread.join()
    future = loop.create_future()

    async def waits() -> None:
        await future

    waiting = task(waits())
    await asyncio.sleep(0)
    future.cancel()
    await asyncio.wait([waiting])
    gathering = asyncio.gather(_forever(), _forever())
    await asyncio.sleep(0)
    gathering.cancel()
    with suppress(asyncio.CancelledError):
        await gathering


async def _timeouts() -> None:
    for seconds in (0, 9):
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.sleep(0.001)
        with suppress(TimeoutError):
            await asyncio.wait_for(asyncio.sleep(0.001), seconds)


async def _groups() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_nothing())
    for depth in range(2):
        with suppress(BaseExceptionGroup):
            async with asyncio.TaskGroup() as group:
                group.create_task(_forever())
                group.create_task(_fails() if depth else _failing_group())


async def _failing_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(_fails())
        group.create_task(_deaf())


async def _taken_back() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    with suppress(asyncio.CancelledError):
        await asyncio.sleep(9)
    task.uncancel()


async def _scopes() -> None:
    try:
        import anyio
    except ImportError:
        return
    with anyio.move_on_after(0):
        await anyio.sleep(9)
    with suppress(TimeoutError), anyio.fail_after(0):
        await anyio.sleep(9)
    with anyio.CancelScope() as scope:
        scope.cancel()
        await anyio.sleep(9)
    async with anyio.create_task_group() as group:
        group.start_soon(_forever)
        group.cancel_scope.cancel()


async def _compiles(number: int) -> None:
    namespace: dict[str, Any] = {}
    exec(_COMPILED.replace("{number}", str(number)), namespace)  # programs do
    await asyncio.create_task(namespace[f"compiled_{number}"]())


async def _signals() -> None:
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread() and sys.platform != "win32":
        namespace: dict[str, Any] = {}
        exec("def handler(): pass", namespace)  # another one each time
        loop.add_signal_handler(signal.SIGUSR1, namespace["handler"])
        loop.remove_signal_handler(signal.SIGUSR1)


async def everything(number: int) -> None:
    """One of each kind."""
    await _cancels()
    await _timeouts()
    await _groups()
    await asyncio.create_task(_taken_back())
    await _scopes()
    await _compiles(number)
    await _signals()
    for _ in range(50):
        await asyncio.create_task(_nothing())


def _left_behind() -> None:
    """A loop that is closed while tasks wait, and lets them go."""

    async def start() -> None:
        waiting = [asyncio.ensure_future(_forever()), asyncio.gather(_forever())]
        await asyncio.sleep(0)
        assert len(waiting) == 2

    loop = asyncio.new_event_loop()
    loop.set_exception_handler(lambda _loop, _context: None)
    loop.run_until_complete(start())
    loop.close()


def _once(runner: asyncio.Runner, number: int) -> None:
    runner.run(everything(number))  # a loop that lives for long
    asyncio.run(everything(number))  # and short ones
    thread = threading.Thread(
        target=lambda: asyncio.run(everything(number)), name=f"short-{number}"
    )
    thread.start()
    thread.join()
    _left_behind()
    with aioaudit.recording() as trail:
        asyncio.run(_timeouts())
        assert trail.events


def traffic(goes_on: Callable[[int], bool]) -> None:
    """Rounds of everything as long as *goes_on* says, which is asked before each, in between."""
    with open(os.devnull, "wb") as nowhere:  # noqa: PTH123 - it is no file
        aioaudit.enable(JsonlExporter(nowhere))
        try:
            with asyncio.Runner() as runner:
                number = 0
                while goes_on(number):
                    number += 1
                    _once(runner, number)
        finally:
            aioaudit.disable()


def measured() -> dict[str, int]:
    """The sizes of the tables when nothing is under way."""
    session = current()
    for pipeline, _ in session.sinks if session is not None else ():
        pipeline.flush()
    gc.collect()
    if session is not None:
        # Of a gather's children that a closed loop has let go nobody tells. They are looked for
        # once they are many; how many lie there till then is up to their addresses.
        time.sleep(_SETTLED / 1e9)
        session.recorder.state.tasks.count_living()
    return tables()


# -- a fault of the kind that is looked for ----------------------------------------------


def plant(where: str) -> None:
    """Keep something for each task that is asked about, *where* it is named."""
    tasks: Any = Tasks
    original = tasks.state
    kept: dict[int, int] = {}

    def state(self: Any, *args: Any) -> Any:
        found = original(self, *args)
        if where == "set":
            session = current()
            assert session is not None
            session.recorder.rules._left.add(found.task)
        elif where == "closure":
            kept[found.task] = 1
        elif where == "entries":
            self._codes.of(sys._getframe()).calls[-found.task] = ()
        elif where == "deque":
            self._planted.append(found.task)
        return found

    state.__module__ = Tasks.__module__
    if where == "deque":
        tasks._planted = deque()
    tasks.state = state


def main(first: str, last: str, planted: str = "") -> None:
    """Tell, a line each, which tables grow from the *first* to the *last* round."""
    if planted:
        plant(planted)
    sizes: list[dict[str, int]] = []

    def goes_on(number: int) -> bool:
        if number in (int(first), int(last)):
            sizes.append(measured())
        return number < int(last)

    traffic(goes_on)
    print(f"{len(sizes[0])} tables")
    for line in grown(*sizes, most=(int(last) - int(first)) // 2):
        print(line)


if __name__ == "__main__":
    main(*sys.argv[1:])
