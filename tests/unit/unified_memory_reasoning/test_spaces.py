"""Spaces: who reads and writes which, what one of them shows of another (nothing), and their databases."""

import json
import os
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.unit.agent.assembled import Assembled
from tests.unit.secure_zmq.wall_clock import WallClock
from tests.unit.unified_memory_reasoning.spaces_bench import (
    ALICE,
    BOB,
    DECLARATIONS,
    IN_SPACES,
    MALLORY,
    OPERATOR,
    WithSpaces,
    lasting,
    requests,
)
from twinhost.secure_zmq import dispatch
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller
from twinhost.secure_zmq.errors import StoreUnavailable
from twinhost.secure_zmq.framing.inbound import Inbound
from twinhost.store.database import Database
from twinhost.unified_memory_reasoning.spaces import databases
from twinhost.unified_memory_reasoning.spaces.access import InSpace
from twinhost.unified_memory_reasoning.twins.twins import HISTORY_MIGRATION

# Actions that are about nothing that is in a space, and why no space is judged for them.
ABOUT_NO_SPACE = {
    "ping", "health", "health_check", "get_schema", "get_peers",  # the agent; its totals are the shared space's
    "coordinate_memory", "resolve_conflict",  # other agents, and who holds an operation of theirs
    "get_audit_heads", "accept_audit_log", "get_attention",  # mainpc's audit log
    "quarantine_memory", "release_memory", "list_quarantine",  # identities, in every space
    "list_spaces", "delete_space",  # judged by themselves
}  # fmt: skip
MARK = "zanzibar"  # in everything that alice keeps for herself


@pytest.fixture
def spaces(tmp_path: Path) -> WithSpaces:
    return WithSpaces(tmp_path)


@pytest.fixture
def pc2(spaces: WithSpaces) -> Iterator[Assembled]:
    with spaces.start() as agent:
        yield agent


def keep(pc2: Assembled, caller: Caller = ALICE, space: str = "private") -> None:
    """Store something of each kind."""
    kept: list[tuple[str, dict[str, Any]]] = [
        ("store_memory", {"id": "secret", "content": f"the {MARK} plan is at noon", "keywords": [MARK], "key": MARK}),
        ("store_memory", {"content": f"the password of {MARK} is 12", "source": MARK}),
        ("add_interaction", {"session_id": MARK, "interaction_type": "code", "content": MARK, "speaker": MARK}),
        ("update_twin", {"user_id": MARK, "twin_data": {"name": MARK}}),
        ("add_error_pattern", {"error_type": MARK, "pattern": f"{MARK} failed", "solution": f"restart {MARK}"}),
        *[("get_error_solution", {"error_message": f"{MARK} in flames at 0x12"})] * 3,  # so that a pattern is proposed
    ]
    for action, fields in kept:
        reply = pc2.ask(action, caller, space=space, **fields)
        assert reply["status"] == "ok", reply


def memories(pc2: Assembled, caller: Caller, space: str | None = None) -> list[str]:
    """Return the texts of the memories that a caller reads in a space."""
    named = {} if space is None else {"space": space}
    return [memory["content"] for memory in pc2.ask("query_memory", caller, source="test", **named)["memories"]]


def store(pc2: Assembled, caller: Caller, content: str, space: str | None = None, **fields: Any) -> dict[str, Any]:
    named = {} if space is None else {"space": space}
    return pc2.ask("store_memory", caller, content=content, source="test", **named, **fields)


def changes(action: str) -> bool:
    """Return whether an action is refused to those who may not write."""
    (declared,) = (entry for entry in DECLARATIONS if entry.request.__struct_config__.tag == action)
    return declared.options["mutates"] or getattr(declared.request, "changes_space", False)


# Who reads and writes


def test_every_action_is_about_a_space_or_says_why_not() -> None:
    """A new action needs `InSpace` as the base of its request, or a line in ABOUT_NO_SPACE."""
    named = {
        str(entry.request.__struct_config__.tag) for entry in DECLARATIONS if not issubclass(entry.request, InSpace)
    }
    assert named == ABOUT_NO_SPACE
    assert len(IN_SPACES) > 30


