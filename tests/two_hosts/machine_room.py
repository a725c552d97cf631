"""Network namespaces at one switch, and an engine in each: two machines for the network, or three."""

import os
import shutil
import signal
import subprocess
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path

from tests.waiting import wait_until

ADDRESSES = {"mainpc": "192.0.2.10", "pc2": "192.0.2.20"}  # as in docs/how-to/set-up-two-machines.md
WITH_WITNESS = {**ADDRESSES, "witness": "192.0.2.30"}  # as in docs/how-to/run-with-standbys.md
PREFIX_BITS = 24
ENGINE_STARTS_WITHIN_S = 60.0
ENGINE_ENDS_WITHIN_S = 60.0
NEEDED = ("ip", "nsenter", "iptables", "dockerd", "docker")


class MachineRoom:
    """The machines and the switch between them; `close()` leaves nothing behind."""

    def __init__(self, folder: Path, addresses: Mapping[str, str] = ADDRESSES) -> None:
        suffix = uuid.uuid4().hex[:6]
        self.machines = {host: Namespace(f"{host}-{suffix}", folder / host, addresses[host]) for host in addresses}
        self._switch = f"switch-{suffix}"
        self._images = folder / "images.tar"

    def open(self, *images: str) -> None:
        """Lay the cables, start the engines, and bring images of this machine's engine to each.

        Raises:
            AssertionError: a step was refused, or an engine did not start; what it said is in it.
        """
        switch = ["ip", "-n", self._switch, "link"]
        run("ip", "netns", "add", self._switch)
        run(*switch, "add", "bridge", "type", "bridge")
        run(*switch, "set", "bridge", "up")
        for host, machine in self.machines.items():
            run("ip", "netns", "add", machine.name)
            run("ip", "link", "add", machine.interface, "netns", machine.name, "type", "veth",
                "peer", "name", host, "netns", self._switch)  # fmt: skip
            run(*switch, "set", host, "master", "bridge", "up")
        run("docker", "save", "--output", str(self._images), *images)
        starts = [threading.Thread(target=machine.open, args=(self._images,)) for machine in self.machines.values()]
        for start in starts:
            start.start()
        for start in starts:
            start.join()
        self._images.unlink()
        for machine in self.machines.values():
            assert machine.opened, f"{machine.name} did not come up; its engine's last lines:\n{machine.log_tail()}"

    def close(self) -> None:
        with ExitStack() as stack:  # what fails at one machine keeps nothing from the others
            stack.callback(subprocess.run, ["ip", "netns", "delete", self._switch], check=False, capture_output=True)
            for machine in self.machines.values():
                stack.callback(machine.close)


