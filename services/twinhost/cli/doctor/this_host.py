"""The checks of this host: SECURE_ZMQ, the network configuration, and the folder of keys."""

import os
import stat
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from twinhost.adversary.attack import Finding, Verdict
from twinhost.certificates.layout import to_rotate
from twinhost.cli.connect import OPEN_LINK, Settings
from twinhost.cli.documents import days, duration
from twinhost.network_config import NetworkConfig, load_network_config
from twinhost.secure_zmq.certificates import (
    Certificates,
    FolderContents,
    certificates_folder,
    folders_of_keys,
    load_certificates,
    read_folders,
)
from twinhost.secure_zmq.errors import (
    CERTS_INIT,
    ConfigurationError,
    TwinhostError,
    certs_init_command,
    protect_command,
)
from twinhost.secure_zmq.keys import SECRET_SUFFIX, Certificate, load_certificate
from twinhost.secure_zmq.server_address import is_secure_zmq_enabled

SECURITY, CONFIGURATION = "SECURE_ZMQ", "network configuration"
HERE = "here"
NOT_SOON = "expires within 14 days"
Result = tuple[Verdict, str]  # of one check, with the sentence of its finding
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
    results = {SECURITY: security, CONFIGURATION: configuration}
    folder, certificates = certificates_folder(environment), None
    if secure is not False:
        certificates, results[HALVES] = _own_keys(folder)
        results[MODES] = _modes(folder)
        contents = read_folders(folders_of_keys(folder))
        results[FILES] = _files(folder, contents)
        if certificates is not None:
            results[OWN_KEY_TIME] = _own_time(certificates.own_keys.certificate, contents)
        results[LISTED_KEYS_TIME] = _listed_time([*contents.current.values(), *contents.next.values()])
    findings = [Finding(check, HERE, verdict, sentence) for check, (verdict, sentence) in results.items()]
    return Scene(secure, config, certificates), findings


def _security(environment: Mapping[str, str]) -> tuple[bool | None, Result]:
    try:
        secure = is_secure_zmq_enabled(environment)
    except ConfigurationError as error:
        return None, (Verdict.FAILED, str(error))
    if not secure:
        sentence = f"{OPEN_LINK}; set SECURE_ZMQ=1 in .env on both hosts, and restart the agents"
        return False, (Verdict.FAILED, sentence)
    return True, (Verdict.OK, "1: encrypted and authenticated, or no connection at all")


def _configuration(environment: Mapping[str, str]) -> tuple[NetworkConfig | None, Result]:
    try:
        config = load_network_config(environment=environment)
    except ConfigurationError as error:
        return None, (Verdict.FAILED, str(error))
    return config, (Verdict.OK, ", ".join(f"{agent.name} at {agent.endpoint}" for agent in config.agents.values()))


def _own_keys(folder: Path) -> tuple[Certificates | None, Result]:
    try:
        certificates = load_certificates(folder)
        _require_same_public_half(certificates)
    except TwinhostError as error:
        return None, (Verdict.FAILED, str(error))
    certificate = certificates.own_keys.certificate
    owner = certificate.owner
    whose = f"{owner.name} on {owner.host} ({', '.join(sorted(owner.roles))}), {certificate.public.fingerprint}"
    return certificates, (Verdict.OK, f"they are one pair: {whose}")


def _require_same_public_half(certificates: Certificates) -> None:
    """Raise if the public file beside the secret is another key's: other hosts would pin a key that nobody holds."""
    for path in certificates.folder.glob(f"*{SECRET_SUFFIX}"):
        public = path.with_suffix(".key")
        if public.exists() and not path.name.endswith(f".next{SECRET_SUFFIX}"):
            found, own = load_certificate(public).public, certificates.own_keys.public
            if found != own:
                raise ConfigurationError(
                    f"{public} has the key {found.fingerprint} and {path} has {own.fingerprint}; "
                    f"run: {certs_init_command(path, 'verify')}"
                )


def _modes(folder: Path) -> Result:
    try:
        paths = [folder, *sorted(folder.rglob("*"))]
        faults = [fault for path in paths if (fault := _mode_fault(path))]
    except OSError as error:
        return Verdict.FAILED, f"{error.filename} can't be read ({error.strerror})"
    if faults:
        return Verdict.FAILED, "; ".join(faults)
    return Verdict.OK, f"only their owner can change {folder} and the {len(paths) - 1} entries in it"


def _mode_fault(path: Path) -> str | None:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a link, which key files must not be; copy the file itself there"
    if status.st_uid != os.getuid():
        return (
            f"{path} belongs to uid {status.st_uid} and not to {os.getuid()}; run: {certs_init_command(path, 'verify')}"
        )
    if path.name.endswith(SECRET_SUFFIX) and mode & 0o077:
        return f"{path} has mode {mode:04o}, so others can use the secret; run: {protect_command(path)}"
    if mode & 0o022:
        wanted = "700" if path.is_dir() else "644"
        return f"{path} has mode {mode:04o}, so others can change what it holds; run: {protect_command(path, wanted)}"
    return None


def _files(folder: Path, contents: FolderContents) -> Result:
    if contents.rejected:
        return Verdict.FAILED, "; ".join(contents.rejected)
    if not contents.current:
        return Verdict.FAILED, f"{folder} holds no public key; run certs-init, or certs-init join"
    found = f"{len(contents.current)} keys, {len(contents.next)} next ones, {len(contents.revoked)} revoked"
    return Verdict.OK, found


def _own_time(own: Certificate, contents: FolderContents) -> Result:
    if own.public.fingerprint in contents.revoked:
        return Verdict.FAILED, f"{own.public.fingerprint} is revoked; enrol a new key: certs-init join --replace"
    if not own.validity.has_begun(time.time()):
        sentence = "it is not yet valid: its host's clock was ahead, or this host's clock is behind; set the clock"
        return Verdict.FAILED, sentence
    return _time_left(own, time.time())


def _listed_time(certificates: Sequence[Certificate]) -> Result:
    now = time.time()
    found = [(key.owner.name, *_time_left(key, now)) for key in certificates]
    for wanted in (Verdict.FAILED, Verdict.WARNING):
        if any(verdict is wanted for _, verdict, _ in found):
            return wanted, "; ".join(
                f"{name}: {sentence}" for name, verdict, sentence in found if verdict != Verdict.OK
            )
    return Verdict.OK, f"none of {len(found)} {NOT_SOON}"


def _time_left(certificate: Certificate, now: float) -> Result:
    validity = certificate.validity
    if validity.not_after is None:
        return Verdict.OK, "it does not expire"
    left = validity.not_after - now
    if validity.has_ended(now):
        verify = f"on mainpc, run: {CERTS_INIT} verify"
        return Verdict.FAILED, f"it expired {duration(-left)} ago and is refused everywhere; {verify}"
    if validity.ends_soon(now):
        return Verdict.WARNING, f"it expires in {duration(max(0.0, left))}; run: {to_rotate(certificate.owner.name)}"
    return Verdict.OK, f"it is valid for another {days(left)}"
