"""The checks of an agent's answers to an authorised caller: its health, clock, versions, keys, and log."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from twinhost.adversary.attack import Finding, Verdict
from twinhost.certificates.layout import to_rotate
from twinhost.cli.audit import summary, verify_with_witnesses
from twinhost.cli.connect import Settings
from twinhost.cli.doctor.link import explain_handshake
from twinhost.cli.doctor.this_host import NOT_SOON, Result
from twinhost.cli.documents import Health, Peers, duration, parse_moment, read
from twinhost.cli.keys import LIVE, KeyReport, merge, standing_words
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, NotGranted, ServerUnreachable, TwinhostError
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, WARN_BEFORE_S
from twinhost.version import versions

ANSWERS, HEALTH, CLOCK, VERSIONS, KEYS_TIME, AUDIT, SAME_KEYS = (
    "answers, and knows us",
    "health",
    "clock",
    "versions",
    "time of its keys",
    "audit log",
    "same keys on every host",
)
NEEDS_OPERATOR = "needs an operator's key"
EVERYWHERE = "all agents"
_DEADLINE_S = 5.0
_WARN_AT_S = CLOCK_TOLERANCE_S / 2


class AgentAnswers:
    """Asks one agent; `report` is its list of keys, if it gave one; `silent` says that no answer came in time."""

    def __init__(self, settings: Settings, agent: Agent) -> None:
        self._settings, self.agent = settings, agent
        self.report: KeyReport | None = None
        self.silent = False

    def examine(self) -> Iterator[Finding]:
        """Ask everything; if it does not answer, that is the only finding."""
        try:
            with self._settings.client(self.agent) as client:
                asked_at = time.time()
                health = read(client.call("health", deadline_s=_DEADLINE_S), Health)
                middle = (asked_at + time.time()) / 2
                yield self._finding(ANSWERS, *self._answered())
                yield self._finding(HEALTH, *self._healthy(health))
                yield self._finding(CLOCK, *_clock(health, middle))
                yield self._finding(VERSIONS, *_versions(health))
                if self._settings.secure:
                    yield self._finding(KEYS_TIME, *_of_operators(lambda: self._keys(client, health)))
                if self.agent == self._settings.registry_agent:
                    yield self._finding(AUDIT, *_of_operators(lambda: self._audit(client)))
        except ConnectionRefused as error:
            self.silent = isinstance(error, ServerUnreachable)
            yield self._finding(ANSWERS, Verdict.FAILED, explain_handshake(self._settings, self.agent) or str(error))
        except TwinhostError as error:
            yield self._finding(ANSWERS, Verdict.FAILED, str(error))

    def _answered(self) -> Result:
        if self._settings.certificates is None:
            return Verdict.FAILED, "it answers anybody: SECURE_ZMQ=0 there and here; set it to 1 on both hosts"
        name = self._settings.certificates.own_keys.certificate.owner.name
        pins = " or ".join(pin.fingerprint for pin in self._settings.pins(self.agent))
        return Verdict.OK, f"encrypted; it authenticated us as {name} and proved to hold {pins}"

    def _healthy(self, health: Health) -> Result:
        if health.agent != self.agent.name:
            return Verdict.FAILED, f"{self.agent.endpoint} is {health.agent}; correct network_config.yaml"
        faults = [f"{name}: {check.detail}" for name, check in health.checks.items() if not check.ok]
        if health.status == "ok" and health.ready:
            sentence = "; ".join(health.warnings)
            return Verdict.WARNING if sentence else Verdict.OK, sentence or "every check passes"
        verdict = Verdict.WARNING if health.status == "degraded" else Verdict.FAILED
        return verdict, f"{health.status}: {'; '.join([*faults, *health.warnings])}"

    def _keys(self, client: Client, health: Health) -> Result:
        peers = read(client.call("get_peers", deadline_s=_DEADLINE_S), Peers)
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
            advice = "enrol a new key: certs-init invite, and certs-init join --replace there"
            return Verdict.FAILED, f"{'; '.join(expired + soon)}; {advice}"
        return (Verdict.WARNING, "; ".join(soon)) if soon else (Verdict.OK, f"none of {len(keys)} {NOT_SOON}")

    def _audit(self, client: Client) -> Result:
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


def _clock(health: Health, middle: float) -> Result:
    there = parse_moment(health.timestamp)
    if there is None:
        return Verdict.FAILED, f"{health.timestamp!r} is no time; check its version"
    ahead = (there - datetime.fromtimestamp(middle, UTC)).total_seconds()
    direction = "ahead of" if ahead > 0 else "behind"
    offset = f"{abs(ahead):.1f} s {direction} this host's; {CLOCK_TOLERANCE_S} s are tolerated"
    if abs(ahead) > CLOCK_TOLERANCE_S:
        return Verdict.FAILED, f"{offset}, so keys become valid and expire at the wrong time; run NTP"
    if abs(ahead) > _WARN_AT_S:
        return Verdict.WARNING, f"{offset}; run NTP on both hosts"
    return Verdict.OK, offset


def _versions(health: Health) -> Result:
    here, there = versions(), health.version
    if not there:
        return Verdict.WARNING, "it reports none, so it is an older one; update it"
    differ = [
        f"{name} {there.get(name, 'none')} there, {here[name]} here" for name in here if there.get(name) != here[name]
    ]
    if differ:
        return Verdict.WARNING, f"{'; '.join(differ)}; build the same image on both hosts"
    return Verdict.OK, ", ".join(f"{name} {version}" for name, version in here.items())


def _of_operators(ask: Callable[[], Result]) -> Result:
    try:
        return ask()
    except NotGranted:
        return Verdict.NOT_PLAYED, NEEDS_OPERATOR
    except TwinhostError as error:
        return Verdict.FAILED, str(error)


def compare_keys(reports: list[KeyReport | None]) -> Finding:
    """Check that the hosts agree on which keys are authorised: an enrolment or a revocation may not have arrived."""
    known = [report for report in reports if report is not None]
    if len(known) < len(reports):
        return Finding(SAME_KEYS, EVERYWHERE, Verdict.NOT_PLAYED, NEEDS_OPERATOR + ", and every agent's answer")
    odd = [
        f"{key.peer.name} ({key.peer.fingerprint}) is {', '.join(standing_words(key.standing))}"
        for key in merge(known)
        if len(set(key.standing.values())) > 1
    ]
    if odd:
        sentence = f"{'; '.join(odd)}; a change takes a heartbeat to arrive: check again, and read the agents' logs"
        return Finding(SAME_KEYS, EVERYWHERE, Verdict.WARNING, sentence)
    live = sum(LIVE in key.standing.values() for key in merge(known))
    return Finding(SAME_KEYS, EVERYWHERE, Verdict.OK, f"{live} keys are accepted, the same everywhere")
