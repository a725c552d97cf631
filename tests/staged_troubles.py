"""The troubles that an operator must be told of, each staged on mainpc's agent in this process, with a clock to move.

A staging does what happens, or where that is elsewhere, what mainpc sees of it: the heartbeats, handshakes and samples
that come, or stay away. What must be said of it stands beside it, for the page, `status`, and messages alike.
"""

import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from tests.unit.agent.assembled import SeenLog, environment_of
from tests.unit.system_digital_twin.http.test_state import Twin
from tests.unit.system_digital_twin.metrics_bench import sample
from tests.unit.system_digital_twin.twin import OPERATOR, SDT, UMRA, Clock
from tests.waiting import PATIENCE_S, wait_until
from twinhost.agent.host_metrics import HostSample
from twinhost.agent.host_sampler import SamplerThread
from twinhost.agent.live_config import LiveConfig
from twinhost.agent.telemetry import AgentState
from twinhost.agent.troubles import AttentionItem
from twinhost.certificates.layout import Layout, plan_layout
from twinhost.certificates.revoke import replace_revoked, revoke
from twinhost.moments import iso_time
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DEFAULT_PATH
from twinhost.network_config.model import Host
from twinhost.secure_zmq.key_writer import replace_certificate
from twinhost.secure_zmq.keys import DAY_S, Certificate, Validity, load_certificate
from twinhost.secure_zmq.peers import Outcome
from twinhost.secure_zmq.silence import Silence
from twinhost.store.replication.looks import AgentLog, Difference, Follower, LogState
from twinhost.system_digital_twin.state_files import AUDIT_FOLDER

HOUR_S, MB = 3_600.0, 2**20
DISK_BYTES, RESERVE_BYTES = 98 * 2**30, 256 * MB
BEAT_S = 5  # between two heartbeats, and two samples
SILENT_S = 20  # longer than a registration's TTL
PC2_ADDRESS, STRANGER = "192.0.2.2", "203.0.113.9"
PC2 = {"agent_id": UMRA.name, "agent_type": "memory", "host": "pc2", "port": 7230}
CERTS_INIT = "docker compose run --rm certs-init"


