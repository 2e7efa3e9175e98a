"""Recognisers: is each library there, and is every call site that they know still in it?

A call site is looked for in the code objects that the library's module is compiled
to, by the very name by which a recogniser is found when the library cancels
something.  Nothing of the library is run, and modules that are compiled to machine
code cannot be looked into.
"""

from __future__ import annotations

import functools
import sys
from collections import Counter
from collections.abc import Iterator, Mapping
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from types import CodeType
from typing import Any

from packaging.specifiers import InvalidSpecifier, SpecifierSet
from packaging.version import InvalidVersion

from aioaudit.cpython.behaviour import VERSION
from aioaudit.cpython.internals import Internal
from aioaudit.doctor import internals
from aioaudit.doctor.diagnosis import Diagnosis, SiteState, State
from aioaudit.doctor.packages import find_spec, version_of_module
from aioaudit.recognisers import registry
from aioaudit.stack.code import APPLICATION, owner_of
from aioaudit.text import describe

Site = tuple[str, str]
"""A call site: a module and the qualified name of a function in it."""

_STDLIB = "stdlib"


def recognisers() -> Iterator[Diagnosis]:
    """Our own recognisers, then those of other packages."""
    for library in (_STDLIB, *sorted(registry.OWN)):
        yield from _own(library)
    for point in sorted(set(entry_points(group=registry.GROUP))):
        yield from _foreign(point)


def _own(library: str) -> list[Diagnosis]:
    try:
        module = import_module(registry.module_of(library))
    except Exception as error:  # noqa: BLE001 - an installation may be damaged in any way
        text = f"aioaudit's own recogniser cannot be loaded: {describe(error)}"
        return [Diagnosis(section="recognisers", subject=library, state="problem", text=text)]
    sites = _sites(registry.tables_of(module, module.CALL_SITES), module)
    if library == _STDLIB:
        return [_finding("asyncio", VERSION, sites, _versions(module), "", {})]
    return list(_library(library, sites, module, ""))


def _foreign(point: EntryPoint) -> Iterator[Diagnosis]:
    """The recogniser that another package registered as *point*, one finding a library."""
    of = "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"
    by = f"{point.value}{of}"
    try:
        tables = registry.loaded(point)
    except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything
        text = f"{by} cannot be loaded: {describe(error)}"
        yield Diagnosis(section="recognisers", subject=point.name, state="warning", text=text)
        return
    module = sys.modules.get(point.module)
    sites = _sites(tables, module)
    for library in dict.fromkeys(name.partition(".")[0] for name, _ in sites):
        inside = [site for site in sites if site[0].partition(".")[0] == library]
        yield from _library(library, inside, module, f"; {by}")


def _sites(tables: registry.Tables, module: Any) -> list[Site]:
    """Every place of a library that the recogniser in *module* counts on."""
    boundaries = (each.partition(":") for each in getattr(module, "BOUNDARIES", ()))
    sites = [
        *tables.calls,
        *tables.timeouts,
        *tables.loop_ends,
        *getattr(module, "LEFT", ()),
        *getattr(module, "PROBES", ()),
        *((name, qualname) for name, _, qualname in sorted(boundaries)),
    ]
    return list(dict.fromkeys(sites))


def _versions(module: Any) -> Mapping[Site, str]:
    found: Mapping[Site, str] = getattr(module, "VERSIONS", {})
    return found


def _library(library: str, sites: list[Site], module: Any, by: str) -> Iterator[Diagnosis]:
    spec = find_spec(library)
    if spec is None:
        text = f"not installed{by}"
        yield Diagnosis(section="recognisers", subject=library, state="none", text=text)
        return
    version = version_of_module(library)
    origin = spec.origin or next(iter(spec.submodule_search_locations or ()), "")
    if owner_of(origin) == APPLICATION:
        yield Diagnosis(
            section="recognisers",
            subject=library if version is None else f"{library} {version}",
            state="warning",
            text=f"not used: {origin} is in no site-packages, so it counts as the program's own{by}",
            version=version,
        )
        return
    names = _names(library, module)
    yield _finding(library, version, sites, _versions(module), by, names)
    yield from internals.missing_in(library if version is None else f"{library} {version}", names)


