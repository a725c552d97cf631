"""What UMRA answers beside its twins: the document with its counts, and errors where its clients look for them."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.unified_memory_reasoning.memory import NOBODY, OPERATOR, SDT, assembled
from twinhost.agent.membership.member import MainpcLink
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import KeyFileMissing
from twinhost.unified_memory_reasoning.__main__ import NAME, assemble
from twinhost.unified_memory_reasoning.twins.twins import MIGRATION

pytestmark = pytest.mark.unified_memory_agent

LONG = "x" * 257


@pytest.mark.parametrize("action", ["ping", "health", "health_check"])
def test_ping_and_health_give_the_document_with_the_counts(agent: Assembled, action: str) -> None:
    """The health document, and how many requests, errors, and twins there are."""
    agent.ask("update_twin", SDT, twin_data={})
    agent.ask("delete_twin", SDT, user_id="nobody")
    document = agent.ask(action, SDT, request_id="r1")
    assert (document["agent"], document["request_id"]) == ("UnifiedMemoryReasoningAgent", "r1")
    assert (document["request_count"], document["error_count"], document["total_twins"]) == (3, 1, 1)
    assert document["last_request_time"].endswith("+00:00")
    assert document.keys() >= {"status", "ready", "timestamp", "uptime_s", "secure", "checks"}


def test_a_memory_in_a_context_counts_as_accessed(agent: Assembled) -> None:
    """In the assembled agent, as one in a search does."""
    agent.ask("store_memory", SDT, id="rent", content="The rent of the loft is 340.")

    def accessed() -> str:
        (memory,) = agent.ask("memory_by", OPERATOR, name=SDT.name, kind="memories")["written"]["memories"]["entries"]
        return str(memory["last_accessed"])

    before = accessed()
    time.sleep(0.01)
    reply = agent.ask("get_context", SDT, session_id="s", query="rent of the loft", scope="all")
    assert reply["context"]["memory_ids"] == ["rent"]
    assert accessed() > before


def test_before_the_first_request_there_is_no_time_of_it(agent: Assembled) -> None:
    """Looking at the document over HTTP is no request."""
    assert agent.assembly.health is not None
    document = dict(agent.assembly.health.document())
    assert (document["request_count"], document["last_request_time"]) == (0, None)


def test_a_link_that_is_not_up_shows_and_does_not_fail_the_agent(agent: Assembled) -> None:
    """Without mainpc the agent is degraded, not ready, and serves."""
    document = agent.ask("health", SDT)
    assert (document["status"], document["ready"]) == ("degraded", False)
    assert document["checks"]["mainpc_link"] == {"ok": False, "detail": "not registered yet"}
    assert agent.ask("update_twin", SDT, twin_data={})["status"] == "ok"


@pytest.mark.parametrize(
    ("action", "fields", "code", "sentence"),
    [
        ("delete_twin", {"user_id": "nobody"}, "not_found", "there is no twin of 'nobody'"),
        ("update_twin", {}, "malformed_request", "Object missing required field `twin_data`"),
        ("update_twin", {"twin_data": []}, "malformed_request", "Expected `object`, got `array` - at `$.twin_data`"),
        ("update_twin", {"twin_data": "x"}, "malformed_request", "Expected `object`, got `str` - at `$.twin_data`"),
        ("update_twin", {"twin_data": None}, "malformed_request", "Expected `object`, got `null` - at `$.twin_data`"),
        ("update_twin", {"twin_data": {}, "user_id": ""}, "malformed_request", "of length >= 1 - at `$.user_id`"),
        ("update_twin", {"twin_data": {}, "user_id": LONG}, "malformed_request", "of length <= 256 - at `$.user_id`"),
        ("update_twin", {"twin_data": {}, "user_id": 7}, "malformed_request", "got `int` - at `$.user_id`"),
        ("get_twin", {"user_id": None}, "malformed_request", "Expected `str`, got `null` - at `$.user_id`"),
        ("delete_twin", {"user_id": ["x"]}, "malformed_request", "Expected `str`, got `array` - at `$.user_id`"),
        ("forget_everything", {}, "unknown_action", "there is no action 'forget_everything' here; there are: "),
        ("register_agent", {"agent_name": "x", "status": "ok"}, "unknown_action", "there is no action"),
    ],
)
def test_an_error_repeats_its_sentence_under_reason(
    agent: Assembled, action: str, fields: dict[str, Any], code: str, sentence: str
) -> None:
    """Existing clients of pc2 read `reason`; those of today read `error`. Nothing is stored."""
    reply = agent.ask(action, SDT, request_id="r1", **fields)
    assert reply.keys() == {"status", "code", "error", "reason", "request_id"}
    assert (reply["status"], reply["code"], reply["request_id"]) == ("error", code, "r1")
    assert sentence in reply["error"]
    assert reply["reason"] == reply["error"]
    assert agent.ask("health", SDT)["total_twins"] == 0


@pytest.mark.parametrize("message", [b"ping", b"GET_ALL_STATUS", b"{", b"\xff", b"[]", b"[" * 50_000, b"{}"])
def test_bad_messages_are_answered_alike(agent: Assembled, message: bytes) -> None:
    """The raw commands are mainpc's dialect, and malformed here as anything else is; the next request is served."""
    reply = agent.send(message, SDT)
    assert (reply["status"], reply["code"]) == ("error", "malformed_request")
    assert reply["reason"] == reply["error"]
    assert agent.ask("update_twin", SDT, twin_data={})["status"] == "ok"


