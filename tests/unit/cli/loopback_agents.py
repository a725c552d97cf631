"""Two agents in this process, each with its own socket, key, and thread: what the command line talks to."""

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Protocol

import zmq

from tests.configuration import GRANTS_LINE, RECALL_LINE, SHIPPED_GRANTS
from tests.identities import host_folder
from tests.ports import free_ports, vacant_address
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.conditions import troubles_of
from twinhost.agent.health import Health, HealthActions, OperatorActions
from twinhost.agent.host_metrics import ContainerSample, DiskSample, HostSample, MachineSample
from twinhost.agent.http import HttpServer
from twinhost.agent.subscriptions import SubscriptionActions
from twinhost.agent.troubles import Trouble
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.bound_socket import (
    ServerSocket,
    open_feed_socket,
    open_server_socket,
    open_unencrypted_feed_socket,
    open_unencrypted_server_socket,
)
from twinhost.secure_zmq.budgets import Budgets
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER, load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.dispatch import Dispatcher
from twinhost.secure_zmq.errors import NotFound
from twinhost.secure_zmq.feed import MAX_EVENT_BYTES, Feed
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.keys import UNLIMITED, KeyOwner, KeyPair, Validity
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.server import Server
from twinhost.secure_zmq.server_address import SecuredAddress, ServerAddress, UnencryptedAddress
from twinhost.secure_zmq.wire import Reply, Request
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.store.reply_log import ReplyLog
from twinhost.system_digital_twin.attention.actions import AttentionActions
from twinhost.system_digital_twin.attention.attention import Attention
from twinhost.system_digital_twin.attention.hosts import seen_agents
from twinhost.system_digital_twin.attention.reports import Reports
from twinhost.system_digital_twin.attention.silence import silent_hosts
from twinhost.system_digital_twin.events.events import Events
from twinhost.system_digital_twin.metrics.actions import MetricsActions
from twinhost.system_digital_twin.metrics.metrics import Metrics
from twinhost.system_digital_twin.metrics.vram_reports import VramReports
from twinhost.system_digital_twin.registry.actions import RegistryActions
from twinhost.system_digital_twin.registry.registry import Registry
from twinhost.system_digital_twin.state_files import MIGRATIONS
from twinhost.system_digital_twin.trust.actions import EnrolledKeys, KeyActions
from twinhost.system_digital_twin.trust.audit import AuditActions
from twinhost.system_digital_twin.trust.retirements import Retirements

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
PAYLOAD_BYTES = 65_536
STALE_NEVER_S = 86_400.0
SAMPLE = HostSample(  # of both hosts: they are one machine
    wall=0.0,
    cpu_percent=20.25,
    ram_used_mb=12_400.0,
    ram_total_mb=32_000.0,
    machine=MachineSample(
        cpus=16,
        load=(1.5, 0.5, 0.25),
        swap_used_mb=0.0,
        swap_total_mb=8_192.0,
        disks=(DiskSample(name="state", used_mb=100.0, free_mb=78_950.0, total_mb=90_000.0),),
        boot_id="b00t",
    ),
    container=ContainerSample(cpu_percent=1.25, cpus=16, ram_used_mb=80.0, ram_limit_mb=512.0),
)


GRANTS = {role: {*actions, "refuse_with"} for role, actions in SHIPPED_GRANTS.items()}


class RefuseWith(Request, tag="refuse_with"):
    """Refuse, with the text of the request: an agent's sentence may hold anything."""

    sentence: str


