"""What lies in the folders of keys, and when it changes.

In a folder: `STEM.key` lets its owner in; `STEM.next.key` does so too, for the key that a rotation
brings; `revoked/SHA256.key` keeps a key out for ever, by its file name alone; `invites/NAME.key` is a
one-time key that may enrol NAME.
"""

import base64
import contextlib
import os
import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import structlog
import watchfiles

from secure_zmq.errors import TwinhostError
from secure_zmq.keys import PUBLIC_SUFFIX, Certificate, KeyOwner, PublicKey, load_certificate

_log = structlog.get_logger(__name__)

NEXT_SUFFIX = f".next{PUBLIC_SUFFIX}"
REVOKED_FOLDER = "revoked"
INVITES_FOLDER = "invites"
WATCH_STEP_MS = 50  # a change is seen within two steps
WATCH_IDLE_MS = 250  # how long it may sleep where nothing changes; so late is seen what changed as the watch began
WATCH_POLL_S = 0.5  # how often the folders are looked at where they can't be watched
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FolderContents:
    """The keys that lie in some folders; `revoked` holds fingerprints, `rejected` a sentence for each bad file."""

    current: Mapping[str, Certificate]  # by name
    next: Mapping[str, Certificate]  # by name
    invites: Sequence[Certificate]
    revoked: frozenset[str]
    rejected: Sequence[str]
    spent: Sequence[Certificate] = ()  # one-time keys that are revoked: used, or called back


NOTHING = FolderContents({}, {}, (), frozenset(), ())


def read_folders(folders: Sequence[Path], known_revoked: frozenset[str] = frozenset()) -> FolderContents:
    """Read the keys; a file that can't be believed is named and skipped, and hides no other.

    Where a list of revoked keys can't be read, nobody is let in: it could be anybody's that is on it.
    What is known to be revoked stays so where its file has gone: a folder that is restored or moved lets nobody in.
    """
    rejected: list[str] = []
    revocations = _key_files(folders, rejected, REVOKED_FOLDER)
    if rejected:
        return FolderContents({}, {}, (), known_revoked, rejected)
    found = frozenset(
        fingerprint for path in revocations if (fingerprint := _revoked_fingerprint(path, rejected)) is not None
    )
    revoked = found | known_revoked
    for fingerprint in sorted(revoked - found):
        rejected.append(
            f"the file that revokes {fingerprint} is gone; until this agent ends the key is kept out all the same: "
            f"run certs-init revoke {fingerprint}"
        )
    current: dict[str, Certificate] = {}
    following: dict[str, Certificate] = {}
    owners: dict[PublicKey, KeyOwner] = {}  # of the keys in both
    for path in _key_files(folders, rejected):
        certificate = _load(path, rejected)
        if certificate is not None and certificate.public.fingerprint not in revoked:
            is_next = path.name.endswith(NEXT_SUFFIX)
            _admit(path, certificate, following if is_next else current, owners, rejected)
    loaded = [_load(path, rejected) for path in _key_files(folders, rejected, INVITES_FOLDER)]
    invites = [key for key in loaded if key is not None and key.public.fingerprint not in revoked]
    spent = [key for key in loaded if key is not None and key.public.fingerprint in revoked]
    return FolderContents(current, following, invites, revoked, rejected, spent)


def _key_files(folders: Sequence[Path], rejected: list[str], subfolder: str = "") -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        place = folder / subfolder
        try:  # not glob(), which takes a folder that it may not read for an empty one
            found += sorted(path for path in place.iterdir() if path.name.endswith(PUBLIC_SUFFIX))
        except FileNotFoundError:
            continue
        except OSError as error:
            rejected.append(f"{place} can't be read ({error.strerror}); mend its owner and mode")
    return found


def _load(path: Path, rejected: list[str]) -> Certificate | None:
    try:
        return load_certificate(path)
    except TwinhostError as error:
        rejected.append(str(error))
        return None


