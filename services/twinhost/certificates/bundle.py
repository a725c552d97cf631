"""What mainpc sends to whom it authorised: the key with its validity, and everybody's public keys; never a secret.

The same is the answer to `confirm_key`, and a file for a machine that has no path to mainpc.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from twinhost.secure_zmq.certificates import FolderContents
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMalformed
from twinhost.secure_zmq.key_writer import render_certificate, revoked_file_name
from twinhost.secure_zmq.keys import Certificate, fingerprint_of, parse_certificate

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


class _Bundle(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    kind: Literal["twinhost trust bundle"]
    certificate: str
    current: tuple[str, ...]
    next: tuple[str, ...]
    revoked: tuple[str, ...]


def material_of(own: Certificate, contents: FolderContents) -> TrustMaterial:
    """Return what SystemDigitalTwin's folders say, for the owner of a key."""
    current = tuple(contents.current[name] for name in sorted(contents.current))
    following = tuple(contents.next[name] for name in sorted(contents.next))
    return TrustMaterial(own, current, following, contents.revoked)


def render_bundle(material: TrustMaterial) -> str:
    """Return the material as a text file."""
    bundle = _Bundle(
        BUNDLE_KIND,
        render_certificate(material.own),
        _rendered(material.current),
        _rendered(material.next),
        tuple(sorted(material.revoked)),
    )
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
        KeyFileMalformed: it is no bundle, is cut off, or something in it is malformed.
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


def _material(texts: _Texts | _Bundle, source: str) -> TrustMaterial:
    for fingerprint in texts.revoked:
        revoked_file_name(fingerprint)
    return TrustMaterial(
        parse_certificate(texts.certificate, source),
        tuple(parse_certificate(text, source) for text in texts.current),
        tuple(parse_certificate(text, source) for text in texts.next),
        frozenset(texts.revoked),
    )


def _rendered(certificates: Iterable[Certificate]) -> tuple[str, ...]:
    return tuple(render_certificate(certificate) for certificate in certificates)
