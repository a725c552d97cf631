"""From when until when a key is good: its span, and how a key file says it."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from twinhost.secure_zmq.errors import KeyFileMalformed
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, DAY_S, UNLIMITED, Validity, format_moment, parse_moment

NOW = 1_800_000_000
LATEST = 253_402_300_799  # 9999-12-31T23:59:59Z
MOMENTS = st.integers(0, LATEST)


@pytest.mark.parametrize(
    ("now", "begun"), [(NOW - 60, True), (NOW - 60.001, False), (NOW, True), (NOW - 61, False), (NOW + 1, True)]
)
def test_it_begins_with_the_clocks_tolerance(now: float, begun: bool) -> None:
    """A host whose clock is 60 s behind lets a new key in; at 60 s and a little more it does not."""
    assert CLOCK_TOLERANCE_S == 60
    assert Validity(NOW, None).has_begun(now) is begun


@pytest.mark.parametrize(
    ("now", "ended"), [(NOW, False), (NOW + 60, False), (NOW + 60.001, True), (NOW + 61, True), (NOW - 1, False)]
)
def test_it_ends_with_the_clocks_tolerance(now: float, ended: bool) -> None:
    """Until 60 s after `not_after`, and not a moment longer."""
    assert Validity(None, NOW).has_ended(now) is ended


@given(MOMENTS, st.none() | MOMENTS, st.none() | MOMENTS)
def test_it_holds_between_its_begin_and_its_end(now: int, not_before: int | None, not_after: int | None) -> None:
    with contextlib.suppress(KeyFileMalformed):
        validity = Validity(not_before, not_after)
        for moment in (now, *(end + by for end in (not_before, not_after) if end is not None for by in (-60, 60, 61))):
            assert validity.holds(moment) is (validity.has_begun(moment) and not validity.has_ended(moment))


@pytest.mark.parametrize("now", [0, NOW, 10.0**12])
def test_an_open_end_never_comes(now: float) -> None:
    """A key without dates is good for as long as it is listed, and nobody is warned."""
    assert UNLIMITED.has_begun(now)
    assert not UNLIMITED.has_ended(now)
    assert not UNLIMITED.ends_soon(now)


@pytest.mark.parametrize(
    ("days", "soon"), [(15, False), (14, False), (13.999, True), (1, True), (0, True), (-1, True), (-400, True)]
)
def test_the_end_is_spoken_of_from_14_days_before(days: float, soon: bool) -> None:
    """And after it too: an expired key is the most urgent case."""
    validity = Validity(None, NOW)
    now = NOW - days * DAY_S
    assert validity.ends_soon(now) is soon


@pytest.mark.parametrize(("not_before", "not_after"), [(NOW, NOW), (NOW, NOW - 1), (1, 0)])
def test_a_span_that_ends_before_it_begins_is_refused(not_before: int, not_after: int) -> None:
    """A key that is never good is a slip, and says so."""
    with pytest.raises(KeyFileMalformed, match="not_after must be later than not_before"):
        Validity(not_before, not_after)


@pytest.mark.parametrize("moment", [-1, LATEST + 1, 2**63, -(10**12)])
def test_a_moment_that_no_key_file_can_say_is_refused(moment: int) -> None:
    """So that whatever is a Validity can also be written down."""
    for ends in ((moment, None), (None, moment)):
        with pytest.raises(KeyFileMalformed, match="in the years 1970 to 9999"):
            Validity(*ends)


@given(MOMENTS)
def test_a_moment_survives_being_written_and_read(moment: int) -> None:
    """To the second."""
    assert parse_moment(format_moment(moment)) == moment


@pytest.mark.parametrize(
    "text",
    [
        "",
        "2026-11-25",
        "2026-11-25T04:00:00",
        "2026-11-25 04:00:00Z",
        "2026-11-25T04:00:00z",
        "2026-11-25T04:00:00+00:00",
        "2026-11-25T04:00:00.000Z",
        "2026-11-25T4:00:00Z",
        "2026-11-25T04:00:00Z ",
        "2026-11-31T04:00:00Z",
        "2026-11-25T24:00:00Z",
        "2026-11-25T04:00:60Z",
        "26-11-25T04:00:00Z",
        "٢٠٢٦-11-25T04:00:00Z",
        "never",
        "1795579200",
    ],
)
def test_a_moment_written_another_way_is_refused(text: str) -> None:
    """There is one way to write a moment; what could be read two ways is neither."""
    with pytest.raises(KeyFileMalformed, match="must be a time in UTC, written as 2026-11-25T04:00:00Z"):
        parse_moment(text)


@given(st.text(max_size=30))
def test_no_text_at_all_breaks_the_reader(text: str) -> None:
    """Any text is a moment or a KeyFileMalformed."""
    with contextlib.suppress(KeyFileMalformed):
        assert format_moment(parse_moment(text)) == text
