"""A chain in one plain sentence.

What was observed is stated, what was inferred is called probable, and what is
not known is called unknown.  Everything that comes from the audited program is
made harmless, so a summary never holds a control character.

Every function takes *show*, which turns a ``path:line``, and words with some in them, into what
the reader shall see; text for people shortens paths with it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TypeAlias

from aioaudit.chain.links import LEFT_OUT, Link
from aioaudit.text import clean, escape_unprintable, in_package

Show: TypeAlias = Callable[[str], str]

CANCELLED = "cancelled because "
CANCELLED_PROBABLY = "cancelled, probably because "
"""How each `note` begins: one of the two."""

MOST_NAMES = 3
"""At most this many tasks between the victim and the root are named; more are counted."""


RUN_OTHERS = frozenset(
    {
        "anyio._core._tasks:TaskHandle._run_coro",
        "anyio._backends._asyncio:TaskGroup._run_wrapped_task",
    }
)
"""Functions that only run what they are given: anyio names the task after that."""


def _as_it_is(place: str) -> str:
    return place


def is_known(root: Link) -> bool:
    """Whether *root* names a cause, rather than the place where knowledge ends."""
    return root.what != "cancelled" and root.reason != "unknown"


def who(name: str, coro: str) -> str:
    """``fetch (Task-7)``: the coroutine's own name, and the task's if it has another."""
    function = coro.rpartition(":")[2].rpartition("<locals>.")[2]
    if not function or function == name or (name and coro in RUN_OTHERS):
        return escape_unprintable(name)
    if not name:
        return escape_unprintable(function)
    return f"{escape_unprintable(function)} ({escape_unprintable(name)})"


def cause(root: Link, show: Show = _as_it_is) -> str:
    """What *root* says, as a clause that can follow "because"."""
    return escape_unprintable(_clause(root, show) + _detail(root, show)) + process(root)


def summarise(
    *,
    name: str,
    coro: str,
    outcome: str,
    cancel_outcome: str | None,
    chain: Sequence[Link],
    inferred: bool = False,
    swallowed_at: str | None = None,
    show: Show = _as_it_is,
) -> str:
    """One sentence that says what became of a task and why, without a full stop.

    *chain* runs from the task to the root, as in an `Answer`; *inferred* is
    true if any of it was concluded rather than seen; *swallowed_at* is the
    ``path:line`` that kept the CancelledError, if known.
    """
    own, *others = by_process(chain)
    root = own[-1]
    died = outcome == "cancelled"
    text = who(name, coro) + (" was cancelled" if died else " was asked to cancel")
    if others:
        text += f", probably because {_in_other_processes(own, others, show)}"
    elif not is_known(root):
        text += f", nobody knows why: {unknown(root, show)}"
    elif inferred:
        text += f", probably because {cause(root, show)}"
    else:
        text += f" because {cause(root, show)}"
    if not others:
        text += _by_way_of(own)
    return text + _end(outcome, cancel_outcome, swallowed_at, show)


def by_process(chain: Sequence[Link]) -> list[list[Link]]:
    """*chain* in parts, each of one process, that of the task first."""
    parts: list[list[Link]] = []
    for link in chain:
        if not parts or link.coro is not None:  # as the first one of each other process has it
            parts.append([])
        parts[-1].append(link)
    return parts


def process(link: Link) -> str:
    """`` in shop-web (pid 4711)``: where *link* is from, if that is another process than the task's."""
    if link.run is None:
        return ""
    name = f"process {link.pid}" if link.service is None else f"{link.service} (pid {link.pid})"
    return escape_unprintable(f" in {clean(name)}")


def _in_other_processes(own: Sequence[Link], parts: Sequence[Sequence[Link]], show: Show) -> str:
    """What led to it in the processes whose links are *parts*, each the peer of the one before."""
    text = ""
    for before, links in pairwise([own, *parts]):
        first = links[0]
        # A server says that it lost a client; else it is only known that it was the other end.
        peer = "client" if before[-1].reason == "disconnect" else "peer"
        text += f"its {peer} left: {who(first.name or '', first.coro or '')}{process(first)}"
        text += " was cancelled, "
        if links is not parts[-1]:
            text += "since "
    root = parts[-1][-1]
    if not is_known(root):
        return f"{text}nobody knows why: {unknown(root, show)}"
    clause = escape_unprintable(_clause(root, show) + _detail(root, show))
    return f"{text}since {clause}"


