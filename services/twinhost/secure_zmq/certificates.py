"""The key folder of one host: its own secret key, and the public keys of the others.

`STEM.key` authorises its owner; `STEM.next.key` does so too, for the key that a rotation changes to;
`revoked/SHA256.key` revokes a key for ever, by its file name alone; `invites/NAME.key` is a one-time key that may enrol
NAME.
"""

import base64
import errno
import os
import re
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhost.secure_zmq.errors import (
    CERTIFICATES_VOLUME,
    CERTS_INIT,
    ConfigurationError,
    KeyFileMissing,
    TwinhostError,
    certs_init_command,
)
from twinhost.secure_zmq.keys import (
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    Certificate,
    KeyOwner,
    KeyPair,
    PublicKey,
    load_certificate,
    load_key_pair,
)

FOLDER_VARIABLE = "TWINHOST_CERTIFICATES"
DEFAULT_FOLDER = "/certificates"  # of the containers
USER_FOLDER = "twinhost"  # in the user's configuration folder: the key of a program outside the containers
NEXT_SECRET_SUFFIX = f".next{SECRET_SUFFIX}"  # of a rotation that has not switched yet
ENROLLED_FOLDER = "enrolled"  # in SystemDigitalTwin's folder: the keys that it has enrolled itself
TRUST_FOLDER = "trust"  # in another agent's folder: the keys in the trust list that it received from mainpc
FAILURE_FILE = ".certs-init-failed"  # why certs-init, which makes the keys, failed last
SERVER_KEY_STEM = "server"  # SystemDigitalTwin's
NEXT_SUFFIX = f".next{PUBLIC_SUFFIX}"
REVOKED_FOLDER = "revoked"
INVITES_FOLDER = "invites"
VOUCHED_FOLDER = "vouched"  # a file for each key that mainpc authorised itself: the key or invitation that vouched
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class Certificates:
    """A key pair, and the folder with it and the public keys of others."""

    folder: Path
    own_keys: KeyPair

    def public_key(self, stem: str = SERVER_KEY_STEM) -> PublicKey:
        """Return the public key in `STEM.key`, to be pinned.

        Raises:
            KeyFileMissing, KeyFileMalformed: the file is missing or malformed.
        """
        path = self.folder / f"{stem}{PUBLIC_SUFFIX}"
        if self.folder == user_folder() and not path.exists():
            name = self.own_keys.certificate.owner.name
            raise KeyFileMissing(f"{path} is missing; run again: .venv/bin/python scripts/enrol_program.py {name}")
        return load_certificate(path).public


def pins_of(folder: Path, name: str) -> list[PublicKey]:
    """Return the keys of a named peer that are valid now, the current one first, then the next one."""
    contents = read_folders(folders_of_keys(folder))
    now = time.time()
    found = [keys[name] for keys in (contents.current, contents.next) if name in keys]
    valid = [key.public for key in found if key.validity.holds(now)]
    return list(dict.fromkeys(valid))


def certificates_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that TWINHOST_CERTIFICATES names, `/certificates` where it is unset."""
    return Path(environment.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


def user_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder for the key of a program outside the containers."""
    home = os.path.expanduser("~")  # noqa: PTH111 - never raises
    return Path(environment.get("XDG_CONFIG_HOME") or f"{home}/.config") / USER_FOLDER


def client_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in which a program finds its key: the one that TWINHOST_CERTIFICATES names.

    Where it is unset: `/certificates` in a container, or where it holds a secret; the user's folder otherwise.
    """
    named, shared, users = environment.get(FOLDER_VARIABLE), Path(DEFAULT_FOLDER), user_folder(environment)
    if named:
        return Path(named)
    in_container = os.path.isdir(shared) and not os.path.isdir(users)  # noqa: PTH112 - never raises
    return shared if in_container or _secrets_in(shared) else users


def folders_of_keys(folder: Path) -> list[Path]:
    """Return the folders with a host's keys: its own, and those in it that its agent writes."""
    return [folder, folder / ENROLLED_FOLDER, folder / TRUST_FOLDER]


def load_certificates(folder: Path | None = None) -> Certificates:
    """Return this host's keys.

    Args:
        folder: where they are; the default is `client_folder()`.

    Raises:
        KeyFileMissing: there is no secret key.
        ConfigurationError: there are several, or it is malformed, or others can read it.

    >>> twinhost.load_certificates().own_keys.certificate.owner.name
    'operator'
    """
    folder = folder or client_folder()
    secrets = _secrets_in(folder)
    if not secrets:
        raise KeyFileMissing(f"{folder} holds no secret key; run: {_command_that_makes_keys(folder)}")
    if len(secrets) > 1:
        names = ", ".join(path.name for path in secrets)
        raise ConfigurationError(
            f"{folder} holds {len(secrets)} secret keys ({names}); keep only this host's own; "
            f"to check, run: {certs_init_command(folder, 'verify')}"
        )
    return Certificates(folder, load_key_pair(secrets[0]))


def _secrets_in(folder: Path) -> list[Path]:
    try:  # not glob(), which on some versions finds nothing in a folder that can't be read
        names = sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise KeyFileMissing(
            f"{folder} can't be read ({error.strerror}); check its owner and mode: ls -ld {folder}"
        ) from None
    return [folder / name for name in names if name.endswith(SECRET_SUFFIX) and not name.endswith(NEXT_SECRET_SUFFIX)]


def _command_that_makes_keys(folder: Path) -> str:
    if folder != user_folder() and any(folder.glob(f"*{PUBLIC_SUFFIX}")):
        return certs_init_command(folder, "verify")  # the secret was lost, and certs-init does not replace it unasked
    if CERTIFICATES_VOLUME in (folder, *folder.parents):
        return CERTS_INIT
    return f".venv/bin/python scripts/enrol_program.py NAME (for an agent: {CERTS_INIT})"


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
    """Read the keys; an invalid file is reported and skipped, without effect on the others.

    If a folder of revoked keys can't be read, no key is authorised: any of them may be revoked.
    A key that is known to be revoked stays revoked if its file is gone: restoring or moving a folder authorises no key.
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
            f"until it is restarted; free space on the volume, and on mainpc run: {_revoke(folders[0], fingerprint)}"
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
        try:  # not glob(), which treats an unreadable folder as empty
            found += sorted(path for path in place.iterdir() if path.name.endswith(PUBLIC_SUFFIX))
        except FileNotFoundError:
            continue
        except OSError as error:
            too_many = error.errno in {errno.EMFILE, errno.ENFILE}
            run = f"run: {certs_init_command(place, 'verify')}"
            step = "this is retried; raise TWINHOST_NOFILE in .env" if too_many else run
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
        rejected.append(
            f"{path} revokes nothing: its name must be the key's SHA-256 in hex; run: {_revoke(path, 'SHA256:...')}"
        )
        return None
    return "SHA256:" + base64.b64encode(bytes.fromhex(path.stem)).decode().rstrip("=")


def _revoke(path: Path, fingerprint: str) -> str:
    return certs_init_command(path, "revoke", fingerprint)


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
            f"{path} gives {owner.name} a second, different key; revoke the wrong one: "
            f"{_revoke(path, known.public.fingerprint)} or {certificate.public.fingerprint}"
        )
    elif owners.setdefault(certificate.public, owner) != owner:
        rejected.append(
            f"{path} gives one key to two owners; revoke it: {_revoke(path, certificate.public.fingerprint)}"
        )
    else:
        by_name[owner.name] = known  # of two files of one key, the first one's validity counts
