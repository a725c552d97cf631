"""Messages of a real deployment: one for a trouble, one for its end, over restarts and refusals of every side."""

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.loopback.agent_processes import Hosts, SmallVolume
from tests.receivers import HttpReceiver, SmtpReceiver
from tests.waiting import PATIENCE_S, wait_until
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import plan_layout
from twinhost.deployment import load_settings
from twinhost.network_config import load_network_config
from twinhost.notify import notifier as process
from twinhost.notify import rules
from twinhost.notify.notifier import Notifier
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotGranted
from twinhost.testing import Stack

pytestmark = pytest.mark.thorough

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
MAINPC_SILENT = ("mainpc does not answer pc2", "mainpc can't be asked what is wrong")  # the second: pc2 does not say
TOLD_WITHIN_S = 30.0
TTL_S = 2.0
RETURN_S = rules.RETURN_S
HEARD_AFTER_S = 1.1  # a heartbeat that follows the registration at once is part of it
QUIET_S = 8.0  # in which a message that is one too many would come


@pytest.fixture
def web() -> Iterator[HttpReceiver]:
    with HttpReceiver() as receiver:
        yield receiver


@pytest.fixture
def mail() -> Iterator[SmtpReceiver]:
    with SmtpReceiver() as receiver:
        yield receiver


@pytest.fixture
def stack(web: HttpReceiver, mail: SmtpReceiver, monkeypatch: pytest.MonkeyPatch) -> Iterator[Stack]:
    """Both agents, and a configuration that tells two destinations."""
    monkeypatch.setattr(rules, "RETURN_S", 4.0)
    monkeypatch.setattr(rules, "UNHEARD_S", 6.0)
    monkeypatch.setattr(rules, "AWAY_S", 3.0)
    monkeypatch.setattr(process, "_FAILS_AFTER_S", 4.0)

    def tell(document: dict[str, Any]) -> None:
        document["limits"]["registration_ttl_s"] = TTL_S
        document["notify"] = {
            "destinations": {
                "phone": {"webhook": f"http://127.0.0.1:{web.port}/"},
                "me": {
                    "email": ["ana@example.org"],
                    "sender": "twinhost@example.org",
                    "server": f"127.0.0.1:{mail.port}",
                    "encryption": "none",
                },
            }
        }

    with Stack() as stack:
        stack.configure(tell)
        make_keys(stack._layout)  # as certs-init does: the section makes the key
        stack._reload_keys()
        yield stack


@contextmanager
def notifying(stack: Stack, state: Path) -> Iterator[Notifier]:
    with notifying_as(stack.environment("notify"), state) as notifier:
        yield notifier


@contextmanager
def notifying_as(environment: Mapping[str, str], state: Path) -> Iterator[Notifier]:
    notifier = Notifier(load_settings(environment), state)
    thread = threading.Thread(target=notifier.run)
    thread.start()
    try:
        yield notifier
    finally:
        notifier.stop()
        thread.join(20)
        assert not thread.is_alive()


def attention(stack: Stack) -> list[str]:
    with stack.client(SDT) as client:
        return [item["id"] for item in client.call("get_attention")["items"]]


def settled(stack: Stack) -> None:
    """Wait until what the start has shown is over."""
    wait_until(
        lambda: not [name for name in attention(stack) if "silent" in name], PATIENCE_S, "the hosts are not silent"
    )


def agent(stack: Stack, name: str) -> Client:
    """Return a client of an agent that registered and sent a heartbeat."""
    client = stack.client(SDT, by=name)
    client.call("register_agent", agent_name=name, status="HEALTHY")
    time.sleep(HEARD_AFTER_S)
    client.call("heartbeat", agent_name=name)
    return client


def naming(titles: list[str], word: str) -> list[str]:
    return [title for title in titles if word in title]


def test_a_silent_agent_is_told_once_and_its_end_once(
    stack: Stack, web: HttpReceiver, mail: SmtpReceiver, tmp_path: Path
) -> None:
    """Within 30 s, by each way out, also if the process is started again in between."""
    stack.enrol("vision")
    settled(stack)
    with agent(stack, "vision") as vision, notifying(stack, tmp_path):
        silent_from = time.monotonic()
        wait_until(lambda: naming(web.titles, "vision"), TOLD_WITHIN_S, "the silence is told")
        assert time.monotonic() - silent_from < TOLD_WITHIN_S
        wait_until(lambda: mail.mails, PATIENCE_S, "it is mailed")
        assert naming(web.titles, "vision") == ["vision on laptop does not respond"]
        assert naming([str(each["Subject"]) for each in mail.mails], "vision") == ["vision on laptop does not respond"]
    with notifying(stack, tmp_path):
        time.sleep(QUIET_S)
        assert len(naming(web.titles, "vision")) == 1
        vision = agent(stack, "vision")
        wait_until(lambda: beats(vision) and naming(web.titles, "Resolved"), TOLD_WITHIN_S, "the end is told")
        (end,) = naming(web.titles, "Resolved")
        assert end.startswith("Resolved after ")
        assert end.endswith("vision on laptop does not respond")
        vision.close()


