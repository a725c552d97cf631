r"""The lines of the log: what is audited, which repeated events are counted, and how each line is chained.

A line is one JSON object, in ASCII, with no spaces between its parts:

    {"seq":2,"time":"2026-11-25T04:00:00.000Z","event":"key_revoked","name":"x",...,"prev":"HEX","hash":"HEX"}

`seq` comes first and counts from 1 without a gap, across files. `prev` and `hash` come last, in this order, 64
lower-case hex digits each. `prev` is the hash of line seq - 1 (64 zeros for line 1). `hash` is the SHA-256 of the line
without its end, without the member `hash` and the comma before it. A line ends with one \n. So the files can be
checked without this program:

    # cat audit-*.jsonl | python3 check.py
    import hashlib, json, sys
    seq = prev = None
    for line in sys.stdin.buffer.read().splitlines():
        record = json.loads(line)
        assert hashlib.sha256(line[:-75] + b"}").hexdigest() == record["hash"], ("changed", record)
        assert prev in (None, record["prev"]), ("does not follow", record)
        assert seq in (None, record["seq"] - 1), ("missing before", record)
        seq, prev = record["seq"], record["hash"]
    print(seq, prev)  # the head; it must equal the one in the registry's database
"""

import hashlib
import json
import math
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from itertools import islice

import msgspec

from twinhost.moments import SYSTEM_CLOCK, Clock


class AuditEvent(StrEnum):
    """The event of a line. The comment names the fields that readers rely on."""

    STARTED = "started"
    STOPPED = "stopped"
    RESTORED = "restored"  # moment: changes after it are undone; backup_seq, backup_hash: the last line of the backup
    KEY_AUTHORIZED = "key_authorized"  # name, host, roles, fingerprint
    KEY_REMOVED = "key_removed"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    KEY_ROTATED = "key_rotated"
    RETIREMENT_ASKED = "retirement_asked"  # fingerprint: the newer key; retires: the older one
    RETIREMENT_WITHDRAWN = "retirement_withdrawn"
    KEY_FILE_REJECTED = "key_file_rejected"  # file, cause
    INVITATION_MADE = "invitation_made"
    INVITATION_USED = "invitation_used"
    INVITATION_WITHDRAWN = "invitation_withdrawn"
    INVITATION_EXPIRED = "invitation_expired"
    ENROLMENT_REFUSED = "enrolment_refused"  # cause
    HANDSHAKE_ACCEPTED = "handshake_accepted"  # peer
    HANDSHAKE_REFUSED = "handshake_refused"  # cause
    REQUEST_REFUSED = "request_refused"  # code, peer
    GRANTS_CHANGED = "grants_changed"
    GRANTS_REJECTED = "grants_rejected"
    ERRORS_ACKNOWLEDGED = "errors_acknowledged"  # name, count; shape_id or error_id
    REPEATED = "repeated"  # of, count, first, last, addresses
    NOTES_LOST = "notes_lost"  # count
    LOG_CONTRADICTED = "log_contradicted"  # reason; file, or witness: the agent that has seen a different log


AGGREGATED: Mapping[AuditEvent, tuple[str, ...]] = {
    AuditEvent.HANDSHAKE_ACCEPTED: ("peer",),
    AuditEvent.HANDSHAKE_REFUSED: ("cause", "peer"),
    AuditEvent.REQUEST_REFUSED: ("code", "peer"),
    AuditEvent.ENROLMENT_REFUSED: ("cause", "peer"),
    AuditEvent.KEY_FILE_REJECTED: (),
    AuditEvent.GRANTS_REJECTED: (),
    AuditEvent.LOG_CONTRADICTED: (),
}
"""Events that others can cause as often as they like, each with the fields whose values are counted separately.

Those values must come from small sets: no sentences, addresses or fingerprints. A change of a key or a grant is never
aggregated.
"""

Value = str | int | float | bool | None | Sequence[str]
Fields = Mapping[str, Value]

RESERVED = frozenset({"seq", "time", "event", "prev", "hash"})
MAX_FIELDS = 16
MAX_NAME = 32  # characters
MAX_ITEMS = 5  # of a list; _CUT replaces the others
LIMITS_BYTES = (512, 256, 128, 64, 32, 16)  # of one value as JSON; with the last one, any 16 fields fit in a line
_CUT = "\u2026"  # ends a truncated value
_MAX_INT = 2**53  # which every JSON reader represents exactly


