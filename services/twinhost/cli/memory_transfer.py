"""A backup over the wire: read from the agent part by part, or sent to it, and its digest checked at the other end."""

import hashlib
import time
from collections.abc import Callable
from typing import Any, BinaryIO

import msgspec

from twinhost.cli.documents import Health, parse_moment, read
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, MalformedRequest, ServerUnreachable, StoreUnavailable

_DEADLINE_S = 30.0  # for a part, on a slow link
_LOOK_EVERY_S = 0.1
_MADE_WITHIN_S = 600.0  # a copy; and a check of one
BACK_WITHIN_S = 60.0  # an agent that starts anew
_MESSAGE_OVERHEAD = 1_024

Rows = dict[str, int | None]


class BackupDocument(msgspec.Struct, frozen=True):
    """The answer to `begin_backup` and `backup_status`."""

    backup_id: str
    state: str
    size: int = 0
    sha256: str = ""
    rows: Rows = {}
    failure: str | None = None


class PartDocument(msgspec.Struct, frozen=True):
    """The answer to `read_backup`."""

    offset: int
    data: bytes  # base64 on the wire


class RestoreDocument(msgspec.Struct, frozen=True):
    """The answers to `begin_restore`, `write_restore` and `finish_restore`."""

    restore_id: str
    chunk_bytes: int = 0
    received: int = 0
    state: str = ""
    rows: dict[str, Rows] = {}


def fetch_backup(client: Client, write: Callable[[bytes], object]) -> BackupDocument:
    """Have a backup made, and write all of it.

    Raises:
        StoreUnavailable: the agent can't make it.
        MalformedRequest: what came is not what the agent has.
        TwinhostError: it can't be asked, or refuses.
    """
    backup = read(client.call("begin_backup", deadline_s=_DEADLINE_S), BackupDocument)
    over_at = time.monotonic() + _MADE_WITHIN_S
    while backup.state == "copying":
        if time.monotonic() > over_at:
            raise ServerUnreachable(f"the backup is not made within {_MADE_WITHIN_S:g} s; see the agent's log")
        time.sleep(_LOOK_EVERY_S)
        status = client.call("backup_status", deadline_s=_DEADLINE_S, backup_id=backup.backup_id)
        backup = read(status, BackupDocument)
    if backup.failure is not None:
        raise StoreUnavailable(backup.failure)
    digest, offset = hashlib.sha256(), 0
    while offset < backup.size:
        page = client.call("read_backup", deadline_s=_DEADLINE_S, backup_id=backup.backup_id, offset=offset)
        data = read(page, PartDocument).data
        if not data:
            break
        digest.update(data)
        write(data)
        offset += len(data)
    if offset != backup.size or digest.hexdigest() != backup.sha256:
        raise MalformedRequest(f"{offset} of {backup.size} bytes came, and not those of the backup; take it again")
    return backup


def send_backup(client: Client, source: BinaryIO, size: int | None, max_payload_bytes: int) -> dict[str, Rows]:
    """Send a backup and have it checked and staged; return how many rows each table has, and loses.

    Args:
        client: of the agent.
        source: the backup, at its beginning.
        size: in bytes, where it is known before.
        max_payload_bytes: of a message.

    Raises:
        MalformedRequest: it is no backup of this agent.
        TwinhostError: the agent can't be asked, or refuses.
    """
    begun = read(client.call("begin_restore", deadline_s=_DEADLINE_S, size=size), RestoreDocument)
    part_bytes = max(1, min(begun.chunk_bytes, (max_payload_bytes - _MESSAGE_OVERHEAD) // 4 * 3))
    digest, offset = hashlib.sha256(), 0
    while data := source.read(part_bytes):
        client.call("write_restore", deadline_s=_DEADLINE_S, restore_id=begun.restore_id, offset=offset, data=data)
        digest.update(data)
        offset += len(data)
    if not offset:
        raise MalformedRequest("there is nothing in it; name a file that `cli memory backup` wrote")
    over_at = time.monotonic() + _MADE_WITHIN_S
    told: dict[str, Any] = {"restore_id": begun.restore_id, "size": offset, "sha256": digest.hexdigest()}
    while time.monotonic() < over_at:
        finished = read(client.call("finish_restore", deadline_s=_DEADLINE_S, **told), RestoreDocument)
        if finished.state == "staged":
            return finished.rows
        time.sleep(_LOOK_EVERY_S)
    raise ServerUnreachable(f"the backup is not checked within {_MADE_WITHIN_S:g} s; see the agent's log")


def started_at(client: Client, deadline_s: float) -> float:
    """Return when an agent's process began, by its own clock, in seconds since the epoch."""
    health = read(client.call("health", deadline_s=deadline_s), Health)
    moment = parse_moment(health.timestamp)
    return (moment.timestamp() if moment else 0.0) - health.uptime_s


def wait_until_anew(client: Client, before: float) -> None:
    """Wait until an agent answers that began after another one, which began at `before`.

    Raises:
        ServerUnreachable: none does.
    """
    over_at = time.monotonic() + BACK_WITHIN_S
    while (left_s := over_at - time.monotonic()) > 0:
        try:
            if started_at(client, min(2.0, left_s)) > before + 0.5:  # of two clocks' reading
                return
        except ConnectionRefused:
            pass
        time.sleep(min(_LOOK_EVERY_S, left_s))
    raise ServerUnreachable(
        f"the backup is staged, and the agent did not come back within {BACK_WITHIN_S:g} s; "
        "start it, which puts it in place"
    )
