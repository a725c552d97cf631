"""The folder of keys that this host was given: who could read or change it, and what is in it."""

import os
import stat
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from twinhost.adversary.attack import Finding, Verdict
from twinhost.certificates.layout import to_rotate
from twinhost.cli.doctor.scene import HERE, Scene
from twinhost.cli.documents import days, duration
from twinhost.secure_zmq import advice
from twinhost.secure_zmq.certificates import Certificates, folders_of_keys, load_certificates
from twinhost.secure_zmq.errors import ConfigurationError, TwinhostError
from twinhost.secure_zmq.key_folders import FolderContents, read_folders
from twinhost.secure_zmq.keys import SECRET_SUFFIX, Certificate, load_certificate

MODES, HALVES, FILES, OWN_KEY_TIME, LISTED_KEYS_TIME = (
    "modes and owners",
    "halves of own key",
    "public key files",
    "time of own key",
    "time of public keys",
)


def load_own_keys(folder: Path) -> tuple[Certificates | None, Finding]:
    """Return this host's keys and what is to be said of their halves."""
    try:
        certificates = load_certificates(folder)
        _require_same_public_half(certificates)
    except TwinhostError as error:
        return None, Finding(HALVES, HERE, Verdict.FAILED, str(error))
    certificate = certificates.own_keys.certificate
    owner = certificate.owner
    whose = f"{owner.name} on {owner.host} ({', '.join(sorted(owner.roles))}), {certificate.public.fingerprint}"
    return certificates, Finding(HALVES, HERE, Verdict.OK, f"they are one pair: {whose}")


def examine_folder(scene: Scene) -> Iterator[Finding]:
    """Look at the files; nothing of it needs an agent."""
    yield _modes(scene.folder)
    contents = read_folders(folders_of_keys(scene.folder))
    yield _files(scene.folder, contents)
    if scene.certificates is not None:
        yield _own_time(scene.certificates.own_keys.certificate, contents)
    yield _listed_time([*contents.current.values(), *contents.next.values()])


def _require_same_public_half(certificates: Certificates) -> None:
    """Raise where the public file beside the secret is another key's; others would pin what nobody holds."""
    for path in certificates.folder.glob(f"*{SECRET_SUFFIX}"):
        public = path.with_suffix(".key")
        if public.exists() and not path.name.endswith(f".next{SECRET_SUFFIX}"):
            found, own = load_certificate(public).public, certificates.own_keys.public
            if found != own:
                raise ConfigurationError(
                    f"{public} has the key {found.fingerprint} and {path} has {own.fingerprint}; "
                    f"run: {advice.certs_init(path, 'verify')}"
                )


def _modes(folder: Path) -> Finding:
    try:
        paths = [folder, *sorted(folder.rglob("*"))]
        faults = [fault for path in paths if (fault := _mode_fault(path))]
    except OSError as error:
        return Finding(MODES, HERE, Verdict.FAILED, f"{error.filename} can't be read ({error.strerror})")
    if faults:
        return Finding(MODES, HERE, Verdict.FAILED, "; ".join(faults))
    return Finding(MODES, HERE, Verdict.OK, f"{folder} and the {len(paths) - 1} entries in it are their owner's alone")


def _mode_fault(path: Path) -> str | None:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a link, which key files must not be; put the file itself there"
    if status.st_uid != os.getuid():
        return (
            f"{path} belongs to uid {status.st_uid} and not to {os.getuid()}; run: {advice.certs_init(path, 'verify')}"
        )
    if path.name.endswith(SECRET_SUFFIX) and mode & 0o077:
        return f"{path} has mode {mode:04o}, so others can use the secret; run: {advice.to_protect(path)}"
    if mode & 0o022:
        wanted = "700" if path.is_dir() else "644"
        return f"{path} has mode {mode:04o}, so others can change what it holds; run: {advice.to_protect(path, wanted)}"
    return None


def _files(folder: Path, contents: FolderContents) -> Finding:
    if contents.rejected:
        return Finding(FILES, HERE, Verdict.FAILED, "; ".join(contents.rejected))
    if not contents.current:
        return Finding(FILES, HERE, Verdict.FAILED, f"{folder} holds no public key; run certs-init, or join")
    found = f"{len(contents.current)} keys, {len(contents.next)} next ones, {len(contents.revoked)} revoked"
    return Finding(FILES, HERE, Verdict.OK, found)


def _own_time(own: Certificate, contents: FolderContents) -> Finding:
    if own.public.fingerprint in contents.revoked:
        return Finding(OWN_KEY_TIME, HERE, Verdict.FAILED, f"{own.public.fingerprint} is revoked; enrol a new key")
    verdict, sentence = told_time(own, time.time())
    if not own.validity.has_begun(time.time()):
        sentence = "it is not good yet: either its host's clock was ahead, or this one is behind; set the clock"
        return Finding(OWN_KEY_TIME, HERE, Verdict.FAILED, sentence)
    return Finding(OWN_KEY_TIME, HERE, verdict, sentence)


def _listed_time(certificates: Sequence[Certificate]) -> Finding:
    now = time.time()
    told = [(key.owner.name, *told_time(key, now)) for key in certificates]
    for wanted in (Verdict.FAILED, Verdict.WARNING):
        if any(verdict is wanted for _, verdict, _ in told):
            sentences = [f"{name}: {sentence}" for name, verdict, sentence in told if verdict is not Verdict.OK]
            return Finding(LISTED_KEYS_TIME, HERE, wanted, "; ".join(sentences))
    return Finding(LISTED_KEYS_TIME, HERE, Verdict.OK, f"none of {len(told)} ends within 14 days")


def told_time(certificate: Certificate, now: float) -> tuple[Verdict, str]:
    """Return what is to be said of a key's end at `now`, in seconds since the epoch."""
    validity = certificate.validity
    if validity.not_after is None:
        return Verdict.OK, "it has no end"
    left = validity.not_after - now
    if validity.has_ended(now):
        return (
            Verdict.FAILED,
            f"it ended {duration(-left)} ago and is refused everywhere; on mainpc, run: {advice.CERTS_INIT} verify",
        )
    if validity.ends_soon(now):
        return Verdict.WARNING, f"it ends in {duration(max(0.0, left))}; run: {to_rotate(certificate.owner.name)}"
    return Verdict.OK, f"it is good for another {days(left)}"
