"""A client in a machine's network that writes down what was acknowledged, and counts what came of it.

python -m tests.two_hosts.ledger_client {write|count|give-up} KEYS FOLDER MAINPC PC2

KEYS is a copy of the operator's folder; MAINPC and PC2 are endpoints. `write` changes both agents until SIGTERM, with a
ledger for each in FOLDER; `count` prints how often each change took effect, as JSON {host: {call: times}}. `give-up`
connects to pc2, prints a line, reads one, sends a change named as FOLDER, gives it up after 2 s, and prints a line.
"""

import json
import signal
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from tests.ledger import Ledger
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import ServerUnreachable, TwinhostError
from twinhost.secure_zmq.server_address import SecuredAddress

HOSTS = {"mainpc": "server", "pc2": "client"}  # and the name of the file that holds its public key
DEADLINE_S = 120.0  # of one change: longer than any cut
PAUSE_S = 0.2
PAGE = 100


def publish(client: Client, call: str) -> None:
    """Change mainpc's state: a change that was made twice would be there twice."""
    event = {"event_id": call, "event_type": "ledger", "source_agent": "operator"}
    client.call("publish_event", deadline_s=DEADLINE_S, event=event)


def store_twin(client: Client, call: str) -> None:
    """Change pc2's state: a change that was made twice would have a higher revision."""
    client.call("update_twin", deadline_s=DEADLINE_S, user_id=call, twin_data={})


def published(client: Client) -> Counter[str]:
    """Return how often each event is kept."""
    times: Counter[str] = Counter()
    before: int | None = None
    while True:
        page = client.call("get_events", deadline_s=DEADLINE_S, before=before, limit=PAGE)
        times.update(event["event_id"] for event in page["events"] if event["event_type"] == "ledger")
        if not page["more"]:
            return times
        before = page["events"][-1]["seq"]


def stored_twins(client: Client) -> Counter[str]:
    """Return the revision of each twin of the operator's."""
    times: Counter[str] = Counter()
    before: int | None = None
    while True:
        reply = client.call("memory_by", deadline_s=DEADLINE_S, name="operator", kind="twins", before=before)
        page = reply["written"]["twins"]
        times.update({twin["user_id"]: twin["revision"] for twin in page["entries"]})
        if not page["more"]:
            return times
        before = page["next_before"]


CHANGES: dict[str, Callable[[Client, str], None]] = {"mainpc": publish, "pc2": store_twin}
COUNTS: dict[str, Callable[[Client], Counter[str]]] = {"mainpc": published, "pc2": stored_twins}


def write(host: str, address: SecuredAddress, folder: Path, ended: threading.Event) -> None:
    """Make one change after the other; a failure is said, and the next change made."""
    ledger, count = Ledger(folder / f"{host}.ledger"), 0
    with Client(address) as client:
        while not ended.wait(PAUSE_S):
            call = f"{folder.name}-{count}"
            count += 1
            ledger.sent(call)
            try:
                CHANGES[host](client, call)
            except TwinhostError as error:
                print(f"{host} {call}: {error}", file=sys.stderr, flush=True)
                continue
            ledger.acknowledged(call)
    ledger.close()


def give_up(address: SecuredAddress, call: str) -> None:
    """Connect, wait for a line, send one change, and leave where there is no reply in time."""
    with Client(address) as client:
        client.call("ping", deadline_s=DEADLINE_S)
        print("connected", flush=True)
        sys.stdin.readline()
        with suppress(ServerUnreachable):
            client.call("update_twin", deadline_s=2.0, user_id=call, twin_data={})
    print("given up", flush=True)


def main(what: str, keys_folder: str, folder: str, *endpoints: str) -> None:
    """Write until SIGTERM, or count."""
    keys = load_certificates(Path(keys_folder))
    addresses = {
        host: SecuredAddress(endpoint, keys.own_keys, keys.public_key(HOSTS[host]))
        for host, endpoint in zip(HOSTS, endpoints, strict=True)
    }
    if what == "give-up":
        give_up(addresses["pc2"], Path(folder).name)
        return
    if what == "count":
        counted = {}
        for host, address in addresses.items():
            with Client(address) as client:
                counted[host] = COUNTS[host](client)
        print(json.dumps(counted))
        return
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    writers = [
        threading.Thread(target=write, args=(host, address, Path(folder), ended)) for host, address in addresses.items()
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()


if __name__ == "__main__":
    main(*sys.argv[1:])
