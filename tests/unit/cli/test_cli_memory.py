"""`memory`: backups that are whole, imports that happen once, and a quarantine that can be lifted."""

import io
import json
import shlex
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from tests.unit.cli.loopback_agents import StartHosts, TwoHosts
from tests.unit.cli.memory_hosts import MemoryHosts
from tests.unit.cli.running import COMMAND, Cli, process_environment, run_on_terminal, run_process
from tests.waiting import PATIENCE_S, wait_until
from twinhost.cli.memory import command, importing
from twinhost.cli.memory.command import KINDS
from twinhost.cli.output import read
from twinhost.secure_zmq.actions import wholly
from twinhost.secure_zmq.callers import Caller
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS
from twinhost.unified_memory_reasoning.memories.memories import Changes
from twinhost.unified_memory_reasoning.twins.twins import Change

pytestmark = pytest.mark.thorough

MEMORY_STORE: dict[str, Any] = {
    "s1": [
        {"type": "user_query", "content": "Tandaan: port 7230", "speaker": "ada", "timestamp": 1.5, "importance": 0.9},
        {"interaction_type": "code", "text": "x = 1", "metadata": {"file": "a.py"}},
        {"type": "error", "message": "timeout"},
        {"type": "error", "message": "timeout"},
    ],
    "s2": {"created_at": 1, "interactions": [{"type": "system_response", "content": "hello"}]},
    "sessions": {"s3": [{"type": "user_query", "content": "deep"}]},
    "memories": [
        {
            "id": "m1",
            "content": "with moments",
            "strength": 2.5,
            "created": 1000.0,
            "last_accessed": "2026-01-02T03:04:05Z",
        },
        {"content": "without any", "keywords": ["k"], "source": "old"},
    ],
}
ERROR_PATTERNS: dict[str, Any] = {
    "timeout": [{"pattern": "timed out after", "solution": "wait", "occurrence_count": 3}, "deadline passed"],
    "disk": {"pattern": "No space left", "solution": None},
}
TWINS: dict[str, Any] = {"ada": {"mood": "curious"}, "default": {}}


def by(name: str) -> Caller:
    return Caller(name, "pc3", frozenset({"agent"}), f"SHA256:of-{name}")


@pytest.fixture
def remembering(tmp_path: Path, _endings: ThreadPoolExecutor) -> Iterator[MemoryHosts]:
    """Both agents, and pc2's has a memory."""
    hosts = MemoryHosts(tmp_path / "hosts")
    yield hosts
    _endings.submit(hosts.stop)


@pytest.fixture
def older(tmp_path: Path) -> list[str]:
    """The three files of an older agent."""
    return write_older(tmp_path / "older")


def write_older(folder: Path) -> list[str]:
    folder.mkdir(exist_ok=True)
    contents = {"memory_store": MEMORY_STORE, "error_patterns": ERROR_PATTERNS, "digital_twin_store": TWINS}
    for name, content in contents.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return [str(folder / f"{name}.json") for name in contents]


def table(hosts: MemoryHosts, query: str) -> list[Any]:
    """Return rows of pc2's database, as another program reads it."""
    with closing(sqlite3.connect(hosts.memory.path)) as connection:
        return connection.execute(query).fetchall()


def everything(hosts: MemoryHosts) -> list[Any]:
    """Return all that is stored of what an import brings."""
    return [
        table(hosts, f"SELECT * FROM {name} ORDER BY 1")
        for name in ("interactions", "memories", "error_patterns", "twins")
    ]


def test_a_backup_is_a_database_of_its_owner_alone(
    remembering: MemoryHosts, cli: Cli, tmp_path: Path, older: list[str]
) -> None:
    """Read in as many parts as the configuration's message size makes, and named only once it is whole."""
    cli(remembering, "memory", "import", *older)
    target = tmp_path / "umra.backup"
    ran = cli(remembering, "memory", "backup", str(target))
    assert (ran.status, ran.err) == (0, "")
    assert target.stat().st_size > 65_536
    assert ran.out.startswith(f"{target}: {target.stat().st_size} bytes; ")
    assert "6 interactions" in ran.out
    assert target.stat().st_mode & 0o777 == 0o600
    with closing(sqlite3.connect(target)) as copy:
        assert copy.execute("SELECT count(*) FROM interactions").fetchone() == (6,)
    assert [path.name for path in tmp_path.iterdir() if "umra" in path.name] == ["umra.backup"]


def test_a_backup_goes_to_stdout_byte_for_byte(remembering: MemoryHosts, tmp_path: Path) -> None:
    """What is said of it goes to stderr."""
    done = subprocess.run(
        [*COMMAND, "memory", "backup", "-"],
        env=process_environment(remembering.environment),
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout[:16]) == (0, b"SQLite format 3\0")
    assert done.stderr.decode().startswith(f"backup: {len(done.stdout)} bytes; ")


