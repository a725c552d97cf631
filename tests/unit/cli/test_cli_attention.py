"""`attention`, and the beginning of `status`: what is wrong, since when, why, and the command that mends it."""

import json
import shlex
from typing import Any, Self, cast

import msgspec
import pytest

from tests.configuration import SHIPPED
from tests.unit.cli.loopback_agents import SDT, UMRA, TwoHosts
from tests.unit.cli.running import Cli, run_on_terminal
from twinhost.agent.asked_lists import NO_ANSWER, NOT_AUTHORIZED, unreachable, with_found
from twinhost.agent.troubles import AttentionItem, AttentionList, Kind, Level, Remedy, Trouble, item_of, list_of
from twinhost.cli import output, status
from twinhost.cli.app import main
from twinhost.cli.attention import shown
from twinhost.deployment import Settings
from twinhost.moments import iso_time
from twinhost.secure_zmq.errors import ServerUnreachable

pytestmark = pytest.mark.thorough

NOW = 1_800_000_000.0
ERRORS = Trouble(
    kind=Kind.ERRORS,
    what="VisionAgent reported 3 errors",
    since=NOW,
    cause="the newest: camera 7 is lost",
    remedies=(Remedy("mainpc", "./twinhost errors", "groups them"),),
    members=("camera N is lost",),
)
FULL = Trouble(
    kind=Kind.DISK_FULL,
    subject="mainpc",
    host="mainpc",
    what="mainpc's disk is full: 0 MB of 98 GB free",
    level=Level.BROKEN,
    explains=("host_silent:pc2", "errors"),
)


def find(hosts: TwoHosts, *troubles: Trouble) -> None:
    """Have mainpc find troubles, and wait until they are listed."""
    hosts.mainpc.found = list(troubles)
    wanted = {trouble.id for trouble in troubles}
    hosts.wait_until_listed(lambda ids: wanted <= set(ids))


@pytest.mark.parametrize("command", ["status", "attention"])
def test_nothing_wrong_is_said_first_and_exits_0(hosts: TwoHosts, cli: Cli, command: str) -> None:
    ran = cli(hosts, command)
    assert (ran.status, ran.err, ran.out.split("\n")[0]) == (0, "", "All is well.")


@pytest.mark.parametrize("command", ["status", "attention"])
def test_an_item_has_since_cause_and_command(hosts: TwoHosts, cli: Cli, command: str) -> None:
    find(hosts, ERRORS)
    ran = cli(hosts, command)
    assert (ran.status, ran.err) == (1, "")
    assert ran.out.split("\n")[:7] == [
        "VisionAgent reported 3 errors.",
        "",
        "attention: VisionAgent reported 3 errors",
        "  since: 2027-01-15T08:00:00.000+00:00, 0 s ago",
        "  because: the newest: camera 7 is lost",
        "  on mainpc: ./twinhost errors  # groups them",
        "  to acknowledge: ./twinhost attention acknowledge errors",
    ]


def test_a_cause_is_one_item_with_its_consequences(hosts: TwoHosts, cli: Cli) -> None:
    """The worst comes first, its level is the exit status, and the others are counted."""
    hosts.mainpc.found = [ERRORS, FULL, msgspec.structs.replace(ERRORS, kind=Kind.BACKUP_OLD, what="no backup of pc2")]
    hosts.wait_until_listed(lambda ids: ids == ["disk_full:mainpc", "backup_old"])
    ran = cli(hosts, "attention")
    assert ran.status == 2
    lines = ran.out.split("\n")
    assert lines[0] == "mainpc's disk is full: 0 MB of 98 GB free; and 1 more trouble."
    assert "  so: VisionAgent reported 3 errors" in lines
    assert [line for line in lines if line.startswith(("broken:", "attention:"))] == [
        "broken: mainpc's disk is full: 0 MB of 98 GB free",
        "attention: no backup of pc2",
    ]


@pytest.mark.parametrize("command", ["status", "attention"])
def test_what_is_acknowledged_comes_last_and_counts_no_more(hosts: TwoHosts, cli: Cli, command: str) -> None:
    find(hosts, ERRORS)
    ran = cli(hosts, "attention", "acknowledge", "errors")
    assert (ran.status, ran.out, ran.err) == (0, "errors is acknowledged, until it gets worse or ends\n", "")
    ran = cli(hosts, command)
    assert ran.status == 0
    assert ran.out.startswith("Nothing new is wrong; 1 trouble acknowledged.\n\nacknowledged: VisionAgent reported 3 ")
    assert "\n  acknowledged by: operator, 0 s ago\n" in ran.out + "\n"
    assert "to acknowledge" not in ran.out
    find(hosts, msgspec.structs.replace(ERRORS, members=(*ERRORS.members, "door N is open")))
    hosts.wait_until_listed(lambda _: cli(hosts, command).status == 1)


