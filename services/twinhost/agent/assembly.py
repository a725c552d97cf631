"""The parts of an agent: the foundation that it is given, and the assembly that it returns."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol

import msgspec

from twinhost.agent.disk import Disk
from twinhost.agent.followed_files import Places
from twinhost.agent.health import Health, HealthActions
from twinhost.agent.keys_seen import SEEN_FILE
from twinhost.agent.live_config import GrantsListener
from twinhost.moments import SYSTEM_CLOCK, Clock, iso_time
from twinhost.secure_zmq.actions import Action, Translator, no_dialect
from twinhost.secure_zmq.budgets import Budgets, Usage
from twinhost.secure_zmq.dispatch import Counters, ElsewhereOf, RefusalListener, nowhere_else
from twinhost.secure_zmq.feed import Feed
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.store.database import Database

if TYPE_CHECKING:  # they need the extra `agent`, which a program that only calls agents does without
    from starlette.routing import BaseRoute

    from twinhost.agent.host_keys import HostKeys
    from twinhost.agent.log_troubles import Watched
    from twinhost.agent.settings import Settings
    from twinhost.agent.telemetry import Telemetry
    from twinhost.store.replication.replica import Before
    from twinhost.store.replication.snapshots import Beside


class StartAgain(Exception):
    """Raised in an agent's `on_tick` to restart it: the process ends, and the engine's restart policy starts it again.

    Replies are still sent; a request without a reply is retried by its client, and reaches the next process.
    """

    EXIT_STATUS: ClassVar[int] = 75  # EX_TEMPFAIL of sysexits.h: not 0, so that `on-failure` policies act too


@dataclass(frozen=True, slots=True)
class Followed:
    """What a standby of an agent needs besides the log, so that it has all that the active process has.

    `functions` are those of SQL that triggers call. `files` writes what transactions have moved to files, below the
    state folder that it is given, and `beside` copies these files into a snapshot. `state_files` are those in that
    folder which the log has too, without the agent's name.
    """

    functions: Mapping[str, Callable[[str], str]] = field(default_factory=dict)
    files: "Callable[[Path], Before] | None" = None
    beside: "Beside | None" = None
    state_files: Sequence[str] = ()

    def places(self, settings: "Settings") -> Places:
        """Return where the files are that the log has; of a secured link."""
        assert settings.certificates is not None
        own = tuple(f"{settings.agent.name}.{name}" for name in (SEEN_FILE, *self.state_files))
        return Places(settings.certificates.folder, settings.agent.key, settings.state, own)


MAX_PAGE_BYTES = 262_144  # of a reply with a list: a peer may send many requests before it reads a reply


class Companion(Protocol):
    """A thread that an agent runs besides its server."""

    @property
    def responsive(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Publisher:
    """Publishes events on the agent's feed, which is bound after the agent was assembled."""

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self.feed: Feed | None = None

    def publish(self, topic: bytes, publisher: str = "", /, **fields: Any) -> None:
        """Send an event to the subscribers of its topic, for an identity or the agent itself; from any thread."""
        if self.feed is not None and self.feed.wants(topic):
            payload = msgspec.json.encode({"timestamp": iso_time(self._clock.time()), **fields})
            self.feed.publish(topic, payload, publisher)


@dataclass(frozen=True, slots=True)
class Foundation:
    """What an agent is built on."""

    settings: "Settings"
    database: Database
    keys: "HostKeys"
    handshakes: Handshakes
    health: Health
    counters: Counters
    publisher: Publisher
    telemetry: "Telemetry"
    budgets: Budgets
    usage: Usage
    disk: Disk
    log: "Watched | None" = None  # that a standby follows

    @property
    def clock(self) -> Clock:
        """The one clock of the agent's parts."""
        return self.database.clock

    def is_live(self, name: str) -> bool:
        """Return whether a key of an identity is authorised now; on an open link every identity is live."""
        return not self.settings.secure or self.keys.peers.caller_named(name) is not None


@dataclass(frozen=True, slots=True)
class Assembly:
    """What is specific to one agent: its actions, listeners and threads."""

    actions: Sequence[Action[Any]]
    success: Literal["ok", "success"]  # the `status` of a successful reply
    sentence_fields: tuple[str, ...] = ("error",)
    translate: Translator = no_dialect
    health: HealthActions | None = None  # if its health document has more fields than the default
    on_tick: Callable[[], None] = lambda: None
    on_collect: Callable[[], None] = lambda: None  # once a second while somebody reads the HTTP routes that wait for it
    on_refusal: RefusalListener = lambda *_: None
    elsewhere: ElsewhereOf = nowhere_else  # where a request changes another store than the foundation's
    on_grants: GrantsListener = lambda *_: None
    on_stop: Callable[[], None] = lambda: None
    companions: Sequence[Companion] = field(default=())
    routes: "Sequence[BaseRoute]" = field(default=())  # HTTP routes besides health and metrics
