"""The authorised keys, read from the key folders and kept up to date, and the one check of a key."""

import contextlib
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal, assert_never

import structlog

from twinhost.folder_events import FolderEvents, Looks
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.secure_zmq.callers import CANDIDATE_ROLE, INVITATION_ROLE, Peer
from twinhost.secure_zmq.certificates import (
    INVITES_FOLDER,
    NOTHING,
    REVOKED_FOLDER,
    FolderContents,
    read_folders,
)
from twinhost.secure_zmq.errors import LimitReached
from twinhost.secure_zmq.keys import Certificate, PublicKey, fingerprint_of
from twinhost.secure_zmq.silence import Silence
from twinhost.worker import Waker, Worker

_log = structlog.get_logger(__name__)

MAX_CANDIDATES = 64
_LOOK_S = 0.5  # between two looks at the folders' times, for file systems that don't report every change
_RETRY_S, _RETRY_MAX_S = 0.25, 30.0  # the first and the longest wait after an incomplete read
_POLL_S = 0.5  # the interval at which the folders are read where they can't be watched


class Outcome(StrEnum):
    """How a handshake ended, as far as the server knows: accepted, or why it was refused.

    A cause that depends on the key is also a `Refusal`, and `AuthorizedPeers.judge` returns it.
    """

    ACCEPTED = "accepted"
    KEY_NOT_AUTHORIZED = "key_not_authorized"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"
    KEY_NOT_YET_VALID = "key_not_yet_valid"
    TOO_MANY_SESSIONS = "too_many_sessions"
    HANDLER_FAULT = "handler_fault"
    WRONG_KEYS = "wrong_server_key_or_mismatched_halves"
    MECHANISM_MISMATCH = "mechanism_mismatch"
    NOT_ZMTP = "not_zmtp"
    BROKEN_OFF = "broken_off_or_plain_client"
    TIMED_OUT = "timed_out"
    OVERSIZED = "oversized_handshake"
    TOO_MANY_PENDING = "too_many_pending_handshakes"


Refusal = Literal[Outcome.KEY_NOT_AUTHORIZED, Outcome.KEY_REVOKED, Outcome.KEY_EXPIRED, Outcome.KEY_NOT_YET_VALID]


def explain(refusal: Refusal) -> str:
    """Return why a key that was accepted before is refused now, for a sentence that begins with the key."""
    match refusal:
        case Outcome.KEY_EXPIRED:
            return "has expired"
        case Outcome.KEY_NOT_YET_VALID:
            return "is not valid yet"
        case Outcome.KEY_NOT_AUTHORIZED | Outcome.KEY_REVOKED:
            return "is no longer authorised"
        case _:
            assert_never(refusal)


