"""A PostgreSQL of a test's own: Debian's, in a temporary folder, on a Unix socket, as a user that it accepts."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg

_PROGRAMS = Path("/usr/lib/postgresql/17/bin")
_USER = "postgres"
_SETTINGS = """
listen_addresses = ''
fsync = off
max_connections = 40
shared_buffers = 16MB
"""


class Cluster:
    """One running server."""

    def __init__(self, folder: Path, copy_of: "Cluster | None" = None) -> None:
        """Make a new one, or one that follows another, which has only to be told to wait for it."""
        self.folder = folder
        self._databases = 0
        if copy_of is None:
            self._run("initdb", "--pgdata", folder / "data", "--auth", "trust", "--username", _USER, "--no-sync")
        else:
            options = ("--write-recovery-conf", "--checkpoint", "fast", "--no-sync", "--username", _USER)
            self._run("pg_basebackup", "--host", copy_of.folder, "--pgdata", folder / "data", *options)
        with (folder / "data" / "postgresql.conf").open("a") as settings:
            settings.write(f"{_SETTINGS}unix_socket_directories = '{folder}'\n")
        self.start()

    def start(self) -> None:
        self._run("pg_ctl", "--pgdata", self.folder / "data", "--log", self.folder / "log", "--wait", "start")

    def stop(self, mode: str = "immediate") -> None:
        self._run("pg_ctl", "--pgdata", self.folder / "data", "--wait", "--mode", mode, "stop")

    def freeze(self) -> None:
        """Stop all its processes, which refuse nothing then; `thaw` has to follow."""
        self._send(signal.SIGSTOP)

    def thaw(self) -> None:
        self._send(signal.SIGCONT)

    def _send(self, number: int) -> None:
        server = int((self.folder / "data" / "postmaster.pid").read_text().split()[0])
        os.kill(server, number)
        for pid in (int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()):
            with suppress(OSError):
                if int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1]) == server:
                    os.kill(pid, number)

    def promote(self) -> None:
        """Have a copy take writes."""
        self._run("pg_ctl", "--pgdata", self.folder / "data", "--wait", "promote")

    def new_database(self) -> str:
        """Create an empty database, and return its DSN."""
        self._databases += 1
        with self.connect() as connection:
            connection.execute(f"CREATE DATABASE d{self._databases}".encode())
        return f"postgresql://{_USER}@/d{self._databases}?host={self.folder}"

    def connect(self, dsn: str | None = None) -> "psycopg.Connection[tuple[Any, ...]]":
        """Return a connection as superuser, in autocommit."""
        return psycopg.connect(dsn or f"postgresql://{_USER}@/postgres?host={self.folder}", autocommit=True)

    def set(self, name: str, value: str) -> None:
        """Change a setting of the running server."""
        with self.connect() as connection:
            connection.execute(f"ALTER SYSTEM SET {name} = '{value}'".encode())
            connection.execute("SELECT pg_reload_conf()")

    def _run(self, program: str, *arguments: object) -> None:
        user = {"user": _USER, "group": _USER, "extra_groups": []} if os.geteuid() == 0 else {}
        subprocess.run(
            [_PROGRAMS / program, *map(str, arguments)],
            check=True,
            cwd=self.folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,  # which the server inherits: it would keep a pipe open
            stderr=subprocess.DEVNULL,
            **user,  # type: ignore[call-overload]
        )


@contextmanager
def running_cluster(copy_of: Cluster | None = None) -> Iterator[Cluster]:
    """Run a server until the end of the block; its folder is one that its user may enter."""
    assert _PROGRAMS.is_dir(), "PostgreSQL 17 is missing: as root on Debian 13, scripts/setup/test_tools.sh installs it"
    folder = Path(tempfile.mkdtemp(prefix="twinhost-pg-"))
    try:
        if os.geteuid() == 0:
            os.chown(folder, pwd.getpwnam(_USER).pw_uid, -1)
        cluster = Cluster(folder, copy_of)
        try:
            yield cluster
        finally:
            if (folder / "data" / "postmaster.pid").exists():
                cluster.stop()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
