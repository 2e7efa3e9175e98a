"""Every cause, as a real process: the whole chain, its root and its lines, read from the log.

The programs stand in `tests/scenarios`, several scenarios in each, and hold their
own truth in comments:

    victim.cancel()  # LINE culprit

    # WHY victim: cancelled, obeyed
    #   cancelled victim explicit @culprit by=boss
    #   called explicit @culprit by=boss

``WHY`` names a task, its outcome and its ``cancel_outcome`` (``@label`` behind it: the
line that swallowed), then a link a line: ``what``, then by kind the task's name
and the reason, the signal or the reason; ``@label`` is ``at``.  What a link does
not say must not be there, with these exceptions: what only retells the reason
on a root, and ``at`` and ``by`` on links that no line of the program made.
``source`` always has to be the function that the line is in.  ``SAYS`` is what
``error.source`` was inside the task.  Tasks without a ``WHY`` must not be listed.
"""

from __future__ import annotations

import functools
import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from types import CodeType
from typing import Any

import msgspec
import pytest

from aioaudit.events import AnyEvent, json_schema
from tests import loops
from tests.conftest import ROOT, clean_environ
from tests.waiting import PATIENCE

PROGRAMS = ROOT / "tests" / "scenarios"
VERSION = f"{sys.version_info[0]}.{sys.version_info[1]}"
SMALL = "task.cancel,future.cancel"
LOOPS = ("asyncio", "uvloop")

OUTPUT = {"interrupted": ["interrupted"]}
"""What programs print beside what they were asked to tell."""

ENABLED_BY_THEMSELVES = {"older"}
"""Programs that are run plainly, because they turn auditing on from code."""

SINCE = {"group_cancel": (3, 15)}
"""Programs that need a newer Python than 3.11."""

NAMES = sorted(
    path.stem
    for path in PROGRAMS.glob("*.py")
    if path.stem != "harness" and sys.version_info >= SINCE.get(path.stem, ())
)

SECONDS = 0.015
"""How far a length of time may be off: another thread may run between two readings of the clock."""

LATE = "entered late? "
"""Before a mismatch that a busy machine makes, too: ``seconds`` counts from the entry of a timeout,
and if others run between ``timeout(x)`` and that, less is left than was written."""

ATTEMPTS = 5
"""So often a program is run before its timeouts may all have been entered late."""


# -- what the programs say of themselves -----------------------------------------------


@dataclass
class Expected:
    """One ``WHY``: how a task ended, and the links of its chain as written."""

    task: str
    outcome: str
    cancel_outcome: str
    swallowed: str | None
    links: list[str] = field(default_factory=list)
    times: int = 1

    @property
    def inherited(self) -> bool:
        """Whether the task had no request of its own."""
        return bool(self.links) and self.links[0].split()[2:] == []