@pytest.mark.parametrize("action", IN_SPACES)
def test_no_action_reaches_what_its_caller_may_not_read(pc2: Assembled, action: str) -> None:
    """Another's private space, a declared one, and one that does not exist have the same answer."""
    keep(pc2)
    keep(pc2, ALICE, "research")
    example = requests().example(action)
    asked = ("private:alice", "research", "nowhere", "private:nobody", "", "x" * 300)
    replies = [pc2.ask(action, MALLORY, **example, space=space) for space in asked]
    assert {reply["code"] for reply in replies} == {"not_granted"}
    sentences = {reply["error"].replace(repr(name[:64]), "it") for reply, name in zip(replies, asked, strict=True)}
    assert sentences == {"the space it is not one that mallory may use; `list_spaces` lists those - at `$.space`"}


@pytest.mark.parametrize("action", IN_SPACES)
def test_a_reader_changes_nothing_with_any_action(pc2: Assembled, action: str) -> None:
    keep(pc2, ALICE, "research")
    store(pc2, ALICE, "one", "research", id="one")
    before = pc2.ask("list_spaces", BOB)["spaces"]
    reply = pc2.ask(action, BOB, **requests().example(action), space="research")
    if changes(action):
        assert reply["code"] == "not_granted"
        assert "bob may read the space research, and not write it" in reply["error"]
    else:
        assert reply.get("code") in (None, "not_found", "malformed_request")
    assert [space["rows"] for space in pc2.ask("list_spaces", BOB)["spaces"]] == [space["rows"] for space in before]


def test_an_identity_has_a_private_space_and_declared_ones(pc2: Assembled) -> None:
    store(pc2, ALICE, "everybody's")
    store(pc2, ALICE, "hers", "private")
    store(pc2, ALICE, "of research", "research")
    store(pc2, BOB, "his", "private")
    assert memories(pc2, BOB) == memories(pc2, ALICE) == memories(pc2, BOB, "shared") == ["everybody's"]
    assert memories(pc2, ALICE, "private") == memories(pc2, ALICE, "private:alice") == ["hers"]
    assert memories(pc2, BOB, "private") == ["his"]
    assert memories(pc2, ALICE, "research") == memories(pc2, BOB, "research") == ["of research"]
    assert memories(pc2, OPERATOR, "private:alice") == ["hers"]
    assert store(pc2, BOB, "in the way", "research")["code"] == "not_granted"


def test_an_operator_names_only_what_can_be_a_space(pc2: Assembled) -> None:
    for name in ("nowhere", "private:", "private:a/b", "private:../../etc", "../spaces", f"private:{'x' * 200}"):
        assert store(pc2, OPERATOR, "x", name)["code"] == "not_granted", name


def test_on_an_open_link_there_is_the_shared_space_alone(tmp_path: Path) -> None:
    with WithSpaces(tmp_path, secure=False).start() as pc2:
        store(pc2, UNAUTHENTICATED, "everybody's", "shared")
        assert memories(pc2, UNAUTHENTICATED) == ["everybody's"]
        for name in ("private", "private:unauthenticated", "research", "nowhere"):
            reply = store(pc2, UNAUTHENTICATED, "x", name)
            assert (reply["code"], "on an open link" in reply["error"]) == ("not_granted", True)
        assert [space["name"] for space in pc2.ask("list_spaces", UNAUTHENTICATED)["spaces"]] == ["shared"]


