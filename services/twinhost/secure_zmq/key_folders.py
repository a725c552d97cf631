"""The contents of the folders of keys.

In a folder, `STEM.key` authorises its owner; `STEM.next.key` does so too, for the key that a rotation brings;
`revoked/SHA256.key` revokes a key for ever, by its file name alone; `invites/NAME.key` is a one-time key that may enrol
NAME.
"""

import base64
import errno
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhost.secure_zmq import advice
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, Certificate, KeyOwner, PublicKey, load_certificate

NEXT_SUFFIX = f".next{PUBLIC_SUFFIX}"
REVOKED_FOLDER = "revoked"
INVITES_FOLDER = "invites"
VOUCHED_FOLDER = "vouched"  # a file for each key that mainpc authorised by itself: by which key or invitation
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class FolderContents:
    """The keys in some folders; `revoked` holds fingerprints, `rejected` a sentence for each bad file."""

    current: Mapping[str, Certificate]  # by name
    next: Mapping[str, Certificate]  # by name
    invites: Sequence[Certificate]
    revoked: frozenset[str]
    rejected: Sequence[str]
    spent: Sequence[Certificate] = ()  # one-time keys that are revoked: used, or withdrawn


NOTHING = FolderContents({}, {}, (), frozenset(), ())


def read_folders(folders: Sequence[Path], known_revoked: frozenset[str] = frozenset()) -> FolderContents:
    """Read the keys; a file that is not valid is named and skipped, and hides no other.

    Where a list of revoked keys can't be read, no key is authorised: it could be any that is on it.
    A key that is known to be revoked stays revoked where its file is gone: a folder that is restored or moved
    authorises nobody.
    """
    rejected: list[str] = []
    revocations = _key_files(folders, rejected, REVOKED_FOLDER)
    if rejected:
        return FolderContents({}, {}, (), known_revoked, rejected)
    found = frozenset(
        fingerprint for path in revocations if (fingerprint := _revoked_fingerprint(path, rejected)) is not None
    )
    revoked = found | known_revoked
    for fingerprint in sorted(revoked - found):
        rejected.append(
            f"no file here revokes {fingerprint} (it was removed, or the volume is full); this agent refuses the key "
            f"until it is restarted: free space on the volume, and on mainpc run certs-init revoke {fingerprint}"
        )
    current: dict[str, Certificate] = {}
    following: dict[str, Certificate] = {}
    owners: dict[PublicKey, KeyOwner] = {}  # of the keys in both
    for path in _key_files(folders, rejected):
        certificate = _load(path, rejected)
        if certificate is not None and certificate.public.fingerprint not in revoked:
            is_next = path.name.endswith(NEXT_SUFFIX)
            _admit(path, certificate, following if is_next else current, owners, rejected)
    loaded = [_load(path, rejected) for path in _key_files(folders, rejected, INVITES_FOLDER)]
    invites = [key for key in loaded if key is not None and key.public.fingerprint not in revoked]
    spent = [key for key in loaded if key is not None and key.public.fingerprint in revoked]
    return FolderContents(current, following, invites, revoked, rejected, spent)


def _key_files(folders: Sequence[Path], rejected: list[str], subfolder: str = "") -> list[Path]:
    found: list[Path] = []
    for folder in folders:
        place = folder / subfolder
        try:  # not glob(), to which a folder that it may not read is an empty one
            found += sorted(path for path in place.iterdir() if path.name.endswith(PUBLIC_SUFFIX))
        except FileNotFoundError:
            continue
        except OSError as error:
            too_many = error.errno in {errno.EMFILE, errno.ENFILE}
            run = f"run: {advice.certs_init(place, 'verify')}"
            step = "it is tried again; raise TWINHOST_NOFILE in .env" if too_many else run
            rejected.append(f"{place} can't be read ({error.strerror}); {step}")
    return found


def _load(path: Path, rejected: list[str]) -> Certificate | None:
    try:
        return load_certificate(path)
    except TwinhostError as error:
        rejected.append(str(error))
        return None


def _revoked_fingerprint(path: Path, rejected: list[str]) -> str | None:
    if not _SHA256_HEX.fullmatch(path.stem):
        rejected.append(f"{path} revokes nothing: its name must be the key's SHA-256 in hex; use certs-init revoke")
        return None
    return "SHA256:" + base64.b64encode(bytes.fromhex(path.stem)).decode().rstrip("=")


def _admit(
    path: Path,
    certificate: Certificate,
    by_name: dict[str, Certificate],
    owners: dict[PublicKey, KeyOwner],
    rejected: list[str],
) -> None:
    owner = certificate.owner
    known = by_name.get(owner.name, certificate)
    if (known.owner, known.public) != (owner, certificate.public):
        rejected.append(
            f"{path} gives {owner.name} a second, different key; revoke the wrong one: certs-init revoke "
            f"{known.public.fingerprint} or {certificate.public.fingerprint}"
        )
    elif owners.setdefault(certificate.public, owner) != owner:
        rejected.append(
            f"{path} gives one key to two owners; revoke it: certs-init revoke {certificate.public.fingerprint}"
        )
    else:
        by_name[owner.name] = known  # of two files of one key, the first one's validity counts
