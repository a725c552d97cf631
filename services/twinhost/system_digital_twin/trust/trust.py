"""SystemDigitalTwin's part in security: keys that come and go, and the audit log of all of it."""

import contextlib
from collections.abc import Mapping, Set
from typing import Any

from twinhost.agent.assembly import Foundation
from twinhost.agent.trust import TRUST_TOPIC
from twinhost.secure_zmq.actions import Action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER
from twinhost.secure_zmq.errors import LimitReached, NotGranted, PeerNotLive, RequestError, StoreUnavailable
from twinhost.secure_zmq.peers import Outcome
from twinhost.store.audit_log.chain import Event
from twinhost.store.audit_log.log import AuditLog
from twinhost.system_digital_twin.registry.actions import SUCCESS
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER
from twinhost.system_digital_twin.trust.actions import KeyActions
from twinhost.system_digital_twin.trust.audit import AuditActions, KeyAudit, changes, summary
from twinhost.system_digital_twin.trust.audit_witnesses import AuditWitnesses
from twinhost.system_digital_twin.trust.enrolled_keys import EnrolledKeys


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
