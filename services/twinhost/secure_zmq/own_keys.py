"""This agent's own pair, followed: a rotation puts another secret in the file, and it is used from then on."""

import threading

import structlog

from twinhost.secure_zmq.certificates import Certificates, load_certificates
from twinhost.secure_zmq.errors import ConfigurationError, KeyMismatch
from twinhost.secure_zmq.keys import KeyPair

_log = structlog.get_logger(__name__)


class OwnKeys:
    """The pair that the agent uses at this moment."""

    def __init__(self, certificates: Certificates) -> None:
        self._folder = certificates.folder
        self._pair = certificates.own_keys
        self._fault: str | None = None
        self._lock = threading.Lock()

    def __call__(self) -> KeyPair:
        """Return the pair; it is kept in memory."""
        return self._pair

    @property
    def fault(self) -> str | None:
        """What is wrong with the secret as it lies there now; the one before it is in use."""
        return self._fault

    def look(self) -> None:
        """Read the file again; another pair of the same owner is taken, anything else is named and left alone."""
        with self._lock:
            try:
                pair = load_certificates(self._folder).own_keys
                self._require_same_owner(pair)
            except ConfigurationError as error:
                if str(error) != self._fault:
                    _log.error("own_key_rejected", reason=str(error), effect="the key in use stays")
                self._fault = str(error)
                return
            self._fault = None
            if pair == self._pair:
                return
            self._pair = pair
        _log.info("own_key_changed", fingerprint=pair.public.fingerprint)

    def _require_same_owner(self, pair: KeyPair) -> None:
        mine, found = self._pair.certificate.owner, pair.certificate.owner
        if found != mine:
            raise KeyMismatch(f"{self._folder} holds the key of {found.name} now and this is {mine.name}; put its own")
