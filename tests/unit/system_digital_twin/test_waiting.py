"""Requests for memory that wait: the order in which they get it, who is notified, and how they leave the queue."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.system_digital_twin.metrics_bench import (
    NEWCOMER,
    OPERATOR,
    UMRA,
    Clock,
    MetricsBench,
    names,
    with_gpus,
)
from twinhost.agent.host_metrics import MachineSample
from twinhost.secure_zmq.callers import Caller
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.system_digital_twin.capacity import reservations
from twinhost.system_digital_twin.capacity import waiting as rules
from twinhost.system_digital_twin.events.events import Topic

OTHERS = [Caller(f"agent-{number}", "pc2", frozenset({"agent"}), f"SHA256:{number}") for number in range(4)]


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Iterator[MetricsBench]:
    with MetricsBench(tmp_path / "twin.sqlite3", clock) as bench:
        bench.both_measured(pc2=with_gpus((0, 10_000), (0, 10_000)))
        yield bench


def filled(bench: MetricsBench, *amounts_mb: float) -> list[str]:
    """Fill the cards in their order; return the leases."""
    leases = [bench.ask("reserve_vram", amount_mb=amount, ttl_s=600) for amount in amounts_mb]
    assert [lease["gpu"]["index"] for lease in leases] == list(range(len(amounts_mb)))
    return names(leases)


def wanted(bench: MetricsBench) -> list[dict[str, Any]]:
    page = bench.events.newest(Topic.EVENT, limit=100, max_bytes=10**6)
    assert {entry.fields["event_type"] for entry in page.entries} <= {"lease_wanted"}
    return [entry.fields["data"] for entry in reversed(page.entries)]


def test_a_request_waits_until_memory_is_released(bench: MetricsBench) -> None:
    first, _ = filled(bench, 9_000, 9_000)
    waiting = bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=9_500, wait_s=60, ttl_s=30)
    bench.on_tick()
    assert waiting.reply() is None
    bench.ask("release_lease", lease_id=first)
    bench.on_tick()
    reply = waiting.reply()
    assert reply is not None
    assert (reply["holder"], reply["gpu"], reply["host"]) == ("newcomer", {"index": 0, "uuid": None}, "pc2")
    assert reply["placement"]["host"] == "pc2"
    assert 29 < reply["expires_in_s"] <= 30


def test_free_memory_is_given_without_waiting(bench: MetricsBench) -> None:
    """And its reply is stored, as of every change."""
    first, second = (bench.ask("reserve_vram", amount_mb=1, wait_s=60, request_id="r") for _ in range(2))
    assert first == second
    assert first["status"] == "success"


@pytest.mark.parametrize("cause", ["expired", "dead"])
def test_expiry_and_death_hand_over_in_the_same_tick(bench: MetricsBench, clock: Clock, cause: str) -> None:
    held = bench.ask("reserve_vram", amount_mb=9_000, host="pc2", ttl_s=50)["lease_id"]
    bench.ask("reserve_vram", NEWCOMER, amount_mb=9_000, host="pc2", ttl_s=600)
    if cause == "dead":
        bench.ask("commit_lease", lease_id=held)
        bench.dead.add(UMRA.name)
    waiting = bench.ask_and_wait("reserve_vram", OTHERS[0], amount_mb=9_000, wait_s=60)
    bench.on_tick()
    assert waiting.reply() is None
    clock.let_pass(reservations.DEAD_AFTER_S if cause == "dead" else 50)
    bench.measured("pc2", with_gpus((0, 10_000), (0, 10_000)))
    bench.on_tick()
    reply = waiting.reply()
    assert reply is not None
    assert (reply["status"], len(bench.rows("leases"))) == ("success", 2)


def test_an_agent_that_comes_back_keeps_its_leases(bench: MetricsBench, clock: Clock) -> None:
    """Silence counts only while this process looks: it may have been stopped itself."""
    filled(bench, 1)
    bench.dead.add(UMRA.name)
    bench.on_tick()
    clock.let_pass(reservations.DEAD_AFTER_S - 1)
    bench.dead.clear()
    bench.on_tick()
    bench.dead.add(UMRA.name)
    clock.let_pass(2)
    bench.on_tick()
    assert len(bench.ask("list_leases")["leases"]) == 1


def test_a_wait_ends_at_its_time(bench: MetricsBench, clock: Clock) -> None:
    filled(bench, 9_000, 9_000)
    waiting = bench.ask_and_wait("reserve_vram", amount_mb=9_000, wait_s=3)
    bench.on_tick()
    clock.let_pass(3)
    bench.on_tick()
    reply = waiting.reply()
    assert reply is not None
    assert reply["code"] == "limit_reached"
    assert "3 s of waiting were not enough; see list_leases" in reply["error"]
    assert bench.ask_and_wait("reserve_vram", amount_mb=9_000, wait_s=3).reply() is None


def test_a_priority_goes_first_and_then_arrival(bench: MetricsBench) -> None:
    leases = filled(bench, 9_000, 9_000)
    low, first, second = (
        bench.ask_and_wait("reserve_vram", caller, amount_mb=9_000, wait_s=60, priority=priority)
        for caller, priority in zip(OTHERS, (0, 5, 5), strict=False)
    )
    bench.on_tick()
    for served in (first, second, low):
        bench.ask("release_lease", OPERATOR, lease_id=leases.pop(0))
        bench.on_tick()
        reply = served.reply()
        assert reply is not None
        leases.append(reply["lease_id"])


def test_a_small_request_that_fits_is_not_held_back(bench: MetricsBench) -> None:
    """By a large one of any priority that can't be met while it waits; neither if it waits, nor if it doesn't."""
    filled(bench, 5_000, 5_000)
    large = bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=9_500, wait_s=60, host="pc2", priority=100)
    replies = [bench.ask("reserve_vram", OTHERS[0], amount_mb=1, wait_s=wait_s, ttl_s=600) for wait_s in (0, 60) * 20]
    assert {reply["status"] for reply in replies} == {"success"}
    bench.on_tick()
    assert large.reply() is None


def test_small_requests_delay_a_large_one_only_so_often(
    bench: MetricsBench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Then it is met when the leases that are known have ended; who has ended by then still goes first."""
    monkeypatch.setattr(rules, "MAX_OVERTAKEN", 3)
    bench.both_measured(pc2=with_gpus((0, 10_000)))
    filled(bench, 5_000)
    large = bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=9_500, wait_s=3_600, priority=1)
    bench.on_tick()
    replies = [bench.ask("reserve_vram", OTHERS[0], amount_mb=1, ttl_s=610 + number) for number in range(9)]
    assert [reply["status"] for reply in replies] == ["success"] * 3 + ["error"] * 6
    assert "pc2's VRAM is kept for requests that wait for it" in replies[-1]["error"]
    assert bench.ask("reserve_vram", OTHERS[0], amount_mb=1, ttl_s=590)["status"] == "success"
    assert bench.ask("reserve_ram", OTHERS[0], amount_mb=1)["status"] == "success"
    clock.let_pass(613)
    bench.both_measured(pc2=with_gpus((0, 10_000)))
    bench.on_tick()
    reply = large.reply()
    assert reply is not None
    assert reply["status"] == "success"


