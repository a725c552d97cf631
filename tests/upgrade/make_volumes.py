"""Make the volumes that a version leaves behind, with its image: the fixture of the upgrade test.

    git worktree add /tmp/checkout 900743b
    (cd /tmp/checkout && TWINHOST_IMAGE=twinhost-volumes:0.2.0 scripts/setup/image.sh)
    python3 tests/upgrade/make_volumes.py twinhost-volumes:0.2.0 /tmp/checkout

Starts a Compose project of its own from a checkout of that version (0.1.0 is d89a8d4), on free ports, sends requests
through its command line until the tables of both agents have rows, stops it, and writes two files beside this script:

    0.2.0.tar.xz  the volumes `certificates`, `mainpc-state` and `pc2-state`, and the trees of two enrolled machines
    0.2.0.json    what the agents answered at the end, and requests whose replies they stored

Takes about eight minutes: a memory fades after 300 s. The secret keys in the archive are those of this deployment
alone, which is removed at the end; nothing else ever trusted them. They are valid for 100 years.
"""

import io
import itertools
import json
import os
import subprocess
import sys
import tarfile
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
MEMBER, REVOKED, INVITED = "Watcher", "Leaver", "Latecomer"  # machines on a third host
MACHINES = (MEMBER, REVOKED)  # which have a tree of their own
PORTS = ("MAINPC_HTTP_PORT", "PC2_HTTP_PORT", "MAINPC_ZMQ_PORT", "MAINPC_EVENTS_PORT", "PC2_ZMQ_PORT")
USER = 10001  # of the image
LIFETIME = ("key_lifetime_days: 365 ", "key_lifetime_days: 36500 ")
PATIENCE_S = 420.0
LATE_S = 7_200.0  # how old a sample is that arrives late
WINCH = "winch"  # in the event that pc2 can't send while mainpc is stopped

Json = dict[str, Any]

# What depends on the moment of asking, or on connections. Dropped from the recorded answers, and by the test.
PASSING = frozenset(
    {
        *("request_id", "score", "status", "sessions", "handshakes", "expires_in_s", "last_decay", "last_seq", "more"),
        *("last_seen", "missing_dependencies", "trust_revision"),
    }
)


def lasting(value: Any) -> Any:
    """Return an answer without what may differ at another moment; both agents register again whenever they start."""
    if isinstance(value, list):
        return [lasting(each) for each in value if not (isinstance(each, dict) and each.get("name") in (SDT, UMRA))]
    if isinstance(value, dict):
        return {key: lasting(each) for key, each in value.items() if key not in PASSING}
    return value


def run(command: Sequence[str], *, cwd: Path | None = None, env: Json | None = None, given: bytes = b"") -> bytes:
    """Return what a command printed; it must succeed."""
    done = subprocess.run(command, cwd=cwd, env=env, input=given, capture_output=True, check=False)
    if done.returncode != 0:
        sys.exit(f"{' '.join(command)}\n{done.stdout.decode()}\n{done.stderr.decode()}")
    return done.stdout


