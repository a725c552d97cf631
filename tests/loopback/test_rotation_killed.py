"""A rotation that is killed at any step, or loses an agent amid it, ends well when it is run again."""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.unit.certificates.trees import Ran, certs_init, files
from tests.waiting import PATIENCE_S, suspend, wait_until
from twinhost.certificates.layout import plan_layout
from twinhost.certificates.rotate import rotate_server
from twinhost.certificates.running_agents import client_of, wait_until_followed
from twinhost.secure_zmq.certificates import REVOKED_FOLDER, load_certificates, pins_of
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized, PeerNotLive, WrongServerKey
from twinhost.secure_zmq.key_writer import replace_certificate, revoked_file_name
from twinhost.secure_zmq.keys import KeyPair, load_certificate
from twinhost.secure_zmq.server_address import SecuredAddress

OPERATOR = "operator"
_CHANGING_CALLS = frozenset({"propose_key", "confirm_key", "retire_keys"})
KINDS = {SDT: ["server"], UMRA: ["client", UMRA], OPERATOR: ["client", OPERATOR]}
ALL_STEPS = 100  # more than there are


@dataclass
class Site:
    """Both hosts, in use, with keys that are rotated over and over; restarted agents take the place of killed ones."""

    hosts: Hosts
    agents: dict[str, AgentProcess]

    def rotate(self, whose: str) -> Ran:
        """Run the command in this process, to its end."""
        return certs_init(self.hosts.keys, "rotate", *KINDS[whose], config=self.hosts.config.source)

    def pair(self, whose: str) -> KeyPair:
        return load_certificates(self.hosts.folder(whose)).own_keys

    def restart(self, name: str) -> None:
        """Kill an agent, which is started again at once."""
        self.agents[name].kill()
        self.agents[name] = self.hosts.start(name)

    def assert_ready(self) -> None:
        """Both agents are in touch."""
        for agent in self.agents.values():
            agent.wait_until_ready()


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with Hosts(tmp_path) as hosts:
        mainpc, pc2 = hosts.start_both()
        yield Site(hosts, {SDT: mainpc, UMRA: pc2})


@pytest.mark.parametrize("whose", KINDS)
def test_killed_at_any_step_the_next_run_ends_well(site: Site, whose: str) -> None:
    """A kill before every change of the disk, and before and after every call that changes what mainpc knows."""
    for step in range(1, ALL_STEPS):
        old = site.pair(whose)
        died = in_a_child_that(kills_itself, site, whose, step) == signal.SIGKILL
        ran = site.rotate(whose) if died else None
        assert ran is None or ran.status == 0, (step, ran.err)
        assert_rotated(site, whose, old)
        assert ran is None or what_it_says_is_true(ran, site.pair(whose).public.fingerprint), (step, ran.out)
        if not died:
            break
    assert 15 < step < ALL_STEPS, "there are that many steps, and the last run saw no kill"


@pytest.mark.parametrize("victim", [SDT, UMRA])
@pytest.mark.parametrize("whose", [SDT, UMRA])
def test_an_agent_killed_amid_a_rotation_completes_it(site: Site, whose: str, victim: str) -> None:
    """kill -9 of either agent at every sixth step; the run may go on or give up, and the next one ends well."""
    for step in range(2, ALL_STEPS, 6):
        old = site.pair(whose)
        reached, status = with_a_pause(site, whose, step, lambda: site.restart(victim))
        if status != 0:
            ran = site.rotate(whose)
            assert ran.status == 0, (step, ran.err)
        assert_rotated(site, whose, old)
        if not reached:
            break
    assert 15 < step < ALL_STEPS


def test_an_agent_unknown_after_a_restart_is_waited_for(site: Site) -> None:
    """mainpc has forgotten how far pc2 follows; the key is not changed before pc2 has received the next one."""
    suspend(site.agents[UMRA].pid)
    site.restart(SDT)
    site.agents[SDT].wait_until_serving()
    followed = site.hosts.keys / "pc2/trust" / f"{SDT}.next.key"
    waits, at_the_switch = threading.Event(), list[bool]()

    def say(line: str) -> None:
        if line.startswith("waiting"):
            waits.set()
        if " changes from " in line:
            at_the_switch.append(followed.exists())

    layout = plan_layout(site.hosts.keys, site.hosts.config, None)
    failures: list[Exception] = []

    def run() -> None:
        try:
            rotate_server(layout, site.hosts.config, say)
        except Exception as error:  # noqa: BLE001 - reported below
            failures.append(error)

    thread = threading.Thread(target=run)
    thread.start()
    assert waits.wait(PATIENCE_S)
    assert not followed.exists()
    site.agents[UMRA].send(signal.SIGCONT)
    thread.join()
    assert (failures, at_the_switch) == ([], [True])
    site.assert_ready()


def test_a_key_that_mainpc_has_not_read_yet_is_waited_for(site: Site) -> None:
    """Until mainpc has read its folder again, everybody agrees on a list without the next key: that is no consent."""
    site.assert_ready()
    present, name = site.pair(SDT), f"{SDT}.next.key"
    following = KeyPair.generate(present.certificate.owner, present.certificate.validity).certificate
    known = threading.Event()

    def wait() -> None:
        with client_of(site.hosts.config.agent(SDT), site.pair(OPERATOR), [present.public]) as client:
            wait_until_followed(client, following.public, PATIENCE_S, print)
        known.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not known.wait(1.0), "nobody has the key"
    replace_certificate(following, site.hosts.folder(SDT) / name)
    thread.join()
    assert known.is_set()
    assert load_certificate(site.hosts.keys / "pc2/trust" / name) == following


