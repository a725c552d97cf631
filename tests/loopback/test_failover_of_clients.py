"""Clients of an agent with a standby, over real processes and a log in PostgreSQL: they go to whichever is active.

The active process is killed amid their calls. Nobody repeats one: the client does, with the same request_id.
"""

import asyncio
import itertools
import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path
from typing import Any

import mcp
import pytest
import yaml

import twinhost
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess
from tests.loopback.mcp_clients import call, stdio
from tests.loopback.test_join import Laptop
from tests.loopback.test_join import nowhere as nowhere  # noqa: PLC0414 - a fixture
from tests.loopback.test_standby import Machine
from tests.postgres import Cluster, running_cluster
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adapters.langgraph import TwinhostStore
from twinhost.adversary.attack import Finding
from twinhost.adversary.members import INSIDER_ROLE, AttackedByMember
from twinhost.certificates.layout import AGENT_ROLE
from twinhost.cli.doctor import command
from twinhost.clients import AsyncSystemDigitalTwin, SystemDigitalTwin
from twinhost.clients.system_replies import StoredEvent
from twinhost.deployment import Settings
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused

_STORED = 30  # calls before the kill, and after it
_CALLS_EVERY_S = 0.01


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    with running_cluster() as cluster:
        yield cluster


class TwoMachines:
    """Each has a process of each agent, at other ports; what both know is where the agents are, and their standbys."""

    def __init__(self, root: Path, dsn: str) -> None:
        self._stack = ExitStack()
        self.here = self._stack.enter_context(Machine(root / "here", dsn))
        self.there = self._stack.enter_context(Machine(root / "there", dsn, self.here))
        both = self.here, self.there
        documents = [yaml.safe_load(Path(machine.config.source).read_text()) for machine in both]
        ports = [{name: document["agents"][name]["ports"] for name in (SDT, UMRA)} for document in documents]
        for machine, document, others in zip(both, documents, reversed(ports), strict=True):
            for name, host in ((SDT, "pc2"), (UMRA, "mainpc")):
                document["agents"][name]["standby"] = {"host": host, "ports": others[name]}
            path = Path(machine.config.source)
            path.write_text(yaml.safe_dump(document))
            machine.config = load_network_config(path, {"TWINHOST_DATABASE": dsn})
        self.settings = Settings(self.here.config, load_certificates(self.here.folder("operator")))

    def start(self, *names: str) -> dict[str, AgentProcess]:
        """Start the active processes here and the standbys there; return the active ones."""
        active = {name: self.here.start(name).wait_until_serving() for name in names}
        self.standbys = {name: self.there.follow(name) for name in names}
        return active

    def client(self, name: str) -> Client:
        return self.settings.client(self.here.config.agent(name))

    def __enter__(self) -> "TwoMachines":
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()


@pytest.fixture
def machines(tmp_path: Path, cluster: Cluster) -> Iterator[TwoMachines]:
    with TwoMachines(tmp_path, cluster.new_database()) as machines:
        yield machines


class Writer:
    """Publishes one event after another on a thread, without repeating a call; counts what was acknowledged."""

    def __init__(self, publish: Callable[[int], object]) -> None:
        self.done = 0
        self.longest_s = 0.0  # that a call took
        self.error: BaseException | None = None
        self._ending = threading.Event()
        self._publish = publish
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> "Writer":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join()

    def wait_for_more(self, seconds: float) -> None:
        """Wait until more calls are acknowledged."""
        enough = self.done + _STORED
        wait_until(lambda: self.error or self.done >= enough, seconds, "calls are acknowledged")
        assert self.error is None, self.error

    def _run(self) -> None:
        try:
            for number in itertools.count():
                begun = time.monotonic()
                self._publish(number)
                self.longest_s = max(self.longest_s, time.monotonic() - begun)
                self.done = number + 1
                if self._ending.wait(_CALLS_EVERY_S):
                    return
        except ConnectionRefused as error:
            self.error = error


class OfLoop:
    """An asynchronous client, called from a thread that has no loop: eight calls at a time."""

    def __init__(self, client: AsyncClient) -> None:
        self._client = client
        self._runner = asyncio.Runner()

    def write(self, number: int) -> None:
        async def all_at_once() -> None:
            calls = (self._client.call("update_twin", **twin(8 * number + index)) for index in range(8))
            await asyncio.gather(*calls)

        self._runner.run(all_at_once())


def twin(number: int) -> dict[str, Any]:
    return {"user_id": f"call-{number}", "twin_data": {"a": number}}


def revisions(client: Client, count: int) -> list[int]:
    """Return how often each of the calls was executed."""
    return [int(client.call("get_twin", user_id=f"call-{number}")["revision"]) for number in range(count)]


def test_a_call_amid_a_kill_is_executed_once(machines: TwoMachines) -> None:
    """The caller does nothing, and sees no error: the default deadline covers the takeover."""
    active = machines.start(UMRA)
    with machines.client(UMRA) as client, machines.client(UMRA) as other:
        with Writer(lambda number: client.call("update_twin", **twin(number))) as writer:
            writer.wait_for_more(PATIENCE_S)
            active[UMRA].kill()
            writer.wait_for_more(2 * PATIENCE_S)
        print(f"the longest call took {writer.longest_s:.2f} s")
        assert revisions(other, writer.done) == [1] * writer.done
        assert client.address == other.address == machines.there.config.agent(UMRA).endpoint


