"""A plugin for pytest that writes what became of each test, a JSON line at a time.

`foreign_suites` puts it into the environments that it makes.  A run that is killed
leaves the lines of what it had done until then, which no report in XML does.  The
times tell which test a line of an audit log belongs to.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any


class Results:
    """Writes a line for each test when its last phase is over."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._pid = os.getpid()
        self._outcome = "passed"
        self._start = 0.0

    def pytest_runtest_logreport(self, report: Any) -> None:
        """Keep the worst that was heard of a test, and write it at the end of its tear-down."""
        if os.getpid() != self._pid:
            return  # a child that was forked in a test and goes on as if it were pytest
        if report.when == "setup":
            self._outcome, self._start = "passed", report.start
        if report.failed:
            self._outcome = "failed" if report.when == "call" else "error"
        elif report.skipped and self._outcome == "passed":
            self._outcome = "xfailed" if hasattr(report, "wasxfail") else "skipped"
        if report.when == "teardown":
            line = {
                "test": report.nodeid,
                "outcome": self._outcome,
                "start": self._start,
                "stop": report.stop,
            }
            with self._path.open("a") as file:
                file.write(json.dumps(line) + "\n")


def pytest_configure(config: Any) -> None:
    """Begin, where a path is given; runs of pytest inside of tests have none."""
    path = os.environ.pop("SUITE_RESULTS", "")
    if path:
        config.pluginmanager.register(Results(Path(path)), "suite-results")
