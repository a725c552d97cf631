"""The sender of a request, as handlers see it, and the key that proves who it is."""

from dataclasses import dataclass

from twinhost.secure_zmq.validity import UNLIMITED, Validity

OPERATOR_ROLE = "operator"
INVITATION_ROLE = "invitation"  # of a one-time key that may enrol somebody
CANDIDATE_ROLE = "candidate"  # of a key that is proposed, and proves by its handshake that its holder has the secret
IDENTITY_PROPERTY = b"Peer-Identity"  # FINGERPRINT NAME: the ZAP handler sets it, beside User-Id, for every session


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks: proven by the connection, never taken from the body; without a fingerprint nothing is proven."""

    name: str
    host: str
    roles: frozenset[str]
    fingerprint: str | None
    via: str | None = None  # who forwarded the request, where it was not the caller itself

    @property
    def authenticated(self) -> bool:
        return self.fingerprint is not None

    @property
    def operator(self) -> bool:
        return OPERATOR_ROLE in self.roles


@dataclass(frozen=True, slots=True)
class Peer(Caller):
    """A caller that is proven by a key listed on this host."""

    fingerprint: str
    validity: Validity = UNLIMITED


UNAUTHENTICATED = Caller("unauthenticated", "Unknown", frozenset(), None)
