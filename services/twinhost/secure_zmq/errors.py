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
├── UnexpectedReply             a reply of another version: a field is missing, or has another type
├── EventsLost                  events were deleted before this program received them
└── RequestError                a reply `{"status": "error", "code": ...}`
    ├── MalformedRequest, MessageTooLarge, UnknownAction
    ├── NotGranted, PeerNotLive
    ├── NotFound, RequestIdReused, LimitReached
    ├── OverBudget              `budget`, `used`, `limit` and `until` say which, and how much
    ├── Conflict                `revision` is the current one
    ├── AgentUnreachable        the agent could not reach another that it needs
    ├── StoreUnavailable
    │   └── TransactionLost
    └── InternalError
"""

from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from twinhost.secure_zmq.silence import Silence

_MAX_GUESSED_CHARACTERS = 64
_SIMILAR = 0.55  # of 1: `store` is similar to `store_memory`
_NO_FIELDS: Mapping[str, Any] = MappingProxyType({})


class TwinhostError(Exception):
    """The base of every exception that a caller can handle.

    >>> try:
    ...     system.get_agent_info("nobody")
    ... except twinhost.TwinhostError as error:
    ...     print(type(error).__name__)
    NotFound
    """


class ConfigurationError(TwinhostError):
    """Keys, configuration or environment are wrong; a process must not start."""

    EXIT_STATUS: ClassVar[int] = 78  # EX_CONFIG of sysexits.h


class KeyFileMissing(ConfigurationError):
    """A required key file is missing or can't be read.

    >>> try:
    ...     twinhost.load_certificates(Path("/nowhere"))
    ... except twinhost.KeyFileMissing as error:
    ...     print(error)
    /nowhere holds no secret key; ...
    """


class KeyFileMalformed(ConfigurationError):
    """A key file does not have the required format."""


class KeyFileExposed(ConfigurationError):
    """A secret key file can be read by users other than its owner."""


class KeyMismatch(ConfigurationError):
    """A secret key and a public key are not one pair."""


class SocketMisuse(TwinhostError):
    """A socket or its ZAP handler is used in an order that would leave the socket unsecured."""


class ConnectionRefused(TwinhostError):
    """No session with the server could be made.

    >>> client = twinhost.connect("SystemDigitalTwin")
    >>> client.close()
    >>> try:
    ...     client.call("ping")
    ... except twinhost.ConnectionRefused as error:
    ...     print(error)
    the client is closed; ...
    """


class NotAuthorized(ConnectionRefused):
    """The server refused this client's key."""


class WrongServerKey(ConnectionRefused):
    """The server ended the handshake, as it does when the pinned key is not its own."""


class SecurityMismatch(ConnectionRefused):
    """One side is encrypted and the other is not."""


class ServerUnreachable(ConnectionRefused):
    """No reply within the deadline; `silence` is what the connections showed, if they showed anything."""

    silence: Silence | None = None


class UnexpectedReply(TwinhostError, AttributeError):
    """A typed reply has no such field, or one of another type: its agent has another version."""


class EventsLost(TwinhostError):
    """Events were deleted before this program received them; `after` is the number of the last one before the gap.

    >>> try:
    ...     next(system.events("EVENT:", after=10**9))
    ... except twinhost.EventsLost as error:
    ...     print(error.after)
    0
    """

    def __init__(self, sentence: str, after: int) -> None:
        """Create the error; `events` continues after the number."""
        super().__init__(sentence)
        self.after = after


class RequestError(TwinhostError):
    """The server replied with an error; `code` is the one on the wire.

    >>> try:
    ...     memory.call("forget_everything")
    ... except twinhost.RequestError as error:
    ...     print(error.code)
    unknown_action
    """

    code = "error"

    @property
    def reply_fields(self) -> Mapping[str, Any]:
        """The further fields of the reply, besides the code and the sentence."""
        return _NO_FIELDS


class MalformedRequest(RequestError):
    """A field of the request is wrong; the sentence has its path.

    >>> try:
    ...     memory.search("roses", limit=0)
    ... except twinhost.MalformedRequest as error:
    ...     print(error)
    Expected `int` >= 1 - at `$.limit`; ...
    """

    code = "malformed_request"


