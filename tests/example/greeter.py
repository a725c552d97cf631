"""An agent of your own: it greets, publishes an event to mainpc, and asks pc2 what it remembers of a person."""

import sys
from concurrent.futures import Future

from twinhost.agent import MIGRATION, Action, Assembly, Caller, Description, Foundation, Membership, run_agent
from twinhost.secure_zmq.wire import NAME, Reply, Request


class Greet(Request, tag="greet"):
    whom: NAME


class WhoIs(Request, tag="who_is"):
    whom: NAME


def assemble(foundation: Foundation) -> Assembly:
    """Build the agent's actions."""
    member = Membership(foundation, Description("greeter", ["greet"]))

    def greet(request: Greet, caller: Caller) -> Reply:
        member.publish("greeted", {"whom": request.whom, "by": caller.name})
        return {"status": "ok", "greeting": f"Hello, {request.whom}!"}

    def who_is(request: WhoIs, caller: Caller) -> "Future[Reply]":
        return member.ask("UnifiedMemoryReasoningAgent", "get_twin", caller, user_id=request.whom)

    return Assembly(
        actions=[Action(Greet, greet, mutates=True), Action(WhoIs, who_is)],
        success="ok",
        on_tick=member.on_tick,
        companions=member.companions,
    )


if __name__ == "__main__":
    sys.exit(run_agent("Greeter", [MIGRATION], assemble))
