"""What SystemDigitalTwin does for security: it serves the keys, and records security events in the audit log."""

import contextlib
import hashlib
from collections.abc import Callable, Iterable, Mapping, Set

from twinhost.agent.assembly import Foundation
from twinhost.agent.conditions import KEY_RETIRES, LOG_CHECK, WITNESS_CHECK
from twinhost.agent.refusals import Refusals
from twinhost.agent.trust import TRUST_TOPIC
from twinhost.commands import CERTS_INIT
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.actions import Feature
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER
from twinhost.secure_zmq.errors import LimitReached, NotGranted, PeerNotLive, RequestError, StoreUnavailable
from twinhost.secure_zmq.peers import Outcome
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.store.audit_log.inspection import Inspector
from twinhost.store.audit_log.log import AuditLog
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER
from twinhost.system_digital_twin.trust.actions import EnrolledKeys, KeyActions
from twinhost.system_digital_twin.trust.audit import AuditActions, AuditWitnesses, KeyAudit
from twinhost.system_digital_twin.trust.retirements import RETIREMENTS_FILE, Retirement, Retirements

_ALL = "*"


class KeysAndAudit:
    """The keys, and the audit log. With SECURE_ZMQ=0 there are no keys, and the log continues."""

    def __init__(self, foundation: Foundation, applied: Callable[[str, str], None]) -> None:
        """Open the log; `applied` is called with an agent's name and the revision of the trust document it follows."""
        settings, peers, health = foundation.settings, foundation.keys.peers, foundation.health
        self.audit = AuditLog(foundation.database, settings.state / AUDIT_FOLDER)
        self._key_audit = KeyAudit(foundation.database, self.audit, peers)
        self._keys: KeyActions | None = None
        if settings.certificates is not None:
            enrolled = EnrolledKeys(settings.certificates.folder / ENROLLED_FOLDER)
            self._keys = KeyActions(
                peers,
                enrolled,
                Retirements(settings.state / f"{settings.agent.name}.{RETIREMENTS_FILE}", foundation.clock),
                self.audit.record,
                settings.config.limits.key_lifetime_days,
                applied,
                foundation.clock,
                foundation.keys.keep,
                foundation.keys.keep_listed,
            )
            health.warn("enrolment", lambda: [enrolled.fault] if enrolled.fault else [])
            health.warn(
                KEY_RETIRES,
                lambda: (
                    f"{retirement.warning(peers.name_of(older))}; if its owner did not ask for it, run: {CERTS_INIT} "
                    f"revoke {retirement.newer}"
                    for older, retirement in self.contested()
                ),
            )
            self._keys.quiet_s = quiet_s(settings.config)
        health.add(LOG_CHECK, lambda: self.audit.fault, essential=False)
        self._settings = settings
        self.witnesses = AuditWitnesses(self.audit, self._agents_elsewhere())
        health.add(WITNESS_CHECK, lambda: self.witnesses.fault, essential=False)
        self.inspector = Inspector(self.audit, foundation.clock.monotonic)
        foundation.handshakes.listen(self._on_handshake)
        self.refusals = Refusals(
            foundation.database, lambda fingerprint: peers.name_of(fingerprint) or self._key_audit.owner_of(fingerprint)
        )
        foundation.handshakes.listen(self.refusals.note)
        peers.listen(lambda _: foundation.publisher.publish(TRUST_TOPIC, revision=self.trust_revision()))
        self.audit.record(AuditEvent.STARTED, secure=settings.secure, **summary(settings.config.grants))
        if self._keys is not None:
            self._key_audit.look()  # before anybody can revoke one of them: its file may no longer name the owner
        self._grants: Mapping[str, Set[str]] = settings.config.grants

    @property
    def revoked(self) -> dict[str, str]:
        """The fingerprints of revoked keys by their owners."""
        return self._key_audit.revoked()

    def contested(self) -> Iterable[tuple[str, Retirement]]:
        """Return the older keys that newer ones are going to revoke without their consent."""
        return self._keys.contested() if self._keys else ()

    @property
    def features(self) -> tuple[Feature, ...]:
        """The actions on keys and on the log."""
        return (*((self._keys,) if self._keys else ()), AuditActions(self.audit))

    def trust_revision(self) -> str | None:
        """Return the revision of the trust document; None on an open link."""
        return self._keys.revision() if self._keys else None

    def _agents_elsewhere(self) -> list[str]:
        here, agents = self._settings.agent.host.name, self._settings.config.agents.values()
        return [agent.name for agent in agents if agent.host.name != here]

    def follow(self, config: NetworkConfig) -> None:
        """Apply a changed configuration; on the thread that owns the database."""
        self.witnesses.trust(self._agents_elsewhere())
        if self._keys is not None:
            self._keys.lifetime_days, self._keys.quiet_s = config.limits.key_lifetime_days, quiet_s(config)

    def on_tick(self) -> None:
        """Record the changes of keys, and write the log; on the thread that owns the database."""
        if self._keys is not None:
            self._keys.on_tick()
            self._key_audit.look()
        self.audit.flush()
        self.inspector.on_tick()
        with contextlib.suppress(StoreUnavailable):  # the store's check reports it, and they stay in memory
            self.refusals.on_tick()

    def on_refusal(self, caller: Caller | None, action: str | None, error: RequestError) -> None:
        """Record a request that was refused because of who sent it, or because of a limit."""
        if isinstance(error, NotGranted | PeerNotLive | LimitReached):
            name = caller.name if caller else "unknown"
            self.audit.note(
                AuditEvent.REQUEST_REFUSED, code=error.code, peer=name, action=action or "", reason=str(error)
            )

    def on_grants(self, fault: str | None, grants: Mapping[str, Set[str]]) -> None:
        """Record that other grants apply, or that a changed file was rejected."""
        if fault is None:
            before, self._grants = self._grants, grants
            self.audit.note(AuditEvent.GRANTS_CHANGED, **summary(grants), **changes(before, grants))
        else:
            self.audit.note(AuditEvent.GRANTS_REJECTED, cause=fault)

    def close(self) -> None:
        """Write the remaining lines."""
        self.inspector.stop()
        with contextlib.suppress(StoreUnavailable):  # its fault was reported, and the agent stops nevertheless
            self.audit.record(AuditEvent.STOPPED)
        self.audit.close()
        with contextlib.suppress(StoreUnavailable):
            self.refusals.save()

    def _on_handshake(self, outcome: Outcome, fields: Mapping[str, str]) -> None:
        match outcome:
            case Outcome.ACCEPTED:
                if self.audit.full:  # then the note would be lost, and the peer served unrecorded
                    raise StoreUnavailable("the audit log can't be written; free space on the agent's volume")
                self.audit.note(AuditEvent.HANDSHAKE_ACCEPTED, **fields)
            case _:
                self.audit.note(AuditEvent.HANDSHAKE_REFUSED, cause=outcome.value, **fields)


def quiet_s(config: NetworkConfig) -> float:
    """Return after how long without a message a key is not in use: an agent sends a heartbeat twice as often."""
    return 2 * config.limits.heartbeat_s


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
