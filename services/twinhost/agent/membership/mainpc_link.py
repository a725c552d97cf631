"""The link to mainpc: register, send heartbeats, and come back whatever happens to either side.

Between two heartbeats it tells what this host has measured, and then what is owed to mainpc. While mainpc is out of
touch nothing is told; what is measured meanwhile is owed too.
"""

import random
import threading
import time
from collections.abc import Callable, Sequence

import structlog

from twinhost.agent.host_metrics.sample import HostSample
from twinhost.agent.membership.audit_witness import AuditWitness
from twinhost.agent.membership.owed_queue import OwedQueue
from twinhost.agent.membership.owed_sender import CALL_DEADLINE_S, OwedSender
from twinhost.agent.membership.sample_reports import SampleReports
from twinhost.agent.trust import TrustFolder, read_document
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, NotFound, RequestError, StoreUnavailable
from twinhost.secure_zmq.server_address import ServerAddress

_log = structlog.get_logger(__name__)

_LOOK_S = 0.1  # how often it looks for what is to be told
_RETRY_S = 1.0  # with jitter, so that many agents don't come back at one moment


class MainpcLink:
    """Keeps one agent registered with SystemDigitalTwin, on a thread of its own."""

    def __init__(
        self,
        server: ServerAddress,
        agent: Agent,
        heartbeat_s: float,
        max_payload_bytes: int,
        trust: TrustFolder | None,
        owed: OwedQueue | None = None,
        status: Callable[[], str] = lambda: "HEALTHY",
        agent_type: str = "agent",
        capabilities: Sequence[str] = (),
        dependencies: Sequence[str] = (),
        witness: AuditWitness | None = None,
    ) -> None:
        """Keep `agent` registered with the agent at `server`.

        Args:
            trust: follows whom mainpc trusts.
            owed: what waits for mainpc.
            status: what to say of this agent with every heartbeat.
            agent_type: what it registers as, with what it can do and whom it needs.
            witness: keeps the heads of mainpc's audit log.
        """
        self._described = {
            "agent_type": agent_type,
            "capabilities": list(capabilities),
            "dependencies": list(dependencies),
        }
        self._status = status
        self._server = server
        self._trust = trust
        self._witness = witness
        self._trusted: str | None = None  # the revision that the folder has
        self._agent = agent
        self._heartbeat_s = heartbeat_s
        self._max_payload_bytes = max_payload_bytes
        queue = owed if owed is not None else OwedQueue()
        self._samples = SampleReports(agent.host.name, queue)
        self._owed = OwedSender(queue)
        self._registered = False
        self._registration: object = None  # the digest of this agent's own record at mainpc
        # Whether what led to this turn may have led every other agent to one just now: a start, mainpc's return, a key
        # that came or went. The wait after it is drawn, else they would go on coming at one moment.
        self._with_others = True
        self._fault: str | None = "not registered yet"
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._thread = threading.Thread(target=self._run, name="mainpc-link", daemon=True)

    @property
    def fault(self) -> str | None:
        """Why this agent is not in touch with mainpc; None while it is."""
        return self._fault

    @property
    def responsive(self) -> bool:
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def take(self, sample: HostSample) -> None:
        """Tell mainpc what this host has measured of itself, now or once it is in touch; from any thread."""
        self._samples.take(sample)

    def wake(self) -> None:
        """Take the next turn now: something at mainpc has changed."""
        self._wake.set()

    def stop(self) -> None:
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout=CALL_DEADLINE_S + 0.5)

    def _run(self) -> None:
        with Client(self._server, max_payload_bytes=self._max_payload_bytes) as client:
            while not self._stop.is_set():
                self._tell_until(client, time.monotonic() + self._turn(client))
                self._wake.clear()

    def _tell_until(self, client: Client, next_turn: float) -> None:
        """Tell what there is to tell until the next turn is due, or until somebody wakes this thread."""
        while not self._wake.is_set() and (left_s := next_turn - time.monotonic()) > 0:
            if self._fault is not None:
                self._samples.owe_all()
                self._wake.wait(min(left_s, _LOOK_S))
                continue
            try:
                told = self._samples.send_one(client) or self._owed.send_one(client)
            except ConnectionRefused:
                return  # the next heartbeat tells what is wrong with the link
            if not told:
                self._wake.wait(min(left_s, _LOOK_S))

    def _turn(self, client: Client) -> float:
        """Register or send a heartbeat; return how many seconds to wait until the next turn."""
        try:
            if self._registered:
                asked, seen = self._witness.question() if self._witness else (None, {})
                reply = client.call(
                    "heartbeat",
                    deadline_s=CALL_DEADLINE_S,
                    agent_name=self._agent.name,
                    status=self._status(),
                    trust_revision=self._trusted,
                    **seen,
                )
                if self._witness is not None:
                    self._witness.take(asked, reply)
                if reply.get("registration") != self._registration:
                    _log.warning("registration_changed", effect="this agent registers again")
                    self._registered = False
                    return 0
                if self._follow_trust(client, reply.get("trust_revision")):
                    self._with_others = True
                    return 0  # the next one tells mainpc that it is followed
            else:
                reply = client.call(
                    "register_agent", deadline_s=CALL_DEADLINE_S, registration_data=self._registration_data()
                )
                self._registered, self._registration = True, reply.get("registration")
                _log.info("registered", server=self._server.address)
                return 0
        except NotFound:  # mainpc lost its registry, or somebody removed this agent
            self._registered = False
            return 0
        except (ConnectionRefused, RequestError) as error:
            if self._fault is None or type(error).__name__ not in self._fault:
                _log.warning("mainpc_out_of_touch", cause=type(error).__name__, reason=str(error))
            self._fault = f"{type(error).__name__}: {error}"
            self._with_others = True
            self._samples.owe_all()  # here too: where the call took its whole time, the next turn is due already
            return _RETRY_S * random.uniform(0.5, 1.0)  # noqa: S311 - jitter, not a secret
        if self._fault is not None:
            _log.info("mainpc_in_touch", server=self._server.address)
            self._owed.back_in_touch()
        self._fault = None
        share = random.random() if self._with_others else 1.0  # noqa: S311 - jitter, not a secret
        self._with_others = False
        return self._heartbeat_s * share

    def _follow_trust(self, client: Client, revision: object) -> bool:
        """Take over whom mainpc trusts, where that has changed; return whether it had."""
        if self._trust is None or revision in (None, self._trusted):
            return False
        try:
            document = read_document(client.call("get_trust", deadline_s=CALL_DEADLINE_S))
            self._trust.apply(document)
        except OSError as error:
            raise StoreUnavailable(f"the trust folder can't be written ({error}); free space on the volume") from None
        self._trusted = document.revision
        return True

    def _registration_data(self) -> dict[str, object]:
        return {
            "agent_id": self._agent.name,
            **self._described,
            "host": self._agent.host.address,
            "port": self._agent.zmq_port,
            "health_check_port": self._agent.http_port,
            "metadata": {"location": self._agent.host.name},
        }
