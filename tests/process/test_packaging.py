"""What the wheel and the source distribution hold, and that installing either way works.

Under `make test` these are the very files that were built there; at the desk
they are built once from the tree.
"""

from __future__ import annotations

import email
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioaudit.version import __version__
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

    Installer = Callable[[str, Path, list[str]], Path]

START_UP = {"_aioaudit_autostart.py", "aioaudit_autostart.pth"}


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """The wheel and the source distribution it was built from."""
    wheel, sdist = (os.environ.get(f"AIOAUDIT_TEST_{kind}") for kind in ("WHEEL", "SDIST"))
    if wheel and sdist:
        return Path(wheel), Path(sdist)

    out = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True, cwd=out)
    return next(out.glob("*.whl")), next(out.glob("*.tar.gz"))


@pytest.fixture(scope="session")
def wheel_names(built: tuple[Path, Path]) -> set[str]:
    """The names of all files in the wheel."""
    with zipfile.ZipFile(built[0]) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def tree(built: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The source distribution, unpacked: the tree as a stranger has it."""
    folder = tmp_path_factory.mktemp("tree")
    with tarfile.open(built[1]) as archive:
        # 3.12 wants to be told what to refuse; before 3.11.4 nobody could.
        archive.extraction_filter = getattr(tarfile, "data_filter", lambda member, _: member)
        archive.extractall(folder)
    return next(folder.iterdir())


def test_the_wheel_puts_the_package_and_two_start_up_files_and_nothing_else(
    wheel_names: set[str],
) -> None:
    tops = {name.split("/")[0] for name in wheel_names}
    assert tops == {"aioaudit", f"aioaudit-{__version__}.dist-info"} | START_UP
    assert {name for name in wheel_names if name.endswith((".pyi", ".pyc"))} == set()
    assert {name for name in wheel_names if "_startup" in name} == set()
    assert "aioaudit/py.typed" in wheel_names
    assert f"aioaudit-{__version__}.dist-info/licenses/LICENSE" in wheel_names


def test_the_wheel_holds_every_module_of_the_tree(wheel_names: set[str], tree: Path) -> None:
    ours = {
        file.relative_to(tree).as_posix()
        for file in tree.glob("aioaudit/**/*.py")
        if "_startup" not in file.parts
    }
    theirs = {
        f"aioaudit/{file.relative_to(tree).as_posix()}" for file in tree.glob("exporters/**/*.py")
    }
    assert theirs >= {
        f"aioaudit/exporters/{name}.py"
        for name in ("jsonl", "lines", "logging", "memory", "otel/exporter", "structlog")
    }
    assert {name for name in wheel_names if name.endswith(".py")} == (
        ours | theirs | {"_aioaudit_autostart.py"}
    )


def test_every_exporter_has_its_alias_for_type_checkers(tree: Path) -> None:
    def names(folder: Path, suffix: str) -> dict[str, Path]:
        files = {file.relative_to(folder): file for file in folder.rglob(f"*.{suffix}")}
        return {".".join(name.with_suffix("").parts): file for name, file in files.items()}

    modules = names(tree / "exporters", "py")
    aliases = names(tree / "aioaudit/exporters", "pyi")
    assert {name: file.read_text() for name, file in aliases.items()} == {
        name: f"from exporters.{name} import *\n".replace(".__init__ ", " ") for name in modules
    }


def test_the_source_distribution_holds_all_that_make_needs(tree: Path) -> None:
    assert {path.name for path in tree.iterdir()} >= {
        ".ci",
        "CHANGELOG.md",
        "CONTRIBUTING.md",
        "LICENSE",
        "Makefile",
        "README.md",
        "SECURITY.md",
        "aioaudit",
        "benchmarks",
        "docs",
        "examples",
        "exporters",
        "pyproject.toml",
        "tests",
        "tools",
    }
    assert list(tree.glob("**/__pycache__")) == []


def test_the_start_up_files_say_what_the_readme_says_of_them(built: tuple[Path, Path]) -> None:
    with zipfile.ZipFile(built[0]) as archive:
        assert archive.read("aioaudit_autostart.pth") == (
            b'import os; os.environ.get("AIOAUDIT") and __import__("_aioaudit_autostart").main()\n'
        )


def test_the_metadata_names_what_users_ask_for(built: tuple[Path, Path]) -> None:
    prefix = f"aioaudit-{__version__}.dist-info"
    with zipfile.ZipFile(built[0]) as archive:
        metadata = email.message_from_bytes(archive.read(f"{prefix}/METADATA"))
        entry_points = archive.read(f"{prefix}/entry_points.txt").decode()
    required = [str(each) for each in metadata.get_all("Requires-Dist", [])]
    assert metadata["Version"] == __version__
    assert metadata["Requires-Python"] == ">=3.11"
    assert metadata["License-Expression"] == "MIT"
    assert set(metadata.get_all("Provides-Extra", [])) == {
        "all",
        "cli",
        "otel",
        "otel-grpc",
        "otel-instrument",
        "structlog",
    }
    assert [each for each in required if "extra ==" not in each] == ["msgspec>=0.19"]
    assert entry_points == (
        "[console_scripts]\naioaudit = aioaudit.__main__:main\n\n"
        "[opentelemetry_instrumentor]\n"
        "aioaudit = aioaudit.exporters.otel.instrumentor:AioauditInstrumentor\n"
    )


@pytest.fixture
def install(bare_environment: Callable[[Path], Path]) -> Installer:
    """Install something with pip into a new environment; gives its Python."""

    def run(name: str, folder: Path, what: list[str]) -> Path:
        python = bare_environment(folder / name)
        # The environment sees what is installed here; that must neither do nor go away.
        pip(python, "install", "--ignore-installed", "--no-deps", "--no-build-isolation", *what)
        return python

    return run


def pip(python: Path, *args: str) -> None:
    """Run this environment's pip on that of *python*."""
    command = [sys.executable, "-m", "pip", "--python", str(python), "--quiet", *args]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


PROGRAM = """
import asyncio, sys
async def main():
    victim = asyncio.create_task(asyncio.sleep(9), name="victim")
    await asyncio.sleep(0)
    victim.cancel()
    await asyncio.wait([victim])
asyncio.run(main())
import aioaudit, aioaudit.exporters.jsonl, aioaudit.exporters.memory, _aioaudit_autostart
for module in (aioaudit, aioaudit.exporters.jsonl, aioaudit.exporters.memory, _aioaudit_autostart):
    print(module.__file__)
print(aioaudit.exporters.jsonl.JsonlExporter.__module__)
"""


def start(python: Path, cwd: Path, *args: str, **environ: str) -> list[str]:
    """The output lines of a process that must end well."""
    done = subprocess.run(
        [str(python), *args],
        cwd=cwd,
        env={"PATH": os.environ["PATH"], **environ},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_an_installed_wheel_audits_and_leaves_nothing_when_it_goes(
    built: tuple[Path, Path], install: Installer, tmp_path: Path
) -> None:
    python = install("wheel", tmp_path, [str(built[0])])
    [packages] = python.parent.parent.glob("lib/python3*/site-packages")
    work = tmp_path / "work"
    work.mkdir()
    (work / "app.py").write_text(PROGRAM)
    assert start(python, work, "app.py", AIOAUDIT="jsonl") == [
        str(packages / "aioaudit/__init__.py"),
        str(packages / "aioaudit/exporters/jsonl.py"),
        str(packages / "aioaudit/exporters/memory.py"),
        str(packages / "_aioaudit_autostart.py"),
        "aioaudit.exporters.jsonl",
    ]
    [log] = work.glob("aioaudit-*.jsonl")
    assert '"event":"process.start"' in log.read_text().splitlines()[0]
    assert python.with_name("aioaudit").exists()
    (packages / "zz_dependencies.pth").write_text("")
    pip(python, "uninstall", "--yes", "aioaudit")
    assert {path.name for path in packages.iterdir()} == {"zz_dependencies.pth"}
    assert start(python, work, "-c", "import asyncio", AIOAUDIT="jsonl") == []


def test_an_editable_install_audits_and_follows_the_tree(
    tree: Path, install: Installer, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(tree, tmp_path / "source"))
    python = install("editable", tmp_path, ["--editable", str(source)])
    [packages] = python.parent.parent.glob("lib/python3*/site-packages")
    work = tmp_path / "work"
    work.mkdir()
    (work / "app.py").write_text(PROGRAM)
    assert start(python, work, "app.py", AIOAUDIT="jsonl") == [
        str(source / "aioaudit/__init__.py"),
        str(source / "exporters/jsonl.py"),
        str(source / "exporters/memory.py"),
        str(packages / "_aioaudit_autostart.py"),
        "aioaudit.exporters.jsonl",
    ]
    assert len(list(work.glob("aioaudit-*.jsonl"))) == 1
    (source / "exporters" / "fresh.py").write_text("here = 'seen'\n")
    program = "import aioaudit.exporters.fresh as fresh; print(fresh.here)"
    assert start(python, work, "-c", program) == ["seen"]
