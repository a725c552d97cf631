"""Spaces over real sockets: another key against a private one, live configuration, and a backup of all of them."""

import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.assembly import StartAgain
from twinhost.cli.memory.command import fetch_backup, send_backup
from twinhost.cli.memory.importing import Importer, read_items
from twinhost.cli.memory.reads import in_space
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotGranted, RequestError


def declare(hosts: Hosts, **spaces: dict[str, list[str]]) -> None:
    path = Path(hosts.config.source)
    document = yaml.safe_load(path.read_text())
    document["grants"]["agent"].append("list_spaces")
    path.write_text(json.dumps({**document, "spaces": spaces}) + "\n")


def contents(client: Client, space: str) -> list[str]:
    return [memory["content"] for memory in client.call("query_memory", space=space)["memories"]]


def not_granted(call: Callable[[], object]) -> bool:
    try:
        call()
    except NotGranted:
        return True
    return False


def test_another_key_reads_a_declared_space_as_long_as_it_may(hosts: Hosts) -> None:
    declare(hosts, research={"writers": [UMRA], "readers": [SDT]})
    agent = hosts.start(UMRA).wait_until_serving()
    with hosts.client(UMRA, by=UMRA) as own, hosts.client(UMRA, by=SDT) as other:
        own.call("store_memory", content="mine", space="private")
        own.call("store_memory", content="of research", space="research")
        assert contents(other, "research") == ["of research"]
        assert not_granted(lambda: other.call("store_memory", content="x", space="research"))
        assert not_granted(lambda: contents(other, f"private:{UMRA}"))
        assert contents(other, "private") == contents(other, "shared") == []
        declare(hosts, research={"writers": [UMRA]})
        wait_until(lambda: not_granted(lambda: contents(other, "research")), PATIENCE_S, "it may read no more")
        declare(hosts, research={"writers": ["nobody at all"]})  # a wrong one changes nothing
        wait_until(lambda: "no identity" in str(agent.health()["warnings"]), PATIENCE_S, "health says what is wrong")
        assert contents(own, "research") == ["of research"]


def test_a_space_that_is_not_one_takes_no_other_time(hosts: Hosts) -> None:
    """To be refused at an existing space, a missing one, and one that was never heard of: the fastest of 300 each."""
    hosts.start(UMRA).wait_until_serving()
    with hosts.client(UMRA, by=UMRA) as own, hosts.client(UMRA, by=SDT) as other:
        for number in range(50):
            own.call("store_memory", content=f"mine {number}", space="private")
        took: dict[str, list[float]] = {f"private:{UMRA}": [], "private:nobodysuchasthatagent00000": [], "nowhere": []}
        for _ in range(300):
            for space, times in took.items():
                began = time.perf_counter()
                with pytest.raises(RequestError):
                    other.call("get_memory", id="x", space=space)
                times.append(time.perf_counter() - began)
    fastest = [min(times) for times in took.values()]
    assert max(fastest) < 1.5 * min(fastest), took.keys()


def test_an_operators_backup_restores_all_spaces(hosts: Hosts) -> None:
    """By what `memory backup` and `memory restore` call, into an agent that has nothing any more."""
    agent = hosts.start(UMRA).wait_until_serving()
    backup = io.BytesIO()
    with hosts.client(UMRA, by=UMRA) as own, hosts.client(UMRA) as operator:
        own.call("store_memory", content="mine", space="private")
        own.call("store_memory", content="everybody's")
        document = fetch_backup(operator, backup.write, lambda *_: None)
        assert document["spaces"] == [f"private:{UMRA}"]
        assert operator.call("delete_space", name=f"private:{UMRA}")["existed"] is True
        assert contents(own, "private") == []
        backup.seek(0)
        send_backup(operator, backup, None, 4_194_304, lambda *_: None)
    assert agent.wait() == StartAgain.EXIT_STATUS
    hosts.start(UMRA).wait_until_serving()
    with hosts.client(UMRA, by=UMRA) as own:
        assert (contents(own, "private"), contents(own, "shared")) == (["mine"], ["everybody's"])


def test_an_import_into_a_space_leaves_the_shared_one_alone(hosts: Hosts, tmp_path: Path) -> None:
    """By what `memory import` calls; a second one changes nothing."""
    files = {
        "memory_store.json": {"s": [{"type": "code", "content": "x"}], "memories": [{"id": "m", "content": "x"}]},
        "error_patterns.json": {"timeout": [{"pattern": "timed out after", "solution": "wait"}]},
        "digital_twin_store.json": {"ana": {"likes": "tea"}},
    }
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    hosts.start(UMRA).wait_until_serving()
    with hosts.client(UMRA) as client:
        for added in (4, 0):
            importer = Importer(client, "operator", in_space("private"))
            done = [importer.store(name, read_items(tmp_path / name), lambda *_: None) for name in files]
            assert (sum(file.added for file in done), sum(file.kept for file in done)) == (added, 4 - added)
        for space, stored in (("private", 1), ("shared", 0)):
            written = client.call("memory_by", name="operator", space=space)["written"]
            kinds = ("memories", "interactions", "twins", "error_patterns")
            assert [len(written[kind]["entries"]) for kind in kinds] == [stored] * len(kinds)
