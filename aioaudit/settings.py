"""Private. Every setting and its environment variable: the one place that reads them.

A setting is checked when it is read, long before it is used, so that a typing
error is one line at start-up and not a surprise at the first event.  This
module is imported at the start of every audited process, also of those that
never touch asyncio: it must stay cheap (no msgspec, no asyncio), which is why
the names of events stand here as plain text.  A test compares them with
`aioaudit.events`.
"""

from __future__ import annotations

import math
import os
import re
from collections.abc import Callable, Iterable, Mapping
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from aioaudit.errors import AioauditError

VARIABLE = "AIOAUDIT"
JSONL_PATH_VARIABLE = "AIOAUDIT_JSONL_PATH"
EVENTS_VARIABLE = "AIOAUDIT_EVENTS"
OTEL_TASKS_VARIABLE = "AIOAUDIT_OTEL_TASKS"
OTEL_STATUS_VARIABLE = "AIOAUDIT_OTEL_STATUS"
SLOW_CANCEL_VARIABLE = "AIOAUDIT_SLOW_CANCEL"
BLOCKED_VARIABLE = "AIOAUDIT_BLOCKED"
NOTES_VARIABLE = "AIOAUDIT_NOTES"
RECORDER_SIZE_VARIABLE = "AIOAUDIT_RECORDER_SIZE"
RECORDER_DUMP_VARIABLE = "AIOAUDIT_RECORDER_DUMP"
RECORDER_SOCKET_VARIABLE = "AIOAUDIT_RECORDER_SOCKET"
REDACT_VARIABLE = "AIOAUDIT_REDACT"
CORE_VARIABLE = "AIOAUDIT_CORE"

ON_WORDS = ("1", "on", "true", "yes")
OFF_WORDS = ("0", "off", "false", "no")

DEFAULT_EXPORTER = "jsonl"
DEFAULT_JSONL_PATH = "aioaudit-{pid}.jsonl"
DEFAULT_OTEL_TASKS = "touched"
DEFAULT_SLOW_CANCEL = 1.0
DEFAULT_BLOCKED = 0.0
"""Nobody looks whether a loop is blocked."""
DEFAULT_RECORDER_SIZE = 16_000_000
LEAST_RECORDER_SIZE = 64_000
"""In less there is no room for a chain."""
SECRETS = "secrets"
"""What stands for the obvious secrets among those of `Settings.redact`."""
DEFAULT_REDACT = (SECRETS,)
OTEL_STATUSES = ("cause", "unset", "error")
"""When a cancelled task's span is an error; the first is the default."""
CORES = ("native", "python")
"""What the hot paths can run in; `aioaudit.core.choice` says which of them do."""

EVENT_NAMES = (
    "process.start",
    "process.end",
    "process.dropped",
    "hook.add",
    "task.create",
    "task.found",
    "task.cancel",
    "task.uncancel",
    "task.done",
    "future.cancel",
    "connection.close",
    "finding",
    "loop.start",
    "loop.stop",
    "loop.close",
    "loop.blocked",
    "signal.sent",
)
"""The name of every event."""

FINDING_KINDS = (
    "swallowed",
    "lost",
    "coalesced",
    "slow",
    "already_done",
    "self_cancel",
    "wrong_thread",
    "never_started",
    "uncancel_unbalanced",
    "pending",
    "destroyed",
    "awaited_at_exit",
    "spinning",
    "blocked",
)
"""Every kind of finding."""

REDACTABLE = (
    "address",
    "argv",
    "at",
    "coro",
    "detail",
    "error",
    "hook",
    "library",
    "message",
    "name",
    "service",
    "source",
    "thread",
)
"""The keys whose texts can be replaced; each also stands for those of the same kind.

These are the keys that end in ``_`` and it, and the plural: ``name`` is ``by_name``, ``origin_name``
and ``waiter_names``, too.  `aioaudit.redaction.family_of` says it of any key.
"""

