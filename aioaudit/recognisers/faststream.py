"""FastStream's calls of ``cancel()``: an application that ends, and its subscribers (0.6 to 0.7)."""

from __future__ import annotations

from types import FrameType

from aioaudit.recognisers.call import Call
from aioaudit.state.cause import Cause


def app_ended(frame: FrameType, call: Call) -> Cause:
    """``run``: the application was told to exit, by a signal as a rule, and has shut down."""
    return call.by_caller("faststream.shutdown", frame, "it was told to exit")


def subscriber_stopped(frame: FrameType, call: Call) -> Cause:
    """``stop`` of a subscriber: nothing more is read, and what it reads just now is not handled."""
    return call.by_caller("faststream.closed", frame)


CALL_SITES = {
    ("faststream.app", "FastStream.run"): app_ended,
    ("faststream.asgi.app", "AsgiFastStream.start_lifespan_context"): app_ended,
    ("faststream._internal.endpoint.subscriber.mixins", "TasksMixin.stop"): subscriber_stopped,
}
"""Call sites by module and qualified name."""
