"""The whole list against every configured agent; after each attack a good client must still be served in time."""

import time
from collections.abc import Iterator, Sequence

from twinhost.adversary import (
    bad_json,
    damaged,
    feed,
    impostor,
    insiders,
    noise,
    other_sites,
    out_of_reach,
    recorded,
    sizes,
    strangers,
)
from twinhost.adversary.attack import Attack, Outcome, broken, not_played
from twinhost.adversary.boxes import NoLibsodium
from twinhost.adversary.clients import Refused
from twinhost.adversary.target import GOOD_CALL_S, Target
from twinhost.adversary.zmtp import HungUp, Silent
from twinhost.cli.connect import Settings
from twinhost.cli.findings import Finding, Verdict
from twinhost.secure_zmq.errors import TwinhostError

ATTACKS: Sequence[Attack] = (
    *strangers.ATTACKS,
    *impostor.ATTACKS,
    *insiders.ATTACKS,
    *recorded.ATTACKS,
    *damaged.ATTACKS,
    *noise.ATTACKS,
    *sizes.ATTACKS,
    *bad_json.ATTACKS,
    *other_sites.ATTACKS,
    *out_of_reach.ATTACKS,
)
GOOD_CLIENT = "a good client"
_PROVES_SERVED = "whoever should be served is, before anything is tried"


def play_all(settings: Settings) -> Iterator[Finding]:
    """Return the findings one by one, as the attacks end: agent by agent, one attack at a time."""
    for agent in settings.config.agents.values():
        attacks = ATTACKS if agent.events_port is None else (*ATTACKS, *feed.ATTACKS)
        yield from play_against(Target(settings, agent), attacks)


def play_against(target: Target, attacks: Sequence[Attack]) -> Iterator[Finding]:
    """Play against one agent."""
    name = target.agent.name
    try:
        took_s = target.good_call_s()
    except TwinhostError as error:
        sentence = f"it is not served, so no attack would prove anything: {error}; run: cli doctor"
        yield Finding(GOOD_CLIENT, name, Verdict.FAILED, sentence, _PROVES_SERVED)
        reason = "a good client is not served to begin with"
        yield from (Finding(each.name, name, Verdict.NOT_PLAYED, reason, each.proves) for each in attacks)
        return
    yield Finding(GOOD_CLIENT, name, Verdict.OK, f"answered after {took_s:.2f} s", _PROVES_SERVED, took_s)
    for attack in attacks:
        started = time.monotonic()
        outcome = _play(attack, target)
        if outcome.verdict is not Verdict.NOT_PLAYED:
            outcome = _still_serving(target, outcome)
        yield Finding(attack.name, name, outcome.verdict, outcome.sentence, attack.proves, time.monotonic() - started)


def _play(attack: Attack, target: Target) -> Outcome:
    try:
        return attack.play(target)
    except NoLibsodium as error:
        return not_played(str(error))
    except (HungUp, Silent, Refused) as end:
        return broken(f"the agent ended what had to be good: {end}")
    except (TwinhostError, OSError) as error:
        return broken(f"it could not be played to its end: {error}")


def _still_serving(target: Target, outcome: Outcome) -> Outcome:
    try:
        took_s = target.good_call_s()
    except TwinhostError as error:
        return broken(f"{outcome.sentence}; and then a good client was not served within {GOOD_CALL_S:g} s: {error}")
    if took_s > GOOD_CALL_S:
        return broken(f"{outcome.sentence}; and then a good client waited {took_s:.1f} s")
    return outcome
