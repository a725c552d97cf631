"""The checks of this host's settings and keys, and of what the agents answer to an authorised caller."""

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from twinhost.adversary.attack import Finding, Verdict
from twinhost.certificates.layout import to_rotate
from twinhost.cli.audit import summary, verify_with_witnesses
from twinhost.cli.doctor.link import explain_handshake
from twinhost.cli.keys import LIVE, KeyReport, merge, standing_words
from twinhost.cli.machines import all_measured, ask_hosts, machines_sentence
from twinhost.cli.output import OPEN_LINK, ListedPeers, days, duration, parse_moment, read
from twinhost.clients.system_replies import HealthDocument
from twinhost.commands import CERTS_INIT, certs_init_command, protect_command
from twinhost.deployment import Settings
from twinhost.moments import SYSTEM_CLOCK
from twinhost.network_config import Agent, NetworkConfig, load_network_config
from twinhost.secure_zmq.certificates import (
    Certificates,
    FolderContents,
    client_folder,
    folders_of_keys,
    load_certificates,
    read_folders,
)
from twinhost.secure_zmq.client import Client, require_session
from twinhost.secure_zmq.errors import (
    ConfigurationError,
    ConnectionRefused,
    NotGranted,
    ServerUnreachable,
    TwinhostError,
)
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, SECRET_SUFFIX, WARN_BEFORE_S, Certificate, load_certificate
from twinhost.secure_zmq.server_address import is_secure_zmq_enabled
from twinhost.version import versions

SECURITY, CONFIGURATION = "SECURE_ZMQ", "network configuration"
HERE = "here"
NOT_SOON = "expires within 14 days"
CheckResult = tuple[Verdict, str]  # of one check, with the sentence of its finding
MODES, HALVES, FILES, OWN_KEY_TIME, LISTED_KEYS_TIME = (
    "modes and owners",
    "halves of own key",
    "public key files",
    "time of own key",
    "time of public keys",
)


@dataclass(frozen=True, slots=True)
class Scene:
    """This host's settings; None for what could not be read, which a finding explains.

    `secure` is None if SECURE_ZMQ is neither 1 nor 0.
    """

    secure: bool | None
    config: NetworkConfig | None
    certificates: Certificates | None  # None also with SECURE_ZMQ=0

    @property
    def settings(self) -> Settings | None:
        """The settings for calls to the agents; None if any of them is missing."""
        if self.config is None or self.secure is None or (self.secure and self.certificates is None):
            return None
        return Settings(self.config, self.certificates if self.secure else None)


def examine_this_host(environment: Mapping[str, str]) -> tuple[Scene, list[Finding]]:
    """Return this host's settings, and the findings about them."""
    secure, security = _security(environment)
    config, configuration = _configuration(environment)
    results = {SECURITY: security, CONFIGURATION: configuration}
    folder, certificates = client_folder(environment), None
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


def _security(environment: Mapping[str, str]) -> tuple[bool | None, CheckResult]:
    try:
        secure = is_secure_zmq_enabled(environment)
    except ConfigurationError as error:
        return None, (Verdict.FAILED, str(error))
    if not secure:
        sentence = f"{OPEN_LINK}; set SECURE_ZMQ=1 in .env on both hosts, and restart the agents"
        return False, (Verdict.FAILED, sentence)
    return True, (Verdict.OK, "1: encrypted and authenticated, or no connection at all")


def _configuration(environment: Mapping[str, str]) -> tuple[NetworkConfig | None, CheckResult]:
    try:
        config = load_network_config(environment=environment)
    except ConfigurationError as error:
        return None, (Verdict.FAILED, str(error))
    return config, (Verdict.OK, ", ".join(f"{agent.name} at {agent.endpoint}" for agent in config.agents.values()))


