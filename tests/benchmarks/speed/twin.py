"""This project as it ships: `twinhost.system_digital_twin` with its configuration, and the product's clients."""

import itertools
import sys
import time
import urllib.error
import urllib.request
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml
from zmq.utils import z85

from tests.benchmarks.speed.messages import LOAD_AGENT, READ_AGENT, REGISTRATION, fields_of
from tests.benchmarks.speed.place import ADDRESS, ahead_of_servers
from tests.benchmarks.speed.processes import Failed, Process
from tests.benchmarks.speed.task import ANSWER_WITHIN_S, ID_CHARACTERS, Task, one_by_one, side_by_side
from tests.ports import free_ports
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import AGENT_ROLE, SERVER, plan_layout
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.framing import exchange
from twinhost.secure_zmq.key_writer import render_certificate, write_key_pair
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, PublicKey, load_key_pair
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress
from twinhost.secure_zmq.wire import encode_reply

MAINPC, OPERATOR_FOLDER, ENROLLED_FOLDER = "mainpc", "operator", "enrolled"
_LOOK_EVERY_S = 0.02


class Twin:
    """The agent on mainpc as a process, with so many authorised keys."""

    def __init__(self, root: Path, authorised: int, *, secure: bool = True) -> None:
        """Make keys, configuration, and state, and start it.

        Args:
            root: an empty folder.
            authorised: keys that are accepted beside those of the two agents and the operator.
            secure: False is SECURE_ZMQ=0.

        Raises:
            Failed: it does not serve.
        """
        root.mkdir()
        shipped = yaml.safe_load(Path(DEFAULT_PATH).read_text())
        ports = free_ports(5)
        for host in shipped["hosts"].values():
            host["address"] = ADDRESS
        for agent in shipped["agents"].values():
            agent["ports"] = {name: ports.pop() for name in agent["ports"]}
        source = root / "network_config.yaml"
        source.write_text(yaml.safe_dump(shipped))
        self._config = load_network_config(source, {})
        self._keys = root / "certificates"
        make_keys(plan_layout(self._keys, self._config, None))
        owners = [LOAD_AGENT, *(f"agent-{number}" for number in range(authorised - 1))]
        self.pairs = [KeyPair.generate(KeyOwner(name, f"site-{name[-1]}", frozenset({AGENT_ROLE}))) for name in owners]
        for pair in self.pairs:
            (self._keys / MAINPC / ENROLLED_FOLDER / f"{pair.certificate.owner.name}.key").write_text(
                render_certificate(pair.certificate)
            )
        self._own = root / f"{LOAD_AGENT}.key_secret"
        write_key_pair(self.pairs[0], self._own)
        state = root / "state"
        state.mkdir()
        self.secure = secure
        environment = {
            **dict.fromkeys(("MAINPC_IP", "PC2_IP"), ""),
            "SECURE_ZMQ": "1" if secure else "0",
            "NETWORK_CONFIG_PATH": str(source),
            "TWINHOST_CERTIFICATES": str(self._keys / MAINPC),
            "TWINHOST_STATE": str(state),
            "TWINHOST_HTTP_HOSTS": ADDRESS,
        }
        command = [*ahead_of_servers(), sys.executable, "-m", "twinhost.system_digital_twin"]
        self.process = Process(command, root / "log", environment)
        try:
            self._wait_until_serving()
            with Client(self._address_of_operator()) as client:
                client.call("register_agent", registration_data=REGISTRATION)
                reply = client.call("get_agent_endpoint", agent_name=READ_AGENT, request_id="0" * ID_CHARACTERS)
                self.reply = encode_reply(reply, None).decode()  # as it is on the wire
                fields: dict[str, Any] = fields_of(Task("register_agent"))
                registered = client.call("register_agent", **fields, request_id="0" * ID_CHARACTERS)
                self.registered = encode_reply(registered, None).decode()
        except BaseException:
            self.process.stop()
            raise

    @property
    def endpoint(self) -> str:
        return self._config.agent(SERVER).endpoint

    @property
    def server_key(self) -> PublicKey:
        """What clients pin."""
        return load_certificates(self._keys / OPERATOR_FOLDER).public_key()

    @property
    def target(self) -> dict[str, Any]:
        """What a load of the product's own clients needs to know."""
        pin = self.server_key.z85.decode() if self.secure else None
        return {"endpoint": self.endpoint, "pin": pin, "own": str(self._own)}

    @property
    def bare_target(self) -> dict[str, Any]:
        """What a client that knows libzmq alone needs to know."""
        keys = [[pair.public.z85.decode(), pair.secret_z85.decode()] for pair in self.pairs]
        return {"endpoint": self.endpoint, "pin": self.server_key.z85.decode(), "keys": keys}

    def _address_of_operator(self) -> ServerAddress:
        if not self.secure:
            return UnencryptedAddress(self.endpoint)
        return SecuredAddress(self.endpoint, load_certificates(self._keys / OPERATOR_FOLDER).own_keys, self.server_key)

    def _wait_until_serving(self) -> None:
        url = f"http://{ADDRESS}:{self._config.agent(SERVER).http_port}/healthz"
        until = time.monotonic() + ANSWER_WITHIN_S
        while self.process.running and time.monotonic() < until:
            try:
                urllib.request.urlopen(url, timeout=ANSWER_WITHIN_S).close()
            except (urllib.error.URLError, ConnectionError):
                time.sleep(_LOOK_EVERY_S)
            else:
                return
        raise Failed(f"the agent does not serve; its log is beside its keys, in {self._keys.parent}")


def blocking(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Load the server with the blocking client."""
    asked = Task(**task)
    fields = fields_of(asked)
    with Client(_address(target)) as client:
        outcome = one_by_one(lambda: client.call(asked.action, deadline_s=ANSWER_WITHIN_S, **fields), asked.seconds)
    return asdict(outcome)


def pipelining(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Load the server with the blocking client's `map`."""
    asked = Task(**task)
    requests = itertools.repeat((asked.action, fields_of(asked)))
    with Client(_address(target)) as client:
        replies = client.map(requests, in_flight=asked.in_flight, deadline_s=ANSWER_WITHIN_S)
        outcome = one_by_one(lambda: next(replies), asked.seconds)
    return asdict(outcome)


async def asynchronous(target: dict[str, Any], task: dict[str, Any]) -> dict[str, Any]:
    """Load the server with asyncio clients on one event loop."""
    asked = Task(**task)
    fields = fields_of(asked)
    clients = [AsyncClient(_address(target)) for _ in range(asked.clients)]
    try:
        calls = [lambda client=client: client.call(asked.action, **fields) for client in clients]
        outcome = await side_by_side(calls, asked.in_flight, asked.seconds)
    finally:
        for client in clients:
            client.close()
    return asdict(outcome)


def _address(target: dict[str, Any]) -> ServerAddress:
    if target.get("one request a frame"):  # as with a server that reads no other frames
        vars(exchange)["ACCEPTED"] = ()
    if target["pin"] is None:
        return UnencryptedAddress(target["endpoint"])
    pin = PublicKey(z85.decode(target["pin"].encode()))
    return SecuredAddress(target["endpoint"], load_key_pair(Path(target["own"])), pin)
