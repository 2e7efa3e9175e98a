"""Private. What ``pytest --aioaudit`` does: tests are audited, and told what was found.

Each process that runs tests hears what happens in them (`Hearing`).  What is found goes with the
report of a test's tear-down, and what comes after the last with the worker's farewell, so that
pytest-xdist brings both to the process that sums up.

The outcome of a test changes only where findings are to be errors, by an error of its own: of the
call or of the tear-down in which it came up.  One that tells of a task which an earlier test made
is nobody's error; it is told at the end, and makes the exit status 1.
"""

from __future__ import annotations

import os
import sys
import threading
from collections import Counter
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from aioaudit.cpython.inplace import UnsupportedError
from aioaudit.events import Finding
from aioaudit.findings.catalogue import BLOCKED, CATALOGUE, DESTROYED, PENDING, SLOW
from aioaudit.settings import SettingsError, build, suggestion
from aioaudit.testing import baseline, texts
from aioaudit.testing.baseline import Key, check_kind
from aioaudit.testing.hearing import Hearing, Test
from aioaudit.testing.marks import EVERYWHERE, IGNORE, FindingWarning
from aioaudit.text import describe, escape_unprintable

if TYPE_CHECKING:
    from types import ModuleType

LEVELS = ("error", "warn", "off")

NEW, ACCEPTED, IGNORED = "new", "accepted", "ignored"
"""What a finding is: news, in the baseline, or of a kind that is to be left out."""

MOST_SHOWN = 20
"""So many lines of one sort are shown at the end; more are counted."""

_OVERTIME = "aioaudit: what tasks waited for"

_FATE = {PENDING, DESTROYED}
"""Kinds that tell of the end of a task, which may come long after the test that made it."""

_OF_SPEED = {BLOCKED, SLOW}
"""Kinds that a busy machine makes, too: they warn where others are errors."""


class Policy(NamedTuple):
    """What is to become of findings.

    Attributes:
        level: One of `LEVELS`.
        ignored: Kinds that are left out.
        path: The file of the baseline, None without.
        known: What stands in it.
        writes: Whether it is to be written.
    """

    level: str
    ignored: frozenset[str]
    path: Path | None
    known: frozenset[Key]
    writes: bool


class Outcome(NamedTuple):
    """One finding, judged: by what it is known again, `NEW` or otherwise, and its text if it is news."""

    key: Key
    state: str
    text: str


def register(config: pytest.Config) -> None:
    """Audit the tests of this run.

    Raises:
        pytest.UsageError: an option, a value of the configuration or a variable of the environment
            means nothing, or the baseline does not.
    """
    try:
        build(environ=os.environ)
    except SettingsError as error:
        raise pytest.UsageError(str(error)) from None
    config.pluginmanager.register(Report(config, policy_of(config)), "aioaudit-report")


def policy_of(config: pytest.Config) -> Policy:
    """What *config* says is to become of findings; raises as `register` does."""
    option = config.option
    given = option.aioaudit_findings
    where = "aioaudit_findings" if given is None else "--aioaudit-findings"
    level = str(config.getini("aioaudit_findings") if given is None else given)
    if level not in LEVELS:
        raise pytest.UsageError(
            f"{where}: {level!r} is no level{suggestion(level, LEVELS)}; allowed: {', '.join(LEVELS)}"
        )
    ignored = {check_kind(kind, "--aioaudit-ignore") for kind in option.aioaudit_ignore or ()}
    ignored |= {check_kind(kind, "aioaudit_ignore") for kind in config.getini("aioaudit_ignore")}
    path: Path | None = None
    if option.aioaudit_baseline:
        path = config.invocation_params.dir / option.aioaudit_baseline
    elif config.getini("aioaudit_baseline"):
        path = config.rootpath / str(config.getini("aioaudit_baseline"))
    writes = bool(option.aioaudit_write_baseline)
    if writes and path is None:
        raise pytest.UsageError("--aioaudit-write-baseline: --aioaudit-baseline FILE is missing")
    known = frozenset[Key]()
    if path is not None and not (writes and not path.exists()):
        known = frozenset(baseline.read(path))
    return Policy(level, frozenset(ignored), path, known, writes)


