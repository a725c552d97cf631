"""The link follows mainpc's trust document: against the real SystemDigitalTwin, and against one that lies."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import pytest

from tests.identities import authorize, new_pair
from tests.loopback.agent_processes import HEARTBEAT_S, SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent import trust
from twinhost.agent.membership.member import MainpcLink
from twinhost.agent.trust import TrustDocument, TrustFolder, document_of, fetch_document
from twinhost.secure_zmq.certificates import FolderContents, load_certificates, read_folders
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.key_writer import render_certificate, write_revocation
from twinhost.secure_zmq.keys import load_certificate
from twinhost.secure_zmq.server_address import SecuredAddress

pytestmark = [pytest.mark.unified_memory_agent, pytest.mark.sdt_security]


@contextmanager
def linked(hosts: Hosts, folder: Path) -> Iterator[MainpcLink]:
    """Run pc2's link for the length of the block, with a folder that follows."""
    keys = load_certificates(hosts.folder(UMRA))
    server = SecuredAddress(hosts.config.agent(SDT).endpoint, keys.own_keys, keys.public_key())
    link = MainpcLink(server, hosts.config.agent(UMRA), HEARTBEAT_S, 65_536, TrustFolder(folder, lambda _: None))
    link.start()
    try:
        yield link
    finally:
        link.stop()


def received(folder: Path) -> FolderContents:
    return read_folders([folder])


