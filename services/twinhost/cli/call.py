"""`call`: any action of any agent, and its reply; `ping`: round trips over authenticated sessions."""

import statistics
import time
from dataclasses import asdict, dataclass
from functools import partial
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType

from twinhost.cli import output
from twinhost.cli.arguments import PROGRAM, AsJson, Deadline, RequestId, find_agent, parse_fields
from twinhost.cli.completion import actions, agents
from twinhost.cli.output import OPEN_LINK, Failure
from twinhost.cli.schemas.requests import RequestSchema, schema_from, schema_of_agent
from twinhost.deployment import Settings, load_settings
from twinhost.network_config import Agent
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError, UnexpectedReply, UnknownAction, did_you_mean


def call(
    agent: Annotated[
        str, typer.Argument(metavar="AGENT", autocompletion=agents, help="Its name, or its host's: mainpc, pc2.")
    ],
    action: Annotated[
        str, typer.Argument(metavar="ACTION", autocompletion=actions, help="`./twinhost explain AGENT` lists them.")
    ],
    pairs: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="`./twinhost explain ACTION` lists the fields."),
    ] = None,
    deadline: Deadline = None,
    request_id: RequestId = None,
    as_json: AsJson = False,
) -> int:
    """Call an action and print the reply.

    A value is sent as the type that the action's field has: user_id=42 as text, port=42 as a number,
    tags='["a"]' as a list. A field that the action does not have is sent, with a warning.
    """
    fields = parse_fields(pairs or [])  # first, so that a malformed one is reported before a file is read
    settings = load_settings()
    target = find_agent(settings.config, agent)
    with settings.client(target) as client:
        schema = _schema(client, target, deadline) if fields else None
        if schema is not None and action in schema.actions:
            fields = parse_fields(pairs or [], partial(schema.typed, action))
            _warn_of_bad_json(fields, schema.not_texts(action, fields))
            if unknown := schema.unknown(action, fields):
                advice = f"{PROGRAM} explain {target.name} {action} lists the fields"
                sentence = f"{action} has no field {', '.join(unknown)}; {target.name} ignores it; {advice}"
                output.say("warning:", output.WARN, sentence)
        try:
            reply = client.call(action, deadline_s=deadline, request_id=request_id, **fields)
        except UnknownAction:
            schema = schema or _schema(client, target, deadline)
            if schema is not None and (nearest := did_you_mean(action, schema.actions)):
                raise UnknownAction(f"{target.name} has no action {action!r}{nearest}") from None
            raise
    output.show_value(reply, as_json=as_json)
    if str(reply.get("status", "ok")).casefold() == "error":  # such as a health document of an unhealthy agent
        output.say("error:", output.BAD, f"{target.name} answered {action} with status {reply['status']}")
        return 1
    return 0


def _schema(client: Client, target: Agent, deadline: float | None) -> RequestSchema | None:
    """Return the schema of the agent's requests; None, with a warning, where it is not valid."""
    try:
        return schema_of_agent(target.name) or schema_from(client, target.name, deadline)
    except UnexpectedReply as error:
        output.say("warning:", output.WARN, f"the fields are sent as they are: {error}")
        return None


def _warn_of_bad_json(fields: dict[str, Any], wanted: dict[str, str]) -> None:
    """Name the JSON error: the agent, which gets the value as a text, can only reply that the field takes no text."""
    for name, types in wanted.items():
        try:
            msgspec.json.decode(fields[name])
        except (msgspec.MsgspecError, UnicodeError, RecursionError) as error:
            output.say("warning:", output.WARN, f"{name} takes {types}, and its value is not valid JSON: {error}")


DEFAULT_COUNT = 5
MAX_COUNT = 10_000


@dataclass(frozen=True, slots=True)
class RoundTrips:
    """Times in milliseconds; `connect_ms` is the first round trip, with the handshake."""

    count: int
    connect_ms: float
    min_ms: float
    median_ms: float
    max_ms: float


def ping(
    agent: Annotated[
        str | None, typer.Argument(metavar="AGENT", autocompletion=agents, help="One agent; all of them if omitted.")
    ] = None,
    count: Annotated[
        int, typer.Option("--count", metavar="N", min=1, max=MAX_COUNT, help="Round trips to each.")
    ] = DEFAULT_COUNT,
    as_json: AsJson = False,
) -> int:
    """Measure round trips to the agents."""
    settings = load_settings()
    targets = [find_agent(settings.config, agent)] if agent is not None else list(settings.config.agents.values())
    results = [(target, _measure(settings, target, count)) for target in targets]
    failures = [result.about(target.name) for target, result in results if isinstance(result, Failure)]
    if as_json:
        output.show_value(_document(settings, results, failures), as_json=True)
    else:
        answered = not all(isinstance(result, Failure) for _, result in results)
        output.show(_link(settings, answered=answered), _table(results))
    output.say_failures(failures)
    return 1 if failures else 0


def _measure(settings: Settings, agent: Agent, count: int) -> RoundTrips | Failure:
    try:
        with settings.client(agent) as client:
            times: list[float] = []
            for _ in range(count + 1):
                started = time.perf_counter()
                client.call("ping")
                times.append(round((time.perf_counter() - started) * 1_000, 3))
    except TwinhostError as error:
        return Failure.of(error)
    connect, *round_trips = times
    return RoundTrips(
        len(round_trips), connect, min(round_trips), round(statistics.median(round_trips), 3), max(round_trips)
    )


def _document(
    settings: Settings, results: list[tuple[Agent, RoundTrips | Failure]], failures: list[Failure]
) -> dict[str, Any]:
    return {
        **output.status_of(failures[:1]),
        "link": "encrypted" if settings.secure else "open",
        "agents": {
            agent.name: result.as_reply() if isinstance(result, Failure) else {"status": "ok", **asdict(result)}
            for agent, result in results
        },
    }


def _link(settings: Settings, *, answered: bool) -> output.Cell:
    if settings.certificates is None:
        return output.words(output.styled("LINK OPEN", output.LOUD), OPEN_LINK)
    owner = settings.certificates.own_keys.certificate.owner
    return output.words("Authenticated with CURVE as" if answered else "No agent answered", owner.name)


def _table(results: list[tuple[Agent, RoundTrips | Failure]]) -> RenderableType:
    rows: list[list[output.Cell]] = []
    for agent, result in results:
        if isinstance(result, Failure):
            cells: list[output.Cell] = [output.styled("no answer", output.BAD), *[""] * 4]
        else:
            times = (result.connect_ms, result.min_ms, result.median_ms, result.max_ms)
            cells = [str(result.count), *(f"{milliseconds:.2f}" for milliseconds in times)]
        rows.append([agent.name, agent.host.name, *cells])
    columns = ("agent", "host", "count", "connect", "min", "median", "max")
    return output.table("Round trips in milliseconds", columns, rows)
