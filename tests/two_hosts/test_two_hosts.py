"""Two machines with an engine each, set up by the documents alone; then all that happens to cables and machines."""

import asyncio
import itertools
import re
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import pytest

from tests.containers.stack import EVENTS_PORT, ZMQ_PORTS
from tests.containers.walk import UMRA
from tests.two_hosts.machine_room import ADDRESSES, PREFIX_BITS
from tests.two_hosts.mcp_writer import Writer, writer
from tests.two_hosts.site import Site
from tests.two_hosts.weather import dropped, dropping, listening, long_cable
from tests.waiting import PATIENCE_S, wait_until

SDT = "SystemDigitalTwin"
CUT_S = 30.0
HELD_BACK_S = 9.0  # after the 2 s of its client; TCP retries 6 s and 13 s after it has sent
TCP_RETRIES_WITHIN_S = 5.0
NEW_ADDRESS = "192.0.2.11"
RELAY_ADDRESS = "192.0.2.30"
DELAY_S = 0.02
LOSS = 0.05
CURVE_GREETING = b"\x03\x01CURVE\x00"
MARKER = "in-plain-sight"

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(300)]


def test_the_documented_steps_work_the_first_time(site: Site) -> None:
    """Both agents are registered, and the operator's status says how the link is."""
    status = site.walk.last("docker compose run --rm cli status").out
    assert "Link encrypted and authenticated with CURVE" in status
    assert "Registered agents (2)" in status
    for name in (SDT, UMRA):
        assert name in status


def test_only_the_secured_ports_are_published_and_only_there(site: Site) -> None:
    """On the named address; HTTP stays on loopback."""
    expected = {"mainpc": {ZMQ_PORTS["mainpc"], EVENTS_PORT}, "pc2": {ZMQ_PORTS["pc2"]}}
    for host, machine in site.room.machines.items():
        found = re.findall(r"LISTEN\s+\d+\s+\d+\s+(\S+):(\d+)", machine.enter("ss", "-tlnH"))
        published = {int(port) for address, port in found if address == ADDRESSES[host]}
        others = {address.strip("[]") for address, _ in found} - {ADDRESSES[host], "127.0.0.1", "127.0.0.11", "::1"}
        assert published == expected[host]
        assert not others


def test_the_cable_carries_nothing_that_can_be_read(site: Site, tmp_path: Path) -> None:
    """A large, recognisable text there and back: the greeting and all the bytes are on the cable, the text is not."""
    text = MARKER * 4_000
    with listening(site.room.machines["pc2"], ZMQ_PORTS["pc2"], tmp_path / "capture") as capture:
        site.ask("mainpc", f"""call {UMRA} update_twin user_id=captured 'twin_data={{"note": "{text}"}}'""")
        assert site.ask("mainpc", f"call {UMRA} get_twin user_id=captured")["twin"]["note"] == text
        wait_until(lambda: capture.stat().st_size > 2 * len(text), PATIENCE_S, "the capture has both ways")
    recorded = capture.read_bytes()
    assert CURVE_GREETING in recorded
    assert MARKER.encode() not in recorded


def test_no_secret_of_one_machine_is_on_the_other(site: Site) -> None:
    """By the bytes of every secret key, in every file of every volume."""
    secrets: dict[str, set[str]] = {}
    files: dict[str, list[bytes]] = {}
    for host, machine in site.room.machines.items():
        every: dict[Path, bytes] = {}
        for path in machine.volumes.rglob("*"):
            with suppress(FileNotFoundError):  # a draft may be renamed meanwhile
                every |= {path: path.read_bytes()} if path.is_file() else {}
        files[host] = list(every.values())
        texts = [content.decode("ascii") for path, content in every.items() if path.suffix == ".key_secret"]
        secrets[host] = {key for text in texts for key in re.findall(r'secret-key = "(.{40})"', text)}
    assert len(secrets["mainpc"]) == 2  # SystemDigitalTwin's and the operator's
    assert len(secrets["pc2"]) == 1
    for host, other in (("mainpc", "pc2"), ("pc2", "mainpc")):
        assert all(any(key.encode() in text for text in files[host]) for key in secrets[host])
        assert not any(key.encode() in text for key in secrets[host] for text in files[other])


def test_the_cable_is_cut_and_heals(site: Site) -> None:
    """Both ways, then pc2 receives nothing while what it sends arrives; each host detects it, and no change is lost."""
    mainpc, pc2 = site.room.machines.values()
    with site.writing():
        for cut in ((mainpc, pc2), (pc2,)):
            with dropping(*cut):
                time.sleep(CUT_S)
                assert dropped(pc2) > 0
                assert not site.ready("pc2")
                assert site.walk.gone()
            site.wait_until_back()


def test_a_change_that_was_given_up_is_not_made_later(site: Site) -> None:
    """A cut holds it back. TCP alone would deliver it 13 s after it was sent, although its client has left."""
    call = "given-up"
    with site.giving_up(call) as give_up:
        with dropping(*site.room.machines.values()):
            give_up()
            time.sleep(HELD_BACK_S)
        time.sleep(TCP_RETRIES_WITHIN_S)
    twins = site.ask("mainpc", f"call {UMRA} memory_by name=operator kind=twins limit=100")["written"]["twins"]
    assert call not in {twin["user_id"] for twin in twins["entries"]}
    site.wait_until_back()


