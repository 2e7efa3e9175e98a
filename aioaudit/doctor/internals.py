"""Private names: is each there that aioaudit relies on, in CPython and in the libraries?

`aioaudit.cpython.internals` has those of CPython, which are looked for in the interpreter that
runs.  A recogniser has those of its library in a table ``INTERNALS``; they are looked for in
what the library's source compiles to, as its call sites are.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from types import CodeType

from aioaudit.cpython import internals
from aioaudit.cpython.behaviour import VERSION
from aioaudit.cpython.internals import Internal, Version
from aioaudit.doctor.diagnosis import Diagnosis, SiteState

Codes = Callable[[str], Mapping[str, CodeType] | None]
"""The codes of a module's functions and classes by qualified name; None where there are none."""


def of_python() -> Iterator[Diagnosis]:
    """One line where all names of CPython are there, else one for each that is missing."""
    meant = [each for each in internals.TABLE if each.is_meant()]
    missing = internals.missing()
    names: dict[str, SiteState] = {
        each.full: "gone" if each in missing else "there" for each in meant
    }
    yield Diagnosis(
        section="interpreter",
        subject="private names",
        state="warning" if any(each.loses for each in missing) else "ok",
        text=f"{len(meant) - len(missing)} of {len(meant)} that are relied on are there",
        names=names,
    )
    for each in missing:
        yield _missing(each, "interpreter", f"CPython {VERSION}")


def of_library(
    table: tuple[Internal, ...], version: str | None, codes: Codes
) -> dict[Internal, SiteState]:
    """What became of each name of *table* in the *version* of its library that is installed."""
    return {each: _look(each, version, codes) for each in table}


def missing_in(library: str, became: Mapping[Internal, SiteState]) -> Iterator[Diagnosis]:
    """A line for each name that *library* has no more."""
    for each, state in became.items():
        if state == "gone":
            yield _missing(each, "recognisers", library)


def missing_imported(table: tuple[Internal, ...], section: str, where: str) -> Iterator[Diagnosis]:
    """A line for each name of *table* that modules, which are imported for it, have no more."""
    for each in table:
        try:
            there = each.is_there()
        except ImportError:
            there = False
        if not there:
            yield _missing(each, section, where)


def _missing(each: Internal, section: str, where: str) -> Diagnosis:
    return Diagnosis(
        section=section,
        subject=each.full,
        state="warning" if each.loses else "note",
        text=f"missing in {where}; lost: {each.lost}",
    )


def _look(each: Internal, version: str | None, codes: Codes) -> SiteState:
    if version is not None and not each.is_meant(_numbers(version)):
        return "not in this version"
    module, _, owner = each.where.partition(":")
    try:
        found = codes(module)
    except Exception:  # noqa: BLE001 - whatever a foreign loader or a damaged file raises
        found = None
    if found is None:
        return "cannot be checked"
    return "there" if _is_in(each, owner, found) else "gone"


def _is_in(each: Internal, owner: str, codes: Mapping[str, CodeType]) -> bool:
    if each.sort == "variable":
        return internals.has_variable(codes.get(owner), each.name)
    inside = (code for name, code in codes.items() if f"{name}.".startswith(f"{owner}."))
    return any(each.name in (*code.co_names, *code.co_consts) for code in inside)


def _numbers(version: str) -> Version:
    """``(4, 16, 0)`` for ``4.16.0rc1``."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))
