"""What one identity's leases and reports can do to others: attacks with an ordinary agent's key, and what ends them."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.system_digital_twin.metrics_bench import (
    NEWCOMER,
    OPERATOR,
    UMRA,
    Clock,
    MetricsBench,
    sample,
    with_gpu,
    with_gpus,
)
from twinhost.agent.host_metrics import MachineSample
from twinhost.secure_zmq.budgets import Budget, BudgetTable
from twinhost.secure_zmq.callers import Caller
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.system_digital_twin.__main__ import NAME, assemble
from twinhost.system_digital_twin.capacity.leases import MIGRATION_ENDS, Leases
from twinhost.system_digital_twin.capacity.reservations import DEAD_AFTER_S
from twinhost.system_digital_twin.state_files import MIGRATIONS

DAY_S = 86_400.0
ATTACKER = Caller("attacker", "pc2", frozenset({"agent"}), "SHA256:of-the-attacker")
STRANGER = Caller("stranger", "laptop", frozenset({"agent"}), "SHA256:of-the-stranger")  # whose host is not measured

_REFUSED = ("over_budget", "limit_reached")

pytestmark = pytest.mark.sdt_security


@pytest.fixture
def bench(tmp_path: Path, clock: Clock) -> Iterator[MetricsBench]:
    with MetricsBench(tmp_path / "twin.sqlite3", clock) as bench:
        bench.budget = BudgetTable()
        bench.both_measured()
        yield bench


def committed(bench: MetricsBench, amount_mb: float, caller: Caller = ATTACKER) -> str:
    lease = bench.ask("reserve_ram", caller, amount_mb=amount_mb, host="pc2")
    assert bench.ask("commit_lease", caller, lease_id=lease["lease_id"])["status"] == "success", lease
    return str(lease["lease_id"])


def leased(bench: MetricsBench) -> list[str]:
    return [lease["holder"] for lease in bench.ask("list_leases")["leases"]]


def reported(bench: MetricsBench, caller: Caller, used_mb: float, totals: dict[str, float], **fields: Any) -> None:
    payload = {"agent_name": caller.name, "total_vram_mb": 0, "total_vram_used_mb": used_mb, "loaded_models": {}}
    reply = bench.ask("update_vram_metrics", caller, payload={**payload, "device_totals_mb": totals}, **fields)
    assert reply["host"] == "pc2", reply


def test_no_lease_is_held_for_good(bench: MetricsBench, clock: Clock) -> None:
    """One that is committed without an end has that of the holder's budget, and the reply says which."""
    bench.budget = BudgetTable(names={"attacker": {"lease_s": 600.0}})
    lease = committed(bench, 100)
    ((_, record),) = bench.rows("leases")
    assert json.loads(record)["ttl_s"] == 600
    clock.let_pass(601)
    bench.on_tick()
    assert leased(bench) == []
    assert bench.ask("commit_lease", ATTACKER, lease_id=lease)["code"] == "not_found"


def test_a_longer_lease_than_the_budgets_is_refused(bench: MetricsBench) -> None:
    """Also where it is renewed; the refusal says which budget, and what to do."""
    bench.budget = BudgetTable(names={"attacker": {"lease_s": 600.0}})
    refused = bench.ask("reserve_ram", ATTACKER, amount_mb=1, ttl_s=601)
    assert (refused["code"], refused["budget"], refused["limit"]) == ("over_budget", "lease_s", 600)
    assert "ask with a shorter `ttl_s`, and renew with commit_lease" in refused["error"]
    lease = bench.ask("reserve_ram", ATTACKER, amount_mb=1, ttl_s=600)["lease_id"]
    assert bench.ask("commit_lease", ATTACKER, lease_id=lease, ttl_s=601)["budget"] == "lease_s"
    assert bench.ask("commit_lease", ATTACKER, lease_id=lease, ttl_s=600)["status"] == "success"


@pytest.mark.parametrize("restarts", [False, True])
def test_what_a_revoked_holder_leased_is_free(bench: MetricsBench, restarts: bool) -> None:
    """At once, also if mainpc was not running; and a restart gives nothing back."""
    committed(bench, 500)
    bench.ask("reserve_vram", ATTACKER, amount_mb=1)
    assert bench.ask("reserve_ram", amount_mb=300, host="pc2")["code"] == "limit_reached"
    bench.gone.add(ATTACKER.name)
    if restarts:
        bench.restart(killed=True)
        bench.both_measured()
    bench.on_tick()
    assert bench.ask("reserve_ram", amount_mb=300, host="pc2")["status"] == "success"
    bench.restart(killed=True)
    assert leased(bench) == [UMRA.name]


