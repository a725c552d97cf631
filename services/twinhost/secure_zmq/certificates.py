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

from twinhost.commands import CERTIFICATES_VOLUME, CERTS_INIT, certs_init_command
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing, TwinhostError
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
PROFILE_VARIABLE = "TWINHOST_PROFILE"
USER_FOLDER = "twinhost"  # in the user's configuration folder: the default profile, of a program outside the containers
PROFILES_FOLDER = "profiles"  # in that one: the named profiles
NEXT_SECRET_SUFFIX = f".next{SECRET_SUFFIX}"  # of a rotation that has not switched yet
ENROLLED_FOLDER = "enrolled"  # in SystemDigitalTwin's folder: the keys that it has enrolled itself
TRUST_FOLDER = "trust"  # in another agent's folder: the keys in the trust list that it received from mainpc
FAILURE_FILE = ".certs-init-failed"  # why certs-init, which makes the keys, failed last
SERVER_KEY_STEM = "server"  # SystemDigitalTwin's
NEXT_SUFFIX = f".next{PUBLIC_SUFFIX}"
REVOKED_FOLDER = "revoked"
INVITES_FOLDER = "invites"
REQUESTS_FOLDER = "requests"  # public keys that wait to be accepted
VOUCHED_FOLDER = "vouched"  # a file for each key that mainpc authorised itself: the key or invitation that vouched
_SHA256_HEX = re.compile(r"[0-9a-f]{64}")
_PROFILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


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
        if _is_profile(self.folder) and not path.exists():
            again = f"{join_command(self.folder, 'LINE')}, or {join_command(self.folder, '--local')}"
            raise KeyFileMissing(f"{path} is missing; repeat the command that made the key: {again}")
        return load_certificate(path).public


def pins_of(folder: Path, name: str) -> list[PublicKey]:
    """Return the keys of a named peer that are valid now, the current one first, then the next one."""
    return valid_now(read_folders(folders_of_keys(folder)).keys_of(name))


def valid_now(keys: Sequence[Certificate]) -> list[PublicKey]:
    """Return those of some keys that are valid now, each once."""
    now = time.time()
    return list(dict.fromkeys(key.public for key in keys if key.validity.holds(now)))


def certificates_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder that TWINHOST_CERTIFICATES names, `/certificates` where it is unset."""
    return Path(environment.get(FOLDER_VARIABLE) or DEFAULT_FOLDER)


def user_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder of the default profile, for the key of a program outside the containers."""
    home = os.path.expanduser("~")  # noqa: PTH111 - never raises
    return Path(environment.get("XDG_CONFIG_HOME") or f"{home}/.config") / USER_FOLDER


def profile_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in which `twinhost join` puts a key, whether or not it is there.

    It is the one that TWINHOST_CERTIFICATES names, else that of the profile TWINHOST_PROFILE, else the default profile.

    Raises:
        ConfigurationError: TWINHOST_PROFILE is no name of a profile.
    """
    if named := environment.get(FOLDER_VARIABLE):
        return Path(named)
    profile, users = environment.get(PROFILE_VARIABLE), user_folder(environment)
    if not profile:
        return users
    if not _PROFILE.fullmatch(profile):
        raise ConfigurationError(
            f"the profile name {profile!r} must have 1 to 64 of the characters A-Z a-z 0-9 . _ -, and begin with "
            f"a letter or a digit; correct --profile or {PROFILE_VARIABLE}"
        )
    return users / PROFILES_FOLDER / profile


def client_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return the folder in which a program finds its key: that of `profile_folder`.

    Where neither TWINHOST_CERTIFICATES nor TWINHOST_PROFILE is set, it is `/certificates` in a container, or where that
    holds a secret.

    Raises:
        ConfigurationError: there is no such profile.
    """
    folder, shared = profile_folder(environment), Path(DEFAULT_FOLDER)
    if environment.get(FOLDER_VARIABLE):
        return folder
    exists = os.path.isdir(folder)  # noqa: PTH112 - never raises
    if environment.get(PROFILE_VARIABLE):
        if not exists:
            raise ConfigurationError(f"there is no profile {folder.name!r}; to make it, {to_join(folder)}")
        return folder
    in_container = os.path.isdir(shared) and not exists  # noqa: PTH112 - never raises
    return shared if in_container or secrets_in(shared) else folder


def join_command(folder: Path, argument: str) -> str:
    """Return a command line of `twinhost join` for the folder of a profile."""
    named = f"--profile {folder.name} " if folder.parent == user_folder() / PROFILES_FOLDER else ""
    return f"twinhost join {named}{argument}"


def to_join(folder: Path) -> str:
    """Return what to run to put a key into the folder of a profile."""
    return (
        f"run: {join_command(folder, '--local')} (on mainpc's machine), or {join_command(folder, 'LINE')}, with the "
        f"line that this prints on mainpc: {CERTS_INIT} invite NAME --host HOST --role agent"
    )


def _is_profile(folder: Path) -> bool:
    return folder == user_folder() or folder.parent == user_folder() / PROFILES_FOLDER


def folders_of_keys(folder: Path) -> list[Path]:
    """Return the folders with a host's keys: its own, and those in it that its agent writes."""
    return [folder, folder / ENROLLED_FOLDER, folder / TRUST_FOLDER]


