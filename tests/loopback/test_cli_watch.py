"""`cli watch` beside a real mainpc: what was missed, then what comes; nothing lost, nothing twice."""

import json
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loopback.agent_processes import SDT, UMRA, AgentProcess, Hosts
from tests.loopback.watching import Publisher, Watch, error, settings_of, withdraw
from tests.unit.cli.running import run_process
from tests.unit.cli.test_cli_hostile_text import HOSTILE, SHOWN, unsafe
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import DEFAULT_DEADLINE_S, Client

BEFORE, MEANWHILE, AFTER = 150, 800, 150  # an outage: what comes meanwhile is more than one answer of mainpc holds


@pytest.fixture
def mainpc(hosts: Hosts) -> AgentProcess:
    return hosts.start(SDT).wait_until_serving()


@pytest.fixture
def publisher(hosts: Hosts, mainpc: AgentProcess) -> Iterator[Publisher]:
    """pc2's agent, which has events to deliver."""
    with hosts.client(SDT, by=UMRA) as client:
        yield Publisher(client)


def seqs(watch: Watch, topic: str) -> list[int]:
    """Return the numbers of what was shown of a topic, in the order in which it was, probes left out."""
    return [each["seq"] for each in watch.shown if each["topic"] == topic]


def kept(client: Client) -> dict[str, list[int]]:
    """Return the numbers of all that mainpc keeps, oldest first, by topic."""
    events, errors = client.call("get_events", limit=1_000), client.call("get_errors", limit=1_000)
    assert (events["more"], errors["more"]) == (False, False)
    of = {"EVENT:": events["events"], "ERROR:": errors["errors"]}
    return {
        topic: [
            entry["seq"] for entry in reversed(entries) if "probe" not in (entry.get("event_id"), entry.get("error_id"))
        ]
        for topic, entries in of.items()
    }


@pytest.mark.parametrize("secure", [True, False], ids=["secured", "open"])
def test_what_happens_is_shown_as_it_comes(tmp_path: Path, secure: bool) -> None:
    """An event, an error, and an agent that registers, which is not stored: only the feed has it."""
    with Hosts(tmp_path, secure=secure) as hosts, hosts.client(SDT, by=UMRA) as client:
        hosts.start(SDT).wait_until_serving()
        publisher = Publisher(client)
        with Watch(hosts) as watch:
            publisher.probe(watch)
            publisher.one(event_type="model_loaded", data={"a": [1]})
            line = watch.wait_for("event-0")
            assert "  EVENT:  " in line
            assert f'event_type=model_loaded source_agent={UMRA} data={{"a":[1]}}' in line
            publisher.one("error", severity="critical", message="no answer")
            line = watch.wait_for("error-1")
            assert line.startswith(f"{publisher.ledger[-1][1]}  ")
            assert "severity=critical error_type=t message=no answer" in line

            def registered() -> bool:
                client.call("register_agent", agent_name=UMRA, status="HEALTHY")
                return any("  AGENT:  " in line and UMRA in line for line in list(watch.out))

            wait_until(registered, PATIENCE_S, "the registration is shown")
            assert watch.err == []


@pytest.mark.parametrize("secure", [True, False], ids=["secured", "open"])
def test_a_published_event_is_watched(tmp_path: Path, secure: bool) -> None:
    """`events watch` is `watch`; the data are key=value, as for `call`, and no key of theirs is reserved."""
    with Hosts(tmp_path, secure=secure) as hosts:
        hosts.start(SDT).wait_until_serving()
        settings = settings_of(hosts, "operator")
        words = ("events", "publish", "backup_finished")
        first = run_process(settings, *words, "files=3", "action=copy", "--id", "e1", "--ttl", "60")
        assert (first.status, first.err) == (0, "")
        number = int(first.out.removeprefix("event e1 is stored with the number "))
        with Watch(hosts, "--since", str(number - 1), "--json", command=("events", "watch")) as watch:
            watch.wait_for("backup_finished")
        event = next(each for each in watch.shown if each["event_type"] == "backup_finished")
        assert (event["data"], event["ttl"], event["seq"]) == ({"files": 3, "action": "copy"}, 60, number)
        assert event["source_agent"] == ("operator" if secure else socket.gethostname())
        quiet = json.loads(run_process(settings, *words, "--stored-only", "--json").out)
        assert (quiet["status"], quiet["seq"] > number) == ("success", True)
        (kept,) = json.loads(run_process(settings, "call", SDT, "get_events", "limit=1", "--json").out)["events"]
        assert (kept["event_id"], kept["propagate"], kept["data"]) == (quiet["event_id"], False, {})