def _own_keys(folder: Path) -> tuple[Certificates | None, CheckResult]:
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
    """Raise if the public file beside the secret is another key's: other hosts would pin the wrong key."""
    for path in certificates.folder.glob(f"*{SECRET_SUFFIX}"):
        public = path.with_suffix(".key")
        if public.exists() and not path.name.endswith(f".next{SECRET_SUFFIX}"):
            beside, own = load_certificate(public).public, certificates.own_keys.public
            if beside != own:
                raise ConfigurationError(
                    f"{public} has the key {beside.fingerprint} and {path} has {own.fingerprint}; "
                    f"run: {certs_init_command(path, 'verify')}"
                )


def _modes(folder: Path) -> CheckResult:
    try:
        paths = [folder, *sorted(folder.rglob("*"))]
        faults = [fault for path in paths if (fault := _mode_fault(path))]
    except OSError as error:
        verify = certs_init_command(folder, "verify")
        return Verdict.FAILED, f"{error.filename} can't be read ({error.strerror}); run: {verify}"
    if faults:
        return Verdict.FAILED, "; ".join(faults)
    return Verdict.OK, f"only their owner can change {folder} and the {len(paths) - 1} entries in it"


def _mode_fault(path: Path) -> str | None:
    status = path.lstat()
    mode = stat.S_IMODE(status.st_mode)
    if stat.S_ISLNK(status.st_mode):
        return f"{path} is a symbolic link, which key files must not be; copy the file itself there"
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


def _files(folder: Path, contents: FolderContents) -> CheckResult:
    if contents.rejected:
        return Verdict.FAILED, "; ".join(contents.rejected)
    if not contents.current:
        return Verdict.FAILED, f"{folder} holds no public key; run: {certs_init_command(folder)}"
    counts = f"{len(contents.current)} keys, {len(contents.next)} next ones, {len(contents.revoked)} revoked"
    return Verdict.OK, counts


def _own_time(own: Certificate, contents: FolderContents) -> CheckResult:
    if own.public.fingerprint in contents.revoked:
        sentence = f"{own.public.fingerprint} is revoked; run {CERTS_INIT} verify, which shows how to replace it"
        return Verdict.FAILED, sentence
    if not own.validity.has_begun(SYSTEM_CLOCK.time()):
        sentence = "it is not yet valid: its host's clock was ahead, or this host's clock is behind; run NTP on both"
        return Verdict.FAILED, sentence
    return _time_left(own, SYSTEM_CLOCK.time())


def _listed_time(certificates: Sequence[Certificate]) -> CheckResult:
    now = SYSTEM_CLOCK.time()
    left = [(key.owner.name, *_time_left(key, now)) for key in certificates]
    for wanted in (Verdict.FAILED, Verdict.WARNING):
        if any(verdict is wanted for _, verdict, _ in left):
            return wanted, "; ".join(f"{name}: {sentence}" for name, verdict, sentence in left if verdict != Verdict.OK)
    return Verdict.OK, f"none of {len(left)} {NOT_SOON}"


def _time_left(certificate: Certificate, now: float) -> CheckResult:
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


ANSWERS, HEALTH, CLOCK, VERSIONS, KEYS_TIME, MACHINES, AUDIT, SAME_KEYS = (
    "answers, and knows us",
    "health",
    "clock",
    "versions",
    "time of its keys",
    "machines",
    "audit log",
    "same keys on every host",
)
NEEDS_OPERATOR = "needs an operator's key"
EVERYWHERE = "all agents"
_DEADLINE_S = 5.0
_COUNTED_WITHIN_S = 2.0  # where nothing answers, a check says so
_WARN_AT_S = CLOCK_TOLERANCE_S / 2


