"""Six incidents in a small service, and what `aioaudit why` makes of each.

    python examples/demo.py [INCIDENT...] [--logs FOLDER]

Every incident is a run of `service.py` as a process of its own, unmodified,
with ``AIOAUDIT=jsonl`` in its environment.  Afterwards the log is all that is
left of it, and `aioaudit why` has nothing else to go by.

The answers are checked: the exit status is 1 if a root cause is not the one
that was staged.
"""

from __future__ import annotations

import argparse
import http.client
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
PATIENCE = 20.0
"""Seconds after which something that should happen counts as not happening."""


class Failed(Exception):  # noqa: N818 - said of a demonstration
    """The demonstration did not go as planned; the text says how."""


class Service:
    """A running `service.py`, seen from outside."""

    def __init__(self, process: subprocess.Popen[str], port: int, log: Path) -> None:
        self.process = process
        self.port = port
        self.log = log

    def ask(self, method: str, path: str) -> bytes:
        """The answer to a request."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path)
            return connection.getresponse().read()
        finally:
            connection.close()

    def ask_and_leave(self, path: str, task: str) -> None:
        """Send a request, and close the connection when *task* is at it, before there is an answer."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE) as connection:
            connection.sendall(f"GET {path} HTTP/1.1\r\nHost: shop\r\n\r\n".encode())
            deadline = time.monotonic() + PATIENCE
            while not (self.log.exists() and f'"name":"{task}"' in self.log.read_text()):
                if time.monotonic() > deadline:
                    raise Failed(f"the service did not begin {task} within {PATIENCE:g} s")
                time.sleep(0.02)

    def wait_until(self, what: str, count: int) -> None:
        """Wait until ``GET /status`` counts *count* times *what*."""
        deadline = time.monotonic() + PATIENCE
        while json.loads(self.ask("GET", "/status")).get(what, 0) < count:
            if time.monotonic() > deadline:
                raise Failed(f"the service did not count {count} {what} within {PATIENCE:g} s")
            time.sleep(0.02)

    def drain(self) -> None:
        """Let it finish what it has, and end."""
        self.ask("POST", "/drain")

    def terminate(self) -> None:
        """Send SIGTERM."""
        self.process.send_signal(signal.SIGTERM)


def hang(shop: Service) -> None:
    """Ask for a page."""
    shop.ask("GET", "/page/teapot")
    shop.drain()


def leave(shop: Service) -> None:
    """Ask for a page, and go away."""
    shop.ask_and_leave("/page/teapot", "reviews of teapot")
    shop.drain()


def order(kind: str) -> Callable[[Service], None]:
    """Leave three orders at once, and wait until two workers were sent home."""

    def act(shop: Service) -> None:
        shop.ask("POST", f"/orders?kind={kind}&count=3")
        shop.wait_until("retired", 2)
        shop.drain()

    return act


def terminate(shop: Service) -> None:
    """Leave an order, and send SIGTERM while a worker is at it."""
    shop.ask("POST", "/orders?kind=ship")
    shop.wait_until("taken", 1)
    shop.terminate()


@dataclass(frozen=True)
class Incident:
    """What is staged, whom it hits, and who did it.

    ``root`` and ``became`` are what `aioaudit why --json` must say of ``task``,
    as far as they go; a value that ends in ``...`` stands for a beginning.
    """

    name: str
    title: str
    story: str
    act: Callable[[Service], None]
    upstream: list[str]
    task: str
    root: dict[str, object]
    became: dict[str, object] = field(default_factory=lambda: {"outcome": "cancelled"})


INCIDENTS = [
    Incident(
        name="hang",
        title="an upstream hangs",
        story="GET /page/teapot asks an upstream for three parts; the one with the reviews\n"
        "never answers.",
        act=hang,
        upstream=["--hang", "reviews"],
        task="reviews of teapot",
        root={
            "what": "deadline",
            "reason": "timeout",
            "source": "__main__:Shop.page",
            "seconds": 0.8,
        },
    ),
    Incident(
        name="reset",
        title="a sibling's connection is reset",
        story="The same page; the upstream resets the connection for the price while the\n"
        "reviews, with which nothing is wrong, are still on their way.",
        act=hang,
        upstream=["--reset", "price", "--slow", "reviews=60"],
        task="reviews of teapot",
        root={"what": "failed", "name": "price of teapot", "error": "Client..."},
    ),
    Incident(
        name="scaled",
        title="a supervisor sends a busy worker home",
        story="Three orders to ship.  The pool grows to three workers, the queue is empty\n"
        "again, the pool shrinks; two orders are lost.",
        act=order("ship"),
        upstream=["--slow", "ship=0.6"],
        task="worker-3",
        root={"what": "called", "reason": "explicit", "source": "__main__:Pool.retire"},
    ),
    Incident(
        name="left",
        title="a client goes away",
        story="The reviews hang again, and this time the client has no patience.",
        act=leave,
        upstream=["--hang", "reviews"],
        task="reviews of teapot",
        root={"what": "called", "source": "aiohttp.web_protocol:RequestHandler.connection_lost"},
    ),
    Incident(
        name="swallowed",
        title="a worker does not stop",
        story="Three orders to invoice.  Two workers are sent home as before, but they go\n"
        "on: the pool is larger than its supervisor believes.",
        act=order("invoice"),
        upstream=["--slow", "invoice=0.6"],
        task="worker-3",
        root={"what": "called", "reason": "explicit", "source": "__main__:Pool.retire"},
        became={"outcome": "returned", "cancel_outcome": "swallowed"},
    ),
    Incident(
        name="sigterm",
        title="SIGTERM in the middle of work",
        story="Somebody deploys while a worker ships an order.",
        act=terminate,
        upstream=["--hang", "ship"],
        task="worker-1",
        root={"what": "signal", "reason": "signal", "signal": "SIGTERM"},
    ),
]


