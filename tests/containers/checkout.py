"""A machine of its own: a checkout with an `.env`, on which a page's commands are run as written."""

import os
import re
import shutil
import subprocess
from collections.abc import Mapping
from pathlib import Path

from tests.containers.kept import Finished
from tests.containers.stack import REPOSITORY, free_ports, project_name

# Without what only a build reads: the image is there.
NEEDED = (
    *("docker-compose.yml", "docker-edges.yml", "docker-stack.yml", "Dockerfile"),
    *("Makefile", ".env.example", "config", "scripts", "twinhost"),
    "services/twinhost/store/replication/tables.sql",
)
PROMPT = re.compile(r"^(both|mainpc|pc2|old|new)\$ (.*)$")


class Machine:
    """One checkout; what is defined by a command is there for the next ones."""

    def __init__(self, folder: Path, settings: Mapping[str, str], docker_host: str | None = None) -> None:
        """Make the checkout.

        Args:
            folder: where; it must not be there.
            settings: the lines of its `.env`.
            docker_host: its engine; None for this machine's, on which it takes a name and ports that are free.
        """
        self.folder = folder
        self._environment = dict(os.environ) if docker_host is None else {**os.environ, "DOCKER_HOST": docker_host}
        folder.mkdir()
        for name in NEEDED:
            source = REPOSITORY / name
            copy = shutil.copytree if source.is_dir() else shutil.copy
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            copy(source, folder / name)
        own = {"COMPOSE_PROJECT_NAME": project_name(), **free_ports()}
        self.variables: dict[str, str] = {} if docker_host else own
        self.set(settings)
        self._functions: list[str] = []

    def set(self, settings: Mapping[str, str]) -> None:
        """Change lines of its `.env`."""
        self.variables |= settings
        text = "".join(f"{name}={value}\n" for name, value in self.variables.items())
        (self.folder / ".env").write_text(text, encoding="utf-8")

    def run(self, command: str, given: str = "") -> Finished:
        """Run a line in a shell, in the checkout; `given` is its standard input."""
        if "() {" in command:
            self._functions.append(command)
            return Finished(0, "", "")
        script = "\n".join([*self._functions, command])
        done = subprocess.run(
            ["bash", "-c", script],
            cwd=self.folder,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            env=self._environment,
        )
        return Finished(done.returncode, done.stdout, done.stderr)

    def remove(self) -> None:
        """Remove everything, volumes too."""
        done = self.run("docker compose --profile '*' down --volumes --remove-orphans")
        assert done.status == 0, done.err


def commands_of(page: str) -> list[tuple[str, str]]:
    """Return the prompt and the command of every line of a page's console blocks that has one."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.S)
    found = [PROMPT.match(line) for block in blocks for line in block.splitlines()]
    return [(match[1], match[2]) for match in found if match]