class MessageTooLarge(RequestError):
    """The request is larger than `max_payload_bytes`."""

    code = "message_too_large"


class UnknownAction(RequestError):
    """The agent has no such action."""

    code = "unknown_action"


class NotGranted(RequestError):
    """The caller's role may not call this action, or the request names another caller."""

    code = "not_granted"


class PeerNotLive(RequestError):
    """The key was revoked or has expired during the session."""

    code = "peer_not_live"


class NotFound(RequestError):
    """There is nothing with that name.

    >>> try:
    ...     memory.get(memory_id="lilies")
    ... except twinhost.NotFound as error:
    ...     print(error.code)
    not_found
    """

    code = "not_found"


class Conflict(RequestError):
    """What the caller wants to change has been changed since it read it.

    >>> try:
    ...     memory.update_twin({"name": "Rosa"}, user_id="rosa", if_revision=0)
    ... except twinhost.Conflict as error:
    ...     print(error.revision > 0)
    True
    """

    code = "conflict"

    def __init__(self, sentence: str, revision: int | None = None) -> None:
        """Create the error; `revision` is the current revision, None if the reply lacks it."""
        super().__init__(sentence)
        self.revision = revision

    @property
    def reply_fields(self) -> Mapping[str, Any]:
        return _NO_FIELDS if self.revision is None else {"revision": self.revision}


class RequestIdReused(RequestError):
    """Another request had the same `request_id`."""

    code = "request_id_reused"


class LimitReached(RequestError):
    """A limit of the agent is reached."""

    code = "limit_reached"


class OverBudget(RequestError):
    """The caller would use more than its identity may: which budget, how much of it, and until when.

    `budget` is the limit's name in `limits.budgets`, `used` and `limit` are in its unit; `until` (ISO-8601) is when
    there is room again, None if time alone does not bring it.
    """

    code = "over_budget"

    def __init__(self, sentence: str, amounts: Mapping[str, Any] = _NO_FIELDS) -> None:
        """Create the error; `amounts` has the fields of the reply."""
        super().__init__(sentence)
        self.budget: str | None = _typed(amounts.get("budget"), str)
        self.used: float | None = _typed(amounts.get("used"), int, float)
        self.limit: float | None = _typed(amounts.get("limit"), int, float)
        self.until: str | None = _typed(amounts.get("until"), str)

    @property
    def reply_fields(self) -> Mapping[str, Any]:
        return {"budget": self.budget, "used": self.used, "limit": self.limit, "until": self.until}


class AgentUnreachable(RequestError):
    """The agent needs another agent for this, which does not answer or refuses it."""

    code = "agent_unreachable"


class StoreUnavailable(RequestError):
    """The agent can't write its database, as on a full disk."""

    code = "store_unavailable"


class TransactionLost(StoreUnavailable):
    """The store rolled back a whole transaction: every request in it is undone."""


class InternalError(RequestError):
    """A defect of the agent, whose log has the traceback."""

    code = "internal"


_BY_CODE = {error.code: error for error in RequestError.__subclasses__()}


def error_from_reply(code: str, sentence: str, reply: Mapping[str, Any] = _NO_FIELDS) -> RequestError:
    """Return the typed error for a reply's `code`; an unknown code gives a RequestError that has it."""
    known = _BY_CODE.get(code)
    if known is Conflict:
        revision = reply.get("revision")
        return Conflict(sentence, revision if type(revision) is int else None)
    if known is OverBudget:
        return OverBudget(sentence, reply)
    if known is not None:
        return known(sentence)
    error = RequestError(sentence)
    error.code = code
    return error


def _typed(value: Any, *types: type) -> Any:
    """Return what another program sent, or None if it has another type."""
    return value if type(value) in types else None


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the most similar one of the known words; empty if none is similar."""
    from difflib import get_close_matches  # noqa: PLC0415 - only an error needs it

    printable = [name for name in known if len(name) <= _MAX_GUESSED_CHARACTERS and name.isprintable()]  # of an agent
    nearest = get_close_matches(word[:_MAX_GUESSED_CHARACTERS], printable, 1, _SIMILAR)
    return f"; did you mean {nearest[0]}?" if nearest else ""
