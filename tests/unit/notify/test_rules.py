"""When which message is sent, over simulated time; `test_fourteen` has what mainpc's agent finds."""

import re
from collections.abc import Sequence
from datetime import UTC, datetime, time
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec
import pytest

from twinhost.agent.troubles import AttentionItem, Consequence, Kind
from twinhost.moments import iso_time, parse_time
from twinhost.notify import rules
from twinhost.notify.rules import (
    AWAY_S,
    GATHER_S,
    OF_A_CAUSE,
    OF_ALL,
    RETURN_S,
    UNHEARD_S,
    Memory,
    Message,
    Policy,
    Rules,
    View,
)

NOON = datetime(2026, 5, 1, 12, 0, tzinfo=UTC).timestamp()
LOOK_S = 2.0
HOUR_S = 3_600.0
AT_ONCE_S = GATHER_S + 2 * LOOK_S


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

    def passes(
        self,
        seconds: float,
        *items: AttentionItem,
        fault: str | None = None,
        ending: Sequence[str] = (),
        step_s: float = LOOK_S,
    ) -> None:
        for _ in range(round(seconds / step_s)):
            self.now += step_s
            self.rules.see(View(items, fault, ending), self.now)
            if (message := self.rules.due(self.now)) is not None:
                self.sent.append(message)

    def flaps(self, times: int, every_s: float, *items: AttentionItem, always: Sequence[AttentionItem] = ()) -> None:
        """Let items come and go, each for half of the time; others are there all the time."""
        for _ in range(times):
            came = iso_time(self.now)
            self.passes(
                every_s / 2, *(msgspec.convert(one | {"announced": came}, AttentionItem) for one in items), *always
            )
            self.passes(every_s / 2, *always)

    @property
    def titles(self) -> list[str]:
        return [message.title for message in self.sent]

    def told(self, name: str) -> list[float]:
        """Return when a message said that something began."""
        return [
            parse_time(message.at).timestamp()
            for message in self.sent
            if any(news.id == name and news.event == "began" for news in message.news)
        ]


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


def test_a_cause_found_in_time_is_told_alone() -> None:
    desk = Desk()
    desk.passes(2, item("host_silent:pc2"))
    desk.passes(30, item("disk_full:mainpc", explains=explained("host_silent:pc2")))
    assert desk.titles == ["mainpc's disk_full"]


def test_what_may_come_back_has_not_ended() -> None:
    """mainpc waits for longer each time; what is told is when it was there last."""
    desk = Desk()
    desk.passes(2, item())
    desk.passes(20, ending=["disk_full:mainpc"])
    assert desk.titles == ["mainpc's disk_full"], "nor has it passed before it was told"
    desk.passes(10 * 60, item())
    desk.passes(5 * 60, ending=["disk_full:mainpc"])
    assert len(desk.sent) == 1
    desk.passes(10)
    assert desk.titles[1:] == ["Resolved after 11 min: mainpc's disk_full"]
    assert desk.sent[1].level == "well"


def test_a_change_that_is_over_before_it_is_told_is_an_end() -> None:
    desk = Desk()
    desk.passes(60, item())
    desk.passes(2, item(announced=iso_time(NOON + 3_600), what="worse now"))
    desk.passes(20)
    assert [title.partition(" ")[0] for title in desk.titles] == ["mainpc's", "Resolved"]


def test_what_pc2_told_first_changes_as_mainpc_says() -> None:
    """mainpc's announcement of the same is no news, and a later one is."""
    desk = Desk()
    desk.passes(20, without(item("key_revoked:pc2", level="attention"), "announced"), fault="refused")
    desk.passes(20, without(item("key_revoked:pc2"), "announced"), fault="refused")
    assert desk.titles == ["pc2's key_revoked", "Changed: pc2's key_revoked"], "it has got worse"
    desk.passes(60, item("key_revoked:pc2", announced=iso_time(NOON + 60)))
    assert len(desk.sent) == 2
    desk.passes(60, item("key_revoked:pc2", announced=iso_time(NOON + 3_600)))
    assert desk.titles[2:] == ["Changed: pc2's key_revoked"]


def test_a_start_waits_for_those_that_could_not_reach_mainpc() -> None:
    """As the process does after mainpc was away: its list may have them as silent."""
    desk = Desk()
    desk.restart()
    desk.passes(RETURN_S - LOOK_S, item("host_silent:pc2"))
    desk.passes(60)
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


