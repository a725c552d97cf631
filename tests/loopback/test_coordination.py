"""coordinate_memory: another agent's answer through this one, for a caller; nobody waits for it but who asked."""

import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import closing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.agent import ServedAgent
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.unit.secure_zmq.test_trace_context import TRACE_ID, TRACEPARENT
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.agent.membership import coordination
from twinhost.agent.membership.coordination import (
    DEADLINE_S,
    MAX_OF_A_CALLER,
    WORKERS,
    Coordinator,
    ForwardedRequest,
    ForwardingQueue,
)
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    AgentUnreachable,
    LimitReached,
    MalformedRequest,
    MessageTooLarge,
    NotFound,
    NotGranted,
    RequestIdReused,
    UnknownAction,
)
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.wire import Reply

ASK_S = 5.0  # the promise
SERVED_S = 1.0  # another caller, meanwhile


def ask(client: Client, operation: str, agent: str = SDT, **fields: object) -> Reply:
    return client.call("coordinate_memory", agent_name=agent, operation=operation, data=fields, deadline_s=PATIENCE_S)


@pytest.mark.unified_memory_agent
def test_the_other_agents_answer_comes_back(hosts: Hosts) -> None:
    """As that one gave it, and its refusals with their codes."""
    hosts.start_both()
    with hosts.client(UMRA) as client:
        with hosts.client(SDT) as directly:
            expected = directly.call("get_agent_endpoint", agent_name=UMRA)
        got = ask(client, "get_agent_endpoint", agent_name=UMRA)
        assert {**got, "request_id": None} == {**expected, "request_id": None}
        with pytest.raises(NotFound):
            ask(client, "get_agent_endpoint", agent_name="nobody")
        with pytest.raises(UnknownAction):
            ask(client, "no_such_action")
        with pytest.raises(MalformedRequest, match="agent_name"):
            ask(client, "get_agent_endpoint", agent_name=7)
        with pytest.raises(NotFound, match="nobody"):
            ask(client, "ping", agent="nobody")