def test_a_topic_is_shown_alone(hosts: Hosts, publisher: Publisher) -> None:
    """Whoever asks for errors gets no event, not even one that was kept."""
    publisher.one("event")
    with Watch(hosts, "--topic", "ERROR:", "--since", "0", "--json") as watch:
        publisher.probe(watch, "ERROR:")
        publisher.many(12)
        watch.wait_for(publisher.one("error"))
        assert {each["topic"] for each in watch.shown} == {"ERROR:"}
        errors = [seq for name, seq in publisher.ledger if name.startswith("error")]
        assert seqs(watch, "ERROR:") == errors


@pytest.mark.parametrize(
    "arguments",
    [("--topic", "NONSENSE:"), ("--topic", "EVENT:", "--topic", "event:"), ("--topic", ""), ("--since", "-1")],
)
def test_a_topic_that_does_not_exist_is_usage(hosts: Hosts, arguments: tuple[str, ...]) -> None:
    """Nobody is asked, and the sentence says which topics there are."""
    with Watch(hosts, *arguments, "--json") as watch:
        assert watch.wait() == 2
        (sentence,) = watch.err
        assert sentence.startswith("error [usage]: ")
        assert json.loads(watch.out[0])["code"] == "usage"
        if "--topic" in arguments:
            assert "EVENT:, ERROR:, AGENT:, TRUST:" in sentence


def test_since_shows_what_was_kept_first(hosts: Hosts, publisher: Publisher) -> None:
    """Oldest first, from the one after that number, and then what comes; what was kept off the feed stays off."""
    publisher.many(30)
    publisher.one(propagate=False)
    quiet = publisher.ledger.pop()
    since = publisher.ledger[9][1]
    with Watch(hosts, "--since", str(since), "--json") as watch:
        publisher.probe(watch)
        publisher.many(30)
        watch.wait_for(publisher.one())
        watch.wait_for(publisher.one("error"))
        for topic, kind in (("EVENT:", "event"), ("ERROR:", "error")):
            after = [seq for name, seq in publisher.ledger if seq > since and name.startswith(kind)]
            assert seqs(watch, topic) == after
            assert quiet[1] not in after


@pytest.mark.parametrize("since", [("--since", "0"), ()], ids=["kept", "live"])
def test_events_and_errors_are_in_one_order(hosts: Hosts, publisher: Publisher, since: tuple[str, ...]) -> None:
    """By number over both topics, each once: what was kept, what comes, and what follows one that was off the feed."""
    with hosts.client(SDT) as client:
        client.call("report_error", error=error("first"))
    publisher.many(20)
    with Watch(hosts, *since, "--json") as watch:
        publisher.probe(watch)
        publisher.many(10)
        publisher.one(propagate=False)
        publisher.many(10)
        watch.wait_for(publisher.one("error"))
        watch.wait_for(publisher.one())
        shown = [each["seq"] for each in watch.shown if "seq" in each]
    assert len(shown) > 20 + 20 * len(since) // 2
    assert shown == sorted(set(shown))


def test_without_since_it_begins_now(hosts: Hosts, publisher: Publisher) -> None:
    """Earlier events are not shown."""
    publisher.many(30)
    before = publisher.ledger[-1][1]
    with Watch(hosts, "--json") as watch:
        publisher.probe(watch)
        watch.wait_for(publisher.one())
        assert all(each["seq"] > before for each in watch.shown)


def test_json_is_one_object_a_line(hosts: Hosts, publisher: Publisher) -> None:
    """The very document that mainpc answers with, and its topic; ASCII, whatever its content."""
    with Watch(hosts, "--json") as watch, hosts.client(SDT) as client:
        publisher.probe(watch)
        line = watch.wait_for(publisher.one(event_type=HOSTILE, data={HOSTILE: "mahalag\u00e1 \U0001f604"}))
        assert line.isascii()
        assert unsafe(line) == []
        (answered,) = client.call("get_events", limit=1)["events"]
        assert json.loads(line) == {"topic": "EVENT:", **answered}


