"""Assertions about cancellations, for whatever runs the tests."""

from __future__ import annotations

import re
from asyncio import CancelledError, isfuture
from collections.abc import Collection, Iterable, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast, get_args

import aioaudit
from aioaudit.chain import summary
from aioaudit.errors import AioauditError
from aioaudit.events import REASONS, Finding, TaskCreate, What
from aioaudit.findings.catalogue import CATALOGUE
from aioaudit.findings.words import particulars, sentence
from aioaudit.settings import bad_value, shown, suggestion
from aioaudit.text import escape_unprintable, path_and_line
from aioaudit.trail import Trail, innermost

if TYPE_CHECKING:
    from asyncio import Task

    from aioaudit.chain.links import Answer, Link

__unittest = True  # unittest leaves our frames out of a failure's traceback

Asked: TypeAlias = "Task[Any] | BaseException | str | int"
"""A task, an error that came out of one, or a task's name or number."""

_WHATS = get_args(What)
_OWN_REASON = re.compile(r"[a-z_][\w-]*\.\w+", re.IGNORECASE)
_MOST_NAMES = 20
_FURTHEST = 100


class NotRecordedError(AioauditError, RuntimeError):
    """There is nobody to ask: auditing is off, or keeps no events."""


def assert_cancelled(
    task: Asked,
    *,
    by: str | None = None,
    at: str | None = None,
    reason: str | None = None,
    via: Sequence[str] | None = None,
    trail: Trail | None = None,
) -> Answer:
    """Assert that a task ended cancelled, and why.

    Args:
        task: The task, its name or its number; or an error that came out of one: a CancelledError,
            or one that was raised in its place, like a TimeoutError.  Of several tasks of a name
            one has to be as asserted.
        by: What the root cause is: ``deadline`` (a timer ran out), ``failed`` (a task or a block
            raised), ``signal``, ``shutdown``, ``called`` (plain code called ``cancel()``), or
            ``cancelled``, where nobody knows more.
        at: The line of the root cause, ``service.py:158``, or its file, ``service.py`` or
            ``app/service.py``: the end of its path.
        reason: Why the task itself was asked: one of `aioaudit.events.REASONS`, or a recogniser's
            ``package.word``.
        via: Names of other tasks that the request came by, in order from the task to the root cause;
            others may be between them.  An empty list: by none.
        trail: The recording to ask; the one that runs, if it is not given.

    Returns:
        The whole answer.

    Raises:
        AssertionError: The task was not cancelled, or for another cause; it shows the chain.
        NotRecordedError: Auditing is off, or a name is given and nothing is recorded.
        SettingsError: *by* or *reason* is none that there is; a ValueError.
        TypeError: *task* is none of these, or another argument is of no type that it may have.
    """
    __tracebackhide__ = True
    _check("by", by, _WHATS)
    if not _is_own_reason(reason):
        _check("reason", reason, sorted(REASONS), " or a recogniser's package.word")
    _check_path(at)
    if via is not None:
        via = _listed("via", via, "names")
    answers = _answers(task, trail, "assert_cancelled")
    if not answers:
        raise AssertionError(f"{_named(task)} was not cancelled: {_unasked(task)}")
    tried: list[str] = []
    for answer in answers:
        wrong = [] if isinstance(task, BaseException) else _not_ended(answer)
        wrong = wrong or _differences(answer, by, at, reason, via)
        if not wrong:
            return answer
        tried.append("\n".join([*wrong, *_told(answer)]))
    head = "" if len(tried) == 1 else f"none of {len(tried)} tasks {_named(task)} is as asserted\n"
    raise AssertionError(head + "\n".join(tried))


def assert_not_cancelled(task: Asked, *, trail: Trail | None = None) -> None:
    """Assert that nobody cancelled a task, or that whoever did took it back (as a timeout does).

    Args:
        task: As for `assert_cancelled`; of several tasks of a name all are meant.
        trail: The recording to ask; the one that runs, if it is not given.

    Raises:
        AssertionError: It was, or was asked to and ended otherwise; it shows the chain.
        NotRecordedError: Auditing is off, or a name is given and nothing is recorded.
        TypeError: *task* is none of these.
    """
    __tracebackhide__ = True
    for answer in _answers(task, trail, "assert_not_cancelled"):
        taken_back = answer.cancel_outcome == "absorbed" or _lives_on(task)
        if not taken_back or isinstance(task, BaseException):
            raise AssertionError("\n".join(_told(answer)))


