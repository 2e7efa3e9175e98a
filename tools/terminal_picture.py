"""Draw docs/answer.svg: the program of the README is run, and its log is asked why.

    python tools/terminal_picture.py [FILE]

Types the commands into a terminal and draws what appears there, in its colours.
Needs a Python in which ``AIOAUDIT=jsonl`` works, and the extra ``cli``.
"""

from __future__ import annotations

import fcntl
import io
import os
import re
import struct
import subprocess
import sys
import tempfile
import termios
from pathlib import Path

from rich.console import Console
from rich.text import Text

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "answer.svg"
PROGRAM = re.compile(r"^```python\n(# app\.py\n.*?)^```$", re.MULTILINE | re.DOTALL)
"""The program in the README."""

COLUMNS = 100
COMMANDS = (
    ("AIOAUDIT=jsonl python app.py", ["app.py"]),
    (
        "aioaudit why aioaudit-*.jsonl --task reviews",
        ["-m", "aioaudit", "why", ".", "--task", "reviews"],
    ),
)
"""What is shown, and how this Python does it."""

# As rich's own, without the fonts, which it has the reader's browser load from a stranger.
FORMAT = """\
<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
    <style>
    .{unique_id}-matrix {{
        font-family: "Fira Code", "DejaVu Sans Mono", Menlo, Consolas, monospace;
        font-size: {char_height}px;
        line-height: {line_height}px;
        font-variant-east-asian: full-width;
    }}
    .{unique_id}-title {{ font-size: 18px; font-weight: bold; font-family: arial; }}
    {styles}
    </style>
    <defs>
    <clipPath id="{unique_id}-clip-terminal">
      <rect x="0" y="0" width="{terminal_width}" height="{terminal_height}" />
    </clipPath>
    {lines}
    </defs>
    {chrome}
    <g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
    {backgrounds}
    <g class="{unique_id}-matrix">
    {matrix}
    </g>
    </g>
</svg>
"""


def main(argv: list[str]) -> int:
    """Make the picture; returns the exit status."""
    path = Path(argv[0]) if argv else PICTURE
    console = Console(record=True, width=COLUMNS, file=io.StringIO(), force_terminal=True)
    with tempfile.TemporaryDirectory() as folder:
        program = PROGRAM.search((ROOT / "README.md").read_text())
        if program is None:
            print("README.md has no program named app.py", file=sys.stderr)
            return 1
        Path(folder, "app.py").write_text(program[1])
        for shown, command in COMMANDS:
            console.print(Text(f"$ {shown}", style="bold"))
            appeared = type_command(command, Path(folder))
            console.print(Text.from_ansi(appeared))
    title = "Who cancelled this task, and why?"
    path.write_text(console.export_svg(title=title, code_format=FORMAT, unique_id="answer"))
    print(f"{path}: {path.stat().st_size:,} bytes")
    return 0


def type_command(arguments: list[str], folder: Path) -> str:
    """What this Python, called with *arguments* in *folder*, makes appear on a terminal."""
    environ = {
        key: value
        for key, value in os.environ.items()
        if not key.startswith("AIOAUDIT") and key != "NO_COLOR"
    }
    environ |= {"AIOAUDIT": "jsonl", "TERM": "xterm-256color", "COLORTERM": ""}
    environ["AIOAUDIT_SLOW_CANCEL"] = "1000"  # whatever else the machine does meanwhile
    ours, theirs = os.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    shown = b""
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=folder,
        env=environ,
        stdin=subprocess.DEVNULL,
        stdout=theirs,
        stderr=theirs,
    ) as process:
        os.close(theirs)
        while True:
            try:
                piece = os.read(ours, 65536)
            except OSError:  # how Linux says that nobody writes any more
                break
            if not piece:
                break
            shown += piece
    os.close(ours)
    if process.returncode:
        raise SystemExit(f"{' '.join(arguments)} ended with {process.returncode}: {shown.decode()}")
    return shown.decode().replace("\r\n", "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