def ignored_by(item: pytest.Item) -> frozenset[str]:
    """The kinds of findings that the marks of *item* accept.

    Raises:
        pytest.UsageError: such a mark means nothing.
    """
    found: set[str] = set()
    for mark in item.iter_markers(IGNORE):
        where = f"{item.nodeid}: @pytest.mark.{IGNORE}"
        for name in mark.kwargs:
            if name != "reason":
                raise pytest.UsageError(f"{where}: {name}= means nothing; allowed: kinds, reason=")
        found |= {check_kind(kind, where) for kind in mark.args} or set(CATALOGUE)
    if item.get_closest_marker(EVERYWHERE) is not None:
        return frozenset(CATALOGUE)  # it cancels all over, and says itself what came of it
    return frozenset(found)


class Totals:
    """What is told at the end, of all processes together."""

    def __init__(self) -> None:
        self.cancelled = 0
        self.tests = 0
        self.states: Counter[str] = Counter()
        self.kinds: Counter[str] = Counter()
        self.met: set[Key] = set()
        """What the baseline has, or is to have."""
        self.strays: list[str] = []
        self.wrong = 0
        """How many of them are errors where findings are."""
        self.outlived: list[str] = []
        self.faults = 0
        self.off: str | None = None
        """Why tests were not audited, None where they were."""
        self.usage: str | None = None
        """What is wrong with a mark, as a worker found; no test has run then."""

    def add(self, told: dict[str, Any]) -> None:
        """Count what `Report` of some process has *told*: of a test, or of what came after all."""
        self.cancelled += told["cancelled"]
        self.tests += bool(told["cancelled"])
        for kind, function, file, state in told["findings"]:
            self.states[state] += 1
            if state == NEW:
                self.kinds[kind] += 1
            if state != IGNORED:
                self.met.add(Key(kind, function, file))
        self.states[NEW] += told.get("more", 0)
        self.strays += told.get("strays", ())
        self.wrong += told.get("wrong", 0)
        self.outlived += told.get("outlived", ())
        self.faults += told.get("faults", 0)
        self.off = self.off or told.get("off")
        self.usage = self.usage or told.get("usage")


