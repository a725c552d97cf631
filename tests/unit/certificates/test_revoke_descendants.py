"""A key that a revoked key authorised is revoked with it: a thief who rotated a stolen key keeps nothing."""

from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.unit.certificates.trees import certs_init
from twinhost.secure_zmq.certificates import read_folders
from twinhost.secure_zmq.key_writer import replace_certificate, write_revocation, write_vouching
from twinhost.secure_zmq.keys import KeyPair, load_certificate

pytestmark = [pytest.mark.sdt_security, pytest.mark.usefixtures("nothing_listens")]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    certs_init(tmp_path / "tree")
    return tmp_path / "tree"


def authorise(tree: Path, name: str, pair: KeyPair, voucher: KeyPair | None) -> None:
    """Do what SystemDigitalTwin does once a key was proven; an older version recorded no voucher."""
    enrolled = tree / "mainpc/enrolled"
    if voucher is not None:
        write_vouching(pair.public.fingerprint, voucher.public.fingerprint, enrolled / "vouched")
    replace_certificate(pair.certificate, enrolled / name)


def retire(tree: Path, pair: KeyPair) -> None:
    write_revocation(pair.certificate, tree / "mainpc/enrolled/revoked")


def authorised(tree: Path) -> set[str]:
    contents = read_folders([tree / "mainpc", tree / "mainpc/enrolled"])
    return {key.public.fingerprint for keys in (contents.current, contents.next) for key in keys.values()}


def line(word: str, pair: KeyPair, voucher: KeyPair | None = None) -> str:
    vouched = "" if voucher is None else f", which {voucher.public.fingerprint} vouched for"
    return f"{word}: {pair.public.fingerprint} Sensor on pc3 (agent){vouched}"


@pytest.fixture
def chain(tree: Path) -> list[KeyPair]:
    """The stolen key, one that it authorised and that was retired in its turn, and that one's: the present key."""
    first, second, third = (new_pair("Sensor", "pc3") for _ in range(3))
    authorise(tree, "Sensor.key", third, second)
    write_vouching(second.public.fingerprint, first.public.fingerprint, tree / "mainpc/enrolled/vouched")
    for pair in (first, second):
        retire(tree, pair)
    return [first, second, third]


def test_revoking_a_fingerprint_revokes_its_descendants(tree: Path, chain: list[KeyPair]) -> None:
    """Also where the key itself was retired long ago; each is named with what vouched for it."""
    first, second, third = chain
    ran = certs_init(tree, "revoke", first.public.fingerprint)
    assert (ran.status, third.public.fingerprint in authorised(tree)) == (0, False)
    assert ran.lines[:4] == [
        line("revoked", third, second),
        line("already revoked", first),
        line("already revoked", second, first),
        f"removed: {tree}/mainpc/enrolled/Sensor.key",
    ]


def test_only_keeps_the_descendants_and_names_them(tree: Path, chain: list[KeyPair]) -> None:
    """The owner's other keys, and the command that revokes each."""
    first, _, third = chain
    ran = certs_init(tree, "revoke", first.public.fingerprint, "--only")
    assert (ran.status, third.public.fingerprint in authorised(tree)) == (0, True)
    assert ran.lines[:2] == [
        line("already revoked", first),
        f"{line('not revoked', third)}; to revoke it too: certs-init revoke {third.public.fingerprint}",
    ]


def test_a_superseded_key_has_the_owner_of_its_voucher(tree: Path) -> None:
    """A rotation began twice: the second next key took the place of the first, of which only the record is left."""
    present, first, second = (new_pair("Sensor", "pc3") for _ in range(3))
    authorise(tree, "Sensor.key", present, None)
    authorise(tree, "Sensor.next.key", first, present)
    authorise(tree, "Sensor.next.key", second, present)
    ran = certs_init(tree, "revoke", first.public.fingerprint, "--only")
    assert ran.lines[0] == line("revoked", first)
    assert [other for other in ran.lines if other.startswith("not revoked: ")] == [
        f"{line('not revoked', pair)}; to revoke it too: certs-init revoke {pair.public.fingerprint}"
        for pair in sorted((present, second), key=lambda pair: ran.out.index(pair.public.fingerprint))
    ]
    descendants = certs_init(tree, "revoke", present.public.fingerprint)
    assert line("already revoked", first, present) in descendants.lines


