"""When which message is sent, over simulated time; `test_fourteen` has what mainpc's agent finds."""

from collections.abc import Sequence
from datetime import UTC, datetime, time
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec
import pytest

from twinhost.agent.troubles import AttentionItem, Consequence, Kind
from twinhost.moments import iso_time
from twinhost.notify import rules
from twinhost.notify.rules import AWAY_S, BURST, GATHER_S, RETURN_S, UNHEARD_S, Memory, Message, Policy, Rules, View

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC).timestamp()
LOOK_S = 2.0


def item(name: str = "disk_full:mainpc", **fields: object) -> AttentionItem:
    """Return an item of mainpc's list that was announced."""
    kind, _, subject = name.partition(":")
    given: dict[str, object] = {
        "id": name,
        "kind": kind,
        "level": "broken",
        "subject": subject,
        "host": "mainpc",
        "what": f"{subject}'s {kind}",
        "since": iso_time(NOON),
        "cause": None,
        "explains": [],
        "remedies": [{"on": "mainpc", "command": "df -h", "why": "shows what takes the space"}],
        "evidence": [{"name": "secret", "value": "never sent"}],
        "announced": iso_time(NOON),
    }
    return msgspec.convert(given | fields, AttentionItem)


def without(found: AttentionItem, key: str) -> AttentionItem:
    return msgspec.convert({name: value for name, value in found.items() if name != key}, AttentionItem)


class Desk:
    """The rules, and what they have sent, while time passes."""

    def __init__(self, policy: Policy | None = None, now: float = NOON) -> None:
        self.now, self.policy = now, policy or Policy()
        self.sent: list[Message] = []
        self.rules = Rules(self.policy, Memory(), now)
        self.passes(RETURN_S + LOOK_S)

    def restart(self) -> None:
        memory = msgspec.json.decode(msgspec.json.encode(self.rules.memory), type=Memory)
        self.rules = Rules(self.policy, memory, self.now)

    def passes(self, seconds: float, *items: AttentionItem, fault: str | None = None, step_s: float = LOOK_S) -> None:
        for _ in range(round(seconds / step_s)):
            self.now += step_s
            self.rules.see(View(items, fault), self.now)
            if (message := self.rules.due(self.now)) is not None:
                self.sent.append(message)

    @property
    def titles(self) -> list[str]:
        return [message.title for message in self.sent]


def explained(*names: str) -> Sequence[Consequence]:
    return [{"id": name, "what": f"what of {name}", "since": iso_time(NOON)} for name in names]


def test_a_message_says_since_cause_consequence_and_command() -> None:
    desk = Desk(Policy(ZoneInfo("Europe/Lisbon")))
    desk.passes(20, item(cause="the log fills it", explains=explained("host_silent:pc2")))
    (message,) = desk.sent
    assert message.text == (
        "mainpc's disk_full.\nBroken since 2026-05-01 13:00 WEST.\nCause: the log fills it.\n"
        "It explains: what of host_silent:pc2.\nOn mainpc: df -h (shows what takes the space)"
    )
    assert b"never sent" not in msgspec.json.encode(message)


def test_a_level_of_a_later_version_is_told_as_the_worst() -> None:
    desk = Desk()
    desk.passes(20, item(level="on_fire"))
    assert [message.level for message in desk.sent] == ["broken"]


def test_what_begins_together_is_one_message() -> None:
    desk = Desk()
    desk.passes(2, item("disk_full:mainpc"))
    desk.passes(30, item("disk_full:mainpc"), item("gpu_hot:pc2", level="attention"))
    assert desk.titles == ["mainpc's disk_full; and 1 more"]


def test_a_cause_of_what_was_told_is_told_and_both_end_as_one() -> None:
    desk = Desk()
    desk.passes(30, item("host_silent:pc2"))
    desk.passes(30, item("disk_full:mainpc", explains=explained("host_silent:pc2")))
    assert desk.titles == ["pc2's host_silent", "mainpc's disk_full"]
    desk.passes(30)
    (end,) = desk.titles[2:]
    assert end.startswith("Resolved after ")
    assert end.endswith("; and 1 more")


def test_what_mainpc_has_not_announced_is_not_told() -> None:
    desk = Desk()
    desk.passes(60, without(item(), "announced"))
    assert desk.sent == []


def test_what_is_acknowledged_is_not_told_but_its_end_is() -> None:
    acknowledged = item(acknowledged={"by": "operator", "at": iso_time(NOON)})
    desk = Desk()
    desk.passes(60, acknowledged)
    assert desk.sent == []
    desk.passes(20, item())
    desk.passes(20, acknowledged)
    desk.passes(20)
    assert [title.partition(" ")[0] for title in desk.titles] == ["mainpc's", "Resolved"]


def test_a_change_that_mainpc_announces_is_told() -> None:
    desk = Desk()
    desk.passes(60, item())
    desk.passes(60, item(announced=iso_time(NOON + 3_600), what="worse now"))
    assert desk.titles == ["mainpc's disk_full", "Changed: worse now"]


def test_a_restart_repeats_nothing_and_loses_nothing() -> None:
    desk = Desk()
    desk.passes(2, item())
    desk.restart()  # before it was sent
    desk.passes(60, item())
    desk.restart()
    desk.passes(60, item())
    desk.restart()
    desk.passes(60)  # it ended meanwhile
    assert [title.partition(" ")[0] for title in desk.titles] == ["mainpc's", "Resolved"]