def test_a_reader_who_is_removed_reads_nothing_more(spaces: WithSpaces) -> None:
    with spaces.start() as pc2:
        store(pc2, ALICE, "of research", "research")
        assert memories(pc2, BOB, "research") == ["of research"]
        spaces.declare({"research": {"writers": ["alice"]}})
        pc2.live.apply(pc2.live.load())
        assert pc2.ask("query_memory", BOB, source="test", space="research")["code"] == "not_granted"
        spaces.declare({})
        pc2.live.apply(pc2.live.load())
        assert store(pc2, ALICE, "more", "research")["code"] == "not_granted"
        assert memories(pc2, OPERATOR, "research") == ["of research"]  # it is stored, though nobody may use it
        assert "research" in {space["name"] for space in pc2.ask("list_spaces", OPERATOR)["spaces"]}


def test_a_forwarded_request_needs_the_access_of_both(spaces: WithSpaces) -> None:
    """Else whoever may forward could name anybody, and read everybody's private space."""
    with spaces.start() as pc2:
        pc2.callers |= {caller.name: caller for caller in (ALICE, BOB, MALLORY)}
        store(pc2, ALICE, "roses", "private")
        store(pc2, ALICE, "tulips", "research")

        def search(forwarder: Caller, original: str, space: str) -> Any:
            reply = pc2.ask("search_memory", forwarder, query="roses tulips", space=space, on_behalf_of=original)
            return reply.get("code") or [result["content"] for result in reply["results"]]

        assert search(MALLORY, "alice", "private") == "not_granted"
        assert search(ALICE, "mallory", "private:alice") == "not_granted"
        assert search(ALICE, "alice", "private") == ["roses"]
        assert search(MALLORY, "bob", "research") == search(BOB, "mallory", "research") == "not_granted"
        assert search(BOB, "alice", "research") == ["tulips"]
        assert search(OPERATOR, "alice", "private") == "not_granted"  # with the roles that both have


def test_the_older_dialect_is_about_the_shared_space(pc2: Assembled) -> None:
    message = {"command": "STORE_MEMORY", "payload": {"content": "older", "source": "test", "space": "private"}}
    assert pc2.send(json.dumps(message).encode(), ALICE)["status"] != "error"
    assert (memories(pc2, BOB), memories(pc2, ALICE, "private")) == (["older"], [])


# What one space shows of another


def test_no_reply_shows_what_is_in_another_space(tmp_path: Path) -> None:
    """Every action of mallory has the same reply beside alice's private and declared spaces as without them."""
    replies: list[list[str]] = []
    for name, private in (("without", False), ("beside", True)):
        (tmp_path / name).mkdir()
        with WithSpaces(tmp_path / name).start(WallClock()) as pc2:
            if private:
                keep(pc2)
                keep(pc2, ALICE, "research")
                pc2.assembly.on_tick()
            keep(pc2, BOB, "shared")
            replies.append([lasting(reply) for reply in _everything_asked(pc2)])
    without, beside = replies
    assert beside == without
    assert sum(MARK in reply for reply in without) > 10  # what bob stored for everybody


def _everything_asked(pc2: Assembled) -> Iterator[dict[str, Any]]:
    schema = requests()
    for space in ({}, {"space": "private"}):
        for action in schema.actions:
            if action in ABOUT_NO_SPACE - {"list_spaces", "health"}:
                continue
            fields = schema.example(action)
            aimed: dict[str, Any] = {
                "memory_id": "secret",
                "session_id": MARK,
                "query": f"{MARK} plann",
                "user_id": MARK,
            }
            aimed |= {"query": f"{MARK} plann", "error_message": f"{MARK} faild in flames", "name": "alice"}
            aimed |= {"pattern_id": 1, "proposal_id": 1, "tag": "kqzvtrwmxa"}
            fields |= {name: value for name, value in aimed.items() if name in schema.properties_of(action)}
            if "delete" in action or action in ("clear_context", "write_restore"):
                continue  # these change what the others read
            if action == "begin_backup" and space:
                continue  # the copy grows meanwhile, and with it the size that is listed
            yield pc2.ask(action, MALLORY, **fields, **(space if action in IN_SPACES else {}))
        for fields in ({"source": MARK}, {"keywords": [MARK]}, {"changed_since": 0}, {"key": MARK}, {"brief": True}):
            yield pc2.ask("query_memory", MALLORY, **fields, **space)
        yield pc2.ask("get_context", MALLORY, session_id="mine", query=MARK, scope="all", tag="kqzvtrwmxa", **space)
    pc2.assembly.on_tick()
    yield pc2.ask("health", MALLORY)


