"""What the scripts of standbys take from .env and write into it; no engine is asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.two_hosts.machine_room import WITH_WITNESS

REPOSITORY = Path(__file__).resolve().parents[2]
ADDRESSES = {f"{host.upper()}_IP": address for host, address in WITH_WITNESS.items()}


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """One whose engine never answers, so that the script ends after it has written .env."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/docker").write_text("#!/bin/sh\nexit 1\n")
    (tmp_path / "bin/docker").chmod(0o755)
    return tmp_path


def up_ha(checkout: Path, settings: dict[str, str], *options: str, given: str = "") -> tuple[str, dict[str, str]]:
    """Return what the script says, and what is in .env then."""
    return ended(checkout, "up_ha.sh", settings, *options, given=given)


def ended(
    checkout: Path, script: str, settings: dict[str, str], *options: str, given: str = ""
) -> tuple[str, dict[str, str]]:
    """Return what a script says, and what is in .env then."""
    file = checkout / ".env"
    file.write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    done = subprocess.run(
        [checkout / "scripts/setup" / script, *options],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"},
    )
    assert done.returncode != 0
    return done.stderr, dict(line.split("=", 1) for line in file.read_text().splitlines())


def of(host: str) -> dict[str, str]:
    comment = "                # as the page shows it"
    return {"TWINHOST_HOST": host + comment, "TWINHOST_PUBLISH_ADDRESS": WITH_WITNESS[host]} | ADDRESSES


@pytest.mark.parametrize("host", list(WITH_WITNESS))
def test_a_machine_has_its_part_and_the_agents_ports(host: str, checkout: Path) -> None:
    """Nothing else has them there, and clients expect a standby at them; `.env` may say otherwise."""
    settings = of(host) | {"COMPOSE_PROFILES": "notify", "PC2_STANDBY_ZMQ_PORT": "9"}
    _, written = up_ha(checkout, settings)
    assert {name: written[name] for name in settings} == settings | {"COMPOSE_PROFILES": f"notify,ha-{host}"}
    assert (written["MAINPC_STANDBY_ZMQ_PORT"], written["MAINPC_STANDBY_EVENTS_PORT"]) == ("7120", "7150")
    assert up_ha(checkout, written)[1] == written


def test_one_machine_that_has_all_keeps_its_ports(checkout: Path) -> None:
    assert set(up_ha(checkout, {})[1]) == {"TWINHOST_DATABASE", "TWINHOST_DATABASE_KEYS", "COMPOSE_PROFILES"}


def test_one_of_three_says_which_it_is(checkout: Path) -> None:
    """Else all parts of the database would be published on one machine, under one port."""
    said, written = up_ha(checkout, ADDRESSES)
    assert "TWINHOST_HOST does not say which this is" in said
    assert written == ADDRESSES


@pytest.mark.parametrize("name", [*ADDRESSES, "TWINHOST_PUBLISH_ADDRESS"])
@pytest.mark.parametrize("value", ["", "witness.example"])
def test_a_machine_needs_every_address(name: str, value: str, checkout: Path) -> None:
    """A container takes no name of another machine, and an agent that is published nowhere reaches none."""
    settings = of("pc2") | {name: value}
    said, written = up_ha(checkout, settings)
    assert f"need {name} in .env, an IP address" in said
    assert written == settings


@pytest.mark.parametrize("given", ["", "\n", "a secret\n"])
def test_nothing_is_written_without_the_keys(given: str, checkout: Path) -> None:
    settings = of("witness")
    said, written = up_ha(checkout, settings, "--with-keys", given=given)
    assert "error: " in said
    assert written == settings


@pytest.mark.parametrize("witness", ["mainpc", "pc2"])
@pytest.mark.parametrize("host", ["mainpc", "pc2"])
def test_one_of_two_machines_has_the_witness_too(host: str, witness: str, checkout: Path) -> None:
    """Under a port that its database has not."""
    settings = of(host) | {"WITNESS_IP": WITH_WITNESS[witness]}
    _, written = up_ha(checkout, settings)
    here = host == witness
    assert written["COMPOSE_PROFILES"] == (f"ha-{host},ha-witness" if here else f"ha-{host}")
    assert (written["WITNESS_PORT"], written.get("WITNESS_HERE")) == ("5433", host if here else None)
    assert up_ha(checkout, written)[1] == written


