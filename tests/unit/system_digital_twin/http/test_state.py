"""The state document: true values of real stores in every part, null where nothing is known, and never a large one."""

import dataclasses
import json
import time
import zlib
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import psutil
import pytest
from starlette.requests import Request
from starlette.routing import Route

from tests.identities import new_pair
from tests.loopback.agent_processes import SDT, Hosts
from tests.loopback.agent_processes import UMRA as UMRA_NAME
from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.agent.test_memory_figures import NONE
from tests.unit.system_digital_twin.twin import NOBODY, OPERATOR, UMRA, Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.telemetry import AgentState
from twinhost.secure_zmq.budgets import Used
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.secure_zmq.server_address import SecuredAddress, UnencryptedAddress
from twinhost.system_digital_twin.__main__ import NAME, assemble
from twinhost.system_digital_twin.http import state as state_module
from twinhost.system_digital_twin.http.page import Changes
from twinhost.system_digital_twin.http.state import MAX_FORECASTS, MAX_ROWS, MAX_SHOWN_BYTES, RECENT_S, SHOWN, Snapshot
from twinhost.system_digital_twin.metrics import metrics as metrics_module
from twinhost.system_digital_twin.metrics.metrics import KEPT_IN_MEMORY, MAX_HOSTS
from twinhost.system_digital_twin.state_files import MIGRATIONS

MAX_STATE_BYTES = 1_600_000  # of the worst that agents can bring about
MAX_FIRST_BYTES, MAX_BYTES_A_SECOND = 10_000, 2_000  # of what a page with 300 agents is sent, compressed
YEAR_S = 365 * 86_400
NO_STATE = AgentState(secure=True, uptime_s=0, store_bytes=0, loop_lag_s=0)
GPUS = [{"index": index, "name": "H100", "used_mb": 100 + index, "total_mb": 81_920} for index in range(2)]
NOTHING = dict.fromkeys(
    ("cpu_percent", "ram_used_mb", "ram_total_mb", "vram_used_mb", "vram_total_mb", "latency_ms"), None
)


class Twin(Assembled):
    """SystemDigitalTwin without a socket; `state()` is what `/api/state` answers after its next turn."""

    def __init__(self, environment: dict[str, str], clock: Clock) -> None:
        super().__init__(NAME, MIGRATIONS, assemble, environment, clock)

    def state(self) -> Any:
        return json.loads(self.body())

    def body(self) -> bytes:
        self.turn()
        return self.answered()

    def turn(self) -> None:
        self.assembly.on_tick()
        self.assembly.on_collect()

    def answered(self) -> bytes:
        (route,) = (route for route in self.assembly.routes if isinstance(route, Route) and route.path == "/api/state")
        return bytes(route.endpoint(Request({"type": "http"})).body)

    def call(self, action: str, caller: Caller = UMRA, **fields: Any) -> dict[str, Any]:
        """Send a request that must succeed; return its reply."""
        reply = self.ask(action, caller, **fields)
        assert reply["status"] == "success", reply
        return reply

    def wait(self, action: str, caller: Caller = UMRA, **fields: Any) -> None:
        """Send a request whose reply is to come."""
        message = json.dumps({"action": action, **fields}).encode()
        assert self._dispatcher.answer([Inbound(message, caller)]) == [b""]

    def measured(self, caller: Caller = UMRA, **fields: Any) -> None:
        self.call("report_metrics", caller, **{"ram_used_mb": 300, "ram_total_mb": 1_000, **fields})


def test_budgets_are_shown_beside_what_is_used(twin: Twin) -> None:
    used = [Used(f"a{number}", "events", 50 - number, 100) for number in range(30)]
    twin.telemetry.gather(dataclasses.replace(NO_STATE, usage=used))
    shown = twin.state()["usage"]
    largest = {"host": "mainpc", "name": "a0", "limit": "events", "used": 50, "most": 100, "share": 0.5}
    assert (len(shown), shown[0]) == (20, largest)


