"""The shapes of all events: the one place that knows them.

An event is a flat, typed record (`msgspec.Struct`); its name (``task.cancel``)
is the tag of its class.  Encoded it is one JSON object: ``event`` first, then
the fields below in their order, without those that have nothing to say.

`docs/events.schema.json` is generated from these classes, never the other way
round.  Readers must accept unknown keys and unknown events, so a field may be
added at any time; taking one away or changing its meaning raises `SCHEMA`.
"""

from __future__ import annotations

import inspect
from typing import Any, Literal

import msgspec

__all__ = [
    "BY_NAME",
    "NAMES",
    "REASONS",
    "SCHEMA",
    "AnyEvent",
    "CancelOutcome",
    "ConnectionClose",
    "Event",
    "Evidence",
    "Finding",
    "FutureCancel",
    "HookAdd",
    "LoopBlocked",
    "LoopClose",
    "LoopStart",
    "LoopStop",
    "Outcome",
    "ProcessDropped",
    "ProcessEnd",
    "ProcessStart",
    "Reason",
    "Severity",
    "SignalSent",
    "TaskCancel",
    "TaskCreate",
    "TaskDone",
    "TaskFound",
    "TaskUncancel",
    "What",
    "json_schema",
    "name_of",
]

NO_FINDINGS = "findings: not recorded, AIOAUDIT_EVENTS leaves them out"
"""What ``coverage`` says of a process in which nobody hears of findings."""

NO_UNCANCELS = "uncancel() and ends of tasks: not recorded, AIOAUDIT_EVENTS leaves some out"
"""What ``coverage`` says where a log does not tell which requests were taken back."""

SCHEMA = 1
"""Version of the shapes, written into ``process.start``."""

Reason = str
"""Why a request was made: one of `REASONS`, or a recogniser's ``package.word``."""

REASONS = frozenset(
    {
        "explicit",
        "timeout",
        "task_group",
        "gather",
        "awaiter",
        "shutdown",
        "signal",
        "scope",
        "thread",
        "disconnect",
        "native",
        "unknown",
    }
)
"""The reasons of aioaudit itself; recognisers of other packages add theirs."""

Evidence = Literal["observed", "inferred"]
"""Whether something was seen, or follows from what was seen."""

What = Literal["cancelled", "failed", "signal", "deadline", "shutdown", "called"]
"""What a link of a chain tells of."""

Outcome = Literal["returned", "raised", "cancelled", "destroyed"]
"""How a task ended; ``destroyed``: it was collected while it was pending."""

CancelOutcome = Literal["obeyed", "swallowed", "absorbed", "replaced"]
"""What became of the request to cancel a task that has ended."""

Severity = Literal["finding", "note"]
"""Whether something is wrong, or only looks as if it might be."""


class Event(msgspec.Struct, kw_only=True, omit_defaults=True, gc=False, tag_field="event"):
    """What every event has.

    ``ts`` is RFC 3339 in UTC with microseconds; ``seq`` rises strictly within
    a process; ``run`` names the process's run (a forked child is a new one);
    ``thread`` is the thread's name; ``loop`` a small number, absent where no
    loop is involved.
    """

    ts: str
    seq: int
    run: str
    pid: int
    thread: str
    loop: int | None = None


class ProcessStart(Event, tag="process.start", kw_only=True):
    """First line of a file: who wrote it and what can be seen here."""

    schema: int
    version: str
    python: str
    ppid: int
    argv: list[str]
    coverage: list[str]
    parent_run: str | None = None
    process: str | None = None
    ancestors: list[str] | None = None
    network: str | None = None
    service: str | None = None


class ProcessEnd(Event, tag="process.end", kw_only=True):
    """The process ended in order; counts are of events, for this exporter.

    ``faults`` are internal errors, by kind: what they concerned may be missing.
    """

    written: int
    dropped: int
    signal: str | None = None
    faults: list[str] = []


