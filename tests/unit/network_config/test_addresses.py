"""Where a host is reached: the file, the environment, and how an endpoint is written."""

from collections.abc import Callable
from pathlib import Path

import pytest

from twinhost.network_config import Host, get_mainpc_address, get_pc2_address, is_local_only, load_network_config
from twinhost.network_config.load import CONTAINER_PATH, DEFAULT_PATH, default_path, published_ports
from twinhost.network_config.model import is_address
from twinhost.secure_zmq.errors import ConfigurationError


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("MAINPC_IP", "PC2_IP", "NETWORK_CONFIG_PATH"):
        monkeypatch.delenv(name, raising=False)


def test_without_a_service_it_is_the_hosts_address() -> None:
    """The names of the file, which compose resolves."""
    assert (get_mainpc_address(), get_pc2_address()) == ("mainpc", "pc2")


def test_with_a_service_it_is_the_agents_endpoint() -> None:
    """What `socket.connect` takes."""
    assert get_mainpc_address("SystemDigitalTwin") == "tcp://mainpc:7120"
    assert get_pc2_address("UnifiedMemoryReasoningAgent") == "tcp://pc2:7230"


def test_a_service_of_the_other_host_is_refused() -> None:
    """A wrong guess is an error and no endpoint that nobody listens at."""
    with pytest.raises(ConfigurationError, match="UnifiedMemoryReasoningAgent runs on pc2, not on mainpc"):
        get_mainpc_address("UnifiedMemoryReasoningAgent")
    with pytest.raises(ConfigurationError, match="SystemDigitalTwin runs on mainpc, not on pc2"):
        get_pc2_address("SystemDigitalTwin")


@pytest.mark.parametrize(
    ("environment", "published"),
    [
        ({}, {}),
        ({"MAINPC_ZMQ_PORT": "7120", "MAINPC_EVENTS_PORT": "7150"}, {}),
        ({"MAINPC_ZMQ_PORT": "7121", "PC2_ZMQ_PORT": "7231"}, {"zmq": 7121}),
        ({"MAINPC_ZMQ_PORT": "7121", "MAINPC_EVENTS_PORT": "7151"}, {"zmq": 7121, "events": 7151}),
        ({"MAINPC_ZMQ_PORT": "0", "MAINPC_EVENTS_PORT": "7151-7159"}, {}),
        ({"MAINPC_ZMQ_PORT": "", "MAINPC_EVENTS_PORT": "70000"}, {}),
    ],
)
def test_a_port_that_compose_moves_is_known(environment: dict[str, str], published: dict[str, int]) -> None:
    """Of this agent's host alone, and only where the number is known within the containers."""
    agent = load_network_config(environment={}).agent("SystemDigitalTwin")
    assert published_ports(agent, environment) == published


def test_an_unknown_service_or_host_is_refused_with_a_list() -> None:
    """The message is the list to choose from."""
    known = "SystemDigitalTwin, UnifiedMemoryReasoningAgent"
    with pytest.raises(ConfigurationError, match=f"there is no agent 'Sdt'; there are: {known}"):
        get_mainpc_address("Sdt")
    with pytest.raises(ConfigurationError, match="there is no host 'pc3'; there are: mainpc, pc2"):
        load_network_config(DEFAULT_PATH, {}).host("pc3")


@pytest.mark.parametrize(("variable", "get"), [("MAINPC_IP", get_mainpc_address), ("PC2_IP", get_pc2_address)])
@pytest.mark.parametrize(
    ("value", "endpoint"),
    [
        ("192.168.1.20", "tcp://192.168.1.20:"),
        ("host.lan", "tcp://host.lan:"),
        ("fd00::20", "tcp://[fd00::20]:"),
        ("::1", "tcp://[::1]:"),
    ],
)
def test_the_environment_overrides_the_address(
    monkeypatch: pytest.MonkeyPatch, variable: str, get: Callable[..., str], value: str, endpoint: str
) -> None:
    """A real machine's address is one line in `.env`, as a name, IPv4, or IPv6 with its brackets added."""
    monkeypatch.setenv(variable, value)
    agent = "SystemDigitalTwin" if variable == "MAINPC_IP" else "UnifiedMemoryReasoningAgent"
    assert get() == value
    assert get(agent).startswith(endpoint)


def test_each_override_is_for_its_own_host() -> None:
    """Neither variable moves the other host."""
    config = load_network_config(DEFAULT_PATH, {"MAINPC_IP": "10.0.0.1"})
    assert (config.host("mainpc").address, config.host("pc2").address) == ("10.0.0.1", "pc2")
    config = load_network_config(DEFAULT_PATH, {"PC2_IP": "10.0.0.2"})
    assert (config.host("mainpc").address, config.host("pc2").address) == ("mainpc", "10.0.0.2")


