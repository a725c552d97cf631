"""What the scripts of standbys take from .env and write into it; no engine is asked."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml

from tests.two_hosts.machine_room import WITH_WITNESS

REPOSITORY = Path(__file__).resolve().parents[2]
ADDRESSES = {f"{host.upper()}_IP": address for host, address in WITH_WITNESS.items()}
FOREIGN = "postgresql://log@db.example/log?sslmode=verify-full&sslrootcert=system&passfile=/app/config/pgpass"
STANDBYS = {"mainpc": "pc2-standby", "pc2": "mainpc-standby"}


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
    """Return what a script says that fails, and what is in .env then."""
    done = run(checkout, script, settings, *options, given=given)
    assert done.returncode != 0
    return done.stderr, dict(line.split("=", 1) for line in (checkout / ".env").read_text().splitlines())


def run(
    checkout: Path, script: str, settings: dict[str, str], *options: str, given: str = ""
) -> "subprocess.CompletedProcess[str]":
    (checkout / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    return subprocess.run(
        [checkout / "scripts/setup" / script, *options],
        input=given,
        capture_output=True,
        text=True,
        check=False,
        env={"PATH": f"{checkout / 'bin'}{os.pathsep}{os.environ['PATH']}"},
    )


def engine(checkout: Path, cases: str = "") -> None:
    """Have the engine do all that it is asked to, and write it down; `cases` of its arguments come first."""
    host = "HOST=$(sed -n 's/^TWINHOST_HOST=//p' .env)"
    found = '{"name": "p", "services": {"certs-init": {"environment": {"TWINHOST_HOST": "%s"}}}}'
    answers = f"*config*) printf '{found}' \"$HOST\" ;;"
    log = f'echo "$*" >>{checkout}/asked'
    given = "*import-standby*|*take*) cat >/dev/null ;;"  # else the pipe that they are given breaks
    cases = f"{cases}\n{answers}\n{given}"
    (checkout / "bin/docker").write_text(f'#!/bin/sh\n{host}\n{log}\ncase "$*" in\n{cases}\nesac\n')


def asked(checkout: Path) -> list[str]:
    return (checkout / "asked").read_text().splitlines()


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


def of_two(host: str) -> dict[str, str]:
    """One of two machines with a database of somebody else."""
    settings = of(host) | {"TWINHOST_HOST": host, "TWINHOST_DATABASE": FOREIGN}
    del settings["WITNESS_IP"]
    return settings


@pytest.mark.parametrize("host", list(STANDBYS))
def test_a_foreign_database_has_no_part_and_no_witness(host: str, checkout: Path) -> None:
    """The profile starts the standby alone, which has the agent's ports."""
    settings = of_two(host) | {"COMPOSE_PROFILES": "notify"}
    said, written = up_ha(checkout, settings)
    assert "error: " not in said
    ports = {"MAINPC_STANDBY_ZMQ_PORT": "7120", "MAINPC_STANDBY_EVENTS_PORT": "7150", "PC2_STANDBY_ZMQ_PORT": "7230"}
    assert written == settings | ports | {"COMPOSE_PROFILES": f"notify,{STANDBYS[host]}"}
    assert up_ha(checkout, written)[1] == written


def test_one_machine_has_both_standbys_of_a_foreign_one(checkout: Path) -> None:
    _, written = up_ha(checkout, {"TWINHOST_DATABASE": FOREIGN})
    assert written == {"TWINHOST_DATABASE": FOREIGN, "COMPOSE_PROFILES": "mainpc-standby,pc2-standby"}


@pytest.mark.parametrize("service", list(STANDBYS.values()))
def test_its_profile_starts_a_standby_alone(service: str) -> None:
    services = yaml.safe_load((REPOSITORY / "docker-compose.yml").read_text())["services"]
    assert [name for name, settings in services.items() if service in settings.get("profiles", [])] == [service]


