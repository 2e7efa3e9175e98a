"""What README and docs say is true: their programs and commands run, and say what stands there.

How a document is read, from top to bottom, in a folder of its own:

- a ``python`` block whose first line is ``# NAME.py`` is a file of that name;
- any other ``python`` block is run; a ``text`` block right after it is what it prints;
- in a ``console`` block what follows ``$`` is typed into a terminal that is 100 columns wide, and
  the rest is what appears;
- a command that ends in ``&`` goes on while the next ones are typed, once it answers at the
  port that the page names; ``kill %1`` is SIGTERM to it, and waits for its end;
- a ``json`` block holds lines of a log; ``toml`` blocks say what a package registers;
- ``ini``, ``yaml`` and ``dockerfile`` blocks whose first line is ``# NAME`` are files of that name;
- ``sh`` blocks are not run: they install things.

``<!-- since 3.12 -->`` before a block leaves it out on older Pythons.  ``<!-- needs NAME ... -->``
says which modules and commands a page needs: where one is not there, the page is skipped.  Where a
page says 8000 or 6379, any free port is used.
"""

from __future__ import annotations

import fcntl
import html
import importlib.util
import os
import re
import shutil
import signal
import socket
import struct
import subprocess
import sys
import termios
import time
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import dedent
from typing import get_args

import msgspec
import pytest

from aioaudit import events, settings
from aioaudit.chain.links import Link
from aioaudit.findings.catalogue import CATALOGUE
from tests.conftest import ROOT, clean_environ
from tests.servers import free_port
from tests.waiting import PATIENCE

DOCS = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
PAGES = [*DOCS, *(ROOT / f"{name}.md" for name in ("CHANGELOG", "CONTRIBUTING", "SECURITY"))]

FILES = ("python", "ini", "yaml", "dockerfile")
"""The languages of blocks that may be files."""

BLOCK = re.compile(
    r"(?:<!-- since (?P<since>\d\.\d+) -->\s*?\n)?"
    r"^(?P<indent> *)```(?P<language>\w*)\n(?P<body>.*?)^(?P=indent)```$",
    re.MULTILINE | re.DOTALL,
)
VOLATILE = [
    (r"\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d\.\d+", "DATE"),
    (r"\d\d:\d\d:\d\d\.\d{3}", "CLOCK"),
    (r"\+?\d+\.\d+ m?s (?=after)", "SPAN "),
    (r"life of \d+\.\d+ m?s", "life of SPAN"),
    (r"\+\d+\.\d+ m?s", "SPAN"),
    (r'"lifetime":[\d.e-]+', '"lifetime":SECONDS'),
    (r" \([^()]*\d s late\)", ""),  # said only where it is a millisecond or more
    (r"seq \d+", "seq NUMBER"),
    (r"\b[0-9a-f]{12}\b", "RUN"),
    (r'("p?pid":|pid |aioaudit-)\d+', r"\1PID"),
    (r"cpython \d\.\d+\.\d+", "cpython VERSION"),
    (r'(?<=[ "])/[^ "]*/(?=\w+\.(py|jsonl))', ""),
    (r"\b\d+\.\d+s\b", "SECONDS"),  # pytest's
    (r"\d+(\.\d)? (s|min)(?=, (waits|runs)| ago,)", "AGE"),
    (r"(?<=audited for )\d+(\.\d)? (s|min)", "AGE"),
]


def name_of(document: Path) -> str:
    """The name of *document* in the names of tests."""
    return document.relative_to(ROOT).with_suffix("").as_posix()


@dataclass(frozen=True)
class Block:
    """A fenced block of a document."""

    language: str
    body: str
    line: int
    since: tuple[int, ...]


def blocks(document: Path) -> Iterator[Block]:
    """The blocks of *document*, in order."""
    text = document.read_text()
    for match in BLOCK.finditer(text):
        yield Block(
            match["language"],
            dedent(match["body"]),
            text.count("\n", 0, match.start("body")) + 1,
            tuple(int(part) for part in (match["since"] or "3.11").split(".")),
        )


