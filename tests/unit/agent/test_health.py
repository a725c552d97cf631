"""The health document: its status follows the checks, each time it is asked for."""

from datetime import UTC, datetime, timedelta

import pytest

from twinhost.agent.health import GetHealth, Health, HealthActions, HealthCheck
from twinhost.moments import iso_time
from twinhost.secure_zmq.budgets import Budget, Budgets, BudgetTable, Usage
from twinhost.secure_zmq.callers import Caller

_TEN_EVENTS = BudgetTable(Budget(events=10))


def health_of(essential: str | None, other: str | None, *, secure: bool = True) -> Health:
    """Return the health of an agent with two checks; each argument is what is wrong with one."""
    health = Health("Agent", secure)
    health.add("store", lambda: essential, essential=True)
    health.add("link", lambda: other, essential=False)
    return health


@pytest.mark.parametrize(
    ("essential", "other", "status", "ready"),
    [
        (None, None, "ok", True),
        (None, "nobody there", "degraded", False),
        ("disk is full", None, "error", False),
        ("disk is full", "nobody there", "error", False),
    ],
)
def test_status_and_readiness_follow_the_checks(
    essential: str | None, other: str | None, status: str, ready: bool
) -> None:
    """`error` where an essential check fails, `degraded` where another does; ready only where none does."""
    document = health_of(essential, other).document()
    assert (document["status"], document["ready"]) == (status, ready)
    assert document["checks"] == {
        "store": {"ok": essential is None, "detail": essential or "ok"},
        "link": {"ok": other is None, "detail": other or "ok"},
    }


def test_an_agent_without_checks_is_ok() -> None:
    """Nothing is wrong as long as nothing was found."""
    document = Health("Agent", secure=True).document()
    assert (document["status"], document["ready"], document["checks"]) == ("ok", True, {})


def test_a_fault_with_an_empty_message_is_a_fault() -> None:
    """Only None is well: an empty sentence does not turn a failure into a pass."""
    document = health_of("", None).document()
    assert (document["status"], document["ready"], document["checks"]["store"]["ok"]) == ("error", False, False)


def test_every_document_checks_again() -> None:
    """A fault shows while it lasts, and no longer."""
    faults: list[str | None] = [None, "gone", None]
    health = Health("Agent", secure=True)
    health.add("link", lambda: faults.pop(0), essential=False)
    assert [health.document()["status"] for _ in range(3)] == ["ok", "degraded", "ok"]


def test_the_document_says_who_when_and_for_how_long() -> None:
    """Agent, time in ISO-8601 with UTC, seconds since the start that only grow."""
    health = Health("Agent", secure=True)
    first, second = health.document(), health.document()
    assert first["agent"] == "Agent"
    assert abs(datetime.fromisoformat(first["timestamp"]) - datetime.now(UTC)) < timedelta(seconds=10)
    assert 0 <= first["uptime_s"] <= second["uptime_s"] < 10


@pytest.mark.sdt_security
@pytest.mark.parametrize("secure", [True, False])
def test_an_open_link_is_in_the_document(secure: bool) -> None:
    """`secure` is the truth, and an open link is a warning whatever else is well."""
    document = health_of(None, None, secure=secure).document()
    assert document["secure"] is secure
    assert ("warning" in document) is not secure
    if not secure:
        assert document["warning"].startswith("SECURE_ZMQ=0: the link is open, nobody is authenticated")


def test_times_are_iso_8601_to_the_millisecond() -> None:
    """As the contract shows them."""
    assert iso_time(0.1239) == "1970-01-01T00:00:00.123+00:00"


def test_an_agent_sees_its_budgets_and_an_operator_all() -> None:
    """The largest parts first, 20 at most; what is without a limit is not there."""
    operator = Caller("root", "mainpc", frozenset({"operator"}), "f0")
    agents = {f"a{number}": Caller(f"a{number}", "pc2", frozenset({"agent"}), "f") for number in range(30)}
    usage = Usage(Budgets(lambda: _TEN_EVENTS), (agents | {"root": operator}).get)
    usage.register("events", lambda: {"root": 9, **{name: 8 if name == "a7" else 2 for name in agents}})
    actions = HealthActions(Health("Agent", secure=True).document, usage=usage)
    listed = actions.health(GetHealth(), operator)["usage"]
    assert (len(listed), listed[0]) == (20, {"name": "a7", "limit": "events", "used": 8, "most": 10, "share": 0.8})
    assert [use["name"] for use in actions.health_check(HealthCheck(), agents["a3"])["usage"]] == ["a3"]
    assert "usage" not in actions.document()
