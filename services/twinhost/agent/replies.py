"""What every agent answers, as types: a handler's dict is checked against them, and the schemas have them.

A reply repeats the request's `request_id` where it had one, and lists in `ignored_fields` the names of the request's
fields that its action doesn't know, where there are any; no type says so, since the dispatcher adds both.
"""

from typing import Literal, NotRequired, TypedDict


class Refusal(TypedDict):
    """Any request's other answer: `code` for programs, and a sentence for people, which pc2 repeats as `reason`."""

    status: Literal["error"]
    code: str
    error: str
    reason: NotRequired[str]


class Pong(TypedDict):
    """Somebody is there."""

    status: Literal["ok"]
    message: Literal["pong"]
    timestamp: str


class CheckDocument(TypedDict):
    """What became of one check; `detail` is `ok`, or what is wrong."""

    ok: bool
    detail: str


class HealthDocument(TypedDict):
    """An agent's state as it was found; `warning` is there on an open link."""

    status: Literal["ok", "degraded", "error"]
    ready: bool
    agent: str
    version: dict[str, str]
    timestamp: str
    uptime_s: float
    secure: bool
    checks: dict[str, CheckDocument]
    warnings: list[str]
    warning: NotRequired[str]


class PeerDocument(TypedDict):
    """An authorised peer; `sessions` counts its connections, and `last_seen` is null until it asks for something."""

    name: str
    host: str
    roles: list[str]
    fingerprint: str
    not_before: str | None
    not_after: str | None
    standing: str
    sessions: int
    last_seen: str | None


class Peers(TypedDict):
    """Who may come, who is connected, whose fingerprints are revoked, and how handshakes ended, by outcome."""

    status: Literal["ok", "success"]
    peers: list[PeerDocument]
    revoked: list[str]
    handshakes: dict[str, int]


class ProbesAnnounced(TypedDict):
    """For how long the announced refusals are counted apart."""

    status: Literal["ok", "success"]
    window_s: float
