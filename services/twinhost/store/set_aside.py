"""Databases that are no longer in use, kept beside the one that is: moved, never deleted, never overwritten.

<name>.sqlite3.damaged-<UTC time>     it could not be read
<name>.sqlite3.replaced-<UTC time>    it was the one in use until a backup was restored
<name>.sqlite3.acknowledged           the damaged ones that an operator knows of, one a line

What was stored is in them: like the one in use they are their owner's alone.
"""

import os
import re
import stat
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable

DAMAGED, REPLACED = "damaged", "replaced"
PARTS = ("-shm", "-wal", "")  # in the order they are moved: a log that lies alone would be deleted by SQLite
_OTHERS = 0o077
_STAMP = r"(?P<name>{}\.{}-\d{{8}}T\d{{6}}Z(-\d+)?)(-wal|-shm)?"


@dataclass(frozen=True, slots=True)
class Kept:
    """A database that was set aside; its size counts its log and the log's index."""

    name: str
    size_bytes: int


def part(path: Path, suffix: str) -> Path:
    """Return the file of a database that has this suffix."""
    return path.with_name(path.name + suffix)


def make_private(path: Path) -> None:
    """Let nobody but its owner read or write a database and its log, as far as they are there.

    None is opened: closing it would end the locks that SQLite holds on it in this process.

    Raises:
        OSError: a mode can't be changed.
    """
    for suffix in PARTS:
        with suppress(FileNotFoundError):
            each = part(path, suffix)
            mode = stat.S_IMODE(each.stat().st_mode)
            if mode & _OTHERS:
                each.chmod(mode & ~_OTHERS)


def set_aside(path: Path, word: str, moment: float | None = None) -> Path:
    """Move a database with its log under another name in the same folder; return the path it has then.

    Args:
        path: the database; some of its files may be missing.
        word: DAMAGED or REPLACED.
        moment: seconds since the epoch, which the new name tells; now where it is None.

    Raises:
        ConfigurationError: it can't be moved.
    """
    stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(moment))
    there = [suffix for suffix in PARTS if part(path, suffix).exists()]
    target, number = part(path, f".{word}-{stamp}"), 1
    while any(part(target, suffix).exists() for suffix in there):
        number += 1
        target = part(path, f".{word}-{stamp}-{number}")
    try:
        make_private(path)
        for suffix in there:
            part(path, suffix).rename(part(target, suffix))
        sync_folder(path.parent)
    except OSError as error:
        raise ConfigurationError(
            f"{path} can't be moved to {target.name} ({error.strerror}); see the mode and the space of its volume"
        ) from None
    return target


def kept(path: Path, word: str) -> list[Kept]:
    """Return the databases that were set aside from a path, oldest first."""
    pattern = re.compile(_STAMP.format(re.escape(path.name), word))
    sizes: dict[str, int] = {}
    for entry in sorted(os.scandir(path.parent), key=lambda entry: entry.name):
        if found := pattern.fullmatch(entry.name):
            sizes[found["name"]] = sizes.get(found["name"], 0) + entry.stat().st_size
    return [Kept(name, size) for name, size in sizes.items()]


def not_acknowledged(path: Path) -> list[Kept]:
    """Return the damaged databases that no operator has acknowledged, oldest first."""
    try:
        known = set(_acknowledged(path).read_text().split("\n"))
    except FileNotFoundError:
        known = set()
    return [each for each in kept(path, DAMAGED) if each.name not in known]


def acknowledge(path: Path) -> list[Kept]:
    """Note that an operator knows of every damaged database there is; return those that are new to the note.

    Raises:
        StoreUnavailable: the note can't be written.
    """
    news = not_acknowledged(path)
    if news:
        note = _acknowledged(path)
        draft = note.with_name(f"{note.name}.new")
        try:
            draft.write_text("\n".join(each.name for each in kept(path, DAMAGED)))
            draft.replace(note)
            sync_folder(path.parent)
        except OSError as error:
            raise StoreUnavailable(f"{note} can't be written ({error.strerror}); free space on the volume") from None
    return news


def told(path: Path) -> str | None:
    """Return a sentence on the damaged databases that nobody has acknowledged; None where there is none."""
    waiting = not_acknowledged(path)
    if not waiting:
        return None
    size = sum(each.size_bytes for each in kept(path, DAMAGED))
    return (
        f"a damaged database was set aside as {waiting[-1].name} and an empty one was made; restore a backup "
        f"(cli memory restore), or acknowledge the loss (action acknowledge_damage); damaged ones take {size} bytes"
    )


def sync_folder(folder: Path) -> None:
    """Make the names in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _acknowledged(path: Path) -> Path:
    return part(path, ".acknowledged")
