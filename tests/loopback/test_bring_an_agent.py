"""How-to "Bring an existing agent": the agent of the page runs at each step, for callers that stay as they are."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
import zmq

from tests.loopback.agent_processes import SDT, Hosts
from tests.ports import free_ports
from tests.unit.cli.running import run_process
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.legacy import secure_client_socket
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import plan_layout
from twinhost.cli.inspect.findings import inspect_source
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.errors import NotFound

PAGE = (Path(__file__).parents[2] / "docs/how-to/bring-an-existing-agent.md").read_text(encoding="utf-8")
BEFORE, *STEPS = re.findall(r"^```python\n(.*?)^```$", PAGE, re.M | re.S)
(DECLARED,) = (yaml.safe_load(each) for each in re.findall(r"^```yaml\n(.*?)^```$", PAGE, re.M | re.S))
(AGENT,) = DECLARED["agents"]


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """mainpc, with the page's lines in its configuration."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        path = Path(hosts.config.source)
        document = yaml.safe_load(path.read_text())
        document["hosts"] |= {name: {"address": "127.0.0.1"} for name in DECLARED["hosts"]}
        zmq_port, http_port = free_ports(2)
        document["agents"][AGENT] = {**DECLARED["agents"][AGENT], "ports": {"zmq": zmq_port, "http": http_port}}
        document["grants"]["agent"] += DECLARED["grants"]["agent"]
        path.write_text(yaml.safe_dump(document))
        hosts.config = load_network_config(path, {})
        make_keys(plan_layout(hosts.keys, hosts.config, None))
        (hosts.root / AGENT).mkdir()
        hosts.start(SDT).wait_until_serving()
        yield hosts


@pytest.fixture(params=[1, 2, 3], ids=lambda step: f"step {step}")
def running(request: pytest.FixtureRequest, hosts: Hosts, tmp_path: Path) -> Iterator[int]:
    """The agent of one step, as a process with the key of its own host; yields the step."""
    path = tmp_path / "word_counter.py"
    path.write_text(STEPS[request.param - 1])
    keys = hosts.keys / hosts.config.agent(AGENT).host.name
    environment = {**hosts.environment(AGENT), "TWINHOST_CERTIFICATES": str(keys), "PYTHONUNBUFFERED": "1"}
    with subprocess.Popen([sys.executable, "-B", path], env=environment, stderr=subprocess.DEVNULL) as process:
        try:
            yield request.param
        finally:
            process.send_signal(signal.SIGKILL)
    with hosts.client(SDT) as client:
        client.call("unregister", agent_name=AGENT)


def asked(hosts: Hosts, **request: str) -> dict[str, Any]:
    """Return the reply to an existing caller, which has a REQ socket."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    try:
        socket = context.socket(zmq.REQ)
        secure_client_socket(socket, hosts.folder("operator"), server=hosts.config.agent(AGENT).key)
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


def test_the_agent_of_each_step_serves_the_same_callers(hosts: Hosts, running: int) -> None:
    """It registers with mainpc, and answers a REQ socket; from step 3 on `twinhost.connect` reaches it too."""
    assert asked(hosts, action="count_words", text="one two three")["words"] == 3
    wait_until(lambda: registered(hosts), PATIENCE_S, "the agent registers")
    if running == 3:
        with hosts.client(AGENT) as client:
            assert client.call("count_words", text="one two")["words"] == 2
        assert "`text`" in asked(hosts, action="count_words")["error"]


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
