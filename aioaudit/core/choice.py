"""Private. Which core this process uses: the one in C, or the same in Python.

Decided once, at import.  ``AIOAUDIT_CORE`` asks for one of them; unset it is the native one
wherever that can be loaded.  Where it cannot, nothing is lost but time: no program stops for
it, and where nobody asked only ``process.start`` and ``aioaudit doctor`` say why.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Final, Literal, NamedTuple

from aioaudit.cpython.behaviour import FREE_THREADED, RELEASE
from aioaudit.cpython.interpreters import is_main
from aioaudit.settings import CORE_VARIABLE, SettingsError, bad_value, core_of
from aioaudit.text import escape_unprintable, say, words_of

PYTHONS: Final = ((3, 11), (3, 15))
"""The first and the last CPython that the native core is made for, and tested on."""

EXTENSION: Final = "aioaudit.core._core"

_GOES_ON: Final = "this program runs with the core in Python"


class Choice(NamedTuple):
    """Which core runs, and why it is that one.

    Attributes:
        name: Which.
        why: Why it is not the native one, in words; empty where it is.
        complaint: What stands in the way of what was asked for, for stderr; mostly empty.
    """

    name: Literal["native", "python"]
    why: str = ""
    complaint: str = ""

    def __str__(self) -> str:
        return f"{self.name} ({self.why})" if self.why else self.name


def unsuited(
    implementation: str, release: tuple[int, int], *, free_threaded: bool, main: bool
) -> str:
    """Why the native core is not for such an interpreter; empty where it is."""
    if implementation != "cpython" or not PYTHONS[0] <= release <= PYTHONS[1]:
        first, last, this = (".".join(map(str, each)) for each in (*PYTHONS, release))
        name = "CPython" if implementation == "cpython" else implementation
        return f"the native core is for CPython {first} to {last}, and this is {name} {this}"
    if free_threaded:
        return "the native core needs the GIL, and this is a free-threaded build"
    if not main:
        return "the native core is for the main interpreter, and this is another one"
    return ""


def decide(
    value: str | None, unfit: str, extension: str = EXTENSION
) -> tuple[Choice, ModuleType | None]:
    """What *value*, as ``AIOAUDIT_CORE`` holds it, leads to, and the module of a native core.

    Args:
        value: What it holds; None where it is unset.
        unfit: What `unsuited` says of this interpreter.
        extension: The name of the module.
    """
    try:
        wanted = core_of(value)
    except SettingsError as error:
        return Choice("python", f"{CORE_VARIABLE} names no core", f"{error}; {_GOES_ON}"), None
    if wanted == "python":
        return Choice("python", f"{CORE_VARIABLE} asks for it"), None
    complaint = ""
    if unfit:
        why = unfit
    else:
        try:
            return Choice("native"), import_module(extension)
        except Exception as error:  # noqa: BLE001 - the program runs as well without it
            named = error.name if isinstance(error, ImportError) else type(error).__name__
            if isinstance(error, ModuleNotFoundError) and named == extension:
                why = "aioaudit is installed without the native core, which takes a C compiler"
            else:
                why = f"the native core does not load: {escape_unprintable(words_of(error))}"
                # An error of the extension's own names nothing, and is a reason like those of
                # `unsuited`: one that is loaded a second time.  Any other is a fault.
                complaint = f"{why}; {_GOES_ON}" if named else ""
    if wanted == "native":
        complaint = f"{bad_value(CORE_VARIABLE, value, why, 'python')}; {_GOES_ON}"
    return Choice("python", why, complaint), None


CORE, _module = decide(
    os.environ.get(CORE_VARIABLE),
    unsuited(sys.implementation.name, RELEASE, free_threaded=FREE_THREADED, main=is_main()),
)
"""The core of this process, for good."""

if CORE.complaint:
    say(CORE.complaint)


def native() -> ModuleType | None:
    """The module of the native core, where that is the one that runs."""
    return _module
