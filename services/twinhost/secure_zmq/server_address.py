"""The address of a server, and the key that it must hold; an unencrypted link is another type, not a missing key."""

import contextlib
import os
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias
from urllib.parse import urlsplit

import zmq

from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.keys import KeyPair, PublicKey
from twinhost.secure_zmq.sockets import ClientSocket, EventCallback, connect, limit_socket, secure_unconnected_client

SECURE_ZMQ_VARIABLE = "SECURE_ZMQ"
OPEN_LINK_WARNING = "SECURE_ZMQ=0: the link is open, nobody is authenticated and nothing is encrypted"
_SIGNATURE = b"\xff" + bytes(8) + b"\x7f"
_VERSION_MAJOR = b"\x03"  # the server sends the rest of its greeting after it has received this
_GREETING_BYTES = 64
_MECHANISM = slice(12, 32)
_GREETING_TIMEOUT_S = 0.5  # for all of it, even if it comes byte by byte


def is_secure_zmq_enabled(environment: Mapping[str, str] = os.environ) -> bool:
    """Return whether links are encrypted and authenticated; they are where the variable is unset.

    Raises:
        ConfigurationError: the variable is neither `1` nor `0`.
    """
    value = environment.get(SECURE_ZMQ_VARIABLE, "1")
    if value not in ("0", "1"):
        raise ConfigurationError(
            f"{SECURE_ZMQ_VARIABLE} is {value!r}; set it to 1 (encrypted) or 0 (unencrypted) in .env, or remove it"
        )
    return value == "1"


def mechanism_of(address: str) -> str | None:
    """Return the mechanism (`NULL`, `CURVE`) in the ZMTP greeting (RFC 23) of a `tcp://` server; None without one.

    A client has no other reliable way to learn it: the server's reset of the connection may overtake its greeting.
    """
    target = urlsplit(address)
    if target.scheme != "tcp" or target.hostname is None or target.port is None:
        return None
    deadline = time.monotonic() + _GREETING_TIMEOUT_S
    greeting = b""
    with (
        contextlib.suppress(OSError),
        socket.create_connection((target.hostname, target.port), timeout=_GREETING_TIMEOUT_S) as connection,
    ):
        connection.sendall(_SIGNATURE + _VERSION_MAJOR)
        while len(greeting) < _GREETING_BYTES and (left_s := deadline - time.monotonic()) > 0:
            connection.settimeout(left_s)
            part = connection.recv(_GREETING_BYTES - len(greeting))
            if not part:
                break
            greeting += part
    if len(greeting) < _GREETING_BYTES or greeting[0:1] != b"\xff" or greeting[9] & 1 == 0:
        return None
    return greeting[_MECHANISM].rstrip(b"\0").decode("ascii", errors="replace")


@dataclass(frozen=True, slots=True)
class SecuredAddress:
    """A server that is used over CURVE only, and only if it holds the secret key of `server_key`.

    >>> keys = twinhost.load_certificates()
    >>> address = twinhost.SecuredAddress("tcp://mainpc:7120", keys.own_keys, keys.public_key("server"))
    >>> with twinhost.Client(address) as client:
    ...     pass
    """

    address: str
    own_keys: KeyPair
    server_key: PublicKey

    @property
    def addresses(self) -> Sequence[str]:
        return (self.address,)

    def targets(self) -> "Sequence[SecuredAddress]":
        return (self,)


@dataclass(frozen=True, slots=True)
class UnencryptedAddress:
    """A server that is used without encryption and authentication; for SECURE_ZMQ=0 only.

    `others` are the endpoints at which it may be instead, as where it has a standby.

    >>> with twinhost.Client(twinhost.UnencryptedAddress("tcp://127.0.0.1:7120")) as client:
    ...     pass
    """

    address: str
    others: tuple[str, ...] = ()

    @property
    def addresses(self) -> Sequence[str]:
        return (self.address, *self.others)

    def targets(self) -> "Sequence[UnencryptedAddress]":
        return [UnencryptedAddress(address) for address in self.addresses] if self.others else (self,)


Target: TypeAlias = SecuredAddress | UnencryptedAddress


def open_connection(
    target: Target,
    context: "zmq.Context[zmq.Socket[bytes]]",
    on_event: EventCallback,
    max_payload_bytes: int,
    kind: int = zmq.DEALER,
) -> ClientSocket:
    """Connect a DEALER, or a SUB; every event of its monitor goes to `on_event`.

    Raises:
        SocketMisuse: the address is not an endpoint, or CURVE is not in force.
    """
    socket = context.socket(kind)
    limit_socket(socket, max_payload_bytes)
    match target:
        case SecuredAddress():
            secure_unconnected_client(socket, target.own_keys, target.server_key)
        case UnencryptedAddress():  # anyone on the path can read or forge what is sent
            pass
    return connect(socket, target.address, on_event)


class ServerAddress(Protocol):
    """What a client needs to know about its server."""

    @property
    def address(self) -> str: ...

    @property
    def addresses(self) -> Sequence[str]:
        """Where it may be, the preferred one first."""
        ...

    def targets(self) -> Sequence[Target]:
        """Return what to try, in this order; called for every request, so it reads no file and never blocks."""
        ...


class FollowedAddress:
    """A server whose keys may change during use, as may our own: CURVE only, and only the pins that are valid now."""

    def __init__(
        self,
        address: Callable[[], str] | str | Sequence[str],
        own_keys: Callable[[], KeyPair],
        server_keys: Callable[[], Sequence[PublicKey]],
        agent: str = "",
    ) -> None:
        """Follow values that the caller keeps up to date.

        Args:
            address: the endpoint, or what returns it; several, the first one preferred, where the server may be at any.
            own_keys: returns the pair to use.
            server_keys: returns the pins that are valid now, the server's current key first, its next one second.
            agent: the server's name, for people.

        What is called, is so for every request, also on the monitor's thread: it must not read files, block or raise.
        """
        self._address = [address] if isinstance(address, str) else address
        self._own_keys = own_keys
        self._server_keys = server_keys
        self.agent = agent

    @property
    def address(self) -> str:
        return self.addresses[0]

    @property
    def addresses(self) -> Sequence[str]:
        return [self._address()] if callable(self._address) else self._address

    @property
    def own_keys(self) -> KeyPair:
        return self._own_keys()

    def targets(self) -> Sequence[SecuredAddress]:
        own_keys, pins = self._own_keys(), dict.fromkeys(self._server_keys())
        return [SecuredAddress(address, own_keys, pin) for address in self.addresses for pin in pins]
