"""When each key was last used, and which have expired, in a file that outlasts a restart.

An operator who revokes unused keys must not see all as such after a restart. A clock that is set back must not revive a
key or an invitation: one that was expired for SETTLED_S stays so while it has the same `not_after`. A clock that is in
the future for a shorter time ends none of them for good.

It is separate from the agent's database, since a restored backup would set it back.
"""

from pathlib import Path
from typing import Annotated

import msgspec
import structlog

from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.key_writer import replace_file
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.sessions import SecuredSessions

_log = structlog.get_logger(__name__)

SEEN_FILE = "keys-seen.json"  # after the agent's name, in its state folder
_SAVE_EVERY_S = 60.0  # a killed agent forgets as much
SETTLED_S = 600.0  # by the monotonic clock
_Moment = Annotated[float, msgspec.Meta(ge=0, lt=253_402_300_800)]  # in seconds since the epoch, to the year 9999


class _Kept(msgspec.Struct):
    since: _Moment  # when the record began
    seen: dict[str, _Moment]  # by fingerprint
    expired: dict[str, int] = {}  # the keys that stay expired, each with its `not_after`


class KeysSeen:
    """Keeps when the keys of a socket's callers were last used; on the thread that owns the socket."""

    def __init__(
        self, path: Path, sessions: SecuredSessions, peers: AuthorizedPeers, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Read the file; without a valid one, the record begins now."""
        self._path, self._sessions, self._peers, self._clock = path, sessions, peers, clock
        self._saved: _Kept | None = None
        self._due = 0.0
        self._fault: str | None = None
        try:
            self._saved = msgspec.json.decode(path.read_bytes(), type=_Kept)
        except FileNotFoundError:
            pass
        except (OSError, ValueError) as error:
            _log.warning("keys_seen_unreadable", path=str(path), reason=str(error), effect="the record begins again")
        kept = self._saved or _Kept(self._clock.time(), {})
        self._since = kept.since
        sessions.restore_last_seen(kept.seen, kept.since)
        peers.keep_expired(kept.expired)
        self._expired, self._expired_since = kept.expired, dict[str, float]()  # the second by the monotonic clock

    def on_tick(self) -> None:
        """Write what has changed, once in _SAVE_EVERY_S."""
        if self._clock.monotonic() >= self._due:
            self.save()

    def save(self) -> None:
        """Write what has changed; after a failure the next call retries."""
        self._due = self._clock.monotonic() + _SAVE_EVERY_S
        self._settle_expired()
        listed = {peer.fingerprint for peer in self._peers.all()}
        seen = {key: at for key, at in self._sessions.last_seen().items() if key in listed}
        kept = _Kept(self._since, seen, self._expired)
        if kept == self._saved:
            return
        try:
            replace_file(self._path, msgspec.json.encode(kept).decode())
        except OSError as error:
            if str(error) != self._fault:
                _log.warning("keys_seen_not_written", path=str(self._path), reason=str(error))
            self._fault = str(error)
        else:
            self._saved, self._fault = kept, None

    def _settle_expired(self) -> None:
        """Have the keys stay expired that have been for long enough."""
        wall, monotonic = self._clock.time(), self._clock.monotonic()
        since: dict[str, float] = {}
        expired: dict[str, int] = {}
        for peer in self._peers.all():
            key, not_after = peer.fingerprint, peer.validity.not_after
            if not_after is None:
                continue
            if peer.validity.has_ended(wall):
                since[key] = self._expired_since.get(key, monotonic)
            if self._expired.get(key) == not_after or monotonic - since.get(key, monotonic) >= SETTLED_S:
                expired[key] = not_after
        self._expired, self._expired_since = expired, since
        self._peers.keep_expired(expired)
