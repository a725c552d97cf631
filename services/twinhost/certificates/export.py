"""A host's folder, for a machine that is provisioned by hand; its secret is made here and transferred."""

import io
import os
import shutil
import tarfile
from dataclasses import replace
from pathlib import Path

from twinhost.certificates.generate import complete
from twinhost.certificates.layout import Layout, plan_layout
from twinhost.certificates.tree import live_keys, locked
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq.certificates import NEXT_SECRET_SUFFIX, REVOKED_FOLDER
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, SECRET_SUFFIX


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
    local = [*layout.local, *(one for one in theirs.local if one not in layout.local and one.folder == host)]
    both = replace(layout, local=local, remote=[one for one in layout.remote if one not in local])
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
            raise ConfigurationError(
                f"{final} is there already and differs; remove it, or name another folder with --to"
            )
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
    found: list[Path] = []
    for path in folder.iterdir():
        if path.name == REVOKED_FOLDER and path.is_dir():
            found += [path, *path.glob(f"*{PUBLIC_SUFFIX}")]
        elif path.suffix in (PUBLIC_SUFFIX, SECRET_SUFFIX) and not path.name.endswith(NEXT_SECRET_SUFFIX):
            found.append(path)
    return sorted(found)


def _contents(folder: Path, files: list[Path]) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in files if path.is_file()}
