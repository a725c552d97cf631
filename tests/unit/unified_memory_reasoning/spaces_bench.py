"""pc2's agent with spaces in its configuration, and who asks it."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from tests.unit.agent.assembled import Assembled, environment_of
from twinhost.cli.schemas.requests import RequestSchema, checked_requests
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.schema import schema_of
from twinhost.secure_zmq.callers import Caller
from twinhost.store.backup import prepare
from twinhost.unified_memory_reasoning.__main__ import FEATURES, MIGRATIONS, NAME, REBUILDS, assemble
from twinhost.unified_memory_reasoning.spaces.access import InSpace

ALICE, BOB, MALLORY = (
    Caller(name, "pc2", frozenset({"agent"}), f"SHA256:of-{name}") for name in ("alice", "bob", "mallory")
)
OPERATOR = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")
DECLARED = {"research": {"writers": ["alice"], "readers": ["bob"]}}
DECLARATIONS = [entry for feature in FEATURES for entry in feature.declarations()]
IN_SPACES = sorted({str(e.request.__struct_config__.tag) for e in DECLARATIONS if issubclass(e.request, InSpace)})
_OF_ALL_REQUESTS = ("uptime_s", "last_request_time", "request_count", "error_count")  # of health, whoever asked
_CHANGING = re.compile(r"\b[0-9a-f]{32}\b|recalled-\w+|\b\d{4}-\d\d-\d\dT[0-9:.]+\+00:00")  # ids, tags, and times


def requests() -> RequestSchema:
    """Return the requests of pc2's agent, with an example of each."""
    return checked_requests(NAME, json.loads(json.dumps(schema_of(NAME), default=str)))


class WithSpaces:
    """An agent's state and configuration in a folder, for one start after another; every agent is granted all."""

    def __init__(self, home: Path, *, secure: bool = True, budgets: Mapping[str, Any] | None = None) -> None:
        self._budgets = budgets
        self._environment = environment_of(home, "pc2", secure=secure)
        self.config = Path(self._environment["NETWORK_CONFIG_PATH"])
        self.state = Path(self._environment["TWINHOST_STATE"])
        self.folder = self.state / "spaces"
        self.declare(DECLARED)

    def declare(self, spaces: dict[str, Any]) -> None:
        """Write these spaces into the configuration."""
        config = yaml.safe_load(self.config.read_text("utf-8"))
        config["grants"] |= {"agent": ["*"], "unauthenticated": [*IN_SPACES, "list_spaces"]}
        config["limits"]["max_payload_bytes"] = 65_536  # as the dispatcher here has it
        if self._budgets is not None:
            config["limits"]["budgets"] = self._budgets
        self.config.write_text(yaml.safe_dump({**config, "spaces": spaces}), "utf-8")

    def start(self, clock: Clock = SYSTEM_CLOCK) -> Assembled:
        """Return the agent as a start assembles it, with a staged backup in its place."""
        prepare(self.state / f"{NAME}.sqlite3", REBUILDS)
        return Assembled(NAME, MIGRATIONS, assemble, self._environment, clock)


def lasting(reply: dict[str, Any]) -> str:
    """Return a reply without what differs from one start to the next: random ids, and times."""
    reply = {name: value for name, value in reply.items() if name not in _OF_ALL_REQUESTS}
    return _CHANGING.sub("…", json.dumps(reply))
