"""SystemDigitalTwin and UnifiedMemoryReasoningAgent inside a test's process, for tests of agents and programs.

    from twinhost.testing import Stack

    with Stack() as stack, stack.client("SystemDigitalTwin") as mainpc:
        assert mainpc.call("ping")["status"] == "ok"

Everything is real but the containers: CURVE keys, sockets on free ports of 127.0.0.1, databases in a temporary folder.
The pytest plugin (`twinhost.testing.plugin`) gives such a stack as the fixture `twinhost_stack`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from twinhost.testing.running import wait_until as wait_until
    from twinhost.testing.stack import Stack as Stack

__all__ = ["Stack", "wait_until"]


def __getattr__(name: str) -> Any:  # imported on first use: every run of pytest imports the plugin
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("twinhost.agent").imported(f"{__name__}.stack", name)
