"""Two real machines: a public key is printed on one, and taken in on the other."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.unit.certificates.trees import ENTRY_POINT, Ran, certs_init, environment_of, files
from tests.waiting import PATIENCE_S
from twinhost.certificates.records import DistributionRecord
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.key_writer import render_certificate, replace_certificate
from twinhost.secure_zmq.keys import (
    DAY_S,
    UNLIMITED,
    Certificate,
    KeyOwner,
    KeyPair,
    Validity,
    load_certificate,
    parse_moment,
)

LIFETIME_DAYS = load_network_config(DEFAULT_PATH, {}).limits.key_lifetime_days
UMRA = KeyOwner("UnifiedMemoryReasoningAgent", "pc2", frozenset({"agent"}))


@dataclass(frozen=True)
class TwoMachines:
    """The trees of two machines that share no disk."""

    mainpc: Path
    pc2: Path


@pytest.fixture
def machines(tmp_path: Path) -> TwoMachines:
    """Each has made its own keys."""
    certs_init(tmp_path / "on-mainpc", host="mainpc")
    certs_init(tmp_path / "on-pc2", host="pc2")
    return TwoMachines(tmp_path / "on-mainpc", tmp_path / "on-pc2")


@pytest.fixture(params=["standard input", "file"])
def trust(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[..., Ran]:
    """Hand a key file's content to `certs-init trust`, in both ways that there are."""

    def hand_over(root: Path, content: str, host: str) -> Ran:
        if request.param == "standard input":
            return certs_init(root, "trust", "-", host=host, stdin=content.encode())
        (tmp_path / "handed-over").write_text(content)
        return certs_init(root, "trust", str(tmp_path / "handed-over"), host=host)

    return hand_over


@pytest.mark.parametrize(("stem", "folder"), [("server", "mainpc"), ("operator", "operator")])
def test_public_prints_the_file_and_nothing_else(machines: TwoMachines, stem: str, folder: str) -> None:
    """What is printed, redirected into a file, is the public key file byte by byte."""
    ran = certs_init(machines.mainpc, "public", stem, host="mainpc")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out == (machines.mainpc / folder / f"{stem}.key").read_text()
    assert "secret" not in ran.out


def test_public_of_an_unknown_key_lists_those_that_there_are(machines: TwoMachines) -> None:
    """A slip in the name prints no key."""
    ran = certs_init(machines.mainpc, "public", "srever", host="mainpc")
    assert (ran.status, ran.out) == (1, "")
    assert "there is no key 'srever'; there are: server, operator, client" in ran.err


def test_public_of_a_key_that_is_not_here_says_so(machines: TwoMachines) -> None:
    """The other machine's key can't be had from this one."""
    ran = certs_init(machines.pc2, "public", "server", host="pc2")
    assert (ran.status, ran.out) == (1, "")
    assert "pc2/server.key is missing" in ran.err


def test_both_machines_come_to_know_each_other(machines: TwoMachines, trust: Callable[..., Ran]) -> None:
    """Three keys passed on, and both trees are right; each answer shows the fingerprint to compare."""
    for stem in ("server", "operator"):
        ran = trust(machines.pc2, certs_init(machines.mainpc, "public", stem, host="mainpc").out, "pc2")
        key = load_certificate(machines.pc2 / f"pc2/{stem}.key")
        assert (ran.status, ran.fingerprints) == (0, [key.public.fingerprint])
        assert f"{key.owner.name} on mainpc is trusted as {key.public.fingerprint}\nCompare that" in ran.out
    ran = trust(machines.mainpc, certs_init(machines.pc2, "public", "client", host="pc2").out, "mainpc")
    assert ran.status == 0
    for root, host, count in ((machines.mainpc, "mainpc", 2), (machines.pc2, "pc2", 1)):
        assert certs_init(root, "verify", host=host).lines == [f"{root}: {count} folders are correct"]
        assert "not here yet" not in certs_init(root, host=host).out


def test_a_key_goes_into_every_folder_of_the_machine(machines: TwoMachines) -> None:
    """mainpc's agent and the operator both get pc2's key."""
    public = certs_init(machines.pc2, "public", "client", host="pc2").out
    certs_init(machines.mainpc, "trust", "-", host="mainpc", stdin=public.encode())
    assert {name for name in files(machines.mainpc) if name.endswith("client.key")} == {
        "mainpc/client.key",
        "operator/client.key",
    }


