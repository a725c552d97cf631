"""Check a tree of keys: every file, mode, owner, and pair."""

import os
import stat
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.generate import how_to_recover_secret
from twinhost.certificates.layout import Identity, Layout, described
from twinhost.certificates.records import JOINED_FILE, RECORD_FILE, DistributionRecord, JoinRecord, removal_notice
from twinhost.certificates.tree import (
    LOCK_FILE,
    REQUESTS_FOLDER,
    SHA256_HEX,
    enrolled_key,
    is_revoked,
    joined_folders,
    own_folders,
    read_vouching,
    replaced_folders,
    unfinished_restores,
)
from twinhost.certificates.verify_remarks import remarks_on
from twinhost.commands import certs_init_command, change_mode_command, own_command, remove_command
from twinhost.secure_zmq.certificates import (
    ENROLLED_FOLDER,
    FAILURE_FILE,
    INVITES_FOLDER,
    NEXT_SECRET_SUFFIX,
    NEXT_SUFFIX,
    REVOKED_FOLDER,
    TRUST_FOLDER,
    VOUCHED_FOLDER,
)
from twinhost.secure_zmq.errors import KeyFileExposed, KeyFileMissing, TwinhostError
from twinhost.secure_zmq.keys import SECRET_SUFFIX, Certificate, KeyOwner, load_certificate, load_key_pair
from twinhost.store.files import RESTORING


@dataclass(frozen=True, slots=True)
class Findings:
    """A sentence for each thing that is wrong; a remark for what somebody decided, and for what expires."""

    problems: Sequence[str]
    remarks: Sequence[str] = ()


def verify_tree(layout: Layout, attempts: int = 3) -> Findings:
    """Return what is wrong with a tree, and the remarks on it.

    Args:
        attempts: how often the check runs where an agent removes a file meanwhile, as at the end of a rotation.
    """
    if not layout.root.is_dir():
        return Findings([f"{layout.root} is not a folder; run: {layout.command()}"])
    problems = mode_and_owner(layout.root)
    removed: dict[Path, Identity] = {}
    remarks: list[str] = []
    try:
        record = _record(layout, problems)
        if record is not None:
            removed |= _removed(layout, record)
        joined = joined_folders(layout)
        for folder in layout.folders if own_folders(layout) != joined or not joined else ():
            if folder.is_dir() and not folder.is_symlink():
                problems += _verify_folder(layout, folder, removed, record)
            else:
                problems.append(f"{folder} is missing, or not a folder; run: {layout.command()}")
        for folder in joined:
            problems += _verify_joined(folder)
        replaced = replaced_folders(layout.root)
        for folder in replaced:
            problems += mode_and_owner(folder)
        problems += unfinished_restores(layout.root)
        known = {folder.name for folder in (*layout.folders, *joined, *replaced)}
        known |= {LOCK_FILE, RECORD_FILE, JOINED_FILE, RESTORING}
        problems += [
            f"{path} does not belong to this tree; to remove it: {remove_command(path)}"
            for path in _listing(layout.root)
            if path.name not in known
        ]
        remarks = remarks_on(layout)
    except OSError as error:
        if isinstance(error, FileNotFoundError) and attempts > 1:
            return verify_tree(layout, attempts - 1)
        problems.append(f"{error.filename} can't be read ({error.strerror}); run as its owner, or correct its mode")
    return Findings(problems, [removal_notice(path, identity) for path, identity in removed.items()] + remarks)


def _record(layout: Layout, problems: list[str]) -> DistributionRecord | None:
    for name in (RECORD_FILE, JOINED_FILE):
        if (layout.root / name).exists():
            problems += mode_and_owner(layout.root / name)
    try:
        JoinRecord(layout.root)
    except TwinhostError as error:
        problems.append(loader_problem(error, layout.root / JOINED_FILE))
    try:
        return DistributionRecord(layout.root)
    except TwinhostError as error:
        problems.append(loader_problem(error, layout.root / RECORD_FILE))
        return None


