"""A simplified client of SystemDigitalTwin: connect, ping, register an agent if asked to, print the replies as JSON.

It uses CURVE with `--secure`, or where SECURE_ZMQ is 1 in the environment. Key and address are where
`scripts/enrol_program.py` puts them. Exit status: 0 answered, 1 refused or unreachable (one sentence on stderr),
2 usage.
"""

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer

from twinhost.cli.standalone import application
from twinhost.cli.standalone import run as run_standalone
from twinhost.network_config.load import ENDPOINTS_FILE, load_network_config
from twinhost.network_config.model import Host, is_address
from twinhost.secure_zmq.certificates import FOLDER_VARIABLE, client_folder, load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.server_address import (
    SECURE_ZMQ_VARIABLE,
    FollowedAddress,
    ServerAddress,
    UnencryptedAddress,
    is_secure_zmq_enabled,
)

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7120  # as docker-compose.yml publishes SystemDigitalTwin
DEFAULT_FOLDER = client_folder()
_DEFAULTS = f"default: as {ENDPOINTS_FILE} next to the key says, or else"


app = application("")


def _host(text: str) -> str:
    if not is_address(text):
        raise typer.BadParameter(f"{text!r} is not a host name or an IP address")
    return text


@app.command()
def main(
    secure: Annotated[bool, typer.Option("--secure", help="Use CURVE; the default where SECURE_ZMQ=1 is set.")] = False,
    host: Annotated[
        str | None, typer.Option(parser=_host, metavar="HOST", help=f"Name or address; {_DEFAULTS} {DEFAULT_HOST}.")
    ] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65_535, metavar="PORT", help=f"ZeroMQ port; {_DEFAULTS} {DEFAULT_PORT}.")
    ] = None,
    register: Annotated[bool, typer.Option("--register", help="Register an agent too.")] = False,
    agent_name: Annotated[str, typer.Option(metavar="NAME", help="The name to register.")] = "secure_sdt_client",
    certificates: Annotated[
        Path, typer.Option(metavar="FOLDER", help="The folder of the secret key and of server.key.")
    ] = DEFAULT_FOLDER,
) -> None:
    """Connect to SystemDigitalTwin, ping it, register an agent if asked to, and print the replies as JSON."""
    with Client(_address(certificates, host, port, secure=secure)) as client:
        _show(client.call("ping"))
        if register:
            _show(client.call("register_agent", agent_name=agent_name, status="HEALTHY"))


def _address(certificates: Path, host: str | None, port: int | None, *, secure: bool) -> ServerAddress:
    default_host, default_port = DEFAULT_HOST, DEFAULT_PORT
    standby: Sequence[str] = ()
    if (certificates / ENDPOINTS_FILE).exists():
        twin = load_network_config(environment={FOLDER_VARIABLE: str(certificates)}).agent("SystemDigitalTwin")
        default_host, default_port = twin.host.address, twin.zmq_port
        standby = twin.endpoints[1:] if host is None and port is None else ()
    endpoint = Host("SystemDigitalTwin", host or default_host).endpoint(port or default_port)
    if not secure and not (SECURE_ZMQ_VARIABLE in os.environ and is_secure_zmq_enabled()):
        return UnencryptedAddress(endpoint, tuple(standby))
    keys = load_certificates(certificates)
    pin = keys.public_key()
    return FollowedAddress((endpoint, *standby), lambda: keys.own_keys, lambda: (pin,))


def _show(reply: dict[str, object]) -> None:
    print(json.dumps(reply, indent=2).replace("\x7f", "\\u007f"), flush=True)


def run() -> None:
    """Run the command."""
    sys.exit(run_standalone(app, "secure_sdt_client", sys.argv[1:]))