def test_a_third_machine_has_nothing_of_a_foreign_database(checkout: Path) -> None:
    settings = of("witness") | {"TWINHOST_DATABASE": FOREIGN}
    said, written = up_ha(checkout, settings)
    assert "needs no witness" in said
    assert written == settings


@pytest.mark.parametrize(("host", "other"), [("mainpc", "pc2"), ("pc2", "mainpc")])
def test_a_foreign_database_needs_an_agents_secret_alone(host: str, other: str, checkout: Path) -> None:
    """Which the other machine takes, and nothing of a database."""
    engine(checkout, "*export-standby*) echo secret ;;")
    given = run(checkout, "ha_keys.sh", of_two(host), other)
    assert given.returncode == 0, given.stderr
    assert len(given.stdout.splitlines()) == len(asked(checkout)) == 1
    (checkout / "asked").unlink()
    took = run(checkout, "up_ha.sh", of_two(other), "--with-keys", given=given.stdout)
    assert took.returncode == 0, took.stderr
    assert asked(checkout)[0].endswith("certs-init import-standby -")
    assert [line for line in asked(checkout) if "database" in line or "witness" in line] == []
    assert f"compose up --detach --wait --wait-timeout 60 {STANDBYS[other]}" in asked(checkout)


def test_a_foreign_database_has_no_keys_for_a_witness(checkout: Path) -> None:
    assert "needs no witness" in ended(checkout, "ha_keys.sh", of_two("mainpc"), "witness")[0]


@pytest.mark.parametrize("foreign", [True, False])
def test_both_machines_have_the_same_kind_of_database(foreign: bool, checkout: Path) -> None:
    """Else one of both would begin another log without a word."""
    engine(checkout, "*export-standby*) echo secret ;;")
    one, other = (of_two("pc2"), of("mainpc")) if foreign else (of("pc2"), of_two("mainpc"))
    given = run(checkout, "ha_keys.sh", one | {"TWINHOST_HOST": "pc2"}, "mainpc").stdout
    (checkout / "asked").unlink()
    said, written = ended(checkout, "up_ha.sh", other, "--with-keys", given=given)
    assert "write the same line into both" in said
    assert written == other
    assert not (checkout / "asked").exists()


@pytest.mark.parametrize("joined", [True, False])
def test_a_standby_starts_once_its_machine_has_joined(joined: bool, checkout: Path) -> None:
    """Before that it has no secret, and no folder of keys; the agent starts, whose log is the foreign database's."""
    engine(checkout)
    settings = of_two("pc2") | ({"COMPOSE_PROFILES": "mainpc-standby"} if joined else {})
    assert run(checkout, "up.sh", settings).returncode == 0
    started = [line.rpartition(" ")[2] for line in asked(checkout) if " up " in line]
    assert started == (["pc2", "mainpc-standby"] if joined else ["pc2"])


