"""A witness of mainpc's audit log: it keeps heads of the log, which a rewritten log no longer extends.

mainpc's reply to every heartbeat has its newest head, and whether its log still has the newest head that is kept here.
A reply without one of both, or with an older head, is an alarm as well: a changed mainpc must not silence its witness,
not even one that keeps no head yet. The witness sees no lines, so it believes a mainpc that invents newer heads; `audit
verify` compares them with the lines.
The file is separate from the agent's database: a restored or damaged database must not take the heads with it.
"""

import threading
from pathlib import Path
from typing import Annotated, Any, Literal, TypedDict

import msgspec
import structlog

from twinhost.moments import SYSTEM_CLOCK, Clock, iso_time
from twinhost.secure_zmq.actions import Feature, action
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.key_writer import replace_file
from twinhost.secure_zmq.wire import Reply, Request

_log = structlog.get_logger(__name__)

MAX_HEADS = 64  # beyond that, one between two others is evicted: the older the heads, the larger the gaps
MAX_GAPS = 32
_ACCEPT = "on mainpc run: ./twinhost audit accept"
_NEW_LOG_S = 10.0  # a mainpc that starts for the first time may answer before its log is on disk
_KEEP = "keep a copy of mainpc's state volume, on mainpc run: ./twinhost audit verify"
_NO_HEAD = (
    "mainpc does not say with which line its audit log ends, so this host can't witness it; if its version is older "
    f"than 0.2.0, update it; else {_KEEP}"
)
_HASH = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_SEQ = Annotated[int, msgspec.Meta(ge=0, lt=10**18)]


class SeenHead(msgspec.Struct, frozen=True):
    """A line that was mainpc's newest, the hash of the newest line `restored` up to it, and when it was seen here."""

    seq: _SEQ
    hash: _HASH
    restored: _HASH | None = None
    seen_at: str = ""


class Gap(msgspec.Struct, frozen=True):
    """Lines from `first` to `last` that were seen and no longer exist; `noticed` by this host's clock.

    `restored` is the time of the restore by mainpc's clock, None if an operator accepted another log without one;
    `acknowledged` is the operator who acknowledged it.
    """

    first: int
    last: int
    noticed: str
    restored: str | None = None
    acknowledged: str | None = None


class _Kept(msgspec.Struct, frozen=True):
    heads: tuple[SeenHead, ...] = ()  # oldest first
    gaps: tuple[Gap, ...] = ()

    @property
    def newest(self) -> SeenHead | None:
        return self.heads[-1] if self.heads else None

    @property
    def unacknowledged(self) -> list[Gap]:
        return [gap for gap in self.gaps if gap.acknowledged is None]


class _Restore(msgspec.Struct):
    seq: _SEQ
    time: Annotated[str, msgspec.Meta(max_length=32)]


class _Compared(msgspec.Struct):
    extends: bool
    restore: _Restore | None = None


class _Answer(msgspec.Struct):
    """What a heartbeat's reply says of the log; nothing if mainpc is older than version 0.2.0, or the link is open."""

    audit_head: SeenHead | None = None
    audit_compared: _Compared | None = None