def test_a_large_request_that_renewals_defeat_lets_others_go(
    bench: MetricsBench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Holders who renew their leases show that it can't be met then; it is served once they stop."""
    monkeypatch.setattr(rules, "MAX_OVERTAKEN", 2)
    bench.both_measured(pc2=with_gpus((0, 10_000)))
    (held,) = filled(bench, 5_000)
    large = bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=9_500, wait_s=3_600, priority=1)
    served = []
    for number in range(4):
        served.append(bench.ask("reserve_vram", OTHERS[0], amount_mb=1, ttl_s=700 + number)["status"])
        bench.on_tick()
    bench.ask("commit_lease", lease_id=held, ttl_s=3_000)
    clock.let_pass(702)
    bench.both_measured(pc2=with_gpus((0, 10_000)))
    bench.on_tick()
    served.append(bench.ask("reserve_vram", OTHERS[0], amount_mb=1, ttl_s=3_600)["status"])
    assert served == ["success", "success", "error", "error", "success"]
    assert large.reply() is None


def test_a_queue_of_one_holder_starves_no_other(bench: MetricsBench) -> None:
    """Among equals, holders take turns, whoever asked first and however often."""
    held = filled(bench, 9_000, 9_000)
    many = [bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=9_000, wait_s=60) for _ in range(10)]
    first, second = (bench.ask_and_wait("reserve_vram", OTHERS[0], amount_mb=9_000, wait_s=60) for _ in range(2))
    order = []
    for _ in range(4):
        bench.ask("release_lease", OPERATOR, lease_id=held.pop(0))
        bench.on_tick()
        held.append(bench.leases.all()[-1].lease_id)
        order.append(bench.leases.all()[-1].holder)
    assert order == ["newcomer", "agent-0"] * 2
    assert all(waits.reply() for waits in (first, second, *many[:2]))


