"""A changed file applies at once, an error in it changes nothing but the reports, and what must wait is named."""

import json
import sys
import time
from collections.abc import Iterator, Mapping, Set
from pathlib import Path
from typing import Any

import pytest
import yaml
from structlog.testing import capture_logs

from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.live_config import ConfigWatch, LiveConfig
from twinhost.folder_events import FolderEvents
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.secure_zmq.callers import Caller, Grants

AGENT = Caller("agent", "pc2", frozenset({"agent"}), "SHA256:x")
SHIPPED: dict[str, Any] = yaml.safe_load(DEFAULT_PATH.read_text())
SEEN_WITHIN_S = 1.0
BROKEN = {
    "empty": "",
    "no YAML": "grants: [",
    "no grants": json.dumps({key: value for key, value in SHIPPED.items() if key != "grants"}),
    "a star for anybody": json.dumps({**SHIPPED, "grants": {"unauthenticated": ["*"]}}),
    "a slip elsewhere": json.dumps({**SHIPPED, "limits": {}, "grants": {"agent": ["*"]}}),
    "a date that is none": "grants: 2026-99-99",
    "a number that is none": "grants: !!int ''",
}


class Watched:
    """A configuration file, the grants that follow it, and what was reported."""

    def __init__(self, folder: Path) -> None:
        folder.mkdir()
        self.path = folder / "network_config.yaml"
        self.write(agent=["ping"])
        self.grants = Grants({"agent": {"ping"}})
        self.reported: list[str | None] = []
        self.reported_changes: list[Mapping[str, Set[str]]] = []
        self.watch = self.new_watch()

    def new_watch(self) -> ConfigWatch:
        """Return a watch of the file, for pc2's agent."""
        config = load_network_config(self.path, {})
        live = LiveConfig(config, config.agent("UnifiedMemoryReasoningAgent"), {})
        return ConfigWatch(live, self.grants, self.note)

    def note(self, fault: str | None, by_role: Mapping[str, Set[str]]) -> None:
        """Keep what is reported; on the watch's thread, which is ahead of the test's by then."""
        self.reported.append(fault)
        self.reported_changes.append(by_role)

    def write(self, **grants: list[str]) -> None:
        self.path.write_text(json.dumps({**SHIPPED, "grants": grants}) + "\n")

    def replace(self, content: str) -> None:
        """Put a new file in the old one's place, as editors do."""
        draft = self.path.with_name("draft")
        draft.write_text(f"{content}\n")
        draft.rename(self.path)

    def allows(self, action: str) -> bool:
        return self.grants.allows(AGENT, action)


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "config")


@pytest.fixture
def running(watched: Watched) -> Iterator[Watched]:
    """A watch that has been seen to react once."""
    watched.watch.start()
    watched.write(agent=["ping", "probe"])
    wait_until(lambda: watched.allows("probe"), PATIENCE_S, "the watch works")
    yield watched
    watched.watch.stop()
    assert not watched.watch.responsive


def test_changed_grants_apply_and_are_reported_once(watched: Watched) -> None:
    """A scan that finds the same reports nothing."""
    watched.watch.look()
    assert watched.reported == []
    watched.write(agent=["reset"])
    for _ in range(3):
        watched.watch.look()
    assert (watched.allows("reset"), watched.allows("ping"), watched.reported) == (True, False, [None])
    assert watched.reported_changes == [{"agent": {"reset"}}], "with grants comes what they are"


@pytest.mark.parametrize("slip", BROKEN)
def test_a_broken_file_changes_nothing_and_is_reported_once(watched: Watched, slip: str) -> None:
    """The grants before it hold, whole; health says what is wrong until it is mended."""
    watched.path.write_text(BROKEN[slip])
    with capture_logs() as lines:
        for _ in range(3):
            watched.watch.look()
    assert (watched.allows("ping"), watched.allows("reset")) == (True, False)
    (sentence,), (nothing,) = watched.reported, watched.reported_changes
    assert nothing == {}
    assert sentence == watched.watch.fault
    assert str(watched.path) in str(sentence)
    assert [line["event"] for line in lines] == ["configuration_rejected"]
    watched.write(agent=["ping"])
    watched.watch.look()
    assert watched.watch.fault is None
    assert watched.reported == [sentence], "the file is as it was: no other grants hold"


