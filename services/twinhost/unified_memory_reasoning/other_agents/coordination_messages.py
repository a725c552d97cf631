"""What is asked of this agent that another one answers."""

from typing import Any

from twinhost.secure_zmq.wire import NAME, Request
from twinhost.unified_memory_reasoning.other_agents.priorities import PRIORITY


class CoordinateMemory(Request, tag="coordinate_memory"):
    """Ask another agent for an operation of its own; the more urgent go first."""

    agent_name: NAME
    operation: NAME
    data: dict[str, Any]
    priority: PRIORITY = "normal"
