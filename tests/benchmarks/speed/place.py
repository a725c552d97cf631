"""Where servers run: on the loopback, or behind a bridge, in a network namespace of their own, as in a container.

The environment says which, so that every process of a run knows it.
"""

import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

_ADDRESS, _NAMESPACE = "TWINHOST_BENCH_ADDRESS", "TWINHOST_BENCH_NAMESPACE"
ADDRESS = os.environ.get(_ADDRESS, "127.0.0.1")  # of the servers
BRIDGE_ADDRESS, SERVERS_ADDRESS = "198.18.97.1", "198.18.97.2"  # RFC 2544: for benchmarks
_BRIDGE, _NAME, _OUTSIDE, _INSIDE = "twbench0", "twbench", "twbench1", "twbench2"


def ahead_of_servers() -> list[str]:
    """Return what goes ahead of a server's command."""
    name = os.environ.get(_NAMESPACE)
    return ["nsenter", f"--net=/run/netns/{name}"] if name else []


@contextmanager
def bridged() -> Iterator[dict[str, str]]:
    """Make the bridge and the namespace; give the environment of a run behind it. As root only."""
    with ExitStack() as stack:
        _ip("netns", "add", _NAME)
        stack.callback(_ip, "netns", "delete", _NAME)
        _ip("link", "add", _BRIDGE, "type", "bridge")
        stack.callback(_ip, "link", "delete", _BRIDGE)
        _ip("link", "add", _OUTSIDE, "type", "veth", "peer", "name", _INSIDE, "netns", _NAME)
        _ip("link", "set", _OUTSIDE, "master", _BRIDGE, "up")
        _ip("addr", "add", f"{BRIDGE_ADDRESS}/24", "dev", _BRIDGE)
        _ip("link", "set", _BRIDGE, "up")
        for link in ("lo", _INSIDE):
            _ip("-n", _NAME, "link", "set", link, "up")
        _ip("-n", _NAME, "addr", "add", f"{SERVERS_ADDRESS}/24", "dev", _INSIDE)
        yield {**os.environ, _ADDRESS: SERVERS_ADDRESS, _NAMESPACE: _NAME}


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
