"""Both agents as real processes on free ports of 127.0.0.1, with keys, configuration, and state of their own."""

import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from contextlib import ExitStack, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from tests import fork_server
from tests.configuration import BUDGETS, GRANTS_LINE, RECALL_LINE
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, wait_until
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import plan_layout
from twinhost.network_config import Agent, load_network_config
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
HEARTBEAT_S = 0.2
SERVICES = Path(__file__).resolve().parents[2] / "services"
_MODULES = {SDT: "twinhost.system_digital_twin", UMRA: "twinhost.unified_memory_reasoning"}


class AgentProcess:
    """One agent that runs; what it logs is read as it comes."""

    def __init__(self, process: "subprocess.Popen[str]", agent: Agent) -> None:
        self._process = process
        self._agent = agent
        self.lines: list[str] = []
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def http(self, path: str, method: str = "GET") -> tuple[int, Any]:
        """Return the status and the JSON (or text) that the agent's HTTP port answers with."""
        request = urllib.request.Request(f"http://127.0.0.1:{self._agent.http_port}{path}", method=method)
        try:
            with urllib.request.urlopen(request, timeout=PATIENCE_S) as answer:
                return answer.status, json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            content = error.read()
            return error.code, json.loads(content) if content.startswith(b"{") else content.decode()

    def health(self) -> dict[str, Any]:
        """Return the health document; an empty one while the port does not answer."""
        assert self.running, f"{self._agent.name} ended: {self.lines[-5:]}"
        try:
            status, document = self.http("/healthz")
        except (urllib.error.URLError, ConnectionError):
            return {}
        assert isinstance(document, dict), f"{self._agent.name} answered {status}: {document}"
        return document

    def wait_until_serving(self) -> "AgentProcess":
        """Wait until the agent can serve, whether or not it is in touch with the other."""
        wait_until(lambda: self.health().get("status") in ("ok", "degraded"), PATIENCE_S, f"{self._agent.name} serves")
        return self

    def wait_until_ready(self) -> "AgentProcess":
        """Wait until every check of the agent passes."""
        wait_until(lambda: self.health().get("ready"), PATIENCE_S, f"{self._agent.name} is ready")
        return self

    def logged(self, event: str) -> list[dict[str, Any]]:
        """Return the log's entries of one event."""
        entries = [json.loads(line) for line in list(self.lines) if line.startswith("{")]
        return [entry for entry in entries if entry["event"] == event]

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self) -> int:
        """Return the exit status."""
        status = self._process.wait(PATIENCE_S)
        self._reader.join(PATIENCE_S)
        return status

    def terminate(self, number: signal.Signals = signal.SIGTERM) -> int:
        """Stop it, and return the exit status."""
        self.send(number)
        return self.wait()

    def end(self) -> None:
        """End it after its test; with time to compare its databases, where `make test-replay` repeats them."""
        if self.running and "TWINHOST_REPLAY" in os.environ:
            with suppress(subprocess.TimeoutExpired):
                self.terminate()
        self.kill()

    def kill(self) -> None:
        """End it with SIGKILL, which it can't answer."""
        if self.running:
            self._process.kill()
        self.wait()

    def forbid_files_to_grow(self) -> None:
        """Let every write beyond a file's first byte fail, as on a volume that is full."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    def allow_files_to_grow(self) -> None:
        """Give the space back."""
        resource.prlimit(self.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def __enter__(self) -> "AgentProcess":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.kill()

    def _read(self) -> None:
        assert self._process.stderr is not None
        for line in self._process.stderr:
            self.lines.append(line.rstrip("\n"))


class SmallVolume:
    """A tmpfs on a folder, by default of 1 MiB; where mounting is not allowed, the test is skipped."""

    def __init__(self, folder: Path, size: str = "1m") -> None:
        self._folder, self._size = folder, size
        self._filler = folder / "filler"

    def fill(self, but: int = 0) -> None:
        """Leave no byte of space, or about so many."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as stream:
            while shutil.disk_usage(self._folder).free > but:
                stream.write(bytes(4_096))

    def empty(self) -> None:
        """Give the space back."""
        self._filler.unlink()

    def __enter__(self) -> "SmallVolume":
        mount = ["mount", "-t", "tmpfs", "-o", f"size={self._size}", "tmpfs", str(self._folder)]
        if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
            pytest.skip("this machine lets nobody mount a tmpfs")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        subprocess.run(["umount", "--lazy", str(self._folder)], check=True)


