"""What a restore says at its end: what is there now, and what a person has to look at."""

import sqlite3
from pathlib import Path

from twinhost.archive.contents import contents_of
from twinhost.archive.exchange import kept_as
from twinhost.archive.places import Places
from twinhost.archive.restore import Checked, Restored
from twinhost.archive.state import check_audit
from twinhost.certificates.arguments import only_host
from twinhost.certificates.survey import is_revoked, own_pairs
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.store.backup import count_readable_rows, count_rows
from twinhost.store.damage import REPLACED
from twinhost.store.files import part

RUN = "docker compose run --rm"
_KINDS = {"agents": "registrations", "happenings": "events and errors", "leases": "leases"}  # by the database's table


def told_of_check(checked: Checked) -> list[str]:
    """Return what an archive holds."""
    manifest = checked.manifest
    return [
        *(f"remark: {remark}" for remark in checked.remarks),
        f"the archive is whole: {manifest.host} as of {manifest.moment}, by twinhost {manifest.program}",
        str(checked.contents),
        *checked.trust,
    ]


def told_of_restore(places: Places, restored: Restored) -> list[str]:
    """Return what was restored, what gave way, and what is to be done.

    Raises:
        TwinhostError: what was put in place can't be read.
    """
    commit, layout = restored.commit, places.layout
    server = load_certificates(layout.root / layout.server_host).own_keys
    audit = check_audit(places.database, places.audit)
    lines = [f"remark: {remark}" for remark in restored.checked.remarks] if restored.checked else []
    lines.append(f"restored {layout.server_host} as of {commit.moment}: ")
    lines[-1] += str(contents_of(layout, server, places.database, audit))
    lines += [f"what was here is kept: {path}" for path in kept_as(places, commit.stamp) if path.exists()]
    lines += _lost(part(places.database, f".{REPLACED}-{commit.stamp}"), places.database)
    lines += _revocations(restored)
    lines += _own_keys(places)
    lines.append(
        "Start it: docker compose up -d mainpc. Where another machine runs with this key, stop that one first."
    )
    return lines


def _lost(replaced: Path, present: Path) -> list[str]:
    """Return by how much the database that is here now has less than the one that gave way."""
    if not replaced.exists():
        return []
    try:
        before: dict[str, int | None] = {**count_rows(replaced)}
    except sqlite3.Error:
        before = count_readable_rows(replaced)
    now = count_rows(present)
    fewer = {kind: _fewer(before.get(table), now[table]) for table, kind in _KINDS.items()}
    known = f"fewer than what was here: {', '.join(f'{count} {kind}' for kind, count in fewer.items())}"
    return [known + (" (?: can't be counted in the damaged database)" if "?" in fewer.values() else "")]


def _fewer(before: int | None, now: int) -> str:
    return "?" if before is None else str(max(0, before - now))


def _revocations(restored: Restored) -> list[str]:
    """Return what became of keys that were revoked since."""
    commit = restored.commit
    lines = []
    but = ""
    if commit.carried:
        lines.append(f"{len(commit.carried)} keys that were revoked or retired on this machine since stay so.")
        but = "elsewhere "
    lines.append(
        f"Keys that were revoked {but}after {commit.moment} are good again: compare `{RUN} cli keys list` with what "
        f"you know, such as `cli audit tail` of the mainpc before, and revoke them anew: {RUN} certs-init revoke NAME"
    )
    return lines


def _own_keys(places: Places) -> list[str]:
    """Return which keys of this machine can't be used as they are."""
    layout = places.layout
    lines = [
        f"The backup's key of {pair.certificate.owner.name} was revoked or rotated since; for a new one: {RUN} "
        f"certs-init replace {pair.certificate.owner.name}"
        for _, pair in own_pairs(layout)
        if pair.certificate.owner.host == layout.server_host and is_revoked(layout, pair.certificate)
    ]
    elsewhere = [one for one in layout.remote if not layout.secret_file(one).exists()]
    if only_host() is None and elsewhere:
        names = ", ".join(one.owner.name for one in elsewhere)
        lines.append(
            f"The secret of {names} is not on this machine: set TWINHOST_HOST={layout.server_host} in .env, "
            "or certs-init will ask for it."
        )
    return lines