def test_an_empty_override_is_none() -> None:
    """Compose passes an empty text where `.env` says nothing."""
    config = load_network_config(DEFAULT_PATH, {"MAINPC_IP": "", "PC2_IP": ""})
    assert (config.host("mainpc").address, config.host("pc2").address) == ("mainpc", "pc2")


@pytest.mark.parametrize("value", ["tcp://10.0.0.1", "10.0.0.1:7120", "[::1]", "a b", "10.0.0.256", " "])
@pytest.mark.parametrize("variable", ["MAINPC_IP", "PC2_IP"])
def test_an_override_that_is_no_address_is_refused_by_name(variable: str, value: str) -> None:
    """The message names the variable, since the file is not to blame."""
    with pytest.raises(ConfigurationError, match=f"^{variable} must be a host name or an IP address"):
        load_network_config(DEFAULT_PATH, {variable: value})


def test_the_path_comes_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """NETWORK_CONFIG_PATH, and the repository's file where it is unset or empty."""
    other = tmp_path / "other.yaml"
    other.write_text(DEFAULT_PATH.read_text().replace("address: mainpc", "address: 10.9.9.9"))
    monkeypatch.setenv("NETWORK_CONFIG_PATH", str(other))
    assert get_mainpc_address() == "10.9.9.9"
    monkeypatch.setenv("NETWORK_CONFIG_PATH", "")
    assert get_mainpc_address() == "mainpc"


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the user's folder of a program that is installed from a wheel: there is no checkout around it."""
    monkeypatch.setattr("twinhost.network_config.load.DEFAULT_PATH", tmp_path / "lib/config/network_config.yaml")
    monkeypatch.setattr("twinhost.network_config.load.CONTAINER_PATH", tmp_path / "app/config/network_config.yaml")
    monkeypatch.setattr("twinhost.secure_zmq.certificates.DEFAULT_FOLDER", str(tmp_path / "certificates"))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    monkeypatch.delenv("TWINHOST_CERTIFICATES", raising=False)
    return tmp_path / "twinhost"


def test_the_containers_file_is_where_the_image_has_it() -> None:
    dockerfile = (DEFAULT_PATH.parents[1] / "Dockerfile").read_text()
    assert "WORKDIR /app" in dockerfile
    assert Path("/app/config/network_config.yaml") == CONTAINER_PATH


def test_an_installed_program_finds_its_copy(installed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside the program's key, else in a checkout its file, in a container the image's, else in the user's folder."""
    own = tmp_path / "own"
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(own))
    places = (own, tmp_path / "lib/config", tmp_path / "app/config", installed)
    for place in reversed(places):
        place.mkdir(parents=True)
        (place / "network_config.yaml").write_text(DEFAULT_PATH.read_text().replace("address: mainpc", "address: here"))
        assert default_path() == place / "network_config.yaml"
        assert get_mainpc_address() == "here"


def test_published_endpoints_override_the_copy(installed: Path) -> None:
    installed.mkdir()
    (installed / "network_config.yaml").write_text(DEFAULT_PATH.read_text())
    (installed / "endpoints.yaml").write_text(ENDPOINTS)
    assert get_mainpc_address("SystemDigitalTwin") == "tcp://127.0.0.1:17120"


def test_without_any_file_the_error_says_how_to_get_one(installed: Path) -> None:
    """By the variable, or by the command that enrols a program."""
    copy = installed / "network_config.yaml"
    with pytest.raises(
        ConfigurationError, match=rf"^{copy} is missing; set NETWORK_CONFIG_PATH .* twinhost join LINE, with the line"
    ):
        load_network_config()


@pytest.mark.parametrize(
    ("address", "endpoint"),
    [
        ("mainpc", "tcp://mainpc:7120"),
        ("10.0.0.1", "tcp://10.0.0.1:7120"),
        ("::1", "tcp://[::1]:7120"),
        ("fe80::1%eth0", "tcp://[fe80::1%eth0]:7120"),
    ],
)
def test_an_ipv6_address_gets_its_brackets(address: str, endpoint: str) -> None:
    """The endpoint is what ZeroMQ understands."""
    assert Host("mainpc", address).endpoint(7120) == endpoint


ENDPOINTS = """
hosts: {mainpc: {address: 127.0.0.1}}
agents: {SystemDigitalTwin: {ports: {zmq: 17120, events: 17150, http: 18120}}}
"""


