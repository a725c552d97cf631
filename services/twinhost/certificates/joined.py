"""Which invitation made which key here: what lets an interrupted `join` be finished, its token being used by then."""

import re
from dataclasses import dataclass
from pathlib import Path

from twinhost.secure_zmq import advice
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import replace_file

JOINED_FILE = ".joined"
_FINGERPRINT = r"SHA256:[A-Za-z0-9+/]{43}"
_LINE = re.compile(rf"({_FINGERPRINT}) ([^/ ]+)/([^/ ]+) ({_FINGERPRINT})")


@dataclass(frozen=True, slots=True)
class Joining:
    """One line of the record: the token's public half, the place of the pair, and the key."""

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
            ConfigurationError: it can't be believed.
        """
        self._path = root / JOINED_FILE
        self._joinings = _load(self._path)

    def find(self, token: str) -> Joining | None:
        """Return what an invitation was used for here; the last of several."""
        return next((joining for joining in reversed(self._joinings) if joining.token == token), None)

    def add(self, joining: Joining) -> None:
        """Record, durably, what an invitation is used for; it takes the place of an earlier one in the same place."""
        kept = [one for one in self._joinings if (one.folder, one.stem) != (joining.folder, joining.stem)]
        self._joinings = [*kept, joining]
        replace_file(self._path, "".join(f"{one}\n" for one in self._joinings))


def _load(path: Path) -> list[Joining]:
    try:
        lines = path.read_bytes().decode("ascii", "replace").splitlines()
    except FileNotFoundError:
        return []
    matches = [_LINE.fullmatch(line) for line in lines]
    if None in matches:
        raise ConfigurationError(
            f"{path} is not certs-init's record (line {matches.index(None) + 1}); remove it: "
            f"{advice.to_remove(path)}; then ask for another invitation where a join was interrupted"
        )
    return [Joining(*match.groups()) for match in matches if match is not None]
