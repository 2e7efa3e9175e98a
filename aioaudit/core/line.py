"""Private. Lines of JSON and the parts of lines, as both cores write them."""

from __future__ import annotations

from typing import Any, cast

import msgspec

from aioaudit.events import Event
from aioaudit.text import clean

_encode = msgspec.json.Encoder().encode


def encode_event(event: Event) -> bytes:
    """One whole line.  Text that is no valid UTF-8 is escaped, never refused."""
    try:
        return _encode(event) + b"\n"
    except UnicodeEncodeError:
        fields: dict[str, Any] = {
            field: _harmless(getattr(event, field)) for field in event.__struct_fields__
        }
        return _encode(type(event)(**fields)) + b"\n"


def _harmless(value: object) -> object:
    if isinstance(value, str):
        return clean(value, len(value))
    if isinstance(value, list):
        return [_harmless(each) for each in cast("list[object]", value)]
    return value


def quoted(text: str) -> bytes:
    """*text* as JSON, made harmless first."""
    return _encode(clean(text))


def piece(**fields: object) -> bytes:
    """Part of a line, encoded once for many: those of *fields* that say something.

    With neither the brace before it nor the one behind; empty where none says anything.
    """
    said = {name: value for name, value in fields.items() if value is not None}
    return _encode(said)[1:-1]
