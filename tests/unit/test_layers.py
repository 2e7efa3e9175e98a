"""The arrows between modules, drawn from their imports: none runs in a circle or upward.

Imports inside functions count, and so do those for type checkers only: who knows of whom is
the question, not what is loaded when.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.sources

LAYERS = (
    # What needs nothing of ours but more of the same
    "version errors cpython weak threads text faults events bus settings redaction auditing changes"
    " opening timestamps addresses live.folder live.protocol dumps live",
    # What the hot paths run in
    "core",
    "identity chain forks lifecycle",
    # One code object, one frame, one place, one item of a queue
    "stack place",
    "exporter delivery",
    # Who hears what; what is known
    "sending state",
    # Questions, answered from what is known
    "recognisers",
    "causes findings live.tasks",
    "recorder",
    "probes",
    # What reads a log, or an event
    "log live.client",
    "sql",
    "exporters.memory exporters.lines exporters.jsonl exporters.logging exporters.structlog"
    " exporters.recorder trail",
    "loading",
    "session",
    "exporters",
    # Into a process that runs
    "attach",
    "startup doctor cli testing __main__",
)
"""From the bottom to the top: a name stands for a module or a package, the longest one counts.

Within a line, and above it, nobody knows of whom it may not: a module may import those of its
own package, those of its line, and those below.  `docs/design.md` says what they are for.
"""

ALLOWED: frozenset[tuple[str, str]] = frozenset(
    {
        # It is loaded like any exporter, and asks the session how many tasks live.
        ("loading", "exporters.otel"),
        # Names of types only: what spans are made with, and what sends them.
        ("exporters.otel.tracer", "exporters.otel.sending"),
    }
)


def modules() -> dict[str, Path]:
    """Every module by its name, without ``aioaudit.``; the package itself is all layers' face."""
    found: dict[str, Path] = {}
    for folder, prefix in ((ROOT / "aioaudit", ""), (ROOT / "exporters", "exporters.")):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            if parts[0] == "_startup":  # lands at the root of site-packages
                continue
            if parts[-1] == "__init__":
                parts = parts[:-1]
            name = (prefix + ".".join(parts)).rstrip(".")
            if name:
                found[name] = path
    found["core._core"] = ROOT / "aioaudit" / "core" / "_core.pyi"  # of C
    return found


def arrows() -> Iterator[tuple[str, str]]:
    """Who imports whom, both by name."""
    known = modules()
    for name, path in known.items():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            asked: list[str] = []
            if isinstance(node, ast.Import):
                asked = [each.name for each in node.names]
            elif isinstance(node, ast.ImportFrom):
                assert node.level == 0
                assert node.module is not None
                asked = [f"{node.module}.{each.name}" for each in node.names]
            for each in asked:
                if each.partition(".")[0] != "aioaudit":
                    continue
                target = each.partition(".")[2]
                while target and target not in known:
                    target = target.rpartition(".")[0]
                if target and target != name:
                    yield name, target


def height(name: str) -> int:
    """The number of the layer that *name* belongs to."""
    while True:
        for number, layer in enumerate(LAYERS):
            if name in layer.split():
                return number
        outer = name.rpartition(".")[0]
        assert outer, f"{name} is in no layer"
        name = outer


def test_no_arrow_runs_upward() -> None:
    upward = {
        f"{source} -> {target}"
        for source, target in arrows()
        if height(target) > height(source) and (source, target) not in ALLOWED
    }
    assert not upward


def test_no_arrows_run_in_a_circle() -> None:
    ahead: dict[str, set[str]] = {name: set() for name in modules()}
    for source, target in set(arrows()) - ALLOWED:
        ahead[source].add(target)
    # Whoever knows of nobody is taken away, again and again; what is left runs in circles.
    while free := [name for name, targets in ahead.items() if not targets]:
        for name in free:
            del ahead[name]
        for targets in ahead.values():
            targets.difference_update(free)
    # And whom nobody knows of, who only leads there.
    while outer := set(ahead) - set().union(*ahead.values()):
        for name in outer:
            del ahead[name]
    assert not ahead


def test_no_two_packages_know_of_each_other() -> None:
    packages = {name.partition(".")[0] for name in modules() if "." in name}
    pairs = {(source.partition(".")[0], target.partition(".")[0]) for source, target in arrows()}
    both = {
        pair for pair in pairs if pair[0] < pair[1] and pair[::-1] in pairs and packages > set(pair)
    }
    assert not both


def test_every_layer_is_there() -> None:
    names = [name for layer in LAYERS for name in layer.split()]
    assert len(names) == len(set(names))
    assert set(names) <= set(modules())


def test_along_causes_and_successors_there_is_one_walk_each() -> None:
    """What steps from a request to its ``cause`` or ``successor`` again and again: one function."""
    found: list[tuple[str, str]] = []
    for name, path in modules().items():
        for loop in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(loop, ast.While | ast.For):
                continue
            found += [
                (name, step.value.attr)
                for step in ast.walk(loop)
                if isinstance(step, ast.Assign)
                and isinstance(step.value, ast.Attribute)
                and step.value.attr in ("cause", "successor")
                and ast.unparse(step.targets[0]) == ast.unparse(step.value.value)
            ]
    # `chain.walk.back` asks whoever knows what a cause is: memory has it, a log looks it up.
    assert found == [("chain.obeyed", "successor")]
