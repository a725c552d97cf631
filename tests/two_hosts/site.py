"""Both machines after the steps of the page on two machines, and what is asked of them."""

import json
import os
import shutil
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from tests.containers.checkout import Machine
from tests.containers.stack import HTTP_PORTS, ZMQ_PORTS
from tests.containers.walk import UMRA, Walk, shown_settings
from tests.two_hosts.ledgers import Writing, giving_up, writing
from tests.two_hosts.machine_room import ADDRESSES, MachineRoom, Namespace
from tests.waiting import wait_until

BACK_WITHIN_S = 30.0


class Site:
    """Both machines after the steps of the page on two machines."""

    def __init__(self, room: MachineRoom, folder: Path) -> None:
        self.room, self._folder = room, folder
        shown = shown_settings()
        assert {shown["MAINPC_IP"], shown["PC2_IP"]} == set(ADDRESSES.values())
        self.checkouts = {}
        for host, machine in room.machines.items():
            own = {**shown, "TWINHOST_HOST": host, "TWINHOST_PUBLISH_ADDRESS": machine.address}
            (folder / host).mkdir()
            self.checkouts[host] = Machine(folder / host / "twinhost", own, machine.docker_host)
        self.walk = Walk(self.checkouts)

    def keys(self) -> Path:
        """Return a copy of the operator's folder."""
        copy = self._folder / "operator"
        if not copy.exists():
            shutil.copytree(self.room.machines["mainpc"].volumes / "twinhost_certificates/_data/operator", copy)
        return copy

    @property
    def addresses(self) -> dict[str, str]:
        """Where each host is reached, by the present `.env`."""
        variables = self.checkouts["mainpc"].variables
        return {"mainpc": variables["MAINPC_IP"], "pc2": variables["PC2_IP"]}

    def writing(self) -> AbstractContextManager[Writing]:
        """Change both agents while a block runs; see `ledgers`."""
        return writing(*self._client(f"ledgers-{time.monotonic_ns()}"))

    def giving_up(self, call: str) -> AbstractContextManager[Callable[[], None]]:
        """Return what has a connected client send pc2 one change and give it up; see `ledgers`."""
        return giving_up(*self._client(call))

    def ask(self, host: str, command: str) -> Any:
        """Return the document of a command of `cli`, on one machine."""
        own_key = "TWINHOST_CLI_KEYS=pc2 " if host == "pc2" else ""
        done = self.checkouts[host].run(f"{own_key}docker compose run --rm -T --no-deps cli {command} --json")
        assert done.status == 0, done.err
        return json.loads(done.out)

    def fingerprints(self) -> dict[str, str]:
        """Return whose keys mainpc and pc2 accept."""
        return {key["name"]: key["fingerprint"] for key in self.ask("mainpc", "keys list")["keys"]}

    def kill(self, host: str) -> None:
        """End an agent's process with SIGKILL; the engine sees a crash."""
        init = int(self._container(host, "{{.State.Pid}}"))
        agent, *_ = Path(f"/proc/{init}/task/{init}/children").read_text(encoding="ascii").split()
        os.kill(int(agent), signal.SIGKILL)

    def restarts(self, host: str) -> int:
        """Return how often the engine has restarted a host's container."""
        return int(self._container(host, "{{.RestartCount}}"))

    def up(self, *hosts: str) -> None:
        """Start these hosts again at one time, by their changed `.env`."""
        with ThreadPoolExecutor() as pool:
            runs = pool.map(lambda host: self.checkouts[host].run(f"docker compose up -d --wait {host}"), hosts)
        for done in runs:
            assert done.status == 0, done.err

    def wait_until_back(self) -> None:
        """Wait until mainpc has pc2 as healthy, and each is in touch with the other."""
        wait_until(self.walk.registered, BACK_WITHIN_S, f"{UMRA} is registered again")
        for host in ADDRESSES:
            wait_until(lambda host=host: self.ready(host), BACK_WITHIN_S, f"{host} is ready")  # type: ignore[misc]

    def ready(self, host: str) -> bool:
        """Return whether a host says that it serves and is in touch with mainpc."""
        page = f"http://127.0.0.1:{HTTP_PORTS[host]}/readyz"
        look = f"import urllib.request; urllib.request.urlopen('{page}', timeout=3)"
        return self.checkouts[host].run(f'docker compose exec -T {host} python -c "{look}"').status == 0

    def _client(self, name: str) -> tuple[Namespace, Path, Path, dict[str, str]]:
        """Return where a client runs, its keys, its folder, and where it reaches each host."""
        endpoints = {host: f"tcp://{address}:{ZMQ_PORTS[host]}" for host, address in self.addresses.items()}
        return self.room.machines["mainpc"], self.keys(), self._folder / name, endpoints

    def _container(self, host: str, form: str) -> str:
        """Return what the engine knows of a host's container."""
        container = self.checkouts[host].run(f"docker compose ps --quiet {host}").out.strip()
        return self.room.machines[host].docker("inspect", "--format", form, container).stdout.strip()
