"""`status`: both agents, the link between them, who is connected as whom, and who is registered."""

from collections.abc import Sequence
from typing import Any

import msgspec
from rich.console import RenderableType
from rich.text import Text

from twinhost.agent.health import OPEN_LINK as OPEN_LINK_WARNING
from twinhost.cli import output
from twinhost.cli.agents import registrations_table
from twinhost.cli.arguments import AsJson, Wait
from twinhost.cli.connect import OPEN_LINK, load_settings
from twinhost.cli.documents import age, duration
from twinhost.cli.failures import Failure
from twinhost.cli.survey import AgentReport, Survey, survey_until_healthy


def status(wait: Wait = 0.0, as_json: AsJson = False) -> int:
    """Show both agents, the link, and who is connected.

    Exit status 1 if an agent does not answer, is not well, or is not registered.
    """
    progress = _Progress(quiet=as_json)
    survey = survey_until_healthy(load_settings(), wait, progress.show)
    failures = survey.failures()
    if as_json:
        output.show_value(_document(survey, failures), as_json=True)
    else:
        output.show(*_view(survey))
    for failure in failures:
        output.say("error", output.BAD, f"[{failure.code}]: {failure.sentence}")
    return 1 if failures else 0


class _Progress:
    """Says on stderr what is waited for, whenever that changes."""

    def __init__(self, *, quiet: bool) -> None:
        self._quiet = quiet
        self._shown = ""

    def show(self, failures: Sequence[Failure]) -> None:
        sentence = failures[0].sentence
        if not self._quiet and sentence != self._shown:
            output.say("waiting:", output.FAINT, sentence)
        self._shown = sentence


def _document(survey: Survey, failures: Sequence[Failure]) -> dict[str, Any]:
    verdict: dict[str, Any] = {"status": "ok"}
    if failures:
        verdict = Failure(failures[0].code, "; ".join(failure.sentence for failure in failures)).as_reply()
    return {
        **verdict,
        "link": "encrypted" if survey.settings.secure else "open",
        "agents": {report.agent.name: _agent_document(report) for report in survey.reports},
        "registered_agents": msgspec.to_builtins(survey.registry.registered),
    }


def _agent_document(report: AgentReport) -> dict[str, Any]:
    return {
        "host": report.agent.host.name,
        "endpoint": report.agent.endpoint,
        "health": report.document,
        "peers": msgspec.to_builtins(report.peers.peers) if report.peers else None,
        "handshakes": report.peers.handshakes if report.peers else None,
        "failure": report.failure.as_reply() if report.failure else None,
    }


def _view(survey: Survey) -> list[RenderableType]:
    parts: list[RenderableType] = [_link(survey), _agents_table(survey)]
    if warnings := [row for report in survey.reports for row in _warnings(report)]:
        parts.append(output.table("Warnings", ("on", "what"), warnings, whole=("what",)))
    if any(report.peers for report in survey.reports):
        parts.append(_peers_table(survey))
    if survey.registry.registered is not None and survey.registry.health is not None:
        parts.append(registrations_table(survey.registry.registered, survey.registry.health.timestamp))
    if refused := [row for report in survey.reports for row in _refused_handshakes(report)]:
        parts.append(output.table("Handshakes refused since the agent's start", ("on", "cause", "count"), refused))
    return parts


def _link(survey: Survey) -> Text:
    certificates = survey.settings.certificates
    if certificates is None:
        return output.lines(
            output.words(output.styled("LINK OPEN", output.LOUD), OPEN_LINK),
            "operator's actions are refused; SECURE_ZMQ=1 in .env closes the link",
        )
    asked_as = certificates.own_keys.certificate.owner.name
    if not any(report.health for report in survey.reports):
        return output.words(output.styled("Link", output.HEADING), f"no agent answered {asked_as}")
    return output.words(
        output.styled("Link", output.HEADING), f"encrypted and authenticated with CURVE, asked as {asked_as}"
    )


def _agents_table(survey: Survey) -> RenderableType:
    rows: list[list[output.Cell]] = []
    for report in survey.reports:
        health = report.health
        cells: list[output.Cell] = [output.styled("no answer", output.BAD), "-", "-"]
        if health is not None:
            well = health.status == "ok" and health.ready
            link = "CURVE" if health.secure else output.styled("OPEN", output.LOUD)
            cells = [output.styled(health.status, output.GOOD if well else output.BAD), duration(health.uptime_s), link]
        rows.append(
            [report.agent.name, report.agent.host.name, report.agent.host.authority(report.agent.zmq_port), *cells]
        )
    return output.table("Agents", ("agent", "host", "endpoint", "health", "uptime", "link"), rows)


def _warnings(report: AgentReport) -> list[tuple[str, Text]]:
    """What somebody should do in time; that the link is open is said first, and once."""
    sentences = report.health.warnings if report.health else ()
    host = report.agent.host.name
    return [(host, output.styled(sentence, output.WARN)) for sentence in sentences if sentence != OPEN_LINK_WARNING]


def _peers_table(survey: Survey) -> RenderableType:
    """One row for each key, whichever agents list it; the fingerprint stands below the name."""
    seen: dict[tuple[str, str, tuple[str, ...], str], list[tuple[str, str]]] = {}
    for report in survey.reports:
        if report.peers is None or report.health is None:
            continue
        for peer in report.peers.peers:
            sessions = seen.setdefault((peer.name, peer.host, peer.roles, peer.fingerprint), [])
            if peer.sessions or peer.last_seen:
                heard = age(peer.last_seen, report.health.timestamp)
                sessions.append((f"{peer.sessions} on {report.agent.host.name}", heard))
    rows = []
    for (name, host, roles, fingerprint), sessions in seen.items():
        counts, ages = zip(*sessions or [("none", "never")], strict=True)
        cells = (name, host, ", ".join(roles), output.lines(*counts), output.lines(*ages))
        rows.append((cells, output.styled(fingerprint, output.FAINT)))
    columns = ("identity and key", "host", "role", "sessions", "last heard")
    return output.records("Who authenticated as whom", columns, rows)


_NO_REFUSALS = {"accepted", "announced_probe"}  # what doctor announced was refused as it should be


def _refused_handshakes(report: AgentReport) -> list[tuple[str, str, str]]:
    if report.peers is None:
        return []
    counts = report.peers.handshakes.items()
    return [(report.agent.host.name, outcome, str(n)) for outcome, n in counts if outcome not in _NO_REFUSALS and n]
