"""`memory`: back up, restore and import the memory of pc2; show and quarantine what a caller wrote."""

import hashlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import msgspec
import typer
from rich.console import RenderableType

from twinhost.cli import output
from twinhost.cli.arguments import AsJson, Space
from twinhost.cli.memory.importing import Importer, read_items
from twinhost.cli.memory.reads import (
    MEMORY_AGENT,
    Name,
    audit,
    by,
    context,
    history,
    in_space,
    memory_client,
    search,
    twin,
)
from twinhost.cli.output import Progress, parse_moment, printable, read
from twinhost.cli.standalone import opened
from twinhost.clients.system_replies import HealthDocument
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import (
    ConnectionRefused,
    MalformedRequest,
    ServerUnreachable,
    StoreUnavailable,
)
from twinhost.store.files import new_file
from twinhost.unified_memory_reasoning.backup.actions import BackupDocument, RestoreBegun, RestoreFinished, TableRows

memory = typer.Typer(help="The memory of pc2: search, audit, backup, quarantine.")
for command in (search, context, audit, history, by, twin):
    memory.command(command.__name__)(command)

STREAM = "-"
_UNAUTHENTICATED = "unauthenticated"  # the caller's name on an open link
KINDS = {  # shown to people, by table; the other tables derive from these, and --json has them all
    "interactions": "interactions",
    "memories": "memories",
    "error_patterns": "error patterns",
    "solution_outcomes": "solution outcomes",
    "unknown_errors": "unknown errors",
    "twins": "twins",
    "operations": "claimed operations",
    "quarantined": "quarantined callers",
    "outbox": "undelivered to mainpc",
}


