"""Programs that change both agents, each a process of its own in a container of the cli: a line once a reply is there.

A line is a JSON list: what happened, the name of the call, and CLOCK_MONOTONIC, which this machine's containers share.
"""

import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path

from tests.waiting import wait_until

SDT, UMRA = "SystemDigitalTwin", "UnifiedMemoryReasoningAgent"
LEASE = "lease"  # of more than half of pc2's memory: nobody else can have one meanwhile
REVOKED = "revoked"  # tries both agents, with a key that is revoked after its first change
_PROGRAM = """
import itertools, json, os, sys, time
import twinhost
from twinhost.secure_zmq.errors import ConnectionRefused, RequestError, StoreUnavailable, TwinhostError
kind, prefix = sys.argv[1:]
def say(what, call):
    print(json.dumps([what, call, time.monotonic()]), flush=True)
def acknowledged(call, request):
    while True:
        try:
            return request(call, client)
        except (ConnectionRefused, StoreUnavailable) as error:  # the latter while its volume is full
            say("failed: " + str(error), call)
            time.sleep(0.1)
def event(call, client, **options):
    body = {"event_id": call, "event_type": "ledger", "source_agent": client.identity, "data": {}}
    client.call("publish_event", event=body, request_id=call, **options)
def interaction(call, client, **options):
    body = {"session_id": prefix, "interaction_type": "user_query", "content": call}
    client.call("add_interaction", **body, request_id=call, **options)
def lease(call, client):
    try:
        ram = client.call("get_metrics")["metrics"]["hosts"]["pc2"]["ram_total_mb"]
        return client.call("reserve_ram", host="pc2", amount_mb=ram * 0.55, ttl_s=600, request_id=call)["lease_id"]
    except (RequestError, KeyError, TypeError):  # another has it, or pc2 is not measured now
        return None
def attempt(call):
    for agent, request in (("SystemDigitalTwin", event), ("UnifiedMemoryReasoningAgent", interaction)):
        say("sent", call + agent)
        try:
            with twinhost.connect(agent) as client:
                request(call + agent, client, deadline_s=2.0)
        except TwinhostError as error:
            say("refused: " + type(error).__name__, call + agent)
        else:
            say("acknowledged", call + agent)
def change(call):
    if kind == "revoked":
        return attempt(call)
    say("sent", call)
    if kind != "lease":
        acknowledged(call, event if kind == "SystemDigitalTwin" else interaction)
        return say("acknowledged", call)
    if (held := acknowledged(call, lease)) is None:
        return
    say("granted", call)
    time.sleep(0.1)
    say("releasing", call)
    acknowledged(call, lambda call, client: client.call("release_lease", lease_id=held, request_id=call + "-end"))
with twinhost.connect(kind if kind == "UnifiedMemoryReasoningAgent" else "SystemDigitalTwin") as client:
    for number in itertools.count():
        call = f"{prefix}-{number}"
        change(call)
        if os.path.exists(f"/tmp/{prefix}.stop"):
            break
        time.sleep(0.1)
say("end", "")
"""


@dataclass(frozen=True, slots=True)
class Line:
    """One line of a ledger; `at` is in seconds of CLOCK_MONOTONIC."""

    what: str
    call: str
    at: float


class Writer:
    """One program, until `end()`."""

    def __init__(self, container: str, kind: str, prefix: str, folder: Path, keys: str = "/certificates") -> None:
        self.kind, self.prefix, self.path = kind, prefix, folder / f"{prefix}.ledger"
        self._container = container
        self._lines: list[Line] = []
        self._read = 0  # bytes of the ledger
        self._errors = folder / f"{prefix}.errors"
        variable = f"TWINHOST_CERTIFICATES={keys}"
        command = ["docker", "exec", "--env", variable, container, "python", "-c", _PROGRAM, kind, prefix]
        with self.path.open("wb") as ledger, self._errors.open("wb") as errors:
            self._process = subprocess.Popen(command, stdout=ledger, stderr=errors)

    def lines(self) -> list[Line]:
        """Return what it has written so far; the last line may not be whole yet."""
        with self.path.open("rb") as ledger:
            ledger.seek(self._read)
            whole, end, _ = ledger.read().rpartition(b"\n")
        self._read += len(whole + end)
        self._lines += [Line(*json.loads(line)) for line in whole.splitlines()]
        return self._lines

    def times(self, what: str) -> list[float]:
        return [line.at for line in self.lines() if line.what == what]

    def calls(self, what: str) -> set[str]:
        return {line.call for line in self.lines() if line.what == what}

    def wait_for_change(self, after: float, within_s: float) -> float:
        """Return after how many seconds a change was acknowledged, from a moment of CLOCK_MONOTONIC."""

        def first() -> list[float]:
            assert self._process.poll() is None, self._errors.read_text()
            return [at for at in self.times("acknowledged") if at > after]

        return (
            wait_until(first, within_s, f"{self.kind} acknowledges a change; the last lines: {self.lines()[-3:]}")[0]
            - after
        )

    def plain(self) -> Path:
        """Return the ledger without the moments, as `tests.ledger` checks it."""
        plain = self.path.with_suffix(".plain")
        lines = [line for line in self.lines() if line.what in ("sent", "acknowledged")]
        plain.write_text("".join(f"{json.dumps([line.what, line.call])}\n" for line in lines))
        return plain

    def tell_to_end(self) -> None:
        """Have it make no further change."""
        subprocess.run(["docker", "exec", self._container, "touch", f"/tmp/{self.prefix}.stop"], check=True)

    def end(self, within_s: float) -> None:
        """Make no further change; what is in flight is waited for."""
        self.tell_to_end()
        try:
            self._process.wait(within_s)
        finally:
            self._process.kill()
        assert self.lines()[-1].what == "end", self._errors.read_text()


def now() -> float:
    """Return CLOCK_MONOTONIC, in seconds."""
    return time.monotonic()
