"""Both agents as processes, cut off and killed: pc2's undelivered events reach mainpc once, and in order."""

import random
import shutil
import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.membership.outbox import Outbox
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused
from twinhost.store.database import Database

QUEUED = 200  # events and error reports by turns
KILLS = 4
DRAINED_S = 60.0
INTERVAL_S = 0.1

pytestmark = pytest.mark.unified_memory_agent


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """Two hosts of which nothing runs yet; mainpc forgets its replies at once, so a retry gets no stored reply."""
    with Hosts(tmp_path, metrics_interval_s=INTERVAL_S) as hosts:
        config = Path(hosts.config.source)
        config.write_text(config.read_text().replace("stored_replies_s: 600", "stored_replies_s: 0.001"))
        yield hosts


def fill_outbox(hosts: Hosts) -> None:
    """Fill the outbox as pc2's actions would, on the database of a stopped pc2: QUEUED numbered events."""
    path = hosts.database(UMRA)
    with closing(sqlite3.connect(path)) as connection:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    database = Database(path, [""] * version)
    outbox = Outbox(database, UMRA)
    for number in range(QUEUED):
        with database.transaction():
            if number % 2:
                outbox.report_error("Timeout", "no answer", context={"number": number})
            else:
                outbox.publish("numbered", {"number": number})
    database.close()


def pending_outbox(hosts: Hosts) -> None:
    """Run pc2 once, and fill its outbox."""
    hosts.start(UMRA).wait_until_serving().kill()
    fill_outbox(hosts)


def delivered(client: Client) -> list[int]:
    """Return the numbers of the events that mainpc received, in its order."""
    events = client.call("get_events", limit=1_000)["events"]
    errors = client.call("get_errors", limit=1_000)["errors"]
    delivered = sorted((*events, *errors), key=lambda event: event["seq"])
    delivered = [each for each in delivered if each.get("event_type") in ("numbered", None)]
    return [(each.get("data") or each.get("context"))["number"] for each in delivered]


def arrived(hosts: Hosts) -> int:
    """Return how many events and errors mainpc has; 0 while it is away."""
    try:
        with hosts.client(SDT) as client:
            return int(client.call("get_events", limit=1, deadline_s=0.5)["last_seq"])
    except ConnectionRefused:
        return 0


def outbox_of(pc2: AgentProcess) -> dict[str, Any]:
    found: dict[str, Any] = pc2.health().get("outbox", {})
    return found


def wait_until_nothing_is_pending(pc2: AgentProcess) -> None:
    wait_until(lambda: outbox_of(pc2).get("waiting") == 0, DRAINED_S, "nothing waits for mainpc")
    assert (outbox_of(pc2)["set_aside"], outbox_of(pc2)["let_go"]) == (0, {})


@pytest.mark.parametrize("killed", [(SDT,), (UMRA,), (SDT, UMRA)], ids=["mainpc", "pc2", "both"])
def test_killed_while_receiving_all_arrives_once_in_order(hosts: Hosts, killed: tuple[str, ...]) -> None:
    """With kill -9, several times, at a moment of chance; no stored reply helps, the ids alone do."""
    pending_outbox(hosts)
    agents = {name: hosts.start(name).wait_until_serving() for name in (UMRA, SDT)}
    for time_of in range(KILLS):
        reached = QUEUED * (time_of + 1) // (KILLS + 2)
        wait_until(lambda: arrived(hosts) >= reached, DRAINED_S, f"{reached} have arrived")  # noqa: B023
        time.sleep(random.uniform(0, 0.05))  # the moment of chance
        for name in killed:
            agents[name].kill()
        for name in killed:
            agents[name] = hosts.start(name).wait_until_serving()
    wait_until_nothing_is_pending(agents[UMRA])
    with hosts.client(SDT) as client:
        assert delivered(client) == list(range(QUEUED))
        events = client.call("get_events", agent=UMRA, limit=1_000)["events"]  # mainpc adds its own, of troubles
    others = [event["event_type"] for event in events if event["event_type"] != "numbered"]
    assert others == ["agent_started"] * (2 + KILLS * (UMRA in killed))


