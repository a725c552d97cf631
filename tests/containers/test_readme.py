"""README, tutorial, and command-line reference hold: commands run, output is what is printed, code works."""

import json
import os
import re
import shlex
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from urllib.request import urlopen

import pytest

from tests.containers.kept import Finished
from tests.containers.stack import AGENTS, REPOSITORY, Stack, free_ports, project_name
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.certificates import load_certificates

PAGES = ("README.md", "docs/tutorial/first-steps.md", "docs/reference/command-line.md")
PYTHON_PAGES = ("README.md", "docs/tutorial/first-steps.md", "docs/how-to/call-from-python.md")
TEXTS = {page: (REPOSITORY / page).read_text(encoding="utf-8") for page in {*PAGES, *PYTHON_PAGES}}
COMPOSE = "docker compose "
TWINHOST = "./twinhost "


def blocks(language: str) -> list[str]:
    """Return the fenced blocks of a language, of all pages."""
    found = [text for page in PAGES for text in re.findall(rf"```{language}\n(.*?)```", TEXTS[page], re.S)]
    return [re.sub(r"^ +", "", text, flags=re.M) for text in found]


def commands(prompt: str) -> list[str]:
    """Return the commands after a prompt, in order, each once."""
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return list(dict.fromkeys(line.removeprefix(prompt) for line in lines if line.startswith(prompt)))


def output_of(command: str) -> list[str]:
    """Return the lines that the pages show under a command, without the ellipses."""
    shown = [block for block in blocks("console") if block.startswith(f"$ {command}\n") and block.count("\n") > 1]
    assert shown, f"no page shows what {command!r} prints"
    return [line for block in shown for line in block.splitlines()[1:] if line != "…"]


RUN_HERE = [command for command in commands("$ ") if command.startswith(COMPOSE)]


@pytest.mark.parametrize("command", RUN_HERE)
def test_a_documented_command_works(stack: Stack, command: str) -> None:
    """Every compose command of the pages succeeds, but the one that shows a refusal."""
    arguments = shlex.split(command.removeprefix(COMPOSE))
    done = stack.compose("run", "-T", *arguments[1:])
    if "SECURE_ZMQ=0" not in command:
        assert done.status == 0, done.err
        return
    assert done.status == 1
    for line in output_of(command):
        assert line in done.out + done.err


@pytest.mark.parametrize("command", [command for command in commands("$ ") if command.startswith(TWINHOST)])
def test_a_documented_twinhost_command_works(stack: Stack, command: str) -> None:
    """Every one of them succeeds; that `./twinhost` passes any command to the cli as it is, test_cli checks."""
    words = shlex.split(command.removeprefix(TWINHOST))
    done = stack.run("cli", *words)
    # Other tests leave refusals and errors, which need attention.
    assert done.status == 0 or (done.status == 1 and words[0] in ("status", "attention")), done.err


def test_the_shown_status_is_what_status_prints(stack: Stack) -> None:
    """Headings, agents and identities are printed as the pages show; ages, sessions and fingerprints differ."""
    printed = re.sub(r"\d+ on ", "N on ", re.sub(r" +", " ", stack.run("cli", "status").out))
    for line in output_of("make up"):
        if "SHA256:" in line or line.startswith(("==>", "Page ", "HTTP on", "All is well.")):
            continue
        stable = re.sub(r"\s+\d+ s( ago)?\b.*", "", line)
        assert re.sub(r"\d+ on ", "N on ", re.sub(r" +", " ", stable)) in printed, f"{line!r} is not in:\n{printed}"


