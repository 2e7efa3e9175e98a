"""The names of OpenTelemetry that are read without a promise: each is there, old or new."""

from __future__ import annotations

import importlib
import sys

import pytest

pytest.importorskip("opentelemetry.sdk")

from aioaudit.cpython.internals import Internal
from aioaudit.doctor.internals import missing_imported
from aioaudit.exporters.otel.internals import INTERNALS


@pytest.mark.parametrize("each", INTERNALS, ids=lambda each: each.name)
def test_a_name_that_the_exporter_reads_is_there(each: Internal) -> None:
    assert each.is_there()


def test_one_that_is_not_is_a_line_of_the_doctor() -> None:
    renamed = tuple(each._replace(name=f"{each.name}_of_old") for each in INTERNALS)
    moved = INTERNALS[0]._replace(where="opentelemetry.sdk.elsewhere:Tracer")
    found = list(missing_imported((*INTERNALS, *renamed, moved), "exporters", "OpenTelemetry 9"))
    assert [each.subject for each in found] == [each.full for each in (*renamed, moved)]
    assert [each.state for each in found] == [
        "warning" if each.loses else "note" for each in (*renamed, moved)
    ]
    assert found[0].text == f"missing in OpenTelemetry 9; lost: {INTERNALS[0].lost}"


def test_what_the_instrumentation_needs_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "aioaudit.exporters.otel.instrumentor", raising=False)
    monkeypatch.setitem(sys.modules, "opentelemetry.instrumentation.instrumentor", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'aioaudit\[otel-instrument\]'"):
        importlib.import_module("aioaudit.exporters.otel.instrumentor")
