"""The audit log: the changes of keys that it records, and the action that reads it."""

import time
from typing import Annotated, NamedTuple, TypedDict

import msgspec

from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.certificates import FolderContents
from twinhost.secure_zmq.keys import Certificate
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.wire import Request
from twinhost.store.audit_log.chain import Event
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.database import Database
from twinhost.system_digital_twin import ITSELF, SUCCESS, Success

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
