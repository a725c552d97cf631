"""CURVE keys as types, and the strict loader of their files.

The format is zcert (ZPL), as CZMQ and pyzmq read it. A public file `NAME.key` names the key's owner and its validity;
`NAME.key_secret` holds the secret half too, has mode 0600, and stays on its host. CURVE itself has no expiry: validity
is checked here, by this project's code.
"""

import base64
import contextlib
import hashlib
import math
import os
import stat
import string
import struct
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import zmq
from zmq.utils import z85

from twinhost.commands import CERTS_INIT, certs_init_command, protect_command
from twinhost.secure_zmq.errors import KeyFileExposed, KeyFileMalformed, KeyFileMissing, KeyMismatch

PUBLIC_SUFFIX = ".key"
SECRET_SUFFIX = ".key_secret"  # noqa: S105 - a file name's ending
NEXT_MARK = ".next"  # of the files of the key that a rotation changes to: STEM.next.key, STEM.next.key_secret
KEY_BYTES = 32  # Curve25519, RFC 7748
MAX_KEY_FILE_BYTES = 4_096  # a key file has about 400
_NAME_CHARACTERS = frozenset(string.ascii_letters + string.digits + "._-")
MAX_NAME_CHARACTERS = 64
CLOCK_TOLERANCE_S = 60  # by how much two hosts' clocks may differ
WARN_BEFORE_S = 14 * 86_400  # when warnings of a key's expiry start
DAY_S = 86_400
_TIME_FORMAT = "%Y-%m-%dT%H:%M:%SZ"
_LATEST = 253_402_300_799  # 9999-12-31T23:59:59Z, the last that a key file can express
Z85_CHARACTERS = 40  # 32 bytes in ZeroMQ RFC 32
_SECTIONS = frozenset({"metadata", "curve"})
_METADATA = frozenset({"name", "host", "roles"})
_OPTIONAL_METADATA = frozenset({"not_before", "not_after"})


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A Curve25519 public key: 32 bytes, not all zero."""

    raw: bytes

    def __post_init__(self) -> None:
        if len(self.raw) != KEY_BYTES or not any(self.raw):
            raise KeyFileMalformed("a public key must have 32 bytes that are not all zero")

    @property
    def z85(self) -> bytes:
        """The 40 characters that ZeroMQ's options take."""
        return z85.encode(self.raw)

    @property
    def fingerprint(self) -> str:
        """`SHA256:` and unpadded base64 of the hash, as OpenSSH prints a key."""
        return fingerprint_of(self.raw)


@dataclass(frozen=True, slots=True)
class KeyOwner:
    """The owner of a key: the peer's name, its host, and its roles."""

    name: str
    host: str
    roles: frozenset[str]

    def __post_init__(self) -> None:
        if self.name.endswith(NEXT_MARK):
            raise KeyFileMalformed(
                f"the name {self.name!r} must not end in {NEXT_MARK}, which is reserved for the files of a next key"
            )
        for what, value in (("name", self.name), ("host", self.host), *(("role", role) for role in self.roles)):
            if not 0 < len(value) <= MAX_NAME_CHARACTERS or not set(value) <= _NAME_CHARACTERS:
                raise KeyFileMalformed(
                    f"the {what} {value!r} must have 1 to {MAX_NAME_CHARACTERS} of the characters A-Z a-z 0-9 . _ -"
                )


@dataclass(frozen=True, slots=True)
class Validity:
    """When a key is valid, in whole seconds since the epoch; None is no limit."""

    not_before: int | None = None
    not_after: int | None = None
    _begins: float = field(init=False, repr=False, compare=False)  # within the clock tolerance
    _ends: float = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if any(moment is not None and not 0 <= moment <= _LATEST for moment in (self.not_before, self.not_after)):
            raise KeyFileMalformed("not_before and not_after must be in the years 1970 to 9999")
        if self.not_before is not None and self.not_after is not None and self.not_after <= self.not_before:
            raise KeyFileMalformed("not_after must be later than not_before")
        begins = -math.inf if self.not_before is None else self.not_before - CLOCK_TOLERANCE_S
        ends = math.inf if self.not_after is None else self.not_after + CLOCK_TOLERANCE_S
        object.__setattr__(self, "_begins", begins)
        object.__setattr__(self, "_ends", ends)

    def has_begun(self, now: float) -> bool:
        """Return whether `now` is at or after `not_before`, within the clock tolerance."""
        return now >= self._begins

    def has_ended(self, now: float) -> bool:
        """Return whether it has expired at `now`, beyond the clock tolerance."""
        return now > self._ends

    def holds(self, now: float) -> bool:
        """Return whether it is valid at `now`; asked for every message."""
        return self._begins <= now <= self._ends

    def ends_soon(self, now: float) -> bool:
        """Return whether a warning is due: within 14 days of the end, or after it."""
        return self.not_after is not None and self.not_after - now < WARN_BEFORE_S


