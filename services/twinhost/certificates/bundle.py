"""What mainpc issues to enrol a machine: the line of an invitation, and the bundle of public keys.

The line is `twinhost://ADDRESS:PORT/SERVERKEY/TOKEN?expires=2026-11-25T05:00:00Z`, the keys in unpadded base64url. It
begins with `ADDRESS:PORT,ADDRESS:PORT` where SystemDigitalTwin has a standby; a version before 0.3 reads one address.
The bundle holds the new key with its validity and everybody's public keys, and never a secret; it is the answer to
`confirm_key`, and a file for a machine that has no path to mainpc.
"""

import base64
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec
import zmq
from zmq.utils import z85

from twinhost.network_config.model import is_authority
from twinhost.secure_zmq.certificates import FolderContents
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMalformed
from twinhost.secure_zmq.key_writer import render_certificate, revoked_file_name
from twinhost.secure_zmq.keys import (
    KEY_BYTES,
    Certificate,
    KeyOwner,
    KeyPair,
    PublicKey,
    fingerprint_of,
    format_moment,
    parse_certificate,
    parse_moment,
)

SCHEME = "twinhost://"
MAX_LINE_CHARACTERS = 1_024  # the longest address has 253, and there may be two
_KEY_CHARACTERS = 43  # of unpadded base64 for 32 bytes
_AGAIN = "copy the whole line that certs-init invite printed"
_KEY = re.compile(r"[A-Za-z0-9_-]*")


@dataclass(frozen=True, slots=True)
class Invitation:
    """A parsed invitation; its repr never shows the secret."""

    authorities: tuple[str, ...]  # address:port of SystemDigitalTwin, then of its standby; either may be active
    server_key: PublicKey
    token: KeyPair
    not_after: int

    @property
    def endpoints(self) -> list[str]:
        """The ZeroMQ endpoints of SystemDigitalTwin."""
        return [f"tcp://{authority}" for authority in self.authorities]

    def render(self) -> str:
        """Return the line; whoever reads it can enrol."""
        secret = _encode(z85.decode(self.token.secret_z85))
        expires = format_moment(self.not_after)
        return f"{SCHEME}{','.join(self.authorities)}/{_encode(self.server_key.raw)}/{secret}?expires={expires}"


def parse_invitation(text: str) -> Invitation:
    """Read the line.

    Raises:
        ConfigurationError: it is cut off, mistyped, or not an invitation; the sentence names the part and shows
            nothing of the secret.
    """
    line = text.strip()
    if not line:
        raise ConfigurationError(f"no invitation was given; {_AGAIN}, as an argument or on standard input")
    if not line.startswith(SCHEME):
        raise ConfigurationError(f"this is not an invitation, which begins with {SCHEME}; {_AGAIN}")
    if len(line) > MAX_LINE_CHARACTERS or any(character.isspace() for character in line):
        raise ConfigurationError(f"the invitation has more than one line, or a space in it; {_AGAIN}")
    rest, question, query = line.removeprefix(SCHEME).partition("?")
    parts = rest.split("/")
    if len(parts) > 3:
        raise ConfigurationError(f"the invitation has too many parts; {_AGAIN}")
    cut_off = len(parts) == 1 and not question
    authorities = tuple(_authority(text, cut_off=cut_off) for text in parts[0].split(","))
    server_key = _server_key(_part(parts, 1, "the server's key"))
    secret = _key(_part(parts, 2, "the token"), "the token")
    return Invitation(authorities, server_key, token_pair(secret), _expiry(query))


def token_pair(secret: bytes) -> KeyPair:
    """Return the one-time pair of a token.

    Raises:
        ConfigurationError: it is not a secret key.
    """
    secret_z85 = z85.encode(secret)
    placeholder = KeyOwner("invitation", "invitation", frozenset())
    try:
        public = PublicKey(z85.decode(zmq.curve_public(secret_z85)))
        return KeyPair(Certificate(placeholder, public), secret_z85)
    except KeyFileMalformed:
        raise ConfigurationError(f"the token in the invitation is not a key; {_AGAIN}") from None


def _authority(text: str, *, cut_off: bool) -> str:
    if not is_authority(text):
        what = "is cut off within" if cut_off else "is mistyped at"
        raise ConfigurationError(f"the invitation {what} mainpc's ADDRESS:PORT; {_AGAIN}")
    return text


def _part(parts: list[str], number: int, what: str) -> str:
    if len(parts) <= number:
        raise ConfigurationError(f"the invitation is cut off before {what}; {_AGAIN}")
    return parts[number]


def _server_key(text: str) -> PublicKey:
    raw = _key(text, "the server's key")
    try:
        return PublicKey(raw)
    except KeyFileMalformed:
        raise ConfigurationError(f"the server's key in the invitation is not a key; {_AGAIN}") from None


