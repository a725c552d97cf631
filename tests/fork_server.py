"""A fork server: it has imported the project, and forks the processes that tests start.

The imports are most of a short command's CPU time, and the tests start hundreds. Each process still has its own
arguments, environment, folder, and streams, and can be killed; only the imported modules are inherited. Variables that
an interpreter reads when it starts (`PYTHONIOENCODING`, `LC_ALL`) have no effect: use `subprocess` for those. A process
that exits by itself does not free the modules, as the interpreter would: that takes as long as a short command.
"""

import atexit
import contextlib
import functools
import gc
import inspect
import json
import os
import random
import runpy
import select
import socket
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).resolve().parents[1]
_IMPORTED = (
    *(f"twinhost.cli.{name}" for name in ("archive", "audit", "certs_init", "keys", "memory")),
    *(f"twinhost.cli.{name}" for name in ("program", "status", "watch", "call")),
    "twinhost.system_digital_twin.__main__",
    "twinhost.unified_memory_reasoning.__main__",
)
_MAX_REQUEST_BYTES = 131_072  # the environment is most of it
_UNSUPPORTED = ("pass_fds", "shell", "start_new_session", "preexec_fn")


class Process(subprocess.Popen[Any]):
    """`subprocess.Popen`, for `[MODULE or FILE.py, ARGUMENT, ...]`."""

    def _execute_child(self, *values: Any) -> None:
        given = _SIGNATURE.bind(self, *values).arguments
        assert not any(given[name] for name in _UNSUPPORTED), _UNSUPPORTED
        streams = [given["p2cread"], given["c2pwrite"], given["errwrite"]]
        request = {"words": list(given["args"]), "environment": dict(given["env"] or os.environ)}
        request["folder"] = str(given["cwd"] or Path.cwd())
        self._status, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # pid and status stay apart
        with theirs:
            descriptors = [default if stream == -1 else stream for default, stream in enumerate(streams)]
            socket.send_fds(_server(os.getpid()), [json.dumps(request).encode()], [*descriptors, theirs.fileno()])
        self.pid = int(self._status.recv(16))
        self._child_created = True
        self._close_pipe_fds(*(given[name] for name in _PIPES))  # type: ignore[attr-defined]

    def _try_wait(self, flags: int) -> tuple[int, int]:
        """Return the process's id and wait status, or 0 and 0 while it runs; `flags` are those of `os.waitpid`."""
        ended, _, _ = select.select([self._status], [], [], 0 if flags & os.WNOHANG else None)
        if not ended:
            return 0, 0
        status = int(self._status.recv(16))
        self._status.close()
        return self.pid, status

    def _internal_poll(self, *_: Any, **__: Any) -> int | None:
        if self.returncode is None and self._waitpid_lock.acquire(blocking=False):  # type: ignore[attr-defined]
            try:
                pid, status = self._try_wait(os.WNOHANG)
                if pid:
                    self._handle_exitstatus(status)  # type: ignore[attr-defined]
            finally:
                self._waitpid_lock.release()  # type: ignore[attr-defined]
        return self.returncode


_SIGNATURE = inspect.signature(subprocess.Popen._execute_child)  # type: ignore[attr-defined]
_PIPES = ("p2cread", "p2cwrite", "c2pread", "c2pwrite", "errread", "errwrite")


def run(words: list[str], *, timeout: float = 60, **options: Any) -> "subprocess.CompletedProcess[Any]":
    """Run a process to its end, like `subprocess.run` with `capture_output`; `timeout` in seconds."""
    given = options.pop("input", None)
    options |= {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "stdin": subprocess.PIPE}
    with Process(words, **options) as process:
        try:
            out, err = process.communicate(given, timeout)
        except BaseException:
            process.kill()
            raise
    return subprocess.CompletedProcess(words, process.returncode, out, err)


@functools.cache
def _server(_: int) -> socket.socket:
    """Return the connection to this process's server; a forked process gets a server of its own."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    environment = {**os.environ, "PYTHONPATH": f"{_ROOT / 'services'}:{_ROOT}"}
    command = [sys.executable, "-m", "tests.fork_server", str(theirs.fileno())]
    subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, pass_fds=[theirs.fileno()])
    theirs.close()
    return ours


def _serve(requests: socket.socket) -> dict[str, Any] | None:
    """Fork a process for every request; return its request in each of them, and None at the end."""
    running: dict[int, tuple[int, socket.socket]] = {}  # by pidfd
    while True:
        sources: list[Any] = [requests, *running]
        ready, _, _ = select.select(sources, [], [])
        for descriptor in running.keys() & ready:
            pid, status = running.pop(descriptor)
            os.close(descriptor)
            _report(status, os.waitpid(pid, 0)[1])
            status.close()
        if requests not in ready:
            continue
        content, descriptors, _, _ = socket.recv_fds(requests, _MAX_REQUEST_BYTES, 4)
        if not content:
            return None
        if (pid := os.fork()) == 0:
            for number, descriptor in enumerate(descriptors[:3]):
                os.dup2(descriptor, number)
            for descriptor in (*descriptors, *running):  # only these: imported modules have open descriptors too
                os.close(descriptor)
            return dict(json.loads(content))
        for descriptor in descriptors[:3]:
            os.close(descriptor)
        status = socket.socket(fileno=descriptors[3])
        running[os.pidfd_open(pid)] = pid, status
        _report(status, pid)


def _report(status: socket.socket, number: int) -> None:
    with contextlib.suppress(BrokenPipeError):  # nobody waits for it
        status.send(str(number).encode())


class _Exit:
    """How a forked process ends: once its threads and exit handlers are done, as a child of `multiprocessing` does."""

    status: int | None = None  # None: as any process, with a traceback or by a signal

    def __call__(self) -> None:
        if self.status is not None:
            with contextlib.suppress(OSError, ValueError):  # the interpreter tries again, and reports it
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(self.status)


def _main() -> None:
    end = _Exit()
    atexit.register(end)  # the first handler is called last
    for module in _IMPORTED:
        import_module(module)
        if module.endswith("__main__"):
            del sys.modules[module]  # it is run, not imported
    if "TWINHOST_REPLAY" in os.environ:
        import_module("tests.replayed").repeat_databases()
    gc.collect()
    gc.freeze()  # a garbage collection of a forked process, such as that at its end, would copy all that is imported
    request = _serve(socket.socket(fileno=int(sys.argv[1])))
    if request is None:
        return
    sys.stdin, sys.stdout = open(0, closefd=False), open(1, "w", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", buffering=1, errors="backslashreplace", closefd=False)  # noqa: SIM115
    random.seed()
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    target, *arguments = request["words"]
    sys.argv = [target, *arguments]
    try:
        if target.endswith(".py"):
            runpy.run_path(target, run_name="__main__")
        else:
            runpy.run_module(target, run_name="__main__", alter_sys=True)
    except SystemExit as reason:
        code = 0 if reason.code is None else reason.code
        end.status = code & 0xFF if isinstance(code, int) else None
        raise
    end.status = 0


if __name__ == "__main__":
    _main()
