"""The process that is to be attached to, as it is seen from outside, and what stands in the way."""

from __future__ import annotations

import os
import re
import sys
from contextlib import suppress
from pathlib import Path

from aioaudit.cpython.behaviour import HAS_REMOTE_EXEC, RELEASE
from aioaudit.errors import AioauditError
from aioaudit.text import clean

_PYTHON = re.compile(r"(?:lib)?python(3\.\d+)(?:\b|\.so|d)")
_DISABLED = "PYTHON_DISABLE_REMOTE_DEBUG"
_MOST_SHOWN = 60


class AttachError(AioauditError, RuntimeError):
    """It cannot be; the text is one line that says why, and what to do."""


class Target:
    """A process, by its number.

    Where the system does not show something of it, that is None or empty.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._proc = Path(f"/proc/{pid}")

    def __str__(self) -> str:
        line = " ".join(self._words("cmdline")) or "?"
        return f"{self.pid} ({clean(line, _MOST_SHOWN)})"

    def _words(self, name: str) -> list[str]:
        with suppress(OSError):
            text = (self._proc / name).read_bytes().decode("utf-8", "replace")
            return [each for each in text.split("\0") if each]
        return []

    def _status(self, key: str) -> list[str]:
        with suppress(OSError):
            for line in (self._proc / "status").read_text("utf-8", "replace").splitlines():
                if line.startswith(f"{key}:"):
                    return line.split()[1:]
        return []

    @property
    def owner(self) -> int | None:
        """The user whose rights it has."""
        ids = self._status("Uid")
        return int(ids[1]) if len(ids) > 1 else None

    @property
    def python(self) -> str | None:
        """``3.14``: the version of its interpreter, by the names of its files."""
        names: list[str] = []
        with suppress(OSError):
            names.append((self._proc / "exe").readlink().name)
        with suppress(OSError):
            maps = (self._proc / "maps").read_text("utf-8", "replace")
            names += [line.rpartition("/")[2] for line in maps.splitlines() if "libpython3" in line]
        for name in names:
            found = _PYTHON.match(name)
            if found is not None:
                return found[1]
        return None

    @property
    def root(self) -> str:
        """What to put before a path as it sees it, to have it as we do."""
        with suppress(OSError):
            ours, its = Path("/proc/self"), self._proc
            if (ours / "ns/mnt").readlink() != (its / "ns/mnt").readlink() or (
                (ours / "root").readlink() != (its / "root").readlink()
            ):
                return f"/proc/{self.pid}/root"
        return ""

    @property
    def is_apart(self) -> bool:
        """Whether it counts processes by itself, as one in a container does."""
        return len(self._status("NSpid")) > len(Target(os.getpid())._status("NSpid"))

    def is_there(self) -> bool:
        """Whether it runs still."""
        try:
            os.kill(self.pid, 0)
        except (ProcessLookupError, OverflowError):
            return False
        except PermissionError:
            pass
        return self._status("State")[:1] != ["Z"]

    def check(self) -> None:
        """See that nothing is in the way that can be known beforehand.

        Raises:
            AttachError: something is.
        """
        here = ".".join(map(str, RELEASE))
        if not HAS_REMOTE_EXEC:
            raise AttachError(
                f"this is Python {here}: attaching takes 3.14 or later, here and there; older ones"
                " are audited from their start: AIOAUDIT=recorder"
            )
        if (
            sys.implementation.name != "cpython"
            or not getattr(sys, "is_remote_debug_enabled", bool)()
        ):
            raise AttachError(
                "this Python may not reach into others: remote debugging is off here"
                f" ({_DISABLED}, -X disable-remote-debug, or built without it)"
            )
        if not self.is_there():
            raise AttachError(f"there is no process {self.pid}")
        owner = self.owner
        if owner is not None and os.geteuid() not in (owner, 0):
            raise AttachError(
                f"{self} belongs to another user: run this as that user,"
                f" sudo -u '#{owner}' aioaudit attach {self.pid}"
            )
        there = self.python
        if there is not None and there != here:
            older = tuple(map(int, there.split("."))) < (3, 14)
            raise AttachError(
                f"{self} is Python {there}: "
                + (
                    "attaching takes 3.14 or later; audit it from its start: AIOAUDIT=recorder"
                    if older
                    else f"run this with the same version, this is {here}"
                )
            )
        if any(re.match(f"{_DISABLED}=.", each) for each in self._words("environ")):
            raise AttachError(
                f"{self} was started with {_DISABLED} set: it lets nobody in; start it without"
            )

    def why_not(self, error: BaseException) -> str:
        """One line for what `sys.remote_exec` raised."""
        text = clean(str(error) or type(error).__name__, 200)
        if isinstance(error, PermissionError):
            return (
                f"the system does not let this process reach into {self}: run this as root (sudo),"
                " give it CAP_SYS_PTRACE, or set /proc/sys/kernel/yama/ptrace_scope to 0"
            )
        if isinstance(error, ProcessLookupError):
            return f"there is no process {self.pid}"
        if "not enabled in the remote" in text:
            return (
                f"{self} lets nobody in: it was started with {_DISABLED} or -X"
                " disable-remote-debug, or its Python was built without; start it without these"
            )
        if self.is_apart:
            return (
                f"{self} is in a container of its own ({text}): run this in there, as"
                " docker exec CONTAINER aioaudit attach 1"
            )
        if "version" in text.lower():
            return f"{self} is not the same Python as this ({text}): run this with the same version"
        if self.python is None:
            return f"{self} is no Python that can be attached to ({text})"
        return f"{self} cannot be attached to: {text}"
