"""All attacks against an agent; after each one a good client must still be served in time."""

import time
from collections.abc import Iterator, Sequence

from twinhost.adversary import feed, insiders, other_sites, payloads, strangers, tampering
from twinhost.adversary.attack import GOOD_CALL_S, Attack, Finding, Outcome, Target, Verdict, breached, not_played
from twinhost.adversary.clients import NoLibsodium, Refused
from twinhost.adversary.zmtp import Disconnected, NoAnswer
from twinhost.secure_zmq.errors import TwinhostError

_NEEDS_OLD_KEY = "it needs the secret of an expired or revoked key, which nobody should keep"
_NEEDS_FILES = "it needs the agent's files; `./twinhost doctor` on that host, and `certs-init verify`, check them"
NOT_FROM_OUTSIDE = (  # listed, so that nobody believes that they were tried
    Attack("revoked key", "a revoked key is refused", lambda _: not_played(_NEEDS_OLD_KEY)),
    Attack("expired key", "an expired key is refused", lambda _: not_played(_NEEDS_OLD_KEY)),
    Attack("malformed key files", "a malformed key file authorises nobody", lambda _: not_played(_NEEDS_FILES)),
    Attack("a store that fails", "a change that was not stored is not confirmed", lambda _: not_played(_NEEDS_FILES)),
)
ATTACKS: Sequence[Attack] = (
    *strangers.ATTACKS,
    *strangers.IMPOSTOR,
    *insiders.ATTACKS,
    *tampering.ATTACKS,
    *tampering.DAMAGED,
    *strangers.NOISE,
    *payloads.ATTACKS,
    *payloads.MALFORMED,
    *other_sites.ATTACKS,
    *NOT_FROM_OUTSIDE,
)
GOOD_CLIENT = "a good client"
_PROVES_SERVED = "an authorised client is served before anything is tried"


def play_all(target: Target) -> Iterator[Finding]:
    """Return the findings as the attacks end, those on the event feed too if the agent has one."""
    return play_against(target, ATTACKS if target.agent.events_port is None else (*ATTACKS, *feed.ATTACKS))


def play_against(target: Target, attacks: Sequence[Attack]) -> Iterator[Finding]:
    """Play some attacks against one agent, one at a time."""
    name = target.agent.name
    try:
        took_s = target.good_call_s()
    except TwinhostError as error:
        sentence = f"it is not served, so no attack would prove anything: {error}; run: ./twinhost doctor"
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
    except (Disconnected, NoAnswer, Refused) as end:
        return breached(f"the agent ended a session that had to be good: {end}")
    except (TwinhostError, OSError) as error:
        return breached(f"the attack could not be finished: {error}")


def _still_serving(target: Target, outcome: Outcome) -> Outcome:
    try:
        took_s = target.good_call_s()
    except TwinhostError as error:
        return breached(f"{outcome.sentence}; but then a good client was not served within {GOOD_CALL_S:g} s: {error}")
    if took_s > GOOD_CALL_S:
        return breached(f"{outcome.sentence}; but then a good client waited {took_s:.1f} s")
    return outcome
