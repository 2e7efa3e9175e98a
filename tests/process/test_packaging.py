"""What the wheel and the source distribution hold, and that installing either way works.

Under `make test` these are the very files that were built there; at the desk
they are built once from the tree.
"""

from __future__ import annotations

import email
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from aioaudit.version import __version__
from tests.conftest import ROOT
from tools import build_core

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


def build_wheel(tree: Path, out: Path, **environ: str) -> tuple[Path, list[str]]:
    """The wheel that *tree* makes with these variables, and what it said of the core."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out)]
    done = subprocess.run(
        [*command, str(tree)],
        # Loading the hook would leave compiled files in the tree, which other tests look at.
        env={key: value for key, value in os.environ.items() if key not in OF_BUILDS}
        | {"PYTHONDONTWRITEBYTECODE": "1"}
        | environ,
        cwd=out,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert done.returncode == 0, done.stdout
    [wheel] = out.glob("*.whl")
    lines = [line for line in done.stdout.splitlines() if "aioaudit: " in line]
    return wheel, [line[line.index("aioaudit: ") :] for line in lines]


OF_BUILDS = ("AIOAUDIT_BUILD_CORE", "CC", "CFLAGS", "CPPFLAGS", "LDFLAGS")


def cores(wheel: Path) -> list[str]:
    """What *wheel* holds of the native core."""
    with zipfile.ZipFile(wheel) as archive:
        of_core = ("aioaudit/core/_core", "aioaudit/core/c/")
        return [name for name in archive.namelist() if name.startswith(of_core)]


@pytest.fixture(scope="session")
def _with_compiler() -> None:
    """Skip where no native wheel can be expected."""
    named = shlex.split(str(sysconfig.get_config_var("CC") or ""))[:1]
    if not any(map(shutil.which, (*named, "cc", "gcc", "clang"))):
        pytest.skip("there is no C compiler here")
    if not Path(sysconfig.get_path("include"), "Python.h").exists():
        pytest.skip("there are no headers of this Python here")


def test_the_wheel_under_test_has_the_core_that_was_asked_for(built: tuple[Path, Path]) -> None:
    if os.environ.get("AIOAUDIT_CORE") == "native":
        assert len(cores(built[0])) == 1


@pytest.mark.usefixtures("_with_compiler")
def test_with_a_compiler_the_wheel_is_native_and_its_core_runs(
    tree: Path, install: Installer, tmp_path: Path
) -> None:
    wheel, said = build_wheel(tree, tmp_path)
    minor = f"cp3{sys.version_info[1]}"
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert said == []
    assert wheel.name == f"aioaudit-{__version__}-{minor}-{minor}-{platform}.whl"
    assert cores(wheel) == [f"aioaudit/core/_core{sysconfig.get_config_var('EXT_SUFFIX')}"]
    with zipfile.ZipFile(wheel) as archive:
        told = archive.read(f"aioaudit-{__version__}.dist-info/WHEEL").decode()
    assert "Root-Is-Purelib: false" in told
    python = install("native", tmp_path, [str(wheel)])
    [packages] = python.parent.parent.glob("lib/python3*/site-packages")
    assert start(python, tmp_path, "-c", SHOW_CORE, AIOAUDIT_CORE="native") == [
        "native",
        str(packages / cores(wheel)[0]),
    ]


@pytest.mark.any_python
@pytest.mark.usefixtures("_with_compiler")
def test_the_same_sources_make_the_same_wheel_wherever_they_lie(tree: Path, tmp_path: Path) -> None:
    made: list[bytes] = []
    for name in ("one", "another/further/down"):
        out = tmp_path / name / "out"
        out.mkdir(parents=True)
        copy = Path(shutil.copytree(tree, tmp_path / name / "source"))
        made.append(build_wheel(copy, out)[0].read_bytes())
    assert made[0] == made[1]


@pytest.mark.any_python
@pytest.mark.parametrize(
    ("environ", "why"),
    [
        (
            {"CC": "/bin/false"},
            "the C compiler '/bin/false' failed (status 1); let CC name one that compiles C11",
        ),
        (
            {"CC": "/nonexistent"},
            "the C compiler '/nonexistent' does not start (No such file or directory);"
            " let CC name one that does",
        ),
    ],
)
def test_without_a_compiler_the_wheel_is_pure_and_one_line_says_so(
    tree: Path, tmp_path: Path, environ: dict[str, str], why: str
) -> None:
    if not Path("/bin/false").exists():
        pytest.skip("there is no /bin/false")
    wheel, said = build_wheel(tree, tmp_path, **environ)
    if Path(sysconfig.get_path("include"), "Python.h").exists():
        pure = "aioaudit: a wheel of pure Python, no native core: "
        assert said == [f"{pure}{why}"]
    assert wheel.name == f"aioaudit-{__version__}-py3-none-any.whl"
    assert cores(wheel) == []


@pytest.mark.any_python
def test_a_wheel_can_be_pure_on_purpose(tree: Path, install: Installer, tmp_path: Path) -> None:
    wheel, said = build_wheel(tree, tmp_path, AIOAUDIT_BUILD_CORE="0")
    assert (wheel.name, said) == (f"aioaudit-{__version__}-py3-none-any.whl", [])
    assert cores(wheel) == []
    python = install("pure", tmp_path, [str(wheel)])
    assert start(python, tmp_path, "-c", SHOW_CORE) == ["python", "None"]


SHOW_CORE = """
from aioaudit.core.choice import CORE, native
print(CORE.name, getattr(native(), "__file__", None), sep="\\n")
"""


@pytest.mark.any_python
def test_the_source_distribution_holds_what_the_core_is_built_with_and_none_that_was_built(
    tree: Path, tmp_path: Path
) -> None:
    for needed in ("tools/hatch_build.py", "tools/build_core.py"):
        assert (tree / needed).exists()
    assert set(parts(tree)) == {path.name for path in tree.glob("aioaudit/core/c/*")}
    assert {path.name for path in tree.glob("aioaudit/core/_core*")} == {"_core.c", "_core.pyi"}
    # One that tools/build_core.py left is passed over, in both.
    copy = Path(shutil.copytree(tree, tmp_path / "source"))
    names = ("_core.cpython-311-x86_64-linux-gnu.so", "_core.cp313-win_amd64.pyd")
    for name in names:
        (copy / "aioaudit/core" / name).write_bytes(b"stale")
    (copy / ".gitignore").unlink(missing_ok=True)
    command = [sys.executable, "-m", "build", "--sdist", "--no-isolation"]
    subprocess.run(
        [*command, "--outdir", str(tmp_path), str(copy)], check=True, capture_output=True
    )
    [sdist] = tmp_path.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        assert [name for name in archive.getnames() if name.endswith(names)] == []
    assert cores(build_wheel(copy, tmp_path, CC="/nonexistent")[0]) == []


def parts(tree: Path) -> list[str]:
    """The files that the source of the native core is made of, in their order."""
    top = (tree / "aioaudit/core/_core.c").read_text()
    return re.findall(r'^#include "c/(\w+\.h)"', top, re.MULTILINE)


@pytest.mark.any_python
@pytest.mark.usefixtures("_with_compiler")
def test_each_part_of_the_core_includes_what_it_builds_on(tree: Path, tmp_path: Path) -> None:
    alone: list[Path] = []
    for name in parts(tree):
        alone.append(tmp_path / f"{name}.c")
        alone[-1].write_text(f'#include "{name}"\n')
    include = ("-I", str(tree / "aioaudit/core/c"), "-isystem", sysconfig.get_path("include"))
    done = subprocess.run(
        [*build_core._compiler(), "-std=c11", "-fsyntax-only", *include, *alone],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.any_python
@pytest.mark.usefixtures("_with_compiler")
def test_of_a_mistake_in_a_part_of_the_core_the_place_is_told(tree: Path, tmp_path: Path) -> None:
    source = Path(shutil.copytree(tree, tmp_path / "source"))
    part = source / "aioaudit/core/c/asks_object.h"
    # In a function whose name, which a compiler says first, looks like what is looked for.
    head, tail = part.read_text().split("\nasks_of_error(PyObject *op, PyObject *error)\n{\n")
    part.write_text(f"{head}\nasks_of_error(PyObject *op, PyObject *error)\n{{\n    oh;\n{tail}")
    line = head.count("\n") + 4
    done = subprocess.run(
        [sys.executable, "-S", "-I", str(source / "tools/build_core.py")],
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
    )
    assert (done.returncode, done.stdout) == (1, "")
    [said] = done.stderr.splitlines()
    assert f" failed (status 1: aioaudit/core/c/asks_object.h:{line}:" in said
    assert re.search(r": error: .*\boh\b", said)


@pytest.mark.usefixtures("_with_compiler")
def test_a_command_puts_the_core_into_the_tree(
    tree: Path, install: Installer, tmp_path: Path
) -> None:
    source = Path(shutil.copytree(tree, tmp_path / "source"))
    # Nothing but Python: no builder is asked.
    made = start(Path(sys.executable), tmp_path, "-S", "-I", str(source / "tools/build_core.py"))
    name = f"aioaudit/core/_core{sysconfig.get_config_var('EXT_SUFFIX')}"
    assert made == [name]
    python = install("editable", tmp_path, ["--editable", str(source)])
    assert start(python, tmp_path, "-c", SHOW_CORE, AIOAUDIT_CORE="native") == [
        "native",
        str(source / name),
    ]
    assert start(python, tmp_path, "-c", SHOW_CORE, AIOAUDIT_CORE="python") == ["python", "None"]


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
            b'import os; (os.environ.get("AIOAUDIT") or os.environ.get("AIOAUDIT_NOTES"))'
            b' and __import__("_aioaudit_autostart").main()\n'
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
        "perfetto",
        "report",
        "structlog",
        "top",
        "zstd",
    }
    assert [each for each in required if "extra ==" not in each] == ["msgspec>=0.19"]
    assert entry_points == (
        "[console_scripts]\naioaudit = aioaudit.__main__:main\n\n"
        "[opentelemetry_instrumentor]\n"
        "aioaudit = aioaudit.exporters.otel.instrumentor:AioauditInstrumentor\n\n"
        "[pytest11]\naioaudit = aioaudit.testing.plugin\n"
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
    assert {path.name for path in source.glob("aioaudit/core/_core*")} == {"_core.c", "_core.pyi"}
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
