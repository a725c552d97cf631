"""Every error of twinhost, in one tree; a message says what, where, and what to do next.

TwinhostError
├── ConfigurationError          the process must not start; exit status 78 (EX_CONFIG)
│   ├── KeyFileMissing
│   ├── KeyFileMalformed
│   ├── KeyFileExposed          a secret that others can read
│   └── KeyMismatch             two halves that are not one pair
├── SocketMisuse                a call order that would leave a hole
├── ConnectionRefused           no session came about, or it ended
│   ├── NotAuthorized           the server's ZAP handler refused this key
│   ├── WrongServerKey          the pinned server key did not open the handshake
│   ├── SecurityMismatch        one side speaks CURVE, the other does not
│   └── ServerUnreachable       nobody answered within the deadline
└── RequestError                an answer `{"status": "error", "code": ...}`
    ├── MalformedRequest, MessageTooLarge, UnknownAction
    ├── NotGranted, PeerNotLive
    ├── NotFound, RequestIdReused, LimitReached
    ├── AgentUnreachable        the agent that was asked could not reach another
    ├── StoreUnavailable
    │   └── TransactionLost
    └── InternalError
"""

from typing import ClassVar


class TwinhostError(Exception):
    """The root; no foreign exception crosses a package's boundary."""


class ConfigurationError(TwinhostError):
    """Something that must be right before a start is not."""

    EXIT_STATUS: ClassVar[int] = 78  # EX_CONFIG of sysexits.h


class KeyFileMissing(ConfigurationError):
    """A key file that is needed is not there."""


class KeyFileMalformed(ConfigurationError):
    """A key file is there and can't be believed."""


class KeyFileExposed(ConfigurationError):
    """A secret key file can be read by others than its owner."""


class KeyMismatch(ConfigurationError):
    """A secret half and a public half do not belong together."""


class SocketMisuse(TwinhostError):
    """A socket or its handler is used in an order that would leave it open."""


class ConnectionRefused(TwinhostError):
    """No session with the server came about."""


class NotAuthorized(ConnectionRefused):
    """The server knows its own mind: it does not accept this client's key."""


class WrongServerKey(ConnectionRefused):
    """The handshake broke off as it does when the pinned server key is not the server's."""


class SecurityMismatch(ConnectionRefused):
    """One side is encrypted and the other is not."""


class ServerUnreachable(ConnectionRefused):
    """No answer within the deadline."""


class RequestError(TwinhostError):
    """A request that was answered with an error; `code` is what stands on the wire."""

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
    """The agent holds as many of these as it will."""

    code = "limit_reached"


class AgentUnreachable(RequestError):
    """The agent asks another for this, and that one does not answer, or not to it."""

    code = "agent_unreachable"


class StoreUnavailable(RequestError):
    code = "store_unavailable"


class TransactionLost(StoreUnavailable):
    """The store gave up a whole transaction: every request that shared it is undone."""


class InternalError(RequestError):
    code = "internal"


_BY_CODE: dict[str, type[RequestError]] = {
    error.code: error
    for error in (
        MalformedRequest,
        MessageTooLarge,
        UnknownAction,
        NotGranted,
        PeerNotLive,
        NotFound,
        RequestIdReused,
        LimitReached,
        AgentUnreachable,
        StoreUnavailable,
        InternalError,
    )
}


def error_from_reply(code: str, sentence: str) -> RequestError:
    """Return the typed error for a reply's `code`; one that is unknown here is a RequestError that keeps it."""
    known = _BY_CODE.get(code)
    if known is not None:
        return known(sentence)
    error = RequestError(sentence)
    error.code = code
    return error
