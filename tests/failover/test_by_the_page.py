"""What an operator does by the page on standbys, and what the page's ledger finds."""

from collections.abc import Iterator

import docker
import pytest

from tests.containers.stack import AGENTS
from tests.containers.test_failover import (
    COMMANDS,
    MACHINES,
    RESTORE,
    TAKEN_OVER_WITHIN_S,
    Pair,
    back_up,
    leave,
    require_that_both_go_on,
    writing,
)


@pytest.fixture(scope="module")
def pair(engine: docker.DockerClient, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    with Pair.started(tmp_path_factory.mktemp("operated"), engine) as pair:
        yield pair


def test_who_has_left_can_restore_backups_and_come_back(pair: Pair) -> None:
    """By the page's commands: with all that they have, and nothing that came later, which the standbys get too.

    The first here, since leaving changes who is active where the standbys are, and this compares every row.
    """
    back_up(pair)
    leave(pair)
    backed_up = {host: pair.calls(host, f"kept-{host}-") for host in AGENTS}
    assert all(pair.calls(host, "left-") for host in AGENTS)
    for command in RESTORE:
        if command not in ("make leave-ha", "make up-ha"):  # which build images, too
            done = pair.run(command)
            assert done.status == 0, f"{command}\n{done.out}{done.err}"
    pair.up_ha()
    for host in AGENTS:
        assert (pair.role(host)["role"], pair.role(host)["epoch"]) == ("active", 1)
        pair.require_equal(host)
        assert pair.calls(f"{host}-standby", f"kept-{host}-") == backed_up[host]
        assert pair.calls(f"{host}-standby", "left-") == {}
        with writing(pair, host, f"back-{host}") as writer:
            pair.container(host).kill()
            writer.seconds_without(TAKEN_OVER_WITHIN_S)
            pair.container(host).start()
            writer.require_whole()


@pytest.mark.parametrize("machine", list(MACHINES))
def test_a_machine_whose_disk_was_lost_comes_back(machine: str, pair: Pair) -> None:
    """With its keys alone, `make up-ha` makes its part again, of what the other machine has."""
    lost = f"lost-{machine}"
    with writing(pair, "mainpc", f"{lost}-mainpc") as one, writing(pair, "pc2", f"{lost}-pc2") as two:
        pair.kill(MACHINES[machine])
        require_that_both_go_on(f"{machine} was lost", one, two)
        project = pair.variables["COMPOSE_PROJECT_NAME"]
        volumes = [f"{project}_{service}-state" for service in MACHINES[machine]]
        for command in (["compose", "rm", "--force", *MACHINES[machine]], ["volume", "rm", *volumes]):
            done = pair.run(f"docker {' '.join(command)}")
            assert done.status == 0, done.err
        pair.up_ha()
        pair.wait_until_formed()
        for writer in (one, two):
            writer.require_whole()
        for host in AGENTS:
            pair.require_equal(host)


def test_the_page_s_ledger_shows_what_is_missing(pair: Pair) -> None:
    """Nothing is; a line of a note that was never stored is."""
    shorter = {"seq 1000": "seq 20", "kill $!": "wait"}
    commands = COMMANDS["Kill this, look here"]
    for words, instead in shorter.items():
        commands = [command.replace(words, instead) for command in commands]
    again = ['wc -l <"$run"', 'echo "note 21" >>"$run"', commands[-1]]
    done = pair.run("\n".join([*commands, *again]))
    assert done.status == 0, done.err
    assert done.out.splitlines()[-3:] == ["0", "20", "1"], done.out
