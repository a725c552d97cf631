"""Make a key for a program on this machine, have mainpc authorise it, and put it where a client looks by default.

The secret is made here, in the user's configuration folder (`$XDG_CONFIG_HOME/twinhost`), and stays here: mainpc gets
the public half. The script also writes the public keys that mainpc knows, a copy of the network configuration, and the
addresses at which this machine reaches the agents. Run again, it keeps the key and updates the rest. Exit status:
0 done, 1 refused, 2 usage.
"""

import ipaddress
import json
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Annotated, Any

import typer
import yaml

from twinhost.certificates.admission import require_newcomer
from twinhost.certificates.bundle import parse_bundle, request_fingerprint
from twinhost.certificates.join import import_answer, request
from twinhost.certificates.layout import AGENT_ROLE, OPERATOR, SERVER, Identity, Layout, described, plan_layout
from twinhost.network_config.load import CONFIG_FILE, ENDPOINTS_FILE, load_network_config
from twinhost.network_config.model import Agent, NetworkConfig
from twinhost.secure_zmq.certificates import FOLDER_VARIABLE, client_folder, load_certificates, user_folder
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ConfigurationError, NotAuthorized, TwinhostError
from twinhost.secure_zmq.key_writer import render_certificate, replace_certificate, replace_file
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, SECRET_SUFFIX, KeyOwner, load_key_pair
from twinhost.secure_zmq.server_address import SecuredAddress

DEFAULT_FOLDER = user_folder()
AUTHORISED_WITHIN_S = 5.0  # mainpc sees a new key within 0.1 s


