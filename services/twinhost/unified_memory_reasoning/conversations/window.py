"""The window of a session: its items by importance and recency, in a number of places that follows their importance."""

import math
from collections.abc import Iterable

import msgspec

SMALLEST = 5
LARGEST = 20
FIRST = 10
GROWS_OVER = 0.7
GROWS_BY = 2
SHRINKS_UNDER = 0.3
SHRINKS_BY = 1
PRUNED_UNDER = 0.5
PRUNED_SHARE = 4  # a quarter
NEWEST_KEPT = 3


class WindowItem(msgspec.Struct, frozen=True, array_like=True):
    """One item; a greater `id` is newer, `importance` is 0 to 1."""

    id: int
    importance: float


class Window(msgspec.Struct, frozen=True, array_like=True):
    """A window of `size` places and its items, in their order."""

    size: int = FIRST
    items: tuple[WindowItem, ...] = ()

    def with_item(self, item: WindowItem) -> "Window":
        """Return the window after an item was added that is newer than all others."""
        items = in_order((*self.items, item))
        size = _resized(self.size, items)
        if len(items) > size:
            items = _without_last(items, PRUNED_UNDER, size // PRUNED_SHARE)
        return Window(size, tuple(_without_last(items, math.inf, len(items) - size)))


def window_of(items: Iterable[WindowItem]) -> Window:
    """Return the window after items were added one by one, oldest first."""
    window = Window()
    for item in items:
        window = window.with_item(item)
    return window


def in_order(items: Iterable[WindowItem]) -> list[WindowItem]:
    """Return items by importance, then recency."""
    return sorted(items, key=lambda item: (-item.importance, -item.id))


def _resized(size: int, items: list[WindowItem]) -> int:
    mean = round(math.fsum(item.importance for item in items) / len(items), 9)  # 0.7 three times has a mean of 0.7
    if mean > GROWS_OVER:
        return min(LARGEST, size + GROWS_BY)
    if mean < SHRINKS_UNDER:
        return max(SMALLEST, size - SHRINKS_BY)
    return size


def _without_last(items: list[WindowItem], under: float, most: int) -> list[WindowItem]:
    """Return the items without the last `most` of those under an importance; the newest ones stay."""
    if most <= 0:
        return items
    kept = set(sorted((item.id for item in items), reverse=True)[:NEWEST_KEPT])
    leaving = [item.id for item in items if item.importance < under and item.id not in kept][-most:]
    return [item for item in items if item.id not in leaving]
