"""The registry: registrations survive a restart, silence turns into NO_RESPONSE, a rollback leaves nothing."""

from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.system_digital_twin.twin import OPERATOR, SDT, TTL_S, UMRA, Clock, Twin
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.system_digital_twin.registry.registry import AgentRecord

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
TEXT = st.text(min_size=1, max_size=256)
RECORD = AgentRecord(name=UMRA.name, status="NEW", location="pc2", registered_by=UMRA.name, last_updated=1.0)


def test_registering_again_replaces_the_record_and_counts(twin: Twin) -> None:
    """The newer registration is the one that is there, and its revision says how many there were."""
    for port in (7230, 7231, 7232):
        assert twin.register(port=port)["status"] == "success"
    info = twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]
    assert (info["port"], info["revision"]) == (7232, 3)
    assert len(twin.ask("get_registered_agents")["agents"]) == 1


def test_an_agent_is_silent_after_its_ttl_and_not_before(twin: Twin, clock: Clock) -> None:
    """15 s of silence are allowed; what follows reads as NO_RESPONSE everywhere."""
    twin.register()
    clock.let_pass(TTL_S - 1)
    assert twin.status_of(UMRA.name) == "HEALTHY"
    clock.let_pass(1.001)
    assert twin.status_of(UMRA.name) == "NO_RESPONSE"
    assert twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]["status"] == "NO_RESPONSE"
    assert twin.ask("discover")["agents"][0]["status"] == "NO_RESPONSE"
    assert twin.ask("get_registered_agents")["agents"][0]["status"] == "NO_RESPONSE"
    assert twin.ask("get_ok_agents")["agents"] == []


def test_only_an_agent_that_sent_heartbeats_can_die(twin: Twin, clock: Clock) -> None:
    """A program that only registers may be alive; and after a start, each agent's first heartbeat is awaited."""
    twin.register()
    clock.let_pass(TTL_S + 1)
    assert not twin.registry.has_died(UMRA.name)
    twin.ask("heartbeat", agent_name=UMRA.name)
    assert not twin.registry.has_died(UMRA.name)
    clock.let_pass(TTL_S + 1)
    assert twin.registry.has_died(UMRA.name)
    twin.reopen()
    assert not twin.registry.has_died(UMRA.name)
    twin.ask("unregister", agent_name=UMRA.name)
    assert not twin.registry.has_died("nobody")


def test_an_agent_that_stops_is_silent_at_once(twin: Twin) -> None:
    """Its next heartbeat revives it. Until its TTL is over it has not died: it may only start again."""
    twin.register()
    assert twin.ask("heartbeat", agent_name=UMRA.name, stopping=True)["status"] == "success"
    assert (twin.status_of(UMRA.name), twin.registry.has_died(UMRA.name)) == ("NO_RESPONSE", False)
    twin.ask("heartbeat", agent_name=UMRA.name)
    assert twin.status_of(UMRA.name) == "HEALTHY"
    twin.ask("heartbeat", agent_name=UMRA.name, status="BUSY", stopping=True)
    assert twin.status_of(UMRA.name) == "NO_RESPONSE"
    twin.reopen()
    assert twin.registry.has_stopped(UMRA.name), "it is known after a restart of mainpc"
    twin.ask("heartbeat", agent_name=UMRA.name)
    twin.reopen()
    assert not twin.registry.has_stopped(UMRA.name)


def test_an_agent_that_stopped_has_died_after_its_ttl(twin: Twin, clock: Clock) -> None:
    twin.register()
    twin.ask("heartbeat", agent_name=UMRA.name, stopping=True)
    clock.let_pass(TTL_S + 1)
    assert twin.registry.has_died(UMRA.name)


def test_a_heartbeat_revives_with_the_registered_status(twin: Twin, clock: Clock) -> None:
    """An agent whose heartbeats resume keeps what it registered; no registration is needed."""
    twin.ask("register_agent", agent_name=UMRA.name, status="BUSY")
    clock.let_pass(TTL_S + 1)
    assert twin.status_of(UMRA.name) == "NO_RESPONSE"
    assert twin.ask("heartbeat", agent_name=UMRA.name)["status"] == "success"
    assert twin.status_of(UMRA.name) == "BUSY"


