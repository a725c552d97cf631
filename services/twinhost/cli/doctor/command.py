"""`doctor`: examine a running deployment, or attack it."""

import os
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from enum import StrEnum
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated, Any
from xml.etree import ElementTree

import typer
from rich.console import RenderableType
from rich.text import Text

from twinhost.adversary.attack import AttackedAgent, Finding, Verdict
from twinhost.adversary.campaign import play_against, play_all
from twinhost.adversary.members import ATTACKS as MEMBERS_ATTACKS
from twinhost.adversary.members import INSIDER_ROLE, AttackedByMember, tidied_up
from twinhost.certificates.bundle import MAX_LINE_CHARACTERS, parse_invitation
from twinhost.certificates.join import join
from twinhost.certificates.layout import AGENT_ROLE
from twinhost.certificates.profile import AUTHORISED_WITHIN_S, program_layout
from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.doctor.checks import (
    EVERYWHERE,
    NEEDS_OPERATOR,
    AgentAnswers,
    compare_keys,
    examine_this_host,
    refusals_counted,
)
from twinhost.cli.doctor.link import (
    PORT,
    RESOLVES,
    examine_network,
    examine_refusals,
    refusals_not_tried,
    where_it_answers,
)
from twinhost.cli.output import Failure, printable
from twinhost.cli.standalone import read_line
from twinhost.cli.status import own_sockets
from twinhost.deployment import Settings, load_settings
from twinhost.network_config import Agent
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError, NotAuthorized, TwinhostError
from twinhost.secure_zmq.keys import KeyPair

AGENT, CAUSED = "agent", "refusals it caused"
_HOST_FIRST = "correct this host's findings first"
_UNREACHED = "it can't be reached"
_AGAIN_AFTER_S = 0.2
_SILENT = "it does not answer, so a refusal can't be tested"
FORMAT = typer.Option("--format", help="The report's format on stdout.")
INTRUDER = typer.Option("--intruder", help="Attack both agents instead, as far as this is possible from outside.")
INSIDER = typer.Option(
    "--insider", help="Attack them as a member, whose invitation is read from standard input (./twinhost makes it)."
)
_STYLES: Mapping[Verdict, str] = {
    Verdict.OK: output.GOOD,
    Verdict.WARNING: output.WARN,
    Verdict.FAILED: output.BAD,
    Verdict.NOT_PLAYED: output.FAINT,
}


class Format(StrEnum):
    """A report's format."""

    TEXT = "text"
    JSON = "json"
    JUNIT = "junit"


def doctor(
    intruder: Annotated[bool, INTRUDER] = False,
    insider: Annotated[bool, INSIDER] = False,
    form: Annotated[Format, FORMAT] = Format.TEXT,
    as_json: AsJson = False,
) -> int:
    """Examine this host and both agents.

    The report is a table of checks, each with what to do. At its end it says how many refusals it caused, which
    `status`, the page, and the audit log show like any others.

    With --intruder it attacks the configured agents, and nothing else: some 20 attacks on each, bounded in number and
    time, each followed by a check that authorised clients are served. It takes a minute or two, and the agents' logs
    and the audit log record it.

    With --insider it attacks them with an authorised key: one that is made for this, with the role `insider`, whose
    budgets are small, and its own space in the memory. This host's key, an operator's, is the neighbour that must not
    be harmed. `./twinhost doctor --insider` makes that key and revokes it in the end. What is stored is removed, but
    for some error reports of the type InsiderTest, and events that expire within a minute.

    Exit status 1 if a check failed, or an attack succeeded.
    """
    if intruder and insider:
        raise typer.BadParameter("give one of them; each is a separate run", param_hint="--insider")
    form = Format.JSON if as_json else form
    title, made = "Examination", examine
    if intruder:
        title, made = "Intruder", _attack
    elif insider:
        title, made = "Insider", _attack_as_member
    findings = _collected(made(os.environ), quiet=form is not Format.TEXT)
    show_report(title, findings, form)
    return 1 if _failed(findings) else 0


def target_of(settings: Settings, agent: Agent) -> AttackedAgent:
    """Return an agent of the configuration as a target of attacks, with this host's own key."""
    own_keys = settings.certificates.own_keys if settings.certificates else None
    return AttackedAgent(agent, settings.config, own_keys, lambda: settings.pins(agent))


def _attack(environment: Mapping[str, str]) -> Iterator[Finding]:
    settings = load_settings(environment)
    agents = [where_it_answers(agent) for agent in settings.config.agents.values()]
    played = (finding for agent in agents for finding in play_all(target_of(settings, agent)))
    yield from _counting(settings, agents, played)


