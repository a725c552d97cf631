"""The attention list keeps since when, announces each cause once, and survives a restart."""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import msgspec
import pytest
from structlog.testing import capture_logs

from tests.unit.system_digital_twin.twin import Clock
from twinhost.agent.troubles import Kind, Level, Trouble
from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import NotFound
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.system_digital_twin.attention.attention import (
    CALM_S,
    CHANGES_EVERY_S,
    MOST_CALM_S,
    SETTLE_S,
    SOON_S,
    Attention,
)
from twinhost.system_digital_twin.events.events import Events, Topic
from twinhost.system_digital_twin.state_files import MIGRATIONS

GRACE_S = 30.0
SILENT = Trouble(kind=Kind.HOST_SILENT, subject="pc2", what="pc2 does not respond", level=Level.BROKEN)
FULL = Trouble(kind=Kind.DISK_FULL, subject="mainpc", what="mainpc's disk is full", explains=("host_silent:pc2",))
HOT = Trouble(kind=Kind.GPU_HOT, subject="pc2/gpu0", what="pc2's GPU 0 is hot")
ERRORS = Trouble(kind=Kind.ERRORS, what="3 errors", members=("a",))


class DiskFull(Exception):
    pass


class Bench:
    """A list on a database, whose one detector finds what a test says."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.clock = clock
        self.path = path
        self.found: list[Trouble] = []
        self.open()

    def open(self) -> None:
        self.database = Database(self.path, [REPLY_LOG_SCHEMA, *MIGRATIONS], self.clock)
        self.events = Events(self.database)
        self.attention = Attention(self.database, self.events, GRACE_S)
        self.attention.watch("test", lambda: self.found)

    def restart(self) -> None:
        self.database.close()
        self.open()

    def passes(self, seconds: float, *found: Trouble) -> None:
        self.found = list(found)
        for _ in range(round(seconds)):
            with suppress(DiskFull):
                self.attention.on_tick()
            self.clock.let_pass(1.0)

    def fill_disk(self, patched: pytest.MonkeyPatch) -> None:
        def full(*_: Any) -> None:
            raise DiskFull

        patched.setattr(Attention, "_put", full)

    @property
    def ids(self) -> list[str]:
        return [item["id"] for item in self.attention.document()["items"]]

    @property
    def told(self) -> list[tuple[str, str]]:
        entries = self.events.newest(Topic.EVENT, limit=100, max_bytes=10**6).entries
        return [(entry.fields["event_type"], entry.fields["data"]["id"]) for entry in reversed(entries)]

    def acknowledge(self, name: str) -> None:
        with self.database.transaction():
            self.attention.acknowledge(name, "operator")


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "twin.sqlite3", Clock())
    yield bench
    bench.database.close()


def test_nothing_found_is_all_well(bench: Bench) -> None:
    bench.passes(60)
    document = bench.attention.document()
    assert (document["level"], document["headline"], document["items"], bench.told) == ("well", "All is well.", [], [])


def test_a_trouble_is_shown_at_once_and_announced_once(bench: Bench) -> None:
    bench.passes(1, SILENT)
    assert (bench.ids, bench.told) == (["host_silent:pc2"], [])
    bench.passes(120, SILENT)
    assert bench.told == [("trouble_began", "host_silent:pc2")]


def test_what_lasted_for_a_moment_is_shown_and_not_announced(bench: Bench) -> None:
    bench.passes(2, SILENT)
    assert bench.ids == ["host_silent:pc2"]
    bench.passes(1)
    assert bench.ids == []
    bench.passes(CALM_S + 2)
    assert (bench.ids, bench.told) == ([], [])
    bench.passes(SETTLE_S + 2, SILENT)
    bench.passes(CALM_S + 2)
    assert len(bench.told) == 2, "nor is it what comes and goes"


def test_its_end_is_announced_once_it_stays_away(bench: Bench) -> None:
    bench.passes(SETTLE_S + 2, SILENT)
    bench.passes(CALM_S - 2)
    bench.passes(3, SILENT)  # not ended: it came back
    bench.passes(CALM_S + 2)
    assert bench.told == [("trouble_began", "host_silent:pc2"), ("trouble_ended", "host_silent:pc2")]
    assert bench.ids == []
    (ended,) = bench.events.newest(Topic.EVENT, limit=1, max_bytes=10**6).entries
    assert "evidence" not in ended.fields["data"], "it is for operators"
    assert ended.fields["data"]["lasted_s"] == pytest.approx(SETTLE_S + CALM_S + 3 + CALM_S, abs=1)


@pytest.mark.parametrize(("there_s", "away_s"), [(1, 3), (3, 3), (12, 12), (30, 60)])
def test_what_comes_and_goes_is_told_a_few_times(bench: Bench, there_s: int, away_s: int) -> None:
    """However often it does, its end is told last."""
    for _ in range(100):
        bench.passes(there_s, SILENT)
        bench.passes(away_s)
    begun = bench.told.count(("trouble_began", "host_silent:pc2"))
    assert 1 <= begun <= 4
    bench.passes(MOST_CALM_S + 2)
    assert bench.told == [("trouble_began", "host_silent:pc2"), ("trouble_ended", "host_silent:pc2")] * begun
    bench.passes(SOON_S)
    bench.passes(10, SILENT)
    bench.passes(CALM_S + 2)
    assert bench.told[-1][0] == "trouble_ended", "after a while it counts as a new one"


def test_the_end_of_what_comes_and_goes_is_told_in_minutes(bench: Bench) -> None:
    """However often it came back."""
    for _ in range(8):
        bench.passes(SETTLE_S + 2, SILENT)
        bench.passes(MOST_CALM_S + 2)
    assert bench.told == [("trouble_began", "host_silent:pc2"), ("trouble_ended", "host_silent:pc2")] * 8


def test_what_is_gone_is_not_shown_while_its_end_is_awaited(bench: Bench) -> None:
    bench.passes(10, SILENT)
    since = bench.attention.document()["items"][0]["since"]
    bench.passes(1)
    assert (bench.ids, bench.attention.document()["headline"]) == ([], "All is well.")
    bench.passes(1, SILENT)
    assert bench.attention.document()["items"][0]["since"] == since


def test_a_consequence_that_outlasts_its_cause_does_not_come_up(bench: Bench) -> None:
    """The cause stays until its consequences are gone too, or it has ended."""
    bench.passes(20, SILENT, FULL)
    bench.passes(3, SILENT)
    assert bench.ids == ["disk_full:mainpc"]
    bench.passes(1)
    assert bench.ids == []


def test_who_asks_gets_what_is_true_now(bench: Bench) -> None:
    """Without waiting for the next look, at most ten times a second; what is announced waits as before."""
    bench.passes(1)
    bench.found = [SILENT]
    bench.clock.let_pass(0.2)
    bench.attention.refresh()
    assert (bench.ids, bench.told) == (["host_silent:pc2"], [])
    bench.found = []
    bench.attention.refresh()
    assert bench.ids == ["host_silent:pc2"]
    bench.clock.let_pass(0.2)
    bench.attention.refresh()
    assert bench.ids == []
    bench.passes(CALM_S + 2)
    assert bench.told == []


def test_what_passes_before_it_settles_is_not_announced(bench: Bench) -> None:
    """As at each start of a host, until it has registered."""
    bench.passes(SETTLE_S - 2, SILENT)
    bench.passes(60)
    assert bench.told == []


def test_detectors_are_asked_once_a_second(bench: Bench) -> None:
    """However often the agent turns."""
    looks: list[float] = []

    def detector() -> list[Trouble]:
        looks.append(bench.clock.time())
        return []

    bench.attention.watch("looks", detector)
    for _ in range(50):
        bench.attention.on_tick()
        bench.clock.let_pass(0.1)
    assert len(looks) == 5


def test_a_kind_has_the_members_of_all_its_troubles(bench: Bench) -> None:
    """For its metric, whoever acknowledged or explains them."""
    agents = Trouble(kind=Kind.AGENTS_SILENT, subject="pc2", what="x", members=("b", "c"))
    bench.passes(1, ERRORS, agents, msgspec.structs.replace(agents, subject="pc3", members=("d",)))
    assert [bench.attention.members(kind) for kind in (Kind.AGENTS_SILENT, Kind.ERRORS, Kind.GPU_HOT)] == [3, 1, 0]


def test_the_list_says_when_it_was_looked_at(bench: Bench) -> None:
    bench.passes(1)
    looked = bench.attention.document()["as_of"]
    bench.clock.let_pass(60)
    assert bench.attention.document()["as_of"] == looked
    bench.passes(1)
    assert bench.attention.document()["as_of"] > looked


def test_a_cause_found_in_time_is_announced_alone(bench: Bench) -> None:
    bench.passes(SETTLE_S - 2, SILENT)
    bench.passes(60, SILENT, FULL)
    assert bench.told == [("trouble_began", "disk_full:mainpc")]
    (item,) = bench.attention.document()["items"]
    assert [other["id"] for other in item["explains"]] == ["host_silent:pc2"]


def test_what_lasts_longer_than_its_cause_is_announced(bench: Bench) -> None:
    bench.passes(60, SILENT, FULL)
    bench.passes(60, SILENT)
    assert bench.told == [
        ("trouble_began", "disk_full:mainpc"),
        ("trouble_ended", "disk_full:mainpc"),
        ("trouble_began", "host_silent:pc2"),
    ]


def test_a_consequence_that_lasts_a_little_longer_is_not_told(bench: Bench) -> None:
    """A host that is heard again some seconds after mainpc's disk has space is no trouble, and does not come up."""
    bench.passes(60, SILENT, FULL)
    bench.passes(SETTLE_S - 2, SILENT)
    for _ in range(20):
        assert "host_silent:pc2" not in bench.ids
        bench.passes(1)
    assert bench.ids == []
    assert bench.told == [("trouble_began", "disk_full:mainpc"), ("trouble_ended", "disk_full:mainpc")]


