"""What ``aioaudit report`` draws of a log, apart from how: no HTML, and nothing of a browser.

Everything that is told comes from where `aioaudit why` and `aioaudit check` have it: root causes and
their counts (`why_words`), chains (`Case.steps`), findings (`findings.groups`).  What this adds is
folding: of an incident with 100,000 tasks a few groups are drawn, each of one coroutine that was
asked at one line and waited at one line.  Of a group only what all of it has in common is said.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable, Sequence
from datetime import UTC, datetime
from typing import Literal, TypeAlias

import msgspec

from aioaudit.chain import summary
from aioaudit.chain.links import Link
from aioaudit.chain.walk import Chain, RequestEvent, Step
from aioaudit.cli.check_words import when
from aioaudit.cli.terminal import RelativePath, gaps, moment, plural, problems
from aioaudit.cli.why_words import (
    OTHERWISE,
    asked_more,
    by_cause,
    cause_in_words,
    ending,
    found_of,
    headline,
    housekeeping_line,
    kind_of,
    sentence_of,
    told,
)
from aioaudit.events import TaskCancel
from aioaudit.findings.catalogue import CATALOGUE
from aioaudit.findings.groups import Group, grouped
from aioaudit.findings.words import particulars, sentence
from aioaudit.log import Case, Log
from aioaudit.log.incidents import housekeeping, incident_of
from aioaudit.log.runs import LoggedRun
from aioaudit.text import escape_unprintable

MOST_CAUSES = 1_000
"""At most this many root causes are drawn, worst first, as `aioaudit why` shows; more are counted."""

MOST_TASKS = 300_000
"""At most this many tasks are named in a report, all incidents together; more are counted."""

MOST_TOLD = 20_000
"""Of so many tasks all is said that `aioaudit why --task` says; of the others what fits a row."""

MOST_DEPTH = 10
"""Steps below a root cause that are drawn one below the other; those further down are folded."""

MOST_STEPS = 100
"""The sentence of a task with a longer chain says of those on the way only that there are more."""

MOST_GROUPS = 60
"""Groups of an incident; what is of yet another kind is folded into one, at each step."""

MOST_ACTORS = 20
"""Tasks that did something to an incident without being hit by it, in its time line."""

MOST_FINDINGS = 200
"""Groups of findings; more are counted."""

PIECE = 2_000
"""Tasks in one piece of the data, which is read when one of them is looked at."""

Sure: TypeAlias = Literal["observed", "inferred", "unknown"]

Micros: TypeAlias = int | None
"""Microseconds since the report's ``began``; None where the log does not say."""


class Task(msgspec.Struct, array_like=True):
    """A task that was hit.  ``said`` is its sentence without ``who``, ``more`` what follows it."""

    id: int
    who: str
    group: int
    asked: Micros
    born: Micros
    ended: Micros
    became: int
    said: int
    more: list[int]


class Node(msgspec.Struct, array_like=True):
    """A box: a root cause (``parent`` is -1), or what was cancelled alike because of the one above.

    ``tasks`` counts those that are among the answers, ``requests`` all of its requests to cancel;
    ``lines`` and ``title`` are what is said of all of them.
    """

    parent: int
    kind: Literal["root", "task", "future", "step", "fold"]
    title: int
    lines: list[int]
    waited: int
    reason: int
    sure: Sure
    requests: int
    tasks: int


class Actor(msgspec.Struct, array_like=True):
    """A task that ``did`` something to an incident, and when."""

    id: int
    who: str
    did: str
    acted: Micros
    born: Micros
    ended: Micros


class Found(msgspec.Struct, array_like=True):
    """Findings of one kind at the same lines."""

    kind: str
    severity: str
    said: str
    lines: list[str]
    when: str
    remedy: str
    count: int


class Incident(msgspec.Struct, array_like=True):
    """One cause, and the tasks that it hit; ``hit`` counts them, of which ``tasks`` are named."""

    run: int
    at: Micros
    hit: int
    nodes: list[Node]
    tasks: list[Task]
    actors: list[Actor]
    findings: list[Found]


class Piece(msgspec.Struct):
    """Some incidents, and the texts that their numbers stand for."""

    texts: list[str]
    incidents: list[Incident]


