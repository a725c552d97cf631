"""certs-init: make the CURVE keys, enrol machines, rotate, revoke, and verify; Compose runs it before all else."""

import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from twinhost.certificates.acknowledgement import WITHIN_S, wait_until_acknowledged
from twinhost.certificates.admission import (
    accept,
    check_request,
    invite,
    keep_request,
    kept_request,
    pending,
    port_is_chosen_by_the_engine,
    reject,
    variables_to_set,
)
from twinhost.certificates.bundle import (
    MAX_BUNDLE_BYTES,
    MAX_LINE_CHARACTERS,
    bundle_fingerprint,
    parse_bundle,
    parse_invitation,
    render_bundle,
    request_fingerprint,
)
from twinhost.certificates.export import EXPECTED, as_tar, copy_to, find_public_key, make_host_keys, read_file, trust
from twinhost.certificates.generate import make_keys, report
from twinhost.certificates.join import import_answer, join, request
from twinhost.certificates.layout import SERVER, Layout, described, only_host, plan_layout
from twinhost.certificates.revoke import Revocation, replace_revoked, revoke
from twinhost.certificates.rotate import rotate_client, rotate_server
from twinhost.certificates.standby import STANDBYS_VOLUME, make_standby_folders
from twinhost.certificates.standby_secrets import (
    give_to_standbys,
    secret_for_standby,
    take_secret,
    where_active,
)
from twinhost.certificates.tree import forget_failure, own_folders, record_failure
from twinhost.certificates.verify import verify_tree
from twinhost.cli.standalone import STANDARD_STREAM, Version, application, ask, note, read_line, run, say
from twinhost.commands import CERTIFICATES_VOLUME, CERTS_INIT, CERTS_INIT_PIPED, remove_command
from twinhost.network_config import NetworkConfig, load_network_config
from twinhost.network_config.model import is_loopback
from twinhost.secure_zmq.certificates import certificates_folder
from twinhost.secure_zmq.errors import ConfigurationError, TwinhostError
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import (
    MAX_KEY_FILE_BYTES,
    Certificate,
    KeyOwner,
    format_moment,
    load_key_pair,
    parse_certificate,
)