class Namespace:
    """One machine: a network namespace with one address, and an engine of its own."""

    interface = "cable0"

    def __init__(self, name: str, folder: Path, address: str) -> None:
        self.name, self.address, self.opened = name, address, False
        self._folder = folder
        self._socket = folder / "docker.sock"
        self._engine: subprocess.Popen[bytes] | None = None

    @property
    def docker_host(self) -> str:
        """What `DOCKER_HOST` has to be for this machine's engine."""
        return f"unix://{self._socket}"

    @property
    def volumes(self) -> Path:
        """The folder in which the engine keeps its volumes."""
        return self._folder / "data/volumes"

    def open(self, images: Path) -> None:
        """Bring the network up, start the engine, and load images."""
        self._folder.mkdir()
        self.enter("ip", "link", "set", "lo", "up")
        self.enter("ip", "address", "add", f"{self.address}/{PREFIX_BITS}", "dev", self.interface)
        self.enter("ip", "link", "set", self.interface, "up")
        self.start_engine()
        self.docker("load", "--input", str(images))
        self.opened = True

    def start_engine(self) -> None:
        """Start the engine and wait until it answers."""
        command = ["nsenter", f"--net=/run/netns/{self.name}", "dockerd", "--host", self.docker_host]
        for option in ("data-root", "exec-root"):
            command += [f"--{option}", str(self._folder / option.split("-", maxsplit=1)[0])]
        command += ["--pidfile", str(self._folder / "docker.pid")]
        # A machine may have one containerd for all its engines: each has names of its own there.
        command += ["--containerd-namespace", self.name, "--containerd-plugins-namespace", f"plugins-{self.name}"]
        with self._log.open("ab") as log:
            self._engine = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)

        def answers() -> bool:
            assert self._engine is not None
            assert self._engine.poll() is None, f"{self.name}'s engine ended:\n{self.log_tail()}"
            return self.docker("info", check=False).returncode == 0

        wait_until(answers, ENGINE_STARTS_WITHIN_S, f"the engine of {self.name} answers")

    def stop_engine(self) -> None:
        """End the engine as a machine's shutdown does; its containers stop with it."""
        if self._engine is not None:
            self._engine.send_signal(signal.SIGTERM)
            self._engine.wait(ENGINE_ENDS_WITHIN_S)
            self._engine = None

    def enter(self, *command: str) -> str:
        """Run a command in this machine's network; return what it prints."""
        return run(*self.command(command))

    def command(self, command: Sequence[str]) -> list[str]:
        """Return a command as it has to be called to run in this machine's network."""
        return ["nsenter", f"--net=/run/netns/{self.name}", *command]

    def docker(self, *arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
        """Run a command of this machine's engine."""
        environment = {**os.environ, "DOCKER_HOST": self.docker_host}
        return subprocess.run(["docker", *arguments], capture_output=True, text=True, check=check, env=environment)

    def log_tail(self) -> str:
        """Return the engine's last lines."""
        lines = self._log.read_text(encoding="utf-8", errors="replace").splitlines() if self._log.exists() else []
        return "\n".join(lines[-15:])

    def close(self) -> None:
        """End the engine, and remove the namespace and all that the engine kept."""
        try:
            self.stop_engine()
        except subprocess.TimeoutExpired:
            assert self._engine is not None
            self._engine.kill()
            self._engine.wait()
        subprocess.run(["ip", "netns", "delete", self.name], check=False, capture_output=True)
        for mounted in reversed(_mounts_below(self._folder)):
            subprocess.run(["umount", "--lazy", mounted], check=False, capture_output=True)
        shutil.rmtree(self._folder, ignore_errors=True)

    @property
    def _log(self) -> Path:
        return self._folder / "engine.log"


def run(*command: str) -> str:
    """Run a command; what it writes to standard error is in the exception where it fails."""
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr.strip()}"
    return done.stdout


def why_not() -> str | None:
    """Return why this machine can't hold two, or None where it can."""
    if os.geteuid() != 0:
        return "needs root, for network namespaces and engines of its own"
    missing = [name for name in NEEDED if shutil.which(name) is None]
    if missing:
        return f"needs {', '.join(missing)} (Debian: iproute2, util-linux, iptables, docker.io)"
    probe = f"probe-{uuid.uuid4().hex[:6]}"
    made = subprocess.run(["ip", "netns", "add", probe], capture_output=True, text=True, check=False)
    if made.returncode != 0:
        return f"no network namespace can be made here: {made.stderr.strip()}"
    pair = ["ip", "link", "add", "cable0", "netns", probe, "type", "veth", "peer", "name", "cable1", "netns", probe]
    inside = ["nsenter", f"--net=/run/netns/{probe}"]
    drop = ["PREROUTING", "-m", "statistic", "--mode", "random", "--probability", "0.5", "-j", "DROP"]
    steps = {
        "no veth pair can be made": pair,
        "an engine has no network without iptables' table nat": [*inside, "iptables", "-t", "nat", "-L", "-n"],
        "no packet can be lost by iptables": [*inside, "iptables", "-t", "raw", "-I", *drop],
    }
    try:
        for what, step in steps.items():
            done = subprocess.run(step, capture_output=True, text=True, check=False)
            if done.returncode != 0:
                return f"{what} here: {done.stderr.strip()}"
    finally:
        subprocess.run(["ip", "netns", "delete", probe], capture_output=True, check=False)
    return None


def why_no_overlay(machine: "Namespace") -> str | None:
    """Return why a swarm can have no overlay network on this machine, or None where it can."""
    enter = machine.command(["ip", "link"])
    vxlan = [*enter, "add", "probe0", "type", "vxlan", "id", "42", "dstport", "4789"]
    made = subprocess.run(vxlan, capture_output=True, text=True, check=False)
    subprocess.run([*enter, "delete", "probe0"], capture_output=True, check=False)
    return None if made.returncode == 0 else f"no vxlan can be made here: {made.stderr.strip()}"


def _mounts_below(folder: Path) -> list[str]:
    points = [line.split()[1] for line in Path("/proc/mounts").read_text(encoding="utf-8").splitlines()]
    return [point for point in points if point.startswith(f"{folder}/")]
