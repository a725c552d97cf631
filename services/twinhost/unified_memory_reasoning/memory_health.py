"""UnifiedMemoryReasoningAgent's health document, with which it answers a ping too."""

from typing import TypedDict

from twinhost.agent.common_actions import GetHealth, HealthActions, HealthCheck, Ping
from twinhost.agent.replies import HealthDocument
from twinhost.secure_zmq.actions import action
from twinhost.secure_zmq.callers import Caller


class Totals(TypedDict):
    """How many rows there are of each kind, those of hidden writers and forgotten memories among them."""

    total_twins: int
    total_sessions: int
    total_interactions: int
    total_memories: int
    total_error_patterns: int


class OutboxDocument(TypedDict):
    """What mainpc is owed; `oldest` (ISO-8601) is null where nothing waits, `let_go` counts by kind what gave way."""

    waiting: int
    oldest: str | None
    set_aside: int
    let_go: dict[str, int]


class MemoryHealth(HealthDocument, Totals):
    """The agent's health, its counts since the start, and its totals; `last_request_time` is null before the first."""

    request_count: int
    error_count: int
    last_request_time: str | None
    outbox: OutboxDocument


class MemoryHealthActions(HealthActions):
    """The agent's health document, with which it answers a ping too, as its clients expect."""

    @action()
    def ping(self, _: Ping, __: Caller) -> MemoryHealth:
        document: MemoryHealth = self.document()
        return document

    @action(forwardable=True)
    def health(self, _: GetHealth, __: Caller) -> MemoryHealth:
        document: MemoryHealth = self.document()
        return document

    @action(forwardable=True)
    def health_check(self, _: HealthCheck, __: Caller) -> MemoryHealth:
        document: MemoryHealth = self.document()
        return document
