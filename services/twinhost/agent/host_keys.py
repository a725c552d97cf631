"""The keys of this host: its own, which may be rotated, and the authorised keys of its peers."""

import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import structlog

from twinhost.agent.settings import Settings
from twinhost.commands import CERTS_INIT
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config import Agent
from twinhost.secure_zmq.callers import Peer
from twinhost.secure_zmq.certificates import Certificates, folders_of_keys, load_certificates
from twinhost.secure_zmq.errors import ConfigurationError, KeyMismatch, NotFound
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, DAY_S, KeyPair, format_moment
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.secure_zmq.server_address import FollowedAddress, ServerAddress, UnencryptedAddress

_log = structlog.get_logger(__name__)

_CHECK_EXPIRY_S = 1.0


class OwnKeys:
    """The current key pair of the agent; it follows a rotation, which replaces the secret in the file."""

    def __init__(self, certificates: Certificates) -> None:
        self._folder = certificates.folder
        self._pair = certificates.own_keys
        self.fault: str | None = None  # what is wrong with the secret in the file now; the one before it is in use
        self._lock = threading.Lock()
        self.on_change: Callable[[], None] = lambda: None

    def __call__(self) -> KeyPair:
        """Return the pair; it is kept in memory."""
        return self._pair

    def look(self) -> None:
        """Read the file again; another pair of the same owner takes effect, anything else is logged and ignored."""
        with self._lock:
            try:
                pair = load_certificates(self._folder).own_keys
                self._require_same_owner(pair)
            except ConfigurationError as error:
                if str(error) != self.fault:
                    _log.error("own_key_rejected", reason=str(error), effect="the key in use stays")
                self.fault = str(error)
                return
            self.fault = None
            if pair == self._pair:
                return
            self._pair = pair
        _log.info("own_key_changed", fingerprint=pair.public.fingerprint)
        self.on_change()

    def _require_same_owner(self, pair: KeyPair) -> None:
        mine, owner = self._pair.certificate.owner, pair.certificate.owner
        if owner != mine:
            raise KeyMismatch(
                f"{self._folder} now holds the key of {owner.name}, and this agent is {mine.name}; restore its own key"
            )


class HostKeys:
    """Watches the key folders; without any key, and without a watch, if SECURE_ZMQ=0."""

    def __init__(self, settings: Settings, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._certificates = settings.certificates
        self.own: OwnKeys | None = None
        self._logged: dict[tuple[str, str], float] = {}  # when an expiry was logged, by event and fingerprint
        self._check_due = 0.0
        self.keep: Callable[[], None] = lambda: None  # has a standby have the files of now, on the database's thread
        self.keep_listed: Callable[[], None] = lambda: None  # the same of what `peers` was read from
        self.settle: Callable[[], None] = lambda: None  # the same, on any other thread
        folders: list[Path] = []
        if settings.certificates is not None:
            self.own = OwnKeys(settings.certificates)
            folders = folders_of_keys(settings.certificates.folder)
        self.peers = AuthorizedPeers(folders, clock)

    def watch(self) -> None:
        """Start to watch the folders."""
        self.peers.watch(*([self.own.look] if self.own else []))

    def owner_of(self, fingerprint: str) -> str:
        """Return who has a key, if it is listed, or is this host's own: its agent asks itself also once it is revoked.

        Empty if that is not known.
        """
        if self.own is not None and fingerprint == self.own().public.fingerprint:
            return self.own().certificate.owner.name
        return self.peers.name_of(fingerprint)

    def address_of(self, agent: Agent) -> ServerAddress:
        """Return an agent's address, with this host's current key pair and the agent's current pins at each connection.

        Raises:
            KeyFileMissing, KeyFileMalformed: there is no key of that agent to pin.
        """
        return self._address(agent, agent.endpoints)

    def feed_address_of(self, agent: Agent) -> ServerAddress | None:
        """Return the address of an agent's event feed; None if it has none."""
        return self._address(agent, agent.feed_endpoints) if agent.feed_endpoints else None

    def address_at(self, name: str, endpoint: str) -> ServerAddress:
        """Return the address of an agent that is not configured here, pinned to its keys that are authorised here.

        Raises:
            NotFound: no key of that name is authorised.
        """
        if self.own is None:
            return UnencryptedAddress(endpoint)
        if not self.peers.pins_of(name):
            raise NotFound(
                f"no key of {name[:64]!r} is authorised on this host, so it can't be authenticated; to enrol it, on "
                f"mainpc run: {CERTS_INIT} invite NAME --host HOST --role ROLE"
            )
        return FollowedAddress(endpoint, self.own, lambda: self.peers.pins_of(name))

    def _address(self, agent: Agent, endpoints: Sequence[str]) -> ServerAddress:
        if self._certificates is None or self.own is None:
            return UnencryptedAddress(endpoints[0], tuple(endpoints[1:]))
        if not self.peers.keys_of(agent.name):
            self._certificates.public_key(agent.key)  # raises with what is wrong with the file
        return FollowedAddress(endpoints, self.own, lambda: self.peers.pins_of(agent.name))

    def expiries(self) -> list[str]:
        """Return a sentence for each key that expires within 14 days, or has expired."""
        now = self._clock.time()
        return [
            f"the key of {peer.name} ({peer.fingerprint}) {_expiry_of(peer, moment, now)}"
            for peer, moment in self._expiring()
        ]

    def faults(self) -> list[str]:
        """Return what is wrong with key files, which are not believed."""
        fault = [self.own.fault] if self.own is not None and self.own.fault else []
        return [*fault, *self.peers.contents.rejected]

    def log_expiries(self) -> None:
        """Log the keys that expire soon, or have expired, each once a day; to be called often."""
        now = self._clock.monotonic()
        if now < self._check_due:
            return
        self._check_due = now + _CHECK_EXPIRY_S
        for peer, moment in self._expiring():
            event = "key_expired" if peer.validity.has_ended(self._clock.time()) else "key_ends_soon"
            logged = self._logged.get((event, peer.fingerprint))
            if logged is None or now - logged > DAY_S:
                self._logged[event, peer.fingerprint] = now
                _log.warning(event, peer=peer.name, fingerprint=peer.fingerprint, not_after=moment)

    def _expiring(self) -> list[tuple[Peer, str]]:
        """Return the owners' keys that expire soon or have expired, and when."""
        now = self._clock.time()
        return [
            (peer, format_moment(peer.validity.not_after))
            for peer in self.peers.all()
            if peer.validity.not_after is not None and peer.validity.ends_soon(now) and ":" not in peer.name
        ]


def _expiry_of(peer: Peer, moment: str, now: float) -> str:
    if peer.validity.has_ended(now):
        return f"expired {moment} and is refused"
    if peer.validity.not_after is not None and peer.validity.not_after <= now:  # within the tolerance for clocks
        return f"expired {moment} and is refused within {CLOCK_TOLERANCE_S} s"
    return f"expires {moment}"
