"""The newest state as bytes: written by the server's thread, read by the HTTP thread."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import msgspec


@dataclass(frozen=True, slots=True)
class Notice:
    """A state as one line of JSON; `number` counts them."""

    number: int
    body: bytes


class Board:
    """Holds one notice, which is replaced whole, so that a reader never sees half of two."""

    def __init__(self) -> None:
        self._encoder = msgspec.json.Encoder()
        self._notice = Notice(0, b"{}")

    @property
    def notice(self) -> Notice:
        return self._notice

    def put(self, document: Mapping[str, Any]) -> None:
        """Replace what is shown."""
        self._notice = Notice(self._notice.number + 1, self._encoder.encode(document))
