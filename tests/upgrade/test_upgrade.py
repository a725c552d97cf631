"""Today's agents on the volumes that an earlier version's image wrote: nothing is lost, and nothing happens twice."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.loopback.agent_processes import SDT, UMRA
from tests.loopback.test_host_archive import archive, cli
from tests.upgrade.make_volumes import MEMBER, REVOKED, WINCH, lasting
from tests.upgrade.volumes import VERSIONS, UpgradedHosts, Volumes
from tests.waiting import PATIENCE_S, wait_until
from twinhost import Client
from twinhost.secure_zmq.errors import NotAuthorized, NotGranted, RequestIdReused

START = "2026-01-01T00:00:00+00:00"  # before every volume
CERTS_INIT = Path(__file__).resolve().parents[2] / "scripts/generate_zmq_certificates.py"

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent]


@pytest.fixture(scope="module", params=VERSIONS)
def volumes(request: pytest.FixtureRequest) -> Volumes:
    return Volumes(request.param)


@pytest.fixture(scope="module")
def hosts(volumes: Volumes, tmp_path_factory: pytest.TempPathFactory) -> Iterator[UpgradedHosts]:
    """Both agents on the volumes, in touch with each other."""
    hosts = UpgradedHosts(tmp_path_factory.mktemp("upgraded"), volumes)
    with hosts:
        hosts.start_both()
        yield hosts


CHANGED = {
    "get_audit": ("head", "position"),  # the log goes on
    "list_leases": ("expires",),  # those that had no end have one
}
PASSING = {  # a memory fades, and a result of a search is an access now
    **dict.fromkeys(("search_memory", "memory_status"), "strength"),
    **dict.fromkeys(("query_memory", "memory_by"), "last_accessed"),
}


def comparable(action: str, today: Any, then: Any) -> tuple[Any, Any]:
    """Return both answers without what was added after the recorded one, and memories as strong as they are stored."""
    today = unfaded(today)
    for name in (*CHANGED.get(action, ()), PASSING.get(action, "")):
        today, then = without(today, name), without(then, name)
    if action == "get_history":  # the last minute, and hour, went on
        return first_of_lists(today["history"], then["history"]), first_of_lists(then["history"], then["history"])
    if action == "get_audit_heads":  # of which the newest gives way to a newer one
        return first_of_lists(today, then), first_of_lists(then, then)
    if action == "get_audit":
        today = {**today, "lines": today["lines"][: len(then["lines"])], "more": then.get("more")}
    if action == "get_metrics":
        return today["metrics"]["vram_reports"], then["metrics"]["vram_reports"]
    if action == "get_context":
        today, then = {"context": accounted_for(today["context"])}, {"context": accounted_for(then["context"])}
    if action == "search_memory":
        # A later version finds more, and by turns nearby and words of the other language too, so that others may be
        # between the results of then; their order is not held, but that the first of then is first or second.
        found = {result["id"]: result for result in today["results"]}
        assert then["results"][0]["id"] in list(found)[:2]
        today = {**today, "results": [found[result["id"]] for result in then["results"]]}
    return fields_of_then(today, then), then


def accounted_for(context: dict[str, Any]) -> dict[str, Any]:
    """Return a context with its turns in any order; of one that drops turns, how many it has and drops.

    A later version puts the turns in the order of time, in a fence with days and writers, which costs tokens: which
    turns fit into a budget is not held, nor how many tokens they have.
    """
    turns = sorted(line for line in context["text"].splitlines() if line.startswith("["))
    about = len(turns) + context["dropped"] if context["dropped"] else turns
    arranged = ("text", "tokens", "dropped", "dropped_ids", "cut_ids")
    return {**{name: each for name, each in context.items() if name not in arranged}, "turns": about}


def fields_of_then(today: Any, then: Any) -> Any:
    """Return an answer without the fields that were added since."""
    if isinstance(today, dict) and isinstance(then, dict):
        return {name: fields_of_then(today[name], each) for name, each in then.items()}
    if isinstance(today, list) and isinstance(then, list) and len(today) == len(then):
        return [fields_of_then(*each) for each in zip(today, then, strict=True)]
    return today


def unfaded(value: Any) -> Any:
    """Return an answer with what is stored of each memory, instead of what follows from the time."""
    if isinstance(value, list):
        return [unfaded(each) for each in value]
    if isinstance(value, dict):
        stored = {"strength": value["as_stored"]["strength"]} if "as_stored" in value else {}
        return {key: unfaded(each) for key, each in {**value, **stored}.items() if key != "as_stored"}
    return value


def without(value: Any, name: str) -> Any:
    """Return an answer without a field, at any depth."""
    if isinstance(value, list):
        return [without(each, name) for each in value]
    if isinstance(value, dict):
        return {key: without(each, name) for key, each in value.items() if key != name}
    return value


def first_of_lists(value: Any, then: Any) -> Any:
    """Return lists without their last item of then, and what was added to them since."""
    if isinstance(then, dict):
        return {key: first_of_lists(value[key], each) for key, each in then.items()}
    return value[: len(then) - 1] if isinstance(then, list) and then else value


def wait_until_indexed(client: Client) -> None:
    """Wait until the agent, which serves meanwhile, has its index of words again."""
    wait_until(lambda: client.call("health")["not_indexed"] == 0, PATIENCE_S, "the index is filled")


@pytest.mark.parametrize("agent", [SDT, UMRA])
def test_an_upgraded_agent_answers_as_before(volumes: Volumes, hosts: UpgradedHosts, agent: str) -> None:
    """What the version before answered about all that it kept, but for what depends on the moment."""
    questions = [each for each in volumes.asked if each["agent"] == agent]
    assert len(questions) >= 10
    with hosts.client(agent) as client:
        if agent == UMRA:
            wait_until_indexed(client)
        for question in questions:
            reply = lasting(client.call(question["action"], **question["fields"]))
            today, then = comparable(question["action"], json.loads(json.dumps(reply)), question["reply"])
            assert today == then, (question["action"], question["fields"])
            assert then


def test_a_retry_gets_the_reply_of_the_version_before(volumes: Volumes, hosts: UpgradedHosts) -> None:
    """It is not executed again; and the id with another body is refused."""
    assert {each["agent"] for each in volumes.retried} == {SDT, UMRA}
    for each in volumes.retried:
        with hosts.client(each["agent"]) as client:
            again = client.call(each["action"], request_id=each["request_id"], **each["fields"])
            assert again == each["reply"]
            with pytest.raises(RequestIdReused):
                client.call(each["action"], request_id=each["request_id"], another=1, **each["fields"])
    with hosts.client(UMRA) as client:
        assert client.call("get_twin", user_id="last")["revision"] == 1
        assert client.call("get_context", session_id="last")["context"]["stored"] == 1
    with hosts.client(SDT) as client:
        assert [event["event_id"] for event in client.call("get_events", limit=1_000)["events"]].count("last") == 1


def test_what_waited_for_mainpc_arrives_once(volumes: Volumes, hosts: UpgradedHosts) -> None:
    """pc2 sends the events of the version before; a restart of both agents sends none of them again."""
    assert volumes.waiting > 0
    for _ in range(2):
        wait_until(lambda: waiting(hosts) == 0, PATIENCE_S, "pc2 has sent all that waited")
        with hosts.client(SDT) as client:
            found = [event for event in client.call("get_events", limit=1_000)["events"] if WINCH in json.dumps(event)]
        assert [event["data"]["seen"] for event in found] == [3]
        for process in hosts.processes:
            process.kill()
        hosts.start_both()


def waiting(hosts: UpgradedHosts) -> int:
    with hosts.client(UMRA) as client:
        return int(client.call("health")["outbox"]["waiting"])


def test_an_upgraded_audit_log_is_whole(hosts: UpgradedHosts) -> None:
    """Also by what pc2 has seen of it, before and after the restore in it; and it goes on."""
    verified = json.loads(cli(hosts, "audit", "verify", "--json"))
    assert verified["status"] == "ok"
    with hosts.client(SDT) as client:
        lines = [json.loads(line) for line in client.call("get_audit", limit=2_000)["lines"]]
    assert {"restored", "key_rotated", "key_revoked", "invitation_used"} <= {line["event"] for line in lines}


def certs_init(hosts: UpgradedHosts, *arguments: str) -> str:
    """Run a command of certs-init on the tree; it must succeed."""
    command = [sys.executable, str(CERTS_INIT), "--root", str(hosts.keys), *arguments]
    done = subprocess.run(command, env=hosts.environment(SDT), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_keys_of_the_version_before_are_valid(hosts: UpgradedHosts) -> None:
    """The tree verifies; an enrolled key that was rotated is accepted, and a revoked one is refused."""
    certs_init(hosts, "verify")
    for agent in (SDT, UMRA):
        with hosts.client(agent, by=MEMBER) as member:
            assert member.call("ping")["status"] == "ok"
        with hosts.client(agent, by=REVOKED) as revoked, pytest.raises(NotAuthorized):
            revoked.call("ping")


def test_a_key_is_revoked_with_what_it_vouched_for(volumes: Volumes, tmp_path: Path) -> None:
    """Where the version before wrote down which key vouched for which."""
    (log,) = [each["reply"]["lines"] for each in volumes.asked if each["action"] == "get_audit"]
    lines = [json.loads(line) for line in log]
    first = next(line for line in lines if (line["event"], line.get("name")) == ("key_authorized", MEMBER))
    hosts = UpgradedHosts(tmp_path, volumes)
    with hosts:
        hosts.start_both()
        with hosts.client(SDT, by=MEMBER) as member:
            assert member.call("ping")["status"] == "ok"
            revoked = certs_init(hosts, "revoke", first["fingerprint"])
        assert f"{MEMBER} on pc3" in revoked
        with hosts.client(SDT, by=MEMBER) as member, pytest.raises(NotAuthorized):
            member.call("ping")


def test_an_upgraded_memory_can_be_changed(volumes: Volumes, tmp_path: Path) -> None:
    """Rows of the version before are revised, superseded, remembered again, shown again, and found."""
    hosts = UpgradedHosts(tmp_path, volumes)
    with hosts, hosts.start(UMRA).wait_until_serving(), hosts.client(UMRA) as client:
        assert client.call("update_twin", user_id="ana", twin_data={})["revision"] == 3
        assert client.call("reinforce_memory", memory_id="forgotten")["recovered"] is True
        client.call("store_memory", id="later", content="High tide is at one.", key="tide", supersedes=["tide"])
        assert client.call("get_memory", id="tide")["memory"]["superseded_by"] == "later"
        assert client.call("get_context", session_id="cleared")["context"]["stored"] == 0
        assert client.call("get_twin", user_id="carlo")["revision"] == 0
        client.call("release_memory", name=REVOKED)
        assert client.call("get_twin", user_id="carlo")["twin"] == {"hidden": True}
        wait_until_indexed(client)
        found = [result["content"] for result in client.call("search_memory", query="chart pier", limit=100)["results"]]
    assert {"The older chart is wrong.", "Meet at pier 9 instead."} <= set(found)


def test_upgraded_patterns_match_as_before(volumes: Volumes, tmp_path: Path) -> None:
    """With their outcomes; case counts, as it did when they were stored."""
    hosts = UpgradedHosts(tmp_path, volumes)
    with hosts, hosts.start(UMRA).wait_until_serving(), hosts.client(UMRA) as client:
        found = client.call("get_error_solution", error_message="lost contact with pc9")
        assert (found["solution"], found["successes"], found["failures"]) == ("turn the aerial", 2, 1)
        assert found["ignores_case"] is False
        assert client.call("get_error_solution", error_message="LOST CONTACT WITH PC9")["solution"] is None


def test_an_upgraded_system_twin_can_be_changed(volumes: Volumes, tmp_path: Path) -> None:
    """Leases of the version before are committed and released by their holder; its errors are acknowledged."""
    hosts = UpgradedHosts(tmp_path, volumes)
    with hosts, hosts.start(SDT).wait_until_serving(), hosts.client(SDT, by=MEMBER) as member:
        held = {lease["state"]: lease["lease_id"] for lease in leases(member) if lease["holder"] == MEMBER}
        assert held.keys() == {"reserved", "committed"}
        assert all(lease["expires"] and 0 < lease["expires_in_s"] <= 86_400 for lease in leases(member))
        assert member.call("commit_lease", lease_id=held["reserved"])["state"] == "committed"
        for lease_id in held.values():
            member.call("release_lease", lease_id=lease_id)
        (left,) = leases(member)
        assert left["holder"] == "operator"
        with pytest.raises(NotGranted):
            member.call("release_lease", lease_id=left["lease_id"])
        with hosts.client(SDT) as client:
            assert client.call("get_error_counts", type="leak", since=START)["total"] == 1
            assert client.call("acknowledge_errors", error_id="leak")["acknowledged"] == 1
            assert client.call("get_error_counts", type="leak", since=START)["total"] == 0


def leases(client: Client) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.call("list_leases")["leases"]
    return found


def test_mainpc_of_the_version_before_is_backed_up(hosts: UpgradedHosts) -> None:
    """`archive` takes its state and keys, and finds that they can be restored."""
    backup = archive(hosts, "backup", "-")
    assert backup.returncode == 0, backup.stderr.decode()
    checked = archive(hosts, "check", "-", given=backup.stdout)
    assert checked.returncode == 0, checked.stderr.decode()
