"""`attention`: what is wrong, and how it is acknowledged. `status` shows the same list first."""

import shlex
from collections.abc import Iterator
from contextlib import suppress
from typing import Annotated

import typer
from rich.console import RenderableType
from rich.text import Text

from twinhost.agent.asked_lists import NO_ANSWER, unreachable, with_found
from twinhost.agent.troubles import AttentionItem, AttentionList, Level, consequences
from twinhost.cli import output
from twinhost.cli.arguments import PROGRAM, AsJson, find_agent
from twinhost.cli.output import Failure, read
from twinhost.deployment import MEMORY_AGENT, Settings, load_settings
from twinhost.network_config import Agent
from twinhost.secure_zmq.errors import ServerUnreachable, TwinhostError

attention = typer.Typer()
_STYLES = {Level.BROKEN: output.BAD, Level.ATTENTION: output.WARN, Level.WELL: output.GOOD}


@attention.callback(invoke_without_command=True)
def list_troubles(context: typer.Context, as_json: AsJson = False) -> int:
    """List what is wrong, or acknowledge an item.

    While mainpc does not answer, the list is that of pc2, which watches it.

    Exit status: 0 well, 1 attention, 2 broken, or nobody answers; what is acknowledged does not count.
    """
    if context.invoked_subcommand is not None:
        return 0
    try:
        judged, listed = _ask(load_settings())
    except TwinhostError as error:
        output.show_failure(Failure.of(error), as_json=as_json)
        return Level.BROKEN
    if as_json:
        output.show_value({"status": "ok", **judged}, as_json=True)
    else:
        output.show(*shown(judged, judged["as_of"], listed))
    return Level.of(judged["level"])


def _ask(settings: Settings) -> tuple[AttentionList, AttentionList | None]:
    """Return the list of mainpc, twice; or that of pc2 with the failure to ask mainpc, and None."""

    def of(agent: Agent) -> AttentionList:
        with settings.client(agent) as client:
            return read(client.call("get_attention"), AttentionList)

    registry = settings.registry_agent
    try:
        listed = of(registry)
    except ServerUnreachable as error:
        with suppress(TwinhostError):
            listed = of(find_agent(settings.config, MEMORY_AGENT))
            return with_found(listed, [unreachable(registry, NO_ANSWER, str(error))], listed["as_of"]), None
        raise
    return listed, listed


@attention.command("acknowledge")
def acknowledge(
    name: Annotated[str, typer.Argument(metavar="ID", help="As `attention` and `status` show it.")],
    as_json: AsJson = False,
) -> int:
    """Acknowledge an item.

    Until it gets worse, or ends, it comes last and counts no more.
    """
    settings = load_settings()
    with settings.client(settings.registry_agent) as client:
        reply = client.call("acknowledge_trouble", id=name)
    output.show_done(reply, f"{name} is acknowledged, until it gets worse or ends", as_json=as_json)
    return 0


def shown(judged: AttentionList, now: str, listed: AttentionList | None) -> list[RenderableType]:
    """Return the headline, and what each item is, for people.

    Args:
        judged: what `with_found` returned.
        now: what ages count from.
        listed: what mainpc can acknowledge; None if it was not asked.
    """
    known = {item["id"] for item in listed["items"]} if listed else set()
    parts: list[RenderableType] = [
        output.unfolded(output.styled(judged["headline"], _STYLES[Level.of(judged["level"])]))
    ]
    return parts + [output.unfolded(*_lines(item, now, item["id"] in known)) for item in judged["items"]]


def _lines(item: AttentionItem, now: str, acknowledgeable: bool) -> Iterator[Text]:
    settled = item.get("acknowledged")
    word = (
        output.styled("acknowledged:", output.FAINT)
        if settled
        else output.styled(f"{item['level']}:", _STYLES[Level.of(item["level"])])
    )
    yield output.words(word, item["what"])
    yield _line("since", f"{item['since']}, {output.age(item['since'], now)}")
    if known_at := item.get("last_known"):  # on pc2's list, while mainpc is silent
        yield _line("mainpc said so last", f"{known_at}, {output.age(str(known_at), now)}")
    if item["cause"]:
        yield _line("because", item["cause"])
    for other in consequences(item):
        if not item["cause"] or item["cause"] not in other["what"]:  # else it says nothing more
            yield _line("so", other["what"])
    for remedy in item["remedies"]:
        yield _line(f"on {remedy['on']}", _command(remedy["command"], remedy["why"]))
    if settled:
        yield _line("acknowledged by", f"{settled['by']}, {output.age(settled['at'], now)}")
    elif acknowledgeable:
        yield _line("to acknowledge", f"{PROGRAM} attention acknowledge {shlex.quote(item['id'])}")


def _line(name: str, content: str) -> Text:
    return output.words(" ", output.styled(f"{name}:", output.FAINT), content)


def _command(command: str, why: str) -> str:
    """Return a command as this program is called here, with what it does as a shell's comment."""
    if command.startswith("./twinhost "):
        command = f"{PROGRAM} {command.removeprefix('./twinhost ')}"
    return f"{command}  # {why}" if command and why else command or why