def load_certificates(folder: Path | None = None) -> Certificates:
    """Return this host's keys, which are in `client_folder()` unless a folder is named.

    Raises:
        KeyFileMissing: there is no secret key.
        ConfigurationError: there are several, or it is malformed, or others can read it.

    >>> twinhost.load_certificates().own_keys.certificate.owner.name
    'operator'
    """
    folder = folder or client_folder()
    secrets = secrets_in(folder)
    if not secrets:
        raise KeyFileMissing(f"{folder} holds no secret key; {_to_make_keys(folder)}")
    if len(secrets) > 1:
        names = ", ".join(path.name for path in secrets)
        raise ConfigurationError(
            f"{folder} holds {len(secrets)} secret keys ({names}); keep only this host's own; "
            f"to check, run: {certs_init_command(folder, 'verify')}"
        )
    return Certificates(folder, load_key_pair(secrets[0]))


def secrets_in(folder: Path) -> list[Path]:
    """Return the secret keys in a folder, but for those of rotations that have not switched yet.

    Raises:
        KeyFileMissing: the folder can't be read.
    """
    try:  # not glob(), which on some versions finds nothing in a folder that can't be read
        names = sorted(path.name for path in folder.iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return []
    except OSError as error:
        raise KeyFileMissing(
            f"{folder} can't be read ({error.strerror}); check its owner and mode: ls -ld {folder}"
        ) from None
    return [folder / name for name in names if name.endswith(SECRET_SUFFIX) and not name.endswith(NEXT_SECRET_SUFFIX)]


def _to_make_keys(folder: Path) -> str:
    if not _is_profile(folder) and any(folder.glob(f"*{PUBLIC_SUFFIX}")):
        verify = certs_init_command(folder, "verify")  # the secret was lost, and is not replaced without being asked
        return f"run: {verify}"
    if CERTIFICATES_VOLUME in (folder, *folder.parents):
        return f"run: {CERTS_INIT}"
    return f"{to_join(folder)} (for an agent: {CERTS_INIT})"


@dataclass(frozen=True, slots=True)
class FolderContents:
    """The keys in some folders; `revoked` holds fingerprints, `rejected` a sentence for each bad file."""

    current: Mapping[str, Certificate]  # by name
    next: Mapping[str, Certificate]  # by name
    invites: Sequence[Certificate]
    revoked: frozenset[str]
    rejected: Sequence[str]
    spent: Sequence[Certificate] = ()  # one-time keys that are revoked: used, or withdrawn

    def keys_of(self, name: str) -> list[Certificate]:
        """Return the keys of a named peer, the current one first, then the next one."""
        return [keys[name] for keys in (self.current, self.next) if name in keys]


NOTHING = FolderContents({}, {}, (), frozenset(), ())


def read_folders(folders: Sequence[Path], known_revoked: frozenset[str] = frozenset()) -> FolderContents:
    """Read the keys; an invalid file is reported and skipped, without effect on the others.

    If a folder of revoked keys can't be read, no key is authorised: any of them may be revoked.
    A key that is known to be revoked stays revoked if its file is gone: restoring or moving a folder authorises no key.
    """
    unread: list[str] = []
    # Before what revokes them: a revocation moves the file, and a read in between must not find the key nowhere.
    keys = [(path, _load(path, unread)) for path in _key_files(folders, unread)]
    rejected: list[str] = []
    revocations = _key_files(folders, rejected, REVOKED_FOLDER)
    if rejected:
        return FolderContents({}, {}, (), known_revoked, rejected)
    in_files = frozenset(
        fingerprint for path in revocations if (fingerprint := _revoked_fingerprint(path, rejected)) is not None
    )
    revoked = in_files | known_revoked
    for fingerprint in sorted(revoked - in_files):
        rejected.append(
            f"no file here revokes {fingerprint} (it was removed, or the volume is full); this agent refuses the key "
            f"until it is restarted; free space on the volume, and on mainpc run: {_revoke(folders[0], fingerprint)}"
        )
    current: dict[str, Certificate] = {}
    following: dict[str, Certificate] = {}
    owners: dict[PublicKey, KeyOwner] = {}  # of the keys in both
    rejected += unread
    for path, certificate in keys:
        if certificate is not None and certificate.public.fingerprint not in revoked:
            is_next = path.name.endswith(NEXT_SUFFIX)
            _admit(path, certificate, following if is_next else current, owners, rejected)
    loaded = [_load(path, rejected) for path in _key_files(folders, rejected, INVITES_FOLDER)]
    invites = [key for key in loaded if key is not None and key.public.fingerprint not in revoked]
    spent = [key for key in loaded if key is not None and key.public.fingerprint in revoked]
    return FolderContents(current, following, invites, revoked, rejected, spent)


def _key_files(folders: Sequence[Path], rejected: list[str], subfolder: str = "") -> list[Path]:
    files: list[Path] = []
    for folder in folders:
        place = folder / subfolder
        try:  # not glob(), which treats an unreadable folder as empty
            files += sorted(path for path in place.iterdir() if path.name.endswith(PUBLIC_SUFFIX))
        except FileNotFoundError:
            continue
        except OSError as error:
            too_many = error.errno in {errno.EMFILE, errno.ENFILE}
            run = f"run: {certs_init_command(place, 'verify')}"
            step = "this is retried; raise TWINHOST_NOFILE in .env" if too_many else run
            rejected.append(f"{place} can't be read ({error.strerror}); {step}")
    return files


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
