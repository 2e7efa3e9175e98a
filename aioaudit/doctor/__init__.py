"""Private. What of aioaudit works in the environment that this process runs in, and what does not.

Nothing here is needed to audit a program.  Libraries are looked at without being
imported; what has to be tried is tried in a process of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

from aioaudit.doctor import activation, internals, interpreter, recognisers
from aioaudit.doctor.diagnosis import Diagnosis


def examine() -> Iterator[Diagnosis]:
    """Every finding, section by section, as it is found."""
    yield from interpreter.interpreter()
    yield from interpreter.core()
    yield from internals.of_python()
    yield from interpreter.monitoring()
    yield from interpreter.loops()
    yield from activation.start_up()
    yield from activation.variables()
    yield from activation.exporters()
    yield from activation.log()
    yield from recognisers.recognisers()
