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
from twinhost.secure_zmq.errors import ConfigurationError


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
