"""How long keys are good: what make gives new ones, and what verify remarks on."""

import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.unit.certificates.trees import certs_init, files
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.key_writer import render_certificate, replace_certificate, write_key_pair
from twinhost.secure_zmq.keys import DAY_S, Validity, load_certificate, load_key_pair

LIFETIME_DAYS = load_network_config(DEFAULT_PATH, {}).limits.key_lifetime_days


@pytest.mark.parametrize(
    ("options", "days"), [((), LIFETIME_DAYS), (("make",), LIFETIME_DAYS), (("make", "--days", "30"), 30)]
)
def test_a_new_key_is_good_from_now_on_for_so_many_days(tmp_path: Path, options: tuple[str, ...], days: int) -> None:
    """As key_lifetime_days of the configuration says, or --days; the same in every file of the key."""
    now = int(time.time())
    assert certs_init(tmp_path, *options).status == 0
    for path in tmp_path.rglob("*.key"):
        validity = load_certificate(path).validity
        assert validity.not_before is not None
        assert now <= validity.not_before <= time.time()
        assert validity.not_after == validity.not_before + days * DAY_S
    own = load_key_pair(tmp_path / "mainpc/server.key_secret").certificate
    assert {load_certificate(path) for path in tmp_path.rglob("server.key")} == {own}


@pytest.mark.parametrize("days", ["0", "-1", "3651", "x", "1e3"])
def test_a_wrong_number_of_days_is_a_wrong_usage(tmp_path: Path, days: str) -> None:
    """From one day to ten years."""
    assert certs_init(tmp_path / "tree", "make", f"--days={days}").status == 2
    assert not (tmp_path / "tree").exists()


def test_a_key_of_before_there_was_an_end_has_none(tree: Path) -> None:
    """It stays what it is: make neither changes nor refuses it; verify remarks that it never expires."""
    for path in list(tree.rglob("client.key*")):
        path.unlink()
    old = new_pair("UnifiedMemoryReasoningAgent", "pc2")
    write_key_pair(old, tree / "pc2/client.key_secret")
    assert certs_init(tree).status == 0
    assert {load_certificate(path).validity for path in tree.rglob("client.key")} == {Validity()}
    before = files(tree)
    assert certs_init(tree, "make", "--days", "3").status == 0
    assert files(tree) == before
    (remark, _) = certs_init(tree, "verify").lines
    assert remark.endswith(
        "never expires; to rotate it to one that expires: certs-init rotate client " + old.certificate.owner.name
    )


@pytest.mark.parametrize(
    ("ends_in_days", "sentence"),
    [(-1, "expired 2"), (13, "expires 2"), (15, None), (None, "never expires; ")],
)
def test_verify_remarks_on_a_key_near_its_end(tree: Path, ends_in_days: int | None, sentence: str | None) -> None:
    """From 14 days before; one remark a key, however many folders have it, and no problem."""
    now = int(time.time())
    end = None if ends_in_days is None else now + ends_in_days * DAY_S
    for path in tree.rglob("client.key"):
        key = load_certificate(path)
        replace_certificate(replace(key, validity=Validity(now - 100 * DAY_S, end)), path)
    ran = certs_init(tree, "verify")
    assert ran.status == 0
    if sentence is None:
        assert ran.lines == [f"{tree}: 3 folders are correct"]
    else:
        (remark, _) = ran.lines
        assert remark.startswith("remark: the key of UnifiedMemoryReasoningAgent on pc2 (SHA256:")
        assert sentence in remark


def test_verify_remarks_on_open_and_expired_invitations(tree: Path) -> None:
    """An invitation that is still open is worth a warning."""
    certs_init(tree, "invite", "Sensor", "--host", "pc3", "--role", "agent")
    assert "remark: the invitation of Sensor is open until 20" in certs_init(tree, "verify").lines[0]
    path = tree / "mainpc/invites/Sensor.key"
    replace_certificate(replace(load_certificate(path), validity=Validity(1, 2)), path)
    assert "remark: the invitation of Sensor expired; to withdraw it" in certs_init(tree, "verify").lines[0]


