"""The audit log's head for the other hosts, which keep it, and what becomes of a log that no longer extends theirs."""

from collections.abc import Collection

import structlog

from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.store.audit_log.events import Event
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.audit_log.witness import Seen, explained_by, newest_restore
from twinhost.system_digital_twin.registry.actions import Compared, Heartbeat, Witnessed

_log = structlog.get_logger(__name__)

ACCEPT = "once it is explained, run `cli audit accept`"


class AuditWitnesses:
    """Compares the log with what the agents on other hosts have seen of it; on the thread that owns the log."""

    def __init__(self, audit: AuditLog, witnesses: Collection[str]) -> None:
        """Believe the agents of these names what they say they have seen."""
        self._audit = audit
        self._witnesses = frozenset(witnesses)
        self._faults: dict[str, str] = {}
        self._restored: dict[str, str] = {}

    @property
    def fault(self) -> str | None:
        """Why the log is not the one that a witness has seen; of the first such witness."""
        return next(iter(self._faults.values()), None)

    def warnings(self) -> list[str]:
        """Return the restores that took away lines which a witness has seen, until an operator acknowledges them."""
        return list(self._restored.values())

    def answer(self, heartbeat: Heartbeat, caller: Caller) -> Witnessed:
        """Return the head, and how the log stands to what the caller has seen of it; nothing on an open link.

        The head is one that the files have: it is durable before another host keeps it.
        """
        if not caller.authenticated:
            return {"audit_head": None}
        head, name = self._audit.head, caller.name
        try:
            restore = newest_restore(self._audit.restores(), head.seq)
            answer: Witnessed = {
                "audit_head": {"seq": head.seq, "hash": head.hash, "restored": restore.hash if restore else None}
            }
            if name in self._witnesses and name == heartbeat.agent_name:
                self._note_restored(name, heartbeat)
                if heartbeat.audit_seen is None:
                    self._faults.pop(name, None)
                else:
                    seen = heartbeat.audit_seen
                    answer["audit_compared"] = self._compared(name, Seen(seen.seq, seen.hash, seen.restored))
        except StoreUnavailable as error:  # the heartbeat counts all the same
            self._fail(name, f"the audit log can't be compared with what {name} has seen: {error}")
            return {"audit_head": None}
        return answer

    def _compared(self, name: str, seen: Seen) -> Compared:
        if self._audit.hash_of(seen.seq) == seen.hash:
            self._faults.pop(name, None)
            return {"extends": True, "restore": None}
        restore = explained_by(seen, self._audit.restores())
        if restore is None:
            self._fail(
                name,
                f"the audit log no longer has line {seen.seq} as {name} has seen it: somebody rewrote it, or put an "
                f"older state in its place; run `cli audit verify`, keep a copy of the state volume, and {ACCEPT}",
            )
            return {"extends": False, "restore": None}
        self._faults.pop(name, None)
        return {"extends": False, "restore": {"seq": restore.seq, "hash": restore.hash, "time": restore.time}}

    def _note_restored(self, name: str, heartbeat: Heartbeat) -> None:
        restored = heartbeat.audit_restored
        if restored is None:
            self._restored.pop(name, None)
        else:
            self._restored[name] = (
                f"the audit log was restored from a backup (line {restored.seq}, {restored.time}); lines "
                f"{restored.seq} to {restored.seen_to} that {name} has seen are no longer in it; if nobody restored "
                "mainpc, somebody rewrote the log; to acknowledge it run `cli audit accept`"
            )

    def _fail(self, name: str, sentence: str) -> None:
        if self._faults.get(name) != sentence:
            self._faults[name] = sentence
            _log.error("audit_log_contradicted", witness=name, reason=sentence)
            self._audit.note(Event.LOG_CONTRADICTED, witness=name, reason=sentence)
