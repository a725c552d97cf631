"""Every action of both agents against the real stack, called with a granted key, with what its answer must have."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
import zmq

from tests.containers.stack import Stack
from tests.unit.schema.json_schema import Schema, closed
from tests.waiting import PATIENCE_S, wait_until
from twinhost.schema import replies_of, schema_of
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotFound, RequestError

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
HOSTS = {SDT: "mainpc", UMRA: "pc2"}
OTHERS_KEY = {SDT: "pc2", UMRA: "mainpc"}  # the folder of the agent that asks
Reply = dict[str, Any]


@dataclass(frozen=True)
class Call:
    """One call; `needs` makes what it refers to, with the same client."""

    action: str
    has: tuple[str, ...] = ()
    fields: dict[str, Any] = field(default_factory=dict)
    needs: Callable[[Client], dict[str, Any]] = lambda _: {}
    by: str | None = None  # a folder of keys; the other agent's where it is not said
    refused: type[RequestError] | None = None  # where this machine has nothing that it could be done with


def measured(client: Client) -> bool:
    hosts = client.call("get_metrics")["metrics"]["hosts"]
    return all(host["ram_usage_mb"] is not None for host in hosts.values())


def lease(client: Client) -> dict[str, Any]:
    return {"lease_id": client.call("reserve_ram", amount_mb=1, ttl_s=30)["lease_id"]}


def pattern(client: Client) -> dict[str, Any]:
    reply = client.call("add_error_pattern", error_type="t", pattern=r"lost contact with \w+", solution="ask again")
    return {"pattern_id": reply["pattern_id"]}


def memory(client: Client) -> dict[str, Any]:
    return {"memory_id": client.call("store_memory", content="c", keywords=["k"])["memory_id"]}


def interaction(client: Client) -> dict[str, Any]:
    return {"session_id": "table", "ids": [client.call("add_interaction", **SAID)["interaction_id"]]}


def twin(client: Client) -> dict[str, Any]:
    client.call("update_twin", user_id="table", twin_data={"a": 1})
    return {"user_id": "table"}


def proposal(client: Client) -> dict[str, Any]:
    for number in range(3):
        client.call("get_error_solution", error_message=f"the flux capacitor overheated {number} times")
    return {"proposal_id": client.call("get_pattern_proposals")["proposals"][0]["proposal_id"]}


def reported(client: Client) -> dict[str, Any]:
    client.call("report_error", error=ERROR)
    return {"error_id": ERROR["error_id"]}


def backup(client: Client) -> dict[str, Any]:
    return {"backup_id": client.call("begin_backup")["backup_id"]}


EVENT = {"event_id": "e", "event_type": "t", "source_agent": UMRA, "data": {"n": 1}}
ERROR = {"error_id": "x", "agent_id": UMRA, "severity": "info", "error_type": "t", "message": "m"}
WHOLE = {"agent_id": UMRA, "agent_type": "memory", "host": "pc2", "port": 7230, "health_check_port": 8230}
MODELS = {"m": {"device": "cuda:0", "vram_usage_mb": 1}}
VRAM = {"agent_name": UMRA, "total_vram_mb": 8, "total_vram_used_mb": 1, "loaded_models": MODELS}
SAID: dict[str, Any] = {"session_id": "table", "interaction_type": "user_query", "content": "Hello?"}

CALLS = {
    SDT: [
        Call("ping", ("message", "timestamp")),
        Call("health", ("ready", "checks", "secure")),
        Call("health_check", ("ready", "checks", "secure")),
        Call("get_schema", ("requests", "replies")),
        Call("register_agent", ("message", "agent_id"), {"registration_data": WHOLE}),
        Call("heartbeat", ("timestamp",), {"agent_name": UMRA}),
        Call("discover", ("agents",), {"agent_type": "memory"}),
        Call("get_all_agents", ("agents",)),
        Call("get_registered_agents", ("agents",)),
        Call("get_ok_agents", ("count", "agents")),
        Call("get_agent_info", ("agent_info",), {"agent_name": UMRA}),
        Call("get_agent_endpoint", ("host", "port", "public_key"), {"agent_name": UMRA}),
        Call("get_metrics", ("metrics",)),
        Call("get_history", ("history",), {"resolution": "minute"}),
        Call("simulate_load", ("recommendation", "projected_ram_mb"), {"load_type": "ram", "value": 1, "host": "pc2"}),
        Call("get_forecast", ("forecasts",), {"resource": "ram"}),
        Call("report_metrics", ("host",), {"ram_used_mb": 50, "ram_total_mb": 512}),
        Call("update_vram_metrics", ("devices",), {"payload": VRAM}),
        Call("reserve_ram", ("lease_id",), {"amount_mb": 1, "ttl_s": 1}),
        Call("reserve_vram", ("lease_id", "gpu"), {"amount_mb": 1, "ttl_s": 1}),  # of what was just reported
        Call("commit_lease", needs=lease),
        Call("release_lease", needs=lease),
        Call("list_leases", ("leases",)),
        Call("publish_event", ("event_id", "seq"), {"event": EVENT}),
        Call("report_error", ("error_id", "seq"), {"error": ERROR}),
        Call("get_events", ("events", "more", "last_seq")),
        Call("get_errors", ("errors", "more", "last_seq")),
        Call("check_subscription", ("topics",), {"topics": ["EVENT:"]}),
        Call("get_error_counts", ("total", "by_type", "groups")),
        Call("acknowledge_errors", ("acknowledged",), needs=reported, by="operator"),
        Call("get_attention", ("level", "headline", "items")),
        Call("acknowledge_trouble", fields={"id": "gpu_hot:pc2/gpu0"}, by="operator", refused=NotFound),
        Call("get_trust", ("revision",)),
        Call("get_peers", ("peers",), by="operator"),
        Call("get_audit", ("lines",), by="operator"),
        Call("unregister", ("message",), {"agent_name": UMRA}),
    ],
    UMRA: [
        Call("ping", ("ready", "total_twins", "total_sessions", "total_error_patterns")),
        Call("health", ("ready", "request_count", "error_count", "last_request_time")),
        Call("health_check", ("ready", "outbox")),
        Call("get_schema", ("requests", "replies")),
        Call("update_twin", ("revision",), {"user_id": "table", "twin_data": {}}),
        Call("get_twin", ("twin",), needs=twin),
        Call("patch_twin", ("revision",), {"patch": {"a": None}}, needs=twin),
        Call("get_twin_history", ("changes", "more", "next_before"), needs=twin),
        Call("delete_twin", ("revision",), needs=twin),
        Call("add_interaction", ("interaction_id", "importance"), SAID),
        Call("get_context", ("context",), {"session_id": "table", "max_tokens": 80, "query": "table"}),
        Call("search_memory", ("results",), {"query": "hello"}),
        Call("get_interactions", ("interactions", "more"), {"session_id": "table"}),
        Call("delete_interactions", ("deleted",), needs=interaction),
        Call("clear_context", ("cleared",), {"session_id": "table"}),
        Call("store_memory", ("memory_id",), {"content": "c"}),
        Call("get_memory", ("memory",), needs=memory),
        Call("query_memory", ("memories",), {"keywords": ["k"]}),
        Call("reinforce_memory", ("strength", "recovered"), needs=memory),
        Call("restore_memory", ("memory",), needs=memory),
        Call("delete_memory", needs=memory),
        Call("sync_memories", ("added", "changed", "unchanged"), {"memories": []}),
        Call("memory_status", ("total_memories",)),
        Call("memory_history", ("memories",), needs=memory),
        Call("memory_audit", ("never_read", "contradictory")),
        Call("add_error_pattern", ("pattern_id",), {"error_type": "t", "pattern": "x+y"}),
        Call("get_error_solution", ("solution", "error_type"), {"error_message": "lost contact with pc3"}),
        Call("report_solution_outcome", ("success_rate",), {"success": True}, needs=pattern),
        Call("list_error_patterns", ("patterns",)),
        Call("delete_error_pattern", needs=pattern),
        Call("get_pattern_proposals", ("proposals",)),
        Call("dismiss_pattern_proposal", needs=proposal),
        Call("resolve_conflict", ("resolved",), {"op_id": "o", "priority": "high"}),
        Call("coordinate_memory", ("message",), {"agent_name": SDT, "operation": "ping", "data": {}}),
        Call("get_peers", ("peers",), by="operator"),
        Call("list_spaces", ("spaces", "more")),
        Call("delete_space", ("existed",), {"name": "private"}, by="operator"),
        Call("memory_by", ("written",), {"name": SDT}, by="operator"),
        Call("quarantine_memory", ("new",), {"name": "nobody"}, by="operator"),
        Call("list_quarantine", ("quarantined",), by="operator"),
        Call("release_memory", ("name",), {"name": "nobody"}, by="operator"),
        Call("backup_status", needs=backup, by="operator"),
        Call("get_audit_heads", ("heads", "gaps", "fault"), by="operator"),
        Call("accept_audit_log", ("accepted",), by="operator"),
        Call("get_attention", ("level", "headline", "items"), by="operator"),
    ],
}
REPLIES = {agent: Schema(closed(msgspec.json.decode(msgspec.json.encode(replies_of(agent))))) for agent in CALLS}
ELSEWHERE = {  # what takes more than one call, or ends the agent
    SDT: {"enrol", "propose_key", "confirm_key", "retire_keys"},
    UMRA: {"begin_backup", "read_backup", "begin_restore", "write_restore", "finish_restore", "acknowledge_damage"},
}


@pytest.fixture(scope="module")
def clients(stack: Stack) -> Iterator[Callable[[str, Call], Client]]:
    """Clients of both agents, by the key that they use."""
    with stack.client("mainpc") as mainpc:
        wait_until(lambda: measured(mainpc), PATIENCE_S, "both hosts are measured")
    made: dict[tuple[str, str], Client] = {}

    def client(agent: str, call: Call) -> Client:
        key = (agent, call.by or OTHERS_KEY[agent])
        if key not in made:
            made[key] = stack.client(HOSTS[agent], key[1])
        return made[key]

    yield client
    for each in made.values():
        each.close()


@pytest.mark.parametrize("agent", CALLS)
def test_no_action_is_left_out(agent: str) -> None:
    """What the agents' schemas have, and nothing else."""
    named = {call.action for call in CALLS[agent]} | ELSEWHERE[agent]
    assert named == schema_of(agent)["discriminator"]["mapping"].keys()


