"""Methods that a probe stands in the place of, called with what they are not made for.

They do exactly what they do without us: the same result, the same error, nothing on stderr.
One program calls them all, once plain and once audited, and tells what came of it.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from aioaudit.events import AnyEvent, FutureCancel, ProcessEnd, TaskCancel

if TYPE_CHECKING:
    from tests.conftest import Runner

PROGRAM = r"""
import asyncio, functools, gc, re, signal, sys, types, warnings
import asyncio.futures, asyncio.tasks, asyncio.timeouts
import uvloop
warnings.simplefilter("ignore")
gc.disable()
sys.unraisablehook = lambda u: print("unraisable", type(u.exc_value).__name__, u.exc_value)

PyTask, PyFuture = asyncio.tasks._PyTask, asyncio.futures._PyFuture
COUNT = re.compile("argument|descriptor")


def said(text):
    return re.sub(r"0x[0-9a-f]+|Task-\d+", "...", str(text))


def tell(label, call):
    try:
        result = call()
    except BaseException as error:
        # How Python words a wrong number of arguments is the one thing that may differ.
        text = "" if COUNT.search(str(error)) else said(error)
        print(label, "raises", type(error).__name__, text, type(error.__context__).__name__)
    else:
        print(label, "gives", said(type(result).__name__))
        if isinstance(result, asyncio.Future) and not isinstance(result, asyncio.Task):
            result.cancel()
        return result


async def empty():
    pass


def of_tasks(kind, strange):
    for name in ("cancel", "uncancel", "set_name", "add_done_callback", "__init__", "cancelling"):
        method = getattr(kind, name, None)
        if method is None:
            continue
        for what in strange():
            for args in ((), (5,), (1, 2), (1, 2, 3)):
                tell(f"{kind.__name__}.{name} {said(type(what).__name__)} {args}", lambda: method(what, *args))
        tell(f"{kind.__name__}.{name}()", lambda: method())
        tell(f"{kind.__name__}.{name}(wrong=1)", lambda: method(wrong=1))


def strange_tasks():
    loop = asyncio.get_running_loop()
    return [5, None, object(), asyncio.Task.__new__(asyncio.Task), PyTask.__new__(PyTask),
            asyncio.Future.__new__(asyncio.Future), PyFuture.__new__(PyFuture),
            loop.create_future(), PyFuture(loop=loop), asyncio.Task, loop,
            type("Sub", (asyncio.Task,), {"__init__": lambda self: None})(),
            type("SubFuture", (asyncio.Future,), {"__init__": lambda self: None})()]


def strange_loops():
    made = asyncio.new_event_loop()
    made.close()
    return [5, None, object(), asyncio.BaseEventLoop.__new__(asyncio.BaseEventLoop),
            asyncio.SelectorEventLoop.__new__(asyncio.SelectorEventLoop), made]


def of_loops(kind):
    for what in strange_loops():
        for name in ("stop", "close", "call_at", "call_later", "call_soon_threadsafe", "call_exception_handler",
                     "add_signal_handler", "is_closed"):
            method = getattr(kind, name)
            for args in ((), (5,), (1, 2), ("x", print), (1, "x", 3), (signal.SIGUSR1, empty),
                         ({"message": 5},), ({"message": "Task was destroyed but it is pending!"},)):
                tell(f"{kind.__name__}.{name} {type(what).__name__} {said(args)}", lambda: method(what, *args))


