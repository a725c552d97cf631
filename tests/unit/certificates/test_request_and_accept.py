"""Machines with no path between them: a request goes to mainpc as a file, and an answer comes back as one."""

import io
import json
import os
import pty
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from unittest import mock

import pytest

from tests.identities import new_pair
from tests.unit.certificates.trees import (
    ENTRY_POINT,
    FINGERPRINT,
    Ran,
    certs_init,
    dies_at,
    environment_of,
    files,
    tree_layout,
)
from tests.waiting import PATIENCE_S
from twinhost.certificates.admission import accept
from twinhost.certificates.bundle import request_fingerprint
from twinhost.certificates.join import put_in_place, request
from twinhost.cli import standalone
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.certificates import read_folders
from twinhost.secure_zmq.key_writer import render_certificate, replace_certificate, write_revocation
from twinhost.secure_zmq.keys import DAY_S, KeyOwner, load_certificate, load_key_pair, parse_certificate

SENSOR = ("Sensor", "--host", "pc3", "--role", "agent")
UMRA = "UnifiedMemoryReasoningAgent"
CONFIG = load_network_config(DEFAULT_PATH, {})


@pytest.fixture
def mainpc(tmp_path: Path) -> Path:
    """mainpc's tree."""
    assert certs_init(tmp_path / "mainpc", host="mainpc").status == 0
    return tmp_path / "mainpc"


@pytest.fixture
def whole(mainpc: Path) -> Path:
    """mainpc's tree, to which pc2 is known as well."""
    key = render_certificate(new_pair(UMRA, "pc2").certificate)
    assert certs_init(mainpc, "trust", "-", host="mainpc", stdin=key.encode()).status == 0
    return mainpc


@pytest.fixture
def new(tmp_path: Path) -> Path:
    """Where the new machine's tree will be."""
    return tmp_path / "new"


def asked(new: Path, *arguments: str, host: str = "") -> Ran:
    """Make a request on the new machine."""
    ran = certs_init(new, "request", *(arguments or SENSOR), host=host)
    assert ran.status == 0, ran.err
    return ran


def accepted(mainpc: Path, text: str, *options: str) -> Ran:
    """Accept a request on mainpc, by its fingerprint."""
    fingerprint = request_fingerprint(parse_certificate(text, "the request"))
    return certs_init(mainpc, "accept", "-", "--fingerprint", fingerprint, *options, host="mainpc", stdin=text.encode())


def test_a_request_is_a_public_key_file_and_nothing_else(new: Path) -> None:
    """The secret is made there and stays; a second request shows the same key."""
    first, second = asked(new), asked(new)
    assert first.out == second.out
    assert parse_certificate(first.out, "it").owner == KeyOwner("Sensor", "pc3", frozenset({"agent"}))
    assert load_key_pair(new / "Sensor/Sensor.key_secret").secret_z85.decode() not in first.out + first.err
    assert "accept - --fingerprint SHA256:" in first.err
    assert certs_init(new, "verify").lines == [f"{new}: 1 folders are correct"]


def test_request_accept_trust_is_the_whole_way(whole: Path, new: Path) -> None:
    """Afterwards mainpc lets the key in, and the new machine knows everybody; both trees are right."""
    text = asked(new).out
    answer = accepted(whole, text)
    assert answer.status == 0, answer.err
    trusted = certs_init(new, "trust", "-", stdin=answer.out.encode())
    assert trusted.status == 0, trusted.err
    server = load_certificate(whole / "mainpc/server.key")
    assert (
        trusted.fingerprints[1]
        == server.public.fingerprint
        == load_certificate(new / "Sensor/server.key").public.fingerprint
    )
    assert set(files(new)) == {
        f"Sensor/{name}" for name in ("Sensor.key_secret", "Sensor.key", "server.key", "operator.key", "client.key")
    }
    own = load_key_pair(new / "Sensor/Sensor.key_secret").certificate
    assert own == load_certificate(whole / "mainpc/Sensor.key") == load_certificate(new / "Sensor/Sensor.key")
    assert read_folders([whole / "mainpc", whole / "mainpc/enrolled"]).current["Sensor"] == own
    for root, host, count in ((whole, "mainpc", 2), (new, "", 1)):
        assert certs_init(root, "verify", host=host).lines == [f"{root}: {count} folders are correct"]


