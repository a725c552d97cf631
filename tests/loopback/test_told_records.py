"""What is recorded is told: errors, refusals, a changed audit log, a restore; each with since when and a command."""

import json
import re
import shlex
import subprocess
import time
from typing import Any

import pytest

from tests import fork_server
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.loopback.test_audit_witness import archive, log_grows, metrics, rewrite, without_line_4
from tests.unit.certificates.trees import certs_init
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adversary.clients import Refused, new_pair, open_session
from twinhost.adversary.zmtp import Disconnected, connect_to
from twinhost.moments import parse_time
from twinhost.secure_zmq.certificates import load_certificates

pytestmark = pytest.mark.sdt_security

ATTEMPTS = 250
Item = dict[str, Any]


def items(hosts: Hosts) -> dict[str, Item]:
    """Return the list by id, as an operator gets it."""
    with hosts.client(SDT) as client:
        return {item["id"]: item for item in client.call("get_attention")["items"]}


def told(hosts: Hosts, name: str) -> Item:
    """Wait until the list has a trouble, and return it."""
    wait_until(lambda: name in items(hosts), PATIENCE_S, f"{name} is on the list")
    return items(hosts)[name]


def run(hosts: Hosts, command: str) -> "subprocess.CompletedProcess[str]":
    """Run the command of a remedy with the operator's key."""
    program, *arguments = shlex.split(command)
    assert program == "./twinhost"
    environment = {**hosts.environment(SDT), "TWINHOST_CERTIFICATES": str(hosts.folder("operator"))}
    return fork_server.run(["twinhost.cli", *arguments], env=environment, text=True)


def commands(item: Item) -> list[str]:
    return [remedy["command"] for remedy in item["remedies"]]


@pytest.fixture
def began() -> float:
    """When the test began; of a moment that is shown, the rest of the millisecond is left out."""
    return time.time() - 0.001


def is_later(moment: str, began: float) -> bool:
    return began <= parse_time(moment).timestamp() <= time.time()


def is_intact(hosts: Hosts) -> bool | None:
    """Return what the metric of the audit log says; None before the first inspection."""
    values = [line.split()[1] for line in metrics(hosts, SDT).splitlines() if line.startswith("twinhost_audit_intact ")]
    return {"1.0": True, "0.0": False}[values[0]] if values else None


def test_of_a_hundred_errors_the_critical_one_comes_first(hosts: Hosts, began: float) -> None:
    hosts.start(SDT).wait_until_serving()
    with hosts.client(SDT) as client:
        for number in range(100):
            severity, kind, message = (
                ("critical", "GpuLost", f"GPU {number} fell off the bus")
                if number in (7, 40, 41)
                else (("error", "Slow", f"no reply within {number} s"), ("error", "Empty", f"file {number} is empty"))[
                    number % 2
                ]
            )
            error = {"error_id": f"{number}", "agent_id": "vision", "severity": severity, "error_type": kind}
            client.call("report_error", error={**error, "message": message})
    wait_until(lambda: "100 errors" in items(hosts).get("errors", {}).get("what", ""), PATIENCE_S, "all are told")
    item = items(hosts)["errors"]
    assert item["what"] == "100 errors of 3 shapes, the worst: critical GpuLost from vision, 3 times"
    assert (item["level"], item["cause"], len(item["evidence"])) == ("broken", "GPU 41 fell off the bus", 3)
    assert is_later(item["since"], began)
    shown, listed, acknowledged = commands(item)
    assert "GpuLost" in run(hosts, shown).stdout
    assert run(hosts, listed).stdout.count("fell off the bus") == 3
    assert run(hosts, acknowledged).returncode == 0
    wait_until(lambda: "97 errors of 2 shapes" in items(hosts)["errors"]["what"], PATIENCE_S, "the others are left")
    assert items(hosts)["errors"]["level"] == "attention"