@dataclass(frozen=True, slots=True)
class _Snapshot:
    contents: FolderContents = NOTHING
    by_fingerprint: Mapping[str, Peer] = field(default_factory=dict)  # no revoked key is in it


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What one read of the folders found."""

    added: tuple[Peer, ...]
    removed: tuple[Peer, ...]
    rejected: tuple[str, ...]  # one sentence for each file that was skipped
    revoked: frozenset[str]  # fingerprints that were not revoked before


Listener = Callable[[ReloadReport], None]


class AuthorizedPeers:
    """The current list of authorised keys; a look-up is a dictionary access and never reads the disk.

    An invalid file is reported and skipped; it neither hides the others nor keeps a removed key authorised.
    """

    def __init__(self, folders: Sequence[Path], clock: Clock = SYSTEM_CLOCK) -> None:
        self._folders = tuple(folders)
        self._clock = clock
        self._snapshot = _Snapshot()
        self._expired: Mapping[str, int] = {}
        self._candidates: dict[bytes, Certificate] = {}
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._watch = _FolderWatch(self._folders, self._on_change, lambda: self.contents.rejected, clock)
        self._callbacks: tuple[Callable[[], None], ...] = ()
        # When the last message of a key came, by its fingerprint, in seconds since the epoch; the sessions know.
        self.last_seen: Callable[[str], float | None] = lambda _: None
        # Why owners of keys are silent; the sessions know that too.
        self.silences: Callable[[Set[str]], Mapping[str, Silence]] = lambda _: {}
        self.reload()

    def judge(self, raw_key: bytes) -> Peer | Refusal:
        """Judge a public key at this moment, as the handshake shows it; one without 32 bytes is not authorised."""
        return self.judge_fingerprint(fingerprint_of(raw_key), self._clock.time())

    def judge_fingerprint(self, fingerprint: str, now: float) -> Peer | Refusal:
        """Return the owner of a key, or why it is refused at `now`, in seconds since the epoch.

        This alone decides about keys: at a handshake, and at every message of an open session.
        """
        snapshot = self._snapshot
        peer = snapshot.by_fingerprint.get(fingerprint)
        if peer is None:
            revoked = fingerprint in snapshot.contents.revoked
            return Outcome.KEY_REVOKED if revoked else Outcome.KEY_NOT_AUTHORIZED
        expired = self._expired.get(fingerprint, -1) == peer.validity.not_after
        if peer.validity.holds(now) and not expired:
            return peer
        return Outcome.KEY_EXPIRED if expired or peer.validity.has_ended(now) else Outcome.KEY_NOT_YET_VALID

    def keep_expired(self, expired: Mapping[str, int]) -> None:
        """Refuse keys, by fingerprint, while they have this `not_after`, even if the clock is set back before it."""
        self._expired = expired

    def find(self, raw_key: bytes) -> Peer | None:
        """Return the peer of a public key that is authorised at this moment."""
        return self.live(fingerprint_of(raw_key))

    def live(self, fingerprint: str) -> Peer | None:
        """Return the peer of a key, by its fingerprint, that is authorised at this moment."""
        verdict = self.judge_fingerprint(fingerprint, self._clock.time())
        return verdict if isinstance(verdict, Peer) else None

    def standing(self, fingerprint: str) -> str:
        """Return the status of a key at this moment: `live`, `expired`, `not_yet_valid`, `revoked` …"""
        verdict = self.judge_fingerprint(fingerprint, self._clock.time())
        return "live" if isinstance(verdict, Peer) else verdict.value.removeprefix("key_")

    def name_of(self, fingerprint: str) -> str:
        """Return the owner's name of a listed key; empty if there is none."""
        peer = self._snapshot.by_fingerprint.get(fingerprint)
        return peer.name if peer is not None else ""

    def all(self) -> tuple[Peer, ...]:
        """Return the keys that are listed, whether valid at this moment or not, by name."""
        return tuple(sorted(self._snapshot.by_fingerprint.values(), key=lambda peer: (peer.name, peer.fingerprint)))

    @property
    def contents(self) -> FolderContents:
        """What the folders held when they were last read."""
        return self._snapshot.contents

    def keys_of(self, name: str) -> list[PublicKey]:
        """Return a named peer's keys, the current one and then the next, whether valid at this moment or not."""
        return list(dict.fromkeys(key.public for key in self.contents.keys_of(name)))

    def pins_of(self, name: str) -> list[PublicKey]:
        """Return those of a named peer's keys to pin: valid at this moment, or not yet.

        A key that is listed here was made by its owner: where it begins later, this host's clock is behind. Whoever
        refused such a server could not tell mainpc that it is.
        """
        verdicts = ((key, self.judge(key.raw)) for key in self.keys_of(name))
        return [key for key, verdict in verdicts if isinstance(verdict, Peer) or verdict is Outcome.KEY_NOT_YET_VALID]

    def public_key_of(self, name: str) -> bytes | None:
        """Return the Z85 form of a named peer's current key, for others to pin, where it is valid at this moment."""
        certificate = self._snapshot.contents.current.get(name)
        if certificate is None or self.find(certificate.public.raw) is None:
            return None
        return certificate.public.z85

    def caller_named(self, name: str) -> Peer | None:
        """Return a named peer, where one of its keys is valid at this moment."""
        return next((peer for key in self.keys_of(name) if (peer := self.find(key.raw)) is not None), None)

    def admit_candidate(self, certificate: Certificate) -> None:
        """Authorise a key to prove that its holder has the secret half, during its validity.

        It replaces an earlier candidate of the same owner.

        Raises:
            LimitReached: there are MAX_CANDIDATES others.
        """
        with self._lock:
            now = self._clock.time()
            self._candidates = {
                raw: candidate
                for raw, candidate in self._candidates.items()
                if candidate.owner.name != certificate.owner.name and not candidate.validity.has_ended(now)
            }
            if len(self._candidates) >= MAX_CANDIDATES:
                raise LimitReached(
                    f"{MAX_CANDIDATES} keys are waiting for confirmation by their owners; try again in a minute"
                )
            self._candidates[certificate.public.raw] = certificate
            self._swap(self._snapshot.contents)

    def candidate(self, fingerprint: str) -> Certificate | None:
        """Return the candidate with this fingerprint."""
        candidates = tuple(self._candidates.values())
        return next((key for key in candidates if key.public.fingerprint == fingerprint), None)

    def dismiss_candidate(self, key: PublicKey) -> None:
        """Drop a candidate: it was authorised, or replaced."""
        with self._lock:
            self._candidates.pop(key.raw, None)
            self._swap(self._snapshot.contents)

    def listen(self, listener: Listener) -> None:
        """Call back after every read that found a change, on the thread that read."""
        self._listeners.append(listener)

    def reload(self, revoked: frozenset[str] = frozenset()) -> ReloadReport:
        """Read the folders, swap the list in one step, and return what changed.

        Keys in `revoked` are refused from now until this process ends, whether or not a file revokes them. When it
        returns, every listener has been called.
        """
        with self._lock:
            before = self._snapshot
            contents = read_folders(self._folders, before.contents.revoked | revoked)
            peers = self._swap(contents)
            report = ReloadReport(
                added=tuple(peer for peer in peers.values() if before.by_fingerprint.get(peer.fingerprint) != peer),
                removed=tuple(peer for peer in before.by_fingerprint.values() if peers.get(peer.fingerprint) != peer),
                rejected=tuple(contents.rejected),
                revoked=contents.revoked - before.contents.revoked,
            )
            newly_rejected = [reason for reason in contents.rejected if reason not in before.contents.rejected]
        _log_report(report, newly_rejected, revoked=() if before.contents is NOTHING else report.revoked)
        if before.contents != contents:
            for listener in self._listeners:
                listener(report)
        return report

    def watch(self, *callbacks: Callable[[], None]) -> None:
        """Start to follow the folders from a thread; `close()` ends it. `callbacks` are called at every change."""
        self._callbacks = callbacks
        self._watch.start()

    @property
    def watching(self) -> bool:
        """Whether changes of the folders are being followed."""
        return self._watch.alive

    def stop_watching(self) -> None:
        """Stop following the folders; the thread ends within a second, and is not waited for."""
        self._watch.request_stop()

    def close(self) -> None:
        self._watch.stop()

    def _on_change(self) -> None:
        self.reload()
        for callback in self._callbacks:
            callback()

    def _swap(self, contents: FolderContents) -> dict[str, Peer]:
        """Swap the list; a listed key takes precedence over the same key as a candidate or an invitation."""
        listed = [_restricted(INVITATION_ROLE, key) for key in contents.invites]
        listed += [_restricted(CANDIDATE_ROLE, key) for key in self._candidates.values()]
        listed += [_peer(key) for keys in (contents.next, contents.current) for key in keys.values()]
        peers = {peer.fingerprint: peer for peer in listed if peer.fingerprint not in contents.revoked}
        self._snapshot = _Snapshot(contents, peers)
        return peers


