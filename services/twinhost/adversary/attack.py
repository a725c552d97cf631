"""What an attack is: a name, what it proves when it is refused, and a way to play it."""

from collections.abc import Callable
from dataclasses import dataclass

from twinhost.adversary.target import Target
from twinhost.cli.findings import Verdict


@dataclass(frozen=True, slots=True)
class Outcome:
    """How the agent bore it."""

    verdict: Verdict
    sentence: str


@dataclass(frozen=True, slots=True)
class Attack:
    """One entry of the adversary's list."""

    name: str
    proves: str
    play: Callable[[Target], Outcome]


def held(sentence: str) -> Outcome:
    """The agent refused it as it should."""
    return Outcome(Verdict.OK, sentence)


def broken(sentence: str) -> Outcome:
    """The attack came through."""
    return Outcome(Verdict.FAILED, sentence)


def not_played(reason: str) -> Outcome:
    """What it takes is not at hand."""
    return Outcome(Verdict.NOT_PLAYED, reason)


OPEN_LINK = "SECURE_ZMQ=0: there are no keys, so there is nothing to forge"
OPERATORS_KEY = "the key at hand is an operator's, to whom everything is granted; play it with TWINHOST_CLI_KEYS=pc2"
