"""The window: between 5 and 20 places, in its order, grown, shrunk, and pruned as stated."""

from hypothesis import given
from hypothesis import strategies as st

from twinhost.unified_memory_reasoning.conversations.window import (
    FIRST,
    LARGEST,
    NEWEST_KEPT,
    SMALLEST,
    Window,
    WindowItem,
    window_of,
)

IMPORTANCES = st.lists(
    st.sampled_from([0.0, 0.1, 0.29, 0.3, 0.4, 0.5, 0.6, 0.7, 0.71, 0.9, 1.0]) | st.floats(0, 1), max_size=60
)


def items_of(importances: list[float]) -> list[WindowItem]:
    return [WindowItem(number, importance) for number, importance in enumerate(importances, start=1)]


def ids(window: Window) -> list[int]:
    return [item.id for item in window.items]


def test_it_has_ten_places_at_first() -> None:
    """And keeps them while the mean importance is 0.3 to 0.7, both inclusive."""
    assert Window().size == FIRST == 10
    assert window_of(items_of([0.7] * 40)).size == 10
    assert window_of(items_of([0.3] * 40)).size == 10


def test_important_items_make_it_larger_by_two() -> None:
    """Over a mean of 0.7, up to 20."""
    sizes = [window_of(items_of([0.8] * length)).size for length in range(1, 8)]
    assert sizes == [12, 14, 16, 18, 20, 20, 20]
    assert len(window_of(items_of([0.8] * 50)).items) == LARGEST


def test_unimportant_items_make_it_smaller_by_one() -> None:
    """Under a mean of 0.3, down to 5."""
    sizes = [window_of(items_of([0.2] * length)).size for length in range(1, 8)]
    assert sizes == [9, 8, 7, 6, 5, 5, 5]


def test_the_order_is_importance_then_recency() -> None:
    """The newer of two equals comes first."""
    assert ids(window_of(items_of([0.5, 0.9, 0.5, 0.7, 0.9]))) == [5, 2, 4, 3, 1]


def test_the_oldest_of_equals_leaves() -> None:
    """Equal items leave in the order in which they came."""
    assert ids(window_of(items_of([0.5] * 13))) == list(range(13, 3, -1))


def test_what_is_important_outlives_what_is_new() -> None:
    """But the newest three are there, however plain."""
    window = window_of(items_of([0.7] * 10 + [0.5] * 10))
    assert ids(window) == [10, 9, 8, 7, 6, 5, 4, 20, 19, 18]


def test_pruning_takes_a_quarter_of_the_window_at_most() -> None:
    """And none that has 0.5 or more, nor any before the window overflows."""
    full = window_of(items_of([0.4] * 10))
    assert (full.size, len(full.items)) == (10, 10)
    assert ids(full.with_item(WindowItem(11, 0.5))) == [11, *range(10, 2, -1)]  # 10 // 4 of them left
    mixed = window_of(items_of([0.5] * 9 + [0.4]))
    assert ids(mixed.with_item(WindowItem(11, 0.5)).with_item(WindowItem(12, 0.5)).with_item(WindowItem(13, 0.5))) == [
        *(13, 12, 11),
        *range(9, 2, -1),
    ]
    assert ids(window_of(items_of([0.4, 0.4, 0.6]))) == [3, 2, 1]


@given(IMPORTANCES)
def test_it_is_always_as_promised(importances: list[float]) -> None:
    """Places, order, the newest, and that nobody in it is worse than who left, but for the newest three."""
    window, items = Window(), items_of(importances)
    for place, item in enumerate(items):
        before = window
        window = window.with_item(item)
        held = set(window.items)
        assert SMALLEST <= window.size <= LARGEST
        assert window.size - before.size in range(-1, 3)
        assert len(held) == len(window.items) <= window.size
        assert list(window.items) == sorted(window.items, key=lambda item: (-item.importance, -item.id))
        assert held <= {*before.items, item}
        assert set(items[max(0, place + 1 - NEWEST_KEPT) : place + 1]) <= held
        left = {*before.items, item} - held
        pruned = [gone for gone in left if gone.importance < 0.5][: window.size // 4]
        assert window.size - len(pruned) <= len(held) or not left
        protected = set(items[max(0, place + 1 - NEWEST_KEPT) : place + 1])
        for gone in left:
            assert all((each.importance, each.id) > (gone.importance, gone.id) for each in held - protected)
    assert window == window_of(items)
