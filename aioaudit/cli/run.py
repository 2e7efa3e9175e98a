"""``python -m aioaudit run``: one program, audited, as if Python had started it.

For places where start-up files are not run (``-I``, ``-S``, a source tree on
``PYTHONPATH``).  The program runs in this very process, so signals, exit status
and process id are its own, and it finds what it would find otherwise: its
``sys.argv``, its ``sys.path[0]``, and a ``__main__`` module that stays until
the interpreter ends (`runpy` takes its own away again, and with it the globals
of functions registered with `atexit`).

Options are parsed by hand: neither rich nor click may be imported into a
program that did not ask for them.
"""

from __future__ import annotations

import builtins
import io
import os
import sys
from dataclasses import dataclass
from importlib.machinery import SourceFileLoader, SourcelessFileLoader
from types import CodeType, ModuleType
from typing import TYPE_CHECKING

from aioaudit import startup
from aioaudit.loading import check
from aioaudit.settings import (
    DEFAULT_EXPORTER,
    VARIABLE,
    VARIABLES,
    SettingsError,
    build,
)

if TYPE_CHECKING:
    from importlib.machinery import ModuleSpec
    from types import TracebackType

USAGE = "usage: python -m aioaudit run [--to NAME[,NAME...]] (SCRIPT | -m MODULE) [ARG...]"

_SETTINGS = ",\n  ".join(", ".join(VARIABLES[at : at + 3]) for at in range(0, len(VARIABLES), 3))

HELP = f"""{USAGE}

Run a Python program and record who cancels its tasks.

  SCRIPT         a file, or a folder or zip file with a __main__.py
  -m MODULE      a module or package, as for python -m
  ARG...         what the program finds in sys.argv
  --to NAME,...  exporters to write to, instead of those in {VARIABLE}
                 (default: {VARIABLE}, else {DEFAULT_EXPORTER})

Other settings come from the environment:
  {_SETTINGS}"""


class _Refusal(Exception):  # noqa: N818 - a way out with a message, not an error of the program
    """There is no program to run: what to say, and the exit status."""

    def __init__(self, message: str, status: int) -> None:
        super().__init__(message)
        self.status = status


@dataclass(frozen=True)
class _Call:
    """What the command line asks for."""

    target: str
    is_module: bool
    args: list[str]
    to: str | None


@dataclass(frozen=True)
class _Program:
    """Code, and what its ``__main__`` says of itself."""

    code: CodeType
    names: dict[str, object]


def run(argv: list[str]) -> int:
    """Run the program that *argv* (what follows ``run``) names, in this process.

    Returns the exit status: 0 after the program's last line, 2 for a call that
    makes no sense or a script that cannot be read, 1 where there is no such
    module.  What the program itself raises, SystemExit included, is not caught.
    """
    if argv[:1] in (["-h"], ["--help"]):
        print(HELP)  # noqa: T201 - help is printed
        return 0
    try:
        call = _parse(argv)
        _start(call)
        program = _find(call)
        main = _new_main(program)
        exec(program.code, vars(main))  # noqa: S102 - running a program is the purpose
    except _Refusal as refusal:
        sys.stderr.write(f"{refusal}\n")
        return refusal.status
    except SystemExit:
        raise
    except BaseException:
        _hide_own_frames()
        raise
    return 0


def _parse(argv: list[str]) -> _Call:
    to: str | None = None
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word == "--to" or word.startswith("--to="):
            to = word[5:] if word != "--to" else _value(word, rest)
        elif word.startswith("-m"):
            return _Call(word[2:] or _value(word, rest), True, rest, to)
        elif word == "--":
            break
        elif word.startswith("-"):
            raise _bad_call(f"no option {word!r}; options of the program come after its name")
        else:
            rest.insert(0, word)
            break
    if not rest:
        raise _bad_call("no program is named")
    return _Call(rest[0], False, rest[1:], to)


def _value(option: str, rest: list[str]) -> str:
    if not rest:
        raise _bad_call(f"{option} needs a value")
    return rest.pop(0)


def _bad_call(message: str) -> _Refusal:
    return _Refusal(f"aioaudit run: {message}\n{USAGE}", 2)


def _start(call: _Call) -> None:
    """Begin to audit, before any code of the program is imported."""
    if call.to is not None:
        try:
            check(build(call.to, where="--to"), "--to", call.to)
        except SettingsError as error:
            raise _bad_call(str(error)) from None
    try:
        settings = build(call.to, environ=os.environ)
        check(settings, VARIABLE, os.environ.get(VARIABLE))
    except SettingsError as error:
        startup.report_unaudited(str(error))
        return
    os.environ[VARIABLE] = ",".join(settings.exporters)  # for child processes
    startup.start(settings)


