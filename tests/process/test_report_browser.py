"""`aioaudit report` in a real browser: clicks, keys, search, light and dark, and hostile names.

``make test`` installs the npm package ``playwright-core`` into ``.venv/browser`` where Node.js and npm
are there, and names the folder in ``AIOAUDIT_TEST_BROWSER`` on the newest Python, for one is enough:
what is looked at is the page.  The browser is Debian's Chromium.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("click")
pytest.importorskip("jinja2")

from tests.conftest import ROOT, WHEEL, clean_environ
from tests.report_logs import HOSTILE, hostile, large, shop, write
from tests.waiting import PATIENCE

FOLDER = Path(os.environ.get("AIOAUDIT_TEST_BROWSER") or ROOT / ".venv" / "browser")
NODE = shutil.which("node")
CHROMIUM = shutil.which("chromium")
TASKS = 20_000


def lacking() -> str:
    """What is not here that these tests need."""
    if WHEEL and not os.environ.get("AIOAUDIT_TEST_BROWSER"):
        return "one Python is enough, make test names the browser's driver on the newest"
    if CHROMIUM is None:
        return "Chromium is not installed"
    if NODE is None:
        return "Node.js is not installed"
    if not (FOLDER / "node_modules" / "playwright-core").exists():
        return f"no playwright-core in {FOLDER}"
    return ""


pytestmark = pytest.mark.skipif(bool(lacking()), reason=lacking())


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What report_browser.mjs saw."""
    folder = tmp_path_factory.mktemp("reports")
    logs = {"shop": shop(), "hostile": hostile(), "large": large(TASKS)}
    for name, events in logs.items():
        write(folder / f"{name}.jsonl", *events)
        words = ["-m", "aioaudit", "report", f"{name}.jsonl", "-o", f"{name}.html"]
        subprocess.run(
            [sys.executable, *words],
            cwd=folder,
            env=clean_environ() | ({} if WHEEL else {"PYTHONPATH": str(ROOT)}),
            check=True,
            capture_output=True,
            timeout=PATIENCE,
        )
    assert NODE is not None
    assert CHROMIUM is not None
    done = subprocess.run(
        [NODE, str(ROOT / "tests" / "report_browser.mjs"), str(FOLDER), CHROMIUM, str(folder)],
        env=clean_environ(HOME=str(folder)),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_root_causes_are_ranked_and_drawn_over_time(seen: dict[str, Any]) -> None:
    assert seen["headline"] == (
        "6 tasks cancelled, 3 root causes; 1 swallowed it; 1 absorbed it; 1 of unknown cause"
    )
    first, second, third = seen["causes"]
    assert first.startswith("price failed with ConnectionResetError: upstream hung up at shop.py:7")
    assert "1 inferred" in first
    assert second.startswith("shop:retire called cancel() at shop.py:24 in task main")
    assert third.startswith("unknown: the line with seq 5990")
    assert third.endswith("unknown")
    assert seen["swatches"] == 3
    assert seen["wrong"] == seen["wrongDark"] == []


def test_an_incident_shows_who_cancelled_whom(seen: dict[str, Any]) -> None:
    root = "price failed with ConnectionResetError: upstream hung up at shop.py:7, in shop:price"
    assert seen["title"] == root
    assert seen["boxes"] == [root, "2 x fetch", "page", "a future", "wait (waiter), inferred"]
    assert seen["edges"] == 4
    assert seen["evidence"][0] == root
    assert "fetch was cancelled, reason task_group, by task page" in seen["evidence"][1]
    assert "it was suspended at shop.py:12" in seen["evidence"][1]


def test_its_time_line_says_where_each_task_waited(seen: dict[str, Any]) -> None:
    lanes = seen["lanes"]
    assert lanes[lanes.index("fetch (reviews)") + 1] == "waited at shop.py:12"
    assert lanes[lanes.index("page") + 1] == "waited at shop.py:18"
    assert "price: failed" in lanes


def test_a_task_says_what_why_says(seen: dict[str, Any]) -> None:
    assert len(seen["tasks"]) == 4
    assert seen["answer"] == [
        "fetch (reviews) was cancelled because price failed with ConnectionResetError: upstream "
        "hung up at shop.py:7",
        "It obeyed and ended at 14:00:00.111 (+10.0 ms after the request), after a life of 100.0 ms.",
    ]


def test_an_incident_has_an_address(seen: dict[str, Any]) -> None:
    assert seen["address"] == "#incident-0"
    assert seen["backAgain"] is False


def test_all_of_it_is_reached_by_keys(seen: dict[str, Any]) -> None:
    assert seen["hits"] == "1 task in 1 incident"
    assert seen["firstResult"].startswith("fetch (reviews)")
    assert seen["byKeys"]["title"] == seen["title"]
    [task] = seen["byKeys"]["tasks"]
    assert task.startswith("fetch (reviews)")
    assert seen["onBox"] == seen["pressed"] == seen["title"]
    shown, focused = seen["closed"]
    assert not shown
    assert focused.startswith("fetch (reviews)")
    assert seen["nothing"] == {"hits": "0 tasks in 0 incidents", "results": ["nothing found"]}
    assert seen["overviewAgain"] is True


def test_it_follows_light_and_dark_and_fits_a_narrow_screen(seen: dict[str, Any]) -> None:
    def brightness(colour: str) -> int:
        return sum(map(int, colour.removeprefix("rgb(").removesuffix(")").split(", ")))

    assert brightness(seen["paper"]) > 700
    paper, ink = seen["dark"]
    assert brightness(paper) < 150
    assert brightness(ink) > 600
    assert seen["narrow"] is True


def test_nothing_that_a_name_holds_is_run(seen: dict[str, Any]) -> None:
    found = seen["hostile"]
    assert found["pwned"] is None
    assert found["strangers"] == 0
    assert found["scripts"] == 3  # two blocks of data and ours
    assert found["wrong"] == []
    for text in HOSTILE[:7]:
        assert text in found["shown"]
    assert "\\u202eright to left\\u2066" in found["shown"]
    assert not {"\u202e", "\u2028", "\x00"} & set(found["shown"])
    assert found["{{"] == "1 task in 1 incident"
    assert found["<script"] == "2 tasks in 2 incidents"


def test_its_own_policy_stops_what_would_get_in(seen: dict[str, Any]) -> None:
    assert seen["hostile"]["injected"] is None
    assert seen["hostile"]["refused"] >= 2


def test_many_tasks_are_folded_and_found(seen: dict[str, Any]) -> None:
    found = seen["large"]
    assert found["hits"] == "11 tasks in 1 incident"  # 1999, and 19990 to 19999
    assert [each.partition(" x ")[2] for each in found["boxes"][1:]] == [
        "fetch_0",
        "fetch_1",
        "fetch_2",
    ]
    assert found["tasks"] <= 51
    assert found["moreTasks"] > found["tasks"]
    assert found["elements"] < 1_000
    assert found["wrong"] == []
