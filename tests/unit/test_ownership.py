"""Who may change what another wrote: every action that changes something says it, and a limit to the own holds."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.configuration import SHIPPED
from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.system_digital_twin.twin import UMRA
from twinhost.schema import AGENTS, declarations_of
from twinhost.secure_zmq.actions import Declaration
from twinhost.secure_zmq.callers import ALWAYS_OWN, OWNED, Caller, Grants, own_grant
from twinhost.system_digital_twin import __main__ as twin
from twinhost.system_digital_twin.state_files import MIGRATIONS as TWIN_MIGRATIONS
from twinhost.unified_memory_reasoning import __main__ as memory

OWNER = Caller("owner", "mainpc", frozenset({"agent"}), "SHA256:of-the-owner")
ATTACKER = Caller("attacker", "mainpc", frozenset({"limited"}), "SHA256:of-the-attacker")
OPERATOR = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")
MUTATING = {
    name: declared
    for agent in AGENTS
    for name, declared in declarations_of(agent).items()
    if declared.options["mutates"]
}


@pytest.mark.parametrize(("name", "declared"), MUTATING.items(), ids=list(MUTATING))
def test_a_change_has_an_owner_or_says_why_it_has_none(name: str, declared: Declaration) -> None:
    """A new action is either in `OWNED`, or its declaration has `unowned`."""
    assert (name in OWNED) != bool(declared.options["unowned"]), (
        f"add {name} to OWNED in secure_zmq/callers.py, or say why it changes nothing that another wrote: "
        '@action(mutates=True, unowned="…")'
    )


def test_every_owned_action_exists() -> None:
    assert set(OWNED) <= MUTATING.keys()


@pytest.mark.parametrize("name", OWNED)
def test_the_shipped_grants_are_limited_unless_they_say_why(name: str) -> None:
    granted = SHIPPED.grants["agent"]
    comments = {"update_twin", "patch_twin", "store_memory", "reinforce_memory", "sync_memories"}
    assert (own_grant(name) in granted) != (name in comments | {"add_error_pattern", "resolve_conflict"})
    assert (name in granted) != (own_grant(name) in granted)


Ask = Callable[..., dict[str, Any]]


def unchanged(ask: Ask, read: str, **fields: Any) -> Callable[[], object]:
    """Return what reads something that an attack must leave as it was."""

    def value() -> object:
        reply = ask(read, OWNER, **fields)
        return {name: part for name, part in reply.items() if name not in ("request_id", "timestamp")}

    return value


class Attacks:
    """For each action: what the owner has, the attack on it, and what is to be as before."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.attacker = ATTACKER

    def twin(self, action: str, **fields: Any) -> dict[str, Any]:
        self.ask("update_twin", OWNER, user_id="u", twin_data={"a": 1})
        self.see = unchanged(self.ask, "get_twin", user_id="u")
        return self.attack(action, user_id="u", **fields)

    def memory(self, action: str, **fields: Any) -> dict[str, Any]:
        self.ask("store_memory", OWNER, id="m", content="the owner's")
        self.see = unchanged(self.ask, "query_memory", limit=1, before=2)
        return self.attack(action, **fields)

    def superseded(self, action: str) -> dict[str, Any]:
        self.ask("store_memory", OWNER, id="m", content="the owner's")
        self.ask("store_memory", replace(OWNER, name="another"), id="n", content="another's", supersedes=["m"])
        self.see = unchanged(self.ask, "query_memory", limit=1, before=2)
        return self.attack(action, id="m")

    def lease(self, action: str) -> dict[str, Any]:
        self.ask("report_metrics", UMRA, ram_used_mb=1, ram_total_mb=1e5)
        lease_id = self.ask("reserve_ram", OWNER, amount_mb=1)["lease_id"]
        self.see = lambda: [lease["state"] for lease in self.ask("list_leases", OWNER)["leases"]]
        return self.attack(action, lease_id=lease_id)

    def registration(self, action: str, **fields: Any) -> dict[str, Any]:
        self.ask("register_agent", OWNER, agent_name="owner", status="HEALTHY")
        self.see = unchanged(self.ask, "get_agent_info", agent_name="owner")
        return self.attack(action, agent_name="owner", **fields)

    def proposal(self, action: str, **fields: Any) -> dict[str, Any]:
        for _ in range(3):
            found = self.ask("get_error_solution", OWNER, error_message="the zebra of the attic is out of hay")
        self.see = unchanged(self.ask, "get_pattern_proposals")
        if action == "dismiss_pattern_proposal":
            fields = {"proposal_id": found["proposal_id"]}
        return self.attack(action, **fields)

    def said(self, action: str) -> dict[str, Any]:
        added = self.ask(
            "add_interaction", OWNER, session_id="s", interaction_type="user_query", content="what the owner said"
        )
        self.see = unchanged(self.ask, "get_interactions", session_id="s")
        return self.attack(action, session_id="s", **({"ids": [added["interaction_id"]]} if "delete" in action else {}))

    def pattern(self, action: str) -> dict[str, Any]:
        number = self.ask("add_error_pattern", OWNER, error_type="e", pattern="zebra", solution="hay")["pattern_id"]
        self.see = unchanged(self.ask, "list_error_patterns")
        return self.attack(action, pattern_id=number)

    def claim(self, action: str) -> dict[str, Any]:
        self.ask("resolve_conflict", OWNER, op_id="op", priority=1)
        self.see = lambda: self.ask("resolve_conflict", OWNER, op_id="op", priority=1)["holder"]
        return self.attack(action, op_id="op", priority=10)

    def attack(self, action: str, **fields: Any) -> dict[str, Any]:
        self.before = self.see()
        return self.ask(action, self.attacker, **fields)


