"""Every call site that a recogniser counts on is in the release of its library that is installed."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from aioaudit.recognisers import registry
from tests.conftest import clean_environ

pytest.importorskip("packaging")
pytest.importorskip("click")


@pytest.fixture(scope="module")
def findings(
    audited_python: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, dict[str, Any]]:
    """What ``doctor`` says of each library.

    It is asked in a process of its own: pytest rewrites modules of libraries that are plugins of
    it, anyio's for one, and then they cannot be looked into.
    """
    done = subprocess.run(
        [audited_python, "-m", "aioaudit", "doctor", "--json"],
        cwd=tmp_path_factory.mktemp("doctor"),
        env=clean_environ(),
        capture_output=True,
        text=True,
        timeout=120,
    )
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found, done.stderr
    return {
        each["subject"].partition(" ")[0]: each
        for each in found
        if each["section"] == "recognisers"
    }


@pytest.mark.parametrize("library", sorted(registry.OWN))
def test_every_call_site_is_in_the_library_that_is_installed(
    library: str, findings: dict[str, dict[str, Any]]
) -> None:
    found = findings[library]
    if found["state"] == "none":
        pytest.skip(f"{library} is not installed")
    # What is compiled cannot be looked into: of grpc one site, which its own tests meet.
    compiled = {"grpc._cython.cygrpc:_schedule_rpc_coro"} if library == "grpc" else set()
    states = found["call_sites"]
    assert "there" in states.values()
    unknown = {
        site for site, each in states.items() if each not in ("there", "not in this version")
    }
    assert unknown <= compiled, found["text"]
