"""Draw docs/report.png: what `aioaudit report` makes of the incidents of `examples/demo.py`.

    python tools/report_picture.py [FILE]

Stages them, makes one report of their logs, opens the incident whose upstream resets a connection
in Chromium, and keeps what is seen.  Needs a Python in which ``AIOAUDIT=jsonl`` works, the extras
``cli`` and ``report``, aiohttp, and Chromium (``CHROMIUM`` may name it).
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from importlib import import_module
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "report.png"
SIZE = "1060,600"
SHOWN = "price of teapot failed"
"""How the root cause begins of the incident that is opened."""
PROGRAMS = ("demo.py", "service.py", "upstream.py")
LEFT_OUT = "left"
"""An incident whose root cause is a line of aiohttp, wherever that is installed."""

OPTIONS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
    "--hide-scrollbars",
    "--force-device-scale-factor=1",
    f"--window-size={SIZE}",
)


def main(argv: list[str]) -> int:
    """Make the picture; returns the exit status."""
    path = Path(argv[0]).resolve() if argv else PICTURE
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    if chromium is None:
        print("Chromium is not installed", file=sys.stderr)
        return 1
    with tempfile.TemporaryDirectory(prefix="shop-") as name:
        folder = Path(name)
        stage(folder)
        words = [sys.executable, "-m", "aioaudit", "report", "logs", "-o", "report.html"]
        subprocess.run(words, check=True, cwd=folder)
        page = folder / "report.html"
        subprocess.run(
            [
                chromium,
                *OPTIONS,
                f"--user-data-dir={folder / 'profile'}",
                f"--screenshot={path}",
                f"{page.as_uri()}#incident-{incident_in(page)}",
            ],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def stage(folder: Path) -> None:
    """Let happen what happens in the demonstration, but for one; its logs go to ``logs``.

    The programs are copied, so that their lines are told without the folder that they are in.
    """
    for program in PROGRAMS:
        shutil.copy(ROOT / "examples" / program, folder)
    sys.path.insert(0, str(folder))
    demo = import_module("demo")

    (folder / "logs").mkdir()
    for incident in demo.INCIDENTS:
        if incident.name != LEFT_OUT:
            demo.stage(incident, folder / "logs" / f"{incident.name}.jsonl")


def incident_in(page: Path) -> int:
    """The number of the incident that is to be opened."""
    found = re.search(r'id="overview-data">(.*?)</script>', page.read_text())
    assert found is not None
    overview: dict[str, Any] = json.loads(found[1])
    causes = overview["causes"]
    return next(int(each["start"]) for each in causes if each["text"].startswith(SHOWN))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
