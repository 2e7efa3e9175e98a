"""Compiles the native core, ``aioaudit/core/_core.c``, with nothing but Python and a C compiler.

That file includes its parts, ``aioaudit/core/c/*.h``: all of it is one unit of compilation.

Run as a program it puts the extension beside its source, for the Python that runs it, so that
the tree can be worked with: ``python tools/build_core.py``.  Git and the builders of packages
pass over it there.  ``tools/hatch_build.py`` uses it for wheels.

The compiler is what ``CC`` names, or else the one that Python was built with, or else ``cc``.
``CFLAGS`` and ``LDFLAGS`` are added behind ours, as in
``CFLAGS="-g -O1 -UNDEBUG -fsanitize=address,undefined" python tools/build_core.py``.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCE = Path("aioaudit", "core", "_core.c")
PYTHONS = ((3, 11), (3, 15))
"""The first and the last CPython that it is made for; `aioaudit.core.choice` has the same."""

OF_UNIX = (
    "-std=c11",
    "-O2",
    "-fwrapv",  # as CPython itself; its headers hold code that is compiled with ours
    "-fPIC",
    "-fvisibility=hidden",
    "-DNDEBUG",
    "-Wall",
    "-Wextra",
    "-Werror",
)
OF_WINDOWS = ("/nologo", "/std:c11", "/O2", "/MD", "/DNDEBUG", "/W4", "/WX", "/utf-8")


class NoCoreError(Exception):
    """The native core cannot be built here; the text says why, and what would be right."""


def suffix() -> str:
    """What the name of an extension of this Python ends with."""
    return str(sysconfig.get_config_var("EXT_SUFFIX") or ".so")


def build(folder: Path) -> Path:
    """Compile the core for the Python that runs this, into *folder*; gives the file.

    Raises:
        NoCoreError: it cannot be done; *folder* is as it was.
    """
    _check_python()
    headers = _headers()
    compiler = _compiler()
    target = folder / f"_core{suffix()}"
    with tempfile.TemporaryDirectory(prefix="aioaudit-core-") as scratch:
        made = Path(scratch, target.name)
        windows = Path(compiler[0]).stem.lower() in ("cl", "clang-cl")
        command = (_for_windows if windows else _for_unix)(compiler, headers, made)
        try:
            # In the tree, by a relative path: what is made does not depend on where it lies.
            done = subprocess.run(
                command,
                check=False,
                cwd=ROOT,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
            )
        except OSError as error:
            raise NoCoreError(
                f"the C compiler {compiler[0]!r} does not start ({error.strerror or error});"
                " let CC name one that does"
            ) from None
        if done.returncode or not made.exists():
            raise NoCoreError(
                f"the C compiler {compiler[0]!r} failed (status {done.returncode}"
                f"{_first_error(done.stdout)}); let CC name one that compiles C11"
            )
        # In one step: a process that has the old one loaded keeps it.
        beside = target.with_name(f"{target.name}.new")
        shutil.copy(made, beside)
        beside.replace(target)
    return target


def _check_python() -> None:
    version = ".".join(map(str, sys.version_info[:2]))
    first, last = (".".join(map(str, each)) for each in PYTHONS)
    what = f"it is for CPython {first} to {last} with the GIL"
    if sys.implementation.name != "cpython" or not PYTHONS[0] <= sys.version_info[:2] <= PYTHONS[1]:
        raise NoCoreError(f"{what}, and this is {sys.implementation.name} {version}")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise NoCoreError(f"{what}, and this is a free-threaded build")


def _headers() -> list[str]:
    """The folders of CPython's headers.

    Where they are now: the variables of `sysconfig` say where they were as CPython was built.
    """
    folders = list(dict.fromkeys(sysconfig.get_path(name) for name in ("include", "platinclude")))
    if not any(Path(each, "Python.h").exists() for each in folders):
        raise NoCoreError(
            f"there is no Python.h in {folders[0]}; install the headers of this Python"
            " (python3-dev, python3-devel)"
        )
    return folders


def _compiler() -> list[str]:
    """The words that start the compiler."""
    named = os.environ.get("CC", "").strip()
    if named:
        return shlex.split(named)
    if os.name == "nt":
        if shutil.which("cl"):
            return ["cl"]
        raise NoCoreError(
            "there is no C compiler cl; build in a developer prompt of Visual Studio, or let CC"
            " name one"
        )
    # A Python that was made elsewhere may name a compiler that is not here.
    for each in (str(sysconfig.get_config_var("CC") or ""), "cc", "gcc", "clang"):
        words = shlex.split(each)
        if words and shutil.which(words[0]):
            return words
    raise NoCoreError("there is no C compiler; install gcc or clang, or let CC name one")


def _words_of(*variables: str) -> list[str]:
    return [word for each in variables for word in shlex.split(os.environ.get(each, ""))]


def _for_unix(compiler: list[str], headers: list[str], made: Path) -> list[str]:
    link = ["-shared"]
    if sys.platform == "darwin":
        link = ["-bundle", "-undefined", "dynamic_lookup", *_words_of("ARCHFLAGS")]
    # Their warnings are not ours: -isystem.
    include = [word for each in headers for word in ("-isystem", each)]
    flags = [*OF_UNIX, *include, *_words_of("CPPFLAGS", "CFLAGS")]
    return [*compiler, *flags, *link, str(SOURCE), *_words_of("LDFLAGS"), "-o", str(made)]


def _for_windows(compiler: list[str], headers: list[str], made: Path) -> list[str]:
    include = ["/external:W0", *(f"/external:I{each}" for each in headers)]
    scratch = f"/Fo{made.parent}{os.sep}"
    link = ["/link", "/DLL", "/EXPORT:PyInit__core", f"/LIBPATH:{Path(sys.base_prefix, 'libs')}"]
    flags = [*OF_WINDOWS, *include, scratch, *_words_of("CFLAGS")]
    return [*compiler, *flags, "/LD", str(SOURCE), *link, *_words_of("LDFLAGS"), f"/OUT:{made}"]


def _first_error(output: str) -> str:
    """`` : ...`` with the line of *output* that says most, on one line; empty where it says none."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    # As a word: the functions that a compiler names first may have it in their names.
    error = re.compile(r"\berror\b", re.IGNORECASE)
    said = next(filter(error.search, lines), lines[-1] if lines else "")
    return f": {said}" if said else ""


def main() -> int:
    """Put the extension beside its source; returns the exit status."""
    try:
        made = build(ROOT / SOURCE.parent)
    except NoCoreError as error:
        print(f"aioaudit: no native core: {error}", file=sys.stderr)
        return 1
    print(made.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
