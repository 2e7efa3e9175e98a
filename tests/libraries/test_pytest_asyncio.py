"""pytest-asyncio ends its loops: the answer says whose loop it was."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import aioaudit
from tests.conftest import Runner
from tests.recognising import links

if find_spec("pytest_asyncio") is None:
    pytest.skip("pytest-asyncio is not installed", allow_module_level=True)

TESTS = """\
import asyncio

import pytest
import pytest_asyncio

kept = []


async def work():
    await asyncio.sleep(60)


async def leave(name):
    kept.append(asyncio.create_task(work(), name=name))
    await asyncio.sleep(0)


@pytest_asyncio.fixture
async def server():
    await leave("of a fixture")
    yield


@pytest.mark.asyncio
@pytest.mark.parametrize("number", [1, 2])
async def test_leaves(number):
    await leave(f"of test {number}")


@pytest.mark.asyncio
async def test_fails(server):
    await leave("of a failed one")
    raise ValueError


class TestsOfAClass:
    @pytest.mark.asyncio(loop_scope="class")
    async def test_first(self):
        await leave("of a class")

    @pytest.mark.asyncio(loop_scope="class")
    async def test_last(self):
        pass


@pytest.mark.asyncio(loop_scope="module")
async def test_of_module():
    await leave("of a module")


@pytest.mark.asyncio(loop_scope="session")
async def test_of_session():
    await leave("of a session")
"""

ENDS = {
    "of a fixture": "test_app.py::test_fails",
    "of test 1": "test_app.py::test_leaves[1]",
    "of test 2": "test_app.py::test_leaves[2]",
    "of a failed one": "test_app.py::test_fails",
    "of a class": "test_app.py::TestsOfAClass",
    "of a module": "test_app.py",
    "of a session": "all tests",
}


def test_what_a_test_left_says_whose_loop_ended(run_python: Runner, tmp_path: Path) -> None:
    (tmp_path / "test_app.py").write_text(TESTS)
    done = run_python(
        *("-m", "pytest", "-q", "-p", "no:cacheprovider", "-p", "no:xdist"),
        *("-o", "asyncio_default_fixture_loop_scope=function", "test_app.py"),
        AIOAUDIT="jsonl",
        AIOAUDIT_JSONL_PATH="log.jsonl",
        PYTEST_ADDOPTS="",
    )
    assert "1 failed, 6 passed" in done.stdout, done.stderr
    log = aioaudit.load(tmp_path / "log.jsonl")
    for name, scope in ENDS.items():
        [answer] = log.why(name)
        root = links(answer)[-1]
        assert (root["what"], root["reason"]) == ("shutdown", "shutdown")
        assert root["at"] == "pytest_asyncio/plugin.py"
        assert root["detail"] == f"the loop that pytest-asyncio had for {scope}"
        assert "asyncio.run" not in answer.summary