def test_an_agent_that_does_not_run_starts_with_its_new_key(tmp_path: Path) -> None:
    """Nothing can be proven of it, and the command says so; what it left behind is right all the same."""
    with Hosts(tmp_path) as hosts:
        site = Site(hosts, {SDT: hosts.start(SDT).wait_until_serving()})
        old = site.pair(UMRA)
        ran = site.rotate(UMRA)
        assert (ran.status, "can't be reached" in ran.out) == (0, True), ran.err
        assert f"proven: {SDT} refuses {old.public.fingerprint}" in ran.out
        site.agents[UMRA] = hosts.start(UMRA)
        assert_rotated(site, UMRA, old)


def assert_rotated(site: Site, whose: str, old: KeyPair) -> None:
    """There is one other pair, which everybody knows; the old one is dead, and nothing is left half-way."""
    new = site.pair(whose)
    assert new.public != old.public
    wait_until(lambda: left_over(site) == [], PATIENCE_S, "nothing of the rotation is left")
    verified = certs_init(site.hosts.keys, "verify", config=site.hosts.config.source)
    assert (verified.status, [line for line in verified.lines if "remark" in line]) == (0, []), verified.out
    assert len([name for name in files(site.hosts.keys) if "secret" in name]) == len(KINDS)
    for folder in ("mainpc", "pc2", OPERATOR):
        assert (site.hosts.keys / folder / REVOKED_FOLDER / revoked_file_name(old.public.fingerprint)).exists(), folder
    site.assert_ready()
    assert_dead(site, whose, old)


def what_it_says_is_true(ran: Ran, present: str) -> bool:
    """It does not call the key in use an old one, and has reached the agent whose key it is."""
    return f"the old key {present}" not in ran.out and "can't be reached" not in ran.out


def left_over(site: Site) -> list[str]:
    """Return the files that only a rotation under way has."""
    names = [path.name for path in site.hosts.keys.rglob("*") if path.is_file()]  # an agent may remove one meanwhile
    return [name for name in names if "next" in name or "draft" in name or "installing" in name]


def assert_dead(site: Site, whose: str, old: KeyPair) -> None:
    """With the old pair nobody gets in, and who pins it is not answered."""
    pin = pins_of(site.hosts.folder(OPERATOR), SDT)
    assert len(pin) == 1
    with (
        Client(SecuredAddress(site.hosts.config.agent(SDT).endpoint, old, pin[0])) as client,
        pytest.raises((NotAuthorized, PeerNotLive)),
    ):
        client.call("ping")
    if whose != OPERATOR:
        address = SecuredAddress(site.hosts.config.agent(whose).endpoint, site.pair(OPERATOR), old.public)
        with Client(address) as client, pytest.raises(WrongServerKey):
            client.call("ping")


def in_a_child_that(does: Callable[[], None], site: Site, whose: str, step: int) -> int:
    """Rotate in a child that does something at a step; return its exit status, or the signal that ended it."""
    child = multiprocessing.get_context("fork").Process(target=rotate_and, args=(does, site, whose, step))
    child.start()
    child.join()
    assert child.exitcode is not None
    return abs(child.exitcode)


def with_a_pause(site: Site, whose: str, step: int, meanwhile: Callable[[], None]) -> tuple[bool, int]:
    """Rotate in a child that is stopped at a step; return whether it came to that, and its exit status."""
    child = multiprocessing.get_context("fork").Process(target=rotate_and, args=(stops_itself, site, whose, step))
    child.start()
    assert child.pid is not None
    _, status = os.waitpid(child.pid, os.WUNTRACED)
    if not os.WIFSTOPPED(status):
        return False, os.waitstatus_to_exitcode(status)
    meanwhile()
    os.kill(child.pid, signal.SIGCONT)
    _, status = os.waitpid(child.pid, 0)
    return True, os.waitstatus_to_exitcode(status)


def kills_itself() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def stops_itself() -> None:
    os.kill(os.getpid(), signal.SIGSTOP)


def rotate_and(does: Callable[[], None], site: Site, whose: str, at_step: int) -> None:
    """Rotate, and do something at a step; meant for a process of its own."""
    steps, call = 0, Client.call

    def step() -> None:
        nonlocal steps
        steps += 1
        if steps == at_step:
            does()

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if not event.startswith("os.") or not arguments or str(site.hosts.keys) not in str(arguments[0]):
            return
        there = os.path.lexists(arguments[0])
        if event in ("os.link", "os.rename") or (event, there) in (("os.remove", True), ("os.mkdir", False)):
            step()

    def counted(client: Client, action: str, /, **options: Any) -> Any:
        changes = action in _CHANGING_CALLS
        if changes:
            step()
        reply = call(client, action, **options)
        if changes:
            step()
        return reply

    sys.addaudithook(hook)
    Client.call = counted  # type: ignore[method-assign]
    os._exit(site.rotate(whose).status)
