"""Keys that travel between machines as files: one public key, and the folder of a host that is provisioned by hand."""

import io
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

from twinhost.certificates.bundle import BUNDLE_KIND, MAX_BUNDLE_BYTES
from twinhost.certificates.generate import complete, distribute, is_same_key, require_not_revoked
from twinhost.certificates.layout import Identity, Layout, described, plan_layout
from twinhost.certificates.records import DistributionRecord
from twinhost.certificates.tree import enrolled_key, is_revoked, live_keys, locked, public_key_files
from twinhost.commands import CERTS_INIT_PIPED
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.certificates import NEXT_SECRET_SUFFIX, REVOKED_FOLDER
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMalformed, KeyMismatch
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import (
    PUBLIC_SUFFIX,
    SECRET_SUFFIX,
    Certificate,
    Validity,
    format_moment,
    load_certificate,
    load_key_pair,
)

EXPECTED = f"a public key file; give it the output of: {CERTS_INIT_PIPED} public KEY (or accept FILE)"


def find_public_key(layout: Layout, key: str) -> Certificate:
    """Return the public key of a file stem, or of an owner's name.

    Raises:
        ConfigurationError: there is none, or it is revoked.
    """
    identity = next((place for place in layout.everybody if key in (place.stem, place.owner.name)), None)
    if identity is not None:
        certificate = _public_key_of(layout, identity)
    else:
        others = live_keys(layout, key)
        if not others:
            known = ", ".join(place.stem for place in layout.everybody)
            raise ConfigurationError(f"there is no key {key!r}; there are: {known}")
        certificate = others[0]
    require_not_revoked(layout, certificate, f"the key {key}")
    return certificate


def trust(layout: Layout, certificate: Certificate, source: str) -> Identity:
    """Put a public key into this tree's folders: another host's, or one that was removed from some of them.

    Another host's is valid for as long as keys are valid here, or until the sender's own end where that is earlier.

    Raises:
        ConfigurationError: its owner is not in the configuration, it is revoked or expired, another key is trusted
            under its name, or the tree can't be written.
        KeyFileMissing: its secret belongs here, and was not made yet.
        KeyMismatch: its secret is here, and has another public half.
    """
    identity = next((place for place in layout.everybody if place.owner == certificate.owner), None)
    if identity is None:
        expected = ", ".join(described(place.owner) for place in layout.everybody)
        raise ConfigurationError(
            f"{source} is the key of {described(certificate.owner)}; expected: {expected}; "
            f"to enrol another owner, on mainpc: {layout.command('accept', 'FILE')}"
        )
    is_local = identity in layout.local
    if is_local:
        certificate = _own_key(layout, identity, certificate, source)
    require_not_revoked(layout, certificate, source)
    with locked(layout):
        if not is_local:
            certificate = _with_local_validity(layout, certificate, source)
        distribute(layout, DistributionRecord(layout.root), identity, certificate)
    return identity


def read_file(path: Path) -> str:
    """Return the text of a public key file or of a trust bundle.

    Raises:
        KeyFileMissing, KeyFileMalformed: it can't be read, or is neither.
    """
    return _bundle_in(path) or render_certificate(load_certificate(path))


def _bundle_in(path: Path) -> str | None:
    """Return the text of a file that begins as a bundle does; the loader of key files reports on any other."""
    try:
        if not path.is_file():  # reading a pipe would block
            return None
        with path.open("rb") as stream:
            content = stream.read(MAX_BUNDLE_BYTES + 1)
    except OSError:
        return None
    if not content.lstrip().startswith(b"{") or BUNDLE_KIND.encode() not in content:
        return None
    if len(content) > MAX_BUNDLE_BYTES or not content.isascii():
        raise KeyFileMalformed(f"{path} is not {EXPECTED}")
    return content.decode("ascii")


def _public_key_of(layout: Layout, identity: Identity) -> Certificate:
    """Return a public key, also where it was removed from some folder, or from all while its secret is here."""
    if layout.secret_file(identity).exists():
        return load_key_pair(layout.secret_file(identity)).certificate
    files = layout.public_files(identity)
    for path in files:
        if path.exists() and not is_revoked(layout, certificate := load_certificate(path)):
            return certificate
    return enrolled_key(layout, identity) or load_certificate(next((p for p in files if p.exists()), files[0]))


