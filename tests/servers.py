"""Servers that some tests need: Redis, PostgreSQL and nginx, each on ports and in a folder of its own.

They are programs of the system (in Debian the packages ``redis-server``, ``postgresql`` and
``nginx``).  Where one is missing its tests are skipped.
"""

from __future__ import annotations

import contextlib
import getpass
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.waiting import PATIENCE


def free_port() -> int:
    """A port that nobody has, and that the system gives to nobody until it is listened on.

    It is none of those that it chooses from where somebody connects, or asks for any.
    """
    limits = Path("/proc/sys/net/ipv4/ip_local_port_range")
    below = int(limits.read_text().split()[0]) if limits.exists() else 32768
    while True:
        port = 10_000 + secrets.randbelow(below - 10_000) if below > 11_000 else 0
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            found: int = probe.getsockname()[1]
            return found


def _wait_for(port: int, process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.02)
    raise AssertionError(f"{process.args!r} does not listen on {port}")


def _wait_until_ready(data: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait until PostgreSQL takes commands, which is a moment after it listens.

    The eighth line of its ``postmaster.pid`` says so (``pidfile.h``, since PostgreSQL 10).
    """
    until = time.monotonic() + PATIENCE
    while time.monotonic() < until:
        assert process.poll() is None, f"{process.args!r} ended with {process.returncode}"
        with contextlib.suppress(OSError):
            lines = (data / "postmaster.pid").read_text().splitlines()
            if lines[7:] and lines[7].strip() == "ready":
                return
        time.sleep(0.02)
    raise AssertionError(f"{process.args!r} does not get ready")


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[int]:
    """The port of a Redis server that keeps nothing."""
    program = shutil.which("redis-server")
    if program is None:
        pytest.skip("there is no redis-server (Debian: apt-get install redis-server)")
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        command = [program, "--port", str(port), "--bind", "127.0.0.1", "--save", "", *options]
        with subprocess.Popen(
            [*command, "--dir", folder], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        ) as process:
            try:
                _wait_for(port, process)
                yield port
            finally:
                process.kill()


_NGINX = """
daemon off;
master_process off;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    {servers}
}}
"""

_NGINX_SERVER = """
    server {{
        listen 127.0.0.1:{port};
        location / {{ proxy_pass http://127.0.0.1:{upstream}; }}
    }}
"""


@contextlib.contextmanager
def nginx(*upstreams: int) -> Iterator[list[int]]:
    """The ports on which nginx takes requests for each of the ports *upstreams*."""
    # Debian keeps it off the path of those who do not administer.
    program = shutil.which("nginx", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if program is None:
        pytest.skip("there is no nginx (Debian: apt-get install nginx)")
    ports = [free_port() for _ in upstreams]
    servers = [
        _NGINX_SERVER.format(port=port, upstream=upstream)
        for port, upstream in zip(ports, upstreams, strict=True)
    ]
    with tempfile.TemporaryDirectory() as folder:
        config = Path(folder) / "nginx.conf"
        config.write_text(_NGINX.format(folder=folder, servers="".join(servers)))
        with subprocess.Popen(
            [program, "-e", f"{folder}/error.log", "-p", folder, "-c", config],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                for port in ports:
                    _wait_for(port, process)
                yield ports
            finally:
                process.kill()


def _postgres_programs() -> Path:
    """The folder with ``initdb`` and ``postgres``; Debian keeps it off the path."""
    found = shutil.which("initdb")
    folders = [Path(found).resolve().parent] if found else []
    folders += sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    for folder in folders:
        if (folder / "initdb").exists() and (folder / "postgres").exists():
            return folder
    pytest.skip("there is no PostgreSQL server (Debian: apt-get install postgresql)")


@contextlib.contextmanager
def postgres_server() -> Iterator[str]:
    """The address of a PostgreSQL server with an empty database, for asyncpg."""
    programs = _postgres_programs()
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else getpass.getuser()
    run_as = user if os.geteuid() == 0 else None
    port = free_port()
    with tempfile.TemporaryDirectory() as folder:
        if run_as is not None:
            shutil.chown(folder, run_as)
        data = Path(folder) / "data"
        options = ["-U", "postgres", "-A", "trust", "-E", "UTF8", "--no-locale", "--no-sync"]
        made = subprocess.run(
            [programs / "initdb", "-D", data, *options],
            cwd=folder,
            user=run_as,
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )
        assert made.returncode == 0, made.stderr
        command = [str(programs / "postgres"), "-D", str(data), "-p", str(port), "-h", "127.0.0.1"]
        with subprocess.Popen(
            [*command, "-k", folder, "-F"],
            cwd=folder,
            user=run_as,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        ) as process:
            try:
                _wait_for(port, process)
                _wait_until_ready(data, process)
                yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
            finally:
                process.send_signal(3)  # SIGQUIT: at once, and its own processes with it
                process.wait(PATIENCE)