def checked(fields: Fields) -> Fields:
    """Return the fields if a line may have fields with these names.

    Raises:
        ValueError: a bug in the caller: a name is reserved or not an identifier, or there are too many fields.
    """
    if len(fields) > MAX_FIELDS:
        raise ValueError(f"an audit line has at most {MAX_FIELDS} fields, not {len(fields)}")
    for name in fields:
        if name in RESERVED or len(name) > MAX_NAME or not (name.isascii() and name.isidentifier()):
            raise ValueError(f"{name!r} can't be the name of a field of an audit line")
    return fields


def bounded(value: Value, limit: int) -> Value:
    """Return a value that JSON can represent, in about `limit` bytes; a truncated value ends in `…`."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= _MAX_INT else "a number out of range"  # str() of a huge one would raise
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str | float):
        return _cut(str(value), limit)
    items = [_cut(str(item), max(8, limit // 4)) for item in islice(value, MAX_ITEMS + 1)]
    return items if len(items) <= MAX_ITEMS else [*items[:MAX_ITEMS], _CUT]


def _cut(text: str, limit: int) -> str:
    if len(text) * (6 if text.isascii() else 12) + 2 <= limit:  # as JSON a character takes no more: `\u0000`, twice
        return text
    kept = text[:limit]
    while len(kept) > 1 and (size := _size(kept)) > limit:
        kept = kept[: min(len(kept) - 1, len(kept) * limit // size)]
    if len(kept) == len(text):
        return text
    room = limit - _size(_CUT)
    while kept and _size(kept) > room:
        kept = kept[:-1]
    return kept + _CUT


def _size(text: str) -> int:
    return len(json.dumps(text))


MAX_LINE_BYTES = 2_048  # without the end of line
NO_HASH = "0" * 64  # the `prev` of line 1
LINE = re.compile(
    r'\{"seq":(?P<seq>[1-9][0-9]{0,17}),"time":"[\x20-\x7e]*'
    r',"prev":"(?P<prev>[0-9a-f]{64})","hash":"(?P<hash>[0-9a-f]{64})"\}'
)
_HASH_MEMBER = len(',"hash":"') + 64 + len('"}')


@dataclass(frozen=True, slots=True)
class Head:
    """The newest line: its number (0 before the first) and its hash."""

    seq: int
    hash: str


@dataclass(frozen=True, slots=True)
class Anchor:
    """The oldest line that is kept: its number, and the hash that its `prev` must be."""

    seq: int
    prev: str


def iso(seconds: float) -> str:
    """Return seconds since the epoch as UTC to the millisecond: `2026-11-25T04:00:00.000Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def make_line(head: Head, time: str, event: AuditEvent, fields: Fields) -> bytes:
    """Return the line that follows `head`, without its end of line: at most MAX_LINE_BYTES bytes of ASCII."""
    start = {"seq": head.seq + 1, "time": time, "event": event.value}
    body = b""
    for limit in LIMITS_BYTES:
        body = _encode({**start, **{name: bounded(value, limit) for name, value in fields.items()}, "prev": head.hash})
        if len(body) + _HASH_MEMBER - 1 <= MAX_LINE_BYTES:
            break
    return body[:-1] + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'


def hash_fits(line: str) -> bool:
    """Return whether the hash of a line that matches LINE fits its content."""
    body = line[:-_HASH_MEMBER].encode() + b"}"
    return hashlib.sha256(body).hexdigest() == line[-66:-2]


def hash_of(line: bytes) -> str:
    """Return the `hash` of a line that this program made."""
    return line[-66:-2].decode()


def prev_of(line: bytes) -> str:
    """Return the `prev` of a line that this program made."""
    return line[-140:-76].decode()


_encoder = json.JSONEncoder(ensure_ascii=True, allow_nan=False, separators=(",", ":"))


def _encode(record: Mapping[str, object]) -> bytes:
    return _encoder.encode(record).encode()


WRITTEN_PER_MINUTE = 20
WRITTEN_PER_DAY = 500
LINES_PER_DAY = WRITTEN_PER_DAY + WRITTEN_PER_DAY // WRITTEN_PER_MINUTE + 25
SAMPLES = 5  # addresses in a `repeated` line
MAX_KINDS = 1_000  # beyond this, all others of an event count as one kind
MINUTE_S, HOUR_S, DAY_S = 60.0, 3_600.0, 86_400.0
LOOK_EVERY_S = 1.0
_KEPT = 64  # characters of a kind's field, and of an address

Kind = tuple[str, ...]  # the event, then name and value of each field that AGGREGATED names for it


class _Account(msgspec.Struct, gc=False):
    """What came of a kind: written one by one this day, and in the window of a minute or an hour."""

    day_ends: float
    written: int = 0
    window_ends: float | None = None  # None: no window
    came: int = 0
    aggregated: int = 0
    first: float = 0.0
    last: float = 0.0
    addresses: tuple[str, ...] = ()


class Repetition:
    """Decides which repeated events are written, so that no peer can fill the log; safe to use from any thread.

    A kind is an event with the fields that `AGGREGATED` names for it, such as a cause and a known peer. The first 20
    events of a kind in a minute are written, and at most 500 in a day. The others become one line `repeated` per
    minute, or per hour once the day's 500 are used up. So a kind takes at most 500 + 25 + 25 = 550 lines a day: 25
    minutes can use up the 500, then hours follow. Ten causes of refused handshakes, all provoked day and night, take
    5,500 lines, 2 MB at 400 bytes each; the 512 MiB that are kept hold more than 200 such days.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._accounts: dict[Kind, _Account] = {}
        self._finished: list[dict[str, Value]] = []  # `repeated` lines to be fetched
        self._looked_at = float("-inf")  # for finished windows, of which there may be a thousand

    def admit(self, event: AuditEvent, fields: Fields, wall: float) -> bool:
        """Return whether to write this event; otherwise it was counted. `wall` is in seconds since the epoch."""
        now = self._clock.monotonic()
        with self._lock:
            kind = self._kind(event, fields)
            account = self._accounts.setdefault(kind, _Account(now + DAY_S))
            self._end_window(kind, account, now)
            if account.window_ends is None:
                spent = account.written >= WRITTEN_PER_DAY
                account.window_ends = now + (HOUR_S if spent else MINUTE_S)
                account.came, account.aggregated, account.first, account.addresses = 0, 0, 0.0, ()
            account.came += 1
            if account.came <= WRITTEN_PER_MINUTE and account.written < WRITTEN_PER_DAY:
                account.written += 1
                return True
            _aggregate(account, fields, wall)
            return False

    def finished(self, *, everything: bool = False) -> list[dict[str, Value]]:
        """Return, once each, the fields of the `repeated` lines of finished windows; at a stop, of all windows."""
        now = float("inf") if everything else self._clock.monotonic()
        with self._lock:
            if now - self._looked_at >= LOOK_EVERY_S:
                self._looked_at = now
                for kind, account in list(self._accounts.items()):
                    self._end_window(kind, account, now)
                    if account.window_ends is None and not account.written:
                        del self._accounts[kind]
            lines, self._finished = self._finished, []
            return lines

    def _kind(self, event: AuditEvent, fields: Fields) -> Kind:
        fields = {name: fields[name] for name in AGGREGATED[event] if fields.get(name) is not None}
        kind = (event.value, *(str(part)[:_KEPT] for pair in fields.items() for part in pair))
        if kind in self._accounts or len(self._accounts) < MAX_KINDS:
            return kind
        return event.value, "cause", "others"

    def _end_window(self, kind: Kind, account: _Account, now: float) -> None:
        if account.window_ends is not None and now >= account.window_ends:
            if account.aggregated:
                self._finished.append(_repeated(kind, account))
            account.window_ends = None
        if now >= account.day_ends and account.window_ends is None:
            account.day_ends, account.written = now + DAY_S, 0


def _aggregate(account: _Account, fields: Fields, wall: float) -> None:
    account.aggregated += 1
    account.first = account.first or wall
    account.last = wall
    address = fields.get("address")
    if isinstance(address, str) and len(account.addresses) < SAMPLES and address[:_KEPT] not in account.addresses:
        account.addresses += (address[:_KEPT],)


def _repeated(kind: Kind, account: _Account) -> dict[str, Value]:
    event, *fields = kind
    return {
        "of": event,
        **dict(zip(fields[::2], fields[1::2], strict=True)),
        "count": account.aggregated,
        "first": iso(account.first),
        "last": iso(account.last),
        "addresses": account.addresses,
    }
