"""Private. The hook bus, modelled on PEP 578.

A hook is called with the event's name and a tuple of arguments, in the thread
that raised the event, in the order in which the hooks were added, before what
the event tells of has happened.  A hook that raises keeps it from happening:
its exception goes to whoever made the task, called ``cancel()`` or ``stop()``;
the hooks after it are not called.  Where there is nothing left to prevent (a
task has ended) the exception goes to `sys.unraisablehook`.

Unlike PEP 578 a hook can be taken away again, by calling what `addaudithook`
returned: a library's test suite must be able to leave no trace.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from aioaudit.threads import allocate_rlock

Hook = Callable[[str, tuple[Any, ...]], object]

_hooks: tuple[Hook, ...] = ()
_lock = allocate_rlock()  # a signal's handler may come in the middle of a change, and make another
_listeners: list[Callable[[], None]] = []
_describe: Callable[[Hook], tuple[str, tuple[Any, ...]]] | None = None


def hooks() -> tuple[Hook, ...]:
    """The hooks that are called now, in order."""
    return _hooks


def addaudithook(hook: Hook) -> Callable[[], None]:
    """Call ``hook(event, args)`` for every event from now on; ``args[0]`` is the typed event.

    Adding a hook is an event itself (``hook.add``), raised for the hooks that
    are there already.  As with `sys.addaudithook`, one of them may object: if it
    raises an `Exception` the new hook is not added and nothing is said; another
    exception travels on.

    Returns:
        A function that takes the hook away again.

    Raises:
        TypeError: *hook* cannot be called.
    """
    global _hooks
    if not callable(hook):
        raise TypeError(f"a hook is called with (event, args), {hook!r} cannot be called")
    if _hooks:
        event, args = ("hook.add", (hook,)) if _describe is None else _describe(hook)
        try:
            audit(event, *args)
        except Exception:  # noqa: BLE001 - PEP 578: an objection is not reported
            return lambda: None
    with _lock:
        _hooks = (*_hooks, hook)
    try:
        _changed()
    except BaseException:
        remove(hook)
        raise
    return lambda: remove(hook)


def remove(hook: Hook) -> None:
    """Call *hook* no longer, where it is called."""
    global _hooks
    with _lock:
        for index in range(len(_hooks) - 1, -1, -1):
            if _hooks[index] is hook:
                _hooks = _hooks[:index] + _hooks[index + 1 :]
                break
    _changed()


def close() -> None:
    """The interpreter is going down: hooks hear nothing more, and nothing of theirs is kept.

    What a hook refers to, the program's objects, would else die later than without us, when
    there is no stream left for their last words.
    """
    global _hooks, _describe
    _hooks, _describe = (), None


def _changed() -> None:
    for listener in _listeners:
        listener()


def audit(event: str, *args: Any) -> None:
    """Raise *event*: call every hook with it.

    Raises:
        BaseException: whatever a hook raises; the hooks after it are not called.
    """
    for hook in _hooks:
        hook(event, args)


def on_change(listener: Callable[[], None]) -> None:
    """Call *listener* whenever a hook joined or left."""
    _listeners.append(listener)


def describe_with(describe: Callable[[Hook], tuple[str, tuple[Any, ...]]] | None) -> None:
    """Let *describe* make the event that tells of a new hook."""
    global _describe
    _describe = describe


def after_fork() -> None:
    """This is a forked child: another thread of the parent may have held the lock."""
    global _lock
    _lock = allocate_rlock()
