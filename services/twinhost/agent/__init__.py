"""What every agent is built on.

An agent of one's own needs only the names below; they are imported on first use, so that `twinhost.agent.healthcheck`,
which runs often, loads little.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinhost.agent.assembly import Assembly, Foundation
    from twinhost.agent.membership.member import Description, Membership
    from twinhost.agent.membership.outbox import MIGRATION
    from twinhost.agent.process import run_agent
    from twinhost.secure_zmq.actions import Action, Feature, action
    from twinhost.secure_zmq.callers import Caller
    from twinhost.secure_zmq.wire import NAME, Reply, Request

__all__ = [
    "MIGRATION",
    "NAME",
    "Action",
    "Assembly",
    "Caller",
    "Description",
    "Feature",
    "Foundation",
    "Membership",
    "Reply",
    "Request",
    "action",
    "run_agent",
]
_MODULES = {
    "MIGRATION": "twinhost.agent.membership.outbox",
    "NAME": "twinhost.secure_zmq.wire",
    "Action": "twinhost.secure_zmq.actions",
    "Assembly": "twinhost.agent.assembly",
    "Caller": "twinhost.secure_zmq.callers",
    "Description": "twinhost.agent.membership.member",
    "Feature": "twinhost.secure_zmq.actions",
    "Foundation": "twinhost.agent.assembly",
    "Membership": "twinhost.agent.membership.member",
    "Reply": "twinhost.secure_zmq.wire",
    "Request": "twinhost.secure_zmq.wire",
    "action": "twinhost.secure_zmq.actions",
    "run_agent": "twinhost.agent.process",
}


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value
    return value