@dataclass
class Program:
    """A program of `tests/scenarios` on one loop and in one size of log."""

    path: Path
    loop: str
    small: bool

    @functools.cached_property
    def text(self) -> str:
        return self.path.read_text()

    @functools.cached_property
    def lines(self) -> dict[str, int]:
        """Line numbers by label."""
        found: dict[str, int] = {}
        for number, line in enumerate(self.text.splitlines(), 1):
            match = re.search(r"# LINE (\w+)$", line)
            if match:
                assert match[1] not in found, f"the label {match[1]} is there twice"
                found[match[1]] = number
        return found

    @functools.cached_property
    def functions(self) -> dict[int, set[str]]:
        """``module:qualname`` of the code that each line belongs to."""
        found: dict[int, set[str]] = {}
        todo = [compile(self.text, str(self.path), "exec")]
        while todo:
            code = todo.pop()
            for _, _, line in code.co_lines():
                if line is not None:
                    found.setdefault(line, set()).add(f"__main__:{code.co_qualname}")
            todo.extend(each for each in code.co_consts if isinstance(each, CodeType))
        return found

    def applies(self, conditions: str | None) -> bool:
        """Whether a list like ``3.12+, uvloop`` holds: one of each kind, if it names any."""
        words = [word.strip() for word in (conditions or "").split(",") if word.strip()]
        kinds: dict[str, list[bool]] = {}
        for word in words:
            if word in LOOPS:
                kinds.setdefault("loop", []).append(word == self.loop)
            elif word in ("full", "small"):
                kinds.setdefault("size", []).append((word == "small") == self.small)
            elif word.endswith("+"):
                wanted = tuple(int(part) for part in word[:-1].split("."))
                kinds.setdefault("version", []).append(sys.version_info[:2] >= wanted)
            else:
                assert re.fullmatch(r"3\.\d+", word), f"unknown condition {word!r}"
                kinds.setdefault("version", []).append(word == VERSION)
        return all(any(values) for values in kinds.values())

    @functools.cached_property
    def expected(self) -> list[Expected]:
        """What ``why`` has to answer here."""
        found: list[Expected] = []
        current: Expected | None = None
        for line in self.text.splitlines():
            if head := re.fullmatch(r"# WHY (.+?): (.+?)(?: \(([^)]*)\))?", line):
                current = _head(head[1], head[2])
                if self.applies(head[3]):
                    found.append(current)
            elif line.startswith("#   ") and current is not None:
                current.links.append(line[4:])
            else:
                current = None
        assert found, f"{self.path.name} expects nothing"
        return found

    @functools.cached_property
    def says(self) -> dict[str, list[str]]:
        """What ``error.source`` has to be, by task: one of these."""
        found: dict[str, list[str]] = {}
        for match in re.finditer(
            r"^# SAYS (\S+): (.+?)(?: \(([^)]*)\))?$", self.text, re.MULTILINE
        ):
            if self.applies(match[3]):
                found[match[1]] = match[2].split(" or ")
        return found


def _head(task: str, fate: str) -> Expected:
    if match := re.fullmatch(r"(\d+) times", fate):
        return Expected(task, "*", "*", None, ["..."], int(match[1]))
    match = re.fullmatch(r"(\w+), (\S+)(?: @(\w+))?", fate)
    assert match, f"{task}: {fate!r} is not understood"
    return Expected(task, match[1], match[2], match[3])


# -- running them ----------------------------------------------------------------------


@dataclass
class Result:
    """What a program left behind, and what ``why --json`` answered."""

    program: Program
    done: subprocess.CompletedProcess[str]
    log: list[dict[str, Any]]
    why: subprocess.CompletedProcess[str]

    @functools.cached_property
    def answers(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.why.stdout.splitlines()]


Runs = Callable[[str, str, bool], Result]


@pytest.fixture(scope="module")
def runs(audited_python: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Runs]:
    """Results by program, loop and size of log; two processes run at a time, from the start."""
    folder = tmp_path_factory.mktemp("scenarios")
    started: dict[tuple[str, str, bool], Future[Result]] = {}
    # Here, since pytest changes the environment before each test while the pool's threads run.
    environ = clean_environ()

    def result(name: str, loop: str, small: bool) -> Result:
        return started[name, loop, small].result()

    with ThreadPoolExecutor(2) as pool:
        for name in NAMES:
            for loop in loops.BY_NAME:
                for small in (False, True):
                    program = Program(PROGRAMS / f"{name}.py", loop, small)
                    log = folder / f"{name}-{loop}-{small}.jsonl"
                    started[name, loop, small] = pool.submit(
                        _run_promptly, audited_python, program, log, environ
                    )
        yield result
        for future in started.values():
            future.cancel()


def _run_promptly(python: str, program: Program, log: Path, kept: Mapping[str, str]) -> Result:
    """The result of a run in which no timeout was entered late, if one of several is such."""
    for attempt in range(ATTEMPTS):
        result = _run(python, program, log.with_stem(f"{log.stem}-{attempt}"), kept)
        wrong = compare(result) if result.why.returncode == 0 else []
        if not wrong or not all(LATE in each for each in wrong):
            break
    return result


