"""The process: it looks at the attention list, keeps what is told, and has it delivered, each destination on a thread.

It is a registered agent without a port: its heartbeats show that it runs, and their status, what it can't deliver.
"""

import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
import structlog

from twinhost.agent.troubles import Kind
from twinhost.certificates.layout import NOTIFY
from twinhost.deployment import MEMORY_AGENT, Settings
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config.model import NetworkConfig, Notify
from twinhost.notify.destinations import Destination, NotTaken, destinations_of
from twinhost.notify.outbox import MIGRATIONS, Letter, Outbox
from twinhost.notify.rules import Message, Policy, Rules, View
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError, NotFound, TwinhostError, UnexpectedReply
from twinhost.store.database import Database
from twinhost.store.files import exclusive_lock
from twinhost.worker import Worker

_log = structlog.get_logger(__name__)

FILE, LOCK_FILE = "notify.db", "notify.lock"
_TICK_S = 0.5
_LOOK_EVERY_S = 2.0
_ASK_S = 3.0  # for how long an agent may take to answer
_FAILS_AFTER_S = 600.0  # for which a destination takes nothing, until the status says so
_HEALTHY = "HEALTHY"
_MAX_STATUS = 64
_END_S = 4.0  # for a delivery that is under way; the container is killed after 10


