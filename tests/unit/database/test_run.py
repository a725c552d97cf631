"""What the servers of a failover's database start from: settings, who may connect as what, and certificates."""

import json
import stat
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from database import run
from database.run import (
    AGENTS,
    NODES,
    WITNESS,
    access,
    creation,
    keys_for,
    make_keys,
    names,
    require_keys,
    settings,
    take_keys,
)

SERVERS = (WITNESS, *NODES)


@pytest.fixture(scope="module")
def keys(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("database-certificates")
    assert make_keys(folder) == ["ca", *SERVERS, *AGENTS]
    return folder


def remote(name: str) -> list[list[str]]:
    """Return the lines that are not about the container's own socket."""
    return [line.split() for line in access(name).splitlines() if not line.startswith("local ")]


@pytest.mark.parametrize("name", SERVERS)
def test_only_certificates_are_let_in_from_elsewhere(name: str) -> None:
    assert remote(name)
    for kind, _, role, _, method, mapped in remote(name):
        assert (kind, method) == ("hostssl", "cert")
        assert mapped in ("map=nodes", "map=agents")
        assert role not in ("all", "postgres")


@pytest.mark.parametrize("name", NODES)
def test_a_node_that_comes_back_may_rewind(name: str) -> None:
    """pg_rewind connects to the database postgres; pg_auto_failover's own lines lack that."""
    (databases,) = [line[1] for line in remote(name) if line[2] == "pgautofailover_replicator"]
    assert databases.split(",") == ["replication", "twinhost", "postgres"]


def test_an_agents_certificate_is_good_for_one_role() -> None:
    roles = {tuple(line.split()[1:]) for line in names().splitlines()}
    for agent in AGENTS:
        assert [role for name, role in roles if name == agent] == ["twinhost"]
    assert not {role for name, role in roles if name in SERVERS} & {"twinhost", "postgres", "all"}


@pytest.mark.parametrize("name", NODES)
def test_a_node_waits_for_its_standby_and_not_forever(name: str) -> None:
    lines = settings(name).splitlines()
    assert {"synchronous_commit = on", "wal_sender_timeout = 4s"} <= set(lines)
    assert not [line for line in lines if line.startswith(("statement_timeout", "lock_timeout", "transaction_timeout"))]


def test_an_isolated_primary_stops_before_another_starts() -> None:
    """It stops some seconds after it was last in touch; another takes writes only after the witness's times."""
    given = dict(line.split(" = ") for line in settings(WITNESS).splitlines())
    unhealthy, demote = (
        int(given[f"pgautofailover.{name}"].removesuffix("s"))
        for name in ("node_considered_unhealthy_timeout", "primary_demote_timeout")
    )
    assert (unhealthy, demote, run.PARTITION_S) == (5, 7, 5)
    assert demote > run.PARTITION_S


@pytest.mark.parametrize("name", SERVERS)
def test_no_server_signs_its_own_certificate(name: str) -> None:
    command = creation(name)
    assert "--ssl-self-signed" not in command
    assert command[command.index("--ssl-mode") + 1] == "verify-full"
    assert "--skip-pg-hba" in command


def test_keys_are_made_once_and_are_their_owners_alone(keys: Path) -> None:
    before = {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    assert make_keys(keys) == []
    assert before == {path: path.read_bytes() for path in keys.rglob("*") if path.is_file()}
    assert {stat.S_IMODE(path.stat().st_mode) for path in before if path.suffix == ".key"} == {0o600}
    assert {stat.S_IMODE(path.parent.stat().st_mode) for path in before} == {0o700}
    assert [path.parent.name for path in before if path.name == "ca.key"] == ["ca"]


def test_a_missing_folder_is_made_by_the_same_ca(keys: Path, tmp_path: Path) -> None:
    (keys / "pc2").rename(tmp_path / "pc2")
    assert make_keys(keys) == ["pc2"]
    assert verified(keys, keys / "pc2/agent.crt", "sslclient")


def verified(keys: Path, certificate: Path, end: str, *more: str) -> bool:
    command = ("openssl", "verify", "-CAfile", str(keys / "ca/ca.crt"), "-purpose", end, *more, str(certificate))
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("name", SERVERS)
def test_a_servers_certificate_is_good_for_its_name(keys: Path, name: str) -> None:
    certificate = keys / name / "node.crt"
    assert verified(keys, certificate, "sslserver", "-verify_hostname", name)
    assert verified(keys, certificate, "sslclient")
    assert not verified(keys, certificate, "sslserver", "-verify_hostname", "elsewhere")


@pytest.mark.parametrize("name", AGENTS)
def test_an_agent_can_not_pose_as_a_server(keys: Path, name: str) -> None:
    assert verified(keys, keys / name / "agent.crt", "sslclient")
    assert not verified(keys, keys / name / "agent.crt", "sslserver")


def test_a_certificate_can_not_sign_another(keys: Path, tmp_path: Path) -> None:
    run._certify(tmp_path / "own", "agent", "pc2", ["basicConstraints=CA:FALSE"], _as_authority(keys, tmp_path))
    chain = ("-untrusted", str(keys / "witness/node.crt"))
    assert not verified(keys, tmp_path / "own/agent.crt", "sslclient", *chain)


def _as_authority(keys: Path, folder: Path) -> Path:
    authority = folder / "authority"
    authority.mkdir()
    for suffix in ("crt", "key"):
        (authority / f"ca.{suffix}").write_bytes((keys / f"witness/node.{suffix}").read_bytes())
    return authority


def taken(folder: Path, machine: str, given: object) -> list[str]:
    return take_keys(folder, machine, json.dumps(given))


@pytest.mark.parametrize(("machine", "folders"), [("pc2", ["database-pc2", "pc2"]), ("witness", ["witness"])])
def test_a_machine_gets_its_keys_alone(machine: str, folders: list[str], keys: Path, tmp_path: Path) -> None:
    """No key of the CA's, and none of another machine's; the same keys again change nothing."""
    given = keys_for(keys, machine)
    with pytest.raises(SystemExit, match=f"FOR={machine} "):
        require_keys(tmp_path, machine)
    assert taken(tmp_path, machine, given) == folders
    require_keys(tmp_path, machine)
    there = {path.relative_to(tmp_path): path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert there == {path: (keys / path).read_bytes() for path in there}
    assert {path.parts[0] for path in there} == set(folders)
    assert stat.S_IMODE((tmp_path / folders[0]).stat().st_mode) == 0o700
    assert taken(tmp_path, machine, given) == []


def test_keys_that_are_there_are_not_overwritten(keys: Path, tmp_path: Path) -> None:
    other = tmp_path / "of another database"
    other.mkdir()
    taken(tmp_path, "pc2", keys_for(keys, "pc2"))
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    with pytest.raises(SystemExit, match="other keys of database-pc2"):
        taken(tmp_path, "pc2", keys_for(other, "pc2"))
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize(
    "spoil",
    [
        lambda given: {"witness": given["pc2"]},
        lambda given: given | {"../ca": given["pc2"]},
        lambda given: given | {"pc2": given["pc2"] | {"../../node.key": "x"}},
        lambda given: given | {"pc2": given["pc2"] | {"agent.key": 1}},
        lambda given: {name: files for name, files in given.items() if name != "pc2"},
        lambda _: ["pc2"],
        lambda _: "",
    ],
)
def test_what_is_no_machines_keys_writes_nothing(
    spoil: Callable[[dict[str, dict[str, str]]], object], keys: Path, tmp_path: Path
) -> None:
    with pytest.raises(SystemExit, match="not the keys of pc2, so nothing was written"):
        taken(tmp_path, "pc2", spoil(keys_for(keys, "pc2")))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("machine", "command"),
    [("pc2", ["for", "witness"]), ("", ["for", "pc2"]), ("mainpc", ["for", "mainpc"]), ("mainpc", ["take"])],
)
def test_keys_are_made_on_mainpcs_machine_alone(machine: str, command: list[str]) -> None:
    """Elsewhere another CA would be made, whose certificates no other machine verifies."""
    with pytest.raises(SystemExit, match="usage"):
        run.keys(command, machine)
