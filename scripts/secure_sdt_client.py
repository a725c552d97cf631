#!/usr/bin/env python3
"""A simplified client of SystemDigitalTwin: connect, ping, register an agent if asked to, print the replies as JSON.

It uses CURVE with `--secure`, or where SECURE_ZMQ is 1 in the environment. Key and address are where
`scripts/enrol_program.py` puts them. Exit status: 0 answered, 1 refused or unreachable (one sentence on stderr),
2 usage.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "services"))

from twinhost.network_config.load import ENDPOINTS_FILE, load_network_config
from twinhost.network_config.model import Host, is_address
from twinhost.secure_zmq.certificates import FOLDER_VARIABLE, client_folder, load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.server_address import (
    SECURE_ZMQ_VARIABLE,
    SecuredAddress,
    ServerAddress,
    UnencryptedAddress,
    is_secure_zmq_enabled,
)

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 7120  # as docker-compose.yml publishes SystemDigitalTwin


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the client and return the exit status."""
    options = _parser().parse_args(arguments)
    try:
        with Client(_address(options)) as client:
            _show(client.call("ping"))
            if options.register:
                _show(client.call("register_agent", agent_name=options.agent_name, status="HEALTHY"))
    except TwinhostError as error:
        print(f"secure_sdt_client: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--secure", action="store_true", help="use CURVE; the default is to, where SECURE_ZMQ=1 is set")
    where = f"default: as {ENDPOINTS_FILE} beside the key says, or else "
    parser.add_argument("--host", type=_host, help=f"name or address ({where}{DEFAULT_HOST})")
    parser.add_argument("--port", type=_port, help=f"{where}{DEFAULT_PORT}")
    parser.add_argument("--register", action="store_true", help="register an agent too")
    parser.add_argument("--agent-name", default="secure_sdt_client", help="the name to register (default: %(default)s)")
    parser.add_argument(
        "--certificates", type=Path, default=client_folder(), help="own secret, server.key (default: %(default)s)"
    )
    return parser


def _address(options: argparse.Namespace) -> ServerAddress:
    host, port = DEFAULT_HOST, DEFAULT_PORT
    if (options.certificates / ENDPOINTS_FILE).exists():
        twin = load_network_config(environment={FOLDER_VARIABLE: str(options.certificates)}).agent("SystemDigitalTwin")
        host, port = twin.host.address, twin.zmq_port
    endpoint = Host("SystemDigitalTwin", options.host or host).endpoint(options.port or port)
    if not options.secure and not (SECURE_ZMQ_VARIABLE in os.environ and is_secure_zmq_enabled()):
        return UnencryptedAddress(endpoint)
    keys = load_certificates(options.certificates)
    return SecuredAddress(endpoint, keys.own_keys, keys.public_key())


def _host(text: str) -> str:
    if not is_address(text):
        raise argparse.ArgumentTypeError(f"{text!r} is not a host name or an IP address")
    return text


def _port(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 0 < int(text) < 65_536:
        raise argparse.ArgumentTypeError(f"{text!r} is not a port from 1 to 65535")
    return int(text)


def _show(reply: dict[str, object]) -> None:
    print(json.dumps(reply, indent=2).replace("\x7f", "\\u007f"), flush=True)


if __name__ == "__main__":
    sys.exit(main())
