"""Probes in libraries: what recognisers are given that need some (`aioaudit.recognisers.probing`)."""

from __future__ import annotations

from collections.abc import Callable
from types import FrameType
from typing import Any

from aioaudit.probes.tasks import make_cancel, make_uncancel
from aioaudit.probes.timeouts import make_probes
from aioaudit.recorder.recorder import Recorder
from aioaudit.stack.frames import caller


class LibraryProbes:
    """Puts the probes of one recorder into libraries, with *put*."""

    def __init__(
        self,
        recorder: Recorder,
        put: Callable[[Any, str, Any], None],
        look_at_close: Callable[[Any, BaseException, FrameType | None], None],
    ) -> None:
        self._recorder = recorder
        self._known = recorder.state
        self.put = put
        self.report_fault = recorder.report_fault
        self.muted = recorder.muted
        self.look_at_close = look_at_close
        self.explain_scheduled = recorder.explain_scheduled

    def put_task(self, cls: Any) -> None:
        """Probe ``cancel`` and ``uncancel`` of *cls*, whose tasks are none of asyncio's."""
        recorder = self._recorder
        self.put(cls, "cancel", make_cancel(recorder, cls, vars(cls)["cancel"]))
        self._known.probe_codes |= {id(cls.cancel.__code__)}
        self.put(cls, "uncancel", make_uncancel(recorder, cls, vars(cls)["uncancel"]))

    def put_timeout(self, cls: Any) -> None:
        """Probe *cls*, whose instances are entered and armed as `asyncio.Timeout` is."""
        _, reschedule = make_probes(
            self._recorder, cls, cls.__init__, vars(cls)["reschedule"], None
        )
        self.put(cls, "reschedule", reschedule)

    def caller(self, frame: FrameType | None) -> tuple[str, str] | None:
        """``at`` and ``source`` of the application's frame from *frame* outwards."""
        found = caller(self._known.codes, frame)
        return None if found is None else (found[0].at(found[1]), found[0].source)

    def number_and_name(self, task: Any) -> tuple[int, str]:
        """Number and name of *task*, for `Cause.by`."""
        return self._known.tasks.number(task), self._known.tasks.name(task)
