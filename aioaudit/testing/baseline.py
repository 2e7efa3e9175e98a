"""Private. The baseline: findings that are known, and accepted, in a file that people may edit.

A line for each, ``KIND  FUNCTION  FILE``: what was found, what the task runs, and the file in
which it happened; of a task that runs tests, who asked it to cancel, and where.  There is no
number of a line and no test in it, so that it outlives changes of both.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import pytest

from aioaudit.events import Finding
from aioaudit.findings.catalogue import CATALOGUE
from aioaudit.settings import suggestion
from aioaudit.testing.texts import Show, runs_others

_HEADER = """\
# Findings of aioaudit that are accepted: kind, what the task runs, file.
# Written by pytest --aioaudit-write-baseline.
"""
_NOWHERE = "?"


class Key(NamedTuple):
    """By what a finding is known again."""

    kind: str
    function: str
    file: str

    def __str__(self) -> str:
        return "  ".join(self)


def key_of(finding: Finding, show: Show) -> Key:
    """By what *finding* is known again; *show* makes paths relative to the project."""
    # On 3.11 nobody sees the line that swallowed: what is known everywhere comes first.
    places: tuple[str | None, ...] = (
        finding.suspended_at,
        finding.waits_at,
        finding.swallowed_at,
        finding.made_at,
        finding.at,
    )
    function = finding.coro
    if runs_others(function):  # all tests run in it: whoever asked tells them apart
        places = (finding.at, *places)
        function = finding.source or function
    place = next((each for each in places if each is not None), None)
    file = _NOWHERE if place is None else show(place.rpartition(":")[0]).replace("\\", "/")
    return Key(finding.kind, "_".join(function.split()) or _NOWHERE, file)


def check_kind(kind: object, where: str) -> str:
    """*kind*, if findings have it.

    Raises:
        pytest.UsageError: they have not; *where* says who said so.
    """
    if isinstance(kind, str) and kind in CATALOGUE:
        return kind
    close = suggestion(kind, CATALOGUE) if isinstance(kind, str) else ""
    raise pytest.UsageError(
        f"{where}: {kind!r} is no kind of finding{close}; allowed: {', '.join(CATALOGUE)}"
    )


def read(path: Path) -> set[Key]:
    """The findings that *path* accepts.

    Raises:
        pytest.UsageError: it cannot be read, or a line of it means nothing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise pytest.UsageError(
            f"there is no baseline {path}; --aioaudit-write-baseline writes it"
        ) from None
    except (OSError, ValueError) as error:
        raise pytest.UsageError(f"the baseline {path} cannot be read: {error}") from None
    found: set[Key] = set()
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        words = line.split(None, 2)
        if len(words) != 3:
            raise pytest.UsageError(
                f"{path}:{number}: {line.strip()!r} is no finding; allowed: KIND FUNCTION FILE"
            )
        check_kind(words[0], f"{path}:{number}")
        found.add(Key(words[0], words[1], words[2].rstrip()))
    return found


def write(path: Path, keys: Iterable[Key]) -> None:
    """Have *path* accept *keys* and nothing else.

    Raises:
        OSError: it cannot be written.
    """
    path.write_text(_HEADER + "".join(f"{key}\n" for key in sorted(keys)), encoding="utf-8")
