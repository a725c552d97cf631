"""What happens to a cable: it is cut, one way or both, it loses packets, somebody listens on it, or it is long."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.two_hosts.machine_room import PREFIX_BITS, Namespace

SNIFFER = Path(__file__).resolve().parents[1] / "containers/sniffer.py"
RELAY = Path(__file__).with_name("relay.py")


@contextmanager
def dropping(*machines: Namespace, share: float = 1.0) -> Iterator[None]:
    """Lose a share of what these machines would receive; the cable itself stays up, as behind a switch."""
    chance = [] if share == 1 else ["-m", "statistic", "--mode", "random", "--probability", f"{share:g}"]
    rule = ["PREROUTING", "-i", Namespace.interface, *chance, "-j", "DROP"]
    for machine in machines:
        machine.enter("iptables", "-t", "raw", "-I", *rule)
    try:
        yield
    finally:
        for machine in machines:
            machine.enter("iptables", "-t", "raw", "-D", *rule)


def dropped(machine: Namespace) -> int:
    """Return how many packets the present rule has dropped."""
    listing = machine.enter("iptables", "-t", "raw", "-L", "PREROUTING", "-v", "-n", "-x")
    return sum(int(line.split()[0]) for line in listing.splitlines() if " DROP " in line)


@contextmanager
def listening(machine: Namespace, port: int, file: Path) -> Iterator[Path]:
    """Record the TCP payloads of a port that go over this machine's end of the cable."""
    command = machine.command([sys.executable, str(SNIFFER), str(port), str(file), Namespace.interface])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as sniffer:
        assert sniffer.stdout is not None
        assert sniffer.stdout.readline() == "listening\n"
        try:
            yield file
        finally:
            sniffer.terminate()


@contextmanager
def long_cable(machine: Namespace, address: str, routes: dict[int, str], delay_s: float) -> Iterator[None]:
    """Give a machine a second address that forwards ports to others, each byte after a delay in either direction."""
    machine.enter("ip", "address", "add", f"{address}/{PREFIX_BITS}", "dev", Namespace.interface)
    arguments = [f"{port}={target}" for port, target in routes.items()]
    command = machine.command([sys.executable, str(RELAY), address, f"{delay_s:g}", *arguments])
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as relay:
        assert relay.stdout is not None
        assert relay.stdout.readline() == "listening\n"
        try:
            yield
        finally:
            relay.terminate()
            machine.enter("ip", "address", "delete", f"{address}/{PREFIX_BITS}", "dev", Namespace.interface)