_Seen = tuple[int, int, int]  # of a folder: device, inode, and when a file was last added to it, or removed from it


class _FolderWatch(Worker):
    """Calls back, from its own thread, whenever something in the folders may have changed."""

    def __init__(
        self,
        folders: Sequence[Path],
        changed: Callable[[], object],
        unread: Callable[[], Sequence[str]],
        clock: Clock,
    ) -> None:
        # While `unread` returns something, `changed` is called again, with a backoff that restarts if that differs.
        super().__init__("keys-watch", self._follow, join_timeout_s=1.0)
        self._waker = Waker()
        self._folders = [
            folder / inner for folder in folders for inner in ("", REVOKED_FOLDER, INVITES_FOLDER)
        ]  # not recursive: an agent's folder may contain other mounts
        self._changed = changed
        self._unread = unread
        self._clock = clock
        self._last_unread: Sequence[str] = ()
        self._retry_s = _RETRY_S
        self._retry_at: float | None = None

    def _interrupt(self) -> None:
        self._waker.wake()

    def _follow(self) -> None:
        unwatched = ""
        while not self.stopping:
            seen = self._seen()
            try:
                with contextlib.closing(FolderEvents(seen, self._waker)) as events:
                    self._watch_while_same(seen, events)
            except FileNotFoundError:  # removed since `_seen()`
                continue
            except OSError as error:  # no permission, or all of the host's inotify instances or watches are in use
                if str(error) != unwatched:
                    _log.warning("folders_not_watched", reason=str(error), effect="they are read twice a second")
                    unwatched = str(error)
                self._changed()
                self.wait(_POLL_S)

    def _watch_while_same(self, before: Mapping[Path, _Seen], events: FolderEvents) -> None:
        """Follow the folders until one is created, or replaced, as a restore or a sync does."""
        watched, seen = _places(before), self._seen()
        looks = Looks(seen)
        self._changed()  # for changes before the watch
        while not self.stopping and _places(seen) == watched:
            changed, seen = events.wait(_LOOK_S), self._seen()
            # What is seen counts too, since some file systems don't report changes made on another host.
            if looks.may_have_changed(seen) or changed or self._retry_is_due():
                self._changed()

    def _retry_is_due(self) -> bool:
        """Return whether it is time to retry what could not be read."""
        unread = tuple(self._unread())
        if unread != self._last_unread:
            self._last_unread, self._retry_s, self._retry_at = unread, _RETRY_S, None
        if not unread:
            return False
        now = self._clock.monotonic()
        if self._retry_at is not None and now < self._retry_at:
            return False
        due, self._retry_at = self._retry_at is not None, now + self._retry_s
        if due:
            self._retry_s = min(2 * self._retry_s, _RETRY_MAX_S)
        return due

    def _seen(self) -> dict[Path, _Seen]:
        """Return the folders that exist, as they are now."""
        seen = {}
        for folder in self._folders:
            with contextlib.suppress(OSError):
                status = folder.stat()
                seen[folder] = status.st_dev, status.st_ino, status.st_mtime_ns
        return seen