def test_trust_before_the_first_run_works(machines: TwoMachines, tmp_path: Path, trust: Callable[..., Ran]) -> None:
    """The order in which a person sets a machine up does not matter."""
    public = certs_init(machines.mainpc, "public", "server", host="mainpc").out
    assert trust(tmp_path / "new", public, "pc2").status == 0
    ran = certs_init(tmp_path / "new", host="pc2")
    assert ran.status == 0
    assert "already present" in ran.out


@pytest.mark.parametrize(
    "owner",
    [
        KeyOwner("UnifiedMemoryReasoningAgent", "pc2", frozenset({"operator"})),
        KeyOwner("UnifiedMemoryReasoningAgent", "pc2", frozenset({"agent", "operator"})),
        KeyOwner("UnifiedMemoryReasoningAgent", "mainpc", frozenset({"agent"})),
        KeyOwner("Intruder", "pc2", frozenset({"agent"})),
        KeyOwner("SystemDigitalTwin", "pc2", frozenset({"agent"})),
        KeyOwner("operator", "mainpc", frozenset({"agent"})),
    ],
)
def test_a_key_that_claims_to_be_more_or_another_is_refused(
    machines: TwoMachines, trust: Callable[..., Ran], owner: KeyOwner
) -> None:
    """Name, host, and roles must be those of the configuration; nothing is written."""
    before = files(machines.mainpc)
    ran = trust(machines.mainpc, render_certificate(KeyPair.generate(owner).certificate), "mainpc")
    assert (ran.status, ran.out, files(machines.mainpc)) == (1, "", before)
    roles = " ".join(sorted(owner.roles))
    assert f" is the key of {owner.name} on {owner.host} ({roles}); expected: SystemDigitalTwin on mainpc" in ran.err
    assert f", {UMRA.name} on pc2 (agent); to enrol another owner, on mainpc: certs-init accept FILE\n" in ran.err


def test_a_second_key_under_a_trusted_name_is_refused(machines: TwoMachines, trust: Callable[..., Ran]) -> None:
    """The first one stays; a person must remove it before another takes its place."""
    assert trust(machines.mainpc, render_certificate(KeyPair.generate(UMRA).certificate), "mainpc").status == 0
    before = files(machines.mainpc)
    ran = trust(machines.mainpc, render_certificate(KeyPair.generate(UMRA).certificate), "mainpc")
    assert (ran.status, ran.out, files(machines.mainpc)) == (1, "", before)
    assert "/mainpc/client.key holds another key than SHA256:" in ran.err
    assert "if the file is wrong, remove it by hand" in ran.err


def test_a_second_key_is_refused_though_one_folder_would_take_it(machines: TwoMachines) -> None:
    """No folder gets a key that another folder of the machine contradicts."""
    first, second = (render_certificate(KeyPair.generate(UMRA).certificate).encode() for _ in range(2))
    certs_init(machines.mainpc, "trust", "-", host="mainpc", stdin=first)
    (machines.mainpc / "mainpc/client.key").unlink()
    ran = certs_init(machines.mainpc, "trust", "-", host="mainpc", stdin=second)
    assert ran.status == 1
    assert not (machines.mainpc / "mainpc/client.key").exists()


def test_the_same_key_twice_is_welcome(machines: TwoMachines, trust: Callable[..., Ran]) -> None:
    """Trusting again what is trusted changes nothing and ends well."""
    public = certs_init(machines.pc2, "public", "client", host="pc2").out
    assert trust(machines.mainpc, public, "mainpc").status == 0
    before = files(machines.mainpc)
    assert (trust(machines.mainpc, public, "mainpc").status, files(machines.mainpc)) == (0, before)


def sent(validity: Validity) -> tuple[str, Certificate]:
    """Return a public key file of pc2's agent with a validity of the sender's choice."""
    certificate = KeyPair.generate(UMRA, validity).certificate
    return render_certificate(certificate), certificate


