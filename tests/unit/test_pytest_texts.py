"""How paths are shortened in what the pytest plugin says."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest

from aioaudit.testing.texts import relative_to

PACKAGES = str(Path(pytest.__file__).parent.parent)


def test_paths_lose_what_differs_from_machine_to_machine(tmp_path: Path) -> None:
    show = relative_to(tmp_path)
    place = os.fspath(tmp_path / "tests" / "test_it.py")
    assert show(f"{place}:12") == f"{os.path.join('tests', 'test_it.py')}:12"  # noqa: PTH118
    assert show(f"{asyncio.tasks.__file__}:700") == f"{os.path.join('asyncio', 'tasks.py')}:700"  # noqa: PTH118
    assert show(f"at {pytest.__file__}:1 (given to {pytest.__file__}:2)") == (
        f"at {(name := os.path.relpath(pytest.__file__, PACKAGES))}:1 (given to {name}:2)"
    )


def test_only_the_beginning_of_a_path_is_left_out() -> None:
    show = relative_to(os.path.join(os.sep, "app"))  # noqa: PTH118
    for whole in ("/srv/app/x.py:1", "/apple/x.py:1", "x/app/y.py:1"):
        assert show(whole.replace("/", os.sep)) == whole.replace("/", os.sep)


def test_packages_inside_of_the_project_are_packages() -> None:
    show = relative_to(Path(PACKAGES).parent)
    name = os.path.relpath(pytest.__file__, PACKAGES)
    assert show(f"{pytest.__file__}:1") == f"{name}:1"
