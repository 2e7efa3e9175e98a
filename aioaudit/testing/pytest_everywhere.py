"""For pytest: ``@pytest.mark.cancel_everywhere`` on an async test cancels it wherever it waits.

The test is set up, run and taken down once for each case, with fixtures of its own, by whichever
plugin runs async tests (pytest-asyncio, anyio's, ...), or in a loop of its own where none does.  One
report comes of it, with what `aioaudit.testing.cancel_everywhere` says.

Private, but for the mark and the option: aioaudit's plugin loads it where a test has the mark.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
from collections.abc import Generator
from typing import Any

import pytest
from _pytest.runner import runtestprotocol

from aioaudit.cpython.loops import running_loop
from aioaudit.errors import AioauditError
from aioaudit.session import recording
from aioaudit.testing.driving import TEARDOWN, Run, Trouble
from aioaudit.testing.everywhere import (
    ARGUMENTS,
    BaselineError,
    Coverage,
    IncompleteError,
    UnsafeError,
    in_a_loop,
    prepare,
)
from aioaudit.testing.points import Case, case_of
from aioaudit.trail import Trail

MARK = "cancel_everywhere"
OPTION = "--aioaudit-case"

_ROUNDS: pytest.StashKey[_Rounds] = pytest.StashKey()
_NOTE = "cancel_everywhere: it fails already where nobody cancels it"


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option, where the plugin that loads this one has not."""
    try:
        parser.getgroup("aioaudit").addoption(
            OPTION,
            metavar="CASE",
            default=None,
            help=f"of tests marked {MARK}, only this case, as a report names it: fetch:12#2+1",
        )
    except ValueError:
        return  # it is there


def pytest_configure(config: pytest.Config) -> None:
    """Make the mark known, and refuse a case that is none."""
    config.addinivalue_line(
        "markers",
        f"{MARK}({', '.join(f'{name}=...' for name in ARGUMENTS)}): run the async test once for"
        " each point where it waits, cancelled there (aioaudit)",
    )
    only = config.getoption("aioaudit_case", None)
    if only is not None:
        try:
            case_of(only)
        except ValueError as error:
            raise pytest.UsageError(f"{OPTION}: {error}") from None


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> bool | None:
    """Run a test that has the mark as often as it takes."""
    mark = item.get_closest_marker(MARK)
    if mark is None or not isinstance(item, pytest.Function):
        return None
    hook = item.ihook
    hook.pytest_runtest_logstart(nodeid=item.nodeid, location=item.location)
    _Rounds(item, mark).run(nextitem)
    hook.pytest_runtest_logfinish(nodeid=item.nodeid, location=item.location)
    return True


