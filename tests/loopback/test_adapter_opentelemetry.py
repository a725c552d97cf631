"""Spans for calls to a real agent, recorded by OpenTelemetry's SDK; and one trace through an agent that forwards."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.semconv._incubating.attributes import gen_ai_attributes, rpc_attributes, server_attributes
from opentelemetry.semconv.attributes import error_attributes
from opentelemetry.trace import SpanKind, StatusCode, format_span_id, format_trace_id

from tests.loopback.agent import ServedAgent
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost import AsyncClient, Client, NotGranted, RequestError, UnknownAction
from twinhost.adapters.opentelemetry import instrument, uninstrument
from twinhost.secure_zmq.keys import KeyPair

CALLER = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"


class Recorded:
    """The spans of this test, and the provider that makes them."""

    def __init__(self) -> None:
        self._exporter = InMemorySpanExporter()
        self.provider = TracerProvider()
        self.provider.add_span_processor(SimpleSpanProcessor(self._exporter))

    def take(self) -> list[ReadableSpan]:
        """Return the spans that ended since the last call."""
        spans = list(self._exporter.get_finished_spans())
        self._exporter.clear()
        return spans


@pytest.fixture
def recorded() -> Iterator[Recorded]:
    recorded = Recorded()
    instrument(recorded.provider)
    yield recorded
    uninstrument()


def attributes(span: ReadableSpan) -> dict[str, object]:
    return dict(span.attributes or {})


def test_a_call_is_a_client_span_of_the_rpc_conventions(agent: ServedAgent, client: Client, recorded: Recorded) -> None:
    client.call("echo", text="confidential")
    (span,) = recorded.take()
    assert (span.name, span.kind, span.status.status_code) == ("echo", SpanKind.CLIENT, StatusCode.UNSET)
    assert attributes(span) == {
        rpc_attributes.RPC_SYSTEM_NAME: "twinhost",
        rpc_attributes.RPC_METHOD: "echo",
        server_attributes.SERVER_ADDRESS: "::ffff:127.0.0.1",
        server_attributes.SERVER_PORT: int(agent.address.rpartition(":")[2]),
    }


class SystemDigitalTwin(Client):
    """As a typed client is one."""


def test_a_typed_client_adds_the_name_of_its_agent(agent: ServedAgent, peer_keys: KeyPair, recorded: Recorded) -> None:
    with SystemDigitalTwin(agent.secured(peer_keys)) as client:
        client.call("echo", text="x")
    (span,) = recorded.take()
    assert span.name == attributes(span)[rpc_attributes.RPC_METHOD] == "SystemDigitalTwin/echo"


def test_an_error_is_the_spans_status_with_its_code(client: Client, recorded: Recorded) -> None:
    with pytest.raises(UnknownAction):
        client.call("no_such_action")
    (span,) = recorded.take()
    assert span.status.status_code is StatusCode.ERROR
    assert attributes(span)[error_attributes.ERROR_TYPE] == "unknown_action"
    assert attributes(span)[rpc_attributes.RPC_RESPONSE_STATUS_CODE] == "unknown_action"


def test_a_server_that_is_gone_is_an_error_too(agent: ServedAgent, peer_keys: KeyPair, recorded: Recorded) -> None:
    address = agent.secured(peer_keys)
    agent.stop()
    with Client(address) as client, pytest.raises(Exception, match=r"0\.05 s"):
        client.call("total", deadline_s=0.05)
    (span,) = recorded.take()
    assert attributes(span)[error_attributes.ERROR_TYPE] == "ServerUnreachable"
    assert rpc_attributes.RPC_RESPONSE_STATUS_CODE not in attributes(span)


def test_calls_are_children_of_the_current_span(agent: ServedAgent, peer_keys: KeyPair, recorded: Recorded) -> None:
    """In asyncio each of its own task's; and a `traceparent` that the caller gives is the parent."""

    async def both() -> None:
        async with AsyncClient(agent.secured(peer_keys)) as client:
            await asyncio.gather(client.call("total"), client.call("echo", text="x", traceparent=CALLER))

    with recorded.provider.get_tracer("test").start_as_current_span("program") as program:
        asyncio.run(both())
    total, echo, _ = sorted(recorded.take(), key=lambda span: ["total", "echo", "program"].index(span.name))
    assert total.parent is not None
    assert echo.parent is not None
    assert total.parent.span_id == program.get_span_context().span_id
    assert f"00-{format_trace_id(echo.parent.trace_id)}-{format_span_id(echo.parent.span_id)}-01" == CALLER


