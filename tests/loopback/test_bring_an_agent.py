"""How-to "Bring an existing agent": the agent of the page runs at each step, for callers that stay as they are."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event, Thread
from typing import Any

import pytest
import yaml
import zmq

from tests.loopback.agent_processes import SDT, Hosts
from tests.ports import free_ports
from tests.unit.certificates.trees import certs_init
from tests.unit.cli.running import Ran, run_process
from tests.waiting import PATIENCE_S, suspend, wait_until
from twinhost.agent.legacy import secure_client_socket
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import plan_layout
from twinhost.cli.inspect.findings import inspect_source
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import require_session
from twinhost.secure_zmq.errors import NotAuthorized, NotFound
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

PAGE = (Path(__file__).parents[2] / "docs/how-to/bring-an-existing-agent.md").read_text(encoding="utf-8")
BEFORE, *STEPS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
(DECLARED,) = (yaml.safe_load(each) for each in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S))
(AGENT,) = DECLARED["agents"]


TTL_S = 5  # of a registration


@dataclass(frozen=True)
class Running:
    """The agent of one step."""

    step: int
    process: "subprocess.Popen[bytes]"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Both agents, with the page's lines in their configuration."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        path = Path(hosts.config.source)
        document = yaml.safe_load(path.read_text())
        document["hosts"] |= {name: {"address": "127.0.0.1"} for name in DECLARED["hosts"]}
        zmq_port, http_port = free_ports(2)
        document["agents"][AGENT] = {**DECLARED["agents"][AGENT], "ports": {"zmq": zmq_port, "http": http_port}}
        document["grants"]["agent"] += DECLARED["grants"]["agent"]
        document["limits"]["registration_ttl_s"] = TTL_S
        path.write_text(yaml.safe_dump(document))
        hosts.config = load_network_config(path, {})
        make_keys(plan_layout(hosts.keys, hosts.config, None))
        (hosts.root / AGENT).mkdir()
        hosts.start_both()
        yield hosts


@pytest.fixture(params=[1, 2, 3], ids=lambda step: f"step {step}")
def running(request: pytest.FixtureRequest, hosts: Hosts, tmp_path: Path) -> "Iterator[Running]":
    """The agent of one step, as a process with the key of its own host."""
    with run_step(request.param, hosts, tmp_path) as running:
        yield running


@contextmanager
def run_step(step: int, hosts: Hosts, folder: Path, events_port: int | None = None) -> "Iterator[Running]":
    """Run the agent of one step; it finds mainpc's feed at `events_port`, if that is given."""
    path = folder / "word_counter.py"
    path.write_text(STEPS[step - 1])
    keys = hosts.keys / hosts.config.agent(AGENT).host.name
    environment = {**hosts.environment(AGENT), "TWINHOST_CERTIFICATES": str(keys), "PYTHONUNBUFFERED": "1"}
    if step < 3:  # it sends no heartbeats, and hears of a revocation by the feed alone
        document = yaml.safe_load(Path(hosts.config.source).read_text())
        document["limits"]["heartbeat_s"] = 600
        if events_port is not None:
            document["agents"][SDT]["ports"]["events"] = events_port
        config = folder / "network_config.yaml"
        config.write_text(yaml.safe_dump(document))
        environment["NETWORK_CONFIG_PATH"] = str(config)
    with subprocess.Popen([sys.executable, "-B", path], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield Running(step, process)
        finally:
            process.send_signal(signal.SIGKILL)
    with hosts.client(SDT) as client:
        client.call("unregister", agent_name=AGENT)


def asked(hosts: Hosts, by: Path | None = None, pin: str = "", **request: str) -> dict[str, Any]:
    """Return the reply to an existing caller, which has a REQ socket, and the operator's key if no folder is given."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.REQ)
        secure_client_socket(socket, by or hosts.folder("operator"), server=pin or hosts.config.agent(AGENT).key)
        socket.rcvtimeo = int(PATIENCE_S * 1_000)
        socket.connect(hosts.config.agent(AGENT).endpoint)
        socket.send_json(request)
        reply: dict[str, Any] = json.loads(socket.recv())
        return reply
    finally:
        context.destroy(linger=0)


def registered(hosts: Hosts) -> bool:
    with hosts.client(SDT) as client:
        try:
            return bool(client.call("get_agent_info", agent_name=AGENT)["agent_info"]["status"] == "HEALTHY")
        except NotFound:
            return False


def test_the_agent_of_each_step_serves_the_same_callers(hosts: Hosts, running: Running) -> None:
    """It registers with mainpc, and answers a REQ socket; from step 3 on `twinhost.connect` reaches it too."""
    assert asked(hosts, action="count_words", text="one two three")["words"] == 3
    wait_until(lambda: registered(hosts), PATIENCE_S, "the agent registers")
    if running.step == 3:
        with hosts.client(AGENT) as client:
            assert client.call("count_words", text="one two")["words"] == 2
        assert "`text`" in asked(hosts, action="count_words")["error"]


def joined(hosts: Hosts, name: str, folder: Path) -> KeyPair:
    """Return the pair of a program that has joined by an invitation, with its key in a folder."""
    invited = certs_init(hosts.keys, "invite", name, "--host", "laptop", "--role", "agent", config=hosts.config.source)
    assert invited.status == 0, invited.err
    wait_until(
        lambda: run_process({"TWINHOST_CERTIFICATES": str(folder)}, "join", invited.out.strip()).status == 0,
        PATIENCE_S,
        "mainpc knows the invitation",
    )
    return load_certificates(folder).own_keys


def gets_in(address: SecuredAddress) -> bool:
    try:
        require_session(address, PATIENCE_S)
    except NotAuthorized:
        return False
    return True


@pytest.mark.sdt_security
def test_each_step_follows_the_keys_of_mainpc(hosts: Hosts, running: Running, tmp_path: Path) -> None:
    """A program that joined is served; its revocation is acknowledged, and it is refused a second later."""
    pair = joined(hosts, f"reader-{running.step}", folder := tmp_path / "keys")
    wait_until(lambda: registered(hosts), PATIENCE_S, "the agent registers")
    pin = load_certificates(folder).public_key(AGENT)
    address = SecuredAddress(hosts.config.agent(AGENT).endpoint, pair, pin)
    wait_until(lambda: gets_in(address), PATIENCE_S, "the agent knows the key")
    assert asked(hosts, folder, AGENT, action="count_words", text="one two")["words"] == 2
    ran = certs_init(hosts.keys, "revoke", f"reader-{running.step}", config=hosts.config.source)
    assert (ran.status, ran.err) == (0, "")
    assert f"{hosts.config.agent(AGENT).host.name}: acknowledged by {AGENT}" in ran.lines
    assert not gets_in(address)
    assert asked(hosts, action="count_words", text="one")["words"] == 1, "another caller is still served"


@pytest.mark.sdt_security
def test_a_change_before_the_feeds_session_is_applied(hosts: Hosts, tmp_path: Path) -> None:
    """mainpc announces a change once; an agent whose subscription it does not know yet asks again soon."""
    applied = hosts.keys / hosts.config.agent(AGENT).host.name / "trust"
    with run_step(2, hosts, tmp_path, events_port=free_ports(1)[0]):
        wait_until(lambda: registered(hosts), PATIENCE_S, "the agent registers")
        wait_until((applied / "operator.key").exists, PATIENCE_S, "it has mainpc's list")
        joined(hosts, "late-reader", tmp_path / "keys")
        wait_until((applied / "late-reader.key").exists, PATIENCE_S, "it has the key that joined since")


def as_operator(hosts: Hosts, *words: str) -> Ran:
    operator = {"TWINHOST_CERTIFICATES": str(hosts.folder("operator"))}
    return run_process({**hosts.environment(SDT), **operator}, *words)


def status_of(hosts: Hosts, *options: str) -> Ran:
    return as_operator(hosts, "status", *options)


def test_status_is_well_at_each_step_while_the_agent_serves(hosts: Hosts, running: Running) -> None:
    """An agent that has a REP socket and sends no heartbeats is connected to, and is not asked for its health."""
    wait_until(lambda: registered(hosts), PATIENCE_S, "the agent registers")
    if running.step < 3:
        wait_until(lambda: not registered(hosts), PATIENCE_S, "its registration is older than the TTL")
    ran = status_of(hosts, "--wait", str(PATIENCE_S))
    assert (ran.status, ran.err) == (0, "")
    (row,) = [line.split() for line in ran.out.splitlines() if line.startswith(AGENT) and "CURVE" in line]
    assert row[3] == ("ok" if running.step == 3 else "connected")
    wait_until(lambda: status_of(hosts).status == 0, PATIENCE_S, "all is well")
    agent = json.loads(status_of(hosts, "--json").out)["agents"][AGENT]
    assert (agent["asked"], agent["health"] is None) == (running.step == 3, running.step < 3)


def test_keys_and_doctor_are_well_at_each_step(hosts: Hosts, running: Running) -> None:
    """They ask the others, and examine the agent's handshake: it refuses whom it must."""
    wait_until(lambda: registered(hosts), PATIENCE_S, "the agent registers")
    listed = as_operator(hosts, "keys", "list")
    note = f"note: {AGENT} makes its own sockets and can't be asked\n"
    assert (listed.status, listed.err) == (0, note if running.step < 3 else "")
    ran = as_operator(hosts, "doctor", "--json")
    assert ran.out, ran.err
    examined = json.loads(ran.out)["checks"]
    verdicts = {each["check"]: each["verdict"] for each in examined if each["where"] == AGENT}
    checks = {"answers, and knows us", "plain client refused", "unknown key refused", "wrong pin refused"}
    assert {verdicts[check] for check in checks} == {"ok"}
    assert "failed" not in verdicts.values()


def test_status_names_an_agent_that_stopped_at_any_step(hosts: Hosts, running: Running) -> None:
    """Whatever the agent speaks, nobody has its key at its address any more."""
    wait_until(lambda: status_of(hosts).status == 0, PATIENCE_S, "all is well")
    running.process.kill()
    running.process.wait()
    ran = status_of(hosts)
    assert ran.status == 2
    assert ran.out.startswith(f"{AGENT} can't be asked from here.\n")
    what = "health" if running.step == 3 else "the handshake"
    assert f"\n  because: no reply to {what} from " in ran.out


@pytest.mark.parametrize("running", [2], indirect=True)
def test_status_names_an_agent_whose_heartbeats_ceased(hosts: Hosts, running: Running) -> None:
    """It makes its own sockets, and sent heartbeats itself: a connection does not stand for those."""
    wait_until(lambda: registered(hosts), PATIENCE_S, "the agent registers")
    with hosts.client(SDT) as client:
        time.sleep(0.2)  # a heartbeat is later than the registration
        client.call("heartbeat", agent_name=AGENT)
    wait_until(lambda: not registered(hosts), PATIENCE_S, "the heartbeat is older than the TTL")
    ran = status_of(hosts)
    assert (ran.status, ran.err) == (2, "")
    assert ran.out.startswith("pc3 does not respond.\n")


@contextmanager
def heartbeats(hosts: Hosts) -> Iterator[None]:
    """Keep the agent's registration for the length of the block."""
    over = Event()

    def send() -> None:
        with hosts.client(SDT) as client:
            while not over.wait(TTL_S / 10):
                client.call("heartbeat", agent_name=AGENT)

    thread = Thread(target=send)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


@pytest.mark.parametrize("running", [3], indirect=True)
def test_status_names_a_mute_agent_of_the_framework(hosts: Hosts, running: Running) -> None:
    """It has promised to answer, by registering with its port."""
    wait_until(lambda: status_of(hosts).status == 0, PATIENCE_S, "all is well")
    suspend(running.process.pid)
    with heartbeats(hosts):  # a busy machine may take longer than the TTL for this, and then says that it is gone
        ran = status_of(hosts)
    assert ran.status == 2
    assert f"{AGENT} can't be asked from here\n" in ran.out
    assert "\n  because: no reply to health" in ran.out


def test_the_page_shows_what_inspect_prints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every line of it, with its exit status."""
    monkeypatch.chdir(tmp_path)
    Path("word_counter.py").write_text(BEFORE)
    ran = run_process({}, "inspect", "word_counter.py")
    shown = re.search(r"^\$ twinhost inspect word_counter.py\n(.*?)^```$", PAGE, re.M | re.S)
    assert shown
    assert (ran.status, ran.out) == (1, shown[1])


@pytest.mark.parametrize("step", [1, 2, 3])
def test_inspect_finds_nothing_to_change_after_a_step(step: int) -> None:
    """In step 3 there is no use of ZeroMQ at all."""
    found = inspect_source(STEPS[step - 1])
    assert [finding for finding in found if finding.change] == []
    assert bool(found) is (step < 3)
