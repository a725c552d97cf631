"""Both agents as processes: they find each other, start only where they can serve, and stop on SIGTERM."""

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import sys
from contextlib import ExitStack, closing
from typing import Any

import pytest
import zmq

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, at_most, wait_until
from twinhost.secure_zmq.aio import AsyncClient
from twinhost.secure_zmq.connections import LEAST_OPEN_FILES
from twinhost.secure_zmq.wire import Reply

SHUTDOWN_S = 5.0  # the promise
CONFIGURATION_ERROR = 78
IN_FLIGHT = 250  # several of the server's batches, and no more than a client sends before it has replies

pytestmark = pytest.mark.unified_memory_agent


def ask_as_old_clients_do(address: str, request: bytes) -> Any:
    """Send one message from a plain REQ socket, and return the reply's JSON."""
    with zmq.Context() as context, context.socket(zmq.REQ) as request_socket:
        request_socket.setsockopt(zmq.LINGER, 0)
        request_socket.setsockopt(zmq.RCVTIMEO, int(PATIENCE_S * 1_000))
        request_socket.connect(address)
        request_socket.send(request)
        return json.loads(request_socket.recv())


@pytest.mark.parametrize("first", [SDT, UMRA])
def test_both_register_whichever_starts_first(hosts: Hosts, first: str) -> None:
    """mainpc's registry has both, each under the name that its key proves, with where to reach it."""
    agents = [hosts.start(first).wait_until_serving(), hosts.start(UMRA if first == SDT else SDT)]
    for agent in agents:
        agent.wait_until_ready()
    with hosts.client(SDT) as client:
        registered = {agent["name"]: agent for agent in client.call("get_registered_agents")["agents"]}
        endpoint = client.call("get_agent_endpoint", agent_name=UMRA)
    assert {name: agent["registered_by"] for name, agent in registered.items()} == {SDT: SDT, UMRA: UMRA}
    assert {name: agent["location"] for name, agent in registered.items()} == {SDT: "mainpc", UMRA: "pc2"}
    assert {agent["status"] for agent in registered.values()} == {"HEALTHY"}
    umra = hosts.config.agent(UMRA)
    assert (endpoint["host"], endpoint["port"], endpoint["health_check_port"]) == (
        "127.0.0.1",
        umra.zmq_port,
        umra.http_port,
    )
    assert f'"{endpoint["public_key"]}"' in (hosts.folder(UMRA) / "client.key").read_text()


def test_heartbeats_keep_coming(hosts: Hosts) -> None:
    """The last sign of life moves on by itself, on the one registration."""
    hosts.start_both()
    with hosts.client(SDT) as client:

        def info() -> dict[str, Any]:
            reply: dict[str, Any] = client.call("get_agent_info", agent_name=UMRA)["agent_info"]
            return reply

        seen = info()["last_seen"]
        for _ in range(3):
            previous = seen
            seen = wait_until(lambda: (now := info()["last_seen"]) != previous and now, PATIENCE_S, "heartbeat")  # noqa: B023
            assert seen > previous
        assert info()["revision"] == 1


def test_old_clients_are_served_on_an_open_link(open_hosts: Hosts) -> None:
    """The raw strings, and JSON from a REQ socket: `ping` gives the health document, GET_ALL_STATUS the bare map."""
    open_hosts.start_both()
    address = open_hosts.config.agent(SDT).endpoint
    health = ask_as_old_clients_do(address, b"ping")
    assert (health["agent"], health["status"], health["ready"], health["secure"]) == (SDT, "ok", True, False)
    agents = ask_as_old_clients_do(address, b"GET_ALL_STATUS")
    assert {name: agent.keys() for name, agent in agents.items()} == {
        name: {"location", "status", "last_seen"} for name in (SDT, UMRA)
    }
    pong = ask_as_old_clients_do(address, b'{"action": "ping"}')
    assert (pong["status"], pong["message"]) == ("ok", "pong")


