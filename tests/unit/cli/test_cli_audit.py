"""`audit tail | verify`: the log as it is, and whether it is whole, judged on this side of the wire."""

import json
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.cli.loopback_agents import UMRA, TwoHosts
from tests.unit.cli.running import COMMAND, Cli, process_environment
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.framing import exchange
from twinhost.store.audit_log.chain import AuditEvent

pytestmark = pytest.mark.thorough

Tamper = Callable[[list[str]], list[str]]
NOTED = 300  # more than fit a reply of 64 KiB


def note(hosts: TwoHosts, count: int, **fields: str) -> None:
    """Have so many lines in the log."""
    assert hosts.mainpc.audit is not None
    due = hosts.mainpc.audit.head.seq + count
    for number in range(count):
        hosts.mainpc.audit.note(AuditEvent.KEY_AUTHORIZED, name=f"agent-{number}", **fields)
    audit = hosts.mainpc.audit
    wait_until(lambda: audit.head.seq == due, PATIENCE_S, "the lines are written")


def log_file(hosts: TwoHosts) -> Path:
    (path,) = (hosts.root / "audit").glob("audit-*.jsonl")
    return path


def rewrite(hosts: TwoHosts, lines: list[str]) -> None:
    log_file(hosts).write_text("".join(f"{line}\n" for line in lines))


def lines_of(hosts: TwoHosts) -> list[str]:
    return log_file(hosts).read_text().splitlines()


def test_tail_shows_the_newest_lines(hosts: TwoHosts, cli: Cli) -> None:
    """Twenty, or as many as are asked for, the newest last."""
    note(hosts, NOTED, reason="a first one")
    ran = cli(hosts, "audit", "tail")
    assert (ran.status, ran.err) == (0, "")
    shown = ran.out.splitlines()
    assert len(shown) == 20
    assert shown[-1].startswith(f"{NOTED}  20")
    assert shown[-1].endswith(f'  key_authorized  name=agent-{NOTED - 1} reason="a first one"')
    assert len(cli(hosts, "audit", "tail", "-n", "250").out.splitlines()) == 250
    assert len(cli(hosts, "audit", "tail", "-n", "9999").out.splitlines()) == NOTED
    assert cli(hosts, "audit", "tail", "-n", "0").out == ""


def test_tail_for_programs_is_the_log_itself(hosts: TwoHosts, cli: Cli) -> None:
    """Byte for byte, so that it can be checked elsewhere."""
    note(hosts, 30)
    assert cli(hosts, "audit", "tail", "-n", "9999", "--json").out == log_file(hosts).read_text()


def test_a_long_value_is_cut_for_people_and_whole_for_programs(hosts: TwoHosts, cli: Cli) -> None:
    """As the grants in a line of `started`; the end of a cut shows."""
    grants = "agent: " + " ".join(f"action_{number}" for number in range(40))
    note(hosts, 1, grants=grants)
    (line,) = cli(hosts, "audit", "tail").out.splitlines()
    assert line.endswith('…"')
    assert len(line) < 160
    assert json.loads(cli(hosts, "audit", "tail", "--json").out)["grants"] == grants


def test_what_is_no_line_does_not_steer_a_terminal(hosts: TwoHosts, cli: Cli) -> None:
    """Somebody who can write into the file may have put anything there."""
    note(hosts, 2, reason="\x1b[2J\u202e")
    with log_file(hosts).open("a") as file:
        file.write("\x1b]0;owned\x07\n")
    for extra in ((), ("--json",)):
        ran = cli(hosts, "audit", "tail", *extra)
        assert ran.status == 0
        assert not set(ran.out) & {"\x1b", "\x07", "\u202e"}
    assert json.loads(cli(hosts, "audit", "tail", "--json").out.splitlines()[-1]) == {"unreadable": "\x1b]0;owned\x07"}


def test_follow_shows_new_lines_and_waits_for_an_absent_agent(hosts: TwoHosts) -> None:
    """Until Ctrl-C, which ends it quietly."""
    note(hosts, 3)
    process = subprocess.Popen(
        [*COMMAND, "audit", "tail", "--follow", "-n", "1"],
        env=process_environment(hosts.environment),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert "name=agent-2" in process.stdout.readline()
    note(hosts, 2)
    assert "name=agent-0" in process.stdout.readline()
    assert "name=agent-1" in process.stdout.readline()
    hosts.mainpc.stop()
    assert process.stderr is not None
    assert process.stderr.readline().startswith("waiting: no reply to get_audit")
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, out, err) == (130, "", "")


def test_a_whole_log_is_verified_across_pages(hosts: TwoHosts, cli: Cli) -> None:
    """How many lines, from which to which; a witness of an older version is named."""
    note(hosts, NOTED)
    ran = cli(hosts, "audit", "verify")
    assert (ran.status, ran.err) == (0, "")
    assert ran.out.startswith(f"{NOTED} lines were checked, from 1 to {NOTED}: lines 1 to {NOTED} are intact")
    document = json.loads(cli(hosts, "audit", "verify", "--json").out)
    assert (document["status"], document["lines"], document["first_seq"]) == ("ok", NOTED, 1)
    assert (document["last_seq"], document["findings"]) == (NOTED, [])
    (witness,) = document["witnesses"]
    assert (witness["agent"], witness["verdict"]) == (UMRA, "not_compared")
    assert "its version keeps no heads" in witness["sentence"]


@pytest.mark.parametrize(
    ("tamper", "sentence"),
    [
        (lambda lines: lines[:100] + lines[101:], "line 101 is missing"),
        (lambda lines: [*lines[:100], lines[101], lines[100], *lines[102:]], "it was moved"),
        (
            lambda lines: [line.replace('"name":"agent-7"', '"name":"agent-8"') for line in lines],
            "does not match its content",
        ),
        (lambda lines: lines[:-1], "missing at the end"),
        (lambda lines: [*lines, "{}"], "is not a line of this log"),
    ],
    ids=["removed", "reordered", "edited", "cut off", "put in"],
)
def test_a_log_that_was_tampered_with_is_found_out(hosts: TwoHosts, cli: Cli, tamper: Tamper, sentence: str) -> None:
    """Each finding is a sentence, and the exit status is 1."""
    note(hosts, NOTED)
    rewrite(hosts, tamper(lines_of(hosts)))
    ran = cli(hosts, "audit", "verify")
    assert ran.status == 1
    assert sentence in ran.err
    assert "the chain is broken" in ran.out
    document = json.loads(cli(hosts, "audit", "verify", "--json").out)
    assert (document["status"], document["code"]) == ("error", "audit_log_broken")
    assert any(sentence in finding["sentence"] for finding in document["findings"])


@pytest.mark.parametrize("command", ["tail", "verify"])
def test_without_the_operators_key_it_is_refused(hosts: TwoHosts, cli: Cli, command: str) -> None:
    """An agent's key may not read it."""
    hosts.folders["operator"] = hosts.folders["client"]
    ran = cli(hosts, "audit", command, "--json")
    assert (ran.status, json.loads(ran.out)["code"]) == (1, "not_granted")


@pytest.mark.parametrize("command", ["tail", "verify"])
def test_an_agent_that_is_away_is_one_sentence(
    hosts: TwoHosts, cli: Cli, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And no traceback."""
    monkeypatch.setattr(exchange, "DEFAULT_DEADLINE_S", 1.0)
    hosts.mainpc.stop()
    ran = cli(hosts, "audit", command)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err.startswith("error [server_unreachable]: ")
    assert ran.err.count("\n") == 1