class Hosts:
    """The two hosts: their keys, ports, and state; each agent is started when a test says so."""

    def __init__(
        self, root: Path, *, secure: bool = True, heartbeat_s: float = HEARTBEAT_S, metrics_interval_s: float = 5.0
    ) -> None:
        self._stack = ExitStack()
        self.root, self.secure = root, secure
        self.processes: list[AgentProcess] = []
        self._ports = free_ports(5)
        (root / "network_config.yaml").write_text(
            "hosts: {mainpc: {address: 127.0.0.1}, pc2: {address: 127.0.0.1}}\n"
            "agents:\n"
            f"  {SDT}: {{host: mainpc, key: server, ports: {{zmq: {self._ports[0]}, http: {self._ports[1]}, "
            f"events: {self._ports[4]}}}}}\n"
            f"  {UMRA}: {{host: pc2, key: client, ports: {{zmq: {self._ports[2]}, http: {self._ports[3]}}}}}\n"
            + GRANTS_LINE
            + RECALL_LINE
            + f"limits: {{budgets: {BUDGETS}, max_payload_bytes: 4194304,\n"
            f"  heartbeat_s: {heartbeat_s}, registration_ttl_s: 15,\n"
            "  stored_replies_s: 600, stored_replies_per_caller: 10000, key_lifetime_days: 365,\n"
            f"  metrics_interval_s: {metrics_interval_s}}}\n"
        )
        self.config = load_network_config(root / "network_config.yaml", {})
        self.keys = root / "certificates"
        make_keys(plan_layout(self.keys, self.config, None))
        for name in _MODULES:
            (root / name).mkdir()

    def start(self, name: str, *, apart: bool = False, open_files: int | None = None) -> AgentProcess:
        """Start an agent, and do not wait for it; `apart` from the fork server and its memory, as with `open_files`."""
        environment, module = self.environment(name), _MODULES[name]
        # Both are read when an interpreter starts: by the loader, and by a sitecustomize that turns the clock.
        own = apart or open_files is not None or not {"LD_LIBRARY_PATH", "TURNED_S"}.isdisjoint(environment)
        limit = [] if open_files is None else ["prlimit", f"--nofile={open_files}"]
        process = (subprocess.Popen if own else fork_server.Process)(
            [*limit, sys.executable, "-m", module] if own else [module],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        agent = AgentProcess(process, self.config.agent(name))
        self.processes.append(agent)
        self._stack.callback(agent.end)
        return agent

    def start_both(self) -> tuple[AgentProcess, AgentProcess]:
        """Start both agents and wait until they are in touch."""
        mainpc, pc2 = self.start(SDT), self.start(UMRA)
        return mainpc.wait_until_ready(), pc2.wait_until_ready()

    def environment(self, name: str) -> dict[str, str]:
        """Return the environment of an agent's process."""
        return {
            **{key: value for key, value in os.environ.items() if key not in ("MAINPC_IP", "PC2_IP")},
            "PYTHONPATH": str(SERVICES),
            "SECURE_ZMQ": "1" if self.secure else "0",
            "NETWORK_CONFIG_PATH": self.config.source,
            "TWINHOST_CERTIFICATES": str(self.folder(name)),
            "TWINHOST_STATE": str(self.root / name),
            "TMPDIR": str(self.root),
        }

    def folder(self, name: str) -> Path:
        """Return the folder of keys of an agent's host, or of the operator."""
        return self.keys / (self.config.agent(name).host.name if name in _MODULES else name)

    def database(self, name: str) -> Path:
        """Return an agent's database file."""
        return self.root / name / f"{name}.sqlite3"

    def small_volume(self, name: str) -> SmallVolume:
        """Return a small volume for an agent's state, to be mounted before the agent starts."""
        return SmallVolume(self.root / name)

    def client(self, of: str, by: str = "operator") -> Client:
        """Return a client of an agent, with the key of `by`; close it, or use it in a `with`."""
        return Client(self.address(of, by))

    def address(self, of: str, by: str = "operator") -> ServerAddress:
        """Return how to reach an agent, with the key of `by`."""
        server = self.config.agent(of)
        if not self.secure:
            return UnencryptedAddress(server.endpoint)
        keys = load_certificates(self.folder(by))
        return SecuredAddress(server.endpoint, keys.own_keys, keys.public_key(server.key))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()