def test_a_consequence_has_its_time_after_the_end_of_its_cause(bench: Bench) -> None:
    """However long it has been there: it has to last without the cause."""
    bench.passes(60, SILENT, FULL)
    bench.passes(CALM_S + SETTLE_S - 2, SILENT)
    bench.passes(CALM_S + 2)
    assert bench.told == [("trouble_began", "disk_full:mainpc"), ("trouble_ended", "disk_full:mainpc")]


def test_a_consequence_that_is_gone_ends_with_its_cause(bench: Bench) -> None:
    """Also one that came and went before, whose own end would be awaited for longer."""
    bench.passes(10, SILENT)
    bench.passes(CALM_S + 2)
    bench.passes(10, SILENT)
    bench.passes(10, SILENT, FULL)
    bench.passes(CALM_S + 2)
    assert sorted(bench.told[-2:]) == [("trouble_ended", "disk_full:mainpc"), ("trouble_ended", "host_silent:pc2")]


def test_a_restart_keeps_since_when_and_announces_nothing_again(bench: Bench) -> None:
    bench.passes(60, HOT)
    since = bench.attention.document()["items"][0]["since"]
    bench.restart()
    bench.passes(GRACE_S - 2)  # nothing was seen yet, as after a start
    assert bench.ids == ["gpu_hot:pc2/gpu0"]
    bench.passes(60, HOT)
    assert bench.attention.document()["items"][0]["since"] == since
    assert bench.told == [("trouble_began", "gpu_hot:pc2/gpu0")]
    bench.restart()
    bench.passes(GRACE_S + 5)
    assert bench.told[1:] == [("trouble_ended", "gpu_hot:pc2/gpu0")]


