"""The request and the reply that every contender carries: this project's own, byte for byte."""

import json

from tests.benchmarks.speed.task import ID_CHARACTERS, Task

LOAD_AGENT = "load-agent"  # the caller
READ_AGENT = "speech-agent"  # the agent that it asks about
REGISTRATION = {
    "agent_id": READ_AGENT,
    "agent_type": "speech",
    "host": "192.0.2.17",
    "port": 5570,
    "health_check_port": 6570,
}


def fields_of(task: Task) -> dict[str, str]:
    """Return the fields of a task's action; padding goes into a field that the server does not know."""
    fields = {"agent_name": READ_AGENT}
    if task.action == "register_agent":
        fields = {"agent_name": LOAD_AGENT, "status": "HEALTHY"}
    return {**fields, "padding": "x" * task.padding} if task.padding else fields


def around_the_id(task: Task) -> tuple[str, str]:
    """Return what is before and after the id in a request's JSON, written as the product's clients write it."""
    text = json.dumps({"action": task.action, "request_id": "", **fields_of(task)}, separators=(",", ":"))
    before, after = text.split('"",', 1)
    return f'{before}"', f'",{after}'


def request(task: Task) -> bytes:
    """Return one request of a task, for peers that don't look at it."""
    before, after = around_the_id(task)
    return f"{before}{'0' * ID_CHARACTERS}{after}".encode()
