"""archive: back up mainpc's whole state into one file, and restore it."""

import os
import sqlite3
import sys
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from twinhost.agent.backups import BackupRecord
from twinhost.archive.backup import back_up
from twinhost.archive.places import Places, find_places
from twinhost.archive.restore import Checked, Restored, check, kept_as, restore
from twinhost.archive.state import BROKEN_LOG, check_audit, contents_of
from twinhost.certificates.layout import SERVER, only_host
from twinhost.certificates.tree import is_revoked, own_pairs
from twinhost.cli.standalone import STANDARD_STREAM, Version, application, note, opened, run
from twinhost.commands import CERTS_INIT, RESTORE_WITH_STANDBYS
from twinhost.moments import parse_time
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DATABASE_VARIABLE
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.store.backup import count_readable_rows, count_rows
from twinhost.store.damage import REPLACED
from twinhost.store.files import new_file, part
from twinhost.store.stored_bytes import KINDS

PROGRAM = "archive"
_CLI = "docker compose run --rm cli"
_KINDS = {**KINDS, "leases": "leases"}  # by the database's table

app = application("mainpc's whole state (registry, audit log, peers, the keys of that host) in one file.")
BrokenLog = Annotated[bool, typer.Option(BROKEN_LOG, help="Accept an audit log that is incomplete or changed.")]
Source = Annotated[str, typer.Argument(metavar="FILE", help="The archive; - is standard input.")]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 for success, 1 for a refusal, 2 for a usage error."""
    return run(app, PROGRAM, sys.argv[1:] if arguments is None else arguments)


@app.callback()
def _options(_version: Version = False) -> None:
    pass


@app.command("backup")
def run_backup(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The archive; - is standard output.")],
    broken_log: BrokenLog = False,
) -> None:
    """Write an archive, while mainpc runs."""
    if wrong := _wrong_target(file):
        raise typer.BadParameter(wrong, param_hint="FILE")
    with _places() as places:
        with _new_file(file) as stream:
            moment = back_up(places, stream.write, note, broken_log=broken_log)
        _record(places).backed_up(moment)


@app.command("restore")
def run_restore(
    file: Source,
    replace: Annotated[
        bool, typer.Option("--replace", help="Replace an existing state, which is kept next to the new one.")
    ] = False,
    broken_log: BrokenLog = False,
) -> None:
    """Put an archive in the place of mainpc's state, while mainpc is stopped."""
    with _places() as places, _source(file) as stream:
        _require_no_log(places)
        restored = restore(places, stream, note, may_replace=replace, broken_log=broken_log)
        _record(places).restored(parse_time(restored.commit.moment).timestamp())
        for line in _report_of_restore(places, restored):
            note(line)


@app.command("check")
def run_check(file: Source, broken_log: BrokenLog = False) -> None:
    """Check whether an archive can be restored, and change nothing."""
    with _places() as places, _source(file) as stream:
        checked = check(places, stream, broken_log=broken_log)
        _record(places).checked()
        for line in _report_of_check(checked):
            note(line)


@contextmanager
def _places() -> Iterator[Places]:
    try:
        yield find_places(load_network_config())
    except KeyboardInterrupt:
        note(f"{PROGRAM}: interrupted; nothing was changed, unless the next run says so")
        raise typer.Exit(1) from None


def _require_no_log(places: Places) -> None:
    """Raise ConfigurationError where a standby may follow the present state; a new machine has none yet."""
    if os.environ.get(DATABASE_VARIABLE) and places.database.exists():
        raise ConfigurationError(
            f"a standby follows this state's log ({DATABASE_VARIABLE}), which a backup would not be in; go back to one "
            f"process of each agent: {RESTORE_WITH_STANDBYS}"
        )


def _record(places: Places) -> BackupRecord:
    return BackupRecord(places.state, SERVER, places.layout.clock)


def _wrong_target(file: str) -> str | None:
    """Return why a backup can't be written to a file; an existing one is never overwritten."""
    if file == STANDARD_STREAM:
        return "an archive is not text; redirect standard output to a file" if sys.stdout.isatty() else None
    return f"{file} exists already; name another file" if os.path.lexists(file) else None


