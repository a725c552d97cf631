"""Everything that must be right before an agent starts: each slip is one sentence, and there is no way round it."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.agent.assembled import environment_of
from twinhost.agent.settings import load_settings
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import write_key_pair
from twinhost.secure_zmq.keys import KeyOwner, KeyPair

SDT = "SystemDigitalTwin"


class Host:
    """A host where everything is right, until a test damages it."""

    def __init__(self, home: Path) -> None:
        self.environment = environment_of(home, "mainpc")
        self.home = home
        self.secret = home / "certificates/mainpc/server.key_secret"

    def configure(self, old: str, new: str) -> None:
        """Give the host a configuration of its own, with a change."""
        text = DEFAULT_PATH.read_text()
        assert old in text
        (self.home / "network_config.yaml").write_text(text.replace(old, new))
        self.environment["NETWORK_CONFIG_PATH"] = str(self.home / "network_config.yaml")

    def replace_secret(self, owner: KeyOwner) -> None:
        """Put another pair in the place of the host's own."""
        self.secret.unlink()
        self.secret.with_suffix(".key").unlink()
        write_key_pair(KeyPair.generate(owner), self.secret)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def test_the_models_folder_must_be_a_folder(host: Host, tmp_path: Path) -> None:
    """Its disk is measured too; if the variable is unset or empty, only that of the state."""
    assert load_settings(SDT, {**host.environment, "TWINHOST_MODELS": ""}).disks.keys() == {"state"}
    settings = load_settings(SDT, {**host.environment, "TWINHOST_MODELS": str(tmp_path)})
    assert settings.disks == {"state": settings.state, "models": tmp_path}
    with pytest.raises(ConfigurationError, match=r"TWINHOST_MODELS is .*absent', which is not a folder"):
        load_settings(SDT, {**host.environment, "TWINHOST_MODELS": str(tmp_path / "absent")})


def test_an_empty_dsn_is_none(host: Host) -> None:
    """As Compose has it where the variable is not set."""
    assert load_settings(SDT, {**host.environment, "TWINHOST_DATABASE": ""}).database is None


def test_a_host_that_is_right_has_its_settings(host: Host) -> None:
    """Agent, own key, configuration, and state folder."""
    settings = load_settings(SDT, host.environment)
    assert settings.secure
    assert settings.certificates is not None
    assert settings.certificates.own_keys.certificate.owner.name == settings.agent.name == SDT
    assert (settings.state, settings.agent.zmq_port) == (host.home / "state", 7120)


def test_http_answers_to_the_configured_hosts(host: Host) -> None:
    """The hosts' names, their addresses as the environment replaces them, and the names that it adds."""
    environment = {**host.environment, "PC2_IP": "192.0.2.8", "TWINHOST_HTTP_HOSTS": "twin.example"}
    assert load_settings(SDT, environment).http_hosts == {"mainpc", "pc2", "192.0.2.8", "twin.example"}
    with pytest.raises(ConfigurationError, match="TWINHOST_HTTP_HOSTS has"):
        load_settings(SDT, {**environment, "TWINHOST_HTTP_HOSTS": "*"})


def test_an_open_link_needs_no_keys(host: Host) -> None:
    """SECURE_ZMQ=0, and only that, leads to settings without certificates."""
    shutil.rmtree(host.home / "certificates")
    settings = load_settings(SDT, {**host.environment, "SECURE_ZMQ": "0"})
    assert (settings.secure, settings.certificates) == (False, None)


@pytest.mark.sdt_security
@pytest.mark.parametrize("address", ["192.0.2.10", "0.0.0.0", "", "2001:db8::1", "mainpc.example", "127.0.0.1.example"])
def test_an_open_link_is_not_published_by_a_slip(host: Host, address: str) -> None:
    """On an address of other machines it takes a second variable, whose name says what it does."""
    open_link = {**host.environment, "SECURE_ZMQ": "0", "TWINHOST_PUBLISH_ADDRESS": address}
    for value in ({}, {"TWINHOST_PUBLISH_UNENCRYPTED": "0"}, {"TWINHOST_PUBLISH_UNENCRYPTED": ""}):
        with pytest.raises(ConfigurationError, match="TWINHOST_PUBLISH_UNENCRYPTED=1 to allow it"):
            load_settings(SDT, open_link | value)
    with pytest.raises(ConfigurationError, match="set it to 1, or remove it"):
        load_settings(SDT, {**open_link, "TWINHOST_PUBLISH_UNENCRYPTED": "yes"})
    assert not load_settings(SDT, {**open_link, "TWINHOST_PUBLISH_UNENCRYPTED": "1"}).secure
    assert load_settings(SDT, {**open_link, "SECURE_ZMQ": "1"}).secure


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2", "::1", "[::1]", "localhost"])
def test_an_open_link_on_this_machine_alone_is_one(host: Host, address: str) -> None:
    """As the simulation on one machine has it."""
    open_link = {**host.environment, "SECURE_ZMQ": "0", "TWINHOST_PUBLISH_ADDRESS": address}
    assert not load_settings(SDT, open_link).secure


def test_unset_means_secure(host: Host) -> None:
    """Without the variable the link is encrypted; there is no other way to an open one than 0."""
    del host.environment["SECURE_ZMQ"]
    assert load_settings(SDT, host.environment).secure


