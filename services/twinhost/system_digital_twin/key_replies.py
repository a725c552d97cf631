"""What SystemDigitalTwin answers about keys and the audit log."""

from typing import Literal, TypedDict


class Enrolled(TypedDict):
    """Whose key it will be once it is confirmed."""

    status: Literal["success"]
    name: str
    host: str
    roles: list[str]


class Proposed(TypedDict):
    """The fingerprint of the key that is to be confirmed."""

    status: Literal["success"]
    fingerprint: str


class Trust(TypedDict):
    """Whom to trust: the texts of public key files, and the fingerprints of what is revoked."""

    revision: str
    current: tuple[str, ...]
    next: tuple[str, ...]
    revoked: tuple[str, ...]


class TrustTold(Trust):
    """The list of whom to trust."""

    status: Literal["success"]


class Confirmed(Trust):
    """The key counts; `certificate` is the text of its file."""

    status: Literal["success"]
    certificate: str


class Retired(TypedDict):
    """The fingerprints of the caller's other keys, which are revoked."""

    status: Literal["success"]
    retired: list[str]


class AuditAnchor(TypedDict):
    """The oldest line that is kept: its number, and the hash that its `prev` must be."""

    seq: int
    prev: str


class AuditHead(TypedDict):
    """The newest line: its number, 0 before the first, and its hash."""

    seq: int
    hash: str


class AuditPage(TypedDict):
    """Raw lines, and where the next page begins."""

    status: Literal["success"]
    lines: tuple[str, ...]
    position: str
    anchor: AuditAnchor
    head: AuditHead