def test_budgets_of_the_memory_s_host_are_shown_among_them(twin: Twin) -> None:
    """As its heartbeats say; not as a part of what is said of the memory."""
    twin.telemetry.gather(dataclasses.replace(NO_STATE, usage=[Used("a1", "events", 50, 100)]))
    of_pc2 = [
        {"name": name, "limit": "stored_bytes", "used": used, "most": 100, "share": used / 100}
        for name, used in (("a1", 90), ("a2", 10))
    ]
    twin.call("register_agent", agent_name=UMRA.name, status="HEALTHY")
    twin.call("heartbeat", agent_name=UMRA.name, memory=msgspec.to_builtins(NONE) | {"usage": of_pc2})
    shown = [(use["host"], use["name"], use["used"]) for use in twin.state()["usage"]]
    assert shown == [("pc2", "a1", 90), ("mainpc", "a1", 50), ("pc2", "a2", 10)]
    assert "usage" not in twin.state()["memory"]


@pytest.fixture(autouse=True)
def _every_turn_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "COUNT_EVERY_S", 0.0)


@pytest.fixture
def twin(tmp_path: Path, clock: Clock) -> Iterator[Twin]:
    twin = Twin(environment_of(tmp_path, "mainpc"), clock)
    with twin:
        yield twin


@pytest.fixture
def open_twin(tmp_path: Path, clock: Clock) -> Iterator[Twin]:
    twin = Twin(environment_of(tmp_path, "mainpc", secure=False), clock)
    with twin:
        yield twin


def host(state: Any, name: str) -> Any:
    (found,) = (each for each in state["hosts"] if each["name"] == name)
    return found


def seconds_ago(moment: str) -> float:
    return time.time() - datetime.fromisoformat(moment).timestamp()


def test_a_twin_without_reports_invents_nothing(twin: Twin) -> None:
    """Both hosts are there with null for every figure; nobody is refused, and nothing has happened."""
    state = twin.state()
    assert [(each["name"], each["agent"]) for each in state["hosts"]] == [("mainpc", NAME), ("pc2", UMRA.name)]
    assert [each["status"] for each in state["hosts"]] == ["HEALTHY", "unknown"]
    for each in state["hosts"]:
        assert (each["stale"], each["limited"], each["gpus"], each["now"]) == (True, None, [], NOTHING)
        assert (each["machine"], each["container"], each["same_machine"]) == (None, None, [])
        assert set(map(len, each["history"].values())) == {0}
    assert state["link"] == {"encrypted": True, "latency_ms": None, "messages_per_s": 0.0}
    assert [agent["name"] for agent in state["agents"]] == [NAME]
    assert [state[part] for part in ("refused", "sessions", "events", "errors", "leases")] == [{}, [], [], [], []]


def test_there_is_a_state_before_the_first_turn(open_twin: Twin) -> None:
    """A page that is opened at the start must not read of an empty state that all is well."""
    state = json.loads(open_twin.answered())
    assert (state["secure"], len(state["hosts"])) == (False, 2)
    assert state.keys() == open_twin.state().keys()


def test_a_host_is_shown_as_it_reported(twin: Twin) -> None:
    """Figures, GPUs, and the course of them, under the host of the key."""
    twin.measured(cpu_percent=10, latency_ms=1.25, vram_used_mb=201, vram_total_mb=163_840, gpus=GPUS, limited=True)
    twin.measured(cpu_percent=20.5, latency_ms=2.5, vram_used_mb=201, vram_total_mb=163_840, gpus=GPUS, limited=True)
    state = twin.state()
    pc2 = host(state, "pc2")
    assert pc2["now"] == {
        "cpu_percent": 20.5,
        "ram_used_mb": 300,
        "ram_total_mb": 1_000,
        "vram_used_mb": 201,
        "vram_total_mb": 163_840,
        "latency_ms": 2.5,
    }
    assert (pc2["stale"], pc2["limited"], pc2["endpoint"]) == (False, True, "pc2:7230")
    more = {"utilisation_percent": None, "temperature_c": None}
    assert pc2["gpus"] == [{"name": "H100", "used_mb": 100 + at, "total_mb": 81_920, **more} for at in range(2)]
    times = pc2["history"].pop("t")
    assert times == sorted(times)
    assert all(abs(time.time() - each) < PATIENCE_S for each in times)
    assert pc2["history"] == {
        "cpu_percent": [10, 20.5],
        "ram_used_mb": [300, 300],
        "vram_used_mb": [201, 201],
        "latency_ms": [1.25, 2.5],
    }
    assert state["link"]["latency_ms"] == 2.5


