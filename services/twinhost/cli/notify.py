"""`notify`: the process that sends messages about what is wrong, and a test of the ways out."""

import signal
import uuid
from typing import Any

import typer

from twinhost.agent.log_lines import configure_logging
from twinhost.agent.state_folder import state_folder
from twinhost.certificates.layout import NOTIFY
from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.output import Failure, printable
from twinhost.deployment import load_settings
from twinhost.moments import SYSTEM_CLOCK
from twinhost.network_config import load_network_config
from twinhost.notify.destinations import NotTaken, destinations_of
from twinhost.notify.notifier import Notifier, policy_of, required
from twinhost.notify.rules import trial_message
from twinhost.secure_zmq.errors import ConfigurationError

notify = typer.Typer(help="Messages about what is wrong: send them, or test the ways out.")


@notify.command("run")
def run() -> int:
    """Send messages, until it is stopped.

    The service `notify` of docker-compose.yml runs this.
    """
    configure_logging(NOTIFY)
    notifier = Notifier(load_settings(), state_folder())
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: notifier.stop())
    notifier.run()
    return 0


@notify.command("test")
def send_trial(as_json: AsJson = False) -> int:
    """Send one test message to each destination, and show what came back."""
    config = load_network_config()
    settings = required(config)
    policy_of(config.source, settings)
    message = trial_message(SYSTEM_CLOCK.time())
    rows: list[dict[str, Any]] = []
    failures: list[Failure] = []
    for destination in destinations_of(config.source, settings):
        try:
            answer, taken = destination.send(message, uuid.uuid4().hex), True
        except (NotTaken, ConfigurationError) as error:
            answer, taken = str(error), False
            failures.append(Failure("not_taken", f"{destination.name}: {error}"))
        rows.append({"destination": destination.name, "taken": taken, "answer": answer})
    if as_json:
        output.show_value({**output.status_of(failures), "destinations": rows}, as_json=True)
    else:
        for row in rows:
            if row["taken"]:
                output.show_line(printable(f"{row['destination']}: {row['answer']}"))
        output.say_failures(failures)
    return 1 if failures else 0