PROGRAM = "certs-init"
DEFAULT_MINUTES, MAX_MINUTES = 15, 7 * 24 * 60
MAX_DAYS = 3_650


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; return 0 for success, 1 for a failure, 2 for a usage error."""
    return run(commands, PROGRAM, sys.argv[1:] if arguments is None else arguments)


commands = application(
    "Make, check, and change the CURVE keys. TWINHOST_HOST=mainpc or =pc2 limits it to that host's secrets; unset, all "
    "of them lie in one tree, as the simulation on one machine needs."
)
_rotate = application("Change a key without downtime; to finish an interrupted run, run it again.")

Days = Annotated[
    int | None,
    typer.Option(min=1, max=MAX_DAYS, metavar="N", help="How long a new key is valid [key_lifetime_days]."),
]
Name = Annotated[str, typer.Argument(metavar="NAME", help="An agent of network_config.yaml, or a new name.")]
Host = Annotated[str, typer.Option(metavar="HOST", help="The machine that it runs on.")]
Role = Annotated[list[str], typer.Option(metavar="ROLE", help="As in network_config.yaml; may be repeated.")]


@commands.callback(invoke_without_command=True)
def _options(
    context: typer.Context,
    _version: Version = False,
    root: Annotated[Path | None, typer.Option(help="The tree [TWINHOST_CERTIFICATES, or /certificates].")] = None,
) -> None:
    context.obj = certificates_folder() if root is None else root
    if context.invoked_subcommand is None:
        run_make(context)


@commands.command("make")
def run_make(context: typer.Context, days: Days = None) -> None:
    """Make the keys that are missing; overwrite none (the default)."""
    try:
        layout, config = _tree(context, days, wherever_active=False)
        for line in report(layout, make_keys(layout)):
            say(line)
        if only_host() is None:  # of several machines, another one has the standby
            for folder in make_standby_folders(layout, config.agents.values()):
                say(f"{folder}: made for the standby, which has the same secret")
        _give_to_standbys(layout, config)
    except TwinhostError as error:
        record_failure(context.obj, str(error), only_host())  # for the cli, which Compose starts only after a success
        raise
    forget_failure(context.obj)


@commands.command("verify")
def run_verify(context: typer.Context) -> int:
    """Check every file, mode, owner, and pair."""
    layout, _ = _tree(context)
    findings = verify_tree(layout)
    for problem in findings.problems:
        say(problem)
    for remark in findings.remarks:
        say(f"remark: {remark}")
    if findings.problems:
        say(f"{layout.root}: {len(findings.problems)} problems")
        return 1
    say(f"{layout.root}: {len(own_folders(layout))} folders are correct")
    return 0


@commands.command("invite")
def run_invite(
    context: typer.Context,
    name: Name,
    host: Host,
    role: Role,
    minutes: Annotated[
        int, typer.Option(min=1, max=MAX_MINUTES, metavar="N", help="How long the line is valid.")
    ] = DEFAULT_MINUTES,
    again: Annotated[
        bool, typer.Option("--again", help="Withdraw the open invitation of that name, and print a new line for it.")
    ] = False,
) -> None:
    """On mainpc: print a line by which one machine can join, once."""
    layout, config = _tree(context)
    owner = KeyOwner(name, host, frozenset(role))
    invitation = invite(layout, config, owner, minutes, again=again)
    say(invitation.render())
    note(f"It enrols one machine as {described(owner)}, until {format_moment(invitation.not_after)}; it is shown once.")
    note(f"On that machine, to read it: {CERTS_INIT_PIPED} join -   To withdraw it: {CERTS_INIT} reject {name}")
    note("For a program, outside the containers: twinhost join -")
    note(f"To see open invitations: {CERTS_INIT} pending   To print a new line in its place: the same with --again")
    if again:
        note("The previous line is withdrawn.")
    if others := invitation.authorities[1:]:
        note(f"It has both addresses of {SERVER}; a version before 0.3 takes it without ,{','.join(others)}")
    if host != layout.server_host and (variables := variables_to_set(config)):
        note(
            f"Warning: other machines can't reach {invitation.authorities[0]}; to enrol one, set "
            f"{' and '.join(variables)} in .env to an address of this machine that it reaches, run "
            "docker compose up -d mainpc, and repeat this with --again."
        )
    if port_is_chosen_by_the_engine(config):
        port = config.agent(SERVER).zmq_port
        note(
            f"The engine chose mainpc's port: docker compose port {layout.server_host} {port} prints it, for: twinhost "
            "join --address ADDRESS:PORT -"
        )
    if host not in config.hosts:
        note(f"A program on {host} needs nothing else; an agent there also needs the host in {config.source}.")


@commands.command("join")
def run_join(
    context: typer.Context,
    line: Annotated[
        str, typer.Argument(metavar="LINE", help="What invite printed; - or none reads standard input.")
    ] = STANDARD_STREAM,
    may_replace: Annotated[
        bool, typer.Option("--replace", help="Put the new key in the place of one that is here.")
    ] = False,
) -> None:
    """On the new machine: make its key, and enrol it by that line."""
    layout, config = _tree(context)
    if line == STANDARD_STREAM:
        line = read_line("The line that invite printed: ", MAX_LINE_CHARACTERS + 2)
    invitation, server = parse_invitation(line), config.agent(SERVER)
    if any(is_loopback(authority.rpartition(":")[0]) for authority in invitation.authorities):
        # They are of mainpc's machine, and in a container of nobody.
        invitation = replace(invitation, authorities=tuple(server.authorities))
    joined = join(layout, invitation, may_replace=may_replace)
    owner, key = joined.certificate.owner, joined.certificate
    how = "had joined already" if joined.already else "has joined"
    say(f"{owner.name} on {owner.host} {how} as {key.public.fingerprint}")
    if key.validity.not_after is not None:
        say(f"The key is valid until {format_moment(key.validity.not_after)}.")
    say(f"SystemDigitalTwin is trusted as {joined.server_key.fingerprint}")
    path = layout.secret_file(joined.place)
    say(f"{path.parent}: {path.name} (made here, stays here, mode 0600) and the public keys that mainpc knows")


@commands.command("request")
def run_request(context: typer.Context, name: Name, host: Host, role: Role) -> None:
    """Without a path to mainpc: make a key, and print its request."""
    layout, config = _tree(context)
    certificate = request(layout, config, KeyOwner(name, host, frozenset(role)))
    sys.stdout.write(render_certificate(certificate))
    fingerprint = request_fingerprint(certificate)
    note(f"The request of {described(certificate.owner)} has the fingerprint {fingerprint}")
    note("It covers name, host, roles, and key. Send it over another channel than the file.")
    note(f"Copy that file to mainpc, and run there: {CERTS_INIT_PIPED} accept - --fingerprint {fingerprint}")
    note(f"Copy its answer back, and run here: {CERTS_INIT_PIPED} trust -")


@commands.command("accept")
def run_accept(
    context: typer.Context,
    file: Annotated[
        str, typer.Argument(metavar="FILE", help="What request printed, - for standard input, or a kept NAME.")
    ],
    fingerprint: Annotated[
        str | None, typer.Option("--fingerprint", metavar="SHA256:...", help="The one that request printed.")
    ] = None,
    days: Days = None,
) -> int:
    """On mainpc: authorise a requested key; print the answer."""
    layout, config = _tree(context, days)
    source, certificate = _requested_key(layout, file)
    check_request(layout, config, certificate, source)
    expected, owner = request_fingerprint(certificate), certificate.owner
    note(f"{described(owner)} asks to be enrolled; the request's fingerprint is {expected}")
    if fingerprint is None and file != STANDARD_STREAM and sys.stdin.isatty():
        if not ask("Is that the fingerprint that request showed there, and is it to be enrolled?"):
            note("certs-init: it was not accepted, and nothing was changed")
            return 1
    elif (fingerprint or "").rstrip("=") != expected:
        path = keep_request(layout, certificate)
        another = "--fingerprint is of another request, whose name, host, roles, or key differ"
        why = "no --fingerprint was given" if fingerprint is None else another
        note(
            f"certs-init: {why}, so the request is kept as {path}; compare the "
            f"fingerprint with the one that request showed there, then: "
            f"{layout.command('accept', owner.name, '--fingerprint', 'SHA256:...', piped=True)}, "
            f"or: {layout.command('reject', owner.name)}"
        )
        return 1
    material = accept(layout, config, certificate, source)
    sys.stdout.write(render_bundle(material))
    until, answer = material.own.validity.not_after, bundle_fingerprint(material)
    note(f"{owner.name} is authorised" + (f" until {format_moment(until)}." if until is not None else "."))
    note(f"Copy the answer there, and run: {CERTS_INIT_PIPED} trust -   It shows this fingerprint: {answer}")
    return 0


@commands.command("pending")
def run_pending(context: typer.Context) -> None:
    """On mainpc: list open invitations and kept requests."""
    entries = pending(_tree(context)[0])
    for entry in entries:
        say(str(entry))
    if not entries:
        say("nothing is pending")


@commands.command("reject")
def run_reject(
    context: typer.Context, name: Annotated[str, typer.Argument(metavar="NAME", help="As pending shows it.")]
) -> None:
    """On mainpc: withdraw an invitation, or delete a request."""
    for entry in reject(_tree(context)[0], name):
        done = "is withdrawn; no machine can enrol by it any more" if entry.what == "invitation" else "is deleted"
        say(f"the {entry.what} of {described(entry.certificate.owner)} {done}")


@commands.command("public")
def run_public(
    context: typer.Context,
    key: Annotated[
        str, typer.Argument(metavar="KEY", help="server, client, or operator, or the name of an enrolled owner.")
    ],
) -> None:
    """Print a public key file, to be copied to another machine."""
    sys.stdout.write(render_certificate(find_public_key(_tree(context)[0], key)))


@commands.command("trust")
def run_trust(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="The file, or - for standard input.")],
) -> None:
    """Trust another machine's public key file, or accept's answer."""
    layout, _ = _tree(context)
    source, text = _read("trust", file, MAX_BUNDLE_BYTES)
    if text.lstrip().startswith("{"):
        material = parse_bundle(text, source)
        server = import_answer(layout, material, source)
        own = material.own
        say(f"{own.owner.name} on {own.owner.host} is known to mainpc as {own.public.fingerprint}")
        say(f"{server.owner.name} on {server.owner.host} is trusted as {server.public.fingerprint}")
        say(f"The answer's fingerprint is {bundle_fingerprint(material)}; compare it with the one that accept printed.")
        return
    certificate = parse_certificate(text, source)
    owner = trust(layout, certificate, source).owner
    say(f"{owner.name} on {owner.host} is trusted as {certificate.public.fingerprint}")
    say("Compare that with the fingerprint that certs-init shows on that machine.")


@_rotate.command("server")
def run_rotate_server(context: typer.Context, days: Days = None) -> None:
    """On mainpc: replace SystemDigitalTwin's key."""
    layout, config = _tree(context, days)
    rotate_server(layout, config, say)
    _give_to_standbys(layout, config, SERVER)