def test_an_id_that_is_taken_in_one_space_is_free_in_another(pc2: Assembled) -> None:
    for caller, space in ((ALICE, "private"), (BOB, "private"), (ALICE, "research"), (MALLORY, "shared")):
        assert store(pc2, caller, f"{caller.name}'s", space, id="x")["new"] is True
        assert pc2.ask("get_memory", caller, id="x", space=space)["memory"]["content"] == f"{caller.name}'s"
    assert pc2.ask("delete_memory", ALICE, id="x", space="private")["status"] == "ok"
    assert pc2.ask("get_memory", BOB, id="x", space="private")["memory"]["content"] == "bob's"


def test_a_quarantined_writer_is_hidden_in_every_space(spaces: WithSpaces) -> None:
    with spaces.start() as pc2:
        store(pc2, ALICE, "of research", "research")
        store(pc2, ALICE, "hers", "private")
        assert memories(pc2, BOB, "research") == ["of research"]
        pc2.ask("quarantine_memory", OPERATOR, name="alice")
        assert memories(pc2, BOB, "research") == memories(pc2, ALICE, "private") == []
    with spaces.start() as pc2:
        assert memories(pc2, BOB, "research") == []
        pc2.ask("release_memory", OPERATOR, name="alice")
        assert memories(pc2, BOB, "research") == ["of research"]
        written = pc2.ask("memory_by", OPERATOR, name="alice", kind="memories", space="private:alice")
        assert [entry["content"] for entry in written["written"]["memories"]["entries"]] == ["hers"]


# Their databases


def test_reading_a_space_creates_nothing(spaces: WithSpaces, pc2: Assembled) -> None:
    for action in IN_SPACES:
        if not changes(action):
            pc2.ask(action, ALICE, **requests().example(action), space="private")
    assert not spaces.folder.exists()
    assert store(pc2, BOB, "x", "research")["code"] == "not_granted"
    assert not spaces.folder.exists()
    store(pc2, ALICE, "x", "private")
    assert [folder.name for folder in spaces.folder.iterdir()] == ["private.alice"]
    modes = {path.stat().st_mode & 0o077 for path in (spaces.folder, *spaces.folder.rglob("*"))}
    assert modes == {0}


def test_spaces_are_there_after_a_restart(spaces: WithSpaces) -> None:
    with spaces.start() as pc2:
        keep(pc2)
        first = store(pc2, ALICE, "hers", "private", request_id="1")
    with spaces.start() as pc2:
        assert store(pc2, ALICE, "hers", "private", request_id="1") == first
        assert memories(pc2, ALICE, "private") == ["hers"]
        found = pc2.ask("search_memory", ALICE, query=f"{MARK} plan", space="private")
        assert {result["kind"] for result in found["results"]} == {"memory", "interaction"}
        assert pc2.ask("get_context", ALICE, session_id=MARK, space="private")["context"]["stored"] == 1