def test_events_resent_by_pc2_are_counted_once(hosts: Hosts) -> None:
    """Killed between sending and noting, for every single one: its database is as it was before."""
    pending_outbox(hosts)
    before, after = hosts.database(UMRA), hosts.root / "before.sqlite3"
    shutil.copy(before, after)
    hosts.start(SDT).wait_until_serving()
    for _ in range(2):
        pc2 = hosts.start(UMRA).wait_until_serving()
        wait_until_nothing_is_pending(pc2)
        pc2.kill()
        for file in before.parent.glob(f"{before.name}*"):
            file.unlink()
        shutil.copy(after, before)
    with hosts.client(SDT) as client:
        assert delivered(client) == list(range(QUEUED))


def test_while_mainpc_is_gone_pc2_serves_and_says_what_waits(hosts: Hosts) -> None:
    """Nothing is red but `ready`; a start of pc2 is queued like any other event, and delivered after the heal."""
    pending_outbox(hosts)
    pc2 = hosts.start(UMRA).wait_until_serving()
    with hosts.client(UMRA) as client:
        client.call("update_twin", user_id="u", twin_data={"a": 1})
        assert client.call("get_twin", user_id="u")["twin"] == {"a": 1}
    wait_until(lambda: "ServerUnreachable" in pc2.health()["checks"]["mainpc_link"]["detail"], PATIENCE_S, "cut off")
    status, document = pc2.http("/healthz")
    assert (status, document["status"], document["ready"]) == (200, "degraded", False)
    assert [name for name, check in document["checks"].items() if not check["ok"]] == ["mainpc_link"]
    waiting = document["outbox"]
    assert waiting["waiting"] >= QUEUED + 2
    assert waiting["oldest"] < document["timestamp"]
    assert not [sentence for sentence in document["warnings"] if "outbox" in sentence]
    hosts.start(SDT).wait_until_ready()
    wait_until_nothing_is_pending(pc2.wait_until_ready())
    with hosts.client(SDT) as client:
        newest = client.call("get_events", agent=UMRA, limit=1)["events"][0]
    assert (newest["event_type"], newest["data"]) == ("agent_started", {"host": "pc2"})


def test_samples_taken_without_mainpc_are_in_history_once(hosts: Hosts) -> None:
    """Killed on both sides meanwhile; what is current is always a sample that came in time."""
    mainpc, pc2 = hosts.start_both()
    mainpc.kill()
    wait_until(lambda: outbox_of(pc2)["waiting"] >= 10, PATIENCE_S, "samples are queued")
    pc2.kill()
    pc2 = hosts.start(UMRA).wait_until_serving()
    wait_until(lambda: outbox_of(pc2)["waiting"] >= 22, PATIENCE_S, "more samples are queued")
    queued, healed = outbox_of(pc2)["waiting"], time.time()
    mainpc = hosts.start(SDT).wait_until_ready()
    with hosts.client(SDT) as client:
        known = wait_until(lambda: not (found := of_pc2(client))["stale"] and found, PATIENCE_S, "pc2 is known again")
        assert known
        assert known["network_latency_ms"] is not None
    wait_until_nothing_is_pending(pc2.wait_until_ready())
    pc2.kill()
    assert mainpc.terminate() == 0
    moments, counted = history_of_pc2(hosts)
    assert len(moments) == counted
    assert len([moment for moment in moments if moment < healed]) >= queued - 2 >= 20  # two report that pc2 has started


def of_pc2(client: Client) -> dict[str, Any]:
    found: dict[str, Any] = client.call("get_metrics")["metrics"]["hosts"]["pc2"]
    return found


def history_of_pc2(hosts: Hosts) -> tuple[list[float], int]:
    """Return when the samples were taken that mainpc knows, and how many its minutes count."""
    with closing(sqlite3.connect(hosts.database(SDT))) as connection:
        keys = connection.execute("SELECT key FROM taken_once WHERE scope = 'sample of pc2'").fetchall()
        minutes = connection.execute("SELECT record FROM metrics_minute WHERE host = 'pc2'").fetchall()
    records = [msgspec.json.decode(record) for (record,) in minutes]
    return [int.from_bytes(key, "big") / 1_000 for (key,) in keys], sum(
        record["ram_used_mb"]["count"] for record in records
    )
