"""What an agent is assembled on, and of."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

import msgspec
from starlette.routing import BaseRoute

from twinhost.agent.common_actions import HealthActions
from twinhost.agent.grants_watch import Told
from twinhost.agent.health import Health, iso_time
from twinhost.agent.host_keys import HostKeys
from twinhost.agent.settings import Settings
from twinhost.agent.telemetry import Telemetry
from twinhost.secure_zmq.actions import Action, Translator, no_dialect
from twinhost.secure_zmq.dispatch import Counters, RefusalListener
from twinhost.secure_zmq.feed import Feed
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.store.database import Database

MAX_PAGE_BYTES = 262_144  # of an answer that lists things: a peer may ask for many before it reads one


class Companion(Protocol):
    """A thread that an agent runs beside its server."""

    @property
    def responsive(self) -> bool: ...
    def start(self) -> None: ...
    def stop(self) -> None: ...


class Publisher:
    """The agent's event feed, as those see it who have events; it is bound after they were assembled."""

    def __init__(self) -> None:
        self._feed: Feed | None = None

    def bind(self, feed: Feed) -> None:
        """Publish on this feed from now on."""
        self._feed = feed

    def publish(self, topic: bytes, **fields: Any) -> None:
        """Send an event to whoever subscribes to its topic; safe to call from any thread."""
        if self._feed is not None and self._feed.wants(topic):
            self._feed.publish(topic, msgspec.json.encode({"timestamp": iso_time(time.time()), **fields}))


@dataclass(frozen=True, slots=True)
class Foundation:
    """What an agent is assembled on."""

    settings: Settings
    database: Database
    keys: HostKeys
    handshakes: Handshakes
    health: Health
    counters: Counters
    publisher: Publisher
    telemetry: Telemetry


@dataclass(frozen=True, slots=True)
class Assembly:
    """What makes an agent this agent."""

    actions: Sequence[Action[Any]]
    success: Literal["ok", "success"]  # the word in `status` that its clients know
    sentence_fields: tuple[str, ...] = ("error",)
    translate: Translator = no_dialect
    health: HealthActions | None = None  # where its health document says more than every agent's
    on_tick: Callable[[], None] = lambda: None
    on_refusal: RefusalListener = lambda *_: None
    on_grants: Told = lambda *_: None
    on_stop: Callable[[], None] = lambda: None
    companions: Sequence[Companion] = field(default=())
    routes: Sequence[BaseRoute] = field(default=())  # what it shows over HTTP beside its health and metrics
