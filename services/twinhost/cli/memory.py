"""`memory`: back up, restore and import what pc2 remembers; see and hide what a caller wrote."""

import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer
from rich.console import RenderableType

from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, AsJson
from twinhost.cli.connect import Settings, load_settings
from twinhost.cli.documents import read
from twinhost.cli.memory_import import Importer, Written, read_items
from twinhost.cli.memory_transfer import fetch_backup, send_backup, started_at, wait_until_restarted
from twinhost.cli.output import printable, to_json
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.files import new_file

memory = typer.Typer(help="What pc2 remembers: backups, imports, and who wrote it.")

MEMORY_AGENT = "UnifiedMemoryReasoningAgent"
STREAM = "-"
_NOBODY = "unauthenticated"  # the caller's name on an open link
_NOT_SHOWN = frozenset({"number", "written_by"})
_MAX_VALUE_CHARACTERS = 120
KINDS = {  # shown to people, by table; the other tables derive from these, and --json has them all
    "interactions": "interactions",
    "memories": "memories",
    "error_patterns": "error patterns",
    "solution_outcomes": "solution outcomes",
    "unknown_errors": "unknown errors",
    "twins": "twins",
    "operations": "claimed operations",
    "quarantined": "hidden writers",
    "outbox": "owed to mainpc",
}

Name = Annotated[str, typer.Argument(metavar="NAME", help="A caller's name, as in its key.")]


@memory.command("backup")
def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A new file; - is stdout.")], as_json: AsJson = False
) -> int:
    """Write a backup of the memory, while the agent keeps serving.

    It is a complete SQLite database of one moment, with everything stored: protect it like a secret key.
    """
    with _client() as (client, _), _new_file(file) as write:
        made = fetch_backup(client, write.write)
    counts = ", ".join(f"{made['rows'][table]} {kind}" for table, kind in KINDS.items() if made["rows"].get(table))
    sentence = f"{made['size']} bytes; {counts or 'nothing is stored'}"
    if file == STREAM:
        output.say("backup:", output.GOOD, sentence)
    elif as_json:
        facts = {"size": made["size"], "sha256": made["sha256"], "rows": made["rows"]}
        output.show_value({"status": "ok", "file": file, **facts}, as_json=True)
    else:
        output.show_line(f"{file}: {sentence}")
    return 0


@memory.command("restore")
def restore(
    file: Annotated[str, typer.Argument(metavar="FILE", help="What `backup` wrote; - is stdin.")],
    yes: Annotated[bool, typer.Option("--yes", help="Confirm that it replaces everything that pc2 remembers.")] = False,
    as_json: AsJson = False,
) -> int:
    """Replace the present memory by a backup.

    It shows how much is lost. The agent checks the whole backup, keeps the present database beside it, and restarts
    with the backup.
    """
    if not yes:
        raise typer.BadParameter("it replaces everything that pc2 remembers; confirm it", param_hint="--yes")
    with _client() as (client, settings), _source(file) as (source, size):
        before = started_at(client, DEADLINE_S)
        rows = send_backup(client, source, size, settings.config.limits.max_payload_bytes)
        if as_json:
            output.show_value({"status": "ok", "file": file, "rows": rows}, as_json=True)
        else:
            output.show(_restore_table(rows))
        wait_until_restarted(client, before)
    return 0


@memory.command("import")
def import_files(
    files: Annotated[
        list[Path],
        typer.Argument(metavar="FILE...", help="memory_store.json, error_patterns.json, digital_twin_store.json."),
    ],
    as_json: AsJson = False,
) -> int:
    """Store the content of the older agent's JSON files.

    A second import changes nothing.
    """
    wanted = [(path, read_items(path)) for path in files]  # all are read before anything is sent
    counts: dict[str, dict[str, int]] = {}
    with _client() as (client, settings):
        own = settings.certificates.own_keys.certificate.owner.name if settings.certificates else _NOBODY
        importer = Importer(client, own)
        for path, items in wanted:
            importer.added = importer.there = 0
            importer.store(str(path), items)
            counts[str(path)] = {"added": importer.added, "there_already": importer.there}
    if as_json:
        output.show_value({"status": "ok", "files": counts}, as_json=True)
    else:
        for name, count in counts.items():
            output.show_line(printable(f"{name}: {count['added']} added, {count['there_already']} there already"))
    return 0