def test_heartbeats_keep_an_agent_alive(twin: Twin, clock: Clock) -> None:
    """As many TTLs as one likes may pass, as long as no silence is longer than one."""
    twin.register()
    for _ in range(5):
        clock.let_pass(TTL_S - 1)
        twin.ask("heartbeat", agent_name=UMRA.name)
    assert twin.status_of(UMRA.name) == "HEALTHY"
    assert twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]["revision"] == 1


def test_a_heartbeat_with_a_status_replaces_it_for_good(twin: Twin) -> None:
    """The new status is what is read from then on, after a restart too."""
    twin.register()
    twin.ask("heartbeat", agent_name=UMRA.name, status="DEGRADED")
    assert twin.status_of(UMRA.name) == "DEGRADED"
    twin.reopen()
    assert twin.status_of(UMRA.name) == "DEGRADED"


def test_a_heartbeat_of_nobody_is_not_found(twin: Twin) -> None:
    """It does not register: its sender has to, and learns so."""
    reply = twin.ask("heartbeat", agent_name=UMRA.name)
    assert (reply["status"], reply["code"]) == ("error", "not_found")
    assert twin.rows() == {}


@pytest.mark.parametrize("by_seconds", [-86_400.0, 86_400.0])
def test_a_set_wall_clock_silences_and_revives_nobody(twin: Twin, clock: Clock, by_seconds: float) -> None:
    """Silence is counted by the clock that nobody sets."""
    twin.register()
    clock.set_wall_clock(by_seconds)
    assert twin.status_of(UMRA.name) == "HEALTHY"
    clock.let_pass(TTL_S + 1)
    assert twin.status_of(UMRA.name) == "NO_RESPONSE"


def test_last_seen_is_the_wall_clock_time_of_the_heartbeat(twin: Twin, clock: Clock) -> None:
    """What is shown follows the heartbeats, to the millisecond, and stays when they stop."""

    def last_seen() -> str:
        return str(twin.ask("get_all_agents")["agents"][UMRA.name]["last_seen"])

    twin.register()
    registered = last_seen()
    clock.let_pass(10)
    assert last_seen() == registered
    heartbeat_at = twin.ask("heartbeat", agent_name=UMRA.name)["timestamp"]
    assert last_seen() == heartbeat_at
    apart = datetime.fromisoformat(heartbeat_at) - datetime.fromisoformat(registered)
    assert 9.9 < apart.total_seconds() < 12


def test_a_registration_survives_a_restart_whole(twin: Twin) -> None:
    """Every field, and the revision, which goes on counting."""
    for _ in range(2):
        twin.register(
            health_check_port=8230,
            capabilities=["twins", "context"],
            dependencies=["SystemDigitalTwin"],
            metadata={"script_path": "/opt/umra.py", "nested": {"list": [1, 2.5, None, True, "é"]}},
        )
    before = twin.ask("get_registered_agents")
    twin.reopen()
    assert twin.ask("get_registered_agents") == before
    twin.register()
    assert twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]["revision"] == 3


def test_time_that_the_agent_was_down_counts_as_silence(twin: Twin, clock: Clock) -> None:
    """A restart neither revives an agent that went silent long ago nor expires one whose heartbeat just arrived."""
    twin.register()
    twin.reopen()
    assert twin.status_of(UMRA.name) == "HEALTHY"
    clock.let_pass(TTL_S + 1)
    twin.reopen()
    assert twin.status_of(UMRA.name) == "NO_RESPONSE"


def test_a_heartbeat_in_the_future_counts_as_now(twin: Twin, clock: Clock) -> None:
    """After a restart with a wall clock that was set back, an agent has its TTL and not a day."""
    twin.register()
    clock.set_wall_clock(-86_400)
    twin.reopen()
    assert twin.status_of(UMRA.name) == "HEALTHY"
    clock.let_pass(TTL_S + 1)
    assert twin.status_of(UMRA.name) == "NO_RESPONSE"


def test_an_unregistered_agent_is_gone_for_good(twin: Twin) -> None:
    """It is in no answer, nor back after a restart, and starts from revision 1 when it returns."""
    twin.register()
    twin.register()
    assert twin.ask("unregister", agent_name=UMRA.name)["status"] == "success"
    for _ in range(2):
        assert twin.ask("get_all_agents")["agents"] == {}
        assert twin.ask("get_agent_info", agent_name=UMRA.name)["code"] == "not_found"
        assert twin.ask("unregister", agent_name=UMRA.name)["code"] == "not_found"
        twin.reopen()
    twin.register()
    assert twin.ask("get_agent_info", agent_name=UMRA.name)["agent_info"]["revision"] == 1