def attack(hosts: Hosts, times: int, name: str = SDT) -> None:
    """Try keys that were made just now."""
    agent = hosts.config.agent(name)
    pin = load_certificates(hosts.folder("operator")).public_key(agent.key)
    for _ in range(times):
        with pytest.raises((Refused, Disconnected)):
            open_session(connect_to(agent.endpoint), new_pair(), pin)


def test_brute_force_is_told_and_survives_a_restart(hosts: Hosts, began: float) -> None:
    mainpc, _ = hosts.start_both()
    attack(hosts, ATTEMPTS)
    wait_until(
        lambda: f"{ATTEMPTS} conn" in items(hosts).get("refusals:mainpc", {}).get("what", ""), PATIENCE_S, "told"
    )
    before = items(hosts)["refusals:mainpc"]
    assert before["what"] == f"mainpc refused {ATTEMPTS} connections from 127.0.0.1: the key is not authorised"
    assert is_later(before["since"], began)
    ((name, value),) = ((row["name"], row["value"]) for row in before["evidence"])
    assert name == "key_not_authorized from 127.0.0.1"
    assert f"{ATTEMPTS} times, " in value
    assert " a minute, first 20" in value
    for command in commands(before):
        assert run(hosts, command).returncode == 0
    mainpc.terminate()
    hosts.start(SDT).wait_until_serving()
    wait_until(lambda: items(hosts).get("refusals:mainpc") == before, PATIENCE_S, "it is told as before")


def test_mainpc_tells_whom_pc2_refused(hosts: Hosts) -> None:
    """Also after a restart of pc2, which counts for a day."""
    _, pc2 = hosts.start_both()
    attack(hosts, 12, UMRA)
    told(hosts, "refusals:pc2")
    pc2.terminate()
    hosts.start(UMRA).wait_until_serving()
    attack(hosts, 3, UMRA)
    refused = "pc2: refused 15 connections from 127.0.0.1: the key is not authorised; "
    wait_until(lambda: items(hosts).get("refusals:pc2", {}).get("what", "").startswith(refused), PATIENCE_S, "all")
    for command in commands(items(hosts)["refusals:pc2"]):
        assert run(hosts, command).returncode == 0


def test_brute_force_is_told_after_a_crash_too(hosts: Hosts) -> None:
    mainpc = hosts.start(SDT).wait_until_serving()
    attack(hosts, 30)
    told(hosts, "refusals:mainpc")
    time.sleep(6.0)  # it is written every 5 s
    mainpc.kill()
    hosts.start(SDT).wait_until_serving()
    many = "mainpc refused 30 connections"
    wait_until(lambda: many in told(hosts, "refusals:mainpc")["what"], PATIENCE_S, "all of them are known")


def said(hosts: Hosts) -> dict[str, str]:
    """Return the sentences of the list by id, those that others explain too."""
    return {one["id"]: one["what"] for item in items(hosts).values() for one in (item, *item["explains"])}


def test_a_revoked_key_that_is_used_is_told_until_it_is_replaced(hosts: Hosts) -> None:
    hosts.start_both()
    with hosts.client(SDT) as client:  # else nobody knows whose the revoked key was
        wait_until(lambda: f'"name":"{UMRA}"' in str(client.call("get_audit")["lines"]), PATIENCE_S, "it is logged")
    certs_init(hosts.keys, "revoke", UMRA, host="", config=hosts.config.source)
    name = f"refusals:mainpc/key_revoked/{UMRA}"
    often = re.compile(rf"mainpc refused {UMRA} \d\d+ times: the key is revoked")
    wait_until(lambda: often.fullmatch(said(hosts).get(name, "")), 2 * PATIENCE_S, "it goes on trying")
    assert certs_init(hosts.keys, "replace", UMRA, host="", config=hosts.config.source).status == 0
    wait_until(lambda: name not in said(hosts), 2 * PATIENCE_S, "it is accepted, and nothing is left")


