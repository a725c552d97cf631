"""The typed clients beside both agents: every example of a docstring runs, pages are whole, and events come once."""

import asyncio
import contextlib
import inspect
import itertools
import re
import signal
import sys
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from types import FrameType
from typing import Any, TypeVar

import pytest

import twinhost
from tests.docstrings import documented, failures_of, for_asyncio, has_example
from tests.identities import new_pair
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.loopback.test_cli_watch import kept
from tests.loopback.test_events import feed_address
from tests.loopback.watching import Publisher, withdraw
from tests.waiting import PATIENCE_S, soon, wait_until
from twinhost.clients import (
    AsyncSystemDigitalTwin,
    AsyncUnifiedMemoryReasoningAgent,
    SystemDigitalTwin,
    UnifiedMemoryReasoningAgent,
)
from twinhost.clients.aio import AsyncTypedClient
from twinhost.clients.events import SystemEvent
from twinhost.clients.memory_replies import MemoryDocument
from twinhost.clients.typed import TypedClient
from twinhost.secure_zmq.framing.exchange import Asked
from twinhost.secure_zmq.server_address import FollowedAddress, SecuredAddress

PAGE = Path(__file__).parents[2] / "docs/reference/python.md"
T = TypeVar("T")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    """Both agents in touch, with what the examples speak of."""
    with Hosts(tmp_path_factory.mktemp("hosts"), metrics_interval_s=1.0) as hosts:
        hosts.start_both()
        with system_of(hosts) as system, memory_of(hosts) as memory:
            system.register_agent(agent_name="gardener", status="HEALTHY")
            fault = {"error_id": "valve-3", "agent_id": "gardener", "error_type": "timeout", "severity": "warning"}
            system.call("report_error", error={**fault, "message": "the valve of bed 2 is silent"})
            watered = {"event_id": "bed-2", "event_type": "watered", "source_agent": "gardener", "data": {"litres": 4}}
            system.call("publish_event", event=watered)
            model = {"vram_usage_mb": 500, "device": "cuda:0"}
            payload = {"agent_name": "gardener", "loaded_models": {"tiny": model}, "total_vram_mb": 8_000}
            system.call("update_vram_metrics", payload={**payload, "total_vram_used_mb": 500}, host="mainpc")
            memory.store("The roses stand by the gate.", id="roses")
            memory.store("The hedge is 2 m high.", id="hedge", key="height of the hedge", keywords=["garden"])
            memory.update_twin({"name": "Rosa"}, user_id="rosa")
            memory.add_error_pattern("timeout", pattern="valve .* is silent", solution="restart the pump")
            for number, words in itertools.product(
                range(6),
                ("pump {} lost its prime", "gate {} stands open all night", "sensor {} of the greenhouse is wet"),
            ):
                memory.get_error_solution(words.format(number))
            wait_until(
                lambda: not any(host.stale for host in system.get_metrics().metrics.hosts.values()),
                PATIENCE_S,
                "both hosts are measured",
            )
        yield hosts


@pytest.fixture
def mainpc(tmp_path: Path) -> Iterator[Hosts]:
    """A mainpc that a test may stop."""
    with Hosts(tmp_path) as hosts:
        hosts.start(SDT).wait_until_serving()
        yield hosts


def system_of(hosts: Hosts, by: str = "operator") -> SystemDigitalTwin:
    return SystemDigitalTwin(hosts.address(SDT, by), feed=feed_address(hosts, by))


def async_system_of(hosts: Hosts, by: str = "operator") -> AsyncSystemDigitalTwin:
    return AsyncSystemDigitalTwin(hosts.address(SDT, by), feed=feed_address(hosts, by))


def memory_of(hosts: Hosts) -> UnifiedMemoryReasoningAgent:
    return UnifiedMemoryReasoningAgent(hosts.address(UMRA))


