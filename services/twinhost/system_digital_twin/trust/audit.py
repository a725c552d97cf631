"""The audit log: what is recorded of keys, grants, refusals, and handshakes, and the action that reads it."""

import contextlib
import hashlib
import time
from collections.abc import Mapping, Set
from typing import Annotated, NamedTuple, TypedDict

import msgspec

from twinhost.agent.assembly import Foundation
from twinhost.agent.trust import TRUST_TOPIC
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER
from twinhost.secure_zmq.errors import LimitReached, NotGranted, PeerNotLive, RequestError, StoreUnavailable
from twinhost.secure_zmq.key_folders import FolderContents
from twinhost.secure_zmq.keys import Certificate
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome
from twinhost.secure_zmq.wire import Request
from twinhost.store.audit_log.chain import Event
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.database import Database
from twinhost.system_digital_twin import ITSELF, SUCCESS, Success
from twinhost.system_digital_twin.trust.actions import EnrolledKeys, KeyActions
from twinhost.system_digital_twin.trust.audit_witnesses import AuditWitnesses

AUDIT_FOLDER = "audit"  # below the agent's state
MIGRATION = """
CREATE TABLE audited_keys (
    fingerprint TEXT PRIMARY KEY NOT NULL,
    name TEXT NOT NULL,
    host TEXT NOT NULL,
    roles TEXT NOT NULL,
    state TEXT NOT NULL CHECK (state IN ('listed', 'expired', 'revoked'))
) STRICT;
"""
_ALL = "*"
_INVITED = "invitation:"  # before the name in a row; no owner's name can have the colon
_CHECK_EVERY_S = 1.0  # for keys that expire
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
        return {
            "status": SUCCESS,
            "lines": page.lines,
            "position": page.position,
            "anchor": {"seq": page.anchor.seq, "prev": page.anchor.prev},
            "head": {"seq": page.head.seq, "hash": page.head.hash},
        }


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
    def event(self) -> Event:
        """What a key that is listed or expired is recorded as."""
        if self.state == "expired":
            return Event.INVITATION_EXPIRED if self.is_invitation else Event.KEY_EXPIRED
        return Event.INVITATION_MADE if self.is_invitation else Event.KEY_AUTHORIZED

    def end(self, contents: FolderContents) -> Event:
        """What a revocation is recorded as: that of an invitation is its use, unless nobody enrolled with it."""
        if not self.is_invitation:
            return Event.KEY_REVOKED
        used = self.name.removeprefix(_INVITED) in contents.current
        return Event.INVITATION_USED if used else Event.INVITATION_WITHDRAWN


_UNSEEN = _Key("", "", "", "revoked")  # a revoked key whose file was never here
_Change = tuple[str, Event, _Key | None]  # a fingerprint, and its row from now on


class KeyAudit:
    """Records every change of the keys, by comparing them with those that the log has; on the database's thread."""

    def __init__(self, database: Database, audit: AuditLog, peers: AuthorizedPeers) -> None:
        self._database = database
        self._audit = audit
        self._peers = peers
        self._compared: FolderContents | None = None
        self._compared_at = 0.0
        rows = database.execute("SELECT fingerprint, name, host, roles, state FROM audited_keys")
        self._recorded = {fingerprint: _Key(*columns) for fingerprint, *columns in rows}

    def look(self) -> None:
        """Record what has changed since the last call.

        Raises:
            StoreUnavailable: it could not be recorded; the next call retries.
        """
        contents, now = self._peers.contents, time.monotonic()
        if contents is self._compared and now - self._compared_at < _CHECK_EVERY_S:
            return
        changes = self._changes(contents)
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
            self._compared, self._compared_at = contents, now

    def _changes(self, contents: FolderContents) -> list[_Change]:
        listed = _listed(contents, time.time())
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
                event = Event.INVITATION_WITHDRAWN if key.is_invitation else Event.KEY_REMOVED
                changes.append((fingerprint, event, None))
        return changes

    def _record(self, fingerprint: str, event: Event, key: _Key | None) -> None:
        name, host, roles, _ = key or self._recorded[fingerprint]
        name = name.removeprefix(_INVITED)
        if event is Event.KEY_REVOKED and name == ITSELF:  # the only agent that retires its key without a request
            for successor in self._peers.keys_of(name):
                self._audit.record(Event.KEY_ROTATED, name=name, fingerprint=successor.fingerprint, retired=fingerprint)
        self._audit.record(event, name=name, host=host, roles=roles, fingerprint=fingerprint)
        if key is None:
            self._database.execute("DELETE FROM audited_keys WHERE fingerprint = ?", (fingerprint,))
        else:
            self._database.execute(
                "INSERT INTO audited_keys VALUES (?, ?, ?, ?, ?) ON CONFLICT (fingerprint) DO UPDATE SET "
                "name = excluded.name, host = excluded.host, roles = excluded.roles, state = excluded.state",
                (fingerprint, *key),
            )


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