def test_a_dead_mainpc_is_told_once_by_what_pc2_says() -> None:
    """It may be on the list under that name for hours; when mainpc is back, that is its end, and no other message."""
    silent = without(item(Kind.MAINPC_SILENT.value, what="mainpc does not answer pc2"), "announced")
    desk = Desk()
    desk.passes(60, item())
    desk.passes(20, fault="no answer")
    desk.passes(600, silent, fault="no answer")
    desk.passes(600, fault="no answer")  # pc2 is away too
    assert desk.titles[1:] == ["mainpc does not answer pc2"]
    desk.passes(RETURN_S - LOOK_S, item(), item("host_silent:pc2", announced=iso_time(desk.now)))
    desk.passes(120, item())
    assert len(desk.sent) == 3
    assert desk.titles[2].startswith("Resolved after")


def test_both_hosts_silent_is_told_after_a_minute() -> None:
    desk = Desk()
    desk.passes(UNHEARD_S - LOOK_S, fault="no answer")
    assert desk.sent == []
    desk.passes(600, fault="no answer")
    (message,) = desk.sent
    assert message.title == "mainpc can't be asked what is wrong"
    assert "no answer" in message.text


def test_nothing_ends_while_mainpc_is_away() -> None:
    desk = Desk()
    desk.passes(60, item())
    desk.passes(AWAY_S * 3, fault="no answer")
    desk.passes(60, item())
    assert len(desk.sent) == 1


def test_quiet_hours_hold_back_what_is_not_broken() -> None:
    """What passed meanwhile is told in the morning in one message, also over a restart."""
    desk = Desk(Policy(quiet_hours=(time(11, 0), time(13, 0))))
    hot = item("gpu_hot:pc2", level="attention")
    desk.passes(600, hot)
    desk.restart()
    desk.passes(600)
    assert desk.sent == []
    desk.passes(7_200, item("key_expires:pc2", level="attention"))
    assert desk.titles == ["pc2's key_expires; and 1 more"]
    assert "Already resolved after 10 min: pc2's gpu_hot" in desk.sent[0].text


@pytest.mark.parametrize(("through", "sent"), [("broken", 1), ("nothing", 0)])
def test_quiet_hours_let_through_what_is_broken(through: Literal["broken", "nothing"], sent: int) -> None:
    desk = Desk(Policy(quiet_hours=(time(22), time(13)), quiet_lets_through=through))
    desk.passes(600, item())
    assert len(desk.sent) == sent


def test_a_trouble_that_comes_back_unheard_goes_on() -> None:
    """Its end waits for the morning, and is not told any more."""
    desk = Desk(Policy(quiet_hours=(time(11), time(13))))
    desk.passes(60, item())
    desk.passes(60)
    desk.passes(7_200, item(announced=iso_time(desk.now)))
    assert desk.titles == ["mainpc's disk_full"]


def test_what_comes_back_worse_before_its_end_was_sent_is_told() -> None:
    desk = Desk(Policy(quiet_hours=(time(12, 1), time(13))))
    desk.passes(60, item(level="attention"))
    desk.passes(120)
    assert len(desk.sent) == 1
    desk.passes(20, item(announced=iso_time(desk.now)))
    assert desk.titles[1:] == ["Changed: mainpc's disk_full"]


def test_what_comes_and_goes_all_day_is_bounded() -> None:
    """A begin and an end a minute are 2880 a day; the messages say how often."""
    desk = Desk()
    for minute in range(1_440):
        desk.passes(30, item(announced=iso_time(NOON + minute * 60)))
        desk.passes(30)
    assert len(desk.sent) <= BURST + 24 * 10
    assert any("times" in message.text for message in desk.sent)


def test_a_digest_comes_every_day_at_its_time() -> None:
    """Also if all is well: its absence says that nobody watches."""
    desk = Desk(Policy(ZoneInfo("Europe/Lisbon"), digest=time(8, 30)))
    desk.passes(2 * 86_400, step_s=20)
    assert desk.titles == ["2026-05-02: All is well.", "2026-05-03: All is well."]
    assert [message.at[11:16] for message in desk.sent] == ["07:30", "07:30"]
    desk.passes(86_400, item(level="attention"), step_s=20)
    assert desk.titles[-1].startswith("2026-05-04: mainpc's disk_full")


@pytest.mark.parametrize("step", [7_200.0, -7_200.0], ids=["ahead", "back"])
def test_a_clock_that_is_set_delays_no_message(step: float) -> None:
    desk = Desk()
    desk.now += step
    desk.passes(RETURN_S + 3 * LOOK_S + GATHER_S, item())
    assert len(desk.sent) == 1


def test_texts_of_strangers_are_one_visible_line() -> None:
    desk = Desk()
    desk.passes(20, item(what="evil\u202e\x1b[2J\nSubject: x", cause="a\r\nb"))
    (message,) = desk.sent
    assert message.title == "evil\ufffd[2J Subject: x"
    assert "Cause: a b." in message.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12, "12 s"), (59, "59 s"), (240, "4 min"), (3_600 * 5 + 120, "5 h 2 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert rules.lasted(seconds) == text
