"""What a span says: the attributes of a task, of a request, and of the chain behind them."""

from __future__ import annotations

from functools import lru_cache

import msgspec

from aioaudit.chain.links import Link
from aioaudit.chain.recent_requests import brief
from aioaudit.events import FutureCancel, TaskCancel
from aioaudit.exporters.otel.facts import Value
from aioaudit.text import path_and_line

_COMMON = frozenset({"event", "ts", "seq", "run", "pid", "thread", "loop"})


def describe_chain(attributes: dict[str, Value], chain: list[Link], summary: str) -> None:
    """Put in a whole chain: for the eye, for a search by its root, and for programs."""
    attributes["aioaudit.cancel.summary"] = summary
    told = [_written(link) for link in reversed(chain)]
    attributes["aioaudit.cancel.chain"] = [eye for eye, _ in told]
    attributes["aioaudit.cancel.links"] = [code for _, code in told]
    for key, value in msgspec.to_builtins(chain[-1]).items():
        attributes[f"aioaudit.cancel.root.{key}"] = value


@lru_cache(256)
def _written(link: Link) -> tuple[str, str]:
    """*link* for the eye and for programs; chains have most of theirs in common."""
    return brief(link), msgspec.json.encode(link).decode()


def of_request(event: TaskCancel | FutureCancel) -> dict[str, Value]:
    """Every fact of a request as an attribute."""
    attributes: dict[str, Value] = {"aioaudit.cancel.seq": event.seq}
    for key, value in msgspec.to_builtins(event).items():
        if key in _COMMON:
            continue
        attributes[_NAMES.get(key) or f"aioaudit.cancel.{key.replace('origin_', 'origin.', 1)}"] = (
            value
        )
    if event.origin is not None:
        del attributes["aioaudit.cancel.origin"]  # would be a leaf and a branch in one
        attributes["aioaudit.cancel.origin.what"] = event.origin
    if event.source is not None:
        attributes["code.function.name"] = function_of(event.source)
    where = path_and_line(event.at)
    if where is not None:
        attributes["code.file.path"], attributes["code.line.number"] = where
    return attributes


_NAMES = {
    "task": "aioaudit.cancel.target.task.id",
    "name": "aioaudit.cancel.target.task.name",
    "coro": "aioaudit.cancel.target.coro",
    "waiters": "aioaudit.cancel.target.task.ids",
    "waiter_names": "aioaudit.cancel.target.task.names",
    "by": "aioaudit.cancel.by.task.id",
    "by_name": "aioaudit.cancel.by.name",
}


def put(attributes: dict[str, Value], key: str, value: Value | None) -> None:
    """Add what is known; None is nothing."""
    if value is not None:
        attributes[key] = value


def function_of(source: str) -> str:
    """``package.module.Class.method`` of ``package.module:Class.method``."""
    return source.replace(":", ".", 1)


def class_of(error: str) -> str:
    """The class at the beginning of an event's ``error``."""
    return error.partition(":")[0]
