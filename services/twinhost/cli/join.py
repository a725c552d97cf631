"""`join`: put a key into a profile of this machine, by an invitation, or through the engine where mainpc runs.

The secret is made here, in the user's configuration folder, and stays here: mainpc gets the public half. Run again, it
keeps the key and updates the rest. `scripts/enrol_program.py` is `join --local` under its older name.
"""

import getpass
import ipaddress
import json
import re
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from twinhost.certificates.admission import require_newcomer
from twinhost.certificates.bundle import MAX_LINE_CHARACTERS, parse_bundle, parse_invitation, request_fingerprint
from twinhost.certificates.join import import_answer, request
from twinhost.certificates.layout import AGENT_ROLE, SERVER, Identity, Layout, described, plan_layout
from twinhost.certificates.profile import (
    AgentPlace,
    Reached,
    active_of,
    join_profile,
    own_folder,
    refresh_profile,
    require_same_mainpc,
    write_agents,
)
from twinhost.cli import output
from twinhost.cli.arguments import AsJson
from twinhost.cli.standalone import STANDARD_STREAM, application, read_line, say
from twinhost.cli.standalone import run as run_standalone
from twinhost.commands import CERTS_INIT
from twinhost.network_config.load import CONFIG_FILE, ENDPOINTS_FILE, load_network_config
from twinhost.network_config.model import Agent, NetworkConfig, is_authority
from twinhost.secure_zmq.certificates import (
    FOLDER_VARIABLE,
    PROFILES_FOLDER,
    client_folder,
    join_command,
    profile_folder,
    secrets_in,
)
from twinhost.secure_zmq.errors import ConfigurationError
from twinhost.secure_zmq.key_writer import render_certificate, replace_certificate
from twinhost.secure_zmq.keys import PUBLIC_SUFFIX, SECRET_SUFFIX, Certificate, KeyOwner, format_moment, load_key_pair


def join(
    line: Annotated[
        str,
        typer.Argument(
            metavar="LINE|NAME",
            help="What certs-init invite printed; - or none reads standard input. With --local: the program's name.",
        ),
    ] = STANDARD_STREAM,
    local: Annotated[bool, typer.Option("--local", help="On mainpc's machine: enrol through the engine.")] = False,
    refresh: Annotated[bool, typer.Option("--refresh", help="Keep the key; fetch keys and addresses again.")] = False,
    may_replace: Annotated[bool, typer.Option("--replace", help="Put a new key in place of the one here.")] = False,
    address: Annotated[
        str | None,
        typer.Option(
            metavar="ADDRESS[:PORT]", help="Where this machine reaches mainpc, if not at the address known here."
        ),
    ] = None,
    as_json: AsJson = False,
) -> int:
    """Make a key for the programs of this user, and enrol it.

    The line is printed on mainpc by: docker compose run --rm certs-init invite NAME --host HOST --role agent
    """
    folder = profile_folder().absolute()
    if local and refresh:
        raise typer.BadParameter("give one of them; --local updates keys and addresses too", param_hint="--refresh")
    if local:
        report = _join_local(None if line == STANDARD_STREAM else line, folder, may_replace=may_replace)
    elif refresh:
        report = _refresh(folder, address)
    else:
        report = _join_by_line(line, folder, address, may_replace=may_replace)
    if as_json:
        output.show_value(report.document(), as_json=True)
    else:
        report.say()
    return 0