def test_many_one_after_the_other_are_told_each_in_time() -> None:
    """What began and ended before, as on a bad afternoon, delays nothing; nor does the level."""
    desk = Desk()
    for number in range(14):
        name = f"disk_full:host-{number}"
        began = desk.now
        desk.passes(40, item(name, level="broken" if number % 2 else "attention"))
        assert [at - began <= AT_ONCE_S for at in desk.told(name)] == [True], name
        desk.passes(20)
        assert desk.titles[-1].startswith("Resolved after")
    assert len(desk.sent) == 28


def test_what_flaps_is_told_a_few_times_and_says_so() -> None:
    desk = Desk()
    desk.flaps(100, HOUR_S / 100, item())
    assert OF_A_CAUSE.at_once <= len(desk.sent) <= OF_A_CAUSE.at_once + 2
    assert "It came back once." in desk.sent[2].text
    told = [int(said) for message in desk.sent for said in re.findall(r"It came back (\d+) times\.", message.text)]
    assert told == sorted(told)
    assert told[-1] >= 50
    desk.flaps(2_300, HOUR_S / 100, item())
    assert len(desk.sent) <= OF_A_CAUSE.at_once + 24 * HOUR_S / OF_A_CAUSE.every_s


def test_what_flaps_delays_nothing_else() -> None:
    desk = Desk()
    desk.flaps(100, HOUR_S / 100, item())
    for number in range(5):
        name, began = f"gpu_hot:host-{number}", desk.now
        desk.flaps(2, HOUR_S / 100, item(), always=[item(name, level="attention")])
        assert [at - began <= AT_ONCE_S for at in desk.told(name)] == [True]
        assert [title for title in desk.titles if title.startswith(f"host-{number}'s gpu_hot")], "not below the other"


def test_what_flaps_together_is_told_together() -> None:
    """However many there are: what waits for its limit goes along with the next message."""
    desk = Desk()
    many = [item(f"disk_full:host-{number}") for number in range(20)]
    for number in range(400):
        desk.flaps(1, 36, *(one for place, one in enumerate(many) if (number + place) % 3))
    assert len(desk.sent) <= 20 * OF_A_CAUSE.at_once / 4


def test_a_storm_is_one_message_that_names_all() -> None:
    desk = Desk()
    names = [f"agents_silent:host-{number}" for number in range(300)]
    desk.passes(2, *map(item, names[:150]))
    desk.passes(60, *map(item, names))
    (message,) = desk.sent
    assert message.title == "host-0's agents_silent; and 299 more"
    assert all(f"host-{number}'s agents_silent" in message.text for number in range(300))
    assert (len(message.news), message.text.count("\n\n")) == (300, 10), "ten in full"


def test_a_storm_that_goes_on_shares_messages_and_loses_nothing() -> None:
    """A cause every 2 s for ten minutes; what is broken does not wait for the others."""
    desk = Desk()
    found: list[AttentionItem] = []
    for number in range(300):
        found.append(item(f"gpu_hot:host-{number}", level="attention"))
        desk.passes(LOOK_S, *found)
    assert len(desk.sent) <= OF_ALL.at_once + 600 / OF_ALL.every_s
    began = desk.now
    desk.passes(20, *found, item("disk_full:pc2"))
    assert [at - began <= AT_ONCE_S for at in desk.told("disk_full:pc2")] == [True]
    desk.passes(OF_ALL.every_s + AT_ONCE_S, *found, item("disk_full:pc2"))
    assert {news.id for message in desk.sent for news in message.news} == {
        *(one["id"] for one in found),
        "disk_full:pc2",
    }


def test_what_becomes_broken_is_told_whatever_was_before() -> None:
    """Once: after that, it is limited as any other."""
    desk = Desk()
    desk.flaps(100, HOUR_S / 100, item(level="attention"))
    sent = len(desk.sent)
    desk.flaps(1, 2 * AT_ONCE_S, item(level="broken"))
    assert [message.level for message in desk.sent[sent:]] == ["broken"]
    desk.flaps(10, HOUR_S / 100, item(level="broken"))
    assert len(desk.sent) == sent + 1


def test_what_comes_back_worse_before_its_end_was_sent_is_told() -> None:
    desk = Desk(Policy(quiet_hours=(time(12, 1), time(13))))
    desk.passes(60, item(level="attention"))
    desk.passes(120)
    assert len(desk.sent) == 1
    desk.passes(20, item(announced=iso_time(desk.now)))
    assert desk.titles[1:] == ["Changed: mainpc's disk_full"]


