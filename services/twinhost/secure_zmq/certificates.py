"""The key folder of one host: its own secret key, and the public keys of the others."""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from twinhost.secure_zmq import advice
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMissing
from twinhost.secure_zmq.key_folders import read_folders
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, SECRET_SUFFIX, KeyPair, PublicKey, load_certificate, load_key_pair

FOLDER_VARIABLE = "TWINHOST_CERTIFICATES"
DEFAULT_FOLDER = "/certificates"  # of the containers
USER_FOLDER = "twinhost"  # in the user's configuration folder: the key of a program outside the containers
NEXT_SECRET_SUFFIX = f".next{SECRET_SUFFIX}"  # of a rotation that has not switched yet
ENROLLED_FOLDER = "enrolled"  # in SystemDigitalTwin's folder: the keys that it has enrolled itself
TRUST_FOLDER = "trust"  # in another agent's folder: the keys that mainpc has told it to trust
FAILURE_FILE = ".certs-init-failed"  # why certs-init, which makes the keys, failed last
SERVER_KEY_STEM = "server"  # SystemDigitalTwin's


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
    """
    folder = folder or client_folder()
    secrets = _secrets_in(folder)
    if not secrets:
        raise KeyFileMissing(f"{folder} holds no secret key; run: {_command_that_makes_keys(folder)}")
    if len(secrets) > 1:
        names = ", ".join(path.name for path in secrets)
        raise ConfigurationError(
            f"{folder} holds {len(secrets)} secret keys ({names}); keep only this host's own: "
            f"run: {advice.certs_init(folder, 'verify')}"
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
        return advice.certs_init(folder, "verify")  # the secret was lost, and certs-init makes no second one by itself
    if advice.VOLUME in (folder, *folder.parents):
        return advice.CERTS_INIT
    return ".venv/bin/python scripts/enrol_program.py NAME (for an agent: certs-init)"