class Deployment:
    """mainpc's agent without a socket, and pc2's as mainpc sees it: `report` and `figures` are what that one says."""

    def __init__(self, twin: Twin, clock: Clock, home: Path) -> None:
        """Begin with both hosts well."""
        self.twin, self.clock, self.home = twin, clock, home
        self.free_bytes = DISK_BYTES // 2
        self.pc2_answers = True
        self.report: dict[str, Any] = {}
        self.figures: dict[str, Any] = {}
        self.ram_used_mb = 300.0  # of mainpc
        self.events: Callable[[], None] = lambda: None  # that happen every second
        twin.disk._usage = lambda _: (DISK_BYTES, DISK_BYTES - self.free_bytes, self.free_bytes)
        (sampler,) = twin.assembly.companions
        assert isinstance(sampler, SamplerThread)
        self._sampler = sampler
        self._heard: dict[str, Any] = {}  # in the last reply to pc2
        twin.call("register_agent", UMRA, registration_data=PC2)
        self.hear_pc2()
        self.pass_seconds(BEAT_S)

    @classmethod
    def environment(cls, home: Path) -> dict[str, str]:
        """Return the environment of mainpc's agent, whose keys and state are made below `home`."""
        return environment_of(home, "mainpc")

    @property
    def now(self) -> float:
        return self.clock.time()

    @property
    def fingerprint(self) -> str:
        """The fingerprint of pc2's key."""
        return load_certificate(self.home / "certificates/pc2/client.key").public.fingerprint

    def items(self) -> list[AttentionItem]:
        """Return the items of the list."""
        items: list[AttentionItem] = self.twin.call("get_attention", OPERATOR)["items"]
        return items

    def ids(self) -> list[str]:
        return [item["id"] for item in self.items()]

    def hear_pc2(self) -> None:
        """Have pc2 send what it sends every few seconds; it follows the list of keys, and the audit log."""
        clock = {"ahead_s": 0.0, "within_s": 0.01}
        head = self._heard.get("audit_head")
        seen = {"audit_seen": head} if head and head["seq"] else {}
        said = {"trust_revision": self._heard.get("trust_revision"), "clock": clock, **seen, **self.report}
        self._heard = self.twin.call("heartbeat", UMRA, agent_name=UMRA.name, status="HEALTHY", **said)
        if self.twin.disk.fault() is None:  # else mainpc refuses it
            self.twin.measured(UMRA, **{"cpu_percent": 1, "latency_ms": 1, **self.figures})

    def pass_seconds(self, seconds: int) -> None:
        """Let time pass in which mainpc measures itself, and pc2 is heard if it answers."""
        for second in range(seconds):
            if second % BEAT_S == 0:
                self.beat()
            self.turn()

    def beat(self) -> None:
        """Have mainpc measure itself, and pc2 send its heartbeat if it answers."""
        self._sampler._take(self.measure())  # its thread does not run
        self._sampler._taken_at = self.clock.monotonic()
        if self.pc2_answers:
            self.hear_pc2()

    def measure(self) -> HostSample:
        """Return what mainpc measures of itself."""
        return sample(ram_used_mb=self.ram_used_mb)

    def turn(self, seconds: float = 1.0) -> None:
        """Let time pass, and have the agent do what it does between requests."""
        self.events()
        self.clock.let_pass(seconds)
        self.twin.disk.look(RESERVE_BYTES)
        handshakes, peers = self.twin.handshakes.counts(), self.twin.keys.peers.all()
        self.twin.telemetry.gather(
            AgentState(secure=True, uptime_s=1, store_bytes=1, loop_lag_s=0, handshakes=handshakes, peers=peers)
        )
        self.twin.turn()

    def silence_pc2(self, seconds: int = SILENT_S) -> None:
        """Let time pass in which pc2 says nothing."""
        self.pc2_answers = False
        self.pass_seconds(seconds)

    def refuse(self, outcome: Outcome, address: str, **fields: str) -> None:
        self.twin.handshakes.refused(outcome, address=address, **fields)

    def recover(self) -> None:
        """Have both hosts well again, and pc2 connect with the key that it has."""
        self.free_bytes = DISK_BYTES // 2
        self.report, self.figures, self.events = {}, {}, lambda: None
        self.twin.handshakes.accepted(UMRA.name, self.fingerprint, PC2_ADDRESS)
        self.twin.handshakes.record()
        self.pc2_answers = True


def stage_log(
    live: LiveConfig,
    log: SeenLog,
    copies: int = 2,
    silent: Collection[str] = (),
    behind: int = 0,
    fault: str = "",
    differences: Mapping[Difference, str] = MappingProxyType({}),
) -> None:
    """Have both agents a standby, and mainpc see the copies, who is silent, how its own differs, and the witness."""
    config, agents, seen = live.current, {}, {}
    for number, agent in enumerate(config.agents.values()):
        home, other = agent.host.name, next(name for name in config.hosts if name != agent.host.name)
        agents[agent.name] = replace(agent, standby=Host(other, f"{home}-standby"))
        standby = Follower(f"{home}-standby", behind, 90.0 if agent.name in silent else 0.0)
        if agent.name == SDT.name:
            standby = replace(standby, differences=differences)
        seen[agent.name] = AgentLog(agent.name, 3 + number, home, 4_711, 0.0, (standby,))
    live.current = replace(config, agents=agents)
    log.state, log.witness_fault = LogState(seen, copies, "witness", ("database-pc2",)), fault or None


def _log(
    copies: int = 2,
    silent: Collection[str] = (),
    fault: str = "",
    differences: Mapping[Difference, str] = MappingProxyType({}),
) -> Callable[[Deployment], float]:
    def stage(deployment: Deployment) -> float:
        began = deployment.now
        stage_log(deployment.twin.live, deployment.twin.log, copies, silent, fault=fault, differences=differences)
        deployment.pass_seconds(BEAT_S)
        return began

    return stage


def _log_well(deployment: Deployment) -> None:
    _log()(deployment)


def _disk_full(deployment: Deployment) -> float:
    deployment.free_bytes = 0
    began = deployment.now
    deployment.pass_seconds(BEAT_S)
    return began