class KeysAndAudit:
    """The keys, and the audit log. With SECURE_ZMQ=0 there are no keys, and the log goes on."""

    def __init__(self, foundation: Foundation) -> None:
        settings, peers, health = foundation.settings, foundation.keys.peers, foundation.health
        self._audit = AuditLog(foundation.database, settings.state / AUDIT_FOLDER)
        self._key_audit = KeyAudit(foundation.database, self._audit, peers)
        self._keys: KeyActions | None = None
        if settings.certificates is not None:
            enrolled = EnrolledKeys(settings.certificates.folder / ENROLLED_FOLDER)
            self._keys = KeyActions(
                peers,
                enrolled,
                lambda event, **fields: self._audit.record(Event(event), **fields),
                settings.config.limits.key_lifetime_days,
            )
            health.warn(lambda: [enrolled.fault] if enrolled.fault else [])
        health.add("audit_log", lambda: self._audit.fault, essential=False)
        here, agents = settings.agent.host.name, settings.config.agents.values()
        self.witnesses = AuditWitnesses(self._audit, [agent.name for agent in agents if agent.host.name != here])
        health.add("audit_witness", lambda: self.witnesses.fault, essential=False)
        health.warn(self.witnesses.warnings)
        foundation.handshakes.listen(self._on_handshake)
        peers.listen(lambda _: foundation.publisher.publish(TRUST_TOPIC, revision=self.trust_revision()))
        self._audit.record(Event.STARTED, secure=settings.secure, **summary(settings.config.grants))
        self._grants: Mapping[str, Set[str]] = settings.config.grants

    @property
    def features(self) -> tuple[Feature, ...]:
        """The actions on keys and on the log."""
        return (*((self._keys,) if self._keys else ()), AuditActions(self._audit))

    def trust_revision(self) -> str | None:
        """Return the revision of the trust document; None on an open link."""
        return self._keys.revision() if self._keys else None

    def on_tick(self) -> None:
        """Record the changes of keys, and write the log; on the thread that owns the database."""
        if self._keys is not None:
            self._key_audit.look()
        self._audit.flush()

    def on_refusal(self, caller: Caller | None, action: str | None, error: RequestError) -> None:
        """Record a request that was refused because of who sent it, or because of a limit."""
        if isinstance(error, NotGranted | PeerNotLive | LimitReached):
            name = caller.name if caller else "unknown"
            self._audit.note(Event.REQUEST_REFUSED, code=error.code, peer=name, action=action or "", reason=str(error))

    def on_grants(self, fault: str | None, grants: Mapping[str, Set[str]]) -> None:
        """Record that other grants apply, or that a changed file was rejected."""
        if fault is None:
            before, self._grants = self._grants, grants
            self._audit.note(Event.GRANTS_CHANGED, **summary(grants), **changes(before, grants))
        else:
            self._audit.note(Event.GRANTS_REJECTED, cause=fault)

    def close(self) -> None:
        """Write what is left."""
        with contextlib.suppress(StoreUnavailable):  # its fault was reported, and the agent stops all the same
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


def summary(grants: Mapping[str, Set[str]]) -> dict[str, str]:
    """Return `grants`, the number of actions per role, and `grants_sha256` of the sorted lines `role action`."""
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