def _names(library: str, module: Any) -> dict[Internal, SiteState]:
    """What became of the private names that the recogniser in *module* reads."""
    found: dict[Internal, SiteState] = {}
    table = [each for each in getattr(module, "INTERNALS", ()) if isinstance(each, Internal)]
    for of in dict.fromkeys(map(_library_of, table)):
        rows = tuple(each for each in table if _library_of(each) == of)
        # A recogniser may read another library's, Starlette's those of anyio.
        if of == library or registry.module_of(library) == getattr(module, "__name__", ""):
            found.update(internals.of_library(rows, version_of_module(of), _codes))
    return found


def _library_of(each: Internal) -> str:
    return each.where.partition(":")[0].partition(".")[0]


def _finding(
    library: str,
    version: str | None,
    sites: list[Site],
    versions: Mapping[Site, str],
    by: str,
    names: Mapping[Internal, SiteState],
) -> Diagnosis:
    """What became of *sites* and *names* in the *version* of *library* that is installed."""
    became: dict[Site, SiteState] = {
        site: _look(site, version, versions.get(site)) for site in sites
    }
    named: dict[str, SiteState] = {":".join(site): each for site, each in became.items()}
    counts = Counter(became.values())
    expected = len(sites) - counts["not in this version"]
    text = f"{counts['there']} of {expected} call sites there"
    meant = [each for each in names.values() if each != "not in this version"]
    if meant:
        text += f", {meant.count('there')} of {len(meant)} private names"
    state: State = "ok"
    if counts["cannot be checked"]:
        state = "note"
        modules = {module for (module, _), each in became.items() if each == "cannot be checked"}
        text += f"; compiled, cannot be checked: {', '.join(sorted(modules))}"
    if counts["gone"]:
        state = "warning"
        gone = [site for site, each in named.items() if each == "gone"]
        text += f"; gone, and told unexplained: {', '.join(gone)}"
    return Diagnosis(
        section="recognisers",
        subject=library if version is None else f"{library} {version}",
        state=state,
        text=text + by,
        version=version,
        call_sites=named,
        names={each.full: state for each, state in names.items()} or None,
    )


def _look(site: Site, version: str | None, only: str | None) -> SiteState:
    """What became of *site* in *version*, where *only* versions need have it."""
    module, qualname = site
    try:
        names = _codes(module)
    except Exception:  # noqa: BLE001 - whatever a foreign loader or a damaged file raises
        return "cannot be checked"
    if names is None:
        return "cannot be checked"
    if qualname in names:
        return "there"
    return "gone" if _meant(version, only) else "not in this version"


def _meant(version: str | None, only: str | None) -> bool:
    """Whether *version* is one of those that *only* (PEP 440) names; yes where that is unclear."""
    if version is None or only is None:
        return True
    try:
        return SpecifierSet(only).contains(version, prereleases=True)
    except (InvalidSpecifier, InvalidVersion):
        return True


@functools.cache
def _codes(module: str) -> Mapping[str, CodeType] | None:
    """The codes in *module* by their qualified names; None where it cannot be looked into."""
    spec = find_spec(module)
    if spec is None:
        return {}
    get_code = getattr(spec.loader, "get_code", None)
    written, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        code = None if get_code is None else get_code(module)
    finally:
        sys.dont_write_bytecode = written
    if code is None:
        return None
    found = {code.co_qualname: code}
    left: list[CodeType] = [code]
    while left:
        for constant in left.pop().co_consts:
            if isinstance(constant, CodeType):
                found[constant.co_qualname] = constant
                left.append(constant)
    return found
