"""20 acknowledged writes from two `twinhost mcp` processes: all are there, whatever happens to pc2 and the link."""

import asyncio
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from mcp import Client

from tests.loopback.agent_processes import SDT, UMRA, Hosts
from tests.loopback.mcp_clients import call, in_process, stdio
from tests.ports import free_ports

RELAY = Path(__file__).resolve().parents[1] / "two_hosts" / "relay.py"
WRITES = 10  # of each process
KILLED, CUT = "kill -9 of pc2", "a cut link"


class Site:
    """pc2, and a relay between it and the writers, which can be cut."""

    def __init__(self, hosts: Hosts) -> None:
        (port,) = free_ports(1)
        target = hosts.config.agent(UMRA).endpoint.rpartition(":")[2]
        self._hosts = hosts
        self._command = [sys.executable, str(RELAY), "127.0.0.1", "0", f"{port}=127.0.0.1:{target}"]
        self.config = hosts.root / "through_the_relay.yaml"
        self.config.write_text(Path(hosts.config.source).read_text().replace(f"zmq: {target}", f"zmq: {port}"))
        self._start_agent()
        self._start_relay()

    def disturb(self, disturbance: str) -> None:
        """End pc2's agent, or every connection."""
        if disturbance == KILLED:
            self._agent.kill()
        elif disturbance == CUT:
            self.end()

    def heal(self, disturbance: str) -> None:
        """Undo it."""
        if disturbance == KILLED:
            self._start_agent()
        elif disturbance == CUT:
            self._start_relay()

    def end(self) -> None:
        self._relay.kill()
        self._relay.communicate()

    def _start_agent(self) -> None:
        self._agent = self._hosts.start(UMRA).wait_until_serving()

    def _start_relay(self) -> None:
        self._relay = subprocess.Popen(self._command, stdout=subprocess.PIPE, text=True)
        assert self._relay.stdout is not None
        assert self._relay.stdout.readline() == "listening\n"


async def write(client: Client, entity: str, name: str, half: Callable[[], None]) -> list[str]:
    """Add observations, each once the last is acknowledged, and return them; `half` is called after half of them."""
    texts = [f"{name} {number}" for number in range(WRITES)]
    for number, text in enumerate(texts):
        await call(client, "add_observations", observations=[{"entityName": entity, "contents": [text]}])
        if number == WRITES // 2:
            half()
    return texts


async def written_while(site: Site, disturbance: str, writers: tuple[Client, Client]) -> list[list[str]]:
    """Return what two processes were acknowledged while it happened."""
    healing: list[asyncio.Task[None]] = []

    def half() -> None:
        if not healing:
            site.disturb(disturbance)  # and while it lasts, both write on
            healing.append(asyncio.create_task(asyncio.to_thread(site.heal, disturbance)))

    await call(writers[0], "create_entities", entities=[{"name": disturbance, "entityType": "x", "observations": []}])
    names = ("one", "other")
    written = await asyncio.gather(
        *(write(client, disturbance, name, half) for client, name in zip(writers, names, strict=True))
    )
    await healing[0]
    return written


@pytest.mark.unified_memory_agent
def test_20_acknowledged_writes_are_all_there(tmp_path: Path) -> None:
    """Undisturbed, while pc2 is killed, and while the link is cut: each is there once, in its writer's order.

    No call fails, since the same two servers connect again by themselves.
    """

    async def scene(hosts: Hosts, site: Site) -> None:
        one, other = (stdio(hosts, by, NETWORK_CONFIG_PATH=str(site.config)) for by in (SDT, UMRA))
        async with Client(one) as first, Client(other) as second, in_process(hosts) as reader:
            for disturbance in ("nothing", KILLED, CUT):
                written = await written_while(site, disturbance, (first, second))
                (entity,) = (await call(reader, "open_nodes", names=[disturbance]))["entities"]
                found = entity["observations"]
                assert sorted(found) == sorted(text for texts in written for text in texts)
                for texts in written:
                    assert [text for text in found if text in texts] == texts
                assert len(found) == 2 * WRITES

    with Hosts(tmp_path) as hosts:
        site = Site(hosts)
        try:
            asyncio.run(scene(hosts, site))
        finally:
            site.end()
