"""Which files a log is made of, and the bytes in them: folders, rotated and compressed files.

A file's name says which log it is of and how old it is (logrotate's numbers and dates); its first
bytes say whether it is compressed.  A file that was not written to its end, or is damaged, gives
what can be read of it.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, TypeAlias

from aioaudit.errors import AioauditError

PIECE = 1 << 20
"""Bytes read at a time."""

STDIN = "-"

Paths: TypeAlias = "str | os.PathLike[str] | Iterable[str | os.PathLike[str]]"

_NAME = re.compile(
    r"(?P<log>.+\.jsonl)"
    r"(?:\.(?P<number>\d{1,4})|[.-](?P<date>\d{5,}[\d_.:T-]*|\d{4}-[\d_.:T-]+))?"
    r"(?:\.(?:gz|xz|zst))?"
)
"""A log, or what was made of one when it was rotated."""


class _Format(NamedTuple):
    """A way to compress: how it begins, the module that unpacks it, and what that raises."""

    magic: bytes
    module: str
    error: str


_FORMATS = (
    _Format(b"\x1f\x8b", "gzip", "zlib.error"),
    _Format(b"\xfd7zXZ\x00", "lzma", "lzma.LZMAError"),
    _Format(b"\x28\xb5\x2f\xfd", "compression.zstd", "compression.zstd.ZstdError"),
    _Format(b"\x28\xb5\x2f\xfd", "backports.zstd", "backports.zstd.ZstdError"),
)
"""Of two that read the same, the one that is there."""

_MAGIC = max(len(each.magic) for each in _FORMATS)


class Source(NamedTuple):
    """A file to read; ``listed`` if it was asked for by its own name, and not found in a folder."""

    name: str
    listed: bool


class CutOffError(AioauditError):
    """A compressed file gives no more; the message says why."""


def sources_of(paths: Paths) -> list[Source]:
    """The files of *paths*, folders replaced by what is in them; of one log the oldest first.

    Raises:
        OSError: a folder holds no log, or a name is empty.
    """
    found: dict[str, list[Source]] = {}
    for each in [paths] if isinstance(paths, str | os.PathLike) else paths:
        name = os.fspath(each)
        refuse_empty(name)
        if name != STDIN and Path(name).is_dir():
            inside = _logs_in(Path(name))
            if not inside:
                raise FileNotFoundError(errno.ENOENT, "no *.jsonl file in this folder", name)
            new = [Source(file, False) for file in sorted(inside, key=_age)]
        else:
            new = [Source(name, True)]
        for source in new:
            found.setdefault(_age(source.name)[0], []).append(source)
    return [
        source
        for group in found.values()
        for source in sorted(group, key=lambda source: _age(source.name)[:2])
    ]


def _logs_in(folder: Path) -> list[str]:
    """The files in *folder* that are called like a log, or what is left of a rotated one."""
    with os.scandir(folder) as entries:
        return [
            str(folder / each.name)
            for each in entries
            if _NAME.fullmatch(each.name)
            and (stat_of_file(each.path) is not None if each.is_symlink() else each.is_file())
        ]


def refuse_empty(name: str) -> None:
    """Raise where *name* is empty: a shell's variable that is not set does not mean this folder.

    Raises:
        OSError: it is.
    """
    if not name:
        raise FileNotFoundError(errno.ENOENT, "an empty name is no file", "''")


def is_log(file: Path) -> bool:
    """Whether *file*, which is in a folder, is called like a log, or what is left of a rotated one."""
    return _NAME.fullmatch(file.name) is not None


def _age(name: str) -> tuple[str, tuple[int, int, str], str]:
    """Sorts files: by the log, then dates, then numbers from the highest, then the log itself."""
    folder, slash, file = name.rpartition("/")
    match = _NAME.fullmatch(file)
    if match is None:
        return name, (2, 0, ""), name
    number, date = match["number"], match["date"]
    log = f"{folder}{slash}{match['log']}"
    if date is not None:
        return log, (0, 0, date), name
    return log, (2, 0, "") if number is None else (1, -int(number), ""), name


def size_of(sources: Iterable[Source]) -> int | None:
    """The bytes of all files together; None if one of them has no end to ask for."""
    total = 0
    for source in sources:
        found = stat_of_file(source.name)
        if found is None:
            return None
        total += found.st_size
    return total


def stat_of_file(name: str) -> os.stat_result | None:
    """What the system says of the file *name*; None if it is no regular file, or is not there."""
    try:
        found = os.stat(name)  # noqa: PTH116 - ten thousand of them are quicker without a Path
    except (OSError, ValueError):
        return None
    return found if stat.S_ISREG(found.st_mode) else None


class Bytes:
    """What is in a file, piece by piece, without its compression.

    Args:
        name: The file, to be named in an error.
        stream: Gives its bytes, ``read`` of a buffered reader.
    """

    def __init__(self, name: str, stream: BinaryIO) -> None:
        self.name = name
        self._stream = stream
        self._head = stream.read(_MAGIC)
        self.done = 0
        """How many bytes of the file itself were read."""
        self._format = _format_of(name, self._head)

    def read(self, size: int) -> bytes:
        """Up to *size* bytes as they are in the file."""
        if self._head:
            data, self._head = self._head[:size], self._head[size:]
        else:
            data = self._stream.read(size)
        self.done += len(data)
        return data

    def pieces(self) -> Iterator[bytes]:
        """The pieces.

        Raises:
            CutOffError: what is compressed has no end, or is damaged; after all that came before it.
        """
        if self._format is not None:
            yield from self._unpacked(self._format)
            return
        first = self.read(_MAGIC)
        while piece := first + self.read(PIECE - len(first)):
            yield piece
            first = b""

    def _unpacked(self, how: _Format) -> Iterator[bytes]:
        unpacked: Any = import_module(how.module).open(self)
        module, _, name = how.error.rpartition(".")
        broken: type[Exception] = getattr(import_module(module), name)
        parts: list[bytes] = []
        size = 0
        damage = ""
        while True:
            try:
                # Not read(): what it has when the end turns out to be missing, it keeps to itself.
                part: bytes = unpacked.read1(PIECE)
            except EOFError:
                damage = "the compressed file ends in the middle: what comes before is used"
                break
            except (OSError, broken) as error:
                damage = f"the compressed file is damaged ({error}): what comes before is used"
                break
            if not part:
                break
            parts.append(part)
            size += len(part)
            if size >= PIECE:
                yield b"".join(parts)
                parts.clear()
                size = 0
        if size:
            yield b"".join(parts)
        if damage:
            raise CutOffError(damage)


@contextmanager
def opened(name: str) -> Generator[Bytes]:
    """The file called *name*, or standard input.

    Raises:
        OSError: it cannot be opened, or nothing here can unpack it.
    """
    if name == STDIN:
        with open(0, "rb", closefd=False) as stream:
            yield Bytes("<stdin>", stream)
    else:
        with Path(name).open("rb") as stream:
            yield Bytes(name, stream)


def _format_of(name: str, head: bytes) -> _Format | None:
    """How the file *name* is compressed, which begins with *head*; None if it is not.

    Raises:
        OSError: it is, and nothing here unpacks it.
    """
    formats = [each for each in _FORMATS if head.startswith(each.magic)]
    if not formats:
        return None
    for each in formats:
        if is_there(each.module):
            return each
    what = formats[-1].module
    hint = ": pip install 'aioaudit[zstd]'" if what == "backports.zstd" else ""
    raise OSError(errno.ENOTSUP, f"it is compressed, and {what} is not installed{hint}", name)


def is_there(module: str) -> bool:
    """Whether *module* can be imported."""
    try:
        if find_spec(module) is None:
            return False
        import_module(module)
    except ImportError:  # the package around it, or a library that it was built without
        return False
    return True
