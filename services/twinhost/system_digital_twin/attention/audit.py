"""Detectors about the audit log: changed files, witnesses that have seen another log, and a restore."""

import shlex
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import msgspec

from twinhost.agent.conditions import AUDIT_RESTORED, LOG_CHECK, WITNESS_CHECK
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble
from twinhost.moments import parse_time
from twinhost.store.audit_log.inspection import BrokenFile, Inspector
from twinhost.store.audit_log.log import Contradiction
from twinhost.system_digital_twin.trust.audit import Restored

_SHOWN = 10  # lines
_VERIFY = "./twinhost audit verify"
_ACCEPT = Remedy("mainpc", "./twinhost audit accept", "accepts the log as it is, once its cause is known")


def changed_log(
    host: str, folder: Path, inspected: Inspector, contradiction: Contradiction | None, before: Trouble | None
) -> Iterator[Trouble]:
    """Yield a trouble if the log is, or was, not as it was written; a further line is news.

    Who changed it back knows of it, and the operator should: it stays until it is acknowledged.

    Args:
        contradiction: why a file was not as the database has it, until all files have been read.
        before: the trouble as it was found last, unless it was acknowledged.
    """
    if inspected.broken:
        yield _changed_files(host, folder, inspected.broken)
    elif contradiction is not None:
        yield _changed(host, folder / contradiction.file, contradiction.why)
    elif before is not None and inspected.intact:
        yield _changed_back(before)


def _changed_files(host: str, folder: Path, files: Sequence[BrokenFile]) -> Trouble:
    found = [(file.name, finding) for file in files for finding in file.findings.findings]
    name, first = found[0]
    count = len(found) + sum(file.findings.more for file in files)
    more = f", and {count - 1} more faults" if count > 1 else ""
    return msgspec.structs.replace(
        _changed(host, folder / name, f"{first.sentence}{more}"),
        cause=f"{folder / name} is not as it was written, from line {first.seq} on",
        evidence=tuple((f"{name}, line {finding.seq}", finding.sentence) for name, finding in found[:_SHOWN]),
        members=tuple(f"{name}:{finding.seq}" for name, finding in found),
    )


def _changed(host: str, path: Path, why: str) -> Trouble:
    return Trouble(
        kind=Kind.AUDIT_TAMPERED,
        subject=host,
        host=host,
        what=f"{host}'s audit log was changed: {why}",
        level=Level.BROKEN,
        cause=f"{path} was not as it was written",
        remedies=(
            Remedy(host, _VERIFY, "shows every fault, and what the other hosts have seen of the log"),
            Remedy(host, f"docker compose cp {host}:{path.parent} .", "keeps a copy of the log as evidence"),
        ),
        evidence=((path.name, why),),
        members=(f"{path.name}: {why}",),
        explains=(f"{Kind.AUDIT_CONTRADICTED}:*", f"{Kind.CHECK_FAILED}:{host}/{LOG_CHECK}"),
    )


def _changed_back(before: Trouble) -> Trouble:
    if before.level is Level.ATTENTION:
        return before
    return msgspec.structs.replace(
        before,
        what=f"{before.host}'s audit log was changed, and is intact again",
        level=Level.ATTENTION,
        cause=f"{before.what}; all of it was verified since, and somebody can write to it: this stays until you "
        "acknowledge it",
        remedies=(
            Remedy("mainpc", f"./twinhost attention acknowledge {shlex.quote(before.id)}", "ends this"),
            Remedy("mainpc", _VERIFY, "verifies it again, and compares it with what the other hosts have seen"),
        ),
    )


def contradicting_witnesses(host: str, faults: Mapping[str, str], host_of: Mapping[str, str]) -> Iterator[Trouble]:
    """Yield a trouble for each witness that has seen another log; `host_of` has the hosts of agents."""
    for witness, fault in faults.items():
        yield Trouble(
            kind=Kind.AUDIT_CONTRADICTED,
            subject=witness,
            host=host,
            what=f"{host}'s audit log is not the one that {witness} has seen",
            level=Level.BROKEN,
            cause=fault,
            remedies=(Remedy(host, _VERIFY, "shows from which line on they differ"), _ACCEPT),
            explains=(f"{Kind.CHECK_FAILED}:{host_of.get(witness, witness)}/{WITNESS_CHECK}",),
        )


def restored_log(host: str, restored: Restored | None, host_of: Mapping[str, str]) -> Iterator[Trouble]:
    """Yield a trouble for a restore that nobody has explained."""
    if restored is None:
        return
    lost = [f"lines {first} to {last} that {name} has seen" for name, (first, last) in restored.lost.items()]
    gone = f", and its audit log lacks {' and '.join(lost)}" if lost else ""
    yield Trouble(
        kind=Kind.RESTORED,
        subject=host,
        host=host,
        what=f"{host}'s state was replaced by a backup{gone}",
        cause="archive restore, or somebody who wants it to look like one",
        since=None if restored.time is None else parse_time(restored.time).timestamp(),
        remedies=(
            Remedy(host, _VERIFY, "shows when, and with which line the backup ended"),
            Remedy("mainpc", "./twinhost audit accept", f"acknowledges it on the other hosts, if you restored {host}"),
        ),
        members=tuple(lost),
        explains=tuple(f"{Kind.WARNING}:{host_of.get(name, name)}/{AUDIT_RESTORED}" for name in restored.lost),
    )
