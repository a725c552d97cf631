"""Regular expressions whose cost is bounded, whoever wrote them: RE2, with its memory and its steps limited.

RE2 takes time in proportion to the message times the compiled pattern, and never more. A pattern of
1,000 instructions is searched for in the first 8 KiB of a message, one of up to 128 in all of its 64 KiB.
A letter takes 1 instruction, `.` takes 8, and `\\pL` 1,200.
"""

from typing import Any, Final

import re2  # type: ignore[import-untyped]

from twinhost.secure_zmq.errors import MalformedRequest

MAX_CHARACTERS: Final = 1_024
MAX_INSTRUCTIONS: Final = 4_000  # of the compiled pattern
MAX_STEPS: Final = 2**23  # instructions times bytes; measured: 10 to 20 ns a step at the worst, on one core
MAX_MESSAGE_BYTES: Final = 65_536
_MAX_MEMORY: Final = 512 * 1024  # bytes for a compiled pattern and its caches; RE2 keeps 128 of them
_ALLOWED = (
    f"RE2's syntax is allowed, in at most {MAX_CHARACTERS} characters and {MAX_INSTRUCTIONS} instructions compiled: "
    "no backreference, no look-around, no repetition over 1,000; "
    "write a shorter one, or several patterns"
)


def _options() -> Any:
    options = re2.Options()
    options.max_mem = _MAX_MEMORY
    options.log_errors = False
    options.never_capture = True
    return options


_OPTIONS: Final = _options()


def accept(pattern: str) -> int:
    """Return how many bytes of a message a pattern is searched for in, from the message's start.

    Raises:
        MalformedRequest: RE2 refuses it, or it is too large; the sentence says what RE2 said.
    """
    if len(pattern) > MAX_CHARACTERS:
        raise _refused(f"it has {len(pattern)} characters")
    try:
        compiled = re2.compile(pattern, _OPTIONS)
    except re2.error as error:
        said = error.args[0] if error.args else "no reason"
        raise _refused(f"RE2 said `{said.decode(errors='replace') if isinstance(said, bytes) else said}`") from None
    except UnicodeEncodeError:
        raise _refused("it has half of a surrogate pair") from None
    size = int(compiled.programsize)
    if size > MAX_INSTRUCTIONS:
        raise _refused(f"it compiles to {size} instructions")
    return _reads(size)


def found(pattern: str, message: bytes) -> bool:
    """Return whether a pattern is found in as much of a message as it is searched for in."""
    try:
        compiled = re2.compile(pattern, _OPTIONS)
    except re2.error:  # another version of RE2 accepted it, before a restart or a restore: it stays, and knows nothing
        return False
    return compiled.search(message[: _reads(int(compiled.programsize))]) is not None


def _reads(size: int) -> int:
    return min(MAX_MESSAGE_BYTES, MAX_STEPS // max(1, size))


def _refused(why: str) -> MalformedRequest:
    return MalformedRequest(f"the pattern is refused ({why}) - at `$.pattern`; {_ALLOWED}")