UNLIMITED = Validity()


@dataclass(frozen=True, slots=True)
class Certificate:
    """A public key, its owner and its validity: all that may leave the host."""

    owner: KeyOwner
    public: PublicKey
    validity: Validity = UNLIMITED


@dataclass(frozen=True, slots=True)
class KeyPair:
    """Both halves of one key, checked to match; its repr never shows the secret."""

    certificate: Certificate
    secret_z85: bytes = field(repr=False)

    def __post_init__(self) -> None:
        if not any(decode_z85_key(self.secret_z85, "the secret key")):
            raise KeyFileMalformed("the secret key is all zero")
        if zmq.curve_public(self.secret_z85) != self.certificate.public.z85:
            raise KeyMismatch("the secret key and the public key are not halves of one pair")

    @property
    def public(self) -> PublicKey:
        return self.certificate.public

    @classmethod
    def generate(cls, owner: KeyOwner, validity: Validity = UNLIMITED) -> "KeyPair":
        """Return a new pair from libsodium's random generator."""
        public, secret = zmq.curve_keypair()
        return cls(Certificate(owner, PublicKey(z85.decode(public)), validity), secret)


def fingerprint_of(content: bytes) -> str:
    """Return `SHA256:` and the unpadded base64 of the hash of some bytes."""
    return "SHA256:" + base64.b64encode(hashlib.sha256(content).digest()).decode().rstrip("=")


def load_certificate(path: Path) -> Certificate:
    """Read a public key file, `NAME.key`.

    Raises:
        KeyFileMissing: there is no such file, or it can't be read.
        KeyFileMalformed: it does not have the format of a public key file, or it holds a secret.
    """
    text, _ = _read(path)
    try:
        return parse_certificate(text, str(path))
    except KeyFileMalformed as error:
        raise KeyFileMalformed(str(error) if "; " in str(error) else f"{error}; {_to_verify(path)}") from None


def parse_certificate(text: str, source: str) -> Certificate:
    """Read the text of a public key file; `source` is its name in error messages.

    Raises:
        KeyFileMalformed: it does not have the format of a public key file, or it holds a secret.
    """
    sections = parse_zcert(source, text)
    if "secret-key" in sections["curve"]:
        raise KeyFileMalformed(f"{source} is a public key file and holds a secret key; remove it and make a new key")
    return _certificate(source, sections)


def load_key_pair(path: Path) -> KeyPair:
    """Read a secret key file, `NAME.key_secret`, which only its owner may access.

    Raises:
        KeyFileMissing: there is no such file, or it can't be read.
        KeyFileExposed: group or others have access to it.
        KeyFileMalformed: it does not have the format of a secret key file.
        KeyMismatch: its halves are not one pair.
    """
    text, mode = _read(path)
    if mode & 0o077:
        raise KeyFileExposed(
            f"{path} has mode {mode & 0o777:04o}, so others can use the secret; run: {protect_command(path)}"
        )
    try:
        return parse_key_pair(text, str(path))
    except (KeyFileMalformed, KeyMismatch) as error:
        raise type(error)(f"{error}; {_to_verify(path)}") from None


def parse_key_pair(text: str, source: str) -> KeyPair:
    """Read the text of a secret key file.

    Raises:
        KeyFileMalformed: it does not have that format.
        KeyMismatch: its halves are not one pair.
    """
    sections = parse_zcert(source, text)
    certificate = _certificate(source, sections)
    secret = sections["curve"].get("secret-key")
    if secret is None:
        raise KeyFileMalformed(f"{source} has no secret-key")
    try:
        return KeyPair(certificate, _characters(secret))
    except (KeyFileMalformed, KeyMismatch) as error:
        raise type(error)(f"{source}: {error}") from None


def format_moment(seconds: int) -> str:
    """Return seconds since the epoch as a key file writes them: `2026-11-25T04:00:00Z`."""
    return datetime.fromtimestamp(seconds, UTC).strftime(_TIME_FORMAT)


