"""Invitations in mainpc's tree: who may be invited, what is on the disk, and how one is withdrawn."""

import re
import stat
import time
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.unit.certificates.trees import certs_init, files
from twinhost.certificates.bundle import parse_invitation
from twinhost.secure_zmq.certificates import read_folders
from twinhost.secure_zmq.key_writer import replace_certificate, write_revocation
from twinhost.secure_zmq.keys import Validity, load_certificate

UMRA = "UnifiedMemoryReasoningAgent"
SENSOR = ("Sensor", "--host", "pc3", "--role", "agent")


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    assert certs_init(tmp_path / "tree", host="mainpc").status == 0
    return tmp_path / "tree"


def ends_with(ran_err: str) -> str:
    """Return the one sentence of a refusal."""
    assert ran_err.startswith("certs-init: ")
    assert ran_err.count("\n") == 1
    return ran_err


def test_the_product_is_one_line_and_notes_go_elsewhere(tree: Path) -> None:
    """Redirected into a file, it is the line that join takes; what to do with it is on standard error."""
    ran = certs_init(tree, "invite", *SENSOR, host="mainpc")
    assert (ran.status, ran.out.count("\n")) == (0, 1)
    assert re.fullmatch(
        r"twinhost://mainpc:7120/[\w-]{43}/[\w-]{43}\?expires=\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ\n", ran.out
    )
    assert parse_invitation(ran.out).server_key == load_certificate(tree / "mainpc/server.key").public
    assert "Sensor on pc3 (agent)" in ran.err
    assert "certs-init reject Sensor" in ran.err
    assert parse_invitation(ran.out).render().split("/")[-1] not in ran.err


def test_only_the_public_half_is_stored_with_name_and_expiry(tree: Path) -> None:
    """The file has the invitation's name and expiry; the token is stored nowhere."""
    before, now = files(tree), int(time.time())
    ran = certs_init(tree, "invite", "Sensor", "--host", "pc3", "--role", "agent", "--minutes", "30", host="mainpc")
    invitation = parse_invitation(ran.out)
    (made,) = files(tree).keys() - before.keys()
    key = load_certificate(tree / made)
    assert (made, key.public) == ("mainpc/invites/Sensor.key", invitation.token.public)
    assert (key.owner.name, key.owner.host, key.owner.roles) == ("Sensor", "pc3", frozenset({"agent"}))
    assert key.validity.not_before is not None
    assert key.validity.not_after == invitation.not_after == key.validity.not_before + 30 * 60
    assert now <= key.validity.not_before <= now + 5
    assert stat.S_IMODE((tree / "mainpc/invites").stat().st_mode) == 0o700
    secret = ran.out.split("/")[4].partition("?")[0].encode()
    kept = b"".join(path.read_bytes() for path in tree.rglob("*") if path.is_file())
    assert secret not in kept
    assert invitation.token.secret_z85 not in kept


def test_a_quarter_of_an_hour_is_the_default(tree: Path) -> None:
    """An invitation that nobody used is no standing door."""
    certs_init(tree, "invite", *SENSOR, host="mainpc")
    validity = load_certificate(tree / "mainpc/invites/Sensor.key").validity
    assert validity.not_before is not None
    assert validity.not_after == validity.not_before + 15 * 60


def test_several_roles_and_another_agent_of_the_configuration(tree: Path) -> None:
    """A role may be repeated; an agent of the configuration is invited as configured there."""
    ran = certs_init(tree, "invite", "Ops", "--host", "desk", "--role", "operator", "--role", "agent", host="mainpc")
    assert ran.status == 0
    assert load_certificate(tree / "mainpc/invites/Ops.key").owner.roles == {"operator", "agent"}
    assert "A program on desk needs nothing else" in ran.err
    ran = certs_init(tree, "invite", UMRA, "--host", "pc2", "--role", "agent", host="mainpc")
    assert (ran.status, "needs nothing else" in ran.err) == (0, False)


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("SystemDigitalTwin", "--host", "mainpc", "--role", "agent"), "authorises others and is not enrolled itself"),
        (("operator", "--host", "mainpc", "--role", "operator"), "operator has a key already, SHA256:"),
        (
            ("Sensor", "--host", "pc3", "--role", "root"),
            "there is no role 'root'; its grants are for: agent, insider",
        ),
        (("Sensor", "--host", "pc3", "--role", "unauthenticated"), "there is no role 'unauthenticated'"),
        (("Sensor", "--host", "pc3", "--role", "invitation"), "there is no role 'invitation'"),
        ((UMRA, "--host", "pc3", "--role", "agent"), "on pc2 (agent) there, not Unified"),
        ((UMRA, "--host", "pc2", "--role", "operator"), "give it --host pc2 --role agent"),
        (("server", "--host", "pc3", "--role", "agent"), "'server' is taken by another owner's files"),
        (("mainpc", "--host", "pc3", "--role", "agent"), "'mainpc' is taken by another owner's files"),
        (("client", "--host", "pc3", "--role", "agent"), "'client' is taken by another owner's files"),
        (("..", "--host", "pc3", "--role", "agent"), "can't be a file name"),
        ((".lock", "--host", "pc3", "--role", "agent"), "can't be a file name"),
        (("a.next", "--host", "pc3", "--role", "agent"), "must not end in .next"),
        (("a/b", "--host", "pc3", "--role", "agent"), "must have 1 to 64 of the characters"),
        (("a b", "--host", "pc3", "--role", "agent"), "must have 1 to 64 of the characters"),
        (("Sensor", "--host", "pc 3", "--role", "agent"), "the host 'pc 3' must have"),
        (("", "--host", "pc3", "--role", "agent"), "must have 1 to 64 of the characters"),
    ],
)
def test_who_can_not_be_invited(tree: Path, arguments: tuple[str, ...], sentence: str) -> None:
    """One sentence, and no invitation."""
    before = files(tree)
    ran = certs_init(tree, "invite", *arguments, host="mainpc")
    assert (ran.status, ran.out, files(tree)) == (1, "", before)
    assert sentence in ends_with(ran.err)


