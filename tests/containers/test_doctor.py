"""`cli doctor` on the real stack, from either host: good as it is, clear after a sabotage; and the attack itself."""

import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any
from xml.etree import ElementTree

import pytest

from tests.containers.kept import Finished
from tests.containers.stack import AGENTS, Stack
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adversary.campaign import ATTACKS, LEGITIMATE_CLIENT, NOT_FROM_OUTSIDE
from twinhost.adversary.members import ATTACKS as INSIDERS_ATTACKS

pytestmark = pytest.mark.sdt_security

KEYS = ("operator", "pc2")
PUBLIC_FILE = "/certificates/operator/client.key"
OPERATORS = "needs an operator's key"


@pytest.fixture(scope="module", autouse=True)
def measured(stack: Stack) -> None:
    """Both hosts are, which a stack that has just begun is not yet."""
    with stack.client("mainpc") as client:

        def known() -> bool:
            hosts = client.call("get_metrics")["metrics"]["hosts"]
            return not any(host["stale"] for host in hosts.values())

        wait_until(known, PATIENCE_S, "both hosts are measured")


def examined(stack: Stack, keys: str) -> tuple[int, list[dict[str, Any]]]:
    """Return the exit status and the checks of an examination."""
    done = stack.kept("cli", TWINHOST_CLI_KEYS=keys).run("doctor", "--json")
    checks: list[dict[str, Any]] = json.loads(done.out)["checks"]
    return done.status, checks


def failed(checks: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    return [(check["check"], check["where"], check["sentence"]) for check in checks if check["verdict"] == "failed"]


@pytest.mark.parametrize("keys", KEYS)
def test_a_good_stack_is_good_from_either_host(stack: Stack, keys: str) -> None:
    """Every check is ok; with pc2's own key, those that take an operator's say so and nothing else is left out."""
    status, checks = examined(stack, keys)
    assert (status, failed(checks)) == (0, [])
    rest = [check for check in checks if check["verdict"] != "ok"]
    assert all(keys == "pc2" and each["verdict"] == "not played" and OPERATORS in each["sentence"] for each in rest), (
        rest
    )
    assert {check["where"] for check in checks} >= {"here", *AGENTS.values()}


def test_a_person_gets_a_table(stack: Stack) -> None:
    """The same as text: a table of each place, and the sum of it."""
    done = stack.run("cli", "doctor")
    assert done.status == 0
    for words in ("modes and owners", "wrong pin refused", "audit log", "Examination: ", " ok, 0 warning, 0 failed"):
        assert words in done.out


def test_a_file_that_others_can_change_is_found(stack: Stack) -> None:
    """A public key file that its group may write: who changes it lets anybody in."""
    assert stack.run_shell("certs-init", f"chmod g+w {PUBLIC_FILE}").status == 0
    try:
        status, checks = examined(stack, "operator")
    finally:
        assert stack.run_shell("certs-init", f"chmod 644 {PUBLIC_FILE}").status == 0
    ((check, where, sentence),) = failed(checks)
    assert (status, check, where) == (1, "modes and owners", "here")
    assert "client.key has mode 0664, so others can change what it holds; run: docker compose" in sentence


def test_an_agent_that_does_not_run_is_found(stack: Stack) -> None:
    """pc2 is stopped: its name or its port leads nowhere, and mainpc is examined all the same."""
    stack.container("pc2").stop()
    try:
        status, checks = examined(stack, "operator")
    finally:
        stack.container("pc2").start()
        stack.wait_until_ready()
    assert status == 1
    assert {(check, where) for check, where, _ in failed(checks)} <= {
        ("address", AGENTS["pc2"]),
        ("port", AGENTS["pc2"]),
    }
    assert failed(checks)
    assert any(check["check"] == "wrong pin refused" and check["verdict"] == "ok" for check in checks)


def test_a_host_with_security_off_is_found(stack: Stack) -> None:
    """pc2 with SECURE_ZMQ=0: one line names the fault and what to do."""
    with restarted(stack, SECURE_ZMQ="0"):
        status, checks = examined(stack, "operator")
    sentences = {(check, where): sentence for check, where, sentence in failed(checks)}
    assert status == 1
    assert "set SECURE_ZMQ=1 in .env on both hosts" in sentences["SECURE_ZMQ the same", AGENTS["pc2"]]
    assert "it served a client without a key" in sentences["plain client refused", AGENTS["pc2"]]
    assert {where for _, where in sentences} == {AGENTS["pc2"]}


@contextmanager
def restarted(stack: Stack, **variables: str) -> Iterator[None]:
    """Have pc2 run with other variables meanwhile."""
    up = ("up", "--detach", "--no-deps", "pc2")
    try:
        assert stack.compose(*up, **variables).status == 0
        wait_until_alive(stack)
        yield
    finally:
        assert stack.compose(*up).status == 0
        stack.wait_until_ready()


def wait_until_alive(stack: Stack) -> None:
    wait_until(lambda: stack.http("pc2", "/healthz")[0] == 200, PATIENCE_S, "pc2 is alive")


def test_the_intruder_gets_nowhere(stack: Stack) -> None:
    """The adversary's list against both agents, with an operator's key and with pc2's: all is played, and held."""

    def attack(keys: str) -> Finished:
        return stack.kept("cli", TWINHOST_CLI_KEYS=keys).run("doctor", "--intruder", "--format", "junit")

    with ThreadPoolExecutor() as pool:  # at once: most of it is waiting
        reports = list(pool.map(attack, KEYS))
    listed: set[tuple[str, str]] = set()
    played: set[tuple[str, str]] = set()
    for keys, done in zip(KEYS, reports, strict=True):
        suites = ElementTree.fromstring(done.out)
        assert [dict(each.attrib) for each in suites.iter("failure")] == [], keys
        assert done.status == 0, keys
        cases = {(case.attrib["classname"], case.attrib["name"]): case for case in suites.iter("testcase")}
        assert int(suites.attrib["tests"]) == len(cases)
        listed |= set(cases)
        played |= {each for each, case in cases.items() if case.find("skipped") is None}
    wanted = {
        (agent, name) for agent in AGENTS.values() for name in (LEGITIMATE_CLIENT, *(attack.name for attack in ATTACKS))
    }
    assert listed >= wanted
    assert {name for _, name in listed - played} == {attack.name for attack in NOT_FROM_OUTSIDE}
    stack.wait_until_ready()


def test_the_insider_harms_nobody_and_leaves_no_key(stack: Stack) -> None:
    """The documented command: it makes a key, attacks both agents with it, and revokes it."""
    done = stack.twinhost("doctor", "--insider", "--format", "junit")
    suites = ElementTree.fromstring(done.out)
    assert [dict(failure.attrib) for failure in suites.iter("failure")] == []
    assert done.status == 0, done.err
    played = {case.attrib["name"] for case in suites.iter("testcase") if case.find("skipped") is None}
    assert played == {LEGITIMATE_CLIENT, *(attack.name for attack in INSIDERS_ATTACKS)}
    with stack.client("pc2", "operator") as client:
        spaces = client.call("list_spaces")["spaces"]
        assert not [space for space in spaces if "insider" in space["name"]]
    assert re.search(r"^revoked: \S+ insider-", done.err, re.MULTILINE), done.err
    assert "insider" not in stack.run("cli", "keys", "list", "--json").out
    stack.wait_until_ready()