def test_a_limit_is_not_stretched_by_a_clock_that_is_set_back() -> None:
    desk = Desk()
    desk.flaps(20, HOUR_S / 100, item(level="attention"))
    sent = len(desk.sent)
    desk.now -= 12 * HOUR_S
    desk.passes(RETURN_S + HOUR_S, item(level="attention", announced=iso_time(desk.now)))
    assert len(desk.sent) > sent


def test_what_an_earlier_version_kept_is_read() -> None:
    """Its limit counted all messages, and had none left."""
    told = {
        "event": "began",
        "id": "gpu_hot:pc2",
        "kind": "gpu_hot",
        "level": "attention",
        "what": "hot",
        "since": NOON,
    }
    record = {"told": {"gpu_hot:pc2": told}, "waiting_since": NOON, "allowed": 0.0, "allowed_at": NOON}
    desk = Desk()
    desk.rules = Rules(desk.policy, msgspec.convert(record, Memory), desk.now)
    desk.passes(RETURN_S + LOOK_S)
    desk.passes(20, item())
    assert [title.partition(" ")[0] for title in desk.titles] == ["Resolved", "mainpc's"]


def test_a_digest_comes_every_day_at_its_time() -> None:
    """Also if all is well: its absence says that nobody watches."""
    desk = Desk(Policy(ZoneInfo("Europe/Lisbon"), digest=time(8, 30)))
    desk.passes(2 * 86_400, step_s=20)
    assert desk.titles == ["2026-05-02: All is well.", "2026-05-03: All is well."]
    assert [message.at[11:16] for message in desk.sent] == ["07:30", "07:30"]
    desk.passes(86_400, item(level="attention"), step_s=20)
    assert desk.titles[-1].startswith("2026-05-04: mainpc's disk_full")


def test_a_digest_is_short_and_says_if_nobody_watches() -> None:
    desk = Desk(Policy(digest=time(12, 10)))
    desk.passes(15 * 60, *(item(f"gpu_hot:{number}") for number in range(15)))
    digest = desk.sent[-1]
    assert digest.title == "2026-05-01: 0's gpu_hot; and 14 more troubles."
    assert (len(digest.text.splitlines()), digest.text.splitlines()[-1]) == (12, "and 5 more")
    desk = Desk(Policy(digest=time(12, 10)))
    desk.passes(15 * 60, fault="no answer")
    assert desk.titles == ["mainpc can't be asked what is wrong"] * 2


def test_a_clock_that_is_set_back_holds_nothing_back() -> None:
    """What waits, what may be sent at once, and that mainpc is silent."""
    desk = Desk()
    desk.passes(2, item())
    desk.now -= 7_200
    desk.passes(8, item())
    assert len(desk.sent) == 1
    desk.now -= 86_400
    desk.passes(RETURN_S + 10, item(), item("gpu_hot:pc2"))
    assert len(desk.sent) == 2
    desk.now -= 7_200
    desk.passes(UNHEARD_S + 10, fault="no answer")
    assert len(desk.sent) == 3


@pytest.mark.parametrize("step", [7_200.0, -7_200.0], ids=["ahead", "back"])
def test_a_clock_that_is_set_delays_no_message(step: float) -> None:
    desk = Desk()
    desk.now += step
    desk.passes(RETURN_S + 3 * LOOK_S + GATHER_S, item())
    assert len(desk.sent) == 1


def test_texts_of_strangers_are_one_visible_line() -> None:
    desk = Desk()
    remedies = [
        {"on": "mainpc", "command": "df\n-h", "why": ""},
        {"on": "pc2", "command": "", "why": "x"},
    ]
    said = [{"id": "errors", "what": "c\nd", "since": iso_time(NOON)}]
    desk.passes(20, item(what="evil\u202e\x1b[2J\nSubject: x", cause="a\r\nb", explains=said, remedies=remedies))
    (message,) = desk.sent
    assert message.text.splitlines()[3:] == ["It explains: c d.", "On mainpc: df -h"], "and no empty command"
    assert message.title == "evil\ufffd[2J Subject: x"
    assert "Cause: a b." in message.text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(12, "12 s"), (59, "59 s"), (240, "4 min"), (3_600 * 5 + 120, "5 h 2 min"), (200_000, "2 d 7 h")],
)
def test_durations_are_short(seconds: float, text: str) -> None:
    assert rules.lasted(seconds) == text