def test_a_program_finds_the_published_endpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beside its key, and only for the default configuration; a host that is not there stays as it is."""
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(tmp_path))
    (tmp_path / "endpoints.yaml").write_text(ENDPOINTS)
    twin = load_network_config().agent("SystemDigitalTwin")
    assert (twin.endpoint, twin.events_port, twin.http_port) == ("tcp://127.0.0.1:17120", 17150, 18120)
    assert get_mainpc_address("SystemDigitalTwin") == twin.endpoint
    assert get_pc2_address("UnifiedMemoryReasoningAgent") == "tcp://pc2:7230"
    assert load_network_config(DEFAULT_PATH).agent("SystemDigitalTwin").endpoint == "tcp://mainpc:7120"
    monkeypatch.setenv("NETWORK_CONFIG_PATH", str(DEFAULT_PATH))
    assert get_mainpc_address("SystemDigitalTwin") == "tcp://mainpc:7120"


@pytest.mark.parametrize(
    ("text", "complaint"),
    [
        ("hosts: {mainpc: {address: 127.0.0.1}}", r"endpoints\.yaml: the top level lacks the key 'agents'"),
        (
            ENDPOINTS.replace("17120", "0"),
            r"endpoints\.yaml: agents\.SystemDigitalTwin\.ports\.zmq must be a port",
        ),
        (ENDPOINTS.replace("127.0.0.1", "a b"), r"endpoints\.yaml: hosts\.mainpc\.address must be a host name"),
    ],
)
def test_a_wrong_endpoints_file_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, complaint: str
) -> None:
    """With its own name, and the path in it."""
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(tmp_path))
    (tmp_path / "endpoints.yaml").write_text(text)
    with pytest.raises(ConfigurationError, match=complaint):
        load_network_config()


@pytest.mark.parametrize("text", ["pc2", "pc2.lan.", "192.0.2.7", "2001:db8::1", "fe80::1%eth0", "fe80::1%eth0.100"])
def test_an_address_may_have_a_final_dot_or_an_interface(text: str) -> None:
    assert is_address(text)


@pytest.mark.parametrize(
    "text",
    ["pc2..", "..", "", "fd00::1%\x1b[2J", "fd00::1%a b", "fd00::1%a..b", f"fd00::1%{'a' * 64}", "fd00::1%a\n"],
)
def test_what_no_resolver_takes_is_no_address(text: str) -> None:
    """Python's resolver raises UnicodeError for some of them, and a terminal obeys others."""
    assert not is_address(text)


LOCAL = [
    "127.0.0.1", "127.255.1.2", "127.1", "0x7f.1", "2130706433", "017700000001", "0", "0.0.0.0", "0.1.2.3", "::", "::1",
    "[::1]", "::ffff:127.0.0.1", "::ffff:7f00:1", "::ffff:169.254.1.1", "0:0:0:0:0:0:0:1", "169.254.169.254", "fe80::1",
    "fe80::1%eth0", "224.0.0.1", "239.255.255.250", "ff02::1", "localhost", "LOCALHOST", "localhost.", "a.localhost",
    "localhost.localdomain", "ip6-localhost", "ip6-loopback",
]  # fmt: skip
OTHERS = [
    "pc2", "pc2.example", "192.0.2.7", "10.0.0.1", "172.17.0.2", "fd00::1", "2001:db8::1", "::ffff:192.0.2.7", "",
    "my-localhost", "localhost.example", "128.0.0.1", "*", "a;b", "x" * 256, "1.2.3.4.5", "\0", "\u0661",
]  # fmt: skip


@pytest.mark.parametrize("address", LOCAL)
def test_an_address_that_leads_a_host_to_itself_is_known(address: str) -> None:
    """In each notation that a resolver takes."""
    assert is_local_only(address)


@pytest.mark.parametrize("address", OTHERS)
def test_any_other_address_may_be_another_hosts(address: str) -> None:
    """Private networks too: the hosts are in one."""
    assert not is_local_only(address)


STANDBY = """
hosts: {mainpc: {address: 127.0.0.1}}
agents:
  SystemDigitalTwin:
    ports: {zmq: 17120, events: 17150, http: 18120}
    standby: {host: pc2, address: 192.0.2.2, ports: {zmq: 17121}}
"""


def test_an_endpoints_file_is_enough_to_know_a_standby(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the variable that an agent needs; a port that is not named is that of the agent."""
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(tmp_path))
    (tmp_path / "endpoints.yaml").write_text(STANDBY)
    agent = load_network_config(environment={"TWINHOST_CERTIFICATES": str(tmp_path)}).agent("SystemDigitalTwin")
    assert agent.endpoints == ("tcp://127.0.0.1:17120", "tcp://192.0.2.2:17121")
    assert agent.feed_endpoints == ("tcp://127.0.0.1:17150", "tcp://192.0.2.2:17150")


@pytest.mark.parametrize(
    ("wrong", "complaint"),
    [
        ("address: a b", r"agents\.SystemDigitalTwin\.standby\.address must be a host name"),
        ("address: 192.0.2.2, port: 1", r"agents\.SystemDigitalTwin\.standby has the unknown key 'port'"),
    ],
    ids=["address", "key"],
)
def test_a_wrong_standby_of_an_endpoints_file_is_refused(tmp_path: Path, wrong: str, complaint: str) -> None:
    (tmp_path / "endpoints.yaml").write_text(STANDBY.replace("address: 192.0.2.2", wrong))
    with pytest.raises(ConfigurationError, match=complaint):
        load_network_config(environment={"TWINHOST_CERTIFICATES": str(tmp_path)})
