"""What every agent is built on.

Another agent needs only the names below. They are imported on first use, so that `twinhost.agent.healthcheck`,
which runs often, loads little.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinhost.agent.assembly import Assembly as Assembly
    from twinhost.agent.assembly import Foundation as Foundation
    from twinhost.agent.membership.member import Description as Description
    from twinhost.agent.membership.member import Membership as Membership
    from twinhost.agent.membership.outbox import MIGRATION as MIGRATION
    from twinhost.agent.process import run_agent as run_agent
    from twinhost.secure_zmq.actions import Action as Action
    from twinhost.secure_zmq.callers import Caller as Caller
    from twinhost.secure_zmq.wire import NAME as NAME
    from twinhost.secure_zmq.wire import Reply as Reply
    from twinhost.secure_zmq.wire import Request as Request

_MODULES = {
    "twinhost.agent.assembly": ("Assembly", "Foundation"),
    "twinhost.agent.membership.member": ("Description", "Membership"),
    "twinhost.agent.membership.outbox": ("MIGRATION",),
    "twinhost.agent.process": ("run_agent",),
    "twinhost.secure_zmq.actions": ("Action",),
    "twinhost.secure_zmq.callers": ("Caller",),
    "twinhost.secure_zmq.wire": ("NAME", "Reply", "Request"),
}


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return imported(module, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def imported(module: str, name: str) -> Any:
    """Return what a module has under a name.

    Raises:
        ImportError: a package of the extra `agent` is missing; the message has the command that installs it.
    """
    try:
        return getattr(import_module(module), name)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "twinhost":
            raise
        raise ImportError(
            f"{error.name} is not installed, which an agent needs; run: pip install 'twinhost[agent]'"
        ) from None
