"""The container that makes the keys: any number of times, never twice, and it says what lies where."""

import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest

from tests.containers.stack import Stack

FINGERPRINT = re.compile(r"SHA256:[A-Za-z0-9+/]{43}")
NAMES = ["SystemDigitalTwin", "UnifiedMemoryReasoningAgent", "operator"]


@pytest.fixture(scope="module")
def project(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """A project of which nothing runs but the container that commands are run in."""
    stack = Stack(tmp_path_factory.mktemp("keys"), {})
    yield stack
    stack.stop()


@pytest.fixture
def keys(project: Stack) -> Stack:
    emptied = project.run_shell("certs-init", "find /certificates -mindepth 1 -delete")
    assert emptied.status == 0, emptied.err
    return project


def test_a_second_run_changes_nothing_and_says_so(keys: Stack) -> None:
    """Same fingerprints, `already present`, and which file lies where."""
    first, second = keys.run_alone("certs-init"), keys.run_alone("certs-init")
    assert (first.status, second.status) == (0, 0)
    assert first.out.count("created") == second.out.count("already present") == len(NAMES)
    assert FINGERPRINT.findall(first.out) == FINGERPRINT.findall(second.out)
    assert len(set(FINGERPRINT.findall(first.out))) == len(NAMES)
    for folder, secret in (("mainpc", "server"), ("pc2", "client"), ("operator", "operator")):
        assert f"/certificates/{folder}: {secret}.key_secret" in second.out


def test_verify_finds_a_new_tree_right(keys: Stack) -> None:
    """`certs-init verify` ends with 0 after `certs-init`, and with 1 before."""
    assert keys.run("certs-init", "verify").status == 1
    assert keys.run("certs-init").status == 0
    verified = keys.run_alone("certs-init", "verify")
    assert verified.status == 0
    assert "3 folders are correct" in verified.out


def test_verify_says_what_is_wrong(keys: Stack) -> None:
    """A secret that others can read, and one on a host that it is not of, are named."""
    keys.run("certs-init")
    damage = (
        "chmod 640 /certificates/mainpc/server.key_secret; cp /certificates/pc2/client.key_secret /certificates/mainpc"
    )
    assert keys.run_shell("certs-init", damage).status == 0
    verified = keys.run("certs-init", "verify")
    assert verified.status == 1
    assert "chmod certs-init 600 /certificates/mainpc/server.key_secret" in verified.out
    assert "/certificates/mainpc/client.key_secret is another owner's secret" in verified.out


DAMAGES = {
    "exposed": "chmod 644 /certificates/mainpc/server.key_secret",
    "folder open": "chmod 777 /certificates/pc2",
    "lost": "rm /certificates/pc2/client.key_secret",
    "mainpc's lost": "rm /certificates/mainpc/server.key_secret",
    "cut off": "echo half > /certificates/pc2/server.key",
    "stray": "touch /certificates/mainpc/notes.txt",
}
BRING_BACK = re.compile(r"To restore it: .* public (\S+) \| .* trust -")


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
def test_the_advice_about_keys_works_as_printed(keys: Stack, damage: str) -> None:
    """Command by command, on the volume, as the services' user: in the end an agent would start."""
    keys.run("certs-init")
    assert keys.run_shell("certs-init", damage).status == 0
    for _ in range(4):
        verified = keys.run("certs-init", "verify")
        wrong = [line for line in verified.out.splitlines()[:-1] if not line.startswith("remark")]
        if not wrong:
            break
        commands = re.findall(r"docker compose (run --rm [^,;\n]*)", wrong[0])
        assert commands, wrong[0]
        for command in commands:
            done = keys.compose(*shlex.split(command))
            assert done.status == 0, f"{command}: {done.err}"
        if "which says how to continue" in wrong[0]:
            for stem in BRING_BACK.findall(keys.run("certs-init").out):
                public = keys.run("certs-init", "public", stem).out
                assert keys.run("certs-init", "trust", "-", given=public).status == 0
    assert (keys.run("certs-init", "verify").status, keys.run("certs-init").status) == (0, 0)
    secrets = keys.run_shell("certs-init", "stat -c %a /certificates/*/*.key_secret").out.split()
    assert secrets == ["600"] * 3


def test_a_file_of_another_user_is_given_back_as_advised(keys: Stack) -> None:
    """As a copy made by root leaves it; the command that verify names takes root, and nothing else of the machine."""
    keys.run("certs-init")
    as_root = ("--user", "0", "--cap-add", "CHOWN", "--cap-add", "DAC_OVERRIDE")
    path = "/certificates/pc2/server.key"
    chown = keys.compose("run", "--rm", "-T", "--no-deps", *as_root, "--entrypoint", "chown", "certs-init", "0", path)
    assert chown.status == 0, chown.err
    verified = keys.run("certs-init", "verify")
    (sentence,) = [line for line in verified.out.splitlines() if "belongs to uid 0" in line]
    done = keys.compose(*shlex.split(sentence.partition("run: docker compose ")[2]))
    assert done.status == 0, done.err
    assert keys.run("certs-init", "verify").status == 0


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        ("chmod 644 /certificates/mainpc/server.key_secret", "so others can use the secret; run: "),
        ("rm /certificates/mainpc/server.key_secret", "/certificates holds no secret key; run: "),
    ],
)
def test_what_an_agent_advises_leads_to_the_command(keys: Stack, damage: str, sentence: str) -> None:
    """Its own mount is read-only, and it sees a part of the tree; verify sees all of it and says what to do."""
    keys.run("certs-init")
    assert keys.run_shell("certs-init", damage).status == 0
    said = keys.run_alone("mainpc")
    assert said.status == 78
    assert f"{sentence}docker compose run --rm certs-init verify" in said.out + said.err
    advised = keys.run("certs-init", "verify")
    assert (advised.status, "docker compose run --rm" in advised.out) == (1, True)


