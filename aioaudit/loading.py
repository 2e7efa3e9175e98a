"""Private. From an exporter's name to the exporter.

The core never imports an exporter by itself: only the name in a setting brings
it in.  Names that are not our own are looked up among the entry points that
installed packages register under `GROUP`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from aioaudit.settings import (
    DEFAULT_EXPORTER,
    JSONL_PATH_VARIABLE,
    OFF_WORDS,
    ON_WORDS,
    Settings,
    SettingsError,
    bad_value,
    shown,
    suggestion,
)
from aioaudit.text import describe, one_line

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterable
    from importlib.metadata import EntryPoint

    from aioaudit.exporter import Exporter

GROUP = "aioaudit.exporters"
"""The entry-point group; its objects, called without arguments, give an exporter."""

BRIDGE = "sys"
"""The name that asks for real `sys.audit` events: a valid name, but no exporter."""


def _jsonl(settings: Settings, path_from: str = JSONL_PATH_VARIABLE) -> Exporter:
    from aioaudit.exporters.jsonl import JsonlExporter

    return JsonlExporter(settings.jsonl_path, folder=settings.folder, setting=path_from)


def _structlog(_settings: Settings) -> Exporter:
    from aioaudit.exporters.structlog import StructlogExporter

    return StructlogExporter()


def _logging(_settings: Settings) -> Exporter:
    from aioaudit.exporters.logging import LoggingExporter

    return LoggingExporter()


def _otel(settings: Settings) -> Exporter:
    from aioaudit.exporters.otel import OpenTelemetryExporter

    return OpenTelemetryExporter(tasks=settings.otel_tasks, status=settings.otel_status)


def _recorder(settings: Settings) -> Exporter:
    from aioaudit.exporters.recorder import RecorderExporter

    return RecorderExporter(
        settings.recorder_size,
        dump_on=settings.recorder_dump,
        folder=settings.folder,
        socket=settings.recorder_socket,
    )


_BUILT_IN: dict[str, Callable[[Settings], Exporter]] = {
    "jsonl": _jsonl,
    "recorder": _recorder,
    "structlog": _structlog,
    "logging": _logging,
    "otel": _otel,
}

OWN_NAMES = (*_BUILT_IN, BRIDGE)
"""The names that are ours; an entry point of the same name is never used."""


def known_names() -> list[str]:
    """Every name that a setting may hold: our own first, then the installed ones."""
    return [*OWN_NAMES, *sorted({point.name for point in _entry_points()} - set(OWN_NAMES))]


def check(settings: Settings, where: str, value: str | None = None) -> None:
    """Make sure that each exporter that *settings* names exists, without importing it.

    Args:
        settings: The settings to check.
        where: The variable or argument that held the names, for the message.
        value: What it held, as written.

    Raises:
        SettingsError: a name is nobody's.
    """
    # Entry points are looked up for foreign names only: reading them takes
    # longer than all the rest of the start-up.
    for name in settings.exporters:
        if name not in _BUILT_IN and name != BRIDGE and name not in known_names():
            raise _unknown(where, ",".join(settings.exporters) if value is None else value, name)


def load_exporter(name: str, settings: Settings, given: Container[str] = frozenset()) -> Exporter:
    """The exporter called *name*, made anew.

    *given* are the settings that come from arguments of those names, for messages.

    Raises:
        SettingsError: nobody has an exporter of that name, or it cannot be loaded.
    """
    if name == BRIDGE:
        raise SettingsError(f"{BRIDGE!r} is the bridge to sys.audit, not an exporter")
    built_in = _BUILT_IN.get(name)
    if built_in is not None:
        try:
            if name == "jsonl" and "jsonl_path" in given:
                return _jsonl(settings, "jsonl_path")
            return built_in(settings)
        except ModuleNotFoundError as error:  # an extra that is not installed; the text says which
            raise SettingsError(f"exporter {name!r} cannot be loaded: {error}") from error
    from aioaudit.exporter import ExporterError

    points = {point.value: point for point in _entry_points() if point.name == name}
    if not points:
        raise _unknown("exporters", name, name)
    if len(points) > 1:
        raise SettingsError(
            f"exporter {name!r} is registered more than once: {', '.join(sorted(points))}"
        )
    [point] = points.values()
    try:
        made = cast("Callable[[], object]", point.load())()
    except KeyboardInterrupt:  # somebody at the keyboard means the program
        raise
    except BaseException as error:  # a module that calls sys.exit() must not end the program
        text = str(error) if isinstance(error, ExporterError) else describe(error)
        raise SettingsError(
            f"exporter {name!r} ({point.value}) cannot be loaded: {one_line(text)}"
        ) from error
    missing = _missing(made)
    if missing:
        raise SettingsError(
            f"exporter {name!r} ({point.value}) gave a {type(made).__name__},"
            f" which has no {', '.join(missing)}"
        )
    return cast("Exporter", made)


def check_exporter(given: object) -> None:
    """Make sure that *given*, an argument of `aioaudit.enable` that is no name, is an exporter.

    Raises:
        TypeError: it is none.
    """
    allowed = (
        "names, like 'jsonl', and exporters, objects with export, flush and shutdown,"
        " each as an argument of its own"
    )
    missing = _missing(given)
    if isinstance(given, type):
        wrong = "this is a class, not an object of it"
        if not missing:
            allowed = f"{shown(given)}(...)"
    elif isinstance(given, list | tuple | set) and all(map(_may_be_given, given)):
        wrong = f"this is a {type(given).__name__}, and each is an argument of its own"
        allowed = f"enable({', '.join(map(shown, given))})"
    elif given is None:
        wrong = "this is no exporter"
        allowed += "; without any, aioaudit.enable() uses those that AIOAUDIT names"
    elif missing:
        wrong = f"this is no exporter, it has no {', '.join(missing)}"
    else:
        return
    raise TypeError(f"enable({shown(given)}): {wrong}; allowed: {allowed}")


def _may_be_given(each: object) -> bool:
    return isinstance(each, str) or not (isinstance(each, type) or _missing(each))


def _missing(exporter: object) -> list[str]:
    """The verbs that *exporter* lacks."""
    return [
        verb
        for verb in ("export", "flush", "shutdown")
        if not callable(getattr(exporter, verb, None))
    ]


def _entry_points() -> Iterable[EntryPoint]:
    from importlib.metadata import entry_points  # 20 ms, and most programs need none of it

    return entry_points(group=GROUP)


def _unknown(where: str, value: str, name: str) -> SettingsError:
    names = known_names()
    return bad_value(
        where,
        value,
        f"{name!r} is no exporter{suggestion(name, names)}",
        f"{', '.join(names)} or another name registered under the entry-point group {GROUP};"
        f" {'/'.join(ON_WORDS)} for {DEFAULT_EXPORTER}; {'/'.join(OFF_WORDS)} for off",
    )
