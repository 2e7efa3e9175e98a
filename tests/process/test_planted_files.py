"""Where others can write to the folder, nothing that they put in the place of a log is used."""

from __future__ import annotations

import errno
import os
import socket
import stat
import subprocess
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from aioaudit.events import ProcessStart
from aioaudit.exporter import ExporterError, NotTakenError
from aioaudit.exporters.jsonl import JsonlExporter
from aioaudit.identity import Run
from aioaudit.opening import PlantedError, open_to_write
from tests.conftest import Runner
from tests.waiting import wait_until

pytestmark = pytest.mark.skipif(not hasattr(os, "O_PATH"), reason="paths are not walked here")

NOBODY = 65534
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="plants files of another user")


@pytest.fixture
def shared(tmp_path: Path) -> Path:
    """A folder like /tmp."""
    folder = tmp_path / "shared"
    folder.mkdir()
    folder.chmod(0o1777)
    return folder


@pytest.fixture
def victim(tmp_path: Path) -> Iterator[Path]:
    """A file of ours that others would like to have written to."""
    file = tmp_path / "victim.conf"
    file.write_text("keep=me\n")
    file.chmod(0o600)
    yield file
    for path in tmp_path.rglob("*.jsonl"):  # judges/test_schema.py looks at the logs of all tests
        if not path.is_symlink() and path.samefile(file):
            path.unlink()


def start() -> ProcessStart:
    return Run().start_event([])


def refused(path: Path) -> str:
    """Why nothing is written to *path*."""
    with pytest.raises(ExporterError) as caught:
        JsonlExporter(path).export([start()])
    text = str(caught.value)
    assert text.startswith(f"cannot open '{path}' for writing: ")
    assert "\n" not in text
    assert text.endswith(f"; path_or_stream (here '{path}') must name another")
    return text


def taken(path: Path) -> None:
    """One line is written to *path*."""
    exporter = JsonlExporter(path)
    exporter.export([start()])
    exporter.shutdown()


def written(path: Path) -> int:
    return path.read_bytes().count(b"\n")


def give_away(path: Path) -> None:
    os.chown(path, NOBODY, NOBODY, follow_symlinks=False)


# -- what others plant ----------------------------------------------------------------


@root_only
@pytest.mark.parametrize("there", [True, False])
def test_a_link_of_another_user_is_not_followed(shared: Path, victim: Path, there: bool) -> None:
    target = victim if there else victim.with_name("made.conf")
    path = shared / "log.jsonl"
    path.symlink_to(target)
    give_away(path)
    assert "symbolic link of another user (65534)" in refused(path)
    assert target.exists() is there
    assert victim.read_text() == "keep=me\n"


@root_only
def test_a_link_of_another_user_on_the_way_is_not_followed(shared: Path, tmp_path: Path) -> None:
    ours = tmp_path / "ours"
    ours.mkdir()
    (shared / "logs").symlink_to(ours)
    give_away(shared / "logs")
    assert "'logs' is a symbolic link of another user" in refused(shared / "logs" / "log.jsonl")
    assert list(ours.iterdir()) == []


@root_only
def test_a_link_of_ours_leads_to_a_planted_one_that_is_not_followed(
    shared: Path, victim: Path, tmp_path: Path
) -> None:
    planted = shared / "planted"
    planted.symlink_to(victim)
    give_away(planted)
    path = tmp_path / "log.jsonl"
    path.symlink_to(planted)
    assert "symbolic link of another user" in refused(path)
    assert victim.read_text() == "keep=me\n"


@root_only
@pytest.mark.parametrize("mode", [0o666, 0o600])
def test_a_file_of_another_user_is_not_written_to(shared: Path, mode: int) -> None:
    path = shared / "log.jsonl"
    path.touch()
    path.chmod(mode)
    give_away(path)
    assert "this file is another user's (65534)" in refused(path)
    assert path.read_bytes() == b""


