"""In which trace a task is: the span that OpenTelemetry has current in its context.

OpenTelemetry keeps the current span in a context variable, so that of any task can be read without
running anything in it.  Nothing here imports OpenTelemetry: there is no span before the program has
imported it, and until then nobody asks (`Traces.begin`).
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

from aioaudit.cpython.callbacks import context_of
from aioaudit.cpython.tasks import current_task, fut_waiter

_MOST = 20
"""So many tasks, each awaited by the one before it, are asked at most."""

_KINDS = frozenset({"client", "server", "producer", "consumer"})

_modules = sys.modules
"""As it is now: Temporal's sandbox puts another in its place."""


class Ids(NamedTuple):
    """Where a task is, hexadecimal as W3C writes it in ``traceparent``.

    ``parent_span_id`` is the span of another process that the span is a child of, ``kind`` what the
    span is about where it goes on and is about more than the process itself (``client``, ``server``),
    and *sampled* says whether the trace is recorded at all.
    """

    trace_id: str
    span_id: str
    parent_span_id: str | None
    kind: str | None
    sampled: bool


class Traces:
    """Answers in which trace a task is, from `begin` on.

    Args:
        fault: Takes an error of our own.
    """

    def __init__(self, fault: Callable[[BaseException], None]) -> None:
        self._fault = fault
        self.on = False
        """Whether there may be any."""
        self._variable: ContextVar[Any] | None = None
        self._get_current_span: Callable[[Any], Any] | None = None
        self._last: tuple[weakref.ref[Any], Ids] | None = None
        """What was found last, by OpenTelemetry's own context, which never changes.

        Only where there is no `Ids.kind`: a span in there may end meanwhile, and has none then.
        """

    def begin(self, variable: ContextVar[Any] | None) -> None:
        """The program has imported OpenTelemetry, which keeps what is current in *variable*.

        Nobody is asked where that is None.
        """
        self._variable = variable
        self.on = variable is not None

    def of(self, task: Any) -> Ids | None:
        """The span that is current in *task*, or else in what it awaits; None where none is.

        A server's task that awaits the one of a handler is in no trace itself; what is cancelled
        with it is that of the request.
        """
        variable = self._variable
        if variable is None:
            return None
        try:
            for _ in range(_MOST):
                found = self._in(variable, task)
                if found is not None:
                    return found
                task = fut_waiter(task)
                if not hasattr(task, "get_coro"):
                    break
        except Exception as error:  # noqa: BLE001 - a span, or a task, may be of anybody's make
            self._fault(error)
        return None

    def of_core(self, task: Any) -> tuple[bytes, bytes, Ids] | None:
        """The same for a core: what a line about a request to *task* says, and one about its end."""
        ids = self.of(task)
        if ids is None:
            return None
        # Written out, for what is hexadecimal needs no escape: this is the hot path of a core.
        trace_id, span_id, above, kind, sampled = ids
        told = f',"trace_id":"{trace_id}","span_id":"{span_id}"'
        whole = told
        if above is not None:
            whole += f',"parent_span_id":"{above}"'
        if kind is not None:
            whole += f',"span_kind":"{kind}"'
        if not sampled:
            whole += ',"trace_sampled":false'
        return whole.encode(), told.encode(), ids

    def _in(self, variable: ContextVar[Any], task: Any) -> Ids | None:
        # What runs may be in a context of its own, and before 3.12 it tells of none.
        context = variable.get(None) if task is current_task() else context_of(task).get(variable)
        if not context:  # empty for whoever traces nothing
            return None
        last = self._last
        if last is not None and last[0]() is context:
            return last[1]
        get_current_span = self._get_current_span
        if get_current_span is None:
            module = _modules.get("opentelemetry.trace")
            get_current_span = getattr(module, "get_current_span", None)
            if get_current_span is None:
                return None
            self._get_current_span = get_current_span
        span = get_current_span(context)
        here = span.get_span_context()
        if not here.is_valid:
            return None
        # The one of the SDK says whose child it is; what came with a request is its own parent.
        above: Any = here if here.is_remote else getattr(span, "parent", None)
        ids = Ids(
            f"{here.trace_id:032x}",
            f"{here.span_id:016x}",
            f"{above.span_id:016x}" if above is not None and above.is_remote else None,
            _kind(span),
            bool(here.trace_flags & 1),
        )
        if ids.kind is None:
            with suppress(TypeError):  # who attached what is no context of OpenTelemetry's
                self._last = weakref.ref(context), ids
        return ids


def _kind(span: Any) -> str | None:
    """``client`` and the like, None where *span* has ended or is about nothing but this process."""
    kind = str(getattr(getattr(span, "kind", None), "name", "")).lower()
    return kind if kind in _KINDS and span.is_recording() else None
