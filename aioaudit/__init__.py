"""aioaudit: who cancelled this asyncio task, and why?

The nouns of the system, a sentence each:

A *task* is an `asyncio.Task`, whatever class or loop it is of.  A *request* is
one call of ``cancel()``, on a task or on a future that a task awaits.  Its
*cause* is the request that led to it; its *origin* is what led to it where that
was no request: a *deadline* that ran out, a task that *failed*, a *signal*, a
*shutdown*, or plain code that *called*.  Following causes to the last origin
gives the *chain*; its steps are *links*, its end is the *root*.

A *probe* stands in the place of one of asyncio's methods and sees what happens.
A *recogniser* knows where one library calls ``cancel()`` and which locals hold
the cause.  The *recorder* keeps what is known now.  What happens becomes an
*event*, a typed record; the *bus* gives it to *hooks*, which may object, and
then to *exporters*, each behind a *pipeline* with a queue and a thread of its
own.  A *run* is the life of one process in its log.

`enable`, `disable` and `recording` turn it on and off from code; the variable
``AIOAUDIT`` does it without.  `why` and `source` answer while it is on, `load`
reads a log afterwards.  What these return and raise can be imported from here as
well; all errors of ours are an `AioauditError`.

PYTEST_DONT_REWRITE: a plugin of pytest's is in here, and with ``AIOAUDIT`` set this package is
there before pytest, which would warn that it cannot rewrite the asserts in it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from aioaudit.version import __version__

if TYPE_CHECKING:
    from asyncio import Task

    from aioaudit.auditing import Auditing
    from aioaudit.bus import addaudithook
    from aioaudit.chain.links import Answer, Link, RequestSummary
    from aioaudit.cpython.inplace import UnsupportedError
    from aioaudit.dumps import DumpError
    from aioaudit.errors import AioauditError
    from aioaudit.events import Event
    from aioaudit.exporter import Exporter, ExporterError, NotTakenError
    from aioaudit.log import Log, Problem, load
    from aioaudit.session import Session, audit, disable, dump, enable, recording
    from aioaudit.settings import SettingsError
    from aioaudit.trail import Trail

__all__ = [
    "AioauditError",
    "Answer",
    "Auditing",
    "DumpError",
    "Event",
    "Exporter",
    "ExporterError",
    "Link",
    "Log",
    "NotTakenError",
    "Problem",
    "RequestSummary",
    "SettingsError",
    "Trail",
    "UnsupportedError",
    "__version__",
    "addaudithook",
    "audit",
    "disable",
    "dump",
    "enable",
    "load",
    "recording",
    "source",
    "why",
]

# Imported when first asked for: a start-up file imports this package in
# processes that may never touch asyncio.
_LAZY = {
    "AioauditError": "aioaudit.errors",
    "Answer": "aioaudit.chain.links",
    "Auditing": "aioaudit.auditing",
    "DumpError": "aioaudit.dumps",
    "Event": "aioaudit.events",
    "Exporter": "aioaudit.exporter",
    "ExporterError": "aioaudit.exporter",
    "Link": "aioaudit.chain.links",
    "Log": "aioaudit.log",
    "NotTakenError": "aioaudit.exporter",
    "Problem": "aioaudit.log",
    "RequestSummary": "aioaudit.chain.links",
    "SettingsError": "aioaudit.settings",
    "Trail": "aioaudit.trail",
    "UnsupportedError": "aioaudit.cpython.inplace",
    "addaudithook": "aioaudit.bus",
    "audit": "aioaudit.session",
    "disable": "aioaudit.session",
    "dump": "aioaudit.session",
    "enable": "aioaudit.session",
    "load": "aioaudit.log",
    "recording": "aioaudit.session",
}


_answers: Session | None = None
"""Who answers while auditing is on; so that to ask imports nothing, wherever it is asked."""


def __getattr__(name: str) -> Any:
    module = _LAZY.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    value = getattr(import_module(module), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def why(what: Task[Any] | BaseException) -> Answer | None:
    """Why one task was cancelled: the whole chain, from the task to the root.

    Args:
        what: The task, or a CancelledError that was caught.

    Returns:
        None where auditing is off or nothing is known.
    """
    return None if _answers is None else _answers.why(what)


def source(error: BaseException) -> str | None:
    """``module:qualname`` of the caller at the root of *error*'s chain.

    The same as ``error.source`` while auditing is on.

    Args:
        error: A CancelledError that was caught.

    Returns:
        None where auditing is off or nothing is known.
    """
    return None if _answers is None else _answers.source(error)
