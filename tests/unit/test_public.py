"""What is public: one page lists it, the modules say the same, and nobody is shown anything else."""

from __future__ import annotations

import ast
import builtins
import importlib
import inspect
import itertools
import re
import typing
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from types import ModuleType
from typing import Any

import msgspec
import pytest

import aioaudit
from tests.conftest import ROOT

pytestmark = pytest.mark.sources

PRIVATE = "Private."
"""What the docstring of a private module or package begins with."""

INSIDE = "The modules in here are private"
"""What the docstring of a public package says of its modules."""


def listed() -> dict[str, set[str]]:
    """The names on the page, by module."""
    found: dict[str, set[str]] = {}
    for section in (ROOT / "docs" / "api.md").read_text().split("\n## ")[1:]:
        module = section.partition("`")[2].partition("`")[0]
        rows = re.findall(r"^\| (`.+?) \|", section, re.MULTILINE)
        found[module] = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    return found


PUBLIC = listed()
PREFIX = "aioaudit.exporters"
"""What holds the exporters, and nothing of its own."""


def loaded(module: str) -> ModuleType:
    """The module; what needs a library that is not there is passed over."""
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if (error.name or "aioaudit").startswith("aioaudit"):
            raise
        pytest.skip(f"{error.name} is not installed")


def sources() -> Iterator[tuple[str, Path]]:
    """Every module of the package by its name, and its file."""
    for folder, prefix in ((ROOT / "aioaudit", "aioaudit"), (ROOT / "exporters", PREFIX)):
        for path in sorted(folder.rglob("*.py")):
            parts = path.relative_to(folder).with_suffix("").parts
            name = ".".join((prefix, *(part for part in parts if part != "__init__")))
            yield name, path


@pytest.mark.parametrize("module", PUBLIC)
def test_the_page_and_the_module_name_the_same(module: str) -> None:
    names = loaded(module).__all__
    assert set(names) == PUBLIC[module]
    assert len(names) == len(set(names))


def test_every_other_module_says_that_it_is_private() -> None:
    docs = {name: ast.get_docstring(ast.parse(path.read_text())) or "" for name, path in sources()}
    for name, doc in docs.items():
        outer = name.rpartition(".")[0]
        by_name = any(part.startswith("_") for part in name.split("."))
        by_package = docs.get(outer, "").startswith(PRIVATE) or INSIDE in docs.get(outer, "")
        private = by_name or by_package or doc.startswith(PRIVATE)
        assert private or name in PUBLIC or name == PREFIX, name
        assert not (name in PUBLIC and doc.startswith(PRIVATE)), name
    assert set(PUBLIC) <= set(docs)


# -- what people are shown ---------------------------------------------------------------