class ProcessDropped(Event, tag="process.dropped", kw_only=True):
    """Events were lost for this exporter: how many, and of which names.

    ``faults`` are kinds of internal errors that were seen for the first time: what they
    concerned may be missing, and is not counted.  ``unneeded`` of those that were lost were thrown
    away, since no answer needs them: nothing that they tell had to do with a cancellation.
    """

    count: int
    events: list[str] = []
    faults: list[str] = []
    unneeded: int = 0


class HookAdd(Event, tag="hook.add", kw_only=True):
    """A hook joined the bus; ``hook`` is its ``module:qualname``."""

    hook: str


class _TaskEvent(Event, kw_only=True):
    """An event about one task; ``preexisting`` marks one made before auditing began."""

    task: int
    name: str
    coro: str
    preexisting: bool = False


class TaskCreate(_TaskEvent, tag="task.create", kw_only=True):
    """A task was made, however it was made."""

    parent: int | None = None
    at: str | None = None
    source: str | None = None


class TaskFound(_TaskEvent, tag="task.found", kw_only=True):
    """A task was there already when somebody began to look (``aioaudit attach``).

    Who made it, and where, is not known.  ``suspended_at`` is where it waits.  ``timeouts`` and
    ``groups`` are the lines by which it entered those that it is in, the outermost first; ``?``
    for one of which the frame does not show it.
    """

    suspended_at: str | None = None
    timeouts: list[str] = []
    groups: list[str] = []


class _Request(Event, kw_only=True):
    """What a request to cancel says of itself and, in ``origin``, of its cause.

    ``cause`` is the ``seq`` of the event that caused this one.  ``cleanup`` says that the line
    that called leaves a block whose other lines do not use the task.  Where a library called on
    behalf of the line ``at``, ``library`` is its function and ``library_at`` the line.  ``local`` and
    ``peer`` are the addresses of the connection whose peer went away.  ``origin`` is
    the ``what`` of the next link of the chain and the ``origin_*`` keys are
    that link's other keys.  Where both are there, the chain goes from this
    request to the origin, and on to whatever follows the request ``cause``.
    """

    # Made by a function, so that msgspec writes them even where they say the default.
    reason: Reason = msgspec.field(default_factory=lambda: "unknown")
    source: str | None = None
    at: str | None = None
    library: str | None = None
    library_at: str | None = None
    by: int | None = None
    by_name: str | None = None
    cause: int | None = None
    message: str | None = None
    evidence: Evidence = msgspec.field(default_factory=lambda: "observed")
    detail: str | None = None
    cleanup: bool = False
    origin: What | None = None
    origin_task: int | None = None
    origin_name: str | None = None
    origin_reason: str | None = None
    origin_source: str | None = None
    origin_at: str | None = None
    origin_library: str | None = None
    origin_library_at: str | None = None
    origin_by_name: str | None = None
    origin_error: str | None = None
    origin_signal: str | None = None
    origin_seconds: float | None = None
    origin_message: str | None = None
    origin_detail: str | None = None
    local: str | None = None
    peer: str | None = None


class TaskCancel(_Request, tag="task.cancel", kw_only=True):
    """``cancel()`` was called on a task.

    ``behind`` is the ``seq`` of an earlier request to the task that has not been
    delivered yet: that one will be, and this one changes nothing.  ``taken_back``
    says that whoever asked ends the request itself with ``uncancel()``.  ``trace_id`` and
    ``span_id`` are of the span that OpenTelemetry had current in the task (or else in the
    one that it awaited), hexadecimal as W3C Trace Context writes them, and ``parent_span_id`` is
    the span of another process that this one is a child of (of a ``disconnect``: that sent the
    request).  ``span_kind`` is ``client`` where the span is that of a request which the task has
    sent itself, ``server`` and so on; ``trace_sampled`` is false where nobody records that trace.
    """

    task: int
    name: str
    coro: str
    accepted: bool
    preexisting: bool = False
    suspended_at: str | None = None
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    span_kind: str | None = None
    trace_sampled: bool = True
    behind: int | None = None
    taken_back: bool = False


