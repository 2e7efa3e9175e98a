"""What a finding says to people: one sentence, and the lines that they need."""

from __future__ import annotations

from collections.abc import Callable

from aioaudit.chain.summary import Show, library, who
from aioaudit.events import Finding
from aioaudit.findings import catalogue
from aioaudit.text import escape_unprintable

_AGAIN = {"returned": "returned", "raised": "raised", "cancelled": "was cancelled"}


def _as_it_is(place: str) -> str:
    return place


def sentence(finding: Finding, show: Show = _as_it_is) -> str:
    """What was found, without a full stop; *show* turns a ``path:line`` into what is shown."""
    say = _SENTENCES.get(finding.kind)
    if say is None:  # of a later version: a reader accepts it
        return escape_unprintable(f"{_who(finding)}: {finding.kind}" + _detail(finding))
    return escape_unprintable(say(finding, show))


def particulars(finding: Finding, show: Show = _as_it_is) -> list[str]:
    """Lines that say who asked, where the task was then, and where time went."""
    lines: list[str] = []
    if finding.reason is not None:
        lines.append(_asked(finding, show))
    if finding.suspended_at is not None:
        lines.append(f"it was suspended at {show(finding.suspended_at)} then")
    if finding.other_reason is not None:
        lines.append(_asked_as_well(finding, show))
    if finding.waits_at is not None and finding.kind != catalogue.SLOW:
        lines.append(f"it waits at {show(finding.waits_at)} now")
    if finding.made_at is not None:
        lines.append(f"it was made at {show(finding.made_at)}")
    if finding.kind == catalogue.SLOW:
        lines.append(_where(finding, show))
    if finding.detail is not None and finding.kind != catalogue.SLOW:
        lines.append(finding.detail)
    return [escape_unprintable(line) for line in lines]


def _asked(finding: Finding, show: Show) -> str:
    reason = finding.reason
    place = "" if finding.at is None else f" at {show(finding.at)}"
    if reason == "timeout":
        return f"asked to cancel by the timeout{place}, which ran out"
    if reason == "shutdown":
        return f"asked to cancel by the end of asyncio.run{place}"
    source = "" if finding.source is None else f" by {finding.source}"
    if finding.library is not None:
        by = library(finding.library, finding.library_at)
        source = f" by {by}, called from {finding.source or 'plain code'}"
    text = f"asked to cancel{source}{place}"
    if finding.kind == catalogue.WRONG_THREAD:
        text += f" in thread {finding.thread}"
    elif finding.by_name is not None:
        text += f" in {'thread' if reason == 'thread' else 'task'} {finding.by_name}"
    return text if reason in ("explicit", "thread") else f"{text}, reason {reason}"


def _asked_as_well(finding: Finding, show: Show) -> str:
    place = "" if finding.other_at is None else f" at {show(finding.other_at)}"
    source = "" if finding.other_source is None else f" by {finding.other_source}"
    name = "" if finding.other_name is None else f" in task {finding.other_name}"
    reason = "" if finding.other_reason == "explicit" else f", reason {finding.other_reason}"
    return f"then{source}{place}{name}{reason}"


def _where(finding: Finding, show: Show) -> str:
    parts: list[str] = []
    if finding.delivered_after is not None:
        parts.append(f"delivered after {_span(finding.delivered_after)}")
    if finding.waits_at is not None:
        parts.append(f"{_span(finding.waited or 0)} in the cleanup at {show(finding.waits_at)}")
    if finding.detail is not None:
        parts.append(finding.detail)
    return "; ".join(parts) or "where the time went was not seen (Python 3.11)"


def _span(seconds: float) -> str:
    return f"{seconds * 1000:.1f} ms" if seconds < 1 else f"{seconds:.3f} s"


def _who(finding: Finding) -> str:
    return who(finding.name, finding.coro)


def _detail(finding: Finding) -> str:
    return "" if finding.detail is None else f" ({finding.detail})"


def _kept(finding: Finding, show: Show) -> str:
    return "" if finding.swallowed_at is None else f" at {show(finding.swallowed_at)}"


def _then(finding: Finding) -> str:
    """How it ended, or that it did not."""
    if finding.outcome is None:
        return "went on"
    text = _AGAIN.get(finding.outcome, finding.outcome)
    return text if finding.error is None else f"{text} {finding.error}"


