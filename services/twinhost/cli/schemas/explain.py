"""`explain`: what an agent can be asked, with which fields.

No agent of this project is asked, and no key is needed; another agent is asked for its schema.
"""

import shlex
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import RenderableType

import twinhost
from twinhost.certificates.layout import AGENT_ROLE
from twinhost.cli import output
from twinhost.cli.arguments import PROGRAM, AsJson, find_agent
from twinhost.cli.completion import agents_and_actions
from twinhost.cli.output import printable, to_json
from twinhost.cli.schemas.requests import Field, RequestSchema, schema_from, schema_of_agent
from twinhost.deployment import MEMORY_AGENT, REGISTRY_AGENT, load_settings
from twinhost.network_config import Agent, NetworkConfig, load_network_config
from twinhost.secure_zmq.callers import (
    CHECK_SUBSCRIPTION,
    EVERY_ACTION,
    INVITATION_ROLE,
    RESERVED_GRANTS,
    SUBSCRIBE,
    UNAUTHENTICATED,
    Caller,
    Grants,
    own_grant,
    topic_grant,
)
from twinhost.secure_zmq.certificates import client_folder, load_certificates
from twinhost.secure_zmq.errors import ConfigurationError, TwinhostError, did_you_mean
from twinhost.secure_zmq.server_address import is_secure_zmq_enabled

_SHIPPED_CONFIG = Path(twinhost.__file__).with_name("testing") / "network_config.yaml"
_WORDS_HELP = "An agent, an action, or both; without any, every action of every agent."
_UNNAMED_DEADLINE_S = 1.0  # for each agent that is asked only because no agent was named


