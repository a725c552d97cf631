"""Greeter: it greets, publishes an event to mainpc, and asks pc2 what it remembers of a person."""

import sys
from concurrent.futures import Future
from typing import Any, Literal, TypedDict

from twinhost.agent import MIGRATION, NAME, Action, Assembly, Caller, Description, Foundation
from twinhost.agent import Membership, Reply, Request, run_agent

MIGRATIONS = [MIGRATION]


class Greet(Request, tag="greet"):
    """Greet somebody, and publish that on mainpc."""

    name: NAME


class Greeted(TypedDict):
    status: Literal["ok"]
    greeting: str


class WhoIs(Request, tag="who_is"):
    """Return what UnifiedMemoryReasoningAgent remembers of a person."""

    name: NAME


def assemble(foundation: Foundation) -> Assembly:
    member = Membership(foundation, Description("greeter", ["greet"]))

    def greet(request: Greet, caller: Caller) -> Greeted:
        member.publish("greeted", {"name": request.name, "by": caller.name})
        return {"status": "ok", "greeting": f"Hello, {request.name}!"}

    def who_is(request: WhoIs, caller: Caller) -> "Future[Reply]":
        return member.ask("UnifiedMemoryReasoningAgent", "get_twin", caller, user_id=request.name)

    actions: list[Action[Any]] = [Action(Greet, greet, mutates=True), Action(WhoIs, who_is)]
    return Assembly(actions, "ok", on_tick=member.on_tick, companions=member.companions)


if __name__ == "__main__":
    sys.exit(run_agent("Greeter", MIGRATIONS, assemble))
