"""Trees of keys for the tests: the command as a person runs it, and what lies in the tree."""

import io
import multiprocessing
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from unittest import mock

from twinhost.certificates.layout import HOST_VARIABLE, Layout, plan_layout
from twinhost.cli.certs_init import main
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.certificates import FAILURE_FILE
from twinhost.secure_zmq.keys import SECRET_SUFFIX

REPOSITORY = Path(__file__).resolve().parents[3]
ENTRY_POINT = REPOSITORY / "certs-init" / "generate_zmq_certificates.py"
RECORD = ".distributed"
# Python runs its audit hooks on these before the system call is made (PEP 578); between two of them no name changes.
STEPS = frozenset({"open", "os.mkdir", "os.chmod", "os.link", "os.remove", "os.rename", "fcntl.flock"})
FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
BOTH_HOSTS = {  # every key file of the simulation's tree
    f"{folder}/{file}"
    for folder, own in (("mainpc", "server"), ("pc2", "client"), ("operator", "operator"))
    for file in (f"{own}.key_secret", "server.key", "client.key", "operator.key")
}


@dataclass(frozen=True)
class Ran:
    """A run of certs-init that ended."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()

    @property
    def fingerprints(self) -> list[str]:
        return FINGERPRINT.findall(self.out)


def environment_of(host: str = "", config: str = "") -> dict[str, str]:
    """Return what certs-init reads of its environment."""
    return {HOST_VARIABLE: host, "NETWORK_CONFIG_PATH": config, "MAINPC_IP": "", "PC2_IP": ""}


def certs_init(
    root: Path,
    *arguments: str,
    host: str = "",
    stdin: bytes = b"",
    config: str = "",
    settings: Mapping[str, str] = MappingProxyType({}),
) -> Ran:
    """Run `certs-init ARGUMENTS` on a tree, in this process; `settings` are more of the environment."""
    out, err = io.StringIO(), io.StringIO()
    with (
        mock.patch.dict(os.environ, {**environment_of(host, config), **settings}),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin))),
        redirect_stdout(out),
        redirect_stderr(err),
    ):
        try:
            status = main(["--root", str(root), *arguments])
        except SystemExit as usage:  # argparse's
            status = int(str(usage.code))
    return Ran(status, out.getvalue(), err.getvalue())


def dies_at(step: int, function: Callable[..., object], *arguments: object) -> bool:
    """Call a function in a child that is killed before a step which changes the disk; False where it lived on."""

    def call_and_die() -> None:
        steps = 0

        def hook(event: str, _: tuple[object, ...]) -> None:
            nonlocal steps
            if event in STEPS:
                steps += 1
                if steps == step:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        function(*arguments)

    child = multiprocessing.get_context("fork").Process(target=call_and_die)
    child.start()
    child.join()
    assert child.exitcode in (0, -signal.SIGKILL)
    return child.exitcode != 0


def start_certs_init(root: Path) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, str(ENTRY_POINT), "--root", str(root)],
        env={**os.environ, **environment_of()},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def tree_layout(root: Path, only_host: str | None = None) -> Layout:
    """Return the layout of a tree as the shipped configuration has it."""
    return plan_layout(root, load_network_config(DEFAULT_PATH, {}), only_host)


def files(root: Path) -> dict[str, bytes]:
    """Return every file of a tree but the lock, the record, and the note of a failure, by its path below the root."""
    return {
        str(path.relative_to(root)): path.read_bytes()
        for path in sorted(root.rglob("*"))
        if path.is_file() and path.name not in (".lock", RECORD, FAILURE_FILE)
    }


def secrets(root: Path) -> dict[str, bytes]:
    """Return the secret files that are in place."""
    return {name: content for name, content in files(root).items() if name.endswith(SECRET_SUFFIX)}