def test_another_error_is_reported_too(watched: Watched) -> None:
    """And the first one again, once it was mended in between."""
    for content in (BROKEN["empty"], BROKEN["no YAML"], None, BROKEN["empty"]):
        if content is None:
            watched.write(agent=["ping"])
        else:
            watched.path.write_text(content)
        watched.watch.look()
    assert len(watched.reported) == 3
    assert watched.reported[0] == watched.reported[2] != watched.reported[1]


def test_a_file_that_is_gone_changes_nothing(watched: Watched) -> None:
    """An unmounted configuration locks nobody out."""
    watched.path.unlink()
    watched.watch.look()
    assert watched.allows("ping")
    assert "is missing" in (watched.watch.fault or "")


def test_a_change_is_seen_within_a_second_however_it_is_made(running: Watched) -> None:
    """Written in place, put in the old one's place; and a broken one in between."""
    running.write(agent=["one"])
    wait_until(lambda: running.allows("one"), SEEN_WITHIN_S, "written in place")
    running.replace(json.dumps({**SHIPPED, "grants": {"agent": ["two"]}}))
    wait_until(lambda: running.allows("two"), SEEN_WITHIN_S, "put in the place of the old one")
    running.replace(BROKEN["no YAML"])
    wait_until(lambda: running.watch.fault, SEEN_WITHIN_S, "the mistake is reported")
    assert running.allows("two")
    running.write(agent=["three"])
    wait_until(lambda: running.allows("three"), SEEN_WITHIN_S, "mended")
    wait_until(lambda: running.watch.fault is None, SEEN_WITHIN_S, "and its correction")
    assert not running.allows("two")


def test_what_happens_to_other_files_is_no_reason_to_read(watched: Watched, monkeypatch: pytest.MonkeyPatch) -> None:
    """A log in the same folder has a line for every connection, and a read would take a millisecond for each."""
    done: list[object] = []

    class Noted(FolderEvents):
        def wait(self, timeout_s: float) -> set[str]:
            done.append("waits")
            changed = super().wait(timeout_s)
            done.append(changed)
            return changed

    monkeypatch.setattr(sys.modules[ConfigWatch.__module__], "FolderEvents", Noted)
    monkeypatch.setattr(watched.watch, "look", lambda: done.append("looks"))
    watched.watch.start()
    wait_until(lambda: "waits" in done, PATIENCE_S, "the folder is watched")
    log = watched.path.parent.parent / "log"
    log.touch()
    for name, change in (
        ("log", lambda: log.rename(watched.path.with_name("log"))),  # one event; a new file that is written has two
        (watched.path.name, lambda: watched.path.write_text(watched.path.read_text())),
    ):
        change()
        wait_until(lambda: {name} in done[:-1], PATIENCE_S, f"{name} was written")  # noqa: B023 - called here
    watched.watch.stop()
    assert done[done.index({"log"}) + 1] == "waits"
    assert done[done.index({watched.path.name}) + 1] == "looks"


def test_half_a_line_applies_only_if_nothing_follows(running: Watched) -> None:
    """An editor that writes in place may pause in the middle of a grant, whose beginning would grant more."""
    half = yaml.safe_dump({**SHIPPED, "grants": {}}).replace("grants: {}\n", "")
    half += "grants:\n  agent:\n  - reset\n  - update_twin"
    running.path.write_text(half)
    time.sleep(SEEN_WITHIN_S / 2)
    running.path.write_text(f"{half}: own\n")
    wait_until(lambda: running.allows("reset"), SEEN_WITHIN_S, "the whole file applies")
    assert not any("update_twin" in by_role.get("agent", ()) for by_role in running.reported_changes)
    running.path.write_text(half)
    wait_until(lambda: running.allows("update_twin"), PATIENCE_S, "a file whose last line has no end")


def test_a_deleted_folder_is_reported_and_awaited(running: Watched, tmp_path: Path) -> None:
    """The watch lives, and follows the folder that comes in its place."""
    running.path.parent.rename(tmp_path / "away")
    wait_until(lambda: "is missing" in (running.watch.fault or ""), PATIENCE_S, "the file is missed")
    assert running.allows("probe")
    running.path.parent.mkdir()
    running.write(agent=["back"])
    wait_until(lambda: running.allows("back"), PATIENCE_S, "the new folder is followed")
    running.write(agent=["again"])
    wait_until(lambda: running.allows("again"), PATIENCE_S, "a change in it too")
    assert running.watch.responsive


