"""The start of an agent with a log, where that can't be used; tests.loopback.test_standby has the rest."""

import sys
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

import twinhost.agent
from tests.unit.agent.assembled import environment_of
from twinhost.agent.assembly import Foundation
from twinhost.agent.process import prepare_agent
from twinhost.agent.settings import load_settings
from twinhost.agent.standby import standby_page
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.replication.epochs import Epoch


def assemble(_: Foundation) -> NoReturn:
    raise AssertionError


def test_without_psycopg_a_start_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.startswith(("twinhost.agent.standby", "twinhost.store.repl"))]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(twinhost.agent, "standby", raising=False)
    monkeypatch.setitem(sys.modules, "psycopg", None)
    environment = environment_of(tmp_path, "mainpc") | {"TWINHOST_DATABASE": "postgresql:///twinhost?host=/run"}
    sentence = r"TWINHOST_DATABASE is set and the module psycopg is missing; install twinhost\[postgresql\]"
    with ExitStack() as stack, pytest.raises(ConfigurationError, match=sentence):
        prepare_agent(load_settings("SystemDigitalTwin", environment), [], assemble, stack)


AGENT = load_network_config(DEFAULT_PATH, {}).agent("SystemDigitalTwin")


def test_the_page_of_a_standby_says_who_is_active() -> None:
    """With a link where that is certain; and what it waits for."""
    active = standby_page(AGENT, Epoch(3, 1, "mainpc", 12), 10, automatic=True)
    assert "SystemDigitalTwin is active on <b>mainpc</b> (epoch 3)" in active
    assert '<a href="http://localhost:8120/">' in active
    assert "stands by, 2 transactions behind, and takes over when that one falls silent." in active
    moved = standby_page(AGENT, Epoch(4, 1, "mainpc-standby", 12), 11, automatic=False)
    assert "<code>docker compose port mainpc-standby 8120</code>" in moved
    assert "1 transaction behind, and takes over when somebody promotes it." in moved
    for seen in (None, Epoch(4, 1, "", 12)):
        assert "No machine is active as SystemDigitalTwin now." in standby_page(AGENT, seen, 12, automatic=True)


def test_a_name_from_the_database_is_no_markup() -> None:
    assert "&lt;b&gt;" in standby_page(AGENT, Epoch(3, 1, "<b>", 12), 12, automatic=True)