def test_the_answer_holds_no_secret(mainpc: Path, new: Path) -> None:
    """Public keys and fingerprints of revoked ones alone, in JSON."""
    answer = accepted(mainpc, asked(new).out).out
    assert set(json.loads(answer)) == {"kind", "certificate", "current", "next", "revoked"}
    for path in mainpc.rglob("*.key_secret"):
        assert load_key_pair(path).secret_z85.decode() not in answer
    assert "secret-key" not in answer


def test_mainpc_decides_how_long_the_key_is_good(mainpc: Path, new: Path) -> None:
    """Whatever the request says; `--days` says so for one."""
    text = asked(new).out.replace('roles = "agent"', 'roles = "agent"\n    not_after = "2099-01-01T00:00:00Z"', 1)
    text = "\n".join(
        line for line in text.splitlines() if "not_before" not in line and "2026" not in line and "2027" not in line
    )
    answer = accepted(mainpc, text + "\n", "--days", "10")
    assert answer.status == 0, answer.err
    validity = load_certificate(mainpc / "mainpc/Sensor.key").validity
    assert validity.not_before is not None
    assert validity.not_after == validity.not_before + 10 * DAY_S
    certs_init(new, "trust", "-", stdin=answer.out.encode())
    assert load_key_pair(new / "Sensor/Sensor.key_secret").certificate.validity == validity


def test_an_agent_of_the_configuration_goes_the_same_way(mainpc: Path, new: Path) -> None:
    """Its key goes into every folder of mainpc's tree, as `trust` puts it there."""
    certs_init(new, host="pc2")
    text = asked(new, UMRA, "--host", "pc2", "--role", "agent", host="pc2").out
    answer = accepted(mainpc, text)
    assert {name for name in files(mainpc) if name.endswith("client.key")} == {
        "mainpc/client.key",
        "operator/client.key",
    }
    assert certs_init(new, "trust", "-", host="pc2", stdin=answer.out.encode()).status == 0
    assert certs_init(new, "verify", host="pc2").lines == [f"{new}: 1 folders are correct"]
    assert certs_init(mainpc, "verify", host="mainpc").status == 0
    assert certs_init(mainpc, host="mainpc").lines[2].split()[3:5] == ["already", "present"]


def test_accepted_again_it_stays_as_it_was(mainpc: Path, new: Path) -> None:
    """The answer may be printed as often as it is needed."""
    text = asked(new).out
    first, before = accepted(mainpc, text), files(mainpc)
    second = accepted(mainpc, text, "--days", "3")
    assert (second.status, second.out, files(mainpc)) == (0, first.out, before)


@pytest.mark.parametrize("given", ["none", "another"])
def test_without_the_right_fingerprint_a_request_is_only_kept(whole: Path, new: Path, given: str) -> None:
    """Exit 1, and what to do; from then on it is pending, and can be accepted by name, or rejected."""
    text = asked(new).out
    key = request_fingerprint(parse_certificate(text, "it"))
    options = ["--fingerprint", new_pair().public.fingerprint] if given == "another" else []
    ran = certs_init(whole, "accept", "-", *options, host="mainpc", stdin=text.encode())
    assert (ran.status, ran.out) == (1, "")
    assert "Sensor on pc3 (agent) asks to be enrolled; the request's fingerprint is " + key in ran.err
    assert "certs-init accept Sensor --fingerprint" in ran.err
    assert not (whole / "mainpc/Sensor.key").exists()
    (row,) = certs_init(whole, "pending", host="mainpc").lines
    assert row.split() == ["request", "Sensor", "pc3", "agent", "-", key]
    assert (
        certs_init(whole, "verify", host="mainpc").lines[0]
        == "remark: the request of Sensor is pending; see: certs-init pending"
    )
    by_name = certs_init(whole, "accept", "Sensor", "--fingerprint", key, host="mainpc")
    assert by_name.status == 0, by_name.err
    assert (whole / "mainpc/Sensor.key").exists()
    assert certs_init(whole, "pending", host="mainpc").out == "nothing is pending\n"


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ('name = "Sensor"', 'name = "Senser"'),
        ('host = "pc3"', 'host = "pc4"'),
        ('roles = "agent"', 'roles = "operator"'),
        ('roles = "agent"', 'roles = "agent operator"'),
    ],
)
def test_a_carrier_cannot_edit_a_request(mainpc: Path, new: Path, before: str, after: str) -> None:
    """The fingerprint that request printed covers name, host, and roles: an edited file is not accepted."""
    ran = asked(new)
    (printed,) = set(FINGERPRINT.findall(ran.err.splitlines()[0]))
    edited = ran.out.replace(before, after)
    assert edited != ran.out
    refused = certs_init(mainpc, "accept", "-", "--fingerprint", printed, host="mainpc", stdin=edited.encode())
    assert (refused.status, refused.out) == (1, "")
    assert "--fingerprint is of another request" in refused.err
    assert not [key for key in read_folders([mainpc / "mainpc"]).current if key.startswith("Sens")]
    unedited = certs_init(mainpc, "accept", "-", "--fingerprint", printed, host="mainpc", stdin=ran.out.encode())
    assert unedited.status == 0, unedited.err


