"""The audit log: the changes of keys that it records, the action that reads it, and its witnesses on other hosts.

Witnesses are agents that keep the log's head, and report a log that no longer extends theirs.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Annotated, NamedTuple, NotRequired, TypedDict

import msgspec
import structlog

from twinhost.moments import parse_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.certificates import FolderContents
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, Certificate
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.wire import NAME, Request
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.audit_log.verify import Seen, explained_by, newest_restore
from twinhost.store.database import Database
from twinhost.system_digital_twin import ITSELF, SUCCESS, Success, reply_from

MIGRATION = """
CREATE TABLE audited_keys (
    fingerprint TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    roles TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('listed', 'expired', 'revoked'))
) STRICT;
"""
_INVITED = "invitation:"  # before the name in a row; no owner's name can have the colon
_MOST_CHANGES = 1_000  # that one check records; the next one records more


class GetAudit(Request, tag="get_audit"):
    """Return a page of the audit log: the lines after `after_seq`, or those from the `position` of the last page on."""

    after_seq: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=2_000)] = 500
    position: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class AuditAnchor(TypedDict):
    """The oldest line that is kept: its number, and the hash that its `prev` must be."""

    seq: int
    prev: str


class AuditHead(TypedDict):
    """The newest line: its number, 0 before the first, and its hash."""

    seq: int
    hash: str


class AuditPage(Success):
    """Raw lines, and the position of the next page."""

    lines: tuple[str, ...]
    position: str
    anchor: AuditAnchor
    head: AuditHead


class AuditActions(Feature):
    """The action that reads the log."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    @action()
    def page(self, request: GetAudit, _: Caller) -> AuditPage:
        page = self._audit.read_page(request.after_seq, request.limit, request.position)
        anchor, head = reply_from(AuditAnchor, page.anchor), reply_from(AuditHead, page.head)
        return reply_from(AuditPage, page, status=SUCCESS, anchor=anchor, head=head)


class _Key(NamedTuple):
    """A key as the log knows it."""

    name: str
    host: str
    roles: str
    state: str

    @classmethod
    def of(cls, key: Certificate, state: str, prefix: str = "") -> "_Key":
        return cls(prefix + key.owner.name, key.owner.host, " ".join(sorted(key.owner.roles)), state)

    @property
    def is_invitation(self) -> bool:
        return self.name.startswith(_INVITED)

    @property
    def event(self) -> AuditEvent:
        """The event of a key that is listed or expired."""
        if self.state == "expired":
            return AuditEvent.INVITATION_EXPIRED if self.is_invitation else AuditEvent.KEY_EXPIRED
        return AuditEvent.INVITATION_MADE if self.is_invitation else AuditEvent.KEY_AUTHORIZED

    def end(self, contents: FolderContents) -> AuditEvent:
        """The event of a revocation: an invitation was used if its owner has a key, else withdrawn."""
        if not self.is_invitation:
            return AuditEvent.KEY_REVOKED
        used = self.name.removeprefix(_INVITED) in contents.current
        return AuditEvent.INVITATION_USED if used else AuditEvent.INVITATION_WITHDRAWN


_UNSEEN = _Key("", "", "", "revoked")  # a revoked key whose file was never on this host
_Change = tuple[str, AuditEvent, _Key | None]  # a fingerprint, and its row from now on


def _recorded(fingerprint: str, **columns: str) -> tuple[str, _Key]:
    return fingerprint, _Key(**columns)


