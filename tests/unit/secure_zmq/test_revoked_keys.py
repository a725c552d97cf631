"""Keys that are revoked for ever, next keys, and the one-time keys of invitations: what the folders say."""

import hashlib
from pathlib import Path

import pytest

from tests.identities import authorize, new_pair
from twinhost.secure_zmq.callers import EVERY_ACTION, Caller, Grants, Peer
from twinhost.secure_zmq.certificates import read_folders
from twinhost.secure_zmq.errors import NotGranted
from twinhost.secure_zmq.key_writer import (
    revoked_file_name,
    write_certificate,
    write_revocation,
    write_revoked_fingerprint,
)
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.peers import AuthorizedPeers, Outcome

CONTENTS = ["", "garbage", "#", "metadata\n", "\xff\xfe", "x" * 10_000]


def revoke(folder: Path, pair: KeyPair) -> Path:
    """Keep a pair out, and return the file that does it."""
    write_revocation(pair.certificate, folder / "revoked")
    return folder / "revoked" / revoked_file_name(pair.public.fingerprint)


def invite(folder: Path, token: KeyPair) -> Path:
    (folder / "invites").mkdir(exist_ok=True)
    return authorize(folder / "invites", token)


def put_next(folder: Path, pair: KeyPair) -> Path:
    path = folder / f"{pair.certificate.owner.name}.next.key"
    write_certificate(pair.certificate, path)
    return path


def caller(peer: Peer) -> Caller:
    return Caller(peer.name, peer.host, peer.roles, peer.fingerprint)


def found(peers: AuthorizedPeers, pair: KeyPair) -> Peer:
    peer = peers.find(pair.public.raw)
    assert peer is not None
    assert peers.live(pair.public.fingerprint) == peer
    return peer


def assert_out(peers: AuthorizedPeers, pair: KeyPair, why: Outcome) -> None:
    assert peers.find(pair.public.raw) is None
    assert peers.live(pair.public.fingerprint) is None
    assert peers.judge(pair.public.raw) is why


def test_revoked_beats_listed(tmp_path: Path) -> None:
    """Wherever the key is listed, and in whichever folder it is revoked; the others stay."""
    pair, other = new_pair("agent"), new_pair("other")
    for name in ("one", "two"):
        (tmp_path / name).mkdir()
        authorize(tmp_path / name, pair)
    authorize(tmp_path / "one", other)
    revoke(tmp_path / "two", pair)
    peers = AuthorizedPeers([tmp_path / "one", tmp_path / "two"])
    assert_out(peers, pair, Outcome.KEY_REVOKED)
    assert peers.public_key_of("agent") is None
    assert peers.keys_of("agent") == []
    assert found(peers, other).name == "other"


@pytest.mark.parametrize("content", CONTENTS, ids=range(len(CONTENTS)))
def test_a_damaged_revocation_file_still_revokes_by_its_name(tmp_path: Path, content: str) -> None:
    """A disk that damages the file does not let the key in again."""
    pair = new_pair("agent")
    authorize(tmp_path, pair)
    revoke(tmp_path, pair).write_text(content, encoding="latin-1")
    peers = AuthorizedPeers([tmp_path])
    assert_out(peers, pair, Outcome.KEY_REVOKED)
    assert peers.reload().rejected == ()


def test_a_dangling_link_or_a_folder_revokes_too(tmp_path: Path) -> None:
    """Whatever has the name."""
    linked, made = new_pair("linked"), new_pair("made")
    (tmp_path / "revoked").mkdir()
    (tmp_path / "revoked" / revoked_file_name(linked.public.fingerprint)).symlink_to(tmp_path / "nowhere")
    (tmp_path / "revoked" / revoked_file_name(made.public.fingerprint)).mkdir()
    for pair in (linked, made):
        authorize(tmp_path, pair)
    peers = AuthorizedPeers([tmp_path])
    for pair in (linked, made):
        assert_out(peers, pair, Outcome.KEY_REVOKED)


@pytest.mark.parametrize("name", ["agent.key", "AB" * 32 + ".key", "ab" * 31 + ".key", "ab" * 33 + ".key", ".key"])
def test_a_file_of_another_name_revokes_nothing_and_says_so(tmp_path: Path, name: str) -> None:
    """Whoever moves `agent.key` into `revoked/` learns that it did nothing, and what to run."""
    pair = new_pair("agent")
    authorize(tmp_path, pair)
    (tmp_path / "revoked").mkdir()
    write_certificate(pair.certificate, tmp_path / "revoked" / name)
    peers = AuthorizedPeers([tmp_path])
    (sentence,) = peers.reload().rejected
    assert sentence.startswith(f"{tmp_path}/revoked/{name} revokes nothing: ")
    assert "run: certs-init revoke SHA256:..." in sentence
    assert found(peers, pair)


