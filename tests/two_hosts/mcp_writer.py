"""An MCP client on one machine whose server is a process there with a key of its own, and what it was acknowledged."""

import asyncio
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from mcp import Client, StdioServerParameters

from tests.containers.checkout import Machine
from tests.loopback.mcp_clients import call, own_environment
from tests.two_hosts.machine_room import Namespace
from tests.waiting import PATIENCE_S

SHARED = "pump"  # the entity that both writers observe


class Writer:
    """Makes changes one after the other, in turn an entity, an observation, and a fact."""

    def __init__(self, client: Client, key: str) -> None:
        self.client, self.key = client, key
        self.acknowledged = 0
        self.contents: Counter[str] = Counter()  # of the memories that the acknowledged changes are

    async def create_shared(self) -> None:
        """Create the entity that every writer observes."""
        await call(self.client, "create_entities", entities=[{"name": SHARED, "entityType": "x", "observations": []}])
        self.contents.update([f"{SHARED}\nx"])

    async def wait_for_fact(self, fact: str) -> None:
        """Wait until the memory has a fact, which may be another writer's."""
        async with asyncio.timeout(PATIENCE_S):
            while f"]: {fact}\n" not in (await call(self.client, "search_memory", query=fact))["text"]:
                pass

    async def write(self, changes: int) -> None:
        """Make changes, each once the last is acknowledged; one that is refused fails."""
        for number in range(self.acknowledged, self.acknowledged + changes):
            name = f"{self.key} {number}"
            if number % 3 == 0:
                entity = {"name": name, "entityType": "note", "observations": ["new"]}
                await call(self.client, "create_entities", entities=[entity])
                self.contents.update([f"{name}\nnote", f"{name}\nnew"])
            elif number % 3 == 1:
                await call(self.client, "add_observations", observations=[{"entityName": SHARED, "contents": [name]}])
                self.contents.update([f"{SHARED}\n{name}"])
            else:
                await call(self.client, "remember", content=name)
                self.contents.update([name])
            self.acknowledged += 1


def join(machine: Namespace, mainpc: Machine, key: str, home: Path) -> StdioServerParameters:
    """Invite a program on mainpc and have it join on a machine; return how its MCP client starts the server."""
    invited = mainpc.run(f"docker compose run --rm -T --no-deps certs-init invite {key} --host laptop --role agent")
    assert invited.status == 0, invited.err
    home.mkdir()
    command, environment = machine.command([sys.executable, "-m", "twinhost.cli"]), own_environment(home)
    joined = subprocess.run(
        [*command, "join", "-"], env=environment, input=invited.out, capture_output=True, text=True, check=False
    )
    assert joined.returncode == 0, joined.stderr
    return StdioServerParameters(command=command[0], args=[*command[1:], "mcp"], env=environment)


@asynccontextmanager
async def writer(machine: Namespace, mainpc: Machine, key: str, folder: Path) -> AsyncIterator[Writer]:
    """Yield a writer on a machine."""
    async with Client(await asyncio.to_thread(join, machine, mainpc, key, folder / key)) as client:
        yield Writer(client, key)
