"""Probes on `os.kill` and `os.killpg`: that this process sends another one a signal.

Who receives a signal cannot learn from whom (`docs/limits.md`), so whoever sends it says so.  Nearly all
that sends one in Python comes by here: `subprocess`, `multiprocessing`, asyncio's transports, gunicorn,
uvicorn look ``os.kill`` up when they need it.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import Any

from aioaudit import lifecycle
from aioaudit.cpython.frames import caller_of
from aioaudit.events import SignalSent
from aioaudit.recorder.recorder import Recorder
from aioaudit.stack.frames import signal_of


def make_kill(
    recorder: Recorder, original: Callable[..., None], *, group: bool
) -> Callable[..., None]:
    """`os.kill`, or `os.killpg` for a *group*, that tells what it sent, once it is sent.

    What this process ends by is told first.  It is called with what says where the original is
    from, before all other arguments: see `aioaudit.cpython.inplace.as_builtin`.
    """

    def kill(_module: object, /, *args: Any, **keywords: Any) -> None:
        event: SignalSent | None = None
        try:
            if len(args) == 2 and not keywords:
                # Nobody calls it where the interpreter does: at exit, or as what a thread runs.
                event = recorder.on_sending(caller_of(), *args, group=group)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a signal back
            recorder.report_fault(error)
        if event is not None and _ends_us(event.to, args[1]):
            recorder.sender.emit_final(event)
            event = None
        try:
            original(*args, **keywords)
        except BaseException as error:
            if event is not None:
                if _was_sent(error):
                    recorder.sender.emit_final(event)
                else:
                    recorder.sender.sinks.skip(event.seq)
            raise
        if event is not None:
            # As of before: who got it may have told what came of it by now.
            recorder.sender.emit_final(event)

    return kill


def _was_sent(error: BaseException) -> bool:
    """Whether *error*, which the original raised, is of the signal's handler, and no refusal.

    Once a signal is sent, what this process itself has to handle is handled before the original
    returns (``os_kill_impl`` in Modules/posixmodule.c).
    """
    step = error.__traceback__
    inner = None if step is None else step.tb_next
    if inner is None:  # of C: Ctrl-C as it is by default, or a refusal
        return not isinstance(error, Exception)
    # Else an audit hook's (PEP 578), which comes first.
    return signal_of(inner.tb_frame) is not None


def _ends_us(to: int, number: int) -> bool:
    """Whether this process surely ends by a signal with this *number* before the original returns.

    *to* is as in `SignalSent`: a group below zero, and 0 the one of this process.  Not so -1, which is
    every process but this one on Linux.
    """
    if to not in (0, os.getpid()) and (not hasattr(os, "getpgrp") or to != -os.getpgrp()):
        return False
    return lifecycle.ends_by(number)