def beats(client: Client) -> bool:
    client.call("heartbeat", agent_name="vision")
    return True


def test_a_mainpc_that_ends_is_told_once(
    stack: Stack, web: HttpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And that it is back; that it finds pc2 silent at first, and what told this, is no other trouble."""
    monkeypatch.setattr(rules, "RETURN_S", RETURN_S)
    settled(stack)
    with notifying(stack, tmp_path):
        wait_until(lambda: "notify" in registered(stack), PATIENCE_S, "the process has registered")
        stack.stop(SDT)
        wait_until(lambda: web.titles, TOLD_WITHIN_S, "the silence is told")
        time.sleep(QUIET_S)
        stack.start(SDT)
        wait_until(lambda: len(web.titles) > 1, TOLD_WITHIN_S, "its end is told")
        time.sleep(RETURN_S + rules.GATHER_S)
    assert len(web.titles) == 2, web.titles
    began, ended = web.titles
    assert began.startswith(MAINPC_SILENT)
    assert ended.startswith("Resolved after")
    assert ended.endswith(began)


def registered(stack: Stack) -> dict[str, Any]:
    with stack.client(SDT) as client:
        agents: dict[str, Any] = client.call("get_all_agents")["agents"]
        return agents


def test_a_destination_that_is_down_gets_it_later(
    stack: Stack, web: HttpReceiver, mail: SmtpReceiver, tmp_path: Path
) -> None:
    """The other one gets it at once; meanwhile mainpc's list says what can't be delivered."""
    stack.enrol("vision")
    settled(stack)
    web.status = 503
    with agent(stack, "vision"), notifying(stack, tmp_path):
        wait_until(lambda: mail.mails, TOLD_WITHIN_S, "it is mailed")
        assert web.bodies == []
        wait_until(
            lambda: registered(stack)["notify"]["status"] == "can't deliver to phone",
            TOLD_WITHIN_S,
            "it is shown",
        )
        web.status = 200
        wait_until(lambda: naming(web.titles, "vision"), TOLD_WITHIN_S, "it is delivered")
        wait_until(lambda: registered(stack)["notify"]["status"] == "HEALTHY", PATIENCE_S, "it is well again")
    first = [title for title in web.titles if title.startswith("vision")]
    assert first == ["vision on laptop does not respond"]


def test_a_full_disk_is_told_though_nothing_can_be_stored(
    web: HttpReceiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Within 30 s, and its end, each once: neither mainpc nor the process can write, as on one machine for both."""
    monkeypatch.setattr(rules, "RETURN_S", 4.0)
    with Hosts(tmp_path) as hosts, SmallVolume(hosts.root / SDT, "8m") as volume:
        source = Path(hosts.config.source)
        section = {"destinations": {"phone": {"webhook": f"http://127.0.0.1:{web.port}/"}}}
        source.write_text(f"{source.read_text()}{yaml.safe_dump({'notify': section})}")
        make_keys(plan_layout(hosts.keys, load_network_config(source, {}), None))
        hosts.start_both()
        environment = {**hosts.environment(SDT), "TWINHOST_CERTIFICATES": str(hosts.keys / "notify")}
        with notifying_as(environment, hosts.root / SDT):
            with hosts.client(SDT) as client:
                wait_until(
                    lambda: "notify" in client.call("get_all_agents")["agents"],
                    PATIENCE_S,
                    "the process has registered",
                )
            time.sleep(rules.RETURN_S)
            volume.fill()
            wait_until(lambda: web.titles, TOLD_WITHIN_S, "it is told")
            time.sleep(QUIET_S)
            volume.empty()
            wait_until(lambda: len(web.titles) > 1, TOLD_WITHIN_S, "its end is told")
            time.sleep(QUIET_S)
    began, ended = web.titles
    assert began == "mainpc's disk is full: 0 MB of 8 MB free"
    assert ended.startswith("Resolved after ")
    assert ended.endswith(began)


def test_the_process_can_do_nothing_else(stack: Stack) -> None:
    """Its key may read what is wrong, without the evidence, and report itself."""
    with stack.client(SDT, by="notify") as client:
        assert "items" in client.call("get_attention")
        for action, fields in (
            ("get_errors", {}),
            ("get_events", {}),
            ("publish_event", {"event": {"event_type": "x", "event_id": "1", "source_agent": "notify", "data": {}}}),
            ("acknowledge_trouble", {"id": "x"}),
        ):
            with pytest.raises(NotGranted):
                client.call(action, **fields)
    with stack.client(UMRA, by="notify") as client, pytest.raises(NotGranted):
        client.call("search_memory", query="x")