@pytest.mark.parametrize("committed", [False, True], ids=["before", "after"])
def test_a_kill_between_two_commits_loses_and_doubles_nothing(
    spaces: WithSpaces, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    """The agent's own database is committed then, and the space's before it or after: the retry has one effect."""
    batch = [
        (ALICE, {"action": "store_memory", "content": "hers", "source": "test", "space": "private", "request_id": "1"}),
        (ALICE, {"action": "store_memory", "content": "everybody's", "source": "test", "request_id": "2"}),
    ]
    messages = [Inbound(json.dumps(fields).encode(), caller) for caller, fields in batch]
    end = dispatch._OtherTransaction.end

    def killed(other: Any, why: StoreUnavailable | None = None) -> None:
        if committed:
            end(other, why)
        os.kill(os.getpid(), signal.SIGKILL)

    child = os.fork()
    if child == 0:
        monkeypatch.setattr(dispatch._OtherTransaction, "end", killed)
        spaces.start().answer(messages)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    with spaces.start() as pc2:
        assert memories(pc2, ALICE) == ["everybody's"]
        assert memories(pc2, ALICE, "private") == (["hers"] if committed else [])
        assert [reply["status"] for reply in pc2.answer(messages)] == ["ok", "ok"]
        assert (memories(pc2, ALICE), memories(pc2, ALICE, "private")) == (["everybody's"], ["hers"])


def test_a_space_of_before_is_migrated_when_it_is_opened(spaces: WithSpaces) -> None:
    with spaces.start() as pc2:
        store(pc2, ALICE, "hers", "private")
        migrations = pc2.database.migrations
        space = spaces.folder / "private.alice" / "memory.sqlite3"
    space.unlink()
    older = Database(space, migrations[: migrations.index(HISTORY_MIGRATION)])
    older.execute("INSERT INTO twins VALUES ('ana', CAST('{}' AS BLOB), 7, 'alice', 1.0)")
    older.close()
    with spaces.start() as pc2:
        assert pc2.ask("get_twin", ALICE, user_id="ana", space="private")["revision"] == 7
        history = pc2.ask("get_twin_history", ALICE, user_id="ana", space="private")
        assert [change["revision"] for change in history["changes"]] == [7]


def test_those_that_were_not_used_for_longest_are_closed(spaces: WithSpaces, monkeypatch: pytest.MonkeyPatch) -> None:
    """Beyond some, when they are idle, and beyond many at once; they are opened again when they are asked for."""
    opened: list[Path] = []
    closed: list[Path] = []
    make, close = databases.OpenSpace.__init__, databases.OpenSpace.close

    def open_space(self: databases.OpenSpace, store: Database, *parts: Any) -> None:
        opened.append(store.path)
        make(self, store, *parts)

    def close_space(self: databases.OpenSpace) -> None:
        closed.append(self.store.path)
        close(self)

    monkeypatch.setattr(databases.OpenSpace, "__init__", open_space)
    monkeypatch.setattr(databases.OpenSpace, "close", close_space)
    for name, value in (("KEPT_OPEN", 2), ("MOST_OPEN", 4), ("IDLE_S", 0.0)):
        monkeypatch.setattr(databases, name, value)
    callers = [Caller(f"a{number}", "pc2", frozenset({"agent"}), f"SHA256:{number}") for number in range(6)]
    with spaces.start() as pc2:
        for caller in callers:
            store(pc2, caller, caller.name, "private")
            assert len(opened) - len(closed) <= 4
        for caller in callers:
            pc2.ask("get_memory", caller, key="none", space="private")
        pc2.assembly.on_tick()
        assert len(opened) - len(closed) == 2
        assert all(memories(pc2, caller, "private") == [caller.name] for caller in callers)
    assert sorted(opened) == sorted(closed)


def test_a_space_that_cannot_be_opened_refuses_only_its_own(spaces: WithSpaces) -> None:
    with spaces.start() as pc2:
        store(pc2, ALICE, "hers", "private")
        database = spaces.folder / "private.bob"
        database.write_text("in the way")
        assert store(pc2, BOB, "his", "private")["code"] == "store_unavailable"
        assert memories(pc2, ALICE, "private") == ["hers"]


def test_a_damaged_space_is_quarantined_and_others_serve(spaces: WithSpaces) -> None:
    with spaces.start() as pc2:
        store(pc2, ALICE, "hers", "private")
        store(pc2, BOB, "his", "private")
    damaged = spaces.folder / "private.alice" / "memory.sqlite3"
    damaged.write_bytes(b"nonsense" * 1_000)
    with spaces.start() as pc2:
        assert (memories(pc2, ALICE, "private"), memories(pc2, BOB, "private")) == ([], ["his"])
        (warning,) = pc2.ask("health", BOB)["warnings"]
        assert "spaces whose database was damaged and is quarantined: 1" in warning
        assert "alice" not in warning
        pc2.ask("acknowledge_damage", OPERATOR, space="private:alice")
        assert pc2.ask("health", BOB)["warnings"] == []
    damaged.write_bytes(b"nonsense" * 1_000)
    with spaces.start() as pc2:
        assert len(pc2.ask("health", BOB)["warnings"]) == 1
        pc2.ask("delete_space", OPERATOR, name="private:alice")
        assert pc2.ask("health", BOB)["warnings"] == []


def test_an_operator_lists_and_deletes_spaces(spaces: WithSpaces, pc2: Assembled) -> None:
    keep(pc2)
    assert [space["name"] for space in pc2.ask("list_spaces", MALLORY)["spaces"]] == ["shared", "private:mallory"]
    listed = {space["name"]: space for space in pc2.ask("list_spaces", OPERATOR)["spaces"]}
    assert listed["private:alice"]["rows"] == {"interactions": 1, "memories": 2, "error_patterns": 1, "twins": 1}
    assert listed["private:alice"]["size_bytes"] > 100_000
    for caller, name, code in (
        (ALICE, "private", "not_granted"),
        (MALLORY, "private:alice", "not_granted"),
        (OPERATOR, "shared", "malformed_request"),
        (OPERATOR, "nowhere", "not_granted"),
    ):
        assert pc2.ask("delete_space", caller, name=name)["code"] == code
    assert pc2.ask("delete_space", OPERATOR, name="private:alice")["existed"] is True
    assert pc2.ask("delete_space", OPERATOR, name="private:alice")["existed"] is False
    assert list(spaces.folder.iterdir()) == []
    assert pc2.ask("query_memory", ALICE, space="private")["memories"] == []
    store(pc2, ALICE, "again", "private")
    assert memories(pc2, ALICE, "private") == ["again"]


def test_a_share_of_the_disk_is_one_of_all_spaces_together(tmp_path: Path) -> None:
    """A private space counts for its owner whether it is open or not, and a declared one for those who wrote in it."""
    spaces = WithSpaces(tmp_path, budgets={"everybody": {"stored_bytes": 10_000}})
    with spaces.start() as pc2:
        assert store(pc2, ALICE, "x" * 4_000, "private")["status"] == "ok"
        assert store(pc2, OPERATOR, "y" * 1_000, "private:alice")["status"] == "ok"
    with spaces.start() as pc2:
        assert 5_000 < pc2.disk.stored_bytes()["alice"] < 7_000
        assert store(pc2, ALICE, "x" * 1_000, "research")["status"] == "ok"
        for space in ("shared", "private", "research"):
            refused = store(pc2, ALICE, "x" * 4_000, space)
            assert (refused["code"], refused["budget"]) == ("over_budget", "stored_bytes")
        assert "most of it is in the space private:alice" in refused["error"]
        assert store(pc2, BOB, "x" * 4_000, "private")["status"] == "ok"
        pc2.ask("delete_space", OPERATOR, name="private:alice")
        assert store(pc2, ALICE, "x" * 4_000, "shared")["status"] == "ok"
        assert set(pc2.disk.stored_bytes()) >= {"alice", "bob"}


def test_many_requests_of_one_batch_reach_their_own_spaces(pc2: Assembled) -> None:
    """With a deletion of the space in the same batch, which comes after all of them."""
    asked = [
        (ALICE, {"action": "store_memory", "content": "hers", "source": "test", "space": "private", "request_id": "1"}),
        (BOB, {"action": "store_memory", "content": "his", "source": "test", "space": "private", "request_id": "1"}),
        (OPERATOR, {"action": "delete_space", "name": "private:bob", "request_id": "2"}),
        (ALICE, {"action": "store_memory", "content": "everybody's", "source": "test", "request_id": "3"}),
        (ALICE, {"action": "query_memory", "source": "test", "space": "private"}),
    ]
    replies = pc2.answer([Inbound(json.dumps(fields).encode(), caller) for caller, fields in asked])
    assert [reply["status"] for reply in replies] == ["ok"] * 5
    assert [memory["content"] for memory in replies[4]["memories"]] == ["hers"]
    assert memories(pc2, BOB, "private") == []
    assert memories(pc2, BOB) == ["everybody's"]


# Requests that are done in parts


@pytest.fixture
def one_part_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dispatch, "SLICE_S", 0.0)
    monkeypatch.setattr(dispatch, "_GROUP_COMMIT_S", 0.0)