def test_a_file_in_revoked_that_is_no_key_file_is_ignored(tmp_path: Path) -> None:
    """A draft, a README: nothing is revoked, nothing is said."""
    pair = new_pair("agent")
    authorize(tmp_path, pair)
    (tmp_path / "revoked").mkdir()
    (tmp_path / "revoked" / hashlib.sha256(pair.public.raw).hexdigest()).touch()
    (tmp_path / "revoked" / f".{revoked_file_name(pair.public.fingerprint)}.7.draft").touch()
    peers = AuthorizedPeers([tmp_path])
    assert found(peers, pair)
    assert peers.reload().rejected == ()


@pytest.mark.parametrize("gone", ["the file", "the folder", "unreadable in between"])
def test_what_was_revoked_stays_so_where_its_file_is_gone(tmp_path: Path, gone: str) -> None:
    """A restored or moved folder is no unrevoke; the error names the command that repairs it."""
    pair, bystander = new_pair("agent"), new_pair("bystander")
    for each in (pair, bystander):
        authorize(tmp_path, each)
    mark = revoke(tmp_path, pair)
    peers = AuthorizedPeers([tmp_path])
    if gone == "the file":
        mark.unlink()
    else:
        mark.parent.rename(tmp_path / "moved")
    if gone == "unreadable in between":
        (tmp_path / "revoked").write_text("")
        peers.reload()
        (tmp_path / "revoked").unlink()
    for _ in range(2):
        (sentence,) = peers.reload().rejected
    assert_out(peers, pair, Outcome.KEY_REVOKED)
    assert sentence.endswith(f"run: certs-init revoke {pair.public.fingerprint}")
    assert found(peers, bystander)
    revoke(tmp_path, pair)
    assert peers.reload().rejected == ()


@pytest.mark.parametrize("damage", ["a file", "a loop"])
def test_revocations_that_can_not_be_read_let_nobody_in(tmp_path: Path, damage: str) -> None:
    """It could be anybody's key that is on the list; the folder is named, and mended everybody is back."""
    pair, bystander = new_pair("agent"), new_pair("bystander")
    for each in (pair, bystander):
        authorize(tmp_path, each)
    kept = revoke(tmp_path, pair).parent.rename(tmp_path / "kept")
    revoked = tmp_path / "revoked"
    revoked.write_text("") if damage == "a file" else revoked.symlink_to("revoked")
    peers = AuthorizedPeers([tmp_path])
    for each in (pair, bystander):
        assert peers.find(each.public.raw) is None
    assert peers.all() == ()
    (sentence,) = peers.reload().rejected
    assert sentence.startswith(f"{revoked} can't be read (")
    revoked.unlink()
    kept.rename(revoked)
    peers.reload()
    assert found(peers, bystander)
    assert_out(peers, pair, Outcome.KEY_REVOKED)


def test_a_folder_of_keys_that_can_not_be_read_is_named(tmp_path: Path) -> None:
    """Its keys are not there, and nobody has to guess why; a folder that is missing is no fault."""
    pair = new_pair("agent")
    (tmp_path / "good").mkdir()
    authorize(tmp_path / "good", pair)
    (tmp_path / "loop").symlink_to("loop")
    contents = read_folders([tmp_path / "good", tmp_path / "absent"])
    assert (list(contents.current), contents.rejected) == (["agent"], [])
    contents = read_folders([tmp_path / "good", tmp_path / "loop"])
    assert str(tmp_path / "loop") in contents.rejected[0]


def test_a_revocation_is_reported_once(tmp_path: Path) -> None:
    """As a removal of the peer, and as a fingerprint."""
    pair = new_pair("agent")
    authorize(tmp_path, pair)
    peers = AuthorizedPeers([tmp_path])
    revoke(tmp_path, pair)
    report = peers.reload()
    assert report.revoked == {pair.public.fingerprint}
    assert [peer.name for peer in report.removed] == ["agent"]
    assert peers.reload().revoked == frozenset()


def test_listeners_hear_of_changes_and_of_nothing_else(tmp_path: Path) -> None:
    """A key that comes, one that is revoked, and one that was never listed."""
    peers = AuthorizedPeers([tmp_path])
    reports: list[frozenset[str]] = []
    peers.listen(lambda report: reports.append(report.revoked))
    pair, unknown = new_pair("agent"), new_pair("unknown")
    peers.reload()
    authorize(tmp_path, pair)
    peers.reload()
    peers.reload()
    revoke(tmp_path, pair)
    peers.reload()
    write_revoked_fingerprint(unknown.public.fingerprint, tmp_path / "revoked")
    peers.reload()
    peers.reload()
    assert reports == [frozenset(), {pair.public.fingerprint}, {unknown.public.fingerprint}]