@pytest.mark.parametrize(
    ("agent", "call"),
    [pytest.param(agent, call, id=f"{agent}-{call.action}") for agent, calls in CALLS.items() for call in calls],
)
def test_it_answers(clients: Callable[[str, Call], Client], agent: str, call: Call) -> None:
    """With what its answer must have, no field that its schema lacks, and the success status that clients know."""
    client = clients(agent, call)
    fields = {**call.fields, **call.needs(client)}
    if call.refused is not None:
        with pytest.raises(call.refused):
            client.call(call.action, deadline_s=10, request_id=None, **fields)
        return
    reply = client.call(call.action, deadline_s=10, request_id=None, **fields)
    assert set(call.has) <= reply.keys()
    assert reply["status"] in {"ok", "success", "degraded"}
    answered_by, asked_for = agent, call.action
    if call.action == "coordinate_memory":  # the other agent's answer, as it is
        answered_by, asked_for = call.fields["agent_name"], call.fields["operation"]
    assert REPLIES[answered_by].allows({asked_for: reply}), reply


def test_mainpcs_older_dialects_are_served_unchanged(stack: Stack) -> None:
    """A REQ socket with CURVE, bare commands, and JSON commands, as their clients have them."""
    keys = stack.keys("pc2").own_keys
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.REQ)
    try:
        address = stack.secured("mainpc", keys)
        socket.curve_serverkey = address.server_key.z85
        socket.curve_secretkey, socket.curve_publickey = keys.secret_z85, keys.public.z85
        socket.rcvtimeo, socket.linger = int(PATIENCE_S * 1_000), 0
        socket.connect(address.address)

        def ask(message: bytes) -> Reply:
            socket.send(message)
            reply: Reply = json.loads(socket.recv())
            return reply

        assert ask(b"ping")["agent"] == SDT
        registered = {"command": "REGISTER", "payload": {"name": UMRA, "location": "pc2", "ip": "pc2", "port": 7230}}
        assert ask(json.dumps(registered).encode())["status"] == "SUCCESS"
        assert ask(b"GET_ALL_STATUS")[UMRA]["status"] == "HEALTHY"
        found = ask(json.dumps({"command": "DISCOVER", "payload": {"name": UMRA}}).encode())
        assert (found["status"], found["payload"]["ip"], found["payload"]["port"]) == ("SUCCESS", "pc2", 7230)
        assert ask(b'{"command": "DISCOVER", "payload": {"name": "nobody"}}')["status"] == "NOT_FOUND"
        assert ask(b'{"command": "DISCOVER", "payload": {}}')["status"] == "ERROR"
    finally:
        context.destroy(linger=0)
