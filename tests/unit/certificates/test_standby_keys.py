"""The keys of a standby's machine: how the agent's secret comes there, and what certs-init changes there, and when."""

import shutil
import stat
from pathlib import Path
from types import MappingProxyType

import pytest

from tests.unit.certificates.trees import Ran, certs_init, files, secrets
from twinhost.certificates.bundle import parse_invitation
from twinhost.certificates.following import BEFORE_ANY, FolderRole, active_elsewhere, role_of, write_role
from twinhost.certificates.layout import plan_layout
from twinhost.certificates.standby_secrets import give_to_standbys, where_active
from twinhost.certificates.tree import install_secret
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.key_writer import revoked_file_name
from twinhost.secure_zmq.keys import KeyPair, load_key_pair

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
LOG = MappingProxyType({"TWINHOST_DATABASE": "postgresql:///twinhost?host=/run"})
FOLLOWS, ACTIVE = FolderRole("log", 3, "mainpc"), FolderRole("log", 4, "")
INVITE = ("invite", "somebody", "--host", "pc3", "--role", "agent")


class Machines:
    """The trees of both machines, with a log."""

    def __init__(self, root: Path) -> None:
        self.mainpc, self.pc2 = root / "mainpc", root / "pc2"
        for host in ("mainpc", "pc2"):
            assert self.run(host).status == 0
        for one, other, stem in (
            ("mainpc", "pc2", "server"),
            ("mainpc", "pc2", "operator"),
            ("pc2", "mainpc", "client"),
        ):
            assert self.run(other, "trust", "-", stdin=self.run(one, "public", stem).out).status == 0

    def run(self, host: str, *arguments: str, stdin: str = "") -> Ran:
        return certs_init(getattr(self, host), *arguments, host=host, stdin=stdin.encode(), settings=LOG)

    def copy(self) -> Ran:
        """Have pc2 take the secret of SystemDigitalTwin."""
        exported = self.run("mainpc", "export-standby", SDT)
        assert exported.status == 0, exported.err
        return self.run("pc2", "import-standby", "-", stdin=exported.out)

    @property
    def folder(self) -> Path:
        """SystemDigitalTwin's on pc2."""
        return self.pc2 / "mainpc"


@pytest.fixture
def machines(tmp_path: Path) -> Machines:
    return Machines(tmp_path)


def test_the_secret_goes_to_the_standby_by_one_pipe(machines: Machines) -> None:
    """Both have one key pair then; nobody else can read it, and the folder begins no log."""
    ran = machines.copy()
    assert ran.status == 0, ran.err
    there, here = (root / "mainpc/server.key_secret" for root in (machines.pc2, machines.mainpc))
    assert load_key_pair(there) == load_key_pair(here)
    assert stat.S_IMODE(there.stat().st_mode) == 0o600
    assert role_of(machines.folder) == BEFORE_ANY
    for tree in ("mainpc", "pc2"):
        verified = machines.run(tree, "verify")
        assert verified.status == 0, verified.out


def test_a_standby_s_tree_refuses_changes_until_it_is_active(machines: Machines) -> None:
    machines.copy()
    write_role(machines.folder, FOLLOWS)
    before = files(machines.folder)
    for command in (INVITE, ("revoke", UMRA), ("reject", "somebody"), ("accept", "x", "--fingerprint", "y")):
        ran = machines.run("pc2", *command)
        assert ran.status == 1
        assert f"{SDT} is active on mainpc, whose keys {machines.folder} only follows" in ran.err
    assert machines.run("pc2", "pending").out == "nothing is pending\n"
    assert machines.run("pc2").status == 0
    assert files(machines.folder) == before


def test_an_active_standby_s_tree_enrols_and_revokes(machines: Machines, monkeypatch: pytest.MonkeyPatch) -> None:
    """The line of an invitation has the standby's address first; and each key of pc2 goes to its folder."""
    machines.copy()
    write_role(machines.folder, ACTIVE)
    assert machines.run("pc2").status == 0
    assert (machines.folder / "client.key").exists()
    ran = machines.run("pc2", *INVITE)
    assert ran.status == 0, ran.err
    assert parse_invitation(ran.out).authorities == ("mainpc-standby:7120", "mainpc:7120")
    assert "invitation somebody" in machines.run("pc2", "pending").out
    monkeypatch.setattr("twinhost.cli.certs_init.wait_until_acknowledged", lambda *_: [])
    assert machines.run("pc2", "revoke", UMRA).status == 0
    assert list((machines.folder / "revoked").glob("*.key"))
    assert secrets(machines.pc2).keys() == {"mainpc/server.key_secret", "pc2/client.key_secret"}