def parse_moment(text: str) -> int:
    """Return seconds since the epoch.

    Raises:
        KeyFileMalformed: it is not written as `format_moment` does it.
    """
    try:
        moment = datetime.strptime(text, _TIME_FORMAT).replace(tzinfo=UTC)
        seconds = int(moment.timestamp())
        if format_moment(seconds) == text:
            return seconds
    except (ValueError, OverflowError):
        pass
    raise KeyFileMalformed(f"{text!r} must be a time in UTC, written as 2026-11-25T04:00:00Z")


def parse_zcert(source: str, text: str) -> dict[str, dict[str, str]]:
    """Return the sections of a key file: names at the margin, indented `name = "value"` below.

    Raises:
        KeyFileMalformed: anything is unknown, missing or duplicate; the message has `source` and the line.
    """
    sections: dict[str, dict[str, str]] = {}
    section: dict[str, str] | None = None
    for number, line in enumerate(text.split("\n"), start=1):
        where = f"{source}, line {number}"
        stripped = line.strip()
        if not stripped or stripped.startswith("#"):
            continue
        if not line[0].isspace():
            if stripped not in _SECTIONS or stripped in sections:
                raise KeyFileMalformed(f"{where}: expected one section each of metadata and curve")
            section = sections[stripped] = {}
            continue
        name, separator, value = (part.strip() for part in stripped.partition("="))
        quoted = len(value) >= 2 and value[0] == value[-1] == '"' and '"' not in value[1:-1]
        if section is None or not separator or not quoted:
            raise KeyFileMalformed(f'{where}: expected name = "value" inside a section')
        if name in section:
            raise KeyFileMalformed(f"{where}: {name} occurs twice")
        section[name] = value[1:-1]
    if set(sections) != _SECTIONS:
        raise KeyFileMalformed(f"{source} must have the sections metadata and curve")
    unknown = (set(sections["metadata"]) - _OPTIONAL_METADATA) ^ _METADATA
    unknown |= set(sections["curve"]) - {"public-key", "secret-key"}
    if unknown or "public-key" not in sections["curve"]:
        raise KeyFileMalformed(f"{source}: unknown or missing: {', '.join(sorted(unknown)) or 'public-key'}")
    return sections


def decode_z85_key(text: bytes, what: str) -> bytes:
    """Return a key's 32 bytes.

    Raises:
        KeyFileMalformed: it is not 40 characters of Z85; `what` is its name in the message.
    """
    if len(text) == Z85_CHARACTERS:
        with contextlib.suppress(KeyError, struct.error):  # a foreign character, a group over 2**32
            return z85.decode(text)
    raise KeyFileMalformed(f"{what} must be {Z85_CHARACTERS} characters of Z85")


def _read(path: Path) -> tuple[str, int]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    except FileNotFoundError:
        raise KeyFileMissing(f"{path} is missing; run: {CERTS_INIT}") from None
    except OSError as error:
        raise KeyFileMissing(f"{path} can't be read ({error.strerror}); {_to_verify(path)}") from None
    try:  # not with open(): it raises for a folder
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or status.st_size > MAX_KEY_FILE_BYTES:
            raise KeyFileMalformed(
                f"{path} must be a regular file of at most {MAX_KEY_FILE_BYTES} bytes; {_to_verify(path)}"
            )
        content = os.read(descriptor, MAX_KEY_FILE_BYTES + 1)
    finally:
        os.close(descriptor)
    try:
        return content.decode("ascii"), status.st_mode
    except UnicodeDecodeError:
        raise KeyFileMalformed(f"{path} holds bytes that are not ASCII; {_to_verify(path)}") from None


def _certificate(source: str, sections: dict[str, dict[str, str]]) -> Certificate:
    metadata = sections["metadata"]
    try:
        owner = KeyOwner(metadata["name"], metadata["host"], frozenset(metadata["roles"].split()))
        public = PublicKey(decode_z85_key(_characters(sections["curve"]["public-key"]), "the public key"))
        moments = {name: parse_moment(metadata[name]) for name in ("not_before", "not_after") if name in metadata}
        return Certificate(owner, public, Validity(**moments) if moments else UNLIMITED)
    except KeyFileMalformed as error:
        raise KeyFileMalformed(f"{source}: {error}") from None


def _to_verify(path: Path) -> str:
    return f"run: {certs_init_command(path, 'verify')}"


def _characters(value: str) -> bytes:
    """Return a key's text as bytes; a character that is not ASCII becomes several, so that the length is wrong."""
    return value.encode("ascii", "backslashreplace")
