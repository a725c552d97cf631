"""Which public key was put into which folder: one that was there once and is gone was removed, and stays so."""

import re
from collections.abc import Iterable
from pathlib import Path

from twinhost.certificates.layout import Identity
from twinhost.secure_zmq import advice
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import replace_file
from twinhost.secure_zmq.keys import Certificate

RECORD_FILE = ".distributed"
# A file in a folder below the root, or in a program's own folder, and the key that was put there.
_LINE = re.compile(r"((?:[^/]+/)?[^/]+) (SHA256:[A-Za-z0-9+/]{43})")


class DistributionRecord:
    """The lines of `.distributed`; whoever changes them holds the tree's lock."""

    def __init__(self, root: Path) -> None:
        """Read the record of a tree; a tree that has none yet has distributed nothing.

        Raises:
            ConfigurationError: it can't be believed, so nobody can say who was removed.
        """
        self._root = root
        self._path = root / RECORD_FILE
        self._lines = _load(self._path)

    def was_distributed(self, file: Path, certificate: Certificate | None) -> bool:
        """Return whether a public key was put in place as `file`; None stands for any key."""
        if certificate is not None:
            return self._line(file, certificate) in self._lines
        return any(line.startswith(f"{file.relative_to(self._root)} ") for line in self._lines)

    def fingerprints(self, file: Path) -> list[str]:
        """Return the keys that were put in place as `file`, one after another or by different hands."""
        prefix = f"{file.relative_to(self._root)} "
        return sorted(line.removeprefix(prefix) for line in self._lines if line.startswith(prefix))

    def add(self, files: Iterable[Path], certificate: Certificate) -> None:
        """Record, durably, that a public key lies in place as each of `files`."""
        lines = self._lines | {self._line(file, certificate) for file in files}
        if lines != self._lines:
            replace_file(self._path, "".join(f"{line}\n" for line in sorted(lines)))
            self._lines = lines

    def _line(self, file: Path, certificate: Certificate) -> str:
        return f"{file.relative_to(self._root)} {certificate.public.fingerprint}"


def told_removed(file: Path, identity: Identity) -> str:
    """Return what it means that a public key was removed from a folder."""
    return f"{file} was removed and stays so: {identity.owner.name} is not authorised in {file.parent.name}/"


def _load(path: Path) -> frozenset[str]:
    try:
        lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return frozenset()
    for number, line in enumerate(lines, start=1):
        if not _LINE.fullmatch(line):
            raise ConfigurationError(
                f"{path} is not certs-init's record (line {number}); restore it from a backup, or remove it: "
                f"{advice.to_remove(path)}; then certs-init takes no missing public key for a removed one"
            )
    return frozenset(lines)
