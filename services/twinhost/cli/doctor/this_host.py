"""The checks of this host: SECURE_ZMQ, the network configuration, and the folder of keys."""

import os
import stat
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhost.adversary.attack import Finding, Verdict
from twinhost.certificates.layout import to_rotate
from twinhost.cli.connect import OPEN_LINK, Settings
from twinhost.cli.documents import days, duration
from twinhost.network_config import NetworkConfig, load_network_config
from twinhost.secure_zmq import advice
from twinhost.secure_zmq.certificates import Certificates, certificates_folder, folders_of_keys, load_certificates
from twinhost.secure_zmq.errors import ConfigurationError, TwinhostError
from twinhost.secure_zmq.key_folders import FolderContents, read_folders
from twinhost.secure_zmq.keys import SECRET_SUFFIX, Certificate, load_certificate
from twinhost.secure_zmq.security_mode import is_secure_zmq_enabled

SECURITY, CONFIGURATION = "SECURE_ZMQ", "network configuration"
HERE = "here"
MODES, HALVES, FILES, OWN_KEY_TIME, LISTED_KEYS_TIME = (
    "modes and owners",
    "halves of own key",
    "public key files",
    "time of own key",
    "time of public keys",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """What this host was given; None for what could not be read, which a finding explains.

    `secure` is None if SECURE_ZMQ is neither 1 nor 0.
    """

    folder: Path
    secure: bool | None
    config: NetworkConfig | None
    certificates: Certificates | None  # None also with SECURE_ZMQ=0

    @property
    def settings(self) -> Settings | None:
        """What it takes to ask the agents; None if any of it is missing."""
        if self.config is None or self.secure is None or (self.secure and self.certificates is None):
            return None
        return Settings(self.config, self.certificates if self.secure else None)


def examine_this_host(environment: Mapping[str, str]) -> tuple[Scene, list[Finding]]:
    """Return what this host was given, and the findings about it."""
    secure, security = _security(environment)
    config, configuration = _configuration(environment)
    findings = [security, configuration]
    folder = certificates_folder(environment)
    if secure is False:
        return Scene(folder, secure, config, None), findings
    certificates, halves = _own_keys(folder)
    scene = Scene(folder, secure, config, certificates)
    return scene, [*findings, halves, *_folder(scene)]


def _security(environment: Mapping[str, str]) -> tuple[bool | None, Finding]:
    try:
        secure = is_secure_zmq_enabled(environment)
    except ConfigurationError as error:
        return None, Finding(SECURITY, HERE, Verdict.FAILED, str(error))
    if not secure:
        sentence = f"{OPEN_LINK}; set SECURE_ZMQ=1 in .env on both hosts, and restart the agents"
        return False, Finding(SECURITY, HERE, Verdict.FAILED, sentence)
    return True, Finding(SECURITY, HERE, Verdict.OK, "1: encrypted and authenticated, or no connection at all")


def _configuration(environment: Mapping[str, str]) -> tuple[NetworkConfig | None, Finding]:
    try:
        config = load_network_config(environment=environment)
    except ConfigurationError as error:
        return None, Finding(CONFIGURATION, HERE, Verdict.FAILED, str(error))
    agents = ", ".join(f"{agent.name} at {agent.endpoint}" for agent in config.agents.values())
    return config, Finding(CONFIGURATION, HERE, Verdict.OK, agents)


def _own_keys(folder: Path) -> tuple[Certificates | None, Finding]:
    try:
        certificates = load_certificates(folder)
        _require_same_public_half(certificates)
    except TwinhostError as error:
        return None, Finding(HALVES, HERE, Verdict.FAILED, str(error))
    certificate = certificates.own_keys.certificate
    owner = certificate.owner
    whose = f"{owner.name} on {owner.host} ({', '.join(sorted(owner.roles))}), {certificate.public.fingerprint}"
    return certificates, Finding(HALVES, HERE, Verdict.OK, f"they are one pair: {whose}")


def _folder(scene: Scene) -> Iterator[Finding]:
    yield _modes(scene.folder)
    contents = read_folders(folders_of_keys(scene.folder))
    yield _files(scene.folder, contents)
    if scene.certificates is not None:
        yield _own_time(scene.certificates.own_keys.certificate, contents)
    yield _listed_time([*contents.current.values(), *contents.next.values()])


def _require_same_public_half(certificates: Certificates) -> None:
    """Raise if the public file beside the secret is another key's: other hosts would pin a key that nobody holds."""
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
    return Finding(
        MODES, HERE, Verdict.OK, f"{folder} and the {len(paths) - 1} entries in it can be changed by their owner only"
    )


def _mode_fault(path: Path) -> str | None:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a link, which key files must not be; copy the file itself there"
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
        return Finding(
            FILES, HERE, Verdict.FAILED, f"{folder} holds no public key; run: certs-init, or certs-init join"
        )
    found = f"{len(contents.current)} keys, {len(contents.next)} next ones, {len(contents.revoked)} revoked"
    return Finding(FILES, HERE, Verdict.OK, found)


def _own_time(own: Certificate, contents: FolderContents) -> Finding:
    if own.public.fingerprint in contents.revoked:
        return Finding(
            OWN_KEY_TIME,
            HERE,
            Verdict.FAILED,
            f"{own.public.fingerprint} is revoked; enrol a new key: certs-init join --replace",
        )
    verdict, sentence = _time_left(own, time.time())
    if not own.validity.has_begun(time.time()):
        sentence = "it is not yet valid: its host's clock was ahead, or this host's clock is behind; set the clock"
        return Finding(OWN_KEY_TIME, HERE, Verdict.FAILED, sentence)
    return Finding(OWN_KEY_TIME, HERE, verdict, sentence)


def _listed_time(certificates: Sequence[Certificate]) -> Finding:
    now = time.time()
    found = [(key.owner.name, *_time_left(key, now)) for key in certificates]
    for wanted in (Verdict.FAILED, Verdict.WARNING):
        if any(verdict is wanted for _, verdict, _ in found):
            sentences = [f"{name}: {sentence}" for name, verdict, sentence in found if verdict is not Verdict.OK]
            return Finding(LISTED_KEYS_TIME, HERE, wanted, "; ".join(sentences))
    return Finding(LISTED_KEYS_TIME, HERE, Verdict.OK, f"none of {len(found)} expires within 14 days")


def _time_left(certificate: Certificate, now: float) -> tuple[Verdict, str]:
    validity = certificate.validity
    if validity.not_after is None:
        return Verdict.OK, "it does not expire"
    left = validity.not_after - now
    if validity.has_ended(now):
        return (
            Verdict.FAILED,
            f"it expired {duration(-left)} ago and is refused everywhere; on mainpc, run: {advice.CERTS_INIT} verify",
        )
    if validity.ends_soon(now):
        return Verdict.WARNING, f"it expires in {duration(max(0.0, left))}; run: {to_rotate(certificate.owner.name)}"
    return Verdict.OK, f"it is valid for another {days(left)}"