def in_parts(
    pc2: Assembled, caller: Caller, then: Callable[[], object], after: int = 1, **request: Any
) -> dict[str, Any]:
    """Return the reply to a request, after some of whose parts something else happens."""
    again, parts = Inbound(json.dumps(request).encode(), caller), 0
    while not (replies := pc2.answer([again])):
        again.begun = pc2.begun
        if (parts := parts + 1) == after:
            then()
    assert parts >= after
    return replies[0]


SEARCH: dict[str, Any] = {"action": "search_memory", "query": "what is secret here?", "space": "research"}


@pytest.mark.usefixtures("one_part_at_once")
def test_who_is_quarantined_between_parts_is_hidden_in_a_space(pc2: Assembled) -> None:
    store(pc2, ALICE, "secret of research", "research")
    assert "secret of research" in str(in_parts(pc2, BOB, lambda: None, **SEARCH))
    reply = in_parts(pc2, BOB, lambda: pc2.ask("quarantine_memory", OPERATOR, name="alice"), **SEARCH)
    assert reply["status"] == "ok"
    assert "secret of research" not in str(reply)


@pytest.mark.usefixtures("one_part_at_once")
def test_a_reader_who_is_removed_between_parts_reads_nothing(spaces: WithSpaces, pc2: Assembled) -> None:
    store(pc2, ALICE, "secret of research", "research")

    def remove() -> None:
        spaces.declare({"research": {"writers": ["alice"]}})
        pc2.live.apply(pc2.live.load())

    reply = in_parts(pc2, BOB, remove, **SEARCH)
    assert reply["code"] == "not_granted"


