"""The checks of an agent's answers to an authorised caller: its health, clock, versions, keys, and log."""

import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

from twinhost.adversary.attack import Finding, Verdict
from twinhost.certificates.layout import to_rotate
from twinhost.cli.audit import summary, verify_with_witnesses
from twinhost.cli.connect import Settings
from twinhost.cli.doctor.link import explain_handshake
from twinhost.cli.documents import Health, Peers, duration, parse_moment, read
from twinhost.cli.keys import LIVE, KeyReport, merge, standing_words
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConnectionRefused, NotGranted, ServerUnreachable, TwinhostError
from twinhost.secure_zmq.validity import CLOCK_TOLERANCE_S, WARN_BEFORE_S
from twinhost.secure_zmq.version import versions

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
                yield self._answered()
                yield self._healthy(health)
                yield self._clock(health, middle)
                yield self._versions(health)
                if self._settings.secure:
                    yield self._operators(KEYS_TIME, lambda: self._keys(client, health))
                if self.agent == self._settings.registry_agent:
                    yield self._operators(AUDIT, lambda: self._audit(client))
        except ConnectionRefused as error:
            self.silent = isinstance(error, ServerUnreachable)
            yield self._finding(ANSWERS, Verdict.FAILED, explain_handshake(self._settings, self.agent) or str(error))
        except TwinhostError as error:
            yield self._finding(ANSWERS, Verdict.FAILED, str(error))

    def _answered(self) -> Finding:
        if self._settings.certificates is None:
            return self._finding(
                ANSWERS, Verdict.FAILED, "it answers anybody: SECURE_ZMQ=0 there and here; set it to 1 on both hosts"
            )
        certificate = self._settings.certificates.own_keys.certificate
        pins = " or ".join(pin.fingerprint for pin in self._settings.pins(self.agent))
        return self._finding(
            ANSWERS,
            Verdict.OK,
            f"encrypted; it authenticated us as {certificate.owner.name} and proved to hold {pins}",
        )

    def _healthy(self, health: Health) -> Finding:
        if health.agent != self.agent.name:
            wrong = f"{self.agent.endpoint} is {health.agent}; correct network_config.yaml"
            return self._finding(HEALTH, Verdict.FAILED, wrong)
        faults = [f"{name}: {check.detail}" for name, check in health.checks.items() if not check.ok]
        if health.status == "ok" and health.ready:
            sentence = "; ".join(health.warnings)
            return self._finding(HEALTH, Verdict.WARNING if sentence else Verdict.OK, sentence or "every check passes")
        verdict = Verdict.WARNING if health.status == "degraded" else Verdict.FAILED
        return self._finding(HEALTH, verdict, f"{health.status}: {'; '.join([*faults, *health.warnings])}")

    def _clock(self, health: Health, middle: float) -> Finding:
        there = parse_moment(health.timestamp)
        if there is None:
            return self._finding(
                CLOCK, Verdict.FAILED, f"its clock shows {health.timestamp!r}, which is no time; check its version"
            )
        ahead = (there - datetime.fromtimestamp(middle, UTC)).total_seconds()
        direction = "ahead of" if ahead > 0 else "behind"
        offset = f"{abs(ahead):.1f} s {direction} this host's; {CLOCK_TOLERANCE_S} s are tolerated"
        if abs(ahead) > CLOCK_TOLERANCE_S:
            return self._finding(
                CLOCK, Verdict.FAILED, f"{offset}, so keys become valid and expire at the wrong time; run NTP"
            )
        if abs(ahead) > _WARN_AT_S:
            return self._finding(CLOCK, Verdict.WARNING, f"{offset}; run NTP on both hosts")
        return self._finding(CLOCK, Verdict.OK, offset)

    def _versions(self, health: Health) -> Finding:
        here, there = versions(), health.version
        if not there:
            return self._finding(VERSIONS, Verdict.WARNING, "it reports none, so it is an older one; update it")
        differ = [
            f"{name} {there.get(name, 'none')} there, {here[name]} here"
            for name in here
            if there.get(name) != here[name]
        ]
        if differ:
            return self._finding(VERSIONS, Verdict.WARNING, f"{'; '.join(differ)}; build the same image on both hosts")
        return self._finding(VERSIONS, Verdict.OK, ", ".join(f"{name} {version}" for name, version in here.items()))

    def _keys(self, client: Client, health: Health) -> Finding:
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
            return self._finding(KEYS_TIME, Verdict.FAILED, f"{'; '.join(expired + soon)}; {advice}")
        if soon:
            return self._finding(KEYS_TIME, Verdict.WARNING, "; ".join(soon))
        return self._finding(KEYS_TIME, Verdict.OK, f"none of {len(keys)} expires within 14 days")

    def _audit(self, client: Client) -> Finding:
        verified = verify_with_witnesses(self._settings, client)
        findings = verified.findings
        witnessed = "; ".join(report.sentence for report in verified.witnesses)
        if verified.whole:
            return self._finding(AUDIT, Verdict.OK, "; ".join(filter(None, (summary(findings), witnessed))))
        wrong = [finding.sentence for finding in findings.findings[:3]]
        first = "; ".join([*wrong, *(report.sentence for report in verified.contradictions)])
        advice = "somebody changed it: keep a copy, and run: ./twinhost audit verify"
        return self._finding(AUDIT, Verdict.FAILED, f"{summary(findings)} ({first}); {advice}")

    def _operators(self, check: str, ask: Callable[[], Finding]) -> Finding:
        try:
            return ask()
        except NotGranted:
            return self._finding(check, Verdict.NOT_PLAYED, NEEDS_OPERATOR)
        except TwinhostError as error:
            return self._finding(check, Verdict.FAILED, str(error))

    def _finding(self, check: str, verdict: Verdict, sentence: str) -> Finding:
        return Finding(check, self.agent.name, verdict, sentence)


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