def _disk_full_and_silence(deployment: Deployment) -> float:
    began = _disk_full(deployment)
    deployment.silence_pc2()
    return began


def _audit_file(deployment: Deployment) -> Path:
    (path,) = (deployment.home / "state" / AUDIT_FOLDER).glob("audit-*.jsonl")
    return path


def _audit_changed(deployment: Deployment) -> float:
    path = _audit_file(deployment)
    path.write_bytes(path.read_bytes().replace(b'"event":"', b'"event":"x', 1))
    began = deployment.now
    deployment.pass_seconds(BEAT_S + 1)  # the files' stamps are compared as often; a thread reads them

    def is_found() -> bool:
        deployment.turn(0.0)
        return "audit_tampered:mainpc" in deployment.ids()

    wait_until(is_found, PATIENCE_S, "the log is inspected")
    return began


def _audit_put_back(deployment: Deployment) -> None:
    path = _audit_file(deployment)
    path.write_bytes(path.read_bytes().replace(b'"event":"x', b'"event":"', 1))
    deployment.twin.call("acknowledge_trouble", OPERATOR, id="audit_tampered:mainpc")  # else it stays


def _restored(deployment: Deployment) -> float:
    moment = iso_time(deployment.now)
    warning = {"name": "audit_restored", "what": "mainpc's audit log was restored, and lacks lines that were seen"}
    deployment.report = {"audit_restored": {"seq": 4, "time": moment, "seen_to": 19}, "conditions": [warning]}
    began = deployment.now
    deployment.pass_seconds(BEAT_S + 1)
    return began


def _clock_set(by_s: float) -> Callable[[Deployment], float]:
    def stage(deployment: Deployment) -> float:
        deployment.report = {"clock": {"ahead_s": by_s, "within_s": 0.01, "set_by_s": by_s}}
        began = deployment.now
        deployment.pass_seconds(BEAT_S + 1)
        if by_s < 0:  # it refuses mainpc's key, and so its answers, as not valid yet
            deployment.silence_pc2()
        return began

    return stage


def _card_worn(deployment: Deployment) -> float:
    gpu = {"index": 0, "name": "H100", "used_mb": 81_838, "total_mb": 81_920, "temperature_c": 91}
    deployment.figures = {"gpus": [gpu], "vram_used_mb": 81_838, "vram_total_mb": 81_920}
    began = deployment.now
    deployment.pass_seconds(BEAT_S)
    return began


def _errors(deployment: Deployment) -> float:
    began = deployment.now
    reported = [("critical", "disk_lost", 1), ("error", "camera_lost", 60), ("error", "slow_answer", 39)]
    for severity, kind, count in reported:  # the critical one first, so that the newest hides it
        for number in range(count):
            error = {"error_id": f"{kind}{number}", "agent_id": UMRA.name, "severity": severity, "error_type": kind}
            deployment.twin.call("report_error", UMRA, error={**error, "message": f"{kind} {number}"})
    deployment.pass_seconds(2 * BEAT_S)
    return began


def _errors_acknowledged(deployment: Deployment) -> None:
    for group in deployment.twin.call("get_error_counts", OPERATOR)["groups"]:
        deployment.twin.call("acknowledge_errors", OPERATOR, shape_id=group["shape_id"])


def _brute_force(deployment: Deployment) -> float:
    began = deployment.now
    for number in range(250):
        deployment.refuse(Outcome.KEY_NOT_AUTHORIZED, STRANGER, fingerprint=f"SHA256:{number:043}")
    deployment.pass_seconds(BEAT_S)
    return began


def _key_expired(deployment: Deployment) -> float:
    began = int(deployment.now - HOUR_S)
    for path in (deployment.home / "certificates").glob("*/client.key"):
        known = load_certificate(path)
        validity = Validity(int(began - 365 * DAY_S), began)
        replace_certificate(Certificate(known.owner, known.public, validity), path)
    deployment.twin.keys.peers.reload()
    deployment.events = lambda: deployment.refuse(Outcome.KEY_EXPIRED, PC2_ADDRESS, fingerprint=deployment.fingerprint)
    deployment.silence_pc2()
    return began


