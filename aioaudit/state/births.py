"""Births: what the tasks have in common that one line makes, found out once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, CoroutineType, FrameType
from typing import TYPE_CHECKING, Any

from aioaudit.delivery.records import CreationSite, SiteKey
from aioaudit.stack.code import APPLICATION, CodeInfo, Codes
from aioaudit.stack.frames import caller

if TYPE_CHECKING:
    from aioaudit.core import Table
    from aioaudit.place import Place
    from aioaudit.state.handoffs import Handoff
    from aioaudit.state.places import Places
    from aioaudit.state.tasks import Tasks

_MAX_SITES = 10_000


class CreationSites:
    """Where tasks are made: by which line, in which loop, to run what."""

    def __init__(self, codes: Codes, places: Places, tasks: Tasks) -> None:
        self._codes = codes
        self._places = places
        self._tasks = tasks
        self.watch_code: Callable[[Any, CodeType], None] | None = None
        """Is called with the code of every new coroutine function (3.12 and later)."""
        self.find_signal: Callable[[FrameType], Handoff | None] = lambda _frame: None
        """Gives the signal whose handler called a frame."""
        self._of_signals: set[SiteKey] = set()
        self._known: dict[SiteKey, CreationSite] = {}
        """The site that each line had first, in whatever place: it says the same in others."""

    def site(
        self, place: Place, coro: Any, frame: FrameType
    ) -> tuple[CreationSite, Handoff | None]:
        """The site of a task that *frame* makes in *place* to run *coro*.

        And the signal whose handler makes it, if it is that: such a site is asked about each time.
        """
        found = caller(self._codes, frame)
        # Cython's coroutines have a code, too, but nothing of theirs runs it.
        runs = coro.cr_code if type(coro) is CoroutineType else None
        code, offset = (None, 0) if found is None else found
        if runs is None:
            # Nothing tells one of these from another: each has a site of its own.
            return CreationSite(place, self._tasks.coro_name(coro), None, code, offset), None
        maker = None if code is None else code.code
        direct = maker is frame.f_code and offset == frame.f_lasti
        key = (code, offset, id(runs), direct)
        sites = self._places.sites
        site, known = sites.get(key), self._known.get(key)
        new = False
        if site is None or site.place is not place or not site.is_like(known):
            if len(sites) >= _MAX_SITES or len(self._known) >= _MAX_SITES:
                sites.clear()
                self._known.clear()
                self._of_signals.clear()
                known = None
            if known is not None:
                site = known.elsewhere(place)
            else:
                new = True
                if self.watch_code is not None:
                    self.watch_code(coro, runs)
                name = self._tasks.coro_name(coro)
                site = self._known[key] = CreationSite(place, name, runs, code, offset, key)
                for lived in (runs, None if code is None else code.code):
                    if lived is not None:
                        site.drop_with(lived, self._known, key, lasting=True)
                        site.drop_with(lived, sites, key)
            sites[key] = site
        if new or code is None or key in self._of_signals:
            signal = self.find_signal(frame)
            if signal is not None:
                self._of_signals.add(key)
                return site, signal
        if code is None or maker is None or key in self._of_signals:
            return site, None
        # Instructions lie inside their code, so the sum is the address of one.
        address = id(maker) + offset
        tables = self._sites_of(code, direct=direct)
        for table in tables:
            table[address] = site
            if new:
                site.drop_with(runs, table, address, lasting=True)
                site.drop_with(maker, table, address, lasting=True)
        return site, None

    def elsewhere(self, site: CreationSite, place: Place) -> CreationSite | None:
        """The site of *site*'s line, which makes a task in *place* to run the same coroutine.

        For the core, which has seen that all but the place fits, as in each new loop of a program
        that has one after the other.  None where that is to be found out.
        """
        key = site.key
        sites = self._places.sites_in(place)
        if sites is None or key is None or key in self._of_signals:
            return None
        found = sites.get(key)
        if found is None or found.place is not place or not found.is_like(site):
            if len(sites) >= _MAX_SITES:
                return None
            found = sites[key] = site.elsewhere(place)
        return found

    def _sites_of(self, code: CodeInfo, *, direct: bool) -> list[Table[CreationSite]]:
        """The tables that the hottest path asks, as far as an instruction of *code* is to stand there."""
        tables: list[Table[CreationSite]] = []
        if code.owner == APPLICATION:
            # A library's line says nothing: whose behalf it acts on, the stack tells.
            tables.append(self._tasks.sites)
        if direct:
            tables.append(self._tasks.direct_sites)
        return tables