@pytest.mark.parametrize("resource", ["ram", "vram"])
def test_hosts_on_one_machine_have_one_queue(bench: MetricsBench, resource: str) -> None:
    """By priority and arrival, whichever of the hosts a request names and in whatever order each sees the cards."""
    machine, uuids = MachineSample(boot_id="b00t"), ["GPU-a", "GPU-b"]
    bench.both_measured(
        mainpc=with_gpus((0, 900), (0, 900), uuids=uuids, ram_used_mb=0, machine=machine),
        pc2=with_gpus((0, 900), (0, 900), uuids=uuids[::-1], ram_used_mb=0, machine=machine),
    )
    reserve, amounts = f"reserve_{resource}", {"ram": [700], "vram": [800, 800]}[resource]
    held = [bench.ask(reserve, amount_mb=amount, host="mainpc", ttl_s=600)["lease_id"] for amount in amounts]
    first = bench.ask_and_wait(reserve, OTHERS[0], amount_mb=700, host="mainpc", wait_s=60)
    second = bench.ask_and_wait(reserve, OTHERS[1], amount_mb=700, host="pc2", wait_s=60)
    urgent = bench.ask_and_wait(reserve, OTHERS[2], amount_mb=700, host="pc2", wait_s=60, priority=1)
    assert {each["lease_id"] for each in wanted(bench)} <= {*held}
    order = [urgent, first, second]
    while order:
        bench.ask("release_lease", OPERATOR, lease_id=held.pop(0))
        bench.on_tick()
        reply = order.pop(0).reply()
        assert reply is not None
        assert all(each.reply() is None for each in order)
        held.append(reply["lease_id"])


def test_a_card_that_is_too_small_is_not_kept(bench: MetricsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A large request keeps only cards that it could have."""
    monkeypatch.setattr(rules, "MAX_OVERTAKEN", 0)
    bench.both_measured(pc2=with_gpus((0, 1_000), (0, 10_000)))
    bench.ask("reserve_vram", amount_mb=1_000, ttl_s=50)
    bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=9_000, wait_s=60)
    assert bench.ask("reserve_vram", amount_mb=900, ttl_s=600)["gpu"]["index"] == 0
    assert bench.ask("reserve_vram", amount_mb=900, ttl_s=600)["code"] == "limit_reached"


def test_priorities_overtake_a_bounded_number_of_times(
    bench: MetricsBench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rules, "MAX_OVERTAKEN", 3)
    held = filled(bench, 9_000, 9_000)
    low = bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=9_000, wait_s=3_600)
    for number in range(4):
        high = bench.ask_and_wait("reserve_vram", OTHERS[number], amount_mb=9_000, wait_s=3_600, priority=9)
        bench.ask("release_lease", OPERATOR, lease_id=held.pop(0))
        bench.on_tick()
        assert ((low if number == 3 else high).reply() or {}).get("status") == "success"
        held.append(bench.leases.all()[-1].lease_id)


def test_holders_whose_release_would_help_are_notified_once(bench: MetricsBench) -> None:
    """One that suffices alone, rather than all; nobody where even all would not suffice."""
    bench.both_measured(pc2=with_gpus((5_000, 10_000), (0, 10_000)))
    big = bench.ask("reserve_vram", amount_mb=6_000, host="pc2")
    small = bench.ask("reserve_vram", NEWCOMER, amount_mb=3_000, host="pc2")
    assert (big["gpu"]["index"], small["gpu"]["index"]) == (1, 0)
    bench.ask_and_wait("reserve_vram", OTHERS[0], amount_mb=5_500, wait_s=60, priority=2)
    for _ in range(2):
        bench.on_tick()
    (event,) = wanted(bench)
    assert event == {
        "lease_id": big["lease_id"], "holder": UMRA.name, "resource": "vram", "host": "pc2", "amount_mb": 5_500.0,
        "wanted_by": "agent-0", "priority": 2,
    }  # fmt: skip


def test_several_holders_are_notified_where_only_all_suffice(bench: MetricsBench) -> None:
    bench.both_measured(pc2=with_gpus((0, 10_000)))
    held = [bench.ask("reserve_vram", caller, amount_mb=3_000)["lease_id"] for caller in OTHERS[:3]]
    bench.ask_and_wait("reserve_vram", amount_mb=9_500, wait_s=60)
    bench.ask_and_wait("reserve_vram", amount_mb=9_500, wait_s=60)
    bench.on_tick()
    assert sorted(event["lease_id"] for event in wanted(bench)) == sorted(held), "the second is not to be served yet"


def test_a_request_notifies_a_bounded_number_of_holders(
    bench: MetricsBench, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So that it does not evict all other events."""
    monkeypatch.setattr(reservations, "MAX_NOTIFIED", 3)
    for _ in range(5):
        filled(bench, 1_000, 1_000)
    bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=5_400, wait_s=60)
    for _ in range(3):
        bench.on_tick()
        clock.let_pass(1)
    assert len(wanted(bench)) == 3


