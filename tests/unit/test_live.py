"""What a live answer looks like: shapes that stay small, trees of tasks, ages."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import msgspec
import pytest

import aioaudit
from aioaudit.cli import main
from aioaudit.cli.living import Shown
from aioaudit.cli.ps_text import lasted, write_tasks
from aioaudit.exporters.recorder import RecorderExporter
from aioaudit.live import folder
from aioaudit.live.client import Living
from aioaudit.live.protocol import (
    MOST_SAID,
    Answer,
    Events,
    LivingTask,
    ProcessFacts,
    decode_question,
    line_of,
    shortened,
    version_of,
)
from tests.waiting import wait_until

FACTS = ProcessFacts(
    pid=7,
    run="a" * 12,
    started="2026-11-30T05:00:00.000000Z",
    now="2026-11-30T06:00:10.000000Z",
    argv=["shop.py", "--fast"],
)


@pytest.mark.parametrize("letter", ["a", "\0", "é", "\U0001f600", '"'])
def test_an_answer_fits_whatever_the_process_is_called(letter: str) -> None:
    for argv in ([letter * 100_000], [letter * 3] * 1000, [letter] * 50_000):
        facts = msgspec.structs.replace(
            FACTS, argv=shortened(argv), on=shortened([letter * 200] * 20, 600), python="x" * 100
        )
        assert facts.argv[-1].endswith("…")
        assert facts.argv[0].startswith(letter)
        assert len(line_of(Answer(facts=facts))) < MOST_SAID
    assert shortened(["app.py", "-x"]) == ["app.py", "-x"]
    assert shortened([]) == []


def test_a_question_is_understood_again_and_may_have_unknown_keys() -> None:
    question = Events(since=5, run="b", lives=False)
    line = line_of(question)
    assert decode_question(line) == question
    assert version_of(line) == 1
    assert decode_question(b'{"ask":"tasks","more":[1]}').version == 1


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (-1, "0.0 s"),
        (0.26, "0.3 s"),
        (12.4, "12 s"),
        (100, "1 min"),
        (3599, "59 min"),
        (7200, "2 h"),
        (7500, "2 h 5 min"),
        (86_400, "1 d"),
        (273_600, "3 d 4 h"),
    ],
)
def test_ages_are_told_in_few_letters(seconds: float, text: str) -> None:
    assert lasted(seconds) == text


def shown(tasks: list[LivingTask], capsys: pytest.CaptureFixture[str], **how: bool) -> list[str]:
    """The tree of *tasks*, line by line."""
    options = {"awaits": False, "show_all": False, **how}
    write_tasks(7, Living(FACTS, tasks, 0), [Shown(task, None) for task in tasks], **options)
    head, empty, *lines = capsys.readouterr().out.splitlines()
    count = f"{len(tasks):,} task{'' if len(tasks) == 1 else 's'}"
    assert head == f"pid 7, shop.py --fast: {count}, audited for 1 h"
    assert not empty
    return lines


def task(number: int, name: str, parent: int | None = None, *awaited_by: int) -> LivingTask:
    return LivingTask(
        task=number,
        name=name,
        coro=f"shop:{name}",
        parent=parent,
        made="2026-11-30T06:00:07.000000Z",
        does="waits",
        at=f"/srv/shop.py:{number}",
        awaited_by=list(awaited_by),
    )


def test_tasks_stand_under_who_made_them_or_who_awaits_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    tasks = [task(1, "main"), task(2, "a", 1), task(3, "b", 2, 1, 2), task(4, "lost", 99)]
    assert shown(tasks, capsys) == [
        "main  3.0 s, waits at /srv/shop.py:1",
        "└── a  3.0 s, waits at /srv/shop.py:2",
        "    └── b  3.0 s, waits at /srv/shop.py:3",
        "lost  3.0 s, waits at /srv/shop.py:4",
    ]
    assert shown(tasks, capsys, awaits=True) == [
        "main  3.0 s, waits at /srv/shop.py:1",
        "└── b  3.0 s, waits at /srv/shop.py:3",
        "a  3.0 s, waits at /srv/shop.py:2",
        "└── b (above)",
        "lost  3.0 s, waits at /srv/shop.py:4",
    ]


def test_tasks_that_wait_for_each_other_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    tasks = [task(1, "a", None, 2), task(2, "b", None, 1), task(3, "self", None, 3)]
    assert shown(tasks, capsys, awaits=True) == [
        "a  3.0 s, waits at /srv/shop.py:1",
        "└── b  3.0 s, waits at /srv/shop.py:2",
        "    └── a (above)",
        "self  3.0 s, waits at /srv/shop.py:3",
        "└── self (above)",
    ]


def test_many_tasks_are_folded_counted_and_cut_at_a_depth(
    capsys: pytest.CaptureFixture[str],
) -> None:
    alike = [
        LivingTask(task=n, name=f"w-{n}", coro="shop:work", does="new", parent=1 if n > 1 else None)
        for n in range(1, 6)
    ]
    assert shown(alike, capsys)[1:] == ["└── work (w-2) and 3 more like it  has not begun"]
    assert len(shown(alike, capsys, show_all=True)) == 5
    chain = [task(n, f"t{n}", n - 1 or None) for n in range(1, 5_001)]
    deep = shown(chain, capsys)
    assert len(deep) == 22
    assert deep[-1].endswith("── 4,979 more tasks below")
    wide = [task(n, f"t{n}") for n in range(1, 2_001)]
    assert shown(wide, capsys)[-1] == "1,000 more tasks"


def test_hostile_names_are_harmless(capsys: pytest.CaptureFixture[str]) -> None:
    [line] = shown([task(1, "a\n\x1b[31m[bold]b")], capsys)
    assert line == "a\\n\\x1b[31m[bold]b  3.0 s, waits at /srv/shop.py:1"


# -- the folder of sockets --------------------------------------------------------------------


def test_a_folder_that_others_could_change_is_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    open_to_all = tmp_path / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o755)
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(open_to_all))
    monkeypatch.setenv("TMPDIR", str(temporary))
    path, fd = folder.make_one()
    os.close(fd)
    assert path == str(temporary / f"aioaudit-{folder.me()}")
    Path(path).chmod(0o750)
    with pytest.raises(PermissionError, match="others may look into it"):
        folder.opened(path)
    Path(path).rmdir()
    Path(path).symlink_to(tmp_path)
    with pytest.raises(OSError, match=r"directory|links"):
        folder.opened(path)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "relative")
    assert not any("relative" in each for each in folder.candidates())


def test_only_names_of_sockets_are_taken_for_such() -> None:
    assert folder.pid_in("17-ab.sock") == 17
    assert folder.pid_in(".17-ab.sock") == 17
    assert [folder.pid_in(each) for each in ("x-1.sock", "-.sock", "9" * 30, "٣-a.sock")] == [
        None
    ] * 4


# -- what is new ------------------------------------------------------------------------------


def lines_of(exporter: RecorderExporter, since: int, *, lives: bool = True) -> list[str]:
    """What is told, in short."""
    events = b"".join(exporter._told(since, lives=lives)).splitlines()
    told = [msgspec.json.decode(each) for each in events]
    return [f"{each['event']} {each['seq']}" for each in told]


@pytest.mark.parametrize("lives", [True, False])
def test_what_is_new_is_told_the_same_from_all_and_from_what_came_of_late(lives: bool) -> None:
    exporter = RecorderExporter(socket=False)
    whole = RecorderExporter(socket=False)

    async def main() -> None:
        for number in range(5):
            task = asyncio.create_task(asyncio.sleep(60), name=f"t{number}")
            await asyncio.create_task(asyncio.sleep(0))
            task.cancel()
            await asyncio.wait([task])

    known = 0
    with aioaudit.enable(exporter, whole):
        for _ in range(4):
            asyncio.run(main())
            aioaudit.dump(os.devnull)
            wait_until(lambda: whole._last == exporter._last)
            new = lines_of(exporter, known, lives=lives)
            assert len(new) > 10
            assert new == lines_of(whole, known, lives=lives)
            known = exporter._last
            assert lines_of(exporter, known, lives=lives) == new[:1]
            whole._tail.end()
        assert exporter._tail.after(known, lives=lives) is not None
        assert (exporter._tail.after(known, lives=True) is not None) == lives
        exporter._tail.begin(known, lives=lives)
        # Who knows less is told from all that is kept.
        assert exporter._tail.after(known - 1, lives=lives) is None


@pytest.mark.parametrize("command", ["ps", "dump", "attach"])
@pytest.mark.parametrize("word", ["shop", "0", "1.5"])
def test_what_is_no_number_of_a_process_is_told_so(
    command: str, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, word]) == 2
    assert (
        f"{word!r} is no number of a process; aioaudit ps lists those that are audited"
        in capsys.readouterr().err
    )


@pytest.mark.parametrize("option", ["--size", "--dump"])
def test_an_option_of_attach_is_told_by_its_name(
    option: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["attach", "1", option, "much"]) == 2
    assert f"Error: {option} 'much': " in capsys.readouterr().err