@pytest.mark.parametrize(
    ("settings", "authorities"),
    [
        ({}, ("mainpc:7120", "mainpc-standby:7120")),
        ({"MAINPC_STANDBY_ZMQ_PORT": "7121"}, ("mainpc:7120", "127.0.0.1:7121")),
        ({"MAINPC_IP": "192.0.2.10", "PC2_IP": "192.0.2.20"}, ("192.0.2.10:7120", "192.0.2.20:7120")),
        (
            {"MAINPC_ZMQ_PORT": "7220", "MAINPC_STANDBY_ZMQ_PORT": "7221", "TWINHOST_PUBLISH_ADDRESS": "192.0.2.10"},
            ("192.0.2.10:7220", "192.0.2.10:7221"),
        ),
    ],
)
def test_an_invitation_has_both_addresses(
    machines: Machines, settings: dict[str, str], authorities: tuple[str, ...]
) -> None:
    """That of the standby after mainpc's; a note says how an older version takes the line."""
    ran = certs_init(machines.mainpc, *INVITE, host="mainpc", settings={**LOG, **settings})
    assert parse_invitation(ran.out).authorities == authorities
    assert f"a version before 0.3 takes it without ,{authorities[1]}\n" in ran.err


def test_certs_init_makes_no_second_secret_of_an_agent(machines: Machines) -> None:
    """Neither before the first one has come, nor if it is lost."""
    assert not machines.folder.exists()
    machines.copy()
    (machines.folder / "server.key_secret").unlink()
    assert machines.run("pc2").status == 0
    assert not (machines.folder / "server.key_secret").exists()


def test_another_secret_takes_the_place_of_the_first(machines: Machines) -> None:
    """As after a rotation; but not of one that is in use here."""
    machines.copy()
    place = plan_layout(machines.mainpc, load_network_config(DEFAULT_PATH, LOG), "mainpc").local[0]
    layout = plan_layout(machines.mainpc, load_network_config(DEFAULT_PATH, LOG), "mainpc")
    install_secret(layout, place, KeyPair.generate(place.owner))
    assert machines.copy().status == 0
    newest = load_key_pair(machines.folder / "server.key_secret")
    assert newest == load_key_pair(machines.mainpc / "mainpc/server.key_secret")
    write_role(machines.folder, ACTIVE)
    refused = machines.copy()
    assert (refused.status, "is active here" in refused.err) == (1, True)


def test_what_comes_home_takes_the_newest_secret(machines: Machines) -> None:
    """Its key was replaced where it is active meanwhile; but none takes the place of one that may be active here."""
    machines.copy()
    write_role(machines.folder, ACTIVE)
    layout = plan_layout(machines.pc2, load_network_config(DEFAULT_PATH, LOG), "pc2")
    place = layout.identity_of(SDT)
    assert place is not None
    install_secret(layout, place, KeyPair.generate(place.owner))
    newest = machines.run("pc2", "export-standby", SDT).out
    home = machines.mainpc / "mainpc"
    old = load_key_pair(home / "server.key_secret")
    for role in (None, ACTIVE):
        if role is not None:
            write_role(home, role)
        refused = machines.run("mainpc", "import-standby", "-", stdin=newest)
        assert (refused.status, f"{SDT} is active here, or was" in refused.err) == (1, True), refused.err
        assert load_key_pair(home / "server.key_secret") == old
    write_role(home, FolderRole("log", 4, "mainpc-standby"))
    taken = machines.run("mainpc", "import-standby", "-", stdin=newest)
    assert taken.status == 0, taken.err
    assert load_key_pair(home / "server.key_secret") == load_key_pair(machines.folder / "server.key_secret") != old


def test_a_new_key_is_said_to_be_missing_on_the_other_machine(machines: Machines) -> None:
    """Wherever the agent is active."""
    machines.copy()
    for host, other in (("mainpc", "pc2"), ("pc2", "mainpc")):
        folder = getattr(machines, host) / "mainpc"
        write_role(folder, ACTIVE)
        revoked = load_key_pair(folder / "server.key_secret").public.fingerprint
        (folder / "revoked").mkdir(exist_ok=True)
        (folder / "revoked" / revoked_file_name(revoked)).touch()
        ran = machines.run(host, "replace", SDT)
        assert ran.status == 0, ran.err
        assert f"Its process on {other} can't take over until it has the new secret" in ran.err


