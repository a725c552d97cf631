"""A backup over the wire: read from the agent part by part, or sent to it, with its digest checked at the other end."""

import hashlib
import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any, BinaryIO

import msgspec

from twinhost.cli.documents import Health, parse_moment, read
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, MalformedRequest, ServerUnreachable, StoreUnavailable
from twinhost.unified_memory_reasoning.backup.actions import BackupDocument, RestoreBegun, RestoreFinished, TableRows

_DEADLINE_S = 30.0  # for a part, on a slow link
_POLL_S = 0.1
_MADE_WITHIN_S = 600.0  # a copy, or the check of one
BACK_WITHIN_S = 60.0  # a restart of the agent
_MESSAGE_OVERHEAD = 1_024


class BackupPart(msgspec.Struct, frozen=True):
    """The used part of the reply to `read_backup`, its base64 decoded."""

    offset: int
    data: bytes


def fetch_backup(client: Client, write: Callable[[bytes], object]) -> BackupDocument:
    """Let the agent make a backup, and write all of it; the document has its size, digest, and rows.

    Raises:
        StoreUnavailable: the agent can't make it.
        MalformedRequest: the bytes that came are not the agent's.
        TwinhostError: the agent can't be asked, or refuses.
    """
    call = partial(client.call, deadline_s=_DEADLINE_S)
    backup = read(call("begin_backup"), BackupDocument)
    polls = _polls("the backup is not ready")
    while backup["state"] == "copying":
        next(polls)
        backup = read(call("backup_status", backup_id=backup["backup_id"]), BackupDocument)
    if (failure := backup.get("failure")) is not None:
        raise StoreUnavailable(failure)
    digest, offset = hashlib.sha256(), 0
    while offset < backup["size"]:
        data = read(call("read_backup", backup_id=backup["backup_id"], offset=offset), BackupPart).data
        if not data:
            break
        digest.update(data)
        write(data)
        offset += len(data)
    if offset != backup["size"] or digest.hexdigest() != backup["sha256"]:
        raise MalformedRequest(
            f"{offset} of {backup['size']} bytes came, and they are not the backup's; run the command again"
        )
    return backup


def send_backup(client: Client, source: BinaryIO, size: int | None, max_payload_bytes: int) -> Mapping[str, TableRows]:
    """Send a backup and let the agent check and stage it; return how many rows each table has, and loses.

    Args:
        client: of the agent.
        source: the backup, at its beginning.
        size: in bytes, if it is known in advance.
        max_payload_bytes: of a message.

    Raises:
        MalformedRequest: it is no backup of this agent.
        TwinhostError: the agent can't be asked, or refuses.
    """
    call = partial(client.call, deadline_s=_DEADLINE_S)
    begun = read(call("begin_restore", size=size), RestoreBegun)
    restore_id = begun["restore_id"]
    part_bytes = max(1, min(begun["chunk_bytes"], (max_payload_bytes - _MESSAGE_OVERHEAD) // 4 * 3))
    digest, offset = hashlib.sha256(), 0
    while data := source.read(part_bytes):
        call("write_restore", restore_id=restore_id, offset=offset, data=data)
        digest.update(data)
        offset += len(data)
    if not offset:
        raise MalformedRequest("the file is empty; name a file that `./twinhost memory backup` wrote")
    sent: dict[str, Any] = {"restore_id": restore_id, "size": offset, "sha256": digest.hexdigest()}
    for _ in _polls("the backup is not checked"):
        finished = read(call("finish_restore", **sent), RestoreFinished)
        if finished["state"] == "staged":
            return finished["rows"]
    raise AssertionError("unreachable: _polls raises at its end")


def _polls(complaint: str) -> Iterator[None]:
    """Yield now and after each pause; raise ServerUnreachable when the time is up."""
    ends = time.monotonic() + _MADE_WITHIN_S
    while time.monotonic() < ends:
        yield
        time.sleep(_POLL_S)
    raise ServerUnreachable(f"{complaint} within {_MADE_WITHIN_S:g} s; see the agent's log")


def started_at(client: Client, deadline_s: float) -> float:
    """Return when an agent's process started, by its own clock, in seconds since the epoch."""
    health = read(client.call("health", deadline_s=deadline_s), Health)
    moment = parse_moment(health.timestamp)
    return (moment.timestamp() if moment else 0.0) - health.uptime_s


def wait_until_restarted(client: Client, before: float) -> None:
    """Wait until an agent answers that started after `before`.

    Raises:
        ServerUnreachable: none does.
    """
    ends = time.monotonic() + BACK_WITHIN_S
    while (left_s := ends - time.monotonic()) > 0:
        try:
            if started_at(client, min(2.0, left_s)) > before + 0.5:  # the error of two clock readings
                return
        except ConnectionRefused:
            pass
        time.sleep(min(_POLL_S, left_s))
    raise ServerUnreachable(
        f"the backup is staged, but the agent did not come back within {BACK_WITHIN_S:g} s; "
        "start it, which puts the backup in place"
    )
