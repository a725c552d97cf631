"""Making the keys: what is missing is made, what is there is kept, and the output says which is which."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.identities import new_pair
from tests.unit.certificates.trees import BOTH_HOSTS, RECORD, REPOSITORY, certs_init, environment_of, files, secrets
from twinhost.certificates.records import DistributionRecord
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.certificates import FAILURE_FILE, FOLDER_VARIABLE
from twinhost.secure_zmq.keys import load_certificate, load_key_pair

OF_MAINPC = {
    f"{folder}/{file}"
    for folder, own in (("mainpc", "server"), ("operator", "operator"))
    for file in (f"{own}.key_secret", "server.key", "operator.key")
}


def test_the_first_run_makes_every_key(tmp_path: Path) -> None:
    """Each folder holds its own secret and every public key, and no other file."""
    ran = certs_init(tmp_path / "tree")
    assert (ran.status, ran.err) == (0, "")
    assert set(files(tmp_path / "tree")) == BOTH_HOSTS
    assert certs_init(tmp_path / "tree", "verify").status == 0


def test_the_section_notify_has_a_key_made(tmp_path: Path) -> None:
    """Of a role of its own; where pc2 is another machine, it is made there."""
    document = yaml.safe_load(DEFAULT_PATH.read_text(encoding="utf-8"))
    document["notify"] = {"destinations": {"phone": {"ntfy": "https://ntfy.example/topic"}}}
    config = tmp_path / "network_config.yaml"
    config.write_text(yaml.safe_dump(document))
    assert certs_init(tmp_path / "tree", config=str(config)).status == 0
    owner = load_key_pair(tmp_path / "tree/notify/notify.key_secret").certificate.owner
    assert (owner.name, owner.host, owner.roles) == ("notify", "pc2", frozenset({"notifier"}))
    assert (tmp_path / "tree/notify/server.key").exists()
    assert (tmp_path / "tree/mainpc/notify.key").exists()
    assert certs_init(tmp_path / "tree", "verify", config=str(config)).status == 0
    assert certs_init(tmp_path / "mainpc", host="mainpc", config=str(config)).status == 0
    assert not (tmp_path / "mainpc/notify").exists()


def test_as_compose_runs_it_the_cli_finds_what_failed(tmp_path: Path) -> None:
    """Without arguments it makes the keys, or says why not, and where the cli finds it; that is at every start."""
    root = tmp_path / "tree"
    environment = {
        **os.environ,
        **environment_of(),
        FOLDER_VARIABLE: str(root),
        "PYTHONPATH": str(REPOSITORY / "services"),
    }
    command = [sys.executable, "-m", "twinhost.cli.certs_init"]
    first = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (first.returncode, first.stderr, set(files(root))) == (0, "", BOTH_HOSTS)
    (root / "mainpc/server.key_secret").unlink()
    second = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (second.returncode, second.stdout) == (1, "")
    assert second.stderr == f"certs-init: {(root / 'operator' / FAILURE_FILE).read_text()}"


def test_secrets_are_readable_by_their_owner_alone(tmp_path: Path) -> None:
    """Mode 0600 for a secret, 0644 for a public key, 0700 for a folder, whatever the umask lets through."""
    before = os.umask(0)
    try:
        certs_init(tmp_path / "tree")
    finally:
        os.umask(before)
    modes = {path: stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "tree").rglob("*")}
    assert {mode for path, mode in modes.items() if path.suffix == ".key_secret"} == {0o600}
    assert {mode for path, mode in modes.items() if path.suffix == ".key"} == {0o644}
    assert {mode for path, mode in modes.items() if path.is_dir()} == {0o700}


def test_a_second_run_changes_nothing_and_says_so(tmp_path: Path) -> None:
    """Same bytes, same fingerprints, `already present` in the place of `created`."""
    first = certs_init(tmp_path)
    before = files(tmp_path)
    second = certs_init(tmp_path)
    assert (second.status, files(tmp_path)) == (0, before)
    assert second.out == first.out.replace("created        ", "already present")


def test_the_output_names_every_key_and_every_place(tmp_path: Path) -> None:
    """One line for each key with owner, host, and the fingerprint of its file, then what lies in each folder."""
    lines = certs_init(tmp_path).lines
    for line, (stem, name, host, folder) in zip(
        lines,
        [
            ("server", "SystemDigitalTwin", "mainpc", "mainpc"),
            ("client", "UnifiedMemoryReasoningAgent", "pc2", "pc2"),
            ("operator", "operator", "mainpc", "operator"),
        ],
        strict=False,
    ):
        fingerprint = load_certificate(tmp_path / folder / f"{stem}.key").public.fingerprint
        assert line.split() == [stem, name, host, "created", fingerprint]
    assert lines[4:] == [
        f"{tmp_path}/{folder}: {stem}.key_secret (stays there, mode 0600); public: server.key, client.key, operator.key"
        for folder, stem in (("mainpc", "server"), ("pc2", "client"), ("operator", "operator"))
    ]


def test_the_output_shows_no_secret(tmp_path: Path) -> None:
    """Neither run prints the secret half of any key."""
    shown = certs_init(tmp_path).out + certs_init(tmp_path).out + certs_init(tmp_path, "verify").out
    for name in secrets(tmp_path):
        assert load_key_pair(tmp_path / name).secret_z85.decode() not in shown


def test_mainpc_gets_its_own_and_the_operators_secret_alone(tmp_path: Path) -> None:
    """TWINHOST_HOST=mainpc: no folder and no secret of pc2, and how to get its public key."""
    ran = certs_init(tmp_path, host="mainpc")
    assert ran.status == 0
    assert set(files(tmp_path)) == OF_MAINPC
    assert "not here yet" in ran.out
    assert "UnifiedMemoryReasoningAgent on pc2 is not known here yet" in ran.out
    assert "certs-init trust - < client.key" in ran.out


def test_pc2_gets_its_own_secret_alone(tmp_path: Path) -> None:
    """TWINHOST_HOST=pc2: one folder, one secret, its public half."""
    assert certs_init(tmp_path, host="pc2").status == 0
    assert set(files(tmp_path)) == {"pc2/client.key_secret", "pc2/client.key"}


def test_an_unknown_host_makes_nothing(tmp_path: Path) -> None:
    """A slip in TWINHOST_HOST is refused with the names that there are."""
    ran = certs_init(tmp_path / "tree", host="pc3")
    assert ran.status == 1
    assert "there is no host 'pc3'; there are: mainpc, pc2" in ran.err
    assert not (tmp_path / "tree").exists()


@pytest.mark.parametrize("name", sorted(name for name in BOTH_HOSTS if name.endswith(".key")))
def test_a_lost_public_file_comes_back_the_same(tmp_path: Path, name: str) -> None:
    """Whichever copy a killed run did not get to record, the next one restores its bytes and makes no key."""
    certs_init(tmp_path)
    before = files(tmp_path)
    (tmp_path / name).unlink()
    (tmp_path / RECORD).unlink()
    ran = certs_init(tmp_path)
    assert (ran.status, files(tmp_path)) == (0, before)
    assert "created" not in ran.out


def test_a_whole_identity_can_be_replaced_by_hand(tmp_path: Path) -> None:
    """With secret and every public copy removed, the next run makes a new key and keeps the other two."""
    first = certs_init(tmp_path)
    for path in [tmp_path / "mainpc/server.key_secret", *tmp_path.rglob("server.key")]:
        path.unlink()
    second = certs_init(tmp_path)
    assert second.status == 0
    assert second.fingerprints[0] != first.fingerprints[0]
    assert second.fingerprints[1:] == first.fingerprints[1:]
    assert certs_init(tmp_path, "verify").status == 0


def test_a_folder_of_one_key_has_a_record_too(tmp_path: Path) -> None:
    """A program's key lies in the root itself, without a folder for a host."""
    pair = new_pair("program")
    DistributionRecord(tmp_path).add([tmp_path / "server.key"], pair.certificate)
    assert DistributionRecord(tmp_path).was_distributed(tmp_path / "server.key", pair.certificate)
