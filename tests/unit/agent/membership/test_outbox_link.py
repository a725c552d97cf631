"""Undelivered events reach the real SystemDigitalTwin: once, in order, past refused ones, and wait where they must."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.loopback.agent_processes import HEARTBEAT_S, SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, at_most, suspend, wait_until
from twinhost.agent.host_metrics import HostSample
from twinhost.agent.membership import delivery, member
from twinhost.agent.membership.delivery import Kind
from twinhost.agent.membership.member import MainpcLink
from twinhost.agent.membership.outbox import MIGRATION, Outbox
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.server_address import SecuredAddress
from twinhost.store.database import Database

pytestmark = [pytest.mark.unified_memory_agent, pytest.mark.thorough]


class QueueingAgent:
    """pc2's outbox and link; whoever waits here ticks as the agent's server does."""

    def __init__(self, hosts: Hosts, path: Path, heartbeat_s: float) -> None:
        self.database = Database(path, [MIGRATION])
        self.outbox = Outbox(self.database, UMRA)
        keys = load_certificates(hosts.folder(UMRA))
        mainpc = SecuredAddress(hosts.config.agent(SDT).endpoint, keys.own_keys, keys.public_key())
        self.link = MainpcLink(mainpc, hosts.config.agent(UMRA), heartbeat_s, 65_536, None, self.outbox.queue)
        self.link.start()

    def enqueue(self, *event_types: str) -> None:
        for event_type in event_types:
            with self.database.transaction():
                self.outbox.publish(event_type, {})

    def waits(self, condition: Callable[[], Any], what: str) -> None:
        def ticked() -> Any:
            self.outbox.tick()
            return condition()

        wait_until(ticked, PATIENCE_S, what)

    def is_empty(self) -> bool:
        return self.on_disk() == 0

    def on_disk(self) -> int:
        return int(self.database.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def stop(self) -> None:
        self.link.stop()
        self.database.close()


@contextmanager
def queueing_agent(hosts: Hosts, heartbeat_s: float = HEARTBEAT_S) -> Iterator[QueueingAgent]:
    """Run pc2's outbox and link for the length of the block; undelivered events are kept from one to the next."""
    running = QueueingAgent(hosts, hosts.root / "outbox.sqlite3", heartbeat_s)
    try:
        yield running
    finally:
        running.stop()


def delivered(hosts: Hosts) -> list[str]:
    """Return the types of the events that mainpc has, oldest first."""
    with hosts.client(SDT) as client:
        return [event["event_type"] for event in reversed(client.call("get_events", limit=1_000)["events"])]


def test_pending_events_arrive_in_order_and_are_removed(hosts: Hosts) -> None:
    """Before mainpc was ever there, and while it is."""
    with queueing_agent(hosts) as pc2:
        pc2.enqueue("a", "b")
        with pc2.database.transaction():
            pc2.outbox.report_error("Timeout", "no answer", context={"n": 1})
        assert pc2.outbox.queue.document()["waiting"] == 3
        hosts.start(SDT).wait_until_ready()
        pc2.waits(pc2.is_empty, "the outbox is empty")
        pc2.enqueue("c")
        pc2.waits(pc2.is_empty, "the outbox is empty")
        assert pc2.outbox.queue.document() == {"waiting": 0, "oldest": None, "set_aside": 0, "let_go": {}}
        with hosts.client(SDT) as client:
            (error,) = client.call("get_errors")["errors"]
    assert delivered(hosts) == ["a", "b", "c"]
    assert (error["error_type"], error["message"], error["context"]) == ("Timeout", "no answer", {"n": 1})
    assert (error["written_by"], error["seq"]) == (UMRA, 3)


POISON: dict[str, tuple[str, str, bytes]] = {
    "malformed": ("malformed_request", "publish_event", b'{"event":{"event_id":"p"}}'),
    "of another": (
        "not_granted",
        "publish_event",
        b'{"event":{"event_id":"p","event_type":"poison","source_agent":"SystemDigitalTwin"}}',
    ),
    "not JSON": ("malformed_request", "publish_event", b"\x00garbage"),
    "too large": ("message_too_large", "publish_event", b'{"event":"%s"}' % (b"x" * 70_000)),
}


@pytest.mark.parametrize("poison", POISON)
def test_what_mainpc_refuses_blocks_nothing(hosts: Hosts, poison: str) -> None:
    """What comes after it arrives; it is reported with its code, and stays on disk."""
    code, action, content = POISON[poison]
    with queueing_agent(hosts) as pc2:
        pc2.enqueue("before")
    database = Database(hosts.root / "outbox.sqlite3", [MIGRATION])
    database.execute(
        "INSERT INTO outbox (kind, action, fields, request_id, added, written_by) VALUES ('error', ?, ?, 'p', 0, 'x')",
        (action, content),
    )
    database.close()
    hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts) as pc2:
        pc2.enqueue("after")
        pc2.waits(lambda: pc2.on_disk() == 1 and pc2.outbox.queue.document()["set_aside"] == 1, "one is set aside")
        assert f"mainpc refused requests from this agent's outbox: 1 ({code})" in pc2.outbox.queue.warnings()[0]
        assert pc2.link.fault is None
    assert delivered(hosts) == ["before", "after"]