BLOCK = re.compile(r"^( *)```python\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def shown() -> Iterator[tuple[str, str]]:
    """Every program in a document, every example, and where it stands."""
    pages = [*ROOT.glob("*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
    for path in pages:
        text = path.read_text()
        for block in BLOCK.finditer(text):
            line = text.count("\n", 0, block.start()) + 1
            yield f"{path.relative_to(ROOT)}:{line}", dedent(block[2])
    for path in sorted((ROOT / "examples").rglob("*.py")):
        yield str(path.relative_to(ROOT)), path.read_text()


def used(program: str) -> Iterator[tuple[str, str]]:
    """The names of ours that *program* uses, each with its module."""
    tree = ast.parse(program)
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.startswith("aioaudit"):
                    yield alias.name, ""
        elif isinstance(node, ast.ImportFrom):
            module = node.module or ""
            if module.partition(".")[0] == "aioaudit":
                yield from ((module, alias.name) for alias in node.names)
        elif isinstance(node, ast.Attribute) and ast.unparse(node.value) == "aioaudit":
            yield "aioaudit", node.attr


def is_public(module: str, name: str) -> bool:
    """Whether *module* and its *name* may be used; a module may be a name of its package."""
    whole = f"{module}.{name}"
    inside = any(each == whole or each.startswith(f"{whole}.") for each in PUBLIC)
    return inside or (module in PUBLIC and (not name or name in PUBLIC[module]))


def test_documents_and_examples_use_nothing_that_is_not_public() -> None:
    found = [(where, *each) for where, program in shown() for each in used(program)]
    assert len(found) > 50
    assert [each for each in found if not is_public(*each[1:])] == []


# -- what docstrings say -----------------------------------------------------------------


def described() -> Iterator[tuple[str, Any]]:
    """Every public function and class, and the methods of the classes that are ours."""
    seen: set[int] = set()
    for module, names in PUBLIC.items():
        try:
            there = importlib.import_module(module)
        except ModuleNotFoundError:
            continue  # a test above tells of one that should be there
        for name in sorted(names):
            value = getattr(there, name)
            if id(value) in seen or not (inspect.isfunction(value) or inspect.isclass(value)):
                continue
            seen.add(id(value))
            yield f"{module}.{name}", value
            if inspect.isclass(value):
                for method, function in vars(value).items():
                    if not method.startswith("_") and inspect.isfunction(function):
                        yield f"{module}.{name}.{method}", function


DESCRIBED = dict(described())


def test_something_is_described() -> None:
    assert len(DESCRIBED) > 60
    assert {"aioaudit.enable", "aioaudit.Log.answers", "aioaudit.Auditing.disable"} <= set(
        DESCRIBED
    )


@pytest.mark.parametrize("name", DESCRIBED)
def test_a_docstring_says_what_is_given_and_what_is_raised(name: str) -> None:
    value = DESCRIBED[name]
    doc = inspect.getdoc(value) or ""
    assert vars(value).get("__doc__") if inspect.isclass(value) else doc
    function: Any = value
    if inspect.isclass(value):
        function = vars(value).get("__init__")
        if issubclass(value, msgspec.Struct) or not inspect.isfunction(function):
            return  # its fields are described in words, or it is made as every class is
        if getattr(value, "_is_protocol", False):
            return  # nobody makes one
        if (inspect.getdoc(function) or "").startswith(PRIVATE):
            return
    given = [each for each in inspect.signature(function).parameters if each != "self"]
    assert [each for each in given if not re.search(rf"\b{each}\b", doc)] == []
    code = dedent(inspect.getsource(function))
    raised = set(re.findall(r"^ +raise (\w+Error)\b", code, re.MULTILINE))
    assert [each for each in raised if each not in doc] == []


@pytest.mark.parametrize("module", PUBLIC)
def test_what_is_neither_function_nor_class_is_described_in_the_source(module: str) -> None:
    there = loaded(module)
    body = ast.parse(inspect.getsource(there)).body
    assigned: dict[str, bool] = {}
    for node, after in itertools.pairwise(body):
        if isinstance(node, ast.Assign | ast.AnnAssign):
            target = node.targets[0] if isinstance(node, ast.Assign) else node.target
            words = isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant)
            assigned[ast.unparse(target)] = words
    assert [name for name in PUBLIC[module] if not assigned.get(name, True)] == []


# -- what is given is public itself ------------------------------------------------------

OF_PYTHON = {*vars(builtins), *vars(typing)}
AT_THE_TOP = [
    name
    for name, value in DESCRIBED.items()
    if inspect.isfunction(value) and name.split(".")[1] in aioaudit.__all__
]


@pytest.mark.parametrize("name", AT_THE_TOP)
def test_what_a_function_at_the_top_gives_can_be_imported_from_there(name: str) -> None:
    told = inspect.signature(inspect.unwrap(DESCRIBED[name])).return_annotation
    tree = ast.parse(str(told), mode="eval")
    names = {node.id for node in ast.walk(tree) if isinstance(node, ast.Name)}
    assert names - OF_PYTHON <= set(aioaudit.__all__)
