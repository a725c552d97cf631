"""Both agents as processes: killed, out of space, or with a peer's key taken away, they keep what they acknowledged."""

import itertools
import threading
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest

from tests.ledger import Ledger, check
from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, NotAuthorized, PeerNotLive, RequestIdReused, StoreUnavailable

REVOKED_WITHIN_S = 1.0
KILLS = 6

Write = Callable[..., dict[str, Any]]
Read = Callable[[Client], int]


def write(name: str, client: Client, subject: str = "subject", **fields: Any) -> dict[str, Any]:
    """Do what changes an agent's state: a registration, or the update of a twin."""
    if name == SDT:
        return client.call("register_agent", agent_name=subject, status="HEALTHY", **fields)
    return client.call("update_twin", user_id=subject, twin_data={"a": 1}, **fields)


def times_written(name: str, client: Client, subject: str = "subject") -> int:
    """Return how often a subject was written; 0 where it is not there."""
    if name == UMRA:
        return int(client.call("get_twin", user_id=subject)["revision"])
    agents = {agent["name"]: agent["revision"] for agent in client.call("get_registered_agents")["agents"]}
    return int(agents.get(subject, 0))


@pytest.mark.unified_memory_agent
@pytest.mark.parametrize("name", [SDT, UMRA])
def test_what_was_acknowledged_survives_kill_9(hosts: Hosts, name: str) -> None:
    """State and stored reply: a retry with the same request_id gets the same reply and is not executed again."""
    agent = hosts.start(name).wait_until_serving()
    with hosts.client(name) as client:
        first = write(name, client, request_id="r1")
        agent.kill()
        hosts.start(name).wait_until_serving()
        assert times_written(name, client) == 1
        assert write(name, client, request_id="r1") == first
        assert times_written(name, client) == 1
        with pytest.raises(RequestIdReused):
            write(name, client, "another body", request_id="r1")
        write(name, client, request_id="r2")
        assert times_written(name, client) == 2


@pytest.mark.unified_memory_agent
def test_repeated_kills_amid_calls_lose_and_double_nothing(hosts: Hosts, tmp_path: Path) -> None:
    """A client retries each call until it is acknowledged; the ledger finds each one there exactly once."""
    agent = hosts.start(UMRA).wait_until_serving()
    ledger, enough = Ledger(tmp_path / "ledger"), threading.Event()
    acknowledged = itertools.count(1)
    count = 0

    def call_without_end() -> None:
        nonlocal count
        with hosts.client(UMRA) as client:
            for number in itertools.count():
                ledger.sent(f"call-{number}")
                while True:
                    try:
                        write(UMRA, client, f"call-{number}", request_id=f"call-{number}", deadline_s=1)
                    except ConnectionRefused:
                        continue
                    break
                ledger.acknowledged(f"call-{number}")
                count = next(acknowledged)
                if enough.is_set():
                    return

    caller = threading.Thread(target=call_without_end)
    caller.start()
    for _ in range(KILLS):
        before = count
        wait_until(lambda: count > before + 20, PATIENCE_S, "calls are acknowledged")  # noqa: B023
        agent.kill()
        agent = hosts.start(UMRA)
    enough.set()
    caller.join(PATIENCE_S)
    ledger.close()
    with hosts.client(UMRA) as client:
        observed = {f"call-{number}": times_written(UMRA, client, f"call-{number}") for number in range(count + 1)}
    verdict = check(tmp_path / "ledger", observed)
    assert verdict.whole, verdict
    assert verdict.acknowledged > KILLS * 20


@pytest.mark.sdt_security
def test_a_key_that_is_taken_away_is_refused_within_a_second(hosts: Hosts) -> None:
    """The live session's next message, and every new session; others go on, and with the key back so does this one."""
    hosts.start(SDT).wait_until_ready()
    key_file = hosts.folder(SDT) / "client.key"
    content = key_file.read_bytes()
    with hosts.client(SDT, by=UMRA) as live, hosts.client(SDT) as operator:
        assert live.call("ping")["message"] == "pong"
        key_file.unlink()
        wait_until(lambda: refused(live), REVOKED_WITHIN_S, "the live session is refused")
        with hosts.client(SDT, by=UMRA) as newcomer, pytest.raises(NotAuthorized):
            newcomer.call("ping")
        assert operator.call("ping")["message"] == "pong"
        key_file.write_bytes(content)
        wait_until(lambda: not refused(live), REVOKED_WITHIN_S, "the live session works again")


def refused(client: Client) -> bool:
    """Return whether a message of this session is refused because of its key."""
    try:
        client.call("ping")
    except (PeerNotLive, NotAuthorized):
        return True
    return False


@pytest.mark.parametrize("name", [SDT, UMRA])
@pytest.mark.parametrize("kind", ["a file that may not grow", "a full tmpfs"])
def test_a_full_disk_refuses_writes_serves_reads_and_passes(hosts: Hosts, name: str, kind: str) -> None:
    """`store_unavailable` and red health while there is no space; both end by themselves when there is some."""
    with hosts.small_volume(name) if kind == "a full tmpfs" else nullcontext() as volume:
        agent = hosts.start(name).wait_until_serving()
        with hosts.client(name) as client, agent:
            write(name, client)
            volume.fill() if volume else agent.forbid_files_to_grow()
            with pytest.raises(StoreUnavailable, match="nothing of this request was stored; free space on"):
                write(name, client, request_id="refused")
            assert store_of(agent) == (503, False)
            assert times_written(name, client) == 1
            volume.empty() if volume else agent.allow_files_to_grow()
            wait_until(lambda: store_of(agent) == (200, True), PATIENCE_S, "health recovers and nobody writes")
            assert times_written(name, client) == 1
            write(name, client, request_id="refused")  # a refusal is not stored as the reply to this id
            assert times_written(name, client) == 2


@pytest.mark.parametrize("name", [SDT, UMRA])
def test_killed_with_a_full_disk_it_comes_back_with_what_it_had(hosts: Hosts, name: str) -> None:
    """What was refused is not there, what was acknowledged before is."""
    agent = hosts.start(name).wait_until_serving()
    with hosts.client(name) as client:
        write(name, client)
        agent.forbid_files_to_grow()
        for subject in ("subject", "other"):
            with pytest.raises(StoreUnavailable):
                write(name, client, subject)
        agent.kill()
        hosts.start(name).wait_until_serving()
        assert (times_written(name, client), times_written(name, client, "other")) == (1, 0)


def store_of(agent: AgentProcess) -> tuple[int, bool]:
    """Return the status of /healthz, and what it says of the store."""
    status, document = agent.http("/healthz")
    return status, bool(document["checks"]["store"]["ok"])


@pytest.mark.unified_memory_agent
def test_pc2_comes_back_to_a_mainpc_that_was_killed(hosts: Hosts) -> None:
    """UMRA's health names the cause while mainpc is gone, and is well again when it is back; the registry has it."""
    mainpc, pc2 = hosts.start_both()
    mainpc.kill()
    wait_until(lambda: not pc2.health()["ready"], PATIENCE_S, "pc2 sees that mainpc is gone")
    document = pc2.health()
    assert document["status"] == "degraded"
    assert document["checks"]["mainpc_link"]["detail"].startswith("ServerUnreachable: no reply to heartbeat")
    hosts.start(SDT)
    pc2.wait_until_ready()
    with hosts.client(SDT) as client:
        assert client.call("get_ok_agents")["agents"] == [SDT, UMRA]