class AgentAnswers:
    """Asks one agent; `report` is its list of keys, if it sent one; `silent` says that it did not answer in time."""

    def __init__(self, settings: Settings, agent: Agent, *, own_sockets: bool = False) -> None:
        """Ask an agent later; one that makes its `own_sockets` is only connected to."""
        self._settings, self.agent, self.own_sockets = settings, agent, own_sockets
        self.report: KeyReport | None = None
        self.silent = False

    def examine(self) -> Iterator[Finding]:
        """Ask everything; if it does not answer, that is the only finding."""
        try:
            if self.own_sockets:
                require_session(self._settings.address(self.agent), _DEADLINE_S)
                verdict, sentence = self._answered()
                yield self._finding(ANSWERS, verdict, f"{sentence}; it makes its own sockets, so it is not asked")
                return
            with self._settings.client(self.agent) as client:
                asked_at = SYSTEM_CLOCK.time()
                health = read(client.call("health", deadline_s=_DEADLINE_S), HealthDocument)
                middle = (asked_at + SYSTEM_CLOCK.time()) / 2
                yield self._finding(ANSWERS, *self._answered())
                yield self._finding(HEALTH, *self._healthy(health))
                yield self._finding(CLOCK, *_clock(health, middle))
                yield self._finding(VERSIONS, *_versions(health))
                if self._settings.secure:
                    yield self._finding(KEYS_TIME, *_of_operators(lambda: self._keys(client, health)))
                if self.agent == self._settings.registry_agent:
                    yield self._finding(MACHINES, *_machines(client))
                    yield self._finding(AUDIT, *_of_operators(lambda: self._audit(client)))
        except ConnectionRefused as error:
            self.silent = isinstance(error, ServerUnreachable)
            yield self._finding(ANSWERS, Verdict.FAILED, explain_handshake(self._settings, self.agent) or str(error))
        except TwinhostError as error:
            yield self._finding(ANSWERS, Verdict.FAILED, str(error))

    def _answered(self) -> CheckResult:
        if self._settings.certificates is None:
            return Verdict.FAILED, "it authenticates no caller: SECURE_ZMQ=0 there and here; set it to 1 on both hosts"
        name = self._settings.certificates.own_keys.certificate.owner.name
        pins = " or ".join(pin.fingerprint for pin in self._settings.pins(self.agent))
        return Verdict.OK, f"encrypted; it authenticated us as {name} and proved to hold {pins}"

    def _healthy(self, health: HealthDocument) -> CheckResult:
        if health.agent != self.agent.name:
            return Verdict.FAILED, f"{self.agent.endpoint} is {health.agent}; correct network_config.yaml"
        faults = [f"{name}: {check.detail}" for name, check in health.checks.items() if not check.ok]
        if health.status == "ok" and health.ready:
            sentence = "; ".join(health.warnings)
            return Verdict.WARNING if sentence else Verdict.OK, sentence or "every check passes"
        verdict = Verdict.WARNING if health.status == "degraded" else Verdict.FAILED
        return verdict, f"{health.status}: {'; '.join([*faults, *health.warnings])}"

    def _keys(self, client: Client, health: HealthDocument) -> CheckResult:
        peers = read(client.call("get_peers", deadline_s=_DEADLINE_S), ListedPeers)
        self.report = KeyReport(self.agent.host.name, peers, health.timestamp)
        keys = [key for key in merge([self.report]) if not key.invitation]
        left = {key.peer.name: key.left_s for key in keys if key.left_s is not None and key.left_s < WARN_BEFORE_S}
        expired = [f"{name}: expired, and refused" for name, left_s in left.items() if left_s <= 0]
        soon = [
            f"{name}: expires in {duration(left_s)}; where its secret is, run: {to_rotate(name)}"
            for name, left_s in left.items()
            if left_s > 0
        ]
        if expired:
            advice = f"on mainpc, run {CERTS_INIT} verify, which shows how to replace them"
            return Verdict.FAILED, f"{'; '.join(expired + soon)}; {advice}"
        return (Verdict.WARNING, "; ".join(soon)) if soon else (Verdict.OK, f"none of {len(keys)} {NOT_SOON}")

    def _audit(self, client: Client) -> CheckResult:
        verified = verify_with_witnesses(self._settings, client)
        findings = verified.findings
        if verified.whole:
            return Verdict.OK, "; ".join([summary(findings), *(report.sentence for report in verified.witnesses)])
        wrong = [finding.sentence for finding in findings.findings[:3]]
        first = "; ".join([*wrong, *(report.sentence for report in verified.contradictions)])
        advice = "somebody changed it: keep a copy, and run: ./twinhost audit verify"
        return Verdict.FAILED, f"{summary(findings)} ({first}); {advice}"

    def _finding(self, check: str, verdict: Verdict, sentence: str) -> Finding:
        return Finding(check, self.agent.name, verdict, sentence)


