"""Ways to run the command line: in this process, as a process on pipes, and as one on a terminal."""

import fcntl
import os
import pty
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from tests import fork_server

SERVICES = Path(__file__).resolve().parents[3] / "services"
COMMAND = [sys.executable, "-m", "twinhost.cli"]


@dataclass(frozen=True)
class Ran:
    """What a run left: its exit status, and what it wrote."""

    status: int
    out: str
    err: str


Cli = Callable[..., Ran]


def process_environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a process that is given these settings."""
    return {**os.environ, "PYTHONPATH": str(SERVICES), "TERM": "xterm-256color", **settings}


def run_process(settings: Mapping[str, str], *arguments: str) -> Ran:
    """Run the command line as a process whose output goes to pipes."""
    environment = process_environment(settings)
    if settings.keys() & {"PYTHONPATH", "PYTHONIOENCODING"}:  # an interpreter reads them when it starts
        done = subprocess.run([*COMMAND, *arguments], env=environment, capture_output=True, timeout=60, check=False)
    else:
        done = fork_server.run(["twinhost.cli", *arguments], env=environment)
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def run_on_terminal(settings: Mapping[str, str], *arguments: str, columns: int = 100) -> Ran:
    """Run the command line as a process on a terminal of its own; `out` is all that the terminal got."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
    process = subprocess.Popen(
        [*COMMAND, *arguments], env=process_environment(settings), stdin=theirs, stdout=theirs, stderr=theirs
    )
    os.close(theirs)
    received = bytearray()
    try:
        while chunk := os.read(ours, 65_536):
            received += chunk
    except OSError:  # EIO: the other end is closed
        pass
    os.close(ours)
    return Ran(process.wait(timeout=60), received.decode(), "")
