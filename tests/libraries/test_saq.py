"""SAQ cancels: a real Redis server, a real worker, jobs that last."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

import pytest

import aioaudit
from tests.conftest import Runner
from tests.recognising import about, links
from tests.servers import redis_server

if find_spec("saq") is None:
    pytest.skip("SAQ is not installed", allow_module_level=True)

JOBS = Path(__file__).with_name("recognised") / "saq_jobs.py"


def test_jobs_say_who_aborted_them_which_time_was_over_and_that_their_worker_stopped(
    run_python: Runner, tmp_path: Path
) -> None:
    with redis_server() as port:
        done = run_python(
            str(JOBS),
            f"redis://127.0.0.1:{port}",
            AIOAUDIT="jsonl",
            AIOAUDIT_JSONL_PATH="log.jsonl",
        )
    assert done.returncode == 0, done.stderr
    assert "aioaudit" not in done.stderr
    log = aioaudit.load(tmp_path / "log.jsonl")

    aborted = log.why("aborted")[0]  # 0.16 may begin it once more
    said = {"reason": "saq.aborted", "detail": "a process called Job.abort(): not wanted"}
    assert links(aborted) == [
        {"what": "cancelled", "name": "aborted", **said},
        {"what": "called", **said},
    ]
    [slow] = log.why("slow")
    root = links(slow)[-1]
    assert (root["what"], root["reason"], root["seconds"]) == ("deadline", "timeout", about(1))
    assert root["at"] == "saq/worker.py"
    [left] = log.why("left")
    root = links(left)[-1]
    assert root["reason"] in ("saq.shutdown", "gather")  # since 0.26 it gathers all at once
    assert root["at"] == "saq/worker.py"
    assert root["detail"] == "the worker stopped"