@pytest.mark.parametrize("asleep", [False, True], ids=["awake", "asleep"])
def test_an_outage_of_mainpc_loses_nothing_and_doubles_nothing(
    hosts: Hosts, mainpc: AgentProcess, publisher: Publisher, asleep: bool
) -> None:
    """Killed while events come in, and started again: each that was acknowledged is shown once, in its order.

    The sleeping one receives no event of the outage: all that it shows of it, it has requested.
    """
    with Watch(hosts, "--json") as watch:
        publisher.probe(watch)
        publisher.many(20)
        if asleep:
            watch.send(signal.SIGSTOP)
        publisher.many(BEFORE)
        mainpc.kill()
        hosts.start(SDT)
        publisher.many(MEANWHILE)  # the first of them is tried until mainpc is back
        if asleep:
            watch.send(signal.SIGCONT)
        watch.wait_for(publisher.ledger[-1][0])  # and no event follows that would show a gap
        publisher.many(AFTER)
        watch.wait_for(publisher.one())
        watch.wait_for(publisher.one("error"))
        with hosts.client(SDT) as client:
            stored = kept(client)
        for topic, kind in (("EVENT:", "event"), ("ERROR:", "error")):
            acknowledged = {seq for name, seq in publisher.ledger if name.startswith(kind)}
            assert len(acknowledged) > (BEFORE + MEANWHILE + AFTER) / 4
            assert acknowledged <= set(stored[topic])
            assert seqs(watch, topic) == [seq for seq in stored[topic] if seq >= min(acknowledged)]
        assert watch.interrupt() == 130


def test_restarted_numbering_is_reported(hosts: Hosts, mainpc: AgentProcess, publisher: Publisher) -> None:
    """mainpc's store is another one after a restart: that is said, and everything in the new one is shown."""
    with Watch(hosts, "--json") as watch:
        publisher.probe(watch)
        publisher.many(30)
        watch.wait_for(publisher.one())
        mainpc.kill()
        for path in hosts.database(SDT).parent.glob("*.sqlite3*"):
            path.unlink()
        hosts.start(SDT).wait_until_serving()
        first = publisher.one()
        watch.wait_for(first)
        watch.wait_for_line("numbers start again")
        publisher.many(9)
        watch.wait_for(publisher.one())
        again = watch.shown[[each.get("event_id") for each in watch.shown].index(first) :]
        names = [each["event_id"] for each in again if each["topic"] == "EVENT:"]
        ours = [name for name, _ in publisher.ledger if name.startswith("event")]
        assert names == ours[ours.index(first) :]


@pytest.mark.parametrize("on_terminal", [True, False], ids=["terminal", "pipe"])
def test_a_hostile_event_steers_no_terminal(hosts: Hosts, publisher: Publisher, on_terminal: bool) -> None:
    """Whatever an agent writes into an event or an error, each is one line without a control character."""
    with Watch(hosts, on_terminal=on_terminal) as watch:
        publisher.probe(watch)
        before = len(watch.out)
        publisher.one(event_type=HOSTILE, timestamp=HOSTILE[:40], data={HOSTILE: [HOSTILE]})
        publisher.one("error", error_type=HOSTILE, message=HOSTILE * 20, stack_trace=HOSTILE)
        watch.wait_for("event-0")
        watch.wait_for("error-1")
        lines = [line.removesuffix("\r") for line in watch.out[before:]]
        assert all(unsafe(line) == [] for line in lines), lines
        ours = [line for line in lines if "probe" not in line]
        assert len(ours) == 2
        (line,) = [line for line in ours if "event-0" in line]  # the order is kept within a topic alone
        (failed,) = [line for line in ours if "error-1" in line]
        assert f"event_type={SHOWN} " in line
        assert f"message={SHOWN * 20} " in failed


def test_a_refused_query_is_reported_in_one_sentence(hosts: Hosts) -> None:
    """Exit status 1; with --since as without."""
    withdraw(hosts, "get_errors")
    hosts.start(SDT).wait_until_serving()
    for arguments in ((), ("--since", "0"), ("--since", "0", "--json")):
        with Watch(hosts, *arguments, by=UMRA) as watch:
            assert watch.wait() == 1
            (sentence,) = watch.err
            assert sentence.startswith("error [not_granted]: get_errors is not granted to ")
            assert [json.loads(line)["code"] for line in watch.out] == ["not_granted"] * ("--json" in arguments)


def test_a_grant_that_is_withdrawn_ends_it(hosts: Hosts, publisher: Publisher) -> None:
    """In the midst of it, with the same sentence."""
    with Watch(hosts, "--topic", "EVENT:", by=UMRA) as watch:
        publisher.probe(watch)
        withdraw(hosts, "get_events")
        assert watch.wait() == 1
        (sentence,) = watch.err
        assert sentence.startswith("error [not_granted]: get_events is not granted to ")