async def taken(events: AsyncIterator[T], count: int) -> list[T]:
    return [await anext(events) for _ in range(count)]


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
def test_every_method_has_an_example_that_runs(
    both: Hosts, asynchronous: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So each is called at least once; the agents are real. Those for asyncio are the same ones, awaited."""
    set_environment(monkeypatch, both)
    loop = asyncio.new_event_loop()
    make = (async_system_of(both), AsyncUnifiedMemoryReasoningAgent(both.address(UMRA)))
    blocking = (system_of(both), memory_of(both))
    clients = make if asynchronous else blocking
    for variable, client, same in zip(("system", "memory"), clients, blocking, strict=True):
        kind = type(client)
        methods = [name for name in dir(kind) if not name.startswith("_") and name not in dir(twinhost.Client)]
        docstrings = {name: inspect.getdoc(getattr(kind, name, kind)) or "" for name in ["", *methods]}
        for name in methods if asynchronous else ():
            if "async" not in docstrings[name] and "await" not in docstrings[name]:
                docstrings[name] = for_asyncio(inspect.getdoc(getattr(same, name)) or "", variable)
        assert [name for name in methods if f"{variable}.{name}(" not in docstrings[name]] == []
        names = {"twinhost": twinhost, variable: client}
        assert [each for text in docstrings.values() for each in failures_of(text, dict(names), loop)] == []
    loop.run_until_complete(asyncio.sleep(0))
    for client in clients:
        loop.call_soon(client.close)
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()


def set_environment(monkeypatch: pytest.MonkeyPatch, hosts: Hosts) -> None:
    """Let `connect` find the operator's key and the agents."""
    environment = hosts.environment(SDT)
    for name in ("SECURE_ZMQ", "NETWORK_CONFIG_PATH"):
        monkeypatch.setenv(name, environment[name])
    monkeypatch.setenv("TWINHOST_CERTIFICATES", str(hosts.folder("operator")))
    for name in ("MAINPC_IP", "PC2_IP", "TWINHOST_PROFILE"):
        monkeypatch.delenv(name, raising=False)


def test_the_examples_of_exported_names_run(both: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """The functions, the classes with their methods, and every error."""
    set_environment(monkeypatch, both)
    loop = asyncio.new_event_loop()
    docstrings = documented(*(getattr(twinhost, name) for name in twinhost.__all__))
    with system_of(both) as system, memory_of(both) as memory:
        names = {"twinhost": twinhost, "system": system, "memory": memory, "asyncio": asyncio, "Path": Path}
        assert [each for text in docstrings.values() for each in failures_of(text, dict(names), loop)] == []
    loop.close()


def test_the_examples_of_the_page_run(both: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the reference page."""
    set_environment(monkeypatch, both)
    loop, page = asyncio.new_event_loop(), re.sub(r"^```.*$", "", PAGE.read_text(encoding="utf-8"), flags=re.M)
    assert has_example(page)
    assert failures_of(page, {}, loop) == []
    loop.close()


def test_an_iterator_yields_each_row_once_while_rows_are_added(both: Hosts) -> None:
    """Newest first: what is added meanwhile is newer, and belongs to no page that follows."""
    with memory_of(both) as memory, memory_of(both) as other:
        for number in range(12):
            memory.store(f"Row {number}.", id=f"row-{number}", keywords=["rows"])
        found: list[MemoryDocument] = []
        for row in memory.iter_query(keywords=["rows"], limit=5):
            found.append(row)
            other.store("Meanwhile.", id=f"meanwhile-{len(found)}", keywords=["rows"])
        assert [each.id for each in found] == [f"row-{number}" for number in reversed(range(12))]

    async def rows() -> list[str]:
        async with AsyncUnifiedMemoryReasoningAgent(both.address(UMRA)) as client:
            return [row.id async for row in client.iter_query(keywords=["rows"], limit=5)]

    assert len(ids := asyncio.run(rows())) == len(set(ids)) == 24


def test_a_history_is_whole_while_an_earlier_value_is_added(both: Hosts) -> None:
    """Its pages are counted from the start, so an earlier value moves the others: none comes twice."""
    with memory_of(both) as memory:
        for day in range(10, 20):
            memory.store(f"{day} cm.", id=f"day-{day}", key="height of the oak", valid_from=f"2026-03-{day}T00:00:00Z")
        found = []
        for value in memory.iter_memory_history(key="height of the oak", limit=4):
            found.append(value.id)
            if len(found) == 3:
                memory.store("1 cm.", id="early", key="height of the oak", valid_from="2026-03-01T00:00:00Z")
        assert found == [f"day-{day}" for day in range(10, 20)]


def test_the_audit_log_is_read_to_its_end(both: Hosts) -> None:
    """Also what is written while it is read."""
    with system_of(both) as system, memory_of(both) as memory:
        head = system.get_audit(limit=1).head.seq
        found = []
        for line in system.iter_audit(limit=2):
            found.append(line)
            if len(found) == 1:
                memory.quarantine("whoever comes late")
        assert len(found) >= head
        assert len(set(found)) == len(found)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
def test_events_come_once_and_in_order_through_a_restart(mainpc: Hosts, asynchronous: bool) -> None:
    """What is published while mainpc is gone, and while this program has no session, is not missed."""

    def publish_and_restart(publisher: Publisher) -> None:
        mainpc.processes[0].kill()
        mainpc.start(SDT)
        publisher.many(30)

    def blocking(publisher: Publisher) -> list[int]:
        with system_of(mainpc) as system:
            events = system.events(after=0)
            publisher.many(20)
            found = list(itertools.islice(events, 20))
            publish_and_restart(publisher)
            found += itertools.islice(events, len(publisher.ledger) - 20)
            return [each.seq for each in found if hasattr(each, "seq")]

    async def for_asyncio(publisher: Publisher) -> list[int]:
        async with async_system_of(mainpc) as system:
            events = system.events(after=0)
            publisher.many(20)
            found = await taken(events, 20)
            publish_and_restart(publisher)
            found += await taken(events, len(publisher.ledger) - 20)
            return [each.seq for each in found if hasattr(each, "seq")]

    with mainpc.client(SDT, by=UMRA) as client:
        publisher = Publisher(client)
        found = asyncio.run(for_asyncio(publisher)) if asynchronous else blocking(publisher)
        stored = sorted(itertools.chain(*kept(client).values()))
    assert found == stored[: len(found)]
    assert len(found) == 50
    assert feed_threads() == []


def test_events_continue_after_a_number(mainpc: Hosts) -> None:
    """A program that keeps the last `seq` misses nothing while it does not run; another topic is not shown."""
    with mainpc.client(SDT, by=UMRA) as client, system_of(mainpc) as system:
        publisher = Publisher(client)
        publisher.many(9)
        errors = [seq for name, seq in publisher.ledger if name.startswith("error")]
        assert [next(system.events("ERROR:", after=seq)).seq for seq in errors[:-1]] == errors[1:]
        assert next(system.events("ERROR:", after=errors[0])).error_type == "t"


def test_events_that_are_not_stored_have_types_of_their_own(mainpc: Hosts) -> None:
    """A registration, which is only on the feed."""
    with system_of(mainpc) as system, mainpc.client(SDT) as client:
        stop = threading.Event()

        def register() -> None:
            while not stop.wait(0.02):
                client.call("register_agent", agent_name="gardener", status="HEALTHY")

        thread = threading.Thread(target=register)
        thread.start()
        try:
            event = next(system.events("AGENT:"))
        finally:
            stop.set()
            thread.join()
        assert type(event).__name__ == "AgentEvent"
        assert event.agent_name == "gardener"  # type: ignore[union-attr]


def test_a_new_store_is_reported_or_followed(mainpc: Hosts) -> None:
    """The numbers start again: EventsLost, or with `allow_gaps` what the new store has."""
    with mainpc.client(SDT, by=UMRA) as client, system_of(mainpc) as system:
        publisher = Publisher(client)
        publisher.many(9)
        strict, lenient = (system.events("EVENT:", after=2, allow_gaps=allow) for allow in (False, True))
        last = max(seq for name, seq in publisher.ledger if name.startswith("event"))
        assert max(event.seq for event in itertools.takewhile(lambda each: each.seq < last, strict)) < last
        mainpc.processes[0].kill()
        for path in mainpc.database(SDT).parent.glob("*.sqlite3*"):
            path.unlink()
        mainpc.start(SDT).wait_until_serving()
        name = publisher.one()
        with pytest.raises(
            twinhost.EventsLost, match=r"numbers start again; to go on .* use events\(after=0, allow_gaps=True\)"
        ):
            next(strict)
        assert next(lenient).event_id == name


MISTAKES = {
    ("search_memory", ("query", "limt")): "no field 'limt'; did you mean limit?",
    ("store_memory", ("content", "keyword", "xyzzy")): "no field 'keyword', 'xyzzy'; did you mean keywords?",
    ("memory_status", ("zzzzz",)): "no field 'zzzzz'$",
    ("store_memry", ("content",)): "no action 'store_memry'; did you mean store_memory?",
}


@pytest.mark.parametrize(("action", "fields"), MISTAKES, ids=[action for action, _ in MISTAKES])
def test_a_field_or_an_action_that_no_agent_knows_is_not_sent(
    both: Hosts, action: str, fields: tuple[str, ...]
) -> None:
    """By `call`, by `map` in its place, and with asyncio; the message names the nearest."""
    sentence = "the request was not sent: by its own schema, .*" + MISTAKES[action, fields].replace("?", r"\?")
    wrong: dict[str, Any] = dict.fromkeys(fields, "never stored")
    mistake = (twinhost.MalformedRequest, twinhost.UnknownAction)

    async def ask() -> None:
        async with AsyncUnifiedMemoryReasoningAgent(both.address(UMRA)) as memory:
            with pytest.raises(mistake, match=sentence):
                await memory.call(action, **wrong)

    with memory_of(both) as memory:
        before = memory.memory_status().total_memories
        with pytest.raises(mistake, match=sentence):
            memory.call(action, **wrong)
        first, second, third = memory.map([("ping", {}), (action, wrong), ("ping", {})], return_exceptions=True)
        assert isinstance(second, mistake)
        assert re.search(sentence, str(second))
        assert isinstance(first, dict)
        assert isinstance(third, dict)
        asyncio.run(ask())
        assert memory.memory_status().total_memories == before


class OlderMemory(TypedClient):
    """A client that is older than its agent: it knows one field of one action."""

    _agent_name = UMRA

    def search_memory(self, query: str, *, deadline_s: float = 5.0, request_id: str | None = None) -> None: ...


class OlderAsyncMemory(AsyncTypedClient):
    """The same for asyncio."""

    _agent_name = UMRA

    async def search_memory(self, query: str, *, deadline_s: float = 5.0, request_id: str | None = None) -> None: ...


def test_what_a_newer_agent_knows_is_sent_by_call(both: Hosts) -> None:
    """The agent's own schema decides, and is asked for once; what every request may have needs no question."""

    async def ask() -> None:
        async with OlderAsyncMemory(both.address(UMRA)) as memory:
            assert len((await memory.call("search_memory", query="roses", limit=1))["results"]) == 1
            assert (await memory.call("memory_status"))["status"] == "ok"

    with OlderMemory(both.address(UMRA)) as memory:
        asked = asked_by(memory)
        memory.call("search_memory", query="roses", source_agent="me")
        assert asked == ["search_memory"]
        for limit in (1, 2):
            assert len(memory.call("search_memory", query="roses", limit=limit)["results"]) == limit
        assert asked == ["search_memory", "get_schema", "search_memory", "search_memory"]
        with pytest.raises(twinhost.MalformedRequest, match="did you mean limit"):
            memory.call("search_memory", query="roses", limt=1)
    asyncio.run(ask())


def asked_by(client: twinhost.Client) -> list[str]:
    """Return the list to which the actions of a client's requests are added from now on."""
    asked: list[str] = []
    ask = client._exchange.ask

    def noting(action: str, fields: Mapping[str, Any], request_id: str, deadline_s: float | None) -> Asked:
        asked.append(action)
        return ask(action, fields, request_id, deadline_s)

    client._exchange.ask = noting  # type: ignore[method-assign]
    return asked


def test_without_the_agents_schema_the_client_decides_fields(mainpc: Hosts) -> None:
    """Where `get_schema` is not granted; an action is left to the agent, which executes none that it does not know."""
    withdraw(mainpc, "get_schema")
    with system_of(mainpc, by=UMRA) as system:
        wait_until(lambda: refuses(system, "get_schema"), PATIENCE_S, "the grant is withdrawn")
        with pytest.raises(twinhost.MalformedRequest, match=r"by this client, get_events .* did you mean limit"):
            system.call("get_events", limt=3)
        with pytest.raises(twinhost.UnknownAction, match="there is no action 'get_evnts' here"):
            system.call("get_evnts")


def refuses(client: twinhost.Client, action: str) -> bool:
    try:
        client.call(action)
    except twinhost.NotGranted:
        return True
    return False


@pytest.mark.parametrize("by", ["operator", UMRA])
def test_publish_needs_only_a_type_and_a_caller(mainpc: Hosts, by: str) -> None:
    """The event has the caller's name and a unique id, and what was given; a retry is no second one."""

    async def for_asyncio() -> None:
        async with async_system_of(mainpc, by) as client:
            await client.publish("thing_moved", {"thing": "rake"}, propagate=False)

    with system_of(mainpc, by) as system:
        first = system.publish("thing_moved", {"thing": "rake", "to": "shed"}, request_id="moved", ttl=60)
        assert system.publish("thing_moved", {"thing": "rake", "to": "shed"}, request_id="moved", ttl=60) == first
        asyncio.run(for_asyncio())
        system.publish("thing_lost", event_id="lost-1", deadline_s=2)
        found = list(reversed(system.get_events().events))
    assert [(each.event_type, each.data, each.ttl, each.propagate) for each in found] == [
        ("thing_moved", {"thing": "rake", "to": "shed"}, 60, True),
        ("thing_moved", {"thing": "rake"}, None, False),
        ("thing_lost", None, None, True),
    ]
    assert {each.source_agent for each in found} == {by}
    assert [each.event_id for each in found][::2] == [first.event_id, "lost-1"]
    assert len({each.event_id for each in found}) == 3


def test_events_end_after_the_timeout_without_an_event(mainpc: Hosts) -> None:
    """The time of the program between two events does not count; with 0, what is stored comes, and then the end."""
    with mainpc.client(SDT, by=UMRA) as client, system_of(mainpc) as system:
        publisher = Publisher(client)
        publisher.many(6)
        stored = [seq for _, seq in publisher.ledger]
        assert [event.seq for event in system.events(after=0, timeout=0) if hasattr(event, "seq")] == stored
        events, found = system.events(timeout=0.5), list[int]()
        started = time.monotonic()
        assert list(events) == []
        assert time.monotonic() - started >= 0.5
        for event in (events := system.events(after=0, timeout=1)):
            found += [event.seq] if hasattr(event, "seq") else []
            if len(found) == 6:
                time.sleep(1.1)
                publisher.one()
        assert found == [seq for _, seq in publisher.ledger]
        assert next(events, None) is None
        for wrong in (-1, float("nan")):
            with pytest.raises(ValueError, match="choose 0 s or more, or None"):
                system.events(timeout=wrong)

    async def for_asyncio() -> list[int]:
        async with async_system_of(mainpc) as system:
            assert [event async for event in system.events(timeout=0.1)] == []
            return [event.seq async for event in system.events(after=0, timeout=0) if hasattr(event, "seq")]

    assert asyncio.run(for_asyncio()) == found
    assert feed_threads() == []


def test_a_timeout_while_mainpc_is_unreachable_is_an_error(mainpc: Hosts) -> None:
    """No event came, but not because there was none; it takes little longer than the timeout."""
    with mainpc.client(SDT, by=UMRA) as client:
        Publisher(client).one()
    with system_of(mainpc) as system:
        events = system.events(after=0, timeout=1)
        next(events)
        mainpc.processes[0].kill()
        with soon(3), pytest.raises(twinhost.ServerUnreachable):
            next(events)

    async def for_asyncio() -> None:
        async with async_system_of(mainpc) as system:
            await anext(system.events(after=0, timeout=0.5))

    with pytest.raises(twinhost.ServerUnreachable):
        asyncio.run(for_asyncio())
    assert feed_threads() == []


class Iteration(threading.Thread):
    """Iterates over the events of a client, on a thread of its own."""

    def __init__(self, system: SystemDigitalTwin, then: Callable[[SystemEvent], None] = lambda _: None) -> None:
        super().__init__(daemon=True)
        self.number = 0
        self.error: Exception | None = None
        self._system = system
        self._then = then
        self.start()

    def run(self) -> None:
        try:
            for event in self._system.events(after=0):
                self.number += 1
                self._then(event)
        except Exception as error:  # noqa: BLE001 - asserted to be none
            self.error = error


@pytest.mark.parametrize("served", [True, False], ids=["waiting for an event", "calling a mainpc that is gone"])
def test_close_from_another_thread_ends_the_events(mainpc: Hosts, served: bool) -> None:
    """At once and without an error, whatever the iteration waits for."""
    with mainpc.client(SDT, by=UMRA) as client:
        Publisher(client).many(3)
    system = system_of(mainpc)
    iteration = Iteration(system)
    wait_until(lambda: iteration.number == 3, PATIENCE_S, "the stored events have come")
    if not served:
        mainpc.processes[0].kill()
        wait_until(lambda: system._exchange.unanswered or system._exchange.unsent, PATIENCE_S, "mainpc is asked")
    with soon(0.5):
        system.close()
        iteration.join(PATIENCE_S)
    assert (iteration.is_alive(), iteration.error, feed_threads()) == (False, None, [])
    with pytest.raises(twinhost.ConnectionRefused, match="the client is closed"):
        system.events()


def test_close_in_the_loop_or_a_signal_handler_ends_the_events(mainpc: Hosts) -> None:
    """What has been received already does not come any more."""
    with mainpc.client(SDT, by=UMRA) as client:
        Publisher(client).many(5)
    with system_of(mainpc) as system:
        begun = system.events(after=0)
        numbers = [system.close() or event for event in system.events(after=0)]  # type: ignore[func-returns-value]
        assert len(numbers) == 1
        assert list(begun) == []  # which was made before, and had not begun
    with system_of(mainpc) as system:
        before = signal.signal(signal.SIGALRM, lambda *_: system.close())
        try:
            signal.setitimer(signal.ITIMER_REAL, 1)
            assert len(list(system.events(after=0))) == 5
        finally:
            signal.signal(signal.SIGALRM, before)
    assert feed_threads() == []


@pytest.mark.thorough
def test_close_at_any_moment_ends_the_events(mainpc: Hosts) -> None:
    """While a client connects, asks, waits, and yields; the process's sockets are sound after that."""
    with mainpc.client(SDT, by=UMRA) as client:
        publisher = Publisher(client)
        publisher.many(5)
        for number in range(60):
            system = system_of(mainpc)
            iteration = Iteration(system)
            time.sleep(number / 1_000)
            publisher.one()
            system.close()
            iteration.join(PATIENCE_S)
            refused = type(iteration.error) in (type(None), twinhost.ConnectionRefused)  # closed before it began
            assert (iteration.is_alive(), refused) == (False, True), number
    assert feed_threads() == []


def test_a_signal_handler_closes_a_call_that_holds_a_lock() -> None:
    """It runs between any two lines of the thread, here of `threading`, while the client waits to connect again."""
    pair = new_pair("caller")
    nobody = FollowedAddress("tcp://127.0.0.1:9", lambda: pair, list)  # each pinned key has ended

    def ended(at: int) -> tuple[bool, bool]:
        """Return whether the call has ended, and whether it came to that line."""
        client, over, lines = twinhost.Client(nobody), threading.Event(), itertools.count(1)

        def trace(frame: FrameType, event: str, _: Any) -> Any:
            if event == "line" and frame.f_code.co_filename == threading.__file__ and next(lines) == at:
                sys.settrace(None)
                client.close()
            return trace

        def ask() -> None:
            for traced in (None, trace):  # after the first failure it waits
                sys.settrace(traced)
                with contextlib.suppress(twinhost.ConnectionRefused):
                    client.call("ping")
            sys.settrace(None)
            over.set()

        threading.Thread(target=ask, daemon=True).start()
        return over.wait(PATIENCE_S), next(lines) > at

    for at in itertools.count(1):
        over, reached = ended(at)
        assert over, f"closed at line {at}, the call does not end"
        if not reached:
            break


def test_close_ends_a_call_of_another_thread(mainpc: Hosts) -> None:
    """It would wait for its deadline."""
    system = system_of(mainpc)
    system.ping()
    mainpc.processes[0].kill()
    timer = threading.Timer(0.5, system.close)
    timer.start()
    with soon(2), pytest.raises(twinhost.ConnectionRefused, match="the client is closed"):
        system.call("ping", deadline_s=60)
    timer.join()


@pytest.mark.parametrize("ended", ["closed", "cancelled", "timed out"])
def test_events_for_asyncio_end_by_close_or_cancellation(mainpc: Hosts, ended: str) -> None:
    async def all_events(system: AsyncSystemDigitalTwin, found: list[object]) -> None:
        async for event in system.events(after=0):
            found.append(event)

    async def ask() -> None:
        async with async_system_of(mainpc) as system:
            found: list[object] = []
            task = asyncio.create_task(all_events(system, found))
            async with asyncio.timeout(PATIENCE_S):
                while len(found) < 3:
                    await asyncio.sleep(0.01)
            if ended == "closed":
                system.close()
            elif ended == "cancelled":
                task.cancel()
            with soon(0.5):
                _, waiting = await asyncio.wait([task], timeout=None if ended != "timed out" else 0.2)
            if waiting:
                with pytest.raises(TimeoutError):
                    await asyncio.wait_for(task, 0.1)
            assert (task.done(), task.cancelled()) == (True, ended != "closed")
            if ended == "closed":
                with pytest.raises(twinhost.ConnectionRefused, match="the client is closed"):
                    system.events()

    with mainpc.client(SDT, by=UMRA) as client:
        Publisher(client).many(3)
    asyncio.run(ask())
    assert feed_threads() == []


def feed_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "feed-subscriber"]


def test_a_query_that_is_not_granted_ends_the_events(mainpc: Hosts) -> None:
    withdraw(mainpc, "get_events")
    with system_of(mainpc, by=UMRA) as system, pytest.raises(twinhost.NotGranted, match="get_events is not granted"):
        next(system.events("EVENT:", after=1))


def test_events_of_another_server_are_an_error_at_once(mainpc: Hosts) -> None:
    """A wrong pin; only after an answer it could be a server that is being replaced."""
    right = feed_address(mainpc, "operator")
    assert isinstance(right, SecuredAddress)
    wrong = replace(right, address=mainpc.address(SDT).address, server_key=new_pair("impostor").public)
    with SystemDigitalTwin(wrong, feed=right) as system, pytest.raises(twinhost.WrongServerKey):
        next(system.events("EVENT:", after=1))


def test_what_events_needs_and_lacks_is_an_error(mainpc: Hosts) -> None:
    topics = "'event' is not a topic of the feed; use EVENT:, ERROR:"
    with system_of(mainpc) as system, pytest.raises(twinhost.ConfigurationError, match=topics):
        system.events("event")
    feed = "no address of the event feed"
    with SystemDigitalTwin(mainpc.address(SDT)) as system, pytest.raises(twinhost.ConfigurationError, match=feed):
        system.events()