@pytest.mark.parametrize("caller", [SDT, OPERATOR, NOBODY])
def test_everybody_who_got_in_may_use_the_twins(agent: Assembled, caller: Caller) -> None:
    """The twin actions are ordinary ones, on an open link too."""
    assert agent.ask("update_twin", caller, twin_data={})["status"] == "ok"
    assert agent.ask("get_twin", caller)["status"] == "ok"
    assert agent.ask("delete_twin", caller)["status"] == "ok"


@pytest.mark.sdt_security
@pytest.mark.parametrize("secure", [True, False])
def test_the_link_is_as_secure_as_the_agent(tmp_path: Path, secure: bool) -> None:
    """With SECURE_ZMQ=1 mainpc is pinned by the key in this host's folder; only 0 leads to an open link."""
    with assembled(tmp_path, secure=secure) as agent:
        link = next(companion for companion in agent.assembly.companions if isinstance(companion, MainpcLink))
        server = link._server
        assert type(server).__name__ == ("FollowedAddress" if secure else "UnencryptedAddress")
        assert agent.ask("health", SDT)["secure"] is secure


@pytest.mark.sdt_security
def test_without_mainpcs_key_there_is_no_start(tmp_path: Path) -> None:
    """A pin that is missing is not replaced by trust in whoever answers."""
    environment = environment_of(tmp_path, "pc2")
    (tmp_path / "certificates/pc2/server.key").unlink()
    with pytest.raises(KeyFileMissing, match=r"pc2/server.key is missing; run: docker compose run --rm certs-init"):
        Assembled(NAME, [MIGRATION], assemble, environment)


@pytest.mark.parametrize(
    ("action", "fields", "entries_of"),
    [
        ("query_memory", {"limit": 100}, lambda reply: reply["memories"]),
        ("query_memory", {"limit": 100, "changed_since": 0}, lambda reply: reply["memories"]),
        ("search_memory", {"limit": 100, "query": "gateway"}, lambda reply: reply["results"]),
        ("list_error_patterns", {"limit": 100}, lambda reply: reply["patterns"]),
    ],
)
def test_a_page_of_a_list_has_256_kib_at_most(
    agent: Assembled, action: str, fields: dict[str, Any], entries_of: Callable[[Any], list[Any]]
) -> None:
    """Also where a message may have 4 MiB: the rest is on the pages after it, and nobody's request waits for them."""
    agent._dispatcher.max_payload_bytes = 4_194_304
    for number in range(40):
        agent.ask("store_memory", SDT, content=f"gateway {number} " + "x" * 16_000)
        pattern = {"error_type": "E", "pattern": f"gateway {number}", "solution": "x" * 16_000}
        assert agent.ask("add_error_pattern", SDT, **pattern)["status"] == "ok"
    page = agent.ask(action, SDT, **fields)
    assert (page["status"], page["more"], len(json.dumps(page)) <= 262_144) == ("ok", True, True)
    assert len(entries_of(page)) > 5


def test_the_operators_page_returns_the_largest_row_whole(agent: Assembled) -> None:
    """Of what a caller wrote; an import knows by its metadata what is there. It has 2 MiB at most."""
    agent._dispatcher._reader._decoder._max_payload_bytes = agent._dispatcher.max_payload_bytes = 4_194_304
    content, metadata = "\x01" * 65_536, {"imported": "x" * 16_000}
    for _ in range(6):
        fields = {"session_id": "s", "interaction_type": "code", "content": content, "metadata": metadata}
        assert agent.ask("add_interaction", SDT, **fields)["status"] == "ok"
    reply = agent.ask("memory_by", OPERATOR, name=SDT.name)
    page = reply["written"]["interactions"]
    assert (page["more"], len(json.dumps(reply)) <= 2_097_152) == (True, True)
    assert all((entry["content"], entry["metadata"]) == (content, metadata) for entry in page["entries"])


def test_the_operator_sees_a_callers_claims(agent: Assembled) -> None:
    """As all that it wrote, hidden or not; with the moment in ISO-8601."""
    agent.ask("resolve_conflict", SDT, op_id="op", priority=5)
    agent.ask("quarantine_memory", OPERATOR, name=SDT.name)
    for fields in ({}, {"kind": "operations"}):
        (claim,) = agent.ask("memory_by", OPERATOR, name=SDT.name, **fields)["written"]["operations"]["entries"]
        assert (claim["op_id"], claim["priority"], claim["holder"]) == ("op", 5, SDT.name)
        assert claim["since"].endswith("+00:00")