class FutureCancel(_Request, tag="future.cancel", kw_only=True):
    """``cancel()`` was called on a plain future that tasks (``waiters``) await.

    ``trace_id`` and the four after it are as in `TaskCancel`, of the first of them that is in a trace.
    """

    waiters: list[int]
    waiter_names: list[str] = []
    trace_id: str | None = None
    span_id: str | None = None
    parent_span_id: str | None = None
    span_kind: str | None = None
    trace_sampled: bool = True


class TaskUncancel(_TaskEvent, tag="task.uncancel", kw_only=True):
    """``uncancel()`` was called; ``remaining`` is what ``cancelling()`` says after it.

    ``cancel`` is the ``seq`` of the request that it took back, where that is known.  A task
    group that takes a request only to give it back at once took none.
    """

    remaining: int
    cancel: int | None = None
    source: str | None = None
    at: str | None = None


class TaskDone(_TaskEvent, tag="task.done", kw_only=True):
    """A task ended.

    ``cancel`` is the ``seq`` of the request it obeyed (which may have been made
    to what it awaited).  A task that ended cancelled without a
    ``cancel_outcome`` raised its CancelledError by hand.  ``evidence`` is ``inferred`` where
    it was asked more than once, and not seen which request ended it (before Python 3.12).
    ``lifetime`` is in seconds.  ``trace_id`` and ``span_id`` are those of the request that was made
    to it, or else those that were current in it as it ended; one that just returned has none.
    """

    outcome: Outcome
    error: str | None = None
    error_at: str | None = None
    cancel: int | None = None
    cancel_outcome: CancelOutcome | None = None
    swallowed_at: str | None = None
    evidence: Evidence | None = None
    lifetime: float | None = None
    trace_id: str | None = None
    span_id: str | None = None


class ConnectionClose(_TaskEvent, tag="connection.close", kw_only=True):
    """A task closed a connection while it handled a cancellation: its peer may notice.

    ``local`` and ``peer`` are the addresses of the connection, ``cancel`` is the ``seq`` of the
    request that the task was handling.  ``evidence`` is ``inferred`` where that was not seen, and
    there were several (before Python 3.12).
    """

    local: str
    peer: str
    cancel: int
    at: str | None = None
    source: str | None = None
    evidence: Evidence | None = None


class Finding(_TaskEvent, tag="finding", kw_only=True):
    """Something went wrong with a cancellation of the task, or (a ``note``) perhaps did.

    ``kind`` is one of those in `aioaudit.findings.catalogue`.  ``reason`` to
    ``by_name``, ``trace_id`` and ``span_id`` repeat the request ``cancel``; the keys with ``other_`` are of
    somebody else who had to do with it: who asked as well, who awaited the task,
    whom it awaited.  ``seconds`` is how long it took in all, ``delivered_after``
    how long until the CancelledError arrived, ``waited`` how long it waited at
    ``waits_at``.  Of a ``blocked`` loop, ``source`` and ``at`` are where it was, and ``task`` is 0
    where no task ran.
    """

    kind: str
    severity: Severity
    cancel: int | None = None
    reason: Reason | None = None
    source: str | None = None
    at: str | None = None
    library: str | None = None
    library_at: str | None = None
    by: int | None = None
    by_name: str | None = None
    suspended_at: str | None = None
    swallowed_at: str | None = None
    waits_at: str | None = None
    made_at: str | None = None
    outcome: Outcome | None = None
    error: str | None = None
    other_cancel: int | None = None
    other_reason: Reason | None = None
    other_source: str | None = None
    other_at: str | None = None
    other_task: int | None = None
    other_name: str | None = None
    seconds: float | None = None
    delivered_after: float | None = None
    waited: float | None = None
    times: int | None = None
    remaining: int | None = None
    detail: str | None = None
    trace_id: str | None = None
    span_id: str | None = None


