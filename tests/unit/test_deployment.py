"""The keys that an open client follows, and which folder and configuration a program uses."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

import twinhost
from tests.identities import host_folder, new_pair, time_kept
from twinhost import deployment
from twinhost.deployment import FollowedKeys
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.certificates import Certificates, client_folder, load_certificates, profile_folder
from twinhost.secure_zmq.key_writer import replace_certificate, write_key_pair, write_revocation
from twinhost.secure_zmq.keys import KeyPair

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every question look at the folder."""
    monkeypatch.setattr(deployment, "_LOOK_S", 0.0)


@pytest.fixture
def own() -> KeyPair:
    return new_pair("program", "laptop")


@pytest.fixture
def server() -> KeyPair:
    return new_pair(SDT, "mainpc")


@pytest.fixture
def certificates(tmp_path: Path, own: KeyPair, server: KeyPair) -> Certificates:
    return load_certificates(host_folder(tmp_path / "profile", "program", own, server=server))


def test_pins_follow_the_files(certificates: Certificates, server: KeyPair) -> None:
    """A next key is valid beside the current one, and alone once it has taken its place."""
    keys, following = FollowedKeys(certificates, SDT, []), new_pair(SDT, "mainpc")
    assert keys.pins() == [server.public]
    replace_certificate(following.certificate, certificates.folder / "server.next.key")
    assert keys.pins() == [server.public, following.public]
    replace_certificate(following.certificate, certificates.folder / "server.key")
    assert keys.pins() == [following.public]


def test_a_revoked_pin_is_not_used_again(certificates: Certificates, server: KeyPair) -> None:
    """Neither one of the folder, nor one that mainpc gave for an agent of which the folder has no key."""
    (certificates.folder / "revoked").mkdir()
    given = new_pair(UMRA, "pc2")
    keys, asked = FollowedKeys(certificates, SDT, [server.public]), FollowedKeys(certificates, UMRA, [given.public])
    assert (keys.pins(), asked.pins()) == ([server.public], [given.public])
    for pair in (server, given):
        write_revocation(pair.certificate, certificates.folder / "revoked")
    assert (keys.pins(), asked.pins()) == ([], [])