def _places(seen: Mapping[Path, _Seen]) -> dict[Path, tuple[int, int]]:
    return {folder: (device, inode) for folder, (device, inode, _) in seen.items()}


def _peer(key: Certificate) -> Peer:
    owner = key.owner
    return Peer(owner.name, owner.host, owner.roles, key.public.fingerprint, validity=key.validity)


def _restricted(role: str, key: Certificate) -> Peer:
    """Return a key that is not enrolled yet, under a name that no owner can have, since it has a colon."""
    owner = key.owner
    name = f"{role}:{owner.name}"
    return Peer(name, owner.host, frozenset({role}), key.public.fingerprint, validity=key.validity)


def _log_report(report: ReloadReport, newly_rejected: Sequence[str], revoked: Iterable[str]) -> None:
    for sentence in newly_rejected:
        _log.error("key_file_rejected", reason=sentence)
    for peer in report.added:
        _log.info("peer_authorized", peer=peer.name, host=peer.host, fingerprint=peer.fingerprint)
    for peer in report.removed:
        _log.warning("peer_removed", peer=peer.name, host=peer.host, fingerprint=peer.fingerprint)
    for fingerprint in sorted(revoked):  # not those that a start finds: they were logged when they were revoked
        _log.warning("key_revoked", fingerprint=fingerprint)
