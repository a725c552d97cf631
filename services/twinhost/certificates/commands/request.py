"""`certs-init request`, `accept`, `pending`, `reject`: who may come in, by files that somebody carries."""

import argparse
import sys
import time
from pathlib import Path

from twinhost.certificates.admission import accept, check_request, keep_request, kept_request, pending, reject
from twinhost.certificates.bundle import bundle_fingerprint, render_bundle
from twinhost.certificates.commands.command import RUN_PIPED, Commands, Tree, add_command, add_days, add_owner, owner_of
from twinhost.certificates.commands.public import read_public_file
from twinhost.certificates.layout import described
from twinhost.certificates.request import request, request_fingerprint
from twinhost.certificates.terminal import ask, is_terminal, note, say
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import Certificate, format_moment


def add(commands: Commands) -> None:
    """Put the commands on the command line."""
    add_owner(
        add_command(
            commands, "request", run_request, "on a machine with no path to mainpc: print the key that it may accept"
        )
    )
    accepting = add_command(commands, "accept", run_accept, "on mainpc: let a requested key in, and print the answer")
    accepting.add_argument("file", metavar="FILE", help="what request printed, - for standard input, or a kept NAME")
    accepting.add_argument("--fingerprint", metavar="SHA256:...", help="the one that request printed")
    add_days(accepting)
    add_command(commands, "pending", run_pending, "on mainpc: list open invitations and kept requests")
    rejecting = add_command(commands, "reject", run_reject, "on mainpc: withdraw an invitation, or drop a request")
    rejecting.add_argument("name", metavar="NAME", help="as pending shows it")


def run_request(options: argparse.Namespace, tree: Tree) -> int:
    """Print the request alone."""
    certificate = request(tree.layout, tree.config, owner_of(options))
    sys.stdout.write(render_certificate(certificate))
    fingerprint = request_fingerprint(certificate)
    note(f"The request of {described(certificate.owner)} has the fingerprint {fingerprint}")
    note("It covers name, host, roles, and key. Pass it on by another way than the file.")
    note(f"Carry that file to mainpc: {RUN_PIPED} accept - --fingerprint {fingerprint}")
    note(f"and its answer back here: {RUN_PIPED} trust -")
    return 0


def run_accept(options: argparse.Namespace, tree: Tree) -> int:
    """Show who asks, and print the answer alone where a person, or the fingerprint, confirms it; otherwise return 1."""
    tree = tree.lasting(options.days)
    layout, config = tree.layout, tree.config
    source, certificate = _request(options.file, tree)
    check_request(layout, config, certificate, source)
    fingerprint = request_fingerprint(certificate)
    note(f"{described(certificate.owner)} asks to be let in; the request's fingerprint is {fingerprint}")
    if options.fingerprint is None and options.file != "-" and is_terminal():
        if not ask("Is that the fingerprint that request showed there, and may it come in?"):
            note("certs-init: it was not accepted, and nothing was changed")
            return 1
    elif (options.fingerprint or "").rstrip("=") != fingerprint:
        path = keep_request(layout, certificate)
        why, name = _why_not(options.fingerprint, certificate), certificate.owner.name
        note(
            f"certs-init: {why}, so the request is kept as {path}; compare the fingerprint with the one that "
            f"request showed there, then: certs-init accept {name} --fingerprint ..., or: certs-init reject {name}"
        )
        return 1
    material = accept(layout, config, certificate, source)
    sys.stdout.write(render_bundle(material))
    until = material.own.validity.not_after
    note(f"{certificate.owner.name} is let in" + (f" until {format_moment(until)}." if until is not None else "."))
    note(f"Carry the answer there: {RUN_PIPED} trust -   which shows this fingerprint: {bundle_fingerprint(material)}")
    return 0


def run_pending(_: argparse.Namespace, tree: Tree) -> int:
    """List who may come in, and who asks."""
    found = pending(tree.layout)
    if not found:
        say("nothing is pending")
    for one in found:
        owner, validity = one.certificate.owner, one.certificate.validity
        roles = " ".join(sorted(owner.roles))
        until = "-"
        if one.what == "invitation" and validity.not_after is not None:
            until = "over" if validity.has_ended(time.time()) else format_moment(validity.not_after)
        key = one.certificate
        fingerprint = request_fingerprint(key) if one.what == "request" else key.public.fingerprint
        say(f"{one.what:<10} {owner.name:<28} {owner.host:<8} {roles:<16} {until:<20} {fingerprint}")
    return 0


def run_reject(options: argparse.Namespace, tree: Tree) -> int:
    """Say what was withdrawn, or dropped."""
    for one in reject(tree.layout, options.name):
        done = "is withdrawn; nobody can enrol by it any more" if one.what == "invitation" else "is dropped"
        say(f"the {one.what} of {described(one.certificate.owner)} {done}")
    return 0


def _why_not(given: str | None, certificate: Certificate) -> str:
    """Return why a fingerprint does not confirm a request."""
    if given is None:
        return "no --fingerprint was given"
    if given.rstrip("=") == certificate.public.fingerprint:
        return (
            "--fingerprint is that of the key alone, which does not cover name, host, and roles (an older version's "
            "request printed it: update that machine and run request there again)"
        )
    return "--fingerprint is of another request: name, host, roles, or key differ from what request printed there"


def _request(file: str, tree: Tree) -> tuple[str, Certificate]:
    """Return the request in a file, or the one that was kept under that name."""
    if file != "-" and not Path(file).exists():
        kept = kept_request(tree.layout, file)
        if kept is not None:
            return f"the request of {file}", kept
    return read_public_file(file)
