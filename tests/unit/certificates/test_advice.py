"""Every piece of advice about a key is tried: what a sentence says to run is run, until the keys are right."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from tests.identities import new_pair
from tests.unit.certificates.trees import Ran, certs_init
from twinhost.commands import certs_init_command, change_mode_command, protect_command, remove_command
from twinhost.secure_zmq.certificates import folders_of_keys, load_certificates, read_folders
from twinhost.secure_zmq.errors import TwinhostError
from twinhost.secure_zmq.key_writer import replace_certificate, write_certificate, write_key_pair
from twinhost.secure_zmq.keys import KeyOwner, KeyPair, Validity, load_certificate

HOSTS = ("mainpc", "pc2", "operator")
UMRA = "UnifiedMemoryReasoningAgent"
COMMAND = re.compile(
    r"(?:run|then|remove it|by hand): ((?:docker compose run --rm )?(?:certs-init|chmod|rm|chown)[^,;\n]*)"
)
SILENT_CERTS_INIT = re.compile(r"then run (certs-init), which says how to continue")
BRING_BACK = re.compile(r"To restore it: \S.* public (\S+) \| .* trust -")
MAX_DEPTH = 6  # of sentences, each of which may lead to the next

Damage = Callable[[Path], object]


def advised(sentence: str) -> list[str]:
    """Return the commands that a sentence says to run, in their order."""
    found = [*COMMAND.finditer(sentence), *SILENT_CERTS_INIT.finditer(sentence)]
    return [match[1].strip() for match in sorted(found, key=lambda match: match.start())]


def follow(tree: Path, sentence: str, depth: int = 0) -> None:
    """Do what a sentence says, and then what certs-init answers to that."""
    assert depth < MAX_DEPTH, f"the advice goes round in a circle: {sentence}"
    commands = advised(sentence)
    assert commands, f"no advice in: {sentence}"
    for command in commands:
        words = command.removeprefix("docker compose run --rm ").split()
        if words[0] != "certs-init":
            subprocess.run(words, check=True)
            continue
        ran = certs_init(tree, *words[1:])
        for stem in BRING_BACK.findall(ran.out):
            public = certs_init(tree, "public", stem)
            assert certs_init(tree, "trust", "-", stdin=public.out.encode()).status == 0
        answers = problems(ran) if words[1:] == ["verify"] else [ran.err] if ran.status else []
        if answers:
            follow(tree, answers[0], depth + 1)


def problems(verified: Ran) -> list[str]:
    """Return what `verify` found wrong."""
    return [line for line in verified.lines[:-1] if not line.startswith("remark: ")]


def faults_of_agents(tree: Path) -> list[str]:
    """Return what keeps each host's agent, and the cli, from its start."""
    faults = []
    for host in HOSTS:
        try:
            certificates = load_certificates(tree / host)
            certificates.public_key("server")
        except TwinhostError as error:
            faults.append(str(error))
    return faults


def remove_secret(name: str) -> Damage:
    return lambda tree: (tree / name).unlink()


def write(name: str, text: str) -> Damage:
    def overwrite(tree: Path) -> None:
        (tree / name).write_text(text)

    return overwrite


def change_mode(name: str, mode: int) -> Damage:
    return lambda tree: (tree / name).chmod(mode)


def add_secret_of_another(tree: Path) -> None:
    shutil.copy(tree / "pc2/client.key_secret", tree / "mainpc/client.key_secret")


def put_another_pair(tree: Path) -> None:
    """mainpc's secret is another whole pair; everybody has the old public half."""
    (tree / "mainpc/server.key_secret").unlink()
    validity = Validity(not_after=load_certificate(tree / "mainpc/server.key").validity.not_after)
    owner = load_certificate(tree / "mainpc/server.key").owner
    write_key_pair(KeyPair.generate(owner, validity), tree / "mainpc/server.key_secret")


def put_another_public_key(tree: Path) -> None:
    path = tree / "pc2/server.key"
    certificate = load_certificate(path)
    path.unlink()
    write_certificate(KeyPair.generate(certificate.owner, certificate.validity).certificate, path)


def put_a_link(tree: Path) -> None:
    path = tree / "pc2/client.key_secret"
    path.rename(tree.parent / "elsewhere")
    path.symlink_to(tree.parent / "elsewhere")


DAMAGES: dict[str, Damage] = {
    "mainpc's secret is lost": remove_secret("mainpc/server.key_secret"),
    "pc2's secret is lost": remove_secret("pc2/client.key_secret"),
    "the operator's secret is lost": remove_secret("operator/operator.key_secret"),
    "mainpc's secret is exposed": change_mode("mainpc/server.key_secret", 0o644),
    "the operator's secret is exposed": change_mode("operator/operator.key_secret", 0o640),
    "pc2's secret is cut off": write("pc2/client.key_secret", "half a fi"),
    "mainpc's secret has no secret": lambda tree: shutil.copy(
        tree / "mainpc/server.key", tree / "mainpc/server.key_secret"
    ),
    "a public key is cut off": write("pc2/server.key", "half a fi"),
    "a public key is another": put_another_public_key,
    "the secret is another pair": put_another_pair,
    "another host's secret lies there": add_secret_of_another,
    "a stray file lies there": write("mainpc/notes.txt", "hello"),
    "others may write a folder": change_mode("pc2", 0o777),
    "the record is damaged": write(".distributed", "?\n"),
    "a link stands for a secret": put_a_link,
}


