"""Settings are read in one place, and a bad one is one line that says what would be right."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest

from aioaudit import events, loading, settings
from aioaudit.findings.catalogue import CATALOGUE
from aioaudit.settings import Settings, SettingsError, build, from_environ

ALL = frozenset(settings.EVENT_NAMES)
PROCESS = {"process.start", "process.end", "process.dropped"}


def test_names_of_events_are_those_of_the_event_classes() -> None:
    assert set(settings.EVENT_NAMES) == set(events.BY_NAME)
    assert len(settings.EVENT_NAMES) == len(events.BY_NAME)


def test_kinds_of_findings_are_those_of_the_catalogue() -> None:
    assert tuple(CATALOGUE) == settings.FINDING_KINDS


@pytest.mark.parametrize("value", [None, "", " ", ",", " , ", "0", "off", "OFF", " False ", "no"])
def test_nothing_is_audited_where_the_variable_says_off(value: str | None) -> None:
    assert from_environ({} if value is None else {"AIOAUDIT": value}) is None


@pytest.mark.parametrize(
    ("value", "exporters"),
    [
        ("1", ("jsonl",)),
        ("on", ("jsonl",)),
        (" TRUE ", ("jsonl",)),
        ("Yes", ("jsonl",)),
        ("jsonl", ("jsonl",)),
        ("jsonl,sys", ("jsonl", "sys")),
        (" sys , ,jsonl,, ", ("sys", "jsonl")),
        ("jsonl,1,jsonl", ("jsonl",)),
        ("mine,1", ("mine", "jsonl")),
    ],
)
def test_exporters_are_named_in_order_and_once(value: str, exporters: tuple[str, ...]) -> None:
    assert from_environ({"AIOAUDIT": value}) == Settings(
        exporters=exporters, jsonl_path="aioaudit-{pid}.jsonl", events=ALL
    )


@pytest.mark.parametrize("word", ["1", "ON", " true ", "yes"])
@pytest.mark.parametrize("value", [None, "", " , "])
def test_notes_alone_ask_for_no_exporter(word: str, value: str | None) -> None:
    environ = {"AIOAUDIT_NOTES": word, "AIOAUDIT_EVENTS": "task.cancel"}
    found = from_environ(environ if value is None else environ | {"AIOAUDIT": value})
    assert found == Settings(exporters=(), events=frozenset(PROCESS | {"task.cancel"}), notes=True)


@pytest.mark.parametrize("value", ["0", "off", "No"])
def test_a_word_for_off_turns_notes_off_too(value: str) -> None:
    assert from_environ({"AIOAUDIT": value, "AIOAUDIT_NOTES": "1"}) is None
    assert from_environ({"AIOAUDIT": value, "AIOAUDIT_NOTES": "perhaps"}) is None


@pytest.mark.parametrize("word", ["", " ", "0", "off", "False"])
def test_without_notes_nothing_else_asks_for_auditing(word: str) -> None:
    assert from_environ({"AIOAUDIT_NOTES": word, "AIOAUDIT_EVENTS": "bad"}) is None
    assert from_environ({"AIOAUDIT": "sys", "AIOAUDIT_NOTES": word}) == Settings(("sys",))


@pytest.mark.parametrize(
    ("value", "wanted"),
    [
        ("", ALL),
        (" , ", ALL),
        ("*", ALL),
        ("task.cancel", PROCESS | {"task.cancel"}),
        ("task.cancel,future.cancel", PROCESS | {"task.cancel", "future.cancel"}),
        (
            " Task.* ,",
            PROCESS | {"task.create", "task.found", "task.cancel", "task.uncancel", "task.done"},
        ),
        ("*.cancel,*.cancel", PROCESS | {"task.cancel", "future.cancel"}),
        ("process.end", PROCESS),
    ],
)
def test_events_are_names_and_patterns_and_those_of_the_process_always(
    value: str, wanted: set[str]
) -> None:
    found = from_environ({"AIOAUDIT": "1", "AIOAUDIT_EVENTS": value})
    assert found is not None
    assert found.events == wanted


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("", "aioaudit-{pid}.jsonl"),
        ("/var/log/{pid}/a{pid}.jsonl", "/var/log/{pid}/a{pid}.jsonl"),
        ("odd { name }.jsonl}", None),
        ("one.jsonl", "one.jsonl"),
        ("a{b", None),
        ("a}b", None),
        ("{{pid}}", None),
    ],
)
def test_the_path_may_hold_the_process_number_and_nothing_else_in_braces(
    value: str, path: str | None
) -> None:
    environ = {"AIOAUDIT": "1", "AIOAUDIT_JSONL_PATH": value}
    if path is None:
        with pytest.raises(SettingsError):
            from_environ(environ)
    else:
        assert from_environ(environ) == Settings(jsonl_path=path)


EVENTS = ", ".join(settings.EVENT_NAMES)


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        (
            {"AIOAUDIT": "jsonl, off"},
            "AIOAUDIT='jsonl, off': 'off' turns auditing off and cannot stand among other names;"
            " allowed: 0, off, false, no alone, or names of exporters separated by commas",
        ),
        (
            {"AIOAUDIT": "1", "AIOAUDIT_EVENTS": "task.cancel,task.cancl"},
            "AIOAUDIT_EVENTS='task.cancel,task.cancl': 'task.cancl' is no event"
            f" (did you mean 'task.cancel'?); allowed: patterns like task.* and {EVENTS}",
        ),
        (
            {"AIOAUDIT": "1", "AIOAUDIT_EVENTS": "zzz.*\n"},
            "AIOAUDIT_EVENTS='zzz.*\\n': 'zzz.*' is no event;"
            f" allowed: patterns like task.* and {EVENTS}",
        ),
        (
            {"AIOAUDIT_NOTES": "perhaps"},
            "AIOAUDIT_NOTES='perhaps': 'perhaps' is neither on nor off;"
            " allowed: 1/on/true/yes or 0/off/false/no",
        ),
        (
            {"AIOAUDIT": "1", "AIOAUDIT_JSONL_PATH": "/tmp/{host}-{pid}"},
            "AIOAUDIT_JSONL_PATH='/tmp/{host}-{pid}': {host} stands for nothing;"
            " allowed: the path of a file, with {pid} for the number of the process",
        ),
        (
            {"AIOAUDIT": "1", "AIOAUDIT_JSONL_PATH": "logs/app-{pid.jsonl"},
            "AIOAUDIT_JSONL_PATH='logs/app-{pid.jsonl': {pid.jsonl lacks its };"
            " allowed: the path of a file, with {pid} for the number of the process",
        ),
        (
            {"AIOAUDIT": "1", "AIOAUDIT_JSONL_PATH": "logs/pid}/x"},
            "AIOAUDIT_JSONL_PATH='logs/pid}/x': pid} lacks its {;"
            " allowed: the path of a file, with {pid} for the number of the process",
        ),
        (
            {"AIOAUDIT": "1", "AIOAUDIT_JSONL_PATH": "  "},
            "AIOAUDIT_JSONL_PATH='  ': this names no file;"
            " allowed: the path of a file, with {pid} for the number of the process",
        ),
        (
            {"AIOAUDIT": "1", "AIOAUDIT_JSONL_PATH": "{x}" * 1000},
            f"AIOAUDIT_JSONL_PATH='{('{x}' * 1000)[:200]}'...: {{x}} stands for nothing;"
            " allowed: the path of a file, with {pid} for the number of the process",
        ),
    ],
)
def test_a_bad_variable_is_one_line_that_names_it_its_value_and_what_is_allowed(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environ(environ)
    assert str(caught.value) == message
    assert "\n" not in message


def test_variables_are_not_looked_at_while_auditing_is_off() -> None:
    assert from_environ({"AIOAUDIT": "0", "AIOAUDIT_EVENTS": "nonsense"}) is None


def test_code_asks_with_lists_or_commas_and_the_environment_fills_the_gaps() -> None:
    environ = {"AIOAUDIT": "sys", "AIOAUDIT_EVENTS": "loop.*", "AIOAUDIT_JSONL_PATH": "x.jsonl"}
    loops = PROCESS | {"loop.start", "loop.stop", "loop.close", "loop.blocked"}
    assert build() == Settings()
    assert build(environ={"AIOAUDIT": "off"}) == Settings()
    assert build(environ=environ) == Settings(("sys",), "x.jsonl", frozenset(loops))
    assert build(
        ["jsonl", "mine"], events=["task.done"], jsonl_path=Path("y.jsonl"), environ=environ
    ) == Settings(("jsonl", "mine"), "y.jsonl", frozenset(PROCESS | {"task.done"}))
    assert build("mine,jsonl", events="task.done").exporters == ("mine", "jsonl")


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        ({"exporters": []}, "exporters='': no exporter is named;"),
        ({"exporters": "no"}, "exporters='no': 'no' turns auditing off"),
        ({"exporters": "off", "where": "--to"}, "--to='off': 'off' turns auditing off"),
        ({"events": ["bad"]}, "events='bad': 'bad' is no event;"),
        ({"jsonl_path": "a\0b"}, "jsonl_path='a\\x00b': this names no file;"),
    ],
)
def test_an_error_of_code_names_the_argument(arguments: dict[str, Any], start: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(start)):
        build(**arguments)


# ---- from a name to an exporter


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on the path that holds the metadata of a package with exporters."""
    metadata = tmp_path / "somebodys-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: somebodys\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(
        "[aioaudit.exporters]\n"
        "mine = somebodys_module:Mine\n"
        "broken = somebodys_module:nothing\n"
        "raising = somebodys_module:raising\n"
        "verbless = somebodys_module:Verbless\n"
        "jsonl = somebodys_module:Mine\n"
    )
    (tmp_path / "somebodys_module.py").write_text(
        "class Verbless:\n"
        "    def flush(self): ...\n"
        "class Mine(Verbless):\n"
        "    def export(self, events): ...\n"
        "    def shutdown(self): ...\n"
        "def raising():\n"
        "    raise RuntimeError('no\\nendpoint')\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, "somebodys_module", raising=False)
    return tmp_path


def test_an_entry_point_gives_an_exporter_by_name(installed: Path) -> None:
    assert type(loading.load_exporter("mine", Settings())).__name__ == "Mine"
    assert loading.known_names()[:6] == [
        "jsonl",
        "recorder",
        "structlog",
        "logging",
        "otel",
        "sys",
    ]
    assert {"mine", "broken", "raising", "verbless"} <= set(loading.known_names())
    loading.check(Settings(("jsonl", "sys", "mine", "broken")), "AIOAUDIT")


def test_our_own_name_is_not_taken_over_by_a_package(installed: Path, tmp_path: Path) -> None:
    made = loading.load_exporter("jsonl", Settings(jsonl_path=str(tmp_path / "log.jsonl")))
    made.shutdown()
    assert type(made).__module__ == "aioaudit.exporters.jsonl"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "broken",
            "exporter 'broken' (somebodys_module:nothing) cannot be loaded:"
            " AttributeError: module 'somebodys_module' has no attribute 'nothing'",
        ),
        (
            "raising",
            "exporter 'raising' (somebodys_module:raising) cannot be loaded:"
            " RuntimeError: no endpoint",
        ),
        (
            "verbless",
            "exporter 'verbless' (somebodys_module:Verbless) gave a Verbless,"
            " which has no export, shutdown",
        ),
        ("sys", "'sys' is the bridge to sys.audit, not an exporter"),
    ],
)
def test_an_exporter_that_cannot_be_loaded_is_one_line(
    installed: Path, name: str, message: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        loading.load_exporter(name, Settings())
    assert str(caught.value) == message


def test_two_packages_with_the_same_name_are_told_apart_by_nobody(installed: Path) -> None:
    other = installed / "others-1.0.dist-info"
    other.mkdir()
    (other / "METADATA").write_text("Metadata-Version: 2.1\nName: others\nVersion: 1.0\n")
    (other / "entry_points.txt").write_text("[aioaudit.exporters]\nmine = others_module:Mine\n")
    with pytest.raises(SettingsError) as caught:
        loading.load_exporter("mine", Settings())
    assert str(caught.value) == (
        "exporter 'mine' is registered more than once: others_module:Mine, somebodys_module:Mine"
    )


def allowed() -> str:
    """What is said of every name that is unknown."""
    known = ", ".join(loading.known_names())
    return (
        f"allowed: {known} or another name registered under the entry-point group"
        " aioaudit.exporters; 1/on/true/yes for jsonl; 0/off/false/no for off"
    )


@pytest.mark.parametrize(
    ("value", "wrong", "said"),
    [
        ("sys, jsnol", "jsnol", "'jsnol' is no exporter (did you mean 'jsonl'?)"),
        ("JSONL", "JSONL", "'JSONL' is no exporter (did you mean 'jsonl'?)"),
        ("jsonl,carrier-pigeon", "carrier-pigeon", "'carrier-pigeon' is no exporter"),
        ("a\nb\x1b[31m", "a\nb\x1b[31m", "'a\\nb\\x1b[31m' is no exporter"),
    ],
)
def test_an_unknown_name_is_one_line_with_the_known_ones(
    installed: Path, value: str, wrong: str, said: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        loading.check(Settings(("sys", wrong)), "AIOAUDIT", value)
    assert str(caught.value) == f"AIOAUDIT={value!r}: {said}; {allowed()}"
    assert str(caught.value).isprintable()


def test_an_unknown_name_of_code_is_one_line_with_the_known_ones(installed: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        loading.load_exporter("zzz", Settings())
    assert str(caught.value) == f"exporters='zzz': 'zzz' is no exporter; {allowed()}"


@pytest.mark.parametrize(
    ("environ", "tasks", "status"),
    [
        ({}, "touched", "cause"),
        ({"AIOAUDIT_OTEL_TASKS": " ALL ", "AIOAUDIT_OTEL_STATUS": "Error"}, "all", "error"),
        ({"AIOAUDIT_OTEL_TASKS": " a:*, ,B.*:f"}, "a:*,B.*:f", "cause"),
    ],
)
def test_what_becomes_a_span_is_set_by_variables(
    environ: dict[str, str], tasks: str, status: str
) -> None:
    found = from_environ({"AIOAUDIT": "otel", **environ})
    assert found is not None
    assert (found.otel_tasks, found.otel_status) == (tasks, status)
    built = build("otel", environ=environ)
    assert (built.otel_tasks, built.otel_status) == (tasks, status)


@pytest.mark.parametrize(
    ("variable", "value", "message"),
    [
        (
            "AIOAUDIT_OTEL_STATUS",
            "eror",
            "AIOAUDIT_OTEL_STATUS='eror': 'eror' is none (did you mean 'error'?);"
            " allowed: cause, unset, error",
        ),
        (
            "AIOAUDIT_OTEL_TASKS",
            "all,a:*",
            "AIOAUDIT_OTEL_TASKS='all,a:*': 'all' cannot stand among others;"
            " allowed: touched, all, or patterns like shop.*:handle separated by commas",
        ),
    ],
)
def test_a_bad_setting_of_spans_says_what_would_be_right(
    variable: str, value: str, message: str
) -> None:
    with pytest.raises(SettingsError, match=f"^{re.escape(message)}$"):
        from_environ({"AIOAUDIT": "otel", variable: value})


def test_the_table_of_variables_is_whole_and_its_defaults_change_nothing() -> None:
    assert len(settings.TABLE) == len({each.name for each in settings.TABLE})
    fields = set(Settings._fields)
    assert {each.field for each in settings.TABLE} == fields - {"exporters", "folder"}
    defaults = {each.name: each.default for each in settings.TABLE}
    assert from_environ({"AIOAUDIT": "1", **defaults}) == from_environ({"AIOAUDIT": "1"})


def test_no_variable_of_ours_is_named_beside_the_table() -> None:
    names = {settings.VARIABLE, settings.CORE_VARIABLE, *settings.VARIABLES}
    for folder in (Path(settings.__file__).parent, Path(loading.__file__).parents[1] / "exporters"):
        for file in folder.rglob("*.py"):
            found = set(re.findall(r"\bAIOAUDIT(?:_[A-Z]+)+\b", file.read_text()))
            assert found <= names, file


# -- the recorder's ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "size"),
    [
        ("16MB", 16_000_000),
        (" 64 kB ", 64_000),
        ("100000", 100_000),
        ("1.5 MiB", 1_572_864),
        ("2 gb", 2_000_000_000),
        ("70000b", 70_000),
        ("", 16_000_000),
        (" ", 16_000_000),
    ],
)
def test_a_size_is_bytes_or_has_a_unit(value: str, size: int) -> None:
    found = from_environ({"AIOAUDIT": "recorder", "AIOAUDIT_RECORDER_SIZE": value})
    assert found is not None
    assert found.recorder_size == size
    assert build("recorder", recorder_size=size).recorder_size == size


SIZES = (
    "allowed: a number of bytes, or one with a unit: 512 kB, 16 MB, 1 GB, 16 MiB; at least 64 kB"
)


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("16 XB", "this is no size"),
        ("-16MB", "this is no size"),
        ("much", "this is no size"),
        ("1e9", "this is no size"),
        ("9" * 50, "this is no size"),
        ("0", "this is too small"),
        ("63 kB", "this is too small"),
    ],
)
def test_a_size_that_is_none_is_one_line(value: str, wrong: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environ({"AIOAUDIT": "recorder", "AIOAUDIT_RECORDER_SIZE": value})
    assert str(caught.value) == f"AIOAUDIT_RECORDER_SIZE={value!r}: {wrong}; {SIZES}"


@pytest.mark.parametrize(
    ("value", "triggers"),
    [
        ("", ()),
        ("off", ()),
        (" , ", ()),
        ("finding", ("finding",)),
        ("Finding, error,exit ,exit", ("finding", "error", "exit")),
        ("finding:Swallowed,finding:lost", ("finding:swallowed", "finding:lost")),
        ("signal:USR2,signal:sigusr1", ("signal:USR2", "signal:USR1")),
    ],
)
def test_triggers_are_words(value: str, triggers: tuple[str, ...]) -> None:
    found = from_environ({"AIOAUDIT": "recorder", "AIOAUDIT_RECORDER_DUMP": value})
    assert found is not None
    assert found.recorder_dump == triggers


@pytest.mark.parametrize(
    ("value", "wrong"),
    [
        ("findings", "'findings' is no trigger (did you mean 'finding'?)"),
        ("error,finding:swalowed", "'finding:swalowed' is no trigger"),
        ("finding:", "'finding:' is no trigger"),
        ("exit:1", "'exit:1' is no trigger"),
        ("signal", "'signal' is no trigger"),
        ("signal:KILL", "'signal:KILL' is no trigger"),
        ("off,error", "'off' is no trigger"),
    ],
)
def test_a_trigger_that_is_none_is_one_line(value: str, wrong: str) -> None:
    with pytest.raises(SettingsError) as caught:
        from_environ({"AIOAUDIT": "recorder", "AIOAUDIT_RECORDER_DUMP": value})
    assert str(caught.value) == (
        f"AIOAUDIT_RECORDER_DUMP={value!r}: {wrong}; allowed: finding, finding:KIND"
        f" ({', '.join(settings.FINDING_KINDS)}), error, exit,"
        " signal:NAME (HUP, QUIT, USR1, USR2), separated by commas"
    )
