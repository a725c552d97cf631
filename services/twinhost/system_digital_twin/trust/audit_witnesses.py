"""The audit log's witnesses: agents on other hosts keep its head, and report a log that no longer extends theirs."""

from collections.abc import Collection
from typing import Annotated, NotRequired, TypedDict

import msgspec
import structlog

from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.wire import NAME
from twinhost.store.audit_log.chain import Event
from twinhost.store.audit_log.log import AuditLog
from twinhost.store.audit_log.verify import Seen, explained_by, newest_restore

_log = structlog.get_logger(__name__)

ACCEPT = "once it is explained, run `cli audit accept`"
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


class AuditWitnesses:
    """Compares the log with what agents on other hosts have seen of it; used on the thread that owns the log."""

    def __init__(self, audit: AuditLog, witnesses: Collection[str]) -> None:
        """Trust the agents of these names to report what they have seen."""
        self._audit = audit
        self._witnesses = frozenset(witnesses)
        self._faults: dict[str, str] = {}
        self._restored: dict[str, str] = {}

    @property
    def fault(self) -> str | None:
        """Why the log is not the one that the first such witness has seen."""
        return next(iter(self._faults.values()), None)

    def warnings(self) -> list[str]:
        """Return the restores that removed lines which a witness has seen, until an operator acknowledges them."""
        return list(self._restored.values())

    def answer(
        self, agent_name: str, caller: Caller, audit_seen: AuditSeen | None, restored: AuditRestored | None
    ) -> WitnessReply:
        """Answer a heartbeat with the head, and with how the log compares to what the caller has seen of it.

        The head is on disk before another host keeps it. On an open link there is none.
        """
        if not caller.authenticated:
            return {"audit_head": None}
        head, name = self._audit.head, caller.name
        try:
            restore = newest_restore(self._audit.restores(), head.seq)
            answer: WitnessReply = {
                "audit_head": {"seq": head.seq, "hash": head.hash, "restored": restore.hash if restore else None}
            }
            if name in self._witnesses and name == agent_name:
                self._note_restored(name, restored)
                if audit_seen is None:
                    self._faults.pop(name, None)
                else:
                    seen = Seen(audit_seen.seq, audit_seen.hash, audit_seen.restored)
                    answer["audit_compared"] = self._compared(name, seen)
        except StoreUnavailable as error:  # the heartbeat counts all the same
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
                f"the audit log no longer has line {seen.seq} as {name} has seen it: somebody rewrote it, or replaced "
                f"it with an older state; run `cli audit verify`, keep a copy of the state volume, and {ACCEPT}",
            )
            return {"extends": False, "restore": None}
        self._faults.pop(name, None)
        return {"extends": False, "restore": {"seq": restore.seq, "hash": restore.hash, "time": restore.time}}

    def _note_restored(self, name: str, restored: AuditRestored | None) -> None:
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
