"""Counts cancellations by reason and sends the counts to StatsD.

``AIOAUDIT=statsd`` finds this by the entry point in `pyproject.toml`.
"""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Sequence

from aioaudit.events import Event, ProcessDropped, ProcessStart, TaskCancel, TaskDone
from aioaudit.exporter import ExporterError

VARIABLE = "AIOAUDIT_STATSD"
LONGEST = 1400
"""Bytes of a datagram that no network splits."""


class StatsdExporter:
    """Sends counts as datagrams, which nobody waits for.

    Raises:
        aioaudit.exporter.ExporterError: the variable names no address.
    """

    def __init__(self) -> None:
        family, address = _address(os.environ.get(VARIABLE) or "127.0.0.1:8125")
        self._address = address
        self._socket = socket.socket(family, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._counts: Counter[str] = Counter()

    def export(self, events: Sequence[Event]) -> None:
        """Count *events* and send what they come to."""
        counts = self._counts
        for event in events:
            match event:
                case TaskCancel(accepted=True):
                    counts[f"cancel.{event.reason}"] += 1
                case TaskDone():
                    counts[f"task.{event.outcome}"] += 1
                    counts["swallowed"] += event.cancel_outcome == "swallowed"
                case ProcessDropped():
                    counts["dropped"] += event.count
                case ProcessStart():
                    counts.clear()  # a forked child: what is left here is its parent's to send
                case _:
                    pass  # of no interest, or an event that a later version has
        self._send()

    def flush(self) -> None:
        """Try once more to send what could not be sent before."""
        self._send()

    def shutdown(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _send(self) -> None:
        lines = [
            f"aioaudit.{name.translate(_SAFE)}:{count}|c".encode()
            for name, count in self._counts.items()
            if count
        ]
        while lines:
            datagram = lines.pop()
            while lines and len(datagram) + 1 + len(lines[-1]) <= LONGEST:
                datagram += b"\n" + lines.pop()
            try:
                self._socket.sendto(datagram, self._address)
            except BlockingIOError:
                return  # the counts stay, and go with the next ones
            except OSError:
                break  # nobody listens: with StatsD that is no fault of the program's
        self._counts.clear()


_SAFE = str.maketrans(":|@\n", "____")
"""What a name must not hold: reasons may come from anybody's recogniser."""


def _address(text: str) -> tuple[int, str | tuple[str, int]]:
    """The family and the address that *text* names."""
    if "/" in text:
        return socket.AF_UNIX, text
    host, _, port = text.rpartition(":")
    if not host or not port.isascii() or not port.isdigit() or not 0 < int(port) < 65536:
        raise ExporterError(
            f"{VARIABLE}={text!r}: this names no address; "
            "allowed: HOST:PORT, or the path of a Unix datagram socket"
        )
    return socket.AF_INET, (host, int(port))
