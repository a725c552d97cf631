"""Check a tree of keys: every file, mode, owner, and pair; and remark on keys that are revoked, expire, or wait."""

import os
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhost.certificates.admission import pending
from twinhost.certificates.following import ROLE_FILE, active_elsewhere, role_of
from twinhost.certificates.generate import how_to_recover_secret
from twinhost.certificates.layout import (
    SERVER,
    Identity,
    Layout,
    described,
    to_replace,
    to_rotate,
)
from twinhost.certificates.records import JOINED_FILE, RECORD_FILE, DistributionRecord, JoinRecord, removal_notice
from twinhost.certificates.tree import (
    LOCK_FILE,
    SHA256_HEX,
    enrolled_key,
    is_revoked,
    joined_folders,
    own_folders,
    own_pairs,
    public_key_files,
    read_vouching,
    replaced_folders,
    unfinished_restores,
)
from twinhost.commands import certs_init_command, change_mode_command, own_command, remove_command
from twinhost.secure_zmq.certificates import (
    ENROLLED_FOLDER,
    FAILURE_FILE,
    INVITES_FOLDER,
    NEXT_SECRET_SUFFIX,
    NEXT_SUFFIX,
    REQUESTS_FOLDER,
    REVOKED_FOLDER,
    TRUST_FOLDER,
    VOUCHED_FOLDER,
)
from twinhost.secure_zmq.errors import KeyFileExposed, KeyFileMissing, TwinhostError
from twinhost.secure_zmq.keys import (
    SECRET_SUFFIX,
    Certificate,
    KeyOwner,
    format_moment,
    load_certificate,
    load_key_pair,
)
from twinhost.store.files import RESTORING


@dataclass(frozen=True, slots=True)
class TreeFindings:
    """A sentence for each thing that is wrong; a remark for what somebody decided, and for what expires."""

    problems: Sequence[str]
    remarks: Sequence[str] = ()


def verify_tree(layout: Layout, attempts: int = 3) -> TreeFindings:
    """Return what is wrong with a tree, and the remarks on it.

    Args:
        attempts: how often the check runs where an agent removes a file meanwhile, as at the end of a rotation.
    """
    if not layout.root.is_dir():
        return TreeFindings([f"{layout.root} is not a folder; run: {layout.command()}"])
    problems: list[str] = []
    remarks: list[str] = []
    try:
        check = _TreeCheck(layout)
        problems.extend(check.problems())
        remarks.extend(check.remarks())
    except OSError as error:
        if isinstance(error, FileNotFoundError) and attempts > 1:
            return verify_tree(layout, attempts - 1)
        problems.append(f"{error.filename} can't be read ({error.strerror}); run as its owner, or correct its mode")
    return TreeFindings(problems, remarks)


