"""UnifiedMemoryReasoningAgent, on pc2: the system's memory of conversations, facts, errors and users."""

from collections.abc import Callable, Iterable
from typing import Final, TypeVar

import msgspec

SUCCESS: Final = "ok"  # the value of `status` that this agent's clients test for
T = TypeVar("T")


def page_of(
    entries: Iterable[T], limit: int, max_bytes: int, of: Callable[[T], object] = lambda entry: entry
) -> tuple[list[T], bool]:
    """Return the first entries, at least one if there are any, and whether there are more.

    Args:
        entries: all of them; at most one more than the page has is read.
        limit: the most entries.
        max_bytes: the most bytes of their JSON together.
        of: returns the part of an entry that is written as JSON.
    """
    page: list[T] = []
    size = 0
    for entry in entries:
        size += len(msgspec.json.encode(of(entry)))
        if len(page) == limit or (page and size > max_bytes):
            return page, True
        page.append(entry)
    return page, False
