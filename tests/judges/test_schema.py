"""Every line that any test before this one had logged is a line of the schema.

It runs last and reads all logs that the session's tests left in their folders, or, as
the last part of ``make test``, the tests of the part before: ``AIOAUDIT_TEST_LOGS``.
Logs of the exporter are told from those that a test wrote by hand by their mode:
the exporter makes files for their owner only.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest

from aioaudit.events import AnyEvent
from tests.conftest import ROOT

TORN = {
    "test_after_sigkill_what_was_wr": "the test cuts its log off",
    "test_damaged_lines_are_named_a": "the test adds a line of rubbish",
    "test_when_the_disk_has_room_ag": "a half line of a full disk stays in a file that others share",
}
"""Folders, as pytest names them, of tests whose logs hold one half line, and why."""

SCHEMA: dict[str, Any] = json.loads((ROOT / "docs" / "events.schema.json").read_text())
SHAPES: dict[str, dict[str, Any]] = {
    name: SCHEMA["$defs"][reference.rpartition("/")[2]]
    for name, reference in SCHEMA["discriminator"]["mapping"].items()
}
CHECKED = {"type", "enum", "anyOf", "items", "required", "properties"}
"""The words of JSON schema that ours uses to forbid something: `shape` must look at each."""
TOLD = {"$ref", "$defs", "title", "description", "default", "discriminator"}
"""Those that forbid nothing, or (``$ref``) only name what does."""


def words(schema: Any) -> Iterator[str]:
    """The words of JSON schema in *schema*, without the names of keys and definitions."""
    if isinstance(schema, list):
        for each in schema:
            yield from words(each)
    elif isinstance(schema, dict):
        for word, value in schema.items():
            yield word
            if word in {"properties", "$defs"}:
                for each in value.values():
                    yield from words(each)
            elif word in {"anyOf", "items"}:
                yield from words(value)


def shape(line: dict[str, Any]) -> tuple[Any, ...]:
    """What the schema can tell lines apart by: two lines of one shape are both valid or neither."""
    keys = SHAPES.get(line.get("event", ""), {}).get("properties", {})
    return tuple(
        (
            key,
            type(value).__name__,
            value if "enum" in words(keys.get(key)) else None,
            tuple({type(each).__name__ for each in value}) if isinstance(value, list) else None,
        )
        for key, value in line.items()
    )


def problem(line: bytes, seen: set[tuple[Any, ...]]) -> str | None:
    """What is wrong with *line*, None for a valid one; shapes that were *seen* are not tried."""
    try:
        found = json.loads(line)
        if msgspec.to_builtins(msgspec.json.decode(line, type=AnyEvent)) != found:
            return "holds an unknown key, or a default written out"
        known = shape(found)
        if known not in seen:
            jsonschema.Draft202012Validator(SCHEMA).validate(found)
            seen.add(known)
    except (ValueError, jsonschema.ValidationError) as error:
        return str(error).splitlines()[0]
    return None


def logs(folder: Path) -> list[Path]:
    """The logs that the exporter made somewhere in *folder*."""
    return [
        path
        for path in sorted(folder.rglob("*.jsonl"))
        if not path.is_symlink() and path.is_file() and stat.S_IMODE(path.stat().st_mode) == 0o600
    ]


def made_by(path: Path) -> str:
    """The test that left *path*, as pytest names folders; xdist's processes have one each."""
    folder = path.parts[path.parts[0].startswith("popen-gw")]
    return folder.rstrip("0123456789")


@pytest.mark.last
@pytest.mark.timeout(600)
def test_every_line_that_the_tests_before_logged_is_valid(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    base = Path(os.environ.get("AIOAUDIT_TEST_LOGS") or tmp_path_factory.getbasetemp())
    seen: set[tuple[Any, ...]] = set()
    wrong: list[str] = []
    count = 0
    for path in logs(base):
        torn = 0
        for number, line in enumerate(path.read_bytes().split(b"\n")[:-1], 1):
            said = problem(line, seen)
            count += 1
            if said is not None:
                torn += 1
                if torn > 1 or made_by(path.relative_to(base)) not in TORN:
                    wrong.append(f"{path}:{number}: {said}: {line[:300]!r}")
    if not count:
        pytest.skip("no test before this one logged anything")
    assert wrong == []


def test_the_schema_forbids_nothing_that_the_comparison_by_shape_would_miss() -> None:
    assert set(words(SCHEMA)) <= CHECKED | TOLD


GOOD = (
    b'{"event":"loop.start","ts":"2026-01-01T00:00:00.000000Z","seq":1,"run":"r","pid":1,'
    b'"thread":"t","loop":1}'
)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b'"seq":1', b'"seq":"1"'),
        (b'"seq":1,', b""),
        (b'"loop":1', b'"loop":null'),
        (b'"loop":1', b'"loop":1,"more":2'),
        (b"loop.start", b"loop.begin"),
        (b"}", b""),
    ],
)
def test_a_wrong_line_would_be_noticed(old: bytes, new: bytes) -> None:
    seen: set[tuple[Any, ...]] = set()
    assert problem(GOOD, seen) is None
    assert len(seen) == 1
    assert problem(GOOD.replace(old, new, 1), seen) is not None


def test_values_that_the_schema_lists_make_a_shape_of_their_own() -> None:
    done = {"event": "task.done", "outcome": "returned", "name": "a"}
    assert shape(done) == shape(done | {"name": "b"})
    assert shape(done) != shape(done | {"outcome": "raised"})
    assert shape(done) != shape(done | {"name": 1})
    start = {"event": "process.start", "argv": ["a"]}
    assert shape(start) == shape({"event": "process.start", "argv": ["b", "c"]})
    assert shape(start) != shape({"event": "process.start", "argv": [1]})
