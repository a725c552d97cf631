"""The loader again, for keys that begin and end: what was written is read, and no damage goes through unseen."""

import re
import string

import pytest
from hypothesis import given
from hypothesis import strategies as st
from zmq.utils import z85

from twinhost.secure_zmq.errors import KeyFileMalformed
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import (
    MAX_NAME_CHARACTERS,
    UNLIMITED,
    Certificate,
    KeyOwner,
    KeyPair,
    PublicKey,
    Validity,
    parse_certificate,
)

LATEST = 253_402_300_799
PUBLIC = PublicKey(z85.decode(b"o@&NE6x3lg&7HM^D(J)2nadqL%22ME:-?#<M#tIC"))  # with a "#" in it
NAMES = st.text(string.ascii_letters + string.digits + "._-", min_size=1, max_size=MAX_NAME_CHARACTERS).filter(
    lambda name: not name.endswith(".next")
)
OWNERS = st.builds(KeyOwner, NAMES, NAMES, st.frozensets(NAMES, max_size=8))
MOMENTS = st.none() | st.integers(0, LATEST)
VALIDITIES = st.tuples(MOMENTS, MOMENTS).filter(lambda ends: ends[0] is None or ends[1] is None or ends[0] < ends[1])
DATED = Certificate(KeyOwner("pc2-agent", "pc2", frozenset({"agent"})), PUBLIC, Validity(1_700_000_000, 1_800_000_000))
TEXT = render_certificate(DATED)
FACTS = re.compile(r'^\s+([a-z_-]+)\s*=\s*"([^"]*)"\s*$', re.MULTILINE)


@given(OWNERS, VALIDITIES)
def test_every_owner_and_span_survives_the_way_to_text_and_back(
    owner: KeyOwner, ends: tuple[int | None, int | None]
) -> None:
    """Name, host, roles, and both ends, whichever there are."""
    certificate = Certificate(owner, PUBLIC, Validity(*ends))
    assert parse_certificate(render_certificate(certificate), "a file") == certificate


def test_a_key_without_dates_is_never_asked_for_them() -> None:
    """The check of every message recognises its validity, instead of comparing two moments that aren't there."""
    without = Certificate(DATED.owner, PUBLIC)
    assert parse_certificate(render_certificate(without), "a file").validity is UNLIMITED


def test_a_key_file_says_its_dates_for_a_person_to_read() -> None:
    """In UTC, below the roles."""
    assert '    not_before = "2023-11-14T22:13:20Z"\n    not_after = "2027-01-15T08:00:00Z"\ncurve\n' in TEXT
    assert "not_" not in render_certificate(Certificate(DATED.owner, PUBLIC))


def facts(text: str) -> dict[str, set[str]]:
    """Return what a key file's text says; the order of roles says nothing."""
    return {fact: set(value.split()) for fact, value in FACTS.findall(text)}


@given(st.data())
def test_a_damaged_file_is_refused_or_read_as_written(data: st.DataObject) -> None:
    """A stretch replaced by anything: what is still a key is the one whose every fact can be read in the text."""
    start = data.draw(st.integers(0, len(TEXT)))
    end = data.draw(st.integers(start, min(len(TEXT), start + 60)))
    middle = data.draw(st.text(st.characters(codec="ascii"), max_size=40))
    text = TEXT[:start] + middle + TEXT[end:]
    try:
        certificate = parse_certificate(text, "a file")
    except KeyFileMalformed:
        return
    again = render_certificate(certificate)
    assert parse_certificate(again, "again") == certificate
    assert facts(again) == facts(text)


@given(st.integers(0, len(TEXT) - 1), st.integers(0, 7))
def test_a_flipped_bit_is_no_other_key_of_the_same_owner(place: int, bit: int) -> None:
    """One bit of a disk: refused, or a comment, a blank; and where a fact did change, the text shows it."""
    flipped = TEXT[:place] + chr(ord(TEXT[place]) ^ (1 << bit)) + TEXT[place + 1 :]
    try:
        certificate = parse_certificate(flipped, "a file")
    except KeyFileMalformed:
        return
    if certificate != DATED:
        lost = TEXT[place] == "\n" or TEXT[place:].startswith("#  ")
        assert not lost or place < TEXT.index("metadata")
        assert facts(render_certificate(certificate)) == facts(flipped)


@pytest.mark.parametrize(
    ("old", "new", "complaint"),
    [
        ("2027-01-15T08:00:00Z", "", "'' must be a time in UTC"),
        ("2027-01-15T08:00:00Z", "never", "'never' must be a time"),
        ("2027-01-15T08:00:00Z", "2027-02-30T08:00:00Z", "must be a time"),
        ("2027-01-15T08:00:00Z", "2023-11-14T22:13:20Z", "not_after must be later than not_before"),
        ("2027-01-15T08:00:00Z", "1969-12-31T23:59:59Z", "in the years 1970 to 9999"),
        ("    not_before", "    not_after", "line 8: not_after occurs twice"),
        ("not_after", "not-after", "unknown or missing: not-after"),
        ("not_after", "Not_After", "unknown or missing: Not_After"),
    ],
)
def test_dates_that_can_not_be_believed_refuse_the_key(old: str, new: str, complaint: str) -> None:
    """A key whose end can't be read would be one without an end."""
    assert old in TEXT
    with pytest.raises(KeyFileMalformed, match=f"^a file.*{complaint}"):
        parse_certificate(TEXT.replace(old, new, 1), "a file")


def test_dates_in_the_other_section_are_refused() -> None:
    """There they would be passed over."""
    text = render_certificate(Certificate(DATED.owner, PUBLIC)) + '    not_after = "2027-01-15T08:00:00Z"\n'
    with pytest.raises(KeyFileMalformed, match="unknown or missing: not_after"):
        parse_certificate(text, "a file")


def test_a_name_that_would_take_another_ones_file_is_refused() -> None:
    """`X.next.key` is the next key of X; somebody called `X.next` would be written over it."""
    with pytest.raises(KeyFileMalformed, match=r"the name 'agent\.next' must not end in \.next"):
        KeyOwner("agent.next", "pc2", frozenset())
    assert KeyPair.generate(KeyOwner("agent.nextdoor", "pc2", frozenset()))
