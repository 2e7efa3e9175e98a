"""Turning it on: the start-up file, the settings, the exporters, and where the log goes."""

from __future__ import annotations

import os
import site
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from importlib.metadata import EntryPoint, PackageNotFoundError, entry_points, requires
from pathlib import Path
from tempfile import TemporaryFile

from packaging.requirements import Requirement

import aioaudit
from aioaudit import loading, settings
from aioaudit.doctor.diagnosis import Diagnosis, State
from aioaudit.doctor.internals import missing_imported
from aioaudit.doctor.packages import version_of
from aioaudit.exporter import ExporterError
from aioaudit.opening import PlantedError, open_to_write
from aioaudit.settings import (
    CORE_VARIABLE,
    JSONL_PATH_VARIABLE,
    NOTES_VARIABLE,
    REDACT_VARIABLE,
    SECRETS,
    VARIABLE,
    Settings,
    SettingsError,
)
from aioaudit.text import describe

STARTED_BY = "aioaudit_autostart.pth"
"""The file that Python looks for at its start."""

STARTED = "_aioaudit_autostart"
"""The module that it names."""

_SHOW_STARTED = f"import sys; sys.exit({STARTED!r} not in sys.modules)"
_PATIENCE = 60
"""Seconds that a start of Python may take; it needs a fraction of one."""

_INSTEAD = "python -m aioaudit run does without it"
_TRIAL = 1 << 16
"""Bytes that are written to see whether the disk has room."""


# -- the start-up file ---------------------------------------------------------------------


def start_up() -> Iterator[Diagnosis]:
    """Whether Python runs our start-up file, and if not, why."""
    state, text = _start_up()
    yield Diagnosis(section="start-up", subject=STARTED_BY, state=state, text=text)


def _start_up() -> tuple[State, str]:
    if sys.flags.no_site:
        return "warning", f"not run: Python was started with -S; {_INSTEAD}"
    if sys.flags.ignore_environment:
        option = "-I" if sys.flags.isolated else "-E"
        return "warning", f"does nothing: Python was started with {option}; {_INSTEAD}"
    folders = _site_folders()
    with_file = [folder for folder in folders if (folder / STARTED_BY).exists()]
    if not with_file:
        return "warning", _nowhere(folders)
    [folder, *_] = with_file
    module = next((f for f in with_file if (f / f"{STARTED}.py").exists()), None)
    if module is None:
        return "problem", f"{folder} holds no {STARTED}.py, which it names; install aioaudit again"
    ours = Path(aioaudit.__file__).parent / "_startup" / f"{STARTED}.py"  # in a checkout only
    if ours.exists() and ours.read_bytes() != (module / f"{STARTED}.py").read_bytes():
        return "warning", f"{module}/{STARTED}.py is an older copy; install aioaudit again"
    if not _is_run():
        return "warning", (
            f"in {folder}, but this Python does not run its line (from 3.18 on it is to run"
            f" no import lines of .pth files, PEP 829); {_INSTEAD}"
        )
    asked = not settings.is_off(os.environ.get(VARIABLE)) or wanted(os.environ) is not None
    if asked and not getattr(sys.modules.get(STARTED), "_started", False):
        return "warning", f"in {folder}, but Python did not run it; {_INSTEAD}"
    return "ok", f"in {folder}"


