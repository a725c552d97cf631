"""Both agents in this process, with the keys, the configuration, and the state of two hosts."""

import contextlib
import json
import os
import random
import re
import socket
import stat
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, Self

import yaml

from twinhost.agent.assembly import Assembly, Foundation
from twinhost.agent.state_folder import STATE_VARIABLE
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import AGENT_ROLE, OPERATOR, SERVER, Layout, plan_layout
from twinhost.certificates.revoke import revoke
from twinhost.network_config import NetworkConfig, load_network_config
from twinhost.network_config.load import CONFIG_FILE, PATH_VARIABLE
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER, FOLDER_VARIABLE, load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import replace_certificate, replace_file, write_certificate, write_key_pair
from twinhost.secure_zmq.keys import (
    CLOCK_TOLERANCE_S,
    DAY_S,
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    Certificate,
    KeyOwner,
    KeyPair,
    Validity,
    load_certificate,
)
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress
from twinhost.system_digital_twin import __main__ as system_digital_twin
from twinhost.system_digital_twin.state_files import MIGRATIONS as SYSTEM_MIGRATIONS
from twinhost.testing.running import LOOPBACK, Plan, RunningAgent, wait_until
from twinhost.unified_memory_reasoning import __main__ as unified_memory_reasoning

MEMORY = unified_memory_reasoning.NAME
_CONFIG = Path(__file__).with_name(CONFIG_FILE)  # the one that is deployed: its grants, limits, and weights
_IN_MEMORY = Path("/dev/shm")  # noqa: S108 - a folder of its own is made there; a disk takes 0.2 s longer to start both
_PORTS, _PORT_SHARES = range(10_000, 20_000), 20  # each process of pytest-xdist has its share
_DESCRIPTORS = Path("/dev/fd")


_PLANS: Mapping[str, Plan] = MappingProxyType(
    {
        SERVER: Plan(SYSTEM_MIGRATIONS, system_digital_twin.assemble),
        MEMORY: Plan(
            unified_memory_reasoning.MIGRATIONS, unified_memory_reasoning.assemble, unified_memory_reasoning.REBUILDS
        ),
    }
)


