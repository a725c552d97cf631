"""What the commands say and read: the product on standard output, notes on standard error."""

import sys

from twinhost.secure_zmq.errors import ConfigurationError


def say(line: str = "") -> None:
    """Print a line of the product."""
    sys.stdout.write(f"{line}\n")


def note(line: str) -> None:
    """Print a line for the person who looks on."""
    sys.stderr.write(f"{line}\n")


def read_standard_input(limit_bytes: int, expected: str) -> str:
    """Return what standard input holds.

    Raises:
        ConfigurationError: it is longer, or not ASCII; `expected` says what it should be.
    """
    content = sys.stdin.buffer.read(limit_bytes + 1)
    if len(content) > limit_bytes or not content.isascii():
        raise ConfigurationError(f"standard input is not {expected}")
    return content.decode("ascii")


def read_line_of_standard_input(prompt: str, limit_bytes: int) -> str:
    """Return one line; a person at a terminal is told which."""
    if sys.stdin.isatty():
        sys.stderr.write(prompt)
        sys.stderr.flush()
    content = sys.stdin.buffer.readline(limit_bytes + 1)
    if len(content) > limit_bytes:
        raise ConfigurationError(f"the line is longer than {limit_bytes} characters")
    return content.decode("ascii", "replace")


def is_terminal() -> bool:
    """Return whether a person can be asked."""
    return sys.stdin.isatty()


def ask(question: str) -> bool:
    """Ask a person; anything but `yes` is a no."""
    sys.stderr.write(f"{question} [yes/no] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() == "yes"
