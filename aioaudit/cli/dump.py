"""``aioaudit dump``: what a process has kept, as a file."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator
from typing import BinaryIO

import click

from aioaudit.cli.numbers import Pid
from aioaudit.cli.terminal import OutputClosed, print_line, say
from aioaudit.dumps import name_of_dump
from aioaudit.exporters.recorder.writing import write_whole
from aioaudit.live.client import LiveError, connect
from aioaudit.opening import PlantedError

DONE, BAD = 0, 2
"""Exit statuses: written, or a bad call, a process that cannot be asked, a file that cannot be."""

_PIECE = 1 << 20


@click.command("dump")
@click.argument("pid", type=Pid())
@click.option("-o", "--output", "name", metavar="FILE", help="Where to; - for standard output.")
def command(pid: int, name: str | None) -> int:
    """Write what a process has kept to a file, an ordinary log.

    The process runs with AIOAUDIT=recorder, as this user, and goes on.  Without -o
    the file has the time and PID in its name.

    Exit status: 0 when it is written, 2 where it cannot be.
    """
    try:
        told = connect(pid).events()
    except LiveError as error:
        say(str(error))
        return BAD
    with told.log as log:
        if name == "-":
            _copy(log)
            return DONE
        path = name_of_dump(time.time_ns(), pid) if name is None else name
        try:
            write_whole(os.path.abspath(path), _pieces(log))  # noqa: PTH100 - a link is not followed
        except (OSError, PlantedError) as error:
            text = error.strerror if isinstance(error, OSError) else str(error)
            say(f"cannot write {path}: {text}")
            return BAD
    print_line(path)
    return DONE


def _pieces(log: BinaryIO) -> Iterator[bytes]:
    while piece := log.read(_PIECE):
        yield piece


def _copy(log: BinaryIO) -> None:
    try:
        for piece in _pieces(log):
            sys.stdout.buffer.write(piece)
        sys.stdout.buffer.flush()
    except BrokenPipeError:
        raise OutputClosed from None
