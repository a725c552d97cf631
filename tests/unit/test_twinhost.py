"""The names of the package itself: what a program needs that only calls agents."""

import os
import rlcompleter
import subprocess
import sys
from pathlib import Path

import pytest

import twinhost.clients
from tests.identities import host_folder, new_pair
from twinhost.secure_zmq import errors
from twinhost.version import VERSION

SDT = "SystemDigitalTwin"
OTHERS = [
    "AsyncClient",
    "AsyncDeployment",
    "Client",
    "Deployment",
    "SecuredAddress",
    "UnencryptedAddress",
    "connect",
    "connect_async",
    "load_certificates",
    "load_network_config",
]


@pytest.fixture(autouse=True)
def keys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a program's keys, which the environment names."""
    folder = host_folder(tmp_path / "keys", "program", new_pair("program"), server=new_pair(SDT, "mainpc"))
    for name in ("SECURE_ZMQ", "NETWORK_CONFIG_PATH", "MAINPC_IP", "PC2_IP"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(folder))
    return folder


def test_the_names_are_these() -> None:
    """The clients, what they are made of, and every error that a caller can catch; a lost transaction is none."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    caught = {kind.__name__ for kind in kinds if issubclass(kind, errors.TwinhostError)} - {"TransactionLost"}
    assert twinhost.__all__ == sorted({*OTHERS, *caught})


@pytest.mark.parametrize("name", twinhost.__all__)
def test_each_name_leads_to_what_it_names(name: str) -> None:
    assert getattr(twinhost, name).__name__ == name


def test_the_version_and_the_names_are_attributes_for_completion() -> None:
    assert twinhost.__version__ == VERSION
    assert {*twinhost.__all__, "__version__"} <= set(dir(twinhost))
    assert set(twinhost.clients.__all__) <= set(dir(twinhost.clients))


def test_a_client_completes_the_actions_of_its_agent(keys: Path) -> None:
    """As the interactive interpreter does."""
    with twinhost.connect(SDT) as system:
        names = rlcompleter.Completer({"system": system}).attr_matches("system.publish")
        assert [name.partition("(")[0] for name in names] == ["system.publish", "system.publish_event"]


def test_a_client_is_shown_with_its_agent_and_address(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And whether the link is secured; never with a key, also after it was used."""
    system = twinhost.connect(SDT)
    assert repr(system) == "<SystemDigitalTwin agent='SystemDigitalTwin' address='tcp://mainpc:7120' secured=True>"
    assert repr(twinhost.connect_async(SDT)) == repr(system).replace("<System", "<AsyncSystem")
    other = twinhost.connect(SDT, client=twinhost.Client)
    assert repr(other) == repr(system).replace("<SystemDigitalTwin", "<Client")
    own = twinhost.load_certificates()
    bare = twinhost.Client(twinhost.SecuredAddress("tcp://mainpc:7120", own.own_keys, own.public_key("server")))
    assert repr(bare) == "<Client address='tcp://mainpc:7120' secured=True>"
    monkeypatch.setenv("SECURE_ZMQ", "0")
    assert repr(twinhost.connect(SDT)).endswith("address='tcp://mainpc:7120' secured=False>")


def test_any_other_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'twinhost' has no attribute 'Clint'"):
        getattr(twinhost, "Clint")  # noqa: B009 - the point is the attribute that is not there


def run_with_package(program: str) -> str:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}
    command = [sys.executable, "-B", "-c", program]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True).stdout


def test_importing_twinhost_loads_nothing_else() -> None:
    """A program pays only for what it uses."""
    others = "{'zmq', 'msgspec', 'structlog', 'yaml', 'asyncio'}"
    assert run_with_package(f"import sys, twinhost; print(sorted({others} & set(sys.modules)))") == "[]\n"


def test_the_status_command_loads_nothing_of_a_running_agent() -> None:
    """What an agent logs and serves with takes a quarter of the command's time."""
    program = "import sys, twinhost.cli.status; print(sorted({'structlog', 'asyncio'} & set(sys.modules)))"
    assert run_with_package(program) == "[]\n"


@pytest.mark.skipif(os.name != "posix", reason="libc's rand()")
def test_importing_twinhost_makes_routing_ids_random() -> None:
    """libc's generator, from which libzmq takes them, has a seed of its own in every process."""
    program = "import ctypes; libc = ctypes.CDLL(None)\n{}print(libc.rand())"
    assert run_with_package(program.format("")) == run_with_package(program.format(""))
    seeded = program.format("import twinhost\n")
    assert len({run_with_package(seeded) for _ in range(3)}) == 3


def test_connect_makes_a_client_of_the_agents_address_and_key(keys: Path) -> None:
    """Nothing is sent before the first call."""
    with twinhost.connect(SDT) as client:
        targets = client._link._server.targets()
    own = twinhost.load_certificates()
    assert targets == [twinhost.SecuredAddress("tcp://mainpc:7120", own.own_keys, own.public_key("server"))]


def test_connect_checks_the_name_in_the_key(keys: Path) -> None:
    twinhost.connect(SDT, name="program").close()
    sentence = rf"{keys} has the key of program, not of other; .* twinhost join --profile NAME LINE$"
    with pytest.raises(twinhost.ConfigurationError, match=sentence):
        twinhost.connect(SDT, name="other")


def test_connect_is_unencrypted_only_with_secure_zmq_0(monkeypatch: pytest.MonkeyPatch) -> None:
    """No key is read then; any other value of SECURE_ZMQ is an error."""
    monkeypatch.setenv("TWINHOST_CERTIFICATES", "/nowhere")
    monkeypatch.setenv("SECURE_ZMQ", "0")
    with twinhost.connect(SDT, name="anybody") as client:
        assert client._link._server == twinhost.UnencryptedAddress("tcp://mainpc:7120")
    monkeypatch.setenv("SECURE_ZMQ", "false")
    with pytest.raises(twinhost.ConfigurationError, match="SECURE_ZMQ is 'false'; set it to 1"):
        twinhost.connect(SDT)


def test_what_connect_needs_and_lacks_is_a_typed_error(keys: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent that the configuration does not have, a server's key, an own key, the configuration itself."""
    with pytest.raises(twinhost.ConfigurationError, match="there is no agent 'Twin'; there are: SystemDigitalTwin"):
        twinhost.connect("Twin")
    (keys / "server.key").unlink()
    with pytest.raises(twinhost.KeyFileMissing, match=r"server\.key is missing"):
        twinhost.connect(SDT)
    (keys / "program.key_secret").unlink()
    with pytest.raises(twinhost.KeyFileMissing, match="holds no secret key"):
        twinhost.connect(SDT)
    monkeypatch.setenv("NETWORK_CONFIG_PATH", str(keys / "none.yaml"))
    with pytest.raises(twinhost.ConfigurationError, match=r"none\.yaml is missing; set NETWORK_CONFIG_PATH"):
        twinhost.connect(SDT)


def test_the_package_is_typed() -> None:
    assert (Path(twinhost.__file__).parent / "py.typed").is_file()
