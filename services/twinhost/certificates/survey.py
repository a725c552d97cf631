"""What lies in a tree: folders of this machine's own, of those who joined here, and SystemDigitalTwin's list."""

import contextlib
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.layout import Identity, Layout
from twinhost.secure_zmq.certificates import ENROLLED_FOLDER, TRUST_FOLDER
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.key_folders import REVOKED_FOLDER, VOUCHED_FOLDER
from twinhost.secure_zmq.key_writer import revoked_file_name
from twinhost.secure_zmq.keys import (
    MAX_KEY_FILE_BYTES,
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    Certificate,
    KeyPair,
    load_certificate,
    load_key_pair,
)

REQUESTS_FOLDER = "requests"  # public keys that somebody has yet to accept
_VOUCHING = re.compile(r"(SHA256:[A-Za-z0-9+/]{43}) (SHA256:[A-Za-z0-9+/]{43})\n")
SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FoundKey:
    """A public key that lies in a tree."""

    path: Path
    certificate: Certificate


def joined_folders(layout: Layout) -> list[Path]:
    """Return the folders that `join`, `request`, or `export-host` made: each holds the secret of its own."""
    if not layout.root.is_dir():
        return []
    known = {folder.name for folder in layout.folders}
    stems = {identity.folder: identity.stem for identity in layout.everybody}
    folders = [folder for folder in layout.root.iterdir() if folder.name not in known and not folder.is_symlink()]
    return sorted(folder for folder in folders if list(_secrets_in(folder, stems.get(folder.name, folder.name))))


def own_folders(layout: Layout) -> list[Path]:
    """Return every folder in which an agent or the cli looks for its keys, SystemDigitalTwin's first."""
    folders = [folder for folder in layout.folders if folder.is_dir()]
    return sorted(folders, key=lambda folder: folder != layout.server_folder) + joined_folders(layout)


def enrolled_folder(layout: Layout) -> Path | None:
    """Return the folder of those whom SystemDigitalTwin let in itself."""
    return layout.server_folder / ENROLLED_FOLDER if layout.server_folder else None


def found_keys(layout: Layout) -> Iterator[FoundKey]:
    """Return every public key file that can be believed; the others are for `verify` to tell of."""
    enrolled = enrolled_folder(layout)
    for folder in (*own_folders(layout), *([enrolled] if enrolled else [])):
        yield from keys_in(folder)


def keys_in(folder: Path) -> Iterator[FoundKey]:
    """Return the public key files of one folder that can be believed."""
    for path in sorted(folder.glob(f"*{PUBLIC_SUFFIX}")):
        with contextlib.suppress(TwinhostError):
            yield FoundKey(path, load_certificate(path))


def own_pairs(layout: Layout) -> Iterator[tuple[Path, KeyPair]]:
    """Return every secret of the tree that can be believed."""
    for folder in own_folders(layout):
        for path in sorted(folder.glob(f"*{SECRET_SUFFIX}")):
            with contextlib.suppress(TwinhostError):
                yield path, load_key_pair(path)


def is_revoked(layout: Layout, certificate: Certificate) -> bool:
    """Return whether a key is kept out for ever, as far as this tree knows."""
    return is_revoked_fingerprint(layout, certificate.public.fingerprint)


def is_revoked_fingerprint(layout: Layout, fingerprint: str) -> bool:
    """Return the same of a key of which only the fingerprint is known."""
    name = revoked_file_name(fingerprint)
    return any((folder / name).exists() for folder in revoked_folders(layout))


def revoked_folders(layout: Layout) -> list[Path]:
    """Return where revocations lie, those that the agents write last: certs-init does not write there."""
    own = own_folders(layout)
    written = [folder / name for folder in own for name in (ENROLLED_FOLDER, TRUST_FOLDER)]
    return [folder / REVOKED_FOLDER for folder in (*own, *(folder for folder in written if folder.is_dir()))]


def vouchers(layout: Layout) -> dict[str, str]:
    """Return which key or invitation each key was authorised by; both by fingerprint.

    There is none of keys that a person authorised, or that were authorised before this was recorded.
    """
    enrolled = enrolled_folder(layout)
    records = [read_vouching(path) for path in sorted((enrolled / VOUCHED_FOLDER).glob("*.key"))] if enrolled else []
    return dict(record for record in records if record is not None)


def read_vouching(path: Path) -> tuple[str, str] | None:
    """Return a key and what vouched for it, as a file in `vouched/` records it; None where it can't be believed."""
    try:
        match = _VOUCHING.fullmatch(path.read_bytes()[:MAX_KEY_FILE_BYTES].decode("ascii", "replace"))
        return (match[1], match[2]) if match and path.name == revoked_file_name(match[1]) else None
    except (OSError, TwinhostError):
        return None


def live_keys(layout: Layout, name: str) -> list[Certificate]:
    """Return the keys of a name that are not revoked, expired ones too, each once."""
    found = [key.certificate for key in found_keys(layout)]
    found += [pair.certificate for _, pair in own_pairs(layout)]
    mine = {key.public: key for key in reversed(found) if key.owner.name == name}
    return [key for key in mine.values() if not is_revoked(layout, key)]


def enrolled_key(layout: Layout, identity: Identity) -> Certificate | None:
    """Return the key under which SystemDigitalTwin let an identity in, if it did and it is not revoked."""
    folder = enrolled_folder(layout)
    path = folder / f"{identity.owner.name}{PUBLIC_SUFFIX}" if folder else None
    if path is None or not path.exists():
        return None
    certificate = load_certificate(path)
    return None if is_revoked(layout, certificate) else certificate


def _secrets_in(folder: Path, stem: str) -> Iterator[Path]:
    for suffix in (SECRET_SUFFIX, f".next{SECRET_SUFFIX}"):
        path = folder / f"{stem}{suffix}"
        if path.is_file():
            yield path
