"""An archive's bytes: a POSIX tar that `tar -t` can list; its first member, the manifest, determines every byte.

    manifest.json
    state/SystemDigitalTwin.sqlite3          the database, of one moment
    state/audit/audit-<first line>.jsonl     the audit log up to the line that this database names as the newest
    keys/.distributed, keys/.joined          certs-init's records of these folders
    keys/FOLDER/...                          the folders of keys of this host
    sha256                                   the digest of everything before it

Any other name is refused, and so is every path outside these folders. Every header is derived from the manifest and
compared byte for byte, so an archive can't contain a link, a device, or another path. The digest at the end detects an
archive that is truncated or has a flipped bit.
"""

import hashlib
import re
import tarfile
from collections.abc import Callable, Iterable, Iterator
from typing import Annotated, BinaryIO, Literal

import msgspec

from twinhost.archive.places import DATABASE
from twinhost.certificates.records import JOINED_FILE, RECORD_FILE
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.keys import MAX_KEY_FILE_BYTES, MAX_NAME_CHARACTERS, SECRET_SUFFIX
from twinhost.store.audit_log.files import FILE_NAME
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER

FORMAT = "twinhost archive of mainpc"
FORMAT_VERSION = 1
STATE, KEYS = "state", "keys"
DATABASE_MEMBER = f"{STATE}/{DATABASE}"
RECORDS = (f"{KEYS}/{RECORD_FILE}", f"{KEYS}/{JOINED_FILE}")
_AUDIT = re.compile(rf"{STATE}/{AUDIT_FOLDER}/{FILE_NAME}")
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
KEY_FILE = re.compile(
    rf"{KEYS}/(?P<folder>{_NAME})/"
    r"(?:(?:(?:(?:enrolled|trust)/)?revoked|enrolled/vouched)/[0-9a-f]{64}\.key"
    rf"|(?:(?:enrolled|trust|invites|requests)/)?{_NAME}\.key"
    rf"|{_NAME}\.key_secret)"
)

# These are printed as they are, so they hold no line break and no terminal control character.
_Program = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z.+-]{1,32}\Z")]
_Moment = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")]
_Host = Annotated[str, msgspec.Meta(pattern=rf"^[A-Za-z0-9._-]{{1,{MAX_NAME_CHARACTERS}}}\Z")]
_MAX_QUOTED = 200  # characters of an error that quotes the archive


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the archive."""

    name: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    mode: Literal["0600", "0644"]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The archive's description; `moment` is UTC to the second, and all that was acknowledged before it is included."""

    format: str
    version: int
    program: _Program  # twinhost's version that made it
    moment: _Moment
    host: _Host
    members: tuple[Member, ...]

    def of(self, area: str) -> list[Member]:
        """Return the members of STATE or of KEYS."""
        return [member for member in self.members if member.name.startswith(f"{area}/")]


class _Kind(msgspec.Struct):
    format: str
    version: int
    program: _Program = "another version"


def mode_of(name: str) -> Literal["0600", "0644"]:
    """Return the mode of a member: only public keys are readable by everybody."""
    return "0644" if KEY_FILE.fullmatch(name) and not name.endswith(SECRET_SUFFIX) else "0600"