class Cause(msgspec.Struct):
    """A root cause; its incidents are those from ``start`` to ``stop``."""

    text: str
    sure: Sure
    tasks: int
    inferred: int
    runs: int
    first: Micros
    last: Micros
    start: int = 0
    stop: int = 0


class Overview(msgspec.Struct):
    """What the page has at once: the causes, and of each incident when it was and whom it hit."""

    began: float
    causes: list[Cause]
    runs: list[str]
    at: list[Micros]
    hit: list[int]
    pieces: list[int]
    """The number of the first incident of each piece."""
    names: dict[str, list[str]]
    """What the places in a row of the data mean."""


class Report(msgspec.Struct):
    """All that is drawn.  ``missing`` says what the log lacks, ``left_out`` what the report does."""

    headline: str
    logs: str
    span: tuple[str, str]
    missing: list[str]
    left_out: list[str]
    overview: Overview
    pieces: list[Piece]
    findings: list[Found]
    notes: list[Found]
    housekeeping: str
    kept: list[Cause]

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to draw."""
        return not (self.overview.causes or self.findings or self.notes or self.kept)


def draw(log: Log, logs: str) -> Report:
    """What is drawn of *log*, which is called *logs*."""
    return _Drawing(log).report(logs)


class _Drawing:
    """Makes the report of one log."""

    def __init__(self, log: Log) -> None:
        self._log = log
        self._show = RelativePath()
        self._named = 0
        self._told = 0
        cases = log.cases()
        self._incidents = [case for case in cases if housekeeping(case) is None]
        self._rest = [case for case in cases if housekeeping(case) is not None]
        self._runs = {run: number for number, run in enumerate(log.runs)}
        known = [when for case in cases if (when := _moment(case.ts)) is not None]
        self._began = min(known, default=datetime(1970, 1, 1, tzinfo=UTC))

    def report(self, logs: str) -> Report:
        """All of it."""
        rows = by_cause(self._incidents)
        causes = self._causes(self._incidents)
        drawn = causes[:MOST_CAUSES]
        overview = Overview(
            began=self._began.timestamp() * 1000,
            causes=[cause for cause, _ in drawn],
            runs=[self._run(run) for run in self._log.runs.values()],
            at=[],
            hit=[],
            pieces=[],
            names={
                kind.__name__.lower(): list(kind.__struct_fields__)
                for kind in (Task, Node, Actor, Found, Incident)
            },
        )
        pieces = list(self._pieces(overview, drawn))
        found = grouped(each for run in self._log.runs.values() for each in run.findings)
        wrong = [group for group in found if group.first.severity == "finding"]
        notes = [group for group in found if group.first.severity != "finding"]
        first, last = (
            (min(each.ts for each in self._incidents), max(each.ts for each in self._incidents))
            if self._incidents
            else ("", "")
        )
        left_out = list(self._left_out(len(causes), len(wrong), len(notes)))
        return Report(
            headline=headline(self._incidents, rows),
            logs=escape_unprintable(logs),
            span=(first, last),
            missing=list(map(escape_unprintable, self._missing())),
            left_out=left_out,
            overview=overview,
            pieces=pieces,
            findings=self._found(wrong[:MOST_FINDINGS]),
            notes=self._found(notes[:MOST_FINDINGS]),
            housekeeping=housekeeping_line(self._rest) if self._rest else "",
            kept=[cause for cause, _ in self._causes(self._rest)[:MOST_CAUSES]],
        )

    def _missing(self) -> Generator[str]:
        """What the log lacks."""
        yield from problems(self._log)
        yield from gaps(self._log, "what was asked for")
        for run in self._log.runs.values():
            if run.blind:
                yield f"run {run.id} is not checked: AIOAUDIT_EVENTS left out its findings"

    def _left_out(self, causes: int, wrong: int, notes: int) -> Generator[str]:
        """What is in the log and not in the report."""
        if causes > MOST_CAUSES:
            more = causes - MOST_CAUSES
            yield f"{more:,} more root {plural('cause', more)} (aioaudit why --json has them all)"
        unnamed = len(self._incidents) - self._named
        if causes <= MOST_CAUSES and unnamed > 0:
            yield f"the names of {unnamed:,} of {len(self._incidents):,} tasks, which are counted"
        for count, what in ((wrong, "finding"), (notes, "note")):
            if count > MOST_FINDINGS:
                more = count - MOST_FINDINGS
                yield f"{more:,} more {plural(what, more)} (aioaudit check --json has them all)"

    def _run(self, run: LoggedRun) -> str:
        """A run in words, with what it came from."""
        text = f"run {run.id}, pid {run.pid}"
        parent = self._log.parent(run)
        if parent is not None:
            how = "forked from" if parent.evidence == "observed" else "probably started by"
            text += f", {how} run {parent.run.id}, pid {parent.run.pid}"
        return escape_unprintable(text)

    # Root causes

    def _causes(self, cases: Sequence[Case]) -> list[tuple[Cause, list[Case]]]:
        """The root causes of *cases*, worst first, each with its tasks; as `aioaudit why` has them."""
        of: dict[tuple[str | None, ...], list[Case]] = {}
        for case in cases:
            of.setdefault(kind_of(case.root()), []).append(case)
        causes: list[tuple[Cause, list[Case]]] = []
        for row in by_cause(list(cases)):
            hit = of[kind_of(row.first.root())]
            concluded = sum(_is_inferred(case) for case in hit)
            sure: Sure = "unknown" if not summary.is_known(row.root) else "observed"
            if concluded and sure == "observed":
                sure = "inferred"
            cause = Cause(
                text=cause_in_words(row.root, self._show),
                sure=sure,
                tasks=row.tasks,
                inferred=concluded,
                runs=len(row.runs),
                first=self._micros(row.first.ts),
                last=self._micros(row.last.ts),
            )
            causes.append((cause, hit))
        return causes

    def _pieces(
        self, overview: Overview, causes: Iterable[tuple[Cause, list[Case]]]
    ) -> Generator[Piece]:
        """The incidents of *causes*, in pieces; *overview* is told of each."""
        texts = _Texts()
        piece = Piece(texts.all, [])
        size = 0
        for cause, cases in causes:
            incidents: dict[tuple[object, ...], list[Case]] = {}
            for case in cases:
                incidents.setdefault((case.run.id, *incident_of(case)), []).append(case)
            cause.start = len(overview.at)
            for hit in sorted(incidents.values(), key=lambda each: -len(each)):
                if size >= PIECE:
                    yield piece
                    texts = _Texts()
                    piece = Piece(texts.all, [])
                    size = 0
                if not piece.incidents:
                    overview.pieces.append(len(overview.at))
                incident = self._incident(hit, texts)
                overview.at.append(incident.at)
                overview.hit.append(incident.hit)
                piece.incidents.append(incident)
                size += len(hit)
            cause.stop = len(overview.at)
        if piece.incidents:
            yield piece

    # One incident

    def _incident(self, cases: list[Case], texts: _Texts) -> Incident:
        run = cases[0].run
        folding = _Folding(run, cases, self._show)
        groups = [folding.group_of(case) for case in cases]
        named = [
            self._task(case, group, texts)
            for case, group in zip(cases[: max(MOST_TASKS - self._named, 0)], groups, strict=False)
        ]
        self._named += len(named)
        found = grouped(
            each
            for case in cases
            for each in run.found.get(case.task, ())
            if each.severity == "finding"
        )
        first = cases[0]
        last = None if first.request is None else run.chains.of(first.request).last_request
        return Incident(
            run=self._runs[run.id],
            at=self._micros(first.ts if last is None else last.ts),
            hit=len(cases),
            nodes=folding.nodes(texts),
            tasks=named,
            actors=list(self._actors(run, cases))[:MOST_ACTORS],
            findings=self._found(found[:MOST_FINDINGS]),
        )

    def _task(self, case: Case, group: int, texts: _Texts) -> Task:
        who = summary.who(case.name, case.coro)
        kept = case.kept
        request = case.request
        long = request is not None and case.run.chains.of(request).length > MOST_STEPS
        steps = case.steps(MOST_DEPTH if long else None)
        said = sentence_of(case, steps, self._show)
        more: list[str] = []
        if self._told < MOST_TOLD:
            self._told += 1
            more = [
                *ending(case, self._show),
                *asked_more(case, self._show),
                *found_of(case, self._show),
            ]
        became = "swallowed" if kept else case.cancel_outcome or ""
        return Task(
            id=case.task,
            who=who,
            group=group,
            asked=self._micros(case.ts),
            born=self._born(case.run, case.task),
            ended=self._ended(case.run, case.task),
            became=texts.number(OTHERWISE.get(became, case.outcome)),
            said=texts.number(escape_unprintable(said.removeprefix(who))),
            more=[texts.number(escape_unprintable(line)) for line in more],
        )

    def _actors(self, run: LoggedRun, cases: Sequence[Case]) -> Generator[Actor]:
        """Who is not among *cases*, and failed or asked."""
        seen = {case.task for case in cases}
        for case in cases:
            did: list[tuple[int | None, str, str]] = []
            if case.request is not None:
                chain = run.chains.of(case.request)
                last = chain.last_request
                when = case.ts if last is None else last.ts
                root = chain.root.link
                if root.what == "failed":
                    did.append((root.task, "failed", when))
                did += [
                    (each.by, "asked", each.ts) for each in (case.request, last) if each is not None
                ]
            for task, what, when in did:
                if task is None or task in seen:
                    continue
                seen.add(task)
                end = run.ends.get(task)
                name = run.name_of(task) or f"task {task}"
                yield Actor(
                    id=task,
                    who=summary.who(name, "" if end is None else end.coro),
                    did=what,
                    acted=self._micros(when),
                    born=self._born(run, task),
                    ended=self._ended(run, task),
                )
            if len(seen) > len(cases) + MOST_ACTORS:
                return

    def _found(self, groups: Iterable[Group]) -> list[Found]:
        """*groups* as `aioaudit check` tells them."""
        several = len(self._log.runs) > 1
        told: list[Found] = []
        for group in groups:
            first = group.first
            kind = CATALOGUE.get(first.kind)
            told.append(
                Found(
                    kind=escape_unprintable(first.kind),
                    severity=escape_unprintable(first.severity),
                    said=sentence(first, self._show),
                    lines=particulars(first, self._show),
                    when=escape_unprintable(when(group, date=True, several=several)),
                    remedy="" if kind is None else kind.remedy,
                    count=group.count,
                )
            )
        return told

    # Time

    def _micros(self, ts: str) -> Micros:
        at = _moment(ts)
        return None if at is None else round((at - self._began).total_seconds() * 1e6)

    def _ended(self, run: LoggedRun, task: int) -> Micros:
        end = run.ends.get(task)
        return None if end is None else self._micros(end.ts)

    def _born(self, run: LoggedRun, task: int) -> Micros:
        end = run.ends.get(task)
        ended = self._ended(run, task)
        if end is None or end.lifetime is None or ended is None or not 0 <= end.lifetime < 1e9:
            return None
        return ended - round(end.lifetime * 1e6)


def _moment(ts: str) -> datetime | None:
    when = moment(ts)
    if when is None:
        return None
    return when.replace(tzinfo=UTC) if when.tzinfo is None else when


def _is_inferred(case: Case) -> bool:
    """Whether any of the chain was concluded; without its steps, which are many of a deep one."""
    if case.end is not None and case.end.evidence == "inferred":
        return True
    request = case.request
    return request is not None and case.run.chains.of(request).inferred_request is not None


class _Texts:
    """Texts, each once, by number."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The number that stands for *text*."""
        known = self._numbers.get(text)
        if known is None:
            known = self._numbers[text] = len(self.all)
            self.all.append(text)
        return known