def test_a_file_that_is_there_is_not_overwritten(remembering: MemoryHosts, cli: Cli, tmp_path: Path) -> None:
    target = tmp_path / "kept"
    target.write_text("kept")
    ran = cli(remembering, "memory", "backup", str(target))
    assert (ran.status, target.read_text()) == (2, "kept")
    assert "exists already; name another" in ran.err


def test_a_place_that_can_not_be_written_is_one_sentence(remembering: MemoryHosts, cli: Cli, tmp_path: Path) -> None:
    ran = cli(remembering, "memory", "backup", str(tmp_path / "absent" / "file"))
    assert ran.status == 1
    assert "can't be written (No such file or directory); give another path, or -" in ran.err
    assert len(ran.err.splitlines()) == 1


def test_a_backup_that_arrives_otherwise_leaves_no_file(
    remembering: MemoryHosts, cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A digest that does not fit is an error, and a half of a backup never has a backup's name."""

    def turned(reply: Any, kind: Any) -> Any:
        document = read(reply, kind)
        if kind is command.BackupPart and document.offset:
            return command.BackupPart(document.offset, document.data[::-1])
        return document

    monkeypatch.setattr("twinhost.cli.memory.command.read", turned)
    ran = cli(remembering, "memory", "backup", str(tmp_path / "umra"))
    assert ran.status == 1
    assert "and their digest differs; run the command again" in ran.err
    assert [path.name for path in tmp_path.iterdir()] == ["hosts"]


def restored(
    hosts: MemoryHosts, cli: Cli, monkeypatch: pytest.MonkeyPatch, *words: str
) -> tuple[int, dict[str, Any], str]:
    """Run a restore whose agent ends and does not come back: that is the engine's part."""
    monkeypatch.setattr(command, "RESTARTED_WITHIN_S", 1.0)
    ran = cli(hosts, "memory", "restore", *words, "--json")
    return ran.status, json.loads(ran.out.splitlines()[0]), ran.err


@pytest.mark.parametrize("stream", [False, True])
def test_a_restore_applies_a_backup_and_reports_the_loss(
    remembering: MemoryHosts, cli: Cli, tmp_path: Path, older: list[str], monkeypatch: pytest.MonkeyPatch, stream: bool
) -> None:
    """From a file and from stdin; an agent that does not come back is said, since the backup waits for its start."""
    cli(remembering, "memory", "import", *older[1:])
    target = tmp_path / "umra.backup"
    cli(remembering, "memory", "backup", str(target))
    before = everything(remembering)
    cli(remembering, "memory", "import", older[0])
    if stream:
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(target.read_bytes())))
    status, document, said = restored(remembering, cli, monkeypatch, "-" if stream else str(target), "--yes")
    assert document["rows"]["interactions"] == {
        "present": 6, "backup": 0, "added": 0, "kept": 0, "replaced": 0, "missing": 6, "lost": 6
    }  # fmt: skip
    assert (status, "did not restart within 1 s; start it, which puts the backup in place" in said) == (1, True)
    wait_until(lambda: remembering.memory.started_again, PATIENCE_S, "the agent ends")
    remembering.memory.stop()
    remembering.start_memory()
    assert everything(remembering) == before


