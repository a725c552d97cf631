"""How an agent asks to be started anew: its process ends, and the engine's restart policy brings it back."""

from typing import ClassVar


class StartAgain(Exception):
    """Raised in an agent's `on_tick`: the loop ends at once.

    Replies that were given leave; a request that was not answered yet is repeated by its client, and finds
    the agent that comes next.
    """

    EXIT_STATUS: ClassVar[int] = 75  # EX_TEMPFAIL of sysexits.h: not 0, so that `on-failure` policies act too