def test_whoever_enrolled_is_not_invited_again(tree: Path) -> None:
    """Also where SystemDigitalTwin let it in itself; a revoked key is no obstacle."""
    key = new_pair("Sensor", "pc3").certificate
    replace_certificate(key, tree / "mainpc/enrolled/Sensor.key")
    ran = certs_init(tree, "invite", *SENSOR, host="mainpc")
    assert (ran.status, ran.out) == (1, "")
    assert f"Sensor has a key already, {key.public.fingerprint}; revoke it first: certs-init revoke" in ends_with(
        ran.err
    )
    write_revocation(key, tree / "mainpc/enrolled/revoked")
    assert certs_init(tree, "invite", *SENSOR, host="mainpc").status == 0


def test_an_open_invitation_is_not_made_twice(tree: Path) -> None:
    """Two lines for one name would be one too many; the sentence says how to withdraw the first."""
    first = certs_init(tree, "invite", *SENSOR, host="mainpc")
    before = files(tree)
    second = certs_init(tree, "invite", *SENSOR, host="mainpc")
    assert (first.status, second.status, second.out, files(tree)) == (0, 1, "", before)
    assert "withdraw it: certs-init reject Sensor" in ends_with(second.err)


def test_an_open_invitation_is_shown_again_as_a_new_line(tree: Path) -> None:
    """The secret is kept nowhere: `--again` ends the first line and prints another for the same name."""
    first = certs_init(tree, "invite", *SENSOR, host="mainpc")
    again = certs_init(tree, "invite", *SENSOR, "--again", host="mainpc")
    assert (again.status, again.out.count("\n")) == (0, 1), again.err
    old, new = parse_invitation(first.out).token.public, parse_invitation(again.out).token.public
    assert [key.public for key in read_folders([tree / "mainpc"]).invites] == [new]
    assert old != new
    assert "The previous line is withdrawn." in again.err
    assert len(certs_init(tree, "pending", host="mainpc").lines) == 1
    key = new_pair("Sensor", "pc3").certificate
    replace_certificate(key, tree / "mainpc/enrolled/Sensor.key")  # it joined by the line
    joined = certs_init(tree, "invite", *SENSOR, "--again", host="mainpc")
    assert (joined.status, joined.out) == (1, "")


def test_the_way_to_show_it_again_is_named(tree: Path) -> None:
    """By invite itself, and where an invitation is open already; the command that is named works."""
    first = certs_init(tree, "invite", *SENSOR, host="mainpc")
    assert "To see open invitations: docker compose run --rm certs-init pending" in first.err
    second = certs_init(tree, "invite", *SENSOR, host="mainpc")
    assert "for a new line in its place, repeat invite with --again" in second.err


