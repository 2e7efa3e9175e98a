"""Tasks that are older than ``enable()``, and a program that turns auditing on by itself."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from typing import Any

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    forever,
    runner,
    settle,
    spawn,
    steps,
)

import aioaudit


async def wait(something: Any) -> None:
    await something


async def main() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.set_name("main")
    inner = spawn("older.inner")
    outer = spawn("older.outer", wait(inner))
    unstarted = spawn("older.unstarted")

    async def listen() -> None:
        with contextlib.suppress(asyncio.CancelledError):  # LINE deaf
            await forever()

    deaf = spawn("older.deaf", listen())
    await steps()
    late = spawn("older.late")
    events = os.environ.get("AIOAUDIT_EVENTS")
    aioaudit.enable("jsonl", jsonl_path=os.environ["AIOAUDIT_JSONL_PATH"], events=events)
    young = spawn("young", wait(late))
    await steps()
    outer.cancel()  # LINE older
    unstarted.cancel()  # LINE unstarted
    deaf.cancel()  # LINE deaf_asked
    young.cancel()  # LINE young
    await settle(inner, outer, unstarted, deaf, late, young)
    spawn("left")


# WHY older.outer: cancelled, obeyed
#   cancelled older.outer explicit @older by=main
#   called explicit @older by=main
# WHY older.inner: cancelled, obeyed
#   cancelled older.inner awaiter by=older.outer
#   cancelled older.outer explicit @older by=main
#   called explicit @older by=main
# WHY older.unstarted: cancelled, obeyed
#   cancelled older.unstarted explicit @unstarted by=main
#   called explicit @unstarted by=main
# WHY older.deaf: returned, swallowed @deaf
#   cancelled older.deaf explicit @deaf_asked by=main
#   called explicit @deaf_asked by=main
# WHY older.late: cancelled, obeyed
#   cancelled older.late awaiter by=young
#   cancelled young explicit @young by=main
#   called explicit @young by=main
# WHY young: cancelled, obeyed
#   cancelled young explicit @young by=main
#   called explicit @young by=main
# WHY left: cancelled, obeyed
#   cancelled left shutdown ?@run
#   shutdown ?@run

runner()(main())  # LINE run
aioaudit.disable()
assert "aioaudit" in sys.modules
