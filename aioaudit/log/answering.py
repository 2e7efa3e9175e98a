"""Reading logs of any size for a command that answers from them, with the help of other processes."""

from __future__ import annotations

from aioaudit.log.portions import Progress, portions_of
from aioaudit.log.reading import Place, load
from aioaudit.log.sources import STDIN, Paths, sources_of
from aioaudit.log.store import Log
from aioaudit.log.workers import Wanted, cores, thinned


def load_to_answer(
    path: Paths,
    asked: str | None = None,
    *,
    progress: Progress | None = None,
    workers: int | None = None,
) -> Log:
    """Read a log, like `load`, for the answers alone: then it takes little memory however long it is.

    Args:
        path: As for `load`.
        asked: The name of a task that will be asked for.  Of tasks that nothing happened to, no other
            name is kept.
        progress: As for `load`.
        workers: How many processes help; by default as many as there are cores.
    """
    sources = sources_of(path)
    log = Log(forgets=True, asked=asked)
    place = Place(log)
    helpers = cores() if workers is None else workers
    for portion, found, events in thinned(
        portions_of(sources, progress), Wanted("answers", asked), helpers
    ):
        place.told(portion, found.count, found.damaged, found.problems, found.zone)
        log.take(found.runs, events, found.events)
        log.skip_unknown(found.unknown)
    if log.missed and not any(source.name == STDIN for source in sources):
        return load(path, progress=progress)  # lines in such disorder need all that was forgotten
    return log
