"""What a command is given, and how it stands on the command line."""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TypeAlias

from twinhost.certificates.layout import Layout
from twinhost.network_config import NetworkConfig
from twinhost.secure_zmq import advice
from twinhost.secure_zmq.keys import KeyOwner

RUN, RUN_PIPED = advice.CERTS_INIT, advice.CERTS_INIT_PIPED
MAX_DAYS = 3_650

Commands: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # noqa: SLF001 - it has no public name


@dataclass(frozen=True, slots=True)
class Tree:
    """The tree that a command works on, and the configuration that it belongs to."""

    layout: Layout
    config: NetworkConfig

    def lasting(self, days: int | None) -> "Tree":
        """Return the same, new keys being good for so many days."""
        return self if days is None else replace(self, layout=replace(self.layout, lifetime_days=days))


Run = Callable[[argparse.Namespace, Tree], int]


def add_command(commands: Commands, name: str, run: Run, help_text: str) -> argparse.ArgumentParser:
    """Put a command on the command line; `run` returns the exit status."""
    parser = commands.add_parser(name, help=help_text, description=f"{help_text[0].upper()}{help_text[1:]}.")
    parser.set_defaults(run=run)
    return parser


def add_days(parser: argparse.ArgumentParser) -> None:
    """Let a command say how long a new key is good."""
    parser.add_argument(
        "--days", type=bounded(MAX_DAYS), metavar="N", help="how long a new key is good (default: key_lifetime_days)"
    )


def add_owner(parser: argparse.ArgumentParser) -> None:
    """Let a command say for whom it is."""
    parser.add_argument("name", metavar="NAME", help="an agent of network_config.yaml, or a new name")
    parser.add_argument("--host", required=True, metavar="HOST", help="the machine that it runs on")
    parser.add_argument(
        "--role", required=True, action="append", metavar="ROLE", help="as in network_config.yaml; may be repeated"
    )


def owner_of(options: argparse.Namespace) -> KeyOwner:
    """Return for whom a command is.

    Raises:
        KeyFileMalformed: a word has characters that it must not have.
    """
    return KeyOwner(options.name, options.host, frozenset(options.role))


def bounded(maximum: int) -> Callable[[str], int]:
    """Return what reads a whole number from 1 to `maximum`."""

    def read(text: str) -> int:
        if not (text.isascii() and text.isdigit() and 1 <= int(text[:12]) <= maximum):
            raise argparse.ArgumentTypeError(f"must be a whole number from 1 to {maximum}, not {text!r}")
        return int(text)

    return read