def test_the_answers_fingerprint_covers_all_that_is_in_it(mainpc: Path, new: Path) -> None:
    """`accept` and `trust` show the same one; with a key that a carrier added, `trust` shows another."""
    answer = accepted(mainpc, asked(new).out)
    printed = FINGERPRINT.findall(answer.err)[-1]
    trusted = certs_init(new, "trust", "-", stdin=answer.out.encode())
    assert (trusted.status, trusted.fingerprints[-1]) == (0, printed)
    bundle = json.loads(answer.out)
    bundle["current"].append(render_certificate(new_pair("Intruder", "pc3", "operator").certificate))
    edited = certs_init(new, "trust", "-", stdin=json.dumps(bundle).encode())
    assert edited.fingerprints[-1] != printed


def test_the_keys_own_fingerprint_accepts_nothing(mainpc: Path, new: Path) -> None:
    """It says nothing of the role."""
    text = asked(new).out
    key = parse_certificate(text, "it").public.fingerprint
    ran = certs_init(mainpc, "accept", "-", "--fingerprint", key, host="mainpc", stdin=text.encode())
    assert (ran.status, ran.out) == (1, "")
    assert "--fingerprint is of another request" in ran.err
    again = asked(new)
    printed = FINGERPRINT.findall(again.err)[-1]
    accepted_again = certs_init(mainpc, "accept", "Sensor", "--fingerprint", printed, host="mainpc")
    assert accepted_again.status == 0, accepted_again.err


def test_a_kept_request_can_be_dropped(mainpc: Path, new: Path) -> None:
    """Reject removes it; accepting it by name is not possible any more."""
    text = asked(new).out
    certs_init(mainpc, "accept", "-", host="mainpc", stdin=text.encode())
    ran = certs_init(mainpc, "reject", "Sensor", host="mainpc")
    assert (ran.status, ran.out) == (0, "the request of Sensor on pc3 (agent) is deleted\n")
    assert certs_init(mainpc, "accept", "Sensor", host="mainpc").status == 1
    assert not (mainpc / "mainpc/Sensor.key").exists()


@pytest.mark.parametrize(("answer", "status"), [("yes", 0), ("no", 1), ("", 1), ("y", 1)])
def test_a_person_is_shown_the_fingerprint_and_asked(mainpc: Path, new: Path, answer: str, status: int) -> None:
    """On a terminal; anything but yes lets nobody in and keeps nothing."""
    file = mainpc.parent / "request.key"
    file.write_text(asked(new).out)
    before = files(mainpc)
    master, slave = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, str(ENTRY_POINT), "--root", str(mainpc), "accept", str(file)],
        env={**os.environ, **environment_of("mainpc")},
        stdin=slave,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    os.write(master, f"{answer}\n".encode())
    out, err = process.communicate(timeout=PATIENCE_S)
    os.close(slave)
    os.close(master)
    assert (process.returncode, bool(out)) == (status, status == 0)
    assert request_fingerprint(parse_certificate(file.read_text(), "it")) in err
    assert "[yes/no]" in err
    assert status == 0 or files(mainpc) == before