def test_an_open_link_is_said_at_every_turn(open_hosts: Hosts) -> None:
    """The log at the start, and the health documents, say that the link is open; operators' actions are refused."""
    for agent in open_hosts.start_both():
        assert "SECURE_ZMQ=0" in agent.health()["warning"]
        (entry,) = agent.logged("link_open")
        assert entry["level"] == "warning"
    refused = ask_as_old_clients_do(open_hosts.config.agent(SDT).endpoint, b'{"action": "get_peers"}')
    assert refused["code"] == "not_granted"


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_both_stop_on_sigterm(hosts: Hosts, number: signal.Signals) -> None:
    """Status 0, in less than 5 s, and nobody listens afterwards."""
    for agent, name in zip(hosts.start_both(), (SDT, UMRA), strict=True):
        with at_most(SHUTDOWN_S):
            assert agent.terminate(number) == 0
        assert len(agent.logged("stopped")) == 1
        for port in (hosts.config.agent(name).zmq_port, hosts.config.agent(name).http_port):
            with pytest.raises(ConnectionRefusedError):
                socket.create_connection(("127.0.0.1", port))


def test_sigterm_during_the_start_stops_it_cleanly(hosts: Hosts) -> None:
    """SIGTERM between the first log line and the first request is obeyed like any other."""
    agent = hosts.start(SDT)
    wait_until(lambda: agent.logged("peer_authorized"), PATIENCE_S, "the keys are read")
    with at_most(SHUTDOWN_S):
        assert agent.terminate() == 0


def test_a_burst_in_flight_is_answered_before_the_end(hosts: Hosts) -> None:
    """SIGTERM amid a burst: every request is answered and stored, and a retry on the next process gets its reply."""
    agent = hosts.start(UMRA).wait_until_serving()

    async def burst(stop: bool) -> list[Reply]:
        async with AsyncClient(hosts.address(UMRA)) as client:
            calls = [
                asyncio.create_task(
                    client.call("update_twin", user_id=f"{n}", twin_data={"n": n}, request_id=f"r{n}", deadline_s=3)
                )
                for n in range(IN_FLIGHT)
            ]
            await asyncio.wait(calls, return_when=asyncio.FIRST_COMPLETED)
            if stop:
                agent.send(signal.SIGTERM)
            return await asyncio.gather(*calls)

    first = asyncio.run(burst(stop=True))
    assert agent.wait() == 0
    with closing(sqlite3.connect(hosts.database(UMRA))) as database:
        stored = {int(user) for (user,) in database.execute("SELECT user_id FROM twins WHERE revision = 1")}
    assert stored == set(range(IN_FLIGHT))
    hosts.start(UMRA).wait_until_serving()
    second = asyncio.run(burst(stop=False))
    assert [reply["revision"] for reply in second] == [1] * IN_FLIGHT
    assert second == first


def test_a_mute_mainpc_does_not_delay_the_end(hosts: Hosts) -> None:
    """UMRA waits for a mainpc that takes connections and says nothing, and a browser for UMRA: still less than 5 s."""
    with (
        socket.create_server(("127.0.0.1", hosts.config.agent(SDT).zmq_port)),
        hosts.start(UMRA).wait_until_serving() as agent,
        socket.create_connection(("127.0.0.1", hosts.config.agent(UMRA).http_port)) as browser,
    ):
        browser.sendall(b"GET /healthz HT")
        with at_most(SHUTDOWN_S):
            assert agent.terminate() == 0


@pytest.mark.parametrize(("name", "which"), [(SDT, "zmq"), (SDT, "http"), (UMRA, "zmq"), (UMRA, "http")])
def test_a_taken_port_is_one_sentence(hosts: Hosts, name: str, which: str) -> None:
    """Exit status 78, the port, and what to do; no traceback."""
    agent = hosts.config.agent(name)
    port = agent.zmq_port if which == "zmq" else agent.http_port
    with socket.create_server(("127.0.0.1", port)):
        refused = hosts.start(name)
        assert refused.wait() == CONFIGURATION_ERROR
    sentence = refused.lines[-1]
    assert sentence.startswith(f"{name} does not start: ")
    assert f"{port} can't be bound (" in sentence
    assert sentence.endswith("change network_config.yaml")
    assert not [line for line in refused.lines[:-1] if not line.startswith("{")]


