"""One grammar of a time, for requests, replies, and the command line."""

import pytest

from twinhost.moments import iso_time, parse_time


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("2026-05-01", "2026-05-01T00:00:00.000+00:00"),
        ("2026-05-01T08:30", "2026-05-01T08:30:00.000+00:00"),
        ("2026-05-01T08:30:00Z", "2026-05-01T08:30:00.000+00:00"),
        ("2026-05-01T08:30:00.5+02:00", "2026-05-01T06:30:00.500+00:00"),
    ],
)
def test_a_time_is_in_utc_unless_it_has_an_offset(text: str, written: str) -> None:
    assert iso_time(parse_time(text).timestamp()) == written
    assert iso_time(parse_time(written).timestamp()) == written


@pytest.mark.parametrize("text", ["", "soon", "2026-13-01", "1764300000", "0001-01-01T00:00:00+23:00"])
def test_a_text_that_names_no_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"isoformat string|must be in|outside the years"):
        parse_time(text)