class Deployment:
    """A Compose project of the version, with keys for 100 years."""

    def __init__(self, image: str, checkout: Path, folder: Path) -> None:
        self.image, self.checkout = image, checkout
        self.project = f"twinhost-volumes-{uuid.uuid4().hex[:8]}"
        self._numbers = itertools.count(1)
        self._environment = {
            **os.environ,
            **dict.fromkeys(PORTS, "0"),
            "COMPOSE_PROJECT_NAME": self.project,
            "TWINHOST_IMAGE": image,
            "TWINHOST_CONFIG": str(folder),
        }
        config = (checkout / "config/network_config.yaml").read_text(encoding="utf-8")
        assert LIFETIME[0] in config
        (folder / "network_config.yaml").write_text(config.replace(*LIFETIME), encoding="utf-8")
        folder.chmod(0o755)
        shown = json.loads(self.compose("--profile", "tools", "config", "--format", "json"))
        self._entrypoint: list[str] = shown["services"]["cli"]["entrypoint"]
        self._volumes = [f"{self.project}_{name.lower()}" for name in MACHINES]

    def compose(self, *arguments: str, given: bytes = b"", **settings: str) -> bytes:
        """Run a command of docker compose."""
        command = ("docker", "compose", "--progress", "quiet", *arguments)
        return run(command, cwd=self.checkout, env={**self._environment, **settings}, given=given)

    def tool(self, service: str, *arguments: str, given: bytes = b"", tree: str | None = None) -> bytes:
        """Run a tool in a container of its own; `tree` names the machine whose certificates it has."""
        other = ("--volume", f"{self.project}_{tree.lower()}:/certificates") if tree else ()
        return self.compose("run", "--rm", "-T", "--no-deps", *other, service, *arguments, given=given)

    def desk(self, folder: str, *options: str) -> "Desk":
        """Return a command line that uses a folder's key."""
        wait = ("--entrypoint", "sleep", "cli", "infinity")
        started = self.compose("run", "--detach", "--no-deps", *options, *wait, TWINHOST_CLI_KEYS=folder)
        return Desk(started.decode().strip(), self._entrypoint, self._numbers)

    def desk_of_machine(self, name: str) -> "Desk":
        """Return a command line on a machine that has joined."""
        volume = f"{self.project}_{name.lower()}:/certificates:ro"
        return self.desk("operator", "--volume", volume, "--env", f"TWINHOST_CERTIFICATES=/certificates/{name}")

    def start(self, *services: str) -> None:
        self.compose("up", "--detach", "--wait", "--wait-timeout", "90", *services)

    def join(self, name: str) -> None:
        """Invite a machine on a third host, and let it join."""
        line = self.tool("certs-init", "invite", name, "--host", "pc3", "--role", "agent")
        self.tool("certs-init", "join", "-", given=line, tree=name)

    def folder(self, container: str, path: str) -> bytes:
        """Return a folder of a container as a tar, whose members are below the folder's own name."""
        return run(("docker", "cp", f"{container}:{path}", "-"))

    def container(self, service: str) -> str:
        return self.compose("ps", "--all", "--quiet", service).decode().strip()

    def remove(self) -> None:
        self.compose("--profile", "tools", "down", "--volumes", "--remove-orphans", "--timeout", "1")
        run(("docker", "volume", "rm", "--force", *self._volumes))


class Desk:
    """The command line with one key."""

    def __init__(self, container: str, entrypoint: list[str], numbers: Iterator[int]) -> None:
        self.container, self._entrypoint, self._numbers = container, entrypoint, numbers

    def run(self, *arguments: str) -> bytes:
        return run(("docker", "exec", self.container, *self._entrypoint, *arguments))

    def call(self, agent: str, action: str, **fields: Any) -> Json:
        """Call an action; its request_id is the next number."""
        return self.record(agent, action, **fields)["reply"]  # type: ignore[no-any-return]

    def record(self, agent: str, action: str, **fields: Any) -> Json:
        """Call an action, and return the request with its reply."""
        request_id = f"made-{next(self._numbers)}"
        pairs = [f"{name}={each if isinstance(each, str) else json.dumps(each)}" for name, each in fields.items()]
        reply = self.run("call", agent, action, *pairs, "--request-id", request_id, "--json")
        request = {"agent": agent, "action": action, "fields": fields, "request_id": request_id}
        return {**request, "reply": json.loads(reply)}

    def ask(self, agent: str, action: str, **fields: Any) -> Json:
        """Return a question with what lasts of its answer."""
        reply = self.call(agent, action, **fields)
        return {"agent": agent, "action": action, "fields": fields, "reply": lasting(reply)}


def step(what: str) -> None:
    print(f"{time.strftime('%X')} {what}", file=sys.stderr)


def wait_for(condition: Callable[[], Any], what: str) -> None:
    """Wait until something holds."""
    step(f"waiting: {what}")
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"not within {PATIENCE_S:g} s: {what}")
        time.sleep(1)


def restore_mainpc(deployment: Deployment, operator: Desk) -> Desk:
    """Restore mainpc from a backup: the audit log has a line `restored` then, and pc2 has seen lines that are gone."""
    operator.call(SDT, "register_agent", agent_name="operator", status="HEALTHY")
    backup = deployment.tool("archive", "backup", "-")
    operator.call(SDT, "publish_event", event={"event_id": "lost", "event_type": "lost", "source_agent": "operator"})
    deployment.compose("stop", "mainpc")
    deployment.tool("archive", "restore", "-", "--replace", given=backup)
    deployment.start("mainpc")
    operator = deployment.desk("operator")  # the restore moved the folder of keys that the other one has
    operator.run("status", "--wait", "60")
    operator.run("audit", "accept")
    return operator