SAMPLE = b'"wall":1,"cpu_percent":1,"ram_used_mb":1,"ram_total_mb":2,"host":"pc2"'
STRANGE = (  # kind, action and fields of a row
    ("event", "no_such_action", b"{}"),
    ("event", "get_audit", b"{}"),
    ("event", "unregister", b'{"agent_name":"UnifiedMemoryReasoningAgent"}'),
    ("event", "publish_event", b"{}"),
    ("event", "publish_event", b'{"event":{},"on_behalf_of":"operator"}'),
    ("event", "publish_event", b'{"event":{},"deadline_s":9}'),
    ("event", "publish_event", b'{"event":' + b"[" * 20_000 + b"]" * 20_000 + b"}"),
    ("event", "publish_event", b'{"event":"\xff"}'),
    ("error", "report_error", b'{"event":{}}'),
    ("error", "report_metrics", b"{%s}" % SAMPLE),
    ("sample", "publish_event", b'{"event":{}}'),
    ("sample", "report_metrics", b"{}"),
    ("sample", "report_metrics", b'{%s,"on_behalf_of":"operator"}' % SAMPLE),
    ("sample", "report_metrics", b"{%s}" % SAMPLE.replace(b'"wall":1', b'"wall":"soon"')),
    ("sample", "report_metrics", b"{%s}" % SAMPLE.replace(b'"wall":1', b'"wall":1e400')),
    ("sample", "report_metrics", b"{%s}" % SAMPLE.replace(b'"wall":1', b'"wall":-1e300')),
)


def test_foreign_requests_are_not_sent_and_block_nothing(hosts: Hosts) -> None:
    """As a restored backup may have it: nothing is done with this agent's key that this agent never does."""
    with queueing_agent(hosts) as pc2:
        for row in STRANGE:
            pc2.database.execute(
                "INSERT INTO outbox (kind, action, fields, request_id, added, written_by) "
                "VALUES (?, ?, ?, 'p', 0, 'x')",
                row,
            )
    hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts) as pc2:
        pc2.enqueue("after")
        pc2.waits(lambda: not pc2.outbox.queue.document()["waiting"] or not pc2.link.responsive, "nothing waits")
        assert (pc2.link.fault, pc2.link.responsive) == (None, True)
        pc2.waits(lambda: pc2.on_disk() == len(STRANGE), "what could be sent has arrived")
        assert pc2.outbox.queue.document()["set_aside"] == len(STRANGE)
        assert "(malformed_request)" in pc2.outbox.queue.warnings()[0]
    assert delivered(hosts) == ["after"]


def test_what_was_refused_arrives_when_it_is_no_more(hosts: Hosts) -> None:
    """Once an operator has granted it and mainpc was started again; in its place among what was refused with it."""
    config = Path(hosts.config.source)
    granting = config.read_text()
    config.write_text(granting.replace('"publish_event", ', ""))
    mainpc = hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts) as pc2:
        pc2.enqueue("a", "b")
        pc2.waits(lambda: pc2.outbox.queue.document()["set_aside"] == 2, "both are set aside")
        mainpc.kill()
        pc2.waits(lambda: pc2.link.fault, "out of touch")
        config.write_text(granting)
        hosts.start(SDT).wait_until_ready()
        pc2.waits(pc2.is_empty, "the outbox is empty")
        assert pc2.outbox.queue.warnings() == []
    assert delivered(hosts) == ["a", "b"]


def test_what_was_refused_is_tried_again_in_time(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """With nobody starting anything again."""
    monkeypatch.setattr(delivery, "_RETRY_REFUSED_S", 0.5)
    config = Path(hosts.config.source)
    granting = config.read_text()
    config.write_text(granting.replace('"publish_event", ', ""))
    hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts) as pc2:
        pc2.enqueue("a")
        pc2.waits(lambda: pc2.outbox.queue.document()["set_aside"] == 1, "it is set aside")
        config.write_text(granting)
        pc2.waits(pc2.is_empty, "the outbox is empty")
    assert delivered(hosts) == ["a"]


def test_a_mainpc_that_can_not_store_is_waited_for(hosts: Hosts) -> None:
    """Its refusal is no fault of the queued events: nothing is quarantined, and nothing overtakes."""
    mainpc = hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts) as pc2:
        pc2.waits(lambda: pc2.link.fault is None, "in touch")
        mainpc.forbid_files_to_grow()
        pc2.enqueue("a", "b")
        pc2.waits(lambda: (pc2.link.fault or "").startswith("StoreUnavailable"), "mainpc can't store")
        assert pc2.outbox.queue.document()["set_aside"] == 0
        mainpc.allow_files_to_grow()
        pc2.waits(pc2.is_empty, "the outbox is empty")
    assert delivered(hosts) == ["a", "b"]


def sample(wall: float) -> HostSample:
    return HostSample(wall=wall, cpu_percent=wall, ram_used_mb=1.0, ram_total_mb=2.0)


