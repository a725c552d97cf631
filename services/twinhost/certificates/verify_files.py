"""Check single key files and folders: mode, owner, content; not which ones the tree should have."""

import os
import stat
from pathlib import Path

from twinhost.certificates.layout import described
from twinhost.certificates.tree import SHA256_HEX, read_vouching
from twinhost.secure_zmq.errors import (
    KeyFileExposed,
    KeyFileMissing,
    TwinhostError,
    certs_init_command,
    change_mode_command,
    own_command,
    remove_command,
)
from twinhost.secure_zmq.keys import SECRET_SUFFIX, Certificate, KeyOwner, load_certificate


def mode_and_owner(path: Path) -> list[str]:
    """Return a problem where another user owns or could change a file or folder."""
    status = path.lstat()
    mode, uid = stat.S_IMODE(status.st_mode), status.st_uid
    if uid != os.getuid():
        return [f"{path} belongs to uid {uid} and not to {os.getuid()}; run: {own_command(path)}"]
    if mode & 0o022 and not path.name.endswith(SECRET_SUFFIX):  # the loader is stricter with a secret
        change = change_mode_command(path, "700" if stat.S_ISDIR(status.st_mode) else "644")
        return [f"{path} has mode {mode:04o}, so others can change what it holds; run: {change}"]
    return []


def folder_of_keys(folder: Path, *, ignore_drafts: bool = False) -> list[str]:
    """Check a folder whose files are named for the keys' owners.

    Args:
        folder: invitations, requests, or those who enrolled.
        ignore_drafts: whether an agent may be writing there.
    """
    problems = mode_and_owner(folder)
    for path in sorted(folder.iterdir()):
        if path.is_dir() and not path.is_symlink():
            continue
        if ignore_drafts and path.name.endswith(".draft"):
            continue
        if path.suffix != ".key":
            problems.append(f"{path} does not belong here; to remove it: {remove_command(path)}")
            continue
        problems += mode_and_owner(path)
        try:
            certificate = load_certificate(path)
        except TwinhostError as error:
            problems.append(loader_problem(error, path))
            continue
        if certificate.owner.name != path.stem.removesuffix(".next"):
            problems.append(
                f"{path} is the key of {described(certificate.owner)}, not of {path.stem}; "
                f"to remove it: {remove_command(path)}"
            )
    return problems


def folder_of_revocations(folder: Path) -> list[str]:
    """Check a folder in which the names of the files are what revokes keys."""
    problems = mode_and_owner(folder)
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".draft"):
            continue
        if path.suffix == ".key" and SHA256_HEX.fullmatch(path.stem):
            problems += mode_and_owner(path)
        else:
            problems.append(
                f"{path} revokes nothing: its name is not a SHA-256 in hex; to remove it: {remove_command(path)}"
            )
    return problems


def folder_of_vouchers(folder: Path) -> list[str]:
    """Check the records of which key authorised which; a revocation follows only the well-formed ones."""
    problems = mode_and_owner(folder)
    for path in sorted(folder.iterdir()):
        if path.name.endswith(".draft"):
            continue
        problems += mode_and_owner(path)
        if read_vouching(path) is None:
            problems.append(f"{path} does not name the key that authorised the one of its file name; move it elsewhere")
    return problems


def another_owner(path: Path, found: Certificate, owner: KeyOwner) -> list[str]:
    """Return a problem where a file holds another owner's key."""
    if found.owner == owner:
        return []
    return [
        f"{path} is the key of {described(found.owner)}, not of {described(owner)}; "
        f"remove it: {remove_command(path)}, then run {certs_init_command(path)}, which says how to continue"
    ]


def loader_problem(error: TwinhostError, path: Path) -> str:
    """Return the loader's sentence, with advice that helps a reader who has run `verify` already."""
    what, _, to_do = str(error).partition("; ")
    unreadable = isinstance(error, KeyFileMissing) and path.is_file() and not path.is_symlink()
    if isinstance(error, KeyFileExposed) or unreadable:
        to_do = f"run: {change_mode_command(path, '600' if path.name.endswith(SECRET_SUFFIX) else '644')}"
    elif not to_do or "certs-init verify" in to_do:
        to_do = f"restore it from a backup, or remove it: {remove_command(path)}, then run "
        to_do += f"{certs_init_command(path)}, which says how to continue"
    return f"{what}; {to_do}"
