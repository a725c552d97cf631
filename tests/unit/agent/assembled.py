"""An agent as it is assembled from its settings, without a socket and without its threads."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from tests.new_database import open_database
from tests.unit.asked import Asked
from twinhost.agent.assembly import Assembly, Foundation, Publisher
from twinhost.agent.disk import Disk
from twinhost.agent.health import Health, HealthActions
from twinhost.agent.host_keys import HostKeys
from twinhost.agent.settings import load_settings
from twinhost.agent.telemetry import Telemetry
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import plan_layout
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.budgets import Budgets, Usage
from twinhost.secure_zmq.callers import Caller, Grants
from twinhost.secure_zmq.dispatch import Counters
from twinhost.secure_zmq.framing.inbound import Inbound, Job
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.store.replication.looks import LogState
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA


def environment_of(home: Path, folder: str, *, secure: bool = True, **limits: Any) -> dict[str, str]:
    """Make keys, a configuration and a state folder below `home`, and return the environment of a host.

    The configuration is the shipped one, with a search by words alone: the threads of another are not started here.
    It has these limits besides.
    """
    make_keys(plan_layout(home / "certificates", load_network_config(DEFAULT_PATH, {}), None))
    (home / "state").mkdir(exist_ok=True)
    config = yaml.safe_load(DEFAULT_PATH.read_text("utf-8"))
    config |= {"recall": {"embeddings": "off"}, "limits": {**config["limits"], **limits}}
    (home / "words_alone.yaml").write_text(yaml.safe_dump(config), "utf-8")
    return {
        "SECURE_ZMQ": "1" if secure else "0",
        "NETWORK_CONFIG_PATH": str(home / "words_alone.yaml"),
        "TWINHOST_CERTIFICATES": str(home / "certificates" / folder),
        "TWINHOST_STATE": str(home / "state"),
    }


@dataclass
class SeenLog:
    """What is seen of the log that standbys follow; nothing, until a test has it."""

    state: LogState | None = None
    holder: str = "mainpc"
    witness_fault: str | None = None


class Assembled(Asked):
    """An agent's actions and dialects on its real store; `ask` is what a client of it would see."""

    def __init__(
        self,
        name: str,
        migrations: Sequence[str],
        assemble: Callable[[Foundation], Assembly],
        environment: dict[str, str],
        clock: Clock = SYSTEM_CLOCK,
        grants: Grants | None = None,
    ) -> None:
        settings = load_settings(name, environment)
        self.live = settings.live
        self.callers: dict[str, Caller] = {}  # that a forwarded request may name
        self.database = open_database(settings.state / f"{name}.sqlite3", [REPLY_LOG_SCHEMA, *migrations], clock)
        self.health = Health(name, settings.secure, clock)
        self.keys = HostKeys(settings, clock)
        counters = Counters()
        self.handshakes = Handshakes()
        self.telemetry = Telemetry(name, clock)
        budgets = Budgets(lambda: settings.config.limits.budgets)
        self.usage = Usage(budgets, self.keys.peers.caller_named)
        self.disk = Disk(settings.state, budgets, settings.config.limits.disk_reserve_bytes, clock)
        self.disk.count(self.database)
        self.log = SeenLog()
        self.assembly = assemble(
            Foundation(
                settings,
                self.database,
                self.keys,
                self.handshakes,
                self.health,
                counters,
                Publisher(clock),
                self.telemetry,
                budgets,
                self.usage,
                self.disk,
                self.log,
            )
        )
        self.answer_to(
            [*self.assembly.actions, *(self.assembly.health or HealthActions(self.health.document)).actions()],
            grants or Grants(settings.config.grants),
            settings.config.limits.max_payload_bytes,
            translate=self.assembly.translate,
            sentence_fields=self.assembly.sentence_fields,
            counters=counters,
            on_refusal=self.assembly.on_refusal,
            share_of=self.disk.share_of,
            caller_named=self.callers.get,
            elsewhere=self.assembly.elsewhere,
        )

    def close(self) -> None:
        self.assembly.on_stop()
        super().close()

    def send(self, message: bytes, caller: Caller) -> Any:
        """Return the JSON that one message is answered with."""
        (reply,) = self.answer([Inbound(message, caller)])
        return reply

    @property
    def begun(self) -> Job | None:
        """The request that the last batch has left with some of its parts done."""
        return self._dispatcher.begun