class LoopStart(Event, tag="loop.start", kw_only=True):
    """A loop began to run."""


class LoopStop(Event, tag="loop.stop", kw_only=True):
    """``stop()`` was called on a loop while ``pending`` tasks were not done."""

    source: str | None = None
    at: str | None = None
    by: int | None = None
    by_name: str | None = None
    pending: int | None = None


class LoopClose(Event, tag="loop.close", kw_only=True):
    """A loop was closed."""


class LoopBlocked(Event, tag="loop.blocked", kw_only=True):
    """A loop stayed in one callback, or one step of a task, for longer than it may.

    ``seconds`` is for how long it was seen there, ``ongoing`` says that it still is.  ``at`` and
    ``source`` are where it was seen most of that time, the application's innermost line;
    ``library`` and ``library_at`` what that line was in just then.  ``task``, ``name`` and ``coro``
    are of the task that ran, absent where none did.  ``evidence`` is ``inferred`` where nobody
    could look meanwhile, and the loop was found there afterwards.
    """

    seconds: float
    evidence: Evidence
    source: str | None = None
    at: str | None = None
    library: str | None = None
    library_at: str | None = None
    task: int | None = None
    name: str | None = None
    coro: str | None = None
    ongoing: bool = False


class SignalSent(Event, tag="signal.sent", kw_only=True):
    """This process sent a signal, by `os.kill` or `os.killpg`.

    ``to`` is the number of the process that it was sent to, 0 or less as for kill(2): a group.
    ``source``, ``at``, ``library`` and ``library_at`` are who sent it, as of a request to cancel, and
    ``callers`` the functions that called, the innermost first.  ``detail`` says what was handled
    just then: an error, or a signal.
    """

    to: int
    signal: str
    source: str | None = None
    at: str | None = None
    library: str | None = None
    library_at: str | None = None
    by: int | None = None
    by_name: str | None = None
    callers: list[str] = []
    detail: str | None = None


AnyEvent = (
    ProcessStart
    | ProcessEnd
    | ProcessDropped
    | HookAdd
    | TaskCreate
    | TaskFound
    | TaskCancel
    | FutureCancel
    | TaskUncancel
    | TaskDone
    | ConnectionClose
    | Finding
    | LoopStart
    | LoopStop
    | LoopClose
    | LoopBlocked
    | SignalSent
)
"""An event of any kind."""

BY_NAME: dict[str, type[Event]] = {str(cls.__struct_config__.tag): cls for cls in AnyEvent.__args__}
"""Every event's class by its name."""

NAMES: dict[type[Event], str] = {cls: name for name, cls in BY_NAME.items()}
"""Every event's name by its class."""


def name_of(event: Event) -> str:
    """The event's name, ``task.cancel`` for a `TaskCancel`."""
    return str(event.__struct_config__.tag)


def defaults_of(event: type[Event]) -> dict[str, object]:
    """What each field of an *event* is by default, in their order; `msgspec.NODEFAULT` for none.

    A default that a function makes is some object that is not None.  `msgspec.structs.fields`
    says the same, but evaluates the annotations first: that takes milliseconds, and goes by
    way of `sys.modules`, which may be another one (Temporal's sandbox).
    """
    fields = event.__struct_fields__
    defaults = event.__struct_defaults__
    required = (msgspec.NODEFAULT,) * (len(fields) - len(defaults))
    return dict(zip(fields, required + defaults, strict=True))


def json_schema() -> dict[str, Any]:
    """The JSON schema of one line, made from the classes of this module."""
    schema = msgspec.json.schema(AnyEvent)
    for definition in schema["$defs"].values():
        # Before 3.13 docstrings keep the indentation of the source.
        definition["description"] = inspect.cleandoc(definition["description"])
    return schema