Damage = Callable[[Host], object]


def variable(name: str, value: str) -> Damage:
    return lambda host: host.environment.update({name: value})


def file_for_state(host: Host) -> None:
    """Put a file, even an executable one, in the place of the state folder."""
    (host.home / "state").rmdir()
    (host.home / "state").touch(0o777)


@pytest.mark.sdt_security
@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        *((variable("SECURE_ZMQ", word), "SECURE_ZMQ is .*; set it to 1") for word in ("", "yes", "true", "2", " 1")),
        (lambda h: shutil.rmtree(h.home / "certificates"), "mainpc holds no secret key; run: .* certs-init"),
        (lambda h: h.secret.unlink(), "mainpc holds no secret key; run: certs-init verify"),
        (lambda h: h.secret.chmod(0o640), r"server.key_secret has mode 0640, .*; run: chmod 600"),
        (lambda h: h.secret.write_text("half a fi"), "server.key_secret, line 1: expected"),
        (lambda h: h.secret.write_bytes(b"\xff" * 40), "server.key_secret holds bytes that are not ASCII"),
        (lambda h: (h.secret.unlink(), h.secret.mkdir()), "server.key_secret must be a regular file"),
        (
            lambda h: shutil.copy2(h.home / "certificates/pc2/client.key_secret", h.secret.parent),
            r"holds 2 secret keys \(client.key_secret, server.key_secret\); keep only this host's own",
        ),
        (variable("TWINHOST_CERTIFICATES", "/nonexistent"), "/nonexistent holds no secret key"),
        (
            lambda h: h.environment.update(TWINHOST_CERTIFICATES=str(h.home / "certificates/pc2")),
            "pc2 holds the secret key of UnifiedMemory.* on pc2, and this agent is System.* on mainpc; mount its own",
        ),
        (
            lambda h: h.environment.update(TWINHOST_CERTIFICATES=str(h.home / "certificates/operator")),
            "holds the secret key of operator on mainpc, and this agent is SystemDigitalTwin on mainpc; mount its own",
        ),
        (
            lambda h: h.replace_secret(KeyOwner(SDT, "pc2", frozenset({"agent"}))),
            "holds the secret key of SystemDigitalTwin on pc2, and this agent is SystemDigitalTwin on mainpc; mount",
        ),
    ],
)
def test_keys_that_are_not_right_stop_the_start(host: Host, damage: Damage, sentence: str) -> None:
    """From a secure setting there is no path to an open link."""
    damage(host)
    with pytest.raises(ConfigurationError, match=sentence) as refusal:
        load_settings(SDT, host.environment)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (variable("NETWORK_CONFIG_PATH", "/nonexistent.yaml"), "/nonexistent.yaml is missing; set NETWORK_CONFIG_PATH"),
        (lambda h: h.configure("limits:", "limit:"), "network_config.yaml: the top level has the unknown key 'limit'"),
        (lambda h: h.configure("zmq: 7120", "zmq: 0"), "agents.SystemDigitalTwin.ports.zmq must be a port number"),
        (lambda h: h.configure("SystemDigitalTwin", "Somebody"), "there is no agent 'SystemDigitalTwin'; there are:"),
        (variable("MAINPC_IP", "not an address"), "MAINPC_IP must be a host name or an IP address"),
        (variable("TWINHOST_STATE", "/nonexistent"), "/nonexistent is not a folder .*: export TWINHOST_STATE="),
        (file_for_state, "state is not a folder that this process can write; mount a volume there, or"),
    ],
)
def test_a_wrong_place_or_configuration_stops_the_start(host: Host, damage: Damage, sentence: str) -> None:
    """One sentence with the file or variable, and what to do."""
    damage(host)
    with pytest.raises(ConfigurationError, match=sentence) as refusal:
        load_settings(SDT, host.environment)
    assert "\n" not in str(refusal.value)


def test_the_state_folder_has_a_default(host: Host) -> None:
    """Unset and empty both mean /var/lib/twinhost, as the image has it."""
    for value in ({}, {"TWINHOST_STATE": ""}):
        environment = {key: text for key, text in host.environment.items() if key != "TWINHOST_STATE"}
        try:
            state = load_settings(SDT, {**environment, **value}).state
        except ConfigurationError as refusal:  # a machine that has no such folder
            state = Path(str(refusal).split()[0])
        assert state == Path("/var/lib/twinhost")


def test_an_agent_registers_where_its_standby_is(host: Host) -> None:
    """The same from either process; without a log there is none."""
    host.environment["MAINPC_STANDBY_ZMQ_PORT"] = "7121"
    assert load_settings(SDT, host.environment).metadata == {}
    host.environment["TWINHOST_DATABASE"] = "postgresql:///log"
    ports = {"zmq": 7120, "http": 8120, "events": 7150}
    standby = {"host": "pc2", "address": "mainpc-standby", "ports": ports, "published_ports": {"zmq": 7121}}
    assert load_settings(SDT, host.environment).metadata == {"standby": standby}
    host.configure("standby: {host: pc2, address: mainpc-standby}", "standby: {host: pc2, ports: {zmq: 7122}}")
    standby |= {"address": "pc2", "ports": ports | {"zmq": 7122}, "published_ports": {"zmq": 7121}}
    assert load_settings(SDT, host.environment).metadata == {"standby": standby}