@dataclass(frozen=True, slots=True)
class _Report:
    """What was done: to which profile, where the agents are, and with a new key whose and by which server."""

    folder: Path
    reached: list[Reached]
    what: str | None = None
    server: str = ""  # the fingerprint of its key

    @property
    def own(self) -> Certificate:
        return load_key_pair(secrets_in(self.folder)[0]).certificate

    def document(self) -> dict[str, Any]:
        """Return it for programs."""
        return {
            "status": "ok",
            "name": self.own.owner.name,
            "fingerprint": self.own.public.fingerprint,
            "folder": str(self.folder),
            "agents": [msgspec.to_builtins(agent) for agent in self.reached],
        }

    def say(self) -> None:
        """Print it for people."""
        if self.what is not None:
            until = self.own.validity.not_after
            say(f"{described(self.own.owner)} {self.what}")
            say(
                f"Its key is {self.own.public.fingerprint}" + (f", valid until {format_moment(until)}" if until else "")
            )
            say(f"{SERVER} is trusted as {self.server}")
        for agent in self.reached:
            if agent.answered:
                say(f"{agent.name} answered at {agent.endpoint}")
            else:
                say(
                    f"{agent.name} did not answer at {agent.endpoint}; start it, or write the address at which this "
                    f"machine reaches it into {ENDPOINTS_FILE}, and run: twinhost join --refresh"
                )
        (secret,) = secrets_in(self.folder)
        say(
            f"{self.folder}: {secret.name} (made here, stays here, mode 0600), public keys, {CONFIG_FILE}, "
            f"{ENDPOINTS_FILE}"
        )
        say(f"To revoke it, on mainpc: {CERTS_INIT} revoke {secret.stem}")


def _join_by_line(line: str, folder: Path, address: str | None, *, may_replace: bool) -> _Report:
    if line == STANDARD_STREAM:
        line = read_line("The line that certs-init invite printed: ", MAX_LINE_CHARACTERS + 2)
    invitation = parse_invitation(line)
    if address is not None:
        _, _, port = invitation.authorities[0].rpartition(":")
        invitation = replace(invitation, authorities=(_authority(address, port),))
    joined, reached = join_profile(folder, invitation, may_replace=may_replace)
    what = "had joined already" if joined.already else "has joined"
    return _Report(folder, reached, what, joined.server_key.fingerprint)


def _refresh(folder: Path, address: str | None) -> _Report:
    if address is not None:
        port = load_network_config(environment={FOLDER_VARIABLE: str(folder)}).agent(SERVER).zmq_port
        address = _authority(address, str(port))
    return _Report(folder, refresh_profile(folder, address))


def _authority(address: str, default_port: str) -> str:
    authority = next(filter(is_authority, (address, f"{address}:{default_port}")), None)
    if authority is None:
        raise typer.BadParameter(f"{address!r} is not ADDRESS or ADDRESS:PORT", param_hint="--address")
    return authority


def _join_local(name: str | None, folder: Path, *, may_replace: bool) -> _Report:
    """Enrol a program through the engine of mainpc's machine."""
    checkout = _checkout()
    config = load_network_config(checkout / "config" / CONFIG_FILE, environment={})
    owner = KeyOwner(name or _name_of(folder), _this_machine(), frozenset({AGENT_ROLE}))
    plan = plan_layout(folder, config, None)
    require_newcomer(plan, config, owner)
    if plan.identity_of(owner.name) is not None:
        raise ConfigurationError(f"{owner.name} is in {config.source} already; choose another name for the program")
    known = _published(checkout, config)
    secret = folder / f"{owner.name}{SECRET_SUFFIX}"
    with own_folder(folder):
        _require_free(folder, secret)
        if not may_replace:
            require_same_mainpc(folder, known[SERVER][0])
        if secret.exists():
            owner = load_key_pair(secret).certificate.owner  # the machine's name may have changed since
        local = [Identity(owner, owner.name, ".")]
        layout = Layout(folder, local, plan.everybody, plan.server_host, config.limits.key_lifetime_days)
        with _moved_aside(secret) if may_replace else nullcontext():
            certificate = request(layout, config, owner)
            accept = ("run", "--rm", "-T", "--no-deps", "certs-init", "accept", "-", "--fingerprint")
            answer = _compose(
                checkout, *accept, request_fingerprint(certificate), typed=render_certificate(certificate)
            )
            server = import_answer(layout, parse_bundle(answer, "the answer of certs-init accept"), "the answer")
        places = {agent: published[0] for agent, published in known.items()}
        places[SERVER] = active_of(folder, known[SERVER])
        return _Report(folder, write_agents(folder, places), "is authorised", server.public.fingerprint)