class Stack:
    """Both agents, and an author's own beside them; `with` starts them, waits until they are ready, and stops them.

    The configuration is the one that is deployed, with the hosts on 127.0.0.1 and free ports. `operator` may do
    everything, as on a real deployment; other names get a key with `enrol`.
    """

    def __init__(self, folder: Path | None = None, *, secure: bool = True, heartbeat_s: float = 0.2) -> None:
        """Prepare keys and configuration.

        Args:
            folder: an existing one for keys, configuration, and state; the default is a temporary one.
            secure: False for `SECURE_ZMQ=0`: no encryption, and nobody is authenticated.
            heartbeat_s: between two heartbeats of an agent, in seconds.
        """
        self.secure = secure
        self._stack = ExitStack()
        if folder is None:
            memory = _IN_MEMORY if os.access(_IN_MEMORY, os.W_OK) else None
            folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory(prefix="twinhost-", dir=memory)))
        self.folder = folder
        self._plans = dict(_PLANS)
        self._running: dict[str, RunningAgent] = {}
        self._programs: set[str] = set()
        self._document = _configuration(heartbeat_s)
        self._write()
        make_keys(self._layout)

    def __enter__(self) -> Self:
        with ExitStack() as on_failure:
            on_failure.callback(self.close)
            for name in list(self._plans):
                self.start(name)
            on_failure.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Stop all agents, and remove the temporary folder."""
        with self._stack, ThreadPoolExecutor() as pool:  # each waits for its threads, for 0.2 s
            list(pool.map(self.stop, [name for name in self._running if name != SERVER]))
            if SERVER in self._running:  # last: an agent in the middle of a call to it would wait for its reply
                self.stop(SERVER)

    @property
    def config(self) -> NetworkConfig:
        """The configuration, as the file has it now."""
        return load_network_config(self.folder / CONFIG_FILE, {})

    def client(self, of: str, by: str = OPERATOR) -> Client:
        """Return a client of an agent; close it, or use it in a `with` block.

        Args:
            of: the agent's name.
            by: whose key it proves: `operator`, an agent's name, or one that `enrol` gave a key.
        """
        return Client(self.address(of, by))

    def address(self, of: str, by: str = OPERATOR) -> ServerAddress:
        """Return how to reach an agent with the key of `by`, for `Client`, `AsyncClient`, and `Subscriber`."""
        server = self.config.agent(of)
        if not self.secure:
            return UnencryptedAddress(server.endpoint)
        keys = load_certificates(self._folder_of(by))
        return SecuredAddress(server.endpoint, keys.own_keys, keys.public_key(server.key))

    def environment(self, name: str = OPERATOR) -> dict[str, str]:
        """Return the variables with which a program, `twinhost.connect()`, or the command line is `name`."""
        return {
            "SECURE_ZMQ": "1" if self.secure else "0",
            PATH_VARIABLE: str(self.folder / CONFIG_FILE),
            FOLDER_VARIABLE: str(self._folder_of(name)),
        }

    def add(
        self,
        name: str,
        migrations: Sequence[str],
        assemble: Callable[[Foundation], Assembly],
        grants: Mapping[str, Sequence[str]] = MappingProxyType({}),
    ) -> None:
        """Add an agent on a host of its own, with its own key, and start it; the others go on.

        Args:
            name: the agent's.
            migrations: its tables, as `run_agent` takes them.
            assemble: builds its actions.
            grants: further actions by role, such as `{"agent": ["greet"]}`.

        Raises:
            ConfigurationError: the name is taken, or the agent can't start.
        """
        host = name.lower()
        if name in self._document["agents"] or host in self._document["hosts"]:
            raise ConfigurationError(f"{name} is an agent or a host of this stack already; choose another name")
        taken = {port for agent in self._document["agents"].values() for port in agent["ports"].values()}
        zmq_port, http_port = _free_ports(2, taken)
        self._document["hosts"][host] = {"address": LOOPBACK}
        self._document["agents"][name] = {"host": host, "key": host, "ports": {"zmq": zmq_port, "http": http_port}}
        for role, actions in grants.items():
            self._document["grants"].setdefault(role, []).extend(actions)
        self._write()
        make_keys(self._layout)
        self._wait_until_followed()
        self._pin_agents()
        self._reload_keys()
        self._plans[name] = Plan(migrations, assemble)
        self.start(name)

    def configure(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change `network_config.yaml`, and wait until every running agent has taken it over.

        Args:
            change: is given the file's content, as a dict, and changes it in place.

        Raises:
            ConfigurationError: it is invalid then, and was not written.
        """
        draft = json.loads(json.dumps(self._document))
        change(draft)
        path = self.folder / f"draft-{CONFIG_FILE}"
        path.write_text(json.dumps(draft), encoding="utf-8")
        load_network_config(path, {})
        self._document = draft
        self._write()
        self._wait_until_followed()

    def start(self, name: str) -> None:
        """Start an agent that was stopped, with the state that it had, and wait until all running agents are ready.

        Raises:
            ConfigurationError, SocketMisuse, StoreUnavailable: it can't start; the message is one sentence.
        """
        state = self.folder / "state" / name
        state.mkdir(parents=True, exist_ok=True)
        environment = {**self.environment(name), STATE_VARIABLE: str(state)}
        self._running[name] = RunningAgent(name, self._plans[name], environment)
        running = list(self._running.values())
        if SERVER in self._running:  # without it no other agent is ready
            wait_until(lambda: all(agent.ready for agent in running), f"{name} is ready")
        self._reload_keys()  # those that it got from mainpc meanwhile

    def running(self, name: str) -> bool:
        """Return whether an agent runs: it was started, and neither stopped nor ended by a fault."""
        return name in self._running and self._running[name].alive

    def stop(self, name: str) -> None:
        """Stop an agent as SIGTERM does; its state stays."""
        self._running.pop(name).stop()

    def restart(self, name: str) -> None:
        """Stop an agent, and start it with the state that it had."""
        self.stop(name)
        self.start(name)

    def enrol(self, name: str, role: str = AGENT_ROLE) -> None:
        """Make a key for a program, or replace a revoked one, and wait until every agent accepts it.

        Raises:
            ConfigurationError: an agent or a host has the name.
        """
        if name in {OPERATOR, *self._document["agents"], *self._document["hosts"]}:
            raise ConfigurationError(f"{name} is an agent or a host of this stack; choose another name for the program")
        pair = KeyPair.generate(KeyOwner(name, "laptop", frozenset({role})), self._layout.new_validity())
        folder = self._folder_of(name)
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        (folder / f"{name}{SECRET_SUFFIX}").unlink(missing_ok=True)
        write_key_pair(pair, folder / f"{name}{SECRET_SUFFIX}")
        self._programs.add(name)
        self._pin_agents()
        enrolled = self._folder_of(SERVER) / ENROLLED_FOLDER
        enrolled.mkdir(mode=0o700, exist_ok=True)
        write_certificate(pair.certificate, enrolled / f"{name}{PUBLIC_SUFFIX}")
        self._reload_keys()
        running = list(self._running.values())
        wait_until(
            lambda: all(agent.foundation.keys.peers.find(pair.public.raw) is not None for agent in running),
            f"every agent accepts the key of {name}",
        )

    def revoke(self, name: str) -> None:
        """Revoke the keys of a name permanently; no agent serves them any more when this returns."""
        revoke(self._layout, name)
        self._reload_keys()

    def expire(self, name: str) -> None:
        """Let the key of a name expire; no agent serves it any more when this returns."""
        ended = int(self._layout.clock.time()) - CLOCK_TOLERANCE_S - 1
        for path in (self.folder / "certificates").rglob(f"*{PUBLIC_SUFFIX}"):
            certificate = load_certificate(path)
            if certificate.owner.name == name:
                validity = Validity(ended - DAY_S, ended)
                replace_certificate(Certificate(certificate.owner, certificate.public, validity), path)
        self._reload_keys()

    def cut(self, name: str) -> int:
        """Break all connections to an agent, as a network does that fails; its clients reconnect. Return how many."""
        agent = self.config.agent(name)
        broken, ports = 0, (agent.zmq_port, agent.events_port)
        for connection in _own_sockets():
            with connection, contextlib.suppress(OSError):
                if connection.family == socket.AF_UNIX or connection.getsockname()[1] not in ports:
                    continue
                connection.getpeername()  # raises for the listening socket
                connection.shutdown(socket.SHUT_RDWR)
                broken += 1
        return broken

    @property
    def _layout(self) -> Layout:
        return plan_layout(self.folder / "certificates", self.config, None)

    def _folder_of(self, name: str) -> Path:
        agent = self.config.agents.get(name)
        return self.folder / "certificates" / (agent.host.name if agent is not None else name)

    def _write(self) -> None:
        replace_file(self.folder / CONFIG_FILE, json.dumps(self._document, indent=2))  # JSON is YAML

    def _wait_until_followed(self) -> None:
        config, running = self.config, list(self._running.values())
        wait_until(
            lambda: all(agent.foundation.settings.live.follows(config) for agent in running),
            "every agent has taken over the configuration",
        )

    def _pin_agents(self) -> None:
        """Give every program the agents' public keys."""
        for agent in self.config.agents.values():
            public = self._folder_of(agent.name) / f"{agent.key}{PUBLIC_SUFFIX}"
            for program in self._programs:
                replace_certificate(load_certificate(public), self._folder_of(program) / public.name)

    def _reload_keys(self) -> None:
        """Read the key folders now; the agents would, a moment later."""
        for agent in self._running.values():
            agent.foundation.keys.peers.reload()