@pytest.mark.parametrize(
    ("owner", "sentence"),
    [
        (KeyOwner("SystemDigitalTwin", "mainpc", frozenset({"agent"})), "authorises others and is not enrolled itself"),
        (KeyOwner("operator", "mainpc", frozenset({"operator"})), "operator has a key already"),
        (KeyOwner("Sensor", "pc3", frozenset({"root"})), "there is no role 'root'"),
        (KeyOwner("Sensor", "pc3", frozenset()), "--role is missing"),
        (KeyOwner(UMRA, "pc2", frozenset({"operator"})), "give it --host pc2 --role agent"),
        (KeyOwner("server", "pc3", frozenset({"agent"})), "is taken by another owner's files"),
        (KeyOwner("..", "pc3", frozenset({"agent"})), "can't be a file name"),
    ],
)
def test_who_is_not_accepted(mainpc: Path, owner: KeyOwner, sentence: str) -> None:
    """Not even with its fingerprint, and it is not kept either."""
    before = files(mainpc)
    request_text = render_certificate(replace(new_pair().certificate, owner=owner))
    ran = accepted(mainpc, request_text)
    assert (ran.status, ran.out, files(mainpc)) == (1, "", before)
    assert sentence in ran.err


def test_a_revoked_key_is_not_accepted(mainpc: Path) -> None:
    """A new pair is the way back."""
    key = new_pair("Sensor", "pc3").certificate
    write_revocation(key, mainpc / "mainpc/revoked")
    ran = accepted(mainpc, render_certificate(key))
    assert (ran.status, ran.out) == (1, "")
    assert "which was revoked permanently; make a new one" in ran.err


def test_anothers_key_is_not_accepted_under_a_second_name(mainpc: Path) -> None:
    """One key, one owner."""
    key = replace(
        load_certificate(mainpc / "mainpc/operator.key"), owner=KeyOwner("Ops", "pc3", frozenset({"operator"}))
    )
    ran = accepted(mainpc, render_certificate(key))
    assert (ran.status, ran.out) == (1, "")
    assert "is the key of operator; every owner makes its own key" in ran.err


def test_a_refusal_names_the_other_key_of_the_name(mainpc: Path, new: Path) -> None:
    """And not the requested one, which was accepted before."""
    text, other = asked(new).out, new_pair("Sensor", "pc3").certificate
    requested = parse_certificate(text, "the request")
    replace_certificate(other, mainpc / "mainpc/Sensor.key")
    replace_certificate(requested, mainpc / "mainpc/enrolled/Sensor.key")
    assert f"Sensor has a key already, {other.public.fingerprint}" in accepted(mainpc, text).err


def test_a_second_key_of_a_name_is_not_accepted(mainpc: Path, new: Path) -> None:
    """Also where the first enrolled by an invitation, or an invitation is open."""
    text = asked(new).out
    replace_certificate(new_pair("Sensor", "pc3").certificate, mainpc / "mainpc/enrolled/Sensor.key")
    assert "Sensor has a key already" in accepted(mainpc, text).err
    (mainpc / "mainpc/enrolled/Sensor.key").unlink()
    certs_init(mainpc, "invite", *SENSOR, host="mainpc")
    refused = accepted(mainpc, text).err
    assert "Sensor has an open invitation" in refused
    assert "to withdraw it: certs-init reject Sensor" in refused
    certs_init(mainpc, "reject", "Sensor", host="mainpc")
    assert accepted(mainpc, text).status == 0


@pytest.mark.parametrize("command", ["accept", "trust"])
def test_a_file_that_is_not_there_is_to_be_piped(mainpc: Path, command: str) -> None:
    """The container does not see the files of the machine, and making keys would bring none."""
    ran = certs_init(mainpc, command, "Sensor.key")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        "certs-init: there is no Sensor.key here; certs-init in a container sees no file of the machine, so pipe it "
        f"in: docker compose run --rm -T certs-init {command} - < Sensor.key\n"
    )


def test_a_secret_is_no_request(mainpc: Path, new: Path) -> None:
    """The wrong file is reported as such, and not stored."""
    asked(new)
    ran = certs_init(mainpc, "accept", str(new / "Sensor/Sensor.key_secret"), host="mainpc")
    assert (ran.status, ran.out) == (1, "")
    assert "holds a secret key; remove it and make a new key" in ran.err


def test_a_request_of_another_owner_than_the_key_that_is_there(new: Path) -> None:
    """The pair's owner is written in it; it does not become an operator's by asking."""
    asked(new)
    ran = certs_init(new, "request", "Sensor", "--host", "pc3", "--role", "operator")
    assert (ran.status, ran.out) == (1, "")
    assert "is the key of Sensor on pc3 (agent), not of Sensor on pc3 (operator)" in ran.err


