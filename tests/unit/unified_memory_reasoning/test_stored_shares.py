"""What one agent stores in the memory is bounded in bytes and names, whatever it stores."""

import json
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from unittest.mock import Mock

import pytest

from tests.configuration import SHIPPED
from tests.new_database import open_database
from tests.unit.agent.assembled import Assembled
from tests.unit.unified_memory_reasoning.memory import assembled
from twinhost.secure_zmq.callers import Caller
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.store.stored_bytes import Stored, StoredBytes
from twinhost.unified_memory_reasoning.__main__ import COUNTED, MIGRATIONS, STORED_BYTES
from twinhost.unified_memory_reasoning.contents import Contents, Options
from twinhost.unified_memory_reasoning.twins.twins import Change, Twins

MIGRATIONS_WITH_REPLIES = [REPLY_LOG_SCHEMA, *MIGRATIONS]
FLOODER = Caller("flooder", "pc2", frozenset({"agent"}), "SHA256:of-the-flooder")
POLITE = Caller("polite", "pc2", frozenset({"agent"}), "SHA256:of-the-polite")
SMALL = {"everybody": {"stored_bytes": 200_000, "names": 100}}
TWIN = {"user_id": "u{}", "twin_data": {"text": "x" * 20_000}}
INTERACTION = {"session_id": "s", "interaction_type": "code", "content": "x" * 20_000}
NOT_COUNTED = {  # tables with a writer, and why
    "recall_removed": "what was deleted and waits to leave the index",
}


@pytest.fixture
def agent(tmp_path: Path) -> Iterator[Assembled]:
    with assembled(tmp_path, budgets=SMALL) as agent:
        yield agent


def _flood(agent: Assembled, action: str, **fields: object) -> list[dict[str, object]]:
    """Ask 30 times; `{}` in a text is the number."""
    texts = (json.dumps(fields).replace("{}", str(number)) for number in range(30))
    return [agent.ask(action, FLOODER, **json.loads(text)) for text in texts]


@pytest.mark.parametrize(
    ("action", "fields"),
    [("update_twin", TWIN), ("add_interaction", INTERACTION)],
    ids=["twins", "interactions"],
)
def test_one_agent_takes_its_share_of_the_disk_and_no_more(
    agent: Assembled, action: str, fields: dict[str, object]
) -> None:
    """The refusal says of what, how much, and what to do; another agent's changes are stored meanwhile."""
    refused = [reply for reply in _flood(agent, action, **fields) if reply["status"] == "error"]
    assert len(refused) > 15
    assert {(reply["code"], reply["budget"], reply["limit"]) for reply in refused} == {
        ("over_budget", "stored_bytes", 200_000)
    }
    assert "most of it is in" in str(refused[0]["error"])
    assert agent.disk.stored_bytes()["flooder"] <= 200_000
    assert agent.ask(action, POLITE, **fields)["status"] == "ok"


def test_what_is_stored_at_once_is_bounded_in_a_minute(tmp_path: Path) -> None:
    """Nobody is served during such a commit; single memories, and other agents, go on."""
    with assembled(tmp_path, budgets={"everybody": {"at_once_bytes": 2_000}}) as agent:
        several = {"content": "x", "also": [{"content": "y" * 600}]}
        assert agent.ask("store_memory", FLOODER, **several)["new"]
        reply = agent.ask("store_memory", FLOODER, **several)
        assert (reply["code"], reply["budget"], reply["used"], reply["limit"]) == (
            "over_budget",
            "at_once_bytes",
            1_624,
            2_000,
        )
        assert str(reply["until"]) in str(reply["error"])
        assert agent.ask("store_memory", FLOODER, content="y" * 600)["new"]
        assert agent.ask("store_memory", POLITE, **several)["new"]


def test_what_was_deleted_may_be_stored_again(agent: Assembled) -> None:
    """By the agent itself, over budget too."""
    assert _flood(agent, "add_interaction", **INTERACTION)[-1]["code"] == "over_budget"
    assert agent.ask("clear_context", FLOODER, session_id="s")["status"] == "ok"
    assert agent.ask("add_interaction", FLOODER, **INTERACTION)["status"] == "ok"


