"""An agent's own pair, followed: a rotation's is taken, and anything else is named and left alone."""

from pathlib import Path

import pytest

from tests.identities import host_folder, new_pair
from twinhost.agent.host_keys import OwnKeys
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.errors import KeyFileMissing
from twinhost.secure_zmq.key_writer import write_key_pair
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, Validity


@pytest.fixture
def pair() -> KeyPair:
    return new_pair("agent")


@pytest.fixture
def folder(tmp_path: Path, pair: KeyPair) -> Path:
    return host_folder(tmp_path / "certificates", "client", pair)


@pytest.fixture
def own(folder: Path) -> OwnKeys:
    return OwnKeys(load_certificates(folder))


def put(folder: Path, pair: KeyPair) -> None:
    """Put a pair in the place of the one there is, as a rotation does."""
    path = folder / "client.key_secret"
    path.unlink(missing_ok=True)
    path.with_suffix(".key").unlink(missing_ok=True)
    write_key_pair(pair, path)


def test_another_pair_of_the_same_owner_is_taken(own: OwnKeys, folder: Path, pair: KeyPair) -> None:
    """With other dates too."""
    assert own() == pair
    following = KeyPair.generate(pair.certificate.owner, Validity(1_800_000_000, 1_900_000_000))
    put(folder, following)
    assert own() == pair, "the disk is touched when somebody looks, and at no other time"
    own.look()
    assert (own(), own.fault) == (following, None)


@pytest.mark.parametrize("owner", [("other", "pc2", "agent"), ("agent", "pc3", "agent"), ("agent", "pc2", "operator")])
def test_a_pair_of_somebody_else_is_not_taken(
    own: OwnKeys, folder: Path, pair: KeyPair, owner: tuple[str, str, str]
) -> None:
    """Another name, another host, other roles: a slip of a copy, or worse."""
    name, host, role = owner
    put(folder, KeyPair.generate(KeyOwner(name, host, frozenset({role}))))
    own.look()
    assert own() == pair
    assert own.fault is not None
    assert f"now holds the key of {name}, and this agent is agent" in own.fault
    put(folder, pair)
    own.look()
    assert own.fault is None


@pytest.mark.parametrize("damage", ["gone", "garbage", "exposed", "two", "halves"])
def test_a_secret_that_can_not_be_believed_changes_nothing(
    own: OwnKeys, folder: Path, pair: KeyPair, damage: str
) -> None:
    """The pair in use stays until it is mended, and health says what is wrong."""
    path = folder / "client.key_secret"
    if damage == "gone":
        path.unlink()
    elif damage == "garbage":
        path.write_text("garbage")
    elif damage == "exposed":
        path.chmod(0o644)
    elif damage == "two":
        write_key_pair(new_pair("agent"), folder / "other.key_secret")
    else:
        path.write_text(path.read_text().replace(pair.public.z85.decode(), new_pair().public.z85.decode()))
    own.look()
    assert own() == pair
    assert own.fault
    assert pair.secret_z85.decode() not in own.fault


def test_the_next_secret_is_not_this_hosts_yet(folder: Path, own: OwnKeys, pair: KeyPair) -> None:
    """It lies beside the present one until the switch, which is one rename."""
    following = new_pair("agent")
    write_key_pair(following, folder / "client.next.key_secret")
    own.look()
    assert (own(), own.fault) == (pair, None)
    assert load_certificates(folder).own_keys == pair
    (folder / "client.next.key_secret").rename(folder / "client.key_secret")
    own.look()
    assert (own(), own.fault) == (following, None)


def test_a_next_secret_alone_is_no_identity(tmp_path: Path) -> None:
    """Nobody starts with a key that is authorised nowhere yet."""
    folder = host_folder(tmp_path / "certificates", "client.next", new_pair("agent"))
    with pytest.raises(KeyFileMissing, match="holds no secret key"):
        load_certificates(folder)


def test_another_pair_is_announced_once_it_is_in_use(own: OwnKeys, folder: Path, pair: KeyPair) -> None:
    """The server then changes its key; a look that finds the same pair announces nothing."""
    seen: list[KeyPair] = []
    own.on_change = lambda: seen.append(own())
    own.look()
    rotated = KeyPair.generate(pair.certificate.owner)
    put(folder, rotated)
    own.look()
    own.look()
    assert seen == [rotated]
