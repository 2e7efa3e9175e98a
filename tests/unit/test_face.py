"""The face of the package: what is asked of it first, and all errors under one base."""

from __future__ import annotations

import ast
import importlib
import pkgutil
from importlib.util import find_spec
from pathlib import Path

import pytest

import aioaudit
import aioaudit.exporters

BUILTIN_BASES = {
    "SettingsError": ValueError,
    "UnsupportedError": RuntimeError,
    "NoToolError": RuntimeError,
}
"""What an ``except`` clause of before there was a base of ours may name."""


def errors() -> dict[str, type[BaseException]]:
    """Every class of ours that is an error by its name."""
    found: dict[str, type[BaseException]] = {}
    for each in pkgutil.walk_packages(aioaudit.__path__, "aioaudit."):
        if each.name.split(".")[1] in ("__main__", "_startup"):
            continue
        if each.name == "aioaudit.core.native" and not find_spec("aioaudit.core._core"):
            continue  # where there was no compiler
        try:
            module = importlib.import_module(each.name)
        except ModuleNotFoundError as error:  # an optional library is not installed
            if (error.name or "aioaudit").startswith("aioaudit"):
                raise
            continue
        for name, value in vars(module).items():
            ours = isinstance(value, type) and value.__module__ == each.name
            if ours and issubclass(value, BaseException) and name.endswith("Error"):
                found[name] = value
    return found


def test_every_error_of_ours_has_one_base_and_keeps_its_builtin_one() -> None:
    found = errors()
    assert {*BUILTIN_BASES, "ExporterError", "NotTakenError", "PlantedError"} <= set(found)
    assert [
        name for name, cls in found.items() if not issubclass(cls, aioaudit.AioauditError)
    ] == []
    for name, base in BUILTIN_BASES.items():
        assert issubclass(found[name], base)


def test_a_bad_setting_of_code_is_caught_by_each_of_its_names() -> None:
    for base in (aioaudit.AioauditError, aioaudit.SettingsError, ValueError):
        with pytest.raises(base, match="is no exporter"):
            aioaudit.enable("nosuchexporter")


@pytest.mark.parametrize("name", aioaudit.__all__)
def test_each_public_name_can_be_imported_from_the_top(name: str) -> None:
    value = getattr(aioaudit, name)
    home = aioaudit._LAZY.get(name)
    if home is not None:
        assert value is getattr(importlib.import_module(home), name)


def test_what_is_lazy_is_all_that_is_public_and_what_type_checkers_are_told() -> None:
    source = Path(aioaudit.__file__).read_text(encoding="utf-8")
    [block] = [node for node in ast.parse(source).body if isinstance(node, ast.If)]
    told = {
        alias.name: node.module
        for node in block.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    lazy = aioaudit._LAZY
    assert {name: told.get(name) for name in lazy} == lazy
    assert set(lazy) | {"__version__", "source", "why"} == set(aioaudit.__all__)


def test_what_is_not_loaded_yet_is_listed_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(vars(aioaudit), "Log", raising=False)  # as before it is first used
    assert set(aioaudit.__all__) <= set(dir(aioaudit))
    assert "why" in dir(aioaudit)
