"""What the audit log says of grants. A line holds no whole list: it has a digest, a count by role, and what changed."""

import contextlib
import hashlib
import time
from collections.abc import Mapping, Set
from typing import Annotated, Any, Literal, TypedDict

import msgspec

from twinhost.agent.assembly import Foundation
from twinhost.agent.trust import TRUST_TOPIC
from twinhost.secure_zmq.actions import Action, Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER
from twinhost.secure_zmq.errors import LimitReached, NotGranted, PeerNotLive, RequestError, StoreUnavailable
from twinhost.secure_zmq.handshakes import Outcome
from twinhost.secure_zmq.key_folders import FolderContents
from twinhost.secure_zmq.keys import Certificate
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.wire import Request
from twinhost.store.audit_log.events import Event
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.database import Database
from twinhost.system_digital_twin.registry.actions import ITSELF, SUCCESS
from twinhost.system_digital_twin.trust.actions import EnrolledKeys, KeyActions
from twinhost.system_digital_twin.trust.audit_witnesses import AuditWitnesses

_ALL = "*"


def summary(grants: Mapping[str, Set[str]]) -> dict[str, str]:
    """Return `grants`, how many actions a role may ask for, and `grants_sha256` of the sorted lines `role action`."""
    counts = [
        f"{role}: {_ALL if _ALL in actions else f'{len(actions)} actions'}" for role, actions in sorted(grants.items())
    ]
    return {
        "grants": "; ".join(counts),
        "grants_sha256": hashlib.sha256("\n".join(_pairs(grants)).encode()).hexdigest(),
    }


def changes(before: Mapping[str, Set[str]], after: Mapping[str, Set[str]]) -> dict[str, str]:
    """Return what is `added` and `removed`, each as `role action, role action`."""
    old, new = set(_pairs(before)), set(_pairs(after))
    return {"added": ", ".join(sorted(new - old)), "removed": ", ".join(sorted(old - new))}


def _pairs(grants: Mapping[str, Set[str]]) -> list[str]:
    return sorted(f"{role} {action}" for role, actions in grants.items() for action in actions)


class AuditAnchor(TypedDict):
    """The oldest line that is kept: its number, and the hash that its `prev` must be."""

    seq: int
    prev: str


class AuditHead(TypedDict):
    """The newest line: its number, 0 before the first, and its hash."""

    seq: int
    hash: str


class AuditPage(TypedDict):
    """Raw lines, and where the next page begins."""

    status: Literal["success"]
    lines: tuple[str, ...]
    position: str
    anchor: AuditAnchor
    head: AuditHead


class GetAudit(Request, tag="get_audit"):
    """A page of lines: those after `after_seq`, or from the `position` of the page before on."""

    after_seq: Annotated[int, msgspec.Meta(ge=0)] = 0
    limit: Annotated[int, msgspec.Meta(ge=1, le=2_000)] = 500
    position: Annotated[str, msgspec.Meta(max_length=128)] | None = None