@root_only
def test_in_the_folder_of_another_user_only_what_is_ours_is_written_to(tmp_path: Path) -> None:
    folder = tmp_path / "theirs"
    folder.mkdir(mode=0o755)
    give_away(folder)
    taken(folder / "new.jsonl")
    taken(folder / "new.jsonl")
    assert written(folder / "new.jsonl") == 2
    planted = folder / "planted.jsonl"
    planted.touch(mode=0o600)
    give_away(planted)
    assert "another user's" in refused(planted)


@pytest.mark.parametrize("mode", [0o666, 0o644, 0o602])
def test_a_file_that_others_can_read_or_change_is_not_written_to(shared: Path, mode: int) -> None:
    path = shared / "log.jsonl"
    path.touch()
    path.chmod(mode)
    assert f"mode {mode:04o}" in refused(path)
    assert path.read_bytes() == b""


def test_a_file_with_another_name_is_not_written_to(shared: Path, victim: Path) -> None:
    path = shared / "log.jsonl"
    path.hardlink_to(victim)
    assert "a hard link" in refused(path)
    assert victim.read_text() == "keep=me\n"


@root_only
def test_a_pipe_of_another_user_is_not_waited_for(shared: Path, run_python: Runner) -> None:
    # To open the pipe would wait for ever.
    path = shared / "log.jsonl"
    os.mkfifo(path)
    path.chmod(0o666)
    give_away(path)
    assert "named pipe of another user (65534)" in refused(path)
    reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert "named pipe of another user (65534)" in refused(path)
        assert os.read(reader, 1000) == b""
    finally:
        os.close(reader)


def test_a_socket_is_not_written_to(shared: Path) -> None:
    path = shared / "log.jsonl"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(path))
        assert "no regular file" in refused(path)


@root_only
def test_what_is_put_in_place_of_a_log_later_is_not_written_to(
    tmp_path: Path, victim: Path
) -> None:
    folder = tmp_path / "loose"
    folder.mkdir()
    folder.chmod(0o777)
    path = folder / "log.jsonl"
    exporter = JsonlExporter(path)
    exporter.export([start()])
    path.unlink()
    path.symlink_to(victim)
    give_away(path)
    with pytest.raises(NotTakenError, match="symbolic link of another user"):
        exporter.export([start()])
    path.unlink()
    exporter.export([start()])
    exporter.shutdown()
    assert victim.read_text() == "keep=me\n"
    assert written(path) >= 1


@root_only
def test_what_is_put_in_place_while_it_is_opened_is_never_written_to(
    tmp_path: Path, victim: Path
) -> None:
    folder = tmp_path / "loose"
    folder.mkdir()
    folder.chmod(0o777)
    path = folder / "log.jsonl"
    over = threading.Event()

    def plant() -> None:
        planted = folder / "planted"
        ours = folder / "ours"
        while not over.is_set():
            planted.symlink_to(victim)
            give_away(planted)
            planted.replace(path)
            ours.touch(mode=0o600)
            ours.replace(path)

    thread = threading.Thread(target=plant)
    thread.start()
    answers: set[str] = set()

    def opened_often() -> bool:
        for _ in range(2000):
            try:
                os.close(open_to_write(path))
                answers.add("opened")
            except PlantedError:
                answers.add("refused")
            fd = -1
            try:
                fd = open_to_write(path)
                os.write(fd, b"a line\n")
            except PlantedError:
                pass
            finally:
                if fd != -1:
                    os.close(fd)
        return answers == {"opened", "refused"}

    try:
        wait_until(opened_often, "one of each kind")  # a busy machine lets one thread run for long
    finally:
        over.set()
        thread.join()
    assert victim.read_text() == "keep=me\n"
    path.unlink(missing_ok=True)  # it is no log, and judges/test_schema.py looks at all