def test_every_documented_make_target_exists() -> None:
    """`make …` in the text and in the blocks names targets of the Makefile."""
    documents = [*REPOSITORY.glob("*.md"), *(REPOSITORY / "docs").rglob("*.md")]
    text = "\n".join(path.read_text(encoding="utf-8") for path in documents)
    targets = set(re.findall(r"`make ([a-z-]+)[` ]|\$ make ([a-z-]+)", text))
    for target in sorted({name for pair in targets for name in pair if name}):
        done = subprocess.run(["make", "-n", target], cwd=REPOSITORY, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr


LINKED = (
    *(".venv", "config", "docker-compose.yml", "docker-edges.yml", "scripts"),
    *("Makefile", "README.md", "pyproject.toml"),
    *("requirements.lock", "requirements-build.lock", "requirements-dev.lock"),
)


class Checkout:
    """A program's user on this machine: a checkout, beside the stack, and an empty configuration folder."""

    def __init__(self, stack: Stack, folder: Path) -> None:
        self.folder, self.config = folder / "checkout", folder / "config"
        self.folder.mkdir()
        for name in LINKED:
            (self.folder / name).symlink_to(REPOSITORY / name)
        shutil.copytree(  # an installation writes into it
            REPOSITORY / "services",
            self.folder / "services",
            ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"),
        )
        self._environment = {**os.environ, **stack.variables, "XDG_CONFIG_HOME": str(self.config)}
        for name in ("PYTHONPATH", "SECURE_ZMQ", "NETWORK_CONFIG_PATH", "TWINHOST_CERTIFICATES"):
            self._environment.pop(name, None)

    @property
    def secret(self) -> Path:
        (path,) = (self.config / "twinhost").glob("*.key_secret")
        return path

    def run(self, command: str) -> Finished:
        """Run a line as written."""
        done = subprocess.run(
            ["bash", "-c", command], cwd=self.folder, env=self._environment, capture_output=True, text=True, check=False
        )
        return Finished(done.returncode, done.stdout, done.stderr)


ENROL = next(each for each in commands("$ ") if "enrol_program.py" in each or "join --local" in each)
NAME = ENROL.split()[-1]


@pytest.fixture
def checkout(stack: Stack, tmp_path: Path) -> Iterator[Checkout]:
    """Nothing is enrolled in it; what a test enrols is revoked in the end."""
    yield Checkout(stack, tmp_path)
    stack.run("certs-init", "revoke", NAME)


def test_the_documented_python_works(stack: Stack, checkout: Checkout) -> None:
    """The commands and the example, as printed: a program of this machine registers, reads, and leases memory."""
    (code,) = {code for page in PYTHON_PAGES for code in re.findall(r"```python\n(.*?)```", TEXTS[page], re.S)}
    (checkout.folder / "example.py").write_text(code)
    (checkout.folder / ".venv").unlink()  # `make install` makes one, without the development tools
    (block,) = {block for block in blocks("console") if ENROL in block}
    for line in block.splitlines():
        done = checkout.run(line.removeprefix("$ "))
        assert done.status == 0, f"{line}\n{done.out}\n{done.err}"
    assert "UnifiedMemoryReasoningAgent" in done.out
    assert checkout.run(".venv/bin/python -c 'import pytest'").status == 1
    assert "dist/twinhost-" in checkout.run("make wheel").out
    assert checkout.run("make install").err == ""  # nothing is left to do
    (line,) = re.findall(r"^\$ (\.venv/bin/twinhost lease .*)$", TEXTS["docs/how-to/call-from-python.md"], re.M)
    leased = checkout.run(line)
    assert (leased.status, leased.out, leased.err) == (0, done.out, "leased: 64 MB of RAM on mainpc\n")
    honoured = checkout.run("SECURE_ZMQ=1 .venv/bin/python scripts/secure_sdt_client.py")
    assert (honoured.status, '"pong"' in honoured.out) == (0, True), honoured.err


def test_a_programs_secret_stays_where_it_was_made(stack: Stack, checkout: Checkout) -> None:
    """Modes 0700 and 0600, role agent, an ordinary end; no volume and no log has the secret."""
    assert checkout.run(ENROL).status == 0
    own = load_certificates(checkout.config / "twinhost").own_keys
    modes = [path.stat().st_mode & 0o777 for path in (checkout.secret.parent, checkout.secret)]
    assert modes == [0o700, 0o600]
    listed = json.loads(stack.run("cli", "keys", "list", "--json").out)["keys"]
    (mine,) = [key for key in listed if key["fingerprint"] == own.public.fingerprint]
    assert (mine["name"], mine["roles"]) == (NAME, ["agent"])
    validity = own.certificate.validity
    assert validity.not_before is not None
    assert validity.not_after is not None
    assert validity.not_after - validity.not_before == 365 * 86_400
    secret = own.secret_z85.decode()
    found = stack.kept("certs-init").execute("grep", "-rlF", "--", secret, "/certificates")
    assert (found.status, found.out) == (1, "")
    assert all(secret not in stack.logs(service) for service in ("mainpc", "pc2"))
    assert stack.container("certs-init").attrs["HostConfig"]["LogConfig"]["Type"] == "none"


def test_enrolling_a_program_again_does_no_harm(stack: Stack, checkout: Checkout) -> None:
    """The key stays; a key that was revoked is refused with the way on, which works."""
    assert checkout.run(ENROL).status == 0
    before = checkout.secret.read_bytes()
    (checkout.config / "twinhost" / "endpoints.yaml").unlink()
    (checkout.config / "twinhost" / "server.key").unlink()
    assert checkout.run(ENROL).status == 0
    assert checkout.secret.read_bytes() == before
    early = checkout.run(f"{ENROL} --replace")
    assert (early.status, "revoke it first" in early.err) == (1, True), early.err
    assert checkout.secret.read_bytes() == before
    assert stack.run("certs-init", "revoke", NAME).status == 0
    asked = checkout.run(".venv/bin/python scripts/secure_sdt_client.py --secure")
    assert asked.status == 1
    refused = checkout.run(ENROL)
    assert (refused.status, "--replace" in refused.err) == (1, True), refused.err
    replaced = checkout.run(f"{ENROL} --replace")
    assert replaced.status == 0, replaced.err
    assert checkout.secret.read_bytes() != before
    assert checkout.run(".venv/bin/python scripts/secure_sdt_client.py --secure").status == 0
    another = checkout.run(ENROL.replace(NAME, "another"))
    assert (another.status, "--folder" in another.err) == (1, True), another.err


def test_join_local_puts_a_key_into_a_profile(checkout: Checkout) -> None:
    """By the command's own name; repeated, it keeps the key that is there, and needs no name."""
    twinhost = "PYTHONPATH=services .venv/bin/python -m twinhost.cli --profile second"
    named = checkout.run(f"{twinhost} join --local {NAME}")
    assert (named.status, named.err) == (0, "")
    assert all(f"{agent} answered at tcp://127.0.0.1:" in named.out for agent in AGENTS.values())
    again = checkout.run(f"{twinhost} join --local")
    assert (again.status, again.out) == (0, named.out)
    assert f"asked as {NAME}" in checkout.run(f"{twinhost} status").out
    assert [path.name for path in (checkout.config / "twinhost").iterdir()] == ["profiles"]


@pytest.fixture
def project() -> Iterator[dict[str, str]]:
    """The environment of a project of its own, removed in the end."""
    environment = {**os.environ, **free_ports(), "COMPOSE_PROJECT_NAME": project_name()}
    yield environment
    subprocess.run(["make", "clean", "YES=1"], cwd=REPOSITORY, env=environment, capture_output=True, check=True)


def make(target: str, environment: dict[str, str]) -> str:
    """Run a target that must succeed; return what it prints."""
    done = subprocess.run(
        ["make", target], cwd=REPOSITORY, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def of_project(environment: dict[str, str]) -> list[str]:
    """Return the filters for the containers that Compose made for a project.

    The image has labels of the project that built it last, and so have the containers of other tests.
    """
    labels = f"com.docker.compose.project={environment['COMPOSE_PROJECT_NAME']}", "com.docker.compose.config-hash"
    return [each for label in labels for each in ("--filter", f"label={label}")]


def test_make_up_shows_a_working_system_and_make_down_stops_it(project: dict[str, str]) -> None:
    """The first command of the README, also while another stack is running."""
    shown = make("up", project)
    assert "Link encrypted and authenticated with CURVE, asked as operator" in shown
    assert "Registered agents (2)" in shown
    page = f"http://127.0.0.1:{project['MAINPC_HTTP_PORT']}/"
    assert f"{page}\n" in shown
    assert f"{page}healthz\n" in shown
    with urlopen(page, timeout=5) as answer:
        assert b"<title>" in answer.read()
    assert "UnifiedMemoryReasoningAgent" in make("status", project)
    make("down", project)
    listing = ["docker", "ps", "-aq", *of_project(project)]

    def nothing_left() -> bool:  # the engine removes the container of `status` by itself, after the command has ended
        return subprocess.run(listing, capture_output=True, text=True, check=True).stdout == ""

    wait_until(nothing_left, PATIENCE_S, "no container is left")


def test_make_up_starts_the_host_that_this_machine_is(project: dict[str, str]) -> None:
    """With TWINHOST_HOST=mainpc that one alone, whether or not the other machine is there yet."""
    shown = make("up", project | {"TWINHOST_HOST": "mainpc"})
    assert "HTTP on pc2" not in shown
    listing = ["docker", "ps", "--format", '{{.Label "com.docker.compose.service"}}', *of_project(project)]
    running = subprocess.run(listing, capture_output=True, text=True, check=True).stdout.split()
    assert running == ["mainpc"], shown