@_rotate.command("client")
def run_rotate_client(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's owner: an agent, or operator.")],
    days: Days = None,
) -> None:
    """Where its secret is: replace any other key."""
    layout, config = _tree(context, days)
    rotate_client(layout, config, name, say)
    _give_to_standbys(layout, config, name)


@commands.command("revoke")
def run_revoke(
    context: typer.Context,
    owner: Annotated[str, typer.Argument(metavar="NAME|SHA256:...", help="The owner, or one key's fingerprint.")],
    only: Annotated[
        bool, typer.Option("--only", help="Keep the keys that the one of the fingerprint vouched for by rotations.")
    ] = False,
) -> int:
    """On mainpc: revoke a key; wait until every host refuses it."""
    layout, config = _tree(context)
    done = revoke(layout, owner, only=only)
    for target in done.revoked:
        say(f"revoked: {target}")
    for target in done.before:
        say(f"already revoked: {target}")
    for path in done.removed:
        say(f"removed: {path}")
    for target in done.others:
        say(f"not revoked: {target}; to revoke it too: {layout.command('revoke', target.fingerprint)}")
    refused_everywhere = _say_hosts(layout, config, done)
    names = {target.owner.name for target in (*done.revoked, *done.before) if target.owner is not None}
    live = {target.owner.name for target in done.others if target.owner is not None}
    for entry in pending(layout):
        if (name := entry.certificate.owner.name) in names:
            note(f"certs-init: {name} has an open {entry.what}; to end it: {layout.command('reject', name)}")
    for identity in layout.local:
        if identity.owner.name in names - live:
            note(f"Its secret is in this tree; for a new key: {CERTS_INIT} replace {identity.owner.name}")
    for sentence in done.failures:
        note(f"certs-init: {sentence}")
    return 0 if refused_everywhere and not done.failures else 1


