"""The manifest of an archive as any bytes at all: a manifest whose names are known, or MalformedRequest."""

from contextlib import suppress

import msgspec
from hypothesis import example, given
from hypothesis import strategies as st

from twinhost.archive.file_format import (
    DATABASE_MEMBER,
    FORMAT,
    FORMAT_VERSION,
    Manifest,
    Member,
    mode_of,
    parse_manifest,
    render_manifest,
)
from twinhost.secure_zmq.errors import MalformedRequest

NAMES = [
    DATABASE_MEMBER,
    "keys/mainpc/server.key",
    "keys/mainpc/server.key_secret",
    f"keys/mainpc/revoked/{'0' * 64}.key",
]
GOOD = render_manifest(
    Manifest(
        FORMAT,
        FORMAT_VERSION,
        "0.1.0",
        "2026-11-25T04:00:00Z",
        "mainpc",
        tuple(Member(name, 400, mode_of(name), "0" * 64) for name in NAMES),
    )
)
VALUES: st.SearchStrategy[object] = (
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=40) | st.just([])
)
FIELDS = st.sampled_from(["name", "size", "mode", "sha256", "more"])


def parse(content: bytes) -> Manifest | None:
    with suppress(MalformedRequest):
        return parse_manifest(content)
    return None


def test_a_good_one_is_read() -> None:
    manifest = parse(GOOD)
    assert manifest is not None
    assert render_manifest(manifest) == GOOD


@given(st.binary(max_size=300))
@example(b"[" * 100_000)
@example(b'{"format": "\\ud800"}')
def test_any_bytes_are_refused(content: bytes) -> None:
    assert parse(content) is None


@given(st.integers(0, len(GOOD)), st.integers(0, 30), st.binary(max_size=20))
def test_any_damage_is_refused_or_another_manifest(at: int, length: int, instead: bytes) -> None:
    manifest = parse(GOOD[:at] + instead + GOOD[at + length :])
    assert manifest is None or parse(render_manifest(manifest)) == manifest


@given(st.integers(0, len(NAMES) - 1), FIELDS, VALUES)
def test_any_value_in_a_member_is_refused_or_known(number: int, field: str, value: object) -> None:
    """No name leads elsewhere, and no mode is another than its name's."""
    document = msgspec.json.decode(GOOD)
    document["members"][number][field] = value
    manifest = parse(msgspec.json.encode(document))
    if manifest is not None:
        assert all(".." not in member.name and not member.name.startswith("/") for member in manifest.members)
        assert all(member.mode == mode_of(member.name) for member in manifest.members)