@pytest.mark.unified_memory_agent
def test_a_request_is_followed_through_both_agents(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """By its trace_id, at level debug; at the usual level a request that succeeds has no line."""
    monkeypatch.setenv("TWINHOST_LOG_LEVEL", "debug")
    mainpc, pc2 = hosts.start_both()

    def traced(process: AgentProcess) -> list[tuple[str, str, str]]:
        lines = [line for line in process.logged("request_answered") if line.get("trace_id") == TRACE_ID]
        assert all(line["outcome"] == "ok" and line["ms"] > 0 for line in lines)
        return [(line["peer"], line.get("on_behalf_of", ""), line["action"]) for line in lines]

    fields: dict[str, Any] = {"agent_name": SDT, "operation": "get_agent_endpoint", "data": {"agent_name": UMRA}}
    with hosts.client(UMRA) as client:
        client.call("coordinate_memory", traceparent=TRACEPARENT, deadline_s=PATIENCE_S, **fields)
    wait_until(lambda: traced(pc2), PATIENCE_S, "pc2 logs it")
    assert traced(pc2) == [("operator", "", "coordinate_memory")]
    assert traced(mainpc) == [(UMRA, "operator", "get_agent_endpoint")]
    monkeypatch.delenv("TWINHOST_LOG_LEVEL")
    pc2.terminate()
    pc2 = hosts.start(UMRA).wait_until_ready()
    with hosts.client(UMRA) as client:
        client.call("coordinate_memory", traceparent=TRACEPARENT, deadline_s=PATIENCE_S, **fields)
    pc2.terminate()
    assert traced(pc2) == []


@pytest.mark.unified_memory_agent
def test_it_is_no_way_around_what_is_granted(hosts: Hosts) -> None:
    """Nothing is done under this agent's own name that its caller asked for."""
    hosts.start_both()
    with hosts.client(UMRA) as client, hosts.client(SDT) as directly:
        for operation in ("unregister", "heartbeat"):
            with pytest.raises(NotGranted):
                ask(client, operation, agent_name=UMRA)
        assert directly.call("get_agent_info", agent_name=UMRA)["agent_info"]["status"] == "HEALTHY"


@pytest.mark.parametrize(
    ("fields", "sentence"),
    [
        ({"agent_name": UMRA}, "send ping to it directly"),
        ({"data": {"on_behalf_of": "operator"}}, "`on_behalf_of` is set by"),
        ({"data": {"action": "unregister"}}, "`action` is set by"),
        ({"data": {"request_id": "x"}}, "`request_id` is set by"),
        ({"data": {"deadline_s": 1}}, "`deadline_s` is set by"),
        ({"data": []}, "at `$.data`"),
        ({"data": {"text": "x" * 65_536}}, "at most 65536 are forwarded"),
        ({"priority": "urgent"}, "at `$.priority`"),
        ({"priority": 0}, "at `$.priority`"),
        ({"priority": 11}, "at `$.priority`"),
        ({"agent_name": ""}, "at `$.agent_name`"),
        ({"operation": None}, "at `$.operation`"),
    ],
)
def test_a_wrong_field_is_named(pc2_alone: Client, fields: dict[str, Any], sentence: str) -> None:
    asked = {"agent_name": SDT, "operation": "ping", "data": {}, **fields}
    with pytest.raises((MalformedRequest, MessageTooLarge)) as caught:
        pc2_alone.call("coordinate_memory", deadline_s=PATIENCE_S, request_id=None, **asked)
    assert sentence in str(caught.value)


@pytest.fixture(scope="module")
def pc2_alone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A client of pc2's agent, whose mainpc is not there."""
    with Hosts(tmp_path_factory.mktemp("hosts")) as hosts:
        hosts.start(UMRA).wait_until_serving()
        with hosts.client(UMRA) as client:
            yield client


def test_a_missing_agent_is_reported_and_nobody_waits(pc2_alone: Client, hosts: Hosts) -> None:
    """Within the promised time; another request is answered meanwhile."""
    hosts.start(UMRA).wait_until_serving()
    with hosts.client(UMRA) as one, hosts.client(UMRA, by=UMRA) as other:
        refusals: list[Exception] = []

        def call() -> None:
            try:
                one.call("coordinate_memory", agent_name=SDT, operation="ping", data={})
            except AgentUnreachable as error:
                refusals.append(error)

        thread = threading.Thread(target=call)
        with at_most(ASK_S):
            thread.start()
            for _ in range(20):
                with at_most(SERVED_S):
                    other.call("get_twin")
            thread.join(PATIENCE_S)
        assert SDT in str(refusals[0])


@pytest.mark.unified_memory_agent
@pytest.mark.sdt_security
def test_an_agents_address_is_no_way_to_scan_ports(hosts: Hosts) -> None:
    """One sentence, after one time, whatever is at an address that an agent registers: CURVE, HTTP, mute, nothing."""
    mainpc, pc2 = hosts.start_both()
    curve, http = hosts.config.agent(UMRA).zmq_port, hosts.config.agent(UMRA).http_port
    with closing(socket.socket()) as mute, closing(socket.socket()) as closed, hosts.client(SDT) as operator:
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        closed.bind(("127.0.0.1", 0))
        answers = {}
        with hosts.client(UMRA) as client:
            for what, host, port in (
                ("curve", "127.0.0.1", curve),
                ("http", "127.0.0.1", http),
                ("mute", "127.0.0.1", mute.getsockname()[1]),
                ("closed", "127.0.0.1", closed.getsockname()[1]),
                ("no name", "nowhere.invalid", http),
                ("no address", "*", http),
            ):
                data = {"agent_id": "operator", "agent_type": "x", "host": host, "port": port}
                operator.call("register_agent", registration_data=data)
                started = time.monotonic()
                with pytest.raises(AgentUnreachable) as caught:
                    ask(client, "ping", agent="operator")
                answers[what] = str(caught.value)
                assert DEADLINE_S - 0.1 <= time.monotonic() - started < ASK_S, what
    assert set(answers.values()) == {answers["closed"]}
    assert "did not answer at its address" in answers["closed"]
    causes = [entry["cause"] for entry in pc2.logged("agent_not_reached")]
    assert len(causes) == len(answers)
    assert len(set(causes)) > 1  # which are for the log alone
    assert mainpc.running


@pytest.mark.unified_memory_agent
@pytest.mark.sdt_security
def test_no_registration_leads_to_this_host_itself(hosts: Hosts) -> None:
    """Where another host has an address of its own; an agent on mainpc may register loopback for clients there."""
    path = Path(hosts.config.source)
    path.write_text(path.read_text().replace("hosts: {", "hosts: {laptop: {address: 192.0.2.1}, "))
    _, pc2 = hosts.start_both()
    data = {"agent_id": "operator", "agent_type": "x", "port": hosts.config.agent(UMRA).zmq_port}
    with hosts.client(SDT) as operator, hosts.client(UMRA) as client:
        for host in ("127.0.0.1", "localhost", "127.1", "::ffff:127.0.0.1", "0.0.0.0"):
            operator.call("register_agent", registration_data={**data, "host": host})
            with pytest.raises(AgentUnreachable, match="did not answer at its address"):
                ask(client, "ping", agent="operator")
            assert pc2.logged("agent_not_reached")[-1]["cause"] == f"{host!r} is no address of another host"


def forwarded(
    caller: str, request_id: str | None, fields: dict[str, str] | None = None, priority: int = 5
) -> ForwardedRequest:
    return ForwardedRequest(
        agent_name="other",
        operation="ask_another",
        fields=fields or {},
        priority=priority,
        caller=caller,
        on_behalf=False,
        request_id=request_id,
    )


class Asked:
    """A coordinator whose only other agent is one that answers when the test says so."""

    def __init__(self, agent: ServedAgent, keys: KeyPair) -> None:
        self.agent = agent
        address = agent.secured(keys)
        self.coordinator = Coordinator(address, lambda *_: address, 4_194_304)
        self.coordinator.start()

    def send(self, name: str, priority: int = 5, caller: str = "c", request_id: str | None = None) -> "Future[Reply]":
        """Ask for something that is answered under a name."""
        fields = {"name": name}
        return self.coordinator.send(forwarded(caller, request_id, fields, priority))

    def answer(self, name: str) -> None:
        """Have it answered, once it has come."""
        wait_until(lambda: name in self.agent.asked, PATIENCE_S, f"{name} is asked for")
        self.agent.asked[name].set_result({"status": "ok", "answer": name})


@pytest.fixture
def asked(agent: ServedAgent, peer_keys: KeyPair) -> Iterator[Asked]:
    asked = Asked(agent, peer_keys)
    yield asked
    for each in list(agent.asked.values()):
        if not each.done():
            each.set_result({"status": "ok"})
    asked.coordinator.stop()


def test_the_more_urgent_go_first(asked: Asked) -> None:
    """And among equals, who came first."""
    busy = [asked.send(f"busy-{number}", caller=f"c-{number}") for number in range(WORKERS)]
    wait_until(lambda: len(asked.agent.asked) == WORKERS, PATIENCE_S, "everybody is busy")
    for name, priority in (("low", 1), ("normal", 5), ("normal too", 5), ("high", 10)):
        asked.send(name, priority, caller=name)
    for number, expected in enumerate(("high", "normal", "normal too", "low")):
        asked.answer(f"busy-{number}")
        wait_until(partial(asked.agent.asked.get, expected), PATIENCE_S, f"{expected} is next")
        assert len(asked.agent.asked) == WORKERS + number + 1
    assert [future.result(PATIENCE_S)["answer"] for future in busy] == [f"busy-{number}" for number in range(WORKERS)]


def test_one_callers_share_is_bounded(asked: Asked) -> None:
    """Another caller is served, and so is the same one when it has an answer."""
    first = [asked.send(f"a-{number}", caller="a") for number in range(MAX_OF_A_CALLER)]
    with pytest.raises(LimitReached, match="then retry"):
        asked.send("a-more", caller="a")
    asked.send("b", caller="b")
    asked.answer("a-0")
    first[0].result(PATIENCE_S)
    wait_until(lambda: may_send(asked), PATIENCE_S, "there is room again")


def test_no_caller_keeps_everybody_busy(asked: Asked) -> None:
    """One that asks for more than there are threads, at the highest priority, leaves one to the others."""
    for number in range(2 * WORKERS):
        asked.send(f"a-{number}", priority=10, caller="a")
    answer = asked.send("b", priority=1, caller="b")
    asked.answer("b")
    assert answer.result(PATIENCE_S)["answer"] == "b"
    wait_until(lambda: len(asked.agent.asked) >= WORKERS, PATIENCE_S, "all but one of the threads ask for the other")
    assert len(asked.agent.asked) == WORKERS


def test_callers_of_one_priority_take_turns() -> None:
    """A thread that gets free serves the caller with the fewest requests under way, not the longer queue."""
    queue = ForwardingQueue(WORKERS)
    for number in range(6):
        queue.add(forwarded("a", f"a-{number}"))
    taken = [pending for _ in range(WORKERS - 1) if (pending := queue.take())]
    for number in range(3):
        queue.add(forwarded("b", f"b-{number}"))
    for expected in ("b", "b", "a"):
        pending = queue.take()
        assert pending is not None
        assert pending.request.caller == expected
        taken.append(pending)
        queue.done(taken.pop(0))


def test_asking_again_for_the_same_counts_as_well(asked: Asked) -> None:
    """Each has a pending answer of its own, and their number is bounded."""
    first = asked.send("x", request_id="1")
    for _ in range(MAX_OF_A_CALLER - 1):
        assert asked.send("x", request_id="1") is first
    with pytest.raises(LimitReached):
        asked.send("x", request_id="1")
    asked.answer("x")
    first.result(PATIENCE_S)

    def another() -> bool:
        with suppress(LimitReached):
            return asked.send("x", request_id="1") is not first
        return False

    wait_until(another, PATIENCE_S, "there is room again")


def may_send(asked: Asked) -> bool:
    try:
        asked.send("a-again", caller="a")
    except LimitReached:
        return False
    return True


def test_a_retry_is_the_same_request(asked: Asked) -> None:
    """While the first is under way it gets the same answer; another body under that id is refused."""
    first = asked.send("x", request_id="1")
    assert asked.send("x", request_id="1") is first
    assert asked.send("x", request_id="1", caller="d") is not first
    with pytest.raises(RequestIdReused):
        asked.send("y", request_id="1")
    asked.answer("x")
    assert first.result(PATIENCE_S)["answer"] == "x"
    ids = {coordination._forwarded_id(forwarded(caller, "1")) for caller in ("c", "d")}
    assert len(ids) == 2
    assert coordination._forwarded_id(forwarded("c", "1", priority=1)) in ids


def test_what_waits_too_long_is_given_up(asked: Asked) -> None:
    """With a reason, at its deadline and not when a place is free again."""
    started = time.monotonic()
    futures = [asked.send(str(number)) for number in range(WORKERS + 1)]
    for future in futures:
        with pytest.raises(AgentUnreachable):
            future.result(PATIENCE_S)
    assert time.monotonic() - started < DEADLINE_S + SERVED_S