def test_what_changed_before_the_watch_began_holds(watched: Watched) -> None:
    """Between the start's reading of the file and the watch: a grant withdrawn then must not live on."""
    watched.write(agent=["reset"])
    late = watched.new_watch()
    late.start()
    try:
        wait_until(lambda: watched.allows("reset"), PATIENCE_S, "the change is seen")
        assert not watched.allows("ping")
    finally:
        late.stop()


UMRA, SDT = "UnifiedMemoryReasoningAgent", "SystemDigitalTwin"


def live_config(path: Path, document: dict[str, Any]) -> LiveConfig:
    """Return the configuration of pc2's agent, which was started with a file."""
    path.write_text(json.dumps(document))
    config = load_network_config(path, {})
    return LiveConfig(config, config.agent(UMRA), {})


def changed(document: dict[str, Any], *path: str, to: Any) -> dict[str, Any]:
    """Return a copy of a document with another value at a path; None removes the key."""
    copy: dict[str, Any] = json.loads(json.dumps(document))
    node = copy
    for key in path[:-1]:
        node = node[key]
    if to is None:
        del node[path[-1]]
    else:
        node[path[-1]] = to
    return copy


GREETER = {"host": "pc2", "key": "greeter", "ports": {"zmq": 7330, "http": 8330}}
WITH_GREETER = changed(SHIPPED, "agents", "Greeter", to=GREETER)


@pytest.mark.parametrize(
    ("path", "to", "pending"),
    [
        (("agents", UMRA, "ports", "zmq"), 7231, f"agents.{UMRA}"),
        (("agents", UMRA), None, f"agents.{UMRA}"),
        (("agents", SDT, "ports", "events"), None, f"agents.{SDT}"),
        (("hosts", "pc2", "address"), "192.0.2.1", "hosts.pc2"),
        (("limits", "max_payload_bytes"), 1_000, "limits.max_payload_bytes"),
        (("limits", "metrics_interval_s"), 1, "limits.metrics_interval_s"),
        (("recall", "word_pairs"), False, "recall.word_pairs"),
        (("recall", "embeddings"), "off", "recall.embeddings"),
        (("memory", "forgetting"), "passes", "memory.forgetting"),
    ],
    ids=str,
)
def test_what_waits_for_a_start_keeps_its_value(tmp_path: Path, path: tuple[str, ...], to: Any, pending: str) -> None:
    """It is named until the file has the old value again."""
    file = tmp_path / "network_config.yaml"
    live = live_config(file, SHIPPED)
    before = live.current
    file.write_text(json.dumps(changed(SHIPPED, *path, to=to)))
    live.apply(live.load())
    assert live.current == before
    (warning,) = live.warnings()
    assert f": {pending} changed" in warning
    file.write_text(json.dumps(SHIPPED))
    live.apply(live.load())
    assert live.warnings() == []


@pytest.mark.parametrize(
    ("path", "to"),
    [
        (("agents", "Greeter", "ports", "zmq"), 7331),
        (("agents", "Greeter"), None),
        (("hosts", "pc9"), {"address": "pc9"}),
        (("limits", "heartbeat_s"), 1.0),
        (("limits", "registration_ttl_s"), 3.0),
        (("limits", "stored_replies_s"), 30.0),
        (("limits", "stored_replies_per_caller"), 10),
        (("limits", "key_lifetime_days"), 30),
        (("limits", "sessions_per_key"), 3),
    ],
    ids=str,
)
def test_everything_else_applies_as_the_file_has_it(tmp_path: Path, path: tuple[str, ...], to: Any) -> None:
    file = tmp_path / "network_config.yaml"
    live = live_config(file, WITH_GREETER)
    file.write_text(json.dumps(changed(WITH_GREETER, *path, to=to)))
    wanted = load_network_config(file, {})
    assert live.current != wanted
    assert live.apply(live.load())
    assert (live.current, live.warnings()) == (wanted, [])
    assert not live.apply(live.load()), "a second look finds nothing new"
