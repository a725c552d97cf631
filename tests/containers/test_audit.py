"""The audit log of the real stack: it records what became of keys, and shows where its file was tampered with."""

import base64
import io
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import docker
import pytest

from tests.containers.kept import Finished
from tests.containers.stack import AGENTS, Stack
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import NotAuthorized
from twinhost.secure_zmq.keys import KeyOwner, KeyPair
from twinhost.secure_zmq.server_address import SecuredAddress

pytestmark = pytest.mark.sdt_security

NEWCOMER = "newcomer"
FOLDER = "/var/lib/twinhost/audit"
WHOLE = "are intact and end with the head in the database"
SPLICE = """
import base64, sys
path, at, old, new = sys.argv[1], int(sys.argv[2]), *map(base64.b64decode, sys.argv[3:])
with open(path, "r+b") as file:
    content = file.read()
    assert content[at:at + len(old)] == old
    file.seek(at)
    file.write(new + content[at + len(old):])
    file.truncate()
"""


@dataclass(frozen=True)
class Splice:
    """A change of the log's file: at this byte, what is there gives way to something else."""

    at: int
    old: bytes
    new: bytes

    def undone(self) -> "Splice":
        """Return what takes it back, whatever was appended since."""
        return Splice(self.at, self.new, self.old)


@pytest.fixture(scope="module")
def audited(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Both hosts after a rotation of either key, an enrolment, a revocation, and a stranger at the door."""
    stack = Stack(tmp_path_factory.mktemp("audited"), {})
    try:
        stack.start()
        stack.wait_until_ready()
        live_a_life(stack)
        yield stack
    finally:
        stack.stop()


def live_a_life(stack: Stack) -> None:
    """Cause the events that the log must record."""
    certs_init(stack, "rotate", "server")
    certs_init(stack, "rotate", "client", AGENTS["pc2"])
    line = certs_init(stack, "invite", NEWCOMER, "--host", "elsewhere", "--role", "agent").out
    certs_init(stack, "--root", "/tmp/tree", "join", "-", given=line)
    certs_init(stack, "revoke", NEWCOMER)
    stranger = KeyPair.generate(KeyOwner("stranger", "elsewhere", frozenset({"agent"})))
    pin = stack.keys("operator").public_key()
    with Client(SecuredAddress(stack.zmq_address("mainpc"), stranger, pin)) as client, pytest.raises(NotAuthorized):
        client.call("ping")


def certs_init(stack: Stack, *arguments: str, given: str = "") -> Finished:
    done = stack.run("certs-init", *arguments, given=given)
    assert done.status == 0, done.out + done.err
    return done


def logged(stack: Stack) -> list[dict[str, Any]]:
    """Return the log as `audit tail` shows it to programs."""
    shown = stack.run("cli", "audit", "tail", "-n", "1000", "--json")
    assert shown.status == 0, shown.err
    return [json.loads(line) for line in shown.out.splitlines()]


def test_tail_shows_the_lifecycle_of_the_keys(audited: Stack) -> None:
    """Enrolment, rotation, revocation, and handshakes, with whose key it was; and people get the same as text."""

    def is_logged(event: str, **fields: str) -> bool:
        return any(entry["event"] == event and fields.items() <= entry.items() for entry in log)

    log = logged(audited)
    for event in ("invitation_made", "invitation_used", "key_authorized", "key_revoked"):
        assert is_logged(event, name=NEWCOMER), event
    for agent in AGENTS.values():
        assert is_logged("key_rotated", name=agent), agent
    assert is_logged("handshake_accepted", peer=AGENTS["pc2"])
    assert is_logged("handshake_refused", cause="key_not_authorized")
    text = audited.run("cli", "audit", "tail", "-n", "1000").out
    assert all(word in text for word in ("invitation_used", "key_rotated", "key_revoked", f"name={NEWCOMER}"))


def test_an_untouched_log_is_whole(audited: Stack) -> None:
    """`audit verify` ends with 0, and says how far it read."""
    verified = audited.run("cli", "audit", "verify")
    assert (verified.status, WHOLE in verified.out) == (0, True), verified.out + verified.err


def removed(lines: list[bytes]) -> Splice:
    return Splice(offset(lines, 4), lines[4], b"")


def reordered(lines: list[bytes]) -> Splice:
    return Splice(offset(lines, 4), lines[4] + lines[5], lines[5] + lines[4])


def edited(lines: list[bytes]) -> Splice:
    at = lines[4].index(b'"event":"') + len(b'"event":"')
    old = lines[4][at : at + 1]
    return Splice(offset(lines, 4) + at, old, bytes([old[0] ^ 1]))


def cut_off(lines: list[bytes]) -> Splice:
    return Splice(offset(lines, len(lines) - 2), lines[-2] + lines[-1], b"")


def offset(lines: list[bytes], index: int) -> int:
    return sum(len(line) for line in lines[:index])


@pytest.mark.parametrize("tamper", [removed, reordered, edited, cut_off], ids=lambda tamper: tamper.__name__)
def test_verify_finds_what_was_tampered_with(audited: Stack, tamper: Any) -> None:
    """The file is changed below a running agent; `audit verify` ends with 1 and names the line. Undone, all is well."""
    with paused(audited):
        name, lines = files(audited)[0]
        splice = tamper(lines)
        first = json.loads(splice.old.splitlines()[0])["seq"] if tamper is not edited else 5
        apply(audited, name, splice)
    try:
        verified = audited.run("cli", "audit", "verify")
        assert verified.status == 1, verified.out
        assert "the chain is broken" in verified.out
        assert f"first at line {first}:" in verified.out, verified.out
        assert f"line {first}:" in verified.err
        if tamper is edited:
            assert_doctor_reports(audited)
    finally:
        with paused(audited):
            apply(audited, name, splice.undone())
    verified = audited.run("cli", "audit", "verify")
    assert (verified.status, WHOLE in verified.out) == (0, True), verified.out + verified.err


def test_the_chain_continues_across_a_restart(audited: Stack) -> None:
    """kill -9 of mainpc; what was logged before is there after it, and the chain is whole."""
    before = [entry["hash"] for entry in logged(audited)]
    audited.kill_main_process("mainpc")
    wait_until(lambda: audited.http("mainpc", "/readyz")[0] == 200, PATIENCE_S, "mainpc is back")
    after = [entry["hash"] for entry in logged(audited)]
    assert after[: len(before)] == before
    test_an_untouched_log_is_whole(audited)


def assert_doctor_reports(stack: Stack) -> None:
    """The examination fails on this one check."""
    examined = stack.run("cli", "doctor", "--json")
    failed = [check for check in json.loads(examined.out)["checks"] if check["verdict"] == "failed"]
    assert (examined.status, [check["check"] for check in failed]) == (1, ["audit log"])
    assert "somebody changed it" in failed[0]["sentence"]


@contextmanager
def paused(stack: Stack) -> Iterator[None]:
    """Have mainpc add nothing meanwhile."""
    container = stack.container("mainpc")
    container.pause()
    try:
        yield
    finally:
        container.unpause()


def files(stack: Stack) -> list[tuple[str, list[bytes]]]:
    """Return the log's files, each with its lines."""
    chunks, _ = stack.container("mainpc").get_archive(FOLDER)
    with tarfile.open(fileobj=io.BytesIO(b"".join(chunks))) as archive:
        members = sorted((member for member in archive if member.isfile()), key=lambda member: member.name)
        contents = [(Path(member.name).name, archive.extractfile(member)) for member in members]
        return [(name, content.read().splitlines(keepends=True)) for name, content in contents if content]


def apply(stack: Stack, name: str, splice: Splice) -> None:
    """Change a file of the log through another container that has it."""
    parts = [base64.b64encode(part).decode() for part in (splice.old, splice.new)]
    command = ["-c", SPLICE, f"{FOLDER}/{name}", str(splice.at), *parts]
    done = stack.kept("archive").execute("python", *command)
    assert done.status == 0, done.err