def _key_revoked(deployment: Deployment) -> float:
    fingerprint, began = deployment.fingerprint, deployment.now
    _revoke(deployment)
    deployment.events = lambda: deployment.refuse(Outcome.KEY_REVOKED, PC2_ADDRESS, fingerprint=fingerprint)
    deployment.silence_pc2()
    return began


def _revoke(deployment: Deployment) -> None:
    revoke(_layout(deployment), UMRA.name)
    deployment.twin.keys.peers.reload()


def _replace(deployment: Deployment) -> None:
    replace_revoked(_layout(deployment), UMRA.name)
    deployment.twin.keys.peers.reload()
    deployment.recover()


def _layout(deployment: Deployment) -> Layout:
    return plan_layout(deployment.home / "certificates", load_network_config(DEFAULT_PATH, {}), None)


def _link_open(deployment: Deployment) -> float:
    deployment.twin.handshakes.accepted(UMRA.name, deployment.fingerprint, PC2_ADDRESS)
    deployment.twin.handshakes.record()
    began = deployment.now
    deployment.events = lambda: deployment.refuse(Outcome.MECHANISM_MISMATCH, PC2_ADDRESS)
    deployment.silence_pc2()
    return began


def _connections_show(silence: Silence | None) -> Callable[[Deployment], float]:
    """Return a staging in which pc2 falls silent, and this is what its connections show."""

    def stage(deployment: Deployment) -> float:
        deployment.hear_pc2()
        began = deployment.now
        if silence is not None:
            deployment.twin.keys.peers.silences = lambda _: {UMRA.name: silence}
        deployment.silence_pc2()
        return began

    return stage


_link_cut = _connections_show(Silence.CUT)


def _agents_killed(*names: str) -> Callable[[Deployment], float]:
    def stage(deployment: Deployment) -> float:
        _start(deployment, names)
        began = deployment.now
        deployment.pass_seconds(SILENT_S)
        return began

    return stage


def _unregistered(*names: str) -> Callable[[Deployment], None]:
    def mend(deployment: Deployment) -> None:
        for name in names:
            deployment.twin.call("unregister", OPERATOR, agent_name=name)

    return mend


def _and(*mends: Callable[[Deployment], None]) -> Callable[[Deployment], None]:
    def mend(deployment: Deployment) -> None:
        for one in mends:
            one(deployment)

    return mend


def _with_agent(stage: Callable[[Deployment], float]) -> Callable[[Deployment], float]:
    """Return a staging in which an agent on pc2 falls silent together with it."""

    def staged(deployment: Deployment) -> float:
        _start(deployment, ["planner"])
        return stage(deployment)

    return staged


def _start(deployment: Deployment, names: Sequence[str]) -> None:
    for name in names:
        deployment.twin.call("register_agent", OPERATOR, agent_name=name, status="HEALTHY", location="pc2")
    deployment.pass_seconds(1)
    for name in names:
        deployment.twin.call("heartbeat", OPERATOR, agent_name=name)


@dataclass(frozen=True)
class Staging:
    """A trouble, how it is staged, and what must be said of it.

    `stage` returns since when it is there, and `mend` ends it; `what` and `cause` are regular expressions; `hides` are
    the consequences, which must be no items of their own; `beside` are further items of the same staging.
    """

    name: str
    stage: Callable[[Deployment], float]
    id: str
    level: str
    what: str
    cause: str
    on: str
    command: str
    hides: tuple[str, ...] = ()
    beside: tuple[str, ...] = ()
    within_s: float = 7.0  # of since; more where a TTL decides
    mend: Callable[[Deployment], None] = Deployment.recover

    @property
    def status(self) -> int:
        """The exit status of `status`."""
        return {"attention": 1, "broken": 2}[self.level]

    def require_what(self, sentence: str) -> None:
        """Fail if a sentence does not say what is wrong."""
        assert re.search(self.what, sentence), sentence

    def require_cause(self, sentence: str) -> None:
        """Fail if a sentence does not say why."""
        assert re.search(self.cause, sentence), sentence


