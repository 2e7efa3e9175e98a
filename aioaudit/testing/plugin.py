"""The pytest plugin: options, values of the configuration, marks and a fixture.

pytest loads this module wherever aioaudit is installed, so it costs next to nothing: it imports
neither asyncio nor anything of ours that does.  What is asked for is in `aioaudit.testing.report`,
which is imported once it is asked for.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from aioaudit.testing.marks import EVERYWHERE, IGNORE, FindingWarning

if TYPE_CHECKING:
    from aioaudit.trail import Trail

__all__ = ["FindingWarning", "aioaudit_trail"]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what turns it on, and says what is to become of findings."""
    group = parser.getgroup("aioaudit", "who cancelled this asyncio task, and why")
    group.addoption(
        "--aioaudit",
        action="store_true",
        default=None,
        help="audit the tests: a failed one says who cancelled what",
    )
    group.addoption(
        "--aioaudit-findings",
        metavar="error|warn|off",
        help="what becomes of a test in which a cancellation was swallowed, lost, ...; turns"
        " --aioaudit on",
    )
    group.addoption(
        "--aioaudit-ignore",
        metavar="KIND",
        action="append",
        help="leave this kind of finding out (swallowed, slow, ...); may be given again",
    )
    group.addoption(
        "--aioaudit-baseline",
        metavar="FILE",
        help="a file of findings that are known, and accepted",
    )
    group.addoption(
        "--aioaudit-write-baseline",
        action="store_true",
        default=False,
        help="write the findings of this run into that file; turns --aioaudit on",
    )
    with suppress(ValueError):  # whoever loads the other plugin with -p has it already
        group.addoption(
            "--aioaudit-case",
            metavar="CASE",
            help=f"of tests marked {EVERYWHERE}, only this case, as a report names it: fetch:12#2+1",
        )
    parser.addini("aioaudit", "whether to audit the tests, as --aioaudit", "bool", False)
    parser.addini("aioaudit_findings", "as --aioaudit-findings", "string", "off")
    parser.addini("aioaudit_ignore", "kinds of findings, as --aioaudit-ignore", "args", [])
    parser.addini("aioaudit_baseline", "as --aioaudit-baseline", "string", "")


def pytest_configure(config: pytest.Config) -> None:
    """Name the marks; have the rest done where it is asked for."""
    config.addinivalue_line(
        "markers",
        f"{IGNORE}(*kinds, reason=None): accept findings of these kinds (all without any)"
        " in this test",
    )
    config.addinivalue_line(
        "markers",
        f"{EVERYWHERE}(...): run the async test once for each point where it waits, cancelled there",
    )
    if is_on(config):
        from aioaudit.testing.report import register

        register(config)


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Load what ``@pytest.mark.cancel_everywhere`` needs, where a test has that mark."""
    if any(EVERYWHERE in item.keywords for item in items):
        from importlib import import_module

        name = "aioaudit.testing.pytest_everywhere"
        if not config.pluginmanager.has_plugin(name):
            config.pluginmanager.register(import_module(name), name)


def is_on(config: pytest.Config) -> bool:
    """Whether the tests are to be audited.

    Raises:
        pytest.UsageError: the configuration says neither yes nor no.
    """
    option = config.option
    if option.aioaudit or option.aioaudit_findings is not None or option.aioaudit_write_baseline:
        return True
    try:
        return bool(config.getini("aioaudit"))
    except (ValueError, TypeError, pytest.UsageError) as error:  # it depends on the release
        raise pytest.UsageError(
            f"aioaudit in the configuration: {error}; allowed: true, false"
        ) from None


@pytest.fixture
def aioaudit_trail() -> Generator[Trail]:
    """What happens while the test runs: ``aioaudit_trail.events``, ``aioaudit_trail.why(task)``.

    It is there with ``--aioaudit`` and without.
    """
    from aioaudit.session import recording

    with recording() as trail:
        yield trail
