"""Every error of twinhost, in one tree; a message says what is wrong, where, and what to do next.

TwinhostError
├── ConfigurationError          the process must not start; exit status 78 (EX_CONFIG)
│   ├── KeyFileMissing
│   ├── KeyFileMalformed
│   ├── KeyFileExposed          a secret that others can read
│   └── KeyMismatch             two halves that are not one pair
├── SocketMisuse                a socket is used in an order that would leave it unsecured
├── ConnectionRefused           no session could be made, or it ended
│   ├── NotAuthorized           the server's ZAP handler refused this key
│   ├── WrongServerKey          the server does not have the pinned key
│   ├── SecurityMismatch        one side uses CURVE, the other does not
│   └── ServerUnreachable       no reply within the deadline
└── RequestError                a reply `{"status": "error", "code": ...}`
    ├── MalformedRequest, MessageTooLarge, UnknownAction
    ├── NotGranted, PeerNotLive
    ├── NotFound, RequestIdReused, LimitReached
    ├── AgentUnreachable        the agent could not reach another that it needs
    ├── StoreUnavailable
    │   └── TransactionLost
    └── InternalError
"""

from typing import ClassVar


class TwinhostError(Exception):
    """The root: the packages raise no other exception for what a caller can handle."""


class ConfigurationError(TwinhostError):
    """Keys, configuration or environment are wrong; a process must not start."""

    EXIT_STATUS: ClassVar[int] = 78  # EX_CONFIG of sysexits.h


class KeyFileMissing(ConfigurationError):
    """A required key file is missing or can't be read."""


class KeyFileMalformed(ConfigurationError):
    """A key file has another form than it must have."""


class KeyFileExposed(ConfigurationError):
    """A secret key file can be read by users other than its owner."""


class KeyMismatch(ConfigurationError):
    """A secret key and a public key are not one pair."""


class SocketMisuse(TwinhostError):
    """A socket or its ZAP handler is used in an order that would leave the socket unsecured."""


class ConnectionRefused(TwinhostError):
    """No session with the server could be made."""


class NotAuthorized(ConnectionRefused):
    """The server refused this client's key."""


class WrongServerKey(ConnectionRefused):
    """The server ended the handshake, as it does when the pinned key is not its own."""


class SecurityMismatch(ConnectionRefused):
    """One side is encrypted and the other is not."""


class ServerUnreachable(ConnectionRefused):
    """No reply within the deadline."""


class RequestError(TwinhostError):
    """The server replied with an error; `code` is the one on the wire."""

    code = "error"


class MalformedRequest(RequestError):
    code = "malformed_request"


class MessageTooLarge(RequestError):
    code = "message_too_large"


class UnknownAction(RequestError):
    code = "unknown_action"


class NotGranted(RequestError):
    code = "not_granted"


class PeerNotLive(RequestError):
    code = "peer_not_live"


class NotFound(RequestError):
    code = "not_found"


class RequestIdReused(RequestError):
    code = "request_id_reused"


class LimitReached(RequestError):
    """A limit of the agent is reached."""

    code = "limit_reached"


class AgentUnreachable(RequestError):
    """The agent needs another agent for this, which does not answer or refuses it."""

    code = "agent_unreachable"


class StoreUnavailable(RequestError):
    code = "store_unavailable"


class TransactionLost(StoreUnavailable):
    """The store rolled back a whole transaction: every request in it is undone."""


class InternalError(RequestError):
    code = "internal"


_BY_CODE = {error.code: error for error in RequestError.__subclasses__()}


def error_from_reply(code: str, sentence: str) -> RequestError:
    """Return the typed error for a reply's `code`; an unknown code gives a RequestError that has it."""
    known = _BY_CODE.get(code)
    if known is not None:
        return known(sentence)
    error = RequestError(sentence)
    error.code = code
    return error