def assert_no_findings(*, ignore: Collection[str] = (), trail: Trail | None = None) -> None:
    """Assert that nothing went wrong with a cancellation, as ``aioaudit check`` does of a log.

    Args:
        ignore: Kinds of findings that may be.
        trail: The recording to ask; the one that runs, if it is not given.

    Raises:
        AssertionError: Something did; it names each finding and its lines.
        NotRecordedError: Nothing is recorded.
        SettingsError: there is no such kind; a ValueError.
        TypeError: *ignore* is no list.
    """
    __tracebackhide__ = True
    ignore = _listed("ignore", ignore, "kinds")
    for kind in ignore:
        _check("ignore", kind, sorted(CATALOGUE))
    asked = _recording(trail)
    if asked is None:
        raise NotRecordedError(_nobody("assert_no_findings"))
    found = [
        each
        for each in asked.events
        if isinstance(each, Finding) and each.severity == "finding" and each.kind not in ignore
    ]
    if found:
        lines = [f"{len(found)} finding{'s' if len(found) > 1 else ''}"]
        for each in found:
            lines.append(f"  {each.kind}: {sentence(each)}")
            lines += [f"    {line}" for line in particulars(each)]
        raise AssertionError("\n".join(lines))


# -- whom is asked -----------------------------------------------------------------------


def _recording(trail: object) -> Trail | None:
    if trail is None:
        return innermost()
    if not isinstance(trail, Trail):
        raise TypeError(f"trail is what recording() gives, not {shown(trail)}")
    return trail


def _answers(task: Any, trail: Trail | None, caller: str) -> list[Answer]:
    """All that is known of *task*, which may be several tasks of one name."""
    asked = _recording(trail)
    if isinstance(task, str) or (isinstance(task, int) and not isinstance(task, bool)):
        if asked is None:
            raise NotRecordedError(_nobody(caller, by_name=True))
        answers = asked.answers(task)
        if not answers:
            _check_name(task, asked)
        return answers
    errors: Iterable[Any]
    if isinstance(task, BaseException):
        errors = _leading_to(task)
    elif isfuture(task) and hasattr(task, "get_coro"):
        errors = cast("tuple[Any, ...]", (task,))
    else:
        raise TypeError(f"a task, an error or a task's name is wanted, not {shown(task)}")
    if asked is None and aioaudit._answers is None:
        raise NotRecordedError(_nobody(caller))
    for each in errors:
        answer = aioaudit.why(each) if asked is None else asked.why(each)
        if answer is not None:
            return [answer]
    return []


def _lives_on(task: Asked) -> bool:
    """Whether *task* has not ended, and each request to it was taken back, as it counts itself."""
    return isfuture(task) and not task.done() and task.cancelling() == 0


def _leading_to(error: BaseException) -> Iterable[BaseException]:
    """The CancelledErrors in whose place *error* was raised, the nearest first."""
    for _ in range(_FURTHEST):
        if isinstance(error, CancelledError):
            yield error
        further = error.__context__ if error.__cause__ is None else error.__cause__
        if further is None:
            return
        error = further


def _check_name(task: str | int, trail: Trail) -> None:
    """Make sure that there was such a task: a typing error is no answer."""
    made = [each for each in trail.events if isinstance(each, TaskCreate)]
    if any(task in (each.name, each.task) for each in made):
        return
    names = list(dict.fromkeys(each.name for each in made))
    likely = suggestion(task, names) if isinstance(task, str) else ""
    known = ", ".join(map(escape_unprintable, names[:_MOST_NAMES]))
    if len(names) > _MOST_NAMES:
        known += f" and {len(names) - _MOST_NAMES} more"
    told = f"there were {known}" if names else "there was none at all"
    raise AssertionError(f"no task {shown(task)} was recorded{likely}; {told}")


def _nobody(caller: str, *, by_name: bool = False) -> str:
    why = "auditing is off"
    if by_name and aioaudit._answers is not None:
        why = "auditing is on, but nothing is recorded to look a name up in"
    elif caller == "assert_no_findings" and aioaudit._answers is not None:
        why = "auditing is on, but nothing is recorded"
    return (
        f"{caller}() has nobody to ask: {why}; put what is tested into"
        " `with aioaudit.recording() as trail:`, and this into it as well or give it trail=trail"
        " (with aioaudit's pytest plugin: the fixture aioaudit_trail)"
    )


def _is_own_reason(reason: object) -> bool:
    """Whether *reason* may be one that a recogniser gives: nobody knows all of those."""
    return isinstance(reason, str) and _OWN_REASON.fullmatch(reason) is not None