class _TreeCheck:
    """One look at a tree; its methods yield a sentence for each finding."""

    def __init__(self, layout: Layout) -> None:
        self._layout = layout
        self._record: DistributionRecord | None = None  # None where it can't be read
        self._removed: dict[Path, Identity] = {}  # public files that somebody removed, or whose key is revoked

    def problems(self) -> Iterator[str]:
        layout = self._layout
        yield from mode_and_owner(layout.root)
        yield from self._records()
        joined, replaced = joined_folders(layout), replaced_folders(layout.root)
        for folder in layout.folders if own_folders(layout) != joined or not joined else ():
            if folder.is_dir() and not folder.is_symlink():
                kept = layout.server_folder if folder.name == layout.server_host else None
                yield from self._joined(folder, kept) if _is_standbys(layout, folder) else self._folder(folder)
            else:
                yield f"{folder} is missing, or not a folder; run: {layout.command()}"
        for folder in joined:
            yield from self._joined(folder)
        for folder in replaced:
            yield from mode_and_owner(folder)
        yield from unfinished_restores(layout.root)
        known = {folder.name for folder in (*layout.folders, *joined, *replaced)}
        known |= {LOCK_FILE, RECORD_FILE, JOINED_FILE, RESTORING}
        for path in _listing(layout.root):
            if path.name not in known:
                yield f"{path} does not belong to this tree; to remove it: {remove_command(path)}"

    def _records(self) -> Iterator[str]:
        root = self._layout.root
        for name in (RECORD_FILE, JOINED_FILE):
            if (root / name).exists():
                yield from mode_and_owner(root / name)
        try:
            JoinRecord(root)
        except TwinhostError as error:
            yield _loader_problem(error, root / JOINED_FILE)
        try:
            self._record = DistributionRecord(root)
        except TwinhostError as error:
            yield _loader_problem(error, root / RECORD_FILE)
            return
        for identity in self._layout.everybody:
            certificate = self._current(identity)
            for path in self._layout.public_files(identity):
                gone = path.parent.is_dir() and not os.path.lexists(path)
                if gone and self._record.was_distributed(path, certificate):
                    self._removed[path] = identity

    def _folder(self, folder: Path) -> Iterator[str]:
        layout = self._layout
        yield from mode_and_owner(folder)
        own = [identity for identity in layout.local if identity.folder == folder.name]
        expected = {layout.public_file(folder, identity): identity for identity in layout.everybody}
        secrets = {layout.secret_file(identity): identity for identity in own}
        for path in _listing(folder):
            inner = _inner_folder(layout.server_folder, path)
            if inner is not None:
                yield from inner
            elif path in secrets or path in expected:
                yield from mode_and_owner(path)
            elif path.name.endswith(SECRET_SUFFIX):
                yield from _stray_secret(path, own)
            else:
                yield from self._other(path)
        for path, identity in secrets.items():
            yield from self._secret(path, identity)
        for path, identity in expected.items():
            if path not in self._removed:
                yield from self._public(path, identity)

    def _joined(self, folder: Path, server_folder: Path | None = None) -> Iterator[str]:
        """Check a folder that `join`, `request`, or `export-host` made, or that follows another machine's."""
        yield from mode_and_owner(folder)
        secrets = [path for path in _listing(folder) if path.name.endswith(SECRET_SUFFIX)]
        if all(path.name.endswith(NEXT_SECRET_SUFFIX) for path in secrets):
            yield from map(_interrupted_join, secrets)
        for path in _listing(folder):
            inner = _inner_folder(server_folder, path)
            if inner is not None:
                yield from inner
                continue
            yield from mode_and_owner(path)
            try:
                if path.name.endswith(SECRET_SUFFIX):
                    load_key_pair(path)
                else:
                    load_certificate(path)
            except TwinhostError as error:
                yield _loader_problem(error, path)

    def _other(self, path: Path) -> Iterator[str]:
        """Check a public file whose name is not in the configuration: a next key, or that of an enrolled owner."""
        following, stem = path.name.endswith(NEXT_SUFFIX), path.name.removesuffix(NEXT_SUFFIX)
        identity = next((place for place in self._layout.everybody if following and place.stem == stem), None)
        try:
            certificate = load_certificate(path)
        except TwinhostError as error:
            yield _misplaced(path) if identity is None else _loader_problem(error, path)
            return
        if identity is not None:
            yield from mode_and_owner(path)
            yield from _another_owner(path, certificate, identity.owner)
        elif (self._record is not None and self._record.was_distributed(path, certificate)) or role_of(path.parent):
            yield from mode_and_owner(path)  # the other machine's record may have it
        else:
            yield _misplaced(path)

    def _secret(self, path: Path, identity: Identity) -> Iterator[str]:
        following = path.with_name(f"{identity.stem}{NEXT_SECRET_SUFFIX}")
        if not os.path.lexists(path) and os.path.lexists(following):
            yield _interrupted_join(following)
        elif not os.path.lexists(path) and any(map(os.path.lexists, self._layout.public_files(identity))):
            yield how_to_recover_secret(self._layout, identity)
        else:
            try:
                certificate = load_key_pair(path).certificate
            except TwinhostError as error:
                yield _loader_problem(error, path)
                return
            if not is_revoked(self._layout, certificate):
                yield from self._compare(path, certificate, identity)

    def _public(self, path: Path, identity: Identity) -> Iterator[str]:
        layout = self._layout
        if not path.exists() and self._needs_no_file(path, identity):
            return
        if identity in layout.remote and not path.exists():
            public = f"{layout.command('public', identity.stem, piped=True)} > {identity.stem}.key"
            take = f"{layout.command('trust', '-', piped=True)} < {identity.stem}.key"
            yield (
                f"{path} is missing: get {identity.owner.name}'s public key from {identity.owner.host}; "
                f"there: {public}, here: {take}"
            )
            return
        try:
            certificate = load_certificate(path)
        except TwinhostError as error:
            yield _loader_problem(error, path)
            return
        if is_revoked(layout, certificate):
            yield from _another_owner(path, certificate, identity.owner)
        else:
            yield from self._compare(path, certificate, identity)

    def _needs_no_file(self, path: Path, identity: Identity) -> bool:
        """Return whether a public file may be missing: the key is revoked, or enrolled at SystemDigitalTwin."""
        if enrolled_key(self._layout, identity) is not None:
            return path.parent == self._layout.server_folder
        own = self._current(identity) if identity in self._layout.local else None
        return own is not None and is_revoked(self._layout, own)

    def _published(self, identity: Identity) -> tuple[Path, Certificate] | None:
        """Return the public key that the others must equal: in its own folder, or in the first that has it."""
        own = self._layout.public_file(self._layout.root / identity.folder, identity)
        for path in sorted(self._layout.public_files(identity), key=lambda path: path != own):
            if os.path.lexists(path):
                try:
                    certificate = load_certificate(path)
                except TwinhostError:
                    return None
                if not is_revoked(self._layout, certificate):
                    return path, certificate
        return None

    def _current(self, identity: Identity) -> Certificate | None:
        """Return the public key to distribute: the secret's, or the known one of another host."""
        if identity in self._layout.local:
            try:
                return load_key_pair(self._layout.secret_file(identity)).certificate
            except TwinhostError:
                return None
        published = self._published(identity)
        return published[1] if published else None

    def _compare(self, path: Path, certificate: Certificate, identity: Identity) -> Iterator[str]:
        yield from (wrong := _another_owner(path, certificate, identity.owner))
        published = self._published(identity)
        if not wrong and published is not None and certificate.public != published[1].public:
            yield (
                f"{path} has the key {certificate.public.fingerprint} and {published[0]} has "
                f"{published[1].public.fingerprint}; remove the wrong one, {remove_command(path)} or "
                f"{remove_command(published[0])}, then run {certs_init_command(path)}, which says how to continue"
            )

    def remarks(self) -> Iterator[str]:
        """Yield a sentence for what is right, and to be known."""
        layout = self._layout
        for path, identity in self._removed.items():
            yield removal_notice(path, identity)
        for path, pair in own_pairs(layout):
            if is_revoked(layout, pair.certificate):
                new = to_replace(layout, pair.certificate.owner, revoked=True)
                yield f"{path} was revoked, and no host accepts it; for a new key, {new}"
        for key in public_key_files(layout):
            if is_revoked(layout, key.certificate):
                yield f"{key.path} is a revoked key of {key.certificate.owner.name}, and authorises nobody"
        yield from self._waiting()
        yield from self._left_over()
        for certificate in {key.certificate.public: key.certificate for key in public_key_files(layout)}.values():
            if not is_revoked(layout, certificate):
                yield from self._ending(certificate)

    def _waiting(self) -> Iterator[str]:
        layout = self._layout
        for waiting in pending(layout) if layout.server_folder in own_folders(layout) else ():
            name, end = waiting.certificate.owner.name, waiting.certificate.validity.not_after
            if waiting.what == "request":
                yield f"the request of {name} is pending; see: {layout.command('pending')}"
            else:
                until = "expired" if waiting.expired or end is None else f"is open until {format_moment(end)}"
                yield f"the invitation of {name} {until}; to withdraw it: {layout.command('reject', name)}"

    def _left_over(self) -> Iterator[str]:
        layout = self._layout
        theirs = {identity.folder for identity in layout.remote}
        for folder in joined_folders(layout):
            if folder.name in theirs:
                remove = remove_command(folder)
                yield f"{folder} holds the secret of another host; once it is there, remove it here: {remove}"
        for folder in replaced_folders(layout.root):
            remove = remove_command(folder)
            yield f"{folder} holds the keys that a restore replaced, secrets too; to remove them: {remove}"

    def _ending(self, key: Certificate) -> Iterator[str]:
        """Yield a sentence for a key that expired, expires soon, or never expires."""
        layout, owner, end, now = self._layout, key.owner, key.validity.not_after, self._layout.clock.time()
        rotate = to_rotate(owner.name, layout.root)
        if end is None:
            how, to_do = "never expires", f"to rotate it to one that expires: {rotate}"
            remote = next((place for place in layout.remote if place.owner == owner), None)
            if remote is not None:
                public = layout.command("public", remote.stem, piped=True)
                to_do = f"to limit its validity: {public} | {layout.command('trust', '-', piped=True)}"
        elif not key.validity.ends_soon(now):
            return
        elif not key.validity.has_ended(now):
            how, to_do = f"expires {format_moment(end)}", f"where its secret is, run: {rotate}"
        else:
            how = f"expired {format_moment(end)}, and is refused everywhere"
            to_do = f"run: {rotate}" if owner.name == SERVER else to_replace(layout, owner, revoked=False)
        yield f"the key of {owner.name} on {owner.host} ({key.public.fingerprint}) {how}; {to_do}"


