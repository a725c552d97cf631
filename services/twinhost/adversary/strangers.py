"""Those who should never get a session: no key, an unknown key, a wrong pin, and somebody else's public key."""

from twinhost.adversary.attack import OPEN_LINK, Attack, Outcome, broken, held, not_played
from twinhost.adversary.clients import CurveClient, PlainClient, Refused, new_pair, secret_of
from twinhost.adversary.target import Target
from twinhost.adversary.zmtp import HungUp, Silent


def _plain(target: Target) -> Outcome:
    with PlainClient(target.line(), target.properties) as client:
        return _try(client, "a client without a key got a session")


def _unknown_key(target: Target) -> Outcome:
    if target.pin is None:
        return not_played(OPEN_LINK)
    with CurveClient(target.line(), new_pair(), target.pin, target.properties) as client:
        return _try(client, "a key that was made just now got a session; no ZAP handler is asked")


def _wrong_pin(target: Target) -> Outcome:
    if target.own_keys is None:
        return not_played(OPEN_LINK)
    with CurveClient(target.line(), target.own_keys, new_pair().public, target.properties) as client:
        try:
            client.line.greet(client.mechanism)
            client.meet()
        except (HungUp, Silent) as end:
            return held(f"it hung up: {end}")
        except Refused as refusal:
            return broken(f"it went on with a client that pinned another key: {refusal}")
        return broken("a client that pinned another key was welcomed")


def _mismatched_halves(target: Target) -> Outcome:
    if target.own_keys is None or target.pin is None:
        return not_played(OPEN_LINK)
    wrong_secret = secret_of(new_pair())
    with CurveClient(target.line(), target.own_keys, target.pin, target.properties, wrong_secret) as client:
        return _try(client, "an authorised public key got a session without its secret")


def _try(client: PlainClient, complaint: str) -> Outcome:
    try:
        client.shake_hands()
    except (HungUp, Refused) as end:
        return held(f"no session: {end}")
    except Silent:
        return held("no session: it said nothing")
    try:
        reply = client.call("ping")
    except (HungUp, Silent, Refused) as end:
        return broken(f"{complaint}, and then no answer ({end})")
    return broken(f"{complaint}, and the answer {str(reply)[:80]}")


ATTACKS = (
    Attack("plain client", "without CURVE nobody gets a session", _plain),
    Attack("unknown key", "a key that is on no list gets no session", _unknown_key),
    Attack("wrong pin", "a client that pinned another key talks to nobody", _wrong_pin),
    Attack("mismatched halves", "an authorised public key is worth nothing without its secret", _mismatched_halves),
)