def _revoked_fingerprint(path: Path, rejected: list[str]) -> str | None:
    if not _SHA256_HEX.fullmatch(path.stem):
        rejected.append(f"{path} revokes nothing: its name must be the key's SHA-256 in hex; use certs-init revoke")
        return None
    return "SHA256:" + base64.b64encode(bytes.fromhex(path.stem)).decode().rstrip("=")


def _admit(
    path: Path,
    certificate: Certificate,
    by_name: dict[str, Certificate],
    owners: dict[PublicKey, KeyOwner],
    rejected: list[str],
) -> None:
    owner = certificate.owner
    known = by_name.get(owner.name, certificate)
    if (known.owner, known.public) != (owner, certificate.public):
        rejected.append(f"{path} gives {owner.name} a second, different key; remove one of the two")
    elif owners.setdefault(certificate.public, owner) != owner:
        rejected.append(f"{path} gives one key to two owners; remove one of the two")
    else:
        by_name[owner.name] = known  # of two files of one key, the first one's validity counts


class FolderWatch:
    """Calls back, from a thread of its own, whenever something in the folders may have changed."""

    def __init__(self, folders: Sequence[Path], changed: Callable[[], object]) -> None:
        self._folders = [
            folder / inner for folder in folders for inner in ("", REVOKED_FOLDER, INVITES_FOLDER)
        ]  # not recursive: an agent's own folder may hold others' mounts
        self._changed = changed
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._follow, name="keys-watch", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether changes are being followed."""
        return self._thread.is_alive()

    def start(self) -> None:
        self._thread.start()

    def let_go(self) -> None:
        """Have the thread end, without waiting for it."""
        self._stop.set()

    def stop(self) -> None:
        self._stop.set()
        if self._thread.ident is not None:
            self._thread.join(timeout=WATCH_IDLE_MS / 1_000 + 1)

    def _follow(self) -> None:
        unwatched = ""
        while not self._stop.is_set():
            watched = self._identities()
            self._changed()  # what changed while nobody watched
            try:
                self._watch_while_same(watched)
            except FileNotFoundError:  # gone since the look at it
                continue
            except (OSError, RuntimeError) as error:  # no right to it, or the kernel's watches are used up, by anybody
                if str(error) != unwatched:
                    _log.warning("folders_not_watched", reason=str(error), effect="they are looked at twice a second")
                    unwatched = str(error)
                self._stop.wait(WATCH_POLL_S)

    def _watch_while_same(self, watched: Mapping[Path, tuple[int, int]]) -> None:
        """Follow the folders until one is made, or put in another's place, as a restore or a sync does."""
        if not watched:
            self._stop.wait(WATCH_IDLE_MS / 1_000)
            return
        rounds = watchfiles.watch(
            *watched,
            stop_event=self._stop,
            step=WATCH_STEP_MS,
            debounce=WATCH_STEP_MS,
            rust_timeout=WATCH_IDLE_MS,
            yield_on_timeout=True,
            recursive=False,
            raise_interrupt=False,
        )
        before: Mapping[Path, int] = {}
        for changes in rounds:  # at the first one: what changed before the watch was in place
            times = self._times()
            if changes or times != before:  # some file systems tell of no change that was made beyond them
                self._changed()
            before = times
            if self._identities() != watched:
                return

    def _identities(self) -> dict[Path, tuple[int, int]]:
        """Return device and inode of the folders that are there."""
        return {folder: (status.st_dev, status.st_ino) for folder, status in self._statuses()}

    def _times(self) -> dict[Path, int]:
        """Return when a file last came into, or went out of, each folder that is there."""
        return {folder: status.st_mtime_ns for folder, status in self._statuses()}

    def _statuses(self) -> Iterator[tuple[Path, os.stat_result]]:
        for folder in self._folders:
            with contextlib.suppress(OSError):
                yield folder, folder.stat()