FORKS = """
import asyncio, os, sys

async def main():
    task = asyncio.create_task(asyncio.sleep(60), name="mine")
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])

asyncio.run(main())
if os.fork() == 0:
    os.symlink(sys.argv[1], os.environ["AIOAUDIT_JSONL_PATH"].format(pid=os.getpid()))
    os.lchown(os.environ["AIOAUDIT_JSONL_PATH"].format(pid=os.getpid()), 65534, 65534)
    asyncio.run(main())
    print("child ran", flush=True)
else:
    os.wait()
    print("ran")
"""


@root_only
def test_a_forked_child_does_not_follow_a_planted_link_either(
    shared: Path, victim: Path, run_python: Runner
) -> None:
    done = run_python(
        "-c",
        FORKS,
        str(victim),
        AIOAUDIT="jsonl",
        AIOAUDIT_JSONL_PATH=f"{shared}/log-{{pid}}.jsonl",
    )
    assert (done.returncode, done.stdout) == (0, "child ran\nran\n")
    [line] = done.stderr.splitlines()
    assert "symbolic link of another user (65534)" in line
    assert victim.read_text() == "keep=me\n"


@root_only
def test_the_program_runs_on_after_one_line_on_stderr(
    shared: Path, victim: Path, run_python: Runner
) -> None:
    path = shared / "log.jsonl"
    path.symlink_to(victim)
    give_away(path)
    done = run_python(
        "-c",
        "import asyncio; asyncio.run(asyncio.sleep(0)); print('ran')",
        AIOAUDIT="jsonl",
        AIOAUDIT_JSONL_PATH=str(path),
    )
    assert (done.returncode, done.stdout) == (0, "ran\n")
    [line] = done.stderr.splitlines()
    assert line == (
        f"aioaudit: exporter 'jsonl' failed and is out of service: cannot open '{path}' for "
        "writing: 'log.jsonl' is a symbolic link of another user (65534), in a folder that others "
        f"can write to; AIOAUDIT_JSONL_PATH (here '{path}') must name another"
    )
    assert victim.read_text() == "keep=me\n"


# -- what is there on purpose ---------------------------------------------------------


