"""How urgent something is, as clients tell it: 1 to 10, or low, normal, or high."""

from typing import Annotated, Literal

import msgspec

_NUMBERS = {"low": 1, "normal": 5, "high": 10}
PRIORITY = Annotated[int, msgspec.Meta(ge=1, le=10)] | Literal["low", "normal", "high"]


def number_of(priority: int | str) -> int:
    """Return the priority as a number."""
    return priority if isinstance(priority, int) else _NUMBERS[priority]
