"""Ctrl-C: the runner cancels the main task, then what is left."""

from __future__ import annotations

import asyncio
import os
import signal

from harness import (  # type: ignore[import-not-found]  # beside this file when it runs
    runner,
    spawn,
    steps,
)


async def main() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.set_name("main")
    inner = spawn("inner")
    spawn("left")
    await steps()
    asyncio.get_running_loop().call_later(0.02, os.kill, os.getpid(), signal.SIGINT)
    await inner


# WHY main: cancelled, obeyed
#   cancelled main signal
#   signal SIGINT
# WHY inner: cancelled, obeyed
#   cancelled inner awaiter by=main
#   cancelled main signal
#   signal SIGINT
# WHY left: cancelled, obeyed
#   cancelled left shutdown ?@run
#   shutdown ?@run

try:
    runner()(main())  # LINE run
except KeyboardInterrupt:
    print("interrupted")