def test_a_change_that_leaves_the_folders_time_counts(
    certificates: Certificates, server: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As one within 4 ms of another, between which the keys were read; on FAT, within 2 s."""
    now = 100.0
    monkeypatch.setattr("twinhost.folder_events.time", SimpleNamespace(monotonic=lambda: now))
    keys, following = FollowedKeys(certificates, SDT, []), new_pair(SDT, "mainpc")
    (certificates.folder / "other").touch()
    assert keys.pins() == [server.public]
    with time_kept(certificates.folder):
        replace_certificate(following.certificate, certificates.folder / "server.key")
    now += 10.0
    assert keys.pins() == [following.public]


def test_nothing_is_pinned_while_revocations_are_unreadable(certificates: Certificates, server: KeyPair) -> None:
    """Any key may be among them, also one that was pinned before."""
    keys = FollowedKeys(certificates, SDT, [server.public])
    revoked = certificates.folder / "revoked"
    revoked.write_text("")
    assert keys.pins() == []
    revoked.unlink()
    assert keys.pins() == [server.public]


def test_a_pin_is_revoked_while_the_own_key_is_unreadable(
    certificates: Certificates, own: KeyPair, server: KeyPair
) -> None:
    """As it is with the wrong mode; the pair before stays in use."""
    keys = FollowedKeys(certificates, SDT, [server.public])
    (certificates.folder / "program.key_secret").chmod(0o644)
    write_revocation(server.certificate, certificates.folder / "revoked")
    assert (keys.pins(), keys.own()) == ([], own)


def test_the_own_key_follows_its_file(certificates: Certificates, own: KeyPair) -> None:
    """While it is missing, as it is being replaced, the one before stays in use."""
    keys, following = FollowedKeys(certificates, SDT, []), new_pair("program", "laptop")
    secret = certificates.folder / "program.key_secret"
    secret.unlink()
    assert keys.own() == own
    (certificates.folder / "program.key").unlink()
    write_key_pair(following, secret)
    assert keys.own() == following


def test_a_folder_that_is_gone_changes_nothing(certificates: Certificates, own: KeyPair, server: KeyPair) -> None:
    keys = FollowedKeys(certificates, SDT, [])
    shutil.rmtree(certificates.folder)
    assert (keys.own(), keys.pins()) == (own, [server.public])


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home without a key; return the folder of the default profile."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.setattr("twinhost.secure_zmq.certificates.DEFAULT_FOLDER", str(tmp_path / "none"))
    for name in ("TWINHOST_CERTIFICATES", "TWINHOST_PROFILE", "NETWORK_CONFIG_PATH", "MAINPC_IP", "PC2_IP"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "twinhost"


def test_a_named_folder_comes_before_the_profile(home: Path) -> None:
    """And the profile before the default one; only an existing one is used."""
    (home / "profiles/work").mkdir(parents=True)
    environment = {"XDG_CONFIG_HOME": str(home.parent), "TWINHOST_PROFILE": "work"}
    assert client_folder(environment) == profile_folder(environment) == home / "profiles/work"
    assert client_folder({**environment, "TWINHOST_CERTIFICATES": "/x"}) == Path("/x")
    assert client_folder({**environment, "TWINHOST_PROFILE": ""}) == home
    assert profile_folder({**environment, "TWINHOST_PROFILE": "new"}) == home / "profiles/new"
    with pytest.raises(twinhost.ConfigurationError, match="there is no profile 'new'; to make it, run: twinhost join"):
        client_folder({**environment, "TWINHOST_PROFILE": "new"})


@pytest.mark.parametrize("name", ["..", "a/b", ".hidden", "-x", "a b", "x" * 65, "\u00e9"])
def test_a_profile_can_not_name_another_folder(home: Path, name: str) -> None:
    with pytest.raises(twinhost.ConfigurationError, match=r"the profile name .* must have 1 to 64"):
        twinhost.connect(profile=name)


def test_a_profile_without_a_configuration_uses_no_other(
    home: Path, own: KeyPair, server: KeyPair, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not that of a checkout, nor that of the default profile: it would lead to another deployment."""
    (home / "profiles").mkdir(parents=True)
    host_folder(home / "profiles/work", "program", own, server=server)
    (home / "network_config.yaml").write_text(DEFAULT_PATH.read_text())
    with pytest.raises(twinhost.ConfigurationError, match=r"profiles/work/network_config\.yaml is missing"):
        twinhost.connect(profile="work")


@pytest.fixture
def joined(home: Path, own: KeyPair, server: KeyPair) -> Path:
    """The default profile, with the configuration of both agents."""
    folder = host_folder(home, "program", own, server=server, client=new_pair(UMRA))
    (folder / "network_config.yaml").write_text(DEFAULT_PATH.read_text())
    return folder


def test_both_clients_of_a_deployment_are_made_once_and_closed(joined: Path) -> None:
    """With the agents' own classes; an agent without one is called by a plain client."""
    with twinhost.connect() as both:
        memory, system = both.memory, both.system
        assert (type(memory).__name__, type(system).__name__) == (UMRA, SDT)
        assert (both.memory, both.system) == (memory, system)
        assert memory._link._server.address == "tcp://pc2:7230"
    for client in (memory, system):
        with pytest.raises(twinhost.ConnectionRefused, match="the client is closed"):
            client.call("ping")
    twinhost.connect(UMRA).close()
    (joined / "network_config.yaml").write_text(DEFAULT_PATH.read_text().replace(f"  {UMRA}:", "  Greeter:"))
    replace_certificate(new_pair("Greeter", "pc2").certificate, joined / "client.key")
    with twinhost.connect("Greeter") as greeter:
        assert type(greeter) is twinhost.Client
        assert repr(greeter) == "<Client agent='Greeter' address='tcp://pc2:7230' secured=True>"
    assert type(twinhost.connect_async("Greeter")) is twinhost.AsyncClient
    asynchronous = twinhost.connect_async(SDT)
    assert type(asynchronous).__name__ == f"Async{SDT}"


def test_a_closed_deployment_opens_no_client(joined: Path) -> None:
    """Where another thread closed it, the first use of a client must not follow events for ever."""
    with twinhost.connect() as both:
        pass
    with pytest.raises(twinhost.ConnectionRefused, match="the client is closed"):
        both.system.events()
    with pytest.raises(twinhost.ConnectionRefused, match="the client is closed"):
        both.memory.ping()


def test_a_deployment_without_one_agent_still_has_the_other(joined: Path) -> None:
    """What is wrong with the one is raised where it is used."""
    (joined / "client.key").unlink()
    replace_certificate(new_pair("somebody").certificate, joined / "client.key")
    with twinhost.connect() as both:
        with pytest.raises(twinhost.KeyMismatch, match="is the key of somebody, not of Unified"):
            _ = both.memory
        assert type(both.system).__name__ == SDT
