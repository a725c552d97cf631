"""`switchover` and `promote`: which process of an agent is active, as an operator asks for it.

Both run where an agent's process runs, since they ask its log in PostgreSQL: `./twinhost` runs them in its container.
"""

import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from twinhost.cli import output
from twinhost.cli.arguments import AsJson, find_agent
from twinhost.cli.completion import agents
from twinhost.network_config import load_network_config
from twinhost.network_config.load import DATABASE_VARIABLE, process_name
from twinhost.secure_zmq.errors import ConfigurationError, StoreUnavailable

if TYPE_CHECKING:  # psycopg is not everywhere
    from twinhost.store.replication.turns import Turn, Turns

AgentName = Annotated[str, typer.Argument(metavar="AGENT", help="Its name or its host's.", autocompletion=agents)]
To = Annotated[
    str | None,
    typer.Option("--to", metavar="NAME", help="The process that is to be active: the name of its container."),
]
OtherMachineIsOff = Annotated[
    bool,
    typer.Option(
        "--other-machine-is-off", help="With `database` as AGENT: an operator has looked, and the other machine is off."
    ),
]


def switchover(agent: AgentName = "SystemDigitalTwin", to: To = None, as_json: AsJson = False) -> int:
    """Have the standby of an agent be active in its place.

    The active process sends its last replies and ends; it is started again, and stands by.
    """
    return _ask(agent, lambda turns: turns.switch_over(to or ""), as_json=as_json)


def promote(
    agent: AgentName = "SystemDigitalTwin",
    to: To = None,
    other_machine_is_off: OtherMachineIsOff = False,
    as_json: AsJson = False,
) -> int:
    """Have the standby of an agent be active if no process is.

    It is refused while one is, or was in the last seconds. Of two machines without a third, `promote database` has this
    one's database take writes.
    """
    if agent == "database" or other_machine_is_off:
        raise ConfigurationError("a database is promoted in the checkout on its machine: ./twinhost promote database")
    return _ask(agent, lambda turns: turns.promote(to or process_name()), as_json=as_json)


def _ask(wanted: str, ask: "Callable[[Turns], Turn]", *, as_json: bool) -> int:
    name = find_agent(load_network_config(), wanted).name
    with _turns(name) as turns:
        turn = ask(turns)
    if as_json:
        output.show_value(
            {
                "status": "ok",
                "agent": name,
                "active": turn.holder,
                "epoch": turn.epoch,
                "after_s": round(turn.after_s, 2),
            },
            as_json=True,
        )
    else:
        output.show_line(f"{name} is active on {turn.holder} after {turn.after_s:.1f} s, epoch {turn.epoch}")
    return 0


@contextmanager
def _turns(agent: str) -> "Iterator[Turns]":
    """Yield what may be asked of the log of an agent.

    Raises:
        ConfigurationError: there is none here.
        StoreUnavailable: the database does not answer.
    """
    if not (dsn := os.environ.get(DATABASE_VARIABLE)):
        raise ConfigurationError(
            f"{DATABASE_VARIABLE} is not set, so no process stands by; see docs/reference/configuration.md"
        )
    try:
        from twinhost.store.replication.postgres import Log, OutcomeUnknown  # noqa: PLC0415 - only an agent with a log needs it
        from twinhost.store.replication.turns import Turns  # noqa: PLC0415
    except ModuleNotFoundError as error:
        raise ConfigurationError(f"the module {error.name} is missing; install twinhost[postgresql]") from None
    try:
        with closing(Log(dsn, agent)) as log:
            yield Turns(log, agent)
    except OutcomeUnknown as error:
        raise StoreUnavailable(f"the database of {DATABASE_VARIABLE} can't be used now ({error})") from None
