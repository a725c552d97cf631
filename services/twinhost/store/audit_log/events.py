"""What is audited, and which of it may repeat so fast that it is counted and not written one by one."""

from collections.abc import Mapping
from enum import StrEnum


class Event(StrEnum):
    """The event of a line. A line's other fields are named beside it where readers rely on them."""

    STARTED = "started"
    STOPPED = "stopped"
    RESTORED = "restored"  # moment: what came after it is undone; backup_seq, backup_hash: the last line of the backup
    KEY_AUTHORIZED = "key_authorized"  # name, host, roles, fingerprint
    KEY_REMOVED = "key_removed"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    KEY_ROTATED = "key_rotated"
    KEY_FILE_REJECTED = "key_file_rejected"  # file, cause
    INVITATION_MADE = "invitation_made"
    INVITATION_USED = "invitation_used"
    INVITATION_WITHDRAWN = "invitation_withdrawn"
    INVITATION_EXPIRED = "invitation_expired"
    ENROLMENT_REFUSED = "enrolment_refused"  # cause
    HANDSHAKE_ACCEPTED = "handshake_accepted"  # peer
    HANDSHAKE_REFUSED = "handshake_refused"  # cause; probe_by: an operator who had announced it
    PROBES_ANNOUNCED = "probes_announced"  # peer, attempts
    REQUEST_REFUSED = "request_refused"  # code, peer
    GRANTS_CHANGED = "grants_changed"
    GRANTS_REJECTED = "grants_rejected"
    REPEATED = "repeated"  # of, count, first, last, addresses
    NOTES_LOST = "notes_lost"  # count
    LOG_CONTRADICTED = "log_contradicted"  # reason; file, or witness: the agent that has seen another log


FOLDED: Mapping[Event, tuple[str, ...]] = {
    Event.HANDSHAKE_ACCEPTED: ("peer",),
    Event.HANDSHAKE_REFUSED: ("cause", "peer", "probe_by"),
    Event.PROBES_ANNOUNCED: ("peer",),
    Event.REQUEST_REFUSED: ("code", "peer"),
    Event.ENROLMENT_REFUSED: ("cause", "peer"),
    Event.KEY_FILE_REJECTED: (),
    Event.GRANTS_REJECTED: (),
    Event.LOG_CONTRADICTED: (),
}
"""What others can bring about as often as they like, each with the fields whose values are counted apart.

Their values must come from small sets; a sentence, an address or a fingerprint does not belong there.
What changes a key or a grant is never folded.
"""
