"""Health checks, the health document, and the actions that every agent has: ping, health, peers.

A reply repeats the request's `request_id` if it had one, and lists in `ignored_fields` the names of the request's
fields that its action doesn't know, if any; the dispatcher adds both, so no type has them.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal, NotRequired, TypedDict

from twinhost.agent.conditions import Condition
from twinhost.moments import SYSTEM_CLOCK, Clock, iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.budgets import SHOWN, Usage, Used
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.keys import format_moment
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.server_address import OPEN_LINK_WARNING
from twinhost.secure_zmq.sessions import CallerSource
from twinhost.secure_zmq.wire import Request
from twinhost.version import versions

Probe = Callable[[], str | None]  # what is wrong, or None


class Refusal(TypedDict):
    """The error reply of any request: `code` for programs, a sentence for people, which pc2 repeats as `reason`.

    With the code `conflict`, `revision` is the current revision.
    """

    status: Literal["error"]
    code: str
    error: str
    reason: NotRequired[str]
    revision: NotRequired[int]


class Pong(TypedDict):
    """The agent runs."""

    status: Literal["ok"]
    message: Literal["pong"]
    timestamp: str


class CheckDocument(TypedDict):
    """The result of one check; `detail` is `ok`, or what is wrong."""

    ok: bool
    detail: str


class UseDocument(TypedDict):
    """How much of which limit of its budget an identity uses; `share` is `used` of `most`."""

    name: str
    limit: str
    used: float
    most: float
    share: float


class StandbyDocument(TypedDict):
    """A standby that follows: how many transactions it is behind, and for how long it has said nothing."""

    name: str
    behind: int
    silent_s: float


class WitnessDocument(TypedDict):
    """The witness of the databases, and whether it answers the active process."""

    name: str
    answers: bool


class RoleDocument(TypedDict):
    """What a process is in the log that a standby follows; `epoch` is the one that the active process holds.

    `holder` is the machine that is active, null if none is; `transactions` are those that this process has. `copies`
    counts the databases that have each commit; it is null where only the service that runs them knows.
    """

    role: Literal["active", "standby"]
    since: str
    epoch: NotRequired[int]
    holder: NotRequired[str | None]
    transactions: NotRequired[int]
    standbys: NotRequired[list[StandbyDocument]]
    copies: NotRequired[int | None]
    witness: NotRequired[WitnessDocument]


class HealthDocument(TypedDict):
    """The results of an agent's checks; `warning` is present on an open link, and `log` if a standby may follow.

    `usage` has the largest shares of budgets first: an operator gets those of everybody, another caller its own.
    """

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
    usage: NotRequired[list[UseDocument]]
    log: NotRequired[RoleDocument]


@dataclass(frozen=True, slots=True)
class _Check:
    probe: Probe
    essential: bool
    command: str


class Health:
    """An agent's checks: `error` if an essential one fails, `degraded` if another does, else `ok`."""

    def __init__(self, agent: str, secure: bool, clock: Clock = SYSTEM_CLOCK) -> None:
        self._agent = agent
        self._secure = secure
        self._clock = clock
        self._started = self._clock.monotonic()
        self._checks: dict[str, _Check] = {}
        self._warnings: list[Callable[[], Iterable[Condition]]] = []
        self.role: Callable[[], RoleDocument] | None = None  # where the agent has a log

    def add(self, name: str, probe: Probe, *, essential: bool, command: str = "") -> None:
        """Add a check; the agent can't serve while an essential one fails.

        Args:
            command: fixes it, on the agent's host, where one command does.
        """
        self._checks[name] = _Check(probe, essential, command)

    def warn(self, name: str, probe: Callable[[], Iterable[str]], command: str = "") -> None:
        """Add a kind of warning: the agent serves, but needs attention in time.

        Args:
            probe: returns a sentence for each, without the command.
            command: fixes it, on the agent's host, where one command does.
        """
        self.report(lambda: (Condition(name=name, what=what, command=command) for what in probe()))

    def report(self, probe: Callable[[], Iterable[Condition]]) -> None:
        """Add warnings that `probe` names itself; it is called on any thread."""
        self._warnings.append(probe)

    def status(self, *, without: Collection[str] = ()) -> str:
        """Run the checks except some, and return `ok`, `degraded`, or `error`."""
        checks = [check for name, check in self._checks.items() if name not in without]
        return _status([check for check in checks if check.probe() is not None])

    @property
    def uptime_s(self) -> float:
        """For how long the agent has been running."""
        return self._clock.monotonic() - self._started

    def checks(self) -> dict[str, bool]:
        """Run the checks and return which of them pass."""
        return {name: check.probe() is None for name, check in self._checks.items()}

    def conditions(self, *, without: Collection[str] = ()) -> Iterator[Condition]:
        """Run the checks and the warnings, and yield what is wrong; on any thread."""
        for name, check in self._checks.items():
            if name not in without and (fault := check.probe()) is not None:
                level: Literal["degraded", "error"] = "error" if check.essential else "degraded"
                yield Condition(name=name, what=fault, level=level, command=check.command)
        for probe in self._warnings:
            yield from probe()

    def document(self) -> HealthDocument:
        """Run the checks and return the document."""
        faults = {name: check.probe() for name, check in self._checks.items()}
        failed = [self._checks[name] for name, fault in faults.items() if fault is not None]
        document: HealthDocument = {
            "status": _status(failed),
            "ready": not failed,
            "agent": self._agent,
            "version": versions(),
            "timestamp": iso_time(self._clock.time()),
            "uptime_s": round(self.uptime_s, 3),
            "secure": self._secure,
            "checks": {name: {"ok": fault is None, "detail": fault or "ok"} for name, fault in faults.items()},
            "warnings": [
                f"{warning.what}; run: {warning.command}" if warning.command else warning.what
                for probe in self._warnings
                for warning in probe()
            ],
        }
        if not self._secure:
            document["warning"] = OPEN_LINK_WARNING
            document["warnings"].insert(0, OPEN_LINK_WARNING)
        if self.role is not None:
            document["log"] = self.role()
        return document