def test_the_next_key_counts_beside_the_current_one(tmp_path: Path) -> None:
    """Both let their owner in, the same one; the pins are the current one, and then the next."""
    current, following = new_pair("agent"), new_pair("agent")
    authorize(tmp_path, current)
    put_next(tmp_path, following)
    peers = AuthorizedPeers([tmp_path])
    assert (found(peers, current).name, found(peers, following).name) == ("agent", "agent")
    assert peers.public_key_of("agent") == current.public.z85
    assert peers.keys_of("agent") == [current.public, following.public]
    assert peers.reload().rejected == ()
    revoke(tmp_path, current)
    peers.reload()
    assert peers.keys_of("agent") == [following.public]
    assert peers.public_key_of("agent") is None


def test_the_same_key_as_current_and_next_is_one_pin(tmp_path: Path) -> None:
    """A promotion that was cut short between its two steps."""
    pair = new_pair("agent")
    authorize(tmp_path, pair)
    put_next(tmp_path, pair)
    peers = AuthorizedPeers([tmp_path])
    assert peers.keys_of("agent") == [pair.public]
    assert [peer.name for peer in peers.all()] == ["agent"]
    assert peers.reload().rejected == ()


def test_two_next_keys_of_one_name_are_one_too_many(tmp_path: Path) -> None:
    """The first one stays, and the other is named."""
    first, second = new_pair("agent"), new_pair("agent")
    for name, pair in (("a", first), ("b", second)):
        (tmp_path / name).mkdir()
        put_next(tmp_path / name, pair)
    peers = AuthorizedPeers([tmp_path / "a", tmp_path / "b"])
    assert peers.keys_of("agent") == [first.public]
    assert peers.reload().rejected == (
        f"{tmp_path / 'b' / 'agent.next.key'} gives agent a second, different key; revoke the wrong one: "
        f"certs-init revoke {first.public.fingerprint} or {second.public.fingerprint}",
    )


@pytest.mark.parametrize("next_one", ["owner", "thief"])
def test_one_key_has_one_owner_also_across_current_and_next(tmp_path: Path, next_one: str) -> None:
    """A next key can't be somebody else's current one, nor the other way round: whoever comes first has it."""
    pair = new_pair("owner")
    stolen = KeyPair(type(pair.certificate)(new_pair("thief").certificate.owner, pair.public), pair.secret_z85)
    first, second = (stolen, pair) if next_one == "thief" else (pair, stolen)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    put_next(tmp_path / "a", first)
    authorize(tmp_path / "b", second)
    peers = AuthorizedPeers([tmp_path / "a", tmp_path / "b"])
    assert found(peers, pair).name == next_one
    (sentence,) = peers.reload().rejected
    assert "gives one key to two owners" in sentence
    assert peers.keys_of(second.certificate.owner.name) == []


def test_an_invitation_acts_for_nobody_yet(tmp_path: Path) -> None:
    """It has a name that no owner can have, and a role of its own, whatever roles it is for."""
    token = new_pair("newcomer", "pc3", "operator", "agent")
    invite(tmp_path, token)
    peers = AuthorizedPeers([tmp_path])
    peer = found(peers, token)
    assert (peer.name, peer.host, peer.roles) == ("invitation:newcomer", "pc3", frozenset({"invitation"}))
    assert peers.public_key_of("newcomer") is None
    assert peers.keys_of("newcomer") == []


@pytest.mark.parametrize(
    "by_role",
    [{}, {"agent": {"ping"}}, {"invitation": {"*"}, "operator": {"*"}}, {"*": {"*"}, "invitation": {"ping", "enrol"}}],
    ids=["none", "agent", "itself", "star"],
)
def test_an_invitation_may_enrol_and_nothing_else(tmp_path: Path, by_role: dict[str, set[str]]) -> None:
    """Whatever roles it is for, and whatever the configuration grants."""
    token = new_pair("newcomer", "pc3", "operator", "agent")
    invite(tmp_path, token)
    grants, holder = Grants(by_role), caller(found(AuthorizedPeers([tmp_path]), token))
    grants.require(holder, "enrol")
    for action in ("ping", "confirm_key", "propose_key", "get_trust", "register_agent", "subscribe", EVERY_ACTION):
        with pytest.raises(NotGranted):
            grants.require(holder, action)


def test_a_used_invitation_is_out_and_is_known_as_such(tmp_path: Path) -> None:
    """Its file may stay where it is, since the folder of invitations is not the agent's to write."""
    token = new_pair("newcomer")
    invite(tmp_path, token)
    (tmp_path / "enrolled").mkdir()
    revoke(tmp_path / "enrolled", token)
    peers = AuthorizedPeers([tmp_path, tmp_path / "enrolled"])
    assert_out(peers, token, Outcome.KEY_REVOKED)
    assert (peers.contents.invites, peers.contents.spent) == ([], [token.certificate])


def test_a_listed_key_takes_precedence_over_an_invitation(tmp_path: Path) -> None:
    """A one-time key that is also somebody's is that one's."""
    pair = new_pair("agent")
    authorize(tmp_path, pair)
    invite(tmp_path, pair)
    assert found(AuthorizedPeers([tmp_path]), pair).name == "agent"