class KeyAudit:
    """Records every change of the keys, by comparing them with those that the log has; on the database's thread."""

    def __init__(self, database: Database, audit: AuditLog, peers: AuthorizedPeers) -> None:
        self._database = database
        self._clock = database.clock
        self._audit = audit
        self._peers = peers
        self._compared: FolderContents | None = None
        self._compared_at, self._same_until = 0.0, 0.0  # seconds since the epoch; the second is when a key expires
        self._recorded = dict(
            database.select(_recorded, "SELECT fingerprint, name, host, roles, state FROM audited_keys")
        )

    def owner_of(self, fingerprint: str) -> str:
        """Return who has, or had, a key that the log knows, else an empty string; callable from any thread."""
        key = self._recorded.get(fingerprint)
        return "" if key is None else key.name.removeprefix(_INVITED)

    def revoked(self) -> dict[str, str]:
        """Return the fingerprints of revoked keys by their owners, one of each."""
        return {
            key.name: fingerprint
            for fingerprint, key in self._recorded.items()
            if key.state == "revoked" and key.name and not key.is_invitation
        }

    def look(self) -> None:
        """Record what has changed since the last call.

        Raises:
            StoreUnavailable: it could not be recorded; the next call retries.
        """
        contents, now = self._peers.contents, self._clock.time()
        if contents is self._compared and self._compared_at <= now <= self._same_until:
            return
        changes = self._changes(contents, now)
        if changes:
            with self._database.transaction():
                for fingerprint, event, key in changes[:_MOST_CHANGES]:
                    self._record(fingerprint, event, key)
            for fingerprint, _, key in changes[:_MOST_CHANGES]:
                if key is None:
                    self._recorded.pop(fingerprint, None)
                else:
                    self._recorded[fingerprint] = key
        if len(changes) <= _MOST_CHANGES:
            self._compared, self._compared_at, self._same_until = contents, now, _next_end(contents, now)

    def _changes(self, contents: FolderContents, now: float) -> list[_Change]:
        listed = _listed(contents, now)
        changes: list[_Change] = [
            (fingerprint, key.event, key)
            for fingerprint, key in listed.items()
            if self._recorded.get(fingerprint) != key
        ]
        spent = {key.public.fingerprint: _Key.of(key, "revoked", _INVITED) for key in contents.spent}
        for fingerprint in contents.revoked:
            recorded = self._recorded.get(fingerprint)
            if recorded is None or recorded.state != "revoked":
                key = (recorded or spent.get(fingerprint, _UNSEEN))._replace(state="revoked")
                changes.append((fingerprint, key.end(contents), key))
        for fingerprint, key in self._recorded.items():
            if fingerprint not in listed and fingerprint not in contents.revoked and key.state != "revoked":
                event = AuditEvent.INVITATION_WITHDRAWN if key.is_invitation else AuditEvent.KEY_REMOVED
                changes.append((fingerprint, event, None))
        return changes

    def _record(self, fingerprint: str, event: AuditEvent, key: _Key | None) -> None:
        name, host, roles, _ = key or self._recorded[fingerprint]
        name = name.removeprefix(_INVITED)
        if event is AuditEvent.KEY_REVOKED and name == ITSELF:  # the only agent that retires its key without a request
            for successor in self._peers.keys_of(name):
                self._audit.record(
                    AuditEvent.KEY_ROTATED, name=name, fingerprint=successor.fingerprint, retired=fingerprint
                )
        self._audit.record(event, name=name, host=host, roles=roles, fingerprint=fingerprint)
        if key is None:
            self._database.execute("DELETE FROM audited_keys WHERE fingerprint = ?", (fingerprint,))
        else:
            self._database.execute(
                "INSERT INTO audited_keys VALUES (?, ?, ?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE SET "
                "name = excluded.name, host = excluded.host, roles = excluded.roles, state = excluded.state",
                (fingerprint, *key),
            )


def _next_end(contents: FolderContents, now: float) -> float:
    """Return until when no listed key expires that has not expired by now, in seconds since the epoch."""
    keys = (*contents.invites, *contents.next.values(), *contents.current.values())
    ends = (key.validity.not_after + CLOCK_TOLERANCE_S for key in keys if key.validity.not_after is not None)
    return min((end for end in ends if end >= now), default=float("inf"))


def _listed(contents: FolderContents, now: float) -> dict[str, _Key]:
    """Return the keys in the folders, by fingerprint; a key takes precedence over the same key as an invitation."""
    keys = {}
    for prefix, certificates in (
        (_INVITED, contents.invites),
        ("", contents.next.values()),
        ("", contents.current.values()),
    ):
        for key in certificates:
            state = "expired" if key.validity.has_ended(now) else "listed"
            keys[key.public.fingerprint] = _Key.of(key, state, prefix)
    return keys


_log = structlog.get_logger(__name__)

_ACCEPT = "run: ./twinhost audit accept"
RECENT_S = 86_400.0
WITNESS_WITHIN_S = 30.0  # after a start
LINE_NUMBER = Annotated[int, msgspec.Meta(ge=1, lt=10**18)]
HASH = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class AuditSeen(msgspec.Struct, kw_only=True):
    """The head of the audit log that the caller keeps, and the hash of the newest line `restored` up to it."""

    seq: LINE_NUMBER
    hash: HASH
    restored: HASH | None = None


class AuditRestored(msgspec.Struct, kw_only=True):
    """A restore, not yet acknowledged by an operator, that removed lines which the caller has seen, up to `seen_to`."""

    seq: LINE_NUMBER
    time: NAME
    seen_to: LINE_NUMBER


class WitnessedHead(TypedDict):
    """The newest line of the audit log: its number and hash, and the hash of the newest line `restored` up to it."""

    seq: int
    hash: str
    restored: str | None


class WitnessedRestore(TypedDict):
    """A line `restored` of the audit log."""

    seq: int
    hash: str
    time: str


class AuditComparison(TypedDict):
    """Whether the log contains the line of `audit_seen`; if not, the restore that explains it."""

    extends: bool
    restore: WitnessedRestore | None


class WitnessReply(TypedDict):
    """The audit log's head, null on an open link; `audit_compared` answers a witness that sent `audit_seen`."""

    audit_head: WitnessedHead | None
    audit_compared: NotRequired[AuditComparison]