class Notifier:
    """The loop, and what it holds; `run` returns when `stop` is called."""

    def __init__(self, settings: Settings, state: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        """Open the outbox and read the secrets.

        Raises:
            ConfigurationError: there is no section `notify`, something in it can't be used, or another process sends.
        """
        source, notify = settings.config.source, required(settings.config)
        self._clock = clock
        destinations = destinations_of(source, notify)
        self._unlock = exclusive_lock(state / LOCK_FILE)
        self._database = Database(state / FILE, MIGRATIONS, clock)
        self._outbox = Outbox(self._database)
        self._couriers = [Courier(destination, self._outbox, clock) for destination in destinations]
        self._destinations = [destination.name for destination in destinations]
        self._drop()
        self._rules = Rules(policy_of(source, notify), self._outbox.memory(), clock.time())
        self._hosts = Hosts(settings)
        self._heartbeat_s = settings.config.limits.heartbeat_s
        self._look_at, self._beat_at = 0.0, 0.0
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Have `run` return; on any thread, and in a signal handler."""
        self._stopping.set()

    def run(self) -> None:
        """Look, tell, and deliver, until it is stopped."""
        for courier in self._couriers:
            courier.start()
        _log.info("notify_started", destinations=self._destinations)
        try:
            while not self._stopping.wait(_TICK_S):
                self._tick()
        finally:
            for courier in self._couriers:
                courier.request_stop()
            self._hosts.say_goodbye()
            self._hosts.close()
            for courier in self._couriers:
                courier.join()
            if not any(courier.alive for courier in self._couriers):
                self._database.close()
            self._unlock()

    def _tick(self) -> None:
        now = self._clock.monotonic()
        if now >= self._look_at:
            self._look_at = now + _LOOK_EVERY_S
            self._rules.see(self._hosts.look(), self._clock.time())
        self._tell()
        if now >= self._beat_at:
            self._beat_at = now + self._heartbeat_s
            self._hosts.beat(self._status())

    def _tell(self) -> None:
        now = self._clock.time()
        message = self._rules.due(now)
        self._outbox.keep(self._rules.memory, message, self._destinations, now)
        if message is not None:
            _log.info("message_queued", title=message.title, level=message.level)
            self._drop()

    def _drop(self) -> None:
        if dropped := self._outbox.drop(self._destinations, self._clock.time()):
            _log.error("messages_dropped", number=dropped, reason="not accepted for a week, or the destination is gone")

    def _status(self) -> str:
        """Return what the heartbeat says: the attention list has what is not healthy."""
        if self._outbox.fault is not None:
            return "can't store its messages"
        now = self._clock.time()
        failing = [
            name
            for name in self._destinations
            if (since := self._outbox.waits_since(name)) is not None and now - since >= _FAILS_AFTER_S
        ]
        return f"can't deliver to {', '.join(failing)}"[:_MAX_STATUS] if failing else _HEALTHY


class Courier(Worker):
    """Delivers the messages of one destination, one at a time, on a thread of its own."""

    def __init__(self, destination: Destination, outbox: Outbox, clock: Clock) -> None:
        super().__init__(f"notify-{destination.name}", self._deliver_all, join_timeout_s=_END_S)
        self._destination, self._outbox, self._clock = destination, outbox, clock

    def _deliver_all(self) -> None:
        while not self.wait(_TICK_S):
            while not self.stopping and (letter := self._outbox.due(self._destination.name, self._clock.time())):
                self._deliver(letter)

    def _deliver(self, letter: Letter) -> None:
        name = self._destination.name
        try:
            answer = self._destination.send(msgspec.json.decode(letter.message, type=Message), letter.message_id)
        except (NotTaken, TwinhostError) as error:
            wait_s = self._outbox.failed(letter, self._clock.time())
            _log.warning("message_not_delivered", destination=name, reason=str(error), retry_in_s=wait_s)
        except Exception:  # noqa: BLE001 - boundary: one message must not end the deliveries
            self._outbox.failed(letter, self._clock.time())
            _log.exception("delivery_fault", destination=name)
        else:
            self._outbox.delivered(letter)
            _log.info("message_delivered", destination=name, message=letter.message_id, answer=answer)


class Hosts:
    """Both agents: the list of mainpc, or what pc2 can tell without it, and this process's own registration."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._clients: dict[str, Client] = {}
        self._registered = False
        self._unheard = False

    def look(self) -> View:
        """Return the list as it can be had now."""
        mainpc = self._settings.registry_agent.name
        try:
            view = _view(self._call(mainpc, "get_attention"))
        except TwinhostError as error:
            fault = str(error)
            if not self._unheard:
                _log.warning("mainpc_unheard", reason=fault)
            self._unheard = True
        else:
            if self._unheard:
                _log.info("mainpc_heard")
            self._unheard = False
            return view
        try:
            items = _view(self._call(MEMORY_AGENT, "get_attention")).items
        except TwinhostError:
            return View((), fault)
        if all(item["id"] != Kind.MAINPC_SILENT for item in items):
            return View((), fault)
        return View([item for item in items if "last_known" not in item], fault)

    def beat(self, status: str) -> None:
        """Send a heartbeat to mainpc; what hinders it is shown there as silence."""
        self._report(status=status)

    def say_goodbye(self) -> None:
        """Say that this process stops."""
        if self._registered:
            self._report(stopping=True)

    def close(self) -> None:
        """Close the connections."""
        for client in self._clients.values():
            client.close()

    def _report(self, **said: Any) -> None:
        mainpc = self._settings.registry_agent.name
        try:
            if not self._registered:
                self._call(mainpc, "register_agent", agent_name=self._name, **said)
                self._registered = True
            self._call(mainpc, "heartbeat", agent_name=self._name, **said)
        except TwinhostError as error:
            self._registered = self._registered and not isinstance(error, NotFound)
            _log.debug("heartbeat_failed", reason=str(error))

    @property
    def _name(self) -> str:
        keys = self._settings.certificates
        return NOTIFY if keys is None else keys.own_keys.certificate.owner.name

    def _call(self, agent: str, action: str, **fields: Any) -> Mapping[str, Any]:
        if agent not in self._clients:
            self._clients[agent] = self._settings.client(self._settings.config.agent(agent))
        return self._clients[agent].call(action, deadline_s=_ASK_S, **fields)


def _view(reply: Mapping[str, Any]) -> View:
    try:
        return msgspec.convert({"items": reply.get("items"), "ending": reply.get("ending", [])}, View)
    except msgspec.ValidationError as error:
        raise UnexpectedReply(f"the attention list has another form ({error})") from None


def required(config: NetworkConfig) -> Notify:
    """Return the section `notify`.

    Raises:
        ConfigurationError: there is none.
    """
    if config.notify is None:
        raise ConfigurationError(
            f"{config.source} has no section `notify`; add one: docs/how-to/get-messages.md has examples"
        )
    return config.notify


def policy_of(source: str, notify: Notify) -> Policy:
    """Return when people want to be told.

    Raises:
        ConfigurationError: the time zone is not known here.
    """
    try:
        zone = ZoneInfo(notify.timezone)
    except (OSError, ValueError, KeyError):
        raise ConfigurationError(
            f"{source}: notify.timezone must be a time zone that is known here, such as Europe/Lisbon, not "
            f"{notify.timezone!r}"
        ) from None
    return Policy(zone, notify.quiet_hours, notify.quiet_lets_through, notify.digest)