def test_a_new_file_and_one_of_ours_are_written_to(shared: Path) -> None:
    path = shared / "log.jsonl"
    before = os.umask(0)
    try:
        taken(path)
    finally:
        os.umask(before)
    taken(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert written(path) == 2


@pytest.mark.parametrize("there", [True, False])
def test_a_link_of_ours_is_followed(shared: Path, tmp_path: Path, there: bool) -> None:
    target = tmp_path / "real.jsonl"
    if there:
        target.touch(mode=0o644)  # in a folder of our own
    path = shared / "log.jsonl"
    path.symlink_to("../real.jsonl")
    taken(path)
    assert written(target) == 1


def test_links_on_the_way_lead_where_the_system_would_go(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "here").symlink_to(tmp_path / "a" / "b")
    (tmp_path / "a" / "b" / "up").symlink_to("..")
    path = tmp_path / "here" / "." / "up" / "log.jsonl"
    path.parent.joinpath("log.jsonl").symlink_to("b/../other.jsonl")
    taken(path)
    assert written(tmp_path / "a" / "other.jsonl") == 1


def test_links_in_a_circle_are_an_error(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    path.symlink_to(path)
    with pytest.raises(ExporterError) as caught:
        JsonlExporter(path).export([start()])
    assert os.strerror(errno.ELOOP) in str(caught.value)


@pytest.mark.parametrize("folder", ["shared", "."])
def test_a_pipe_of_ours_is_written_to(shared: Path, tmp_path: Path, folder: str) -> None:
    path = (tmp_path / folder / "pipe").resolve()
    os.mkfifo(path, 0o600)
    got: list[bytes] = []

    def read() -> None:
        with path.open("rb") as pipe:
            got.append(pipe.read())

    reader = threading.Thread(target=read)
    reader.start()
    taken(path)
    reader.join()
    assert got[0].count(b"\n") == 1


@pytest.mark.parametrize("path", ["/dev/stderr", "/dev/fd/2", "/proc/self/fd/2", "/dev/null"])
@pytest.mark.parametrize("kind", ["pipe", "file"])
def test_devices_and_descriptors_are_written_to(
    shared: Path, run_python: Runner, path: str, kind: str
) -> None:
    program = "import asyncio; asyncio.run(asyncio.sleep(0)); print('ran')"
    if kind == "file":  # one that others can read: whoever redirects wants it
        program = f"import os; os.dup2(os.open({str(shared / 'err')!r}, 65, 0o644), 2); {program}"
    done = run_python("-c", program, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=path)
    assert (done.returncode, done.stdout) == (0, "ran\n")
    said = (shared / "err").read_text() if kind == "file" else done.stderr
    assert ('"process.start"' in said) is (path != "/dev/null")
    assert "aioaudit:" not in said


# -- other files that are written -----------------------------------------------------


@pytest.fixture
def log(tmp_path: Path, run_python: Runner) -> Path:
    path = tmp_path / "some.jsonl"
    program = """
import asyncio

async def main():
    task = asyncio.create_task(asyncio.sleep(60))
    await asyncio.sleep(0)
    task.cancel()

asyncio.run(main())
"""
    done = run_python("-c", program, AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(path))
    assert (done.returncode, done.stderr) == (0, "")
    return path


@pytest.fixture
def export(log: Path, run_python: Runner) -> Callable[[Path], subprocess.CompletedProcess[str]]:
    def go(path: Path) -> subprocess.CompletedProcess[str]:
        return run_python("-m", "aioaudit", "export", str(log), "--to", "otlp-json", str(path))

    return go


Export = Callable[[Path], "subprocess.CompletedProcess[str]"]


@root_only
@pytest.mark.parametrize("there", [True, False])
def test_export_follows_no_planted_link(
    shared: Path, victim: Path, export: Export, there: bool
) -> None:
    target = victim if there else victim.with_name("made")
    path = shared / "trace.json"
    path.symlink_to(target)
    give_away(path)
    done = export(path)
    assert (done.returncode, done.stdout) == (2, "")
    [line] = done.stderr.splitlines()
    assert line.startswith(f"aioaudit: cannot write {path}: 'trace.json' is a symbolic link of")
    assert target.exists() is there
    assert victim.read_text() == "keep=me\n"


def test_export_writes_over_a_file_of_ours_and_keeps_the_wish_of_the_umask(
    shared: Path, tmp_path: Path, export: Export
) -> None:
    for folder, mode in ((shared, 0o600), (tmp_path, 0o666 & ~_umask())):
        path = folder / "trace.json"
        assert export(path).returncode == 0
        size = path.stat().st_size
        with path.open("a") as file:
            file.write("much more than there was before" * 1000)
        assert export(path).returncode == 0
        assert (path.stat().st_size, stat.S_IMODE(path.stat().st_mode)) == (size, mode)


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


LOG = '"section":"log","subject":"jsonl"'
"""What a line of the doctor has that is about the file."""


@root_only
def test_the_doctor_says_what_would_not_be_written_to(
    shared: Path, victim: Path, run_python: Runner
) -> None:
    link = shared / "link.jsonl"
    link.symlink_to(victim.with_name("made"))
    give_away(link)
    pipe = shared / "pipe.jsonl"
    os.mkfifo(pipe, 0o600)
    for path, wrong in (
        (link, "it is not written to: 'link.jsonl' is a symbolic link of another user (65534)"),
        (pipe, "it cannot be written: nobody reads from this named pipe"),
    ):
        done = run_python(
            "-m", "aioaudit", "doctor", "--json", AIOAUDIT="jsonl", AIOAUDIT_JSONL_PATH=str(path)
        )
        [line] = [each for each in done.stdout.splitlines() if LOG in each]
        assert wrong in line
        assert '"problem"' in line
    assert not victim.with_name("made").exists()
