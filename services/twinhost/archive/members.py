"""The manifest, an archive's first member: what follows it, by name, size, mode, and digest.

    manifest.json
    state/SystemDigitalTwin.sqlite3          the database, of one moment
    state/audit/audit-<first line>.jsonl     the audit log up to the line that this database names as the newest
    keys/.distributed, keys/.joined          certs-init's records, as far as they are of these folders
    keys/FOLDER/...                          the folders of keys of this host
    sha256                                   the digest of all that stands before it

A name that is none of these is refused, and with it every path that leads elsewhere.
"""

import re
from typing import Annotated, Literal

import msgspec

from twinhost.archive.places import DATABASE as DATABASE_FILE
from twinhost.certificates.joined import JOINED_FILE
from twinhost.certificates.record import RECORD_FILE
from twinhost.secure_zmq.errors import MalformedRequest
from twinhost.secure_zmq.keys import MAX_KEY_FILE_BYTES, MAX_NAME_CHARACTERS, SECRET_SUFFIX
from twinhost.store.audit_log.files import FILE_NAME
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER

FORMAT = "twinhost archive of mainpc"
FORMAT_VERSION = 1
STATE, KEYS = "state", "keys"
DATABASE = f"{STATE}/{DATABASE_FILE}"
RECORDS = (f"{KEYS}/{RECORD_FILE}", f"{KEYS}/{JOINED_FILE}")
_AUDIT = re.compile(rf"{STATE}/{AUDIT_FOLDER}/{FILE_NAME}")
_NAME = r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}"
KEY_FILE = re.compile(
    rf"{KEYS}/(?P<folder>{_NAME})/"
    r"(?:(?:(?:(?:enrolled|trust)/)?revoked|enrolled/vouched)/[0-9a-f]{64}\.key"
    rf"|(?:(?:enrolled|trust|invites|requests)/)?{_NAME}\.key"
    rf"|{_NAME}\.key_secret)"
)

# What is told to a person as it stands: no line of its own, and nothing that a terminal would obey.
_Program = Annotated[str, msgspec.Meta(pattern=r"^[0-9A-Za-z.+-]{1,32}\Z")]
_Moment = Annotated[str, msgspec.Meta(pattern=r"^[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}Z\Z")]
_Host = Annotated[str, msgspec.Meta(pattern=rf"^[A-Za-z0-9._-]{{1,{MAX_NAME_CHARACTERS}}}\Z")]
_MOST_TOLD = 200  # characters of a fault that repeats what the archive says


class Member(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One file of the archive."""

    name: str
    size: Annotated[int, msgspec.Meta(ge=0)]
    mode: Literal["0600", "0644"]
    sha256: Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Manifest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What an archive says of itself; `moment` is UTC to the second, and all that was acknowledged before it is in."""

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
    """Return the mode of a member: public keys alone are for everybody."""
    return "0644" if KEY_FILE.fullmatch(name) and not name.endswith(SECRET_SUFFIX) else "0600"


def render_manifest(manifest: Manifest) -> bytes:
    """Return the manifest as its member has it."""
    return msgspec.json.format(msgspec.json.encode(manifest), indent=1) + b"\n"


def parse_manifest(content: bytes) -> Manifest:
    """Read a manifest.

    Raises:
        MalformedRequest: it is none, or of another format, or names something that no archive of mainpc has.
    """
    try:
        kind = msgspec.json.decode(content, type=_Kind)
        if kind.format != FORMAT:
            raise MalformedRequest(f"this is {kind.format[:64]!r}, not {FORMAT!r}; name a file that backup wrote")
        if kind.version != FORMAT_VERSION:
            raise MalformedRequest(
                f"the archive has format version {kind.version} and this program knows {FORMAT_VERSION}; "
                f"restore it with twinhost {kind.program}, which made it"
            )
        manifest = msgspec.json.decode(content, type=Manifest)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        why = str(error)[:_MOST_TOLD].encode("unicode_escape").decode("ascii")
        raise MalformedRequest(f"the archive's manifest can't be read ({why}); take another backup") from None
    _check_names(manifest)
    return manifest


def _check_names(manifest: Manifest) -> None:
    names = [member.name for member in manifest.members]
    if len(set(names)) != len(names):
        raise MalformedRequest("the archive has a member twice; take another backup")
    if DATABASE not in names:
        raise MalformedRequest(f"the archive has no {DATABASE}; take another backup")
    for member in manifest.members:
        known = member.name in (DATABASE, *RECORDS) or _AUDIT.fullmatch(member.name) or KEY_FILE.fullmatch(member.name)
        if not known:
            raise MalformedRequest(f"the archive has {member.name[:100]!r}, which no backup has; take another one")
        if member.mode != mode_of(member.name):
            raise MalformedRequest(f"the archive gives {member.name} the mode {member.mode}; take another backup")
        if KEY_FILE.fullmatch(member.name) and member.size > MAX_KEY_FILE_BYTES:
            raise MalformedRequest(f"the archive's {member.name} is too large for a key; take another backup")