def test_cards_that_agents_report_are_shown_with_who_does(twin: Twin) -> None:
    """Where no driver measures them: such a host has a GPU; as soon as a driver does, its figures are shown."""
    payload = {"agent_name": UMRA.name, "total_vram_mb": 8_000, "total_vram_used_mb": 7_992, "loaded_models": {}}
    twin.call("update_vram_metrics", payload={**payload, "device_totals_mb": {"cuda:0": 8_000}})
    assert host(twin.state(), "pc2")["gpus"] == []  # nothing is known of a host that is not measured
    twin.measured()
    mainpc, pc2 = twin.state()["hosts"]
    figures = {"used_mb": 7_992, "total_mb": 8_000, "utilisation_percent": None, "temperature_c": None}
    assert pc2["gpus"] == [{"name": "GPU 0", **figures, "reported_by": [UMRA.name]}]
    assert (pc2["now"]["vram_used_mb"], pc2["now"]["vram_total_mb"], mainpc["gpus"]) == (7_992, 8_000, [])
    twin.measured(vram_used_mb=201, vram_total_mb=163_840, gpus=GPUS)
    shown = host(twin.state(), "pc2")
    assert (shown["now"]["vram_used_mb"], ["reported_by" in gpu for gpu in shown["gpus"]]) == (201, [False, False])


def test_machine_and_container_are_shown_separately(twin: Twin) -> None:
    """With the hosts that are on the same machine, and without the boot id."""
    disks = [{"name": name, "used_mb": 1, "free_mb": 2, "total_mb": 3} for name in ("state", "models", "more")]
    container = {"cpu_percent": 1, "cpus": 2, "ram_used_mb": 80, "ram_limit_mb": 512, "network": None}
    machine = {"cpus": 8, "boot_id": "b00t", "virtual_machine": "Docker Desktop", "disks": disks}
    twin.measured(machine=machine, container=container)
    twin.measured(Caller("third", "pc3", frozenset({"agent"}), "SHA256:of-the-third"), machine=machine)
    pc2 = host(twin.state(), "pc2")
    assert (pc2["container"], pc2["same_machine"]) == (container, ["pc3"])
    shown = {name: pc2["machine"][name] for name in machine}
    assert shown == {**machine, "boot_id": None, "disks": disks[:2]}


def test_a_host_that_fell_silent_has_no_figures_but_a_past(twin: Twin, clock: Clock) -> None:
    """Three intervals on, its figures are null; its agent's status is that of the registry."""
    twin.call("register_agent", agent_name=UMRA.name, status="HEALTHY")
    twin.measured(cpu_percent=10, latency_ms=1.25)
    assert (host(twin.state(), "pc2")["status"], host(twin.state(), "pc2")["stale"]) == ("HEALTHY", False)
    clock.let_pass(16)
    state = twin.state()
    pc2 = host(state, "pc2")
    assert (pc2["status"], pc2["stale"], pc2["now"], pc2["history"]["cpu_percent"]) == (
        "NO_RESPONSE",
        True,
        NOTHING,
        [10],
    )
    assert pc2["capacity"] == {"ram_total_mb": 1_000, "vram_total_mb": None}
    assert state["link"]["latency_ms"] is None
    assert {agent["name"]: agent["status"] for agent in state["agents"]} == {NAME: "HEALTHY", UMRA.name: "NO_RESPONSE"}


def test_an_agent_is_shown_as_it_registered(twin: Twin) -> None:
    """Its holder, what it needs, and when it was last seen; no longer once it has left."""
    data = {
        "agent_id": "planner",
        "agent_type": "llm",
        "host": "pc2",
        "port": 7300,
        "dependencies": ["memory"],
        "metadata": {"location": "pc2"},
    }
    twin.call("register_agent", OPERATOR, registration_data=data)
    (planner,) = (agent for agent in twin.state()["agents"] if agent["name"] == "planner")
    assert seconds_ago(planner.pop("last_seen")) < PATIENCE_S
    assert planner == {
        "name": "planner",
        "location": "pc2",
        "status": "HEALTHY",
        "endpoint": "pc2:7300",
        "registered_by": OPERATOR.name,
        "agent_type": "llm",
        "dependencies": ["memory"],
        "gone": False,
    }
    twin.call("unregister", OPERATOR, agent_name="planner")
    assert [agent["name"] for agent in twin.state()["agents"]] == [NAME]


