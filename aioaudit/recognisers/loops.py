"""Loops that are not asyncio's own: what of them only runs what others have given to them.

The methods of loops that run them are known by the class (`aioaudit.probes.install`).  Here
stand functions around those, and between them and what they call: a frame of theirs is
nobody's caller, and neither is what lies beyond it.
"""

BOUNDARIES = frozenset(
    {
        "PySide6.QtAsyncio.events:QAsyncioHandle._cb",
        "qasync:_SimpleTimer.timerEvent",
        "tornado.ioloop:IOLoop._run_callback",
        "trio._core._run:run",
        "trio._core._run:unrolled_run",
        "twisted.internet.base:ReactorBase.runUntilCurrent",
    }
)
"""Sources, ``module:qualname``."""
