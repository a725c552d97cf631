"""A running deployment follows its configuration: processes with CURVE on loopback, and none of them restarts."""

import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests import fork_server
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.ports import free_ports
from tests.waiting import PATIENCE_S, wait_until
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import plan_layout
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.errors import AgentUnreachable, ConnectionRefused, NotFound, NotGranted, OverBudget
from twinhost.testing import Stack

SEEN_WITHIN_S = 1.0
GREETER = Path(__file__).resolve().parents[2] / "services/twinhost/cli/new/template/greeter.py"


class Running:
    """Both agents, and their configuration file."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.path = Path(hosts.config.source)
        self.shipped = self.path.read_text()
        self.agents = dict(zip((SDT, UMRA), hosts.start_both(), strict=True))

    def write(self, change: Callable[[dict[str, Any]], object]) -> None:
        """Change the file's content, and replace it as editors do."""
        document = yaml.safe_load(self.shipped)
        change(document)
        self.replace(json.dumps(document))

    def replace(self, text: str) -> None:
        draft = self.path.with_name("draft")
        draft.write_text(text)
        draft.rename(self.path)

    def warnings(self, name: str) -> list[str]:
        """Return those of an agent's health that name the file."""
        return [each for each in self.agents[name].health()["warnings"] if str(self.path) in each]


@pytest.fixture(scope="module")
def processes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        yield Running(hosts)


@pytest.fixture
def running(processes: Running) -> Iterator[Running]:
    """The same two processes in every test, with the shipped configuration at the start and at the end."""
    yield processes
    processes.replace(processes.shipped)
    wait_until(lambda: not any(map(processes.warnings, (SDT, UMRA))), PATIENCE_S, "the shipped file applies again")
    assert all(agent.running for agent in processes.agents.values())


def refused(running: Running, name: str, action: str) -> bool:
    """Return whether an action is not granted to pc2's agent."""
    with running.hosts.client(name, by=UMRA) as client:
        try:
            client.call(action)
        except NotGranted:
            return True
        return False


def test_a_removed_grant_holds_at_once_on_open_connections(running: Running) -> None:
    """In both agents; the caller stays connected, and its other actions are served."""
    with running.hosts.client(SDT, by=UMRA) as client:
        assert client.call("get_ok_agents")["status"]

        def holds() -> bool:
            try:
                client.call("get_ok_agents")
            except NotGranted:
                return True
            return False

        running.write(lambda document: document["grants"]["agent"].remove("get_ok_agents"))
        wait_until(holds, SEEN_WITHIN_S, "the grant is gone")
        assert client.call("ping")["status"] == "ok"


def rejections(agent: AgentProcess) -> list[str]:
    """Return why the agent rejected a file, by its log."""
    return [str(each["reason"]) for each in agent.logged("configuration_rejected")]


def test_an_invalid_file_changes_nothing_and_is_reported(running: Running) -> None:
    """A log line and a health warning name the mistake, and none of its other changes applies."""

    def slip(document: dict[str, Any]) -> None:
        document["grants"]["agent"] = ["*"]
        document["hosts"]["pc3"] = {"address": "127.0.0.1"}
        document["limits"]["registration_ttl_s"] = "soon"

    running.write(slip)
    for name, agent in running.agents.items():
        wait_until(lambda name=name: running.warnings(name), PATIENCE_S, f"{name} warns")  # type: ignore[misc]
        (warning,) = running.warnings(name)
        assert "limits.registration_ttl_s must be" in warning
        assert agent.health()["ready"]
        wait_until(lambda: rejections(agent)[-1:] == [warning], PATIENCE_S, "it is logged")  # noqa: B023
        assert refused(running, name, "get_peers")
    with running.hosts.client(SDT) as client:
        assert "pc3" not in client.call("get_metrics")["metrics"]["hosts"]


def spaces_and_budgets_apply(running: Running) -> bool:
    """Return whether pc2's agent has the space `plans`, and no priority for its leases."""
    with running.hosts.client(UMRA, by=UMRA) as memory, running.hosts.client(SDT, by=UMRA) as mainpc:
        spaces = {space["name"] for space in memory.call("list_spaces")["spaces"]}
        try:
            mainpc.call("reserve_ram", amount_mb=1, ttl_s=1, priority=1)
        except OverBudget:
            return "plans" in spaces
        except NotFound:
            return False  # No RAM was measured yet.
        return False


