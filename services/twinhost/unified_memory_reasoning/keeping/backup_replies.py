"""What UnifiedMemoryReasoningAgent answers of backups, restores, and damage."""

from typing import Literal, NotRequired, TypedDict


class BackupDocument(TypedDict):
    """How far a backup is that was begun at `begun` (ISO-8601).

    `failure` is there where it failed; where it is ready, its size in bytes, its SHA-256, and the rows of each table.
    """

    status: Literal["ok"]
    backup_id: str
    state: Literal["copying", "ready", "failed"]
    begun: str
    failure: NotRequired[str]
    size: NotRequired[int]
    sha256: NotRequired[str]
    rows: NotRequired[dict[str, int]]


class BackupPart(TypedDict):
    """The bytes from `offset` on, in base64 and none at the end, and the size and SHA-256 of the whole."""

    status: Literal["ok"]
    backup_id: str
    size: int
    sha256: str
    offset: int
    data: str


class RestoreBegun(TypedDict):
    """Where to send the parts of a backup, and how many bytes one may have before base64."""

    status: Literal["ok"]
    restore_id: str
    chunk_bytes: int


class RestoreReceived(TypedDict):
    """How many bytes have come."""

    status: Literal["ok"]
    restore_id: str
    received: int


class TableRows(TypedDict):
    """How many rows a table has here, in the backup, and in a damaged database that nobody has acknowledged.

    `damaged` is absent where there is none, and null where its rows can't be counted, as is `lost` then: by how many
    rows the backup has fewer than that one, or than the present one where none is damaged.
    """

    present: int
    backup: int
    damaged: NotRequired[int | None]
    lost: int | None


class RestoreFinished(TypedDict):
    """Whether the backup is still checked, or takes the database's place; `rows`, by table, is there in that case."""

    status: Literal["ok"]
    restore_id: str
    state: Literal["checking", "staged"]
    rows: NotRequired[dict[str, TableRows]]


class KeptDocument(TypedDict):
    """A damaged database that is kept, by its file's name."""

    name: str
    size_bytes: int


class DamageAcknowledged(TypedDict):
    """What was acknowledged by this, and every damaged database that is kept."""

    status: Literal["ok"]
    acknowledged: list[str]
    kept: list[KeptDocument]
