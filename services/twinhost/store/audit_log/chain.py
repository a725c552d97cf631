r"""One line of the log, and how it holds to the one before it.

A line is one JSON object, in ASCII, with no spaces between its parts:

    {"seq":2,"time":"2026-11-25T04:00:00.000Z","event":"key_revoked","name":"x",...,"prev":"HEX","hash":"HEX"}

`seq` stands first and counts from 1 without a gap, across files. `prev` and `hash` stand last, in
this order, 64 lower-case hex digits each. `prev` is the hash of line seq - 1 (64 zeros for line 1).
`hash` is the SHA-256 of the line's own bytes without its end of line, with the member `hash` and
the comma before it taken out: of everything up to there, and the closing brace. A line ends with
one \n. So anybody can check the files with nothing of this program:

    # cat audit-*.jsonl | python3 check.py
    import hashlib, json, sys
    seq = prev = None
    for line in sys.stdin.buffer.read().splitlines():
        record = json.loads(line)
        assert hashlib.sha256(line[:-75] + b"}").hexdigest() == record["hash"], ("changed", record)
        assert prev in (None, record["prev"]), ("does not follow", record)
        assert seq in (None, record["seq"] - 1), ("missing before", record)
        seq, prev = record["seq"], record["hash"]
    print(seq, prev)  # the head; the registry's database must say the same
"""

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

from twinhost.store.audit_log.events import Event
from twinhost.store.audit_log.fields import LIMITS_BYTES, Fields, bounded

MAX_LINE_BYTES = 2_048  # without the end of line
NO_HASH = "0" * 64  # the `prev` of line 1
LINE = re.compile(
    r'\{"seq":(?P<seq>[1-9][0-9]{0,17}),"time":"[\x20-\x7e]*'
    r',"prev":"(?P<prev>[0-9a-f]{64})","hash":"(?P<hash>[0-9a-f]{64})"\}'
)
_HASH_MEMBER = len(',"hash":"') + 64 + len('"}')


@dataclass(frozen=True, slots=True)
class Head:
    """The newest line: its number, 0 before the first, and its hash."""

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


def make_line(head: Head, time: str, event: Event, fields: Fields) -> bytes:
    """Return the line that follows `head`, without its end of line: at most MAX_LINE_BYTES bytes of ASCII."""
    start = {"seq": head.seq + 1, "time": time, "event": event.value}
    body = b""
    for limit in LIMITS_BYTES:
        body = _encode({**start, **{name: bounded(value, limit) for name, value in fields.items()}, "prev": head.hash})
        if len(body) + _HASH_MEMBER - 1 <= MAX_LINE_BYTES:
            break
    return body[:-1] + b',"hash":"' + hashlib.sha256(body).hexdigest().encode() + b'"}'


def hash_fits(line: str) -> bool:
    """Say whether a line that matches LINE has the hash of what it says."""
    body = line[:-_HASH_MEMBER].encode() + b"}"
    return hashlib.sha256(body).hexdigest() == line[-66:-2]


def hash_of(line: bytes) -> str:
    """Return the `hash` of a line that this program made."""
    return line[-66:-2].decode()


def prev_of(line: bytes) -> str:
    """Return the `prev` of a line that this program made."""
    return line[-140:-76].decode()


def _encode(record: Mapping[str, object]) -> bytes:
    return json.dumps(record, ensure_ascii=True, allow_nan=False, separators=(",", ":")).encode()
