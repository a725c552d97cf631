"""`status` and `agents`: both agents, the link between them, who is connected, and who is registered."""

import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType
from rich.text import Text

from twinhost.certificates.running_agents import NO_RESPONSE
from twinhost.cli import output
from twinhost.cli.arguments import DEADLINE_S, PROGRAM, AsJson, Wait, find_agent
from twinhost.cli.machines import Figures, ask_hosts, machines_table
from twinhost.cli.output import OPEN_LINK, Failure, ListedPeers, age, duration, read, seconds_between
from twinhost.clients.system_replies import AgentInfo, HealthDocument, RegisteredAgents
from twinhost.deployment import MEMORY_AGENT, REGISTRY_AGENT, Settings, load_settings
from twinhost.moments import SYSTEM_CLOCK
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client, require_session
from twinhost.secure_zmq.errors import NotGranted, TwinhostError
from twinhost.secure_zmq.server_address import OPEN_LINK_WARNING
from twinhost.secure_zmq.wire import Reply

agents = typer.Typer()
QUESTION_DEADLINE_S = 3.0  # for each question; a healthy agent takes milliseconds
_LAST_DEADLINE_S = 0.5  # the minimum for the last round of a wait
_PAUSE_S = 0.5  # between two rounds
_AT_ONCE_S = 0.1  # mainpc notes both times of a registration within a millisecond
HEALTHY_STATUSES = frozenset({"HEALTHY", "ok"})  # as get_ok_agents counts them
MENTIONED, NEARLY_USED = 0.5, 0.8  # parts of a budget
_ITSELF = "(itself)"  # a key's owner can't have parentheses in its name


@dataclass(frozen=True, slots=True)
class AgentReport:
    """What one agent answered; None for what it did not answer, or was not asked.

    An agent that makes its own sockets is not `asked`: a REP socket answers no client of ours, and a connection shows
    that it runs, holds its key, and accepts ours.
    """

    agent: Agent
    health: HealthDocument | None = None
    document: Reply | None = None  # the whole health document
    peers: ListedPeers | None = None
    registered: Sequence[AgentInfo] | None = None
    hosts: Figures | None = None
    failure: Failure | None = None  # the first question that failed
    asked: bool = True


@dataclass(frozen=True, slots=True)
class Survey:
    """One round of questions to every agent."""

    settings: Settings
    by_agent: Mapping[str, AgentReport]

    @property
    def reports(self) -> list[AgentReport]:
        """The reports in the configuration's order."""
        return [self.by_agent[name] for name in self.settings.config.agents if name in self.by_agent]

    @property
    def registry(self) -> AgentReport:
        """The report of the agent with which the others register."""
        return self.by_agent[self.settings.registry_agent.name]

    def failures(self) -> list[Failure]:
        """Return what is wrong: no answer, refusals, failed checks, and agents that are not registered."""
        failures = [report.failure.about(report.agent.name) for report in self.reports if report.failure]
        for report in self.reports:
            failures.extend(_unhealthy(report))
        if self.registry.registered is not None:
            for report in self.reports:
                if report is not self.registry:
                    failures.extend(_unregistered(report, _registration_of(report.agent, self.registry)))
        return failures


