"""While mainpc is attacked its clients are served, and its memory is bounded; `make test-adversary` measures it too.

Here each attack that ends by itself is played once, and both floods. What waits for the end of a handshake, of a
heartbeat, or of a deadline, and the same attacks once more at the feed, are in `full_siege.py`, with the client's p99.
"""

import time
from collections.abc import Iterator

import pytest

from tests.adversary.siege import MEMORY_LIMIT_MB, Siege

# security.md's list, and by which attacks each entry is played
ADVERSARYS_LIST = {
    "plain client → CURVE server": ["plain client"],
    "CURVE client → plain server": ["impostor without CURVE"],
    "unknown key": ["unknown key"],
    "revoked key, new and live session": ["revoked key"],
    "expired key": ["expired key"],
    "wrong server pin": ["wrong pin"],
    "mismatched halves": ["mismatched halves"],
    "another agent's name in the body": ["another's name in the body", "forged metadata"],
    "an action not granted": ["an action not granted"],
    "stolen routing-id": ["stolen routing-id"],
    "predictable routing-ids": ["predicted routing-ids"],
    "one key, any number of connections": ["too many sessions"],
    "another site in a browser": ["DNS rebinding", "cross-site request"],
    "replayed ciphertext, same and new connection": ["replay, same connection", "replay, new connection"],
    "flipped bit": ["flipped bit", "damaged sessions"],
    "random, HTTP, TLS and zero bytes": ["random, HTTP, TLS, and zero bytes", "10,000 garbage connections"],
    "half-open flood": ["half-open flood", "half-open flood of 5,000"],
    "one huge frame, 100,000 frames": [
        "one huge frame, before the handshake",
        "one huge frame, after the handshake",
        "100,000 frames, before the handshake",
        "100,000 frames in one message",
    ],
    "deeply nested JSON": ["deeply nested JSON", "malformed JSON"],
    "several requests in one frame, MessagePack": ["malformed frames"],
    "malformed and unreadable key files": ["malformed key files"],
    "a store that raises": ["a store that fails"],
    "capture on the wire": ["capture on the wire"],
}
SLOW = {
    "random, HTTP, TLS, and zero bytes",
    "half-open flood",
    "damaged sessions",
    "expired key",
    "flipped bit",
    "replay, same connection",
}
AT_THE_FEED = "at the event feed"


@pytest.fixture(scope="module")
def siege(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Siege]:
    with Siege(tmp_path_factory.mktemp("siege")) as begun:
        yield begun


def test_every_entry_of_the_list_is_played(siege: Siege) -> None:
    """No attack is left out by a slip of its name, and what is beyond the list is at the feed."""
    listed = {name for names in ADVERSARYS_LIST.values() for name in names}
    assert {name for name in siege.attacks if AT_THE_FEED not in name} == listed
    assert len(siege.attacks) > len(listed)


def test_no_legitimate_request_fails_and_memory_is_bounded(siege: Siege) -> None:
    for name in siege.attacks:
        if name in SLOW or AT_THE_FEED in name:
            continue
        began = time.monotonic()
        window, played = siege.attacked(name, 0)
        print(f"{name}: {played.sentence}; {len(window.calls)} calls, {window.peak_mb:.0f} MB")
        assert played.refused, f"{name}: {played.sentence}"
        assert not window.failures, f"{name}, {time.monotonic() - began:.1f} s: {window.failures[:3]}"
        assert window.peak_mb < MEMORY_LIMIT_MB, f"{name}: {window.peak_mb:.0f} MB"
    after = siege.quiet(0.5)
    assert after.calls
    assert not after.failures
