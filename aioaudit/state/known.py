"""All that is known right now, in one piece: what causes, findings and answers read."""

from __future__ import annotations

from collections.abc import Callable
from types import CodeType

from aioaudit.identity import Run
from aioaudit.stack.code import Codes
from aioaudit.state.births import CreationSites
from aioaudit.state.blocks import Blocks
from aioaudit.state.cancellations import Cancellations
from aioaudit.state.failures import Failures
from aioaudit.state.handoffs import Handoffs
from aioaudit.state.places import Places
from aioaudit.state.tasks import Tasks
from aioaudit.state.traces import Traces
from aioaudit.state.waits import Waits


class State:
    """The state of auditing in this process.

    Nothing in here touches CPython or calls anybody who asks; the probes
    (`aioaudit.probes`) see what happens, and the recorder (`aioaudit.recorder`) enters it.
    """

    def __init__(
        self,
        run: Run,
        codes: Codes,
        muted: Callable[[], bool],
        fault: Callable[[BaseException], None],
    ) -> None:
        """*muted* says whether what happens in this thread is heard by nobody; *fault* takes an error."""
        self.codes = codes
        self.probe_codes: frozenset[CodeType | int] = frozenset()
        """The `id` of the code of each probe that stands in a stack where ``cancel()`` is called."""
        self.places = Places(run, muted)
        self.tasks = Tasks(codes, self.places)
        self.creation_sites = CreationSites(codes, self.places, self.tasks)
        self.cancellations = Cancellations(self.tasks)
        self.failures = Failures(codes, self.tasks, self.cancellations)
        self.handoffs = Handoffs()
        self.blocks = Blocks()
        self.waits = Waits(self.tasks, self.failures, self.cancellations)
        self.traces = Traces(fault)

    def after_fork(self, run: Run) -> None:
        """This is a forked child, with a run of its own."""
        self.places.after_fork(run)
        self.tasks.after_fork()
        self.cancellations.after_fork()