@pytest.fixture
def fetched(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """mainpc's replies to `get_trust`."""
    replies: list[dict[str, Any]] = []

    def noting(get_trust: Callable[..., dict[str, Any]], base: TrustDocument) -> TrustDocument:
        def noted(**fields: Any) -> dict[str, Any]:
            replies.append(get_trust(**fields))
            return replies[-1]

        return fetch_document(noted, base)

    monkeypatch.setattr(trust, "fetch_document", noting)
    return replies


def test_enrolments_and_revocations_at_mainpc_reach_the_folder(
    hosts: Hosts, tmp_path: Path, fetched: list[dict[str, Any]]
) -> None:
    """With the next heartbeat; a restart of the link changes nothing, and the folder says what mainpc's does.

    Of each change after the first fetch, only the keys that changed are sent.
    """
    folder = tmp_path / "trust"
    hosts.start(SDT).wait_until_ready()
    guest = new_pair("guest")
    with linked(hosts, folder):
        wait_until(lambda: SDT in received(folder).current, PATIENCE_S, "mainpc's own key is received")
        authorize(hosts.folder(SDT), guest)
        wait_until(lambda: "guest" in received(folder).current, PATIENCE_S, "the guest's key is received")
        assert ["since" in reply for reply in fetched] == [False, True]
        assert fetched[1]["current"] == [render_certificate(guest.certificate)]
    write_revocation(guest.certificate, hosts.folder(SDT) / "revoked")
    with linked(hosts, folder) as link:
        wait_until(
            lambda: guest.public.fingerprint in received(folder).revoked, PATIENCE_S, "the revocation is received"
        )
        wait_until(lambda: "guest" not in received(folder).current, PATIENCE_S, "the key is gone")
        wait_until(lambda: link.fault is None, PATIENCE_S, "the link is up")
    assert document_of(received(folder)).revision == document_of(read_folders([hosts.folder(SDT)])).revision
    assert received(folder).current[UMRA] == load_certificate(hosts.folder(UMRA) / "client.key")


class LyingMainpc:
    """What mainpc's client would return, were mainpc broken or in other hands."""

    def __init__(self, document: dict[str, Any]) -> None:
        self.document = document
        self.calls: list[str] = []

    def call(self, action: str, **_: Any) -> dict[str, Any]:
        self.calls.append(action)
        if action == "get_trust":
            return {"status": "success", **self.document}
        return {"status": "success", "trust_revision": self.document.get("revision", "r")}


GOOD = {"revision": "r", "current": [render_certificate(new_pair("guest").certificate)], "next": [], "revoked": []}
LIES: dict[str, dict[str, Any]] = {
    "no document": {},
    "another shape": {**GOOD, "current": 5},
    "no key": {**GOOD, "current": ["garbage"]},
    "no fingerprint": {**GOOD, "revoked": ["SHA256:x"]},
    "a path": {**GOOD, "revoked": ["../../etc/passwd"]},
}


def turns(hosts: Hosts, folder: Path, mainpc: LyingMainpc, times: int) -> tuple[MainpcLink, float]:
    """Let a link take turns by hand; return it, and how long it would wait now."""
    keys = load_certificates(hosts.folder(UMRA))
    server = SecuredAddress(hosts.config.agent(SDT).endpoint, keys.own_keys, keys.public_key())
    link = MainpcLink(server, hosts.config.agent(UMRA), HEARTBEAT_S, 65_536, TrustFolder(folder, lambda _: None))
    wait_s = 0.0
    for _ in range(times):
        wait_s = link._turn(cast(Client, mainpc))
    return link, wait_s


@pytest.mark.parametrize("lie", LIES)
def test_an_invalid_trust_document_is_a_fault_of_the_link(hosts: Hosts, tmp_path: Path, lie: str) -> None:
    """Nothing is changed, the cause is reported, and the link continues: its thread's end would be the agent's."""
    link, wait_s = turns(hosts, tmp_path / "trust", LyingMainpc(LIES[lie]), 3)
    assert (link.fault or "").startswith("MalformedRequest: ")
    assert 0 < wait_s <= 1.0
    assert list((tmp_path / "trust").rglob("*.key")) == []


def test_a_folder_that_can_not_be_written_is_a_fault_of_the_link(hosts: Hosts, tmp_path: Path) -> None:
    """And is written when it can be."""
    folder = tmp_path / "trust"
    folder.mkdir()
    (folder / "guest.key").mkdir()
    mainpc = LyingMainpc(GOOD)
    link, _ = turns(hosts, folder, mainpc, 3)
    assert (link.fault or "").startswith("StoreUnavailable: the trust folder can't be written")
    (folder / "guest.key").rmdir()
    for _ in range(2):
        link._turn(cast(Client, mainpc))
    assert link.fault is None
    assert "guest" in received(folder).current


def test_the_document_is_fetched_when_it_is_another_one(hosts: Hosts, tmp_path: Path) -> None:
    """Heartbeats alone cost no document; an older mainpc, which reports none, is asked for none."""
    mainpc = LyingMainpc(GOOD)
    link, _ = turns(hosts, tmp_path / "trust", mainpc, 5)
    assert mainpc.calls == ["register_agent", "heartbeat", "get_trust", "heartbeat", "heartbeat", "heartbeat"]
    mainpc.document = {**GOOD, "revision": "s"}
    link._turn(cast(Client, mainpc))
    assert mainpc.calls[6:] == ["heartbeat", "get_trust"]
    mainpc.document = {**GOOD, "revision": None}
    link._turn(cast(Client, mainpc))
    assert mainpc.calls[8:] == ["heartbeat"]


def test_a_revision_is_acknowledged_once_a_standby_has_it(hosts: Hosts, tmp_path: Path) -> None:
    """While the log can't be written, the link says so; it acknowledges the revision after that."""
    mainpc = LyingMainpc(GOOD)
    link, _ = turns(hosts, tmp_path / "trust", mainpc, 0)

    def fail() -> None:
        raise StoreUnavailable("the keys could not be written to the log")

    link.settle = fail
    for _ in range(3):
        link._turn(cast(Client, mainpc))
    assert "guest" in received(tmp_path / "trust").current
    assert (link._trust_revision, "to the log" in (link.fault or "")) == (None, True)
    link.settle = lambda: None
    link._turn(cast(Client, mainpc))
    assert link._trust_revision == "r"


def test_a_link_that_starts_with_the_document_fetches_nothing(hosts: Hosts, tmp_path: Path) -> None:
    """It acknowledges the revision; so many agents that start at once do not each fetch the list."""
    folder = tmp_path / "trust"
    link, _ = turns(hosts, folder, LyingMainpc(GOOD), 5)
    mainpc = LyingMainpc({**GOOD, "revision": document_of(received(folder)).revision})
    link, _ = turns(hosts, folder, mainpc, 4)
    assert mainpc.calls == ["register_agent", "heartbeat", "heartbeat", "heartbeat"]
    assert link._trust_revision == document_of(received(folder)).revision


def test_links_do_not_stay_in_step_after_a_change_of_trust(hosts: Hosts, tmp_path: Path) -> None:
    """The wait after a change of the document is each link's own, and at most the interval; then it is the interval."""
    waits = []
    for number in range(8):
        mainpc = LyingMainpc(GOOD)
        link, _ = turns(hosts, tmp_path / f"trust-{number}", mainpc, 5)
        mainpc.document = {**GOOD, "revision": "s"}
        assert link._turn(cast(Client, mainpc)) == 0  # it is notified at once that it is followed
        waits.append(link._turn(cast(Client, mainpc)))
        assert link._turn(cast(Client, mainpc)) == HEARTBEAT_S
    assert all(0 <= wait <= HEARTBEAT_S for wait in waits)
    assert len(set(waits)) == len(waits)