def test_a_client_that_is_gone_leaves_the_queue(bench: MetricsBench, clock: Clock) -> None:
    """After the time in which it could reconnect; until then it is given nothing, and keeps its place."""
    leases = filled(bench, 9_000, 9_000)
    gone = bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=9_000, wait_s=60)
    after = bench.ask_and_wait("reserve_vram", OTHERS[0], amount_mb=9_000, wait_s=60)
    gone.disconnect()
    bench.ask("release_lease", lease_id=leases[0])
    bench.on_tick()
    assert after.reply() is None
    clock.let_pass(reservations.RECONNECT_S)
    bench.on_tick()
    reply = after.reply()
    assert reply is not None
    assert reply["holder"] == "agent-0"
    assert {lease["holder"] for lease in bench.ask("list_leases")["leases"]} == {UMRA.name, "agent-0"}


def test_a_client_that_reconnects_keeps_its_place(bench: MetricsBench, clock: Clock) -> None:
    """It repeats its request; the reply goes to the newest connection, and a later repetition gets the same lease."""
    leases = filled(bench, 9_000, 9_000)
    request: dict[str, Any] = {"amount_mb": 9_000, "wait_s": 60, "request_id": "r1"}
    first = bench.ask_and_wait("reserve_vram", NEWCOMER, **request)
    other = bench.ask_and_wait("reserve_vram", OTHERS[0], amount_mb=9_000, wait_s=60)
    first.disconnect()
    bench.on_tick()
    clock.let_pass(1)
    again = bench.ask_and_wait("reserve_vram", NEWCOMER, **request)
    third = bench.ask_and_wait("reserve_vram", NEWCOMER, **request)
    assert bench.ask("reserve_vram", NEWCOMER, **{**request, "amount_mb": 1})["code"] == "request_id_reused"
    bench.ask("release_lease", lease_id=leases[1])
    bench.on_tick()
    reply = third.reply()
    assert (again._deferred.answer.cancelled(), other.reply()) == (True, None)
    assert reply is not None
    assert bench.ask("reserve_vram", NEWCOMER, **request)["lease_id"] == reply["lease_id"]
    bench.restart(killed=True)
    bench.both_measured(pc2=with_gpus((0, 10_000), (0, 10_000)))
    assert bench.ask("reserve_vram", NEWCOMER, **request)["lease_id"] == reply["lease_id"]
    assert len(bench.ask("list_leases")["leases"]) == 2


