"""`status` and `agents`: what is wrong, both agents, the link between them, who is connected, and who is registered."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType
from rich.text import Text

from twinhost.agent.asked_lists import unreachable, with_found
from twinhost.agent.conditions import LINK_CHECK, Condition, troubles_of
from twinhost.agent.open_links import open_links
from twinhost.agent.troubles import AttentionList, Kind, Level, Trouble
from twinhost.cli import attention, output
from twinhost.cli.arguments import PROGRAM, AsJson, Wait, find_agent
from twinhost.cli.machines import Figures, ask_hosts, machines_table
from twinhost.cli.output import OPEN_LINK, Failure, ListedPeers, age, duration, read, seconds_between
from twinhost.clients.system_replies import AgentInfo, HealthDocument, RegisteredAgents, RoleDocument
from twinhost.deployment import (
    MEMORY_AGENT,
    NO_RESPONSE,
    OK_STATUSES,
    REGISTRY_AGENT,
    Settings,
    hosts_own,
    load_settings,
)
from twinhost.moments import SYSTEM_CLOCK, iso_time
from twinhost.network_config import Agent
from twinhost.secure_zmq.budgets import NEARLY_USED
from twinhost.secure_zmq.client import Client, require_session
from twinhost.secure_zmq.errors import NotFound, NotGranted, TwinhostError, UnknownAction
from twinhost.secure_zmq.server_address import OPEN_LINK_WARNING
from twinhost.secure_zmq.wire import Reply

agents = typer.Typer()
QUESTION_DEADLINE_S = 3.0  # for each question; a healthy agent takes milliseconds
_LAST_DEADLINE_S = 0.5  # the minimum for the last round of a wait
_PAUSE_S = 0.5  # between two rounds
_AT_ONCE_S = 0.1  # mainpc notes both times of a registration within a millisecond
MENTIONED = 0.5  # of a budget
_OLDER = Failure("unknown_action", "it is of an older version, which keeps no list; update it")
_MOST_ROWS = 20  # of registered agents, each with a row of its own


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
    listed: AttentionList | None = None
    unlisted: Failure | None = None  # why there is no list
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

    @property
    def now(self) -> str:
        """The time by the clock that the list is from, or else by this machine's."""
        source = self.list_from or self.registry
        return source.health.timestamp if source.health else iso_time(SYSTEM_CLOCK.time())

    @property
    def list_from(self) -> AgentReport | None:
        """The report with the list of what is wrong: of SystemDigitalTwin, or of an agent that keeps it too."""
        return next((report for report in (self.registry, *self.reports) if report.listed), None)

    @property
    def listed(self) -> AttentionList | None:
        """What mainpc has found, or pc2 in its place; None if neither says it."""
        return self.list_from.listed if self.list_from else None

    def found(self) -> list[Trouble]:
        """Return what the list can't know: who can't be asked from here, and what agents have not reported yet."""
        troubles: list[Trouble] = []
        config, own = self.settings.config, hosts_own(self.settings.config)
        further = {name: agent.host.name for name, agent in config.agents.items() if name not in own}
        places = [*config.hosts, *(f"{host}/{name}" for name, host in further.items())]
        for report in self.reports:
            troubles += _away(report, places)
            if report is not self.registry or report.listed is None:  # else its list has them
                said = [*_failed(report), *(_warned(report) if self.listed is None else ())]
                name = report.agent.name
                troubles += troubles_of(report.agent.host.name, said, agent=name if name in further else "")
        if opened := [report.agent.host.name for report in self.reports if report.health and not report.health.secure]:
            first, *others = dict.fromkeys(opened)
            troubles += open_links(first, secure=False, others=others, mismatched=())
        if self.listed is None and self.registry.unlisted:
            troubles.append(_unlisted(self.registry.agent, self.registry.unlisted))
        return troubles

    def judged(self) -> AttentionList:
        """Return all that is wrong."""
        return with_found(self.listed, self.found(), self.now)

    def hindrances(self) -> list[str]:
        """Return what `--wait` waits for the end of: agents that don't answer, are unhealthy, or are not registered."""
        return [sentence for report in self.reports for sentence in _hindrances(report, self.registry)]


