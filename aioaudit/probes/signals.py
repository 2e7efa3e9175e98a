"""Probes on `os.kill` and `os.killpg`: that this process sends another one a signal.

Who receives a signal cannot learn from whom (`docs/limits.md`), so whoever sends it says so.  Nearly all
that sends one in Python comes by here: `subprocess`, `multiprocessing`, asyncio's transports, gunicorn,
uvicorn look ``os.kill`` up when they need it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioaudit.cpython.frames import getframe
from aioaudit.events import SignalSent
from aioaudit.recorder.recorder import Recorder


def make_kill(
    recorder: Recorder, original: Callable[..., None], *, group: bool
) -> Callable[..., None]:
    """`os.kill`, or `os.killpg` for a *group*, that tells what it sent, once it is sent."""

    def kill(*args: Any, **keywords: Any) -> None:
        event: SignalSent | None = None
        try:
            if len(args) == 2 and not keywords:
                event = recorder.on_sending(getframe(1), *args, group=group)
        except Exception as error:  # noqa: BLE001 - an internal error must not keep a signal back
            recorder.report_fault(error)
        try:
            original(*args, **keywords)
        except BaseException:
            if event is not None:
                recorder.sender.sinks.skip(event.seq)
            raise
        if event is not None:
            # As of before: who got it may have told what came of it by now.
            recorder.sender.emit_final(event)

    return kill