def _removed(layout: Layout, record: DistributionRecord) -> dict[Path, Identity]:
    """Return the public files that are missing because somebody removed them, or revoked the key."""
    removed: dict[Path, Identity] = {}
    for identity in layout.everybody:
        certificate = _current(layout, identity)
        for path in layout.public_files(identity):
            gone = path.parent.is_dir() and not os.path.lexists(path)
            if gone and record.was_distributed(path, certificate):
                removed[path] = identity
    return removed


def _verify_folder(
    layout: Layout, folder: Path, removed: Collection[Path], record: DistributionRecord | None
) -> list[str]:
    problems = mode_and_owner(folder)
    own = [identity for identity in layout.local if identity.folder == folder.name]
    expected = {layout.public_file(folder, identity): identity for identity in layout.everybody}
    secrets = {layout.secret_file(identity): identity for identity in own}
    for path in _listing(folder):
        inner = _inner_folder(layout.server_folder, path)
        if inner is not None:
            problems += inner
        elif path.name.endswith(SECRET_SUFFIX):
            problems += _verify_stray_secret(path, own) if path not in secrets else mode_and_owner(path)
        elif path in expected:
            problems += mode_and_owner(path)
        else:
            problems += _verify_other(layout, path, record)
    for path, identity in secrets.items():
        problems += _verify_secret(layout, path, identity)
    for path, identity in expected.items():
        if path not in removed:
            problems += _verify_public(layout, path, identity)
    return problems


def _verify_joined(folder: Path) -> list[str]:
    """Check a folder that `join`, `request`, or `export-host` made."""
    problems = mode_and_owner(folder)
    secrets = [path for path in _listing(folder) if path.name.endswith(SECRET_SUFFIX)]
    if all(path.name.endswith(NEXT_SECRET_SUFFIX) for path in secrets):
        problems += [_interrupted_join(path) for path in secrets]
    for path in _listing(folder):
        inner = _inner_folder(None, path)
        if inner is not None:
            problems += inner
            continue
        problems += mode_and_owner(path)
        try:
            if path.name.endswith(SECRET_SUFFIX):
                load_key_pair(path)
            else:
                load_certificate(path)
        except TwinhostError as error:
            problems.append(loader_problem(error, path))
    return problems


def _inner_folder(server_folder: Path | None, path: Path) -> list[str] | None:
    """Return what is wrong with a folder within a host's folder; None where it does not belong there."""
    if not path.is_dir() or path.is_symlink():
        return None
    if path.name == REVOKED_FOLDER:
        return folder_of_revocations(path)
    at_server = path.parent == server_folder
    if at_server and path.name in (INVITES_FOLDER, REQUESTS_FOLDER):
        return folder_of_keys(path)
    if path.name == (ENROLLED_FOLDER if at_server else TRUST_FOLDER):
        revoked, vouched = path / REVOKED_FOLDER, path / VOUCHED_FOLDER
        problems = folder_of_keys(path, ignore_drafts=True)
        problems += folder_of_revocations(revoked) if revoked.is_dir() else []
        return problems + (folder_of_vouchers(vouched) if vouched.is_dir() else [])
    return None


def _verify_stray_secret(path: Path, own: Sequence[Identity]) -> list[str]:
    """Check a secret that is not the one in use: the next one of the same owner, or another owner's."""
    for identity in own:
        if path.name == f"{identity.stem}{NEXT_SECRET_SUFFIX}":
            try:
                return another_owner(path, load_key_pair(path).certificate, identity.owner)
            except TwinhostError as error:
                return [loader_problem(error, path)]
    return [
        f"{path} is another owner's secret and must not be on this host; remove it: {remove_command(path)}, "
        "then revoke that key, and make a new one or invite its owner"
    ]