def test_a_key_that_was_made_anew_has_the_owner_of_its_file(tree: Path) -> None:
    """Its files were removed, and certs-init made another one: the record of what it distributed has the name."""
    old = load_certificate(tree / "pc2/client.key").public.fingerprint
    for path in [*tree.glob("*/client.key"), tree / "pc2/client.key_secret"]:
        path.unlink()
    assert certs_init(tree).status == 0
    ran = certs_init(tree, "revoke", old, "--only")
    assert ran.lines[0] == f"revoked: {old} UnifiedMemoryReasoningAgent on pc2 (agent)"
    assert "for a new key" not in ran.err  # it has one, which `replace` would keep
    (tree / ".distributed").write_text("damaged\n")
    assert certs_init(tree, "revoke", "SHA256:" + "A" * 43, "--only").lines[0].endswith(" of an unknown owner")


def test_the_keys_before_a_revoked_one_are_named_and_stay(tree: Path) -> None:
    """A rotation that is under way: the next key is revoked, and the present one is named."""
    present, following = (new_pair("Sensor", "pc3") for _ in range(2))
    authorise(tree, "Sensor.key", present, None)
    authorise(tree, "Sensor.next.key", following, present)
    ran = certs_init(tree, "revoke", following.public.fingerprint)
    assert present.public.fingerprint in authorised(tree)
    assert ran.lines[0] == line("revoked", following)
    assert f"{line('not revoked', present)}; to revoke it too: certs-init revoke" in ran.out


def test_an_invitations_key_is_its_descendant(tree: Path) -> None:
    """Whoever used a stolen line is revoked by the fingerprint of the one-time key."""
    token, pair = (new_pair("Sensor", "pc3") for _ in range(2))
    replace_certificate(token.certificate, tree / "mainpc/invites/Sensor.key")
    authorise(tree, "Sensor.key", pair, token)
    retire(tree, token)
    ran = certs_init(tree, "revoke", token.public.fingerprint)
    assert (ran.status, pair.public.fingerprint in authorised(tree)) == (0, False)
    assert line("revoked", pair, token) in ran.lines


def test_keys_without_a_record_go_on_working(tree: Path) -> None:
    """A volume of the version before: the successor is named, and not revoked; by its name it is."""
    old, new = (new_pair("Sensor", "pc3") for _ in range(2))
    authorise(tree, "Sensor.key", new, None)
    retire(tree, old)
    ran = certs_init(tree, "revoke", old.public.fingerprint)
    assert (ran.status, new.public.fingerprint in authorised(tree)) == (0, True)
    assert f"{line('not revoked', new)}; to revoke it too: certs-init revoke {new.public.fingerprint}" in ran.lines
    assert certs_init(tree, "verify").status == 0
    assert certs_init(tree, "revoke", "Sensor").lines[0] == line("revoked", new)


def test_only_is_for_a_fingerprint(tree: Path) -> None:
    """A name means all of its keys."""
    ran = certs_init(tree, "revoke", "operator", "--only")
    assert (ran.status, ran.out) == (1, "")
    assert "give it a fingerprint" in ran.err


def test_verify_names_a_record_that_is_damaged(tree: Path, chain: list[KeyPair]) -> None:
    """A revocation passes it over."""
    assert certs_init(tree, "verify").status == 0
    (record, _) = sorted((tree / "mainpc/enrolled/vouched").iterdir())
    record.write_text("garbage")
    ran = certs_init(tree, "verify")
    assert (ran.status, f"{record} does not name the key that authorised" in ran.out + ran.err) == (1, True)
    assert certs_init(tree, "revoke", chain[0].public.fingerprint).status == 0
