"""Where commands are to be run while an agent is not active at home, but where its standby was."""

from msgspec.structs import replace

from twinhost.agent.assembly import Foundation
from twinhost.agent.troubles import Remedy, Trouble
from twinhost.commands import CERTS_INIT
from twinhost.network_config import Agent

_OF_OPERATORS = ("./twinhost ", CERTS_INIT)  # how their commands begin: they need SystemDigitalTwin's machine


def place_of(agent: Agent, foundation: Foundation) -> str:
    """Return the host on which an agent is active; its own where that is not known."""
    if agent.name == foundation.settings.agent.name:
        return foundation.settings.place
    log = None if foundation.log is None else foundation.log.state
    of_agent = None if log is None else log.agents.get(agent.name)
    return agent.host.name if of_agent is None else agent.host_of(of_agent.holder)


def operated_from(trouble: Trouble, home: str, place: str) -> Trouble:
    """Return a trouble whose commands of an operator, which are for one host, are for another one."""

    def moved(remedy: Remedy) -> Remedy:
        of_operator = remedy.on == home and remedy.command.startswith(_OF_OPERATORS)
        return replace(remedy, on=place) if of_operator else remedy

    return trouble if home == place else replace(trouble, remedies=tuple(map(moved, trouble.remedies)))


def said_at(trouble: Trouble, agent: Agent, place: str) -> Trouble:
    """Return what an agent says of itself with the commands for its service on the host where it is active."""
    home = agent.host.name

    def moved(remedy: Remedy) -> Remedy:
        of_service = remedy.on == home and remedy.command.endswith(f" {home}")
        command = remedy.command.removesuffix(home) + agent.standby_process
        return replace(remedy, on=place, command=command) if of_service else remedy

    return trouble if home == place else replace(trouble, host=place, remedies=tuple(map(moved, trouble.remedies)))
