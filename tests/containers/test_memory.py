"""pc2's memory in the real stack: what is said is found, the older dialect, a cut link, and a backup."""

import json
import sqlite3
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import docker
import pytest
import zmq

from tests.containers.stack import Stack
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
pytestmark = pytest.mark.unified_memory_agent


@pytest.fixture(scope="module")
def own(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A stack of its own, since pc2's memory is replaced in it."""
    stack = Stack(tmp_path_factory.mktemp("memory"), {"SECURE_ZMQ": "1"})
    try:
        stack.start()
        stack.wait_until_ready()
        yield stack
    finally:
        stack.stop()


@pytest.fixture
def client(own: Stack) -> Iterator[Client]:
    """A client of pc2's agent with the key of mainpc's, which is an agent as any other there."""
    with own.client("pc2", "mainpc") as client:
        yield client


def say(client: Client, content: str, session: str = "s", kind: str = "user_query", speaker: str = "Ana") -> int:
    fields: dict[str, Any] = {"session_id": session, "interaction_type": kind, "content": content, "speaker": speaker}
    return int(client.call("add_interaction", **fields)["interaction_id"])


def test_what_is_said_is_remembered_and_found(client: Client) -> None:
    """In the context, within its budget; in a search, also by another form of a Filipino word; until it is cleared."""
    session = uuid.uuid4().hex
    number = say(client, "Remember: we decided to keep the Kalapati schedule in Postgres.", session)
    say(client, "Tandaan mo, bumili si Ana ng bagong router.", session)
    context = client.call("get_context", session_id=session, max_tokens=120)["context"]
    assert "[Ana]: Remember" in context["text"]
    assert context["tokens"] <= 120
    assert any("Postgres" in decision for decision in context["key_decisions"])
    (first, *_) = client.call("search_memory", query="kalapati schedule", session_id=session)["results"]
    assert (first["id"], first["written_by"]) == (number, SDT)
    found = client.call("search_memory", query="Sino ang bibili ng router?", session_id=session)["results"]
    assert "bumili" in found[0]["content"]
    assert client.call("clear_context", session_id=session)["cleared"] == 2
    assert client.call("search_memory", query="kalapati", session_id=session)["results"] == []


def test_what_is_said_is_found_by_its_meaning(client: Client) -> None:
    """By default, with the model of the image: no word of the question is in the answer."""
    session = uuid.uuid4().hex
    number = say(client, "Nasa likod ng ref ang ekstrang susi.", session)
    say(client, "The rice is ready.", session)

    def embedded() -> bool:
        meaning = client.call("health")["meaning"]
        return bool(meaning["texts"] == meaning["embedded"] >= 2)

    wait_until(embedded, PATIENCE_S, "every text has a vector")
    found = client.call("search_memory", query="Where is the spare key?", session_id=session)
    assert found["channels"] == ["words", "meaning"], found
    assert found["results"][0]["id"] == number


def test_cut_off_it_serves_and_later_sends_all_once_in_order(own: Stack, client: Client) -> None:
    """Both ways, by taking pc2 off the link; undelivered events wait on its disk, and health reports their number."""
    pc2, (link,) = own.container("pc2"), own.networks([f"{own.project}_link"])
    words = [uuid.uuid4().hex[:8].translate(str.maketrans("0123456789", "ghijklmnop")) for _ in range(5)]
    link.disconnect(pc2)
    try:
        wait_until(lambda: own.http("pc2", "/readyz")[0] == 503, PATIENCE_S, "pc2 is out of touch")
        for word in words:
            for number in range(3):
                client.call("get_error_solution", error_message=f"the {word} was cut off after {number} s")
        health = own.http("pc2", "/healthz")[1]
        assert health["outbox"]["waiting"] >= len(words)
        assert not health["checks"]["mainpc_link"]["ok"]
    finally:
        link.connect(pc2, aliases=["pc2"])
    own.wait_until_ready()
    with own.client("mainpc") as mainpc:

        def delivered() -> list[str]:
            shapes = [str(event["data"]) for event in mainpc.call("get_events", limit=100)["events"]]
            return [word for shape in reversed(shapes) for word in words if word in shape]

        wait_until(lambda: len(delivered()) >= len(words), PATIENCE_S, "all of it is on mainpc")
        wait_until(lambda: own.http("pc2", "/healthz")[1]["outbox"]["waiting"] == 0, PATIENCE_S, "the outbox is empty")
        assert delivered() == words


def test_the_older_dialect_is_served_unchanged(own: Stack) -> None:
    """A REQ socket with CURVE and JSON, as its clients have it; fields in `payload`, `data`, or beside the command."""
    keys = own.keys("mainpc").own_keys
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    socket = context.socket(zmq.REQ)
    try:
        address = own.secured("pc2", keys)
        socket.curve_serverkey = address.server_key.z85
        socket.curve_secretkey, socket.curve_publickey = keys.secret_z85, keys.public.z85
        socket.rcvtimeo, socket.linger = int(PATIENCE_S * 1_000), 0
        socket.connect(address.address)

        def ask(message: dict[str, Any]) -> dict[str, Any]:
            socket.send_json(message)
            reply: dict[str, Any] = json.loads(socket.recv())
            return reply

        assert ask({"command": "TEST_PING"})["status"] == "SUCCESS"
        memory = {"id": "old-1", "content": "the older agent's", "keywords": ["old"], "source": "test"}
        assert ask({"command": "STORE_MEMORY", "payload": memory})["status"] == "SUCCESS"
        found = ask({"command": "QUERY_MEMORY", "data": {"keywords": ["old"]}})
        assert [memory["id"] for memory in found["data"]["memories"]] == ["old-1"]
        assert ask({"command": "REINFORCE_MEMORY", "memory_id": "old-1"})["status"] == "SUCCESS"
        assert ask({"command": "GET_MEMORY_STATUS"})["data"]["total_memories"] == 1
        assert ask({"command": "DELETE_MEMORY", "payload": {"memory_id": "old-1"}})["status"] == "SUCCESS"
        assert ask({"command": "DELETE_MEMORY", "payload": {"memory_id": "old-1"}})["status"] == "ERROR"
        assert ask({"command": "HEALTH_CHECK"})["data"]["status"] == "ok"
    finally:
        context.destroy(linger=0)


def test_a_backup_is_made_and_restored_while_it_runs(own: Stack, client: Client, tmp_path: Path) -> None:
    """What came after it is gone, and counted; the agent starts by itself with what the backup holds."""
    kept, lost = uuid.uuid4().hex, uuid.uuid4().hex
    say(client, kept, kept)
    backup = tmp_path / "umra.backup"
    cli = ("run", "--rm", "-T", "--no-deps", "cli", "memory")
    made = own.compose_bytes(*cli, "backup", "-")
    assert made.returncode == 0, made.stderr
    backup.write_bytes(made.stdout)
    with sqlite3.connect(backup) as database:
        assert database.execute("SELECT count(*) FROM interactions WHERE content = ?", (kept,)).fetchone() == (1,)
    say(client, lost, lost)
    restored = own.compose_bytes(*cli, "restore", "-", "--yes", given=made.stdout)
    assert restored.returncode == 0, restored.stderr
    assert b"interactions" in restored.stdout
    own.wait_until_ready()
    with own.client("pc2", "mainpc") as again:
        assert kept in again.call("get_context", session_id=kept)["context"]["text"]
        assert again.call("get_context", session_id=lost)["context"]["text"] == ""
