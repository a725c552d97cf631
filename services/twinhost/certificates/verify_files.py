"""Look at single key files and their folders: mode, owner, content; pure of what the tree should hold."""

import os
import stat
from pathlib import Path

from twinhost.certificates.layout import described
from twinhost.certificates.survey import SHA256_HEX, read_vouching
from twinhost.secure_zmq import advice
from twinhost.secure_zmq.errors import KeyFileExposed, KeyFileMissing, TwinhostError
from twinhost.secure_zmq.keys import SECRET_SUFFIX, Certificate, KeyOwner, load_certificate


def mode_and_owner(path: Path) -> list[str]:
    """Say who could change the file, or put others into the folder, without being its owner."""
    status = path.lstat()
    mode, uid = stat.S_IMODE(status.st_mode), status.st_uid
    if uid != os.getuid():
        return [f"{path} belongs to uid {uid} and not to {os.getuid()}; run: {advice.to_own(path)}"]
    if mode & 0o022 and not path.name.endswith(SECRET_SUFFIX):  # of a secret the loader asks for more
        change = advice.to_change_mode(path, "700" if stat.S_ISDIR(status.st_mode) else "644")
        return [f"{path} has mode {mode:04o}, so others can change what it holds; run: {change}"]
    return []


def folder_of_keys(folder: Path, *, ignore_drafts: bool = False) -> tuple[list[str], list[tuple[Path, Certificate]]]:
    """Look at a folder whose files are each named for the key's owner; return what is wrong, and the keys.

    Args:
        folder: invitations, requests, or those who enrolled.
        ignore_drafts: whether somebody else may be writing there at this moment.
    """
    problems = mode_and_owner(folder)
    keys: list[tuple[Path, Certificate]] = []
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            continue
        if ignore_drafts and path.name.endswith(".draft"):
            continue
        if path.suffix != ".key":
            problems.append(f"{path} does not belong here; to remove it: {advice.to_remove(path)}")
            continue
        problems += mode_and_owner(path)
        try:
            certificate = load_certificate(path)
        except TwinhostError as error:
            problems.append(told_here(error, path))
            continue
        keys.append((path, certificate))
        if certificate.owner.name != path.stem.removesuffix(".next"):
            problems.append(
                f"{path} is the key of {described(certificate.owner)}, not of {path.stem}; "
                f"to remove it: {advice.to_remove(path)}"
            )
    return problems, keys


def folder_of_revocations(folder: Path) -> list[str]:
    """Look at a folder in which the names of files are what counts."""
    problems = mode_and_owner(folder)
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".draft"):
            continue
        if path.suffix == ".key" and SHA256_HEX.fullmatch(path.stem):
            problems += mode_and_owner(path)
        else:
            problems.append(
                f"{path} revokes nothing, since its name is no SHA-256 in hex; to remove it: {advice.to_remove(path)}"
            )
    return problems


def folder_of_vouchers(folder: Path) -> list[str]:
    """Look at the records of which key authorised which; a revocation follows only those that can be believed."""
    problems = mode_and_owner(folder)
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".draft"):
            continue
        problems += mode_and_owner(path)
        if read_vouching(path) is None:
            problems.append(f"{path} does not say which key authorised the one of its name; move it away")
    return problems


def another_owner(path: Path, found: Certificate, owner: KeyOwner) -> list[str]:
    """Say that a file holds somebody else's key."""
    if found.owner == owner:
        return []
    return [
        f"{path} is the key of {described(found.owner)}, not of {described(owner)}; "
        f"remove it: {advice.to_remove(path)}, then run certs-init, which says how to go on"
    ]


def told_here(error: TwinhostError, path: Path) -> str:
    """Return the loader's sentence; its advice to run verify, or none, is no help to who has run it."""
    what, _, to_do = str(error).partition("; ")
    unreadable = isinstance(error, KeyFileMissing) and path.is_file() and not path.is_symlink()
    if isinstance(error, KeyFileExposed) or unreadable:
        to_do = f"run: {advice.to_change_mode(path, '600' if path.name.endswith(SECRET_SUFFIX) else '644')}"
    elif not to_do or "certs-init verify" in to_do:
        to_do = f"restore it from a backup, or remove it: {advice.to_remove(path)}, then run certs-init, which says "
        to_do += "how to go on"
    return f"{what}; {to_do}"