@pytest.mark.parametrize(
    ("settings", "variables"),
    [
        ({}, ["MAINPC_IP"]),
        ({"TWINHOST_PUBLISH_ADDRESS": "127.0.0.1"}, ["MAINPC_IP", "TWINHOST_PUBLISH_ADDRESS"]),
        ({"MAINPC_IP": "192.0.2.10", "TWINHOST_PUBLISH_ADDRESS": "127.0.0.1"}, ["TWINHOST_PUBLISH_ADDRESS"]),
        ({"MAINPC_IP": "192.0.2.10", "TWINHOST_PUBLISH_ADDRESS": "::1"}, ["TWINHOST_PUBLISH_ADDRESS"]),
        ({"MAINPC_IP": "localhost", "TWINHOST_PUBLISH_ADDRESS": "192.0.2.10"}, ["MAINPC_IP"]),
        ({"MAINPC_IP": "127.0.0.1", "TWINHOST_PUBLISH_ADDRESS": "192.0.2.10"}, ["MAINPC_IP"]),
        ({"MAINPC_IP": "192.0.2.10", "TWINHOST_PUBLISH_ADDRESS": "192.0.2.10"}, []),
        ({"MAINPC_IP": "2001:db8::1", "TWINHOST_PUBLISH_ADDRESS": "::"}, []),
        ({"MAINPC_IP": "mainpc.example", "TWINHOST_PUBLISH_ADDRESS": "0.0.0.0"}, []),
        ({"MAINPC_IP": "desk", "TWINHOST_PUBLISH_ADDRESS": "192.0.2.10"}, []),
    ],
)
def test_an_address_that_no_other_machine_reaches(tree: Path, settings: dict[str, str], variables: list[str]) -> None:
    """A warning names exactly the variables to set; the line is printed all the same, for this machine's containers."""
    ran = certs_init(tree, "invite", *SENSOR, host="mainpc", settings=settings)
    assert (ran.status, ran.out.count("\n")) == (0, 1)
    warnings = [line for line in ran.err.splitlines() if line.startswith("Warning: ")]
    assert len(warnings) == bool(variables)
    for warning in warnings:
        assert warning.startswith(f"Warning: other machines can't reach {parse_invitation(ran.out).authorities[0]}")
        assert re.findall(r"[A-Z_]*(?:_IP|_ADDRESS)", warning) == variables
        assert "--again" in warning


@pytest.mark.parametrize(
    ("settings", "authority"),
    [
        ({"MAINPC_ZMQ_PORT": "7120"}, "mainpc:7120"),
        ({"MAINPC_ZMQ_PORT": "7121"}, "127.0.0.1:7121"),
        ({"MAINPC_ZMQ_PORT": "7121", "TWINHOST_PUBLISH_ADDRESS": "192.0.2.10"}, "192.0.2.10:7121"),
        ({"MAINPC_ZMQ_PORT": "7121", "TWINHOST_PUBLISH_ADDRESS": "[2001:db8::1]"}, "[2001:db8::1]:7121"),
        ({"MAINPC_ZMQ_PORT": "7121", "TWINHOST_PUBLISH_ADDRESS": "0.0.0.0"}, "mainpc:7121"),
        ({"MAINPC_ZMQ_PORT": "7121", "MAINPC_IP": "desk"}, "desk:7121"),
        ({"MAINPC_ZMQ_PORT": "7120", "MAINPC_IP": "192.0.2.10"}, "192.0.2.10:7120"),
        ({"MAINPC_ZMQ_PORT": "7120-7130"}, "mainpc:7120"),
    ],
)
def test_an_invitation_names_where_the_port_is_published(tree: Path, settings: dict[str, str], authority: str) -> None:
    """A port that was moved is another one outside the containers, where nobody knows their names."""
    ran = certs_init(tree, "invite", *SENSOR, host="mainpc", settings=settings)
    assert parse_invitation(ran.out).authorities == (authority,)


def test_a_port_that_the_engine_chose_is_to_be_asked_for(tree: Path) -> None:
    """It is not known in a container: the note has the command that prints it, and where to give it."""
    ran = certs_init(tree, "invite", *SENSOR, host="mainpc", settings={"MAINPC_ZMQ_PORT": "0"})
    assert "docker compose port mainpc 7120 prints" in ran.err
    assert "--address ADDRESS:PORT" in ran.err


def test_whoever_runs_on_mainpc_itself_is_not_warned(tree: Path) -> None:
    """Its containers know the name."""
    ran = certs_init(tree, "invite", "Helper", "--host", "mainpc", "--role", "agent", host="mainpc")
    assert (ran.status, "Warning" in ran.err) == (0, False)


@pytest.mark.parametrize("end", ["over", "used"])
def test_an_expired_or_used_invitation_is_replaced(tree: Path, end: str) -> None:
    """A new line for the same name needs no clearing up."""
    certs_init(tree, "invite", *SENSOR, host="mainpc")
    path = tree / "mainpc/invites/Sensor.key"
    old = load_certificate(path)
    if end == "over":
        replace_certificate(type(old)(old.owner, old.public, Validity(1, int(time.time()) - 61)), path)
    else:
        write_revocation(old, tree / "mainpc/enrolled/revoked")
    assert certs_init(tree, "invite", *SENSOR, host="mainpc").status == 0
    assert load_certificate(path).public != old.public


@pytest.mark.parametrize("minutes", ["0", "-1", "1.5", "ten", "10081", "", "9" * 5_000])
def test_a_wrong_number_of_minutes_is_a_wrong_usage(tree: Path, minutes: str) -> None:
    """From one minute to seven days."""
    ran = certs_init(tree, "invite", *SENSOR, f"--minutes={minutes}", host="mainpc")
    assert (ran.status, ran.out) == (2, "")


