"""Keys for tests, and folders of them as a host's `/certificates` is laid out."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from twinhost.secure_zmq.key_writer import write_certificate, write_key_pair
from twinhost.secure_zmq.keys import KeyOwner, KeyPair


def new_pair(name: str = "pc2-agent", host: str = "pc2", *roles: str) -> KeyPair:
    """Return a fresh key pair of `name`; its role is `agent` where none is given."""
    return KeyPair.generate(KeyOwner(name, host, frozenset(roles or ("agent",))))


def authorize(folder: Path, pair: KeyPair) -> Path:
    """Put the public half of a pair into a folder of authorised keys, and return its file."""
    path = folder / f"{pair.certificate.owner.name}.key"
    write_certificate(pair.certificate, path)
    return path


@contextmanager
def time_kept(folder: Path) -> Iterator[None]:
    """Change a folder within the unit of its time, which may be 4 ms or 2 s, so that the time stays."""
    time_ns = folder.stat().st_mtime_ns
    yield
    os.utime(folder, ns=(time_ns, time_ns))


def host_folder(folder: Path, own_stem: str, own: KeyPair, **others: KeyPair) -> Path:
    """Lay a host's folder out: its own pair as `own_stem`, the public halves of others by stem."""
    folder.mkdir()
    write_key_pair(own, folder / f"{own_stem}.key_secret")
    for stem, pair in others.items():
        write_certificate(pair.certificate, folder / f"{stem}.key")
    return folder
