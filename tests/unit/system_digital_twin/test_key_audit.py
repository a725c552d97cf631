"""What became of keys is in the audit log once, whoever changed them, and whether or not the agent ran."""

from typing import Any

import pytest

from tests.identities import new_pair
from tests.unit.secure_zmq.wall_clock import NOW, WallClock
from tests.unit.system_digital_twin.key_bench import KeyBench, key_bench, key_clock
from twinhost.secure_zmq.certificates import REVOKED_FOLDER, FolderContents
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.key_writer import (
    replace_certificate,
    write_certificate,
    write_revocation,
    write_revoked_fingerprint,
)
from twinhost.secure_zmq.keys import Certificate, KeyOwner, KeyPair, Validity
from twinhost.secure_zmq.peers import AuthorizedPeers
from twinhost.system_digital_twin.trust import audit as key_audit
from twinhost.system_digital_twin.trust.audit import KeyAudit

clock, bench = key_clock, key_bench


def new_events(bench: KeyBench, seen: int = 0) -> list[tuple[str, str]]:
    """Look as often as it may please, also across a restart, and return what was logged beyond the first lines."""
    bench.peers.reload()
    for _ in range(3):
        bench.look()
    bench.reopen()
    bench.look()
    return bench.events()[seen:]


def test_an_added_key_and_a_removed_one_are_logged_once(bench: KeyBench) -> None:
    """Name, host, roles, fingerprint; a removal is no revocation."""
    pair = bench.list_key("agent", "auditor", "agent")
    assert new_events(bench) == [("key_authorized", "agent")]
    (line,) = bench.audited()
    facts = {"name": "agent", "host": "pc2", "roles": "agent auditor", "fingerprint": pair.public.fingerprint}
    assert facts.items() <= line.items()
    (bench.folder / "agent.key").unlink()
    assert new_events(bench, 1) == [("key_removed", "agent")]
    assert facts.items() <= bench.audited()[1].items()
    write_certificate(pair.certificate, bench.folder / "agent.key")
    assert new_events(bench, 2) == [("key_authorized", "agent")]


def test_a_revocation_is_logged_with_the_keys_owner(bench: KeyBench) -> None:
    """Once, whatever becomes of the key's file afterwards."""
    pair = bench.list_key("agent")
    bench.look()
    bench.revoke(pair)
    assert new_events(bench, 1) == [("key_revoked", "agent")]
    assert bench.audited()[1]["fingerprint"] == pair.public.fingerprint
    (bench.folder / "agent.key").unlink()
    assert new_events(bench, 2) == []


def test_a_key_known_by_fingerprint_is_reported_by_it(bench: KeyBench) -> None:
    """It was revoked before anybody here saw it."""
    fingerprint = new_pair().public.fingerprint
    write_revoked_fingerprint(fingerprint, bench.folder / "revoked")
    assert new_events(bench) == [("key_revoked", "")]
    assert bench.audited()[0]["fingerprint"] == fingerprint


def test_changes_during_downtime_are_reported_at_the_start(bench: KeyBench) -> None:
    """One came, one went, one was revoked, one was invited."""
    gone, revoked = bench.list_key("gone"), bench.list_key("revoked")
    bench.look()
    bench.close()
    (bench.folder / "gone.key").unlink()
    bench.open()
    bench.close()
    bench.revoke(revoked)
    bench.list_key("came")
    bench.invite("newcomer")
    bench.open()
    bench.look()
    assert sorted(bench.events()[2:]) == [
        ("invitation_made", "newcomer"),
        ("key_authorized", "came"),
        ("key_removed", "gone"),
        ("key_revoked", "revoked"),
    ]
    assert not bench.is_in(gone)


def test_a_revocation_undone_by_hand_is_logged(bench: KeyBench) -> None:
    """There is no unrevoke: whoever deletes the file is seen to have let the key in again."""
    pair = bench.list_key("agent")
    bench.look()
    bench.revoke(pair)
    bench.look()
    for path in (bench.folder / "revoked").iterdir():
        path.unlink()
    assert new_events(bench, 2) == [("key_authorized", "agent")]


