"""The heads of mainpc's audit log that this host has seen: a log that is rewritten there no longer extends them.

mainpc answers every heartbeat with its newest head, and with whether its log still has the newest one that is kept
here. The file is apart from the agent's database: a restored or damaged memory must not take the heads with it.
"""

import os
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import structlog

from twinhost.agent.health import iso_time
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.wire import Reply
from twinhost.store.set_aside import sync_folder

_log = structlog.get_logger(__name__)

MOST_HEADS = 64  # beyond them one between two others goes: the older they are, the wider apart
MOST_GAPS = 32
_ACCEPT = "run `cli audit accept`"
_HASH = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]
_SEQ = Annotated[int, msgspec.Meta(ge=0, lt=10**18)]


class SeenHead(msgspec.Struct, frozen=True):
    """A line that was mainpc's newest, the hash of the newest line `restored` up to it, and when it was seen here."""

    seq: _SEQ
    hash: _HASH
    restored: _HASH | None = None
    seen_at: str = ""


class Gap(msgspec.Struct, frozen=True):
    """Lines that were seen and are gone, from `first` to `last`, noticed at a moment of this host's clock.

    `restored` is the time of the restore by mainpc's clock, None where an operator accepted another log without one;
    `acknowledged` is the operator who knows of it.
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
    """What a heartbeat's reply says of the log; nothing where mainpc is of an older version, or the link is open."""

    audit_head: SeenHead | None = None
    audit_compared: _Compared | None = None