@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.thorough
def test_following_the_advice_ends_with_a_tree_that_is_right(tree: Path, damage: Damage) -> None:
    """From what the agent says, to what certs-init answers, to keys with which every agent starts."""
    damage(tree)
    assert faults_of_agents(tree) or problems(certs_init(tree, "verify")), "nothing was damaged"
    for _ in range(MAX_DEPTH):
        if wrong := faults_of_agents(tree) or problems(certs_init(tree, "verify")):
            follow(tree, wrong[0])
    assert (faults_of_agents(tree), problems(certs_init(tree, "verify"))) == ([], [])
    assert certs_init(tree).status == 0


def test_a_lost_key_is_revoked_and_another_takes_its_place(tree: Path) -> None:
    """The way that the sentence names leaves no authorised key whose secret nobody knows."""
    lost = load_certificate(tree / "pc2/client.key").public
    (tree / "pc2/client.key_secret").unlink()
    follow(tree, faults_of_agents(tree)[0])
    new = load_certificates(tree / "pc2").own_keys.public
    assert new != lost
    contents = read_folders([tree / "mainpc"])
    assert (contents.current[UMRA].public, lost.fingerprint in contents.revoked) == (new, True)


def test_a_separate_machine_without_its_secret_is_sent_to_mainpc(tmp_path: Path) -> None:
    """It revokes nothing itself; the commands name owner and role as they are to be typed."""
    assert certs_init(tmp_path, host="pc2").status == 0
    (tmp_path / "pc2/client.key_secret").unlink()
    for command in ((), ("verify",)):
        ran = certs_init(tmp_path, *command, host="pc2")
        assert ran.status == 1
        assert (
            f"on mainpc: certs-init revoke {UMRA}, and certs-init invite {UMRA} --host pc2 --role agent, "
            "then here: certs-init join -"
        ) in ran.out + ran.err


@pytest.mark.parametrize("whose", ["a second key", "a key of two owners"])
def test_the_advice_about_two_keys_of_one_name_ends_it(tree: Path, whose: str) -> None:
    """An agent names both keys; revoking the wrong one by its fingerprint is enough."""
    known = load_certificate(tree / "mainpc/client.key")
    stranger = new_pair(UMRA, "pc2").certificate
    if whose == "a key of two owners":
        stranger = replace(known, owner=KeyOwner("Other", "pc3", frozenset({"agent"})))
    write_certificate(stranger, tree / f"mainpc/enrolled/{stranger.owner.name}.key")
    folders = folders_of_keys(tree / "mainpc")
    (sentence,) = read_folders(folders).rejected
    assert f"certs-init revoke {known.public.fingerprint}" in sentence
    wrong = re.findall(r"SHA256:\S+", sentence)[-1]
    assert wrong == stranger.public.fingerprint
    assert certs_init(tree, "revoke", wrong).status == 0
    assert read_folders(folders).rejected == []


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (protect_command(Path("/certificates/a.key_secret")), "docker compose run --rm certs-init verify"),
        (certs_init_command(Path("/certificates")), "docker compose run --rm certs-init"),
        (
            change_mode_command(Path("/certificates/pc2/a.key"), "644"),
            "docker compose run --rm --entrypoint chmod certs-init 644 /certificates/pc2/a.key",
        ),
        (
            remove_command(Path("/certificates/a/a.key"), Path("/certificates/b/a.key")),
            "docker compose run --rm --entrypoint rm certs-init -r /certificates/a/a.key /certificates/b/a.key",
        ),
        (protect_command(Path("/certificates2/a.key_secret")), "chmod 600 /certificates2/a.key_secret"),
    ],
)
def test_for_keys_in_the_volume_commands_run_in_certs_init(given: str, expected: str) -> None:
    """No path of the machine leads there, and an agent's mount is read-only; test_certs_init.py runs them for real."""
    assert given == expected


@pytest.mark.parametrize("name", [UMRA, "operator"])
def test_the_remark_on_an_expired_key_brings_another(tree: Path, name: str) -> None:
    """Its key is refused, so that it can't rotate itself; revoking and replacing it needs no agent."""
    folder, stem = ("pc2", "client") if name == UMRA else ("operator", "operator")
    ended = Validity(not_after=int(time.time()) - 3_600)
    old = load_certificates(tree / folder).own_keys
    secret = tree / folder / f"{stem}.key_secret"
    secret.unlink()
    for path in tree.rglob(f"{stem}.key"):
        replace_certificate(replace(old.certificate, validity=ended), path)
    write_key_pair(KeyPair(replace(old.certificate, validity=ended), old.secret_z85), secret)
    (remark,) = [line for line in certs_init(tree, "verify").lines if "is refused everywhere" in line]
    assert len(advised(remark)) == 2
    follow(tree, remark)
    new = load_certificates(tree / folder).own_keys.certificate
    assert (new.public != old.public, new.validity.has_ended(time.time())) == (True, False)
    assert "is refused everywhere" not in certs_init(tree, "verify").out
