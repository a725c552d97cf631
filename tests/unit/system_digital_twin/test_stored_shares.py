"""What SystemDigitalTwin stores for others is counted, or bounded by something else."""

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.new_database import open_database
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.store.stored_bytes import ROW_BYTES, Stored, StoredBytes
from twinhost.system_digital_twin.events.events import Events, Topic
from twinhost.system_digital_twin.metrics.vram_reports import VramRecord, VramReports
from twinhost.system_digital_twin.registry.registry import AgentRecord, Registry
from twinhost.system_digital_twin.state_files import COUNTED, MIGRATIONS, STORED_BYTES

NOT_COUNTED = {  # tables, and what bounds them
    "audit_files": "its own rotation",
    "audit_head": "one row",
    "audit_outbox": "it waits for the log's file only",
    "audit_restores": "a row for each restore",
    "audited_keys": "the keys that were ever authorised",
    "followed_files": "the public files of keys",
    "full_soon": "hosts and their resources",
    "happenings_let_go": "two rows",
    "holders": "one row for each agent",
    "metrics_hour": "64 hosts for 30 days",
    "metrics_minute": "64 hosts for a day",
    "refusals": "200 rows, and one for each cause",
    "stored_bytes": "identities and tables",
    "taken_once": "40,000 digests of each identity and topic",
    "troubles": "what is wrong now: of each kind one for a host, a check or a key",
}


@pytest.fixture
def database(tmp_path: Path) -> Iterator[Database]:
    with closing(open_database(tmp_path / "db", [REPLY_LOG_SCHEMA, *MIGRATIONS])) as database:
        yield database


def test_every_table_is_counted_or_bounded(database: Database) -> None:
    """A new one is added to COUNTED, or here with what bounds it."""
    tables = {name for (name,) in database.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    assert {name for name in tables if not name.startswith("sqlite_")} == {
        table.table for table in COUNTED
    } | NOT_COUNTED.keys()


def test_rows_count_for_who_wrote_them(database: Database) -> None:
    """Registrations, reports of VRAM, leases, events and errors; what is gone no longer counts."""
    registry, reports, events = Registry(database, 15.0), VramReports(database), Events(database)
    counted = StoredBytes(database)
    with database.transaction():
        registry.put(AgentRecord(name="a", status="ok", location="pc2", registered_by="alice", last_updated=0.0))
        reports.put(
            VramRecord(agent_name="bob", host="pc2", total_vram_mb=1, total_vram_used_mb=1, devices={}, models=0)
        )
        events.add(Topic.ERROR, {"message": "x"}, "carol")
        database.execute("INSERT INTO leases VALUES ('1', ?)", (b'{"holder":"dave"}',))
    assert set(counted.all()) == {"alice", "bob", "carol", "dave"}
    with database.transaction():
        registry.remove("a")
        database.execute("DELETE FROM leases")
    assert (counted.of("alice"), counted.of("dave")) == (Stored(), Stored())


def test_an_older_volume_is_counted_when_it_is_opened(tmp_path: Path) -> None:
    """And retention goes on by writer, with what the version before has stored."""
    before = MIGRATIONS[: MIGRATIONS.index(STORED_BYTES)]
    with closing(Database(tmp_path / "db", [REPLY_LOG_SCHEMA, *before])) as older:
        for writer in ("alice", "bob"):
            older.execute(
                "INSERT INTO happenings (topic, time_ms, propagated, written_by, record) VALUES ('ERROR:', 1, 1, ?, ?)",
                (writer, b'{"message":"x","severity":"critical"}'),
            )
    with closing(Database(tmp_path / "db", [REPLY_LOG_SCHEMA, *MIGRATIONS])) as database:
        assert StoredBytes(database).of("alice") == StoredBytes(database).of("bob") == Stored(ROW_BYTES + 37, 0)
        events = Events(database, most=2)
        with database.transaction():
            events.add(Topic.ERROR, {"message": "y"}, "bob")
        assert events.kept(Topic.ERROR) == {"alice": 1, "bob": 1}
