"""The folder of keys that SystemDigitalTwin writes: durable, repeatable, and honest about what it can't do."""

from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from tests.identities import new_pair
from tests.other_user import not_root
from twinhost.secure_zmq.certificates import read_folders
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.key_writer import revoked_file_name
from twinhost.secure_zmq.keys import Certificate, load_certificate
from twinhost.system_digital_twin.trust.actions import EnrolledKeys

FIRST, SECOND = new_pair("agent").certificate, new_pair("agent").certificate
VOUCHER = new_pair("agent").public
Change = Callable[[EnrolledKeys, Certificate], None]
CHANGES: dict[str, Change] = {
    "put": lambda enrolled, key: enrolled.put(key, VOUCHER),
    "put_beside": lambda enrolled, key: enrolled.put(key, VOUCHER, beside=True),
    "promote": EnrolledKeys.promote,
    "revoke": EnrolledKeys.revoke,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "enrolled").mkdir()
    return tmp_path / "enrolled"


def names(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_key_is_put_beside_and_then_in_the_place_of_another(folder: Path) -> None:
    """By the owner's name, whatever else the key files here are called."""
    enrolled = EnrolledKeys(folder)
    enrolled.put(FIRST, VOUCHER)
    enrolled.put(SECOND, FIRST.public, beside=True)
    assert (load_certificate(folder / "agent.key"), load_certificate(folder / "agent.next.key")) == (FIRST, SECOND)
    enrolled.promote(SECOND)
    vouched = [f"vouched/{revoked_file_name(key.public.fingerprint)}" for key in (FIRST, SECOND)]
    assert (load_certificate(folder / "agent.key"), names(folder)) == (SECOND, sorted(["agent.key", *vouched]))
    assert (folder / vouched[1]).read_text() == f"{SECOND.public.fingerprint} {FIRST.public.fingerprint}\n"
    enrolled.revoke(FIRST)
    assert read_folders([folder]).revoked == {FIRST.public.fingerprint}
    assert read_folders([folder]).rejected == []


@pytest.mark.parametrize("change", CHANGES)
def test_every_change_may_be_repeated(folder: Path, change: str) -> None:
    """A second time changes nothing."""
    enrolled = EnrolledKeys(folder)
    CHANGES[change](enrolled, FIRST)
    before = {name: (folder / name).read_text() for name in names(folder)}
    CHANGES[change](enrolled, FIRST)
    assert {name: (folder / name).read_text() for name in names(folder)} == before


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("damage", ["missing", "a file", "a folder in the way"])
def test_what_can_not_be_written_is_our_own_error(folder: Path, change: str, damage: str) -> None:
    """It names the place and the reason; no draft is left."""
    if damage == "a folder in the way":
        if change == "revoke":
            (folder / "revoked").touch()
        else:
            (folder / ("agent.next.key" if change == "put_beside" else "agent.key")).mkdir()
    else:
        folder.rmdir()
        if damage == "a file":
            folder.touch()
    with pytest.raises(StoreUnavailable, match=f"{folder}.* can't be written .*; check the folder's mode"):
        CHANGES[change](EnrolledKeys(folder), FIRST)
    if damage == "a folder in the way":
        assert not list(folder.glob(".*"))


def test_health_says_where_nobody_can_enrol(folder: Path) -> None:
    """And what to run."""
    enrolled = EnrolledKeys(folder)
    assert enrolled.fault is None
    for wrong in (folder.rmdir, folder.touch):
        wrong()
        assert enrolled.fault == f"{folder} can't be written, so nobody can enrol; run: certs-init verify"


def test_health_says_where_the_mode_lets_nobody_enrol() -> None:
    """A folder that was mounted read-only, or belongs to another user; one that can be reached."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o555)
        with not_root():
            fault = EnrolledKeys(folder).fault
        folder.chmod(0o700)
    assert fault == f"{folder} can't be written, so nobody can enrol; run: certs-init verify"
