"""What an operator asks for a backup, a restore, and after damage: every field with its type and its bounds."""

from typing import Annotated

import msgspec

from twinhost.secure_zmq.wire import Request

MAX_FILE_BYTES = 2**40
MAX_CHUNK_BYTES = 1024 * 1024  # in one message, before base64
BACKUP_ID = Annotated[str, msgspec.Meta(min_length=1, max_length=64)]
OFFSET = Annotated[int, msgspec.Meta(ge=0, le=MAX_FILE_BYTES)]
SIZE = Annotated[int, msgspec.Meta(ge=1, le=MAX_FILE_BYTES)]
CHUNK = Annotated[bytes, msgspec.Meta(min_length=1, max_length=MAX_CHUNK_BYTES)]  # base64 on the wire
SHA256 = Annotated[str, msgspec.Meta(pattern=r"^[0-9a-fA-F]{64}$")]


class BeginBackup(Request, tag="begin_backup"):
    """Make a copy of the database as it is at this moment."""


class BackupStatus(Request, tag="backup_status"):
    """How far a copy is."""

    backup_id: BACKUP_ID


class ReadBackup(Request, tag="read_backup"):
    """A part of a finished copy, in base64."""

    backup_id: BACKUP_ID
    offset: OFFSET


class BeginRestore(Request, tag="begin_restore"):
    """Begin to send a copy that is to take the database's place; one that was begun before is dropped.

    `size` and `sha256` may be told here or by `finish_restore`.
    """

    size: SIZE | None = None
    sha256: SHA256 | None = None


class WriteRestore(Request, tag="write_restore"):
    """The next part of it; one that has come already is taken again."""

    restore_id: BACKUP_ID
    offset: OFFSET
    data: CHUNK


class FinishRestore(Request, tag="finish_restore"):
    """Check what has come, stage it, and start the agent anew with it; ask again while it says `checking`."""

    restore_id: BACKUP_ID
    size: SIZE | None = None
    sha256: SHA256 | None = None


class AcknowledgeDamage(Request, tag="acknowledge_damage"):
    """Note that a damaged database was set aside and that its loss is accepted."""