def change_a_line(hosts: Hosts) -> int:
    """Change a line of the log as somebody may who can write mainpc's volume; return its number."""
    (path,) = (hosts.root / SDT / "audit").glob("audit-*.jsonl")
    lines = path.read_text().splitlines(keepends=True)
    assert json.loads(lines[1])["event"] == "key_authorized"
    with path.open("r+") as file:
        file.write("".join([lines[0], lines[1].replace("SHA256:", "SHA257:"), *lines[2:]]))
    return 2


def test_a_changed_audit_line_is_told_at_the_start(hosts: Hosts) -> None:
    mainpc = hosts.start(SDT).wait_until_serving()
    wait_until(lambda: is_intact(hosts), PATIENCE_S, "it is intact")
    mainpc.terminate()
    line = change_a_line(hosts)
    for _ in range(2):  # also after another restart
        mainpc = hosts.start(SDT).wait_until_serving()
        item = told(hosts, "audit_tampered:mainpc")
        assert item["level"] == "broken"
        assert item["what"].startswith("mainpc's audit log was changed: ")
        assert f"{hosts.root}/{SDT}/audit/audit-000000000001.jsonl" in item["cause"]
        assert f"from line {line} on" in item["cause"]
        wait_until(lambda: is_intact(hosts) is False, PATIENCE_S, "the metric says so")
        assert commands(item)[0] == "./twinhost audit verify"
        verified = run(hosts, commands(item)[0])
        assert (verified.returncode, f"line {line}:" in verified.stderr) == (1, True)
        mainpc.terminate()


def test_a_line_changed_while_mainpc_runs_is_told(hosts: Hosts, began: float) -> None:
    hosts.start(SDT).wait_until_serving()
    wait_until(lambda: is_intact(hosts), PATIENCE_S, "it is intact")
    line = change_a_line(hosts)
    item = told(hosts, "audit_tampered:mainpc")
    assert f"from line {line} on" in item["cause"]
    assert is_later(item["since"], began)


def test_a_restore_is_told_until_it_is_accepted(hosts: Hosts, began: float) -> None:
    mainpc, _ = hosts.start_both()
    wait_until(lambda: items(hosts) == {}, PATIENCE_S, "all is well")
    log_grows(hosts)
    backup = archive(hosts, "backup", "-")
    log_grows(hosts, sessions=5)
    mainpc.terminate()
    archive(hosts, "restore", "-", "--replace", given=backup)
    hosts.start(SDT).wait_until_serving()
    wait_until(lambda: f"that {UMRA} has seen" in str(items(hosts).get("restored:mainpc")), PATIENCE_S, "it is told")
    item = items(hosts)["restored:mainpc"]
    assert item["what"].startswith("mainpc's state was replaced by a backup, and its audit log lacks lines ")
    assert is_later(item["since"], began)
    verify, accept = commands(item)
    assert "restored on 20" in run(hosts, verify).stdout
    assert run(hosts, accept).returncode == 0
    wait_until(lambda: "restored:mainpc" not in items(hosts), 2 * PATIENCE_S, "it is explained")


def test_a_rewritten_log_is_told(hosts: Hosts) -> None:
    mainpc, _ = hosts.start_both()
    log_grows(hosts)
    mainpc.terminate()
    rewrite(hosts, without_line_4)
    hosts.start(SDT).wait_until_serving()
    item = told(hosts, f"audit_contradicted:{UMRA}")
    assert (item["level"], item["what"]) == ("broken", f"mainpc's audit log is not the one that {UMRA} has seen")
    said_twice = "check_failed:mainpc/audit_witness"
    assert said_twice not in items(hosts)
    assert said_twice not in [other["id"] for other in item["explains"]]
    verify, accept = commands(item)
    assert run(hosts, verify).returncode == 1
    assert run(hosts, accept).returncode == 0
    wait_until(lambda: f"audit_contradicted:{UMRA}" not in items(hosts), 2 * PATIENCE_S, "it is accepted")