def _clock(health: HealthDocument, middle: float) -> CheckResult:
    there = parse_moment(health.timestamp)
    if there is None:
        return Verdict.FAILED, f"{health.timestamp!r} is not a time; check its version"
    ahead = (there - datetime.fromtimestamp(middle, UTC)).total_seconds()
    direction = "ahead of" if ahead > 0 else "behind"
    offset = f"{abs(ahead):.1f} s {direction} this host's; {CLOCK_TOLERANCE_S} s are tolerated"
    if abs(ahead) > CLOCK_TOLERANCE_S:
        return Verdict.FAILED, f"{offset}, so keys become valid and expire at the wrong time; run NTP"
    if abs(ahead) > _WARN_AT_S:
        return Verdict.WARNING, f"{offset}; run NTP on both hosts"
    return Verdict.OK, offset


def _machines(client: Client) -> CheckResult:
    hosts = ask_hosts(client, _DEADLINE_S)
    if hosts is None:
        return Verdict.NOT_PLAYED, "needs a key whose role has the grant get_metrics"
    return Verdict.OK if all_measured(hosts) else Verdict.WARNING, machines_sentence(hosts)


def _versions(health: HealthDocument) -> CheckResult:
    here, there = versions(), health.version
    differ = [
        f"{name} {there.get(name, 'none')} there, {here[name]} here" for name in here if there.get(name) != here[name]
    ]
    if differ:
        return Verdict.WARNING, f"{'; '.join(differ)}; build the same image on both hosts"
    return Verdict.OK, ", ".join(f"{name} {version}" for name, version in here.items())


def _of_operators(ask: Callable[[], CheckResult]) -> CheckResult:
    try:
        return ask()
    except NotGranted:
        return Verdict.NOT_PLAYED, NEEDS_OPERATOR
    except TwinhostError as error:
        return Verdict.FAILED, str(error)


def refusals_counted(settings: Settings, agents: Iterable[Agent]) -> dict[str, int]:
    """Return how many handshakes each agent has refused since its start, where it answers an operator."""

    def ask(agent: Agent) -> dict[str, int]:
        try:
            with settings.client(agent) as client:
                peers = read(client.call("get_peers", deadline_s=_COUNTED_WITHIN_S), ListedPeers)
        except TwinhostError:
            return {}
        return {agent.name: sum(peers.refusals().values())}

    with ThreadPoolExecutor() as pool:
        return {name: count for counted in pool.map(ask, agents) for name, count in counted.items()}


def compare_keys(reports: list[KeyReport | None]) -> Finding:
    """Check that the hosts agree on which keys are authorised: an enrolment or a revocation may not have arrived."""
    known = [report for report in reports if report is not None]
    if len(known) < len(reports):
        return Finding(SAME_KEYS, EVERYWHERE, Verdict.NOT_PLAYED, NEEDS_OPERATOR + ", and every agent's answer")
    differing = [
        f"{key.peer.name} ({key.peer.fingerprint}) is {', '.join(standing_words(key.standing))}"
        for key in merge(known)
        if len(set(key.standing.values())) > 1
    ]
    if differing:
        sentence = f"{'; '.join(differing)}; a change arrives with a heartbeat: check again, and read the agents' logs"
        return Finding(SAME_KEYS, EVERYWHERE, Verdict.WARNING, sentence)
    live = sum(LIVE in key.standing.values() for key in merge(known))
    return Finding(SAME_KEYS, EVERYWHERE, Verdict.OK, f"{live} keys are accepted, the same everywhere")
