"""The audit log's files as any text at all: what they hold is whole, or a finding; never another error."""

from hypothesis import given
from hypothesis import strategies as st

from tests.unit.store.audit_log.books import GENESIS, chain, head_of
from twinhost.store.audit_log.chain import LINE, AuditEvent, Head, hash_fits, make_line
from twinhost.store.audit_log.verify import verify

GOOD = chain(3)
ODD = st.text(max_size=200) | st.builds(
    lambda at, to: GOOD[1][:at] + to + GOOD[1][at + 1 :], st.integers(0, len(GOOD[1])), st.text(max_size=3)
)


@given(st.lists(ODD | st.sampled_from(GOOD), max_size=6))
def test_any_lines_are_whole_or_found(lines: list[str]) -> None:
    """Only the lines as they were written are whole."""
    found = verify(iter(lines), GENESIS, head_of(GOOD))
    assert found.whole is (lines == GOOD)


@given(st.text(max_size=300))
def test_any_text_is_no_line_by_chance(text: str) -> None:
    assert LINE.fullmatch(text) is None
    line = make_line(Head(1, "0" * 64), "2026-11-25T04:00:00.000Z", AuditEvent.KEY_REVOKED, {"name": text}).decode()
    assert LINE.fullmatch(line)
    assert hash_fits(line)
