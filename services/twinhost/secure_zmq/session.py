"""A connection over which messages came, and what counts its unsent bytes."""

from typing import Protocol

import msgspec

from twinhost.secure_zmq.connections import Connection


class Account(Protocol):
    """The bytes of a connection's messages that libzmq holds.

    libzmq lets go of a message as soon as it has encrypted it; the encrypted one is then what it is sending, until the
    next one follows. So each message counts until libzmq lets go of the next one.
    """

    @property
    def unsent(self) -> int:
        """The bytes of this connection, or of all whose owner this is."""

    @property
    def of_owner(self) -> int:
        """The bytes of all connections that this one's owner has."""

    def drained(self) -> None:
        """Note that the connection sends nothing now, so that the last message which libzmq let go of has been sent."""


class Session(msgspec.Struct, frozen=True, gc=False):
    """A connection over which messages came: its owner, its descriptor, its remote address and port, what is unsent."""

    name: str
    fd: int
    address: str | None  # None: it had ended before this was read
    port: int
    account: Account
    connection: Connection

    @property
    def remote(self) -> tuple[str, int] | None:
        return None if self.address is None else (self.address, self.port)
