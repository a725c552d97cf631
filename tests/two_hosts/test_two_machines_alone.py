"""mainpc and pc2 without a third machine: mainpc has the witness, and a person promotes pc2's database."""

from collections.abc import Iterator
from contextlib import closing

import docker
import pytest

from tests.containers.stack import AGENTS
from tests.two_hosts.machine_room import ADDRESSES, MachineRoom, why_not
from tests.two_hosts.test_three_machines import (
    BACK_WITHIN_S,
    IMAGES,
    STANDBYS,
    Three,
    bring_home,
    leave_and_come_back,
    section,
    writing,
)
from tests.waiting import PATIENCE_S, wait_until

PAGE = section("Two machines without a third")
PROMOTE = "./twinhost promote database --other-machine-is-off"
WITHOUT_WORD = PROMOTE.rpartition(" ")[0]
GOES_ON_WITHIN_S = 90.0
REFUSED_WITHIN_S = 60.0

pytestmark = [pytest.mark.sdt_security, pytest.mark.unified_memory_agent, pytest.mark.timeout(900)]


class Two(Three):
    """Both machines after the steps of both pages."""

    def follow(self) -> None:
        self.begin_without_standbys()
        for host, checkout in self.checkouts.items():
            addresses = {f"{name.upper()}_IP": address for name, address in ADDRESSES.items()}
            own = {"TWINHOST_HOST": host, "TWINHOST_PUBLISH_ADDRESS": ADDRESSES[host]}
            checkout.set({**addresses, **own, "WITNESS_IP": ADDRESSES["mainpc"]})
        self.checkouts["mainpc"].run(self.ssh)
        set_up, promote = PAGE.split("pc2$", maxsplit=1)
        assert promote.strip().startswith(PROMOTE)
        self.walk.follow(f"{set_up}```")

    def parts(self, host: str) -> set[str]:
        names = self.room.machines[host].docker("ps", "--format", "{{.Names}}").stdout.split()
        return {name.removeprefix("twinhost-").removesuffix("-1") for name in names}

    def boot(self, host: str) -> None:
        """Connect a machine that was off, and start what its engine would start; no person does anything."""
        machine = self.room.machines[host]
        machine.enter("ip", "link", "set", machine.interface, "up")
        for part in sorted(self.stopped):
            machine.docker("start", f"twinhost-{part}-1")

    def power_off(self, host: str) -> None:
        self.stopped = self.parts(host)
        super().power_off(host)

    def is_ready(self, host: str) -> bool:
        """Return whether a machine's database answers."""
        command = ["exec", f"twinhost-database-{host}-1", "pg_isready", "--quiet"]
        return self.room.machines[host].docker(*command, check=False).returncode == 0

    def says(self, host: str) -> str:
        """Return what a machine's database has logged."""
        return self.room.machines[host].docker("logs", f"twinhost-database-{host}-1").stderr

    def refused(self, host: str, command: str) -> str:
        """Return why a command is refused."""
        done = self.checkouts[host].run(command)
        assert done.status != 0, done.out + done.err
        assert "error [conflict]: " in done.err, done.err
        return done.err