def test_what_can_never_be_given_does_not_wait(bench: MetricsBench) -> None:
    filled(bench, 9_000, 9_000)
    assert bench.ask("reserve_vram", amount_mb=9_501, wait_s=60)["code"] == "limit_reached"
    assert bench.ask("reserve_vram", amount_mb=1, wait_s=60, host="mainpc")["code"] == "not_found"
    assert bench.ask("reserve_vram", amount_mb=1, wait_s=60, host="pc9")["code"] == "not_found"


@pytest.mark.parametrize("resource", ["ram", "vram"])
def test_a_request_waits_for_the_first_measurement(bench: MetricsBench, resource: str) -> None:
    """After a start of mainpc nothing is measured yet, and the clients that waited before repeat their requests."""
    bench.restart()
    waiting = bench.ask_and_wait(f"reserve_{resource}", amount_mb=500, host="pc2", wait_s=60)
    assert bench.ask(f"reserve_{resource}", amount_mb=500, host="pc2")["code"] == "not_found"
    bench.on_tick()
    assert waiting.reply() is None
    bench.both_measured(pc2=with_gpus((0, 10_000)))
    bench.on_tick()
    reply = waiting.reply()
    assert reply is not None
    assert (reply["status"], reply["host"]) == ("success", "pc2")


def test_the_queue_is_bounded(bench: MetricsBench, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (reservations.MAX_WAITING, reservations.MAX_WAITING_PER_HOLDER) == (256, 16)
    monkeypatch.setattr(reservations, "MAX_WAITING", 3)
    monkeypatch.setattr(reservations, "MAX_WAITING_PER_HOLDER", 2)
    filled(bench, 9_000, 9_000)
    request: dict[str, Any] = {"amount_mb": 9_000, "wait_s": 60}
    for _ in range(2):
        bench.ask_and_wait("reserve_vram", **request)
    assert "2 requests of UnifiedMemoryReasoningAgent wait" in bench.ask("reserve_vram", **request)["error"]
    bench.ask_and_wait("reserve_vram", NEWCOMER, **request)
    assert "3 requests wait for memory" in bench.ask("reserve_vram", OTHERS[0], **request)["error"]


@pytest.mark.parametrize(
    ("fields", "path"),
    [
        ({"wait_s": -1}, "$.wait_s"),
        ({"wait_s": 3_601}, "$.wait_s"),
        ({"priority": 101}, "$.priority"),
        ({"priority": -101}, "$.priority"),
        ({"priority": 0.5}, "$.priority"),
    ],
)
def test_a_wrong_wait_is_refused(bench: MetricsBench, fields: dict[str, Any], path: str) -> None:
    reply = bench.ask("reserve_ram", amount_mb=1, **fields)
    assert reply["code"] == "malformed_request"
    assert path in reply["error"]


def test_a_store_that_fails_gives_nothing(bench: MetricsBench, clock: Clock) -> None:
    """The request still waits, and gets its memory once it can be written."""
    first, _ = filled(bench, 9_000, 9_000)
    waiting = bench.ask_and_wait("reserve_vram", NEWCOMER, amount_mb=9_000, wait_s=60)
    bench.ask("release_lease", lease_id=first)
    bench.database.execute("ALTER TABLE leases RENAME TO away")
    with pytest.raises(StoreUnavailable):
        bench.on_tick()
    assert (waiting.reply(), len(bench.leases.all())) == (None, 1)
    bench.database.execute("ALTER TABLE away RENAME TO leases")
    clock.let_pass(2)
    bench.on_tick()
    reply = waiting.reply()
    assert reply is not None
    assert reply["lease_id"] in names(bench.ask("list_leases")["leases"])


def test_a_batch_that_is_lost_keeps_who_waits(bench: MetricsBench) -> None:
    filled(bench, 9_000, 9_000)
    request: dict[str, Any] = {"amount_mb": 9_000, "wait_s": 60, "request_id": "r1"}
    (lost,) = bench.ask_together(("reserve_vram", NEWCOMER, request), ("doom", UMRA, {}))
    assert lost["code"] == "store_unavailable"
    bench.ask_and_wait("reserve_vram", NEWCOMER, **request)
    assert len(bench.reservations._waiters) == 1
