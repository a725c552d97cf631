"""Detectors about the audit log: changed files, witnesses that have seen another log, and a restore."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

from twinhost.agent.conditions import AUDIT_RESTORED, LOG_CHECK, WITNESS_CHECK
from twinhost.agent.troubles import Kind, Level, Remedy, Trouble
from twinhost.moments import parse_time
from twinhost.store.audit_log.inspection import BrokenFile
from twinhost.system_digital_twin.trust.audit import Restored

_SHOWN = 10  # lines
_VERIFY = "./twinhost audit verify"
_ACCEPT = Remedy("mainpc", "./twinhost audit accept", "accepts the log as it is, once its cause is known")


def changed_files(host: str, folder: Path, broken: Iterable[BrokenFile]) -> Iterator[Trouble]:
    """Yield a trouble if files of the log are not as they were written; a further line is news."""
    files = list(broken)
    if not files:
        return
    found = [(file.name, finding) for file in files for finding in file.findings.findings]
    name, first = found[0]
    count = len(found) + sum(file.findings.more for file in files)
    more = f", and {count - 1} more faults" if count > 1 else ""
    yield Trouble(
        kind=Kind.AUDIT_TAMPERED,
        subject=host,
        host=host,
        what=f"{host}'s audit log was changed: {first.sentence}{more}",
        level=Level.BROKEN,
        cause=f"{folder / name} is not as it was written, from line {first.seq} on",
        remedies=(
            Remedy(host, _VERIFY, "shows every fault, and what the other hosts have seen of the log"),
            Remedy(host, f"docker compose cp {host}:{folder} .", "keeps a copy of the log as evidence"),
        ),
        evidence=tuple((f"{name}, line {finding.seq}", finding.sentence) for name, finding in found[:_SHOWN]),
        members=tuple(f"{name}:{finding.seq}" for name, finding in found),
        explains=(f"{Kind.AUDIT_CONTRADICTED}:*", f"{Kind.CHECK_FAILED}:{host}/{LOG_CHECK}"),
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