@pytest.mark.parametrize(
    ("settings", "images"),
    [
        ({}, "certs-init database-keys"),
        ({"TWINHOST_DATABASE": FOREIGN}, "certs-init"),
        ({"TWINHOST_DATABASE": "postgresql://own", "TWINHOST_DATABASE_KEYS": "keys"}, "certs-init database-keys"),
        ({"TWINHOST_HOST": "witness"}, "database-keys"),
    ],
)
def test_only_images_that_a_machine_runs_are_built(settings: dict[str, str], images: str, tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("".join(f"{name}={value}\n" for name, value in settings.items()))
    command = ["make", "--dry-run", "--file", str(REPOSITORY / "Makefile"), "up-ha"]
    planned = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (built,) = [line.partition("image.sh")[2] for line in planned.splitlines() if "image.sh" in line]
    assert built.split() == images.split()


LOGS = {"": "SystemDigitalTwin UnifiedMemoryReasoningAgent", "pc2": "UnifiedMemoryReasoningAgent"}
# A process says that it is active, but for a standby.
ACTIVE = '"compose exec -T "*-standby*) exit 1 ;;'


def of_whom(host: str) -> dict[str, str]:
    return of_two(host) if host else {"TWINHOST_DATABASE": FOREIGN}


@pytest.mark.parametrize("host", list(LOGS))
def test_a_foreign_database_is_left_without_its_logs(host: str, checkout: Path) -> None:
    """Without it a standby on another machine does not become active. The DSN stays, for who comes back."""
    engine(checkout, ACTIVE)
    (checkout / "twinhost").symlink_to("/bin/true")
    settings = of_whom(host) | {"COMPOSE_PROFILES": "mainpc-standby,notify,pc2-standby"}
    left = run(checkout, "leave_ha.sh", settings)
    assert left.returncode == 0, left.stderr
    done = asked(checkout)
    (forgot,) = [number for number, line in enumerate(done) if "replication.forget" in line]
    assert done[forgot].endswith(f"python -m twinhost.store.replication.forget {LOGS[host]}")
    agents = [host] if host else ["mainpc", "pc2"]
    assert done[forgot - 1] == f"compose stop {' '.join(agents)}"
    assert [line for line in done[forgot:] if line.startswith("compose up")] == [
        f"compose up --detach --wait --wait-timeout 60 {' '.join(agents)}"
    ]
    (checkout / "asked").unlink()
    kept = dict(line.split("=", 1) for line in (checkout / ".env").read_text().splitlines())
    unset = {name: kept.get(name) for name in ("TWINHOST_DATABASE", "COMPOSE_PROFILES")}
    assert unset == {"TWINHOST_DATABASE": None, "COMPOSE_PROFILES": "notify"}
    assert run(checkout, "up_ha.sh", kept).returncode == 0
    again = dict(line.split("=", 1) for line in (checkout / ".env").read_text().splitlines())
    standbys = STANDBYS[host] if host else "mainpc-standby,pc2-standby"
    assert settings.items() - again.items() == {("COMPOSE_PROFILES", settings["COMPOSE_PROFILES"])}
    assert again["COMPOSE_PROFILES"] == f"notify,{standbys}"
    assert "TWINHOST_DATABASE_KEYS" not in again


@pytest.mark.parametrize("host", list(LOGS))
def test_nothing_changes_where_a_log_is_not_deleted(host: str, checkout: Path) -> None:
    """As where the standby on the other machine has taken over meanwhile: all that was stopped runs again."""
    engine(checkout, f"*replication.forget*) exit 1 ;;\n{ACTIVE}")
    settings = of_whom(host)
    said, written = ended(checkout, "leave_ha.sh", settings)
    assert "Nothing was changed, and all runs again" in said
    assert written == settings
    assert asked(checkout)[-1].startswith("compose start ")


@pytest.mark.parametrize(
    ("settings", "nodes"),
    [
        ({}, ["database-mainpc", "database-pc2"]),
        (of("pc2"), ["database-pc2"]),
        (of("mainpc") | {"WITNESS_IP": WITH_WITNESS["mainpc"]}, ["database-mainpc"]),
        ({"TWINHOST_DATABASE": FOREIGN}, []),
    ],
)
def test_a_database_gets_the_tables_of_the_checkout(settings: dict[str, str], nodes: list[str], checkout: Path) -> None:
    """Its containers run an older version until they are upgraded, and standbys of the newer one follow before."""
    tables = checkout / "services/twinhost/store/replication/tables.sql"
    tables.parent.mkdir(parents=True)
    tables.write_text("those of this version\n")
    engine(checkout, f"*tables) cat >>{checkout}/given ;;")
    (checkout / "asked").touch()
    assert run(checkout, "update_tables.sh", settings).returncode == 0
    assert asked(checkout) == [f"compose exec -T {node} python3 /app/database/run.py tables" for node in nodes]
    assert not nodes or (checkout / "given").read_text() == len(nodes) * tables.read_text()