@contextmanager
def _new_file(file: str) -> Iterator[BinaryIO]:
    if file != STANDARD_STREAM:
        with new_file(Path(file)) as stream:
            yield stream
        return
    yield sys.stdout.buffer
    sys.stdout.buffer.flush()


def _source(file: str) -> AbstractContextManager[BinaryIO]:
    return nullcontext(sys.stdin.buffer) if file == STANDARD_STREAM else opened(file)


def _report_of_check(checked: Checked) -> list[str]:
    """Return what an archive holds."""
    manifest = checked.manifest
    return [
        *(f"remark: {remark}" for remark in checked.remarks),
        f"the archive is whole: {manifest.host} as of {manifest.moment}, by twinhost {manifest.program}",
        str(checked.contents),
        *checked.trust,
    ]


def _report_of_restore(places: Places, restored: Restored) -> list[str]:
    """Return what was restored, what was replaced, and what to do next."""
    commit, layout = restored.commit, places.layout
    server = load_certificates(layout.root / layout.server_host).own_keys
    audit = check_audit(places.database, places.audit)
    contents = contents_of(layout, server, places.database, audit)
    return [
        *(f"remark: {remark}" for remark in (restored.checked.remarks if restored.checked else [])),
        f"restored {layout.server_host} as of {commit.moment}: {contents}",
        *(f"the replaced state is kept: {path}" for path in kept_as(places, commit.stamp) if path.exists()),
        *_lost(part(places.database, f".{REPLACED}-{commit.stamp}"), places.database),
        *_revocations(restored),
        *_own_keys(places),
        "Start it: docker compose up -d mainpc. Where another machine runs with this key, stop that one first.",
    ]


def _lost(replaced: Path, present: Path) -> list[str]:
    """Return how much less the restored database has than the replaced one."""
    if not replaced.exists():
        return []
    try:
        before: dict[str, int | None] = {**count_rows(replaced)}
    except sqlite3.Error:
        before = count_readable_rows(replaced)
    now = count_rows(present)
    fewer = {kind: _fewer(before.get(table), now[table]) for table, kind in _KINDS.items()}
    known = f"fewer than before the restore: {', '.join(f'{count} {kind}' for kind, count in fewer.items())}"
    return [known + (" (?: can't be counted in the damaged database)" if "?" in fewer.values() else "")]


def _fewer(before: int | None, now: int) -> str:
    return "?" if before is None else str(max(0, before - now))


def _revocations(restored: Restored) -> list[str]:
    """Return what applies to keys that were revoked after the backup."""
    commit = restored.commit
    carried = len(commit.carried)
    return [
        *([f"{carried} keys that were revoked or retired on this machine since stay revoked."] if carried else []),
        f"Keys that were revoked {'elsewhere ' if carried else ''}after {commit.moment} are authorised again: compare "
        f"`{_CLI} keys list` with what you know, such as the `{_CLI} audit tail` of the previous mainpc, and revoke "
        f"them again: {CERTS_INIT} revoke NAME",
    ]


def _own_keys(places: Places) -> list[str]:
    """Return which keys of this machine can't be used as they are."""
    layout = places.layout
    lines = [
        f"The backup's key of {pair.certificate.owner.name} was revoked or rotated since; for a new one: {CERTS_INIT} "
        f"replace {pair.certificate.owner.name}"
        for _, pair in own_pairs(layout)
        if pair.certificate.owner.host == layout.server_host and is_revoked(layout, pair.certificate)
    ]
    elsewhere = [place for place in layout.remote if not layout.secret_file(place).exists()]
    if only_host() is None and elsewhere:
        names = ", ".join(place.owner.name for place in elsewhere)
        lines.append(
            f"The secret of {names} is not on this machine: set TWINHOST_HOST={layout.server_host} in .env, or "
            "certs-init will ask for it."
        )
    return lines


if __name__ == "__main__":
    sys.exit(main())