def change_keys(deployment: Deployment) -> None:
    """Rotate every key, enrol a machine that rotates its own, revoke another, and leave an invitation open."""
    deployment.tool("certs-init", "rotate", "server")
    deployment.tool("certs-init", "rotate", "client", UMRA)
    deployment.tool("certs-init", "rotate", "client", "operator")
    deployment.join(MEMBER)
    deployment.tool("certs-init", "rotate", "client", MEMBER, tree=MEMBER)
    deployment.join(REVOKED)


def fill_memory(operator: Desk, pc2: Desk, member: Desk, revoked: Desk) -> None:
    """Give every table of pc2's agent rows of several writers."""
    operator.call(UMRA, "update_twin", user_id="ana", twin_data={"language": "en"})
    operator.call(UMRA, "update_twin", user_id="ana", twin_data={"language": "fil", "port": 7})
    member.call(UMRA, "update_twin", user_id="ben", twin_data={"boat": "Maria"})
    revoked.call(UMRA, "update_twin", user_id="carlo", twin_data={"hidden": True})
    operator.call(UMRA, "update_twin", user_id="gone", twin_data={})
    operator.call(UMRA, "delete_twin", user_id="gone")

    said = {"session_id": "harbour", "interaction_type": "user_query"}
    operator.call(UMRA, "add_interaction", **said, content="Tandaan: we decided to meet at pier 4.", speaker="Ana")
    member.call(UMRA, "add_interaction", **said, content="Pakibuksan ang ilaw sa pantalan?", speaker="Ben")
    error = {**said, "interaction_type": "error", "content": "Connection refused by the lighthouse"}
    operator.call(UMRA, "add_interaction", **error)
    code = {**said, "interaction_type": "code", "content": "def tide(hour): return 2 + hour % 6"}
    operator.call(UMRA, "add_interaction", **code, metadata={"file": "tide.py"})
    revoked.call(UMRA, "add_interaction", **said, content="Meet at pier 9 instead.", speaker="Carlo")
    for number in range(50):  # the first ones leave the newest 50, and go into the summary
        operator.call(UMRA, "add_interaction", **said, content=f"Buoy {number} is lit.", speaker="Ana")
    operator.call(UMRA, "add_interaction", session_id="cleared", interaction_type="user_query", content="Forget this.")
    operator.call(UMRA, "clear_context", session_id="cleared")

    stored = {"keywords": ["tide", "Pier"], "source": "almanac"}
    operator.call(UMRA, "store_memory", id="tide", content="High tide at pier 4 is at noon.", **stored)
    operator.call(UMRA, "reinforce_memory", memory_id="tide")
    merged = {"id": "merged", "last_accessed": "2026-01-02T00:00:00+00:00", "keywords": ["rope"]}
    operator.call(UMRA, "sync_memories", memories=[{**merged, "content": "The rope is short.", "revised": 1.0}])
    operator.call(UMRA, "sync_memories", memories=[{**merged, "content": "The rope is long.", "strength": 2.0}])
    operator.call(UMRA, "query_memory", id="merged")  # an access: it fades no more
    member.call(UMRA, "store_memory", id="ben", content="Ben sails the Maria on Monday.")
    revoked.call(UMRA, "store_memory", id="carlo", content="Carlo moves the pier.")
    operator.call(UMRA, "store_memory", id="deleted", content="Nothing of this stays.")
    operator.call(UMRA, "delete_memory", memory_id="deleted")

    lost = {"error_type": "network", "pattern": r"lost contact with \w+", "solution": "turn the aerial"}
    pattern = operator.call(UMRA, "add_error_pattern", **lost)["pattern_id"]
    member.call(UMRA, "add_error_pattern", error_type="timeout", pattern=r"timeout after [0-9]+ s")
    for desk, success in ((operator, True), (member, True), (pc2, False)):
        desk.call(UMRA, "get_error_solution", error_message="lost contact with pc3")
        desk.call(UMRA, "report_solution_outcome", pattern_id=pattern, success=success, note="at sea")
    for number in range(3):
        for message in ("the bilge pump stopped", "the kettle boiled over"):
            member.call(UMRA, "get_error_solution", error_message=f"{message} {number} times")
    proposals = operator.call(UMRA, "get_pattern_proposals")["proposals"]
    kettle = next(proposal["proposal_id"] for proposal in proposals if "kettle" in proposal["pattern"])
    operator.call(UMRA, "dismiss_pattern_proposal", proposal_id=kettle)
    operator.call(UMRA, "get_error_solution", error_message="an error that was seen once")

    operator.call(UMRA, "resolve_conflict", op_id="moor", priority="high")
    member.call(UMRA, "resolve_conflict", op_id="moor", priority="low")
    pc2.call(UMRA, "resolve_conflict", op_id="cast off", priority=3)
    operator.call(UMRA, "coordinate_memory", agent_name=SDT, operation="ping", data={})
    operator.call(UMRA, "quarantine_memory", name=REVOKED, reason="moved the pier")
    operator.call(UMRA, "quarantine_memory", name="nobody")
    operator.call(UMRA, "release_memory", name="nobody")


