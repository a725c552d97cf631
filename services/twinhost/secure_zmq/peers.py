"""Who may talk to this host: public keys from folders, looked at again whenever a file changes."""

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum, auto
from pathlib import Path

import structlog

from twinhost.secure_zmq.callers import CANDIDATE_ROLE, INVITATION_ROLE, Caller
from twinhost.secure_zmq.errors import LimitReached
from twinhost.secure_zmq.folder_watch import FolderWatch
from twinhost.secure_zmq.key_folders import NOTHING, FolderContents, read_folders
from twinhost.secure_zmq.keys import UNLIMITED, Certificate, PublicKey, Validity

_log = structlog.get_logger(__name__)

MAX_CANDIDATES = 64


class Standing(Enum):
    """Whether a key gets in at this moment, and why not."""

    LIVE = auto()
    UNKNOWN = auto()
    REVOKED = auto()
    EXPIRED = auto()
    NOT_YET_VALID = auto()


@dataclass(frozen=True, slots=True)
class Peer:
    """An authorised key: its owner's name, host, and roles, the key's fingerprint, and how long it is good."""

    name: str
    host: str
    roles: frozenset[str]
    fingerprint: str
    validity: Validity = UNLIMITED

    @classmethod
    def of(cls, certificate: Certificate) -> "Peer":
        owner = certificate.owner
        return cls(owner.name, owner.host, owner.roles, certificate.public.fingerprint, certificate.validity)

    def standing(self, now: float) -> Standing:
        """Return LIVE, or how `now` is outside of its validity."""
        if self.validity.has_ended(now):
            return Standing.EXPIRED
        return Standing.LIVE if self.validity.has_begun(now) else Standing.NOT_YET_VALID


@dataclass(frozen=True, slots=True)
class _Snapshot:
    contents: FolderContents = NOTHING
    by_key: Mapping[bytes, Peer] = field(default_factory=dict)
    by_fingerprint: Mapping[str, Peer] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ReloadReport:
    """What one look at the folders found."""

    authorized: tuple[Peer, ...]
    added: tuple[Peer, ...]
    removed: tuple[Peer, ...]
    rejected: tuple[str, ...]  # one sentence for each file that was skipped
    revoked: frozenset[str]  # fingerprints that were not revoked before


Listener = Callable[[ReloadReport], None]


