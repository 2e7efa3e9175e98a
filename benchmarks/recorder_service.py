"""A busy service with the recorder on, beside the same service without: what its loop feels.

    python benchmarks/recorder_service.py [--dumps N] [--rounds N] [--size BYTES]

Two processes serve the same load, some thousand tasks a second (most return; some are cancelled,
fail, or run into a timeout), and take turns, a round each.  In each of its rounds the one with
the recorder is asked for dumps, one right after the other.  Shown are:

- the 99th percentile of how late its loop comes to what is due, of both;
- CPU time of a task, of both, the dumps included;
- how many events were lost without being counted: of the last dumps of each round all numbers are
  added up;
- the resident memory after the first round and after the last one.

It also forks in the middle, and the child is killed while it writes dumps: each file that it has
left is whole.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import re
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO, Any, cast

_TASKS = 40  # a batch of them
_PAUSE = 0.01  # seconds between two batches
_PROBE = 0.002  # seconds between two looks at how late the loop is
_FILES = 4  # the last dumps of a round, which are looked at
_NUMBER = re.compile(
    rb'^\{"event":"(?!process\.dropped)[^"]*","ts":"[^"]*","seq":(\d+)', re.MULTILINE
)
_LOST = re.compile(rb'^\{"event":"process\.dropped".*?"count":(\d+)', re.MULTILINE)


async def _plain() -> None:
    await asyncio.sleep(0)


async def _fails() -> None:
    raise ValueError("x")


async def _late() -> None:
    try:
        async with asyncio.timeout(0.001):
            await asyncio.sleep(60)
    except TimeoutError:
        pass


async def batch() -> None:
    """Make so many tasks, and wait for them."""
    waiting = [asyncio.create_task(asyncio.sleep(60)) for _ in range(2)]
    tasks = [asyncio.create_task(_plain()) for _ in range(_TASKS - 4)]
    tasks += [asyncio.create_task(_fails()), asyncio.create_task(_late())]
    await asyncio.sleep(0)
    for each in waiting:
        each.cancel()
    await asyncio.gather(*tasks, *waiting, return_exceptions=True)


async def serve(seconds: float, late: list[float]) -> int:
    """Serve the load for so many *seconds*; gives the number of tasks, and notes how *late* it is."""
    loop = asyncio.get_running_loop()
    over = loop.time() + seconds
    count = 0

    async def probe() -> None:
        while loop.time() < over:
            due = loop.time() + _PROBE
            await asyncio.sleep(_PROBE)
            late.append(loop.time() - due)

    probing = asyncio.create_task(probe())
    while loop.time() < over:
        await batch()
        count += _TASKS
        await asyncio.sleep(_PAUSE)
    await probing
    return count


def uncounted(lines: bytes) -> int:
    """How many numbers up to the last one are neither in the dump *lines* nor counted by it."""
    numbers = [int(each) for each in _NUMBER.findall(lines)]
    if numbers != sorted(set(numbers)):
        raise SystemExit("the numbers in a dump do not rise")
    return numbers[-1] - len(numbers) - sum(map(int, _LOST.findall(lines)))


def resident() -> int:
    """Bytes of memory that this process has now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def work(way: str, folder: str, size: int) -> None:
    """Answer each line on stdin, with seconds and a number of dumps, with figures of a round."""
    aioaudit: Any = None
    if way == "recorder":
        import aioaudit  # only then

        aioaudit.enable("recorder", recorder_size=size)
    for line in sys.stdin:
        seconds, dumps = float(line.split()[0]), int(line.split()[1])

        def dump(dumps: int = dumps) -> None:
            for number in range(dumps):
                aioaudit.dump(Path(folder, f"{number % _FILES}.jsonl"), timeout=60)

        late: list[float] = []
        thread = threading.Thread(target=dump)
        thread.start()
        before = time.process_time()
        count = asyncio.run(serve(seconds, late))
        spent = time.process_time() - before
        thread.join()
        p99 = statistics.quantiles(late, n=100)[-1]
        print(p99 * 1e3, spent / count * 1e6, resident(), flush=True)


