"""The start of an agent with a log, where that can't be used; tests.loopback.test_standby has the rest."""

import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import pytest

import twinhost.agent
from tests.unit.agent.assembled import environment_of
from twinhost.agent.assembly import Foundation
from twinhost.agent.process import prepare_agent
from twinhost.agent.settings import load_settings
from twinhost.agent.standby import Seen, standby_page
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.replication.epochs import Epoch
from twinhost.store.replication.looks import SILENT_AFTER_S
from twinhost.store.replication.replica import always, monotonic


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


def page(
    seen: Seen, applied: int, witness_fault: Callable[[], str | None] = lambda: None, *, automatic: bool = True
) -> str:
    return standby_page(AGENT, seen, applied, witness_fault, automatic=automatic)


def test_the_page_of_a_standby_says_who_is_active() -> None:
    """With a link where that is certain; and what it waits for."""
    active = page(Seen(Epoch(3, 1, "mainpc", 12), "2026-12-02T08:00:00.000+00:00"), 10)
    assert "SystemDigitalTwin is active on <b>mainpc</b> since 2026-12-02T08:00:00.000+00:00 (epoch 3)" in active
    assert '<a href="http://localhost:8120/">' in active
    assert "stands by, 2 transactions behind, and takes over when that one falls silent." in active
    moved = page(Seen(Epoch(4, 1, "mainpc-standby", 12)), 11, automatic=False)
    assert "<code>docker compose port mainpc-standby 8120</code>" in moved
    assert "1 transaction behind, and takes over when somebody promotes it." in moved
    for seen in (None, Epoch(4, 1, "", 12)):
        assert "No machine is active as SystemDigitalTwin now." in page(Seen(seen), 12)


def test_a_name_from_the_database_is_no_markup() -> None:
    assert "&lt;b&gt;" in page(Seen(Epoch(3, 1, "<b>", 12)), 12)


def test_the_page_of_a_standby_has_copies_and_the_witness() -> None:
    """A lone copy is red. What was read some seconds ago is not said to be so."""
    two = Seen(copies=2, witness="witness", looked_at=monotonic())
    assert "<p>2 copies of each change. The witness answers.</p>" in page(two, 0)
    one = Seen(copies=1, witness="witness", looked_at=monotonic())
    said = page(one, 0, witness_fault=lambda: "<i>refused</i>")
    assert '<b style="color:#b3261e">1 copy</b> of each change: one database alone has the newest ones.' in said
    assert "The witness does not answer: &lt;i&gt;refused&lt;/i&gt;." in said
    assert "knows how many copies there are.</p>" in page(Seen(looked_at=monotonic()), 0)
    stale = Seen(copies=2, witness="witness", looked_at=monotonic() - SILENT_AFTER_S)
    assert "<p>No database that takes writes is reached now.</p>" in page(stale, 0)


def test_a_standby_says_since_when_an_epoch_is_another_one_s() -> None:
    """It can't know so of the one that was there when it began."""
    seen = Seen()
    look = seen.before(always)
    look(Epoch(3, 1, "mainpc", 12))
    first = seen.since
    look(Epoch(3, 2, "mainpc", 13))
    assert (seen.since, first.endswith(" or before")) == (first, True)
    look(Epoch(4, 3, "mainpc-standby", 13))
    assert not seen.since.endswith(" or before")
