"""mainpc's state and keys as its agent leaves them, the command as a person runs it, and archives that others made."""

import hashlib
import io
import os
import sys
import tarfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, redirect_stderr
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

import msgspec

from tests.unit.certificates.trees import tree_layout
from twinhost.archive.file_format import MANIFEST, ArchiveWriter, Manifest, Member, mode_of
from twinhost.archive.places import MIGRATIONS
from twinhost.certificates.generate import make_keys
from twinhost.certificates.layout import HOST_VARIABLE
from twinhost.cli.archive import main
from twinhost.secure_zmq.keys import SECRET_SUFFIX, load_key_pair
from twinhost.store.audit_log.chain import AuditEvent
from twinhost.store.audit_log.log import KEEP_FILES, MAX_FILE_BYTES, AuditLog
from twinhost.store.database import Database
from twinhost.system_digital_twin.registry.registry import AgentRecord, Registry

SERVER, DATABASE = "SystemDigitalTwin", "SystemDigitalTwin.sqlite3"
_NOT_STATE = (".lock", ".archive.lock", f"{SERVER}.lock")


@dataclass(frozen=True)
class Ran:
    """A run of the command that ended."""

    status: int
    out: bytes
    err: str


class Mainpc:
    """One machine's folders; empty ones, until something is made or restored there."""

    def __init__(self, root: Path, host: str = "") -> None:
        self.root, self.host = root, host
        self.keys, self.state = root / "certificates", root / "state"
        for folder in (root, self.keys, self.state):
            folder.mkdir(mode=0o700, exist_ok=True)

    @property
    def database(self) -> Path:
        return self.state / DATABASE

    @property
    def fingerprint(self) -> str:
        return load_key_pair(self.keys / "mainpc/server.key_secret").public.fingerprint

    def make(self, agents: int = 3) -> "Mainpc":
        """Make keys of both hosts, a registry, and an audit log."""
        make_keys(tree_layout(self.keys))
        with self.opened() as (database, audit):
            registry = Registry(database, 60)
            with database.transaction():
                for number in range(agents):
                    registry.put(_agent(f"agent-{number}"))
                    audit.record(AuditEvent.KEY_AUTHORIZED, name=f"agent-{number}", host="pc2")
        return self

    @contextmanager
    def opened(
        self, max_file_bytes: int = MAX_FILE_BYTES, keep_files: int = KEEP_FILES
    ) -> Iterator[tuple[Database, AuditLog]]:
        """Have database and log open, as the agent has while it runs."""
        with closing(Database(self.database, MIGRATIONS)) as database:
            audit = AuditLog(database, self.state / "audit", max_file_bytes, keep_files)
            yield database, audit
            audit.close()

    def run(self, *arguments: str, given: bytes = b"") -> Ran:
        """Run the command on this machine, in this process."""
        out, err = io.BytesIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, self.environment()),
            mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(given))),
            mock.patch.object(sys, "stdout", io.TextIOWrapper(out)),
            redirect_stderr(err),
        ):
            try:
                status = main(arguments)
            except SystemExit as usage:  # argparse's
                status = int(str(usage.code))
            return Ran(status, out.getvalue(), err.getvalue())

    def environment(self) -> dict[str, str]:
        """Return what the command reads of its environment."""
        return {
            HOST_VARIABLE: self.host,
            "TWINHOST_CERTIFICATES": str(self.keys),
            "TWINHOST_STATE": str(self.state),
            "NETWORK_CONFIG_PATH": "",
            "MAINPC_IP": "",
            "PC2_IP": "",
        }

    def backup(self) -> bytes:
        """Return an archive of what is here."""
        ran = self.run("backup", "-")
        assert ran.status == 0, ran.err
        return ran.out

    def files(self) -> dict[str, tuple[int, bytes]]:
        """Return mode and content of every file but the locks, by its path; what SQLite alone makes left out."""
        return {
            str(path.relative_to(self.root)): (path.stat().st_mode & 0o777, path.read_bytes())
            for path in sorted(self.root.rglob("*"))
            if path.is_file() and path.name not in _NOT_STATE and not path.name.endswith(("-shm", "-wal"))
        }

    def key_files(self) -> dict[str, tuple[int, bytes]]:
        mine = ("certificates/mainpc/", "certificates/operator/")
        return {name: file for name, file in self.files().items() if name.startswith(mine)}

    def secrets(self) -> list[str]:
        return [name for name in self.files() if name.endswith(SECRET_SUFFIX)]

    def registered(self) -> list[str]:
        with closing(Database(self.database, MIGRATIONS)) as database:
            return [name for (name,) in database.execute("SELECT name FROM agents ORDER BY name")]

    def audit_lines(self) -> list[str]:
        """Return the lines of the log's files."""
        files = sorted((self.state / "audit").glob("audit-*.jsonl"))
        return [line for path in files for line in path.read_text().splitlines()]


def add_agent(database: Database, audit: AuditLog, name: str) -> None:
    with database.transaction():
        Registry(database, 60).put(_agent(name))
        audit.record(AuditEvent.KEY_AUTHORIZED, name=name, host="pc2")


def members_of(archive: bytes) -> dict[str, bytes]:
    """Return what an archive has, as any tar reads it."""
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return {member.name: tar.extractfile(member).read() for member in tar.getmembers()}  # type: ignore[union-attr]


def forged(
    archive: bytes,
    contents: dict[str, bytes | None] | None = None,
    change: Callable[[Manifest], Manifest] = lambda manifest: manifest,
    modes: dict[str, str] | None = None,
) -> bytes:
    """Return an archive that fits together, digests and all, made by somebody who may write into it what they like.

    Args:
        archive: one that was backed up.
        contents: members to be put in, or (None) left out.
        change: what else becomes of the manifest.
        modes: of members.
    """
    found = members_of(archive)
    manifest = msgspec.json.decode(found.pop(MANIFEST), type=Manifest)
    del found["sha256"]
    wanted = {name: content for name, content in {**found, **(contents or {})}.items() if content is not None}
    members = tuple(
        Member(name, len(content), (modes or {}).get(name, mode_of(name)), hashlib.sha256(content).hexdigest())  # type: ignore[arg-type]
        for name, content in wanted.items()
    )
    return written(change(msgspec.structs.replace(manifest, members=members)), wanted)


def written(manifest: Manifest, contents: dict[str, bytes]) -> bytes:
    """Return an archive with this manifest and these members."""
    out = io.BytesIO()
    writer = ArchiveWriter(out.write, 0)
    encoded = msgspec.json.encode(manifest)
    writer.add(MANIFEST, 0o600, len(encoded), [encoded])
    for member in manifest.members:
        writer.add(member.name, int(member.mode, 8), member.size, [contents[member.name]])
    writer.finish()
    return out.getvalue()


def _agent(name: str) -> AgentRecord:
    return AgentRecord(name=name, status="HEALTHY", location="pc2", registered_by=name, last_updated=1.0)
