"""The only writer of key files: each file is complete and durable, and no secret is overwritten in place."""

import base64
import os
from pathlib import Path

from twinhost.secure_zmq.errors import KeyFileMalformed
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, Certificate, KeyPair, format_moment

FINGERPRINT_BYTES = 32  # of SHA-256


def write_key_pair(pair: KeyPair, secret_path: Path) -> bool:
    """Write a pair, the secret half first; return False, and change nothing, if there is one already."""
    created = _write_new(secret_path, render_certificate(pair.certificate, pair.secret_z85), 0o600)
    if created:
        write_certificate(pair.certificate, secret_path.with_suffix(PUBLIC_SUFFIX))
    return created


def write_certificate(certificate: Certificate, path: Path) -> bool:
    """Write a public key file; return False, and change nothing, if there is one already."""
    return _write_new(path, render_certificate(certificate), 0o644)


def replace_certificate(certificate: Certificate, path: Path) -> None:
    """Write a public key file, replacing an existing one."""
    replace_file(path, render_certificate(certificate), 0o644)


def write_revocation(certificate: Certificate, folder: Path) -> bool:
    """Revoke a key permanently, by a file in `folder`; return False if it was revoked already.

    The file's name alone revokes it; its content names the owner. The folder is created if it is missing.
    """
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / revoked_file_name(certificate.public.fingerprint)
    return not path.exists() and write_certificate(certificate, path)


def write_revoked_fingerprint(fingerprint: str, folder: Path) -> bool:
    """Revoke a key of which only the fingerprint is known; return False where it was revoked already."""
    folder.mkdir(mode=0o700, exist_ok=True)
    path = folder / revoked_file_name(fingerprint)
    return not path.exists() and _write_new(path, f"#   twinhost revoked key\n#   {fingerprint}\n", 0o644)


def move_to_revoked(path: Path, fingerprint: str, folder: Path) -> None:
    """Turn a public key file into the file that revokes its key: one rename, which needs no space on the disk.

    If even that fails, the public key file is removed.
    """
    try:
        folder.mkdir(mode=0o700, exist_ok=True)
        path.replace(folder / revoked_file_name(fingerprint))
    except OSError:
        path.unlink(missing_ok=True)
        raise
    for changed in (folder, path.parent):
        fsync_folder(changed)


def write_vouching(fingerprint: str, voucher: str, folder: Path) -> None:
    """Record in `folder`, which is created if it is missing, which key or invitation authorised a key."""
    folder.mkdir(mode=0o700, exist_ok=True)
    replace_file(folder / revoked_file_name(fingerprint), f"{fingerprint} {voucher}\n", 0o644)


def revoked_file_name(fingerprint: str) -> str:
    """Return the name of the file that revokes a key: its SHA-256 in hex.

    Raises:
        KeyFileMalformed: it is not a fingerprint.
    """
    encoded = fingerprint.removeprefix("SHA256:")
    try:
        digest = base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
    except ValueError:
        digest = b""
    if len(digest) != FINGERPRINT_BYTES:
        raise KeyFileMalformed(
            f"{fingerprint[:80]!r} is not the fingerprint of a key, which looks like SHA256:AbC...; "
            "list the keys: ./twinhost keys list"
        )
    return digest.hex() + PUBLIC_SUFFIX


def replace_file(path: Path, text: str, mode: int = 0o600) -> None:
    """Replace a file durably; after a crash it has either its old content or its new content."""
    draft = _write_draft(path, text, mode)
    try:
        draft.rename(path)
    except OSError:
        draft.unlink(missing_ok=True)
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Sync a folder, so that names which were added or removed are durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sweep_drafts(folder: Path) -> None:
    """Remove the incomplete files of a writer that was killed; for the folder's only writer, before it writes."""
    for draft in folder.glob(".*.draft"):
        draft.unlink(missing_ok=True)


def _write_new(path: Path, text: str, mode: int) -> bool:
    """Write a file durably under an unused name; after a crash it is complete or absent."""
    draft = _write_draft(path, text, mode)
    try:
        os.link(draft, path)  # unlike rename(), it fails where the name is taken
    except FileExistsError:
        return False
    finally:
        draft.unlink(missing_ok=True)
    fsync_folder(path.parent)
    return True


def _write_draft(path: Path, text: str, mode: int) -> Path:
    draft = path.with_name(f".{path.name}.{os.getpid()}.draft")
    draft.unlink(missing_ok=True)
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
    except BaseException:
        draft.unlink(missing_ok=True)
        raise
    return draft


def render_certificate(certificate: Certificate, secret_z85: bytes | None = None) -> str:
    """Return the text of a public key file, or with a secret that of a secret key file."""
    validity = certificate.validity
    moments = (("not_before", validity.not_before), ("not_after", validity.not_after))
    kind = "SECRET key: it never leaves this host" if secret_z85 else "public key: made to be passed on"
    lines = [
        f"#   twinhost CURVE {kind}",
        f"#   {certificate.public.fingerprint}",
        "metadata",
        f'    name = "{certificate.owner.name}"',
        f'    host = "{certificate.owner.host}"',
        f'    roles = "{" ".join(sorted(certificate.owner.roles))}"',
        *(f'    {name} = "{format_moment(moment)}"' for name, moment in moments if moment is not None),
        "curve",
        f'    public-key = "{certificate.public.z85.decode()}"',
    ]
    if secret_z85:
        lines.append(f'    secret-key = "{secret_z85.decode()}"')
    return "\n".join(lines) + "\n"