class _Fold:
    """Steps that are one box, as they are found."""

    __slots__ = (
        "alike",
        "case",
        "depth",
        "fold",
        "kind",
        "mixed",
        "number",
        "parent",
        "requests",
        "step",
        "sure",
        "tasks",
    )

    def __init__(
        self, number: int, parent: _Fold | None, kind: object, step: Step, case: Case
    ) -> None:
        self.number = number
        self.parent = parent
        self.kind = kind
        self.step = step
        self.case = case
        self.depth: int = 0 if parent is None else parent.depth + 1
        self.fold: _Fold | None = None
        """Where what is further down is folded."""
        self.requests = 0
        self.tasks = 0
        self.sure: Sure = "observed"
        self.alike = {"name": True, "by_name": True, "message": True, "detail": True}
        """What all of its steps say alike, of what may differ in a box."""
        self.mixed = False
        """Whether it holds what is of no common kind."""


_Key: TypeAlias = tuple[object, ...]

_DEEPER: _Key = ("deeper",)
_OTHERS: _Key = ("others",)


class _Folding:
    """The boxes of one incident: steps of the same kind, below the same box, are one."""

    def __init__(self, run: LoggedRun, cases: Sequence[Case], show: summary.Show) -> None:
        self._run = run
        self._show = show
        self._folds: list[_Fold] = []
        self._by_key: dict[tuple[int, _Key], _Fold] = {}
        self._of: dict[int, _Fold] = {}
        """By the number of the chain that begins there."""
        self._concluded = {
            case.request.seq
            for case in cases
            if case.end is not None
            and case.end.evidence == "inferred"
            and isinstance(case.request, TaskCancel)
            and case.request.task == case.task
        }

    def group_of(self, case: Case) -> int:
        """The number of the box that *case* is in."""
        if case.request is None:
            step = case.steps()[-1]
            fold = self._below(self._unknown(step, case), step, case)
        else:
            fold = self._reach(self._run.chains.of(case.request), case)
            if not (isinstance(case.request, TaskCancel) and case.request.task == case.task):
                # It awaited what the request was made to.
                concluded = case.end is not None and case.end.evidence == "inferred"
                link = Link(what="cancelled", task=case.task, name=case.name)
                fold = self._below(fold, Step(link, None, True, concluded), case)
        fold.tasks += 1
        return fold.number

    def _reach(self, chain: Chain, case: Case) -> _Fold:
        """The box of the first step of *chain*, and those of all steps behind it."""
        way: list[Chain] = []
        here: Chain | None = chain
        while here is not None and here.number not in self._of:
            way.append(here)
            here = here.rest
        fold = None if here is None else self._of[here.number]
        for each in reversed(way):
            if fold is None and each.step.link.what == "cancelled":
                fold = self._unknown(each.step, case)
            fold = self._of[each.number] = self._below(fold, each.step, case)
        assert fold is not None
        return fold

    def _unknown(self, step: Step, case: Case) -> _Fold:
        """The box that stands for whatever it was that the log does not tell."""
        link = msgspec.structs.replace(step.link, task=None, name=None)
        fold = self._add(None, ("unknown", link), Step(link, None, False), case)
        fold.sure = "unknown"
        return fold

    def _below(self, parent: _Fold | None, step: Step, case: Case) -> _Fold:
        """The box of *step* below *parent*; it is counted there."""
        key = self._key(step, case)
        if parent is not None and parent.depth >= MOST_DEPTH:
            if parent.kind is not _DEEPER and parent.fold is None:
                parent.fold = self._add(parent, _DEEPER, step, case)
                parent.fold.mixed = True
            parent = parent.fold or parent
        fold = self._add(parent, key, step, case)
        if parent is not None and parent.kind is _DEEPER:
            fold.fold = parent  # what follows is folded there, too
        fold.requests += 1
        self._compare(fold, step)
        return fold

    def _add(self, parent: _Fold | None, key: _Key, step: Step, case: Case) -> _Fold:
        """The box with *key* below *parent*, a new one if there is none."""
        above = -1 if parent is None else parent.number
        known = self._by_key.get((above, key))
        if known is None and len(self._folds) >= MOST_GROUPS and parent is not None:
            # Still another kind: with the others of that kind, or where all of them end up.
            if parent.kind is _OTHERS:
                return parent
            key = _OTHERS
            known = self._by_key.get((above, key))
        if known is None:
            known = self._by_key[above, key] = _Fold(len(self._folds), parent, key, step, case)
            known.mixed = key is _OTHERS
            self._folds.append(known)
        return known

    def _key(self, step: Step, case: Case) -> _Key:
        link, request = step.link, step.request
        if link.what != "cancelled" or not step.own:
            return ("step", link)
        if request is None:
            return ("task", case.coro, step.concluded)
        concluded = request.seq in self._concluded
        place = (request.reason, request.source, request.at, request.library, request.library_at)
        if isinstance(request, TaskCancel):
            waited = (request.coro, request.suspended_at)
            return ("task", *waited, *place, request.evidence, concluded)
        return ("future", *place, request.evidence, concluded)

    def _compare(self, fold: _Fold, step: Step) -> None:
        """Note in what *step* differs from the first one of *fold*, and how sure it is."""
        if not self._is_seen(step):
            fold.sure = "inferred" if fold.sure != "unknown" else "unknown"
        if fold.parent is None and not summary.is_known(step.link):
            fold.sure = "unknown"
        first = fold.step
        if step is first:
            return
        alike = fold.alike
        alike["name"] = False
        mine, other = first.request, step.request
        if mine is not None and other is not None:
            alike["by_name"] = alike["by_name"] and mine.by_name == other.by_name
            alike["message"] = alike["message"] and mine.message == other.message
        alike["detail"] = alike["detail"] and first.link.detail == step.link.detail

    def _is_seen(self, step: Step) -> bool:
        request = step.request
        if step.concluded:
            return False
        return request is None or (
            request.evidence == "observed" and request.seq not in self._concluded
        )

    # Boxes in words

    def nodes(self, texts: _Texts) -> list[Node]:
        """The boxes, each after the one above it."""
        return [self._node(fold, texts) for fold in self._folds]

    def _node(self, fold: _Fold, texts: _Texts) -> Node:
        title, lines = self._words(fold)
        request = fold.step.request
        mixed = fold.mixed or fold.parent is None
        waited = ""
        if isinstance(request, TaskCancel) and not mixed and fold.step.own:
            waited = request.suspended_at or ""
        reason = "" if mixed or request is None or not fold.step.own else request.reason
        return Node(
            parent=-1 if fold.parent is None else fold.parent.number,
            kind=self._kind(fold),
            title=texts.number(title),
            lines=[texts.number(line) for line in lines],
            waited=texts.number(escape_unprintable(self._show(waited))),
            reason=texts.number(escape_unprintable(reason)),
            sure=fold.sure,
            requests=fold.requests,
            tasks=fold.tasks,
        )

    def _kind(self, fold: _Fold) -> Literal["root", "task", "future", "step", "fold"]:
        if fold.parent is None:
            return "root"
        if fold.mixed:
            return "fold"
        if fold.step.link.what != "cancelled" or not fold.step.own:
            return "step"
        request = fold.step.request
        return "task" if request is None or isinstance(request, TaskCancel) else "future"

    def _words(self, fold: _Fold) -> tuple[str, list[str]]:
        """What is in the box, and the lines of evidence for it."""
        if fold.parent is None:
            if fold.sure == "unknown":
                said = f"unknown: {summary.unknown(fold.step.link, self._show)}"
                return said, [said]
            lines = told(fold.step, fold.case, self._show)
            return lines[0], lines
        if fold.kind is _DEEPER:
            return "further steps", ["what follows is further down the chain, folded by coroutine"]
        if fold.kind is _OTHERS:
            return "others", ["tasks and futures of other kinds, folded"]
        step, case = self._common(fold)
        lines = told(step, case, self._show)
        count = fold.requests
        request = step.request
        if step.link.what != "cancelled" or not step.own:
            return lines[0], lines
        if isinstance(request, TaskCancel):
            one = summary.who(request.name, request.coro)
        elif request is None:
            one = summary.who(case.name, case.coro)
        else:
            one = "a future" if count == 1 else "futures"
        if not fold.alike["by_name"]:
            lines.append("asked by several tasks or threads")
        if not fold.alike["message"]:
            lines.append("with messages that differ")
        return (one if count == 1 else f"{count:,} x {one}"), lines

    def _common(self, fold: _Fold) -> tuple[Step, Case]:
        """The step of *fold*, without what only some of its steps say; and a case to tell it of."""
        step, case = fold.step, fold.case
        if fold.requests == 1:
            return step, case
        alike = fold.alike
        request: RequestEvent | None = step.request
        detail = step.link.detail if alike["detail"] else None
        link = msgspec.structs.replace(step.link, name=None, task=None, detail=detail)
        if isinstance(request, TaskCancel):
            request = msgspec.structs.replace(
                request,
                name="",
                by_name=request.by_name if alike["by_name"] else None,
                message=request.message if alike["message"] else None,
            )
        elif request is not None:
            request = msgspec.structs.replace(
                request,
                waiters=[],
                waiter_names=[],
                by_name=request.by_name if alike["by_name"] else None,
                message=request.message if alike["message"] else None,
            )
        else:
            case = case.unnamed()
            link = msgspec.structs.replace(link, task=case.task)
        return Step(link, request, step.own, step.concluded), case