DUMP_SIGNALS = ("HUP", "QUIT", "USR1", "USR2")
"""The signals that may ask for a dump, where the platform has them."""

ALWAYS = frozenset(name for name in EVENT_NAMES if name.startswith("process."))
"""Events that frame a log and say what it lacks: no filter leaves them out."""

_MOST_SHOWN = 200


class SettingsError(AioauditError, ValueError):
    """A setting cannot be used; its text is one line that says which, and what is allowed."""


class Settings(NamedTuple):
    """What is wanted, checked as far as possible without importing an exporter.

    Attributes:
        exporters: Names in the order given, each once.
        jsonl_path: Where the jsonl exporter writes; may hold ``{pid}``.
        events: Names of the wanted events; always with those of `ALWAYS`.
        otel_tasks: Which tasks the otel exporter makes spans of.
        otel_status: When a cancelled task's span is an error.
        folder: Where a relative `jsonl_path` starts; None for the working
            directory at the moment when the exporter is made.
        slow_cancel: Seconds that a task may take to obey before that is a finding.
        blocked: Seconds that a loop may stay in one callback before that is told; 0 for
            however long it likes.
        notes: Whether errors of cancelled tasks carry a note that says who cancelled.
        recorder_size: How many bytes the recorder may take.
        recorder_dump: When it writes what it keeps by itself: words of `_recorder_dump`.
        recorder_socket: Whether it can be asked from outside of the process.
        redact: What is replaced in what leaves the process: `SECRETS`, ``KEY`` for all that a key
            holds, ``KEY=PATTERN`` for what fits; empty for nothing.
    """

    exporters: tuple[str, ...] = (DEFAULT_EXPORTER,)
    jsonl_path: str = DEFAULT_JSONL_PATH
    events: frozenset[str] = frozenset(EVENT_NAMES)
    otel_tasks: str = DEFAULT_OTEL_TASKS
    otel_status: str = OTEL_STATUSES[0]
    folder: str | None = None
    slow_cancel: float = DEFAULT_SLOW_CANCEL
    blocked: float = DEFAULT_BLOCKED
    notes: bool = False
    recorder_size: int = DEFAULT_RECORDER_SIZE
    recorder_dump: tuple[str, ...] = ()
    recorder_socket: bool = True
    redact: tuple[str, ...] = DEFAULT_REDACT


def is_off(value: str | None) -> bool:
    """Whether *value*, as ``AIOAUDIT`` holds it, means that nothing is to be audited."""
    return not _items(value or "") or _word(value or "") in OFF_WORDS


def from_environ(environ: Mapping[str, str]) -> Settings | None:
    """The settings that *environ* asks for, or None where it asks for no auditing.

    ``AIOAUDIT_NOTES`` alone asks for it, without any exporter; where ``AIOAUDIT`` holds a word
    for off, nothing does.

    Raises:
        SettingsError: a variable of ours holds something that cannot be used.
            Names of exporters are taken as they are: whether one exists is
            for `aioaudit.loading.check` to say.
    """
    value = environ.get(VARIABLE)
    if value is None or is_off(value):
        notes = environ.get(NOTES_VARIABLE)
        if _items(value or "") or not notes or not _notes(NOTES_VARIABLE, notes):
            return None
        return Settings(exporters=(), **_read(environ, {}))
    return Settings(exporters=_exporters(VARIABLE, value), **_read(environ, {}))