def _inner_folder(server_folder: Path | None, path: Path) -> Iterator[str] | None:
    """Return what is wrong with a folder within a host's folder; None where it does not belong there."""
    if not path.is_dir() or path.is_symlink():
        return None
    if path.name == REVOKED_FOLDER:
        return _files(path, _revocation)
    at_server = path.parent == server_folder
    if at_server and path.name in (INVITES_FOLDER, REQUESTS_FOLDER):
        return _files(path, _named_key, agents_write=False)
    if path.name == (ENROLLED_FOLDER if at_server else TRUST_FOLDER):
        inner = {path: _named_key, path / REVOKED_FOLDER: _revocation, path / VOUCHED_FOLDER: _voucher}
        return (problem for folder, check in inner.items() if folder.is_dir() for problem in _files(folder, check))
    return None


def _files(folder: Path, check: Callable[[Path], Iterator[str]], *, agents_write: bool = True) -> Iterator[str]:
    """Check a folder and each file in it, but for drafts where an agent may be writing."""
    yield from mode_and_owner(folder)
    for path in sorted(folder.iterdir()):
        if not (agents_write and path.name.endswith(".draft")):
            yield from check(path)


def _named_key(path: Path) -> Iterator[str]:
    """Check a key whose file is named for its owner."""
    if path.is_dir() and not path.is_symlink():
        return
    if path.suffix != ".key":
        yield _misplaced(path)
        return
    yield from mode_and_owner(path)
    try:
        certificate = load_certificate(path)
    except TwinhostError as error:
        yield _loader_problem(error, path)
        return
    if certificate.owner.name != path.stem.removesuffix(".next"):
        yield (
            f"{path} is the key of {described(certificate.owner)}, not of {path.stem}; "
            f"to remove it: {remove_command(path)}"
        )


