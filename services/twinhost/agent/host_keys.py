"""The keys of this host: its own, which may be rotated, and those of everybody whom it knows."""

import time
from pathlib import Path

import structlog

from twinhost.agent.settings import Settings
from twinhost.network_config import Agent
from twinhost.secure_zmq.certificates import folders_of_keys
from twinhost.secure_zmq.errors import NotFound
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, DAY_S, format_moment
from twinhost.secure_zmq.own_keys import OwnKeys
from twinhost.secure_zmq.peers import AuthorizedPeers, Peer
from twinhost.secure_zmq.server_address import FollowedAddress, ServerAddress, UnencryptedAddress

_log = structlog.get_logger(__name__)

_LOOK_AT_CLOCK_S = 1.0


class HostKeys:
    """Follows the folders of keys; nobody is known, and nothing followed, where SECURE_ZMQ=0."""

    def __init__(self, settings: Settings) -> None:
        self._certificates = settings.certificates
        self.own: OwnKeys | None = None
        self._told: dict[tuple[str, str], float] = {}  # when a key's end was logged, by event and fingerprint
        self._look_due = 0.0
        folders: list[Path] = []
        if settings.certificates is not None:
            self.own = OwnKeys(settings.certificates)
            folders = folders_of_keys(settings.certificates.folder)
        self.peers = AuthorizedPeers(folders)

    def watch(self) -> None:
        """Start to follow the folders."""
        self.peers.watch(*([self.own.look] if self.own else []))

    def address_of(self, agent: Agent) -> ServerAddress:
        """Return how to ask an agent: with this host's pair as it is at each moment, and by the keys known then.

        Raises:
            KeyFileMissing, KeyFileMalformed: there is no key of that agent that could be pinned.
        """
        return self._address(agent, agent.endpoint)

    def feed_address_of(self, agent: Agent) -> ServerAddress | None:
        """Return how to hear an agent's event feed, likewise; None where it has none."""
        return None if agent.events_port is None else self._address(agent, agent.host.endpoint(agent.events_port))

    def address_at(self, name: str, endpoint: str) -> ServerAddress:
        """Return how to ask somebody who is not configured here, by the keys of that name that are good here now.

        Raises:
            NotFound: none is.
        """
        if self.own is None:
            return UnencryptedAddress(endpoint)
        if not self.peers.pins_of(name):
            raise NotFound(f"no key of {name[:64]!r} is authorised on this host, so its answers can't be believed")
        return FollowedAddress(endpoint, self.own, lambda: self.peers.pins_of(name))

    def _address(self, agent: Agent, endpoint: str) -> ServerAddress:
        if self._certificates is None or self.own is None:
            return UnencryptedAddress(endpoint)
        if not self.peers.keys_of(agent.name):
            self._certificates.public_key(agent.key)  # says what is wrong with the file
        return FollowedAddress(endpoint, self.own, lambda: self.peers.pins_of(agent.name))

    def warnings(self) -> list[str]:
        """Return what to tell of: keys near their end, and files that can't be believed."""
        now = time.time()
        soon = [
            f"the key of {peer.name} ({peer.fingerprint}) {_end_of(peer, moment, now)}"
            for peer, moment in self._end_soon()
        ]
        fault = [self.own.fault] if self.own is not None and self.own.fault else []
        return [*soon, *fault, *self.peers.contents.rejected]

    def tell_of_ends(self) -> None:
        """Log the keys that are near their end, or expired, each once a day; to be called often."""
        now = time.monotonic()
        if now < self._look_due:
            return
        self._look_due = now + _LOOK_AT_CLOCK_S
        for peer, moment in self._end_soon():
            event = "key_expired" if peer.validity.has_ended(time.time()) else "key_ends_soon"
            told = self._told.get((event, peer.fingerprint))
            if told is None or now - told > DAY_S:
                self._told[event, peer.fingerprint] = now
                _log.warning(event, peer=peer.name, fingerprint=peer.fingerprint, not_after=moment)

    def _end_soon(self) -> list[tuple[Peer, str]]:
        """Return the owners' keys that are near their end, or past it, and when that is."""
        now = time.time()
        return [
            (peer, format_moment(peer.validity.not_after))
            for peer in self.peers.all()
            if peer.validity.not_after is not None and peer.validity.ends_soon(now) and ":" not in peer.name
        ]


def _end_of(peer: Peer, moment: str, now: float) -> str:
    if peer.validity.has_ended(now):
        return (
            f"expired {moment} and is refused; enrol a new key for it, or revoke it on mainpc: "
            f"certs-init revoke {peer.fingerprint}"
        )
    if peer.validity.not_after is not None and peer.validity.not_after <= now:  # the clocks' tolerance is granted
        return f"expired {moment} and is refused within {CLOCK_TOLERANCE_S} s; rotate it now"
    return f"ends {moment}; rotate it"