def _key(text: str, what: str) -> bytes:
    if len(text) < _KEY_CHARACTERS and _KEY.fullmatch(text):
        raise ConfigurationError(
            f"the invitation is cut off within {what}: it has {len(text)} of {_KEY_CHARACTERS} characters; {_AGAIN}"
        )
    if len(text) == _KEY_CHARACTERS and _KEY.fullmatch(text):
        raw = base64.urlsafe_b64decode(text + "=")
        if len(raw) == KEY_BYTES and _encode(raw) == text:
            return raw
    raise ConfigurationError(f"{what} in the invitation is mistyped; {_AGAIN}")


def _expiry(query: str) -> int:
    name, _, moment = query.partition("=")
    try:
        if name == "expires":
            return parse_moment(moment)
    except KeyFileMalformed:
        pass
    raise ConfigurationError(f"the invitation is cut off or mistyped at its end, ?expires=...; {_AGAIN}")


def _encode(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


MAX_BUNDLE_BYTES = 4 * 1024 * 1024
BUNDLE_KIND: Final = "twinhost trust bundle"


@dataclass(frozen=True, slots=True)
class TrustMaterial:
    """Public keys, the receiver's own among them, and the fingerprints of the revoked ones."""

    own: Certificate
    current: tuple[Certificate, ...]
    next: tuple[Certificate, ...]
    revoked: frozenset[str]


class _Texts(msgspec.Struct, frozen=True):
    certificate: str
    current: tuple[str, ...]
    next: tuple[str, ...]
    revoked: tuple[str, ...]


class _Bundle(_Texts, frozen=True, forbid_unknown_fields=True):
    kind: Literal["twinhost trust bundle"]


def material_of(own: Certificate, contents: FolderContents) -> TrustMaterial:
    """Return what SystemDigitalTwin's folders say, for the owner of a key."""
    current = tuple(contents.current[name] for name in sorted(contents.current))
    following = tuple(contents.next[name] for name in sorted(contents.next))
    return TrustMaterial(own, current, following, contents.revoked)


def render_bundle(material: TrustMaterial) -> str:
    """Return the material as a text file."""
    bundle = {
        "kind": BUNDLE_KIND,
        "certificate": render_certificate(material.own),
        "current": list(map(render_certificate, material.current)),
        "next": list(map(render_certificate, material.next)),
        "revoked": sorted(material.revoked),
    }
    return msgspec.json.format(msgspec.json.encode(bundle), indent=2).decode() + "\n"


def bundle_fingerprint(material: TrustMaterial) -> str:
    """Return the fingerprint of everything in a bundle, for two people to compare."""
    return fingerprint_of(render_bundle(material).encode())


def request_fingerprint(certificate: Certificate) -> str:
    """Return the fingerprint of a request, for two people to compare: it covers name, host, roles, and key.

    No name, host, or role can hold a line break or a space, so two requests never have the same text. The validity is
    not part of it, because mainpc ignores that of a request.
    """
    owner = certificate.owner
    lines = ["twinhost request", owner.name, owner.host, " ".join(sorted(owner.roles)), certificate.public.z85.decode()]
    return fingerprint_of("\n".join(lines).encode())


def parse_bundle(text: str, source: str) -> TrustMaterial:
    """Read a bundle; `source` is its name in an error.

    Raises:
        KeyFileMalformed: it is not a bundle, is cut off, or something in it is malformed.
    """
    try:
        bundle = msgspec.json.decode(text.encode(), type=_Bundle)
    except (msgspec.MsgspecError, UnicodeEncodeError, RecursionError) as error:
        raise KeyFileMalformed(
            f"{source} is not a complete trust bundle ({error}); give it the unchanged output of certs-init accept"
        ) from None
    return _material(bundle, source)


def read_answer(reply: Mapping[str, Any]) -> TrustMaterial:
    """Return the material in an answer to `confirm_key`.

    Raises:
        ConfigurationError: it has another shape, or something in it is malformed.
    """
    try:
        return _material(msgspec.convert(reply, _Texts), "mainpc's answer")
    except msgspec.ValidationError as error:
        raise ConfigurationError(
            f"mainpc's answer can't be read ({error}); run the same version of twinhost on both machines"
        ) from None


def _material(texts: _Texts, source: str) -> TrustMaterial:
    for fingerprint in texts.revoked:
        revoked_file_name(fingerprint)
    return TrustMaterial(
        parse_certificate(texts.certificate, source),
        tuple(parse_certificate(text, source) for text in texts.current),
        tuple(parse_certificate(text, source) for text in texts.next),
        frozenset(texts.revoked),
    )