def fill_twin(operator: Desk, pc2: Desk, member: Desk) -> None:
    """Give every table of mainpc's agent rows of several writers."""
    whole = {"agent_id": MEMBER, "agent_type": "lookout", "host": "pc3", "port": 7300, "capabilities": ["see"]}
    member.call(SDT, "register_agent", registration_data={**whole, "dependencies": [UMRA], "metadata": {"eyes": 2}})
    operator.call(SDT, "register_agent", agent_name="operator", status="HEALTHY")
    wait_for(lambda: any(minutes(operator).values()), "a minute of metrics is over")
    leases = [member.call(SDT, "reserve_ram", amount_mb=1, host="pc2", ttl_s=86_400)["lease_id"] for _ in range(3)]
    member.call(SDT, "commit_lease", lease_id=leases[0])
    member.call(SDT, "release_lease", lease_id=leases[1])
    models = {"chart": {"device": "cuda:0", "vram_usage_mb": 1}}
    vram = {"total_vram_mb": 8, "total_vram_used_mb": 1, "loaded_models": models}
    member.call(SDT, "update_vram_metrics", payload={"agent_name": MEMBER, **vram})
    late = {"wall": time.time() - LATE_S, "late_by_s": LATE_S, "ram_used_mb": 60.5, "ram_total_mb": 512}
    pc2.call(SDT, "report_metrics", **late)
    event = {"event_type": "tide", "source_agent": MEMBER, "data": {"metres": 2.5}}
    member.call(SDT, "publish_event", event={"event_id": "high", "timestamp": "2026-01-02T12:00:00Z", **event})
    member.call(SDT, "publish_event", event={"event_id": "kept back", "propagate": False, "ttl": 300_000_000, **event})
    error = {"agent_id": MEMBER, "severity": "error", "error_type": "leak", "message": "water in the hull"}
    member.call(SDT, "report_error", error={"error_id": "leak", "context": {"litres": 3}, **error})


def minutes(operator: Desk) -> Json:
    history: Json = operator.call(SDT, "get_history", resolution="minute")["history"]
    return history


def make(deployment: Deployment) -> Json:
    """Fill both volumes, stop both agents, and return what they answered at the end."""
    deployment.start("mainpc", "pc2")
    operator = deployment.desk("operator")
    operator.run("status", "--wait", "60")
    idle = {"created": "2026-01-01T00:00:00+00:00", "last_accessed": "2026-01-02T00:00:00+00:00"}
    faded = {"id": "faded", "content": "The old chart shows a reef.", "strength": 1.0, **idle}
    forgotten = {"id": "forgotten", "content": "The older chart is wrong.", "strength": 0.105, **idle}
    operator.call(UMRA, "sync_memories", memories=[faded, forgotten])
    step("restoring mainpc")
    operator = restore_mainpc(deployment, operator)
    step("changing keys")
    change_keys(deployment)
    pc2, member = deployment.desk("pc2"), deployment.desk_of_machine(MEMBER)
    step("writing")
    fill_memory(operator, pc2, member, deployment.desk_of_machine(REVOKED))
    deployment.tool("certs-init", "revoke", REVOKED)
    deployment.tool("certs-init", "invite", INVITED, "--host", "pc3", "--role", "agent")
    fill_twin(operator, pc2, member)
    wait_for(lambda: operator.call(UMRA, "memory_status")["last_decay"], "a memory fades")
    operator.call(UMRA, "get_memory", id="faded")  # an access: it fades no more

    event = {"event_id": "last", "event_type": "tide", "source_agent": "operator"}
    retried = [
        operator.record(SDT, "register_agent", agent_name="operator", status="HEALTHY"),
        operator.record(SDT, "publish_event", event=event),
        operator.record(SDT, "reserve_ram", amount_mb=1, host="pc2", ttl_s=86_400),
        operator.record(UMRA, "add_interaction", session_id="last", interaction_type="user_query", content="Last."),
        operator.record(UMRA, "update_twin", user_id="last", twin_data={"n": 1}),
    ]
    operator.run("audit", "verify")
    step("asking")
    asked = ask_twin(operator)
    deployment.compose("stop", "mainpc")
    for number in range(3):
        operator.call(UMRA, "get_error_solution", error_message=f"the {WINCH} jammed at fathom {number}")
    asked += ask_memory(operator)
    waiting = operator.call(UMRA, "health")["outbox"]["waiting"]
    deployment.compose("stop", "pc2")
    return {
        "image": deployment.image,
        "moment": int(time.time()),
        "waiting": waiting,
        "asked": asked,
        "retried": retried,
    }