@pytest.mark.parametrize("command", [("invite", *SENSOR), ("pending",), ("reject", "Sensor"), ("revoke", "Sensor")])
def test_another_machine_lets_nobody_in(tmp_path: Path, command: tuple[str, ...]) -> None:
    """These commands are mainpc's."""
    certs_init(tmp_path, host="pc2")
    ran = certs_init(tmp_path, *command, host="pc2")
    assert (ran.status, ran.out) == (1, "")
    assert f"{command[0]} works only on mainpc, where SystemDigitalTwin runs" in ends_with(ran.err)


def test_before_the_first_run_there_is_nothing_to_invite_to(tmp_path: Path) -> None:
    """One sentence with the command that comes first."""
    ran = certs_init(tmp_path / "none", "invite", *SENSOR)
    assert (ran.status, (tmp_path / "none").exists()) == (1, False)
    assert "is missing; run: certs-init" in ends_with(ran.err)


def test_pending_lists_who_may_come_in(tree: Path) -> None:
    """Name, host, roles, until, fingerprint; no secret."""
    assert certs_init(tree, "pending", host="mainpc").out == "nothing is pending\n"
    line = certs_init(tree, "invite", *SENSOR, host="mainpc").out
    invitation = parse_invitation(line)
    (row,) = certs_init(tree, "pending", host="mainpc").lines
    until = line.strip().partition("expires=")[2]
    assert row.split() == ["invitation", "Sensor", "pc3", "agent", until, invitation.token.public.fingerprint]
    (tree / "mainpc/invites/Sensor.key").unlink()
    replace_certificate(new_pair("Late", "pc3").certificate, tree / "mainpc/invites/Late.key")
    assert certs_init(tree, "pending", host="mainpc").lines[0].split()[:3] == ["invitation", "Late", "pc3"]


def test_a_used_invitation_is_not_pending(tree: Path) -> None:
    """SystemDigitalTwin revokes the one-time key; its file is no door any more."""
    certs_init(tree, "invite", *SENSOR, host="mainpc")
    write_revocation(load_certificate(tree / "mainpc/invites/Sensor.key"), tree / "mainpc/enrolled/revoked")
    assert certs_init(tree, "pending", host="mainpc").out == "nothing is pending\n"


def test_reject_withdraws_an_invitation(tree: Path) -> None:
    """Its file is gone, and the output says what that means; a second time there is nothing."""
    certs_init(tree, "invite", *SENSOR, host="mainpc")
    ran = certs_init(tree, "reject", "Sensor", host="mainpc")
    assert (ran.status, ran.err, (tree / "mainpc/invites/Sensor.key").exists()) == (0, "", False)
    assert "the invitation of Sensor on pc3 (agent) is withdrawn; no machine can enrol by it any more" in ran.out
    again = certs_init(tree, "reject", "Sensor", host="mainpc")
    assert (again.status, again.out) == (1, "")
    assert "there is no open invitation and no request of 'Sensor'" in ends_with(again.err)


def test_reject_of_a_used_invitation_says_what_helps(tree: Path) -> None:
    """The key that came in by it stays until it is revoked."""
    certs_init(tree, "invite", *SENSOR, host="mainpc")
    write_revocation(load_certificate(tree / "mainpc/invites/Sensor.key"), tree / "mainpc/enrolled/revoked")
    replace_certificate(new_pair("Sensor", "pc3").certificate, tree / "mainpc/enrolled/Sensor.key")
    ran = certs_init(tree, "reject", "Sensor", host="mainpc")
    assert (ran.status, ran.out) == (1, "")
    assert re.search("Sensor has a key already, SHA256:.*; revoke it first: certs-init revoke Sensor", ran.err)


@pytest.mark.parametrize("line", ["", "twinhost://", "hello", "twinhost://mainpc:7120/" + "A" * 20])
@pytest.mark.parametrize("given", ["argument", "standard input"])
def test_join_refuses_what_is_no_invitation_and_makes_nothing(tmp_path: Path, line: str, given: str) -> None:
    """Before anything is written or anybody asked."""
    root = tmp_path / "new"
    ran = certs_init(root, "join", line) if given == "argument" else certs_init(root, "join", stdin=line.encode())
    assert (ran.status, ran.out, root.exists()) == (1, "", False)
    assert "copy the whole line that certs-init invite printed" in ends_with(ran.err)


def test_join_reads_no_more_than_a_line(tmp_path: Path) -> None:
    """A whole file on standard input is a slip and no invitation."""
    ran = certs_init(tmp_path / "new", "join", stdin=b"x" * 100_000)
    assert (ran.status, (tmp_path / "new").exists()) == (1, False)
    assert "the line is longer than" in ends_with(ran.err)