def _name_of(folder: Path) -> str:
    """Return the name in the key that is there, else one for this user on this machine."""
    if secrets := secrets_in(folder):
        return load_key_pair(secrets[0]).certificate.owner.name
    words = [getpass.getuser(), _this_machine(), *([folder.name] if folder.parent.name == PROFILES_FOLDER else [])]
    return _printable("-".join(words))


def _this_machine() -> str:
    """Return this machine's name, as far as a key can hold it."""
    return _printable(socket.gethostname()) or "localhost"


def _printable(text: str) -> str:
    return re.sub(r"[^A-Za-z0-9._-]", "-", text)[:64].strip(".-")


def _require_free(folder: Path, secret: Path) -> None:
    if others := [path.name for path in secrets_in(folder) if path != secret]:
        raise ConfigurationError(
            f"{folder} holds {others[0]}, and each program has its own folder; choose another one: "
            "twinhost join --profile NAME --local, or enrol_program NAME --folder DIR"
        )


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


def _published(checkout: Path, config: NetworkConfig) -> dict[str, list[AgentPlace]]:
    """Return where this machine publishes the ports of each agent, and then those of its standby.

    Raises:
        ConfigurationError: mainpc does not run here.
    """
    listed = _compose(checkout, "ps", "--format", "json").splitlines()
    containers = [json.loads(line) for line in listed if line.startswith("{")]
    places: dict[str, list[AgentPlace]] = {}
    for agent in config.agents.values():
        services = agent.host.name, f"{agent.host.name}-standby"
        for container in sorted(containers, key=lambda container: str(container["Service"])):
            if container["Service"] in services:
                publishers = {port["TargetPort"]: port for port in container["Publishers"] if port["PublishedPort"]}
                if agent.zmq_port in publishers:
                    address = _reachable(publishers[agent.zmq_port]["URL"])
                    places.setdefault(agent.name, []).append(AgentPlace(address, _ports(agent, publishers)))
    if SERVER not in places:
        raise ConfigurationError("mainpc does not run on this machine, or publishes no port; start it with: make up")
    return places


def _ports(agent: Agent, publishers: Mapping[int, Mapping[str, Any]]) -> dict[str, int]:
    return {
        name: publishers[port]["PublishedPort"] if port in publishers else port for name, port in agent.ports.items()
    }


def _reachable(address: str) -> str:
    """Return an address on which a port is published, or loopback where it is published on all of them."""
    parsed = ipaddress.ip_address(address.strip("[]"))
    if not parsed.is_unspecified:
        return str(parsed)
    return "127.0.0.1" if parsed.version == 4 else "::1"


def _compose(checkout: Path, *arguments: str, typed: str = "") -> str:
    command = ["docker", "compose", "--progress", "quiet", *arguments]
    try:
        # The arguments are this command's own, and no shell reads them.
        done = subprocess.run(  # noqa: S603
            command, cwd=checkout, input=typed, capture_output=True, text=True, check=False
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


def _checkout() -> Path:
    """Return the folder of docker-compose.yml: of this checkout, or the current one."""
    for folder in (Path(__file__).resolve().parents[3], Path.cwd()):
        if (folder / "docker-compose.yml").exists():
            return folder
    raise ConfigurationError(
        "there is no docker-compose.yml here; run this in the checkout of twinhost on mainpc's machine, or, with an "
        f"invitation, anywhere: {join_command(profile_folder(), 'LINE')}"
    )


enrolment = application(__doc__ or "")


@enrolment.command(help="Enrol a program through the engine: the older name of `twinhost join --local NAME`.")
def enrol(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The program's name; its key has the role agent.")],
    folder: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The folder of the key.")] = None,
    may_replace: Annotated[
        bool, typer.Option("--replace", help="Make a new key, if the present one was revoked.")
    ] = False,
) -> None:
    own = (folder or profile_folder()).absolute()
    _join_local(name, own, may_replace=may_replace).say()
    if client_folder() != own:
        say(f"Clients look in another folder by default; set {FOLDER_VARIABLE}={own} for the program.")


def run_enrolment() -> None:
    """Run `enrol_program`."""
    sys.exit(run_standalone(enrolment, "enrol_program", sys.argv[1:]))