class AuthorizedPeers:
    """The live list of authorised keys; a look-up costs a dictionary access and never touches the disk.

    A file that can't be believed is named and skipped; it neither hides the others nor keeps
    a removed one alive.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        self._folders = tuple(folders)
        self._snapshot = _Snapshot()
        self._candidates: dict[bytes, Certificate] = {}
        self._listeners: list[Listener] = []
        self._lock = threading.Lock()
        self._watch = FolderWatch(self._folders, self._look, lambda: self.contents.rejected)
        self._also_look: list[Callable[[], None]] = []
        self.reload()

    def find(self, raw_public_key: bytes) -> Peer | None:
        """Return the peer of a 32-byte public key that is authorised at this moment, as the handshake shows it."""
        peer = self._snapshot.by_key.get(raw_public_key)
        return peer if peer is not None and peer.validity.holds(time.time()) else None

    def live(self, fingerprint: str) -> Peer | None:
        """Return the peer of a key that is authorised at this moment; asked for every message."""
        peer = self._snapshot.by_fingerprint.get(fingerprint)
        if peer is None:
            return None
        return peer if peer.validity is UNLIMITED or peer.validity.holds(time.time()) else None

    def standing(self, fingerprint: str) -> Standing:
        """Return whether a key gets in, and why not."""
        snapshot = self._snapshot
        if fingerprint in snapshot.contents.revoked:
            return Standing.REVOKED
        peer = snapshot.by_fingerprint.get(fingerprint)
        return Standing.UNKNOWN if peer is None else peer.standing(time.time())

    def why_not_live(self, fingerprint: str) -> str:
        """Return what is said of a key that got in once and is refused now."""
        return "has expired" if self.standing(fingerprint) is Standing.EXPIRED else "is no longer authorised"

    def all(self) -> tuple[Peer, ...]:
        """Return the keys that are listed, whether good at this moment or not, by name."""
        return tuple(sorted(self._snapshot.by_key.values(), key=lambda peer: (peer.name, peer.fingerprint)))

    @property
    def contents(self) -> FolderContents:
        """What lay in the folders at the last look."""
        return self._snapshot.contents

    def public_key_of(self, name: str) -> bytes | None:
        """Return the Z85 public key of a named peer, where it is good at this moment: others will pin it."""
        certificate = self._snapshot.contents.current.get(name)
        good = certificate is not None and self.find(certificate.public.raw) is not None
        return certificate.public.z85 if certificate is not None and good else None

    def admit_candidate(self, certificate: Certificate) -> None:
        """Let a key in that has yet to prove that its holder has the secret half; it lasts as its validity says.

        A candidate of the same owner gives way.

        Raises:
            LimitReached: there are MAX_CANDIDATES others.
        """
        with self._lock:
            now = time.time()
            self._candidates = {
                raw: candidate
                for raw, candidate in self._candidates.items()
                if candidate.owner.name != certificate.owner.name and not candidate.validity.has_ended(now)
            }
            if len(self._candidates) >= MAX_CANDIDATES:
                raise LimitReached(f"{MAX_CANDIDATES} keys wait for their owners' proof; try again in a minute")
            self._candidates[certificate.public.raw] = certificate
            self._take_in(self._snapshot.contents)

    def candidate(self, fingerprint: str) -> Certificate | None:
        """Return the candidate with this fingerprint."""
        candidates = tuple(self._candidates.values())
        return next((key for key in candidates if key.public.fingerprint == fingerprint), None)

    def dismiss_candidate(self, key: PublicKey) -> None:
        """Let a candidate in no longer: it was authorised, or gave way."""
        with self._lock:
            self._candidates.pop(key.raw, None)
            self._take_in(self._snapshot.contents)

    def listen(self, listener: Listener) -> None:
        """Call back after every look that found a change, on the thread that looked."""
        self._listeners.append(listener)

    def keys_of(self, name: str) -> list[PublicKey]:
        """Return a named peer's keys, the current one and then the next, whether good at this moment or not."""
        contents = self._snapshot.contents
        found = [keys[name].public for keys in (contents.current, contents.next) if name in keys]
        return list(dict.fromkeys(found))

    def pins_of(self, name: str) -> list[PublicKey]:
        """Return those of a named peer's keys that are good at this moment: nobody else's word is taken for its own."""
        return [key for key in self.keys_of(name) if self.find(key.raw) is not None]

    def caller_named(self, name: str) -> Caller | None:
        """Return a named peer as a caller, where one of its keys is good at this moment."""
        for key in self.keys_of(name):
            peer = self.find(key.raw)
            if peer is not None:
                return Caller(peer.name, peer.host, peer.roles, peer.fingerprint)
        return None

    def reload(self, revoked: frozenset[str] = frozenset()) -> ReloadReport:
        """Read the folders, swap the list in one step, and say what changed.

        Keys in `revoked` are refused from now until this process ends, whether or not a file revokes them. When it
        returns, every listener has been called.
        """
        with self._lock:
            before = self._snapshot
            contents = read_folders(self._folders, before.contents.revoked | revoked)
            peers = self._take_in(contents)
            report = ReloadReport(
                authorized=self.all(),
                added=tuple(peer for peer in peers.values() if before.by_fingerprint.get(peer.fingerprint) != peer),
                removed=tuple(p for p in before.by_fingerprint.values() if p != peers.get(p.fingerprint)),
                rejected=tuple(contents.rejected),
                revoked=contents.revoked - before.contents.revoked,
            )
            news = [sentence for sentence in contents.rejected if sentence not in before.contents.rejected]
        _log_report(report, news)
        if before.contents != contents:
            for listener in self._listeners:
                listener(report)
        return report

    def watch(self, *also_look: Callable[[], None]) -> None:
        """Start to follow the folders from a thread; `close()` ends it. `also_look` is called at every change."""
        self._also_look = list(also_look)
        self._watch.start()

    @property
    def watching(self) -> bool:
        """Whether changes of the folders are being followed."""
        return self._watch.alive

    def stop_watching(self) -> None:
        """Follow the folders no longer; the thread ends within a second, and is not waited for."""
        self._watch.let_go()

    def close(self) -> None:
        self._watch.stop()

    def _look(self) -> None:
        self.reload()
        for look in self._also_look:
            look()

    def _take_in(self, contents: FolderContents) -> dict[str, Peer]:
        """Swap the list; a key that is listed counts for more than the same as a candidate or an invitation."""
        by_key = {key.public.raw: _as(f"{INVITATION_ROLE}:", INVITATION_ROLE, key) for key in contents.invites}
        for key in self._candidates.values():
            if key.public.fingerprint not in contents.revoked:
                by_key[key.public.raw] = _as(f"{CANDIDATE_ROLE}:", CANDIDATE_ROLE, key)
        for certificates in (contents.next, contents.current):
            by_key |= {key.public.raw: Peer.of(key) for key in certificates.values()}
        peers = {peer.fingerprint: peer for peer in by_key.values()}
        self._snapshot = _Snapshot(contents, by_key, peers)
        return peers


def _as(prefix: str, role: str, certificate: Certificate) -> Peer:
    """Return a key that acts for nobody yet; no owner's name can have the colon."""
    owner = certificate.owner
    name, fingerprint = prefix + owner.name, certificate.public.fingerprint
    return Peer(name, owner.host, frozenset({role}), fingerprint, certificate.validity)


def _log_report(report: ReloadReport, news: Sequence[str]) -> None:
    for sentence in news:
        _log.error("key_file_rejected", reason=sentence)
    for peer in report.added:
        _log.info("peer_authorized", peer=peer.name, host=peer.host, fingerprint=peer.fingerprint)
    for peer in report.removed:
        _log.warning("peer_removed", peer=peer.name, host=peer.host, fingerprint=peer.fingerprint)
    for fingerprint in sorted(report.revoked):
        _log.warning("key_revoked", fingerprint=fingerprint)
