"""One agent's key that sends as fast as it can leaves another's requests in time, whatever it asks for.

The goal is a p99 of 25 ms on a machine that does nothing else; docs/reference/reliability.md has what was measured.
Here agents, both callers, and whatever else runs share two cores, so the limit is wider, and the best of some windows
counts. Before identities took turns, it was 70 to 110 ms for changes, and seconds for searches and contexts.
"""

from collections.abc import Iterator

import pytest

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from twinhost.adversary.flood import Flood, watched
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import KeyOwner, KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

LIMIT_MS = 60.0
QUIETS = 2  # times the p99 in quiet, which is added to the limit
WINDOWS = 4
TEXTS = 4_000
TEXT = "report {0} of the garage door says temperature {0} in the kitchen"
SAID = {"interaction_type": "user_query", "speaker": "bob"}
CALLS = {
    SDT: [("ping", {}), ("get_agent_info", {"agent_name": SDT}), ("heartbeat", {"agent_name": "polite"})],
    UMRA: [
        ("ping", {}),
        ("get_memory", {"memory_id": "mine"}),
        ("add_interaction", {"session_id": "polite", "content": "I am well", **SAID}),
    ],
}
ERROR = {
    "error_id": "NUMBER",
    "agent_id": "greedy",
    "severity": "error",
    "error_type": "E",
    "message": "disk full " * 40,
}
LARGE_TEXT = " ".join(f"word{number}" for number in range(7_000))  # of 62 kB
OWN_TURNS = 1_300  # of the greedy key in one session
RECORD = {"content": TEXT.format("NUMBER"), "last_accessed": "2026-11-27T08:00:00+00:00"}
FLOODS: dict[str, tuple[str, Flood]] = {
    "durable reports": (SDT, Flood([{"action": "report_error", "error": ERROR}])),
    "schemas": (UMRA, Flood([{"action": "get_schema"}], in_flight=4)),
    "interactions": (UMRA, Flood([{"action": "add_interaction", "session_id": "s", "content": "flat NUMBER", **SAID}])),
    "searches": (UMRA, Flood([{"action": "search_memory", "query": "garage door temperature NUMBER"}], in_flight=4)),
    "contexts": (
        UMRA,
        Flood(
            [{"action": "get_context", "session_id": "long", "max_tokens": 8_000, "query": "garage door temperature"}],
            in_flight=4,
        ),
    ),
    "large writes": (
        UMRA,
        Flood(
            [
                {"action": "update_twin", "user_id": "u", "twin_data": {"text": "x" * 250_000, "number": "NUMBER"}},
                {"action": "store_memory", "memory_id": "m-NUMBER", "content": "word " * 13_000},
                {"action": "update_twin", "user_id": "u", "twin_data": {"text": "x" * 2**20}},  # refused
            ],
            connections=8,
            in_flight=4,
        ),
    ),
    "memories over others": (
        UMRA,
        Flood(
            [{"action": "store_memory", "memory_id": "same", "content": f"NUMBER {LARGE_TEXT}"}],
            connections=8,
            in_flight=4,
        ),
    ),
    "many memories at once": (
        UMRA,
        Flood(
            [
                {
                    "action": "store_memory",
                    "content": "NUMBER",
                    "also": [{"content": TEXT.format(f"{n} NUMBER")} for n in range(900)],
                }
            ],
            connections=8,
            in_flight=4,
        ),
    ),
    "megabytes of memories at once": (
        UMRA,
        Flood(
            [
                {
                    "action": "store_memory",
                    "content": "NUMBER",
                    "also": [{"content": f"{n} NUMBER {'word ' * 800}"} for n in range(400)],
                }
            ],
            connections=2,
            in_flight=4,
        ),
    ),
    "deletions": (
        UMRA,
        Flood(
            [
                {"action": "add_interaction", "session_id": "own", "content": "NUMBER", **SAID, "speaker": "gone"},
                {"action": "clear_context", "session_id": "own", "speaker": "gone"},
            ],
            connections=8,
            in_flight=4,
        ),
    ),
    "syncs": (
        UMRA,
        Flood(
            [{"action": "sync_memories", "memories": [{"id": f"NUMBER-{n}", **RECORD} for n in range(250)]}],
            connections=8,
            in_flight=4,
        ),
    ),
    "audits": (UMRA, Flood([{"action": "memory_audit", "limit": 100}], connections=8, in_flight=4)),
    "long searches": (
        UMRA,
        Flood(
            [{"action": "search_memory", "query": "report garage door temperature kitchen says " * 80, "limit": 100}],
            connections=8,
            in_flight=4,
        ),
    ),
    "largest contexts": (
        UMRA,
        Flood(
            [{"action": "get_context", "session_id": "long", "max_tokens": 100_000, "query": "garage", "scope": "all"}],
            connections=8,
            in_flight=4,
        ),
    ),
    "costly patterns": (UMRA, Flood([{"action": "get_error_solution", "error_message": "ab" * 32_000}], in_flight=4)),
}


