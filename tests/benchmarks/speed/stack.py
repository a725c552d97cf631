"""The stack in containers: from `docker compose up` to both agents registered, and what it takes when nobody asks."""

import json
import os
import shutil
import subprocess
import time
import urllib.error
import urllib.request
import uuid
from pathlib import Path

from tests.benchmarks.speed.processes import REPOSITORY, Failed
from tests.benchmarks.speed.runner import Measured
from tests.ports import free_ports

_PORTS = ("MAINPC_ZMQ_PORT", "MAINPC_EVENTS_PORT", "MAINPC_HTTP_PORT", "PC2_ZMQ_PORT", "PC2_HTTP_PORT")
_AGENTS = ("mainpc", "pc2")
_STATUS_CALLS = 3
_HEALTHY_WITHIN_S = 60.0
_LOOK_EVERY_S = 0.05
_MB = 1_000_000
_CGROUPS = Path("/sys/fs/cgroup")


def measure_stack(measured: Measured, starts: int, idle_s: float) -> None:
    """Start the stack so many times, from nothing but its image; after the last start let it idle."""
    try:
        image = os.environ.get("TWINHOST_IMAGE", "twinhost:0.2.0")
        if shutil.which("docker") is None:
            raise Failed("docker is not here")
        if _docker("image", "inspect", image, check=False) == "":
            raise Failed(f"the image {image} is not here (make image)")
        for number in range(starts):
            _once(measured, idle_s if number == starts - 1 else 0.0)
    except Failed as error:
        measured.missing["stack"] = str(error)


def _once(measured: Measured, idle_s: float) -> None:
    ports = dict(zip(_PORTS, map(str, free_ports(len(_PORTS))), strict=True))
    project = f"twinhost-speed-{uuid.uuid4().hex[:8]}"
    environment = {**os.environ, **ports, "COMPOSE_PROJECT_NAME": project}
    try:
        began = time.monotonic()
        _docker("compose", "up", "--detach", "--quiet-pull", "--no-build", "mainpc", "pc2", environment=environment)
        containers = [_docker("compose", "ps", "--quiet", agent, environment=environment).strip() for agent in _AGENTS]
        while not (_all_healthy(containers) and _registered(ports)):
            if time.monotonic() - began > _HEALTHY_WITHIN_S:
                raise Failed(f"the stack was not healthy within {_HEALTHY_WITHIN_S:g} s")
            time.sleep(_LOOK_EVERY_S)
        measured.add("stack/up", time.monotonic() - began, "s")
        for _ in range(_STATUS_CALLS):
            began = time.monotonic()
            subprocess.run([REPOSITORY / "twinhost", "status"], env=environment, capture_output=True, check=True)
            measured.add("stack/status", time.monotonic() - began, "s")
        if idle_s:
            _idle(containers, idle_s, measured)
    finally:
        _docker(
            "compose",
            "--profile",
            "tools",
            "down",
            "--volumes",
            "--remove-orphans",
            environment=environment,
            check=False,
        )


def _idle(containers: list[str], seconds: float, measured: Measured) -> None:
    time.sleep(seconds / 3)  # what a start leaves to be done
    groups = [_Group(container) for container in containers]
    before, began = sum(group.cpu_s for group in groups), time.monotonic()
    time.sleep(seconds)
    used = sum(group.cpu_s for group in groups) - before
    measured.add("stack/cpu", 100 * used / (time.monotonic() - began), "% of a core")
    measured.add("stack/memory", max(group.resident_mb for group in groups), "MB")


def _all_healthy(containers: list[str]) -> bool:
    states = json.loads(_docker("inspect", *containers))
    return all(state["State"].get("Health", {}).get("Status") == "healthy" for state in states)


def _registered(ports: dict[str, str]) -> bool:
    """Return whether each is in touch with the other, which pc2 is once it is registered."""
    for name in ("MAINPC_HTTP_PORT", "PC2_HTTP_PORT"):
        try:
            urllib.request.urlopen(f"http://127.0.0.1:{ports[name]}/readyz", timeout=5).close()
        except (urllib.error.URLError, OSError):
            return False
    return True


class _Group:
    """A container's control group, of the first version or the second."""

    def __init__(self, container: str) -> None:
        """Find it.

        Raises:
            Failed: this machine shows none.
        """
        pid = json.loads(_docker("inspect", container))[0]["State"]["Pid"]
        paths = {}
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines():
            _, controllers, path = line.split(":", 2)
            paths.update(dict.fromkeys(controllers.split(","), path.lstrip("/")))
        self._unified = _CGROUPS / paths.get("", "")
        self._cpu, self._memory = (_CGROUPS / name / paths.get(name, "") for name in ("cpuacct", "memory"))
        self._first = "cpuacct" in paths
        if not (self._cpu / "cpuacct.usage" if self._first else self._unified / "cpu.stat").exists():
            raise Failed("what the containers use can't be read here: their control groups are not shown")

    @property
    def cpu_s(self) -> float:
        """Processor seconds since the container's start, of everything in it, health checks too."""
        if self._first:
            return int((self._cpu / "cpuacct.usage").read_text()) / 1e9
        return int(_field(self._unified / "cpu.stat", "usage_usec")) / 1e6

    @property
    def resident_mb(self) -> float:
        """What its processes hold; pages of files that the kernel keeps for them are not in it."""
        if self._first:
            return int(_field(self._memory / "memory.stat", "total_rss")) / _MB
        return int(_field(self._unified / "memory.stat", "anon")) / _MB


def _field(path: Path, name: str) -> str:
    return next(line.split()[1] for line in path.read_text().splitlines() if line.split()[0] == name)


def _docker(*arguments: str, environment: dict[str, str] | None = None, check: bool = True) -> str:
    done = subprocess.run(
        ["docker", *arguments], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    if check and done.returncode != 0:
        raise Failed(f"docker {' '.join(arguments[:2])} failed: {done.stderr.strip()[-200:]}")
    return done.stdout if done.returncode == 0 else ""