@pytest.mark.parametrize("known", [False, True])
def test_the_last_status_of_a_batch_is_stored(twin: Twin, known: bool) -> None:
    """A row is written once, at the end of the transaction, and as it is then: in the file as in memory."""
    if known:
        twin.register()
    comes = ("register_agent", UMRA, {"agent_name": UMRA.name, "status": "HEALTHY"})
    changes = ("heartbeat", UMRA, {"agent_name": UMRA.name, "status": "DEGRADED"})
    goes = ("unregister", UMRA, {"agent_name": UMRA.name})
    assert [reply["status"] for reply in twin.ask_together(comes, changes, goes)] == ["success"] * 3
    assert twin.rows() == {}
    assert [reply["status"] for reply in twin.ask_together(comes, goes, comes, changes)] == ["success"] * 4
    before = twin.ask("get_registered_agents")["agents"]
    assert [(agent["name"], agent["status"], agent["revision"]) for agent in before] == [(UMRA.name, "DEGRADED", 1)]
    twin.reopen()
    assert twin.ask("get_registered_agents")["agents"] == before
    assert [reply["status"] for reply in twin.ask_together(goes, comes)] == ["success"] * 2
    twin.reopen()
    assert twin.status_of(UMRA.name) == "HEALTHY"


def test_a_registration_that_cant_be_written_is_refused(twin: Twin) -> None:
    """What no request can bring would refuse its batch, and end no agent."""
    twin.register()
    before = twin.ask("get_registered_agents")

    def batch() -> None:
        with twin.database.transaction():
            twin.registry.put(
                AgentRecord(
                    name="odd",
                    status="HEALTHY",
                    location="pc2",
                    registered_by="odd",
                    last_updated=0.0,
                    metadata={"odd": object()},
                )
            )

    with pytest.raises(StoreUnavailable, match="can't be written"):
        batch()
    assert twin.ask("get_registered_agents") == before
    assert list(twin.rows()) == [UMRA.name]
    assert twin.ask("heartbeat", agent_name=UMRA.name)["status"] == "success"


def test_keeping_itself_alive_writes_nothing(twin: Twin, clock: Clock) -> None:
    """The registry's own agent lives as long as its process does, without a write five times a second."""
    twin.register(SDT)
    rows = twin.database.execute("SELECT * FROM agents").fetchall()
    clock.let_pass(TTL_S + 1)
    twin.registry.keep_alive(SDT.name)
    assert twin.status_of(SDT.name) == "HEALTHY"
    assert twin.database.execute("SELECT * FROM agents").fetchall() == rows


@pytest.mark.parametrize(
    ("change", "known"),
    [("register", False), ("register", True), ("heartbeat", True), ("heartbeat with status", True), ("remove", True)],
)
def test_a_rolled_back_change_leaves_nothing_changed(twin: Twin, clock: Clock, change: str, known: bool) -> None:
    """Whatever a transaction did to the registry, its failure takes back, in what is read and in the file."""
    twin.register(SDT)
    if known:
        twin.register()
    before = twin.ask("get_registered_agents"), twin.ask("discover"), twin.rows()
    clock.let_pass(5)  # so that a sign of life that stayed would show

    def failing() -> None:
        with twin.database.transaction():
            match change:
                case "register":
                    twin.registry.put(RECORD)
                case "heartbeat with status":
                    twin.registry.heartbeat(UMRA.name, "BUSY")
                case "heartbeat":
                    twin.registry.heartbeat(UMRA.name, None)
                case "remove":
                    twin.registry.remove(UMRA.name)
            assert (twin.ask("get_registered_agents"), twin.ask("discover")) != before[:2]
            raise KeyError("a fault of the program")

    with pytest.raises(KeyError):
        failing()
    assert (twin.ask("get_registered_agents"), twin.ask("discover"), twin.rows()) == before
    twin.reopen()
    assert twin.rows() == before[2]


