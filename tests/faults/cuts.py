"""A container's network is cut or lossy, by rules in its own namespace, which this machine's root can make."""

import os
import shutil
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from tests.containers.stack import Stack

WAYS = {"hears": ("PREROUTING", "-i"), "says": ("OUTPUT", "-o")}  # what a rule drops, and of which interfaces
BOTH_WAYS = tuple(WAYS)
NEEDED = ("nsenter", "iptables")


def why_not(stack: Stack) -> str | None:
    """Return why no network can be cut here, or None where one can."""
    if os.geteuid() != 0:
        return "needs root, for iptables in a container's network namespace"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: util-linux, iptables)"
    container = stack.container("pc2")
    groups = Path(f"/proc/{_process(stack, 'pc2')}/cgroup")
    if not groups.exists() or str(container.id) not in groups.read_text(encoding="ascii"):
        return "the engine is on another machine, maybe a virtual one: no container's network can be reached"
    listed = _iptables(stack, "pc2", "-L", "PREROUTING", check=False)
    return None if listed.returncode == 0 else f"iptables has no raw table here: {listed.stderr.strip()}"


@contextmanager
def dropping(stack: Stack, hosts: Sequence[str], ways: Sequence[str] = BOTH_WAYS, share: float = 1.0) -> Iterator[None]:
    """Drop a share of what hosts hear, or say, or both, to and from anybody; each goes on hearing itself."""
    chance = [] if share == 1 else ["-m", "statistic", "--mode", "random", "--probability", f"{share:g}"]
    rules = [(host, chain, option) for host in hosts for chain, option in (WAYS[way] for way in ways)]
    for host, chain, option in rules:
        _iptables(stack, host, "-I", chain, "!", option, "lo", *chance, "-j", "DROP")
    try:
        yield
    finally:
        for host, chain, option in rules:
            _iptables(stack, host, "-D", chain, "!", option, "lo", *chance, "-j", "DROP")


def dropped(stack: Stack, host: str) -> int:
    """Return how many packets the present rules of a host have dropped."""
    lines = _iptables(stack, host, "-L", "-v", "-n", "-x").stdout.splitlines()
    return sum(int(line.split()[0]) for line in lines if " DROP " in line)


def _process(stack: Stack, host: str) -> int:
    return int(stack.container(host).attrs["State"]["Pid"])


def _iptables(stack: Stack, host: str, *rule: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    command = ["nsenter", f"--net=/proc/{_process(stack, host)}/ns/net", "iptables", "-w", "-t", "raw", *rule]
    return subprocess.run(command, check=check, capture_output=True, text=True)