class AuditWitness:
    """Keeps the heads in a file; safe to use from any thread."""

    def __init__(self, path: Path) -> None:
        """Read the file; one that can't be read is a fault until an operator accepts that, and is not overwritten."""
        self._path = path
        self._lock = threading.Lock()
        self._kept = _Kept()
        self._alarm: str | None = None  # the log does not extend the newest head
        self._unreadable: str | None = None
        self._unwritten: str | None = None
        try:
            self._kept = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            self._unreadable = f"{path} can't be read ({error}), so no head of mainpc's audit log is kept; {_ACCEPT}"

    @property
    def fault(self) -> str | None:
        """That mainpc's log does not extend what was seen, or why nothing is kept."""
        return self._alarm or self._unreadable or self._unwritten

    def warnings(self) -> list[str]:
        """Return the restores that no operator has acknowledged."""
        return [
            f"mainpc's audit log was restored from a backup ({gap.restored}, noticed here {gap.noticed}); lines "
            f"{gap.first} to {gap.last} that this host had seen are no longer in it; if nobody restored mainpc, "
            f"somebody rewrote the log; to acknowledge it {_ACCEPT}"
            for gap in self._kept.unacknowledged
        ]

    def question(self) -> tuple[SeenHead | None, dict[str, Any]]:
        """Return the newest head, and the fields of a heartbeat that ask whether the log still has it."""
        kept, fields = self._kept, {}
        if kept.newest is not None:
            fields["audit_seen"] = {name: getattr(kept.newest, name) for name in ("seq", "hash", "restored")}
        for gap in kept.unacknowledged[-1:]:
            fields["audit_restored"] = {"seq": gap.first, "time": gap.restored, "seen_to": gap.last}
        return kept.newest, fields

    def take(self, asked: SeenHead | None, reply: Reply) -> None:
        """Take what a heartbeat's reply says; `asked` is the head that the heartbeat asked about."""
        try:
            answer = msgspec.convert(reply, _Answer)
        except msgspec.ValidationError as error:
            _log.warning("audit_head_malformed", reason=str(error))
            return
        with self._lock:
            if self._unreadable is None and asked == self._kept.newest:  # else an operator accepted the log meanwhile
                self._judge(asked, answer)

    def document(self) -> dict[str, Any]:
        """Return the heads and gaps, oldest first, and what is wrong."""
        return {**msgspec.to_builtins(self._kept), "fault": self.fault}

    def accept(self, operator: str) -> list[str]:
        """Take mainpc's log as it is, from now on; return what is accepted by it, a phrase each.

        Raises:
            StoreUnavailable: it can't be written; nothing was accepted.
        """
        with self._lock:
            kept, accepted = self._kept, []
            for gap in kept.unacknowledged:
                accepted.append(f"the restore of {gap.restored}, which took lines {gap.first} to {gap.last}")
            gaps = tuple(msgspec.structs.replace(gap, acknowledged=gap.acknowledged or operator) for gap in kept.gaps)
            heads = kept.heads
            if self._alarm is not None and kept.newest is not None:
                accepted.append(f"a log that does not have line {kept.newest.seq} as it was seen")
                gaps = (*gaps, Gap(heads[0].seq, kept.newest.seq, iso_time(time.time()), None, operator))
                heads = ()
            if self._unreadable is not None:
                accepted.append(f"that {self._path.name} can't be read")
            if accepted:
                changed = _Kept(heads, gaps[-MOST_GAPS:])
                try:
                    self._write(changed)
                except OSError as error:
                    raise StoreUnavailable(f"{self._path} can't be written ({error}); free space there") from None
                self._kept, self._alarm, self._unreadable = changed, None, None
            return accepted

    def _judge(self, asked: SeenHead | None, answer: _Answer) -> None:
        head, compared = answer.audit_head, answer.audit_compared
        kept = self._kept
        if asked is not None and compared is not None and not compared.extends:
            restore = compared.restore
            if restore is None or restore.seq > asked.seq:
                self._raise_alarm(asked)
                return
            gap = Gap(restore.seq, asked.seq, iso_time(time.time()), restore.time)
            _log.warning("audit_log_restored", first=gap.first, last=gap.last, restored=gap.restored)
            heads = tuple(each for each in kept.heads if each.seq < restore.seq)
            kept = _Kept(heads, (*kept.gaps, gap)[-MOST_GAPS:])
        elif head is not None and (head.seq > 0 if asked is None else compared is not None and head.seq > asked.seq):
            seen = msgspec.structs.replace(head, seen_at=iso_time(time.time()))
            kept = _Kept(_thinned((*kept.heads, seen)), kept.gaps)
        if compared is not None:
            self._alarm = None
        if kept is not self._kept or self._unwritten is not None:
            self._kept = kept
            self._keep()

    def _keep(self) -> None:
        """Write what is kept; where that fails it holds in memory, and the next heartbeat tries again."""
        try:
            self._write(self._kept)
        except OSError as error:
            if self._unwritten is None:
                _log.error("audit_heads_not_written", reason=str(error))
            self._unwritten = f"the heads of mainpc's audit log can't be written ({error}); free space on the volume"
        else:
            self._unwritten = None

    def _raise_alarm(self, asked: SeenHead) -> None:
        if self._alarm is None:
            self._alarm = (
                f"mainpc's audit log no longer has line {asked.seq} as this host saw it on {asked.seen_at}: somebody "
                "rewrote it, or put an older state in its place; run `cli audit verify`, keep a copy of mainpc's state "
                f"volume, and once it is explained {_ACCEPT}"
            )
            _log.error("audit_log_contradicted", reason=self._alarm)

    def _write(self, kept: _Kept) -> None:
        draft = self._path.with_name(f"{self._path.name}.new")
        with open(draft, "wb", opener=lambda name, flags: os.open(name, flags | os.O_NOFOLLOW, 0o600)) as stream:
            stream.write(msgspec.json.encode(kept))
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(self._path)
        sync_folder(self._path.parent)


def _thinned(heads: tuple[SeenHead, ...]) -> tuple[SeenHead, ...]:
    if len(heads) <= MOST_HEADS:
        return heads
    newest = heads[-1].seq

    def room(number: int) -> float:
        return (heads[number + 1].seq - heads[number - 1].seq) / (newest - heads[number].seq)

    spare = min(range(1, len(heads) - 1), key=room)
    return (*heads[:spare], *heads[spare + 1 :])