def _is_run() -> bool:
    """Whether this Python runs the start-up file: it is tried, with auditing switched off."""
    try:
        done = subprocess.run(
            [sys.executable, "-c", _SHOW_STARTED],
            env={**os.environ, VARIABLE: "off"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_PATIENCE,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return True  # nothing is known against it
    return done.returncode == 0


def _nowhere(folders: list[Path]) -> str:
    """Why no folder among *folders*, those that Python looks into, has the file."""
    for folder in map(Path, dict.fromkeys(filter(None, sys.path))):
        if folder not in folders and (folder / STARTED_BY).exists():
            return (
                f"in {folder}, which is not a folder that Python runs such files from"
                f" ({', '.join(map(str, folders))}); {_INSTEAD}"
            )
    user = Path(site.getusersitepackages())
    if (user / STARTED_BY).exists():
        return f"in {user}, which is switched off here; {_INSTEAD}"
    home = Path(aioaudit.__file__).parent.parent
    return f"not installed: aioaudit itself comes from {home}; pip install puts it in place, or {_INSTEAD}"


def _site_folders() -> list[Path]:
    """Where Python looks for start-up files."""
    folders = list(site.getsitepackages())
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [Path(folder) for folder in dict.fromkeys(folders)]


# -- settings ------------------------------------------------------------------------------


def wanted(environ: Mapping[str, str]) -> Settings | None:
    """The settings in force, None where nothing is to be audited or they cannot be used."""
    try:
        found = settings.from_environ(environ)
        if found is not None:
            loading.check(found, VARIABLE, environ.get(VARIABLE))
    except SettingsError:
        return None
    return found


def variables() -> Iterator[Diagnosis]:
    """`AIOAUDIT`, and each other variable of ours that is set."""
    value = os.environ.get(VARIABLE)
    if value is None or settings.is_off(value):
        if wanted(os.environ) is not None:
            text = f"not set: no exporter, {NOTES_VARIABLE} alone"
        else:
            text = "not set: programs run unaudited" if value is None else f"{value!r}: off"
        yield Diagnosis(section="settings", subject=VARIABLE, state="none", text=text)
    else:
        yield _setting(VARIABLE, value)
    foreign = {each.name for each in entry_points(group=loading.GROUP)}
    known = (*settings.VARIABLES, CORE_VARIABLE)
    for name, each in sorted(os.environ.items()):
        if name in known:
            yield _setting(name, each)
        elif owner := _owner(name, foreign):
            text = f"left to the exporter {owner!r}, which another package registers"
            yield Diagnosis(section="settings", subject=name, state="none", text=text)
        elif name.startswith(f"{VARIABLE}_"):
            text = f"no setting{settings.suggestion(name, known)}; it changes nothing"
            yield Diagnosis(section="settings", subject=name, state="warning", text=text)


def _owner(variable: str, exporters: Iterable[str]) -> str | None:
    """The one of these *exporters* of other packages whose name *variable* goes on with."""
    rest = f"{variable.removeprefix(f'{VARIABLE}_')}_"
    named = ((each, each.upper().replace("-", "_")) for each in sorted(exporters))
    return next((each for each, word in named if rest.startswith(f"{word}_")), None)


def _setting(name: str, value: str) -> Diagnosis:
    """Whether the variable *name* may hold *value*."""
    state: State = "ok"
    text = repr(value)
    try:
        if name == CORE_VARIABLE:
            settings.core_of(value)
        # Alone: an error of one variable must not hide another's.
        found = settings.build(environ={name: value})
        if name == VARIABLE:
            loading.check(found, VARIABLE, value)
    except SettingsError as error:
        state, text = "problem", str(error).removeprefix(f"{name}=")
    return Diagnosis(section="settings", subject=name, state=state, text=text)


# -- exporters -----------------------------------------------------------------------------


def exporters() -> Iterator[Diagnosis]:
    """Whether each exporter could be used."""
    found = wanted(os.environ)
    names = () if found is None else found.exporters
    for name in loading.OWN_NAMES:
        state, text, version = _own_exporter(name)
        if name in names and state == "none":
            state = "problem"
        if name == "otel" and name in names and state == "ok":
            state, text = _collector(text)
        yield Diagnosis(section="exporters", subject=name, state=state, text=text, version=version)
        if name == "otel" and name in names and state == "ok":
            from aioaudit.exporters.otel.internals import INTERNALS

            yield from missing_imported(INTERNALS, "exporters", f"OpenTelemetry {version}")
    points = sorted(set(entry_points(group=loading.GROUP)))
    for point in points:
        yield _foreign_exporter(point, [each for each in points if each.name == point.name])


def _own_exporter(name: str) -> tuple[State, str, str | None]:
    try:
        ours = [Requirement(line) for line in requires("aioaudit") or []]
    except PackageNotFoundError:
        return "note", "aioaudit itself is not installed: what this needs is not known", None
    needed = [
        each
        for each in ours
        if each.marker is not None
        and each.marker.evaluate({"extra": name})
        and not each.marker.evaluate({"extra": ""})
    ]
    if not needed:
        return "ok", "needs nothing more", None
    versions = {each.name: version_of(each.name) for each in needed}
    missing = [each for each, version in versions.items() if version is None]
    install = f"pip install 'aioaudit[{name}]'"
    if missing:
        return "none", f"needs {', '.join(missing)}, not installed: {install}", None
    for each in needed:
        if not each.specifier.contains(str(versions[each.name]), prereleases=True):
            found = f"{each.name} {versions[each.name]} is too old, {each.specifier} is needed"
            return "none", f"{found}: {install}", None
    text = ", ".join(f"{each} {version}" for each, version in versions.items())
    return "ok", text, versions[needed[0].name]


def _collector(text: str) -> tuple[State, str]:
    """Whether the standard ``OTEL_*`` variables name something to send spans to."""
    from aioaudit.exporters.otel.environment import span_exporter

    try:
        span_exporter()
    except ExporterError as error:
        return "problem", str(error)
    return "ok", text


def _foreign_exporter(point: EntryPoint, named_so: list[EntryPoint]) -> Diagnosis:
    """An exporter that another package registered as *point*."""
    of = "" if point.dist is None else f" of {point.dist.name} {point.dist.version}"
    state: State = "ok"
    text = f"{point.value}{of}"
    if point.name in loading.OWN_NAMES:
        state, text = "warning", f"{text} is never used: the name is one of aioaudit's own"
    elif len(named_so) > 1:
        others = ", ".join(sorted(each.value for each in named_so))
        state, text = "warning", f"registered more than once: {others}"
    else:
        try:
            if not callable(point.load()):
                state, text = "warning", f"{text} cannot be called"
        except Exception as error:  # noqa: BLE001 - a stranger's module may raise anything
            state, text = "warning", f"{text} cannot be loaded: {describe(error)}"
    found = wanted(os.environ)
    if state == "warning" and found is not None and point.name in found.exporters:
        state = "problem"
    version = None if point.dist is None else point.dist.version
    return Diagnosis(
        section="exporters", subject=point.name, state=state, text=text, version=version
    )


# -- the log -------------------------------------------------------------------------------


def log() -> Iterator[Diagnosis]:
    """Where ``jsonl`` would write, and whether it could."""
    found = wanted(os.environ)
    try:
        path = settings.build(jsonl_path=os.environ.get(JSONL_PATH_VARIABLE) or None).jsonl_path
    except SettingsError:
        return  # told among the settings
    try:
        place = Path(path).absolute()
        wrong = _wrong_with(place)
    except OSError as error:  # the working directory was removed
        place, wrong = Path(path), f"there is no working directory: {error.strerror}"
    state: State = "ok"
    if wrong is not None:
        state = "problem" if found is not None and "jsonl" in found.exporters else "warning"
    text = str(place) if wrong is None else f"{place}: {wrong}"
    yield Diagnosis(section="log", subject="jsonl", state=state, text=text)
    yield from _redacted()


def _redacted() -> Iterator[Diagnosis]:
    """What is replaced in what leaves the process."""
    value = os.environ.get(REDACT_VARIABLE) or None
    try:
        rules = settings.build(redact=value).redact
    except SettingsError:
        return  # told among the settings
    if rules:
        text = ", ".join("obvious secrets" if each == SECRETS else each for each in rules)
    else:
        text = f"nothing: {REDACT_VARIABLE} says so"
    state: State = "ok" if rules else "note"
    yield Diagnosis(section="log", subject="redacted", state=state, text=text)


def _wrong_with(place: Path) -> str | None:
    """Why no log can be written to *place*, None where one can: it is tried, and leaves nothing."""
    folder, file = place.parent, Path(str(place).replace("{pid}", str(os.getpid())))
    if file.is_dir():
        return "this is a folder; AIOAUDIT_JSONL_PATH must name a file"
    if not folder.is_dir():
        what = "is no folder" if folder.exists() else "does not exist"
        return f"the folder {what}, and none is made"
    try:
        with suppress(FileNotFoundError):
            os.close(open_to_write(file, create=False, wait=False))
        if not file.exists() or file.is_file():
            with TemporaryFile(dir=file.resolve().parent) as trial:
                trial.write(bytes(_TRIAL))
    except PlantedError as error:
        return f"it is not written to: {error}"
    except OSError as error:
        return f"it cannot be written: {error.strerror}"
    return None
