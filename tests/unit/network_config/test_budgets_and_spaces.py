"""Budgets and spaces in the configuration: what is read, and what stops the start with file and path."""

import re
from pathlib import Path

import pytest

from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.network_config.model import Space
from twinhost.secure_zmq.budgets import Budget
from twinhost.secure_zmq.errors import ConfigurationError


def _with(tmp_path: Path, spaces: str = "", budgets: str = "") -> Path:
    text = DEFAULT_PATH.read_text(encoding="utf-8")
    if budgets:
        text = re.sub(r"  budgets:.*?(?=\n  \w)", f"  budgets: {budgets}", text, count=1, flags=re.DOTALL)
    path = tmp_path / "network_config.yaml"
    path.write_text(f"{text}\nspaces: {spaces}\n" if spaces else text, encoding="utf-8")
    return path


def test_budgets_are_read_by_role_and_name(tmp_path: Path) -> None:
    path = _with(tmp_path, budgets="{everybody: {events: 9}, roles: {agent: {turns: 2}}, names: {bob: {names: 3}}}")
    table = load_network_config(path).limits.budgets
    assert table.everybody == Budget(events=9)
    assert (table.roles, table.names) == ({"agent": {"turns": 2.0}}, {"bob": {"names": 3}})


def test_a_space_is_read_by_its_writers_too(tmp_path: Path) -> None:
    path = _with(tmp_path, spaces="{research: {writers: [alice], readers: [bob]}}")
    assert load_network_config(path).spaces == {
        "research": Space("research", frozenset({"alice", "bob"}), frozenset({"alice"}))
    }


@pytest.mark.parametrize(
    ("budgets", "sentence"),
    [
        ("{everybody: {events: many}}", "limits.budgets.everybody.events must be a whole number, more than 0"),
        ("{everybody: {stored_bytes: 0}}", "limits.budgets.everybody.stored_bytes must be a whole number"),
        ("{names: {alice: {lease_share: 2}}}", "limits.budgets.names.alice.lease_share must be a share"),
        ("{roles: {agent: {speed: 2}}}", "limits.budgets.roles.agent has the unknown key 'speed'"),
        ("{names: {'a:b': {events: 2}}}", "limits.budgets.names has 'a:b', which is no identity"),
        ("[1]", "limits.budgets must be a mapping"),
    ],
)
def test_a_wrong_budget_stops_the_start_with_its_path(tmp_path: Path, budgets: str, sentence: str) -> None:
    _assert_refused(_with(tmp_path, budgets=budgets), sentence)


@pytest.mark.parametrize(
    ("spaces", "sentence"),
    [
        ("{shared: {writers: [alice]}}", "spaces.shared can't be a space: shared, private are built in"),
        ("{'no way': {writers: [alice]}}", "spaces.no way can't be a space"),
        ("{research: {readers: [alice]}}", "spaces.research lacks the key 'writers'"),
        ("{research: {writers: alice}}", "spaces.research.writers must be a list of names of identities"),
        ("{research: {writers: ['a b']}}", "spaces.research.writers has 'a b', which is no identity"),
        ("{research: {writers: [alice], owner: bob}}", "spaces.research has the unknown key 'owner'"),
        ("[research]", "spaces must be a mapping"),
    ],
)
def test_a_wrong_space_stops_the_start_with_its_path(tmp_path: Path, spaces: str, sentence: str) -> None:
    _assert_refused(_with(tmp_path, spaces=spaces), sentence)


def _assert_refused(path: Path, sentence: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        load_network_config(path)
    assert str(refused.value).startswith(f"{path}: {sentence}")