@pytest.mark.parametrize(("link", "caller"), [("twin", UMRA), ("open_twin", NOBODY)], ids=["secured", "open"])
def test_events_and_errors_are_the_newest_and_say_who_wrote_them(
    link: str, caller: Caller, request: pytest.FixtureRequest
) -> None:
    """By the name of the key; on an open link by the name that was given, since nobody has proved one."""
    twin: Twin = request.getfixturevalue(link)
    last = 0
    for number in range(SHOWN + 5):
        event = {"event_id": f"{number}", "event_type": "loaded", "source_agent": UMRA.name, "data": {"n": number}}
        last = twin.call("publish_event", caller, event=event)["seq"]
    error = {"error_id": "x", "agent_id": UMRA.name, "severity": "critical", "error_type": "OOM", "message": "m"}
    number = twin.call("report_error", caller, error=error)["seq"]
    state = twin.state()
    assert [event["data"]["n"] for event in state["events"]] == list(range(SHOWN + 4, 4, -1))
    newest, (failed,) = state["events"][0], state["errors"]
    assert max(seconds_ago(newest.pop("time")), seconds_ago(failed.pop("time"))) < PATIENCE_S
    assert newest == {"seq": last, "type": "loaded", "source": UMRA.name, "data": {"n": SHOWN + 4}}
    said = {"severity": "critical", "type": "OOM", "agent": UMRA.name, "message": "m"}
    assert failed == {"seq": number, **said, "attention": True}


def report(twin: Twin, severity: str, **fields: Any) -> int:
    error = {"error_id": "x", "agent_id": UMRA.name, "error_type": "OOM", "message": "m", **fields}
    return int(twin.call("report_error", error={**error, "severity": severity})["seq"])


def test_errors_that_call_for_attention_come_first(twin: Twin) -> None:
    """Severity error or critical, however many lesser ones came since; all of them are counted."""
    severe = [report(twin, severity) for severity in ("error", "critical", "error")]
    lesser = [report(twin, ("info", "warning")[number % 2]) for number in range(SHOWN + 5)]
    state = twin.state()
    shown = [error["seq"] for error in state["errors"]]
    assert shown == [*reversed(severe), *reversed(lesser)][:SHOWN]
    assert [error["attention"] for error in state["errors"]] == [each in severe for each in shown]
    assert state["counts"]["severe_errors_24h"] == len(severe)
    for _ in range(SHOWN):
        report(twin, "critical")
    assert twin.state()["counts"]["severe_errors_24h"] == len(severe) + SHOWN


def test_after_a_day_an_error_calls_for_attention_no_more(twin: Twin, clock: Clock) -> None:
    """It stays in the list, in its order."""
    old = report(twin, "critical")
    clock.let_pass(RECENT_S + 1)
    lesser, severe = report(twin, "info"), report(twin, "error")
    newest = report(twin, "info")
    state = twin.state()
    assert [(error["seq"], error["attention"]) for error in state["errors"]] == [
        (severe, True),
        (newest, False),
        (lesser, False),
        (old, False),
    ]
    assert state["counts"]["severe_errors_24h"] == 1


def test_an_agent_that_is_silent_for_a_day_is_gone(twin: Twin, clock: Clock) -> None:
    """One that no host of the configuration is for; it comes back with its next heartbeat."""
    for name in (UMRA.name, "visitor"):
        twin.call("register_agent", OPERATOR, agent_name=name, status="HEALTHY")

    def gone() -> tuple[dict[str, bool], int]:
        state = twin.state()
        return {agent["name"]: agent["gone"] for agent in state["agents"]}, state["counts"]["gone"]

    everybody = {NAME: False, UMRA.name: False, "visitor": False}
    assert gone() == (everybody, 0)
    clock.let_pass(RECENT_S - 60)
    assert gone() == (everybody, 0)
    clock.let_pass(61)
    assert gone() == ({**everybody, "visitor": True}, 1)
    twin.call("heartbeat", OPERATOR, agent_name="visitor")
    assert gone() == (everybody, 0)