def explain(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="[AGENT] [ACTION]", autocompletion=agents_and_actions, help=_WORDS_HELP),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Show an action's fields and an example, or list the actions.

    A field is shown with its types, bounds, and default.
    """
    config = load_network_config()
    schemas, action = _selected(words or [], config)
    reader = Asker.of(config)
    if as_json:
        output.show_value({"status": "ok", "agents": _document(schemas, action, reader)}, as_json=True)
    elif action is None:
        output.show(*(_actions_table(agent, schema) for agent, schema in schemas.items()))
    else:
        for number, (agent, schema) in enumerate(schemas.items()):
            output.show(*([""] if number else []), *_action_view(agent, schema, action, reader.needs(agent, action)))
            example = schema.example(action, reader.own_name)
            output.show_line(printable(example_command(agent, action, example)))  # unwrapped, to copy
    return 0


@dataclass(frozen=True, slots=True)
class Asker:
    """Who reads, as the key that `call` would use says; without a key, an agent that is not named yet."""

    caller: Caller
    grants: Mapping[str, Set[str]]  # those of the configuration, or as shipped where it has none, as in a profile
    shipped: bool

    @classmethod
    def of(cls, config: NetworkConfig) -> "Asker":
        """Return the reader on this machine."""
        grants = config.grants or load_network_config(_SHIPPED_CONFIG, {}).grants
        caller = Caller("", "", frozenset({AGENT_ROLE}), "")
        try:
            if is_secure_zmq_enabled():
                keys = load_certificates(client_folder()).own_keys
                owner = keys.certificate.owner
                caller = Caller(owner.name, owner.host, owner.roles, keys.public.fingerprint)
            else:
                caller = UNAUTHENTICATED
        except ConfigurationError:
            pass
        return cls(caller, grants, not config.grants)

    @property
    def own_name(self) -> str | None:
        """The name that fields have which name the caller; None for one that may act for every agent."""
        return None if self.caller.operator or not self.caller.fingerprint else self.caller.name

    def needs(self, agent: str, action: str) -> str:
        """Return what an action needs that the reader does not have; empty if there is nothing."""
        if action in RESERVED_GRANTS[INVITATION_ROLE]:
            return "the one-time key of an invitation"
        granted = Grants(self.grants)
        # The feed's own grants decide about a topic; the example's is EVENT.
        wanted = {SUBSCRIBE, topic_grant("EVENT")} if action == CHECK_SUBSCRIPTION else {action, own_grant(action)}
        if any(granted.allows(self.caller, grant) for grant in wanted):
            return ""
        if self.shipped and agent not in (REGISTRY_AGENT, MEMORY_AGENT):  # only its own configuration says
            return ""
        roles = sorted(role for role, actions in self.grants.items() if actions & {*wanted, EVERY_ACTION})
        return f"a key with the role {' or '.join(roles)}" if roles else "a grant in network_config.yaml"


def example_command(agent: str, action: str, fields: Mapping[str, Any]) -> str:
    """Return the command that calls an action with these fields."""
    texts = {name: value if isinstance(value, str) else to_json(value) for name, value in fields.items()}
    return " ".join([PROGRAM, "call", agent, action, *(shlex.quote(f"{name}={text}") for name, text in texts.items())])


def _selected(words: list[str], config: NetworkConfig) -> tuple[dict[str, RequestSchema], str | None]:
    """Return the schemas that the words select, by agent, and the action."""
    if len(words) > 2:
        raise typer.BadParameter(
            f"{words[2]!r} is a third argument; name an agent and an action", param_hint="[AGENT] [ACTION]"
        )
    schemas = {name: schema for name in config.agents if (schema := schema_of_agent(name)) is not None}
    schemas |= _schemas_of_others(
        [agent for name, agent in config.agents.items() if name not in schemas], config, words
    )
    action = words[-1] if words else None
    if len(words) == 1 and not any(action in schema.actions for schema in schemas.values()):
        if nearest := did_you_mean(words[0], {name for schema in schemas.values() for name in schema.actions}):
            raise typer.BadParameter(
                f"there is no agent and no action {words[0]!r}{nearest}", param_hint="[AGENT] [ACTION]"
            )
        words, action = [words[0], ""], None  # no action, so it must be an agent
    if len(words) == 2:
        agent = find_agent(config, words[0]).name
        if agent not in schemas:
            raise typer.BadParameter(f"{agent} returns no schema; see its own documentation", param_hint="AGENT")
        schemas = {agent: schemas[agent]}
    if action is None:
        return schemas, None
    having = {name: schema for name, schema in schemas.items() if action in schema.actions}
    if not having:
        agent, known = next(iter(schemas)), next(iter(schemas.values())).actions
        advice = did_you_mean(action, known) or f"; its actions: {', '.join(known)}"
        raise typer.BadParameter(f"{agent} has no action {action!r}{advice}", param_hint="ACTION")
    return having, action


def _schemas_of_others(
    agents: Sequence[Agent], config: NetworkConfig, words: Sequence[str]
) -> dict[str, RequestSchema]:
    """Return the schemas of agents outside this project, or of the one that the words name, which must be reachable."""
    schemas: dict[str, RequestSchema] = {}
    first = words[0].casefold() if words else ""
    named = [agent for agent in config.agents.values() if first in (agent.name.casefold(), agent.host.name.casefold())]
    for agent in [agent for agent in agents if not named or agent in named]:
        try:
            with load_settings().client(agent) as client:
                schema = schema_from(client, agent.name, None if named else _UNNAMED_DEADLINE_S)
        except TwinhostError as error:
            if named:
                raise
            output.say("warning:", output.WARN, f"{agent.name} was not asked for its schema: {error}")
            continue
        if schema is not None:
            schemas[agent.name] = schema
    return schemas


def _document(schemas: Mapping[str, RequestSchema], action: str | None, reader: Asker) -> dict[str, Any]:
    return {
        agent: {
            name: {
                "description": schema.description(name),
                "fields": [_field_document(field) for field in schema.fields(name)],
                "example": schema.example(name, reader.own_name),
                "needs": reader.needs(agent, name) or None,
            }
            for name in ([action] if action else schema.actions)
        }
        for agent, schema in schemas.items()
    }


def _field_document(field: Field) -> dict[str, Any]:
    document = {"name": field.path, "type": field.types, "bounds": field.bounds, "required": field.required}
    return document if field.default is msgspec.UNSET else {**document, "default": field.default}


def _actions_table(agent: str, schema: RequestSchema) -> RenderableType:
    rows = [(action, schema.description(action).partition("\n")[0]) for action in schema.actions]
    return output.table(f"{agent} ({len(rows)} actions)", ("action", "description"), rows, whole=("description",))


def _action_view(agent: str, schema: RequestSchema, action: str, needs: str) -> list[RenderableType]:
    rows = [
        (
            field.path,
            field.types,
            field.bounds,
            "required" if field.required else "" if field.default is msgspec.UNSET else to_json(field.default),
        )
        for field in schema.fields(action)
    ]
    return [
        output.lines(output.styled(f"{action} of {agent}", output.HEADING), *schema.description(action).split("\n")),
        output.table("Fields", ("field", "type", "bounds", "default"), rows, whole=("bounds",)),
        output.styled(f"Example, which needs {needs}" if needs else "Example", output.HEADING),
    ]
