"""Somebody who follows a page on two machines, command by command."""

import json
import re
import shutil

from tests.containers.checkout import Machine, commands_of
from tests.containers.kept import Finished
from tests.containers.stack import REPOSITORY
from tests.waiting import wait_until

TWO_MACHINES = (REPOSITORY / "docs/how-to/set-up-two-machines.md").read_text(encoding="utf-8")
UMRA = "UnifiedMemoryReasoningAgent"
REGISTERED_WITHIN_S = 30


def shown_settings() -> dict[str, str]:
    """Return the `.env` of mainpc that the page shows."""
    (block,) = re.findall(r"```\n(TWINHOST_HOST=.*?)```", TWO_MACHINES, re.S)
    return dict(line.split("#")[0].strip().split("=") for line in block.splitlines())


class Walk:
    """Somebody who follows a page: what one command printed is put where the next one needs it."""

    def __init__(self, machines: dict[str, Machine]) -> None:
        self.machines = machines
        self._line = self._fingerprint = self._token = ""
        self.done: list[tuple[str, str, Finished]] = []

    def follow(self, page: str) -> None:
        """Run every command, each on its machine; none may fail."""
        for prompt, command in commands_of(page):
            for host in self.machines if prompt == "both" else [prompt]:
                self._run(host, command)

    def last(self, start: str) -> Finished:
        """Return what the last command that begins so came to."""
        return next(done for _, command, done in reversed(self.done) if command.startswith(start))

    def _run(self, host: str, command: str) -> None:
        if "accept -" in command:
            request = self.machines["pc2"].folder / "request.key"
            shutil.move(request, self.machines["mainpc"].folder)
        if "trust -" in command:
            shutil.move(self.machines["mainpc"].folder / "reply.trust", self.machines["pc2"].folder)
        filled = command.replace("SHA256:…", self._fingerprint)
        filled = re.sub(r"SWMTKN-\S*…", self._token, filled)
        assert "…" not in filled, f"{command!r} needs what no command before it printed"
        if "keys list" in command or "doctor" in command:
            self.wait_until_registered()
        pasted = f"{self._line}\n" if "join -" in filled else ""
        done = self.machines[host].run(filled, pasted)
        needs_attention = done.status == 1 and filled.endswith(
            ("cli status", "/twinhost status")
        )  # such as that a key was refused before
        assert done.status == 0 or needs_attention, f"{host}$ {filled}\n{done.out}\n{done.err}"
        self._line = next((line for line in done.out.splitlines() if line.startswith("twinhost://")), self._line)
        if "join-token" in command:
            self._token = done.out.strip()
        if "request" in command:  # what that machine shows beside the file, to be passed on another way
            self._fingerprint = re.findall(r"SHA256:[A-Za-z0-9+/]{43}", done.err)[0]
        self.done.append((host, command, done))
        if host == "pc2" and ("up -d" in command or "--replace" in command):
            self.wait_until_registered()

    def wait_until_registered(self) -> None:
        """Wait until mainpc has pc2's agent as healthy."""
        wait_until(self.registered, REGISTERED_WITHIN_S, f"{UMRA} is registered")

    def registered(self) -> bool:
        """Return whether mainpc, asked now, has pc2's agent as healthy."""
        return self.status_on_mainpc() == "HEALTHY"

    def gone(self) -> bool:
        """Return whether mainpc answers, and has pc2's agent as anything but healthy."""
        return self.status_on_mainpc() not in {"", "HEALTHY"}

    def status_on_mainpc(self) -> str:
        """Return pc2's agent's status on mainpc; empty where mainpc does not answer, or does not know it.

        It is asked by a container of its own: in a swarm, Compose finds none of mainpc's to run a command in.
        """
        done = self.machines["mainpc"].run("docker compose run --rm -T --no-deps cli agents --json")
        agents = json.loads(done.out)["agents"] if done.status == 0 else []
        return next((agent["status"] for agent in agents if agent["name"] == UMRA), "")
