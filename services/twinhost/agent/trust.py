"""Trust distribution: mainpc's list of keys as a document, and the folder in which another host keeps it.

Enrolments, revocations, and the next key of a rotation reach every host this way, over the authenticated link. A host
names the revision that it has, and gets what has changed since, or the whole document in parts. A revocation that was
received is never withdrawn.
"""

import contextlib
import hashlib
import itertools
import re
import threading
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, TypeVar

import msgspec
import structlog

from twinhost.secure_zmq.certificates import NEXT_SUFFIX, REVOKED_FOLDER, FolderContents, read_folders
from twinhost.secure_zmq.errors import (
    ConfigurationError,
    KeyFileMalformed,
    MalformedRequest,
    StoreUnavailable,
    TwinhostError,
)
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
_REVISIONS = 256  # that mainpc remembers: those of the last minutes while many keys are enrolled one by one
_PART = 20  # keys and fingerprints of a part, 5 KB: many agents that start at once may each wait for one
_ATTEMPTS = 3  # to get all parts of one revision
_OWNER = re.compile(r'^ *name = "(.+)"$', re.MULTILINE)  # in the text of a public key file


D = TypeVar("D", bound="TrustDocument")


class TrustDocument(msgspec.Struct, frozen=True):
    """The texts of public key files, and the revoked fingerprints; `revision` is a digest of them."""

    revision: str
    current: tuple[str, ...]
    next: tuple[str, ...]
    revoked: tuple[str, ...]

    def part(self, number: int) -> "TrustPart":
        """Return a part; the first one is 0."""
        start = number * _PART
        before_revoked = len(self.current) + len(self.next)
        current, following, revoked = (
            items[max(0, start - before) : max(0, start - before + _PART)]
            for items, before in ((self.current, 0), (self.next, len(self.current)), (self.revoked, before_revoked))
        )
        parts = max(1, -(-(before_revoked + len(self.revoked)) // _PART))
        return TrustPart(self.revision, current, following, revoked, parts)


class TrustPart(TrustDocument, frozen=True):
    """A part of a document that has `parts`; an older mainpc returns all of it as one."""

    parts: Annotated[int, msgspec.Meta(le=10_000)] = 1


class TrustDifference(TrustDocument, frozen=True):
    """What has changed since a revision: all keys of the owners in `changed`, and the added revoked fingerprints."""

    since: str
    changed: tuple[str, ...]

    def applied_to(self, base: TrustDocument) -> TrustDocument | None:
        """Return the document of this revision; None if the difference does not lead there from `base`."""
        current, following = (
            [*(text for text in known if _owner(text) not in self.changed), *changed]
            for known, changed in ((base.current, self.current), (base.next, self.next))
        )
        document = _document(current, following, {*base.revoked, *self.revoked})
        return document if document.revision == self.revision else None


def document_of(contents: FolderContents) -> TrustDocument:
    """Return the document for the keys in a host's folders."""
    current, following = (map(render_certificate, keys.values()) for keys in (contents.current, contents.next))
    return _document(current, following, contents.revoked)


def fetch_document(get_trust: Callable[..., dict[str, Any]], base: TrustDocument) -> TrustDocument:
    """Return mainpc's document: what has changed since `base` if mainpc remembers that revision, else all its parts.

    Args:
        get_trust: calls the action with fields.
        base: the document that this host has.

    Raises:
        MalformedRequest: the reply has another shape.
    """
    reply = get_trust(since=base.revision, part=0)
    if "since" in reply:
        document = _read(reply, TrustDifference).applied_to(base)
        if document is not None:
            return document
        reply = get_trust(part=0)
    for _ in range(_ATTEMPTS):
        first = _read(reply, TrustPart)
        if first.parts == 1:
            return read_document(reply)
        others = [_read(get_trust(part=number), TrustPart) for number in range(1, first.parts)]
        document = _document(
            *(itertools.chain.from_iterable(lists) for lists in zip(*map(_lists, (first, *others)), strict=True))
        )
        if document.revision == first.revision:
            return document
        reply = get_trust(part=0)  # a key has changed meanwhile
    return read_document(get_trust())


def read_document(reply: dict[str, Any]) -> TrustDocument:
    """Return the whole document in a reply to `get_trust`; MalformedRequest if it has another shape."""
    return _read(reply, TrustDocument)


def _lists(document: TrustDocument) -> tuple[tuple[str, ...], ...]:
    return document.current, document.next, document.revoked


def _read(reply: dict[str, Any], kind: type[D]) -> D:
    try:
        return msgspec.convert(reply, kind)
    except msgspec.ValidationError as error:
        raise MalformedRequest(
            f"mainpc's reply is not a trust document ({error}); run the same version on both hosts"
        ) from None


class TrustHistory:
    """mainpc's document, and which keys have changed since its last revisions; for any thread."""

    def __init__(self, contents: Callable[[], FolderContents]) -> None:
        """Follow the keys that `contents` returns, which is another object after each change."""
        self._contents_now = contents
        self._lock = threading.Lock()
        self._contents = contents()
        self._document = document_of(self._contents)
        self._steps: deque[tuple[str, frozenset[str], frozenset[str]]] = deque(maxlen=_REVISIONS)

    def document(self) -> TrustDocument:
        """Return the document. It is made once per change, because every heartbeat asks for its revision."""
        with self._lock:
            return self._followed()

    def answer(self, since: str | None, part: int | None) -> TrustDocument:
        """Return the difference since a revision if it is remembered, else a part of the document, or all of it.

        Where a part is asked for, so is a difference that is no larger.
        """
        difference = self.since(since) if since is not None else None
        if difference is not None and (part is None or len(difference.changed) + len(difference.revoked) <= _PART):
            return difference
        return self.document() if part is None else self.document().part(part)

    def since(self, revision: str) -> TrustDifference | None:
        """Return what has changed since a revision; None if it is not remembered."""
        with self._lock:
            document, contents = self._followed(), self._contents
            changed: set[str] = set()
            revoked: set[str] = set()
            if revision != document.revision:
                for before, names, fingerprints in reversed(self._steps):
                    changed |= names
                    revoked |= fingerprints
                    if before == revision:
                        break
                else:
                    return None
        current, following = (
            tuple(sorted(render_certificate(keys[name]) for name in changed if name in keys))
            for keys in (contents.current, contents.next)
        )
        return TrustDifference(
            document.revision, current, following, tuple(sorted(revoked)), revision, tuple(sorted(changed))
        )

    def _followed(self) -> TrustDocument:
        before, now = self._contents, self._contents_now()
        if now is not before:
            document = document_of(now)
            if not before.revoked <= now.revoked:  # no difference withdraws a revocation
                self._steps.clear()
            elif document.revision != self._document.revision:
                names = {*_changed(before.current, now.current), *_changed(before.next, now.next)}
                self._steps.append((self._document.revision, frozenset(names), now.revoked - before.revoked))
            self._contents, self._document = now, document
        return self._document


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
            for path in (folder, folder / REVOKED_FOLDER):
                path.mkdir(mode=0o700, exist_ok=True)
                sweep_drafts(path)
        except OSError as error:
            raise ConfigurationError(
                f"{error.filename} can't be created ({error.strerror}); check its volume"
            ) from None

    def document(self) -> TrustDocument:
        """Return the document that the folder has."""
        return document_of(read_folders([self._folder]))

    def follow(self, get_trust: Callable[..., dict[str, Any]], base: TrustDocument) -> TrustDocument:
        """Fetch mainpc's document, apply it if it differs from `base`, which the folder has, and return it.

        Raises:
            ConnectionRefused, RequestError: mainpc did not answer, or its answer is malformed.
            StoreUnavailable: the folder can't be written; the revoked keys are refused nevertheless.
        """
        document = fetch_document(get_trust, base)
        try:
            if document.revision != base.revision:
                self.apply(document)
        except OSError as error:
            raise StoreUnavailable(f"the trust folder can't be written ({error}); free space on its volume") from None
        return document

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


def _document(current: Iterable[str], following: Iterable[str], revoked: Iterable[str]) -> TrustDocument:
    parts = tuple(sorted(current)), tuple(sorted(following)), tuple(sorted(revoked))
    return TrustDocument(hashlib.sha256(msgspec.json.encode(parts)).hexdigest()[:32], *parts)


def _changed(before: Mapping[str, Certificate], now: Mapping[str, Certificate]) -> Iterator[str]:
    """Yield the owners whose key was added, replaced, or removed."""
    return (name for name in before.keys() | now.keys() if before.get(name) != now.get(name))


def _owner(text: str) -> str | None:
    owner = _OWNER.search(text)
    return owner[1] if owner else None


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
