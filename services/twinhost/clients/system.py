"""The typed clients of SystemDigitalTwin."""

from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.client import DEFAULT_MAX_PAYLOAD_BYTES, Client
from twinhost.secure_zmq.server_address import ServerAddress


class SystemDigitalTwin(Client):
    """Calls SystemDigitalTwin; one method per action."""

    def __init__(
        self,
        server: ServerAddress,
        *,
        feed: ServerAddress | None = None,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    ) -> None:
        """Connect with the first call; `feed` is the address of the event feed, which `events` follows."""
        super().__init__(server, max_payload_bytes=max_payload_bytes)
        self._feed = feed


class AsyncSystemDigitalTwin(AsyncClient):
    """Calls SystemDigitalTwin from asyncio; one method per action."""

    def __init__(
        self,
        server: ServerAddress,
        *,
        feed: ServerAddress | None = None,
        max_payload_bytes: int = DEFAULT_MAX_PAYLOAD_BYTES,
    ) -> None:
        """Connect with the first call; `feed` is the address of the event feed, which `events` follows."""
        super().__init__(server, max_payload_bytes=max_payload_bytes)
        self._feed = feed