_SILENT = "host_silent:pc2"
_UP = "docker compose up -d pc2"
_REVOKED_REFUSALS = f"refusals:mainpc/key_revoked/{UMRA.name}"
_DISK = (
    *("disk_full:mainpc", "broken", "^mainpc's disk is full: 0 MB of 98.0 GB free", "nothing can be written"),
    *("mainpc", "docker system df"),
)
_NOT_RESPONDING = (_SILENT, "broken", "^pc2 does not respond")
_CUT = (
    *(*_NOT_RESPONDING, "its agent sends no heartbeats: nothing answers on its connections, so the link is cut"),
    *("pc2", "docker compose ps -a pc2"),
)
_REVOKED = (
    *(f"key_revoked:{UMRA.name}", "broken", f"^the key of {UMRA.name} on pc2 is revoked, and it has no other"),
    *("an operator revoked it", "mainpc", f"{CERTS_INIT} replace {UMRA.name}"),
)
_MANY = tuple(f"agent-{number:03}" for number in range(298))

FOURTEEN = (
    Staging("the disk of mainpc is full", _disk_full, *_DISK),
    Staging(
        "a line of the audit log was changed",
        _audit_changed,
        *("audit_tampered:mainpc", "broken", "^mainpc's audit log was changed: ", "from line 1 on"),
        *("mainpc", "./twinhost audit verify"),
        within_s=BEAT_S + PATIENCE_S,
        mend=_audit_put_back,
    ),
    Staging(
        "the state of mainpc was restored",
        _restored,
        *("restored:mainpc", "attention", "^mainpc's state was replaced by a backup, .* lines 4 to 19"),
        *("archive restore", "mainpc", "./twinhost audit verify"),
        hides=("warning:pc2/audit_restored",),
    ),
    Staging(
        "the clock of pc2 was set forward",
        _clock_set(2 * HOUR_S),
        *("clocks_differ:pc2", "attention", "^pc2's clock is 2 h ahead of mainpc's", "set forward by 2 h"),
        *("pc2", "sudo timedatectl set-ntp true"),
    ),
    Staging(
        "the clock of pc2 was set back",
        _clock_set(-2 * HOUR_S),
        *("clocks_differ:pc2", "broken", "^pc2's clock is 2 h behind mainpc's", "set back by 2 h .* refuses the keys"),
        *("pc2", "sudo timedatectl set-ntp true"),
        hides=(_SILENT,),
    ),
    Staging(
        "a card is full and hot",
        _card_worn,
        *(
            "vram_full:pc2/gpu0",
            "attention",
            "^pc2's VRAM is full: 99.9 % of 80.0 GB on GPU 0",
            "no more of a card is leased",
        ),
        *("pc2", "nvidia-smi"),
        beside=("gpu_hot:pc2/gpu0",),
    ),
    Staging(
        "errors of several shapes",
        _errors,
        *("errors", "broken", f"^100 errors of 3 shapes, the worst: critical disk_lost from {UMRA.name}, once"),
        *("disk_lost 0", "mainpc", "./twinhost errors"),
        mend=_errors_acknowledged,
    ),
    Staging(
        "brute force",
        _brute_force,
        *(
            "refusals:mainpc",
            "attention",
            f"^mainpc refused 250 connections from {STRANGER}: the key is not authorised",
        ),
        *(f"a minute from {STRANGER}", "mainpc", "./twinhost audit tail -n 100"),
        mend=lambda deployment: deployment.turn(DAY_S + HOUR_S),
    ),
    Staging(
        "the key of pc2 has expired",
        _key_expired,
        *(f"key_expired:{UMRA.name}", "broken", f"^the key of {UMRA.name} on pc2 expired .* and is refused"),
        *("not rotated before it expired", "mainpc", f"{CERTS_INIT} replace {UMRA.name}"),
        hides=(f"refusals:mainpc/key_expired/{UMRA.name}", _SILENT),
        mend=_and(_revoke, _replace),
    ),
    Staging(
        "SECURE_ZMQ=0 on pc2",
        _link_open,
        *("link_open:pc2", "broken", r"^pc2 has an open link \(SECURE_ZMQ=0\), and mainpc an encrypted one"),
        *("SECURE_ZMQ=0 in .env on pc2", "pc2", _UP),
        hides=(_SILENT, "refusals:mainpc/unencrypted"),
        within_s=SILENT_S + 1,
    ),
    Staging("the key of pc2 is revoked", _key_revoked, *_REVOKED, hides=(_REVOKED_REFUSALS, _SILENT), mend=_replace),
    Staging("the link is cut", _link_cut, *_CUT),
    Staging(
        "an agent was killed",
        _agents_killed("planner"),
        *("agents_silent:pc2", "attention", "^planner on pc2 does not respond", "it sends no heartbeats"),
        *("mainpc", "./twinhost agents unregister planner"),
        mend=_unregistered("planner"),
    ),
    Staging(
        "many agents are silent",
        _agents_killed(*_MANY),
        *(
            "agents_silent:pc2",
            "attention",
            "^agent-000, .* and 295 more on pc2 do not respond",
            "they send no heartbeats",
        ),
        *("mainpc", "./twinhost agents unregister --silent-on pc2"),
        mend=_unregistered(*_MANY),
    ),
)
PAIRS = (
    Staging(
        "a full disk and the silence that it causes",
        _disk_full_and_silence,
        *_DISK,
        hides=(_SILENT,),
    ),
    Staging(
        "a silent host and its silent agents",
        _with_agent(_link_cut),
        *_CUT,
        hides=("agents_silent:pc2",),
        mend=_and(Deployment.recover, _unregistered("planner")),
    ),
    Staging(
        "a revoked key, its host, and the agents there",
        _with_agent(_key_revoked),
        *_REVOKED,
        hides=(_REVOKED_REFUSALS, _SILENT, "agents_silent:pc2"),
        mend=_and(_replace, _unregistered("planner")),
    ),
)
OTHER_SILENCES = (  # besides that of a cut link: each has a cause of its own
    Staging(
        "the agent of pc2 was killed",
        _connections_show(Silence.ENDED),
        *(*_NOT_RESPONDING, "no heartbeats: its connections were closed, so it or its container ended", "pc2", _UP),
    ),
    Staging(
        "the agent of pc2 is paused",
        _connections_show(Silence.FROZEN),
        *(*_NOT_RESPONDING, "no heartbeats: its machine still acknowledges .* paused, or hang"),
        *("pc2", "docker compose unpause pc2"),
    ),
    Staging(
        "pc2 is silent, and its connections do not show why",
        _connections_show(None),
        *(*_NOT_RESPONDING, r"its agent sends no heartbeats\.?$", "pc2", _UP),
    ),
)
_FOLLOWS_NOT = f"^no standby of {SDT.name} follows, so nothing takes over from mainpc"
OF_THE_LOG = (
    Staging(
        "one database has what is committed",
        _log(copies=1),
        *("one_copy", "attention", "^the log has one copy", "database-pc2 is away", "pc2"),
        "docker compose up -d database-pc2",
        mend=_log_well,
    ),
    Staging(
        "no standby follows",
        _log(silent=(SDT.name,)),
        *(f"standby_silent:{SDT.name}", "attention", _FOLLOWS_NOT, "mainpc-standby has said nothing for 90 s", "pc2"),
        "docker compose up -d mainpc-standby",
        mend=_log_well,
    ),
    Staging(
        "a machine is off: its database, and its standby",
        _log(copies=1, silent=(SDT.name,)),
        *("one_copy", "attention", "^the log has one copy", "nothing on pc2 follows: it may be off", "pc2"),
        "docker compose up -d database-pc2",
        hides=(f"standby_silent:{SDT.name}",),
        mend=_log_well,
    ),
    Staging(
        "the secret of a standby is another one",
        _log(
            differences={
                Difference.SECRET: f"the secret in /certificates is SHA256:old, and the key of {SDT.name} is SHA256:new"
            }
        ),
        *(f"standby_differs:{SDT.name}", "attention", "^mainpc-standby can't take over from mainpc: its secret of"),
        *("the secret in /certificates is", "mainpc", CERTS_INIT),
        mend=_log_well,
    ),
    Staging(
        "the witness is silent",
        _log(fault="Connection refused"),
        *("witness_silent", "attention", "^the witness of the databases does not answer mainpc", "Connection refused"),
        *("witness", "docker compose up -d witness"),
        mend=_log_well,
    ),
)
STAGINGS = (*FOURTEEN, *PAIRS, *OTHER_SILENCES, *OF_THE_LOG)