def _check_path(at: object) -> None:
    if at is not None and not isinstance(at, str):
        raise TypeError(f"at is the end of a path, with its line or not, not {shown(at)}")


def _listed(what: str, given: Any, of: str) -> list[Any]:
    if isinstance(given, str) or not isinstance(given, Iterable):
        raise TypeError(f"{what} is a list of {of}, not {shown(given)}")
    return list(given)


def _check(what: str, value: Any, allowed: Collection[str], more: str = "") -> None:
    if value is not None and value not in allowed:
        likely = suggestion(value, allowed) if isinstance(value, str) else ""
        wrong = f"there is no such {_NOUNS[what]}{likely}"
        raise bad_value(what, value, wrong, ", ".join(allowed) + more)


_NOUNS = {"by": "kind of cause", "reason": "reason", "ignore": "kind of finding"}


# -- what is different -------------------------------------------------------------------


def _not_ended(answer: Answer) -> list[str]:
    if answer.outcome == "cancelled":
        return []
    ended = {"pending": "has not ended", "returned": "returned", "raised": "raised an error"}
    return [f"{_who(answer)} did not end cancelled: it {ended[answer.outcome]}"]


def _differences(
    answer: Answer,
    by: str | None,
    at: str | None,
    reason: str | None,
    via: Sequence[str] | None,
) -> list[str]:
    root = answer.root
    wrong: list[str] = []
    if by is not None and root.what != by:
        wrong.append(_line("by", by, root.what))
    if at is not None and not _ends_with(root.at, at):
        wrong.append(_line("at", at, root.at))
    asked = next((link.reason for link in answer.chain if link.reason is not None), None)
    if reason is not None and asked != reason:
        wrong.append(_line("reason", reason, asked))
    if via is not None:
        names = _between(answer.chain)
        rest = iter(names)
        if (names and not via) or not all(name in rest for name in via):
            wrong.append(_line("via", list(via), names))
    if not wrong:
        return []
    return [f"{_who(answer)} was cancelled, but not as asserted:", *wrong]


def _line(what: str, asserted: object, found: object) -> str:
    value = "not known" if found is None else f"{found!r}"
    return f"  {what}: {asserted!r} was asserted, it is {value}"


def _between(chain: Sequence[Link]) -> list[str]:
    """The names of the other tasks between the task and the root cause."""
    found: dict[int | str, str] = {}
    for link in chain[1:-1]:
        if link.name is not None and link.task != chain[0].task:
            found.setdefault(link.name if link.task is None else link.task, link.name)
    return list(found.values())


def _ends_with(place: str | None, given: str) -> bool:
    """Whether *place*, a ``path:line``, is the *given* one: the end of its path, with its line or not."""
    known = path_and_line(place)
    if known is None:
        return False
    path, line = known
    wanted = path_and_line(given)
    end, number = (given, line) if wanted is None else wanted
    path, end = path.replace("\\", "/"), end.replace("\\", "/")
    return number == line and f"/{path}".endswith(f"/{end.removeprefix('./')}")


def _told(answer: Answer) -> list[str]:
    """The answer: its sentence, and the chain from the root cause to the task."""
    lines = [answer.summary]
    steps = list(reversed(answer.chain))
    for depth, link in enumerate(steps):
        if depth == 0 and summary.is_known(link):
            text = f"root cause: {summary.cause(link)}"
        else:
            text = _step(link)
        lines.append("  " + ("   " * (depth - 1) + "└─ " if depth else "") + text)
    return lines


def _step(link: Link) -> str:
    facts = [f"{link.name or 'what was awaited'} was cancelled"]
    if link.reason is not None:
        facts.append(f"reason {link.reason}")
    if link.at is not None:
        facts.append(f"at {link.at}")
    if link.by_name is not None:
        facts.append(f"by {link.by_name}")
    if link.detail is not None:
        facts.append(link.detail)
    return escape_unprintable(", ".join(facts))


def _who(answer: Answer) -> str:
    return summary.who(answer.name, answer.coro)


def _unasked(task: Asked) -> str:
    """What is known where there is no answer."""
    if isinstance(task, BaseException):
        return "no request is known that it came of"
    return "nobody asked it to"


def _named(task: Asked) -> str:
    if isinstance(task, str | int):
        return shown(task)
    if isinstance(task, BaseException):
        return f"what raised {shown(task)}"
    return f"the task {escape_unprintable(task.get_name())!r}"
