"""When a host's state was backed up, and when a backup was checked or restored: a small file beside its database.

The file is not in a backup, and a restore leaves it. Who makes the backup writes it: the agent on pc2, and the archive
command on mainpc.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
import structlog

from twinhost.agent.troubles import Kind, Remedy, Trouble
from twinhost.moments import SYSTEM_CLOCK, Clock, iso_time
from twinhost.secure_zmq.key_writer import replace_file

_log = structlog.get_logger(__name__)

BACKUPS_FILE = "backups.json"  # after the agent's name
DAY_S = 86_400.0
OLD_AFTER_S = 7 * DAY_S
_READ_EVERY_S = 10.0


class Backups(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Moments in seconds since the epoch: `since` is when this was first recorded."""

    since: float
    backed_up: float | None = None  # the newest backup that was written or read to its end
    checked: float | None = None
    restored: float | None = None


class BackupRecord:
    """The file; nothing here raises where it can't be read or written: a backup is worth more than its record."""

    def __init__(self, state: Path, agent: str, clock: Clock = SYSTEM_CLOCK) -> None:
        self._path, self._clock = state / f"{agent}.{BACKUPS_FILE}", clock
        self._read_at = float("-inf")
        self._backups: Backups | None = None

    def begin(self) -> None:
        """Record since when there is something to back up, unless that is known."""
        if not self._path.exists():
            self._note()

    def backed_up(self, moment: float | None = None) -> None:
        """Note a backup, as of a moment: now, if it is not given."""
        self._note(backed_up=self._clock.time() if moment is None else moment)

    def checked(self) -> None:
        """Note that a backup was checked."""
        self._note(checked=self._clock.time())

    def restored(self, moment: float | None = None) -> None:
        """Note that a backup was restored, which is of a moment, if that is known."""
        now = self._clock.time()
        self._note(restored=now, **({} if moment is None else {"backed_up": moment}))

    def newest(self) -> Backups | None:
        """Return what is recorded, as it was some seconds ago at most; None where it can't be read."""
        now = self._clock.monotonic()
        if now - self._read_at >= _READ_EVERY_S:
            self._read_at, self._backups = now, self._read()
        return self._backups

    def newest_backup(self) -> float | None:
        """Return when the host was last backed up."""
        backups = self.newest()
        return None if backups is None else backups.backed_up

    def _note(self, **moments: float) -> None:
        before = self._read() or Backups(since=self._clock.time())
        newer = {name: max(moment, getattr(before, name) or 0.0) for name, moment in moments.items()}
        self._read_at = float("-inf")
        try:
            replace_file(self._path, msgspec.json.encode(msgspec.structs.replace(before, **newer)).decode())
        except OSError as error:
            _log.warning("backup_not_recorded", path=str(self._path), reason=str(error))

    def _read(self) -> Backups | None:
        try:
            return msgspec.json.decode(self._path.read_bytes(), type=Backups)
        except (OSError, msgspec.MsgspecError):  # the next backup writes it again
            return None


def old_backup(host: str, backups: Backups | None, now: float, command: str) -> Iterator[Trouble]:
    """Yield a trouble where the newest backup of a host, or its first day without any, is OLD_AFTER_S ago.

    `command`, on mainpc, makes one.
    """
    if backups is None:
        return
    newest = backups.since if backups.backed_up is None else backups.backed_up
    if now - newest <= OLD_AFTER_S:
        return
    days = int((now - newest) // DAY_S)
    what = f"never backed up in the {days} days" if backups.backed_up is None else f"last backed up {days} days ago"
    tried = max(backups.checked or 0.0, backups.restored or 0.0)
    yield Trouble(
        kind=Kind.BACKUP_OLD,
        subject=host,
        host=host,
        what=f"{host} was {what}{' that are known' if backups.backed_up is None else ''}",
        cause=None if tried else "no backup of it was ever checked or restored",
        since=newest + OLD_AFTER_S,
        remedies=(Remedy("mainpc", command, "makes one, while it runs"),),
        evidence=(
            ("last backup", _moment(backups.backed_up)),
            ("last checked", _moment(backups.checked)),
            ("last restored", _moment(backups.restored)),
        ),
    )


def _moment(seconds: float | None) -> str:
    return "never" if seconds is None else iso_time(seconds)