def _configuration(heartbeat_s: float) -> dict[str, Any]:
    """Return the shipped configuration, or this checkout's, for the two agents alone, without other services."""
    document: dict[str, Any] = yaml.safe_load(_CONFIG.read_text(encoding="utf-8"))
    document["agents"] = {name: document["agents"][name] for name in _PLANS}
    document["hosts"] = {agent["host"]: {"address": LOOPBACK} for agent in document["agents"].values()}
    agents = document["agents"].values()
    ports = iter(_free_ports(sum(len(agent["ports"]) for agent in agents)))
    for agent in agents:
        agent["ports"] = {name: next(ports) for name in agent["ports"]}
    document["limits"] |= {"heartbeat_s": heartbeat_s}
    document["recall"] = {**(document.get("recall") or {}), "embeddings": "off"}
    document["recall"].pop("tokenizer", None)
    return document


def _free_ports(count: int, taken: Collection[int] = ()) -> list[int]:
    """Return so many other ports that nobody has, and that Linux gives to no outgoing connection."""
    worker = re.fullmatch(r"gw(\d+)", os.environ.get("PYTEST_XDIST_WORKER", ""))
    share = _PORTS[int(worker[1]) % _PORT_SHARES :: _PORT_SHARES] if worker else _PORTS
    with ExitStack() as stack:
        ports: list[int] = []
        while len(ports) < count:
            port = random.choice(share)  # noqa: S311 - no secret
            if port in taken:
                continue
            with contextlib.suppress(OSError):
                stack.enter_context(socket.create_server((LOOPBACK, port)))
                ports.append(port)
        return ports


def _own_sockets() -> Iterator[socket.socket]:
    """Yield a duplicate of each socket of this process."""
    for entry in list(_DESCRIPTORS.iterdir()):
        with contextlib.suppress(OSError):  # closed since
            if stat.S_ISSOCK(os.fstat(int(entry.name)).st_mode):
                yield socket.socket(fileno=os.dup(int(entry.name)))
