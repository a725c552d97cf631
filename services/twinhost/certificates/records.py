"""What certs-init records in a tree: which public key it put into which folder, and which invitation made which key.

`.distributed`: a recorded public key that is missing from its folder was removed, and stays removed.
`.joined`: lets an interrupted `join` be finished, its one-time key being used by then.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.layout import FINGERPRINT, Identity
from twinhost.commands import remove_command
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import replace_file
from twinhost.secure_zmq.keys import Certificate

RECORD_FILE = ".distributed"
JOINED_FILE = ".joined"
# A file in a folder below the root, or in a program's own folder, and the key that was put there.
_DISTRIBUTED_LINE = re.compile(rf"(?:[^/]+/)?[^/]+ {FINGERPRINT}")
_JOINED_LINE = re.compile(rf"({FINGERPRINT}) ([^/ ]+)/([^/ ]+) ({FINGERPRINT})")


class DistributionRecord:
    """The lines of `.distributed`; whoever changes them holds the tree's lock."""

    def __init__(self, root: Path) -> None:
        """Read the record of a tree; a tree that has none yet has distributed nothing.

        Raises:
            ConfigurationError: it is malformed, so it is unknown which keys were removed.
        """
        self._root = root
        self._path = root / RECORD_FILE
        to_do = (
            f"restore it from a backup, or remove it: {remove_command(self._path)}; "
            "certs-init then puts every missing public key in place again, removed ones too"
        )
        self._lines = frozenset(match[0] for match in _read(self._path, _DISTRIBUTED_LINE, to_do))

    def was_distributed(self, file: Path, certificate: Certificate | None) -> bool:
        """Return whether a public key was put in place as `file`; None stands for any key."""
        if certificate is not None:
            return self._line(file, certificate) in self._lines
        return bool(self.fingerprints(file))

    def fingerprints(self, file: Path) -> list[str]:
        """Return the keys that were put in place as `file`, over time."""
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


@dataclass(frozen=True, slots=True)
class Joining:
    """One line of `.joined`: the one-time key's fingerprint, the place of the pair, and its fingerprint."""

    token: str
    folder: str
    stem: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{self.token} {self.folder}/{self.stem} {self.fingerprint}"


class JoinRecord:
    """The lines of `.joined`; whoever changes them holds the tree's lock."""

    def __init__(self, root: Path) -> None:
        """Read the record of a tree.

        Raises:
            ConfigurationError: it is malformed.
        """
        self._path = root / JOINED_FILE
        to_do = f"remove it: {remove_command(self._path)}; then ask for another invitation where a join was interrupted"
        self._joinings = [Joining(*match.groups()) for match in _read(self._path, _JOINED_LINE, to_do)]

    def find(self, token: str) -> Joining | None:
        """Return what an invitation was used for here; the last of several."""
        return next((joining for joining in reversed(self._joinings) if joining.token == token), None)

    def add(self, joining: Joining) -> None:
        """Record, durably, what an invitation is used for, in place of an earlier one for the same pair."""
        kept = [other for other in self._joinings if (other.folder, other.stem) != (joining.folder, joining.stem)]
        self._joinings = [*kept, joining]
        replace_file(self._path, "".join(f"{one}\n" for one in self._joinings))


def removal_notice(file: Path, identity: Identity) -> str:
    """Return what it means that a public key was removed from a folder."""
    return f"{file} was removed and stays removed: {identity.owner.name} is not authorised in {file.parent.name}/"


def _read(path: Path, line: re.Pattern[str], to_do: str) -> list[re.Match[str]]:
    try:
        lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    except FileNotFoundError:
        return []
    matches = [line.fullmatch(text) for text in lines]
    if None in matches:
        number = matches.index(None) + 1
        raise ConfigurationError(f"{path} is malformed at line {number}; {to_do}")
    return [match for match in matches if match is not None]
