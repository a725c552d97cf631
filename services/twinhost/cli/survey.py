"""One look at the whole system: every agent's health, its peers, the registry, and what is amiss."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from twinhost.cli.agents import HEALTHY_STATUSES
from twinhost.cli.connect import Settings
from twinhost.cli.documents import Health, Peers, Registration, Registrations, read
from twinhost.cli.failures import Failure
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.wire import Reply

DEADLINE_S = 3.0  # for each question; an agent that is well takes milliseconds
_LAST_DEADLINE_S = 0.5  # what the last look of a wait gets at least
_PAUSE_S = 0.5  # between two looks


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What one agent answered; None where it did not, or was not asked."""

    agent: Agent
    health: Health | None = None
    document: Reply | None = None  # the health document, whole
    peers: Peers | None = None
    registered: tuple[Registration, ...] | None = None
    failure: Failure | None = None  # the first question that got no good answer


@dataclass(frozen=True, slots=True)
class Survey:
    """What every agent answered, and what is amiss."""

    settings: Settings
    reports: tuple[AgentReport, ...]

    @property
    def registry(self) -> AgentReport:
        """The report of the agent that the others register with."""
        return next(report for report in self.reports if report.agent == self.settings.registry_agent)

    def failures(self) -> list[Failure]:
        """Return what is amiss: silence, refusals, failed checks, and agents that are not registered."""
        found = [report.failure.about(report.agent.name) for report in self.reports if report.failure]
        for report in self.reports:
            found.extend(_unhealthy(report))
        registered = self.registry.registered
        if registered is not None:
            by_name = {registration.name: registration for registration in registered}
            for report in self.reports:
                if report is not self.registry:
                    found.extend(_unregistered(report.agent.name, by_name.get(report.agent.name)))
        return found


def survey_until_healthy(settings: Settings, wait_s: float, on_retry: Callable[[Sequence[Failure]], None]) -> Survey:
    """Look until nothing is amiss or the time is up, and return the last look.

    Args:
        settings: whom to ask, and as whom.
        wait_s: seconds; with 0 there is one look.
        on_retry: told what is amiss before each new look.

    Raises:
        ConfigurationError: SystemDigitalTwin is missing in the configuration.
    """
    ends = time.monotonic() + wait_s
    _ = settings.registry_agent  # missing in the configuration: say so before asking anybody
    with ExitStack() as stack:
        clients = _Clients(settings, stack)
        while True:
            left_s = ends - time.monotonic()
            survey = _look(settings, clients, min(DEADLINE_S, max(_LAST_DEADLINE_S, left_s)) if wait_s else DEADLINE_S)
            failures = survey.failures()
            pause_s = min(_PAUSE_S, ends - time.monotonic())
            if not failures or pause_s <= 0:
                return survey
            on_retry(failures)
            time.sleep(pause_s)


class _Clients:
    """One client for each agent, kept from look to look; where no key can be pinned yet, the next look tries."""

    def __init__(self, settings: Settings, stack: ExitStack) -> None:
        self._settings, self._stack = settings, stack
        self._opened: dict[str, Client] = {}

    def of(self, agent: Agent) -> Client:
        if agent.name not in self._opened:
            self._opened[agent.name] = self._stack.enter_context(self._settings.client(agent))
        return self._opened[agent.name]


def _look(settings: Settings, clients: _Clients, deadline_s: float) -> Survey:
    agents = settings.config.agents.values()
    return Survey(settings, tuple(_ask(settings, agent, clients, deadline_s) for agent in agents))


def _ask(settings: Settings, agent: Agent, clients: _Clients, deadline_s: float) -> AgentReport:
    """Ask one agent everything; after the first failure it is not asked further."""
    health = document = peers = registered = failure = None
    try:
        client = clients.of(agent)
        document = client.call("health", deadline_s=deadline_s)
        health = read(document, Health)
        if agent == settings.registry_agent:
            registered = read(client.call("get_registered_agents", deadline_s=deadline_s), Registrations).agents
        if settings.secure:  # in the open nobody is authenticated, and the question would be refused
            peers = read(client.call("get_peers", deadline_s=deadline_s), Peers)
    except TwinhostError as error:
        failure = Failure.of(error)
    return AgentReport(agent, health, document, peers, registered, failure)


def _unhealthy(report: AgentReport) -> list[Failure]:
    health, name = report.health, report.agent.name
    if health is None:
        return []
    if health.agent != name:
        return [
            Failure("wrong_agent", f"{report.agent.endpoint} is {health.agent}, not {name}; mend network_config.yaml")
        ]
    if health.ready and health.status == "ok":
        return []
    faults = [f"{check}: {result.detail}" for check, result in health.checks.items() if not result.ok]
    ready = "" if health.ready else ", not ready"
    return [Failure("unhealthy", f"{name} is {health.status}{ready} ({'; '.join(faults) or 'no check says why'})")]


def _unregistered(name: str, registration: Registration | None) -> list[Failure]:
    if registration is None:
        return [Failure("not_registered", f"{name} is not registered with SystemDigitalTwin")]
    if registration.status in HEALTHY_STATUSES:
        return []
    return [Failure("unhealthy", f"{name} is registered with SystemDigitalTwin as {registration.status}")]
