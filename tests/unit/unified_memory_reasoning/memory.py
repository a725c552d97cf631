"""UnifiedMemoryReasoningAgent as it is assembled, without a socket and without its link."""

from pathlib import Path
from typing import Any

from tests.unit.agent.assembled import Assembled, environment_of
from twinhost.secure_zmq.callers import UNAUTHENTICATED, Caller
from twinhost.unified_memory_reasoning.__main__ import MIGRATIONS, NAME, assemble

SDT = Caller("SystemDigitalTwin", "mainpc", frozenset({"agent"}), "SHA256:of-sdt")
OPERATOR = Caller("operator", "mainpc", frozenset({"operator"}), "SHA256:of-the-operator")
NOBODY = UNAUTHENTICATED


def assembled(home: Path, *, secure: bool = True, **limits: Any) -> Assembled:
    """Return the agent as a start on pc2 assembles it; its state in `home` is kept from one to the next."""
    return Assembled(NAME, MIGRATIONS, assemble, environment_of(home, "pc2", secure=secure, **limits))