def _attack_as_member(environment: Mapping[str, str]) -> Iterator[Finding]:
    settings = load_settings(environment)
    if settings.certificates is None:
        raise ConfigurationError("SECURE_ZMQ=0: there are no keys, so every caller is one; set SECURE_ZMQ=1")
    keys = _enrolled(settings, read_line("The line that certs-init invite printed: ", MAX_LINE_CHARACTERS + 2))
    name = settings.certificates.own_keys.certificate.owner.name
    targets = [
        AttackedByMember(
            agent, settings.config, keys, partial(settings.pins, agent), partial(settings.client, agent), name
        )
        for agent in map(where_it_answers, settings.config.agents.values())
    ]
    for target in targets:
        with target.client() as client:
            _wait_until_authorised(client)
    with tidied_up(targets):
        for target in targets:
            yield from play_against(target, MEMBERS_ATTACKS)


def _wait_until_authorised(client: Client) -> None:
    """Call an agent that may not know the key yet: mainpc tells it the others within a heartbeat."""
    until = time.monotonic() + AUTHORISED_WITHIN_S
    while time.monotonic() < until:
        with suppress(NotAuthorized):
            client.call("ping")
            return
        time.sleep(_AGAIN_AFTER_S)
    client.call("ping")


def _enrolled(settings: Settings, line: str) -> KeyPair:
    """Enrol a member by an invitation, and return its key, which is kept nowhere."""
    server = settings.registry_agent
    invitation = replace(parse_invitation(line), authorities=tuple(server.authorities))
    with TemporaryDirectory() as folder:
        join(program_layout(Path(folder)), invitation, may_replace=False)
        keys = load_certificates(Path(folder)).own_keys
    owner = keys.certificate.owner
    if owner.roles != {AGENT_ROLE, INSIDER_ROLE}:
        raise ConfigurationError(
            f"{owner.name} was invited with the roles {' '.join(sorted(owner.roles))}; an insider's are {AGENT_ROLE} "
            f"and {INSIDER_ROLE}: ./twinhost doctor --insider invites it so"
        )
    return keys


def _counting(settings: Settings, agents: Iterable[Agent], findings: Iterable[Finding]) -> Iterator[Finding]:
    """Return the findings, and at last how many refusals the agents counted meanwhile."""
    if not settings.secure:
        yield from findings
        return
    before = refusals_counted(settings, agents)
    yield from findings
    after = refusals_counted(settings, agents)
    caused = {name: after[name] - count for name, count in before.items() if after.get(name, 0) >= count}
    if caused:
        counted = ", ".join(f"{name} counted {count}" for name, count in caused.items())
        sentence = f"{counted} while this ran; subtract them from those in `status`, on the page, and in the audit log"
        yield Finding(CAUSED, EVERYWHERE, Verdict.OK, sentence)
    else:
        yield Finding(CAUSED, EVERYWHERE, Verdict.NOT_PLAYED, NEEDS_OPERATOR)


def _collected(findings: Iterable[Finding], *, quiet: bool) -> list[Finding]:
    """Return all findings, and report progress meanwhile: some take seconds."""
    made: list[Finding] = []
    for finding in findings:
        made.append(finding)
        if finding.proves and not quiet:
            output.say(f"{finding.verdict}:", output.FAINT, f"{finding.check} on {finding.where}")
    return made