def test_since_stays_while_the_first_of_a_day_pass_on(bench: Bench) -> None:
    """Over a restart too; a host that is silent again is so since it was heard last."""
    refused = Trouble(kind=Kind.REFUSALS, subject="mainpc", what="x")
    for trouble, moves in ((ERRORS, False), (refused, False), (SILENT, True)):
        began, later = bench.clock.time(), bench.clock.time() + 3_600
        bench.passes(10, msgspec.structs.replace(trouble, since=began))
        bench.restart()
        bench.passes(10, msgspec.structs.replace(trouble, since=later))
        (item,) = bench.attention.document()["items"]
        assert item["since"] == iso_time(later if moves else began)
        bench.passes(CALM_S + 2)


def test_a_silent_hosts_clock_is_the_cause_after_a_restart_too(bench: Bench) -> None:
    """The host that refuses mainpc because of its clock can't report it again."""
    clock = Trouble(kind=Kind.CLOCKS_DIFFER, subject="pc2", what="2 h behind", explains=("host_silent:pc2",))
    bench.passes(10, clock, SILENT)
    bench.restart()
    bench.passes(GRACE_S + 60, SILENT)
    assert (bench.ids, bench.told) == (["clocks_differ:pc2"], [("trouble_began", "clocks_differ:pc2")])
    bench.passes(CALM_S + 2)
    assert (bench.ids, bench.told[1:]) == ([], [("trouble_ended", "clocks_differ:pc2")])