@memory.command("backup")
def backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A new file; - is stdout.")], as_json: AsJson = False
) -> int:
    """Write a backup of the memory, while the agent keeps serving.

    It is a complete SQLite database of one moment, with everything stored, in all spaces: protect it like a secret key.
    """
    with memory_client() as (client, _), _new_file(file) as write, output.progress("backup") as progress:
        made = fetch_backup(client, write.write, progress)
    counts = ", ".join(f"{made['rows'][table]} {kind}" for table, kind in KINDS.items() if made["rows"].get(table))
    spaces = f"; and the spaces {', '.join(made['spaces'])}" if made.get("spaces") else ""
    sentence = f"{made['size']} bytes; {counts or 'nothing is stored'}{spaces}"
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
    yes: Annotated[bool, typer.Option("--yes", help="Confirm that it replaces the whole memory of pc2.")] = False,
    as_json: AsJson = False,
) -> int:
    """Replace the present memory with a backup.

    It shows how many rows the backup adds, keeps, and replaces, and how many are missing in it. The agent checks the
    whole backup, keeps the present database beside it, and restarts with the backup.
    """
    if not yes:
        raise typer.BadParameter("it replaces the whole memory of pc2; confirm it", param_hint="--yes")
    with memory_client() as (client, settings), _source(file) as (source, size):
        before = started_at(client)
        with output.progress("restore") as progress:
            rows = send_backup(client, source, size, settings.config.limits.max_payload_bytes, progress)
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
    space: Space = None,
    as_json: AsJson = False,
) -> int:
    """Store the content of the older agent's JSON files.

    A second import changes nothing.
    """
    wanted = [(path, read_items(path)) for path in files]  # all are read before anything is sent
    counts: dict[str, dict[str, int]] = {}
    with memory_client() as (client, settings):
        own = settings.certificates.own_keys.certificate.owner.name if settings.certificates else _UNAUTHENTICATED
        importer = Importer(client, own, in_space(space))
        for path, items in wanted:
            with output.progress(path.name) as progress:
                imported = importer.store(str(path), items, progress)
            counts[str(path)] = {**asdict(imported), "there_already": imported.kept}
        forgotten = importer.forgotten
    if as_json:
        output.show_value({"status": "ok", "files": counts}, as_json=True)
    else:
        for name, count in counts.items():
            further = "".join(f", {count[outcome]} {outcome}" for outcome in ("replaced", "missing") if count[outcome])
            output.show_line(printable(f"{name}: {count['added']} added, {count['kept']} already present{further}"))
        if forgotten:
            output.say(
                "forgotten:",
                output.WARN,
                f"{forgotten} of these memories are already forgotten, since their last access is long ago; "
                "to recover one: "
                f"./twinhost call {MEMORY_AGENT} reinforce_memory memory_id=ID{f' space={space}' if space else ''}",
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
    with memory_client() as (client, _):
        reply = client.call("quarantine_memory", name=name, reason=reason)
    output.show_done(
        reply, f"what {name} wrote is hidden; to show it again: ./twinhost memory release {name}", as_json=as_json
    )
    return 0


@memory.command("release")
def release(name: Name, as_json: AsJson = False) -> int:
    """Release what a caller wrote from quarantine."""
    with memory_client() as (client, _):
        reply = client.call("release_memory", name=name)
    output.show_done(reply, f"what {name} wrote is shown again", as_json=as_json)
    return 0


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
    with opened(file) as stream:
        yield stream, os.fstat(stream.fileno()).st_size or None


def _restore_table(rows: Mapping[str, Mapping[str, object]]) -> RenderableType:
    damaged = ["damaged"] if any("damaged" in counts for counts in rows.values()) else []
    columns = ["present", "backup", *damaged, "added", "kept", "replaced", "missing"]
    return output.table(
        "Rows before and after",
        ("kind", *columns),
        [
            (kind, *(_count(column, rows[table].get(column)) for column in columns))
            for table, kind in KINDS.items()
            if table in rows
        ],
    )


def _count(column: str, count: object) -> output.Cell:
    return output.styled("?" if count is None else str(count), output.BAD if column == "missing" and count else "")


_DEADLINE_S = 30.0  # for a part, on a slow link
_POLL_S = 0.1
_MADE_WITHIN_S = 600.0  # a copy, or the check of one
RESTARTED_WITHIN_S = 60.0
_MESSAGE_OVERHEAD = 1_024


class BackupPart(msgspec.Struct, frozen=True):
    """The used part of the reply to `read_backup`, its base64 decoded."""

    offset: int
    data: bytes


def fetch_backup(client: Client, write: Callable[[bytes], object], progress: Progress) -> BackupDocument:
    """Let the agent make a backup, and write all of it; the document has its size, digest, and rows.

    Raises:
        StoreUnavailable: the agent can't make it.
        MalformedRequest: the received bytes have another digest.
        TwinhostError: the agent can't be asked, or refuses.
    """
    call = partial(client.call, deadline_s=_DEADLINE_S)
    backup = read(call("begin_backup"), BackupDocument)
    polls = _polls("the backup is not ready")
    while backup["state"] == "copying":
        next(polls)
        backup = read(call("backup_status", backup_id=backup["backup_id"]), BackupDocument)
    if (failure := backup.get("failure")) is not None:
        raise StoreUnavailable(failure)
    digest, offset = hashlib.sha256(), 0
    while offset < backup["size"]:
        data = read(call("read_backup", backup_id=backup["backup_id"], offset=offset), BackupPart).data
        if not data:
            break
        digest.update(data)
        write(data)
        offset += len(data)
        progress(offset, backup["size"])
    if offset != backup["size"] or digest.hexdigest() != backup["sha256"]:
        raise MalformedRequest(
            f"received {offset} of {backup['size']} bytes, and their digest differs; run the command again"
        )
    return backup


def send_backup(
    client: Client,
    source: BinaryIO,
    size: int | None,
    max_payload_bytes: int,
    progress: Progress,
) -> Mapping[str, TableRows]:
    """Send a backup and let the agent check and stage it; return what becomes of the rows of each table.

    Args:
        client: of the agent.
        source: the backup, at its beginning.
        size: in bytes, if it is known in advance.
        max_payload_bytes: of a message.
        progress: called with the bytes that are sent, and `size`.

    Raises:
        MalformedRequest: it is not a backup of this agent.
        TwinhostError: the agent can't be asked, or refuses.
    """
    call = partial(client.call, deadline_s=_DEADLINE_S)
    begun = read(call("begin_restore", size=size), RestoreBegun)
    restore_id = begun["restore_id"]
    part_bytes = max(1, min(begun["chunk_bytes"], (max_payload_bytes - _MESSAGE_OVERHEAD) // 4 * 3))
    digest, offset = hashlib.sha256(), 0
    while data := source.read(part_bytes):
        call("write_restore", restore_id=restore_id, offset=offset, data=data)
        digest.update(data)
        offset += len(data)
        progress(offset, size)
    if not offset:
        raise MalformedRequest("the file is empty; name a file that `./twinhost memory backup` wrote")
    sent: dict[str, Any] = {"restore_id": restore_id, "size": offset, "sha256": digest.hexdigest()}
    for _ in _polls("the backup is not checked"):
        finished = read(call("finish_restore", **sent), RestoreFinished)
        if finished["state"] == "staged":
            return finished["rows"]
    raise AssertionError("unreachable: _polls raises at its end")


def _polls(complaint: str) -> Iterator[None]:
    """Yield now and after each pause; raise ServerUnreachable after the timeout."""
    ends = time.monotonic() + _MADE_WITHIN_S
    while time.monotonic() < ends:
        yield
        time.sleep(_POLL_S)
    raise ServerUnreachable(f"{complaint} within {_MADE_WITHIN_S:g} s; see the agent's log: docker compose logs pc2")


def started_at(client: Client, deadline_s: float | None = None) -> float:
    """Return when an agent's process started, by its own clock, in seconds since the epoch."""
    health = read(client.call("health", deadline_s=deadline_s), HealthDocument)
    moment = parse_moment(health.timestamp)
    return (moment.timestamp() if moment else 0.0) - health.uptime_s


def wait_until_restarted(client: Client, before: float) -> None:
    """Wait until an agent answers that started after `before`.

    Raises:
        ServerUnreachable: none does.
    """
    ends = time.monotonic() + RESTARTED_WITHIN_S
    while (left_s := ends - time.monotonic()) > 0:
        try:
            if started_at(client, min(2.0, left_s)) > before + 0.5:  # the error of two clock readings
                return
        except ConnectionRefused:
            pass
        time.sleep(min(_POLL_S, left_s))
    raise ServerUnreachable(
        f"the backup is staged, but the agent did not restart within {RESTARTED_WITHIN_S:g} s; "
        "start it, which puts the backup in place: docker compose up -d pc2"
    )