class AuditWitness:
    """Keeps the heads in a file; callable from any thread."""

    def __init__(self, path: Path, clock: Clock = SYSTEM_CLOCK) -> None:
        """Read the file; an unreadable one is a fault until an operator accepts that, and is not overwritten."""
        self._path = path
        self._clock = clock
        self._lock = threading.Lock()
        self._kept = _Kept()
        self._alarm: str | None = None  # the log does not extend the newest head, or was not shown to
        self._headless_since: float | None = None  # monotonic; while no head is kept
        self._unreadable: str | None = None
        self._unwritten: str | None = None
        try:
            self._kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self._unreadable = (
                f"{path} can't be read ({error}), so no heads of mainpc's audit log are kept; check its volume, then "
                f"{_ACCEPT}"
            )

    @property
    def fault(self) -> str | None:
        """Why mainpc's log does not extend the heads, or why no heads are kept."""
        return self._alarm or self._unreadable or self._unwritten

    def warnings(self) -> list[str]:
        """Return a sentence for each restore that no operator has acknowledged."""
        return [
            f"mainpc's audit log was restored from a backup ({gap.restored}, noticed here {gap.noticed}); lines "
            f"{gap.first} to {gap.last} that this host had seen are no longer in it; if nobody restored mainpc, "
            f"the log was tampered with; to acknowledge the restore, {_ACCEPT}"
            for gap in self._kept.unacknowledged
        ]

    def question(self) -> tuple[SeenHead | None, dict[str, Any]]:
        """Return the newest head, and the heartbeat's fields that ask whether the log still has it."""
        kept, fields = self._kept, {}
        if kept.newest is not None:
            fields["audit_seen"] = {name: getattr(kept.newest, name) for name in ("seq", "hash", "restored")}
        for gap in kept.unacknowledged[-1:]:
            fields["audit_restored"] = {"seq": gap.first, "time": gap.restored, "seen_to": gap.last}
        return kept.newest, fields

    def take(self, asked: SeenHead | None, reply: Reply) -> None:
        """Process a heartbeat's reply; `asked` is the head that the heartbeat asked about."""
        try:
            answer = msgspec.convert(reply, _Answer)
        except msgspec.ValidationError as error:
            _log.warning("audit_head_malformed", reason=str(error))
            answer = _Answer()
        with self._lock:
            if self._unreadable is None and asked == self._kept.newest:  # else an operator accepted it meanwhile
                self._judge(asked, answer)

    def document(self) -> dict[str, Any]:
        """Return the heads and gaps, oldest first, and the fault."""
        return {**msgspec.to_builtins(self._kept), "fault": self.fault}

    def accept(self, operator: str) -> list[str]:
        """Accept mainpc's log as it is; return what was accepted, a phrase each.

        Raises:
            StoreUnavailable: that can't be written; nothing was accepted.
        """
        with self._lock:
            kept, accepted = self._kept, []
            for gap in kept.unacknowledged:
                accepted.append(f"the restore of {gap.restored}, which removed lines {gap.first} to {gap.last}")
            gaps = tuple(msgspec.structs.replace(gap, acknowledged=gap.acknowledged or operator) for gap in kept.gaps)
            heads = kept.heads
            if self._alarm is not None and kept.newest is not None:
                accepted.append(f"a log that was not shown to have line {kept.newest.seq} as it was seen")
                gaps = (*gaps, Gap(heads[0].seq, kept.newest.seq, iso_time(self._clock.time()), None, operator))
                heads = ()
            if self._unreadable is not None:
                accepted.append(f"an unreadable {self._path.name}")
            if accepted:
                changed = _Kept(heads, gaps[-MAX_GAPS:])
                try:
                    self._write(changed)
                except OSError as error:
                    raise StoreUnavailable(
                        f"{self._path} can't be written ({error}); free space on its volume"
                    ) from None
                self._kept, self._alarm, self._unreadable = changed, None, None
            return accepted

    def _judge(self, asked: SeenHead | None, answer: _Answer) -> None:
        head, compared = answer.audit_head, answer.audit_compared
        kept = self._kept
        if asked is None and (head is None or head.seq == 0):
            now = self._clock.monotonic()
            self._headless_since = now if self._headless_since is None else self._headless_since
            if now - self._headless_since > _NEW_LOG_S:
                self._raise_alarm(_NO_HEAD)
            return
        self._headless_since = None
        if asked is not None and (contradiction := _contradiction(asked, answer)) is not None:
            self._raise_alarm(f"{contradiction}; {_KEEP}; once the cause is known, {_ACCEPT}")
            return
        if asked is not None and compared is not None and not compared.extends and compared.restore is not None:
            restore = compared.restore
            gap = Gap(restore.seq, asked.seq, iso_time(self._clock.time()), restore.time)
            _log.warning("audit_log_restored", first=gap.first, last=gap.last, restored=gap.restored)
            heads = tuple(head for head in kept.heads if head.seq < restore.seq)
            kept = _Kept(heads, (*kept.gaps, gap)[-MAX_GAPS:])
        elif head is not None and head.seq > (0 if asked is None else asked.seq):
            seen = msgspec.structs.replace(head, seen_at=iso_time(self._clock.time()))
            kept = _Kept(_thinned((*kept.heads, seen)), kept.gaps)
        self._alarm = None
        if kept is not self._kept or self._unwritten is not None:
            self._kept = kept
            self._save()

    def _save(self) -> None:
        """Write what is kept; after a failure it is kept in memory, and the next heartbeat retries."""
        try:
            self._write(self._kept)
        except OSError as error:
            if self._unwritten is None:
                _log.error("audit_heads_not_written", reason=str(error))
            self._unwritten = f"the heads of mainpc's audit log can't be written ({error}); free space on the volume"
        else:
            self._unwritten = None

    def _raise_alarm(self, alarm: str) -> None:
        if self._alarm != alarm:
            self._alarm = alarm
            _log.error("audit_log_contradicted", reason=alarm)

    def _write(self, kept: _Kept) -> None:
        replace_file(self._path, msgspec.json.encode(kept).decode())