def test_other_roles_hosts_and_names_are_authorisations(bench: KeyBench) -> None:
    """The same key with more rights is news."""
    pair = bench.list_key("agent")
    bench.look()
    owner = pair.certificate.owner
    for number, changed in enumerate(
        (
            KeyOwner("agent", "pc2", owner.roles | {"operator"}),
            KeyOwner("agent", "pc3", owner.roles | {"operator"}),
            KeyOwner("agent2", "pc3", owner.roles),
        )
    ):
        replace_certificate(Certificate(changed, pair.public), bench.folder / "agent.key")
        assert new_events(bench, 1 + number) == [("key_authorized", changed.name)]
        assert bench.audited()[-1]["roles"] == " ".join(sorted(changed.roles))


@pytest.mark.parametrize("roles", [("candidate",), ("candidate", "operator"), ("invitation",), ("agent", "invitation")])
def test_a_role_hides_no_key_from_the_log(bench: KeyBench, roles: tuple[str, ...]) -> None:
    """A listed key with the role of one that acts for nobody is a listed key: it comes, and is revoked."""
    pair = bench.list_key("agent", *roles)
    assert new_events(bench) == [("key_authorized", "agent")]
    bench.revoke(pair)
    assert new_events(bench, 1) == [("key_revoked", "agent")]


def test_an_expiry_is_logged_when_it_happens(bench: KeyBench, clock: WallClock) -> None:
    """No file changes; after a longer life was written, the key is accepted again, and logged."""
    pair = bench.list_key("agent", validity=Validity(None, NOW + 1_000))
    bench.look()
    clock.now = NOW + 1_060
    assert new_events(bench, 1) == []
    clock.now = NOW + 1_061
    assert new_events(bench, 1) == [("key_expired", "agent")]
    renewed = Certificate(pair.certificate.owner, pair.public, Validity(None, NOW + 9_000))
    replace_certificate(renewed, bench.folder / "agent.key")
    assert new_events(bench, 2) == [("key_authorized", "agent")]
    clock.now = NOW + 99_000
    bench.revoke(pair)
    assert new_events(bench, 3) == [("key_revoked", "agent")]


@pytest.mark.parametrize("end", ["used", "withdrawn", "expired", "called back"])
def test_the_start_and_end_of_an_invitation_are_logged(bench: KeyBench, clock: WallClock, end: str) -> None:
    """Made, and how it ended; with the name that it was for."""
    token = bench.invite("newcomer", not_after=NOW + 100)
    assert new_events(bench) == [("invitation_made", "newcomer")]
    assert bench.audited()[0]["fingerprint"] == token.public.fingerprint
    expected = {
        "used": [("key_authorized", "newcomer"), ("invitation_used", "newcomer")],
        "withdrawn": [("invitation_withdrawn", "newcomer")],
        "expired": [("invitation_expired", "newcomer")],
        "called back": [("invitation_withdrawn", "newcomer")],
    }
    if end == "used":
        bench.enrol(token)
    elif end == "withdrawn":
        bench.withdraw()
    elif end == "expired":
        clock.now = NOW + 161
    else:
        bench.revoke(token)
    assert new_events(bench, 1) == expected[end]
    for path in (bench.folder / "invites").glob("*.key"):
        path.unlink()
    if end != "expired":
        assert new_events(bench, 1) == expected[end], "the file that is cleared away is no news"


def test_an_invitation_used_at_once_is_logged_as_used(bench: KeyBench) -> None:
    """Between two looks: by the name that it was for, and not as the revocation of nobody's key."""
    bench.enrol(bench.invite("newcomer"))
    assert new_events(bench) == [("key_authorized", "newcomer"), ("invitation_used", "newcomer")]


def test_a_rotation_is_logged(bench: KeyBench) -> None:
    """The new key, the change, and the end of the old one."""
    old = bench.list_key("agent")
    bench.look()
    new = new_pair()
    bench.propose("propose_key", old, new, may_retire=True)
    bench.look()
    assert bench.events()[1:] == [], "a proposal is no authorisation"
    bench.ask("confirm_key", new)
    bench.look()
    bench.ask("retire_keys", new)
    assert new_events(bench, 1) == [("key_authorized", "agent"), ("key_rotated", "agent"), ("key_revoked", "agent")]
    rotated = bench.audited()[2]
    assert (rotated["fingerprint"], rotated["retired"]) == (new.public.fingerprint, old.public.fingerprint)


