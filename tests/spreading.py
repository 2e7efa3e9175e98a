"""Which tests pytest-xdist gives to one process, and in which order.

The groups of pytest-xdist 3.8 are of no effect under pytest 9.2, which keeps the names of
tests elsewhere.
"""

from __future__ import annotations

from xdist.scheduler import LoadScopeScheduling  # type: ignore[import-untyped]  # tells no types

ALONE = ("tests/process/", "tests/judges/")
"""Folders whose tests are given out one by one; those of others by the file."""

TOGETHER = {
    "tests/judges/test_cpython.py": "judge one run of CPython's tests",
    "tests/judges/test_suites.py": "judge one run of anyio's",
    "tests/process/test_scenarios.py": "look at the same programs, which are all started at once",
    "tests/process/test_three_accounts.py": "look at one incident",
    "tests/process/test_examples.py": "look at one demonstration",
    "tests/process/test_example_exporter.py": "install the example once",
}
"""Files in those folders whose tests stay together nevertheless, and why: they ..."""


class Scheduling(LoadScopeScheduling):  # type: ignore[misc]  # it tells no types
    """Gives out what takes long to begin with, as it was collected: the judges are first."""

    def schedule(self) -> None:
        self.config.option.loadscopereorder = False
        super().schedule()

    def _split_scope(self, nodeid: str) -> str:
        file = nodeid.partition("::")[0]
        return nodeid if file.startswith(ALONE) and file not in TOGETHER else file
