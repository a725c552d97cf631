"""What a look at the log says: who is silent by the clock of who looks, and copies by what a commit waits for."""

from dataclasses import replace

import pytest

from twinhost.store.replication.looks import (
    SILENT_AFTER_S,
    AgentEpoch,
    Difference,
    Look,
    Looks,
    Standby,
    copies,
    written,
)

EPOCH = AgentEpoch("SDT", number=3, beat=7, holder="mainpc", durable=100)
STANDBY = Standby("SDT", "mainpc-standby", applied=98, beat=1)
LOOK = Look([EPOCH], [STANDBY], "ANY 1 (two)", "witness")


@pytest.mark.parametrize(
    ("waited_for", "whole", "number"),
    [
        ("", True, 1),
        ("", False, None),
        ("ANY 1 (pgautofailover_standby_2)", True, 2),
        ("ANY 1 (a, b)", True, 2),
        ("FIRST 2 (a, b, c)", True, 3),
        ("2 (a, b)", False, 3),
        ("a, b", False, 2),
        ("*", False, 2),
    ],
)
def test_a_commit_has_as_many_copies_as_it_waits_for(waited_for: str, whole: bool, number: int | None) -> None:
    """A service that keeps copies of its disks waits for no other database, and says nothing by that."""
    assert copies(waited_for, whole=whole) == number


def test_a_standby_is_behind_what_is_durable() -> None:
    log = Looks().take(LOOK, 0.0).agents["SDT"]
    assert (log.active, log.epoch, log.transactions) == ("mainpc", 3, 100)
    assert [(standby.name, standby.behind) for standby in log.following] == [("mainpc-standby", 2)]
    ahead = replace(LOOK, standbys=[replace(STANDBY, applied=101)])
    assert Looks().take(ahead, 0.0).agents["SDT"].standbys[0].behind == 0


def test_whose_beat_stands_still_is_silent_until_the_next() -> None:
    looks = Looks()
    looks.take(LOOK, 50.0)
    log = looks.take(LOOK, 50.0 + SILENT_AFTER_S).agents["SDT"]
    assert (log.active, log.following) == (None, [])
    assert [standby.silent_s for standby in log.standbys] == [SILENT_AFTER_S]
    back = replace(LOOK, epochs=[replace(EPOCH, number=4, beat=7, holder="other")], standbys=[replace(STANDBY, beat=2)])
    log = looks.take(back, 57.0).agents["SDT"]
    assert (log.active, len(log.following)) == ("other", 1)


def test_who_is_active_is_no_standby_any_more() -> None:
    """Its row stays where it was."""
    took_over = replace(LOOK, epochs=[replace(EPOCH, holder="mainpc-standby")])
    assert Looks().take(took_over, 0.0).agents["SDT"].standbys == ()


def test_who_says_that_it_ended_does_not_follow() -> None:
    """Also where it was there a moment ago: it is started again and again."""
    ended = replace(LOOK, standbys=[replace(STANDBY, beat=0, fault="its disk is full")])
    log = Looks().take(ended, 0.0).agents["SDT"]
    assert (log.following, log.standbys[0].fault) == ([], "its disk is full")


def test_who_says_what_differs_follows_all_the_same() -> None:
    """With the metrics of its machine; what a later version says besides is left out."""
    differences = {Difference.SECRET: "it is another one;\n copy it", Difference.CONFIGURATION: "limits: they differ"}
    said = written(differences, '{"cpu": 1, "name": "a: b"}')
    differs = replace(LOOK, standbys=[replace(STANDBY, fault=f"{said}\nweather: it rains")])
    (standby,) = Looks().take(differs, 0.0).agents["SDT"].following
    assert standby.differences == {"secret": "it is another one; copy it", "configuration": "limits: they differ"}
    assert standby.metrics == '{"cpu": 1, "name": "a: b"}'
    well = Looks().take(LOOK, 0.0).agents["SDT"].following[0]
    assert (well.differences, well.metrics, written({})) == ({}, "", "")


def test_a_row_of_another_agent_is_not_counted() -> None:
    look = replace(LOOK, standbys=[replace(STANDBY, agent="UMRA")])
    assert Looks().take(look, 0.0).agents["SDT"].standbys == ()


def test_a_released_epoch_is_nobodys() -> None:
    assert Looks().take(replace(LOOK, epochs=[replace(EPOCH, holder="")]), 0.0).agents["SDT"].active is None


def test_who_is_silent_is_known_only_after_a_while() -> None:
    looks = Looks()
    assert [looks.take(LOOK, at).settled for at in (9.0, 9.0 + SILENT_AFTER_S)] == [False, True]