@memory.command("by")
def by(
    name: Name,
    limit: Annotated[int, typer.Option("-n", "--limit", metavar="N", min=1, max=1_000, help="Of each kind.")] = 20,
    as_json: AsJson = False,
) -> int:
    """Show what a caller wrote, newest first, in quarantine or not."""
    with _client() as (client, _):
        reply = client.call("memory_by", deadline_s=DEADLINE_S, name=name, limit=limit)
    if as_json:
        output.show_value(reply, as_json=True)
        return 0
    written = read(reply, Written)
    for kind, page in written.written.items():
        for entry in page.entries:
            output.show_line(_line(kind, entry))
        if page.more:
            output.say("more:", output.FAINT, f"there are older {kind}; raise -n, or call memory_by with before=")
    if written.quarantined:
        output.say(
            "quarantined:",
            output.WARN,
            f"nothing of {name} is recalled; ./twinhost memory release {name} shows it again",
        )
    return 0


@memory.command("quarantine")
def quarantine(
    name: Name,
    reason: Annotated[str, typer.Option("--reason", metavar="TEXT", help="Kept, and listed by list_quarantine.")] = "",
    as_json: AsJson = False,
) -> int:
    """Hide what a caller wrote and will write from every recall.

    Nothing is deleted.
    """
    with _client() as (client, _):
        reply = client.call("quarantine_memory", deadline_s=DEADLINE_S, name=name, reason=reason)
    _show_done(reply, f"what {name} wrote is hidden; ./twinhost memory release {name} shows it again", as_json=as_json)
    return 0


@memory.command("release")
def release(name: Name, as_json: AsJson = False) -> int:
    """Show again what a caller wrote."""
    with _client() as (client, _):
        reply = client.call("release_memory", deadline_s=DEADLINE_S, name=name)
    _show_done(reply, f"what {name} wrote is recalled again", as_json=as_json)
    return 0


@contextmanager
def _client() -> Iterator[tuple[Client, Settings]]:
    settings = load_settings()
    with settings.client(settings.config.agent(MEMORY_AGENT)) as client:
        yield client, settings


@contextmanager
def _new_file(file: str) -> Iterator[BinaryIO]:
    """Open stdout, or a file that does not exist yet."""
    if file == STREAM:
        if sys.stdout.isatty():
            raise typer.BadParameter("a backup is binary; redirect stdout to a file", param_hint="FILE")
        yield sys.stdout.buffer
        sys.stdout.buffer.flush()
        return
    path = Path(file)
    if path.exists():
        raise typer.BadParameter(f"{file} exists already; name another", param_hint="FILE")
    with new_file(path) as stream:
        yield stream


@contextmanager
def _source(file: str) -> Iterator[tuple[BinaryIO, int | None]]:
    if file == STREAM:
        yield sys.stdin.buffer, None
        return
    try:
        stream = Path(file).open("rb")  # noqa: SIM115 - closed below
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read ({error.strerror}); check its path and its mode") from None
    with stream:
        yield stream, os.fstat(stream.fileno()).st_size or None


def _line(kind: str, entry: dict[str, Any]) -> str:
    fields = " ".join(f"{name}={_value(value)}" for name, value in entry.items() if name not in _NOT_SHOWN)
    return printable(f"{kind} {entry.get('number')}  {fields}")


def _value(value: Any) -> str:
    text = value if isinstance(value, str) and " " not in value and value else to_json(value)
    return text if len(text) <= _MAX_VALUE_CHARACTERS else f"{text[: _MAX_VALUE_CHARACTERS - 1]}\u2026"


def _show_done(reply: dict[str, Any], sentence: str, *, as_json: bool) -> None:
    if as_json:
        output.show_value(reply, as_json=True)
    else:
        output.show_line(printable(sentence))


def _restore_table(rows: Mapping[str, Mapping[str, object]]) -> RenderableType:
    columns = ["present", "backup", *(["damaged"] if any("damaged" in each for each in rows.values()) else []), "lost"]
    return output.table(
        "What the backup brings",
        ("kind", *columns),
        [
            (kind, *(_count(column, rows[table].get(column)) for column in columns))
            for table, kind in KINDS.items()
            if table in rows
        ],
    )


def _count(column: str, count: object) -> output.Cell:
    return output.styled("?" if count is None else str(count), output.BAD if column == "lost" and count else "")
