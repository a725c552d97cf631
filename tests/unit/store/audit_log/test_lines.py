"""A line: short, one line, whatever strangers put in it; and an outsider can check it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import twinhost.store.audit_log.chain
from tests.unit.store.audit_log.books import opened
from twinhost.store.audit_log.chain import (
    LINE,
    MAX_FIELDS,
    MAX_LINE_BYTES,
    NO_HASH,
    AuditEvent,
    Head,
    Value,
    checked,
    hash_fits,
    hash_of,
    make_line,
    prev_of,
)

NAMES = [f"field_of_a_name_that_is_long_{number:02}" for number in range(MAX_FIELDS)]
TEXT = st.text(st.characters(), max_size=3_000) | st.sampled_from(
    [
        "\n",
        "\r\n",
        "\u2028",
        "\x00" * 700,
        "\x7f" * 700,
        '"' * 3_000,
        "\U0001f600" * 600,
        "\ud800" * 700,
        '"}\n{"seq":9',
    ]
)
VALUES: st.SearchStrategy[Value] = st.one_of(
    TEXT, st.integers(), st.floats(), st.booleans(), st.none(), st.lists(TEXT, max_size=20), st.just(10**5_000)
)


def line_of(fields: dict[str, Value]) -> bytes:
    return make_line(Head(7, "a" * 64), "2026-11-25T04:00:00.000Z", AuditEvent.KEY_FILE_REJECTED, fields)


@given(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=MAX_FIELDS))
def test_any_values_make_one_short_line_that_verifies(fields: dict[str, Value]) -> None:
    """At most 2 KiB of printable ASCII, one JSON object with every field, and its hash fits."""
    line = line_of(fields)
    assert len(line) <= MAX_LINE_BYTES
    assert all(0x20 <= byte < 0x7F for byte in line)
    record = json.loads(line)
    assert list(record) == ["seq", "time", "event", *fields, "prev", "hash"]
    assert LINE.fullmatch(line.decode())
    assert hash_fits(line.decode())
    assert (record["seq"], record["prev"], record["hash"]) == (8, prev_of(line), hash_of(line))


@pytest.mark.parametrize(
    "value",
    ["\x00" * 9_999, "\U0001f600" * 9_999, ["\x7f" * 999] * 99, 10**5_000, 1e300, 2**53],
    ids=["nul", "emoji", "list", "huge", "float", "integer"],
)
def test_the_greatest_line_is_within_the_bound(value: Value) -> None:
    """As many fields as there may be, each as long as it can be."""
    assert len(line_of(dict.fromkeys(NAMES, value))) <= MAX_LINE_BYTES


def test_a_long_value_is_cut_and_marked() -> None:
    """Nobody takes a cut value for the whole."""
    record = json.loads(line_of({"short": "x" * 500, "long": "y" * 501 * 2, "roles": list("abcdef")}))
    assert record["short"] == "x" * 500
    assert record["long"].startswith("y" * 100)
    assert record["long"].endswith("y…")
    assert record["roles"] == ["a", "b", "c", "d", "e", "…"]


@pytest.mark.parametrize("name", ["seq", "time", "event", "prev", "hash", "a b", "ä", "x" * 33, ""])
def test_a_field_can_not_take_the_name_of_the_chain_s_own(name: str) -> None:
    """A fault of the program shows where it is made."""
    with pytest.raises(ValueError, match="can't be the name of a field"):
        checked({name: 1})
    with pytest.raises(ValueError, match="at most 16 fields"):
        checked({f"f{number}": 1 for number in range(MAX_FIELDS + 1)})


def test_the_program_in_the_docstring_checks_the_files(tmp_path: Path) -> None:
    """An outsider with these lines of Python finds the same head, and a change."""
    docstring = twinhost.store.audit_log.chain.__doc__ or ""
    program = "\n".join(line[4:] for line in docstring[docstring.index("    import hashlib") :].splitlines())

    def run(text: bytes) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run([sys.executable, "-c", program], input=text, capture_output=True, check=False)

    with opened(tmp_path, max_file_bytes=1_000) as (_, log):
        for number in range(9):
            log.record(AuditEvent.KEY_AUTHORIZED, name=f"ä\n{number}")
            log.flush()
        files = sorted((tmp_path / "audit").iterdir())
        assert len(files) > 2
        text = b"".join(path.read_bytes() for path in files)
        assert run(text).stdout.decode().split() == [str(log.head.seq), log.head.hash]
    assert b"changed" in run(text.replace(b"n3", b"n4")).stderr
    lines = text.splitlines(keepends=True)
    assert b"does not follow" in run(b"".join(lines[:3] + lines[4:])).stderr
    assert json.loads(lines[0])["prev"] == NO_HASH