def test_the_first_run_makes_the_folders_that_agents_watch(tmp_path: Path) -> None:
    """For their owner alone, so that mounts and watches find them."""
    certs_init(tmp_path)
    inner = {"mainpc/enrolled", "mainpc/enrolled/revoked", "mainpc/invites", "pc2/trust", "pc2/trust/revoked"}
    inner |= {f"{folder}/revoked" for folder in ("mainpc", "pc2", "operator")}
    found = {
        str(path.relative_to(tmp_path)): stat.S_IMODE(path.stat().st_mode)
        for path in tmp_path.rglob("*")
        if path.is_dir()
    }
    assert dict.fromkeys(inner | {"mainpc", "pc2", "operator"}, 448) == found


@pytest.mark.parametrize(
    ("file", "sentence"),
    [
        ("mainpc/enrolled/notes.txt", "does not belong here"),
        ("mainpc/invites/notes.txt", "does not belong here"),
        ("pc2/revoked/client.key", "revokes nothing: its name is not a SHA-256 in hex"),
        ("pc2/revoked/notes.txt", "revokes nothing"),
        ("pc2/enrolled/x", "does not belong here"),
        ("pc2/client.next.key", "must have the sections"),
        ("pc2/client.next.key_secret", "can use the secret; run: chmod 600"),
        ("mainpc/client.next.key_secret", "is another owner's secret"),
    ],
)
def test_verify_names_what_does_not_belong_into_inner_folders(tree: Path, file: str, sentence: str) -> None:
    """One sentence each."""
    (tree / file).parent.mkdir(exist_ok=True)
    (tree / file).touch(mode=0o644)
    ran = certs_init(tree, "verify")
    assert ran.status == 1
    assert sentence in ran.lines[0]
    assert len(ran.lines) == 2


def test_verify_accepts_enrolled_keys_and_a_rotations_next_key(tree: Path) -> None:
    """As SystemDigitalTwin writes them; a file under another's name is a problem."""
    umra = load_key_pair(tree / "pc2/client.key_secret").certificate.owner
    dated = Validity(not_after=int(time.time()) + 100 * DAY_S)
    following = replace(new_pair().certificate, owner=umra, validity=dated)
    sensor = replace(new_pair("Sensor", "pc3").certificate, validity=dated)
    replace_certificate(sensor, tree / "mainpc/enrolled/Sensor.key")
    replace_certificate(following, tree / f"mainpc/enrolled/{umra.name}.next.key")
    replace_certificate(following, tree / "operator/client.next.key")
    (tree / "mainpc/enrolled/.Sensor.key.7.draft").touch()
    assert certs_init(tree, "verify").lines == [f"{tree}: 3 folders are correct"]
    replace_certificate(new_pair("Other", "pc3").certificate, tree / "mainpc/enrolled/Sensor.key")
    assert "is the key of Other on pc3 (agent), not of Sensor" in certs_init(tree, "verify").lines[0]


@pytest.mark.parametrize("name", ["mainpc/enrolled", "mainpc/invites", "mainpc/enrolled/revoked", "pc2/revoked"])
def test_verify_looks_at_the_modes_of_the_inner_folders(tree: Path, name: str) -> None:
    """Who may write there lets others in, or keeps them out."""
    (tree / name).chmod(0o777)
    (sentence, _) = certs_init(tree, "verify").lines
    assert sentence.startswith(f"{tree}/{name} has mode 0777, so others can change what it holds; run: chmod 700")


def test_an_interrupted_join_is_named(tree: Path) -> None:
    """make makes no second key in its place, and both say what to do."""
    pair = load_key_pair(tree / "pc2/client.key_secret")
    for path in list(tree.rglob("client.key*")):
        path.unlink()
    write_key_pair(pair, tree / "pc2/client.next.key_secret")
    before = files(tree)
    ran = certs_init(tree)
    assert (ran.status, ran.out, files(tree)) == (1, "", before)
    assert "belongs to an interrupted join: run join again" in ran.err
    assert "belongs to an interrupted join; run join again" in certs_init(tree, "verify").out


def test_public_finds_who_enrolled(tree: Path) -> None:
    """By name; what is printed is the public key file."""
    key = new_pair("Sensor", "pc3").certificate
    replace_certificate(key, tree / "mainpc/enrolled/Sensor.key")
    assert certs_init(tree, "public", "Sensor").out == render_certificate(key)
    assert certs_init(tree, "public", "SystemDigitalTwin").out == certs_init(tree, "public", "server").out