def build(
    exporters: str | Iterable[str] | None = None,
    *,
    environ: Mapping[str, str] | None = None,
    where: str = "exporters",
    **given: object,
) -> Settings:
    """The settings that code asks for; what it leaves out comes from *environ*.

    Args:
        exporters: Names, as a list or separated by commas.
        environ: Variables for what is not given; none by default.  An
            ``AIOAUDIT`` that means off is no answer here: code asked.
        where: What an error about *exporters* calls them.
        given: Values for fields of `Settings` that are in `TABLE`; None is not given.

    Raises:
        SettingsError: an argument or a variable holds something that cannot be used.
        TypeError: an argument is of a type that no value of it has.
    """
    environ = {} if environ is None else environ
    if exporters is None:
        wanted = environ.get(VARIABLE)
        names = (
            (DEFAULT_EXPORTER,)
            if wanted is None or is_off(wanted)
            else _exporters(VARIABLE, wanted)
        )
    else:
        names = _exporters(where, _joined(where, exporters))
    return Settings(exporters=names, **_read(environ, given))


def core_of(value: str | None) -> str | None:
    """The one of `CORES` that *value*, as ``AIOAUDIT_CORE`` holds it, asks for; None for any.

    It is none of `Settings`: it is decided once, before there are any.

    Raises:
        SettingsError: it is neither.
    """
    word = _word(value or "")
    if word and word not in CORES:
        wrong = f"{word!r} is no core{suggestion(word, CORES)}"
        raise bad_value(CORE_VARIABLE, value, wrong, ", ".join(CORES))
    return word or None


def bad_value(where: str, value: object, wrong: str, allowed: str) -> SettingsError:
    """The error that names the setting *where*, its *value* as written, and what would be right."""
    return SettingsError(f"{where}={shown(value)}: {wrong}; allowed: {allowed}")


def suggestion(word: str, known: Iterable[str]) -> str:
    """`` (did you mean 'x'?)`` where *word* is close to one of *known*, else nothing."""
    from difflib import get_close_matches  # only after a mistake: costs more than all the rest

    by_lower = {each.lower(): each for each in known}
    close = get_close_matches(word.lower(), list(by_lower), n=1)
    return f" (did you mean {by_lower[close[0]]!r}?)" if close else ""


def shown(value: object) -> str:
    """*value* as it was written, in a message: not for ever, and whatever its ``__repr__`` does."""
    if isinstance(value, str):
        return repr(value) if len(value) <= _MOST_SHOWN else f"{value[:_MOST_SHOWN]!r}..."
    if isinstance(value, type):
        return value.__qualname__
    try:
        text = repr(value)
    except Exception:  # noqa: BLE001 - ValueError of a number of 5,000 digits, or anything at all
        return f"<{type(value).__qualname__}>"
    return text if len(text) <= _MOST_SHOWN else f"{text[:_MOST_SHOWN]}..."


def _word(value: str) -> str:
    return value.strip().lower()


def _items(value: str) -> list[str]:
    return [item for item in (part.strip() for part in value.split(",")) if item]


