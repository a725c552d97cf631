"""The order of events beside a real store: whatever the feed loses is requested, and comes once, in its place."""

import itertools
import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.system_digital_twin.event_bench import EventBench
from tests.unit.system_digital_twin.twin import Clock
from twinhost import moments
from twinhost.clients import event_order
from twinhost.clients.event_order import EventGap, EventOrder, FeedItem, ReceivedEvent
from twinhost.secure_zmq.client import FeedEvent
from twinhost.secure_zmq.errors import NotGranted, ServerUnreachable, TwinhostError
from twinhost.secure_zmq.framing.exchange import successful

FEED = "tcp://mainpc:7122"


class SetClock(moments.Clock):
    """A clock that stands still until a test sets it."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def monotonic(self) -> float:
        return self.now


_PATHS = itertools.count()


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[EventBench]:
    with EventBench(tmp_path / "db", Clock(), most=5) as bench:
        yield bench


def step(order: EventOrder, bench: EventBench, event: FeedEvent | None = None, *, session: int = 1) -> list[FeedItem]:
    return event_order.answered(order.step(event, session=session, fault=None), bench.ask)


def numbers(items: list[FeedItem]) -> list[int]:
    return [item.fields["seq"] for item in items if isinstance(item, ReceivedEvent)]


def sent(bench: EventBench) -> list[FeedEvent]:
    """Return what went to the feed since the last call."""
    events = [FeedEvent(topic, json.dumps(fields).encode()) for topic, fields in bench.sent]
    bench.sent.clear()
    return events


FATES = st.tuples(st.booleans(), st.sampled_from(["received", "lost", "twice", "reconnected"]))


@settings(max_examples=30, deadline=None)
@given(fates=st.lists(FATES, max_size=30), topics=st.sampled_from([("EVENT:",), ("EVENT:", "ERROR:")]))
def test_every_event_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, fates: list[tuple[bool, str]], topics: tuple[str, ...]
) -> None:
    """Events and errors, of which the feed loses some, has some twice, and loses the connection after some."""
    with EventBench(tmp_path_factory.getbasetemp() / f"order-{next(_PATHS)}", Clock()) as bench:
        order, found, expected = EventOrder(topics, FEED, after=0), list[int](), list[int]()
        found += numbers(step(order, bench))
        for number, (is_event, fate) in enumerate(fates, 1):
            bench.publish() if is_event else bench.report()
            (event,) = sent(bench)
            if event.topic.decode() not in topics:
                continue
            expected.append(number)
            for _ in range({"lost": 0, "twice": 2}.get(fate, 1)):
                found += numbers(step(order, bench, event))
            if fate == "reconnected":
                found += numbers(step(order, bench, session=0))
        found += numbers(step(order, bench, session=0)) + numbers(step(order, bench))
        assert found == expected


def test_the_last_event_is_found_though_none_follows(bench: EventBench) -> None:
    """mainpc is asked now and then."""
    clock = SetClock()
    order = EventOrder(["EVENT:"], FEED, None, clock)
    event_order.answered(order.begin(), bench.ask)
    assert step(order, bench) == []
    bench.publish("lost")
    assert step(order, bench) == []
    clock.now += 2
    assert numbers(step(order, bench)) == [1]


def test_what_retention_deleted_is_a_gap(bench: EventBench) -> None:
    """Before what is left, and once; without a number to begin after, there is none."""
    for _ in range(9):
        bench.publish()
    gap, *left = step(EventOrder(["EVENT:"], FEED, after=2), bench)
    assert gap == EventGap("some of EVENT: after 2 was deleted by retention", after=2)
    assert numbers(left) == [5, 6, 7, 8, 9]
    assert numbers(step(EventOrder(["EVENT:"], FEED, after=4), bench)) == [5, 6, 7, 8, 9]
    everything = EventOrder(["EVENT:"], FEED, after=0)
    assert numbers(found := step(everything, bench)) == [5, 6, 7, 8, 9]
    assert len(found) == 5


def test_a_new_store_is_a_gap(bench: EventBench) -> None:
    bench.publish()
    gap, first = step(EventOrder(["EVENT:"], FEED, after=700), bench)
    assert gap == EventGap("mainpc has a new store, without the earlier events; numbers start again", after=0)
    assert numbers([first]) == [1]


def test_an_outage_is_waited_for_and_a_refusal_is_not(bench: EventBench) -> None:
    """`fault` says why nothing comes; a missing grant ends it, after what was received before."""

    def failing(error: TwinhostError, event: FeedEvent | None = None) -> list[FeedItem]:
        def call(action: str, **_: object) -> dict[str, object]:
            raise error

        return event_order.answered(order.step(event, session=0, fault=None), call)

    order = EventOrder(["EVENT:", "AGENT:"], FEED, after=0)
    assert failing(outage := ServerUnreachable("nobody answers")) == []
    assert order.fault is outage
    assert step(order, bench) == []
    assert order.fault is None
    order = EventOrder(["EVENT:", "AGENT:"], FEED, after=0)
    registered = FeedEvent(b"AGENT:", b'{"agent_name": "gardener"}')
    assert failing(NotGranted("no"), registered) == [ReceivedEvent("AGENT:", {"agent_name": "gardener"})]
    with pytest.raises(NotGranted, match="no"):
        step(order, bench)


def granted(bench: EventBench, *topics: str) -> None:
    """Have the bench's caller be granted these topics of the feed, and reading."""
    grants = {f"subscribe:{topic}" for topic in topics}
    bench.grants.replace({"agent": {"ping", "get_events", "get_errors", "publish_event", *grants}})