def test_names_are_bounded_beside_bytes(agent: Assembled) -> None:
    """Sessions and their speakers, and keywords."""
    for number in range(51):
        said = {"interaction_type": "code", "content": "x", "speaker": "y"}
        reply = agent.ask("add_interaction", FLOODER, session_id=f"s{number}", **said)
    assert (reply["code"], reply["budget"], reply["used"]) == ("over_budget", "names", 100)
    reply = agent.ask("store_memory", FLOODER, content="x", keywords=["y"])
    assert reply["budget"] == "names"


def test_every_table_with_a_writer_is_counted(agent: Assembled) -> None:
    """A new one is added to COUNTED, or here with a reason."""
    tables = agent.database.execute(
        "SELECT m.name FROM sqlite_schema AS m, pragma_table_xinfo(m.name) AS c "
        "WHERE m.type = 'table' AND c.name IN ('written_by', 'caller')"
    )
    assert {name for (name,) in tables} == {table.table for table in COUNTED} | set(NOT_COUNTED)


def test_the_numbers_are_those_of_the_rows(agent: Assembled) -> None:
    """After changes of every kind, of several writers, and some that were refused."""
    for caller in (FLOODER, POLITE):
        for number in range(4):
            user, session, memory = f"u{number % 3}", f"s{number % 2}", f"m{number}-{caller.name}"
            agent.ask("update_twin", caller, user_id=user, twin_data={"é": "x" * number}, request_id=f"t{number}")
            agent.ask("patch_twin", caller, user_id=user, patch={"y": number})
            said = {"interaction_type": "code", "content": "word " * number + "é", "speaker": f"p{number}"}
            agent.ask("add_interaction", caller, session_id=session, **said)
            agent.ask("store_memory", caller, memory_id=memory, content="x", keywords=["a", "b"], key=f"k{number}")
            agent.ask("store_memory", caller, memory_id=memory, content="other", keywords=["c"])
            agent.ask("resolve_conflict", caller, op_id="o", priority=number + 1)
            known = {"error_type": "E", "pattern": f"cannot open {number}", "solution": "y"}
            pattern = agent.ask("add_error_pattern", caller, **known)["pattern_id"]
            agent.ask("report_solution_outcome", caller, pattern_id=pattern, success=True, note="x" * number)
            agent.ask("get_error_solution", caller, error_message=f"the shed {number} has no door")
        agent.ask("delete_memory", caller, memory_id=f"m1-{caller.name}")
        agent.ask("delete_memory", caller, memory_id=f"m1-{caller.name}")
    agent.ask("delete_twin", FLOODER, user_id="u0")
    agent.ask("clear_context", POLITE, session_id="s0")
    with agent.database.transaction():  # which writes what waits
        pass
    for table in COUNTED:
        rows = agent.database.execute(
            f"SELECT {table.writer.format(table.table)} AS writer, sum({table.size(table.table)}), "
            f"sum({table.names.format(table.table)}) FROM {table.table} GROUP BY writer"
        )
        counted = agent.database.execute(
            "SELECT writer, bytes, names FROM stored_bytes WHERE of = ? AND bytes <> 0", (table.table,)
        )
        assert set(counted) == set(rows), table.table
    assert {table for (table,) in agent.database.execute("SELECT of FROM stored_bytes")} == {
        table.table for table in COUNTED
    }


def test_an_older_volume_is_counted_when_it_is_opened(tmp_path: Path) -> None:
    before, path = MIGRATIONS[: MIGRATIONS.index(STORED_BYTES)], tmp_path / "db"
    with closing(Database(path, [REPLY_LOG_SCHEMA, *before])) as older, older.transaction():
        Twins(older).put(Change("u", POLITE), {"a": 1})
    with closing(Database(path, [REPLY_LOG_SCHEMA, *MIGRATIONS])) as database:
        assert StoredBytes(database).of("polite") == Stored(2 * 256 + 2 * (len("u") + len('{"a":1}')), 1)


def test_vectors_of_texts_leave_the_reserve_of_the_disk(tmp_path: Path) -> None:
    """They are made again from what is stored, and can wait."""
    full, meaning = [True], Mock()
    with closing(open_database(tmp_path / "db", MIGRATIONS_WITH_REPLIES)) as database:
        options = Options.of(SHIPPED, lambda _: True, lambda: not full[0])
        contents = Contents(database, options, meaning)
        contents.on_tick()
        assert not meaning.on_tick.called
        full[0] = False
        contents.on_tick()
        assert meaning.on_tick.called