def render_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as its member has it."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        MalformedRequest: it is malformed, of another format, or names something that no archive of mainpc has.
    """
    try:
        kind = msgspec.json.decode(content, type=_Kind)
        if kind.format != FORMAT:
            raise MalformedRequest(
                f"this is {kind.format[:64]!r}, not {FORMAT!r}; use a file that `archive backup` wrote"
            )
        if kind.version != FORMAT_VERSION:
            raise MalformedRequest(
                f"the archive has format version {kind.version} and this program knows {FORMAT_VERSION}; "
                f"restore it with twinhost {kind.program}, which made it"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = str(error)[:_MAX_QUOTED].encode("unicode_escape").decode("ascii")
        raise MalformedRequest(f"the archive's manifest can't be read ({why}); use another backup") from None
    _check_names(manifest)
    return manifest


def _check_names(manifest: Manifest) -> None:
    names = [member.name for member in manifest.members]
    if len(set(names)) != len(names):
        raise MalformedRequest("the archive contains a member twice; use another backup")
    if DATABASE_MEMBER not in names:
        raise MalformedRequest(f"the archive has no {DATABASE_MEMBER}; use another backup")
    for member in manifest.members:
        known = (
            member.name in (DATABASE_MEMBER, *RECORDS)
            or _AUDIT.fullmatch(member.name)
            or KEY_FILE.fullmatch(member.name)
        )
        if not known:
            raise MalformedRequest(f"the archive has {member.name[:100]!r}, which no backup contains; use another one")
        if member.mode != mode_of(member.name):
            raise MalformedRequest(f"the archive gives {member.name} the mode {member.mode}; use another backup")
        if KEY_FILE.fullmatch(member.name) and member.size > MAX_KEY_FILE_BYTES:
            raise MalformedRequest(f"the archive's {member.name} is too large for a key; use another backup")


MANIFEST, DIGEST = "manifest.json", "sha256"
MAX_MANIFEST_BYTES = 16 * 1024 * 1024  # of 70,000 files
PIECE_BYTES = 256 * 1024
_MODE = 0o600  # of these two
_END = bytes(2 * tarfile.BLOCKSIZE)
_AGAIN = "copy it again, or use another backup"


class ArchiveWriter:
    """Writes one archive; `finish` completes it."""

    def __init__(self, write: Callable[[bytes], object], moment_s: int) -> None:
        self._write = write
        self._moment_s = moment_s
        self._digest = hashlib.sha256()

    def add(self, name: str, mode: int, size: int, pieces: Iterable[bytes]) -> None:
        """Write one member, whose pieces have `size` bytes together."""
        self._put(_header(name, mode, size, self._moment_s))
        written = 0
        for piece in pieces:
            self._put(piece)
            written += len(piece)
        if written != size:
            raise MalformedRequest(f"{name} changed while it was written; run the backup again")
        self._put(bytes(-size % tarfile.BLOCKSIZE))

    def finish(self) -> None:
        """Write the digest and the end."""
        content = self._digest.hexdigest().encode()
        self.add(DIGEST, _MODE, len(content), [content])
        self._put(_END)

    def _put(self, content: bytes) -> None:
        self._digest.update(content)
        self._write(content)


class ArchiveReader:
    """Reads one archive in the order of its members."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._moment_s = 0
        self._digest = hashlib.sha256()
        self._position = 0

    def manifest(self) -> bytes:
        """Return the first member.

        Raises:
            MalformedRequest: this is not an archive, or it is truncated.
        """
        header = self._take(tarfile.BLOCKSIZE, "its first member")
        try:
            member = tarfile.TarInfo.frombuf(header, "ascii", "strict")
            self._moment_s = int(member.mtime)
            expected = _header(MANIFEST, _MODE, member.size, self._moment_s)
        except (tarfile.HeaderError, ValueError):
            expected = b""
        if header != expected or member.size > MAX_MANIFEST_BYTES:
            raise MalformedRequest(
                "this is not an archive of mainpc, which begins with a manifest; use a file that `archive backup` wrote"
            )
        return b"".join(self._content(MANIFEST, member.size))

    def member(self, name: str, mode: int, size: int) -> Iterator[bytes]:
        """Return the pieces of the next member, which must be this one.

        Raises:
            MalformedRequest: it is another member, or the archive is truncated.
        """
        if self._take(tarfile.BLOCKSIZE, name) != _header(name, mode, size, self._moment_s):
            raise MalformedRequest(f"the archive has another member in place of {name}; {_AGAIN}")
        return self._content(name, size)

    def finish(self) -> None:
        """Read the end.

        Raises:
            MalformedRequest: the digest does not match, or more follows.
        """
        digest = self._digest.hexdigest().encode()
        if b"".join(self.member(DIGEST, _MODE, len(digest))) != digest:
            raise MalformedRequest(f"the archive's digest does not match its content; {_AGAIN}")
        if self._take(len(_END), "its end") != _END or self._stream.read(1):
            raise MalformedRequest(f"the archive continues after its end; {_AGAIN}")

    def _content(self, name: str, size: int) -> Iterator[bytes]:
        left = size
        while left:
            piece = self._take(min(left, PIECE_BYTES), name)
            left -= len(piece)
            yield piece
        if any(self._take(-size % tarfile.BLOCKSIZE, name)):
            raise MalformedRequest(f"the archive has bytes between {name} and the next member; {_AGAIN}")

    def _take(self, length: int, within: str) -> bytes:
        pieces: list[bytes] = []
        left = length
        while left:
            piece = self._stream.read(left)
            if not piece:
                raise MalformedRequest(f"the archive is truncated after {self._position} bytes, in {within}; {_AGAIN}")
            pieces.append(piece)
            left -= len(piece)
            self._position += len(piece)
        content = b"".join(pieces)
        self._digest.update(content)
        return content


def _header(name: str, mode: int, size: int, moment_s: int) -> bytes:
    info = tarfile.TarInfo(name)
    info.mode, info.size, info.mtime = mode, size, moment_s
    try:
        return info.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:
        raise MalformedRequest(f"{name} with {size} bytes is too large for an archive ({error})") from None