def no_witness(*_: object) -> WitnessReply:
    """Answer a heartbeat where there is no audit log."""
    return {"audit_head": None}


@dataclass(frozen=True, slots=True)
class Restored:
    """A restore of the log: its time in ISO-8601, if it has it, and the lines that witnesses have seen and it lacks."""

    time: str | None
    lost: Mapping[str, tuple[int, int]]


class AuditWitnesses:
    """Compares the log with what agents on other hosts have seen of it; used on the thread that owns the log."""

    def __init__(self, audit: AuditLog, witnesses: Collection[str]) -> None:
        """Trust the agents of these names to report what they have seen."""
        self._audit, self._clock = audit, audit.clock
        self.trust(witnesses)
        self._faults: dict[str, str] = {}
        self._restored: dict[str, AuditRestored] = {}
        self._have_seen: dict[str, str | None] = {}  # the restore up to a witness's head, where it misses no line
        self._speak_at = self._clock.monotonic() + WITNESS_WITHIN_S

    def trust(self, witnesses: Collection[str]) -> None:
        """Trust the agents of these names from now on."""
        self._witnesses = frozenset(witnesses)

    @property
    def fault(self) -> str | None:
        """Why the log is not the one that the first such witness has seen."""
        return next(iter(self._faults.values()), None)

    @property
    def faults(self) -> Mapping[str, str]:
        """Why the log is not the one that a witness has seen, by its name."""
        return self._faults

    def restored(self) -> Restored | None:
        """Return the newest restore that is not explained.

        While a witness misses lines, it is not, until an operator accepts the log. Where no witness says anything, it
        is for RECENT_S.
        """
        lost = {name: (note.seq, note.seen_to) for name, note in self._restored.items()}
        newest = newest_restore(self._audit.restores(), self._audit.head.seq)
        if lost:
            return Restored(None if newest is None else newest.time, lost)
        if newest is None or newest.hash in self._have_seen.values():
            return None
        if not self._have_seen and self._clock.monotonic() < self._speak_at:
            return None
        is_recent = self._clock.time() - parse_time(newest.time).timestamp() < RECENT_S
        return Restored(newest.time, lost) if is_recent else None

    def answer(
        self, agent_name: str, caller: Caller, audit_seen: AuditSeen | None, restored: AuditRestored | None
    ) -> WitnessReply:
        """Answer a heartbeat with the head, and with how the log compares to what the caller has seen of it.

        The head is on disk before another host keeps it. On an open link there is none. Any agent is answered, since
        the lack of a comparison is an alarm there; only witnesses raise one here.
        """
        if not caller.authenticated:
            return {"audit_head": None}
        head, name = self._audit.head, caller.name
        try:
            restore = newest_restore(self._audit.restores(), head.seq)
            answer: WitnessReply = {
                "audit_head": {"seq": head.seq, "hash": head.hash, "restored": restore.hash if restore else None}
            }
            if name == agent_name:
                self._note_restored(name, audit_seen, restored)
                if audit_seen is None:
                    self._faults.pop(name, None)
                else:
                    seen = Seen(audit_seen.seq, audit_seen.hash, audit_seen.restored)
                    answer["audit_compared"] = self._compared(name, seen)
        except StoreUnavailable as error:  # the heartbeat counts nevertheless
            self._fail(name, f"the audit log can't be compared with what {name} has seen: {error}")
            return {"audit_head": None}
        return answer

    def _compared(self, name: str, seen: Seen) -> AuditComparison:
        if self._audit.hash_of(seen.seq) == seen.hash:
            self._faults.pop(name, None)
            return {"extends": True, "restore": None}
        restore = explained_by(seen, self._audit.restores())
        if restore is None:
            self._fail(
                name,
                f"the audit log no longer has line {seen.seq} as {name} has seen it: it was rewritten, or replaced "
                "by an older state; keep a copy of mainpc's state volume, run: ./twinhost audit verify; "
                f"once the cause is known, {_ACCEPT}",
            )
            return {"extends": False, "restore": None}
        self._faults.pop(name, None)
        return {"extends": False, "restore": reply_from(WitnessedRestore, restore)}

    def _note_restored(self, name: str, seen: AuditSeen | None, restored: AuditRestored | None) -> None:
        if name not in self._witnesses:
            return
        if restored is None:
            self._restored.pop(name, None)
            self._have_seen[name] = None if seen is None else seen.restored
        else:
            self._restored[name] = restored

    def _fail(self, name: str, sentence: str) -> None:
        if name in self._witnesses and self._faults.get(name) != sentence:
            self._faults[name] = sentence
            _log.error("audit_log_contradicted", witness=name, reason=sentence)
            self._audit.note(AuditEvent.LOG_CONTRADICTED, witness=name, reason=sentence)