@pytest.fixture(scope="module")
def two(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    if reason := why_not():
        pytest.skip(reason)
    with closing(MachineRoom(tmp_path_factory.mktemp("two"), ADDRESSES)) as room:
        room.open(*IMAGES)
        two = Two(room, tmp_path_factory.mktemp("site"))
        two.follow()
        yield two


def wait_until_whole(two: Two) -> None:
    wait_until(two.both_follow, BACK_WITHIN_S, "both agents have a standby")
    wait_until(lambda: two.copies() == 2, BACK_WITHIN_S, "each change is on both databases")


def test_two_commands_set_it_up(two: Two) -> None:
    """Each machine has its part, and mainpc the witness besides; both agents have a standby, each change two copies."""
    wait_until_whole(two)
    parts = {host: {host, f"{other}-standby", f"database-{host}"} for host, other in STANDBYS.items()}
    assert two.parts("mainpc") == {*parts["mainpc"], "witness"}
    assert two.parts("pc2") == parts["pc2"]
    two.wait_for_witness("witness:5433")
    two.require_all_of_before()


def test_a_promotion_is_refused_while_the_other_machine_answers(two: Two) -> None:
    """Whatever a person says: also where only the witness is left of it, or a port that refuses."""
    for command in (WITHOUT_WORD, PROMOTE):
        assert "database-mainpc answers at port 5432, so the other machine is on" in two.refused("pc2", command)
        assert "the witness is on this machine" in two.refused("mainpc", command)
    assert two.checkouts["pc2"].run("grep -c ^WITNESS_IP=192.0.2.10$ .env").out.strip() == "1"


def test_the_machine_with_the_witness_leaves_last(two: Two) -> None:
    """Without it, the other one's database would take no writes, and its agent could not be active any more."""
    bring_home(two)
    before = (two.checkouts["mainpc"].folder / ".env").read_text()
    left = two.checkouts["mainpc"].run("make leave-ha")
    assert left.status != 0
    assert "that one has to leave first" in left.err
    assert (two.checkouts["mainpc"].folder / ".env").read_text() == before
    assert two.both_follow()


def test_both_machines_leave_and_come_back(two: Two) -> None:
    leave_and_come_back(two)
    wait_until_whole(two)


def test_mainpc_goes_on_when_pc2_is_off(two: Two) -> None:
    with writing(two, "mainpc") as writers:
        for writer in writers:
            writer.wait_for_more(PATIENCE_S)
        two.power_off("pc2")
        for writer in writers:
            writer.wait_for_more(GOES_ON_WITHIN_S)
        two.boot("pc2")
        wait_until_whole(two)
        for writer in writers:
            writer.end()
            writer.require_whole()


def test_a_person_has_pc2_go_on_when_mainpc_is_off(two: Two) -> None:
    """mainpc takes no writes when it is on again, and then follows; both have what was acknowledged, once."""
    with writing(two, "pc2") as writers:
        for writer in writers:
            writer.wait_for_more(PATIENCE_S)
        two.power_off("mainpc")
        why = two.refused("pc2", WITHOUT_WORD)
        assert "database-mainpc does not answer, which a cut link looks like too" in why
        assert "This database last heard of the witness at " in why
        done = two.checkouts["pc2"].run(PROMOTE)
        assert done.status == 0, done.out + done.err
        for writer in writers:
            writer.wait_for_more(GOES_ON_WITHIN_S)
        assert {two.role("pc2", service)["role"] for service in ("pc2", "mainpc-standby")} == {"active"}

        two.boot("mainpc")
        wait_until(lambda: "Write WITNESS_IP=192.0.2.20 into" in two.says("mainpc"), REFUSED_WITHIN_S, "it says why")
        for host in AGENTS:
            at = ("mainpc", host if host == "mainpc" else "pc2-standby")
            wait_until(lambda at=at: two.role(*at).get("role") == "standby", REFUSED_WITHIN_S, f"{at} stands by")  # type: ignore[misc]
        assert not two.is_ready("mainpc")
        edited = two.checkouts["mainpc"].run("sed -i s/^WITNESS_IP=.*/WITNESS_IP=192.0.2.20/ .env && make up-ha")
        assert edited.status == 0, edited.out + edited.err
        wait_until_whole(two)
        assert "witness" in two.parts("pc2")
        assert "witness" not in two.parts("mainpc")
        for writer in writers:
            writer.wait_for_more(PATIENCE_S)
            writer.end()
            writer.require_whole()


def test_the_parts_are_exchanged_then(two: Two) -> None:
    """pc2 goes on by itself without mainpc, which a person promotes without pc2."""
    with writing(two, "mainpc") as writers:
        for writer in writers:
            writer.wait_for_more(PATIENCE_S)
        two.power_off("pc2")
        done = two.checkouts["mainpc"].run(PROMOTE)
        assert done.status == 0, done.out + done.err
        for writer in writers:
            writer.wait_for_more(GOES_ON_WITHIN_S)
        two.boot("pc2")
        wait_until(lambda: "Write WITNESS_IP=192.0.2.10 into" in two.says("pc2"), REFUSED_WITHIN_S, "it says why")
        edited = two.checkouts["pc2"].run("sed -i s/^WITNESS_IP=.*/WITNESS_IP=192.0.2.10/ .env && make up-ha")
        assert edited.status == 0, edited.out + edited.err
        wait_until_whole(two)
        for writer in writers:
            writer.end()
            writer.require_whole()