def enrolled(hosts: Hosts, *names: str) -> list[KeyPair]:
    """Return keys of agents that both hosts accept, once they have seen them."""
    pairs = [KeyPair.generate(KeyOwner(name, "pc2", frozenset({"agent"}))) for name in names]
    for pair in pairs:
        for host in ("mainpc", "pc2"):
            folder = hosts.keys / host / "enrolled"
            folder.mkdir(exist_ok=True)
            (folder / f"{pair.certificate.owner.name}.key").write_text(render_certificate(pair.certificate))
    return pairs


def address_of(hosts: Hosts, agent: str, pair: KeyPair) -> SecuredAddress:
    server = hosts.address(agent)
    assert isinstance(server, SecuredAddress)
    return SecuredAddress(server.address, pair, server.server_key)


@pytest.fixture(scope="module")
def keys(hosts: Hosts) -> tuple[KeyPair, KeyPair]:
    greedy, polite = enrolled(hosts, "greedy", "polite")
    for name in (SDT, UMRA):
        hosts.start(name, apart=True)
    for process in hosts.processes:
        process.wait_until_ready()
    with Client(address_of(hosts, SDT, polite)) as client:
        client.call("register_agent", agent_name="polite", status="HEALTHY")
    with Client(address_of(hosts, UMRA, polite)) as client:
        client.call("store_memory", memory_id="mine", content="a memory")
        said = ({"session_id": "long", "content": TEXT.format(number), **SAID} for number in range(TEXTS))
        assert all(client.map(("add_interaction", fields) for fields in said))
    with Client(address_of(hosts, UMRA, greedy)) as client:
        turns = ({"session_id": "own", "content": TEXT.format(number), **SAID} for number in range(OWN_TURNS))
        assert all(client.map(("add_interaction", fields) for fields in turns))
        for number in range(8):
            client.call("add_error_pattern", error_type="E", pattern=f"(a|b)*a(a|b){{{300 + number}}}c")
    return greedy, polite


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    with Hosts(tmp_path_factory.mktemp("turns"), heartbeat_s=5.0) as hosts:
        yield hosts


@pytest.mark.parametrize("name", FLOODS)
def test_one_key_s_flood_leaves_others_in_time(hosts: Hosts, keys: tuple[KeyPair, KeyPair], name: str) -> None:
    greedy, polite = keys
    agent, flood = FLOODS[name]
    seen: list[str] = []
    with Client(address_of(hosts, agent, polite)) as client:
        for _ in range(WINDOWS):
            beside = watched(flood, address_of(hosts, agent, greedy), client, CALLS[agent])
            assert beside.answered
            seen.append(str(beside))
            if beside.p99_ms <= LIMIT_MS + QUIETS * beside.quiet_p99_ms:
                return
    pytest.fail(f"beside {name}: {'; '.join(seen)}")
