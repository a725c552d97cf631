"""`doctor`: examine a running deployment, or attack it."""

import os
from collections.abc import Iterable, Iterator
from typing import Annotated

import typer

from twinhost.adversary.attack import Finding, Target, failed
from twinhost.adversary.campaign import play_all
from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.connect import Settings, load_settings
from twinhost.cli.doctor.examination import examine
from twinhost.cli.report import Format, show_report
from twinhost.network_config import Agent

FORMAT = typer.Option("--format", help="How the report is written to stdout.")
INTRUDER = typer.Option("--intruder", help="Attack both agents instead, as far as it can be done from outside.")


def doctor(
    intruder: Annotated[bool, INTRUDER] = False,
    form: Annotated[Format, FORMAT] = Format.TEXT,
    as_json: AsJson = False,
) -> int:
    """Examine this host and both agents: a table of checks, each with what to do.

    With --intruder it plays the adversary against the configured agents, and nobody else: some 20
    attacks each, bounded in number and time, with a proof after each that good clients are served.
    It takes a minute or two, and the agents' logs and the audit log tell of it.

    Exit status 1 if a check failed, or an attack came through.
    """
    form = Format.JSON if as_json else form
    findings = _told(_attack(load_settings()) if intruder else examine(os.environ), quiet=form is not Format.TEXT)
    show_report("Intruder" if intruder else "Examination", findings, form)
    return 1 if failed(findings) else 0


def target_of(settings: Settings, agent: Agent) -> Target:
    """Return an agent of the configuration as a target of attacks, with this host's own key."""
    own_keys = settings.certificates.own_keys if settings.certificates else None
    return Target(agent, settings.config, own_keys, lambda: settings.pins(agent))


def _attack(settings: Settings) -> Iterator[Finding]:
    for agent in settings.config.agents.values():
        yield from play_all(target_of(settings, agent))


def _told(findings: Iterable[Finding], *, quiet: bool) -> list[Finding]:
    """Return them all, and meanwhile say which were made: some take seconds."""
    made: list[Finding] = []
    for finding in findings:
        made.append(finding)
        if finding.proves and not quiet:
            output.say(f"{finding.verdict}:", output.FAINT, f"{finding.check} on {finding.where}")
    return made