def test_a_revoked_holder_waits_no_more(bench: MetricsBench) -> None:
    """Nor does what it waited for hold back anybody for the time in which it could reconnect."""
    held = committed(bench, 500, UMRA)
    waiting = bench.ask_and_wait("reserve_ram", ATTACKER, amount_mb=500, host="pc2", wait_s=60)
    bench.gone.add(ATTACKER.name)
    bench.ask("release_lease", lease_id=held)
    bench.on_tick()
    assert ((waiting.reply() or {})["code"], leased(bench)) == ("peer_not_live", [])
    assert bench.ask("reserve_ram", NEWCOMER, amount_mb=500, host="pc2")["status"] == "success"


def test_a_holder_that_is_only_silent_keeps_its_lease(bench: MetricsBench, clock: Clock) -> None:
    committed(bench, 100)
    clock.let_pass(DAY_S - 60)
    bench.on_tick()
    assert leased(bench) == [ATTACKER.name]


def test_one_holder_gets_its_share_and_no_more(bench: MetricsBench, clock: Clock) -> None:
    """Of each place, with all its leases; what is left is another's. The refusal says until when."""
    bench.budget = BudgetTable(Budget(lease_share=0.5))  # of the 900 MB that may be leased
    bench.both_measured(pc2=sample(ram_used_mb=0), mainpc=sample(ram_used_mb=0))
    first = bench.ask("reserve_ram", ATTACKER, amount_mb=300, host="pc2", ttl_s=50)
    refused = bench.ask("reserve_ram", ATTACKER, amount_mb=200, host="pc2")
    assert (refused["code"], refused["budget"], round(refused["used"], 3), refused["limit"]) == (
        "over_budget", "lease_share", 0.333, 0.5,
    )  # fmt: skip
    assert refused["until"][:18] == first["expires"][:18]
    assert refused["error"].endswith("; release a lease, or ask for at most 150 MB")
    assert bench.ask("reserve_ram", ATTACKER, amount_mb=200)["host"] == "mainpc"
    assert bench.ask("reserve_ram", amount_mb=200, host="pc2")["status"] == "success"
    never = bench.ask("reserve_ram", ATTACKER, amount_mb=451, host="pc2", wait_s=60)
    assert (never["code"], never["until"]) == ("over_budget", None)
    assert bench.ask("reserve_ram", ATTACKER, amount_mb=901, host="pc2")["code"] == "limit_reached"
    assert bench.ask("reserve_ram", OPERATOR, amount_mb=300, host="pc2")["status"] == "success"


def test_a_request_beyond_its_share_waits_for_its_own_leases(bench: MetricsBench) -> None:
    """And holds nobody back meanwhile, however high its priority."""
    bench.budget = BudgetTable(Budget(lease_share=0.5))
    bench.both_measured(pc2=with_gpus((0, 1_000)))
    own = bench.ask("reserve_vram", ATTACKER, amount_mb=400)["lease_id"]
    waiting = bench.ask_and_wait("reserve_vram", ATTACKER, amount_mb=400, wait_s=60, priority=100)
    for _ in range(20):
        lease = bench.ask("reserve_vram", amount_mb=400)["lease_id"]
        bench.on_tick()
        assert waiting.reply() is None
        bench.ask("release_lease", lease_id=lease)
    bench.ask("release_lease", ATTACKER, lease_id=own)
    bench.on_tick()
    assert (waiting.reply() or {})["status"] == "success"


def test_a_priority_above_the_budget_is_refused(bench: MetricsBench) -> None:
    """By role or by name; nothing else is."""
    bench.budget = BudgetTable(roles={"agent": {"lease_priority": 5}})
    refused = bench.ask("reserve_ram", ATTACKER, amount_mb=1, priority=6)
    assert (refused["code"], refused["budget"], refused["limit"]) == ("over_budget", "lease_priority", 5)
    for priority in (5, -100):
        assert bench.ask("reserve_ram", ATTACKER, amount_mb=1, priority=priority)["status"] == "success"
    assert bench.ask("reserve_ram", OPERATOR, amount_mb=1, priority=100)["status"] == "success"


def test_a_wait_for_nearly_everything_refuses_nobody(bench: MetricsBench) -> None:
    """With the highest priority, again and again, for more than there will be: others get what is free."""
    bench.both_measured(pc2=sample(ram_used_mb=400))
    for _ in range(16):
        bench.ask_and_wait("reserve_ram", ATTACKER, amount_mb=850, host="pc2", wait_s=3_600, priority=100)
    for number in range(100):
        assert bench.ask("reserve_ram", amount_mb=1, host="pc2", ttl_s=600)["status"] == "success", number


