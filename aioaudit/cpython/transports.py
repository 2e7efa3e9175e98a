"""The classes of connections: asyncio's, and those of the loops that are not built on it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from typing import Any

from aioaudit.cpython import internals
from aioaudit.cpython.internals import reader

CLOSERS = ("close", "abort")
"""The methods that close one (`asyncio.BaseTransport`, `asyncio.WriteTransport`)."""

_OURS = (internals.SELECTOR_TRANSPORT, internals.SSL_TRANSPORT, *internals.OF_WINDOWS)

_FOREIGN = ("UVBaseTransport", internals.SSL_TRANSPORT.name)
"""What uvloop calls its own, in the module of its loop."""


TELLS_LOSS = f"{internals.SELECTOR_TRANSPORT.name}.{internals.CALLS_CONNECTION_LOST.name}"
"""The qualified name of the method that tells a protocol that its connection is lost..."""

TELLING = internals.CALLS_CONNECTION_LOST.where.partition(":")[0]
"""... its module..."""

LOSS = "exc"
"""... and a variable of its: the error that ended it, None where it was closed, by either end."""

READS_EOF = f"_SelectorSocketTransport.{internals.READS_EOF.name}"
"""The qualified name of the method that closes a connection because its peer has."""

OVERRIDES_CLOSE = "_SelectorSocketTransport.close"
"""What is called in its place since 3.12, and then calls the method of `CLOSERS`."""

transport_of: Callable[[Any], Any] = reader(internals.STREAM_TRANSPORT, asyncio.StreamReader)
"""The transport that a stream reads from, None where it has none, or `UNKNOWN`."""


def wrote_eof(transport: Any) -> bool:
    """Whether this end has said that it sends nothing more, as far as asyncio's transports tell."""
    return bool(getattr(transport, internals.WROTE_EOF.name, False))


def transport_classes() -> list[type[Any]]:
    """asyncio's own, as far as they are imported."""
    modules = ((each, sys.modules.get(each.where)) for each in _OURS)
    return _closable(getattr(module, each.name, None) for each, module in modules)


def transport_classes_of(loop_class: type[Any]) -> list[type[Any]]:
    """Those in the modules that *loop_class* and what it is made of come from."""
    names = dict.fromkeys(each.__module__ for each in loop_class.__mro__)
    modules = [sys.modules.get(name) for name in names if not name.startswith("asyncio.")]
    return _closable(getattr(module, name, None) for module in modules for name in _FOREIGN)


def _closable(found: Any) -> list[type[Any]]:
    return [
        each
        for each in found
        if isinstance(each, type) and all(name in vars(each) for name in CLOSERS)
    ]
