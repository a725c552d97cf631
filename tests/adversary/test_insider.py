"""A member plays what it is granted against both agents, as `doctor --insider` does, and harms nobody but itself.

Each attack is played alone, and then all of them at once. A polite agent works with both meanwhile, and keeps a ledger
of what was acknowledged.
"""

import statistics
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from types import TracebackType

import psutil
import pytest

from tests.ledger import Ledger, check
from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.waiting import PATIENCE_S, wait_until
from twinhost.adversary.attack import Attack, Finding, Verdict
from twinhost.adversary.campaign import play_against
from twinhost.adversary.clients import Refused
from twinhost.adversary.flood import Beside
from twinhost.adversary.members import ATTACKS, INSIDER_ROLE, AttackedByMember, judged, tidied_up
from twinhost.adversary.zmtp import Disconnected, NoAnswer
from twinhost.network_config import load_network_config
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotFound, TwinhostError, UnknownAction
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, PublicKey
from twinhost.secure_zmq.server_address import SecuredAddress

NEEDS_ANOTHER_AGENT = "it needs an action of"
MOST_GROWTH_MB = 64.0  # of an agent's process, whatever one key does
GIVEN_BACK_MB, GIVEN_BACK_S = 32.0, 60.0
P99_LIMIT_S = 0.5  # of the polite agent: far above what is measured, since other programs share the machine
_EVERY_S = 0.1
_LOOK_S = 0.05
_WRITES: dict[str, Callable[[Client, str], object]] = {
    SDT: lambda client, call: client.call("publish_event", event={"event_id": call, "event_type": "POLITE"}),
    UMRA: lambda client, call: client.call("store_memory", memory_id=call, content=f"what {call} says"),
}


def _seen_events(client: Client, _: Iterable[str]) -> Counter[str]:
    seen: Counter[str] = Counter()
    before = None
    while events := client.call("get_events", type="POLITE", limit=1_000, before=before)["events"]:
        seen.update(event["event_id"] for event in events)
        before = events[-1]["seq"]
    return seen


def _seen_memories(client: Client, calls: Iterable[str]) -> Counter[str]:
    seen: Counter[str] = Counter()
    for call in calls:
        with suppress(NotFound):
            seen[client.call("get_memory", memory_id=call)["memory"]["id"]] += 1
    return seen


_SEEN = {SDT: _seen_events, UMRA: _seen_memories}


class PoliteAgent:
    """Writes to one agent now and then, and keeps a ledger and the duration of every call."""

    def __init__(self, name: str, connect: Callable[[], Client], ledger: Path) -> None:
        self._name, self._connect, self._path = name, connect, ledger
        self._ledger = Ledger(ledger)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)
        self.calls: list[str] = []
        self.took_s: list[float] = []
        self.failures: list[str] = []

    def __enter__(self) -> "PoliteAgent":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join(PATIENCE_S)
        self._ledger.close()

    @property
    def p99_s(self) -> float:
        return statistics.quantiles(self.took_s, n=100, method="inclusive")[98]

    def is_whole(self) -> bool:
        """Return whether each acknowledged call is there exactly once."""
        with self._connect() as client:
            seen = _SEEN[self._name](client, self.calls)
        verdict = check(self._path, seen)
        return verdict.whole and verdict.acknowledged == len(self.calls) - len(self.failures)

    def _work(self) -> None:
        with self._connect() as client:
            while not self._ended.wait(_EVERY_S):
                call = f"polite-{len(self.calls)}"
                self.calls.append(call)
                self._ledger.sent(call)
                began = time.monotonic()
                try:
                    _WRITES[self._name](client, call)
                except Exception as error:  # noqa: BLE001 - whatever it is, the promise is broken
                    self.failures.append(f"{call}: {error!r}")
                else:
                    self._ledger.acknowledged(call)
                self.took_s.append(time.monotonic() - began)


