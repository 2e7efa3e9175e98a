"""Interpreters of one process (PEP 734): which of them is this?"""

from __future__ import annotations

from importlib import import_module


def is_main() -> bool:
    """Whether this is the main interpreter, whose types the others share."""
    for name in ("_interpreters", "_xxsubinterpreters"):  # since 3.13, and before
        try:
            interpreters = import_module(name)
        except ImportError:
            continue
        return bool(interpreters.get_current() == interpreters.get_main())
    return True  # built without sub-interpreters
