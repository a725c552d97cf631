"""`cli watch` as a process beside real agents, its lines as they come, and what may be published for it to see."""

import json
import os
import pty
import signal
import subprocess
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests import fork_server
from tests.configuration import GRANTS_LINE, SHIPPED_GRANTS, item_of
from tests.loopback.agent_processes import UMRA, Hosts
from tests.unit.cli.running import process_environment
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, StoreUnavailable

PROBE = "probe"  # the id of what is published until it is seen


class Watch:
    """One `cli watch` that runs; `out` and `err` are the lines that it has written so far."""

    def __init__(
        self,
        hosts: Hosts,
        *arguments: str,
        by: str = "operator",
        on_terminal: bool = False,
        command: Sequence[str] = ("watch",),
    ) -> None:
        """Start it with the key of `by`; on a terminal, its stdout is one."""
        self.out: list[str] = []
        self.err: list[str] = []
        ours, theirs = pty.openpty() if on_terminal else os.pipe()
        self._process = fork_server.Process(
            ["twinhost.cli", *command, *arguments],
            env=process_environment(settings_of(hosts, by)),
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=subprocess.PIPE,
        )
        os.close(theirs)
        assert self._process.stderr is not None
        self._readers = [
            threading.Thread(target=_read, args=(ours, self.out), daemon=True),
            threading.Thread(target=_read, args=(os.dup(self._process.stderr.fileno()), self.err), daemon=True),
        ]
        for reader in self._readers:
            reader.start()

    @property
    def shown(self) -> list[dict[str, Any]]:
        """What it has shown with --json, but for probes."""
        documents = [json.loads(line) for line in list(self.out)]
        return [document for document in documents if PROBE not in (document.get("event_id"), document.get("error_id"))]

    def wait_for(self, text: str) -> str:
        """Return the first line on stdout that holds a text."""
        return wait_until(lambda: self._found(self.out, text), PATIENCE_S, f"{text!r} is shown; stderr: {self.err}")

    def wait_for_line(self, text: str) -> str:
        """Return the first line on stderr that holds a text."""
        return wait_until(lambda: self._found(self.err, text), PATIENCE_S, f"{text!r} is said; stderr: {self.err}")

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return the exit status, all that it wrote read."""
        status = self._process.wait(PATIENCE_S)
        for reader in self._readers:
            reader.join(PATIENCE_S)
        return status

    def interrupt(self) -> int:
        """End it as Ctrl-C does, and return the exit status."""
        self.send(signal.SIGINT)
        return self.wait()

    def __enter__(self) -> "Watch":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self.wait()
        assert self._process.stderr is not None
        self._process.stderr.close()

    @staticmethod
    def _found(lines: list[str], text: str) -> str:
        return next((line for line in list(lines) if text in line), "")


class Publisher:
    """Publishes as pc2's agent, and keeps the ledger: the id and the number of each that was acknowledged."""

    def __init__(self, client: Client) -> None:
        self.ledger: list[tuple[str, int]] = []
        self._client = client
        self._count = 0

    def many(self, count: int) -> None:
        """Publish so many, every third an error."""
        for _ in range(count):
            self.one("error" if self._count % 3 == 2 else "event")

    def one(self, kind: str = "event", **fields: Any) -> str:
        """Publish one, again and again under its own id until it is acknowledged, and return its name."""
        name = f"{kind}-{self._count}"
        self._count += 1
        action, body = ("publish_event", event(name)) if kind == "event" else ("report_error", error(name))
        while True:
            try:
                reply = self._client.call(action, request_id=name, deadline_s=1, **{kind: {**body, **fields}})
            except (ConnectionRefused, StoreUnavailable):
                continue
            self.ledger.append((name, int(reply["seq"])))
            return name

    def probe(self, watch: Watch, topic: str = "EVENT:") -> None:
        """Publish probes until one is seen: from then on the watch follows."""

        def seen() -> bool:
            if topic == "EVENT:":
                self._client.call("publish_event", event=event(PROBE))
            else:
                self._client.call("report_error", error=error(PROBE))
            return any(PROBE in line for line in list(watch.out))

        wait_until(seen, PATIENCE_S, f"the watch follows; stderr: {watch.err}")


def event(event_id: str, **fields: Any) -> dict[str, Any]:
    return {"event_id": event_id, "event_type": "t", "source_agent": UMRA, **fields}


def error(error_id: str, **fields: Any) -> dict[str, Any]:
    return {"error_id": error_id, "agent_id": UMRA, "severity": "error", "error_type": "t", "message": "m", **fields}


def withdraw(hosts: Hosts, action: str) -> None:
    """Grant an action to agents no more; an agent that runs follows the file."""
    less = {**SHIPPED_GRANTS, "agent": [each for each in SHIPPED_GRANTS["agent"] if each.partition(":")[0] != action]}
    items = {role: [item_of(grant) for grant in grants] for role, grants in less.items()}
    path = Path(hosts.config.source)
    path.write_text(path.read_text().replace(GRANTS_LINE, f"grants: {json.dumps(items)}\n"))


def settings_of(hosts: Hosts, by: str) -> Mapping[str, str]:
    """Return the settings of a command that has the key of `by`."""
    return {
        "SECURE_ZMQ": "1" if hosts.secure else "0",
        "NETWORK_CONFIG_PATH": hosts.config.source,
        "TWINHOST_CERTIFICATES": str(hosts.folder(by)),
        "MAINPC_IP": "",
        "PC2_IP": "",
    }


def _read(descriptor: int, lines: list[str]) -> None:
    """Gather lines until the other end is closed, which a terminal reports as an error."""
    with os.fdopen(descriptor, "rb", buffering=0) as stream:
        rest = b""
        while True:
            try:
                chunk = stream.read(65_536)
            except OSError:
                return
            if not chunk:
                return
            *whole, rest = (rest + chunk).split(b"\n")
            lines.extend(line.decode() for line in whole)
