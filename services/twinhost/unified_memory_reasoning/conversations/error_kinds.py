"""What kind of error a text tells of, and what it says; pure."""

from typing import Literal

from twinhost.unified_memory_reasoning.conversations.phrases import plain

ErrorKind = Literal["timeout", "connection", "permission", "other"]

# The first that is found; `connection timed out` is a timeout. Parts of words count: `SocketTimeoutException`.
_KINDS: tuple[tuple[ErrorKind, tuple[str, ...]], ...] = (
    ("timeout", ("timeout", "time-out", "time out", "timed out", "timedout", "deadline exceeded")),
    ("connection", ("connect", "econn", "unreachable", "broken pipe", "koneksyon", "konekta")),
    (
        "permission",
        (
            *("permission", "denied", "forbidden", "unauthorized", "unauthorised", "not authorized", "not authorised"),
            *("not granted", "not permitted", "not allowed", "eacces", "eperm", "pahintulot"),
        ),
    ),
)
_TRACEBACK = "Traceback (most recent call last)"  # as Python begins one


def error_kind(text: str) -> ErrorKind:
    """Return the kind of error that a text tells of."""
    searched = plain(text)
    return next((kind for kind, words in _KINDS if any(word in searched for word in words)), "other")


def error_message(text: str) -> str:
    """Return what an error says: the last line of a Python traceback, else the whole text."""
    if not text.lstrip().startswith(_TRACEBACK):
        return text
    return text.rstrip().splitlines()[-1]