def test_a_failing_request_takes_back_itself_alone(twin: Twin) -> None:
    """In one batch a refused registration leaves those before and after it standing."""
    replies = twin.ask_together(
        ("register_agent", UMRA, {"agent_name": UMRA.name, "status": "HEALTHY"}),
        ("register_agent", UMRA, {"agent_name": "SomebodyElse", "status": "HEALTHY"}),
        ("heartbeat", OPERATOR, {"agent_name": "Unknown"}),
        ("register_agent", SDT, {"agent_name": SDT.name, "status": "HEALTHY"}),
    )
    assert [reply.get("code", "success") for reply in replies] == ["success", "not_granted", "not_found", "success"]
    twin.reopen()
    assert set(twin.rows()) == {UMRA.name, SDT.name}


def test_a_retry_is_answered_and_not_executed_again(twin: Twin) -> None:
    """The same request_id gets the same reply, also after a restart; another body under it is an error."""
    data = {"agent_id": UMRA.name, "agent_type": "memory", "host": "pc2", "port": 7230}
    first = twin.ask("register_agent", registration_data=data, request_id="r1")
    assert twin.ask("register_agent", registration_data=data, request_id="r1") == first
    twin.reopen()
    assert twin.ask("register_agent", registration_data=data, request_id="r1") == first
    assert twin.rows()[UMRA.name]["revision"] == 1
    other = twin.ask("register_agent", registration_data={**data, "port": 1}, request_id="r1")
    assert other["code"] == "request_id_reused"
    assert twin.rows()[UMRA.name]["port"] == 7230


@settings(max_examples=100)
@given(
    name=TEXT.filter(lambda name: name != SDT.name), status=TEXT, metadata=st.dictionaries(st.text(), JSON, max_size=3)
)
@pytest.mark.thorough
def test_accepted_values_survive_a_restart_unchanged(
    tmp_path_factory: pytest.TempPathFactory, name: str, status: str, metadata: dict[str, object]
) -> None:
    """Any text and any JSON that a registration was answered `success` for."""
    path: Path = tmp_path_factory.mktemp("registry") / "db"
    with Twin(path, Clock()) as twin:
        assert twin.register(OPERATOR, name, metadata=metadata)["agent_id"] == name
        assert twin.ask("heartbeat", OPERATOR, agent_name=name, status=status)["status"] == "success"
        before = twin.ask("get_registered_agents")["agents"]
        twin.reopen()
        assert twin.ask("get_registered_agents")["agents"] == before
        assert (before[0]["name"], before[0]["status"], before[0]["metadata"]) == (name, status, metadata)


@pytest.mark.parametrize("by_seconds", [-3_600, 3_600])
def test_a_takeover_by_another_clock_gives_a_whole_ttl(twin: Twin, clock: Clock, by_seconds: float) -> None:
    """To who was heard from then; who was silent before is silent still."""
    twin.register(OPERATOR, "gone")
    clock.let_pass(3 * TTL_S)
    twin.register()
    clock.set_wall_clock(by_seconds)
    twin.logged = True
    twin.reopen()
    clock.let_pass(TTL_S - 1)
    assert (twin.status_of(UMRA.name), twin.status_of("gone")) == ("HEALTHY", "NO_RESPONSE")
    clock.let_pass(2)
    assert twin.status_of(UMRA.name) == "NO_RESPONSE"


def test_an_unregistration_that_is_undone_forgets_nothing(twin: Twin) -> None:
    """Heartbeats alone report an agent's trust document, and the next may be 5 s away."""
    twin.register()
    twin.ask("heartbeat", agent_name=UMRA.name, trust_revision="r1")

    def batch() -> None:
        with twin.database.transaction():
            twin.registry.remove(UMRA.name)
            assert twin.registry._trust.get(UMRA.name) is None
            raise StoreUnavailable("no space")

    with pytest.raises(StoreUnavailable):
        batch()
    assert twin.registry._trust.get(UMRA.name) == "r1"


def test_a_heartbeat_takes_back_no_revision_of_get_trust(twin: Twin) -> None:
    """An agent with sockets of its own may send heartbeats, which don't know what its thread has applied."""
    twin.register()
    twin.registry.note_applied(UMRA.name, "r1")
    twin.ask("heartbeat", agent_name=UMRA.name)
    assert twin.registry._trust.get(UMRA.name) == "r1"
    twin.ask("heartbeat", agent_name=UMRA.name, trust_revision="r2")
    twin.ask("heartbeat", agent_name=UMRA.name)
    assert twin.registry._trust.get(UMRA.name) is None
    twin.registry.note_applied(UMRA.name, "r3")
    twin.ask("unregister", agent_name=UMRA.name)
    twin.register()
    assert twin.registry._trust.get(UMRA.name) is None
