"""What tests are written with: assertions about who cancelled, and `cancel_everywhere`.

The modules in here are private.  None needs pytest, but for those whose names say so.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from aioaudit.testing.asserts import (
        NotRecordedError,
        assert_cancelled,
        assert_no_findings,
        assert_not_cancelled,
    )
    from aioaudit.testing.everywhere import (
        BaselineError,
        Coverage,
        Fault,
        IncompleteError,
        UnsafeError,
        cancel_everywhere,
        cancel_everywhere_async,
    )

__all__ = [
    "BaselineError",
    "Coverage",
    "Fault",
    "IncompleteError",
    "NotRecordedError",
    "UnsafeError",
    "assert_cancelled",
    "assert_no_findings",
    "assert_not_cancelled",
    "cancel_everywhere",
    "cancel_everywhere_async",
]

_LAZY = {
    "BaselineError": "aioaudit.testing.everywhere",
    "Coverage": "aioaudit.testing.everywhere",
    "Fault": "aioaudit.testing.everywhere",
    "IncompleteError": "aioaudit.testing.everywhere",
    "NotRecordedError": "aioaudit.testing.asserts",
    "UnsafeError": "aioaudit.testing.everywhere",
    "assert_cancelled": "aioaudit.testing.asserts",
    "assert_no_findings": "aioaudit.testing.asserts",
    "assert_not_cancelled": "aioaudit.testing.asserts",
    "cancel_everywhere": "aioaudit.testing.everywhere",
    "cancel_everywhere_async": "aioaudit.testing.everywhere",
}


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