def _own_key(layout: Layout, identity: Identity, certificate: Certificate, source: str) -> Certificate:
    secret_file = layout.secret_file(identity)
    own = load_key_pair(secret_file).certificate
    if not is_same_key(certificate, own):
        raise KeyMismatch(
            f"{source} holds another key than {secret_file}, {own.public.fingerprint}; "
            f"give it the output of: {layout.command('public', identity.stem, piped=True)}"
        )
    return own


def _with_local_validity(layout: Layout, certificate: Certificate, source: str) -> Certificate:
    """Return a key with a validity that this machine gave it: the one that it has here already, or a new one."""
    for key in public_key_files(layout):
        if is_same_key(key.certificate, certificate) and key.certificate.validity.not_after is not None:
            return key.certificate
    here, end = layout.new_validity(), certificate.validity.not_after
    assert here.not_before is not None
    assert here.not_after is not None
    if end is not None and end <= here.not_before:
        raise ConfigurationError(
            f"{source} is the key {certificate.public.fingerprint} of {certificate.owner.name}, which expired "
            f"{format_moment(end)}; get a new one from {certificate.owner.host}"
        )
    end = here.not_after if end is None else min(end, here.not_after)
    return replace(certificate, validity=Validity(here.not_before, end))


def make_host_keys(layout: Layout, config: NetworkConfig, host: str) -> Path:
    """Make a host's keys in this tree, where they are missing, and return its folder.

    Raises:
        ConfigurationError: there is no such host, it is SystemDigitalTwin's, or it has made its keys itself.
    """
    theirs = plan_layout(layout.root, config, host)
    if host == layout.server_host:
        raise ConfigurationError(
            f"the folder of {host} lists who is authorised, and can't be exported; move its whole volume instead"
        )
    local = [*layout.local, *(place for place in theirs.local if place not in layout.local and place.folder == host)]
    both = replace(layout, local=local, remote=[place for place in layout.remote if place not in local])
    for identity in both.local:
        known = live_keys(both, identity.owner.name)
        if identity.folder == host and known and not both.secret_file(identity).exists():
            raise ConfigurationError(
                f"{identity.owner.name} made its key {known[0].public.fingerprint} on {host}, "
                "so there is no secret to export here"
            )
    with locked(both):
        outcomes = complete(both)
    for outcome in outcomes:
        if outcome.identity.folder == host and outcome.what == "revoked":
            name = outcome.identity.owner.name
            raise ConfigurationError(
                f"the key of {name} was revoked; first make a new one: {layout.command('replace', name)}"
            )
    return layout.root / host


def as_tar(folder: Path) -> bytes:
    """Return a tar of a host's folder: its own secret, the public keys, and what is revoked."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w") as tar:
        tar.add(folder, folder.name, recursive=False)
        for path in _files(folder):
            tar.add(path, str(path.relative_to(folder.parent)), recursive=False)
    return stream.getvalue()


def copy_to(folder: Path, target: Path) -> Path:
    """Copy a host's folder below `target`, whole or not at all, and return it.

    Raises:
        ConfigurationError: another one is there, or it can't be written.
    """
    final = target / folder.name
    draft = target / f".{folder.name}.{os.getpid()}.draft"
    files = _files(folder)
    try:
        if final.exists():
            if _contents(final, _files(final)) == _contents(folder, files):
                return final
            raise ConfigurationError(f"{final} exists already and differs; remove it, or name another folder with --to")
        target.mkdir(mode=0o700, parents=True, exist_ok=True)
        shutil.rmtree(draft, ignore_errors=True)
        for path in files:
            copy = draft / path.relative_to(folder)
            if path.is_dir():
                copy.mkdir(mode=0o700, parents=True)
                continue
            copy.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            copy.touch(mode=0o600)
            copy.write_bytes(path.read_bytes())
            copy.chmod(path.stat().st_mode & 0o777)
        draft.rename(final)
    except OSError as error:
        raise ConfigurationError(
            f"{error.filename or target} can't be written ({error.strerror}); name another folder with --to"
        ) from None
    return final


def _files(folder: Path) -> list[Path]:
    """Return the files that a host's agent reads; none of a rotation in progress."""
    files: list[Path] = []
    for path in folder.iterdir():
        if path.name == REVOKED_FOLDER and path.is_dir():
            files += [path, *path.glob(f"*{PUBLIC_SUFFIX}")]
        elif path.suffix in (PUBLIC_SUFFIX, SECRET_SUFFIX) and not path.name.endswith(NEXT_SECRET_SUFFIX):
            files.append(path)
    return sorted(files)


def _contents(folder: Path, files: list[Path]) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}