class LoopbackAgent:
    """A running agent; `faults` and `document` are what its health document says from then on."""

    def __init__(self, name: str, keys: Path | None, state: Path) -> None:
        self.name = name
        self.faults: dict[str, str] = {}
        self.document: dict[str, Any] = {}
        self.warnings: list[str] = []
        self.found: list[Trouble] = []
        self.handshakes = Handshakes()
        self.grants = Grants(GRANTS)
        self._keys = keys
        self._health = Health(name, secure=keys is not None)
        self._health.add("store", lambda: self.faults.get("store"), essential=True)
        self._health.add("mainpc_link", lambda: self.faults.get("mainpc_link"), essential=False)
        self._health.warn("test", lambda: self.warnings)
        self._authenticator: Authenticator | None = None
        self._stack = ExitStack()
        self._database = Database(state / f"{name}.sqlite", [REPLY_LOG_SCHEMA, *MIGRATIONS])
        self.metrics = Metrics(self._database, STALE_NEVER_S, "mainpc", ["mainpc", "pc2"])
        self.audit = AuditLog(self._database, state / "audit") if name == SDT else None
        self.registry = Registry(self._database, ttl_s=15)
        self.attention = self._list() if name == SDT else None
        if self.audit is not None:
            self.handshakes.listen(self._audit_handshake)
        self.peers = AuthorizedPeers([keys] if keys else [])
        self.socket = self._open_socket()
        self.address = self.socket.address.replace("0.0.0.0", "127.0.0.1")
        self.feed = self._open_feed(self.socket) if name == SDT else None
        self._server = Server(self.socket, self._dispatcher(self.socket), self._on_tick)
        self._thread = threading.Thread(target=self._server.serve_forever, name=name, daemon=True)
        self._thread.start()
        (self.http_port,) = free_ports(1)
        self._http = HttpServer(self.http_port, self._health_document)
        self._http.start()

    @property
    def port(self) -> int:
        return int(self.address.rpartition(":")[2])

    @property
    def events_port(self) -> int | None:
        return int(self.feed.address.rpartition(":")[2]) if self.feed else None

    @property
    def own_keys(self) -> KeyPair:
        assert self._keys is not None
        return load_certificates(self._keys).own_keys

    def reload_peers(self) -> None:
        """Look at the folder of keys again."""
        self.peers.reload()

    def stop(self) -> None:
        """End the agent; its address refuses connections from then on."""
        self._http.stop()
        self._server.stop()
        self._thread.join()
        if self.feed is not None:
            self.feed.stop()
        threading.Thread(target=self._stack.close, name=f"{self.name}-end").start()  # its ZAP handler takes 0.5 s

    def _open_socket(self) -> ServerSocket:
        context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._stack.callback(context.term)
        if self._keys is None:
            return open_unencrypted_server_socket(context, vacant_address(), PAYLOAD_BYTES, self.handshakes)
        authenticator = Authenticator(context, self.peers, self.handshakes)
        self._stack.callback(authenticator.stop)
        self._authenticator = authenticator
        return open_server_socket(authenticator, self.own_keys, vacant_address(), PAYLOAD_BYTES)

    def _open_feed(self, beside: ServerSocket) -> Feed:
        address = vacant_address()
        if self._authenticator is None:
            context = beside.socket.context
            socket = open_unencrypted_feed_socket(context, address, MAX_EVENT_BYTES, self.handshakes)
        else:
            socket = open_feed_socket(self._authenticator, self.own_keys, address, MAX_EVENT_BYTES)
        feed = Feed(socket, lambda caller, _: self.grants.allows(caller, "subscribe"))
        feed.start()
        return feed

    def _dispatcher(self, socket: ServerSocket) -> Dispatcher:
        actions = [
            *self._own_actions(),
            *HealthActions(self._health_document).actions(),
            *OperatorActions(self.peers, socket.sessions, socket.handshakes, "ok").actions(),
            *(SubscriptionActions(self.grants, "success").actions() if self.feed else []),
            Action(RefuseWith, _refuse_with),
        ]
        replies = ReplyLog(self._database, keep_s=600, keep_per_caller=1_000)
        return Dispatcher(actions, self.grants, self._database, replies, PAYLOAD_BYTES)

    def _own_actions(self) -> Sequence[Action[Any]]:
        if self.name != SDT:
            return []
        assert self.audit is not None
        handlers = RegistryActions(
            self.registry,
            self.peers.public_key_of,
            may_be_local=lambda _: True,  # both agents are one machine
        )
        for host in ("mainpc", "pc2"):
            self.metrics.ingest(host, SAMPLE)
        measured = MetricsActions(self.metrics, VramReports(self._database), lambda _: None, Budgets(), dict).actions()
        listed = AttentionActions(self.attention).actions() if self.attention else []
        audit = AuditActions(self.audit).actions()
        return [*handlers.actions(), *measured, *audit, *self._key_actions(self.audit), *listed]

    def _list(self) -> Attention:
        """Return the list of what is wrong, as mainpc keeps it of pc2 and of itself, and of what a test finds."""
        reports = Reports(dict, self._database.clock)
        attention = Attention(self._database, Events(self._database), grace_s=30)
        attention.watch(
            "silent_hosts", lambda: silent_hosts("mainpc", seen_agents({UMRA: "pc2"}, self.registry, reports))
        )
        attention.watch("conditions", lambda: troubles_of("mainpc", self._health.conditions()))
        attention.watch("test", lambda: self.found)
        return attention

    def _key_actions(self, audit: AuditLog) -> Sequence[Action[Any]]:
        if self._keys is None:
            return []
        enrolled, retirements = self._keys / ENROLLED_FOLDER, Retirements(self._keys / "retirements.json")
        return KeyActions(self.peers, EnrolledKeys(enrolled), retirements, audit.record, 365).actions()

    def _on_tick(self) -> None:
        if self.audit is not None:
            self.audit.flush()
        if self.attention is not None:
            self.attention.on_tick()

    def _audit_handshake(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        assert self.audit is not None
        if outcome is not Outcome.ACCEPTED:
            self.audit.note(AuditEvent.HANDSHAKE_REFUSED, cause=outcome.value, **fields)

    def _health_document(self) -> dict[str, Any]:
        return {**self._health.document(), **self.document}


class TwoHosts:
    """Both agents, the folders of keys, and the settings that lead the command line to them."""

    def __init__(self, root: Path, *, secure: bool, validities: Mapping[str, Validity] | None = None) -> None:
        """Start both; `validities` are those of the keys, by stem, where they have an end."""
        root.mkdir()
        self.root, self.secure = root, secure
        good = {stem: (validities or {}).get(stem, UNLIMITED) for stem in ("server", "client", "operator")}
        owners = {
            "server": KeyOwner(SDT, "mainpc", frozenset({"agent"})),
            "client": KeyOwner(UMRA, "pc2", frozenset({"agent"})),
            "operator": KeyOwner("operator", "mainpc", frozenset({"operator"})),
        }
        pairs = self.pairs = {stem: KeyPair.generate(owner, good[stem]) for stem, owner in owners.items()}
        self.folders = {
            stem: host_folder(root / stem, stem, pair, **{other: pairs[other] for other in pairs if other != stem})
            for stem, pair in pairs.items()
        }
        self.fingerprints = {pair.certificate.owner.name: pair.public.fingerprint for pair in pairs.values()}
        self.mainpc = LoopbackAgent(SDT, self.folders["server"] if secure else None, root)
        self.pc2 = LoopbackAgent(UMRA, self.folders["client"] if secure else None, root)
        self.write_config(self.mainpc.port, self.pc2.port)

    @property
    def environment(self) -> dict[str, str]:
        """What the command line reads of its environment."""
        return {
            "SECURE_ZMQ": "1" if self.secure else "0",
            "NETWORK_CONFIG_PATH": str(self.root / "network_config.yaml"),
            "TWINHOST_CERTIFICATES": str(self.folders["operator"]),
            "MAINPC_IP": "",
            "PC2_IP": "",
        }

    def write_config(self, mainpc_port: int, pc2_port: int) -> None:
        """Write the network configuration that says where the agents are."""
        zmq_and_events = f"zmq: {mainpc_port}, events: {self.mainpc.events_port}"
        (self.root / "network_config.yaml").write_text(
            "hosts: {mainpc: {address: 127.0.0.1}, pc2: {address: 127.0.0.1}}\n"
            "agents:\n"
            f"  {SDT}: {{host: mainpc, key: server, ports: {{{zmq_and_events}, http: {self.mainpc.http_port}}}}}\n"
            f"  {UMRA}: {{host: pc2, key: client, ports: {{zmq: {pc2_port}, http: {self.pc2.http_port}}}}}\n"
            + GRANTS_LINE
            + RECALL_LINE
            + f"limits: {{max_payload_bytes: {PAYLOAD_BYTES}, heartbeat_s: 5, registration_ttl_s: 15,\n"
            "  stored_replies_s: 600, stored_replies_per_caller: 1000, key_lifetime_days: 365, metrics_interval_s: 5}\n"
        )

    def client(self, stem: str) -> Client:
        """Return a client of mainpc with the key of `server`, `client`, or `operator`."""
        address: ServerAddress = UnencryptedAddress(self.mainpc.address)
        if self.secure:
            keys = load_certificates(self.folders[stem])
            address = SecuredAddress(self.mainpc.address, keys.own_keys, keys.public_key())
        return Client(address)

    def register_umra(self) -> None:
        """Register pc2's agent with mainpc, as it does by itself at its start."""
        data = {"agent_id": UMRA, "agent_type": "memory", "host": "127.0.0.1", "port": self.pc2.port}
        with self.client("client") as client:
            client.call("register_agent", registration_data=data)
        self.wait_until_listed(lambda ids: "host_silent:pc2" not in ids)

    def wait_until_listed(self, wanted: Callable[[list[str]], bool]) -> None:
        """Wait until the ids of mainpc's list are as wanted."""
        with self.client("operator") as client:
            wait_until(
                lambda: wanted([item["id"] for item in client.call("get_attention")["items"]]), PATIENCE_S, "the list"
            )

    def stop(self) -> None:
        with ThreadPoolExecutor() as pool:  # each looks up every 0.2 s
            tuple(pool.map(LoopbackAgent.stop, (self.mainpc, self.pc2)))


class StartHosts(Protocol):
    """Starts both agents for a test, and ends them after it; `validities` are those of the keys, by stem."""

    def __call__(self, *, secure: bool = True, **validities: Validity) -> TwoHosts: ...


def _refuse_with(request: RefuseWith, _: Caller) -> Reply:
    raise NotFound(request.sentence)
