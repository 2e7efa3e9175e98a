"""CPython's own tests of asyncio, audited: none fails that passes without us.

The whole of ``python -m test test_asyncio`` runs twice side by side, plainly and under
``AIOAUDIT=jsonl``, and is compared test by test.  What differs may be a race in the
test itself, so it runs again, alone, both ways, before it counts.  The log that comes
of it, the largest and strangest that we have, is then read whole.
"""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

import msgspec
import pytest

from aioaudit.events import AnyEvent, Event, ProcessEnd, ProcessStart
from tests.conftest import clean_environ

pytestmark = [pytest.mark.judge, pytest.mark.slow, pytest.mark.timeout(1500)]

RUN_LIMIT = 900
"""Seconds for one run of the suite; alone it takes about 100."""

FEWEST = 2000
"""Test cases in ``test_asyncio`` of any version that we know."""


@dataclass
class Round:
    """One run of regrtest: what it said, and the result of each test."""

    process: subprocess.Popen[str]
    folder: Path

    def wait(self) -> None:
        """Wait for the end; kill what does not come to one."""
        try:
            self.process.wait(RUN_LIMIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            pytest.fail(f"python -m test did not end in {RUN_LIMIT} s:\n{self.said[-3000:]}")

    @property
    def said(self) -> str:
        """What it printed, to both streams."""
        return (self.folder / "output.txt").read_text(errors="replace")

    @property
    def logs(self) -> list[Path]:
        """What it logged, a file for each process that used asyncio."""
        return sorted(self.folder.glob("log-*.jsonl"))

    def may_be_cut(self, log: Path) -> bool:
        """Whether *log* is of a process that left before it had told of its end.

        Children that ``TestFork`` forks make a ``loop.start`` and leave by `os._exit` in the
        same moment, so a log of theirs may end anywhere, even before its first byte.
        """
        main = log.name == f"log-{self.process.pid}.jsonl"
        return not main and b'{"event":"process.end"' not in log.read_bytes()

    def results(self) -> dict[str, str]:
        """``passed``, ``skipped``, ``failure`` or ``error`` for each test, by its id."""
        found: dict[str, str] = {}
        file = self.folder / "results.xml"
        assert file.exists(), f"no results; the run ended so:\n{self.said[-3000:]}"
        for case in ET.parse(file).iter("testcase"):
            if "name" not in case.attrib:
                continue  # of a test that failed in a subTest; it lacks, and so is noticed
            outcomes = [child.tag for child in case if child.tag in {"failure", "error"}]
            skipped = case.get("result") == "skipped" or case.get("status") == "notrun"
            found[case.attrib["name"]] = (
                outcomes[0] if outcomes else "skipped" if skipped else "passed"
            )
        return found

    def warnings(self) -> set[tuple[str, str]]:
        """What regrtest warned of ("env changed"), and in which test file it did."""
        found: set[tuple[str, str]] = set()
        pending: list[str] = []
        for line in self.said.splitlines():
            if line.startswith("Warning -- "):
                pending.append(line.removeprefix("Warning -- "))
            elif match := re.search(r"(\S+) failed \(env changed\)", line):
                found |= {(what, match[1]) for what in _told(pending)}
                pending = []
        return found


def _told(warnings: list[str]) -> list[str]:
    """Each of regrtest's *warnings* as one line that says the same each time."""
    found: list[str] = []
    for text in warnings:
        if match := re.fullmatch(r" +(before|after): thread count=(\d+), dangling=(\d+)", text):
            sign = -1 if match[1] == "before" else 1
            count, dangling = sign * int(match[2]), sign * int(match[3])
            if sign < 0:
                found.append(f"threads {count} {dangling}")
            else:
                _, before, dangling_before = found.pop().split()
                more = count + int(before), dangling + int(dangling_before)
                found.append("threads: {} more, {} of threading's left behind".format(*more))
        elif match := re.fullmatch(r"(.*) was modified by \S+", text):
            found.append(f"{match[1]} was modified")
        elif not text.startswith((" ", "Dangling thread", "threading_cleanup")):
            found.append(text)
    return found


KNOWN = {
    "threads: 1 more, 0 of threading's left behind": (
        "`_thread._count()` counts each thread that `_thread` started, and the exporter's begins "
        "with the first event.  To begin with the import of asyncio would not show, but give a "
        "thread, and a log, to each process that imports asyncio and never runs a loop; a thread "
        "that is not made by `_thread` needs code in C."
    )
}
"""What regrtest warns of because of us, and why that must be."""


def begin(python: str, folder: Path, *words: str, audited: bool) -> Round:
    """Start regrtest with *words*."""
    folder.mkdir()
    environ = {"AIOAUDIT": "jsonl", "AIOAUDIT_JSONL_PATH": f"{folder}/log-{{pid}}.jsonl"}
    (folder / "tmp").mkdir()
    options = [f"--junit-xml={folder}/results.xml", f"--tempdir={folder}/tmp"]
    with (folder / "output.txt").open("w") as output:
        process = subprocess.Popen(
            [python, "-m", "test", *words, *options],
            cwd=folder,
            env=clean_environ(**(environ if audited else {})),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            text=True,
        )
    return Round(process, folder)


def both(python: str, folder: Path, *words: str) -> tuple[Round, Round]:
    """A plain and an audited run of *words*, side by side."""
    folder.mkdir()
    rounds = [
        begin(python, folder / name, *words, audited=name == "audited")
        for name in ("plain", "audited")
    ]
    try:
        for each in rounds:
            each.wait()
    finally:
        for each in rounds:
            each.process.kill()
            each.process.wait()
    return rounds[0], rounds[1]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("judge")


@pytest.fixture(scope="module")
def whole(audited_python: str, folder: Path) -> tuple[Round, Round]:
    """The plain run and the audited one."""
    has_tests = subprocess.run(
        [audited_python, "-c", "import test.test_asyncio, test.libregrtest"],
        env=clean_environ(),
        capture_output=True,
    )
    if has_tests.returncode:
        pytest.skip("this Python came without its own tests (Debian: libpython3-testsuite)")
    return both(audited_python, folder / "whole", "test_asyncio")


def worse(plain: dict[str, str], audited: dict[str, str]) -> dict[str, str]:
    """The tests that are not as good with us as without, and what became of them."""
    return {
        test: audited.get(test, "not run")
        for test, result in plain.items()
        if audited.get(test) != result and result in {"passed", "skipped"}
    } | {
        test: result
        for test, result in audited.items()
        if test not in plain and result in {"failure", "error"}
    }


def test_no_test_of_asyncio_fails_that_passes_without_us(
    audited_python: str, folder: Path, whole: tuple[Round, Round]
) -> None:
    plain, audited = whole
    assert len(plain.results()) >= FEWEST
    assert len(audited.results()) >= FEWEST
    suspects = worse(plain.results(), audited.results())
    assert len(suspects) < 50, (
        f"{len(suspects)} tests fail with us: {suspects}\n{audited.said[-5000:]}"
    )
    for number, test in enumerate(sorted(suspects)):
        for attempt in ("again", "once more"):
            name = f"{attempt} {number}"
            plain, audited = both(audited_python, folder / name, "test_asyncio", "-m", test)
            found = plain.results()
            # What cannot be run alone, like the set-up of a class, has no second chance.
            if found and not worse(found, audited.results()):
                break
        else:
            pytest.fail(f"{test}: {suspects[test]}\n{audited.said}")


def test_no_test_of_asyncio_finds_anything_changed_behind_it_because_of_us(
    audited_python: str, folder: Path, whole: tuple[Round, Round]
) -> None:
    """Threads, files, signal handlers, audit hooks: regrtest compares them all."""
    assert "env changed" not in whole[1].said or whole[1].warnings()
    new = whole[1].warnings() - whole[0].warnings()
    # Once in a process: the thread is there from then on.
    first = [file for what, file in new if what in KNOWN]
    assert len(first) <= 1
    new = {(what, file) for what, file in new if what not in KNOWN}
    files = sorted({file for _, file in new})
    if files:  # a thread or a child that lived a moment too long may have been the test's own
        plain, audited = both(audited_python, folder / "changed", *files)
        new &= audited.warnings() - plain.warnings()
    assert new == set()


def test_nothing_of_ours_is_on_stderr(whole: tuple[Round, Round]) -> None:
    said = [line for line in whole[1].said.splitlines() if "aioaudit" in line]
    assert said == []


def test_every_line_is_whole_and_valid_and_in_order(whole: tuple[Round, Round]) -> None:
    plain, audited = whole
    assert plain.logs == []
    assert len(audited.logs) >= 1
    names: set[str] = set()
    for path in audited.logs:
        *lines, rest = path.read_bytes().split(b"\n")
        assert rest == b"" or audited.may_be_cut(path), path.name
        last: dict[str, int] = {}
        for number, line in enumerate(lines, 1):
            event: Event = msgspec.json.decode(line, type=AnyEvent, strict=True)
            assert msgspec.json.encode(event) == line or json.loads(
                msgspec.json.encode(event)
            ) == json.loads(line), line
            assert event.seq > last.get(event.run, 0), f"{path.name}:{number}: {line!r}"
            if event.run not in last:
                assert isinstance(event, ProcessStart), f"{path.name}:{number}: {line!r}"
            last[event.run] = event.seq
            names.add(type(event).__name__)
            if isinstance(event, ProcessEnd):
                assert event.dropped == 0
        assert lines or audited.may_be_cut(path), path.name
    assert names >= {
        *("ProcessStart", "ProcessEnd", "LoopStart", "LoopStop", "LoopClose"),
        *("TaskCreate", "TaskCancel", "TaskUncancel", "TaskDone", "FutureCancel"),
    }


def test_why_reads_the_log_and_names_a_root_for_every_cancelled_task(
    audited_python: str, whole: tuple[Round, Round]
) -> None:
    logs = [path for path in whole[1].logs if not whole[1].may_be_cut(path)]
    command = [audited_python, "-m", "aioaudit", "why", *map(str, logs)]
    environ = clean_environ()
    text = subprocess.run(command, env=environ, capture_output=True, text=True, timeout=120)
    assert (text.returncode, text.stderr) == (0, "")
    asked = [*command, "--json"]
    done = subprocess.run(asked, env=environ, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stderr) == (0, "")
    answers = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(answers) > 100
    for answer in answers:
        assert answer["chain"][-1] == answer["root"]
        assert answer["summary"].isprintable(), answer
        # The log is whole, so no chain may end for want of a line.
        assert "missing" not in answer["root"].get("detail", ""), answer
