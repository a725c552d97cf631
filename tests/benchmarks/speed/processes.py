"""Servers and loads as processes, each of which is ended by whoever started it."""

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any

import psutil

from tests.benchmarks.speed.task import ANSWER_WITHIN_S, Outcome, Task

REPOSITORY = Path(__file__).resolve().parents[3]
SOURCE = Path(__file__).parent / "libzmq_curve.c"
_C_FLAGS = ("-std=c11", "-O2", "-Wall", "-Wextra", "-Werror")


class Failed(Exception):
    """A server or a load did not do what it was started for."""


class Process:
    """One that runs until the end of the block; what it says to stderr goes to a file beside the others."""

    def __init__(self, command: Sequence[str], log: Path, environment: dict[str, str] | None = None) -> None:
        self._log = log
        self._name = " ".join(command[:5])
        with log.open("ab") as stderr:
            self._process = subprocess.Popen(
                command,
                cwd=REPOSITORY,
                env={**os.environ, "PYTHONPATH": f"{REPOSITORY / 'services'}:{REPOSITORY}", **(environment or {})},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=stderr,
                text=True,
            )

    @classmethod
    def python(
        cls, module: str, function: str, arguments: dict[str, Any], log: Path, ahead: Sequence[str] = ()
    ) -> "Process":
        """Start a function of a module of this package; `answer()` has what it returns."""
        process = cls([*ahead, sys.executable, "-m", "tests.benchmarks.speed.child", module, function], log)
        stdin = process._process.stdin
        assert stdin is not None
        with contextlib.suppress(BrokenPipeError):  # answer() reports its end
            stdin.write(f"{json.dumps(arguments)}\n")
            stdin.flush()
        return process

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    @property
    def rss_kb(self) -> float:
        """What it holds of the machine's memory now."""
        return float(psutil.Process(self.pid).memory_info().rss) / 1024

    def answer(self) -> Any:
        """Return what it says next.

        Raises:
            Failed: it ended silently; the error has the end of its log.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            tail = self._log.read_text(errors="replace").splitlines()[-3:]
            raise Failed(f"{self._name} said nothing: {' | '.join(tail)}")
        return json.loads(line)

    def stop(self) -> None:
        """End it, kindly at first."""
        with contextlib.suppress(OSError):
            self._process.communicate(timeout=0.01) if not self.running else self._process.terminate()
        try:
            self._process.wait(ANSWER_WITHIN_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with contextlib.suppress(OSError):
                    pipe.close()

    def __enter__(self) -> "Process":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def python_load(module: str, function: str, target: dict[str, Any], task: Task, log: Path) -> Outcome:
    """Run a load in Python to its end, and return what it counted."""
    with Process.python(module, function, {"target": target, "task": asdict(task)}, log) as process:
        return Outcome(**process.answer())


def build_c(folder: Path) -> Path:
    """Compile the C program, with every warning an error; return it."""
    program = folder / "libzmq_curve"
    if not program.exists():
        done = subprocess.run(
            ["gcc", *_C_FLAGS, "-o", str(program), str(SOURCE), "-lzmq"], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise Failed(f"{SOURCE.name} can't be compiled: {done.stderr.strip()[-300:]}")
    return program