def test_a_false_report_ends_with_its_writers_key(bench: MetricsBench) -> None:
    """At once: what it says is in use, and what it says of the card. A restart brings nothing back."""
    reported(bench, UMRA, 0, {"cuda:0": 10_000})
    reported(bench, ATTACKER, 1e6, {"cuda:0": 10})
    assert bench.ask("reserve_vram", amount_mb=100)["code"] == "limit_reached"
    bench.gone.add(ATTACKER.name)
    bench.on_tick()
    assert bench.ask("reserve_vram", amount_mb=100)["status"] == "success"
    bench.restart(killed=True)
    assert bench.reports.agents() == {UMRA.name}


def test_an_operators_report_for_an_agent_lasts(bench: MetricsBench) -> None:
    """Its writer's key counts, and not that of the agent, which may have none."""
    payload = {"agent_name": "gardener", "total_vram_mb": 10_000, "total_vram_used_mb": 0, "loaded_models": {}}
    bench.ask("update_vram_metrics", OPERATOR, payload={**payload, "device_totals_mb": {"cuda:0": 10_000}}, host="pc2")
    bench.gone.add("gardener")
    bench.on_tick()
    bench.restart(killed=True)
    bench.both_measured()
    bench.on_tick()
    assert bench.ask("reserve_vram", amount_mb=100)["status"] == "success"


def test_a_report_on_another_host_counts_up_to_its_writers_share(bench: MetricsBench) -> None:
    """It says nothing of the cards that the host's own agents describe; and none says more than a card has."""
    bench.budget = BudgetTable(Budget(lease_share=0.5))
    reported(bench, UMRA, 0, {"cuda:0": 10_000})
    reported(bench, STRANGER, 1e6, {"cuda:0": 10, "cuda:1": 10}, host="pc2")
    (card,) = bench.reservations.hosts().state("pc2").cards
    assert (card.used_mb, card.total_mb) == (5_000, 10_000)
    reported(bench, ATTACKER, 1e6, {"cuda:0": 10_000})
    (card,) = bench.reservations.hosts().state("pc2").cards
    assert card.used_mb == 15_000


def test_a_dead_agent_and_a_revoked_one_end_differently(bench: MetricsBench, clock: Clock) -> None:
    """A dead one has time to come back."""
    committed(bench, 100)
    bench.dead.add(ATTACKER.name)
    bench.on_tick()
    assert leased(bench) == [ATTACKER.name]
    clock.let_pass(DEAD_AFTER_S)
    bench.on_tick()
    assert leased(bench) == []


def test_leases_without_an_end_get_one_at_the_upgrade(tmp_path: Path, clock: Clock) -> None:
    """A day from then; those that have an end keep it, and nothing else of them changes."""
    before = MIGRATIONS[: MIGRATIONS.index(MIGRATION_ENDS)]
    path, now = tmp_path / "twin.sqlite3", clock.time()
    old = {
        "lease_id": "old", "resource": "vram", "host": "pc2", "amount_mb": 3_000.5, "holder": "UMRA", "gpu": 1,
        "state": "committed", "created": now - 1e6, "deadline": None, "waited_as": "é",
    }  # fmt: skip
    database = Database(path, [REPLY_LOG_SCHEMA, *before], clock)
    for record in (old, {**old, "lease_id": "ends", "deadline": now + 60, "ttl_s": 60.0, "created": now}):
        database.execute("INSERT INTO leases VALUES (?, ?)", (record["lease_id"], json.dumps(record).encode()))
    database.close()
    database = Database(path, [REPLY_LOG_SCHEMA, *MIGRATIONS], clock)
    leases = Leases(database, lambda *_: None)
    first, ends = leases.all()
    assert (first.lease_id, first.amount_mb, first.gpu, first.waited_as) == ("old", 3_000.5, 1, "é")
    assert DAY_S - 60 < leases.expires_in_s(first) <= DAY_S
    assert 59 < leases.expires_in_s(ends) <= 60
    clock.let_pass(DAY_S)
    assert leases.all() == []
    database.close()


