"""Private. Reading logs: files, folders and streams of events, and what they answer.

`load` reads, `Log.why` answers.  What cannot be read is skipped, and listed in
`Log.problems` with its file and line.
"""

from aioaudit.log.reading import load
from aioaudit.log.runs import Case
from aioaudit.log.store import Log, Problem

__all__ = ["Case", "Log", "Problem", "load"]