def _contradiction(asked: SeenHead, answer: _Answer) -> str | None:
    """Return what an answer says, or leaves out, that the one of a log which still has a head would not."""
    head, compared = answer.audit_head, answer.audit_compared
    line = f"line {asked.seq} as this host saw it on {asked.seen_at}"
    if compared is not None and not compared.extends:
        explained = compared.restore is not None and compared.restore.seq <= asked.seq
        rewritten = f"mainpc's audit log no longer has {line}: it was rewritten, or replaced by an older state"
        return None if explained else rewritten
    if compared is None or head is None:
        return f"mainpc does not say whether its audit log still has {line}"
    if head.seq < asked.seq or (head.seq == asked.seq and head.hash != asked.hash):
        return f"mainpc says that its audit log still has {line}, and that it ends with another line {head.seq}"
    return None


def _thinned(heads: tuple[SeenHead, ...]) -> tuple[SeenHead, ...]:
    if len(heads) <= MAX_HEADS:
        return heads
    newest = heads[-1].seq

    def relative_gap(number: int) -> float:
        return (heads[number + 1].seq - heads[number - 1].seq) / (newest - heads[number].seq)

    removed = min(range(1, len(heads) - 1), key=relative_gap)
    return (*heads[:removed], *heads[removed + 1 :])


class GetAuditHeads(Request, tag="get_audit_heads"):
    """The heads of mainpc's audit log that this host keeps; an operator's action."""


class AcceptAuditLog(Request, tag="accept_audit_log"):
    """Accept mainpc's audit log as it is, once a restore or an alarm is explained; an operator's action."""


class SeenHeadDocument(TypedDict):
    """A line that was mainpc's newest; `restored` is the hash of the newest line `restored` up to it, or null."""

    seq: int
    hash: str
    restored: str | None
    seen_at: str


class GapDocument(TypedDict):
    """Lines that were seen and no longer exist; `restored` is null if an operator accepted that without a restore."""

    first: int
    last: int
    noticed: str
    restored: str | None
    acknowledged: str | None


class AuditHeads(TypedDict):
    """The heads and gaps, oldest first; `fault` is the alarm, or why no heads are kept, else null."""

    status: Literal["ok", "success"]
    heads: list[SeenHeadDocument]
    gaps: list[GapDocument]
    fault: str | None


class AuditLogAccepted(TypedDict):
    """What was accepted, a phrase each; empty if there was nothing to accept."""

    status: Literal["ok", "success"]
    accepted: list[str]


class WitnessActions(Feature):
    """The operator's actions on what this host has seen of mainpc's audit log."""

    def __init__(self, witness: AuditWitness, success: Literal["ok", "success"]) -> None:
        """Serve a witness; `success` is the `status` of a successful reply."""
        self._witness = witness
        self._success: Literal["ok", "success"] = success

    @action()
    def heads(self, _: GetAuditHeads, __: Caller) -> AuditHeads:
        document = self._witness.document()
        return {
            "status": self._success,
            "heads": document["heads"],
            "gaps": document["gaps"],
            "fault": document["fault"],
        }

    @action(mutates=True, from_reserve=True, unowned="it is for operators")
    def accept(self, _: AcceptAuditLog, caller: Caller) -> AuditLogAccepted:
        return {"status": self._success, "accepted": self._witness.accept(caller.name)}