def test_asynchronous_calls_amid_a_kill_are_executed_once(machines: TwoMachines) -> None:
    """Many in flight on one connection."""
    active = machines.start(UMRA)
    client = machines.settings.typed_client(UMRA, asynchronous=True, kind=AsyncClient)
    with Writer(OfLoop(client).write) as writer, machines.client(UMRA) as other:
        writer.wait_for_more(PATIENCE_S)
        active[UMRA].kill()
        writer.wait_for_more(2 * PATIENCE_S)
        print(f"the longest calls took {writer.longest_s:.2f} s")
        writer.__exit__()
        assert revisions(other, 8 * writer.done) == [1] * (8 * writer.done)


@pytest.mark.parametrize("asynchronous", [False, True], ids=["blocking", "asyncio"])
def test_the_feed_goes_on_at_the_standby_without_a_gap(machines: TwoMachines, asynchronous: bool) -> None:
    """Each event once, in order, also those that came while the reader had no feed."""
    active = machines.start(SDT)
    publisher = machines.settings.typed_client(SDT, asynchronous=False)
    reader = machines.settings.typed_client(SDT, asynchronous=asynchronous)
    seen: list[int] = []
    follow = asynchronously if asynchronous else blocking
    reading = threading.Thread(target=follow, args=(reader, seen))
    reading.start()
    with publisher, Writer(lambda number: publisher.publish("numbered", {"number": number})) as writer:
        wait_until(lambda: seen, PATIENCE_S, "events arrive")
        writer.wait_for_more(PATIENCE_S)
        active[SDT].kill()
        writer.wait_for_more(2 * PATIENCE_S)
        last = publisher.publish("numbered", {"number": -1})
        assert last
    reading.join(PATIENCE_S)
    assert not reading.is_alive()
    assert sorted(seen[:-1]) == seen[:-1] == list(range(seen[0], seen[0] + len(seen) - 1))


def took(event: StoredEvent, seen: list[int]) -> int:
    assert event.data is not None
    seen.append(int(event.data["number"]))
    return seen[-1]


def blocking(reader: SystemDigitalTwin, seen: list[int]) -> None:
    with reader:
        for event in reader.events("EVENT:"):
            if event.event_type == "numbered" and took(event, seen) < 0:
                return


def asynchronously(reader: AsyncSystemDigitalTwin, seen: list[int]) -> None:
    async def follow() -> None:
        async with reader:
            async for event in reader.events("EVENT:"):
                if event.event_type == "numbered" and took(event, seen) < 0:
                    return

    asyncio.run(follow())


def test_an_agent_follows_mainpc_to_its_standby(machines: TwoMachines) -> None:
    """Its heartbeats arrive there, and it goes on."""
    active = machines.start(SDT, UMRA)
    active[UMRA].wait_until_ready()
    active[SDT].kill()
    killed_at = time.time()
    wait_until(lambda: machines.standbys[SDT].logged("serving"), PATIENCE_S, "the standby serves")

    def heard() -> bool:
        info = client.call("get_agent_info", agent_name=UMRA)["agent_info"]
        return info["status"] == "HEALTHY" and datetime.fromisoformat(info["last_seen"]).timestamp() > killed_at

    with machines.client(SDT) as client:
        wait_until(heard, PATIENCE_S, "the standby hears of it")
    assert active[UMRA].health()["log"]["role"] == "active"


