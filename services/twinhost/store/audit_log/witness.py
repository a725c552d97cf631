"""What another host has seen of the log, and whether the log still extends it.

A witness keeps heads: the number and the hash of the newest line at some moments. The hash chain makes the newest of
them vouch for every line before it. A log that was restored from a backup has lost lines that a witness has seen; its
line `restored` explains that, once: a head that was seen after such a line is not explained by it.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import msgspec

from twinhost.store.audit_log.chain import LINE, Anchor, Head, hash_fits
from twinhost.store.audit_log.events import Event

_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\.[0-9]{3}Z")


@dataclass(frozen=True, slots=True)
class Restore:
    """A line `restored`: its number, hash and time, and the line that the backup ended with."""

    seq: int
    hash: str
    time: str
    backup: Head


@dataclass(frozen=True, slots=True)
class Seen:
    """A head that a witness has seen, and the hash of the newest line `restored` up to it, if there was one."""

    seq: int
    hash: str
    restored: str | None = None


class _Record(msgspec.Struct):
    event: str
    time: str


def restore_of(line: str) -> Restore | None:
    """Return what a line says of a restore; None where it is no whole line `restored`."""
    if f'"event":"{Event.RESTORED.value}"' not in line:
        return None
    match = LINE.fullmatch(line)
    if match is None or not hash_fits(line):
        return None
    try:
        record = msgspec.json.decode(line, type=_Record)
    except msgspec.MsgspecError:
        return None
    if record.event != Event.RESTORED or not _TIME.fullmatch(record.time):  # the text stands in another field
        return None
    seq = int(match["seq"])
    return Restore(seq, match["hash"], record.time, Head(seq - 1, match["prev"]))


def hash_before(anchor: Anchor, seq: int) -> str | None:
    """Return the hash of the line just before the oldest one that is kept; None for any other number."""
    return anchor.prev if seq == anchor.seq - 1 else None


def newest_restore(restores: Iterable[Restore], seq: int) -> Restore | None:
    """Return the newest restore up to a line."""
    return max((each for each in restores if each.seq <= seq), key=lambda each: each.seq, default=None)


def explained_by(seen: Seen, restores: Iterable[Restore]) -> Restore | None:
    """Return the restore that explains why the log lacks a line that was seen; None where no restore does."""
    newest = newest_restore(restores, seen.seq)
    return None if newest is None or newest.hash == seen.restored else newest


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a log stands to the heads of a witness.

    `missing` is the oldest line that was seen and is not there, without a restore that explains it; `agrees_to` the
    newest before it that is there, 0 for none; `replaced` the lines that restores explain, each with its restore.
    """

    agrees_to: int
    missing: Seen | None
    replaced: tuple[tuple[Seen, Restore], ...]


def compare(heads: Sequence[Seen], hash_of: Callable[[int], str | None], restores: Sequence[Restore]) -> Comparison:
    """Compare a log with the heads of a witness.

    Args:
        heads: what was seen, before the log was read.
        hash_of: the hash of the log's line of a number; None where it has none.
        restores: what the log says of restores.
    """
    there = [seen for seen in heads if hash_of(seen.seq) == seen.hash]
    gone = [(seen, explained_by(seen, restores)) for seen in heads if seen not in there]
    missing = min((seen for seen, restore in gone if restore is None), key=lambda seen: seen.seq, default=None)
    return Comparison(
        max((seen.seq for seen in there if missing is None or seen.seq < missing.seq), default=0),
        missing,
        tuple((seen, restore) for seen, restore in gone if restore is not None),
    )
