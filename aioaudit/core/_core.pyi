# Private. The native core, for type checkers; `aioaudit.core.python` says what each is for.

from collections.abc import Callable, Iterable, Iterator
from types import CodeType, FrameType, FunctionType
from typing import Any

from aioaudit.core import python

Asked = python.Asked
Created = python.Created
Obeyed = python.Obeyed
Returned = python.Returned
Site = python.Site
TakenBack = python.TakenBack

class Table:
    def __init__(self, *, collected: bool = True) -> None: ...
    def __contains__(self, key: object, /) -> bool: ...
    def __len__(self) -> int: ...
    def __getitem__(self, key: int, /) -> Any: ...
    def __setitem__(self, key: int, value: Any, /) -> None: ...
    def __delitem__(self, key: int, /) -> None: ...
    def get(self, key: int, /) -> Any: ...
    def pop(self, key: int, default: None = None, /) -> Any: ...
    def items(self) -> list[tuple[int, Any]]: ...
    def values(self) -> list[Any]: ...
    def clear(self) -> None: ...

class Counter:
    @property
    def next(self) -> int: ...
    def __call__(self) -> int: ...

class Queue(python.Queue):
    def __init__(
        self,
        capacity: int,
        wake_up: Callable[[], None],
        lose: Callable[[Any], None],
        look: Callable[[float], None],
        monotonic: Callable[[], float],
        often: float,
        most_unseen: int,
    ) -> None: ...

class Births:
    def __init__(
        self,
        *,
        born: python.Table[Any],
        sites: python.Table[Any],
        direct_sites: python.Table[Any],
        next_number: Callable[[], int],
        next_seq: Callable[[], int],
        python_tasks: dict[Any, Any],
        makers: frozenset[str],
        loops: frozenset[str],
        current_task: Callable[[], Any],
        get_name: Callable[[Any], str],
        name_of: Callable[[Any], str | None],
        put: Callable[[Any], None],
        note: Callable[..., None],
        construct: Callable[..., None],
        elsewhere: Callable[..., Any],
        fault: Callable[[BaseException], None],
    ) -> None: ...
    def init(self, cls: type[Any], original: Any) -> Any: ...

class Asks(python.Asks):
    def begin(self, **given: Any) -> None: ...
    def method(
        self, cls: type[Any], original: Any, otherwise: Callable[..., Any], kind: int, /
    ) -> Any: ...
    def callback(
        self, event: str, otherwise: Callable[..., object], /
    ) -> Callable[..., object]: ...

class Returns:
    def __init__(
        self,
        *,
        born: python.Table[Any],
        next_seq: Callable[[], int],
        states: dict[int, Any],
        asks: python.Asks,
        outside: frozenset[str],
        current_task: Callable[[], Any],
        module_at: Callable[[int], str | None],
        put: Callable[[Any], None],
        remember: Callable[[Any], None],
        otherwise: Callable[[CodeType, int, object], object],
    ) -> None: ...
    def __call__(self, code: CodeType, offset: int, value: object, /) -> object: ...

class Notes:
    def __len__(self) -> int: ...
    def __contains__(self, target: object, /) -> bool: ...
    def __setitem__(self, target: object, value: Any, /) -> None: ...
    def get(self, target: object, default: Any = None, /) -> Any: ...

class Timeouts:
    def __init__(
        self,
        *,
        cls: type,
        original: Callable[..., None],
        maker: FunctionType | None,
        notes: Any,
        sites: python.Table[Any],
        aenter: CodeType | None,
        time: Callable[[], float],
        enter: Callable[[Any, FrameType | None, float, float | None], None],
        again: Callable[[Any, Any, float], None],
        fault: Callable[[BaseException], None],
    ) -> None: ...
    original: Callable[..., None]
    def take_calls_of(self, reschedule: Callable[..., None], /) -> None: ...

Passed = python.Passed

class Kept:
    def __init__(
        self,
        size: int,
        make_pieces: Callable[[Any], tuple[bytes, bytes, bytes, bytes]],
        quote: Callable[[Any], bytes],
        encode: Callable[[Any], bytes],
        limit: int,
    ) -> None: ...
    @property
    def size(self) -> int: ...
    @property
    def lost(self) -> int: ...
    @property
    def lost_at(self) -> int | None: ...
    @property
    def unneeded(self) -> int: ...
    def take(self, records: list[Any], at: int, /) -> int: ...
    def made(self, task: int, seq: int, line: bytes, /) -> None: ...
    def returned(self, task: int, seq: int, line: bytes, /) -> None: ...
    def ended(self, task: int, seq: int, line: bytes, cancel: int, /) -> None: ...
    def asked(
        self,
        task: int,
        seq: int,
        line: bytes,
        by: int,
        cause: int,
        begins: bool,
        also: int,
        /,
    ) -> None: ...
    def future(
        self,
        waiters: tuple[int, ...],
        seq: int,
        line: bytes,
        cause: int,
        by: int,
        also: int,
        /,
    ) -> None: ...
    def took_back(self, task: int, seq: int, line: bytes, all_of_them: bool, /) -> None: ...
    def found(
        self,
        seq: int,
        line: bytes,
        cancel: int,
        task: int,
        other_cancel: int,
        by: int,
        other_task: int,
        /,
    ) -> None: ...
    def other(self, seq: int, line: bytes, /) -> None: ...
    def lose(self, count: int, seq: int, names: Iterable[str], /) -> None: ...
    def names_of_lost(self) -> set[str]: ...
    def make_room(self, limit: int, /) -> None: ...
    def clear(self) -> None: ...
    def lines(self, extra: Iterable[tuple[int, bytes]], /) -> Iterator[bytes]: ...

def lines(
    records: list[Any],
    make_pieces: Callable[[Any], tuple[bytes, bytes, bytes, bytes]],
    quote: Callable[[Any], bytes],
    encode: Callable[[Any], bytes],
    limit: int,
    /,
) -> bytes: ...
def in_order(records: list[Any], first: int, /) -> bool: ...
def odd_names(records: list[Any], /) -> list[int]: ...
def set_name_of_new(function: Callable[[Any], str], /) -> None: ...