def steady(text: str) -> str:
    """*text* without what differs from run to run, and without line breaks."""
    text = " ".join(text.split())
    for pattern, name in VOLATILE:
        text = re.sub(pattern, name, text)
    return text


def script(path: Path, text: str) -> None:
    """Make *path* a program."""
    path.write_text(text)
    path.chmod(0o755)


class Reader:
    """Does what a document says, in *folder*, with *python*."""

    def __init__(self, python: str, folder: Path) -> None:
        self.folder = folder / "work"
        self.folder.mkdir()
        tools = folder / "tools"
        tools.mkdir()
        # Scripts, not links: a link to a Python would be one without its environment.
        script(tools / "python", f'#!/bin/sh\nexec {python} "$@"\n')
        script(tools / "aioaudit", f"#!{python}\nfrom aioaudit.__main__ import main\nmain()\n")
        # What packages bring as programs is where the Python is that runs the tests.
        path = f"{tools}:{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.environ = clean_environ(PATH=path, TERM="xterm", NO_COLOR="1")
        self.port = free_port()
        self.serves = False
        self.background: list[subprocess.Popen[bytes]] = []

    def of_this_run(self, text: str) -> str:
        """*text* with a port that nobody else uses."""
        mine, times = re.subn(r"\b(8000|6379)\b", str(self.port), text)
        self.serves |= times > 0
        return mine

    def start(self, command: str) -> None:
        """Let *command* run in the background; wait until it answers, if the page names a port."""
        command = self.of_this_run(command)
        log = self.folder.parent / f"background-{len(self.background)}.log"
        with log.open("wb") as out:
            started = subprocess.Popen(
                ["/bin/sh", "-c", f"exec env {command}"],
                cwd=self.folder,
                env=self.environ,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        self.background.append(started)
        until = time.monotonic() + PATIENCE
        while self.serves and not answers(self.port):
            assert started.poll() is None, log.read_text()
            assert time.monotonic() < until, f"nothing answers: {command}"
            time.sleep(0.05)

    def stop(self, program: subprocess.Popen[bytes]) -> None:
        """End *program*, which runs in the background, as ``kill %1`` does."""
        program.send_signal(signal.SIGTERM)
        program.wait(PATIENCE)

    def stop_all(self) -> None:
        """End what still runs in the background."""
        for program in self.background:
            if program.poll() is None:
                program.kill()
                program.wait(PATIENCE)

    def run(self, program: str) -> str:
        """What *program* prints."""
        done = subprocess.run(
            ["python", "-"],
            input=program,
            cwd=self.folder,
            env=self.environ,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert (done.returncode, done.stderr) == (0, ""), f"{program}\n{done.stdout}"
        return done.stdout

    def type(self, command: str) -> str:
        """What *command* makes appear on a terminal of 100 columns."""
        if command.endswith(" &"):
            self.start(command.removesuffix(" &"))
            return ""
        job = re.fullmatch(r"kill %(\d)", command)
        if job is not None:
            self.stop(self.background[int(job[1]) - 1])
            return ""
        command = self.of_this_run(command)
        ours, theirs = os.openpty()
        fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, 100, 0, 0))
        with subprocess.Popen(
            ["/bin/sh", "-c", command],
            cwd=self.folder,
            env=self.environ,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        ):
            os.close(theirs)
            shown = b""
            while True:
                try:
                    piece = os.read(ours, 65536)
                except OSError:  # how Linux says that nobody writes any more
                    break
                if not piece:
                    break
                shown += piece
        os.close(ours)
        return shown.decode()


def commands(body: str) -> Iterator[tuple[str, str]]:
    """Each command of a ``console`` block, and what appears after it."""
    _, *parts = re.split(r"^\$ ", body, flags=re.MULTILINE)
    for part in parts:
        command, _, shown = part.partition("\n")
        yield command, shown


def answers(port: int) -> bool:
    """Whether somebody listens at *port*."""
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def lacking(document: Path) -> list[str]:
    """What *document* needs that is not there."""
    found = re.search(r"^<!-- needs (.+) -->$", document.read_text(), re.MULTILINE)
    names = found[1].split() if found is not None else []
    return [
        name
        for name in names
        if shutil.which(name) is None and importlib.util.find_spec(name) is None
    ]