def test_20_writes_of_two_mcp_servers_are_all_there(site: Site, tmp_path: Path) -> None:
    """One on each machine, with the SDK's client: each acknowledged change is there once, and no call fails.

    The link is cut: first mainpc hears nothing, so that a change is made and can't be acknowledged. Then pc2 is killed,
    and nothing goes either way while the next process acknowledges changes on its own machine.
    """
    mainpc, pc2 = site.room.machines.values()
    before = site.restarts("pc2")

    async def scene() -> tuple[Writer, Writer]:
        invite = site.checkouts["mainpc"]
        async with writer(mainpc, invite, "desk", tmp_path) as far, writer(pc2, invite, "laptop", tmp_path) as near:
            await near.create_shared()
            await asyncio.gather(far.write(5), near.write(5))
            with dropping(mainpc):
                cut_off = asyncio.create_task(far.write(5))
                await near.wait_for_fact("desk 5")
                with dropping(pc2):
                    site.kill("pc2")
                    await near.write(3)
                    assert far.acknowledged == 5
            await asyncio.gather(cut_off, near.write(2))
            return far, near

    writers = asyncio.run(scene())
    kept = site.ask("mainpc", f"call {UMRA} query_memory limit=1000 include_forgotten=true")["memories"]
    for each in writers:
        assert each.acknowledged == 10
        assert Counter(memory["content"] for memory in kept if memory["written_by"] == each.key) == each.contents
    assert site.restarts("pc2") == before + 1
    site.wait_until_back()


def test_mainpcs_engine_is_restarted(site: Site) -> None:
    """The agent comes back with its engine, with all that it had acknowledged; pc2 needs nobody's help."""
    with site.writing():
        site.room.machines["mainpc"].stop_engine()
        site.room.machines["mainpc"].start_engine()
        site.wait_until_back()


def test_packets_are_lost(site: Site) -> None:
    """5 % of what either machine receives: slower, and no more than that."""
    pc2 = site.room.machines["pc2"]
    with site.writing() as client, dropping(*site.room.machines.values(), share=LOSS):
        end = time.monotonic() + 60
        for change in itertools.count(1):
            client.wait_for_more(60)
            # Which packets are lost is chance: go on until pc2 has missed one, too.
            if change >= 3 and dropped(pc2):
                break
            assert time.monotonic() < end, "pc2 has received every packet"
        assert site.walk.registered()


def test_the_cable_is_long(site: Site) -> None:
    """20 ms in each direction, by a relay that each has as the other's address; keys and pins are as before."""
    routes = {
        ZMQ_PORTS["mainpc"]: f"{ADDRESSES['mainpc']}:{ZMQ_PORTS['mainpc']}",
        EVENTS_PORT: f"{ADDRESSES['mainpc']}:{EVENTS_PORT}",
        ZMQ_PORTS["pc2"]: f"{ADDRESSES['pc2']}:{ZMQ_PORTS['pc2']}",
    }
    ends = {"mainpc": "PC2_IP", "pc2": "MAINPC_IP"}
    with long_cable(site.room.machines["mainpc"], RELAY_ADDRESS, routes, DELAY_S):
        before = {host: site.checkouts[host].variables[end] for host, end in ends.items()}
        try:
            for host, end in ends.items():
                site.checkouts[host].set({end: RELAY_ADDRESS})
            site.up(*ends)
            site.wait_until_back()
            there = site.ask("mainpc", f"ping {UMRA}")["agents"][UMRA]
            back = site.ask("pc2", f"ping {SDT}")["agents"][SDT]
            with site.writing():
                pass
        finally:
            for host, end in ends.items():
                site.checkouts[host].set({end: before[host]})
            site.up(*ends)
    assert min(there["min_ms"], back["min_ms"]) >= 2_000 * DELAY_S
    site.wait_until_back()


def test_mainpc_moves_to_a_new_address(site: Site) -> None:
    """The configuration changes on both machines, and no key does; what was acknowledged before is there."""
    before = site.fingerprints()
    with site.writing() as client:
        pass
    mainpc = site.room.machines["mainpc"]
    mainpc.enter("ip", "address", "delete", f"{ADDRESSES['mainpc']}/{PREFIX_BITS}", "dev", mainpc.interface)
    mainpc.enter("ip", "address", "add", f"{NEW_ADDRESS}/{PREFIX_BITS}", "dev", mainpc.interface)
    for checkout in site.checkouts.values():
        checkout.set({"MAINPC_IP": NEW_ADDRESS})
    site.checkouts["mainpc"].set({"TWINHOST_PUBLISH_ADDRESS": NEW_ADDRESS})
    site.up("mainpc", "pc2")
    site.wait_until_back()
    client.endpoints["mainpc"] = f"tcp://{NEW_ADDRESS}:{ZMQ_PORTS['mainpc']}"
    client.require_whole()
    with site.writing():
        pass
    assert site.fingerprints() == before
