"""What the native core does of plain requests, apart from what it tells: whoever calls whom, and when."""

from __future__ import annotations

from typing import Any

import pytest

from aioaudit.core.choice import CORE

if CORE.name != "native":
    pytest.skip("there is no native core here", allow_module_level=True)
from aioaudit.core import _core

EVENTS = ("PY_THROW", "PY_UNWIND", "EXCEPTION_HANDLED", "RERAISE")


def new_asks() -> Any:
    """What takes in plain requests, of which there are none yet."""

    def never(_record: object) -> None:
        raise AssertionError

    return _core.Asks(
        born=_core.Table(), states={}, ties={}, active={}, doubts={}, adopt=never, released=never
    )


def given(**others: Any) -> dict[str, Any]:
    """What `begin` takes."""
    functions = (
        *("current_task", "get_coro", "module_at", "monotonic", "put", "urge", "learn_line"),
        *("learn_wait", "learn_handler", "reaches_nobody", "track", "fault", "loop_time"),
        *("learn_expiry", "learn_leaving"),
    )
    return {
        **dict.fromkeys(functions, print),
        "next_seq": _core.Counter(),
        "python_tasks": {},
        "codes": {},
        "handlers": {},
        "exporting": set(),
        "outside": frozenset(),
        "future": object,
        "cancelled": ValueError,
        "rules": None,
        "timeout": object,
        "notes": None,
        "expire": None,
        "run": None,
        "leave": given.__code__,
        "findings": True,
    } | others


@pytest.mark.parametrize("event", EVENTS)
def test_what_happens_is_for_python_before_the_beginning_and_after_the_end(event: str) -> None:
    """Who hears less than before may have to hear of other things: of codes that nobody watched."""
    seen: list[Any] = []
    asks = new_asks()
    callback = asks.callback(event, lambda *args: seen.append(args))
    code, error = test_what_happens_is_for_python_before_the_beginning_and_after_the_end, KeyError()
    callback(code.__code__, 2, error)
    assert seen == [(code.__code__, 2, error)]
    asks.begin(**given())
    asks.end()
    callback(code.__code__, 4, error)
    assert seen[1:] == [(code.__code__, 4, error)]


@pytest.mark.parametrize("event", EVENTS)
def test_a_callback_takes_three_arguments(event: str) -> None:
    callback = new_asks().callback(event, print)
    for args in ((), (1, 2), (1, 2, 3, 4)):
        with pytest.raises(TypeError):
            callback(*args)
    with pytest.raises(ValueError, match="LINE"):
        new_asks().callback("LINE", print)


def test_begin_takes_all_or_nothing() -> None:
    asks = new_asks()
    for wrong in (
        {"next_seq": print},
        {"put": None},
        {"outside": ()},
        {"expire": 1},
        {"another": 1},
    ):
        with pytest.raises(TypeError):
            asks.begin(**given(**wrong))
    with pytest.raises(TypeError):
        asks.begin()
    for _ in range(3):
        asks.begin(**given())
