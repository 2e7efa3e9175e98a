"""Births: what the tasks have in common that one line makes, found out once for all of them."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType, CoroutineType, FrameType
from typing import TYPE_CHECKING, Any

from aioaudit.delivery.records import Kind
from aioaudit.stack.code import APPLICATION, CodeInfo, Codes
from aioaudit.stack.frames import caller

if TYPE_CHECKING:
    from aioaudit.place import Place
    from aioaudit.state.places import Places
    from aioaudit.state.tasks import Tasks

_MOST_KINDS = 10_000


class Births:
    """The kinds of tasks that are made: by which line, in which loop, to run what."""

    def __init__(self, codes: Codes, places: Places, tasks: Tasks) -> None:
        self._codes = codes
        self._places = places
        self._tasks = tasks
        self.follow: Callable[[Any, CodeType], None] | None = None
        """Is told the code of every new kind of coroutine (3.12 and later)."""

    def kind(self, place: Place, coro: Any, frame: FrameType) -> Kind:
        """The kind of a task that *frame* makes in *place* to run *coro*."""
        found = caller(self._codes, frame)
        # Cython's coroutines have a code, too, but nothing of theirs runs it.
        runs = coro.cr_code if type(coro) is CoroutineType else None
        code, offset = (None, 0) if found is None else found
        if runs is None:
            # Nothing tells one of these from another: each is a kind of its own.
            return Kind(place, self._tasks.coro_name(coro), None, code, offset)
        site = None if code is None else code.code
        direct = site is frame.f_code and offset == frame.f_lasti
        key = (code, offset, id(runs), direct)
        kinds = self._places.kinds
        kind = kinds.get(key)
        new = kind is None or kind.place is not place
        if kind is None or new:
            if len(kinds) >= _MOST_KINDS:
                kinds.clear()
            if self.follow is not None:
                self.follow(coro, runs)
            kind = kinds[key] = Kind(place, self._tasks.coro_name(coro), runs, code, offset)
            kind.go_with(runs, kinds, key)
        if code is None or site is None:
            return kind
        # Instructions lie inside their code, so the sum is the address of one.
        address = id(site) + offset
        tables = self._sites_of(code, direct=direct)
        for table in tables:
            table[address] = kind
            if new:
                kind.go_with(runs, table, address)
                kind.go_with(site, table, address)
        return kind

    def _sites_of(self, code: CodeInfo, *, direct: bool) -> list[dict[int, Kind]]:
        """The tables that the hottest path asks, as far as an instruction of *code* is to stand there."""
        tables: list[dict[int, Kind]] = []
        if code.kind == APPLICATION:
            # A library's line says nothing: whose behalf it acts on, the stack tells.
            tables.append(self._tasks.sites)
        if direct:
            tables.append(self._tasks.direct_sites)
        return tables
