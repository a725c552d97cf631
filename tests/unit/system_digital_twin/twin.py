"""SystemDigitalTwin without a socket: its handlers on a real database, and a clock that can be set forward."""

import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.configuration import SHIPPED
from tests.new_database import open_database
from tests.older_database import REPLY_LOG_MIGRATIONS
from tests.unit.asked import Asked
from twinhost import moments
from twinhost.agent.health import HealthActions
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller, Grants
from twinhost.system_digital_twin.registry.actions import RegistryActions
from twinhost.system_digital_twin.registry.registry import MIGRATION, MIGRATION_STOPPED, Registry

TTL_S = 15.0
SDT = Caller("SystemDigitalTwin", "mainpc", frozenset({"agent"}), "SHA256:of-sdt")
UMRA = Caller("UnifiedMemoryReasoningAgent", "pc2", frozenset({"agent"}), "SHA256:of-umra")
OPERATOR = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")
NOBODY = UNAUTHENTICATED
PUBLIC_KEYS = {UMRA.name: b"rq:rM>}U?@Lns47E1%kR.o@n%FcmmsL/@{H8]yf7"}


class Clock(moments.Clock):
    """Real time, plus what a test has let pass; the latter alone on demand."""

    def __init__(self) -> None:
        self._monotonic: Callable[[], float] = time.monotonic
        self._wall: Callable[[], float] = time.time
        self._passed_s = 0.0
        self._set_by_s = 0.0

    def stand_still(self) -> None:
        """Let no time pass from now on but what a test lets pass."""
        wall = time.time()
        self._wall = lambda: wall
        now = math.ceil(1_024 * time.monotonic()) / 1_024  # with few bits, so that no sum with it is rounded
        self._monotonic = lambda: now

    def let_pass(self, seconds: float) -> None:
        self._passed_s += seconds

    def set_wall_clock(self, by_seconds: float) -> None:
        """Set the wall clock, as NTP or a person does; no time passes."""
        self._set_by_s += by_seconds

    def monotonic(self) -> float:
        return self._monotonic() + self._passed_s

    def time(self) -> float:
        return self._wall() + self._passed_s + self._set_by_s


class Twin(Asked):
    """The agent's actions; `ask` is what a client of it would see."""

    CALLER = UMRA

    def __init__(self, path: Path, clock: Clock) -> None:
        self._path = path
        self._clock = clock
        self.logged = False  # whether a standby follows
        self.open()

    def open(self) -> None:
        """Open the database, as a start of the agent does."""
        migrations = [*REPLY_LOG_MIGRATIONS, MIGRATION, MIGRATION_STOPPED]
        self.database = open_database(self._path, migrations, self._clock, logged=self.logged)
        self.registry = Registry(self.database, TTL_S)
        actions = [*RegistryActions(self.registry, PUBLIC_KEYS.get).actions(), *HealthActions(dict).actions()]
        self.answer_to(actions, Grants(SHIPPED.grants), 65_536)

    def register(self, caller: Caller = UMRA, name: str | None = None, **data: Any) -> dict[str, Any]:
        """Register with the longer form."""
        registration = {"agent_id": name or caller.name, "agent_type": "memory", "host": "pc2", "port": 7230, **data}
        return self.ask("register_agent", caller, registration_data=registration)

    def status_of(self, name: str) -> str:
        """Return an agent's status as everybody sees it."""
        agents = self.ask("get_all_agents")["agents"]
        return str(agents[name]["status"])

    def rows(self) -> dict[str, dict[str, Any]]:
        """Return the registrations as the file has them."""
        rows = self.database.execute("SELECT name, record FROM agents").fetchall()
        return {name: json.loads(record) for name, record in rows}


__all__ = ["NOBODY", "OPERATOR", "PUBLIC_KEYS", "SDT", "TTL_S", "UMRA", "Clock", "Twin"]