def _say_hosts(layout: Layout, config: NetworkConfig, done: Revocation) -> bool:
    """Print a line for each host; return whether none may accept the revoked keys any more."""
    targets = (*done.revoked, *done.before)
    if not targets:
        return False
    certificates = [target.certificate for target in targets if target.certificate is not None]
    answers = wait_until_acknowledged(layout, config, [target.fingerprint for target in targets], certificates)
    for answer in answers:
        say(f"{answer.host}: {'NOT ACKNOWLEDGED: ' if answer.missing else ''}{answer.sentence}")
    if missing := sorted({answer.host for answer in answers if answer.missing}):
        note(
            f"certs-init: {', '.join(missing)} did not acknowledge the revocation within {WITHIN_S:g} s and may still "
            "accept the key; to ask again, run the same command again"
        )
    return not missing


@commands.command("replace")
def run_replace(
    context: typer.Context,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The key's owner.")],
    days: Days = None,
) -> None:
    """Make a new key in place of a revoked one of this tree."""
    layout, config = _tree(context, days)
    pair = replace_revoked(layout, name)
    _give_to_standbys(layout, config, name)
    say(f"{described(pair.certificate.owner)} has the key {pair.public.fingerprint} now")
    note("mainpc notifies other machines of it; an agent on this one uses it at once, or from its next start.")


@commands.command("export-host")
def run_export_host(
    context: typer.Context,
    host: Annotated[str, typer.Argument(metavar="HOST", help="As in network_config.yaml.")],
    to: Annotated[
        Path | None, typer.Option("--to", metavar="DIR", help="Copy the folder below DIR in its place.")
    ] = None,
) -> None:
    """Make a host's keys here, and write its folder as a tar."""
    if to is None and sys.stdout.isatty():
        raise ConfigurationError("a tar can't be shown on a terminal; redirect it into a file, or give --to DIR")
    layout, config = _tree(context)
    folder = make_host_keys(layout, config, host)
    if to is not None:
        note(f"{copy_to(folder, to)} is written")
    else:
        sys.stdout.buffer.write(as_tar(folder))
        sys.stdout.buffer.flush()
    note(f"Warning: the secret of {host} was made here and is transferred; its readers can impersonate that host.")
    note(f"To make it there instead: {CERTS_INIT} invite NAME --host {host} --role ROLE")
    if folder not in layout.folders:
        note(f"Once it is there, remove it here: {remove_command(folder)}")