SYNCED = {"id": "m", "content": "the owner's", "last_accessed": "2026-01-01T00:00:00+00:00", "strength": 5}
ATTACKS: dict[str, Callable[[Attacks, str], dict[str, Any]]] = {
    "update_twin": lambda on, action: on.twin(action, twin_data={}),
    "patch_twin": lambda on, action: on.twin(action, patch={"a": None}),
    "delete_twin": lambda on, action: on.twin(action),
    "clear_context": lambda on, action: on.said(action),
    "store_memory": lambda on, action: on.memory(action, id="n", content="the attacker's", supersedes=["m"]),
    "reinforce_memory": lambda on, action: on.memory(action, id="m"),
    "sync_memories": lambda on, action: on.memory(action, memories=[SYNCED]),
    "add_error_pattern": lambda on, action: on.proposal(action, error_type="e", pattern="zebra of the attic"),
    "dismiss_pattern_proposal": lambda on, action: on.proposal(action),
    "resolve_conflict": lambda on, action: on.claim(action),
    "delete_interactions": lambda on, action: on.said(action),
    "delete_memory": lambda on, action: on.memory(action, id="m"),
    "restore_memory": lambda on, action: on.superseded(action),
    "delete_error_pattern": lambda on, action: on.pattern(action),
    "commit_lease": lambda on, action: on.lease(action),
    "release_lease": lambda on, action: on.lease(action),
    "register_agent": lambda on, action: on.registration(action, status="DOWN"),
    "heartbeat": lambda on, action: on.registration(action, status="DOWN"),
    "unregister": lambda on, action: on.registration(action),
}
ANSWERED = ("clear_context", "sync_memories", "add_error_pattern", "resolve_conflict")  # with what was not done


@pytest.fixture
def attacks(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Attacks]:
    """The agent with the action, which the attacker has, limited to its own."""
    of_memory = request.param in declarations_of(memory.NAME)
    agent, migrations, host = (memory, memory.MIGRATIONS, "pc2") if of_memory else (twin, TWIN_MIGRATIONS, "mainpc")
    limited = {own_grant(request.param)}
    grants = Grants({"agent": {"*"}, "operator": {"*"}, "limited": limited})
    environment = environment_of(tmp_path, host)
    with Assembled(agent.NAME, migrations, agent.assemble, environment, grants=grants) as assembled:
        yield Attacks(assembled.ask)


def test_every_limit_is_attacked() -> None:
    assert ATTACKS.keys() == set(OWNED)


@pytest.mark.parametrize(("attacks", "action"), [(name, name) for name in OWNED], indirect=["attacks"], ids=list(OWNED))
def test_a_limited_caller_changes_nothing_of_another(attacks: Attacks, action: str) -> None:
    """Each attack is refused, or answered with what it left undone."""
    reply = ATTACKS[action](attacks, action)
    assert attacks.see() == attacks.before
    if action not in ANSWERED:
        assert reply["code"] == "not_granted", reply
        assert "owner" in reply["error"]


@pytest.mark.parametrize(
    ("attacks", "action"), [(name, name) for name in ALWAYS_OWN], indirect=["attacks"], ids=list(ALWAYS_OWN)
)
def test_some_actions_are_limited_with_either_grant(attacks: Attacks, action: str) -> None:
    attacks.attacker = replace(ATTACKER, roles=frozenset({"agent"}))
    assert ATTACKS[action](attacks, action)["code"] == "not_granted"
    assert attacks.see() == attacks.before


@pytest.mark.parametrize(("attacks", "action"), [(name, name) for name in OWNED], indirect=["attacks"], ids=list(OWNED))
def test_an_operator_is_not_limited(attacks: Attacks, action: str) -> None:
    """So each attack would change something."""
    attacks.attacker = OPERATOR
    reply = ATTACKS[action](attacks, action)
    assert reply["status"] in ("ok", "success"), reply
    assert attacks.see() != attacks.before
