"""``aioaudit attach``: the recorder in a process that was started without anything."""

from __future__ import annotations

import click

from aioaudit.attach.client import Answer, ask, said
from aioaudit.attach.target import AttachError, Target
from aioaudit.attach.told import decoded
from aioaudit.cli.numbers import Pid
from aioaudit.cli.terminal import plural, print_line, say
from aioaudit.settings import SettingsError, build
from aioaudit.version import __version__

DONE, REFUSED, BAD = 0, 1, 2
"""Exit statuses: it is as it was asked for, it cannot be, a bad call."""

DEFAULT_TIMEOUT = 10.0


@click.command("attach")
@click.argument("pid", metavar="PID", type=Pid())
@click.option("--detach", is_flag=True, help="Take it out again: the process is as it was.")
@click.option("--size", metavar="SIZE", help="Memory that the recorder may take, as 16MB.")
@click.option(
    "--dump", metavar="WHEN", help="When it writes what it keeps by itself, as finding,error."
)
@click.option(
    "--timeout",
    metavar="SECONDS",
    type=click.FloatRange(min=0.1),
    default=DEFAULT_TIMEOUT,
    help="How long the process may take until it runs a line of Python (default: 10).",
)
def command(pid: int, detach: bool, size: str | None, dump: str | None, timeout: float) -> int:
    """Turn the recorder on in a process that runs.

    PID is a process of CPython 3.14 or later, of the same version as this one, in which aioaudit
    is installed.  It need not have been started with anything.  What its environment says of the
    recorder holds, where no option says something else.

    Exit status: 0 where the recorder is on (--detach: off) now, 1 where that cannot be, 2 for a
    bad call.
    """
    if detach and (size or dump):
        raise click.UsageError("--detach takes no --size and no --dump")
    try:
        build("recorder", recorder_size=size, recorder_dump=dump)
    except SettingsError as error:
        text = str(error).replace("recorder_size=", "--size ", 1)
        raise click.UsageError(text.replace("recorder_dump=", "--dump ", 1)) from None
    target = Target(pid)
    words = {"do": "detach" if detach else "attach", "size": size, "dump": dump}
    try:
        done, older = ask(target, words, timeout, lambda: say(f"{target}: it waits; so do we"))
    except AttachError as error:
        say(str(error))
        return REFUSED
    return _detached(target, done) if detach else _attached(target, done, older)


def _attached(target: Target, done: Answer, older: Answer | None) -> int:
    if done.how in ("attached", "there"):
        told = decoded(done.text)
        who = "attached to" if done.how == "attached" else "on, the process has it so"
        print_line(f"{target}: the recorder is {who} already")
        return DONE
    if done.how != "on":
        say(_why_not(target, done))
        return REFUSED
    told = decoded((older or done).text)
    print_line(f"{target}: the recorder is on, {told.size / 1_000_000:g} MB at most")
    if told.beside:
        print_line(f"On before, and left as they were: {', '.join(map(said, told.beside))}")
    print_line(
        f"{_count('task', told.tasks)} older than this, in {_count('timeout', told.timeouts)} and"
        f" {_count('task group', told.groups)}: who made them is not known"
    )
    if told.unseen:
        print_line(f"{_count('loop', told.unseen)} did not answer: what is older there is not told")
    if told.elsewhere:
        print_line("Its main thread runs no loop that answers: the end by SIGTERM is not recorded")
    if told.version != __version__:
        print_line(f"aioaudit {said(told.version)} is there, this is {__version__}")
    print_line(f"Take it out again: aioaudit attach {target.pid} --detach")
    return DONE


def _count(noun: str, count: int) -> str:
    return f"{count} {plural(noun, count)}"


def _detached(target: Target, done: Answer) -> int:
    if done.how == "not attached":
        say(f"{target}: no recorder was attached to it")
        return REFUSED
    if done.how != "off":
        say(_why_not(target, done))
        return REFUSED
    told = decoded(done.text)
    print_line(f"{target}: the recorder is off, what it kept is gone; modules stay imported")
    if told.elsewhere:
        print_line(
            "Its main thread did not answer: a handler of SIGTERM may be left, as it was without"
        )
    if told.beside:
        print_line(f"Still on, since the process wants it: {', '.join(map(said, told.beside))}")
    return DONE


def _why_not(target: Target, done: Answer) -> str:
    if done.how == "no asyncio":
        return f"{target} has not imported asyncio: there is nothing to record"
    if done.how == "missing":
        python, _, text = done.text.partition("\n")
        return (
            f"aioaudit cannot be imported in {target} ({said(text)}): install it there, it need not"
            f" be started anew: {said(python)} -m pip install aioaudit"
        )
    if done.how == "refused":
        return f"{target}: {said(done.text)}"
    return f"{target}: it did not work: {said(done.text)}"
