"""A notebook: a kernel that runs cells, of which the last may be interrupted.

Usage: ``python notebook.py LOG (interrupt | end)``; the kernel is audited, and what is done here is not.
"""

from __future__ import annotations

import importlib
import os
import signal
import sys
from typing import Any

client_of: Any = importlib.import_module("jupyter_client")  # it comes with the kernel
kernelspec: Any = importlib.import_module("jupyter_client.kernelspec")

WAITS = """\
async def cell():
    asyncio.current_task().set_name("cell")
    helper = asyncio.create_task(tick(), name="helper")
    print("begun", flush=True)
    await helper
async def tick():
    while True:
        await asyncio.sleep(0.02)
await cell()
"""


def run(client: Any, code: str) -> None:
    """Begin a cell, and wait until it prints something or has ended."""
    request = client.execute(code)
    while True:
        message = client.get_iopub_msg(timeout=100)
        if message["parent_header"].get("msg_id") != request:
            continue
        if message["msg_type"] == "stream":
            return
        if message["content"].get("execution_state") == "idle":
            return


def main(log: str, how: str) -> None:
    """Start a kernel, use it, and end it in order."""
    manager = client_of.KernelManager()
    words = [sys.executable, "-m", "ipykernel_launcher", "-f", "{connection_file}"]
    manager._kernel_spec = kernelspec.KernelSpec(argv=words, display_name="one", language="python")
    manager.shutdown_wait_time = 250  # seconds; what does not end in time is killed
    manager.start_kernel(env={**os.environ, "AIOAUDIT": "jsonl", "AIOAUDIT_JSONL_PATH": log})
    client = manager.client()
    client.start_channels()
    client.wait_for_ready(timeout=100)
    run(client, "import asyncio")
    run(client, "await asyncio.sleep(0.01)")
    if how == "interrupt":
        run(client, WAITS)
        manager.interrupt_kernel()
        reply = client.get_shell_msg(timeout=100)
        while reply["content"]["status"] != "error":
            reply = client.get_shell_msg(timeout=100)
        assert reply["content"]["ename"] == "CancelledError"
    manager.shutdown_kernel()
    client.stop_channels()


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.default_int_handler)
    main(*sys.argv[1:])