class Report:
    """The plugin that is there while tests are audited.

    Raises nothing but what `pytest_runtest_call` and `pytest_runtest_teardown` are to raise.
    """

    def __init__(self, config: pytest.Config, policy: Policy) -> None:
        self._config = config
        self._policy = policy
        self._show = texts.relative_to(config.rootpath)
        self._hearing = Hearing()
        self._totals = Totals()
        self._judged: list[Outcome] = []
        """Of the test that runs: what was found and has gone into no report yet."""
        self._strays: list[str] = []
        self._wrong = 0
        self._waited: str | None = None
        """What tasks waited for when the time of the test that runs had run out."""
        self._runs_tests = False
        self._off: str | None = None
        self._usage: str | None = None
        """What is wrong with a mark, in a worker, which must not raise it."""
        self._deselected = False
        self._undo: list[Any] = []

    # -- the run -----------------------------------------------------------------------------

    def pytest_report_header(self) -> str:
        """Say that tests are audited, and what becomes of findings."""
        policy = self._policy
        text = f"aioaudit: on, findings: {policy.level}"
        if policy.path is not None:
            text += f", baseline: {self._show(str(policy.path))}"
        return text

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionstart(self, session: pytest.Session) -> None:
        """Begin to hear, but not where others run the tests."""
        self._runs_tests = not session.config.pluginmanager.has_plugin("dsession")
        if self._runs_tests:
            self._listen()
            self._watch_timeouts(session.config.pluginmanager.get_plugin("timeout"))

    def _listen(self) -> None:
        if self._off is None:
            try:
                self._hearing.begin()
            except (UnsupportedError, SettingsError) as error:  # a test may set a variable
                self._off = describe(error)

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """See that all marks mean something."""
        try:
            for item in items:
                ignored_by(item)
        except pytest.UsageError as error:
            if not hasattr(self._config, "workeroutput"):
                raise
            # pytest tells pytest-xdist of what was collected all the same, and it would wait for
            # these tests, and fall over because the worker has ended.
            self._usage = str(error)
            items.clear()

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        """Remember that not all tests run."""
        self._deselected = self._deselected or bool(items)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Sum up."""
        config = session.config
        if self._runs_tests:
            self._leave(self._hearing.test)
            self._hearing.tell_outlived()
            rest = self._rest()
            self._stop()
            output = getattr(config, "workeroutput", None)
            if output is not None:
                output["aioaudit"] = rest
                return
            self._totals.add(rest)
        if self._totals.usage is not None:
            session.exitstatus = pytest.ExitCode.USAGE_ERROR
        elif self._policy.writes:
            self._write_baseline(session)
        elif self._policy.level == "error" and self._totals.wrong and not session.exitstatus:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED

    def _rest(self) -> dict[str, Any]:
        """What has gone into no report."""
        told = self._take()
        told["strays"] = self._strays
        told["wrong"] = self._wrong
        told["outlived"] = []
        for nodeid, name, coro, made_at, at in self._hearing.outlived:
            line = texts.task_line(name, coro, made_at, at, self._show)
            told["outlived"].append("\n".join(texts.wrapped(f"{nodeid}: {line}", "  ", "    ")))
        told["faults"] = self._hearing.faults
        told["off"] = self._off
        told["usage"] = self._usage
        return told

    def _stop(self) -> None:
        while self._undo:
            self._undo.pop()()
        self._hearing.end()

    def pytest_unconfigure(self) -> None:
        """Leave nothing behind, also where the run was broken off."""
        self._stop()

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Any) -> None:
        """Count what a worker of pytest-xdist has told last."""
        told = getattr(node, "workeroutput", {}).get("aioaudit")
        if told is not None:
            self._totals.add(told)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Count what was found in a test, wherever it ran."""
        told = report.__dict__.get("aioaudit")
        if told is not None:
            self._totals.add(told)

    # -- a test ------------------------------------------------------------------------------

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Generator[None, object, object]:
        """Hear what happens in *item*."""
        __tracebackhide__ = True
        if not self._runs_tests:
            return (yield)
        self._listen()  # a test may have turned it off
        self._leave(self._hearing.start(item.nodeid, ignored_by(item)))
        self._waited = None
        try:
            return (yield)
        finally:
            self._hearing.look_back(self._hearing.test)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_fixture_setup(
        self, fixturedef: pytest.FixtureDef[Any]
    ) -> Generator[None, object, object]:
        """Know what a fixture has made that other tests share."""
        __tracebackhide__ = True
        if fixturedef.scope == "function":
            return (yield)
        before = self._hearing.drawn()
        try:
            return (yield)
        finally:
            self._hearing.test.shared.append((before, self._hearing.drawn()))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Generator[None, object, object]:
        """Let the test fail, or warn, because of what was found in it."""
        __tracebackhide__ = True  # where it is the test that raises
        result = yield
        __tracebackhide__ = False
        self._act(item, self._settle())
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Generator[None, object, object]:
        """The same of its tear-down; before it, loops have had the time to end what they were to."""
        __tracebackhide__ = True  # as above
        self._hearing.tell_outlived()
        result = yield
        __tracebackhide__ = False
        self._act(item, self._settle())
        return result

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_makereport(
        self, call: pytest.CallInfo[None]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Add who cancelled what to the report of a test that failed, and what was found to its last."""
        report = yield
        found = [] if call.excinfo is None else self._settle()
        if report.failed and call.excinfo is not None:
            self._explain(report, call.excinfo.value, found)
        if call.when == "teardown":
            told = self._take()
            if told["cancelled"] or told["findings"]:
                report.__dict__["aioaudit"] = told
        return report

    def _explain(
        self, report: pytest.TestReport, error: BaseException, found: list[Outcome]
    ) -> None:
        why = texts.why_text(error, self._hearing.why, self._show)
        if why is not None:
            _add_section(report, "aioaudit: who cancelled it", why)
        if self._waited is not None:
            _add_section(report, _OVERTIME, self._waited)
            self._waited = None
        news = [each.text for each in found if each.state == NEW]
        if news:
            _add_section(report, "aioaudit: findings", "\n\n".join(news))

    # -- findings ----------------------------------------------------------------------------

    def _settle(self) -> list[Outcome]:
        """What was found in the test since this was asked last, and is its own."""
        test = self._hearing.test
        found = test.findings[test.settled :]
        test.settled += len(found)
        judged = [self._judge(test, each) for each in found]
        self._judged += judged
        return [
            each
            for each, finding in zip(judged, found, strict=True)
            if not self._is_stray(test, finding)
        ]

    @staticmethod
    def _is_stray(test: Test, finding: Finding) -> bool:
        """Whether *finding* tells of a task that was there before *test*, which is not to blame."""
        return finding.kind in _FATE and finding.task <= test.first

    def _judge(self, test: Test, finding: Finding) -> Outcome:
        key = baseline.key_of(finding, self._show)
        maker = self._hearing.maker_of(finding)
        ignored = self._policy.ignored | (test.ignored if maker is None else maker.ignored)
        if finding.kind in ignored:
            return Outcome(key, IGNORED, "")
        if key in self._policy.known:
            return Outcome(key, ACCEPTED, "")
        made_in = None if maker is None else maker.nodeid
        stray = self._is_stray(test, finding) or not test.nodeid
        text = "\n".join(texts.finding_lines(finding, self._show, None if stray else made_in))
        if stray:
            where = f"in {test.nodeid}" if test.nodeid else "outside of the tests"
            title = f"found {where}" if made_in is None else f"of {made_in}"
            self._tell_stray(title, Outcome(key, NEW, text))
        return Outcome(key, NEW, text)

    def _tell_stray(self, title: str, outcome: Outcome) -> None:
        self._strays.append(f"{title}\n{_indented(outcome.text)}")
        self._wrong += outcome.key.kind not in _OF_SPEED

    def _leave(self, test: Test) -> None:
        """*test* is over: what came up after its last report is nobody's error."""
        found = test.findings[test.settled :]
        test.settled += len(found)
        for finding in found:
            outcome = self._judge(test, finding)
            self._judged.append(outcome)
            if outcome.state == NEW and test.nodeid and not self._is_stray(test, finding):
                self._tell_stray(f"found after {test.nodeid}", outcome)

    def _act(self, item: pytest.Item, found: list[Outcome]) -> None:
        """Fail, or warn, because of the news in *found*."""
        news = [each for each in found if each.state == NEW]
        policy = self._policy
        if not news or policy.level == "off" or policy.writes:
            return
        errors = policy.level == "error"
        wrong = [each for each in news if errors and each.key.kind not in _OF_SPEED]
        for each in news:
            try:
                if each not in wrong:
                    item.warn(FindingWarning(each.text))
            except FindingWarning:  # warnings are errors
                pytest.fail(_news(news), pytrace=False)
        if wrong:
            pytest.fail(_news(wrong), pytrace=False)

    def _take(self) -> dict[str, Any]:
        """What is to be counted of the test that runs, once."""
        test = self._hearing.test
        told = {
            "cancelled": len(test.asked),
            "findings": [[*each.key, each.state] for each in self._judged],
            "more": test.more,
        }
        test.asked.clear()
        self._judged.clear()
        test.more = 0
        return told

    # -- pytest-timeout ----------------------------------------------------------------------

    def _watch_timeouts(self, plugin: ModuleType | None) -> None:
        """Tell what tasks wait for where *plugin*, pytest-timeout, dumps the stacks of threads.

        It does so at the right moment with either method: in the signal's handler, after which
        the test fails, and in the timer's thread, after which the process ends.
        """
        dump_stacks = getattr(plugin, "dump_stacks", None)
        if plugin is None or dump_stacks is None:
            return

        def dump_stacks_and_tasks(*args: Any, **keywords: Any) -> Any:
            text = None
            try:
                text = self._waiting()
                if text is not None and threading.current_thread() is threading.main_thread():
                    self._waited = text
                elif text is not None and hasattr(self._config, "workerinput"):
                    # What a worker of pytest-xdist prints goes nowhere, and it ends at once.
                    nodeid = escape_unprintable(self._hearing.test.nodeid)
                    title = f"{_OVERTIME} when the time of {nodeid} ran out"
                    print(f"\n{title}:\n{text}", file=sys.__stderr__, flush=True)
                elif text is not None and args:
                    args[0].sep("~", title=_OVERTIME)
                    args[0].write(f"{text}\n")
            except Exception:  # noqa: BLE001 - the test is to end, whatever we find
                self._hearing.faults += 1
            return dump_stacks(*args, **keywords)

        plugin.__dict__["dump_stacks"] = dump_stacks_and_tasks
        self._undo.append(lambda: plugin.__dict__.update(dump_stacks=dump_stacks))

    def _waiting(self) -> str | None:
        tasks = self._hearing.waiting()
        if not tasks:
            return None
        return "\n".join(texts.waiting_lines(tasks, self._show, self._hearing.why))

    # -- the end -----------------------------------------------------------------------------

    def _write_baseline(self, session: pytest.Session) -> None:
        assert self._policy.path is not None
        keys = set(self._totals.met)
        if self._is_partial(session):
            keys |= self._policy.known  # a test that did not run may find it still
        try:
            baseline.write(self._policy.path, keys)
        except OSError as error:
            raise pytest.UsageError(f"the baseline cannot be written: {error}") from None

    def _is_partial(self, session: pytest.Session) -> bool:
        return bool(self._deselected or session.shouldstop or session.shouldfail)

    def pytest_terminal_summary(
        self, terminalreporter: pytest.TerminalReporter, exitstatus: int
    ) -> None:
        """One line, and before it what no test's report tells."""
        totals, policy = self._totals, self._policy
        if totals.usage is not None:
            terminalreporter.line(f"ERROR: {escape_unprintable(totals.usage)}", red=True)
            return
        if exitstatus == pytest.ExitCode.USAGE_ERROR:
            return  # no test has run, and what is wrong is said next
        told: list[tuple[str, list[str]]] = []
        if policy.level != "off" and not policy.writes:
            told.append(("found of tasks that earlier tests made, or after a test", totals.strays))
        told.append(("tasks that outlived the test that made them", totals.outlived))
        session = terminalreporter._session
        stale = sorted(policy.known - totals.met)
        if policy.writes or session is None or self._is_partial(session):
            stale = []
        told.append(("in the baseline, but not found any more", [f"  {each}" for each in stale]))
        for title, lines in told:
            if lines:
                terminalreporter.section(f"aioaudit: {title}")
                for line in lines[:MOST_SHOWN]:
                    terminalreporter.line(escape_lines(line))
                if len(lines) > MOST_SHOWN:
                    terminalreporter.line(f"and {len(lines) - MOST_SHOWN:,} more")
        terminalreporter.line(f"aioaudit: {self._sum(stale)}")

    def _sum(self, stale: list[Key]) -> str:
        totals, policy = self._totals, self._policy
        parts: list[str] = []
        if totals.off is not None:
            parts.append(f"off: {totals.off}")
        if totals.cancelled:
            parts.append(
                f"{_count(totals.cancelled, 'task')} cancelled in {_count(totals.tests, 'test')}"
            )
        else:
            parts.append("no task was cancelled")
        found = totals.states[NEW]
        kinds = ", ".join(f"{count:,} {kind}" for kind, count in totals.kinds.most_common())
        parts.append(f"{_count(found, 'finding')}{f' ({kinds})' if found else ''}")
        if found and policy.level == "off" and not policy.writes:
            parts[-1] += ", --aioaudit-findings=warn tells of it"
        if totals.states[ACCEPTED]:
            parts.append(f"{totals.states[ACCEPTED]:,} in the baseline")
        if totals.states[IGNORED]:
            parts.append(f"{totals.states[IGNORED]:,} ignored")
        if totals.outlived:
            parts.append(f"{_count(len(totals.outlived), 'task')} outlived the test that made them")
        if stale:
            parts.append(f"{len(stale):,} of the baseline not found any more")
        if policy.writes:
            parts.append(f"baseline written to {self._show(str(policy.path))}")
        if totals.faults:
            parts.append(f"{_count(totals.faults, 'internal error')} of aioaudit")
        return ", ".join(parts)


def escape_lines(text: str) -> str:
    """*text*, each line of it harmless on a terminal."""
    return "\n".join(map(escape_unprintable, text.split("\n")))


def _add_section(report: pytest.TestReport, title: str, text: str) -> None:
    """Add *text* to what *report* says of the error; it goes wherever that goes."""
    add = getattr(report.longrepr, "addsection", None)
    if add is not None:
        add(title, text, "-")
    else:  # it is only text
        report.sections.append((title, text))


def _news(news: Iterable[Outcome]) -> str:
    told = list(news)
    kinds = dict.fromkeys(each.key.kind for each in told)
    text = "\n\n".join(each.text for each in told)
    quoted = ", ".join(f'"{kind}"' for kind in kinds)
    return (
        f"aioaudit found: {', '.join(kinds)}\n\n{text}\n\n"
        f"To accept it: @pytest.mark.{IGNORE}({quoted}), or a baseline."
    )


def _indented(text: str) -> str:
    return "\n".join(f"  {line}" for line in text.split("\n"))


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"