def test_what_could_not_be_recorded_is_recorded_by_the_next_look(
    bench: KeyBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it, once: a transaction that is undone leaves neither the lines nor the belief that they are there."""
    for name in ("one", "two", "three"):
        bench.list_key(name)
    record, calls = bench.audit.record, 0

    def failing(*arguments: Any, **fields: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise StoreUnavailable("the disk is full")
        record(*arguments, **fields)

    monkeypatch.setattr(bench.audit, "record", failing)
    with pytest.raises(StoreUnavailable):
        bench.look()
    assert bench.events() == []
    assert sorted(new_events(bench)) == [("key_authorized", name) for name in ("one", "three", "two")]


def test_many_changes_are_recorded_a_thousand_at_a_time(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """So that no turn of the loop is long; nothing is left out."""
    monkeypatch.setattr(key_audit, "_MOST_CHANGES", 3)
    for number in range(8):
        bench.list_key(f"agent-{number}")
    counts = []
    for _ in range(4):
        bench.key_audit.look()
        counts.append(len(bench.audited()))
    assert counts == [3, 6, 8, 8]


def test_a_look_at_what_did_not_change_asks_nothing(
    bench: KeyBench, clock: WallClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Five times a second; but where a key has expired meanwhile, or the clock was set back, all are compared."""
    compared: list[float] = []
    changes = KeyAudit._changes

    def counted(audit: KeyAudit, contents: FolderContents, now: float) -> Any:
        compared.append(now)
        return changes(audit, contents, now)

    monkeypatch.setattr(KeyAudit, "_changes", counted)
    bench.list_key("agent", validity=Validity(None, NOW + 100))
    bench.list_key("other", validity=Validity(None, NOW + 900))
    bench.list_key("ended", validity=Validity(None, NOW - 900))
    moments = [NOW, NOW + 1, NOW + 160, NOW + 160.5, NOW + 161, NOW + 960, NOW + 961, NOW + 9_000, NOW + 200, NOW + 201]
    for clock.now in moments:
        bench.look()
        bench.look()
    assert compared == [NOW, NOW + 160.5, NOW + 961, NOW + 200]
    assert bench.events()[-3:] == [("key_expired", "agent"), ("key_expired", "other"), ("key_authorized", "other")]


def test_a_change_during_a_scan_is_logged_as_what_it_was(bench: KeyBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """The watch reads the folders on a thread of its own: a revocation must not be taken for a removal."""
    pair: KeyPair = bench.list_key("agent")
    bench.look()
    bench.list_key("another")
    contents = AuthorizedPeers.contents
    done = False

    def revoked_meanwhile(peers: AuthorizedPeers) -> Any:
        nonlocal done
        found = contents.__get__(peers)
        if not done:
            done = True
            bench.revoke(pair)
        return found

    monkeypatch.setattr(AuthorizedPeers, "contents", property(revoked_meanwhile))
    bench.look()
    bench.look()
    assert bench.events()[1:] == [("key_authorized", "another"), ("key_revoked", "agent")]


def test_the_rotation_of_its_own_key_is_logged(bench: KeyBench) -> None:
    """`rotate server` works on the folders alone; the log records which key replaced which."""
    old, new = new_pair("SystemDigitalTwin"), new_pair("SystemDigitalTwin")
    replace_certificate(old.certificate, bench.folder / "server.key")
    new_events(bench)
    replace_certificate(new.certificate, bench.folder / "server.next.key")
    new_events(bench)
    write_revocation(old.certificate, bench.folder / REVOKED_FOLDER)
    assert [event for event, _ in new_events(bench, 2)] == ["key_rotated", "key_revoked"]
    rotated = bench.audited()[2]
    assert (rotated["fingerprint"], rotated["retired"]) == (new.public.fingerprint, old.public.fingerprint)