def examine(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Return the findings one by one, as they are made."""
    scene, findings = examine_this_host(environment)
    yield from findings
    settings = scene.settings
    if settings is None:
        agents = scene.config.agents if scene.config else ()
        yield from (Finding(AGENT, name, Verdict.NOT_PLAYED, _HOST_FIRST) for name in agents)
        return
    makers = own_sockets(settings)
    asked = [
        AgentAnswers(settings, agent, own_sockets=agent.name in makers) for agent in settings.config.agents.values()
    ]
    yield from _counting(
        settings, [answers.agent for answers in asked if not answers.own_sockets], _examine_agents(settings, asked)
    )


def _examine_agents(settings: Settings, asked: Sequence[AgentAnswers]) -> Iterator[Finding]:
    with ThreadPoolExecutor(max(1, len(asked))) as pool:  # an agent that hangs delays no other
        for of_agent in pool.map(lambda answers: tuple(_examine_agent(settings, answers)), asked):
            yield from of_agent
    if settings.secure:
        yield compare_keys([answers.report for answers in asked if not answers.own_sockets])


def _examine_agent(settings: Settings, answers: AgentAnswers) -> Iterator[Finding]:
    agent, reached = where_it_answers(answers.agent), True
    for finding in examine_network(agent, settings.secure):
        reached = reached and not (finding.check in (RESOLVES, PORT) and finding.verdict is Verdict.FAILED)
        yield finding
    if not reached:
        yield Finding(AGENT, agent.name, Verdict.NOT_PLAYED, _UNREACHED)
        return
    try:
        yield from answers.examine()
        yield from refusals_not_tried(agent, _SILENT) if answers.silent else examine_refusals(settings, agent)
    except TwinhostError as error:  # such as: its public key is missing here
        yield Finding(AGENT, agent.name, Verdict.FAILED, str(error))


def show_report(title: str, findings: Sequence[Finding], form: Format) -> None:
    """Write a report to stdout."""
    if form is Format.JSON:
        output.show_value(_as_document(findings), as_json=True)
    elif form is Format.JUNIT:
        output.show_line(_as_junit(title, findings))
    else:
        output.show(
            *map(_table, _by_place(findings)),
            output.words(output.styled(f"{title}:", output.HEADING), _summary(findings)),
        )


def _failed(findings: Sequence[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.verdict is Verdict.FAILED]


def _by_place(findings: Sequence[Finding]) -> list[Sequence[Finding]]:
    places: dict[str, list[Finding]] = {}
    for finding in findings:
        places.setdefault(finding.where, []).append(finding)
    return list(places.values())


def _counted(findings: Sequence[Finding]) -> dict[Verdict, int]:
    counts = Counter(finding.verdict for finding in findings)
    return {verdict: counts[verdict] for verdict in Verdict}


def _summary(findings: Sequence[Finding]) -> Text:
    parts = [output.styled(f"{count} {verdict}", _STYLES[verdict]) for verdict, count in _counted(findings).items()]
    return Text(", ").join(parts)


def _as_document(findings: Sequence[Finding]) -> dict[str, Any]:
    failures = [
        Failure("examination_failed", f"{finding.check} on {finding.where}: {finding.sentence}")
        for finding in _failed(findings)
    ]
    return {
        **output.status_of(failures),
        "summary": {name.value.replace(" ", "_"): count for name, count in _counted(findings).items()},
        "checks": [_entry(finding) for finding in findings],
    }


def _as_junit(title: str, findings: Sequence[Finding]) -> str:
    """Return JUnit XML: a suite for each place, a case for each check."""
    root = ElementTree.Element("testsuites", {"name": title, **_totals(findings)})
    for here in _by_place(findings):
        took_s = f"{sum(finding.took_s for finding in here):.3f}"
        attributes = {"name": printable(here[0].where), **_totals(here), "errors": "0", "time": took_s}
        suite = ElementTree.SubElement(root, "testsuite", attributes)
        for finding in here:
            _add_case(suite, finding)
    ElementTree.indent(root)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode")


def _totals(findings: Sequence[Finding]) -> dict[str, str]:
    counts = _counted(findings)
    failed, skipped = counts[Verdict.FAILED], counts[Verdict.NOT_PLAYED]
    return {"tests": str(len(findings)), "failures": str(failed), "skipped": str(skipped)}


def _table(findings: Sequence[Finding]) -> RenderableType:
    rows = [
        (finding.check, output.styled(finding.verdict, _STYLES[finding.verdict]), finding.sentence)
        for finding in findings
    ]
    return output.table(printable(findings[0].where), ("check", "verdict", "finding"), rows, whole=("finding",))


def _entry(finding: Finding) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "check": finding.check,
        "where": finding.where,
        "verdict": finding.verdict.value,
        "sentence": finding.sentence,
    }
    if finding.proves:
        entry |= {"proves": finding.proves, "took_s": round(finding.took_s, 3)}
    return entry


def _add_case(suite: ElementTree.Element, finding: Finding) -> None:
    case = ElementTree.SubElement(
        suite,
        "testcase",
        name=printable(finding.check),
        classname=printable(finding.where),
        time=f"{finding.took_s:.3f}",
    )
    sentence = printable(finding.sentence)
    if finding.verdict is Verdict.FAILED:
        ElementTree.SubElement(case, "failure", message=sentence)
    elif finding.verdict is Verdict.NOT_PLAYED:
        ElementTree.SubElement(case, "skipped", message=sentence)
    else:
        ElementTree.SubElement(case, "system-out").text = f"{finding.verdict.value}: {sentence}"