def ask_twin(operator: Desk) -> list[Json]:
    """Return what mainpc's agent answers about all that it keeps."""
    before = {"before": operator.call(SDT, "get_events")["last_seq"] + 1, "limit": 1_000}
    return [
        operator.ask(SDT, "get_registered_agents"),
        operator.ask(SDT, "list_leases"),
        operator.ask(SDT, "get_events", **before),
        operator.ask(SDT, "get_errors", **before),
        operator.ask(SDT, "get_history", resolution="minute"),
        operator.ask(SDT, "get_history", resolution="hour"),
        operator.ask(SDT, "get_metrics"),
        operator.ask(SDT, "get_trust"),
        operator.ask(SDT, "get_peers"),
        operator.ask(SDT, "get_audit", limit=2_000),
    ]


def ask_memory(operator: Desk) -> list[Json]:
    """Return what pc2's agent answers about all that it keeps."""
    return [
        *(operator.ask(UMRA, "get_twin", user_id=name) for name in ("ana", "ben", "carlo", "gone")),
        operator.ask(UMRA, "get_context", session_id="harbour", max_tokens=200),
        operator.ask(UMRA, "get_context", session_id="harbour", speaker="Ben"),
        *(operator.ask(UMRA, "search_memory", query=query) for query in ("when do we meet", "ilaw", "pier tide rope")),
        operator.ask(UMRA, "query_memory", include_forgotten=True),
        operator.ask(UMRA, "query_memory", keywords=["PIER"]),
        operator.ask(UMRA, "query_memory", changed_since=0),
        operator.ask(UMRA, "memory_status"),
        operator.ask(UMRA, "list_error_patterns"),
        operator.ask(UMRA, "get_pattern_proposals"),
        operator.ask(UMRA, "list_quarantine"),
        *(operator.ask(UMRA, "memory_by", name=name) for name in ("operator", UMRA, MEMBER, REVOKED)),
        operator.ask(UMRA, "get_peers"),
        operator.ask(UMRA, "get_audit_heads"),
    ]


def members(deployment: Deployment) -> dict[str, bytes]:
    """Return the folders to keep, by name, each as a tar."""
    state = "/var/lib/twinhost"
    return {
        "certificates": deployment.folder(deployment.container("certs-init"), "/certificates"),
        "mainpc-state": deployment.folder(deployment.container("mainpc"), state),
        "pc2-state": deployment.folder(deployment.container("pc2"), state),
        **{name: deployment.folder(deployment.desk_of_machine(name).container, "/certificates") for name in MACHINES},
    }


def pack(folders: dict[str, bytes], moment: int) -> bytes:
    """Return all folders as one compressed tar: sorted, each file with its mode and owner, and with one date."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=9, format=tarfile.USTAR_FORMAT) as whole:
        for name, content in sorted(folders.items()):
            with tarfile.open(fileobj=io.BytesIO(content)) as folder:
                for member in sorted(folder.getmembers(), key=lambda member: member.name):
                    file = folder.extractfile(member) if member.isfile() else None
                    member.name = "/".join([name, *Path(member.name).parts[1:]])
                    member.mtime, member.uname, member.gname = moment, "", ""
                    member.pax_headers = {}
                    assert member.uid == USER, f"{member.name} is user {member.uid}'s"
                    whole.addfile(member, file)
    return packed.getvalue()


def main() -> None:
    image, checkout = sys.argv[1], Path(sys.argv[2]).resolve()
    version = image.rpartition(":")[2]
    here = Path(__file__).parent
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        deployment = Deployment(image, checkout, Path(folder))
        stack.callback(deployment.remove)
        made = make(deployment)
        (here / f"{version}.tar.xz").write_bytes(pack(members(deployment), made["moment"]))
        (here / f"{version}.json").write_text(json.dumps(made, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