@pytest.mark.parametrize("kind", [Kind.HOST_STOPPED, Kind.AGENTS_SILENT])
def test_what_the_registry_knows_is_not_waited_for(bench: Bench, kind: Kind) -> None:
    bench.passes(10, Trouble(kind=kind, subject="pc2", what="x"))
    bench.restart()
    bench.passes(1)
    assert bench.ids == []


def test_a_host_that_came_back_during_a_restart_is_not_listed(bench: Bench) -> None:
    """The registry is on disk, so that there is nothing to wait for."""
    bench.passes(10, SILENT, HOT)
    bench.restart()
    bench.passes(1)
    assert bench.ids == ["gpu_hot:pc2/gpu0"]
    assert ("trouble_ended", "host_silent:pc2") not in bench.told
    bench.passes(CALM_S + 2, HOT)
    assert bench.told[-1] == ("trouble_ended", "host_silent:pc2")
    bench.passes(10, SILENT)
    bench.restart()
    bench.passes(60, SILENT)
    assert bench.told.count(("trouble_began", "host_silent:pc2")) == 2, "one that is not back is not told again"


def test_an_acknowledged_trouble_counts_until_it_grows(bench: Bench) -> None:
    bench.passes(10, ERRORS)
    assert bench.attention.unacknowledged("errors") == ERRORS
    bench.acknowledge("errors")
    assert bench.attention.unacknowledged("errors") is None
    bench.restart()
    bench.passes(10, ERRORS)
    document = bench.attention.document()
    assert (document["level"], document["items"][0]["acknowledged"]["by"]) == ("well", "operator")
    bench.passes(10, msgspec.structs.replace(ERRORS, members=("a", "b")))
    document = bench.attention.document()
    assert document["level"] == "attention"
    assert "acknowledged" not in document["items"][0]


def test_a_growth_that_was_acknowledged_is_no_news(bench: Bench) -> None:
    grown = msgspec.structs.replace(ERRORS, members=("a", "b"))
    bench.passes(10, ERRORS)
    bench.passes(2, grown)
    bench.acknowledge("errors")
    bench.clock.let_pass(CHANGES_EVERY_S)
    bench.passes(2, grown)
    assert bench.told == [("trouble_began", "errors")]


def test_an_acknowledgement_that_is_not_stored_is_none(bench: Bench) -> None:
    bench.passes(10, ERRORS)
    with suppress(DiskFull), bench.database.transaction():
        bench.attention.acknowledge("errors", "operator")
        raise DiskFull
    assert "acknowledged" not in bench.attention.document()["items"][0]


def test_growth_is_announced_once_an_hour(bench: Bench) -> None:
    def with_members(count: int) -> Trouble:
        return msgspec.structs.replace(ERRORS, members=tuple(map(str, range(count))))

    for count in range(1, 6):
        bench.passes(20, with_members(count))
    assert bench.told == [("trouble_began", "errors")]
    bench.clock.let_pass(CHANGES_EVERY_S)
    bench.passes(2, with_members(5))
    assert bench.told == [("trouble_began", "errors"), ("trouble_changed", "errors")]


def test_a_rise_in_level_is_announced_at_once(bench: Bench) -> None:
    bench.passes(20, ERRORS)
    bench.passes(2, msgspec.structs.replace(ERRORS, level=Level.BROKEN))
    assert bench.told == [("trouble_began", "errors"), ("trouble_changed", "errors")]


def test_a_failed_detector_is_shown_and_ends_nothing(bench: Bench) -> None:
    fails = False

    def detector() -> Iterator[Trouble]:
        if fails:
            raise ZeroDivisionError
        yield SILENT

    bench.attention.watch("silence", detector)
    bench.passes(10)
    fails = True
    with capture_logs() as lines:
        bench.passes(60)
    assert [line["event"] for line in lines] == ["detector_failed"], "not once a second"
    assert set(bench.ids) == {"host_silent:pc2", "detector_failed:silence"}
    fails = False
    bench.passes(CALM_S + 2)
    assert bench.ids == ["host_silent:pc2"]


def test_what_cannot_be_written_is_shown_and_told_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Attention, "_put", full)
        bench.found = [SILENT]
        for _ in range(10):
            with pytest.raises(OSError, match="disk full"):
                bench.attention.on_tick()
            bench.clock.let_pass(1.0)
        assert (bench.ids, bench.told) == (["host_silent:pc2"], [])
    bench.passes(2, SILENT)
    assert bench.told == [("trouble_began", "host_silent:pc2")]