@pytest.mark.usefixtures("one_part_at_once")
def test_a_space_that_is_deleted_between_parts_gets_no_more(pc2: Assembled) -> None:
    """Of a sync; the reply says why, and a repetition begins from the start."""
    record = {"content": "x", "last_accessed": "2026-11-27T08:00:00+00:00"}
    records = [{"id": f"m{number}", **record} for number in range(3)]
    sync: dict[str, Any] = {"action": "sync_memories", "memories": records, "space": "research", "request_id": "1"}
    reply = in_parts(pc2, ALICE, lambda: pc2.ask("delete_space", OPERATOR, name="research"), **sync)
    assert (reply["code"], "deleted" in reply["error"]) == ("store_unavailable", True)
    assert in_parts(pc2, ALICE, lambda: None, **sync)["added"] == 3


@pytest.mark.usefixtures("one_part_at_once")
def test_who_is_quarantined_during_a_sync_is_not_in_its_reply(pc2: Assembled) -> None:
    """Whatever was merged before."""
    store(pc2, ALICE, "secret of alice", id="hers")
    record = {"id": "hers", "content": "?", "created": 1.0, "last_accessed": 1.0}
    sync: dict[str, Any] = {"action": "sync_memories", "memories": [record, {**record, "id": "mine"}]}
    assert "secret of alice" in str(in_parts(pc2, BOB, lambda: None, **sync))
    for after in (1, 2, 3):
        reply = in_parts(pc2, BOB, lambda: pc2.ask("quarantine_memory", OPERATOR, name="alice"), after, **sync)
        assert reply["unchanged"] == 1
        assert "secret of alice" not in str(reply)
        pc2.ask("release_memory", OPERATOR, name="alice")