class AuditActions(Feature):
    """The action that reads the log."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    @action()
    def page(self, request: GetAudit, _: Caller) -> AuditPage:
        page = self._audit.read_page(request.after_seq, request.limit, request.position)
        return {
            "status": "success",
            "lines": page.lines,
            "position": page.position,
            "anchor": {"seq": page.anchor.seq, "prev": page.anchor.prev},
            "head": {"seq": page.head.seq, "hash": page.head.hash},
        }


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
_Row = tuple[str, str, str, str]  # name, host, roles, state
_NOBODY: _Row = ("", "", "", "")  # of a revoked key whose file was never seen here
_Change = tuple[str, Event, _Row | None]  # a fingerprint, and its row from now on
_LOOK_AT_CLOCK_S = 1.0
_AT_ONCE = 1_000  # changes that one look records; more are recorded by the next


class KeyAudit:
    """Compares the keys with those that the log has told of; on the thread that owns the database."""

    def __init__(self, database: Database, audit: AuditLog, peers: AuthorizedPeers) -> None:
        self._database = database
        self._audit = audit
        self._peers = peers
        self._compared: FolderContents | None = None
        self._compared_at = 0.0
        self._told: dict[str, _Row] = {  # by fingerprint
            row[0]: row[1:]
            for row in database.execute("SELECT fingerprint, name, host, roles, state FROM audited_keys")
        }

    def look(self) -> None:
        """Record what is new since the last look.

        Raises:
            StoreUnavailable: it could not be recorded; the next look tries again.
        """
        contents, now = self._peers.contents, time.monotonic()
        if contents is self._compared and now - self._compared_at < _LOOK_AT_CLOCK_S:
            return
        changes = self._changes(contents)
        if changes:
            with self._database.transaction():
                for fingerprint, event, row in changes[:_AT_ONCE]:
                    self._record(fingerprint, event, row)
            for fingerprint, _, row in changes[:_AT_ONCE]:
                self._remember(fingerprint, row)
        if len(changes) <= _AT_ONCE:
            self._compared, self._compared_at = contents, now

    def _changes(self, contents: FolderContents) -> list[_Change]:
        listed = _listed(contents, time.time())
        changes: list[_Change] = []
        for fingerprint, row in listed.items():
            told = self._told.get(fingerprint)
            if told != row:
                changes.append((fingerprint, _event_of(row), row))
        spent = {key.public.fingerprint: _row(_INVITED, key, "revoked") for key in contents.spent}
        for fingerprint in contents.revoked:
            told = self._told.get(fingerprint)
            if told is None or told[3] != "revoked":
                name, host, roles = (told or spent.get(fingerprint, _NOBODY))[:3]
                row = name, host, roles, "revoked"
                changes.append((fingerprint, _end_of(row, contents), row))
        for fingerprint, (name, _, _, state) in self._told.items():
            if fingerprint not in listed and fingerprint not in contents.revoked and state != "revoked":
                event = Event.INVITATION_WITHDRAWN if name.startswith(_INVITED) else Event.KEY_REMOVED
                changes.append((fingerprint, event, None))
        return changes

    def _record(self, fingerprint: str, event: Event, row: _Row | None) -> None:
        name, host, roles = (row or self._told[fingerprint])[:3]
        name = name.removeprefix(_INVITED)
        if event is Event.KEY_REVOKED and name == ITSELF:  # which, unlike the others, asks nobody to retire its key
            for successor in self._peers.keys_of(name):
                self._audit.record(Event.KEY_ROTATED, name=name, fingerprint=successor.fingerprint, retired=fingerprint)
        self._audit.record(event, name=name, host=host, roles=roles, fingerprint=fingerprint)
        if row is None:
            self._database.execute("DELETE FROM audited_keys WHERE fingerprint = ?", (fingerprint,))
        else:
            self._database.execute(
                "INSERT INTO audited_keys VALUES (?, ?, ?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE SET "
                "name = excluded.name, host = excluded.host, roles = excluded.roles, state = excluded.state",
                (fingerprint, *row),
            )

    def _remember(self, fingerprint: str, row: _Row | None) -> None:
        if row is None:
            self._told.pop(fingerprint, None)
        else:
            self._told[fingerprint] = row


def _listed(contents: FolderContents, now: float) -> dict[str, _Row]:
    """Return what lies in the folders, by fingerprint; a key counts for more than the same as an invitation."""
    rows = {}
    for prefix, certificates in (
        (_INVITED, contents.invites),
        ("", contents.next.values()),
        ("", contents.current.values()),
    ):
        for key in certificates:
            state = "expired" if key.validity.has_ended(now) else "listed"
            rows[key.public.fingerprint] = _row(prefix, key, state)
    return rows


def _row(prefix: str, key: Certificate, state: str) -> _Row:
    return prefix + key.owner.name, key.owner.host, " ".join(sorted(key.owner.roles)), state


def _event_of(row: _Row) -> Event:
    invitation = row[0].startswith(_INVITED)
    if row[3] == "expired":
        return Event.INVITATION_EXPIRED if invitation else Event.KEY_EXPIRED
    return Event.INVITATION_MADE if invitation else Event.KEY_AUTHORIZED


def _end_of(row: _Row, contents: FolderContents) -> Event:
    """Return what a revocation was: the end of an invitation is its use, unless nobody enrolled by it."""
    if not row[0].startswith(_INVITED):
        return Event.KEY_REVOKED
    name = row[0].removeprefix(_INVITED)
    return Event.INVITATION_USED if name in contents.current else Event.INVITATION_WITHDRAWN


AUDIT_FOLDER = "audit"  # below the agent's state


class KeysAndAudit:
    """Audits what others tell of; where SECURE_ZMQ=0 there are no keys, and the log goes on."""

    def __init__(self, foundation: Foundation) -> None:
        settings, peers = foundation.settings, foundation.keys.peers
        self._audit = AuditLog(foundation.database, settings.state / AUDIT_FOLDER)
        self._key_audit = KeyAudit(foundation.database, self._audit, peers)
        self._key_actions: KeyActions | None = None
        if settings.certificates is not None:
            enrolled = EnrolledKeys(settings.certificates.folder / ENROLLED_FOLDER)
            self._key_actions = KeyActions(
                peers,
                enrolled,
                lambda event, **fields: self._audit.record(Event(event), **fields),
                SUCCESS,
                settings.config.limits.key_lifetime_days,
            )
            foundation.health.warn(lambda: [enrolled.fault] if enrolled.fault else [])
        foundation.health.add("audit_log", lambda: self._audit.fault, essential=False)
        here, agents = settings.agent.host.name, settings.config.agents.values()
        self.witnesses = AuditWitnesses(self._audit, [agent.name for agent in agents if agent.host.name != here])
        foundation.health.add("audit_witness", lambda: self.witnesses.fault, essential=False)
        foundation.health.warn(self.witnesses.warnings)
        foundation.handshakes.listen(self._on_handshake)
        peers.listen(lambda _: foundation.publisher.publish(TRUST_TOPIC, revision=self.trust_revision()))
        self._audit.record(Event.STARTED, secure=settings.secure, **summary(settings.config.grants))
        self._grants: Mapping[str, Set[str]] = settings.config.grants

    def actions(self) -> list[Action[Any]]:
        """Return the actions on keys and on the log."""
        return [*(self._key_actions.actions() if self._key_actions else []), *AuditActions(self._audit).actions()]

    def trust_revision(self) -> str | None:
        """Return the revision of the list of whom to trust; None where nobody is."""
        return self._key_actions.revision() if self._key_actions else None

    def on_tick(self) -> None:
        """Record what became of keys, and write what was recorded; on the thread that owns the database."""
        if self._key_actions is not None:
            self._key_audit.look()
        self._audit.flush()

    def on_refusal(self, caller: Caller | None, action: str | None, error: RequestError) -> None:
        """Note a request that was refused for who asked it, or because that one asks too often."""
        if isinstance(error, NotGranted | PeerNotLive | LimitReached):
            name = caller.name if caller else "unknown"
            self._audit.note(Event.REQUEST_REFUSED, code=error.code, peer=name, action=action or "", reason=str(error))

    def on_grants(self, fault: str | None, grants: Mapping[str, Set[str]]) -> None:
        """Note that other grants hold, or that a changed file was rejected."""
        if fault is None:
            before, self._grants = self._grants, grants
            self._audit.note(Event.GRANTS_CHANGED, **summary(grants), **changes(before, grants))
        else:
            self._audit.note(Event.GRANTS_REJECTED, cause=fault)

    def close(self) -> None:
        """Write all that is left."""
        with contextlib.suppress(StoreUnavailable):  # its fault was told; the end must come all the same
            self._audit.record(Event.STOPPED)
        self._audit.close()

    def _on_handshake(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        match outcome:
            case Outcome.ACCEPTED:
                self._audit.note(Event.HANDSHAKE_ACCEPTED, **fields)
            case Outcome.ANNOUNCED_PROBE:
                self._audit.note(Event.PROBES_ANNOUNCED, **fields)
            case _:
                self._audit.note(Event.HANDSHAKE_REFUSED, cause=outcome.value, **fields)