def test_text_output_lists_kinds_and_json_lists_every_table(
    remembering: MemoryHosts, cli: Cli, tmp_path: Path, older: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a backup and of a restore; no name of a table that a person never stored in."""
    cli(remembering, "memory", "import", *older)
    taken = cli(remembering, "memory", "backup", str(tmp_path / "umra.backup"))
    counts = taken.out.rstrip().split("; ")[1]
    assert counts == "6 interactions, 2 memories, 3 error patterns, 2 twins"
    whole = json.loads(cli(remembering, "memory", "backup", str(tmp_path / "other"), "--json").out)
    assert whole["rows"]["context_writers"] == 3
    monkeypatch.setattr(command, "RESTARTED_WITHIN_S", 0.1)
    ran = cli(remembering, "memory", "restore", str(tmp_path / "umra.backup"), "--yes")
    assert "_" not in ran.out
    rows = {line[: line.index("  ")]: line.split()[-6:] for line in ran.out.splitlines()[2:]}
    assert rows["interactions"] == ["6", "6", "0", "6", "0", "0"]
    assert rows["error patterns"] == ["3", "3", "0", "3", "0", "0"]
    assert rows.keys() <= set(KINDS.values())


def test_every_kind_is_a_table_of_the_memory(tmp_path: Path) -> None:
    """One that is renamed some day would no longer be shown."""
    with closing(Database(tmp_path / "db", [REPLY_LOG_SCHEMA, *MIGRATIONS])) as database:
        tables = {name for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    assert set(KINDS) <= tables


def test_without_yes_nothing_is_sent(remembering: MemoryHosts, cli: Cli, tmp_path: Path) -> None:
    (tmp_path / "umra.backup").write_bytes(b"x")
    ran = cli(remembering, "memory", "restore", str(tmp_path / "umra.backup"))
    assert ran.status == 2
    assert "it replaces the whole memory of pc2; confirm it" in ran.err


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (b"not a database", "the file is not an intact database"),
        (b"", "the file is empty; name a file that `./twinhost memory backup` wrote"),
        (None, "can't be read (No such file or directory)"),
    ],
)
def test_what_is_no_backup_changes_nothing(
    remembering: MemoryHosts, cli: Cli, tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    if content is not None:
        (tmp_path / "file").write_bytes(content)
    ran = cli(remembering, "memory", "restore", str(tmp_path / "file"), "--yes")
    assert ran.status == 1
    assert sentence in ran.err
    assert len(ran.err.splitlines()) == 1
    assert cli(remembering, "memory", "by", "operator").status == 0


def test_an_import_brings_everything_of_the_three_files(remembering: MemoryHosts, cli: Cli, older: list[str]) -> None:
    """Every interaction, those said twice as well, what it had besides in its metadata; moments of memories, too."""
    ran = cli(remembering, "memory", "import", *older)
    assert (ran.status, ran.err) == (0, "")
    assert [line.split(": ")[1] for line in ran.out.splitlines()] == [
        "8 added, 0 already present",
        "3 added, 0 already present",
        "2 added, 0 already present",
    ]
    said = table(remembering, "SELECT session_id, type, speaker, content, metadata, written_by FROM interactions")
    assert [row[:4] for row in said if row[0] == "s1"] == [
        ("s1", "user_query", "ada", "Tandaan: port 7230"),
        ("s1", "code", "", "x = 1"),
        ("s1", "error", "", "timeout"),
        ("s1", "error", "", "timeout"),
    ]
    assert {row[0] for row in said} == {"s1", "s2", "s3"}
    assert {row[-1] for row in said} == {"operator"}
    metadata = [json.loads(row[4]) for row in said]
    tandaan = next(row for row in metadata if row.get("imported"))
    assert tandaan["imported"] == {"timestamp": 1.5, "importance": 0.9}
    assert [row["file"] for row in metadata if "file" in row] == ["a.py"]
    assert len({row["import_id"] for row in metadata}) == 6
    dated = "SELECT content, occurred_at, created > 1e9 FROM interactions WHERE occurred_at IS NOT NULL"
    assert table(remembering, dated) == [("Tandaan: port 7230", 1.5, 1)]
    memories = table(remembering, "SELECT id, content, strength, created, source FROM memories ORDER BY number")
    assert memories[0] == ("m1", "with moments", 2.5, 1000.0, "")
    assert (memories[1][1], memories[1][4]) == ("without any", "old")
    assert table(remembering, "SELECT error_type, pattern, solution FROM error_patterns ORDER BY id") == [
        ("timeout", "timed out after", "wait"),
        ("timeout", "deadline passed", None),
        ("disk", "No space left", None),
    ]
    assert table(remembering, "SELECT user_id, revision FROM twins ORDER BY user_id") == [("ada", 1), ("default", 1)]


def test_an_import_keeps_the_dates_of_the_file(remembering: MemoryHosts, cli: Cli, tmp_path: Path) -> None:
    """A time without a zone is in UTC; a memory whose last access is long ago is forgotten, and the import says so."""
    said = {"type": "code", "content": "x"}
    store = {
        "s": [{**said, "timestamp": "2025-03-01T08:00:00"}, {**said, "created_at": "2025-03-01T08:00:00+08:00"}],
        "memories": [{"id": "old", "content": "x", "created": 5, "last_accessed": 10, "occurred_at": 3}],
    }
    path = tmp_path / "memory_store.json"
    path.write_text(json.dumps(store))
    ran = cli(remembering, "memory", "import", str(path))
    assert (ran.status, "1 of these memories are already forgotten" in ran.err) == (0, True)
    assert table(remembering, "SELECT occurred_at FROM interactions") == [(1_740_816_000,), (1_740_787_200,)]
    columns = "created, last_accessed, forgotten, (SELECT occurred_at FROM memory_details)"
    assert table(remembering, f"SELECT {columns} FROM memories") == [(5, 10, 1, 3)]
    for wrong in ("soon", True, 1e300, ["x"]):
        path.write_text(json.dumps({"s": [{**said, "timestamp": wrong}]}))
        ran = cli(remembering, "memory", "import", str(path))
        assert (ran.status > 0, "at `$.s[0].timestamp`" in ran.err) == (True, True)


def test_the_history_of_a_key_and_the_audit_are_shown(remembering: MemoryHosts, cli: Cli) -> None:
    """As tables, and with --json as the reply; an unknown key gives one sentence."""
    agent = Caller("agent", "pc3", frozenset({"agent"}), "SHA256:of-an-agent")
    assert cli(remembering, "memory", "audit").out == "no memory needs attention\n"
    with remembering.memory.memory.transaction():
        for number, amount in enumerate((340, 355)):
            text = f"The rent of the box room is {amount}"
            remembering.memory.memories.put(f"k{number}", Changes(content=text, details={"key": "rent"}), agent)
            remembering.memory.memories.put(f"p{number}", Changes(content=text), agent)
        later = Changes(content="It will be 360", details={"key": "deposit", "valid_from": time.time() + 86_400})
        remembering.memory.memories.put("k2", later, agent)
    ran = cli(remembering, "memory", "history", "rent")
    title, _, *rows = ran.out.splitlines()
    assert (title, [row.split()[0] for row in rows[::2]], rows[2].split()[3:]) == (
        "Values (2)",
        ["k0", "k1"],
        ["now", "agent"],
    )
    assert rows[1::2] == [f"  The rent of the box room is {amount}" for amount in (340, 355)]
    ran = cli(remembering, "memory", "history", "deposit")
    assert ran.out.splitlines()[2].split()[3:] == ["-", "agent"]  # it is not valid yet
    assert json.loads(cli(remembering, "memory", "history", "p0", "--id", "--json").out)["count"] == 1
    with remembering.memory.memory.transaction():
        theirs = Changes(content="The rent is 999", details={"key": "rent"})
        remembering.memory.memories.put("k3", theirs, by("another"))
    shown = cli(remembering, "memory", "history", "rent").out
    assert "  [superseded by another, disputed by another] The rent of the box room is 355\n" in shown
    assert "  [disputed by agent] The rent is 999\n" in shown
    assert "Disputed 1" in cli(remembering, "memory", "audit").out
    ran = cli(remembering, "memory", "history", "none")
    assert (ran.status > 0, "'none'" in ran.err) == (True, True)
    ran = cli(remembering, "memory", "audit", "-n", "1")
    lines = ran.out.splitlines()
    assert (lines[0], [line.split()[0] for line in lines[2:6:2]]) == ("Contradictory 1", ["p0", "p1"])
    assert max(map(len, lines)) <= 80
    assert "never_read have further entries" in ran.err


def test_importing_twice_changes_nothing(
    remembering: MemoryHosts, cli: Cli, older: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No row is added or touched, although the agent has forgotten the first one's requests; in pages, too."""
    monkeypatch.setattr(importing, "_PAGE", 2)
    cli(remembering, "memory", "import", *older)
    before = everything(remembering)
    ran = cli(remembering, "memory", "import", *older, "--json")
    assert json.loads(ran.out)["files"] == {
        file: {"added": 0, "there_already": there, "kept": there, "replaced": 0, "missing": 0}
        for file, there in zip(older, (8, 3, 2), strict=True)
    }
    assert everything(remembering) == before


def test_items_of_an_import_share_commits(remembering: MemoryHosts, cli: Cli, tmp_path: Path) -> None:
    """Each commit waits for the disk; of those that keep their times, and of those that do not."""
    count, path = 400, tmp_path / "memory_store.json"
    timed = [{"content": f"timed {number}", "created": 5.0} for number in range(count // 2)]
    path.write_text(json.dumps([*({"content": f"new {number}"} for number in range(count // 2)), *timed]))
    commits: list[str] = []
    agent = remembering.memory
    agent.memory._connection.set_trace_callback(lambda sql: commits.append(sql) if sql == "COMMIT" else None)
    ran = cli(remembering, "memory", "import", str(path))
    agent.memory._connection.set_trace_callback(None)
    assert ran.out.endswith(f"{count} added, 0 already present\n")
    assert table(remembering, "SELECT count(*) FROM memories") == [(count,)]
    assert len(commits) < count // 2


def test_an_import_reports_concurrent_changes_of_others(
    remembering: MemoryHosts, cli: Cli, older: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A twin that another stores between check and write is kept; a memory deleted before the end is missing."""
    agent = remembering.memory
    agent._replies._keep_s = 600.0  # its server would forget them in transactions of its own, beside those of this test
    operator = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")
    send = importing.Importer._send

    def send_late(importer: importing.Importer, file: str, items: list[importing.Item]) -> Iterator[Any]:
        if any(item.fields.get("user_id") == "ada" for item in items):
            with agent.memory.transaction():
                agent.twins.put(Change("ada", by("agent")), {"mood": "newer"})
        yield from list(send(importer, file, items))
        if any(item.place == "$.memories[0]" for item in items):
            wait_until(lambda: not agent.memory.in_transaction, PATIENCE_S, "the transaction is over")
            with agent.memory.transaction():
                agent.memories.remove("m1", operator)

    monkeypatch.setattr(importing.Importer, "_send", send_late)
    ran = cli(remembering, "memory", "import", older[0], older[2])
    assert [line.split(": ")[1] for line in ran.out.splitlines()] == [
        "8 added, 0 already present, 1 missing",
        "1 added, 1 already present",
    ]
    twin = agent.twins.find("ada")
    assert twin is not None
    assert twin["twin"] == {"mood": "newer"}


def test_an_import_that_was_cut_short_is_completed(remembering: MemoryHosts, cli: Cli, older: list[str]) -> None:
    """What had come is not stored again."""
    whole = json.loads(Path(older[0]).read_text())
    Path(older[0]).write_text(json.dumps({"s1": whole["s1"][:3]}))
    cli(remembering, "memory", "import", older[0])
    Path(older[0]).write_text(json.dumps(whole))
    ran = cli(remembering, "memory", "import", older[0])
    assert ran.out.endswith("5 added, 3 already present\n")


def test_a_twin_that_is_there_is_left_as_it_is(remembering: MemoryHosts, cli: Cli, older: list[str]) -> None:
    """What an agent wrote since is newer than what the older agent had."""
    with remembering.memory.memory.transaction():
        remembering.memory.twins.put(Change("ada", by("agent")), {"mood": "newer"})
    cli(remembering, "memory", "import", older[2])
    twin = remembering.memory.twins.find("ada")
    assert twin is not None
    assert (twin["twin"], twin["revision"]) == ({"mood": "newer"}, 1)


def test_what_was_deleted_is_stored_again_by_another_import(
    remembering: MemoryHosts, cli: Cli, older: list[str]
) -> None:
    """Within the minutes for which a reply is kept, too; with the times in the file."""
    remembering.memory._replies._keep_s = 600.0
    cli(remembering, "memory", "import", *older)
    agent = remembering.memory
    operator = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")
    with agent.memory.transaction():
        agent.twins.remove(Change("ada", operator))
        wholly(agent.interactions.clear("s1"))
        for (memory_id,) in table(remembering, "SELECT id FROM memories"):
            agent.memories.remove(memory_id, operator)
    ran = cli(remembering, "memory", "import", *older)
    assert [line.split(": ")[1] for line in ran.out.splitlines()] == [
        "6 added, 2 already present",
        "0 added, 3 already present",
        "1 added, 1 already present",
    ]
    twin = agent.twins.find("ada")
    assert twin is not None
    assert twin["twin"] == TWINS["ada"]
    assert table(remembering, "SELECT count(*) FROM interactions") == [(6,)]
    assert table(remembering, "SELECT content, strength, created FROM memories WHERE id = 'm1'") == [
        ("with moments", 2.5, 1000.0)
    ]
    assert table(remembering, "SELECT count(*) FROM memories") == [(2,)]


def write_as_agent(hosts: MemoryHosts, *, strength: float = 1.0) -> None:
    """Let another caller have a twin and two memories under ids that the three files have too."""
    agent = Caller("agent", "pc3", frozenset({"agent"}), "SHA256:of-an-agent")
    memories: list[dict[str, Any]] = [
        {"id": "m1", "content": "of the file"},
        {"id": "m2", "content": "of the file", "created": 1.0},
    ]
    (hosts.root / "memory_store.json").write_text(json.dumps(memories))
    with hosts.memory.memory.transaction():
        hosts.memory.twins.put(Change("ada", agent), {"mood": "newer"})
        for memory in memories:
            changes = Changes(content="newer", strength=strength)
            hosts.memory.memories.put(memory["id"], changes, agent)


@pytest.mark.parametrize("hidden", [False, True])
def test_what_another_wrote_is_left_as_it_is(
    remembering: MemoryHosts, cli: Cli, older: list[str], hidden: bool
) -> None:
    """Where its writer is in quarantine, too: an operator who releases it finds what it wrote."""
    write_as_agent(remembering)
    if hidden:
        cli(remembering, "memory", "quarantine", "agent")
        cli(remembering, "memory", "quarantine", "somebody else")
    ran = cli(remembering, "memory", "import", str(remembering.root / "memory_store.json"), older[2])
    assert [line.split(": ")[1] for line in ran.out.splitlines()] == [
        "0 added, 2 already present",
        "1 added, 1 already present",
    ]
    assert table(remembering, "SELECT content, written_by FROM memories") == [("newer", "agent")] * 2
    assert table(remembering, "SELECT twin, revision, written_by FROM twins WHERE user_id = 'ada'") == [
        (b'{"mood":"newer"}', 1, "agent")
    ]


def test_a_forgotten_memory_of_another_is_left_as_it_is(remembering: MemoryHosts, cli: Cli) -> None:
    write_as_agent(remembering, strength=0.01)
    ran = cli(remembering, "memory", "import", str(remembering.root / "memory_store.json"))
    assert ran.out.endswith("0 added, 2 already present\n")
    assert table(remembering, "SELECT content, written_by FROM memories") == [("newer", "agent")] * 2


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("memory_store.json", "[", "is not JSON: "),
        ("memory_store.json", "7", "Expected an object of sessions, or an array of memories, got a number - at `$`"),
        ("memory_store.json", '{"s": 7}', "Expected an array of interactions, got a number - at `$.s`"),
        ("memory_store.json", '{"s": [7]}', "Expected an interaction, got a number - at `$.s[0]`"),
        (
            "memory_store.json",
            '{"s": [{"type": "gossip", "content": "x"}]}',
            "Expected one of code, user_query, system_response, error, got 'gossip' - at `$.s[0].type`",
        ),
        ("memory_store.json", '{"s": [{"type": "code"}]}', "Expected a field `content`, got an object - at `$.s[0]`"),
        (
            "memory_store.json",
            '{"sessions": {"s": [{"type": "code", "text": ""}]}}',
            "got '' - at `$.sessions.s[0].content`",
        ),
        ("memory_store.json", '[{"content": null}]', "Expected a text, got null - at `$[0].content`"),
        ("memory_store.json", '{"memories": {"m": []}}', "Expected a memory, got an array - at `$.memories.m`"),
        (
            "error_patterns.json",
            '{"t": [{"solution": "x"}]}',
            "Expected a field `pattern`, got an object - at `$.t[0]`",
        ),
        ("error_patterns.json", '[{"pattern": "x"}]', "Expected a field `error_type`, got an object - at `$[0]`"),
        ("error_patterns.json", '{"t": true}', "Expected an error pattern, got a boolean - at `$.t`"),
        ("digital_twin_store.json", '{"u": []}', "Expected a twin, an object, got an array - at `$.u`"),
        ("digital_twin_store.json", "[]", "Expected an object of users, got an array - at `$`"),
        ("other.json", "{}", "is none of memory_store.json, error_patterns.json, digital_twin_store.json"),
    ],
)
def test_another_shape_is_one_sentence_with_file_and_place(
    remembering: MemoryHosts, cli: Cli, tmp_path: Path, older: list[str], name: str, content: str, sentence: str
) -> None:
    """Whatever came before it in the command is not sent either."""
    (tmp_path / name).write_text(content)
    ran = cli(remembering, "memory", "import", older[2], str(tmp_path / name))
    assert ran.status == 1
    assert str(tmp_path / name) in ran.err
    assert sentence in ran.err
    assert len(ran.err.splitlines()) == 1
    assert table(remembering, "SELECT count(*) FROM twins") == [(0,)]


def test_what_the_agent_refuses_is_reported_with_its_place(remembering: MemoryHosts, cli: Cli, tmp_path: Path) -> None:
    """A pattern that re2 does not take, say; what came before it is stored, and is not stored again."""
    file = tmp_path / "error_patterns.json"
    file.write_text(json.dumps({"good": ["timed out after"], "bad": ["(unclosed"]}))
    for there in (0, 1):
        ran = cli(remembering, "memory", "import", str(file))
        assert ran.status == 1
        assert f"{file}: $.bad[0] is refused: " in ran.err
        # The refusal is sent a moment before its transaction ends.
        wait_until(lambda: not remembering.memory.memory.in_transaction, PATIENCE_S, "the transaction is over")
        assert len(remembering.memory.patterns.written_by("operator", None, 9)) == 1, there


def test_what_somebody_wrote_is_shown_hidden_and_shown_again(
    remembering: MemoryHosts, cli: Cli, older: list[str]
) -> None:
    cli(remembering, "memory", "import", *older)
    listed = cli(remembering, "memory", "by", "operator")
    assert (listed.status, listed.err) == (0, "")
    of_ada = ("call", "pc2", "get_twin", "user_id=ada", "--json")
    lines = listed.out.splitlines()
    assert ("Interactions (6)" in lines, lines[1].split("  ")[0], max(map(len, lines)) <= 80) == (True, "id", True)
    said = lines.index("  Tandaan: port 7230")
    assert lines[said - 1].split()[3:] == ["s1,", "ada,", "user_query"]
    assert next(line for line in lines if line.startswith("ada  ")).endswith("revision 1")
    assert cli(remembering, "memory", "by", "nobody").out == "nobody wrote nothing that is stored\n"
    hidden = cli(remembering, "memory", "quarantine", "operator", "--reason", "its key was stolen")
    assert hidden.out == "what operator wrote is hidden; to show it again: ./twinhost memory release operator\n"
    assert json.loads(cli(remembering, *of_ada).out)["revision"] == 0
    again = cli(remembering, "memory", "by", "operator")
    assert again.out == listed.out
    assert (
        again.err
        == "quarantined: what operator wrote is hidden; to show it again: ./twinhost memory release operator\n"
    )
    assert cli(remembering, "memory", "release", "operator").out == "what operator wrote is shown again\n"
    assert json.loads(cli(remembering, *of_ada).out)["revision"] > 0
    ran = cli(remembering, "memory", "release", "operator")
    assert (ran.status, "[not_found]" in ran.err) == (1, True)


def test_a_list_that_is_cut_says_so(remembering: MemoryHosts, cli: Cli, older: list[str]) -> None:
    cli(remembering, "memory", "import", *older)
    ran = cli(remembering, "memory", "by", "operator", "-n", "2")
    assert "Interactions, newest 2" in ran.out.splitlines()
    assert "more: there are older interactions" in ran.err
    assert json.loads(cli(remembering, "memory", "by", "operator", "-n", "2", "--json").out)["name"] == "operator"


def test_hostile_content_is_shown_on_one_line(remembering: MemoryHosts, cli: Cli) -> None:
    """It can't clear the screen, nor forge another line."""
    with remembering.memory.memory.transaction():
        remembering.memory.interactions.add("s", "code", "a\n\x1b[2Jinteractions 7  forged", "agent")
    for words in (("by", "agent"), ("search", "forged"), ("context", "s")):
        out = cli(remembering, "memory", *words).out
        assert "\x1b" not in out, words
        assert not any(line.startswith("interactions") for line in out.splitlines()), words
    assert cli(remembering, "memory", "by", "agent").out.splitlines()[3:] == ["  a\\x0a\\x1b[2Jinteractions 7  forged"]


def test_a_search_and_a_context_are_shown(remembering: MemoryHosts, cli: Cli) -> None:
    """A row for each result with its text below, and the text that a model gets; filters are those of the actions."""
    for speaker, text in (("Ana", "When does the ferry leave?"), ("Ben", "At 6, pier 3")):
        fields = {"session_id": "trip", "interaction_type": "user_query", "speaker": speaker, "content": text}
        pairs = [f"{name}={value}" for name, value in fields.items()]
        assert cli(remembering, "call", "pc2", "add_interaction", *pairs, "occurred_at=2026-03-01").status == 0
    ran = cli(remembering, "memory", "search", "ferry", "leave")
    title, header, *rows = ran.out.splitlines()
    assert (ran.status, ran.err, title, max(map(len, rows)) <= 80) == (0, "", "Found (2)", True)
    assert header.split("  ")[0] == "when (UTC)"
    assert [row.strip() for row in rows[1::2]] == ["When does the ferry leave?", "At 6, pier 3"]
    assert rows[2].split()[3:] == ["interaction", "Ben", "trip", "operator"]
    ran = cli(remembering, "memory", "search", "ferry", "--speaker", "Ana", "-n", "1", "--json")
    assert [result["speaker"] for result in json.loads(ran.out)["results"]] == ["Ana"]
    ran = cli(remembering, "memory", "search", "ferry", "--keyword", "boats")
    assert ran.out.splitlines()[0] == "Found (0)"
    ran = cli(remembering, "memory", "search", "zeppelin")
    assert (ran.status, ran.err) == (0, "words: nothing has zeppelin\n")
    with closing(sqlite3.connect(remembering.memory.path)) as connection, connection:
        connection.execute("UPDATE recall_filled SET upto = 1200 WHERE of = 'memories'")
    ran = cli(remembering, "memory", "search", "ferry")
    assert ran.err == "warning: up to 1,200 texts are not in the index yet; they are added in the background\n"
    ran = cli(remembering, "memory", "context", "trip", "--max-tokens", "200")
    opening, _, *shown = ran.out.splitlines()
    end = f"</{opening[1:].partition(':')[0]}>"
    assert shown == ["[Ana]: When does the ferry leave?", "[Ben]: At 6, pier 3", end]
    assert ran.err.endswith(" of 200 tokens; 0 of 2 turns are left out\n")
    for words in (("search", "x", "--since", "soon"), ("context", "trip", "--all")):
        ran = cli(remembering, "memory", *words, "--json")
        assert (ran.status, json.loads(ran.out)["code"]) == (1, "malformed_request"), words


def test_a_search_shows_passages_and_contradictions(remembering: MemoryHosts, cli: Cli) -> None:
    """Of a long text the part that fits, and which results state different values."""
    with remembering.memory.memory.transaction():
        for rent in (340, 355):
            content = f"The rent of the box room is {rent} a month."
            remembering.memory.interactions.add("s", "code", content, "agent")
        long = "The valves were looked at for a while. " * 20
        remembering.memory.interactions.add("s", "code", f"{long}The key hangs behind the cabinet. {long}", "agent")
    ran = cli(remembering, "memory", "search", "rent", "of", "the", "box", "room")
    assert "note: results 1 and 2 state different values" in ran.err.splitlines()
    ran = cli(remembering, "memory", "search", "where", "is", "the", "key", "of", "the", "cabinet")
    shown = " ".join(ran.out.split())
    assert "key hangs behind the cabinet" in shown
    assert len(shown) < 900


def test_an_agents_key_may_do_none_of_it(remembering: MemoryHosts, cli: Cli, tmp_path: Path, older: list[str]) -> None:
    """They are an operator's actions."""
    remembering.folders["operator"] = remembering.folders["server"]
    for words in (
        ("backup", str(tmp_path / "b")),
        ("restore", older[0], "--yes"),
        ("import", older[0]),
        ("by", "operator"),
        ("quarantine", "operator"),
        ("release", "operator"),
    ):
        ran = cli(remembering, "memory", *words)
        assert (ran.status, "[not_granted]" in ran.err) == (1, True), words
    assert not (tmp_path / "b").exists()


def test_long_work_shows_its_progress_on_a_terminal(remembering: MemoryHosts, tmp_path: Path, older: list[str]) -> None:
    """On a line that is erased at the end; a pipe has nothing of it."""
    for label, words in (("memory_store.json", ("import", *older)), ("backup", ("backup", str(tmp_path / "first")))):
        shown = run_on_terminal(remembering.environment, "memory", *words)
        bar, complete, rest = shown.out.partition("100%")
        assert (shown.status, label in bar, bool(complete), "\x1b[2K" in rest) == (0, True, True, True), words
    ran = run_process(remembering.environment, "memory", "backup", str(tmp_path / "second"))
    assert (ran.status, ran.err, "%" in ran.out) == (0, "", False)


def test_an_agent_that_is_not_there_is_one_sentence(start_hosts: StartHosts) -> None:
    hosts: TwoHosts = start_hosts()
    hosts.pc2.stop()
    ran = run_process(hosts.environment, "memory", "by", "somebody")
    assert ran.status == 1
    assert ran.err.startswith("error [server_unreachable]: ")
    assert f":{hosts.pc2.port} within 5 s" in ran.err


@pytest.mark.parametrize("words", [("nonsense",), ("by",), ("restore",), ("import",), ("by", "x", "-n", "0")])
def test_a_wrong_usage_is_2(remembering: MemoryHosts, cli: Cli, words: tuple[str, ...]) -> None:
    ran = cli(remembering, "memory", *words)
    assert ran.status == 2
    assert "Traceback" not in ran.err


def test_the_changes_of_a_twin_are_listed_with_their_writers(remembering: MemoryHosts, cli: Cli) -> None:
    """Newest first; a deletion has no data."""
    with remembering.memory.memory.transaction():
        remembering.memory.twins.put(Change("ada", by("agent")), {"a": 1})
        remembering.memory.twins.patch(Change("ada", by("other")), {"b": "two words"})
        remembering.memory.twins.remove(Change("ada", by("agent")))
    ran = cli(remembering, "memory", "twin", "ada")
    assert (ran.status, ran.err) == (0, "")
    title, _, *rows = ran.out.splitlines()
    assert title == "Changes (3)"
    assert [[row.split()[0], *row.split()[3:]] for row in rows[::2]] == [
        ["3", "delete", "agent"],
        ["2", "patch", "other"],
        ["1", "update", "agent"],
    ]
    assert rows[1::2] == ["  -", '  {"b":"two words"}', '  {"a":1}']
    advice = cli(remembering, "memory", "twin", "ada", "-n", "2").err
    assert "raise -n" in advice
    older = cli(remembering, *shlex.split(advice.split("./twinhost ")[1]), "--json")
    assert [change["revision"] for change in json.loads(older.out)["changes"]] == [1]
    document = json.loads(cli(remembering, "memory", "twin", "ada", "--json").out)
    assert [change["revision"] for change in document["changes"]] == [3, 2, 1]
