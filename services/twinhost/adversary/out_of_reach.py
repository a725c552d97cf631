"""What of the adversary's list can't be played from outside; the report says so, so that nobody takes it for tried."""

from twinhost.adversary.attack import Attack, not_played

_ONCE_GOOD = "it takes the secret of a key that is over, and nobody should keep one"
_FROM_INSIDE = "it takes a hand in the agent's own files; cli doctor on that host, and certs-init verify, look at them"

ATTACKS = (
    Attack("revoked key", "a key that was revoked gets in no more", lambda _: not_played(_ONCE_GOOD)),
    Attack("expired key", "a key that is over gets in no more", lambda _: not_played(_ONCE_GOOD)),
    Attack("malformed key files", "a file that can't be believed lets nobody in", lambda _: not_played(_FROM_INSIDE)),
    Attack("a store that fails", "what could not be stored is not confirmed", lambda _: not_played(_FROM_INSIDE)),
)
