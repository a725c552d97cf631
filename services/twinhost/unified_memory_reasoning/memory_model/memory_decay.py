"""How a memory fades, and how it is kept: pure rules on numbers, no clock and no store.

A pass comes every 300 s. What nobody has accessed for 24 h loses a tenth of its strength in it. Under 0.1 a
memory is forgotten: queries leave it out, it is still stored, and it fades no further. A reinforce makes it
stronger by a fifth, up to 5, and brings a forgotten one back in any case.

A pass that was missed is not made up for, nor the rest of one that a crash cut off: while the agent was away nobody
could ask for anything.
"""

PASS_EVERY_S = 300.0
IDLE_S = 86_400.0
DECAY_FACTOR = 0.9
FORGOTTEN_UNDER = 0.1
REINFORCE_FACTOR = 1.2
MOST_STRENGTH = 5.0
FIRST_STRENGTH = 1.0


def idle_since(now: float) -> float:
    """Return the moment at or before which a memory must have been accessed last to be idle; in epoch seconds."""
    return now - IDLE_S


def forgotten(strength: float) -> bool:
    """Return whether a memory of this strength is forgotten; nothing else decides it."""
    return strength < FORGOTTEN_UNDER


def decayed(strength: float) -> float:
    """Return what one pass leaves of an idle memory's strength."""
    return strength if forgotten(strength) else strength * DECAY_FACTOR


def reinforced(strength: float) -> float:
    """Return the strength after one reinforce; a forgotten memory counts as one that just is not."""
    return min(MOST_STRENGTH, max(strength, FORGOTTEN_UNDER) * REINFORCE_FACTOR)


def next_pass_in_s(last: float | None, now: float) -> float:
    """Return how many seconds after a start the first pass is due.

    Args:
        last: when the last one was, in seconds since the epoch; None where there was none.
        now: the moment of the start. A clock that was set back makes no wait longer than a whole one.
    """
    if last is None:
        return PASS_EVERY_S
    return min(PASS_EVERY_S, max(0.0, last + PASS_EVERY_S - now))
