"""What certs-init refuses: it stops with one sentence, and what it can't believe stays as it is."""

import os
from dataclasses import replace
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.unit.certificates.trees import certs_init, files, tree_layout
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import plan_layout
from twinhost.network_config import Host, load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import write_certificate


@pytest.mark.parametrize("lost", [["mainpc/server.key_secret"], ["mainpc/server.key_secret", "mainpc/server.key"]])
def test_a_lost_secret_is_not_replaced(tmp_path: Path, lost: list[str]) -> None:
    """While others know its public half, no second key is made under the name: one sentence, and nothing changed."""
    certs_init(tmp_path)
    for name in lost:
        (tmp_path / name).unlink()
    before = files(tmp_path)
    ran = certs_init(tmp_path)
    assert (ran.status, files(tmp_path)) == (1, before)
    assert f"{tmp_path}/mainpc/server.key_secret is missing" in ran.err
    assert "restore the secret from a backup" in ran.err


def test_a_different_key_under_a_name_is_never_overwritten(tmp_path: Path) -> None:
    """A folder that has another public key for an agent keeps it, and the run says which file it is."""
    certs_init(tmp_path)
    path = tmp_path / "pc2" / "server.key"
    path.unlink()
    write_certificate(new_pair("SystemDigitalTwin", "mainpc").certificate, path)
    before = files(tmp_path)
    ran = certs_init(tmp_path)
    assert (ran.status, files(tmp_path)) == (1, before)
    assert f"{path} holds another key than" in ran.err


@pytest.mark.parametrize("name", ["mainpc/server.key_secret", "pc2/client.key_secret"])
def test_a_damaged_secret_is_left_as_it_is(tmp_path: Path, name: str) -> None:
    """A secret that can't be believed stops the run; it is evidence, and perhaps half of a backup."""
    certs_init(tmp_path)
    (tmp_path / name).write_text("half a fi")
    before = files(tmp_path)
    ran = certs_init(tmp_path)
    assert (ran.status, files(tmp_path)) == (1, before)
    assert name in ran.err


def test_a_secret_of_another_agent_is_not_taken_for_ones_own(tmp_path: Path) -> None:
    """pc2's secret under mainpc's name is refused, not distributed."""
    certs_init(tmp_path)
    foreign = (tmp_path / "pc2/client.key_secret").read_bytes()
    (tmp_path / "mainpc/server.key_secret").write_bytes(foreign)
    ran = certs_init(tmp_path)
    assert ran.status == 1
    assert "server.key_secret is not the key of SystemDigitalTwin" in ran.err


def test_a_dangling_link_in_a_secrets_place_is_refused(tmp_path: Path) -> None:
    """A key that can't be put in place is not announced, and its public half not given to anybody."""
    (tmp_path / "mainpc").mkdir(mode=0o700)
    (tmp_path / "mainpc/server.key_secret").symlink_to(tmp_path / "elsewhere")
    ran = certs_init(tmp_path)
    assert (ran.status, ran.out) == (1, "")
    assert f"{tmp_path}/mainpc/server.key_secret can't be read" in ran.err
    assert not list(tmp_path.rglob("server.key"))


def test_another_hosts_public_key_is_checked_before_it_spreads(tmp_path: Path) -> None:
    """A key laid under UMRA's file name that claims to be an operator's reaches no other folder."""
    certs_init(tmp_path, host="mainpc")
    write_certificate(new_pair("intruder", "pc2", "operator").certificate, tmp_path / "mainpc/client.key")
    ran = certs_init(tmp_path, host="mainpc")
    assert ran.status == 1
    assert "mainpc/client.key is not the key of UnifiedMemoryReasoningAgent" in ran.err
    assert not (tmp_path / "operator/client.key").exists()


def test_a_root_that_cannot_be_written_is_one_sentence(tmp_path: Path) -> None:
    """Not a traceback: the path, the reason, the uid, and what to do."""
    (tmp_path / "file").touch()
    ran = certs_init(tmp_path / "file" / "tree")
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.count("\n") == 1
    assert f"certs-init: {tmp_path}/file/tree can't be written (Not a directory) as uid {os.getuid()}; make" in ran.err


def test_a_file_in_a_folders_place_is_one_sentence(tmp_path: Path) -> None:
    """Whatever the system refuses within the tree is named."""
    (tmp_path / "pc2").touch()
    ran = certs_init(tmp_path)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith(f"certs-init: {tmp_path}/pc2 can't be written (File exists) as uid")


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become another user")
def test_a_tree_of_another_user_is_one_sentence(tmp_path: Path) -> None:
    """Run as a stranger, the command says so and makes nothing."""
    root = tmp_path / "tree"
    root.mkdir(mode=0o755)
    layout = tree_layout(root)
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        try:
            os.setuid(65_534)
            make_keys(layout)
        except ConfigurationError as refusal:
            os.write(writer, str(refusal).encode())
        finally:
            os._exit(0)
    os.close(writer)
    os.waitpid(child, 0)
    with os.fdopen(reader) as stream:
        assert "can't be written (Permission denied) as uid 65534; make that user its owner: " in stream.read()
    assert list(root.iterdir()) == []


@pytest.mark.parametrize(
    "arguments", [("mend",), ("--rot", "x"), ("public",), ("trust",), ("verify", "more"), ("trust", "a", "b")]
)
def test_a_wrong_usage_ends_with_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    """A slip on the command line makes nothing and shows how it is meant."""
    ran = certs_init(tmp_path / "tree", *arguments)
    assert (ran.status, ran.out) == (2, "")
    assert ran.err.startswith("usage: certs-init")
    assert not (tmp_path / "tree").exists()


def test_two_agents_may_not_share_a_key(tmp_path: Path) -> None:
    """One pair for each agent: a configuration that gives two the same stem is refused."""
    config = load_network_config(DEFAULT_PATH, {})
    sdt, umra = config.agents.values()
    shared = replace(config, agents={sdt.name: sdt, umra.name: replace(umra, key=sdt.key)})
    with pytest.raises(ConfigurationError, match=r"two keys would share a stem \(server, server, operator\)"):
        plan_layout(tmp_path, shared, None)


def test_a_host_without_an_agent_has_no_key(tmp_path: Path) -> None:
    """A host of the configuration that runs nothing gets an error that says so."""
    config = load_network_config(DEFAULT_PATH, {})
    spare = replace(config, hosts={**config.hosts, "pc3": Host("pc3", "pc3")})
    with pytest.raises(ConfigurationError, match="no agent runs on pc3"):
        plan_layout(tmp_path, spare, "pc3")
