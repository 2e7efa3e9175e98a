"""In the process that is attached to: turning the recorder on, and off again.

The lines that come from outside run in the main thread between any two of its instructions, inside
of whatever task is there, and whatever they raise would be lost.  So they only start a thread, with
the system's own means.  That imports what is needed, which takes a while; the loop goes on meanwhile.
What changes something is done in the loop's own thread, as a callback of the loop's: no task is in
the middle of anything then, no lock is held, and a signal's handler may raise as ever.  Where the
main thread runs no loop, or one that is stuck, it is done in the thread itself.

What answers the client are files in a folder of the client's; nobody waits for it.
"""

from __future__ import annotations

import sys
from asyncio import AbstractEventLoop, Runner
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from typing import TYPE_CHECKING, Any

from aioaudit import session
from aioaudit.attach.told import Told
from aioaudit.cpython.frames import current_frames
from aioaudit.delivery.journal import TIMEOUT
from aioaudit.dumps import is_dumper
from aioaudit.errors import AioauditError
from aioaudit.recognisers import registry
from aioaudit.recorder.older import Survey
from aioaudit.stack.frames import local
from aioaudit.text import describe
from aioaudit.threads import acquire, allocate_lock, sleep
from aioaudit.version import __version__

if TYPE_CHECKING:
    from aioaudit.auditing import Auditing

Reply = Callable[[str, str, str], None]
"""Tells the client: the name of the answer, how it went, and what is to be said of it."""

RECORDER = "recorder"

_PATIENCE = 2.0  # seconds in which a loop has to come to a callback
_LONGEST = 60.0  # seconds for what has begun there
_PORTION = 0.001  # seconds of a loop's time that are taken at once
_PAUSE = 0.002  # seconds that it has for itself in between
_LOOPS = ("self", "loop", "runner")
"""Names of the variables by which a frame shows the loop that it runs."""

_attached: Auditing | None = None


def prepare() -> None:
    """Import what will be needed: in a thread of its own, a little at a time.

    Whoever forks meanwhile waits: in the child nobody would end what was begun.
    """
    for module in ("aioaudit.exporters.recorder", "aioaudit.loading", *session._NEEDED):
        import_module(module)
        sleep(_PAUSE)
    for library in sorted(registry.OWN & sys.modules.keys()):
        with suppress(Exception):  # it is said where it is needed
            registry.own_tables(library)
        sleep(_PAUSE)


def work(words: dict[str, Any], reply: Reply, loop: Any) -> None:
    """Do what *words* ask for; *loop* is the one that runs in the main thread, None without one.

    To be called in a thread of its own.
    """
    try:
        if words["do"] == "attach":
            _attach(words, reply, loop)
        else:
            _detach(reply, loop)
    except Exception as error:  # noqa: BLE001 - nobody else would hear of it
        reply("done", "failed", describe(error))


def _attach(words: dict[str, Any], reply: Reply, loop: Any) -> None:
    told = Told(version=__version__)

    def turn_on() -> None:
        try:
            why = _turn_on(words, told)
        except (AioauditError, OSError) as error:
            reply("done", "refused", str(error))
        except Exception as error:  # noqa: BLE001 - the program's loop need not hear of it
            reply("done", "failed", describe(error))
        except BaseException as error:
            reply("done", "failed", describe(error))
            raise  # a signal's handler has ended the program
        else:
            reply("done", why or "on", told.encoded())

    told.elsewhere = not _in_loop(loop, turn_on)
    if told.elsewhere:
        turn_on()
    if _is_attached():
        _tell_of_older(loop, told)
        reply("older", "on", told.encoded())


def _is_attached() -> bool:
    return _attached is not None and session._is_on(_attached)


def _turn_on(words: dict[str, Any], told: Told) -> str | None:
    """Why it was left as it is; None where the recorder is on now."""
    global _attached
    current = session.current()
    there = [] if current is None else [journal for journal, _ in current.sinks]
    told.beside = [journal.name for journal in there]
    if any(is_dumper(journal.exporter) for journal in there):
        return "attached" if _is_attached() else "there"
    _attached = session.enable(
        RECORDER, recorder_size=words.get("size"), recorder_dump=words.get("dump")
    )
    current = session.current()
    for held in () if current is None else current.wanted.holds.values():
        if session.is_sink(held) and held.what.name == RECORDER and held.settings is not None:
            told.size = held.settings.recorder_size
    return None


def _detach(reply: Reply, loop: Any) -> None:
    current = session.current()
    if current is not None:
        for journal, _ in current.sinks:
            if is_dumper(journal.exporter):
                journal.flush(TIMEOUT)  # so that hardly anything is left to wait for
    told = Told(version=__version__)

    def turn_off() -> None:
        global _attached
        try:
            handle, was_on = _attached, _is_attached()
            _attached = None
            if handle is not None:
                handle.disable()
            left = session.current()
            told.beside = [] if left is None else [journal.name for journal, _ in left.sinks]
        except Exception as error:  # noqa: BLE001 - as above
            reply("done", "failed", describe(error))
        except BaseException as error:
            reply("done", "failed", describe(error))
            raise
        else:
            reply("done", "off" if was_on else "not attached", told.encoded())

    told.elsewhere = not _in_loop(loop, turn_off)
    if told.elsewhere:
        turn_off()


# -- loops ---------------------------------------------------------------------------------


def _in_loop(loop: Any, step: Callable[[], object]) -> bool:
    """Have *loop* call *step*, and wait for it; whether it came to it."""
    if loop is None:
        return False
    claim, done = allocate_lock(), allocate_lock()
    done.acquire()

    def call() -> None:
        if claim.acquire(blocking=False):
            try:
                step()
            finally:
                done.release()

    try:
        loop.call_soon_threadsafe(call)
    except Exception:  # noqa: BLE001 - it is closed, or a stranger's that may answer with anything
        return False
    if not acquire(done, _PATIENCE):
        if claim.acquire(blocking=False):
            return False
        acquire(done, _LONGEST)
    return True


def _tell_of_older(main: Any, told: Told) -> None:
    """Have each loop's tasks looked at in its own thread, a portion at a time."""
    current = session.current()
    if current is None:
        return
    recorder = current.recorder
    for loop in _running(main):
        surveys: list[Survey] = []
        more = True

        def look(loop: Any = loop, surveys: list[Survey] = surveys) -> None:
            nonlocal more
            more = False
            if not surveys:
                surveys.append(Survey(recorder, loop))
            more = surveys[0].go_on(_PORTION)

        while more:
            if not _in_loop(loop, look):
                told.unseen += 1
                break
            sleep(_PAUSE)
        for each in surveys:
            told.tasks += each.tasks
            told.timeouts += each.timeouts
            told.groups += each.groups


def _running(main: Any) -> list[Any]:
    """The loops that run now, each once; *main* is that of the main thread."""
    found = {} if main is None else {id(main): main}
    for innermost in list(current_frames().values()):
        frame: Any = innermost
        while frame is not None:
            for name in _LOOPS:
                value: Any = local(frame, name) if name in frame.f_code.co_varnames else None
                if issubclass(type(value), Runner):
                    with suppress(Exception):  # it is closed
                        value = value.get_loop()
                if issubclass(type(value), AbstractEventLoop) and value.is_running():
                    found[id(value)] = value
            frame = frame.f_back
    return list(found.values())
