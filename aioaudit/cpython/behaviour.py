"""What differs from one version of CPython to another, each difference by a name of its own.

No other part asks for the version itself.  Names that come and go stand in
`aioaudit.cpython.internals`.
"""

from __future__ import annotations

import sys
from typing import Final

RELEASE: Final[tuple[int, int]] = sys.version_info[:2]
"""Of this CPython: ``(3, 13)``."""

VERSION: Final = ".".join(map(str, sys.version_info[:3]))
"""Of this CPython in words: ``3.13.1``."""

FREE_THREADED: Final = "t" in getattr(sys, "abiflags", "")
"""This is a build without the GIL (PEP 703)."""

HAS_MONITORING: Final = sys.version_info >= (3, 12)
"""There is `sys.monitoring` (PEP 669).

Without it the line that swallows a CancelledError is not seen, nor when one is delivered: which
request an error stands for is told from what the task waited for, and may be inferred.
"""

GET_CORO_MAY_CRASH: Final = sys.version_info < (3, 13)
"""``get_coro()`` may read a null pointer: of a task that ended in its first step, or was not made.

(gh-122332, mended within 3.12.)
"""

HAS_EAGER_TASKS: Final = sys.version_info >= (3, 12)
"""A task may run inside its own making (``eager_start``), and end there."""

LOCALS_ARE_A_VIEW: Final = sys.version_info >= (3, 13)
"""``frame.f_locals`` is a view of the variables (PEP 667).

Before, whoever reads it makes the frame keep a dict, which keeps alive what the program lets go.
"""

CODE_OF_NAMES_IS_SHIFTED: Final = sys.version_info >= (3, 12)
"""The argument of ``LOAD_ATTR`` has the name's index shifted by one bit (gh-93429)."""

TASKS_OF_PYTHON_ARE_APART: Final = sys.version_info >= (3, 14)
"""``asyncio.current_task()`` and ``all_tasks()`` are C's, and know none of the Python class.

With nest_asyncio all tasks are of that class (Modules/_asynciomodule.c: the current task is a
field of the thread's state).
"""

TASKS_STAND_IN_THREADS: Final = sys.version_info >= (3, 14)
"""Tasks stand in lists of their threads, which only ``all_tasks()`` of their loop shows."""

CLASSES_GET_VERSIONS: Final = sys.version_info >= (3, 12)
"""Each change of an immutable class takes a number of which there are 131,071 in a process.

(``NEXT_GLOBAL_VERSION_TAG`` and the static types' range in Objects/typeobject.c.)
"""

VERSIONS_ARE_COUNTED: Final = sys.version_info >= (3, 13)
"""A class may take a thousand of them (``MAX_VERSIONS_PER_CLASS`` in Objects/typeobject.c)."""

HAS_REMOTE_EXEC: Final = sys.version_info >= (3, 14)
"""Another process can be given lines to run (PEP 768)."""

FORK_WARNS_OF_THREADS: Final = sys.version_info >= (3, 12)
"""``os.fork()`` in a process of several threads is a DeprecationWarning (gh-100228)."""

FORK_WARNS_AT_THE_END: Final = sys.version_info >= (3, 13)
"""It does so after the functions of ``after_in_parent``, and not before them
(``os_fork_impl`` in Modules/posixmodule.c)."""