async def main():
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda loop, context: print("handler", said(sorted(context) if isinstance(context, dict) else context)))
    for kind in (asyncio.Task, PyTask, asyncio.Future, PyFuture):
        of_tasks(kind, strange_tasks)
    for kind in (asyncio.Task, PyTask):
        for keywords in ({"foo": 1}, {"loop": 5}, {"loop": loop, "name": 5},
                         {"loop": loop, "name": object}, {"loop": 5, "eager_start": True}):
            coro = empty()
            task = tell(f"{kind.__name__} {said(keywords)}", lambda: kind(coro, **keywords))
            if task is not None and not task.done() and "context" not in keywords and keywords.get("loop") != 5:
                await task
            coro.close()
        for wrong in (5, None, empty, print, iter(()), loop):
            tell(f"{kind.__name__} of {said(type(wrong).__name__)}", lambda: kind(wrong, loop=loop))
            tell(f"{kind.__name__} of {said(type(wrong).__name__)}", lambda: kind(wrong, loop=loop, name="x"))
            if sys.version_info >= (3, 12):
                tell(f"eager of {said(type(wrong).__name__)}", lambda: kind(wrong, loop=loop, eager_start=True))
    task = asyncio.create_task(empty())
    for args in ((), (1, 2), (None, None, None)):
        for name in ("cancel", "uncancel", "set_name", "add_done_callback"):
            if args or name not in ("cancel", "uncancel"):
                tell(f"task.{name}{args}", lambda: getattr(task, name)(*args))
    tell("task.cancel(msg=)", lambda: task.cancel(mgs=1))
    tell("nameless", lambda: task.add_done_callback(types.MethodType(functools.partial(print, "called", end=""), 5)))
    tell("uncallable", lambda: task.add_done_callback(5))
    tell("again", lambda: task.__init__(5))
    await task
    tell("nameless later", lambda: type(loop.call_later(0, types.MethodType(functools.partial(lambda x: None), 5))))
    tell("nameless soon", lambda: type(loop.call_soon_threadsafe(types.MethodType(functools.partial(lambda x: None), 5))))
    await asyncio.sleep(0.01)
    for args in ((), (1, 2), ("x",)):
        tell(f"timeout {args}", lambda: type(asyncio.Timeout(*args)))
        tell(f"timeout of {args}", lambda: type(asyncio.timeout(*args)))
    for what in (5, None, asyncio.Timeout.__new__(asyncio.Timeout), asyncio.timeout(1)):
        for args in ((), (5,), ("x",), (1, 2)):
            tell(f"reschedule {type(what).__name__} {args}", lambda: asyncio.Timeout.reschedule(what, *args))
    async with asyncio.timeout(None) as timeout:
        for when in ("x", object(), (1,)):
            tell(f"reschedule entered {type(when).__name__}", lambda: timeout.reschedule(when))
            timeout._timeout_handler = None
    for name, args in (("call_at", (1,)), ("call_soon_threadsafe", ()),
                       ("call_soon_threadsafe", (empty,)), ("stop", (1,)), ("close", (1,)), ("close", ()),
                       ("add_signal_handler", ()), ("add_signal_handler", ("x", print)), ("add_signal_handler", (0, print)),
                       ("add_signal_handler", (9999, print)), ("add_signal_handler", (signal.SIGKILL, print)),
                       ("add_signal_handler", (signal.SIGUSR1, empty)), ("call_exception_handler", ()),
                       ("call_exception_handler", (5,)), ("call_exception_handler", (None,))):
        tell(f"loop.{name}{said(args)}", lambda: getattr(loop, name)(*args))
    for what in (5, asyncio.Task.__new__(asyncio.Task), loop.create_future()):
        tell("current", lambda: asyncio.Task.done(what))
    # Half made, and awaited.
    async def waits(future):
        await future
    for kind in (asyncio.Future,):
        half = kind.__new__(kind)
        task = asyncio.create_task(waits(half))
        await asyncio.wait([task])
        print(kind.__name__, said(repr(task.exception())))


print("== of asyncio")
asyncio.run(main())
of_loops(asyncio.BaseEventLoop)
of_loops(asyncio.SelectorEventLoop)
print("== of uvloop")
made = uvloop.new_event_loop()
for name in ("stop", "close", "call_at", "call_later", "call_soon_threadsafe", "call_exception_handler", "add_signal_handler",
             "run_until_complete"):
    for args in ((), (5,), (1, "x", 3), ("x", print)):
        if name == "run_forever" and not args:
            continue
        tell(f"uvloop {name}{said(args)}", lambda: getattr(made, name)(*args))
class Strange(asyncio.AbstractEventLoop):
    run_forever = run_until_complete = stop = close = call_later = 5
tell("strange loop", lambda: Strange())
for wrong in (5, "x", None):
    tell(f"_set_running_loop {wrong}", lambda: asyncio.events._set_running_loop(wrong))
asyncio.events._set_running_loop(None)
"""


def scrubbed(text: str) -> str:
    return re.sub(r"0x[0-9a-f]+|Task-\d+", "...", text)


def test_what_is_called_wrongly_answers_as_without_us(run_python: Runner, tmp_path: Path) -> None:
    pytest.importorskip("uvloop")
    (tmp_path / "app.py").write_text(PROGRAM)
    plain = run_python("app.py")
    audited = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log")
    assert plain.stdout.count("\n") > 1000
    assert audited.stdout.splitlines() == plain.stdout.splitlines()
    assert scrubbed(audited.stderr) == scrubbed(plain.stderr)
    assert audited.returncode == plain.returncode == 0
    lines = (tmp_path / "log").read_bytes().splitlines()
    events = [msgspec.json.decode(line, type=AnyEvent) for line in lines]
    assert isinstance(events[-1], ProcessEnd)
    assert events[-1].faults == []
    # Nothing but a task is told as one.
    asked = [event for event in events if isinstance(event, TaskCancel | FutureCancel)]
    assert [event for event in asked if "?" in str(event)] == []


WRONG_OBJECTS = """
import asyncio
try:
    asyncio.Future.__new__(asyncio.Future).cancel()
except RuntimeError as error:
    print(error)
for wrong in (5, asyncio.Future.__new__(asyncio.Future)):
    try:
        asyncio.Task.cancel(wrong)
    except TypeError as error:
        print(error)
async def main():
    future = asyncio.get_running_loop().create_future()
    try:
        asyncio.Task.cancel(future)
    except TypeError as error:
        print(error)
    print(future.cancelled())
asyncio.run(main())
"""


def test_what_is_no_task_is_not_told_as_one(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "app.py").write_text(WRONG_OBJECTS)
    plain = run_python("app.py")
    audited = run_python("app.py", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH="log")
    assert (audited.stdout, audited.stderr) == (plain.stdout, plain.stderr)
    assert '.cancel"' not in (tmp_path / "log").read_text()