@pytest.fixture
def agent(tmp_path: Path, clock: Clock) -> Iterator[Assembled]:
    """SystemDigitalTwin with keys, and its host measured."""
    with Assembled(NAME, MIGRATIONS, assemble, environment_of(tmp_path, "mainpc", secure=True), clock) as agent:
        measured = {"ram_used_mb": 0, "ram_total_mb": 1_000, "machine": None}
        assert agent.ask("report_metrics", UMRA, **measured)["status"] == "success"
        yield agent


def test_unregistering_a_holder_ends_its_leases(agent: Assembled) -> None:
    """And only its own; in the same step, so that nothing is lost if it fails."""
    for caller in (UMRA, NEWCOMER):
        agent.ask("register_agent", caller, agent_name=caller.name, status="HEALTHY")
        assert agent.ask("reserve_ram", caller, amount_mb=90, host="pc2", ttl_s=600)["status"] == "success"
    agent.ask("unregister", NEWCOMER, agent_name=NEWCOMER.name)
    assert [lease["holder"] for lease in agent.ask("list_leases", UMRA)["leases"]] == [UMRA.name]


def test_the_use_of_a_share_is_shown(agent: Assembled) -> None:
    """The largest part of any place, by holder."""
    for amount_mb in (90, 180):
        agent.ask("reserve_ram", UMRA, amount_mb=amount_mb, host="pc2", ttl_s=600)
    rows = {(row.name, row.limit): (round(row.used, 3), row.most) for row in agent.usage.rows()}
    assert rows[UMRA.name, "lease_share"] == (0.3, 0.95)


def test_only_holders_whose_key_is_live_keep_their_leases(agent: Assembled) -> None:
    """As this host knows the keys: of UMRA it has one, of the newcomer none."""
    for caller in (UMRA, NEWCOMER):
        agent.ask("reserve_ram", caller, amount_mb=90, host="pc2", ttl_s=600)
    agent.assembly.on_tick()
    assert [lease["holder"] for lease in agent.ask("list_leases", UMRA)["leases"]] == [UMRA.name]


def test_machines_have_one_share_whatever_host_is_named(bench: MetricsBench) -> None:
    bench.budget = BudgetTable(Budget(lease_share=0.5))
    machine = MachineSample(boot_id="b00t")
    bench.both_measured(mainpc=with_gpu(0, 1_000, machine=machine), pc2=sample(machine=machine))
    assert bench.ask("reserve_vram", ATTACKER, amount_mb=400, host="mainpc")["status"] == "success"
    assert bench.ask("reserve_vram", ATTACKER, amount_mb=400, host="pc2")["code"] == "over_budget"


@pytest.mark.parametrize("uuids", [("GPU-1",), ()])
@pytest.mark.parametrize("resource", ["ram", "vram"])
def test_no_host_makes_another_ones_machine_larger(bench: MetricsBench, resource: str, uuids: tuple[str, ...]) -> None:
    """A key of any host may say that it is on mainpc's machine, and how much that has: what mainpc measures counts."""
    bench.budget = BudgetTable(Budget(lease_share=0.5))
    machine = MachineSample(boot_id="b00t")
    bench.measured("mainpc", with_gpus((0, 1_000), uuids=["GPU-1"], machine=machine))
    larger = with_gpus((0, 1e6), uuids=uuids, machine=machine, ram_used_mb=0.0, ram_total_mb=1e6)
    bench.measured("laptop", larger)
    assert bench.ask(f"reserve_{resource}", STRANGER, amount_mb=600, host="laptop")["code"] in _REFUSED
    assert bench.ask(f"reserve_{resource}", STRANGER, amount_mb=400, host="laptop")["status"] == "success"
    assert bench.ask(f"reserve_{resource}", STRANGER, amount_mb=400, host="laptop")["code"] in _REFUSED
    assert bench.ask(f"reserve_{resource}", NEWCOMER, amount_mb=100, host="mainpc")["status"] == "success"


def test_no_host_takes_its_leases_to_another_ones_machine(bench: MetricsBench) -> None:
    """Those that were made while it said nothing of its machine stay its own, also after a restart."""
    bench.measured("mainpc", machine := sample(machine=MachineSample(boot_id="b00t")))
    bench.measured("laptop", sample(ram_used_mb=0.0, ram_total_mb=1e6))
    assert bench.ask("reserve_ram", STRANGER, amount_mb=5_000, host="laptop")["status"] == "success"
    for restarts in (False, True):
        if restarts:
            bench.restart(killed=True)
        bench.measured("mainpc", machine)
        bench.measured("laptop", machine)
        assert bench.ask("reserve_ram", NEWCOMER, amount_mb=100, host="mainpc")["status"] == "success", restarts