def fork_and_kill(folder: Path, size: int) -> int:
    """Have a forked child killed while it writes dumps; gives how many it has left, all whole."""
    import aioaudit

    with aioaudit.enable("recorder", recorder_size=size):
        asyncio.run(serve(0.5, []))
        child = os.fork()
        if not child:
            thread = threading.Thread(target=lambda: asyncio.run(serve(60, [])), daemon=True)
            thread.start()
            for number in range(1_000_000):
                aioaudit.dump(folder / f"child-{number}.jsonl", timeout=60)
            os._exit(0)
        while not (folder / "child-5.jsonl").exists():
            time.sleep(0.01)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        asyncio.run(serve(0.5, []))
        found = [*folder.glob("child-*.jsonl"), Path(aioaudit.dump(folder / "parent.jsonl"))]
    for path in found:
        lines = path.read_bytes()
        if not lines.endswith(b"\n") or uncounted(lines):
            raise SystemExit(f"{path} is not whole")
    return len(found)


class _Service:
    def __init__(self, way: str, folder: str, size: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, __file__, "--work", way, folder, str(size)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def round(self, seconds: float, dumps: int) -> list[float]:
        stdin = cast(IO[str], self.process.stdin)
        stdin.write(f"{seconds} {dumps}\n")
        stdin.flush()
        return [float(each) for each in cast(IO[str], self.process.stdout).readline().split()]

    def end(self) -> None:
        cast(IO[str], self.process.stdin).close()
        self.process.wait(60)


def main() -> None:
    """Let them take turns, and show what was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--dumps", type=int, default=1000, help="of all rounds (default: 1000)")
    parser.add_argument("--rounds", type=int, default=20, help="of each (default: 20)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a round (default: 3)")
    parser.add_argument("--size", type=int, default=16_000_000, help="bytes of the ring")
    parser.add_argument(
        "--work", nargs=3, metavar=("WAY", "FOLDER", "SIZE"), help=argparse.SUPPRESS
    )
    given = parser.parse_args()
    if given.work:
        work(given.work[0], given.work[1], int(given.work[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        services = {way: _Service(way, folder, given.size) for way in ("plain", "recorder")}
        turns: list[dict[str, list[float]]] = []
        looked = lost = 0
        for _ in range(given.rounds):
            order = list(services)
            random.shuffle(order)
            turns.append({})
            for way in order:
                dumps = given.dumps // given.rounds if way == "recorder" else 0
                turns[-1][way] = services[way].round(given.seconds, dumps)
            for path in Path(folder).iterdir():
                looked += 1
                lost += abs(uncounted(path.read_bytes()))
                path.unlink()
        for each in services.values():
            each.end()
        whole = fork_and_kill(Path(folder), given.size)

    def median(way: str, which: int) -> float:
        return statistics.median(turn[way][which] for turn in turns)

    more = statistics.median(turn["recorder"][0] - turn["plain"][0] for turn in turns)
    print(f"p99 of the loop: plain {median('plain', 0):.2f} ms, recorder", end=" ")
    print(f"{median('recorder', 0):.2f} ms, {more:+.2f} ms (at most +1.00)")
    print(f"CPU of a task: plain {median('plain', 1):.1f} us, recorder", end=" ")
    print(f"{median('recorder', 1):.1f} us with its dumps")
    dumped = given.dumps // given.rounds * given.rounds
    print(f"{dumped} dumps, {looked} looked at: {lost} events lost without being counted")
    first, last = (turns[which]["recorder"][2] / 1e6 for which in (0, -1))
    print(f"memory: {first:.1f} MB after the first round, {last:.1f} MB after the last")
    print(f"killed and forked: {whole} files, all whole")


if __name__ == "__main__":
    main()