def _revocation(path: Path) -> Iterator[str]:
    """Check a file whose name is what revokes a key."""
    if path.suffix == ".key" and SHA256_HEX.fullmatch(path.stem):
        yield from mode_and_owner(path)
    else:
        yield f"{path} revokes nothing: its name is not a SHA-256 in hex; to remove it: {remove_command(path)}"


def _voucher(path: Path) -> Iterator[str]:
    """Check a record of which key authorised which; a revocation follows only the well-formed ones."""
    yield from mode_and_owner(path)
    if read_vouching(path) is None:
        yield f"{path} does not name the key that authorised another; remove it: {remove_command(path)}"


def _stray_secret(path: Path, own: Sequence[Identity]) -> Iterator[str]:
    """Check a secret that is not the one in use: the next one of the same owner, or another owner's."""
    identity = next((one for one in own if path.name == f"{one.stem}{NEXT_SECRET_SUFFIX}"), None)
    if identity is None:
        yield (
            f"{path} is another owner's secret and must not be on this host; remove it: {remove_command(path)}, "
            "then revoke that key, and make a new one or invite its owner"
        )
        return
    try:
        yield from _another_owner(path, load_key_pair(path).certificate, identity.owner)
    except TwinhostError as error:
        yield _loader_problem(error, path)


def _misplaced(path: Path) -> str:
    return f"{path} does not belong here; to remove it: {remove_command(path)}"


def _interrupted_join(path: Path) -> str:
    return (
        f"{path} belongs to an interrupted join; run join again with the same line, or remove it: "
        f"{remove_command(path)}"
    )


def _is_standbys(layout: Layout, folder: Path) -> bool:
    """Return whether a folder's files came from another machine."""
    own = (identity.owner.name for identity in layout.local if identity.folder == folder.name)
    return active_elsewhere(folder) is not None or not layout.standbys.isdisjoint(own)


def _listing(folder: Path) -> list[Path]:
    return sorted(path for path in folder.iterdir() if path.name not in (FAILURE_FILE, ROLE_FILE))


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


def _another_owner(path: Path, certificate: Certificate, owner: KeyOwner) -> list[str]:
    """Return a problem where a file holds another owner's key."""
    if certificate.owner == owner:
        return []
    return [
        f"{path} is the key of {described(certificate.owner)}, not of {described(owner)}; "
        f"remove it: {remove_command(path)}, then run {certs_init_command(path)}, which says how to continue"
    ]


def _loader_problem(error: TwinhostError, path: Path) -> str:
    """Return the loader's sentence, with advice that helps a reader who has run `verify` already."""
    what, _, to_do = str(error).partition("; ")
    unreadable = isinstance(error, KeyFileMissing) and path.is_file() and not path.is_symlink()
    if isinstance(error, KeyFileExposed) or unreadable:
        to_do = f"run: {change_mode_command(path, '600' if path.name.endswith(SECRET_SUFFIX) else '644')}"
    elif not to_do or "certs-init verify" in to_do:
        to_do = f"restore it from a backup, or remove it: {remove_command(path)}, then run "
        to_do += f"{certs_init_command(path)}, which says how to continue"
    return f"{what}; {to_do}"