def main() -> int:
    """Stage the incidents; returns the exit status."""
    parser = argparse.ArgumentParser(description="Six incidents, and what `aioaudit why` says.")
    names = [incident.name for incident in INCIDENTS]
    parser.add_argument(
        "incidents", metavar="INCIDENT", nargs="*", help=f"one of {', '.join(names)} (all)"
    )
    parser.add_argument("--logs", metavar="FOLDER", type=Path, help="keep the logs here")
    args = parser.parse_args()
    for name in args.incidents:
        if name not in names:
            parser.error(f"no incident {name!r}; there are {', '.join(names)}")
    chosen = [each for each in INCIDENTS if each.name in (args.incidents or names)]
    try:
        with log_folder(args.logs) as folder:
            wrong = [each for each in chosen if not show(each, folder)]
    except Failed as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    headline(f"{len(chosen) - len(wrong)} of {len(chosen)} root causes found")
    if args.logs is not None:
        print(f"The logs are in {args.logs}.")
    return 1 if wrong else 0


@contextmanager
def log_folder(wanted: Path | None) -> Generator[Path]:
    """The folder for the logs; a temporary one unless one is *wanted*."""
    if wanted is None:
        with tempfile.TemporaryDirectory(prefix="shop-") as folder:
            yield Path(folder)
    else:
        wanted.mkdir(parents=True, exist_ok=True)
        yield wanted


def show(incident: Incident, folder: Path) -> bool:
    """Stage *incident* and tell of it; whether its root is the one that was staged."""
    headline(f"{INCIDENTS.index(incident) + 1}. {incident.title}")
    print(incident.story + "\n", flush=True)
    log = folder / f"{incident.name}.jsonl"
    log.unlink(missing_ok=True)
    own_words = stage(incident, log)
    print("What the service's own log says:\n")
    for line in own_words.splitlines():
        print(f"    {line}")
    if not log.exists():
        raise Failed(
            f"AIOAUDIT=jsonl wrote no log: aioaudit's start-up file is not among the packages of\n"
            f"{sys.executable}. `make demo` makes an environment where it is, pip install does too."
        )
    question = ["why", str(log), "--task", incident.task]
    print(f"\n$ aioaudit {shlex.join(question)}\n", flush=True)
    command = [sys.executable, "-m", "aioaudit", *question]
    with subprocess.Popen([*command, "--json"], env=environ(), stdout=subprocess.PIPE) as asked:
        # Nothing is between it and a terminal: it wraps and colours as it does for anybody.
        subprocess.run(command, env=environ(), check=False)
        answers, _ = asked.communicate()
    return check(incident, answers)


def stage(incident: Incident, log: Path) -> str:
    """Run the service through *incident*; returns what it wrote to its own log."""
    settings = {"AIOAUDIT": "jsonl", "AIOAUDIT_JSONL_PATH": str(log)}
    with (
        started("upstream.py", *incident.upstream) as (_, upstream),
        started(
            "service.py",
            f"http://127.0.0.1:{upstream}",
            stderr=subprocess.PIPE,
            env=environ(**settings),
        ) as (process, port),
    ):
        incident.act(Service(process, port, log))
        try:
            return process.communicate(timeout=PATIENCE)[1]
        except subprocess.TimeoutExpired:
            raise Failed(f"{incident.name}: the service did not end") from None


@contextmanager
def started(
    script: str, *args: str, env: dict[str, str] | None = None, stderr: int | None = None
) -> Generator[tuple[subprocess.Popen[str], int]]:
    """*script* as a running process, and its port; killed at the end if it still runs."""
    with subprocess.Popen(
        [sys.executable, str(HERE / script), *args],
        env=environ() if env is None else env,
        stdout=subprocess.PIPE,
        stderr=stderr,
        text=True,
    ) as process:
        try:
            assert process.stdout is not None
            first = process.stdout.readline()
            if not first.startswith("listening on http://"):
                said = "" if process.stderr is None else process.stderr.read().strip()
                raise Failed(f"{script} did not start: {said or first.strip()}")
            yield process, int(first.rpartition(":")[2])
        finally:
            process.kill()


def environ(**more: str) -> dict[str, str]:
    """The environment of a program: auditing is on only where *more* says so."""
    kept = {key: value for key, value in os.environ.items() if not key.startswith("AIOAUDIT")}
    return kept | more


def check(incident: Incident, answers: bytes) -> bool:
    """Whether the one answer says what was staged; says what is wrong with it."""
    found = [json.loads(line) for line in answers.splitlines()]
    if len(found) != 1:
        print(f"\nWRONG: {len(found)} answers, not one")
        return False
    [answer] = found
    given = {**{key: answer.get(key) for key in incident.became}, **answer["root"]}
    wanted = {**incident.became, **incident.root}
    wrong = [key for key, value in wanted.items() if not matches(given.get(key), value)]
    for key in wrong:
        print(f"\nWRONG: {key} is {given.get(key)!r}, staged was {wanted[key]!r}")
    return not wrong


def matches(given: object, wanted: object) -> bool:
    """Whether *given* is what was *wanted*."""
    if isinstance(wanted, str) and wanted.endswith("..."):
        return isinstance(given, str) and given.startswith(wanted[:-3])
    return given == wanted


def headline(text: str) -> None:
    """A line that is found again when scrolling back."""
    print(f"\n== {text} {'=' * max(0, 76 - len(text))}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