@pytest.mark.parametrize("end", [None, parse_moment("2099-01-01T00:00:00Z")])
def test_this_machine_limits_how_long_a_key_is_valid(machines: TwoMachines, end: int | None) -> None:
    """A sender that names no end, or a far one, gets this machine's key_lifetime_days from now on."""
    text, certificate = sent(Validity(not_after=end))
    now = int(time.time())
    assert certs_init(machines.mainpc, "trust", "-", host="mainpc", stdin=text.encode()).status == 0
    for folder in ("mainpc", "operator"):
        trusted = load_certificate(machines.mainpc / folder / "client.key")
        assert trusted.public == certificate.public
        assert trusted.validity.not_before is not None
        assert now <= trusted.validity.not_before <= now + 60
        assert trusted.validity.not_after == trusted.validity.not_before + LIFETIME_DAYS * DAY_S


def test_an_earlier_end_of_the_sender_stays(machines: TwoMachines) -> None:
    """Trusting a key never makes it valid for longer than its owner wants."""
    end = int(time.time()) + DAY_S
    text, _ = sent(Validity(not_after=end))
    assert certs_init(machines.mainpc, "trust", "-", host="mainpc", stdin=text.encode()).status == 0
    assert load_certificate(machines.mainpc / "mainpc/client.key").validity.not_after == end


def test_an_expired_key_is_not_trusted(machines: TwoMachines) -> None:
    """One sentence with the way to another key, and nothing is written."""
    before = files(machines.mainpc)
    text, certificate = sent(Validity(not_after=int(time.time()) - 1))
    ran = certs_init(machines.mainpc, "trust", "-", host="mainpc", stdin=text.encode())
    assert (ran.status, ran.out, files(machines.mainpc)) == (1, "", before)
    assert f"standard input is the key {certificate.public.fingerprint} of {UMRA.name}, which expired " in ran.err
    assert "get a new one" in ran.err


def test_an_undated_copy_of_an_older_version_gets_an_end(machines: TwoMachines) -> None:
    """`verify` remarks on it with a command, and that command gives every copy an end."""
    _, certificate = sent(UNLIMITED)
    for folder in ("mainpc", "operator"):  # as the version before put it there
        replace_certificate(certificate, machines.mainpc / folder / "client.key")
    DistributionRecord(machines.mainpc).add(
        [machines.mainpc / folder / "client.key" for folder in ("mainpc", "operator")], certificate
    )
    verified = certs_init(machines.mainpc, "verify", host="mainpc")
    (remark,) = [line for line in verified.lines if "never expires" in line]
    assert verified.status == 0
    assert UMRA.name in remark
    assert "certs-init public client | " in remark
    public = certs_init(machines.mainpc, "public", "client", host="mainpc").out
    assert certs_init(machines.mainpc, "trust", "-", host="mainpc", stdin=public.encode()).status == 0
    for folder in ("mainpc", "operator"):
        assert load_certificate(machines.mainpc / folder / "client.key").validity.not_after is not None
    assert "never expires" not in certs_init(machines.mainpc, "verify", host="mainpc").out


def test_a_tree_with_all_keys_takes_no_other_in(tmp_path: Path) -> None:
    """In the simulation every key is made here, and the secret says which one it is."""
    certs_init(tmp_path)
    public = render_certificate(KeyPair.generate(UMRA).certificate).encode()
    ran = certs_init(tmp_path, "trust", "-", stdin=public)
    assert ran.status == 1
    assert f"standard input holds another key than {tmp_path}/pc2/client.key_secret" in ran.err


def test_a_secret_that_was_passed_on_by_mistake_is_refused(machines: TwoMachines, trust: Callable[..., Ran]) -> None:
    """A secret key file is not taken for the public one, and is said to be spoilt."""
    ran = trust(machines.mainpc, (machines.pc2 / "pc2/client.key_secret").read_text(), "mainpc")
    assert (ran.status, ran.out) == (1, "")
    assert "is a public key file and holds a secret key; remove it and make a new key" in ran.err


@pytest.mark.parametrize("content", [b"", b"\xff\xfe", b"#" * 5_000, b"hello\n", b"\0" * 400])
def test_what_is_no_key_file_is_refused_in_one_sentence(machines: TwoMachines, content: bytes) -> None:
    """Whatever a pipe delivers to the real command: one sentence, no traceback."""
    ran = subprocess.run(
        [sys.executable, str(ENTRY_POINT), "--root", str(machines.mainpc), "trust", "-"],
        env={**os.environ, **environment_of("mainpc"), "LC_ALL": "C"},
        input=content,
        capture_output=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert (ran.returncode, ran.stdout, ran.stderr.count(b"\n")) == (1, b"", 1)
    assert ran.stderr.startswith(b"certs-init: standard input")
