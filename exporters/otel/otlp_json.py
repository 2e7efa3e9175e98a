"""Spans as OTLP JSON, the file that a trace viewer opens; made without OpenTelemetry.

The rules are those of the OTLP specification for its JSON encoding: the JSON
mapping of protocol buffers, but ids in hex; enums are numbers, 64-bit integers
are text, and what is empty is left out.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from functools import lru_cache
from typing import IO, Any
from urllib.parse import unquote

import msgspec

from aioaudit.exporters.otel.facts import SpanFacts, Trace, Value, held
from aioaudit.version import __version__

_INTERNAL = 1
_ERROR = 2
_KNOWN_TO_BE_LOCAL = 0x100
"""Flags of a span whose parent is in the same process."""

_BEGIN = b'{"resourceSpans":[\n'

_encode = msgspec.json.Encoder().encode


class JsonWriter:
    """Writes spans to *stream*, piece by piece, as one ``TracesData``.

    Args:
        stream: Takes bytes.
    """

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self.written = 0

    def take(self, pid: int, spans: Sequence[SpanFacts]) -> None:
        """Write *spans* of the process *pid*."""
        piece = {
            "resource": {"attributes": _pairs(_resource(pid))},
            "scopeSpans": [
                {
                    "scope": {"name": "aioaudit", "version": __version__},
                    "spans": [span_json(each) for each in spans],
                }
            ],
        }
        self._stream.write((b",\n" if self.written else _BEGIN) + _encode(piece))
        self.written += len(spans)

    def begin_again(self) -> None:
        """Take back what was written."""
        self._stream.seek(0)
        self._stream.truncate()
        self.written = 0

    def finish(self) -> None:
        """Write the end."""
        self._stream.write(b"\n]}\n" if self.written else _BEGIN + b"]}\n")


def span_json(facts: SpanFacts) -> dict[str, Any]:
    """The span of *facts* by the rules of OTLP JSON."""
    span: dict[str, Any] = _ids(facts.trace, facts.span_id)
    if facts.parent is not None:
        span["parentSpanId"] = f"{facts.parent:016x}"
    span |= {
        "flags": _KNOWN_TO_BE_LOCAL,
        "name": facts.name,
        "kind": _INTERNAL,
        "startTimeUnixNano": str(facts.start),
        "endTimeUnixNano": str(facts.end),
        "attributes": _pairs(facts.attributes),
    }
    if facts.links:
        span["links"] = [
            _ids(each.trace, each.span_id)
            | {"attributes": _pairs({"aioaudit.link": each.kind}), "flags": _KNOWN_TO_BE_LOCAL}
            for each in facts.links
        ]
    span["status"] = {} if facts.error is None else {"code": _ERROR, "message": facts.error}
    return span


def _ids(trace: Trace, span_id: int) -> dict[str, Any]:
    return {"traceId": f"{trace.id:032x}", "spanId": f"{span_id:016x}"}


def _pairs(attributes: dict[str, Value]) -> list[dict[str, Any]]:
    return [{"key": key, "value": _value(value)} for key, value in attributes.items()]


def _value(value: Value) -> dict[str, Any]:
    match value:
        case bool():
            return {"boolValue": value}
        case int():
            return {"intValue": str(value)}
        case float():
            return {"doubleValue": value}
        case str():
            return {"stringValue": value}
        case list():
            return {"arrayValue": {"values": [_value(each) for each in value]}}


@lru_cache
def _resource(pid: int) -> dict[str, Value]:
    """Who the spans are from, by the variables that OpenTelemetry has for it."""
    attributes: dict[str, Value] = {"service.name": "unknown_service"}
    for pair in os.environ.get("OTEL_RESOURCE_ATTRIBUTES", "").split(","):
        key, equals, value = pair.partition("=")
        if equals and key.strip():
            attributes[key.strip()] = unquote(value.strip())
    name = os.environ.get("OTEL_SERVICE_NAME", "").strip()
    if name:
        attributes["service.name"] = name
    return attributes | {"process.pid": held(pid)}