app = typer.Typer(
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command(help=__doc__)
def main(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The program's name; its key has the role agent.")],
    folder: Annotated[Path, typer.Option(metavar="FOLDER", help="The folder of the key.")] = DEFAULT_FOLDER,
    replace: Annotated[bool, typer.Option("--replace", help="Make a new key, if the present one was revoked.")] = False,
) -> None:
    """Enrol the program, test its key with a call, and print the paths of its files."""
    try:
        _enrol(name, folder.absolute(), replace=replace)
    except TwinhostError as error:
        print(f"enrol_program: {error}", file=sys.stderr)
        raise typer.Exit(1) from None


def _enrol(name: str, folder: Path, *, replace: bool) -> None:
    config = load_network_config(environment={})
    owner = KeyOwner(name, _this_machine(), frozenset({AGENT_ROLE}))
    plan = plan_layout(folder, config, None)
    require_newcomer(plan, config, owner)
    if plan.identity_of(owner.name) is not None:
        raise ConfigurationError(f"{owner.name} is in {config.source} already; choose another name for the program")
    endpoints = _endpoints(config)
    secret = folder / f"{owner.name}{SECRET_SUFFIX}"
    _require_own_folder(folder, secret)
    if secret.exists():
        owner = load_key_pair(secret).certificate.owner  # the machine's name may have changed since
    local = [Identity(owner, owner.name, ".")]
    layout = Layout(folder, local, plan.everybody, plan.server_host, config.limits.key_lifetime_days)
    with _moved_aside(secret) if replace else nullcontext():
        certificate = request(layout, config, owner)
        accept = ("run", "--rm", "-T", "--no-deps", "certs-init", "accept", "-", "--fingerprint")
        answer = _compose(*accept, request_fingerprint(certificate), given=render_certificate(certificate))
        server = import_answer(layout, parse_bundle(answer, "the answer of certs-init accept"), "the answer")
    replace_file(folder / ENDPOINTS_FILE, yaml.safe_dump(endpoints, sort_keys=False))
    replace_file(folder / CONFIG_FILE, Path(config.source).read_text(encoding="utf-8"))
    _prove(folder)
    print(f"{described(owner)} is authorised as {certificate.public.fingerprint}")
    print(f"SystemDigitalTwin is trusted as {server.public.fingerprint}, and answered")
    print(f"{folder}: {secret.name} (made here, stays here, mode 0600), public keys, {CONFIG_FILE}, {ENDPOINTS_FILE}")
    if client_folder() != folder:
        print(f"Clients look in another folder by default; set {FOLDER_VARIABLE}={folder} for the program.")
    print(f"To revoke it: docker compose run --rm certs-init revoke {owner.name}")


@contextmanager
def _moved_aside(secret: Path) -> Iterator[None]:
    """Move a secret away for a new one in its place, and back where that is refused."""
    public, replaced = secret.with_suffix(PUBLIC_SUFFIX), secret.with_suffix(".replaced")
    if secret.exists():
        secret.rename(replaced)
        public.unlink(missing_ok=True)
    try:
        yield
    except BaseException:
        if replaced.exists():
            replaced.rename(secret)
            replace_certificate(load_key_pair(secret).certificate, public)
        raise
    replaced.unlink(missing_ok=True)


def _this_machine() -> str:
    """Return this machine's name, as far as a key can hold it."""
    return re.sub(r"[^A-Za-z0-9._-]", "-", socket.gethostname())[:64].strip(".-") or "localhost"


def _require_own_folder(folder: Path, secret: Path) -> None:
    others = [path.name for path in folder.glob(f"*{SECRET_SUFFIX}") if path != secret]
    if others or folder.name == OPERATOR:
        what = f"{folder} holds {others[0]}" if others else f"{folder} is named as the operator's"
        raise ConfigurationError(f"{what}, and each program has a folder of its own; choose another one: --folder DIR")
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    folder.chmod(0o700)


def _endpoints(config: NetworkConfig) -> dict[str, dict[str, Any]]:
    """Return where this machine publishes the agents' ports, in the form of the configuration.

    Raises:
        ConfigurationError: mainpc does not run here.
    """
    hosts: dict[str, Any] = {}
    agents: dict[str, Any] = {}
    containers = [json.loads(line) for line in _compose("ps", "--format", "json").splitlines() if line.startswith("{")]
    for agent in config.agents.values():
        for container in containers:
            if container["Service"] == agent.host.name:
                found = {one["TargetPort"]: one for one in container["Publishers"] if one["PublishedPort"]}
                if agent.zmq_port in found:
                    hosts[agent.host.name] = {"address": _reachable(found[agent.zmq_port]["URL"])}
                    agents[agent.name] = {"ports": _published(agent, found)}
    if SERVER not in agents:
        raise ConfigurationError("mainpc does not run on this machine, or publishes no port; start it with: make up")
    return {"hosts": hosts, "agents": agents}


def _published(agent: Agent, found: dict[int, dict[str, Any]]) -> dict[str, int]:
    ports = {"zmq": agent.zmq_port, "http": agent.http_port, "events": agent.events_port}
    return {name: found[port]["PublishedPort"] if port in found else port for name, port in ports.items() if port}


def _reachable(address: str) -> str:
    """Return an address on which a port is published, or loopback where it is published on all of them."""
    parsed = ipaddress.ip_address(address.strip("[]"))
    if not parsed.is_unspecified:
        return str(parsed)
    return "127.0.0.1" if parsed.version == 4 else "::1"


def _compose(*arguments: str, given: str = "") -> str:
    command = ["docker", "compose", "--progress", "quiet", *arguments]
    try:
        # The arguments are this script's own, and no shell reads them.
        done = subprocess.run(  # noqa: S603
            command, cwd=_checkout(), input=given, capture_output=True, text=True, check=False
        )
    except FileNotFoundError:
        raise ConfigurationError("docker is not installed here; run this on the machine where mainpc runs") from None
    if done.returncode:
        raise ConfigurationError(_sentence(done.stderr) or f"{' '.join(command)} ended with {done.returncode}")
    return done.stdout


def _sentence(errors: str) -> str:
    """Return the last line that a command wrote, with what to do where the key is revoked."""
    line = (errors.strip().splitlines() or [""])[-1]
    return f"{line}: run this again with --replace" if "was revoked" in line else line


def _prove(folder: Path) -> None:
    """Call mainpc as the program will.

    Raises:
        ConnectionRefused, RequestError: it does not answer, or refuses the key.
    """
    keys = load_certificates(folder)
    config = load_network_config(environment={FOLDER_VARIABLE: str(folder)})
    end = time.monotonic() + AUTHORISED_WITHIN_S
    with Client(SecuredAddress(config.agent(SERVER).endpoint, keys.own_keys, keys.public_key())) as client:
        while True:
            try:
                client.call("ping")
            except NotAuthorized:
                if time.monotonic() > end:
                    raise
            else:
                return


def _checkout() -> Path:
    """Return the folder of docker-compose.yml: of this checkout, or the current one."""
    for folder in (Path(__file__).resolve().parents[3], Path.cwd()):
        if (folder / "docker-compose.yml").exists():
            return folder
    raise ConfigurationError("there is no docker-compose.yml here; run this in the checkout of twinhost")


def run() -> None:
    """Run the command."""
    app(prog_name="enrol_program.py")