@pytest.mark.parametrize("cut", [1, 40, 300, -2])
def test_an_answer_that_is_cut_off_changes_nothing(mainpc: Path, new: Path, cut: int) -> None:
    """One sentence; the secret stays as it was."""
    answer = accepted(mainpc, asked(new).out).out
    before = files(new)
    for given in ("standard input", "file"):
        (new.parent / "answer").write_text(answer[:cut])
        source = "-" if given == "standard input" else str(new.parent / "answer")
        ran = certs_init(new, "trust", source, stdin=answer[:cut].encode())
        assert (ran.status, ran.out, ran.err.count("\n"), files(new)) == (1, "", 1, before)


def test_an_answer_for_another_machine_changes_nothing(mainpc: Path, new: Path, tmp_path: Path) -> None:
    """Nor one for an earlier key of the same name."""
    answer = accepted(mainpc, asked(new).out).out
    ran = certs_init(tmp_path / "other", "trust", "-", stdin=answer.encode())
    assert (ran.status, ran.out) == (1, "")
    assert "whose secret is not here" in ran.err
    (new / "Sensor/Sensor.key_secret").unlink()
    (new / "Sensor/Sensor.key").unlink()
    asked(new)
    before = files(new)
    ran = certs_init(new, "trust", "-", stdin=answer.encode())
    assert (ran.status, files(new)) == (1, before)
    assert "start again, and first revoke it on mainpc: certs-init revoke SHA256:" in ran.err


def test_an_answer_with_a_secret_in_it_changes_nothing(mainpc: Path, new: Path) -> None:
    """Nothing but public material is ever taken in."""
    answer = json.loads(accepted(mainpc, asked(new).out).out)
    answer["current"][0] = (mainpc / "mainpc/server.key_secret").read_text()
    before = files(new)
    ran = certs_init(new, "trust", "-", stdin=json.dumps(answer).encode())
    assert (ran.status, ran.out, files(new)) == (1, "", before)
    assert "holds a secret" in ran.err


def test_the_answer_brings_what_is_revoked(mainpc: Path, new: Path) -> None:
    """Keys that are revoked on mainpc are refused there from the first moment."""
    lost = new_pair("Lost", "pc3").certificate
    accepted(mainpc, render_certificate(lost))
    assert certs_init(mainpc, "revoke", "Lost", host="mainpc").status == 0
    certs_init(new, "trust", "-", stdin=accepted(mainpc, asked(new).out).out.encode())
    assert read_folders([new / "Sensor"]).revoked == {lost.public.fingerprint}


@pytest.mark.thorough
def test_request_accept_and_trust_survive_a_kill_at_any_step(whole: Path, tmp_path: Path) -> None:
    """Each in turn is killed before every step, and run again: one key, the same on both sides."""
    owner, step, alive = KeyOwner("Sensor", "pc3", frozenset({"agent"})), 1, False
    while not alive:
        new, layout = tmp_path / f"new-{step}", tree_layout(tmp_path / f"new-{step}")
        alive = not dies_at(step, request, layout, CONFIG, owner)
        asked_for = request(layout, CONFIG, owner)
        here = tree_layout(whole, "mainpc")
        alive &= not dies_at(step, accept, here, CONFIG, asked_for, "it")
        material = accept(here, CONFIG, asked_for, "it")
        pair = load_key_pair(new / "Sensor/Sensor.key_secret")
        alive &= not dies_at(step, put_in_place, layout, layout.place_of(owner), pair, material)
        put_in_place(layout, layout.place_of(owner), pair, material)
        request(layout, CONFIG, owner)  # takes the lock, and sweeps what the killed one left
        assert certs_init(new, "verify").lines == [f"{new}: 1 folders are correct"]
        assert load_key_pair(new / "Sensor/Sensor.key_secret").secret_z85 == pair.secret_z85
        assert load_certificate(new / "Sensor/Sensor.key") == load_certificate(whole / "mainpc/Sensor.key")
        assert certs_init(whole, "verify", host="mainpc").status == 0
        (whole / "mainpc/Sensor.key").unlink()
        step += 1
    assert step > 20


def test_a_terminal_is_asked_for_the_line_of_join(capsys: pytest.CaptureFixture[str]) -> None:
    """The prompt goes to standard error; where there is no person, there is none."""
    with mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"line\nmore\n"))):
        assert standalone.read_line("The line: ", 10) == "line\n"
    assert capsys.readouterr() == ("", "")