def test_samples_are_stored_while_mainpc_is_unreachable(hosts: Hosts) -> None:
    """All of it ends in mainpc's history once; the newest alone is current."""
    with queueing_agent(hosts) as pc2:
        for wall in (11.0, 12.0, 13.0):
            pc2.link.report(sample(wall))
        pc2.waits(lambda: pc2.on_disk() == 3, "three samples are queued")
    hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts) as pc2:
        pc2.waits(pc2.is_empty, "the outbox is empty")
        with hosts.client(SDT) as client:
            assert client.call("get_metrics")["metrics"]["hosts"]["pc2"]["stale"]
            pc2.link.report(sample(14.0))
            pc2.waits(lambda: not client.call("get_metrics")["metrics"]["hosts"]["pc2"]["stale"], "pc2 is known")
            assert client.call("get_metrics")["metrics"]["hosts"]["pc2"]["cpu_usage"] == 14.0
            course = client.call("get_history", host="pc2")["history"]["cpu_usage"]
        assert sorted(course) == [11.0, 12.0, 13.0, 14.0]
        assert pc2.on_disk() == 0


def test_of_several_samples_the_newest_is_sent_as_current(hosts: Hosts) -> None:
    """The others are delivered late; none twice."""
    hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts) as pc2, hosts.client(SDT) as client:
        pc2.waits(lambda: pc2.link.fault is None, "in touch")
        for wall in range(1, 31):
            pc2.link.report(sample(float(wall)))

        def course() -> list[float]:
            return sorted(client.call("get_history", host="pc2")["history"]["cpu_usage"])

        pc2.waits(lambda: len(course()) >= 30 and pc2.is_empty(), "all of them have arrived")
        assert course() == [float(wall) for wall in range(1, 31)]
        assert client.call("get_metrics")["metrics"]["hosts"]["pc2"]["cpu_usage"] == 30.0


def test_a_sample_added_while_older_ones_are_stored_is_sent(hosts: Hosts, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is newer than the one that is sent, and becomes current after it."""
    hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts) as pc2, hosts.client(SDT, by=UMRA) as client:
        reports, defer = member._SampleReports("pc2", pc2.outbox.queue), pc2.outbox.queue.defer

        def meanwhile(*stored: Any) -> None:
            monkeypatch.undo()
            reports.add(sample(3.0))
            defer(*stored)

        monkeypatch.setattr(pc2.outbox.queue, "defer", meanwhile)
        for wall in (1.0, 2.0):
            reports.add(sample(wall))
        assert [reports.send_one(client) for _ in range(3)] == [True, True, False]
        assert client.call("get_metrics")["metrics"]["hosts"]["pc2"]["cpu_usage"] == 3.0


def test_a_sample_is_queued_with_every_measured_value(hosts: Hosts) -> None:
    """Under the names that mainpc takes."""
    with queueing_agent(hosts) as pc2:
        pc2.link.report(sample(5.0))
        pc2.waits(lambda: pc2.on_disk() == 1, "it is queued")
        queued = pc2.outbox.queue.oldest()
    assert queued is not None
    assert (queued.kind, queued.action) == (Kind.SAMPLE, "report_metrics")
    assert queued.fields == {**msgspec.to_builtins(sample(5.0)), "gpus": [], "host": "pc2"}


def test_an_event_is_sent_as_soon_as_it_is_stored(hosts: Hosts) -> None:
    """The link sleeps until there is one, and need not wait for its next heartbeat."""
    hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts, heartbeat_s=3_600) as pc2:
        pc2.waits(lambda: pc2.link.fault is None, "in touch")
        pc2.enqueue("a")
        with at_most(2.0):
            pc2.waits(pc2.is_empty, "the outbox is empty")


def test_a_transient_error_is_retried_within_seconds(hosts: Hosts) -> None:
    """And not only after the next heartbeat."""
    mainpc = hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts, heartbeat_s=3_600) as pc2:
        pc2.waits(lambda: pc2.link.fault is None, "in touch")
        mainpc.forbid_files_to_grow()
        pc2.enqueue("a")
        pc2.waits(lambda: pc2.link._sender.backoff_s() < PATIENCE_S, "mainpc could not store it")
        mainpc.allow_files_to_grow()
        with at_most(5.0):
            pc2.waits(pc2.is_empty, "the outbox is empty")


def test_a_sample_that_may_be_undelivered_stays_pending(hosts: Hosts) -> None:
    """mainpc hung during the delivery: it is delivered again, late, and counts once."""
    mainpc = hosts.start(SDT).wait_until_ready()
    with queueing_agent(hosts, heartbeat_s=60) as pc2:
        pc2.waits(lambda: pc2.link.fault is None, "in touch")
        suspend(mainpc.pid)
        pc2.link.report(sample(7.0))
        pc2.waits(lambda: pc2.link.fault and pc2.on_disk(), "the sample is queued")
        mainpc.send(signal.SIGCONT)
        pc2.waits(pc2.is_empty, "the outbox is empty")
        with hosts.client(SDT) as client:
            assert client.call("get_history", host="pc2")["history"]["cpu_usage"] == [7.0]
            assert client.call("get_metrics")["metrics"]["hosts"]["pc2"]["stale"]