def step_or_raise(
    order: EventOrder, bench: EventBench, *, session: int, event: FeedEvent | None = None
) -> list[FeedItem]:
    """Do what `step` does, with a client that raises what mainpc refuses."""
    return event_order.answered(
        order.step(event, session=session, fault=None),
        lambda action, **fields: successful(bench.ask(action, **fields)),
    )


def test_a_topic_that_the_feed_refuses_is_an_error_at_once(bench: EventBench) -> None:
    """Its socket gets no reason; nor does an event of another topic hide it. What is granted is followed."""
    granted(bench, "EVENT", "ERROR")
    assert step_or_raise(EventOrder(["EVENT:", "ERROR:"], FEED, after=0), bench, session=1) == []
    bench.publish()
    order = EventOrder(["EVENT:", "TRUST:"], FEED, after=0)
    assert numbers(step_or_raise(order, bench, session=1, event=sent(bench)[0])) == [1]
    with pytest.raises(
        NotGranted, match=rf"event feed at {FEED} .*subscribe to TRUST: is not granted to .* \(role agent"
    ):
        step_or_raise(order, bench, session=1)


def test_a_grant_that_changes_is_seen_in_the_next_session(bench: EventBench) -> None:
    """While it is withdrawn, `fault` says why nothing comes."""
    order = EventOrder(["EVENT:", "AGENT:"], FEED, after=0)
    granted(bench, "EVENT", "AGENT")
    for session in (1, 1):
        assert step_or_raise(order, bench, session=session) == []
    granted(bench, "EVENT")
    assert step_or_raise(order, bench, session=2) == []
    assert isinstance(order.fault, NotGranted)
    assert "grant it `subscribe`" in str(order.fault)
    granted(bench, "EVENT", "AGENT")
    assert step_or_raise(order, bench, session=3) == []
    assert order.fault is None


def test_sessions_that_end_at_once_are_a_missing_grant(bench: EventBench) -> None:
    """Each look may find one, a new one each time."""
    clock = SetClock()
    order, began = EventOrder(["EVENT:"], FEED, 0, clock), clock.now
    for session in range(1, 20):
        clock.now = began + session / 2
        assert step(order, bench, session=session) == []
    clock.now = began + 11
    with pytest.raises(NotGranted, match="grant it `subscribe`"):
        step(order, bench, session=20)
