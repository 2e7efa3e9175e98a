"""What the tests of recognisers share: a chain as plain links with the labels of lines."""

from __future__ import annotations

import inspect
import re
from pathlib import Path
from typing import Any

import msgspec

from aioaudit.chain.links import Answer

Link = dict[str, Any]


def links(answer: Answer | None, file: Path | str | None = None) -> list[Link]:
    """The whole chain of *answer*: what each link says, but for ids of tasks.

    A line of *file* (of the calling test file, as a rule) that ends in ``# LINE label``
    is told as its label; a line of an installed package as the file's path in
    ``site-packages``.
    """
    assert answer is not None, "nothing is known"
    assert answer.root == answer.chain[-1]
    if file is None:
        frame = inspect.currentframe()
        assert frame is not None
        assert frame.f_back is not None
        file = frame.f_back.f_code.co_filename
    labels = {
        f"{file}:{number}": match[1]
        for number, line in enumerate(Path(file).read_text().splitlines(), 1)
        if (match := re.search(r"# LINE (\w+)$", line))
    }
    found: list[Link] = []
    for link in answer.chain:
        told = {
            key: value
            for key, value in msgspec.structs.asdict(link).items()
            if value is not None and key not in ("task", "source")
        }
        if "at" in told:
            told["at"] = labels.get(told["at"]) or _library(told["at"])
        found.append(told)
    return found


class About:
    """So many seconds written, of which others may have used some before the entry of the scope.

    What is told is what was left at that moment; on a busy machine that is less than what stands
    in the source.  It is never more but for one tick of uvloop's clock, which counts whole
    milliseconds: a deadline is set at one tick and its scope may be entered at the next.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, int | float):
            return NotImplemented
        return 0 < other <= self._seconds + 0.0011

    __hash__ = None  # type: ignore[assignment]  # equal to many, so in no set

    def __repr__(self) -> str:
        return f"about({self._seconds})"


def about(seconds: float) -> Any:
    """*seconds*, as an answer may tell them: see `About`."""
    return About(seconds)


def _library(at: str) -> str:
    path, _, number = at.rpartition(":")
    inside = re.search(r"site-packages/(.*)", path)
    return inside[1] if inside else f"{path}:{number}"