def test_where_it_fails_its_sentence_is_seen(engine: docker.DockerClient, tmp_path: Path) -> None:
    """In the output of `docker compose up`, and by the cli, which runs all the same.

    In a project of its own: where `up` fails, Compose may end all containers of the project, also those that stay.
    """
    own = Stack(tmp_path, {})
    try:
        own.run("certs-init")
        assert own.run_shell("certs-init", "rm /certificates/mainpc/server.key_secret").status == 0
        sentence = own.run("certs-init").err.removeprefix("certs-init: ").strip()
        assert "/certificates/mainpc/server.key_secret is missing" in sentence
        up = own.compose("up")
        assert (up.status != 0, sentence in up.out + up.err) == (True, True), up.out + up.err
        status = own.compose("run", "--rm", "-T", "cli", "status")
        assert (status.status, f"certs-init failed: {sentence}" in status.err) == (2, True), status.err
    finally:
        own.stop()


@pytest.mark.parametrize("service", ["certs-init", "cli", "archive"])
def test_the_engine_keeps_nothing_of_what_a_tool_prints(keys: Stack, service: str) -> None:
    """An invitation, a folder of keys, a backup: nothing of it is in a log of the engine; the caller gets it whole."""
    assert keys.run("certs-init").status == 0
    name = f"{keys.project}-{service}-kept"
    printed = keys.compose("run", "-T", "--no-deps", "--name", name, service, "--help")
    try:
        assert (printed.status, "usage" in printed.out.lower()) == (0, True), printed.err
        logs = subprocess.run(["docker", "logs", name], capture_output=True, text=True, check=False)
        assert (logs.returncode != 0, logs.stdout) == (True, "")
    finally:
        subprocess.run(["docker", "rm", name], capture_output=True, check=True)


def test_a_removed_peer_stays_removed(keys: Stack) -> None:
    """The file taken out of mainpc's folder does not come back by the next run, and does by `public | trust`."""
    keys.run("certs-init")
    assert keys.run_shell("certs-init", "rm /certificates/mainpc/client.key").status == 0
    again = keys.run("certs-init")
    assert again.status == 0
    assert "/certificates/mainpc/client.key was removed and stays removed" in again.out
    assert keys.run_shell("certs-init", "ls /certificates/mainpc/client.key").status != 0
    verified = keys.run("certs-init", "verify")
    assert verified.status == 0
    assert "remark: /certificates/mainpc/client.key was removed" in verified.out
    public = keys.run("certs-init", "public", "client").out
    assert keys.run("certs-init", "trust", "-", given=public).status == 0
    assert keys.run_shell("certs-init", "cat /certificates/mainpc/client.key").out == public
    assert "was removed" not in keys.run("certs-init").out


def test_a_real_host_gets_its_own_secret_alone(engine: docker.DockerClient, tmp_path: Path) -> None:
    """TWINHOST_HOST=pc2 makes pc2's pair, and mainpc's public key comes in by `trust`."""
    (tmp_path / "mainpc").mkdir()
    (tmp_path / "pc2").mkdir()
    mainpc = Stack(tmp_path / "mainpc", {"TWINHOST_HOST": "mainpc"})
    pc2 = Stack(tmp_path / "pc2", {"TWINHOST_HOST": "pc2"})
    try:
        assert mainpc.run("certs-init").status == 0
        made = pc2.run("certs-init")
        assert made.status == 0
        assert "SystemDigitalTwin on mainpc is not known here yet" in made.out
        for source, target, stem in ((mainpc, pc2, "server"), (mainpc, pc2, "operator"), (pc2, mainpc, "client")):
            public = source.run("certs-init", "public", stem)
            assert target.run("certs-init", "trust", "-", given=public.out).status == 0
        for stack in (mainpc, pc2):
            verified = stack.run("certs-init", "verify")
            assert verified.status == 0, verified.out
        secrets = pc2.run_shell("certs-init", "find /certificates -name '*_secret'").out.split()
        assert secrets == ["/certificates/pc2/client.key_secret"]
    finally:
        mainpc.stop()
        pc2.stop()