@dataclass(frozen=True)
class Campaign:
    """What was seen of both agents under the attacks of one member."""

    findings: list[Finding]
    polite: dict[str, PoliteAgent]
    whole: dict[str, bool]
    growth_mb: dict[str, float]
    kept_mb: dict[str, float]  # of the growth, once the member is silent
    disk_mb: dict[str, float]  # by how much the folder of the agent's state grew, at most
    at_once: Counter[str]  # how the attacks ended that were played together


def _measured(connect: Callable[[], Client]) -> bool:
    with connect() as client, suppress(UnknownAction):
        return any(not host["stale"] for host in client.call("get_metrics")["metrics"]["hosts"].values())
    return True


class _Peak:
    """The most memory and disk that an agent uses, in MB beyond what it had at first."""

    def __init__(self, pid: int, state: Path) -> None:
        self._process, self._state = psutil.Process(pid), state
        self._first_mb, self._first_disk_mb = self.now_mb, self._disk_mb()
        self.growth_mb = self.disk_mb = 0.0
        threading.Thread(target=self._look, daemon=True).start()

    @property
    def now_mb(self) -> float:
        return float(self._process.memory_info().rss) / 1e6

    def kept_mb(self) -> float:
        return self.now_mb - self._first_mb

    def _disk_mb(self) -> float:
        size = 0
        for path in self._state.rglob("*"):
            with suppress(FileNotFoundError):
                size += path.stat().st_blocks * 512
        return size / 1e6

    def _look(self) -> None:
        with suppress(psutil.Error):
            while True:
                self.growth_mb = max(self.growth_mb, self.kept_mb())
                self.disk_mb = max(self.disk_mb, self._disk_mb() - self._first_disk_mb)
                time.sleep(_LOOK_S)


def _play_at_once(targets: list[AttackedByMember]) -> Counter[str]:
    """Play everything against both agents together, and return how each attack ended.

    They are in each other's way, since they have one budget; what counts is how the polite agent fares meanwhile.
    """

    def play(target: AttackedByMember, attack: Attack) -> str:
        try:
            outcome = attack.play(target)
        except (TwinhostError, Disconnected, NoAnswer, Refused, OSError) as error:
            return type(error).__name__
        return outcome.verdict

    with ThreadPoolExecutor(len(targets) * len(ATTACKS)) as pool:
        return Counter(pool.map(play, *zip(*product(targets, ATTACKS), strict=True)))


@pytest.fixture(scope="module")
def campaign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Campaign]:
    root = tmp_path_factory.mktemp("insider")
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(root))
        insider = KeyPair.generate(KeyOwner("insider-1", "pc2", frozenset({"agent", INSIDER_ROLE})))
        neighbour = KeyPair.generate(KeyOwner("neighbour", "mainpc", frozenset({"operator"})))
        polite_key = KeyPair.generate(KeyOwner("polite", "mainpc", frozenset({"agent"})))
        for pair in (insider, neighbour, polite_key):
            for folder in ("mainpc/enrolled", "pc2"):
                place = root / "certificates" / folder
                place.mkdir(exist_ok=True)
                (place / f"{pair.certificate.owner.name}.key").write_text(render_certificate(pair.certificate))
        config = load_network_config(Path(hosts.environment(SDT)["NETWORK_CONFIG_PATH"]))
        targets, polite, peaks = [], {}, {}
        for name in (SDT, UMRA):
            process = hosts.start(name).wait_until_serving()
            server = hosts.address(name)
            assert isinstance(server, SecuredAddress)
            pins = partial(list[PublicKey], [server.server_key])
            as_neighbour = partial(Client, SecuredAddress(server.address, neighbour, server.server_key))
            as_polite = partial(Client, SecuredAddress(server.address, polite_key, server.server_key))
            targets.append(AttackedByMember(config.agent(name), config, insider, pins, as_neighbour, "neighbour"))
            wait_until(partial(_measured, as_neighbour), PATIENCE_S, "the machine is measured")
            polite[name] = stack.enter_context(PoliteAgent(name, as_polite, root / f"{name}.jsonl"))
            peaks[name] = _Peak(process.pid, hosts.database(name).parent)
        with tidied_up(targets):
            findings = [finding for target in targets for finding in play_against(target, ATTACKS)]
            at_once = _play_at_once(targets)
        growth = {name: peak.growth_mb for name, peak in peaks.items()}
        with suppress(TimeoutError, AssertionError):
            wait_until(
                lambda: all(peak.kept_mb() < GIVEN_BACK_MB for peak in peaks.values()), GIVEN_BACK_S, "it is given back"
            )
        kept = {name: peak.kept_mb() for name, peak in peaks.items()}
        for agent in polite.values():
            agent.__exit__(None, None, None)
        whole = {name: agent.is_whole() for name, agent in polite.items()}
        disk = {name: peak.disk_mb for name, peak in peaks.items()}
        yield Campaign(findings, polite, whole, growth, kept, disk, at_once)


