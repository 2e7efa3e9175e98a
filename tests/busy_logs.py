"""Logs as large as one likes, as a web service writes them.

Each request is a task with two children, fifty of them are under way at a time, and three in a
hundred end otherwise than by returning: a timeout runs out and takes the task group and its
children with it, a client leaves, a task fails.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import count, islice

from aioaudit.timestamps import timestamp

START = 1_750_000_000_000_000_000
"""When the first run begins, in nanoseconds since the epoch."""

STEP = 50_000
"""Nanoseconds between two events."""

AT_ONCE = 50
"""Requests under way at a time."""

_HEAD = '{"event":"%s","ts":"%s","seq":%d,"run":"%s","pid":%d,"thread":"MainThread","loop":1,'
_TASK = '"task":%d,"name":"%s","coro":"%s"'
_CHILDREN = ("shop.prices:fetch", "shop.stock:fetch")


class _Writer:
    """The lines of one run."""

    def __init__(self, number: int) -> None:
        self.run = f"{number:012x}"
        self.pid = 1000 + number % 30_000
        self._seq = count(1)
        self._start = START + number * 3_600_000_000_000
        self.lines: list[str] = []
        self.seq = 0

    def line(self, event: str, rest: str) -> int:
        """Add a line; its number."""
        seq = self.seq = next(self._seq)
        head = _HEAD % (event, timestamp(self._start + seq * STEP), seq, self.run, self.pid)
        self.lines.append(f"{head}{rest}}}\n")
        return seq

    def taken(self) -> list[str]:
        """What was added since the last call."""
        lines, self.lines = self.lines, []
        return lines


def run(number: int) -> Iterator[str]:
    """The lines of the run with this *number*, without an end."""
    writer = _Writer(number)
    line = writer.line
    line(
        "process.start",
        '"schema":1,"version":"0","python":"cpython 3.13.0","ppid":1,'
        '"argv":["/srv/shop/bin/serve"],"coverage":[]',
    )
    tasks = count(2)
    main = _TASK % (1, "Task-1", "shop.app:main")
    line("task.create", main + ',"source":"asyncio.runners:Runner.run"')
    under_way: deque[tuple[int, int, tuple[int, ...], int]] = deque()
    for request in count(number):
        task = next(tasks)
        about = _TASK % (task, f"Task-{task}", "shop.api:handle")
        made = '"parent":%d,"at":"%s","source":"%s"'
        line("task.create", f"{about}," + made % (1, "/srv/shop/api.py:30", "shop.app:serve"))
        children = tuple(next(tasks) for _ in _CHILDREN)
        for child, coro in zip(children, _CHILDREN, strict=True):
            line(
                "task.create",
                _TASK % (child, f"Task-{child}", coro)
                + ","
                + made % (task, "/srv/shop/api.py:41", "shop.api:handle"),
            )
        under_way.append((request, task, children, writer.seq))
        if len(under_way) > AT_ONCE:
            _end(writer, *under_way.popleft())
        if len(writer.lines) > 1000:
            yield from writer.taken()


def _end(writer: _Writer, request: int, task: int, children: tuple[int, ...], seq: int) -> None:
    """The end of one request."""
    line = writer.line
    about = _TASK % (task, f"Task-{task}", "shop.api:handle")
    each = [
        _TASK % (child, f"Task-{child}", coro)
        for child, coro in zip(children, _CHILDREN, strict=True)
    ]
    life = f',"lifetime":{(writer.seq - seq) * STEP / 1e9:.6f}'
    kind = request % 100
    ended = '"outcome":"cancelled","cancel":%d,"cancel_outcome":"obeyed"'
    if kind == 7:  # a timeout, the group that it ends, and its children
        first = line(
            "task.cancel",
            '"reason":"timeout","source":"shop.api:handle","at":"/srv/shop/api.py:38",'
            '"evidence":"observed","origin":"deadline","origin_source":"shop.api:handle",'
            f'"origin_at":"/srv/shop/api.py:{request % 9 + 30}","origin_seconds":2.0,{about},'
            '"accepted":true,"suspended_at":"/srv/shop/api.py:44","taken_back":true',
        )
        asked = [
            line(
                "task.cancel",
                '"reason":"task_group","source":"shop.api:handle","at":"/srv/shop/api.py:40",'
                f'"by":{task},"by_name":"Task-{task}","cause":{first},"evidence":"observed",'
                f'{child},"accepted":true,"suspended_at":"/srv/shop/net.py:12"',
            )
            for child in each
        ]
        for child, cancel in zip(each, asked, strict=True):
            line("task.done", f"{child},{ended % cancel}{life}")
        line(
            "task.uncancel",
            f'{about},"remaining":0,"cancel":{first},"source":"shop.api:handle",'
            '"at":"/srv/shop/api.py:38"',
        )
        line(
            "task.done",
            f'{about},"outcome":"raised","error":"TimeoutError",'
            f'"error_at":"/srv/shop/api.py:38","cancel":{first},"cancel_outcome":"absorbed"{life}',
        )
        return
    if kind == 53:  # a client that left
        first = line(
            "task.cancel",
            '"reason":"disconnect","source":"aiohttp.web_protocol:RequestHandler.connection_lost",'
            '"at":"/usr/lib/python3/site-packages/aiohttp/web_protocol.py:367",'
            f'"evidence":"observed","origin":"called",{about},"accepted":true,'
            '"suspended_at":"/srv/shop/api.py:44"',
        )
        for child in each:
            line("task.done", f'{child},"outcome":"returned"{life}')
        line("task.done", f"{about},{ended % first}{life}")
        return
    if kind == 81 and request % 1000 == 81:  # something that was found
        line(
            "finding",
            f'{about},"kind":"slow","severity":"finding","source":"shop.api:handle",'
            '"at":"/srv/shop/api.py:90","seconds":1.5',
        )
    for child in each:
        line("task.done", f'{child},"outcome":"returned"{life}')
    if kind == 90:
        error = '"outcome":"raised","error":"KeyError: \'sku\'","error_at":"/srv/shop/api.py:52"'
        line("task.done", f"{about},{error}{life}")
        return
    line("task.done", f'{about},"outcome":"returned"{life}')


def busy(events: int, number: int = 0) -> Iterator[bytes]:
    """So many lines of the run with this *number*."""
    return (each.encode() for each in islice(run(number), events))