def _joined(where: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    try:
        return ",".join(value)
    except TypeError:
        raise TypeError(f"{where} is text or an iterable of texts, not {shown(value)}") from None


def _exporters(where: str, value: str) -> tuple[str, ...]:
    names: dict[str, None] = {}
    for item in _items(value):
        word = item.lower()
        if word in OFF_WORDS:
            raise bad_value(
                where,
                value,
                f"{item!r} turns auditing off and cannot stand among other names",
                f"{', '.join(OFF_WORDS)} alone, or names of exporters separated by commas",
            )
        names[DEFAULT_EXPORTER if word in ON_WORDS else item] = None
    if not names:
        raise bad_value(where, value, "no exporter is named", "names separated by commas")
    return tuple(names)


def _read(environ: Mapping[str, str], given: Mapping[str, object]) -> dict[str, Any]:
    """Each field of `Settings` that is *given* or that a variable sets."""
    found: dict[str, Any] = {}
    for each in TABLE:
        argument, variable = given.get(each.field), environ.get(each.name)
        if argument is not None:
            found[each.field] = each.check(each.field, argument)
        elif variable:
            found[each.field] = each.check(each.name, variable)
    unknown = given.keys() - {each.field for each in TABLE}
    if unknown:
        raise TypeError(f"there is no setting {', '.join(sorted(unknown))}")
    return found


def _jsonl_path(where: str, given: Any) -> str:
    try:
        value = os.fsdecode(given)
    except TypeError:
        raise TypeError(f"{where} is the path of a file, not {shown(given)}") from None
    if not value:
        return DEFAULT_JSONL_PATH
    allowed = "the path of a file, with {pid} for the number of the process"
    if not value.strip() or "\0" in value:
        raise bad_value(where, value, "this names no file", allowed)
    rest = value.replace("{pid}", "/")
    if "{" not in rest and "}" not in rest:
        return value
    for placeholder in re.findall(r"\{[^{}]*\}", value):
        if placeholder != "{pid}":
            raise bad_value(where, value, f"{placeholder} stands for nothing", allowed)
    half = re.search(r"\{[^{}/]*|[^{}/]*\}", rest)
    if half is not None:
        brace = "}" if half[0].startswith("{") else "{"
        raise bad_value(where, value, f"{half[0]} lacks its {brace}", allowed)
    return value


def _events(where: str, given: Any) -> frozenset[str]:
    value = _joined(where, given)
    items = _items(value)
    if given is value and not items:
        return frozenset(EVENT_NAMES)
    wanted = set(ALWAYS)
    for item in items:
        matching = [name for name in EVENT_NAMES if fnmatchcase(name, item.lower())]
        if not matching:
            raise bad_value(
                where,
                value,
                f"{item!r} is no event{suggestion(item.lower(), EVENT_NAMES)}",
                f"patterns like task.* and {', '.join(EVENT_NAMES)}",
            )
        wanted.update(matching)
    return frozenset(wanted)


def _slow_cancel(where: str, given: Any) -> float:
    return _length(where, given, DEFAULT_SLOW_CANCEL, "seconds, like 0.5")


def _blocked(where: str, given: Any) -> float:
    if isinstance(given, str) and _word(given) in OFF_WORDS:
        return DEFAULT_BLOCKED
    return _length(where, given, DEFAULT_BLOCKED, "seconds, like 0.1, or 0 for off")


def _length(where: str, given: Any, default: float, allowed: str) -> float:
    if isinstance(given, str) and not given.strip():
        return default
    try:
        seconds = float(given)
    except (TypeError, ValueError, OverflowError):
        seconds = -1.0
    if not 0 <= seconds < math.inf:
        raise bad_value(where, given, "this is no length of time", allowed)
    return seconds


def _notes(where: str, given: Any) -> bool:
    return _switch(where, given, otherwise=False)


def _switch(where: str, given: Any, *, otherwise: bool) -> bool:
    if isinstance(given, bool):
        return given
    word = _word(_joined(where, given))
    if word and word not in (*ON_WORDS, *OFF_WORDS):
        wrong = f"{word!r} is neither on nor off"
        raise bad_value(where, given, wrong, f"{'/'.join(ON_WORDS)} or {'/'.join(OFF_WORDS)}")
    return word in ON_WORDS if word else otherwise


def _recorder_socket(where: str, given: Any) -> bool:
    return _switch(where, given, otherwise=True)


_UNITS = {
    "": 1,
    "b": 1,
    "kb": 1000,
    "mb": 1000**2,
    "gb": 1000**3,
    "kib": 1024,
    "mib": 1024**2,
    "gib": 1024**3,
}


def _recorder_size(where: str, given: Any) -> int:
    if isinstance(given, str) and not given.strip():
        return DEFAULT_RECORDER_SIZE
    if not isinstance(given, str | int | float):
        raise TypeError(f"{where} is a number of bytes, or text with a unit, not {shown(given)}")
    text = given if isinstance(given, str) else shown(given)
    found = re.fullmatch(r"\s*([0-9]{1,15}(?:\.[0-9]{1,6})?)\s*([a-zA-Z]*)\s*", text)
    unit = _UNITS.get(found[2].lower()) if found else None
    allowed = "a number of bytes, or one with a unit: 512 kB, 16 MB, 1 GB, 16 MiB; at least 64 kB"
    if found is None or unit is None:
        raise bad_value(where, given, "this is no size", allowed)
    size = int(float(found[1]) * unit)
    if size < LEAST_RECORDER_SIZE:
        raise bad_value(where, given, "this is too small", allowed)
    return size


def _recorder_dump(where: str, given: Any) -> tuple[str, ...]:
    value = _joined(where, given)
    words: dict[str, None] = {}
    for item in _items(value):
        word, _, rest = item.partition(":")
        word, rest = word.lower().strip(), rest.strip()
        if word in OFF_WORDS and len(_items(value)) == 1 and ":" not in item:
            return ()
        if word == "finding" and (":" not in item or rest.lower() in FINDING_KINDS):
            words[f"{word}:{rest.lower()}" if rest else word] = None
        elif word in ("error", "exit") and ":" not in item:
            words[word] = None
        elif word == "signal" and (name := _signal_name(rest)) is not None:
            words[f"{word}:{name}"] = None
        else:
            known = ("finding", "error", "exit", "signal")
            wrong = f"{item!r} is no trigger{suggestion(word, known) if word not in known else ''}"
            kinds = ", ".join(FINDING_KINDS)
            signals = ", ".join(DUMP_SIGNALS)
            raise bad_value(
                where,
                value,
                wrong,
                f"finding, finding:KIND ({kinds}), error, exit, signal:NAME ({signals}),"
                " separated by commas",
            )
    return tuple(words)


_PATTERNS = "words in which * stands for any characters but blanks, and ? for one"


def _redact(where: str, given: Any) -> tuple[str, ...]:
    value = _joined(where, given)
    rules: dict[str, None] = dict.fromkeys(DEFAULT_REDACT)
    items = _items(value)
    for item in items:
        word, equals, pattern = (part.strip() for part in item.partition("="))
        key = word.lower()
        if not equals and key in OFF_WORDS:
            if len(items) == 1:
                return ()
            wrong = f"{item!r} turns redaction off and cannot stand among others"
            raise bad_value(where, value, wrong, f"{'/'.join(OFF_WORDS)} alone, or KEY=PATTERN")
        if key == SECRETS and not equals:
            continue
        if key != "*" and key not in REDACTABLE:
            raise bad_value(
                where,
                value,
                f"{word!r} is no key of text{suggestion(key, (SECRETS, *REDACTABLE))}",
                f"KEY or KEY=PATTERN, separated by commas, KEY one of {', '.join(REDACTABLE)}, *;"
                f" {'/'.join(OFF_WORDS)} for nothing",
            )
        wrong = _wrong_with_pattern(pattern) if equals else ""
        if wrong:
            raise bad_value(where, value, f"{item!r}: {wrong}", _PATTERNS)
        rules[f"{key}={pattern}" if equals and pattern.strip("*") else key] = None
    return tuple(rules)


def _wrong_with_pattern(pattern: str) -> str:
    """What is wrong with *pattern*, empty where nothing is: one that fits nothing hides nothing."""
    if not pattern:
        return "there is no pattern"
    for each in (".*", ".+", ".?"):
        if each in pattern:
            return f"{each} is a regular expression's, write {'?' if each == '.?' else '*'}"
    odd = next((each for each in pattern if each in "\\[](){}^$|+"), None)
    return "" if odd is None else f"{odd} means nothing in a pattern, write ? for any one character"


def _signal_name(given: str) -> str | None:
    """The one of `DUMP_SIGNALS` that *given* is, with or without ``SIG``."""
    import signal  # only where one is named

    name = given.upper().removeprefix("SIG")
    return name if name in DUMP_SIGNALS and hasattr(signal, f"SIG{name}") else None


def _otel_tasks(where: str, given: Any) -> str:
    value = _joined(where, given)
    items = _items(value)
    words = [word for word in (item.lower() for item in items) if word in ("touched", "all")]
    if words and len(items) > 1:
        raise bad_value(
            where,
            value,
            f"{words[0]!r} cannot stand among others",
            "touched, all, or patterns like shop.*:handle separated by commas",
        )
    return words[0] if words else ",".join(items) or DEFAULT_OTEL_TASKS


def _otel_status(where: str, given: Any) -> str:
    value = _joined(where, given)
    word = _word(value) or OTEL_STATUSES[0]
    if word not in OTEL_STATUSES:
        raise bad_value(
            where,
            value,
            f"{word!r} is none{suggestion(word, OTEL_STATUSES)}",
            ", ".join(OTEL_STATUSES),
        )
    return word


class Variable(NamedTuple):
    """A variable of the environment, and the argument of `aioaudit.enable` that does the same.

    Attributes:
        name: Its name.
        field: The attribute of `Settings` that it sets; the argument's name, too.
        check: From what an error calls it (the variable or the argument) and what it holds to
            that attribute's value; raises `SettingsError`.
        holds: What it holds, in the words of ``docs/settings.md``.
        default: A value that means the same as leaving it unset.
    """

    name: str
    field: str
    check: Callable[[str, Any], object]
    holds: str
    default: str


TABLE = (
    Variable(
        JSONL_PATH_VARIABLE,
        "jsonl_path",
        _jsonl_path,
        "where `jsonl` writes; `{pid}` stands for the number of the process",
        DEFAULT_JSONL_PATH,
    ),
    Variable(
        EVENTS_VARIABLE,
        "events",
        _events,
        "names of events to record, or patterns like `task.*`, separated by commas",
        "*",
    ),
    Variable(
        SLOW_CANCEL_VARIABLE,
        "slow_cancel",
        _slow_cancel,
        "seconds that a task may take to obey before that is a [finding](check.md)",
        str(DEFAULT_SLOW_CANCEL),
    ),
    Variable(
        BLOCKED_VARIABLE,
        "blocked",
        _blocked,
        "seconds that a loop may stay in one callback before that is [told](#a-blocked-loop)",
        "0",
    ),
    Variable(
        NOTES_VARIABLE,
        "notes",
        _notes,
        "whether errors of cancelled tasks carry a [note](notes.md) that says who cancelled",
        "off",
    ),
    Variable(
        RECORDER_SIZE_VARIABLE,
        "recorder_size",
        _recorder_size,
        "bytes that [`recorder`](recorder.md) may take, with a unit",
        "16MB",
    ),
    Variable(
        RECORDER_DUMP_VARIABLE,
        "recorder_dump",
        _recorder_dump,
        "when [`recorder`](recorder.md#by-itself) writes by itself",
        "off",
    ),
    Variable(
        RECORDER_SOCKET_VARIABLE,
        "recorder_socket",
        _recorder_socket,
        "whether `recorder` can be [asked from outside](live.md)",
        "on",
    ),
    Variable(
        REDACT_VARIABLE,
        "redact",
        _redact,
        "what is [replaced by `***`](privacy.md#to-hide-more), beside obvious secrets; `off` for nothing",
        SECRETS,
    ),
    Variable(
        OTEL_TASKS_VARIABLE,
        "otel_tasks",
        _otel_tasks,
        "which tasks are [spans](opentelemetry-reference.md#settings)",
        DEFAULT_OTEL_TASKS,
    ),
    Variable(
        OTEL_STATUS_VARIABLE,
        "otel_status",
        _otel_status,
        "which of those spans are [errors](opentelemetry-reference.md#settings)",
        OTEL_STATUSES[0],
    ),
)
"""Every variable of ours but `VARIABLE` and `CORE_VARIABLE`: a new one is added here alone."""

VARIABLES = tuple(each.name for each in TABLE)
"""Their names."""