def test_a_secret_goes_to_no_other_machine(machines: Machines, tmp_path: Path) -> None:
    text = machines.run("mainpc", "export-standby", SDT).out
    for host, root, why in (("mainpc", "mainpc", "is active here, or was"), ("", "one", "all hosts are")):
        ran = certs_init(tmp_path / root, "import-standby", "-", host=host, stdin=text.encode(), settings=LOG)
        assert (ran.status, why in ran.err) == (1, True), ran.err
    public = (machines.mainpc / "mainpc/server.key").read_text()
    ran = machines.run("pc2", "import-standby", "-", stdin=public)
    assert (ran.status, "has no secret-key" in ran.err) == (1, True)


def test_a_secret_is_given_by_the_active_machine_alone(machines: Machines) -> None:
    machines.copy()
    write_role(machines.folder, FOLLOWS)
    ran = machines.run("pc2", "export-standby", SDT)
    assert (ran.status, "is active on mainpc" in ran.err, ran.out) == (1, True, "")
    ran = machines.run("pc2", "rotate", "server")
    assert ran.status == 1
    ran = certs_init(machines.mainpc, "export-standby", SDT, host="mainpc")
    assert (ran.status, "names no standby" in ran.err, ran.out) == (1, True, "")


def test_on_one_machine_the_follower_gets_the_active_s_secret(tmp_path: Path) -> None:
    """And certs-init works where SystemDigitalTwin is active."""
    config = load_network_config(DEFAULT_PATH, LOG)
    root, standbys = tmp_path / "tree", tmp_path / "standbys"
    assert certs_init(root, settings=LOG).status == 0
    layout = plan_layout(root, config, None)
    for host in ("mainpc", "pc2"):
        (standbys / host).mkdir(parents=True)
        write_role(standbys / host, FOLLOWS)
    assert give_to_standbys(layout, config.agents, standbys) == [standbys / "mainpc", standbys / "pc2"]
    assert give_to_standbys(layout, config.agents, standbys) == []
    for place in layout.local[:2]:
        assert load_key_pair(standbys / place.folder / f"{place.stem}.key_secret") == load_key_pair(
            layout.secret_file(place)
        )
    assert where_active(layout, standbys) is layout
    write_role(root / "mainpc", FolderRole("log", 4, "mainpc-standby"))
    write_role(standbys / "mainpc", ACTIVE)
    there = where_active(layout, standbys)
    assert (there.root, there.server_folder) == (standbys, standbys / "mainpc")
    assert {place.owner.name for place in there.local} == {SDT, UMRA}
    assert active_elsewhere(root / "mainpc") == "mainpc-standby"
    assert give_to_standbys(layout, config.agents, standbys) == []


def test_the_same_commands_work_on_the_tree_that_is_active(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On one machine; `make` completes the machine's own tree, and a new secret goes to the other one."""
    root, standbys = tmp_path / "tree", tmp_path / "standbys"
    monkeypatch.setattr("twinhost.cli.certs_init.CERTIFICATES_VOLUME", root)
    monkeypatch.setattr("twinhost.cli.certs_init.STANDBYS_VOLUME", standbys)
    monkeypatch.setattr("twinhost.cli.certs_init.wait_until_acknowledged", lambda *_: [])
    assert certs_init(root, settings=LOG).status == 0
    for host in ("mainpc", "pc2"):
        shutil.copytree(root / host, standbys / host)
        write_role(standbys / host, FOLLOWS)
    assert certs_init(root, *INVITE, settings=LOG).status == 0
    assert (root / "mainpc/invites/somebody.key").exists()
    write_role(root / "mainpc", FolderRole("log", 4, "mainpc-standby"))
    write_role(standbys / "mainpc", ACTIVE)
    before = files(root / "mainpc")
    assert certs_init(root, *INVITE, settings=LOG).status == 0
    assert (standbys / "mainpc/invites/somebody.key").exists()
    assert certs_init(root, "revoke", UMRA, settings=LOG).status == 0
    assert list((standbys / "mainpc/revoked").glob("*.key"))
    assert certs_init(root, settings=LOG).status == 0
    assert files(root / "mainpc") == before
    assert not (standbys / "operator").exists()