def used_documents(rows: Iterable[Used]) -> list[UseDocument]:
    """Return the first of these rows as documents."""
    return [
        {"name": row.name, "limit": row.limit, "used": row.used, "most": row.most, "share": round(row.share, 4)}
        for row in islice(rows, SHOWN)
    ]


def _status(failed: Collection[_Check]) -> Literal["ok", "degraded", "error"]:
    return "error" if any(check.essential for check in failed) else "degraded" if failed else "ok"


class Ping(Request, tag="ping"):
    """Check that the agent answers."""


class GetHealth(Request, tag="health"):
    """The health document."""


class HealthCheck(Request, tag="health_check"):
    """The health document, under its older name."""


class GetPeers(Request, tag="get_peers"):
    """The authorised peers, their sessions, and the handshakes by outcome; an operator's action."""


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
    """The authorised peers with their sessions, the revoked fingerprints, and the handshakes by outcome.

    A `last_seen` of null means: not since `seen_since`, when the record of it began.
    """

    status: Literal["ok", "success"]
    peers: list[PeerDocument]
    revoked: list[str]
    handshakes: dict[str, int]
    seen_since: str | None


class HealthActions(Feature):
    """The health document, under both names of its action, and `ping`, which every agent answers."""

    def __init__(self, document: Callable[[], Any], clock: Clock = SYSTEM_CLOCK, usage: Usage | None = None) -> None:
        """Serve a document, with the usage of budgets if there is any; without it, `document` is for any thread."""
        self.document = document
        self._clock = clock
        self._usage = usage

    def shown_to(self, caller: Caller) -> Any:
        """Return the document with the budgets that a caller may see."""
        rows = () if self._usage is None else self._usage.refresh(self._clock.monotonic())
        return {
            **self.document(),
            "usage": used_documents(row for row in rows if caller.operator or row.name == caller.name),
        }

    @action(forwardable=True)
    def ping(self, _: Ping, __: Caller) -> Pong:
        return {"status": "ok", "message": "pong", "timestamp": iso_time(self._clock.time())}

    @action(forwardable=True)
    def health(self, _: GetHealth, caller: Caller) -> HealthDocument:
        document: HealthDocument = self.shown_to(caller)
        return document

    @action(forwardable=True)
    def health_check(self, _: HealthCheck, caller: Caller) -> HealthDocument:
        document: HealthDocument = self.shown_to(caller)
        return document


class OperatorActions(Feature):
    """The operator's action of every agent: list the peers."""

    def __init__(
        self, peers: AuthorizedPeers, sessions: CallerSource, handshakes: Handshakes, success: Literal["ok", "success"]
    ) -> None:
        """Serve an operator; `success` is the `status` of a successful reply."""
        self._peers = peers
        self._sessions = sessions
        self._handshakes = handshakes
        self._success: Literal["ok", "success"] = success

    @action()
    def peers(self, _: GetPeers, __: Caller) -> Peers:
        counts, last_seen = self._sessions.counts(), self._sessions.last_seen()
        since = self._sessions.seen_since
        return {
            "status": self._success,
            "peers": [
                {
                    "name": peer.name,
                    "host": peer.host,
                    "roles": sorted(peer.roles),
                    "fingerprint": peer.fingerprint,
                    "not_before": _moment(peer.validity.not_before),
                    "not_after": _moment(peer.validity.not_after),
                    "standing": self._peers.standing(peer.fingerprint),
                    "sessions": counts.get(peer.name, 0),
                    "last_seen": iso_time(last_seen[peer.fingerprint]) if peer.fingerprint in last_seen else None,
                }
                for peer in self._peers.all()
            ],
            "revoked": sorted(self._peers.contents.revoked),
            "handshakes": self._handshakes.counts(),
            "seen_since": None if since is None else iso_time(since),
        }


def _moment(seconds: int | None) -> str | None:
    return None if seconds is None else format_moment(seconds)