def _run(python: str, program: Program, log: Path, kept: Mapping[str, str]) -> Result:
    environ = {**kept, "AIOAUDIT_JSONL_PATH": str(log)}
    if program.small:
        environ["AIOAUDIT_EVENTS"] = SMALL
    how = [] if program.path.stem in ENABLED_BY_THEMSELVES else ["-m", "aioaudit", "run"]
    done = subprocess.run(
        [python, "-W", "error", *how, str(program.path), program.loop],
        env=environ,
        cwd=log.parent,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    why = subprocess.run(
        [python, "-m", "aioaudit", "why", "--json", str(log)],
        env=kept,
        cwd=log.parent,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )
    written = log.read_text().splitlines() if log.exists() else []
    return Result(program, done, [json.loads(line) for line in written], why)


# -- comparing -------------------------------------------------------------------------


class MismatchError(Exception):
    """A chain that is not what the program says."""


ROOTS = ("deadline", "failed", "signal", "shutdown")


def check_chain(program: Program, links: list[str], chain: list[dict[str, Any]]) -> None:
    """Compare *chain* with what was written; raises `MismatchError`."""
    wanted = list(links)
    rest = list(chain)
    while wanted:
        word = wanted.pop(0)
        if word.startswith("..."):
            between = len(rest) - len(wanted)
            if between < 0 or (word != "..." and between != int(word[3:])):
                raise MismatchError(f"{between} links where {word} were expected")
            rest = rest[between:]
            continue
        if not rest:
            raise MismatchError(f"the chain ends before: {word}")
        check_link(program, word, rest.pop(0))
    if rest:
        raise MismatchError(f"the chain goes on: {rest}")


def check_link(program: Program, written: str, link: dict[str, Any]) -> None:
    """Compare one link with what was written of it."""
    if written == "known":
        if link["what"] == "cancelled" or link.get("reason") == "unknown":
            raise MismatchError(f"the root is not known: {link}")
        return
    words = shlex.split(written)
    what = words.pop(0)
    _same(link, "what", what)
    place: list[str] = []
    said: set[str] = set()
    plain: list[str] = []
    for word in words:
        if "@" in word[:2] and "=" not in word[:2]:
            place.append(word)
        elif match := re.fullmatch(r"(by|seconds|error|detail)([=~^])(.*)", word, re.DOTALL):
            said.add(match[1])
            _check_value(link, *match.groups())
        else:
            plain.append(word)
    keys = {"cancelled": ["name", "reason"], "failed": ["name"], "called": ["reason"]}
    expected = keys.get(what, [what])
    if len(plain) > len(expected):
        raise ValueError(f"{plain[len(expected) :]} means nothing in: {written}")
    for key, value in zip(expected, plain, strict=False):
        said.add(key)
        _check_plain(link, key, value)
    _check_place(program, link, place, what)
    _check_absent(link, what, said)


def _same(link: dict[str, Any], key: str, value: Any) -> None:
    if link.get(key) != value:
        raise MismatchError(f"{key} is {link.get(key)!r}, not {value!r}, in {link}")


def _check_plain(link: dict[str, Any], key: str, value: str) -> None:
    actual = link.get(key)
    if value == "*":
        if not actual:
            raise MismatchError(f"no {key} in {link}")
    elif value.endswith("*"):
        if not str(actual).startswith(value[:-1]):
            raise MismatchError(f"{key} is {actual!r}, not {value!r}, in {link}")
    elif actual not in [None if each == "-" else each for each in value.split("|")]:
        raise MismatchError(f"{key} is {actual!r}, not {value!r}, in {link}")


def _check_value(link: dict[str, Any], key: str, how: str, value: str) -> None:
    actual = link.get("by_name" if key == "by" else key)
    if key == "seconds":
        if not isinstance(actual, int | float) or abs(actual - float(value)) > SECONDS:
            late = isinstance(actual, int | float) and 0 <= actual < float(value)
            raise MismatchError(
                f"{LATE if late else ''}seconds is {actual!r}, not {value}, in {link}"
            )
    elif key == "by":
        if value != "?" and (value != "*" or actual is None) and actual != value:
            raise MismatchError(f"by_name is {actual!r}, not {value!r}, in {link}")
    elif how == "^":
        if actual is None or not actual.startswith(value):
            raise MismatchError(f"{key} is {actual!r}, does not begin with {value!r}, in {link}")
    elif how == "~":
        if value and value not in (actual or ""):
            raise MismatchError(f"{key} is {actual!r}, {value!r} is not in it, in {link}")
    elif actual != value:
        raise MismatchError(f"{key} is {actual!r}, not {value!r}, in {link}")


def _check_place(program: Program, link: dict[str, Any], place: list[str], what: str) -> None:
    actual = link.get("at")
    if actual is not None:
        path, _, number = actual.rpartition(":")
        if path == str(program.path):
            functions = program.functions.get(int(number), set())
            if link.get("source") not in functions:
                raise MismatchError(
                    f"source is {link.get('source')!r}, not of {functions}, in {link}"
                )
    if not place:
        # Links that no line of the program made may name the one that led to them.
        if actual is not None and what == "called":
            raise MismatchError(f"a place that nobody expected in {link}")
        return
    [label] = place
    if label == "@*":
        if actual is None:
            raise MismatchError(f"no place in {link}")
        return
    if label.startswith("?") and actual is None:
        return
    line = program.lines[label.lstrip("?@")]
    if actual != f"{program.path}:{line}":
        raise MismatchError(f"at is {actual!r}, not line {line} ({label}), in {link}")


def _check_absent(link: dict[str, Any], what: str, said: set[str]) -> None:
    if what == "called" and "by" not in said and link.get("by_name") is not None:
        raise MismatchError(f"a by_name that nobody expected in {link}")
    if what == "cancelled" and "name" not in said and link.get("name") is not None:
        raise MismatchError(f"a name that nobody expected in {link}")
    if what == "cancelled" and "reason" not in said and link.get("reason") is not None:
        raise MismatchError(f"a reason that nobody expected in {link}")
    if what != "deadline" and "detail" not in said and link.get("detail") is not None:
        raise MismatchError(f"a detail that nobody expected in {link}")
    if what in ROOTS and link.get("reason") == "unknown":
        raise MismatchError(f"an unknown reason in {link}")


def matching(expected: Expected, answers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The answers that *expected* is about: by name, or by coroutine and what it was part of."""
    if not expected.task.startswith("coro:"):
        return [answer for answer in answers if answer["name"] == expected.task]
    coro, _, part = expected.task[5:].partition(" ")
    return [
        answer
        for answer in answers
        if answer["coro"].endswith(f":{coro}")
        and answer["name"].startswith("Task-")
        and re.search(rf"\b{part}\b", json.dumps(answer["chain"]))
    ]


def compare(result: Result) -> list[str]:
    """Everything in which the answers of *result* are not what its program says."""
    program = result.program
    wrong: list[str] = []
    seen: set[int] = set()
    for expected in program.expected:
        found = matching(expected, result.answers)
        seen.update(answer["task"] for answer in found)
        if program.small and expected.inherited and not found:
            continue
        if len(found) != expected.times:
            wrong.append(f"{expected.task}: listed {len(found)} times, not {expected.times}")
        for answer in found:
            try:
                _check_answer(result, expected, answer)
            except MismatchError as mismatch:
                wrong.append(f"{expected.task}: {mismatch}")
    wrong.extend(
        f"{answer['name']} is listed: {answer['chain']}"
        for answer in result.answers
        if answer["task"] not in seen
    )
    return wrong


def _check_answer(result: Result, expected: Expected, answer: dict[str, Any]) -> None:
    program = result.program
    check_chain(program, expected.links, answer["chain"])
    if answer["root"] != answer["chain"][-1]:
        raise MismatchError("the root is not the last link")
    if not answer["summary"].isprintable() or answer["name"] not in answer["summary"]:
        raise MismatchError(f"summary {answer['summary']!r}")
    if answer["chain"][0].get("task") != answer["task"]:
        raise MismatchError("the chain does not begin with the task")
    if program.small:
        return
    if expected.outcome not in ("*", answer["outcome"]):
        raise MismatchError(f"outcome is {answer['outcome']}, not {expected.outcome}")
    if expected.cancel_outcome not in ("*", answer.get("cancel_outcome")):
        raise MismatchError(f"{answer.get('cancel_outcome')}, not {expected.cancel_outcome}")
    if expected.swallowed is not None:
        _check_swallowed(result, expected.swallowed, answer["task"])


def _check_swallowed(result: Result, label: str, task: int) -> None:
    [done] = [line for line in result.log if line["event"] == "task.done" and line["task"] == task]
    line = f"{result.program.path}:{result.program.lines[label]}"
    wanted = line if sys.version_info >= (3, 12) else None
    if done.get("swallowed_at") != wanted:
        raise MismatchError(f"swallowed_at is {done.get('swallowed_at')!r}, not {wanted!r}")


# -- the claims ------------------------------------------------------------------------

every_program = pytest.mark.parametrize("name", NAMES)
every_loop = pytest.mark.parametrize("loop", loops.NAMES)
every_size = pytest.mark.parametrize("small", [False, True], ids=["full", "small"])


@every_loop
@every_program
@every_size
def test_every_chain_ends_at_its_culprit(runs: Runs, name: str, loop: str, small: bool) -> None:
    result = runs(name, loop, small)
    assert result.done.returncode == 0, result.done.stderr
    assert result.why.stderr == ""
    assert result.why.returncode == 0
    wrong = compare(result)
    assert not wrong, "\n" + "\n".join(wrong)


@every_loop
@every_program
@every_size
def test_a_program_says_what_it_would_say_unaudited(
    runs: Runs, name: str, loop: str, small: bool
) -> None:
    result = runs(name, loop, small)
    assert result.done.stderr == ""
    plain = [line for line in result.done.stdout.splitlines() if not line.startswith("{")]
    assert plain == OUTPUT.get(name, [])


@every_loop
@every_program
def test_a_small_log_holds_cancellations_only(runs: Runs, name: str, loop: str) -> None:
    result = runs(name, loop, True)
    assert [line["seq"] for line in result.log] == list(range(1, len(result.log) + 1))
    names = {line["event"] for line in result.log}
    frame = {"process.start", "process.end"}
    assert frame <= names <= frame | set(SMALL.split(","))
    # A line stands on its own: causes are lines of this very log.
    known = {line["seq"] for line in result.log}
    assert {line["cause"] for line in result.log if "cause" in line} <= known


@every_loop
@every_program
@every_size
def test_every_line_is_an_event_of_the_schema(
    runs: Runs, name: str, loop: str, small: bool
) -> None:
    import jsonschema

    result = runs(name, loop, small)
    validator = jsonschema.Draft202012Validator(json_schema())
    assert result.log[0]["event"] == "process.start"
    assert result.log[-1]["event"] == "process.end"
    for line in result.log:
        event = msgspec.convert(line, AnyEvent)
        assert msgspec.to_builtins(event) == line, "an unknown key, or a default written out"
    for line in {line["event"]: line for line in result.log}.values():
        validator.validate(line)
    numbers = [line["seq"] for line in result.log]
    assert numbers == sorted(set(numbers))


@every_loop
@every_size
def test_an_error_knows_its_source_and_its_chain_where_it_is_caught(
    runs: Runs, loop: str, small: bool
) -> None:
    result = runs("asking", loop, small)
    said = [json.loads(line) for line in result.done.stdout.splitlines()]
    assert {each["name"] for each in said} == set(result.program.says)
    wrong: list[str] = []
    for each in said:
        name, answer = each["name"], each["answer"]
        wanted = [None if word == "nothing" else word for word in result.program.says[name]]
        if each["source"] not in wanted or each["function"] != each["source"]:
            wrong.append(f"{name}: source {each['source']!r}, {each['function']!r}, not {wanted}")
        if each["source"] is None:
            if answer is not None:
                wrong.append(f"{name}: why() gives {answer} where nothing is known")
            continue
        if answer is None:
            wrong.append(f"{name}: why() gives nothing")
            continue
        if answer["root"].get("source") != each["source"]:
            wrong.append(f"{name}: the root is {answer['root']}")
        expected = next(each for each in result.program.expected if each.task == name)
        if answer["name"] != name or answer["outcome"] not in ("pending", expected.outcome):
            wrong.append(f"{name}: {answer['name']}, {answer['outcome']}")
        try:
            check_chain(result.program, expected.links, answer["chain"])
        except MismatchError as mismatch:
            wrong.append(f"{name}: why(): {mismatch}")
    assert not wrong, "\n" + "\n".join(wrong)


@every_loop
@every_size
def test_tasks_older_than_the_enabling_are_marked(runs: Runs, loop: str, small: bool) -> None:
    result = runs("older", loop, small)
    for line in result.log:
        if line["event"] in ("task.cancel", "task.done", "task.create"):
            # Where creations are not recorded nobody knows which tasks are older.
            older = not small and (line["name"].startswith("older.") or line["name"] == "main")
            assert line.get("preexisting", False) is older, line


@every_loop
def test_a_task_destroyed_while_pending_ends_as_destroyed(runs: Runs, loop: str) -> None:
    log = runs("kinds", loop, False).log
    ends = {line["name"]: line for line in log if line["event"] == "task.done"}
    assert ends["never_finished.asked"]["outcome"] == "destroyed"
    assert ends["never_finished.not_listed"]["outcome"] == "destroyed"


@every_loop
def test_every_task_has_one_creation_and_one_end(runs: Runs, loop: str) -> None:
    for name in NAMES:
        if name in ENABLED_BY_THEMSELVES:
            continue
        log = runs(name, loop, False).log
        made = [line["task"] for line in log if line["event"] == "task.create"]
        ended = [line["task"] for line in log if line["event"] == "task.done"]
        assert len(made) == len(set(made)), name
        assert sorted(made) == sorted(ended), name


@every_loop
def test_a_request_says_what_it_was_told_and_where_its_task_waited(runs: Runs, loop: str) -> None:
    result = runs("explicit", loop, False)
    asked = {line["name"]: line for line in result.log if line["event"] == "task.cancel"}
    assert asked["direct.victim"]["message"] == "enough"
    assert asked["many.1"]["message"] == "many.1"
    assert "message" not in asked["helper.victim"]
    assert "suspended_at" not in asked["unstarted.victim"]
    assert "suspended_at" not in asked["itself.victim"]
    line = f"{result.program.path}:{result.program.lines['suspended']}"
    assert asked["generators.victim"]["suspended_at"] == line
    assert asked["too_late.not_listed"]["accepted"] is False


def test_the_comparison_itself_sees_what_is_wrong(runs: Runs) -> None:
    """Each expectation, changed in one point, must no longer hold."""
    result = runs("explicit", "asyncio", False)
    program = result.program
    [answer] = [each for each in result.answers if each["name"] == "direct.victim"]
    good = [
        "cancelled direct.victim explicit @direct by=direct",
        "called explicit @direct by=direct",
    ]
    check_chain(program, good, answer["chain"])
    check_chain(program, ["...", good[1]], answer["chain"])
    for bad in (
        good[:1],
        [*good, good[1]],
        ["...5", good[1]],
        [good[0].replace("direct.victim", "other"), good[1]],
        [good[0].replace("explicit", "timeout"), good[1]],
        [good[0].replace("@direct", "@helper"), good[1]],
        [good[0].replace("by=direct", "by=helper"), good[1]],
        [good[0], "called explicit @direct"],
        [good[0], "called explicit by=direct"],
        [good[0], "deadline @direct seconds=1"],
        [good[0], good[1] + " detail~because"],
        ["cancelled direct.victim @direct by=direct", good[1]],
    ):
        with pytest.raises(MismatchError):
            check_chain(program, bad, answer["chain"])