def status(
    wait: Wait = 0.0,
    wait_for: Annotated[
        list[str] | None,
        typer.Option("--wait-for", metavar="AGENT", help="Wait for this agent, and ask the others once; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show both agents, the link, and who is connected.

    Exit status 1 if an agent does not answer, is unhealthy, or is not registered.
    """
    shown = ""

    def show_progress(failures: Sequence[Failure]) -> None:
        nonlocal shown
        sentence = failures[0].sentence
        if not as_json and sentence != shown:
            output.say("waiting:", output.FAINT, sentence)
        shown = sentence

    settings = load_settings()
    awaited = [find_agent(settings.config, name) for name in wait_for or ()]
    survey = survey_until_healthy(settings, wait, show_progress, awaited)
    failures = survey.failures()
    if as_json:
        output.show_value(_document(survey, failures), as_json=True)
    else:
        output.show(*_view(survey))
    output.say_failures(failures)
    return 1 if failures else 0


@agents.callback(invoke_without_command=True)
def list_agents(context: typer.Context, as_json: AsJson = False) -> int:
    """List the registered agents, or unregister one."""
    if context.invoked_subcommand is not None:
        return 0
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        reply = client.call("get_registered_agents", deadline_s=DEADLINE_S)
        now = str(client.call("ping", deadline_s=DEADLINE_S)["timestamp"])  # of the clock that `last_seen` is from
    registered = read(reply, RegisteredAgents).agents
    if as_json:
        output.show_value({"status": "ok", "agents": reply["agents"]}, as_json=True)
    else:
        output.show(_registrations_table(registered, now))
    return 0


@agents.command("unregister")
def unregister(
    name: Annotated[str, typer.Argument(metavar="NAME", help="As `agents` shows it.")], as_json: AsJson = False
) -> int:
    """Delete an agent's registration.

    An agent that still runs registers again with its next heartbeat; its key stays valid.
    """
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        reply = client.call("unregister", deadline_s=DEADLINE_S, agent_name=name)
    output.show_done(reply, f"{name} is no longer registered", as_json=as_json)
    return 0


def survey_until_healthy(
    settings: Settings,
    wait_s: float,
    on_retry: Callable[[Sequence[Failure]], None],
    awaited: Collection[Agent] = (),
) -> Survey:
    """Ask every agent until nothing is wrong or the time has passed, and return the last round.

    With `wait_s` 0 there is one round; `on_retry` is called with what is wrong before each further one. If some are
    `awaited`, besides SystemDigitalTwin, the others are asked once, in the end.
    """
    ends = SYSTEM_CLOCK.monotonic() + wait_s
    everybody = tuple(settings.config.agents.values())
    asked = [agent for agent in everybody if not awaited or agent in (settings.registry_agent, *awaited)]
    opened: dict[str, Client] = {}
    with ExitStack() as stack:

        def client_of(agent: Agent) -> Client:
            """Return a client that is kept between rounds; while no key can be pinned, each round tries again."""
            if agent.name not in opened:
                opened[agent.name] = stack.enter_context(settings.client(agent))
            return opened[agent.name]

        while True:
            left_s = ends - SYSTEM_CLOCK.monotonic()
            deadline_s = min(QUESTION_DEADLINE_S, max(_LAST_DEADLINE_S, left_s)) if wait_s else QUESTION_DEADLINE_S
            registry = _ask(settings, settings.registry_agent, client_of, deadline_s)
            reports = _reports(settings, registry, asked, client_of, deadline_s)
            failures = Survey(settings, reports).failures()
            pause_s = min(_PAUSE_S, ends - SYSTEM_CLOCK.monotonic())
            if not failures or pause_s <= 0:
                break
            on_retry(failures)
            time.sleep(pause_s)
        others = [agent for agent in everybody if agent not in asked]
        return Survey(settings, reports | _reports(settings, registry, others, client_of, QUESTION_DEADLINE_S))


def _reports(
    settings: Settings,
    registry: AgentReport,
    agents: Collection[Agent],
    client_of: Callable[[Agent], Client],
    deadline_s: float,
) -> dict[str, AgentReport]:
    """Ask agents, and add the report of the one that knows how the others have registered."""
    reports = {registry.agent.name: registry}
    for agent in agents:
        if agent != registry.agent:
            registration = _registration_of(agent, registry)
            makes_own_sockets = registration is not None and not _answers_health(registration)
            reports[agent.name] = (
                _reach(settings, agent, deadline_s)
                if makes_own_sockets
                else _ask(settings, agent, client_of, deadline_s)
            )
    return reports


def own_sockets(settings: Settings) -> frozenset[str]:
    """Return the agents that make their own sockets, and answer no question; none if mainpc can't be asked."""
    if settings.config.agents.keys() <= {REGISTRY_AGENT, MEMORY_AGENT}:
        return frozenset()
    with suppress(TwinhostError), settings.client(settings.registry_agent) as client:
        reply = client.call("get_registered_agents", deadline_s=QUESTION_DEADLINE_S)
        return frozenset(agent.name for agent in read(reply, RegisteredAgents).agents if not _answers_health(agent))
    return frozenset()


def _registration_of(agent: Agent, registry: AgentReport) -> AgentInfo | None:
    return next((known for known in registry.registered or () if known.name == agent.name), None)


def _answers_health(registration: AgentInfo) -> bool:
    """Return whether the agent is to answer `health`: it is none that makes its own sockets.

    Such an agent registers itself by its name alone. One of the framework registers with its port.
    """
    return registration.port is not None or registration.registered_by != registration.name


def _sends_heartbeats(registration: AgentInfo) -> bool:
    """Return whether the agent was seen after it registered, and after its status changed last."""
    after_s = seconds_between(registration.last_updated, registration.last_seen)
    return after_s is None or after_s > _AT_ONCE_S


def _reach(settings: Settings, agent: Agent, deadline_s: float) -> AgentReport:
    """Connect to an agent that makes its own sockets."""
    failure = None
    try:
        require_session(settings.address(agent), deadline_s)
    except TwinhostError as error:
        failure = Failure.of(error)
    return AgentReport(agent, failure=failure, asked=False)


def _ask(settings: Settings, agent: Agent, client_of: Callable[[Agent], Client], deadline_s: float) -> AgentReport:
    """Ask one agent everything, up to the first failure."""
    health = document = peers = registered = hosts = failure = None
    try:
        client = client_of(agent)
        document = client.call("health", deadline_s=deadline_s)
        health = read(document, HealthDocument)
        if agent == settings.registry_agent:
            registered = read(client.call("get_registered_agents", deadline_s=deadline_s), RegisteredAgents).agents
            hosts = ask_hosts(client, deadline_s)
        if settings.secure:  # on an open link nobody is authenticated, and the question is refused
            with suppress(NotGranted):  # to a program, which sees who is registered
                peers = read(client.call("get_peers", deadline_s=deadline_s), ListedPeers)
    except TwinhostError as error:
        failure = Failure.of(error)
    return AgentReport(agent, health, document, peers, registered, hosts, failure)


def _unhealthy(report: AgentReport) -> list[Failure]:
    health, name = report.health, report.agent.name
    if health is None or (health.agent == name and health.ready and health.status == "ok"):
        return []
    if health.agent != name:
        sentence = f"{report.agent.endpoint} is {health.agent}, not {name}; correct network_config.yaml"
        return [Failure("wrong_agent", sentence)]
    faults = [f"{check}: {result.detail}" for check, result in health.checks.items() if not result.ok]
    ready = "" if health.ready else ", not ready"
    return [Failure("unhealthy", f"{name} is {health.status}{ready} ({'; '.join(faults) or 'no check reports why'})")]


def _unregistered(report: AgentReport, registration: AgentInfo | None) -> list[Failure]:
    name = report.agent.name
    if registration is None:
        return [Failure("not_registered", f"{name} is not registered with SystemDigitalTwin; see its log")]
    silent = registration.status == NO_RESPONSE and not _sends_heartbeats(registration)
    if registration.status in HEALTHY_STATUSES or (silent and not report.asked):  # then its connection counts
        return []
    advice = ""
    if registration.status == NO_RESPONSE and report.failure is None:
        advice = "; it can be reached, but its heartbeats have ceased: see its log"
    elif registration.status == NO_RESPONSE:
        advice = (
            "; start it, or if it is gone for good, remove it from network_config.yaml and run: "
            f"{PROGRAM} agents unregister {name}"
        )
    sentence = f"{name} is registered with SystemDigitalTwin as {registration.status}{advice}"
    return [Failure("unhealthy", sentence)]


def _document(survey: Survey, failures: Sequence[Failure]) -> dict[str, Any]:
    return {
        **output.status_of(failures),
        "link": "encrypted" if survey.settings.secure else "open",
        "agents": {
            report.agent.name: {
                "host": report.agent.host.name,
                "endpoint": report.agent.endpoint,
                "asked": report.asked,
                "health": report.document,
                "peers": msgspec.to_builtins(report.peers.peers) if report.peers else None,
                "handshakes": report.peers.handshakes if report.peers else None,
                "failure": report.failure.as_reply() if report.failure else None,
            }
            for report in survey.reports
        },
        "hosts": msgspec.to_builtins(survey.registry.hosts),
        "registered_agents": msgspec.to_builtins(survey.registry.registered),
    }


def _view(survey: Survey) -> list[RenderableType]:
    parts: list[RenderableType] = [_link(survey), _agents_table(survey)]
    if survey.registry.hosts is not None:
        parts.append(machines_table(survey.registry.hosts))
    if warnings := [row for report in survey.reports for row in _warnings(report)]:
        parts.append(output.table("Warnings", ("on", "what"), warnings, whole=("what",)))
    if used := [row for report in survey.reports for row in _used(report)]:
        parts.append(output.table("Budgets", ("on", "identity", "limit", "used", "of", "part"), used))
    if any(report.peers for report in survey.reports):
        parts.append(_peers_table(survey))
    if survey.registry.registered is not None and survey.registry.health is not None:
        parts.append(_registrations_table(survey.registry.registered, survey.registry.health.timestamp))
    if refused := [row for report in survey.reports for row in _refused_handshakes(report)]:
        parts.append(output.table("Handshakes refused since the agent's start", ("on", "cause", "count"), refused))
    return parts


def _link(survey: Survey) -> Text:
    certificates = survey.settings.certificates
    if certificates is None:
        return output.lines(
            output.words(output.styled("LINK OPEN", output.LOUD), OPEN_LINK),
            "operator actions are refused; set SECURE_ZMQ=1 in .env to secure the link",
        )
    asked_as = certificates.own_keys.certificate.owner.name
    answered = any(report.health for report in survey.reports)
    sentence = f"encrypted and authenticated with CURVE, asked as {asked_as}"
    return output.words(
        output.styled("Link", output.HEADING), sentence if answered else f"no agent answered {asked_as}"
    )


def _agents_table(survey: Survey) -> RenderableType:
    rows: list[list[output.Cell]] = []
    for report in survey.reports:
        health = report.health
        cells: list[output.Cell] = [output.styled("no answer", output.BAD), "-", "-"]
        if not report.asked and report.failure is None:
            cells = ["connected", "-", "CURVE" if survey.settings.secure else output.styled("OPEN", output.LOUD)]
        if health is not None:
            ok = health.status == "ok" and health.ready
            link = "CURVE" if health.secure else output.styled("OPEN", output.LOUD)
            cells = [output.styled(health.status, output.GOOD if ok else output.BAD), duration(health.uptime_s), link]
        host = report.agent.host
        rows.append([report.agent.name, host.name, host.authority(report.agent.zmq_port), *cells])
    return output.table("Agents", ("agent", "host", "endpoint", "health", "uptime", "link"), rows)


def _warnings(report: AgentReport) -> list[tuple[str, Text]]:
    """Leave out the open link, which is the first line of the view already."""
    sentences = report.health.warnings if report.health else ()
    host = report.agent.host.name
    return [(host, output.styled(sentence, output.WARN)) for sentence in sentences if sentence != OPEN_LINK_WARNING]


def _used(report: AgentReport) -> list[list[output.Cell]]:
    """Return the budgets of which more than half is used, largest parts first."""
    usage = report.health.usage if report.health else None
    return [
        [
            *(report.agent.host.name, use.name, use.limit, f"{use.used:.10g}", f"{use.most:.10g}"),
            output.styled(f"{use.share:.0%}", output.WARN) if use.share >= NEARLY_USED else f"{use.share:.0%}",
        ]
        for use in usage or ()
        if use.share > MENTIONED
    ]


def _peers_table(survey: Survey) -> RenderableType:
    """One row for each key, whichever agents list it; the fingerprint is below the name."""
    seen: dict[tuple[str, str, str, str], list[tuple[str, str]]] = {}
    unseen: dict[str, Text] = {}
    recorded_s = output.recorded_s(
        (report.peers, report.health.timestamp) for report in survey.reports if report.peers and report.health
    )
    for report in survey.reports:
        if report.peers is None or report.health is None:
            continue
        for peer in report.peers.peers:
            unseen[peer.fingerprint] = output.not_seen(
                seconds_between(peer.not_before, report.health.timestamp), recorded_s
            )
            sessions = seen.setdefault((peer.name, peer.host, ", ".join(peer.roles), peer.fingerprint), [])
            if peer.sessions or peer.last_seen:
                last_seen = age(peer.last_seen, report.health.timestamp)
                sessions.append((f"{peer.sessions} on {report.agent.host.name}", last_seen))
    rows = []
    for (name, host, roles, fingerprint), sessions in seen.items():
        counts, ages = zip(*sessions or [("none", "")], strict=True)
        when = output.lines(*ages) if sessions else unseen[fingerprint]
        cells = (name, host, roles, output.lines(*counts), when)
        rows.append((cells, output.styled(fingerprint, output.FAINT)))
    columns = ("identity and key", "host", "role", "sessions", "last seen")
    return output.records("Authenticated peers", columns, rows)


def _registrations_table(registered: Sequence[AgentInfo], now: str) -> RenderableType:
    """The column `by` is shown only if an agent was registered by another one; `now` is what ages count from."""
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


def _refused_handshakes(report: AgentReport) -> list[tuple[str, str, str]]:
    if report.peers is None:
        return []
    return [(report.agent.host.name, outcome, str(n)) for outcome, n in report.peers.refusals().items()]