def test_leases_are_those_that_are_open(twin: Twin) -> None:
    """Each with the time that is left; a released one is gone."""
    twin.measured()
    reserved, committed, released = (
        twin.call("reserve_ram", amount_mb=amount, host="pc2", ttl_s=60)["lease_id"] for amount in (10, 20, 30)
    )
    twin.call("commit_lease", lease_id=committed)
    twin.call("release_lease", lease_id=released)
    state = twin.state()
    first, second = state["leases"]
    ends = datetime.fromisoformat(first.pop("expires_at")).timestamp()
    assert 60 - PATIENCE_S < ends - datetime.fromisoformat(state["time"]).timestamp() <= 61
    assert 60 - PATIENCE_S < first.pop("expires_in_s") <= 60
    assert seconds_ago(first.pop("since")) < PATIENCE_S
    same = {"resource": "ram", "host": "pc2", "holder": UMRA.name, "gpu": None, "capacity_reported_by": None}
    assert first == {**same, "lease_id": reserved, "amount_mb": 10, "state": "reserved"}
    assert 86_400 - PATIENCE_S < second.pop("expires_in_s") <= 86_400
    assert second.pop("expires_at") > state["time"] >= second.pop("since")
    assert second == {**same, "lease_id": committed, "amount_mb": 20, "state": "committed"}


def test_a_lease_of_vram_names_its_card(twin: Twin) -> None:
    twin.measured(
        gpus=[
            {"index": index, "name": "card", "uuid": f"GPU-{index}", "used_mb": 0, "total_mb": 1_000}
            for index in (0, 1)
        ]
    )
    twin.call("reserve_vram", amount_mb=800, host="pc2", ttl_s=60)
    twin.call("reserve_vram", amount_mb=700, host="pc2", ttl_s=60)
    assert [lease["gpu"] for lease in twin.state()["leases"]] == [{"index": n, "uuid": f"GPU-{n}"} for n in (0, 1)]


def test_who_waits_for_memory_and_behind_whom_is_shown(twin: Twin, clock: Clock) -> None:
    """In the order in which they will be served; since when, how long yet, and who has the memory."""
    clock.stand_still()
    card = {"index": 0, "name": "card", "uuid": "GPU-0", "used_mb": 0, "total_mb": 1_000}
    twin.measured(gpus=[card])
    twin.call("reserve_vram", OPERATOR, amount_mb=600, host="pc2", ttl_s=900)
    twin.wait("reserve_vram", amount_mb=800, host="pc2", wait_s=60, ttl_s=60)
    clock.let_pass(20)
    twin.measured(gpus=[card])
    twin.wait("reserve_vram", OPERATOR, amount_mb=700, wait_s=60, priority=9, ttl_s=60)
    state = twin.state()
    now = datetime.fromisoformat(state["time"]).timestamp()
    first, second = state["waiting"]
    assert state["counts"]["waiting"] == 2
    assert (first["holder"], first["amount_mb"], first["priority"], first["host"]) == (OPERATOR.name, 700, 9, None)
    assert (first["behind"], second["behind"]) == ([], [OPERATOR.name])
    assert first["held_by"] == second["held_by"] == [{"holder": OPERATOR.name, "amount_mb": 600}]
    assert [round(datetime.fromisoformat(row["since"]).timestamp() - now) for row in (first, second)] == [0, -20]
    assert [round(datetime.fromisoformat(row["until"]).timestamp() - now) for row in (first, second)] == [60, 40]
    assert second["reason"].startswith("800 MB of VRAM can't be reserved: ")


def test_an_open_link_is_reported_as_open(open_twin: Twin) -> None:
    """Both places that the page looks at say so, and so does a warning."""
    state = open_twin.state()
    assert (state["secure"], state["link"]["encrypted"]) == (False, False)
    assert any("SECURE_ZMQ=0" in warning for warning in state["warnings"])


def test_health_is_that_of_the_health_document(twin: Twin) -> None:
    """Status, warnings, and version; a check that fails is seen on the page."""
    twin.health.warn("test", lambda: ["a key ends soon"])
    document, state = twin.ask("health", UMRA), twin.state()
    for name in ("agent", "secure", "status", "version", "warnings"):
        assert state[name] == document[name]
    assert (state["status"], state["warnings"]) == ("ok", ["a key ends soon"])
    assert 0 <= state["uptime_s"] - document["uptime_s"] < PATIENCE_S
    assert seconds_ago(state["time"]) < PATIENCE_S
    twin.health.add("broken", lambda: "no", essential=True)
    assert twin.state()["status"] == "error"


def test_messages_are_counted_by_the_second(twin: Twin, clock: Clock) -> None:
    """What was answered since the last count, over the time since then."""
    twin.state()
    for _ in range(30):
        twin.ask("ping", UMRA)
    clock.let_pass(10)
    assert twin.state()["link"]["messages_per_s"] == pytest.approx(3, abs=0.3)
    clock.let_pass(10)
    assert twin.state()["link"]["messages_per_s"] == 0


