"""`agents`: who is registered with SystemDigitalTwin."""

from collections.abc import Sequence

from rich.console import RenderableType

from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, AsJson
from twinhost.cli.connect import load_settings
from twinhost.cli.documents import Registration, Registrations, age, read

HEALTHY_STATUSES = frozenset({"HEALTHY", "ok"})  # as get_ok_agents counts them
_ITSELF = "(itself)"  # a key's owner can't have parentheses in its name


def agents(as_json: AsJson = False) -> int:
    """List the registered agents."""
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        reply = client.call("get_registered_agents", deadline_s=DEADLINE_S)
        now = str(client.call("ping", deadline_s=DEADLINE_S)["timestamp"])  # its own clock, by which agents were seen
    registered = read(reply, Registrations).agents
    if as_json:
        output.show_value({"status": "ok", "agents": reply["agents"]}, as_json=True)
    else:
        output.show(registrations_table(registered, now))
    return 0


def registrations_table(registered: Sequence[Registration], now: str) -> RenderableType:
    """Return the registered agents as a table; `now` is what their ages count from.

    By whom an agent was registered is shown where one was registered by another.
    """
    rows: list[list[output.Cell]] = [
        [
            agent.name,
            agent.location,
            output.styled(agent.status, output.GOOD if agent.status in HEALTHY_STATUSES else output.BAD),
            age(agent.last_seen, now),
            f"{agent.host}:{agent.port}" if agent.host is not None and agent.port is not None else "-",
        ]
        for agent in registered
    ]
    columns = ["name", "where", "status", "seen", "endpoint"]
    if any(agent.registered_by != agent.name for agent in registered):
        columns.append("by")
        for row, agent in zip(rows, registered, strict=True):
            row.append(_ITSELF if agent.registered_by == agent.name else agent.registered_by or "-")
    return output.table(f"Registered agents ({len(rows)})", columns, rows)