def test_a_third_machine_is_not_one_of_two(checkout: Path) -> None:
    settings = of("witness") | {"WITNESS_IP": WITH_WITNESS["pc2"]}
    said, written = up_ha(checkout, settings)
    assert "is the address of mainpc or pc2" in said
    assert written == settings


def promote(checkout: Path, host: str) -> tuple[str, dict[str, str], dict[str, str]]:
    """Return what the script says, and what is in .env before and after."""
    before = up_ha(checkout, of(host) | {"WITNESS_IP": WITH_WITNESS["mainpc"]})[1]
    return *ended(checkout, "promote_database.sh", before, "--other-machine-is-off"), before


def test_a_promoted_machine_has_the_witness(checkout: Path) -> None:
    """The engine does what the database allows, and nothing after it."""
    (checkout / "bin/docker").write_text('#!/bin/sh\n[ "$2" = exec ]\n')
    said, after, before = promote(checkout, "pc2")
    assert "Moving the witness to this machine" in said
    moved = {"WITNESS_IP": WITH_WITNESS["pc2"], "WITNESS_HERE": "pc2", "COMPOSE_PROFILES": "ha-pc2,ha-witness"}
    assert after == before | moved


@pytest.mark.parametrize("host", ["mainpc", "pc2"])
def test_a_refused_promotion_moves_nothing(host: str, checkout: Path) -> None:
    said, after, before = promote(checkout, host)
    assert "Moving the witness" not in said
    assert after == before


def test_a_machine_that_lost_the_witness_forgets_it(checkout: Path) -> None:
    """Its container and what it knew go first: it would know a pair that is no more."""
    before = up_ha(checkout, of("mainpc") | {"WITNESS_IP": WITH_WITNESS["mainpc"]})[1]
    (checkout / "bin/docker").write_text(f'#!/bin/sh\necho "$*" >>{checkout}/asked\n[ "$2" = rm ]\n')
    _, after = up_ha(checkout, before | {"WITNESS_IP": WITH_WITNESS["pc2"]})
    assert "compose rm --stop --force witness" in (checkout / "asked").read_text()
    assert after["WITNESS_HERE"] == "mainpc"  # the volume could not be removed: it is tried again
    (checkout / "bin/docker").write_text('#!/bin/sh\n[ "$2" != config ] || echo \'{"name": "p"}\'\n')
    _, after = up_ha(checkout, after)
    assert "WITNESS_HERE" not in after
    assert after["COMPOSE_PROFILES"] == "ha-mainpc"


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"TWINHOST_DATABASE": "postgresql:///twinhost?host=/nowhere"}, "names another one"),
        (of("mainpc") | {"WITNESS_IP": WITH_WITNESS["mainpc"]}, "has the witness on a third node"),
    ],
)
def test_a_stack_has_standbys_of_three_machines_alone(settings: dict[str, str], why: str, checkout: Path) -> None:
    """Nothing else was tried, and a database knows the port at which its witness was made."""
    assert why in ended(checkout, "stack.sh", up_ha(checkout, settings)[1])[0]


@pytest.mark.parametrize(
    ("lacks", "why"),
    [
        ("host=witness", "No node of the swarm is labelled for witness: docker node update"),
        ("host=pc2 --filter role=manager", "pc2 is a worker, and with standbys each of the three is a manager"),
    ],
)
def test_a_stack_has_standbys_on_three_managers(lacks: str, why: str, checkout: Path) -> None:
    """Without mainpc's, a swarm of which it is the only manager starts no container again."""
    _, settings = up_ha(checkout, of("mainpc"))
    nodes = f"*'{lacks}') ;; info*) echo true ;; 'node ls'*) echo id ;; *) exit 1 ;;"
    (checkout / "bin/docker").write_text(f'#!/bin/sh\ncase "$*" in {nodes} esac\n')
    assert why in ended(checkout, "stack.sh", settings)[0]


@pytest.mark.parametrize("host", ["mainpc", "pc2"])
def test_a_machine_does_not_leave_a_foreign_database(host: str, checkout: Path) -> None:
    """Nothing would keep the agent's standby on the other machine from becoming active."""
    settings = of(host) | {"TWINHOST_DATABASE": "postgresql:///twinhost?host=/nowhere"}
    said, written = ended(checkout, "leave_ha.sh", settings)
    assert "would become active too, so nothing was changed" in said
    assert written == settings