def test_requests_of_the_last_second_are_counted(twin: Twin, clock: Clock, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whether or not somebody reads them: who reads after a minute sees no mean of that minute."""
    clock.stand_still()
    monkeypatch.setattr(state_module, "COUNT_EVERY_S", 1.0)
    twin.state()
    for _ in range(60):
        clock.let_pass(1)
        twin.ask("ping", UMRA)
        twin.assembly.on_tick()
    for _ in range(4):
        twin.ask("ping", UMRA)
    clock.let_pass(1)
    assert twin.state()["link"]["messages_per_s"] == pytest.approx(4, abs=0.3)


@pytest.fixture
def never_stale(monkeypatch: pytest.MonkeyPatch) -> None:
    """However long the test takes, a sample counts as new."""
    monkeypatch.setattr(metrics_module, "STALE_AFTER", 1_000)


@pytest.mark.thorough
@pytest.mark.usefixtures("never_stale")
def test_it_stays_small_whatever_agents_do(open_twin: Twin) -> None:
    """Thousands register with long names and many needs, and large events come: the rest is counted, not sent."""
    long, count = "x" * 240, 2_000
    for number in range(count):
        data = {
            "agent_id": f"{number:04}{long}",
            "agent_type": long,
            "host": long,
            "port": 1,
            "dependencies": [long] * 64,
            "metadata": {"location": long, "more": long * 60},
        }
        open_twin.call("register_agent", NOBODY, registration_data=data)
    gpus = [{"index": index, "name": long, "used_mb": 1, "total_mb": 2} for index in range(64)]
    disks = [{"name": long, "used_mb": 1, "free_mb": 2, "total_mb": 3}] * 8
    machine = {"boot_id": "b00t", "disks": disks, "virtual_machine": long, "swap_used_mb": 100 / 3}
    for number in range(MAX_HOSTS - 2):
        caller = Caller(f"agent-{number}", f"{number:02}{long}", frozenset({"agent"}), "SHA256:of-one")
        for _ in range(KEPT_IN_MEMORY):
            open_twin.measured(
                caller, cpu_percent=100 / 3, latency_ms=4 / 3, vram_used_mb=10**6 / 3, gpus=gpus, machine=machine
            )
    event = {"event_id": "e", "event_type": long, "source_agent": long, "data": {"text": "x" * 50_000}}
    error = {"error_id": "e", "agent_id": long, "severity": "info", "error_type": long, "message": "x" * 16_000}
    for _ in range(SHOWN):
        open_twin.call("publish_event", NOBODY, event=event)
        open_twin.call("report_error", NOBODY, error=error)
    for _ in range(MAX_HOSTS):
        open_twin.assembly.on_tick()  # which forecasts one host
    body = open_twin.body()
    state = json.loads(body)
    assert len(body) < MAX_STATE_BYTES
    assert all(len(host["forecasts"]) == MAX_FORECASTS for host in state["hosts"][2:])
    for part in ("agents", "events", "errors"):
        assert 0 < len(json.dumps(state[part], separators=(",", ":"))) <= MAX_SHOWN_BYTES
    assert state["counts"]["agents"] == count + 1
    assert len(state["agents"]) <= MAX_ROWS
    assert len(state["events"]) > 1
    assert len(state["hosts"]) == MAX_HOSTS


def test_300_busy_agents_are_few_bytes_a_second(twin: Twin, clock: Clock) -> None:
    """A page that is open is sent what they changed, compressed: a heartbeat each in five seconds, and ten events."""
    names = [f"agent-{number:03}" for number in range(298)]
    for name in names:
        twin.call("register_agent", OPERATOR, agent_name=name, status="HEALTHY", location="pc2")
    changes, packer, sizes = Changes(), zlib.compressobj(wbits=31), list[int]()
    document, number = None, 0
    for second in range(12):
        for name in names[second % 5 :: 5]:
            clock.let_pass(1 / 60)
            twin.call("heartbeat", OPERATOR, agent_name=name)
        for at in range(10):
            data = {"step": 10 * second + at, "value": 1.37 * at, "text": "x" * 80}
            event = {"event_id": f"e{second}-{at}", "event_type": "moved", "source_agent": names[at], "data": data}
            twin.call("publish_event", OPERATOR, event=event)
        document, message = changes.since(document, Snapshot(number := number + 1, twin.body()))
        sizes.append(len(packer.compress(message) + packer.flush(zlib.Z_SYNC_FLUSH)))
    assert sizes[0] < MAX_FIRST_BYTES
    assert 100 < max(sizes[1:]) < MAX_BYTES_A_SECOND


def test_of_too_many_agents_the_troubled_are_shown(twin: Twin) -> None:
    """Those of the two hosts are among them in any case; by name, as where all of them fit."""
    twin.call("register_agent", agent_name=UMRA.name, status="HEALTHY")
    for number in range(MAX_ROWS + 100):
        status = "BROKEN" if number % 40 == 39 else "HEALTHY"
        twin.call("register_agent", OPERATOR, agent_name=f"agent-{number:03}", status=status)
    state = twin.state()
    shown = {agent["name"]: agent["status"] for agent in state["agents"]}
    assert (len(shown), state["counts"]["agents"]) == (MAX_ROWS, MAX_ROWS + 102)
    assert list(shown) == sorted(shown)
    assert {NAME, UMRA.name} <= shown.keys()
    assert list(shown.values()).count("BROKEN") == (MAX_ROWS + 100) // 40


@pytest.mark.thorough
def test_sessions_refusals_and_figures_of_two_real_hosts(tmp_path: Path) -> None:
    """Who is connected with which key, who was refused and why, and what both machines measure."""
    with Hosts(tmp_path, metrics_interval_s=0.3) as hosts:
        mainpc, _ = hosts.start_both()
        address = hosts.address(SDT)
        assert isinstance(address, SecuredAddress)
        intruders = (
            SecuredAddress(address.address, new_pair("stranger", "pc9"), address.server_key),
            UnencryptedAddress(address.address),
        )
        for intruder in intruders:
            with Client(intruder) as client, pytest.raises(ConnectionRefused):
                client.call("ping")

        def state() -> Any:
            return mainpc.http("/api/state")[1]

        def settled() -> Any:
            """The state, and who is connected, once both tell of the same and nothing is missing."""
            shown, peers = state(), client.call("get_peers")
            handshakes = peers["handshakes"].items()
            counted = {cause: count for cause, count in handshakes if count and cause != "accepted"}
            names = [{session["name"] for session in sessions} for sessions in (shown["sessions"], peers["peers"])]
            well = all(each["status"] == "HEALTHY" and not each["stale"] for each in shown["hosts"])
            measured = all(shown["link"].values()) and well
            same = names[0] == names[1] and shown["refused"] == counted
            return measured and len(counted) >= 2 and same and (shown, peers)

        with hosts.client(SDT) as client:
            client.call("ping")
            shown, peers = wait_until(settled, PATIENCE_S, "two refusals are counted, and hosts and link are measured")
        assert shown["refused"]["key_not_authorized"] >= 1
        by_name = {session["name"]: session for session in shown["sessions"]}
        assert by_name.keys() == {peer["name"] for peer in peers["peers"]}
        for peer in peers["peers"]:
            session = by_name[peer["name"]]
            assert [session[key] for key in ("host", "roles", "fingerprint")] == [
                peer[key] for key in ("host", "roles", "fingerprint")
            ]
            assert 0 <= session["key_age_s"] < 3_600
            assert session["key_age_s"] + session["key_left_s"] == pytest.approx(YEAR_S, abs=3_600)
        assert by_name[UMRA_NAME]["sessions"] >= 1
        assert seconds_ago(by_name[UMRA_NAME]["last_seen"]) < PATIENCE_S
        assert 0 < shown["link"]["latency_ms"] < 1_000
        for each in shown["hosts"]:
            assert each["status"] == "HEALTHY"
            assert 0 <= each["now"]["cpu_percent"] <= 100
            assert 0 < each["now"]["ram_used_mb"] <= each["now"]["ram_total_mb"]
            assert each["now"]["ram_total_mb"] <= psutil.virtual_memory().total / 2**20 + 1
            assert each["history"]["t"]
        assert {agent["name"] for agent in shown["agents"]} == {SDT, UMRA_NAME}
        time.sleep(5.5)  # nobody reads it, so after some seconds it is made once a minute
        asked = time.time()
        assert datetime.fromisoformat(state()["time"]).timestamp() > asked - 0.1