def test_each_request_of_map_has_a_span(agent: ServedAgent, client: Client, recorded: Recorded) -> None:
    """Also one that fails; what the caller did not take is ended too."""
    requests: list[tuple[str, dict[str, object]]] = [("echo", {"text": "a"}), ("reset", {}), ("add", {"amount": 3})]
    replies = list(client.map(requests, return_exceptions=True))
    assert [type(reply) for reply in replies] == [dict, NotGranted, dict]
    spans = recorded.take()
    assert [(span.name, span.status.is_ok) for span in spans] == [("echo", True), ("reset", False), ("add", True)]
    with pytest.raises(RequestError):
        list(client.map(requests))
    assert [(span.name, span.status.is_ok) for span in recorded.take()] == [
        ("echo", True),
        ("reset", False),
        ("add", True),
    ]
    wait_until(lambda: agent.executions == [3, 3], PATIENCE_S, "the request after the failed one is executed too")


def test_uninstrument_gives_the_clients_own_methods_back(client: Client) -> None:
    """So a client that nobody instruments runs no line of this; instrumenting twice makes one span."""
    before = Client.call, Client.map, AsyncClient.call
    recorded = Recorded()
    instrument()
    instrument(recorded.provider)
    client.call("total")
    assert len(recorded.take()) == 1
    uninstrument()
    uninstrument()
    assert (Client.call, Client.map, AsyncClient.call) == before
    client.call("total")
    assert recorded.take() == []


@pytest.mark.unified_memory_agent
def test_the_trace_goes_through_memories_and_forwarded_calls(tmp_path: Path, recorded: Recorded) -> None:
    """Memory operations have the GenAI attributes; what pc2 forwards to mainpc is logged there with the same trace."""
    with Hosts(tmp_path) as hosts:
        mainpc, pc2 = hosts.start_both()
        with hosts.client(UMRA) as client:
            stored = client.call("store_memory", content="the pump is blue")
            found = client.call("search_memory", query="pump")
            assert "ignored_fields" not in found
            recorded.take()
            client.call("store_memory", id=stored["memory_id"], content="the pump is green")
            client.call("search_memory", query="pump")
            upsert, search = recorded.take()
            with pytest.raises(NotGranted):
                client.call("coordinate_memory", agent_name=SDT, operation="unregister", data={"agent_name": UMRA})
        (forwarding,) = recorded.take()
        assert forwarding.context is not None
        trace_id = format_trace_id(forwarding.context.trace_id)
        for agent in (mainpc, pc2):
            wait_until(lambda: agent.logged("request_refused"), PATIENCE_S, "the refusal is logged")  # noqa: B023
            (refused,) = agent.logged("request_refused")
            assert refused["trace_id"] == trace_id
    assert (upsert.name, search.name) == ("upsert_memory", "search_memory")
    assert attributes(upsert)["gen_ai.memory.record.id"] == stored["memory_id"]
    assert attributes(search)["gen_ai.memory.record.count"] == 1
    assert attributes(search)["gen_ai.memory.store.id"] == UMRA
    assert attributes(search)[gen_ai_attributes.GEN_AI_OPERATION_NAME] == "search_memory"
    assert not any("pump" in str(value) for span in (upsert, search) for value in attributes(span).values())
