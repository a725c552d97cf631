"""Trust distribution: mainpc's list of keys as a document, and the folder in which another host keeps it.

Enrolments, revocations, and the next key of a rotation reach every host this way, over the authenticated link. A
revocation that was received is never withdrawn.
"""

import contextlib
import hashlib
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from typing import Any

import msgspec
import structlog

from twinhost.secure_zmq.certificates import NEXT_SUFFIX, REVOKED_FOLDER, FolderContents
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMalformed, MalformedRequest, TwinhostError
from twinhost.secure_zmq.key_writer import (
    move_to_revoked,
    render_certificate,
    replace_certificate,
    revoked_file_name,
    sweep_drafts,
    write_revoked_fingerprint,
)
from twinhost.secure_zmq.keys import NEXT_MARK, PUBLIC_SUFFIX, Certificate, load_certificate, parse_certificate

_log = structlog.get_logger(__name__)

TRUST_TOPIC = b"TRUST:"  # of the event that announces a changed document


class TrustDocument(msgspec.Struct, frozen=True):
    """The texts of public key files, and the revoked fingerprints; `revision` is a digest of them."""

    revision: str
    current: tuple[str, ...]
    next: tuple[str, ...]
    revoked: tuple[str, ...]


def document_of(contents: FolderContents) -> TrustDocument:
    """Return the document for the keys in a host's folders."""
    current, following = _texts(contents.current.values()), _texts(contents.next.values())
    revoked = tuple(sorted(contents.revoked))
    digest = hashlib.sha256(msgspec.json.encode((current, following, revoked))).hexdigest()
    return TrustDocument(digest[:32], current, following, revoked)


def read_document(reply: dict[str, Any]) -> TrustDocument:
    """Return the document in a reply to `get_trust`.

    Raises:
        MalformedRequest: it has another shape.
    """
    try:
        return msgspec.convert(reply, TrustDocument)
    except msgspec.ValidationError as error:
        raise MalformedRequest(
            f"mainpc's reply is not a trust document ({error}); run the same version on both hosts"
        ) from None


class TrustFolder:
    """A folder of keys that is kept equal to mainpc's document."""

    def __init__(self, folder: Path, refuse: Callable[[frozenset[str]], object]) -> None:
        """Create the folder if it is missing.

        Args:
            folder: of the keys.
            refuse: makes this process refuse keys, by their fingerprints, once it returns.

        Raises:
            ConfigurationError: it can't be created.
        """
        self._folder = folder
        self._refuse = refuse
        try:
            for each in (folder, folder / REVOKED_FOLDER):
                each.mkdir(mode=0o700, exist_ok=True)
                sweep_drafts(each)
        except OSError as error:
            raise ConfigurationError(
                f"{error.filename} can't be created ({error.strerror}); check its volume"
            ) from None

    def apply(self, document: TrustDocument) -> None:
        """Apply a document; an interrupted run is finished by the next one.

        Keys that are revoked or no longer listed are removed first, which needs no space on the disk. Then the next
        keys are written before the current ones, and replaced ones are removed last: a host whose key changes
        always has a listed key.

        Raises:
            MalformedRequest: it has an invalid public key file or fingerprint; nothing was changed.
            OSError: the folder can't be written; the revoked keys are refused nevertheless.
        """
        revoked = frozenset(document.revoked)
        following = {f"{key.owner.name}{NEXT_SUFFIX}": key for key in _certificates(document.next)}
        current = {f"{key.owner.name}{PUBLIC_SUFFIX}": key for key in _certificates(document.current)}
        for fingerprint in document.revoked:
            _require_fingerprint(fingerprint)
        wanted = {name: key for name, key in (following | current).items() if key.public.fingerprint not in revoked}
        try:
            self._remove({key.owner.name for key in wanted.values()}, revoked)
            for fingerprint in document.revoked:
                write_revoked_fingerprint(fingerprint, self._folder / REVOKED_FOLDER)
        finally:
            self._refuse(revoked)
        for name in sorted(wanted, key=lambda name: name not in following):
            self._put(self._folder / name, wanted[name])
        for path in self._files():
            if path.name not in wanted:
                path.unlink()
        _log.info("trust_updated", revision=document.revision, keys=len(wanted), revoked=len(revoked))

    def _remove(self, owners: Collection[str], revoked: Collection[str]) -> None:
        """Remove the files of revoked keys, and of owners that no longer have a key."""
        for path in self._files():
            fingerprint = None
            with contextlib.suppress(TwinhostError):  # an invalid file authorises nobody
                fingerprint = load_certificate(path).public.fingerprint
            if fingerprint is not None and fingerprint in revoked:
                move_to_revoked(path, fingerprint, self._folder / REVOKED_FOLDER)
            elif path.name.removesuffix(PUBLIC_SUFFIX).removesuffix(NEXT_MARK) not in owners:
                path.unlink()

    def _files(self) -> list[Path]:
        return sorted(self._folder.glob(f"*{PUBLIC_SUFFIX}"))

    def _put(self, path: Path, certificate: Certificate) -> None:
        with contextlib.suppress(TwinhostError):  # no such file, or an invalid one
            if load_certificate(path) == certificate:
                return
        replace_certificate(certificate, path)


def _texts(certificates: Iterable[Certificate]) -> tuple[str, ...]:
    return tuple(sorted(render_certificate(certificate) for certificate in certificates))


def _require_fingerprint(text: str) -> None:
    try:
        revoked_file_name(text)
    except KeyFileMalformed as error:
        raise MalformedRequest(f"mainpc's trust document: {error}") from None


def _certificates(texts: tuple[str, ...]) -> list[Certificate]:
    try:
        return [parse_certificate(text, "mainpc's trust document") for text in texts]
    except KeyFileMalformed as error:
        raise MalformedRequest(str(error)) from None