def note(
    chain: Sequence[Link],
    *,
    inferred: bool = False,
    suspended_at: str | None = None,
    show: Show = _as_it_is,
) -> str | None:
    """What an error says of the request that it is for: why a task was cancelled, and where it was.

    The arguments are as for `summarise`; *suspended_at* is the ``path:line`` where the task
    waited.  None where nobody knows why: an error is no place for a guess.
    """
    root = chain[-1]
    if not is_known(root):
        return None
    # How late a timer was says more of the loop than of who cancelled.
    because = _clause(root, show) + ("" if root.what == "deadline" else _detail(root, show))
    text = f"{CANCELLED_PROBABLY if inferred else CANCELLED}{because}{_by_way_of(chain)}"
    if suspended_at is not None:
        text += f"; it was waiting at {show(suspended_at)}"
    return escape_unprintable(text)


def _clause(root: Link, show: Show) -> str:
    place = "" if root.at is None else f" at {show(root.at)}"
    if root.what == "deadline":
        length = "a timeout" if root.seconds is None else f"the timeout of {root.seconds:g} s"
        return f"{length}{place} ran out"
    if root.what == "failed":
        failed = "a block" if root.name is None else root.name
        return f"{failed} failed" + ("" if root.error is None else f" with {root.error}") + place
    if root.what == "signal":
        through = "" if root.library is None else f", by {library(root.library, root.library_at)}"
        handler = "" if root.at is None else f" (handler{place}{through})"
        return f"the process received {root.signal or 'a signal'}{handler}"
    if root.what == "shutdown":
        what = "asyncio.run" if root.detail is None else "the loop"  # which says what ended
        return f"{what}{place} ended and cancelled what was left"
    if root.what == "called":
        return _call(root, place) + _message(root)
    return f"a request{place} with reason {root.reason or 'unknown'} was made"


def _call(root: Link, place: str) -> str:
    if root.reason == "native":
        return f"native code called cancel(){place}, below any Python frame"
    caller = root.source or "plain code"
    if root.reason == "disconnect":
        return f"a peer went away, which made {caller} call cancel(){place}"
    if root.library is None:
        text = f"{caller} called cancel(){place}"
    else:
        text = f"{library(root.library, root.library_at)} cancelled it, called from {caller}{place}"
    if root.by_name is not None:
        text += f" in {'thread' if root.reason == 'thread' else 'task'} {root.by_name}"
    if root.reason not in (None, "explicit", "thread"):
        text += f" (reason {root.reason})"
    return text


def _message(root: Link) -> str:
    return "" if root.message is None else f" (message: {clean(root.message)})"


def library(function: str, at: str | None) -> str:
    """``saq.worker:Worker.process (saq/worker.py:374)``: who called on the application's behalf."""
    return function if at is None else f"{function} ({in_package(at)})"


def unknown(root: Link, show: Show = _as_it_is) -> str:
    """What little *root* says where it names no cause (see `is_known`)."""
    facts = [root.detail or "the log does not say who asked"]
    if root.reason not in (None, "unknown"):
        facts.append(f"the last that is known is a request with reason {root.reason}")
    if root.at is not None:
        facts.append(f"it was made at {show(root.at)}")
    return escape_unprintable("; ".join(facts))


def _detail(root: Link, show: Show) -> str:
    return "" if root.detail is None else f" ({show(root.detail)})"


def _by_way_of(chain: Sequence[Link]) -> str:
    hops: dict[int | str, str] = {}
    for link in chain[1:-1]:
        if link.name is not None and link.task != chain[0].task:
            hops.setdefault(link.name if link.task is None else link.task, link.name)
    if chain[-1].task is not None:
        hops.pop(chain[-1].task, None)
    if not hops:
        return ""
    if any((link.detail or "").endswith(LEFT_OUT) for link in chain[1:-1]):
        return f", by way of more than {len(hops)} other tasks"
    if len(hops) > MOST_NAMES:
        return f", by way of {len(hops)} other tasks"
    return ", by way of " + ", ".join(escape_unprintable(name) for name in hops.values())


def _end(outcome: str, cancel_outcome: str | None, swallowed_at: str | None, show: Show) -> str:
    if cancel_outcome == "swallowed":
        place = "" if swallowed_at is None else f" at {escape_unprintable(show(swallowed_at))}"
        return f"; it swallowed the cancellation{place}"
    if cancel_outcome == "absorbed":
        return "; it absorbed the cancellation with uncancel()"
    if cancel_outcome == "replaced":
        return "; it raised another error instead"
    return "" if outcome != "pending" else "; its end is not recorded"