@pytest.mark.parametrize("document", DOCS, ids=name_of)
def test_what_a_document_shows_happens(document: Path, audited_python: str, tmp_path: Path) -> None:
    without = lacking(document)
    if without:
        pytest.skip(f"{document.name} needs {', '.join(without)}")
    reader = Reader(audited_python, tmp_path)
    try:
        read(document, reader)
    finally:
        reader.stop_all()


def read(document: Path, reader: Reader) -> None:
    """Do what *document* says, and compare."""
    printed: str | None = None
    for block in blocks(document):
        where = f"{document.name}, line {block.line}"
        if block.since > sys.version_info[:2]:
            continue
        before, printed = printed, None
        if block.language in FILES:
            name = re.match(r"# (\S+)\n", block.body)
            if name is not None:
                (reader.folder / name[1]).write_text(reader.of_this_run(block.body))
            else:
                assert block.language == "python", f"{where}: a file without a name"
                printed = reader.run(block.body)
        elif block.language == "text":
            assert before is not None, f"{where}: nothing printed this"
            assert steady(block.body) == steady(before), where
        elif block.language == "console":
            for command, shown in commands(block.body):
                assert steady(reader.type(command)) == steady(shown), f"{where}: {command}"
        elif block.language == "json":
            for line in block.body.splitlines():
                msgspec.json.decode(line, type=events.AnyEvent)
        elif block.language == "toml":
            register(reader.folder, block.body)
        elif block.language != "sql":  # test_perfetto.py asks it
            assert block.language == "sh", f"{where}: what is {block.language!r}?"


def register(folder: Path, pyproject: str) -> None:
    """Let *folder* be an installed package with what *pyproject* registers."""
    groups = tomllib.loads(pyproject)["project"]["entry-points"]
    info = folder / "example-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: example\nVersion: 1\n")
    (info / "entry_points.txt").write_text(
        "\n".join(
            f"[{group}]\n" + "\n".join(f"{name} = {value}" for name, value in points.items())
            for group, points in groups.items()
        )
    )


def anchors(page: Path) -> set[str]:
    """What a link into *page* may name."""
    found = re.findall(r"^#+ (.+)$", BLOCK.sub("", page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in found}


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", BLOCK.sub("", page.read_text())):
        if "://" in target:
            assert target.startswith("https://"), target
            continue
        path, _, anchor = target.partition("#")
        other = (page.parent / path).resolve() if path else page
        assert other.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in anchors(other), f"{page.name} links to {target}"


NAMED = re.compile(r"`((?:aioaudit|exporters|tests|tools|benchmarks|examples|docs)/[\w./-]+)`")
"""A file or folder of the tree, as pages name them."""


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_file_that_a_page_names_is_there(page: Path) -> None:
    sources = (ROOT / "aioaudit").exists()  # where a wheel is tested, they are not here
    for name in NAMED.findall(page.read_text()):
        if sources or not name.startswith(("aioaudit/", "exporters/")):
            assert (ROOT / name).exists(), f"{page.name} names {name}"


def test_the_readme_says_what_was_measured() -> None:
    """Its table is that of the line in the history which has its date and its Python."""
    text = (ROOT / "README.md").read_text()
    found = re.search(r"\(`(\w+ [\d.]+)`, measured on ([\d-]+)", text)
    assert found is not None
    history = (ROOT / "benchmarks" / "history.jsonl").read_text().splitlines()
    lines = [msgspec.json.decode(line) for line in history]
    ratios = [each["ratios"] for each in lines if (each["python"], each["date"]) == found.groups()]
    cell = r" ([\d.]+) \|"
    rows = re.findall(rf"^\| (.+) \|{3 * cell}$", text, re.MULTILINE)
    assert len(rows) == 3
    told = [(case, *map(float, ratios)) for case, *ratios in rows]
    ways = ("jsonl, native core", "jsonl", "only cancel lines")
    assert told in [
        [(case, *(round(each[case][way], 2) for way in ways)) for case, *_ in told]
        for each in ratios
        if all(set(ways) <= set(each.get(case, ())) for case, *_ in told)
    ]


def test_the_picture_of_the_readme_is_what_a_terminal_shows(
    audited_python: str, tmp_path: Path
) -> None:
    """Drawn anew it says the same, but for times and numbers."""
    new = tmp_path / "new.svg"
    subprocess.run([audited_python, ROOT / "tools" / "terminal_picture.py", new], check=True)

    def words(picture: Path) -> str:
        said = re.findall(r"<text [^>]*>([^<]*)</text>", picture.read_text())
        return steady(html.unescape("".join(said).replace("&#160;", " ")))

    assert words(new) == words(ROOT / "docs" / "answer.svg")


def test_every_page_is_in_the_menu_of_the_site() -> None:
    menu = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(), re.MULTILINE)
    made = {"README.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md", "api.md"}
    pages = {page.relative_to(ROOT / "docs").as_posix() for page in DOCS[1:]}
    assert sorted(menu) == sorted(pages | made)