def test_every_attack_is_played_against_some_agent(campaign: Campaign) -> None:
    """What is not played needs an action that the other agent has."""
    rest = [finding for finding in campaign.findings if finding.verdict is Verdict.NOT_PLAYED]
    assert all(NEEDS_ANOTHER_AGENT in finding.sentence for finding in rest), rest
    played = {finding.check for finding in campaign.findings if finding.verdict is not Verdict.NOT_PLAYED}
    assert played >= {attack.name for attack in ATTACKS}


def test_attacks_get_somewhere_together(campaign: Campaign) -> None:
    """None for lack of a right to call; many run to their end, also where others use up the budget."""
    print(dict(campaign.at_once))
    assert not campaign.at_once.keys() & {"NotAuthorized", "NotGranted", "ServerUnreachable"}
    assert campaign.at_once[Verdict.OK] + campaign.at_once[Verdict.FAILED] > len(ATTACKS) // 2


def test_no_attack_harms_anybody_else(campaign: Campaign) -> None:
    for finding in campaign.findings:
        print(f"{finding.where}, {finding.check}: {finding.verdict}: {finding.sentence}")
    failed = [finding for finding in campaign.findings if finding.verdict is Verdict.FAILED]
    assert not failed, failed


def beside(p99_ms: float, **answered: int) -> Beside:
    """What a neighbour saw that has 5 ms in quiet."""
    return Beside([5.0] * 100, [1.0] * 98 + [p99_ms] * 2, answered)


def test_a_neighbour_that_a_flood_delays_too_long_is_harmed() -> None:
    """By the goal, on the machine that it runs on: by how much more than without the flood; both are said."""
    assert judged(beside(29.0, ok=9)).verdict is Verdict.OK
    late = judged(beside(31.0, ok=9, over_budget=1))
    assert late.verdict is Verdict.FAILED
    assert "p99 is 31 ms, and 5 ms without the flood" in late.sentence
    assert judged(beside(5.0, not_granted=9)).verdict is Verdict.NOT_PLAYED


@pytest.mark.parametrize("name", [SDT, UMRA])
def test_a_polite_agent_loses_nothing_beside_it(campaign: Campaign, name: str) -> None:
    polite = campaign.polite[name]
    print(f"{name}: {len(polite.calls)} calls, p99 {1_000 * polite.p99_s:.0f} ms")
    assert not polite.failures, polite.failures[:3]
    assert campaign.whole[name]
    assert polite.p99_s < P99_LIMIT_S


@pytest.mark.parametrize("name", [SDT, UMRA])
def test_memory_is_bounded_and_given_back(campaign: Campaign, name: str) -> None:
    print(f"{name}: {campaign.growth_mb[name]:.0f} MB more at most, {campaign.kept_mb[name]:.0f} MB afterwards")
    print(f"{name}: {campaign.disk_mb[name]:.0f} MB more on disk at most")  # its bound is that of each attack
    assert campaign.growth_mb[name] < MOST_GROWTH_MB
    assert campaign.kept_mb[name] < GIVEN_BACK_MB