@pytest.mark.parametrize(
    ("spaces", "budgets", "sentence"),
    [
        ({"notes": {"writers": [], "readers": ["no body"]}}, {}, "spaces.notes.readers has 'no body', which is no"),
        ({}, {"everybody": {"events": "many"}}, "limits.budgets.everybody.events must be a whole number"),
    ],
    ids=["reader", "budget"],
)
def test_a_wrong_reader_or_budget_leaves_those_that_apply(
    running: Running, spaces: dict[str, Any], budgets: dict[str, Any], sentence: str
) -> None:
    """The file with the mistake has neither the space nor the budget that apply."""

    def declare(document: dict[str, Any], spaces: dict[str, Any], budgets: dict[str, Any]) -> None:
        document["spaces"], document["limits"]["budgets"] = spaces, budgets

    right = {"plans": {"writers": [UMRA]}}, {"names": {UMRA: {"lease_priority": 0}}}
    running.write(lambda document: declare(document, *right))
    wait_until(lambda: spaces_and_budgets_apply(running), PATIENCE_S, "they apply")
    running.write(lambda document: declare(document, spaces, budgets))
    for name in (SDT, UMRA):
        wait_until(lambda name=name: running.warnings(name), PATIENCE_S, f"{name} warns")  # type: ignore[misc]
        assert sentence in running.warnings(name)[0]
    assert spaces_and_budgets_apply(running)


def test_what_a_running_agent_cannot_change_is_named(running: Running) -> None:
    """It serves as before, what can change in the same file applies, and a restart is asked for."""

    def change(document: dict[str, Any]) -> None:
        document["agents"][SDT]["ports"]["zmq"] = free_ports(1)[0]
        document["limits"]["max_payload_bytes"] = 1_000
        document["recall"]["word_pairs"] = False
        document["grants"]["agent"].remove("get_ok_agents")

    running.write(change)
    for name in (SDT, UMRA):
        wait_until(lambda name=name: running.warnings(name), PATIENCE_S, f"{name} warns")  # type: ignore[misc]
        (warning,) = running.warnings(name)
        assert f"agents.{SDT}, limits.max_payload_bytes, recall.word_pairs changed" in warning
        assert "docker compose restart" in warning
        assert running.agents[name].health()["ready"]
    assert refused(running, SDT, "get_ok_agents")


def test_an_agent_joins_two_that_run(running: Running) -> None:
    """It is expected, reached, and witnessed; its caller reaches pc2 through it, and pc2 reaches it by its name."""
    zmq_port, http_port = free_ports(2)

    def join(document: dict[str, Any]) -> None:
        document["hosts"]["greeter"] = {"address": "127.0.0.1"}
        ports = {"zmq": zmq_port, "http": http_port}
        document["agents"]["Greeter"] = {"host": "greeter", "key": "greeter", "ports": ports}
        document["grants"]["agent"] += ["greet", "who_is"]

    hosts = running.hosts
    running.write(join)
    config = load_network_config(running.path, {})
    with hosts.client(SDT) as mainpc:
        wait_until(
            lambda: "greeter" in mainpc.call("get_metrics")["metrics"]["hosts"], PATIENCE_S, "mainpc expects the host"
        )
        make_keys(plan_layout(hosts.keys, config, None))
        state = hosts.root / "Greeter"
        state.mkdir()
        own = {"TWINHOST_CERTIFICATES": str(hosts.keys / "greeter"), "TWINHOST_STATE": str(state)}
        process = fork_server.Process(
            [str(GREETER)],
            env={**hosts.environment(SDT), **own},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        with AgentProcess(process, config.agent("Greeter")) as greeter:
            greeter.wait_until_ready()
            with hosts.client(UMRA) as memory:
                asked = memory.call("coordinate_memory", agent_name="Greeter", operation="health", data={})
            assert asked["agent"] == "Greeter", "pc2 has its address from the file"
            assert mainpc.call("get_agent_info", agent_name="Greeter")["agent_info"]["location"] == "greeter"

            def change_more(document: dict[str, Any]) -> None:
                join(document)
                document["limits"]["max_payload_bytes"] = 1_000

            running.write(change_more)
            wait_until(lambda: greeter.health()["warnings"], PATIENCE_S, "it warns")
            (warning,) = greeter.health()["warnings"]
            assert warning.endswith("which Greeter applies only when it starts"), "it is no service of the stack"


def test_limits_change_while_agents_run() -> None:
    """Connections per key, and how long an agent may be silent; in one process, as the agents' own tests run."""
    with Stack() as stack, stack.client(SDT) as mainpc:
        mainpc.call("register_agent", agent_name="operator", status="HEALTHY")
        assert "operator" in str(mainpc.call("get_ok_agents"))
        stack.configure(lambda document: document["limits"].update(sessions_per_key=1, registration_ttl_s=0.5))

        def turned_away() -> bool:
            with stack.client(SDT) as second:
                try:
                    second.call("ping", deadline_s=0.5)
                except (ConnectionRefused, AgentUnreachable):
                    return True
                return False

        wait_until(turned_away, PATIENCE_S, "a second connection is refused")
        wait_until(
            lambda: "operator" not in str(mainpc.call("get_ok_agents")["agents"]), PATIENCE_S, "the silent agent is out"
        )