def test_a_key_that_nobody_knows_is_refused(hosts: Hosts) -> None:
    """mainpc does not know the operator's key."""
    (hosts.folder(SDT) / "operator.key").unlink()
    hosts.start(SDT).wait_until_serving()
    for arguments in ((), ("--topic", "AGENT:"), ("--since", "0")):
        with Watch(hosts, *arguments) as watch:
            assert watch.wait() == 1
            (sentence,) = watch.err
            assert sentence.startswith("error [not_authorized]: ")


@pytest.mark.parametrize("topics", [(), ("--topic", "AGENT:")], ids=["all", "none that is kept"])
def test_a_refused_subscription_is_reported(hosts: Hosts, topics: tuple[str, ...]) -> None:
    """The feed hangs up on every session of its, and gives no reason; mainpc answers it meanwhile. Exit status 1."""
    withdraw(hosts, "subscribe")
    hosts.start(SDT).wait_until_serving()
    with Watch(hosts, *topics, by=UMRA) as watch:
        assert watch.wait() == 1
        (sentence,) = watch.err
        assert sentence.startswith("error [not_granted]: mainpc answers, but its event feed at tcp://127.0.0.1:")
        assert "grant it `subscribe`" in sentence


def test_a_withdrawn_subscription_is_reported_once(hosts: Hosts, publisher: Publisher) -> None:
    """What mainpc keeps is still shown, since that may be asked for; once the grant is back, so is the rest."""
    path = Path(hosts.config.source)
    with Watch(hosts, by=UMRA) as watch, hosts.client(SDT) as client:
        publisher.probe(watch)
        granted = path.read_text()
        withdraw(hosts, "subscribe")
        sentence = watch.wait_for_line("waiting: ")
        assert "grant it `subscribe`" in sentence
        watch.wait_for(publisher.one())
        time.sleep(3)
        path.write_text(granted)

        def registered() -> bool:
            client.call("register_agent", agent_name="newcomer", status="HEALTHY")
            return any("  AGENT:  " in line for line in list(watch.out))

        wait_until(registered, PATIENCE_S, "an event that is not stored is received again")
        assert watch.err == [sentence]


@pytest.mark.parametrize("away", [False, True], ids=["follows", "waits"])
def test_an_interrupt_ends_it_quietly_with_130(
    hosts: Hosts, mainpc: AgentProcess, publisher: Publisher, away: bool
) -> None:
    """Ctrl-C while it follows, and while it waits for mainpc: no traceback, and nothing that was not said before."""
    with Watch(hosts) as watch:
        publisher.probe(watch)
        if away:
            mainpc.kill()
            watch.wait_for_line("waiting: ")
        said = list(watch.err)
        assert watch.interrupt() == 130
        assert watch.err == said


def wait_for_live_event(hosts: Hosts, watch: Watch) -> None:
    """Register an agent until the watch shows it: that comes over the feed alone."""

    def shown() -> int:
        return sum("AGENT:" in line for line in list(watch.out))

    before = shown()
    with hosts.client(SDT, by=UMRA) as client:

        def is_shown() -> bool:
            client.call("register_agent", agent_name=UMRA, status="HEALTHY")
            return shown() > before

        wait_until(is_shown, PATIENCE_S, "an event is received")


def test_an_outage_of_mainpc_is_reported_once(hosts: Hosts, mainpc: AgentProcess, publisher: Publisher) -> None:
    """One sentence for each reason however long it lasts, and again for the next time."""
    with Watch(hosts) as watch:
        publisher.probe(watch)
        mainpc.kill()
        first = watch.wait_for_line("waiting: ")
        time.sleep(2 * DEFAULT_DEADLINE_S + 2)  # for two more calls that fail
        assert watch.err == [first]
        again = hosts.start(SDT).wait_until_serving()
        for _ in range(2):  # the second is taken when all that came with the first is done
            wait_for_live_event(hosts, watch)
        again.kill()
        wait_until(lambda: len(watch.err) == 2, PATIENCE_S, "it is reported again")


def test_mainpc_away_at_the_start_is_one_sentence(hosts: Hosts) -> None:
    """There is no number to begin with: exit status 1, and the sentence says where nobody answered."""
    with Watch(hosts) as watch:
        assert watch.wait() == 1
        (sentence,) = watch.err
        assert sentence.startswith("error [server_unreachable]: no reply to get_events from tcp://127.0.0.1:")