@pytest.mark.parametrize("subject", ["pc2/disk N/a b", "pc2's $(reboot); `x` \"q\" ' |&", "ünï→ #1", "--help", "-x"])
def test_the_printed_command_acknowledges_any_id(hosts: TwoHosts, cli: Cli, subject: str) -> None:
    """As a shell reads it: blanks, quotes, and substitutions are those of the id."""
    find(hosts, trouble := Trouble(kind=Kind.WARNING, subject=subject, what="x"))
    (line,) = [line for line in cli(hosts, "attention").out.splitlines() if line.startswith("  to acknowledge: ")]
    program, *words = shlex.split(line.removeprefix("  to acknowledge: "))
    assert (program, words[-1]) == ("./twinhost", trouble.id)
    assert cli(hosts, *words).status == 0
    hosts.wait_until_listed(lambda _: cli(hosts, "attention").status == 0)


def test_what_is_not_listed_is_not_acknowledged(hosts: TwoHosts, cli: Cli) -> None:
    ran = cli(hosts, "attention", "acknowledge", "errors", "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "not_found")
    assert "see it with: ./twinhost attention" in ran.err


@pytest.mark.parametrize("command", ["status", "attention"])
def test_the_list_is_there_for_programs(hosts: TwoHosts, cli: Cli, command: str) -> None:
    """`status` is ok unless something is broken, as long as nobody acknowledges it."""
    find(hosts, ERRORS)
    ran = cli(hosts, command, "--json")
    document = json.loads(ran.out)
    listed = document["attention"] if command == "status" else document
    assert (ran.status, document["status"], listed["level"]) == (1, "ok", "attention")
    assert [(item["id"], item["cause"]) for item in listed["items"]] == [("errors", ERRORS.cause)]
    find(hosts, FULL)
    ran = cli(hosts, "status", "--json")
    document = json.loads(ran.out)
    assert (ran.status, document["status"], document["code"]) == (2, "error", "disk_full")


def test_wait_does_not_wait_for_what_only_needs_attention(hosts: TwoHosts, cli: Cli) -> None:
    """`make up` succeeds as soon as the agents work, whatever else is on the list."""
    find(hosts, ERRORS)
    ran = cli(hosts, "status", "--wait", "60", "--wait-for", SDT, "--wait-for", UMRA)
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith("VisionAgent reported 3 errors.\n")


def test_without_mainpc_what_can_be_seen_from_here_is_said(
    hosts: TwoHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That mainpc can't be asked is the cause of what pc2 says of its link; pc2's own faults are said too."""
    monkeypatch.setattr(status, "QUESTION_DEADLINE_S", 1.0)
    hosts.mainpc.stop()
    hosts.pc2.faults |= {"store": "database is locked", "mainpc_link": "no reply to heartbeat"}
    hosts.pc2.warnings.append("the key of Camera ends in 2 days")
    ran = cli(hosts, "status")
    assert (ran.status, ran.err) == (2, "")
    items = [line for line in ran.out.splitlines() if line.startswith(("broken:", "attention:"))]
    assert items == [
        f"broken: {SDT} can't be asked from here",
        "broken: pc2: database is locked",
        "attention: pc2: the key of Camera ends in 2 days",
    ]
    assert ran.out.startswith(f"{SDT} can't be asked from here; and 2 more troubles.\n")
    assert "\n  so: pc2: no reply to heartbeat\n" in ran.out
    assert "attention acknowledge" not in ran.out  # nobody is there to do it


def test_a_key_that_may_not_read_the_list_is_told_so(hosts: TwoHosts, cli: Cli) -> None:
    """A list that is not shown is not empty."""
    hosts.folders["operator"] = hosts.folders["client"]
    hosts.mainpc.grants.replace({"agent": frozenset({"health", "get_registered_agents", "get_metrics"})})
    ran = cli(hosts, "status")
    assert ran.status == 1
    assert ran.out.startswith(f"what {SDT} finds is not shown.\n")


def test_a_trouble_steers_no_terminal(hosts: TwoHosts) -> None:
    """Sentences, causes, and commands may have been chosen by an agent."""
    hostile = "\x1b]0;owned\x07 \x1b[2J\u202e"
    find(hosts, msgspec.structs.replace(ERRORS, what=hostile, cause=hostile, remedies=(Remedy(hostile, hostile),)))
    for command in ("status", "attention"):
        shown = run_on_terminal(hosts.environment, command).out
        assert "owned" in shown
        assert [part for part in ("\x1b]", "\x1b[2J", "\u202e", "\x07") if part in shown] == []


def test_what_the_list_has_is_not_said_twice() -> None:
    """Of a stopped pc2: that it does not answer from here either is its consequence."""
    stopped = Trouble(kind=Kind.HOST_STOPPED, subject="pc2", host="pc2", what="pc2 has stopped", level=Level.BROKEN)
    away = msgspec.structs.replace(stopped, kind=Kind.UNREACHABLE, subject=UMRA, what="can't be asked")
    linkless = Trouble(kind=Kind.CHECK_FAILED, subject="pc2/mainpc_link", host="pc2", what="no link")
    listed = with_found(None, [stopped], iso_time(NOW))
    (item,) = with_found(listed, [away, linkless, stopped], iso_time(NOW))["items"]
    assert [other["what"] for other in item["explains"]] == ["can't be asked", "no link"]
    assert [other["items"] for other in (listed,)] == [[{**item, "explains": []}]]
    check = Trouble(kind=Kind.CHECK_FAILED, subject="pc2/store", host="pc2", what="pc2: it can't be written")
    full = list_of([item_of(FULL, NOW, [(check, NOW)])], iso_time(NOW))
    assert with_found(full, [check], iso_time(NOW)) == full, "nor what it explains"


@pytest.mark.parametrize(
    ("level", "code", "items"),
    [
        (Level.BROKEN, NOT_AUTHORIZED, 1),
        (Level.BROKEN, NO_ANSWER, 2),
        (Level.ATTENTION, NOT_AUTHORIZED, 2),  # no key is refused because of it
    ],
)
def test_a_clock_that_refuses_keys_explains_a_refusal(level: Level, code: str, items: int) -> None:
    """Of the key that asks, by the same host."""
    clock = Trouble(kind=Kind.CLOCKS_DIFFER, subject="pc2", host="pc2", what="pc2's clock is behind", level=level)
    refused = unreachable(SHIPPED.agent(UMRA), code, "it refused this key")
    listed = with_found(with_found(None, [clock], iso_time(NOW)), [refused], iso_time(NOW))
    assert len(listed["items"]) == items


def test_what_mainpc_said_before_it_fell_silent_is_dated(capsys: pytest.CaptureFixture[str]) -> None:
    item = cast(AttentionItem, {**item_of(ERRORS, NOW), "last_known": iso_time(NOW + 60)})
    output.show(*shown(list_of([item], iso_time(NOW + 90)), iso_time(NOW + 90), None))
    assert "\n  mainpc said so last: 2027-01-15T08:01:00.000+00:00, 30 s ago\n" in capsys.readouterr().out


def test_a_word_of_a_later_version_counts_as_broken() -> None:
    listed: AttentionList = with_found(None, [ERRORS], iso_time(NOW))
    listed["items"][0]["level"] = "on_fire"
    assert with_found(listed, [], iso_time(NOW))["level"] == "broken"


class Client:
    """A client of an agent, which answers with a list, or not at all."""

    def __init__(self, listed: AttentionList | None) -> None:
        self._listed = listed

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def call(self, _: str) -> dict[str, Any]:
        if self._listed is None:
            raise ServerUnreachable("no reply")
        return {"status": "ok", **self._listed}


def test_pc2_is_asked_where_mainpc_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """That mainpc can't be asked from here is what pc2 says; without pc2 it is all that is known."""
    silent = Trouble(kind=Kind.MAINPC_SILENT, host="mainpc", what="mainpc does not answer pc2", level=Level.BROKEN)
    lists = {SDT: None, UMRA: list_of([item_of(silent, NOW)], iso_time(NOW))}
    monkeypatch.setenv("SECURE_ZMQ", "0")
    monkeypatch.setattr(Settings, "client", lambda _, agent: Client(lists[agent.name]))
    assert main(["attention"]) == Level.BROKEN
    said = capsys.readouterr().out
    assert said.startswith("mainpc does not answer pc2.\n")
    assert f"  so: {SDT} can't be asked from here\n" in said
    lists[UMRA] = None
    assert main(["attention"]) == Level.BROKEN
    assert "no reply" in capsys.readouterr().err


def test_who_does_not_answer_may_have_ended() -> None:
    """Who refuses has not."""
    agent = SHIPPED.agent(UMRA)
    assert [remedy.command for remedy in unreachable(agent, NO_ANSWER, "no reply").remedies] == [
        "docker compose up -d pc2",
        "docker compose logs pc2",
    ]
    assert unreachable(agent, "not_authorized", "it refuses this key").remedies == ()