def status(
    wait: Wait = 0.0,
    wait_for: Annotated[
        list[str] | None,
        typer.Option("--wait-for", metavar="AGENT", help="Wait for this agent, and ask the others once; repeatable."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show what is wrong, the agents, and who is connected.

    Exit status: 0 well, 1 attention, 2 broken. With --wait, 0 as soon as every agent works and is registered, and 2 if
    that does not come.
    """
    shown = ""

    def show_progress(hindrances: Sequence[str]) -> None:
        nonlocal shown
        if not as_json and hindrances[0] != shown:
            output.say("waiting:", output.FAINT, hindrances[0])
        shown = hindrances[0]

    settings = load_settings()
    awaited = [find_agent(settings.config, name) for name in wait_for or ()]
    survey = survey_until_healthy(settings, wait, show_progress, awaited)
    judged = survey.judged()
    level = Level.of(judged["level"])
    if wait or awaited:
        level = Level.BROKEN if survey.hindrances() else Level.WELL
    if as_json:
        output.show_value(_document(survey, judged, level), as_json=True)
    else:
        output.show(*attention.shown(judged, survey.now, survey.registry.listed), *_view(survey))
    return level


@agents.callback(invoke_without_command=True)
def list_agents(context: typer.Context, as_json: AsJson = False) -> int:
    """List the registered agents, or unregister some."""
    if context.invoked_subcommand is not None:
        return 0
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        reply = client.call("get_registered_agents")
        now = str(client.call("ping")["timestamp"])  # of the clock that `last_seen` is from
    registered = read(reply, RegisteredAgents).agents
    if as_json:
        output.show_value({"status": "ok", "agents": reply["agents"]}, as_json=True)
    else:
        output.show(_registrations_table(registered, now))
    return 0


@agents.command("unregister")
def unregister(
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="As `agents` shows it.")] = None,
    silent_on: Annotated[
        str | None,
        typer.Option("--silent-on", metavar="LOCATION", help="In place of a name: every agent there that is silent."),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Delete an agent's registration, or those of silent agents.

    The host's own agent is never one of these. An agent that still runs registers again with its next heartbeat; its
    key stays valid.
    """
    if (name is None) == (silent_on is None):
        raise typer.BadParameter("give a name, or --silent-on", param_hint="NAME")
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        if name is not None:
            reply = client.call("unregister", agent_name=name)
            output.show_done(reply, f"{name} is no longer registered", as_json=as_json)
            return 0
        registered = read(client.call("get_registered_agents"), RegisteredAgents).agents
        silent = [
            agent.name
            for agent in registered
            if (agent.location, agent.status) == (silent_on, NO_RESPONSE)
            and _sends_heartbeats(agent)
            and agent.name not in hosts_own(settings.config)
        ]
        for each in silent:
            with suppress(NotFound):  # somebody else was quicker
                client.call("unregister", agent_name=each)
    agents_are = "agent is" if len(silent) == 1 else "agents are"
    output.show_done(
        {"status": "ok", "unregistered": silent}, f"{len(silent)} {agents_are} no longer registered", as_json=as_json
    )
    return 0


def survey_until_healthy(
    settings: Settings,
    wait_s: float,
    on_retry: Callable[[Sequence[str]], None],
    awaited: Collection[Agent] = (),
) -> Survey:
    """Ask every agent until all work or the time has passed, and return the last round.

    With `wait_s` 0 there is one round; `on_retry` is called with what hinders before each further one. If some are
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
            registry = _ask(settings, settings.registry_agent, client_of, deadline_s, lists=True)
            reports = _reports(settings, registry, asked, client_of, deadline_s)
            hindrances = Survey(settings, reports).hindrances()
            pause_s = min(_PAUSE_S, ends - SYSTEM_CLOCK.monotonic())
            if not hindrances or pause_s <= 0:
                break
            on_retry(hindrances)
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
                else _ask(settings, agent, client_of, deadline_s, lists=registry.failure is not None)
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


def _ask(
    settings: Settings, agent: Agent, client_of: Callable[[Agent], Client], deadline_s: float, *, lists: bool
) -> AgentReport:
    """Ask one agent everything, up to the first failure; `lists`: also for the list of what is wrong."""
    health = document = peers = registered = hosts = failure = listed = unlisted = None
    try:
        client = client_of(agent)
        document = client.call("health", deadline_s=deadline_s)
        health = read(document, HealthDocument)
        if lists:
            try:
                listed = read(client.call("get_attention", deadline_s=deadline_s), AttentionList)
            except (UnknownAction, NotGranted) as error:
                unlisted = _OLDER if isinstance(error, UnknownAction) else Failure.of(error)
        if agent == settings.registry_agent:
            registered = read(client.call("get_registered_agents", deadline_s=deadline_s), RegisteredAgents).agents
            hosts = ask_hosts(client, deadline_s)
        if settings.secure:  # on an open link nobody is authenticated, and the question is refused
            with suppress(NotGranted):  # to a program, which sees who is registered
                peers = read(client.call("get_peers", deadline_s=deadline_s), ListedPeers)
    except TwinhostError as error:
        failure = Failure.of(error)
    return AgentReport(agent, health, document, peers, registered, hosts, failure, listed, unlisted)


def _away(report: AgentReport, places: Collection[str]) -> Iterator[Trouble]:
    """Yield why an agent did not answer, if it did not; `places` begin the subjects of all agents' checks."""
    agent, host = report.agent, report.agent.host.name
    if (failure := report.failure) is not None:
        links = (f"{Kind.CHECK_FAILED}:{place}/{LINK_CHECK}" for place in places)
        yield unreachable(agent, failure.code, failure.sentence, links if agent.name == REGISTRY_AGENT else ())
    if report.health is not None and report.health.agent != agent.name:
        yield Trouble(
            kind=Kind.WRONG_AGENT,
            subject=agent.name,
            host=host,
            what=f"{agent.endpoint} is {report.health.agent}, not {agent.name}",
            level=Level.BROKEN,
            cause="network_config.yaml has another agent's address; correct it",
        )


def _failed(report: AgentReport) -> Iterator[Condition]:
    """Yield the checks of an agent that fail, if it is the one that answers at its address."""
    health = report.health
    if health is None or health.agent != report.agent.name:
        return
    fails = {name: check.detail for name, check in health.checks.items() if not check.ok}
    if health.status != "ok" and not fails:
        fails = {"status": f"its status is {health.status}, and no check says why"}
    for name, detail in fails.items():
        yield Condition(name=name, what=detail, level="error" if health.status == "error" else "degraded")


def _warned(report: AgentReport) -> Iterator[Condition]:
    """Yield what an agent warns of, except of the open link, which is a trouble of its own."""
    warnings = report.health.warnings or () if report.health else ()
    return (Condition(name=text[:80], what=text) for text in warnings if text != OPEN_LINK_WARNING)


def _hindrances(report: AgentReport, registry: AgentReport) -> Iterator[str]:
    """Yield why an agent does not work, or is not registered as one that does."""
    seen = [*_away(report, ()), *troubles_of(report.agent.host.name, _failed(report))]
    yield from (_with_cause(trouble.what, trouble.cause) for trouble in seen)
    if registry.registered is None or report is registry:
        return
    registration = _registration_of(report.agent, registry)
    if registration is None:
        yield f"{report.agent.name} is not registered"
    elif registration.status == NO_RESPONSE:
        if _answers_health(registration) or _sends_heartbeats(registration):
            yield f"{report.agent.name} sends no heartbeats"
    elif registration.status not in OK_STATUSES:
        yield f"{report.agent.name} is registered as {registration.status}"


def _unlisted(agent: Agent, why: Failure) -> Trouble:
    return Trouble(
        kind=Kind.WARNING,
        subject=f"{agent.host.name}/attention",
        host=agent.host.name,
        what=f"what {agent.name} finds is not shown",
        cause=why.sentence,
    )


def _with_cause(what: str, cause: str | None) -> str:
    return f"{what} ({cause})" if cause else what


def _document(survey: Survey, judged: AttentionList, level: Level) -> dict[str, Any]:
    """Return all for programs; `code` is that of the first failed question, else the kind of the worst trouble."""
    failures = [report.failure for report in survey.reports if report.failure]
    code = failures[0].code if failures else next((item["kind"] for item in judged["items"]), "not_ready")
    new = (item for item in judged["items"] if "acknowledged" not in item)
    sentence = "; ".join(_with_cause(item["what"], item["cause"]) for item in new)
    return {
        **output.status_of([Failure(code, sentence)] if level is Level.BROKEN else []),
        "attention": judged,
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
    parts: list[RenderableType] = [_link(survey), *_failover(survey), _agents_table(survey)]
    if survey.registry.hosts is not None:
        parts.append(machines_table(survey.registry.hosts))
    if used := [row for report in survey.reports for row in _used(report)]:
        parts.append(output.table("Budgets", ("on", "identity", "limit", "used", "of", "part"), used))
    if any(report.peers for report in survey.reports):
        parts.append(_peers_table(survey))
    if survey.registry.registered is not None and survey.registry.health is not None:
        own = survey.settings.config.agents
        first = sorted(survey.registry.registered, key=lambda agent: agent.name not in own)
        parts.append(_registrations_table(first, survey.registry.health.timestamp, _MOST_ROWS))
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


def _failover(survey: Survey) -> Iterator[Text]:
    """Yield a line for each agent with a standby: which machine is active, what follows, and how safe the log is."""
    for report in survey.reports:
        log = report.health.log if report.health else None
        if log is None or log.holder is None:
            continue
        where = f"{report.agent.name} is active on {log.holder} since {log.since} (epoch {log.epoch})"
        said = output.words(where, *_safety(log), between="; ")
        yield output.words(output.styled("Failover", output.HEADING), said)


def _safety(log: RoleDocument) -> Iterator[output.Cell]:
    if log.standbys is None:  # it has only begun
        return
    for standby in log.standbys:
        yield f"standby {standby.name} is {standby.behind} transaction{'s' * (standby.behind != 1)} behind"
    if not log.standbys:
        yield output.styled("no standby follows", output.BAD)
    if log.copies is not None:
        yield output.styled("1 copy", output.BAD) if log.copies == 1 else f"{log.copies} copies"
    if log.witness is not None:
        yield "witness well" if log.witness.answers else output.styled("witness silent", output.WARN)


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


def _registrations_table(registered: Sequence[AgentInfo], now: str, most: int | None = None) -> RenderableType:
    """One row for each agent; `now` is what ages count from.

    If there are more than `most`, all but the first that many have one row for each place and status.
    """
    shown = registered[:most]
    others: dict[tuple[str, str], list[AgentInfo]] = {}
    for agent in registered[len(shown) :]:
        others.setdefault((agent.location, agent.status), []).append(agent)
    rows: list[list[output.Cell]] = [
        [*_registration_cells(_with_registrant(agent), [agent], now), _endpoint(agent)] for agent in shown
    ]
    for group in others.values():
        name = output.styled(f"{len(group)} others: {PROGRAM} agents", output.FAINT)
        rows.append([*_registration_cells(name, group, now), "-"])
    columns = ("name", "where", "status", "seen", "endpoint")
    return output.table(f"Registered agents ({len(registered)})", columns, rows)


def _with_registrant(agent: AgentInfo) -> output.Cell:
    """Return the agent's name, and below it whose key registered it, if that is another one's."""
    if agent.registered_by == agent.name:
        return agent.name
    return output.lines(agent.name, output.styled(f"  by {agent.registered_by or '-'}", output.FAINT))


def _endpoint(agent: AgentInfo) -> str:
    return f"{agent.host}:{agent.port}" if agent.host is not None and agent.port is not None else "-"


def _registration_cells(name: output.Cell, agents: Sequence[AgentInfo], now: str) -> list[output.Cell]:
    """Return the cells of agents with one place and status; the age is that of who was seen first."""
    first = min(agents, key=lambda agent: agent.last_seen or "")
    style = output.GOOD if first.status in OK_STATUSES else output.BAD
    return [name, first.location, output.styled(first.status, style), age(first.last_seen, now)]


def _refused_handshakes(report: AgentReport) -> list[tuple[str, str, str]]:
    if report.peers is None:
        return []
    return [(report.agent.host.name, outcome, str(n)) for outcome, n in report.peers.refusals().items()]