@pytest.hookimpl
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> bool | None:
    """Run a marked test in a loop of its own, where no plugin has made it a function that is not async."""
    rounds = pyfuncitem.stash.get(_ROUNDS, None)
    if rounds is None or not inspect.iscoroutinefunction(pyfuncitem.obj):
        return None
    names = pyfuncitem._fixtureinfo.argnames
    given = {name: pyfuncitem.funcargs[name] for name in names}
    rounds.alone()
    in_a_loop(asyncio.new_event_loop, functools.partial(pyfuncitem.obj, **given), rounds.patience)
    return True


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Show what is said of the cases, and not the line of ours that raises it."""
    report = yield
    rounds = item.stash.get(_ROUNDS, None)
    if rounds is None or call.excinfo is None:
        return report
    error = call.excinfo.value
    rounds.note(call.when, error)
    if isinstance(error, UnsafeError | IncompleteError | BaselineError | _WrongUseError):
        report.longrepr = str(error)
    return report


class _WrongUseError(AioauditError):
    """The mark, or the test that has it, cannot be used so."""


class _Rounds:
    """The rounds of one test."""

    def __init__(self, item: pytest.Function, mark: pytest.Mark) -> None:
        self._item = item
        self._mark = mark
        self._function: Any = item.obj
        self._driver: Any = None
        self._run: Run | None = None
        self._errors: list[tuple[str, BaseException]] = []
        self._reports: list[pytest.TestReport] = []
        """Those of a round that could not be set up."""

    @property
    def patience(self) -> float:
        """Seconds that a task may take to end."""
        patience: float = 5.0 if self._driver is None else self._driver.patience
        return patience

    def alone(self) -> None:
        """The loop of the rounds belongs to nobody else."""
        if self._driver is not None:
            self._driver.alone()

    def run(self, nextitem: pytest.Item | None) -> None:
        """All rounds, and a last one that tells what came of them."""
        item = self._item
        item.stash[_ROUNDS] = self
        try:
            with recording() as trail:
                verdict = self._verdict(trail)
            if verdict is not None:
                self._tell(verdict, nextitem)
            else:
                self._tell_setup(nextitem)
        finally:
            item.obj = self._function
            del item.stash[_ROUNDS]

    def _verdict(self, trail: Trail) -> Coverage | BaseException | None:
        """What came of the rounds; None where one could not be set up and was told of itself."""
        try:
            self._driver, plan = prepare(self._not_yet, shared=True, **self._arguments())
        except (TypeError, ValueError) as error:
            return _WrongUseError(str(error))
        self._driver.hear(trail)
        for case in plan.cases():
            run = self._round(case)
            if run is None or isinstance(run, BaseException):
                return run
            try:
                plan.feed(run)
            except BaselineError as error:
                if run.error is None:
                    return error
                if isinstance(run.error, Exception):  # pytest.skip() raises another kind
                    run.error.add_note(_NOTE)
                return run.error
        try:
            return plan.result()
        except (UnsafeError, IncompleteError) as error:
            return error

    def _arguments(self) -> dict[str, Any]:
        mark = self._mark
        if not inspect.iscoroutinefunction(self._function):
            raise TypeError(
                f"the mark {MARK} is for async tests: {self._item.name} is none"
                " (aioaudit.testing.cancel_everywhere takes what it is to run)"
            )
        if mark.args:
            raise TypeError(f"the mark {MARK} takes keywords only, not {mark.args[0]!r}")
        unknown = sorted(set(mark.kwargs) - set(ARGUMENTS))
        if unknown:
            raise TypeError(
                f"the mark {MARK} has no {', '.join(unknown)}: there are {', '.join(ARGUMENTS)}"
            )
        only = self._item.config.getoption("aioaudit_case", None)
        return {**mark.kwargs, **({} if only is None else {"only": only})}

    def _not_yet(self) -> Any:
        raise AssertionError("each round brings the test with its own fixtures")

    def _round(self, case: Case | None) -> Run | BaseException | None:
        """Set the test up, run it and take it down; None where it could not be set up."""
        item, driver = self._item, self._driver
        function = self._function
        self._run = failed = None

        @functools.wraps(function)
        async def test(*args: Any, **kwargs: Any) -> None:
            nonlocal failed
            if running_loop() is None:
                pytest.skip(f"{MARK} cancels tasks of asyncio, and this is another kind of loop")
            try:
                self._run = await driver.run(case, functools.partial(function, *args, **kwargs))
            except BaseException as error:
                failed = error
                raise

        item.obj = test
        errors: list[tuple[str, BaseException]] = []
        self._errors = errors
        # What belongs to the module or the session stays: the next round is of the same ones.
        reports = runtestprotocol(item, log=False, nextitem=item.parent)  # type: ignore[arg-type]
        if reports[0].when == "setup" and not reports[0].passed:
            self._reports = reports
            return None
        run = self._run
        if run is None:
            if failed is not None:
                return failed
            if errors:
                return errors[0][1]
            return RuntimeError(
                f"no plugin ran {item.name}, though it is async: nothing is known of it"
            )
        for when, error in errors:
            if when != "teardown":
                continue
            if case is None:
                return error
            text = f"a fixture's tear-down failed with {error!r}"
            run.troubles.append(Trouble(TEARDOWN, None, text, (TEARDOWN, "")))
        return run

    def note(self, when: str, error: BaseException) -> None:
        """In a round *error* was raised, in its ``setup``, ``call`` or ``teardown``."""
        self._errors.append((when, error))

    def _tell_setup(self, nextitem: pytest.Item | None) -> None:
        """A round could not be set up: its reports are those of the test."""
        item = self._item
        state = item.session._setupstate
        call = pytest.CallInfo.from_call(lambda: state.teardown_exact(nextitem), when="teardown")
        reports = self._reports
        if call.excinfo is not None:  # of what belongs to the module or the session
            reports[-1:] = [item.ihook.pytest_runtest_makereport(item=item, call=call)]
        for report in reports:
            item.ihook.pytest_runtest_logreport(report=report)

    def _tell(self, verdict: Coverage | BaseException, nextitem: pytest.Item | None) -> None:
        """Run the test once more, with what came of the rounds in its place."""
        item = self._item
        self._errors = []

        def say() -> None:
            if isinstance(verdict, BaseException):
                raise verdict
            item.add_report_section("call", MARK, str(verdict))

        if inspect.iscoroutinefunction(self._function):

            @functools.wraps(self._function)
            async def test(*_args: Any, **_kwargs: Any) -> None:
                say()

            item.obj = test
        else:

            @functools.wraps(self._function)
            def plain(*_args: Any, **_kwargs: Any) -> None:
                say()

            item.obj = plain
        runtestprotocol(item, log=True, nextitem=nextitem)
