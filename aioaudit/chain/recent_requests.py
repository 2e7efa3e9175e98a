"""The chains of a program that is still running, for exporters, in bounded memory.

An exporter sees one event after the other and is to say, at the end of a task,
why it ended.  For that it needs the requests that came before.  All of them
cannot be kept in a process that runs for months; the last ones can, and a
chain that leads to an older one ends there and says so.
"""

from __future__ import annotations

from aioaudit.chain.links import Answer, Link
from aioaudit.chain.summary import library, summarise
from aioaudit.chain.walk import (
    Chains,
    LogReading,
    RequestEvent,
    Step,
    answer_of,
    from_task,
    inferred,
    steps_of,
)
from aioaudit.events import Event, FutureCancel, ProcessStart, TaskCancel, TaskDone
from aioaudit.text import clean, escape_unprintable

MOST_REQUESTS = 10_000
"""At most this many requests are kept."""


MOST_STEPS = 32
"""At most this many steps of a chain are told: of a longer one the first, and its root."""


class RecentRequests:
    """The last requests of one run; the first event of another run makes it forget them.

    Args:
        most: How many requests are kept.
    """

    def __init__(self, most: int = MOST_REQUESTS) -> None:
        self._most = most
        self._requests: dict[int, RequestEvent] = {}
        self._chains = Chains[RequestEvent](LogReading(self.resolve))

    def add(self, event: Event) -> None:
        """Take note of *event*: to be called with every one, in order."""
        if isinstance(event, TaskCancel | FutureCancel):
            if len(self._requests) >= self._most:
                # A tenth at once: to take the first key of a dict again and again gets slow.
                for seq in list(self._requests)[: self._most // 10 + 1]:
                    del self._requests[seq]
                self._chains.clear()
            self._requests[event.seq] = event
        elif isinstance(event, ProcessStart):
            self._requests.clear()
            self._chains.clear()

    def get(self, seq: int) -> RequestEvent | None:
        """The request with this number, None if it is not among the kept ones."""
        return self._requests.get(seq)

    def resolve(self, request: RequestEvent) -> RequestEvent | None:
        """The request that *request* names as its cause."""
        return None if request.cause is None else self._requests.get(request.cause)

    def steps_of_request(self, request: RequestEvent) -> list[Step]:
        """The steps from *request* to its root cause, of a long chain `MOST_STEPS`."""
        return self._chains.of(request).steps(MOST_STEPS)

    def steps_of_end(self, done: TaskDone) -> list[Step]:
        """The steps from the task that ended to the root cause; none if nobody cancelled it."""
        if done.cancel is None and done.cancel_outcome is None:
            return []
        request = None if done.cancel is None else self._requests.get(done.cancel)
        if request is None:
            return steps_of(done.task, done.name, None, self.resolve, done.cancel)
        concluded = done.evidence == "inferred"
        steps = self.steps_of_request(request)
        return from_task(done.task, done.name, request, steps, concluded=concluded)


def answer(done: TaskDone, steps: list[Step]) -> Answer:
    """What ``aioaudit why`` says of the task that ended, whose *steps* are at least one."""
    return answer_of(
        task=done.task,
        name=done.name,
        coro=done.coro,
        outcome="pending" if done.outcome == "destroyed" else done.outcome,
        steps=steps,
        cancel_outcome=done.cancel_outcome,
        swallowed_at=done.swallowed_at,
    )


def request_sentence(request: TaskCancel, steps: list[Step]) -> str:
    """One sentence: who was asked to cancel, and why."""
    sentence = summarise(
        name=request.name,
        coro=request.coro,
        outcome="",  # what became of it is not known yet
        cancel_outcome=None,
        chain=[step.link for step in steps],
        inferred=inferred(steps),
    )
    return sentence if request.accepted else f"{sentence}; it had ended already"


def brief(link: Link) -> str:
    """*link* on one short line: what happened, to whom, why, where, by whom."""
    parts: list[str] = [link.what]
    if link.name is not None:
        parts.append(link.name if link.task is None else f"{link.name} (task {link.task})")
    elif link.task is not None:
        parts.append(f"task {link.task}")
    if link.error is not None:
        parts.append(f"with {link.error}")
    if link.signal is not None:
        parts.append(link.signal)
    if link.seconds is not None:
        parts.append(f"of {link.seconds:g} s")
    if link.reason is not None:
        parts.append(f"reason {link.reason}")
    if link.at is not None:
        parts.append(f"at {link.at}")
    if link.source is not None:
        parts.append(f"in {link.source}")
    if link.library is not None:
        parts.append(f"through {library(link.library, link.library_at)}")
    if link.by_name is not None:
        parts.append(f"by {link.by_name}")
    if link.message is not None:
        parts.append(f"message {clean(link.message)!r}")
    if link.detail is not None:
        parts.append(f"({link.detail})")
    return escape_unprintable(" ".join(parts))