def _swallowed(finding: Finding, show: Show) -> str:
    if finding.reason == "timeout":
        return (
            f"{_who(finding)} swallowed the timeout's cancellation{_kept(finding, show)}"
            f" and {_then(finding)}"
        )
    return f"{_who(finding)} swallowed a cancellation{_kept(finding, show)} and {_then(finding)}"


def _lost(finding: Finding, show: Show) -> str:
    text = f"{_who(finding)} was asked to cancel, felt nothing of it and {_then(finding)}"
    if finding.other_name is not None:
        text += f": {finding.other_name}, which it awaited, kept it{_kept(finding, show)}"
    return text


def _coalesced(finding: Finding, _show: Show) -> str:
    return f"{_who(finding)} was asked to cancel twice before it felt the first request"


def _slow(finding: Finding, show: Show) -> str:
    what = "to obey" if finding.outcome is not None else "to leave the block that was cancelled"
    text = f"{_who(finding)} took {_span(finding.seconds or 0)} {what}"
    if finding.waits_at is not None:
        text += f", most of it in the cleanup at {show(finding.waits_at)}"
    return text


def _already_done(finding: Finding, _show: Show) -> str:
    end = {"returned": "had returned", "raised": "had failed", "cancelled": "had been cancelled"}
    text = (
        f"{_who(finding)} {end.get(finding.outcome or '', 'had ended')} when it was asked to cancel"
    )
    return text if finding.error is None else f"{text} (with {finding.error})"


def _self_cancel(finding: Finding, _show: Show) -> str:
    return f"{_who(finding)} cancelled itself"


def _wrong_thread(finding: Finding, _show: Show) -> str:
    return (
        f"{_who(finding)} was cancelled from thread {finding.thread}, "
        "without loop.call_soon_threadsafe()"
    )


def _never_started(finding: Finding, _show: Show) -> str:
    return f"{_who(finding)} was cancelled before its first step: its body never ran"


def _uncancel_unbalanced(finding: Finding, _show: Show) -> str:
    text = f"{_who(finding)} absorbed a cancellation with uncancel() and {_then(finding)}, "
    if finding.remaining is None:
        return text + "but cancelling() is above zero still"
    return text + f"but cancelling() still says {finding.remaining}"


def _pending(finding: Finding, _show: Show) -> str:
    return f"{_who(finding)} was still pending when its loop was closed"


def _destroyed(finding: Finding, _show: Show) -> str:
    return f"{_who(finding)} was garbage-collected while it was pending"


def _awaited_at_exit(finding: Finding, show: Show) -> str:
    place = "" if finding.other_at is None else f" at {show(finding.other_at)}"
    return (
        f"{_who(finding)} was cancelled by the end of asyncio.run "
        f"while {finding.other_name or 'another task'} awaited it{place}"
    )


def _spinning(finding: Finding, _show: Show) -> str:
    times = "again and again" if finding.times is None else f"{finding.times:,} times"
    return f"a scope cancelled {_who(finding)} {times}, and it has not ended"


def _blocked(finding: Finding, show: Show) -> str:
    place = "" if finding.at is None else f" at {show(finding.at)}"
    function = "" if finding.source is None else f" in {finding.source}"
    blocker = "a callback" if finding.coro == "?" else _who(finding)
    return f"{blocker} blocked the loop for {_span(finding.seconds or 0)}{function}{place}"


_SENTENCES: dict[str, Callable[[Finding, Show], str]] = {
    catalogue.SWALLOWED: _swallowed,
    catalogue.LOST: _lost,
    catalogue.COALESCED: _coalesced,
    catalogue.SLOW: _slow,
    catalogue.ALREADY_DONE: _already_done,
    catalogue.SELF_CANCEL: _self_cancel,
    catalogue.WRONG_THREAD: _wrong_thread,
    catalogue.NEVER_STARTED: _never_started,
    catalogue.UNCANCEL_UNBALANCED: _uncancel_unbalanced,
    catalogue.PENDING: _pending,
    catalogue.DESTROYED: _destroyed,
    catalogue.AWAITED_AT_EXIT: _awaited_at_exit,
    catalogue.SPINNING: _spinning,
    catalogue.BLOCKED: _blocked,
}