def test_a_joined_program_and_its_commands_fail_over(
    machines: TwoMachines, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a variable, or a file of the checkout: `join` wrote where the standbys are, as the agents registered."""
    active, laptop = machines.start(SDT, UMRA), Laptop(machines.here, nowhere, capsys)
    laptop.join("reader")
    for name in (SDT, UMRA):
        known, configured = load_network_config().agent(name), machines.here.config.agent(name)
        assert known.endpoints == configured.endpoints
        assert known.feed_endpoints == configured.feed_endpoints
    for process in active.values():
        process.kill()
    assert laptop.run("ping").status == 0  # it waits for the takeover
    doctor = json.loads(laptop.run("doctor", "--json").out)
    assert [finding for finding in doctor["checks"] if "port" in finding["check"] and finding["verdict"] != "ok"] == []
    with twinhost.connect(name="reader") as deployment:
        assert deployment.memory.call("store_memory", content="the kettle is blue")["status"] == "ok"
        assert deployment.system.call("ping")["message"] == "pong"
    refreshed = laptop.run("join", "--refresh")
    assert (refreshed.status, refreshed.err) == (0, "")
    assert f"{SDT} answered at {machines.there.config.agent(SDT).endpoint}" in refreshed.out
    for name in (SDT, UMRA):  # there the machines are configured the other way round
        assert {*load_network_config().agent(name).endpoints} == {*machines.here.config.agent(name).endpoints}


def invited(machines: TwoMachines, laptop: Laptop, name: str, *roles: str) -> str:
    """Return the line of an invitation that the standby knows of: its machine has it a second later at most."""
    line = laptop.invite(name, *roles, dsn=machines.here.dsn)
    path = machines.there.folder(SDT) / "invites" / f"{name}.key"
    wait_until(path.exists, PATIENCE_S, "the standby's machine has the invitation")
    return line


def test_a_line_from_before_a_takeover_joins_after_it(
    machines: TwoMachines, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It has both addresses of mainpc; the profile knows the active one, and where the other one will be."""
    active, laptop = machines.start(SDT), Laptop(machines.here, nowhere, capsys)
    line = invited(machines, laptop, "reader")
    active[SDT].kill()
    ran = laptop.run("join", line)
    assert (ran.status, ran.err) == (0, "")
    assert f"{SDT} answered at {machines.there.config.agent(SDT).endpoint}" in ran.out
    assert {*load_network_config().agent(SDT).endpoints} == {*machines.here.config.agent(SDT).endpoints}


def test_a_profile_from_before_the_standbys_is_told_where_to_ask(
    machines: TwoMachines, nowhere: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its calls say to refresh it; that says how, since nothing here knows the standby's address."""
    active, laptop = machines.start(SDT), Laptop(machines.here, nowhere, capsys)
    laptop.join("reader")
    endpoints, there = laptop.folder / "endpoints.yaml", machines.there.config.agent(SDT)
    document = yaml.safe_load(endpoints.read_text())
    del document["agents"][SDT]["standby"]
    endpoints.write_text(yaml.safe_dump(document))
    active[SDT].kill()
    failed = laptop.run("ping")
    assert (failed.status, "of a profile: twinhost join --refresh" in failed.err) == (1, True), failed.err
    failed = laptop.run("join", "--refresh")
    assert (failed.status, failed.err.count("\n")) == (1, 1)
    assert failed.err.endswith("or its standby: twinhost join --refresh --address ADDRESS[:PORT]\n")
    wait_until(lambda: machines.standbys[SDT].logged("serving"), PATIENCE_S, "the standby serves")
    asked_there = laptop.run("join", "--refresh", "--address", f"127.0.0.1:{there.zmq_port}")
    assert (asked_there.status, asked_there.err) == (0, "")
    assert f"{SDT} answered at {there.endpoint}" in asked_there.out
    assert {*load_network_config().agent(SDT).endpoints} == {*machines.here.config.agent(SDT).endpoints}
    assert laptop.run("ping").status == 0


def test_an_insider_attacks_who_is_active(
    machines: TwoMachines, nowhere: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It enrols there by a line of before, whatever address that has."""
    active, laptop = machines.start(SDT, UMRA), Laptop(machines.here, nowhere, capsys)
    line = invited(machines, laptop, "insider-1", AGENT_ROLE, INSIDER_ROLE)
    attacked: dict[str, str] = {}

    def note(target: AttackedByMember, _: object) -> Iterator[Finding]:
        attacked[target.agent.name] = target.agent.endpoint
        yield from ()

    monkeypatch.setattr(command, "play_against", note)
    monkeypatch.setattr(command, "read_line", lambda *_: line)
    for process in active.values():
        process.kill()
    operator = str(machines.here.folder("operator"))
    list(command._attack_as_member({**machines.here.environment(SDT), "TWINHOST_CERTIFICATES": operator}))
    assert attacked == {name: machines.there.config.agent(name).endpoint for name in (SDT, UMRA)}


def test_an_mcp_server_fails_over(machines: TwoMachines) -> None:
    """It runs on; the model's tool call is late, and nothing else."""
    active = machines.start(SDT, UMRA)

    async def remember() -> list[Any]:
        async with mcp.Client(stdio(machines.here)) as client:
            await call(client, "remember", content="the kettle is blue")
            active[UMRA].kill()
            await call(client, "remember", content="the kettle is on the stove")
            return list((await call(client, "search_memory", query="kettle"))["results"])

    assert len(asyncio.run(remember())) == 2


def test_the_adapters_go_on_without_a_repeated_item(machines: TwoMachines) -> None:
    """A graph's store and a session of the OpenAI SDK: what is put amid a kill is there once."""
    from twinhost.adapters.openai_agents import TwinhostSession  # takes seconds

    active = machines.start(UMRA)

    async def talk() -> list[Any]:
        async with machines.settings.typed_client(UMRA, asynchronous=True, kind=AsyncClient) as client:
            session = TwinhostSession("talk", client, space="shared")
            await session.add_items([{"role": "user", "content": "the kettle is blue"}])
            active[UMRA].kill()
            await session.add_items([{"role": "user", "content": "the kettle is on the stove"}])
            return list(await session.get_items())

    with machines.client(UMRA) as client:
        store = TwinhostStore(client, space="shared")
        store.put(("kettles",), "colour", {"is": "blue"})
        assert [item["content"] for item in asyncio.run(talk())] == [
            "the kettle is blue",
            "the kettle is on the stove",
        ]
        store.put(("kettles",), "place", {"is": "the stove"})
        assert sorted(item.key for item in store.search(("kettles",))) == ["colour", "place"]
