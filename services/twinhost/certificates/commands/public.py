"""`certs-init public` and `trust`: public keys that travel as files between machines."""

import argparse
import sys
from pathlib import Path

from twinhost.certificates.bundle import BUNDLE_MARK, MAX_BUNDLE_BYTES, bundle_fingerprint, parse_bundle
from twinhost.certificates.commands.command import Commands, Tree, add_command
from twinhost.certificates.generate import require_not_revoked, trust
from twinhost.certificates.layout import Identity, Layout
from twinhost.certificates.request import take_in
from twinhost.certificates.survey import enrolled_key, is_revoked, live_keys
from twinhost.certificates.terminal import read_standard_input, say
from twinhost.secure_zmq.errors import ConfigurationError, KeyFileMalformed
from twinhost.secure_zmq.key_writer import render_certificate
from twinhost.secure_zmq.keys import MAX_KEY_FILE_BYTES, Certificate, load_certificate, load_key_pair, parse_certificate

_NO_KEY_FILE = "a public key file; give it the output of: certs-init public KEY, or of certs-init accept"


def add(commands: Commands) -> None:
    """Put the commands on the command line."""
    public = add_command(commands, "public", run_public, "print a public key file, to be passed on")
    public.add_argument("key", metavar="KEY", help="server, client, or operator, or the name of who joined")
    accept = add_command(
        commands, "trust", run_trust, "take in a public key file of another machine, or what accept answered"
    )
    accept.add_argument("file", metavar="FILE", help="the file, or - for standard input")


def run_public(options: argparse.Namespace, tree: Tree) -> int:
    """Print a public key file and nothing else."""
    layout, key = tree.layout, options.key
    identity = next((one for one in layout.everybody if key in (one.stem, one.owner.name)), None)
    if identity is not None:
        certificate = _known_public(layout, identity)
    else:
        others = live_keys(layout, key)
        if not others:
            known = ", ".join(one.stem for one in layout.everybody)
            raise ConfigurationError(f"there is no key {key!r}; there are: {known}")
        certificate = others[0]
    require_not_revoked(layout, certificate, f"the key {key}")
    sys.stdout.write(render_certificate(certificate))
    return 0


def run_trust(options: argparse.Namespace, tree: Tree) -> int:
    """Take in one public key, or a bundle; say whose it is, and what to compare."""
    layout = tree.layout
    source, text = _read(options.file)
    if text.lstrip().startswith("{"):
        material = parse_bundle(text, source)
        server = take_in(layout, material, source)
        own = material.own
        say(f"{own.owner.name} on {own.owner.host} is known to mainpc as {own.public.fingerprint}")
        say(f"{server.owner.name} on {server.owner.host} is trusted as {server.public.fingerprint}")
        say(f"The answer's fingerprint is {bundle_fingerprint(material)}; compare it with the one that accept printed.")
        return 0
    certificate = parse_certificate(text, source)
    identity = trust(layout, certificate, source)
    say(f"{identity.owner.name} on {identity.owner.host} is trusted as {certificate.public.fingerprint}")
    say("Compare that with the fingerprint that certs-init shows on that machine.")
    return 0


def read_public_file(file: str) -> tuple[str, Certificate]:
    """Return what a complaint calls a public key file, and what is in it; `-` is standard input.

    Raises:
        KeyFileMissing, KeyFileMalformed: it can't be read, or believed.
    """
    source, text = _read(file, MAX_KEY_FILE_BYTES)
    return source, parse_certificate(text, source)


def _read(file: str, limit_bytes: int = MAX_BUNDLE_BYTES) -> tuple[str, str]:
    if file == "-":
        return "standard input", read_standard_input(limit_bytes, _NO_KEY_FILE)
    path = Path(file)
    if _is_bundle(path):
        return file, path.read_text("ascii")
    return file, render_certificate(load_certificate(path))


def _is_bundle(path: Path) -> bool:
    """Return whether a file begins as a bundle does; whatever else it is, the loader of key files tells."""
    try:
        if not path.is_file():  # a pipe would be waited for
            return False
        with path.open("rb") as stream:
            head = stream.read(MAX_BUNDLE_BYTES + 1)
    except OSError:
        return False
    if not head.lstrip().startswith(b"{") or BUNDLE_MARK.encode() not in head:
        return False
    if len(head) > MAX_BUNDLE_BYTES or not head.isascii():
        raise KeyFileMalformed(f"{path} is not {_NO_KEY_FILE}")
    return True


def _known_public(layout: Layout, identity: Identity) -> Certificate:
    """Return a public key, also where it was removed from some folder, or from all while its secret is here."""
    if layout.secret_file(identity).exists():
        return load_key_pair(layout.secret_file(identity)).certificate
    files = layout.public_files(identity)
    for path in files:
        if path.exists() and not is_revoked(layout, certificate := load_certificate(path)):
            return certificate
    return enrolled_key(layout, identity) or load_certificate(next((p for p in files if p.exists()), files[0]))