def _find(call: _Call) -> _Program:
    if call.is_module:
        sys.argv = ["-m", *call.args]  # what Python shows while it imports the packages above
        _set_first_path(os.getcwd())
        program = _find_module(call.target)
        sys.argv[0] = str(program.names["__file__"])
        return program
    sys.argv = [call.target, *call.args]
    return _find_script(call.target)


def _find_module(name: str) -> _Program:
    from importlib.util import find_spec

    if name.startswith("."):
        raise _Refusal(f"{sys.executable}: Relative module names not supported", 1)
    try:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            inner = find_spec(f"{name}.__main__")
            if inner is None:
                raise _Refusal(
                    f"{sys.executable}: No module named {name}.__main__;"
                    f" {name!r} is a package and cannot be directly executed",
                    1,
                )
            spec = inner
    except ModuleNotFoundError as error:
        # A missing package above the module; an import inside one is the program's own error.
        if error.name is None or not f"{name}.".startswith(f"{error.name}."):
            raise
        spec = None
    except ValueError as error:  # a module that is there already and has no spec
        raise _Refusal(f"{sys.executable}: cannot run {name!r}: {error}", 1) from None
    if spec is None:
        raise _Refusal(f"{sys.executable}: No module named {name}", 1)
    return _program_of(spec)


def _find_script(target: str) -> _Program:
    from pkgutil import get_importer

    # As Python does: the working directory before it, and nothing simplified.
    filename = os.path.join(os.getcwd(), target)
    importer = get_importer(filename)
    if importer is not None:
        if sys.flags.safe_path:
            sys.path.insert(0, filename)
        else:
            sys.path[0] = filename
        spec = importer.find_spec("__main__")
        if spec is None:
            raise _Refusal(f"{sys.executable}: can't find '__main__' module in {filename!r}", 1)
        return _program_of(spec)
    _set_first_path(os.path.dirname(os.path.realpath(filename)))
    try:
        with io.open_code(filename) as file:
            source = file.read()
    except OSError as error:
        raise _Refusal(
            f"{sys.executable}: can't open file {filename!r}: [Errno {error.errno}]"
            f" {error.strerror}",
            2,
        ) from None
    loader: SourceFileLoader | SourcelessFileLoader
    if filename.endswith(".pyc"):
        loader = SourcelessFileLoader("__main__", filename)
        code = loader.get_code("__main__")
    else:
        loader = SourceFileLoader("__main__", filename)
        code = compile(source, filename, "exec", dont_inherit=True)
    assert code is not None  # these two loaders give code or raise
    return _Program(code, {"__file__": filename, "__cached__": None, "__loader__": loader})


def _program_of(spec: ModuleSpec) -> _Program:
    get_code = getattr(spec.loader, "get_code", None)
    code = None if get_code is None else get_code(spec.name)
    if code is None:
        raise _Refusal(f"{sys.executable}: No code object available for {spec.name}", 1)
    return _Program(
        code,
        {
            "__file__": spec.origin,
            "__cached__": spec.cached,
            "__loader__": spec.loader,
            "__package__": spec.parent,
            "__spec__": spec,
        },
    )


def _set_first_path(folder: str) -> None:
    """Put *folder* where Python put the folder of our own program, if it did."""
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _new_main(program: _Program) -> ModuleType:
    main = ModuleType("__main__")
    ours = vars(sys.modules["__main__"])
    if "__annotations__" in ours:  # up to 3.13
        vars(main)["__annotations__"] = {}
    vars(main)["__builtins__"] = builtins
    vars(main).update(program.names)
    if "__cached__" not in ours:  # since 3.15
        vars(main).pop("__cached__", None)
    sys.modules["__main__"] = main
    return main


def _hide_own_frames() -> None:
    """Have the traceback of an error that ends the program begin in the program.

    Set only when the program is over, so it never finds a hook of ours; its
    own, if it has set one, is called in turn.
    """
    hook = sys.excepthook

    def excepthook(
        kind: type[BaseException], error: BaseException, tb: TracebackType | None
    ) -> None:
        rest = tb
        while tb is not None:
            if tb.tb_frame.f_globals is globals():
                rest = tb.tb_next
            tb = tb.tb_next
        sys.excepthook = hook
        hook(kind, error.with_traceback(rest), rest)

    sys.excepthook = excepthook
