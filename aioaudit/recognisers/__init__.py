"""Who calls ``cancel()``, and where the cause lies: one file for each library.

A recogniser is a table from call sites, ``(module, qualified name)`` of the
function that calls ``cancel()``, to functions ``explain(frame, call)``.  *frame* is
the frame of that call site, on the stack right now; *call* answers questions
about the call (`Call`).  The answer is a `Cause`, or None for "not here, look
further out".  An explanation reads the locals that hold the cause and keeps
nothing of the frame.

The table of a library is loaded as soon as the library has been imported; the
library itself is never imported.  Tables of
other packages are found under the entry-point group ``aioaudit.recognisers``
(`aioaudit.recognisers.registry`).

The modules in here are private; public is what the package itself names.
"""

from aioaudit.chain.links import Link
from aioaudit.cpython.internals import Internal
from aioaudit.recognisers.call import Call
from aioaudit.stack.frames import local
from aioaudit.state.cause import Cause

__all__ = ["Call", "Cause", "Internal", "Link", "local"]