def test_an_end_that_is_not_stored_is_told_later(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    def full() -> None:
        raise DiskFull

    bench.passes(10, SILENT)
    with monkeypatch.context() as patched:
        patched.setattr(bench.database, "_write_pending", full)  # before the commit
        bench.passes(CALM_S + 5)
    bench.passes(2)
    assert bench.told == [("trouble_began", "host_silent:pc2"), ("trouble_ended", "host_silent:pc2")]


def test_a_trouble_of_another_version_does_not_stop_the_start(bench: Bench) -> None:
    bench.passes(10, SILENT, ERRORS)
    renamed = "CAST(replace(CAST(record AS TEXT), '\"errors\"', '\"no_kind\"') AS BLOB)"
    with bench.database.transaction():
        bench.database.execute(f"UPDATE troubles SET record = {renamed} WHERE id = 'errors'")
    bench.restart()
    assert bench.ids == ["host_silent:pc2"]


def test_nothing_else_can_be_acknowledged(bench: Bench) -> None:
    with pytest.raises(NotFound, match="no trouble 'errors' is on the list"):
        bench.acknowledge("errors")


def test_the_revision_changes_with_what_is_wrong_and_no_figure(bench: Bench) -> None:
    """Another host fetches the list when it does; a restart alone is no change."""
    revisions = [bench.attention.revision]

    def changed(*found: Trouble) -> bool:
        bench.passes(2, *found)
        revisions.append(bench.attention.revision)
        return revisions[-1] != revisions[-2]

    assert changed(ERRORS)
    assert not changed(msgspec.structs.replace(ERRORS, what="4 errors"))
    assert changed(msgspec.structs.replace(ERRORS, members=("a", "b")))
    assert changed(msgspec.structs.replace(ERRORS, members=("a", "b"), level=Level.BROKEN))
    bench.acknowledge(ERRORS.id)
    assert changed(msgspec.structs.replace(ERRORS, members=("a", "b"), level=Level.BROKEN))
    bench.restart()
    assert bench.attention.revision == revisions[-1]


def test_a_growth_that_nobody_is_told_of_outlasts_a_restart(bench: Bench) -> None:
    bench.passes(10, ERRORS)
    bench.passes(2, msgspec.structs.replace(ERRORS, members=("a", "b")))
    before = bench.attention.revision
    bench.restart()
    assert bench.attention.revision == before


def test_an_item_says_when_it_was_announced(bench: Bench) -> None:
    """Not before it is, and again after each change: whoever asks for the list hears what the events tell."""
    bench.passes(1, FULL)
    assert "announced" not in bench.attention.document()["items"][0]
    bench.passes(SETTLE_S + 1, FULL)
    first = bench.attention.document()["items"][0]["announced"]
    bench.restart()
    bench.passes(2, FULL)
    assert bench.attention.document()["items"][0]["announced"] == first
    bench.passes(2, msgspec.structs.replace(FULL, level=Level.BROKEN))
    assert bench.attention.document()["items"][0]["announced"] > first


def test_what_could_not_be_told_in_time_is_told_with_its_end(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a full disk, which ends with the fault that kept it from being told; who reads the list knows it before."""

    def full(*_: Any) -> None:
        raise OSError("disk full")

    with monkeypatch.context() as patched:
        patched.setattr(Attention, "_put", full)
        bench.found = [FULL]
        for _ in range(10):
            with pytest.raises(OSError, match="disk full"):
                bench.attention.on_tick()
            bench.clock.let_pass(1.0)
    bench.passes(CALM_S + 2)
    assert bench.told == [("trouble_began", "disk_full:mainpc"), ("trouble_ended", "disk_full:mainpc")]


def test_an_item_is_news_though_its_event_can_not_be_stored(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """At one time, from when it has settled on: whoever asks for the list hears of a full disk, and once."""

    def announced() -> str | None:
        return bench.attention.document()["items"][0].get("announced")

    with monkeypatch.context() as patched:
        bench.fill_disk(patched)
        bench.passes(SETTLE_S, FULL)
        assert announced() is None
        bench.passes(2, FULL)
        first = announced()
        assert first is not None
        bench.passes(10, FULL)
        assert announced() == first
    bench.passes(2, FULL)
    assert (announced(), bench.told) == (first, [("trouble_began", "disk_full:mainpc")])


def test_what_is_not_seen_again_after_a_restart_is_not_told(bench: Bench) -> None:
    bench.passes(2, FULL)
    bench.restart()
    bench.passes(GRACE_S + CALM_S)
    assert (bench.ids, bench.told) == ([], [])