def keys_by_section(page: Path) -> dict[str, list[tuple[str, bool]]]:
    """The keys in each section's table, and whether the line says that they are always there."""
    found: dict[str, list[tuple[str, bool]]] = {}
    for section in re.split(r"^## ", page.read_text(), flags=re.MULTILINE)[1:]:
        title = section.partition("\n")[0].strip("`")
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")]
            for line in section.splitlines()
            if line.startswith("| `")
        ]
        found[title] = [
            (key, row[1] == "yes") for row in rows for key in re.findall(r"`([^`]+)`", row[0])
        ]
    return found


def own_keys(cls: type[events.Event]) -> dict[str, bool]:
    """The keys of *cls* beside those that every event has, and whether they are always there."""
    common = {field.name for field in msgspec.structs.fields(events.Event)}
    return {
        field.encode_name: field.required
        for field in msgspec.structs.fields(cls)
        if field.name not in common
    }


def test_the_page_of_events_has_every_event_and_every_key() -> None:
    sections = keys_by_section(ROOT / "docs" / "events.md")
    every_line = dict(sections.pop("Every line"))
    assert every_line == {
        "event": True,
        **{field.name: field.required for field in msgspec.structs.fields(events.Event)},
    }
    origin = dict(sections.pop("The origin"))
    task = dict(sections.pop("Events about a task"))
    of_tasks = {
        name for name in events.BY_NAME if name.startswith(("task.", "finding", "connection."))
    }
    for name, cls in events.BY_NAME.items():
        told = dict(sections.pop(name))
        if name in of_tasks:
            told |= task
        if name in ("task.cancel", "future.cancel"):
            told |= origin
        assert told == own_keys(cls), name
    assert [title for title, keys in sections.items() if keys] == []


def test_the_page_about_why_names_every_reason_and_every_root() -> None:
    sections = keys_by_section(ROOT / "docs" / "why.md")
    assert {reason for reason, _ in sections["Reasons"]} == events.REASONS
    roots = {root for root, _ in sections["Root causes"]}
    assert roots == set(get_args(events.What))
    assert {key for key, _ in sections["The answer for programs"]} == set(Link.__struct_fields__)
    became = {outcome for outcome, _ in sections["What became of it"]}
    assert became == set(get_args(events.CancelOutcome))


def test_the_page_about_checking_names_every_kind_of_finding() -> None:
    sections = keys_by_section(ROOT / "docs" / "check.md")
    assert {kind for kind, _ in sections["Findings and notes"]} >= set(CATALOGUE)


def test_the_page_of_settings_names_every_variable() -> None:
    text = (ROOT / "docs" / "settings.md").read_text()
    [_, rows] = text.partition("| --- | --- | --- |\n")[::2]
    told = [row.strip("| ").split(" | ") for row in rows.partition("\n\n")[0].splitlines()]
    assert told.pop(0)[0] == f"`{settings.VARIABLE}`"
    assert told == [[f"`{each.name}`", each.holds, f"`{each.default}`"] for each in settings.TABLE]
    for word in (*settings.ON_WORDS, *settings.OFF_WORDS):
        assert f"`{word}`" in text
