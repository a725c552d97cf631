"""`keys invite`, `accept`, `pending`, `reject`, `revoke`, `rotate`: certs-init, run where mainpc runs.

The engine is a script that runs the real certs-init on a tree in a folder.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.unit.cli.running import Ran, process_environment, run_process

pytestmark = pytest.mark.thorough

_DOCKER = """#!/bin/sh
echo "$PWD $*" >> "$CALLS"
case "$1" in
    ps) printf "$PROJECTS" ;;
    compose)
        [ -n "$COMPOSE_IGNORE_ORPHANS" ] || echo "Found orphan containers: run this with --remove-orphans" >&2
        until [ "$1" = certs-init ]; do shift; done
        shift
        exec "$PYTHON" -m twinhost.cli.certs_init "$@" ;;
esac
"""
_REQUEST = ("request", "Watcher", "--host", "pc3", "--role", "agent")


class Engine:
    """A machine with an engine, a checkout in which mainpc runs, and mainpc's tree."""

    def __init__(self, root: Path) -> None:
        self.calls, self.checkout = root / "calls", root / "check out"
        self.checkout.mkdir()
        (root / "bin").mkdir()
        (root / "bin" / "docker").write_text(_DOCKER)
        (root / "bin" / "docker").chmod(0o755)
        self.settings = {
            "PATH": f"{root / 'bin'}{os.pathsep}{os.environ['PATH']}",
            "PYTHON": sys.executable,
            "CALLS": str(self.calls),
            "PROJECTS": f"stack\\t{self.checkout}\\n",
            "COMPOSE_PROJECT_NAME": "",
            "TWINHOST_CERTIFICATES": str(root / "tree"),
            "NETWORK_CONFIG_PATH": str(Path(__file__).parents[3] / "config" / "network_config.yaml"),
        }

    def keys(self, *words: str, **settings: str) -> Ran:
        return run_process({**self.settings, **settings}, "keys", *words)

    def certs_init(self, *words: str, **settings: str) -> str:
        environment = process_environment({**self.settings, **settings})
        command = [sys.executable, "-m", "twinhost.cli.certs_init", *words]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    engine = Engine(tmp_path)
    engine.certs_init()
    return engine


def test_an_invitation_is_made_listed_and_withdrawn(engine: Engine) -> None:
    """In the checkout and the project of the mainpc that runs, with the words as they were typed."""
    invited = engine.keys("invite", "Watcher", "--host", "pc3", "--role", "agent", "--role", "operator")
    assert (invited.status, invited.out.startswith("twinhost://")) == (0, True)
    assert "orphan" not in invited.err, "Compose's advice would delete an agent of a second Compose file"
    listed = json.loads(engine.keys("pending", "--json").out)
    assert (listed["status"], len(listed["lines"]), "Watcher" in listed["lines"][0]) == ("ok", 1, True)
    assert engine.keys("reject", "Watcher").out.startswith("the invitation of Watcher on pc3 (agent operator) is")
    first = f"{engine.checkout} compose --progress quiet --project-name stack run --rm --no-deps -T certs-init "
    ran = [line for line in engine.calls.read_text().splitlines() if " ps " not in line]
    assert [line.removeprefix(first).split()[0] for line in ran] == ["invite", "pending", "reject"]


def test_a_request_is_accepted_from_its_file(engine: Engine, tmp_path: Path) -> None:
    """The container can't see the file, so it is given as standard input; a kept request is named."""
    request = tmp_path / "request.key"
    other = {"TWINHOST_CERTIFICATES": str(tmp_path / "other")}
    request.write_text(engine.certs_init(*_REQUEST, TWINHOST_HOST="pc2", **other))
    ran = engine.keys("accept", str(request))
    assert (ran.status, "is kept as" in ran.err) == (1, True)
    (fingerprint,) = re.findall(r"fingerprint is (SHA256:\S+)", ran.err)
    ran = engine.keys("accept", "Watcher", "--fingerprint", fingerprint, "--days", "3", "--json")
    document = json.loads(ran.out)
    assert (ran.status, document["status"]) == (0, "ok")
    assert "Watcher is authorised until" in ran.err


def test_a_refusal_of_certs_init_is_the_commands(engine: Engine) -> None:
    """Its sentence, and its exit status; with --json in an object too."""
    ran = engine.keys("reject", "Watcher", "--json")
    document = json.loads(ran.out)
    assert (ran.status, document["status"], document["code"]) == (1, "error", "certs_init")
    assert document["error"] == ran.err.strip()
    assert "no open invitation" in ran.err
    assert engine.keys("rotate", "client", "Nobody").status == 1
    assert engine.keys("revoke", "Nobody", "--only").status == 1
    assert engine.keys("invite", "Watcher").status == 2


@pytest.mark.parametrize(
    ("projects", "script", "why"),
    [
        ("", _DOCKER, "mainpc does not run on this machine"),
        ("a\t/a\nb\t/b\n", _DOCKER, "several run here (a in /a, b in /b)"),
        ("a\t/gone\n", _DOCKER, "/gone, where it was started, can't be entered"),
        ("", "#!/bin/sh\necho no such socket >&2; exit 1\n", "docker can't be used here (no such socket)"),
        ("", None, "there is no docker here"),
    ],
    ids=["stopped", "several", "no checkout", "refused", "no docker"],
)
def test_elsewhere_a_sentence_says_what_to_run(
    engine: Engine, tmp_path: Path, projects: str, script: str | None, why: str
) -> None:
    """As in the container of `./twinhost`, which has no engine; nothing is tried in another way."""
    docker = tmp_path / "bin" / "docker"
    docker.unlink()
    if script is not None:
        docker.write_text(script)
        docker.chmod(0o755)
    search = str(tmp_path / "bin") + (f"{os.pathsep}/bin" if script else "")
    ran = engine.keys("revoke", "the watcher", "--only", PROJECTS=projects, PATH=search)
    assert (ran.status, ran.out) == (1, "")
    assert ran.err == (
        f"error [configuration_error]: certs-init changes keys on the machine where mainpc runs, and {why}; run in the "
        "checkout there: docker compose run --rm certs-init revoke --only 'the watcher'\n"
    )


def test_of_several_projects_the_folders_own_is_used(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or the one that is named, as for Compose itself; so that a second checkout on the machine is no obstacle."""
    two = f"other\t/other\n{engine.settings['PROJECTS']}"
    assert engine.keys("pending", PROJECTS=two, COMPOSE_PROJECT_NAME="stack").status == 0
    assert engine.keys("pending", PROJECTS=two, COMPOSE_PROJECT_NAME="third").status == 1
    monkeypatch.chdir(engine.checkout)
    ran = engine.keys("pending", PROJECTS=two)
    assert (ran.status, ran.out) == (0, "nothing is pending\n")