@pytest.mark.parametrize("name", [SDT, UMRA])
def test_too_few_open_files_are_one_sentence(hosts: Hosts, name: str) -> None:
    """An agent that serves and has room for nobody would be healthy."""
    refused = hosts.start(name, open_files=LEAST_OPEN_FILES - 1)
    assert refused.wait() == CONFIGURATION_ERROR
    assert refused.lines == [
        f"{name} does not start: this process may open 255 files, and an agent needs 256, since each connection is "
        "one; raise TWINHOST_NOFILE in .env, or outside a container: ulimit -n 256"
    ]


def test_the_fewest_open_files_are_enough_for_a_stack(hosts: Hosts) -> None:
    """Both agents, an operator, and programs: 48 connections with mainpc, as the documents say."""
    with ExitStack() as stack:
        for agent in [hosts.start(name, open_files=LEAST_OPEN_FILES) for name in (SDT, UMRA)]:
            agent.wait_until_ready()
        for _ in range(40):
            assert stack.enter_context(hosts.client(SDT)).call("ping", deadline_s=5.0)["status"] == "ok"


def test_a_second_start_does_not_disturb_the_first(hosts: Hosts) -> None:
    """The same agent on the same ports and state is refused, and the one that runs goes on."""
    first = hosts.start(SDT).wait_until_ready()
    assert hosts.start(SDT).wait() == CONFIGURATION_ERROR
    assert first.health()["ready"]
    with hosts.client(SDT) as client:
        client.call("register_agent", agent_name="Somebody", status="HEALTHY")
        assert client.call("get_ok_agents")["agents"] == ["Somebody", SDT]


def test_a_store_that_is_locked_is_one_sentence(hosts: Hosts) -> None:
    """A database that somebody else writes at the moment of the start: status 78, no traceback."""
    hosts.start(SDT).wait_until_ready().terminate()
    with closing(sqlite3.connect(hosts.database(SDT), isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = hosts.start(SDT)
        assert refused.wait() == CONFIGURATION_ERROR
    assert "does not start: the store can't be written (database is locked); " in refused.lines[-1]
    assert not [line for line in refused.lines[:-1] if not line.startswith("{")]


def ran(hosts: Hosts, program: str) -> "subprocess.CompletedProcess[str]":
    """Run a program with mainpc's environment, to its end."""
    command = [sys.executable, "-c", program]
    return subprocess.run(
        command, env=hosts.environment(SDT), capture_output=True, text=True, timeout=PATIENCE_S, check=False
    )


def test_a_dead_companion_ends_the_process(hosts: Hosts) -> None:
    """A thread that dies takes the agent with it, so that the engine starts a whole one: status 1, and it says why."""
    program = (
        "import sys, threading\n"
        "from twinhost.agent.assembly import Assembly; from twinhost.agent.process import run_agent\n"
        "class Mortal(threading.Thread):\n"
        "    responsive = property(threading.Thread.is_alive); stop = threading.Thread.join\n"
        f"sys.exit(run_agent({SDT!r}, [], lambda _: Assembly(actions=[], success='ok', companions=[Mortal()])))"
    )
    ended = ran(hosts, program)
    assert ended.returncode == 1
    assert "RuntimeError: Mortal died; the process ends, so that it is restarted completely" in ended.stderr


def test_no_garbage_collection_is_of_what_a_start_made(hosts: Hosts) -> None:
    """A full one holds the loop: with the modules it would take several times as long."""
    program = (
        "import gc, os, sys, time\n"
        "from twinhost.agent.assembly import Assembly; from twinhost.agent.process import run_agent\n"
        "def collected_in_s():\n"
        "    began = time.thread_time(); gc.collect(); return time.thread_time() - began\n"
        "def look():\n"
        "    now = min(collected_in_s() for _ in range(3)); gc.unfreeze()\n"
        "    os.write(1, f'{now / min(collected_in_s() for _ in range(3))}'.encode()); os._exit(0)\n"
        f"run_agent({SDT!r}, [], lambda _: Assembly(actions=[], success='ok', on_tick=look))"
    )
    ended = ran(hosts, program)
    assert float(ended.stdout) < 0.3, ended.stderr