@commands.command("export-standby")
def run_export_standby(
    context: typer.Context,
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="As in network_config.yaml.")],
) -> None:
    """Where an agent is active: print its secret, for the machine where it stands by."""
    if sys.stdout.isatty():
        raise ConfigurationError("a secret is not shown on a terminal; pipe it to import-standby, by ssh")
    layout, config = _tree(context)
    sys.stdout.write(secret_for_standby(layout, config, agent))
    note(f"Warning: this is the secret of {agent}; whoever reads it can impersonate it.")
    note(f"On the other machine, to read it: {CERTS_INIT_PIPED} import-standby -")


@commands.command("import-standby")
def run_import_standby(
    context: typer.Context,
    file: Annotated[str, typer.Argument(metavar="FILE", help="What export-standby printed; - is standard input.")],
) -> None:
    """Where an agent stands by: take its secret from where it is active, again after a rotation."""
    layout, config = _tree(context)
    source, text = _read("import-standby", file, MAX_KEY_FILE_BYTES) if file == STANDARD_STREAM else _secret_in(file)
    folder = take_secret(layout, config, only_host(), text, source)
    say(f"{folder} has the secret of the agent that stands by here; start it again if it runs")


def _secret_in(file: str) -> tuple[str, str]:
    pair = load_key_pair(Path(file))
    return file, render_certificate(pair.certificate, pair.secret_z85)


def _give_to_standbys(layout: Layout, config: NetworkConfig, changed: str = "") -> None:
    """Have the standbys of one machine have the agents' newest secrets; of two, say what to do after a change."""
    if only_host() is None:
        others = CERTIFICATES_VOLUME if layout.root == STANDBYS_VOLUME else STANDBYS_VOLUME
        for folder in give_to_standbys(layout, config.agents, others):
            say(f"{folder}: has the agent's new secret too")
    elif (agent := config.agents.get(changed)) is not None and agent.standby is not None:
        export = layout.command("export-standby", agent.name, piped=True)
        other = agent.host if only_host() == agent.standby.name else agent.standby
        note(f"Its process on {other.name} can't take over until it has the new secret, from: {export}")


def _requested_key(layout: Layout, file: str) -> tuple[str, Certificate]:
    """Return the request in a file, or the one that was kept under that name, after its name in an error."""
    if file != STANDARD_STREAM and not Path(file).exists():
        kept = kept_request(layout, file)
        if kept is not None:
            return f"the request of {file}", kept
    source, text = _read("accept", file, MAX_KEY_FILE_BYTES)
    return source, parse_certificate(text, source)


def _read(command: str, file: str, limit_bytes: int) -> tuple[str, str]:
    """Return what is in a key file or on standard input, after its name in an error."""
    if file != STANDARD_STREAM:
        if not Path(file).exists():
            raise ConfigurationError(
                f"there is no {file} here; certs-init in a container sees no file of the machine, so pipe it in: "
                f"{CERTS_INIT_PIPED} {command} - < {file}"
            )
        return file, read_file(Path(file))
    content = sys.stdin.buffer.read(limit_bytes + 1)
    if len(content) > limit_bytes or not content.isascii():
        raise ConfigurationError(f"standard input is not {EXPECTED}")
    return "standard input", content.decode("ascii")


def _tree(
    context: typer.Context, days: int | None = None, *, wherever_active: bool = True
) -> tuple[Layout, NetworkConfig]:
    """Return the tree that a command works on, and its configuration; new keys are valid for `days`.

    With `wherever_active`, it is the standbys' on this machine, where SystemDigitalTwin is active there.
    """
    config = load_network_config()
    layout = plan_layout(context.obj, config, only_host())
    if wherever_active and only_host() is None and layout.root == CERTIFICATES_VOLUME:
        layout = where_active(layout, STANDBYS_VOLUME)
    return layout if days is None else replace(layout, lifetime_days=days), config


commands.add_typer(_rotate, name="rotate")

if __name__ == "__main__":
    sys.exit(main())
