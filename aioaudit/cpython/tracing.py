"""The errors that one frame raises, where there is no `sys.monitoring`: by `sys.settrace`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from types import FrameType
from typing import Any


def watch_errors(frame: FrameType, see: Callable[[BaseException], object]) -> None:
    """Have *see* told of each error that comes up in *frame*, until that is left.

    To be called where *frame* runs on at once, in this thread, and is soon left: nothing else of the
    thread is traced meanwhile, but each call of a function costs a little.  Nothing is done where
    somebody traces already, a debugger or a measurement of coverage.
    """
    if sys.gettrace() is not None or frame.f_trace is not None:
        return

    def trace(of: FrameType, event: str, arg: Any) -> Any:
        if of is not frame:
            return None
        if event == "exception":
            see(arg[1])
        elif event == "return":
            if sys.gettrace() is trace:
                sys.settrace(None)
            return None
        return trace

    frame.f_trace_lines = False
    frame.f_trace = trace
    sys.settrace(trace)
