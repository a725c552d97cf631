"""`make bench-graph`: the knowledge graph of `twinhost mcp` beside the reference memory server.

Both are called by one client on stdio, in turn. Each round starts both servers afresh, with an empty graph; pc2 has
other memories. Creating is the first call of a round, as a client makes it. It asserts no goal.
"""

import argparse
import asyncio
import os
import subprocess
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from statistics import median
from typing import Any

from mcp import Client, StdioServerParameters, stdio_client

from tests.loopback.agent_processes import UMRA, Hosts
from tests.loopback.mcp_clients import call, stdio
from tests.loopback.test_examples import node_folder

REPOSITORY = Path(__file__).resolve().parents[2]
REFERENCE = REPOSITORY.joinpath(
    *("build/tools/reference-memory/node_modules/@modelcontextprotocol/server-memory", "dist/index.js")
)
OURS, THEIRS = "twinhost", "reference"
GOALS = {"create_entities": 4.0, "read_graph": 2.0, "search_nodes": 1.0}  # times what the reference takes
Figures = dict[str, dict[str, list[float]]]  # ms by call and server


class Graph:
    """The entities and relations of a round."""

    def __init__(self, entities: int, observations: int) -> None:
        self.names = [f"pump {number}" for number in range(entities)]
        self.entities = [
            {
                "name": name,
                "entityType": "machine",
                "observations": [
                    f"observation {each} of {number}: costs {number * 7 % 991} euros, repaired on day {number % 31}"
                    for each in range(observations)
                ],
            }
            for number, name in enumerate(self.names)
        ]
        self.relations = [
            {"from": name, "to": self.names[number * 13 % entities], "relationType": "feeds"}
            for number, name in enumerate(self.names)
        ]

    def reads(self, times: int) -> Iterator[tuple[str, str, dict[str, Any], int]]:
        """Yield calls that read: a label, a tool, its arguments, and how many entities it returns."""
        for number in range(times):
            yield "search_nodes", "search_nodes", {"query": f"TION 0 OF {number}:"}, 1
        for number in range(times):
            yield "search_nodes, no result", "search_nodes", {"query": f"tion 0 of {number}; "}, 0
        for number in range(times):
            yield "open_nodes", "open_nodes", {"names": [self.names[number]]}, 1
        for _ in range(times):
            yield "read_graph", "read_graph", {}, len(self.names)


async def timed(figures: Figures, label: str, server: str, client: Client, tool: str, **arguments: Any) -> Any:
    """Call a tool, and add what it took."""
    started = time.perf_counter()
    found = await call(client, tool, **arguments)
    figures[label][server].append((time.perf_counter() - started) * 1e3)
    return found


async def one_round(servers: dict[str, StdioServerParameters], graph: Graph, times: int, figures: Figures) -> None:
    """Call both servers in turn."""
    with Path(os.devnull).open("w") as nothing:
        async with (
            Client(stdio_client(servers[THEIRS], errlog=nothing)) as theirs,
            Client(stdio_client(servers[OURS], errlog=nothing)) as ours,
        ):
            clients = {THEIRS: theirs, OURS: ours}
            for client in clients.values():
                await client.list_tools()
            for name, client in clients.items():
                await timed(figures, "create_entities", name, client, "create_entities", entities=graph.entities)
            for name, client in clients.items():
                await timed(figures, "create_relations", name, client, "create_relations", relations=graph.relations)
            for label, tool, arguments, entities in graph.reads(times):
                for name, client in clients.items():
                    found = await timed(figures, label, name, client, tool, **arguments)
                    assert len(found["entities"]) == entities, (label, name)
            for name, client in clients.items():
                await timed(figures, "delete_entities", name, client, "delete_entities", entityNames=graph.names)


def fill(hosts: Hosts, memories: int) -> None:
    """Store memories that are no part of the graph."""
    with hosts.client(UMRA) as client:
        contents = (
            f"The filter {number} of plant {number % 97} costs {number % 1_013} euros" for number in range(memories)
        )
        for _ in client.map(("store_memory", {"content": content}) for content in contents):
            pass


def rows(figures: Figures) -> Iterator[str]:
    """Yield the lines of the table."""
    yield f"| call | {THEIRS}, ms | {OURS}, ms | ratio | least | most | goal |"
    yield "|---|---|---|---|---|---|---|"
    for label, by_server in figures.items():
        theirs, ours = by_server[THEIRS], by_server[OURS]
        ratios = [own / other for own, other in zip(ours, theirs, strict=True)]
        goal = f"≤ {GOALS[label]:g}" if label in GOALS else "–"
        yield (
            f"| {label} | {median(theirs):.1f} | {median(ours):.1f} | {median(ratios):.2f} | {min(ratios):.2f} | "
            f"{max(ratios):.2f} | {goal} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--memories", type=int, default=50_000, help="that pc2 has besides the graph")
    parser.add_argument("--entities", type=int, default=1_000)
    parser.add_argument("--observations", type=int, default=2, help="of each entity")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--times", type=int, default=9, help="that each call that reads is made in a round")
    given = parser.parse_args()
    node = node_folder()
    if node is None or not REFERENCE.is_file():
        parser.error("the reference memory server is missing; fetch it: scripts/setup/reference_memory.sh")
    graph = Graph(given.entities, given.observations)
    figures: Figures = defaultdict(lambda: defaultdict(list))
    with tempfile.TemporaryDirectory() as folder, Hosts(Path(folder)) as hosts:
        hosts.start(UMRA, apart=True).wait_until_serving()
        fill(hosts, given.memories)
        for number in range(given.rounds):
            environment = {"MEMORY_FILE_PATH": f"{folder}/memory-{number}.jsonl"}
            theirs = StdioServerParameters(command=str(node / "node"), args=[str(REFERENCE)], env=environment)
            asyncio.run(one_round({THEIRS: theirs, OURS: stdio(hosts)}, graph, given.times, figures))
    version = subprocess.run([node / "node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    print(
        f"{given.entities:,} entities with {given.observations} observations and a relation each, over "
        f"{given.memories:,} memories; {given.rounds} rounds; Node.js {version}"
    )
    print("\n".join(rows(figures)))


if __name__ == "__main__":
    main()
