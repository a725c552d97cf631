"""Every check in order: this host, then each agent from the wire up, then what they say of each other."""

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor

from twinhost.adversary.attack import Finding, Verdict
from twinhost.cli.connect import Settings
from twinhost.cli.doctor.answers import AgentAnswers, compare_keys
from twinhost.cli.doctor.doors import a_stranger, announce_probes, examine_doors, not_knocked
from twinhost.cli.doctor.network import PORT, RESOLVES, examine_network
from twinhost.cli.doctor.this_host import examine_this_host
from twinhost.secure_zmq.errors import TwinhostError

AGENT = "agent"
_MEND_FIRST = "what is amiss on this host comes first"
_NOBODY = "nobody is reached there"
_SILENT = "it does not answer, so it would be no proof"


def examine(environment: Mapping[str, str]) -> Iterator[Finding]:
    """Return the findings one by one, as they are made."""
    scene, findings = examine_this_host(environment)
    yield from findings
    settings = scene.settings
    if settings is None:
        agents = scene.config.agents if scene.config else ()
        yield from (Finding(AGENT, name, Verdict.NOT_PLAYED, _MEND_FIRST) for name in agents)
        return
    asked = [AgentAnswers(settings, agent) for agent in settings.config.agents.values()]
    with ThreadPoolExecutor(max(1, len(asked))) as pool:  # one that hangs costs its own time alone
        for found in pool.map(lambda answers: tuple(_examine_agent(settings, answers)), asked):
            yield from found
    if settings.secure:
        yield compare_keys([answers.report for answers in asked])


def _examine_agent(settings: Settings, answers: AgentAnswers) -> Iterator[Finding]:
    agent, reached, stranger = answers.agent, True, a_stranger()
    announce_probes(settings, agent, stranger)
    for finding in examine_network(agent, settings.secure):
        reached = reached and not (finding.check in (RESOLVES, PORT) and finding.verdict is Verdict.FAILED)
        yield finding
    if not reached:
        yield Finding(AGENT, agent.name, Verdict.NOT_PLAYED, _NOBODY)
        return
    try:
        yield from answers.examine()
        yield from not_knocked(agent, _SILENT) if answers.silent else examine_doors(settings, agent, stranger)
    except TwinhostError as error:  # its public key is missing here, say
        yield Finding(AGENT, agent.name, Verdict.FAILED, str(error))
