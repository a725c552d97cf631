"""The adversary: a process of the lowest priority, so that its own share of the machine is not taken for its effect."""

import logging
import multiprocessing
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection

import structlog

from tests.adversary import floods, from_inside
from tests.adversary.from_inside import Inside
from tests.loopback.agent_processes import SDT
from twinhost.adversary.attack import Attack, AttackedAgent, AttackOutcome, Verdict, breached
from twinhost.adversary.campaign import ATTACKS, FEED_ATTACKS, NOT_FROM_OUTSIDE
from twinhost.adversary.clients import Refused
from twinhost.adversary.zmtp import Disconnected, NoAnswer
from twinhost.cli.doctor.command import target_of
from twinhost.deployment import load_settings
from twinhost.secure_zmq.errors import TwinhostError

LOWEST_PRIORITY = 19
PLAYS_PER_S = 500  # at most, of a short attack; faster, on a machine that all share, is a measurement of the machine
_ENDS_WITHIN_S = 90.0  # the longest attack takes some 15 s on an idle machine


@dataclass(frozen=True, slots=True)
class Played:
    """An attack that was played, again and again, for as long as was asked for."""

    name: str
    began: float
    ended: float
    times: int
    refused: bool
    sentence: str


def all_attacks(inside: Inside) -> tuple[Attack, ...]:
    """Return what is played from outside, at the feed too, what takes a hand in mainpc's files, and the floods."""
    outside = [attack for attack in ATTACKS if attack not in NOT_FROM_OUTSIDE]
    return (*outside, *FEED_ATTACKS, *from_inside.attacks(inside), *floods.ATTACKS)


class Attacker:
    """The adversary's process, as the one that measures sees it; it ends with the block."""

    def __init__(self, environment: Mapping[str, str], inside: Inside) -> None:
        """Start it, with the key of an agent at hand, and play nothing yet."""
        self._ours, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self._process = context.Process(target=_work, args=(dict(environment), inside, theirs), daemon=True)
        self._process.start()
        theirs.close()

    def play(self, name: str, for_s: float) -> Played:
        """Play an attack at least once, and then again until `for_s` seconds have passed."""
        self._ours.send((name, for_s))
        if not self._ours.poll(for_s + _ENDS_WITHIN_S):
            raise TimeoutError(f"the attack {name!r} did not end within {_ENDS_WITHIN_S:g} s")
        played: Played = self._ours.recv()
        return played

    def __enter__(self) -> "Attacker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.join()


def _work(environment: Mapping[str, str], inside: Inside, parent: Connection) -> None:
    os.nice(LOWEST_PRIORITY)
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.CRITICAL))
    settings = load_settings(environment)
    target = target_of(settings, settings.config.agent(SDT))
    by_name = {attack.name: attack for attack in all_attacks(inside)}
    while True:
        name, for_s = parent.recv()
        parent.send(_play(by_name[name], target, for_s))


def _play(attack: Attack, target: AttackedAgent, for_s: float) -> Played:
    began = time.monotonic()
    outcomes: list[AttackOutcome] = []
    while not outcomes or (time.monotonic() < began + for_s and outcomes[-1].verdict is Verdict.OK):
        time.sleep(max(0.0, began + len(outcomes) / PLAYS_PER_S - time.monotonic()))
        outcomes.append(_outcome(attack, target))
    last = outcomes[-1]
    return Played(attack.name, began, time.monotonic(), len(outcomes), last.verdict is Verdict.OK, last.sentence)


def _outcome(attack: Attack, target: AttackedAgent) -> AttackOutcome:
    try:
        return attack.play(target)
    except (Disconnected, NoAnswer, Refused, TwinhostError, OSError) as error:
        return breached(f"it could not be played to its end: {type(error).__name__}: {error}")