def _verify_other(layout: Layout, path: Path, record: DistributionRecord | None) -> list[str]:
    """Check a public file whose name is not in the configuration: a next key, or that of an enrolled owner."""
    unexpected = [f"{path} does not belong here; to remove it: {remove_command(path)}"]
    following = path.name.endswith(NEXT_SUFFIX)
    stem = path.name.removesuffix(NEXT_SUFFIX)
    identity = next((one for one in layout.everybody if following and one.stem == stem), None)
    try:
        if identity is not None:
            return mode_and_owner(path) + another_owner(path, load_certificate(path), identity.owner)
        certificate = load_certificate(path)
    except TwinhostError as error:
        return unexpected if identity is None else [loader_problem(error, path)]
    if record is None or not record.was_distributed(path, certificate):
        return unexpected
    return mode_and_owner(path)


def _verify_secret(layout: Layout, path: Path, identity: Identity) -> list[str]:
    following = path.with_name(f"{identity.stem}{NEXT_SECRET_SUFFIX}")
    if not os.path.lexists(path) and os.path.lexists(following):
        return [_interrupted_join(following)]
    if not os.path.lexists(path) and any(map(os.path.lexists, layout.public_files(identity))):
        return [how_to_recover_secret(layout, identity)]
    try:
        pair = load_key_pair(path)
    except TwinhostError as error:
        return [loader_problem(error, path)]
    if is_revoked(layout, pair.certificate):
        return []
    return _compare(path, pair.certificate, identity, _published(layout, identity))


def _verify_public(layout: Layout, path: Path, identity: Identity) -> list[str]:
    if not path.exists() and _needs_no_file(layout, path, identity):
        return []
    if identity in layout.remote and not path.exists():
        public = f"{layout.command('public', identity.stem, piped=True)} > {identity.stem}.key"
        take = f"{layout.command('trust', '-', piped=True)} < {identity.stem}.key"
        return [
            f"{path} is missing: get {identity.owner.name}'s public key from {identity.owner.host}; "
            f"there: {public}, here: {take}"
        ]
    try:
        certificate = load_certificate(path)
    except TwinhostError as error:
        return [loader_problem(error, path)]
    if is_revoked(layout, certificate):
        return another_owner(path, certificate, identity.owner)
    return _compare(path, certificate, identity, _published(layout, identity))


def _needs_no_file(layout: Layout, path: Path, identity: Identity) -> bool:
    """Return whether a public file may be missing: the key is revoked, or enrolled at SystemDigitalTwin."""
    if enrolled_key(layout, identity) is not None:
        return path.parent == layout.server_folder
    own = _current(layout, identity) if identity in layout.local else None
    return own is not None and is_revoked(layout, own)


def _published(layout: Layout, identity: Identity) -> tuple[Path, Certificate] | None:
    """Return the public key that the others must equal: in its own folder, or in the first that has it."""
    own = layout.public_file(layout.root / identity.folder, identity)
    for path in sorted(layout.public_files(identity), key=lambda path: path != own):
        if os.path.lexists(path):
            try:
                certificate = load_certificate(path)
            except TwinhostError:
                return None
            if not is_revoked(layout, certificate):
                return path, certificate
    return None


def _current(layout: Layout, identity: Identity) -> Certificate | None:
    """Return the public key to distribute: the secret's, or the known one of another host."""
    if identity in layout.local:
        try:
            return load_key_pair(layout.secret_file(identity)).certificate
        except TwinhostError:
            return None
    published = _published(layout, identity)
    return published[1] if published else None


def _compare(
    path: Path, found: Certificate, identity: Identity, published: tuple[Path, Certificate] | None
) -> list[str]:
    wrong = another_owner(path, found, identity.owner)
    if not wrong and published is not None and found.public != published[1].public:
        return [
            f"{path} has the key {found.public.fingerprint} and {published[0]} has "
            f"{published[1].public.fingerprint}; remove the wrong one, {remove_command(path)} or "
            f"{remove_command(published[0])}, then run {certs_init_command(path)}, which says how to continue"
        ]
    return wrong


def _interrupted_join(path: Path) -> str:
    return (
        f"{path} belongs to an interrupted join; run join again with the same line, or remove it: "
        f"{remove_command(path)}"
    )


def _listing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name != FAILURE_FILE)


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
        folder: of invitations, of requests, or of enrolled keys.
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
            problems.append(f"{path} does not name the key that authorised another; remove it: {remove_command(path)}")
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
