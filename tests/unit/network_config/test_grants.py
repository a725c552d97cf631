"""The grants of the configuration file, and what else it can't say."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.unit.network_config.test_load import GOOD, changed, refused
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.errors import ConfigurationError

TOPICS = "AGENT, ERROR, EVENT, TRUST"


def loaded(tmp_path: Path, document: dict[str, Any]) -> dict[str, frozenset[str]]:
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump(document))
    return dict(load_network_config(path, {}).grants)


def test_grants_are_sets_of_actions_by_role(tmp_path: Path) -> None:
    """The roles' names are the user's own, a list may be empty, and twice is once."""
    document = {**GOOD, "grants": {"agent": ["ping", "ping"], "auditor": ["get_audit"], "nobody": [], "boss": ["*"]}}
    assert loaded(tmp_path, document) == {
        "agent": {"ping"},
        "auditor": {"get_audit"},
        "nobody": frozenset(),
        "boss": {"*"},
    }
    assert loaded(tmp_path, {**GOOD, "grants": {}}) == {}


@pytest.mark.parametrize("role", ["invitation", "candidate"])
@pytest.mark.parametrize("actions", [["*"], ["ping"], [], ["enrol"]])
def test_roles_that_act_for_nobody_get_no_grants(tmp_path: Path, role: str, actions: list[str]) -> None:
    """Not even less: they are what enrolment is made of."""
    complaint = refused(tmp_path, {**GOOD, "grants": {role: actions}})
    assert complaint.startswith(f"grants.{role} can't be set: the grants of the role {role} are built in")


def test_nobody_is_an_operator_of_an_open_link(tmp_path: Path) -> None:
    """Where SECURE_ZMQ=0 each action must be named."""
    complaint = refused(tmp_path, {**GOOD, "grants": {"unauthenticated": ["ping", "*"]}})
    assert complaint.startswith("grants.unauthenticated must name its actions")
    assert loaded(tmp_path, {**GOOD, "grants": {"unauthenticated": ["ping"]}}) == {"unauthenticated": {"ping"}}


@pytest.mark.parametrize(
    "action",
    [
        "",
        "Ping",
        "ping ",
        "**",
        "*ping",
        "ping*",
        "get-peers",
        "1ping",
        "a" * 65,
        "subscribe:EVENT",
        5,
        None,
        True,
        ["ping"],
    ],
)
def test_an_action_is_named_to_the_letter(tmp_path: Path, action: object) -> None:
    """There are no patterns: one star is all, and part of a name is nothing."""
    complaint = refused(tmp_path, {**GOOD, "grants": {"agent": ["ping", action]}})
    assert complaint.startswith("grants.agent must list actions by name")
    assert complaint.endswith(f"not {action!r}")


def test_a_grant_of_the_feed_names_its_topics(tmp_path: Path) -> None:
    """Or none, which is all of them."""
    document = {**GOOD, "grants": {"agent": ["ping", {"subscribe": ["EVENT", "ERROR"]}], "other": ["subscribe"]}}
    assert loaded(tmp_path, document) == {
        "agent": {"ping", "subscribe:EVENT", "subscribe:ERROR"},
        "other": {"subscribe"},
    }


@pytest.mark.parametrize(
    ("item", "complaint"),
    [
        *(
            ({"subscribe": topics}, f"grants.agent.subscribe must be a list of topics ({TOPICS}), not {topics!r}")
            for topics in (["EVENT", "NEWS"], ["EVENT:"], [["EVENT"]], [None], [], ["x - at `$.y`"])
        ),
        ({"subscribe": "EVENT"}, f"grants.agent.subscribe must be a list of topics ({TOPICS})"),
        ({"subscribe": None}, "grants.agent.subscribe must be a list of topics"),
        ({"ping": ["EVENT"]}, "grants.agent has the unknown key 'ping'; known keys: subscribe"),
        ({"subscribe": ["EVENT"], "ping": []}, "grants.agent has the unknown key 'ping'"),
        ({}, "grants.agent lacks the key 'subscribe'"),
        ({1: ["EVENT"]}, "grants.agent has the unknown key '1'"),
    ],
)
def test_a_topic_that_is_no_topic_is_refused(tmp_path: Path, item: dict[Any, Any], complaint: str) -> None:
    """With the file and the place."""
    assert refused(tmp_path, {**GOOD, "grants": {"agent": ["ping", item]}}).startswith(complaint)


def test_a_grant_may_be_limited_to_the_callers_own(tmp_path: Path) -> None:
    """`any` sets no limit, like the plain name."""
    items = [{"update_twin": "own"}, {"delete_twin": "any", "patch_twin": "own"}, {"clear_context": "own"}]
    assert loaded(tmp_path, {**GOOD, "grants": {"agent": items}}) == {
        "agent": {"update_twin:own", "delete_twin", "patch_twin:own", "clear_context:own"}
    }


@pytest.mark.parametrize(
    ("items", "complaint"),
    [
        ([{"update_twin": "mine"}], "grants.agent.update_twin must be 'own' or 'any', not 'mine'"),
        ([{"update_twin": ["own"]}], "grants.agent.update_twin must be 'own' or 'any', not ['own']"),
        ([{"update_twin": None}], "grants.agent.update_twin must be 'own' or 'any', not None"),
        ([{"get_twin": "own"}], "grants.agent has the unknown key 'get_twin'"),
        (["update_twin:own"], "grants.agent must list actions by name"),
        ([{"update_twin": "own"}, "update_twin"], "grants.agent has 'update_twin' limited to 'own' and without"),
    ],
)
def test_an_invalid_limit_is_refused(tmp_path: Path, items: list[Any], complaint: str) -> None:
    assert refused(tmp_path, {**GOOD, "grants": {"agent": items}}).startswith(complaint)


def test_all_topics_and_some_are_not_granted_together(tmp_path: Path) -> None:
    """Who named some would have granted all."""
    complaint = refused(tmp_path, {**GOOD, "grants": {"agent": ["subscribe", {"subscribe": ["EVENT"]}]}})
    assert complaint.startswith("grants.agent has 'subscribe' with topics and without")


@pytest.mark.parametrize("actions", [None, "*", "ping", {"ping": True}, 5, True])
def test_grants_are_lists(tmp_path: Path, actions: object) -> None:
    """A bare string is an error."""
    assert refused(tmp_path, {**GOOD, "grants": {"agent": actions}}).startswith(
        "grants.agent must be a list of actions"
    )


def test_a_role_that_is_there_twice_is_refused(tmp_path: Path) -> None:
    """Half of what is granted would not be in force."""
    text = yaml.safe_dump({key: value for key, value in GOOD.items() if key != "grants"})
    text += "grants:\n  agent: [ping]\n  operator: ['*']\n  agent: []\n"
    assert "the key 'agent' occurs twice" in refused(tmp_path, text)


@pytest.mark.parametrize("days", [0, -1, 36_501, 10**12, 365.5, "365", True, None])
def test_a_keys_life_has_an_end_that_can_be_written_down(tmp_path: Path, days: object) -> None:
    """From a day to a hundred years."""
    document = changed(lambda limits: limits.update(key_lifetime_days=days), "limits")
    assert refused(tmp_path, document).startswith("limits.key_lifetime_days must be ")


@pytest.mark.parametrize("days", [1, 36_500])
def test_the_ends_of_what_is_allowed_are_allowed(tmp_path: Path, days: int) -> None:
    """To the day."""
    path = tmp_path / "network_config.yaml"
    path.write_text(yaml.safe_dump(changed(lambda limits: limits.update(key_lifetime_days=days), "limits")))
    assert load_network_config(path, {}).limits.key_lifetime_days == days


@pytest.mark.parametrize(
    "text",
    [
        "a: 2026-99-99",
        "a: !!int x",
        "a: !!int ''",
        "a: !!timestamp x",
        "a: !!bool x",
        "a: !!float x",
        "a: " + "9" * 5_000,
    ],
)
def test_a_value_that_breaks_the_yaml_reader_is_refused(tmp_path: Path, text: str) -> None:
    """PyYAML lets foreign errors through; the watch of a running agent's file would die of one."""
    path = tmp_path / "network_config.yaml"
    path.write_text(text)
    with pytest.raises(ConfigurationError, match=r"network_config\.yaml"):
        load_network_config(path, {})
