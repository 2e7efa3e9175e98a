"""``AIOAUDIT_NOTES=1 python app.py``: what is on stderr, and what is not beside the program."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.conftest import Runner

APP = """\
import asyncio, sys

async def main():
    try:
        await asyncio.wait_for(asyncio.sleep(60), 0.05)
    except TimeoutError:
        import logging
        logging.exception("too slow")
    async with asyncio.timeout(0.05):
        await asyncio.sleep(60)

asyncio.run(main())
"""

NOTES = [
    "cancelled because the timeout of 0.05 s at app.py:5 ran out; it was waiting at ",
    "cancelled because the timeout of 0.05 s at app.py:9 ran out; it was waiting at app.py:10",
]


@pytest.fixture
def app(tmp_path: Path) -> Path:
    path = tmp_path / "app.py"
    path.write_text(APP)
    return path


def notes_in(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("cancelled")]


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize("environ", [{}, {"AIOAUDIT": "jsonl"}], ids=["alone", "and a log"])
def test_the_variable_alone_has_errors_say_who_cancelled(
    run_python: Runner, tmp_path: Path, environ: dict[str, str]
) -> None:
    done = run_python("app.py", AIOAUDIT_NOTES="1", **environ)
    assert done.returncode == 1
    told = notes_in(done.stderr)
    # Each error once: the TimeoutError, and the CancelledError before it.
    assert len(told) == 4
    for note, expected in zip(told, [NOTES[0], NOTES[0], NOTES[1], NOTES[1]], strict=True):
        assert note.startswith(expected)
    files = {path.name for path in tmp_path.iterdir()} - {"app.py"}
    assert len(files) == len(environ)


@pytest.mark.usefixtures("app")
@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"AIOAUDIT_NOTES": "0"}, None),
        ({"AIOAUDIT_NOTES": "1", "AIOAUDIT": "off"}, None),
        (
            {"AIOAUDIT_NOTES": "perhaps"},
            "aioaudit: AIOAUDIT_NOTES='perhaps': 'perhaps' is neither on nor off;"
            " allowed: 1/on/true/yes or 0/off/false/no; this program runs unaudited",
        ),
    ],
    ids=["off", "all of it off", "neither"],
)
def test_else_there_are_none(
    run_python: Runner, tmp_path: Path, environ: dict[str, str], said: str | None
) -> None:
    done = run_python("app.py", **environ)
    assert notes_in(done.stderr) == []
    lines = [line for line in done.stderr.splitlines() if line.startswith("aioaudit")]
    assert lines == ([] if said is None else [said])
    assert {path.name for path in tmp_path.iterdir()} == {"app.py"}
    asked = run_python(
        "-c", "import asyncio, sys; print('aioaudit.session' in sys.modules)", **environ
    )
    assert asked.stdout.strip() == "False"
