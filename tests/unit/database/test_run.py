"""What the servers of a failover's database start from: settings, who may connect as what, and certificates."""

import json
import os
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from database import run
from database.run import (
    AGENTS,
    NODES,
    WITNESS,
    Seen,
    Witness,
    access,
    creation,
    keys_for,
    make_keys,
    may_leave,
    may_promote,
    names,
    obstacle,
    require_keys,
    settings,
    settle,
    take_keys,
)

SERVERS = (WITNESS, *NODES)
HERE, THERE = Witness(5433, "192.0.2.10", here=True), Witness(5433, "192.0.2.10")  # mainpc's, as mainpc and pc2 see it
THIRD = Witness()
_KEEPER_S = 2  # a node looks each second at what it is to do, and then does it


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


def test_a_witness_that_is_being_made_lets_no_node_in() -> None:
    """Its server is stopped before the one that stays is started, and a registration would be cut off by that."""
    lines = access(WITNESS, made=False).splitlines()
    assert [line.split()[0] for line in lines] == ["local"]


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
    assert unhealthy + demote > run.PARTITION_S + _KEEPER_S


def test_a_node_of_an_earlier_version_gives_up_its_witness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whose settings have an address without timeouts; one that has no witness now gets none."""
    monkeypatch.setattr(run, "KEEPER", (tmp_path,))
    file, alone = tmp_path / "a/pg_autoctl.cfg", tmp_path / "b/pg_autoctl.cfg"
    for path, monitor in ((file, "postgres://autoctl_node@witness/db?sslmode=verify-full"), (alone, "DISABLED")):
        path.parent.mkdir()
        path.write_text(f"[pg_autoctl]\nmonitor = {monitor}\nname = database-pc2\n")
    run._know_witness(Witness())
    assert file.read_text() == f"[pg_autoctl]\nmonitor = {run._monitor(Witness())}\nname = database-pc2\n"
    assert "tcp_user_timeout=2000" in file.read_text()
    assert "monitor = DISABLED\n" in alone.read_text()


def test_a_node_does_not_start_on_a_full_volume(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_free_bytes", lambda: run.RESERVE_BYTES)
    run.require_space()
    monkeypatch.setattr(run, "_free_bytes", lambda: run.RESERVE_BYTES - 1)
    with pytest.raises(SystemExit, match=r"error: .* full \(31 MB are free, and 32 needed\): free space on it\."):
        run.require_space()


@pytest.mark.parametrize(
    ("current", "assigned", "guarded"),
    [
        ("secondary", "secondary", True),
        ("secondary", "catchingup", True),
        ("catchingup", "secondary", True),
        ("secondary", "prepare_promotion", False),  # it may have been promoted since
        ("wait_primary", "primary", False),
        ("primary", "primary", False),
        (None, None, False),  # it is being made, or promoted by hand
    ],
)
def test_a_server_that_follows_is_guarded(
    current: str | None, assigned: str | None, guarded: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run, "GUARD", tmp_path / "recovery.signal")
    monkeypatch.setattr(run, "_state", lambda: {"current_role": current, "assigned_role": assigned} if current else {})
    for _ in range(2):
        run.guard()
        assert run.GUARD.exists() is guarded
    run.GUARD.touch()  # of an earlier start
    run.guard()
    assert run.GUARD.exists() is guarded


@pytest.mark.parametrize(
    ("status", "age_s", "ended"), [("ready   ", 0, True), ("starting", 0, False), ("ready   ", 9, False)]
)
def test_the_guard_ends_with_the_start(
    status: str, age_s: int, ended: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What an earlier server has left says nothing of the one that starts."""
    monkeypatch.setattr(run, "DATA", tmp_path)
    monkeypatch.setattr(run, "GUARD", tmp_path / "recovery.signal")
    run._end_guard()
    run.GUARD.touch()
    run._end_guard()
    assert run.GUARD.exists()
    pid = tmp_path / "postmaster.pid"
    pid.write_text(f"12\n{tmp_path}\n1\n5432\n/run\n*\n  1 2\n{status}\n")
    at = time.time() - age_s
    os.utime(pid, (at, at))
    run._end_guard()
    assert run.GUARD.exists() is not ended


class Looks:
    """A node looks once a second; after the last look its server, a real process, ends by itself."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, reached: str) -> None:
        # What runs in the background of a shell ignores SIGQUIT, and so would what it starts.
        before = signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        self.server = subprocess.Popen(["sleep", "60"])
        signal.signal(signal.SIGQUIT, before)
        self.done, self._reached = 0, reached  # "+" where the other one is reached, "-" where it is not
        monkeypatch.setattr(run, "_answers", lambda *_: self._reached[self.done - 1] == "+")
        monkeypatch.setattr("time.sleep", self._pass)
        monkeypatch.setattr("time.monotonic", lambda: float(self.done))

    def _pass(self, _: float) -> None:
        if self.done == len(self._reached):
            self.server.kill()
            self.server.wait()
        self.done += self.done < len(self._reached)

    def stopped(self) -> bool:
        return run._stopped(self.server, NODES[1], Witness())


def test_a_full_node_ends_once_the_other_can_go_on(monkeypatch: pytest.MonkeyPatch) -> None:
    looks, answers = Looks(monkeypatch, "+++++"), iter(["f", "", "t", "t"])
    free = iter([run.RESERVE_BYTES, 0, 0, 0])
    monkeypatch.setattr(run, "_free_bytes", lambda: next(free))
    monkeypatch.setattr(run, "_answer", lambda _: next(answers))
    assert looks.stopped()
    assert looks.server.returncode == -signal.SIGQUIT
    assert list(answers) == ["t"]


def test_the_witness_is_told_that_a_full_node_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would wait until it has heard nothing for some seconds."""
    told: list[tuple[str, ...]] = []
    monkeypatch.setattr("signal.signal", lambda *_: None)
    monkeypatch.setattr(run, "RUN_SERVER", ("true",))
    monkeypatch.setattr(run, "_wait_while_cut_off", lambda *_: None)
    monkeypatch.setattr(run, "_stopped", lambda *_: True)
    monkeypatch.setattr(run, "_free_bytes", lambda: 0)
    monkeypatch.setattr("subprocess.run", lambda command, **_: told.append(command))
    with pytest.raises(SystemExit, match="the volume of this node is full"):
        run._run_while_of_use(NODES[0], Witness())
    assert [command[:4] for command in told] == [("pg_autoctl", "do", "monitor", "active")]


@pytest.mark.parametrize(
    ("reached", "other_takes_writes", "after"),
    [
        ("+-----+", "t", 6),
        ("-----", "t", 5),
        ("+----+----+", "t", None),  # short interruptions
        ("+---------+", "f", None),  # it may be gone, and this one has to take its place; or it follows this one
        ("+---------+", "", None),  # the witness does not answer either
    ],
)
def test_a_node_stops_where_commits_would_wait_for_it(
    reached: str, other_takes_writes: str, after: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only once it has not reached the other one for some seconds, and the witness hears from that one still."""
    looks, asked = Looks(monkeypatch, reached), list[str]()

    def answer(sql: str, where: str) -> str:
        asked.extend((sql, where))
        return other_takes_writes

    monkeypatch.setattr(run, "_free_bytes", lambda: run.RESERVE_BYTES)
    monkeypatch.setattr(run, "_answer", answer)
    assert looks.stopped() is (after is not None)
    assert looks.done == (after or len(reached))
    assert looks.server.returncode == -(signal.SIGKILL if after is None else signal.SIGQUIT)
    assert all(NODES[0] in sql and f"{run._HEARD_S} s" in sql for sql in asked[::2])
    assert all(where == run._monitor(Witness()) for where in asked[1::2])


@pytest.mark.parametrize(("reached", "takes_writes", "reports"), [("--+", "ttt", 2), ("---", "tf", 1), ("+", "t", 0)])
def test_a_node_starts_once_it_is_of_use(
    reached: str, takes_writes: str, reports: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It reaches the other one again, or may have to take its place; until then it reports that it has no server."""
    answers, looks, did = iter(takes_writes), iter(reached), list[tuple[str, ...]]()
    monkeypatch.setattr(run, "_answers", lambda *_: next(looks) == "+")
    monkeypatch.setattr(run, "_answer", lambda *_: next(answers))
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("subprocess.run", lambda command, **_: did.append(command))
    run._wait_while_cut_off(NODES[1], Witness())
    assert [command[:4] for command in did] == [("pg_autoctl", "do", "monitor", "active")] * reports


def test_a_witness_whose_clock_is_set_back_restarts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not one whose clock is set ahead, or corrected by less than a second."""
    servers, clocks = iter([1, 1, 1, 0]), iter([0.0, 3_600.0, 3_599.5, 0.0])
    commands: list[tuple[object, ...]] = []
    monkeypatch.setattr(run, "LOOK_S", 0)
    monkeypatch.setattr(os, "getppid", lambda: next(servers))
    monkeypatch.setattr("time.time", lambda: time.monotonic() + next(clocks))
    monkeypatch.setattr(run, "_answer", lambda *_: commands.append(("update", next(clocks, None))))
    monkeypatch.setattr(subprocess, "run", lambda command, **_: commands.append(command[-1:]))
    monkeypatch.setattr(os, "_exit", lambda _: None)
    run._restart_if_set_back(1)
    assert commands == [("update", None), ("stop",)]


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


@pytest.mark.parametrize("certificate", ["pc2/agent.crt", "witness/node.crt"])
def test_a_late_clock_takes_new_certificates(keys: Path, certificate: str) -> None:
    assert verified(keys, keys / certificate, "sslclient", "-attime", str(int(time.time()) - 7_200))


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


def test_a_witness_beside_a_database_has_a_port_of_its_own() -> None:
    """Without one, a deployment is what it was."""
    environment = {"WITNESS_PORT": "5433", "WITNESS_IP": "192.0.2.10", "WITNESS_HERE": "mainpc"}
    assert Witness.of(environment) == HERE
    assert Witness.of({"WITNESS_IP": "192.0.2.30"}) == Witness()
    assert {"twinhost.witness = 'witness:5433'", "twinhost.witness_at = '192.0.2.10'"} <= set(
        settings("database-pc2", THERE).splitlines()
    )
    assert "witness:5433/" in creation("database-pc2", THERE)[-1]
    assert creation(WITNESS, HERE)[-2:] == ["--pgport", "5433"]
    assert "twinhost.witness = 'witness'\n" in settings("database-pc2")
    assert "witness:5432/" in creation("database-pc2")[-1]


def test_either_of_two_machines_has_the_witness_key(
    keys: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Since the witness may move to it when the other one is off."""
    monkeypatch.setenv("WITNESS_PORT", "5433")
    monkeypatch.setenv("WITNESS_IP", "192.0.2.10")
    assert set(taken(tmp_path, "pc2", keys_for(keys, "pc2"))) == {"database-pc2", "pc2", "witness"}


@pytest.mark.parametrize(
    ("seen", "said"),
    [
        (None, "database-pc2 does not answer, and may have been promoted"),
        (Seen(takes_writes=False, witness="192.0.2.10", promoted=True), "is being promoted"),
        (Seen(takes_writes=True, witness="192.0.2.20", promoted=False), "Write WITNESS_IP=192.0.2.20 into .env here"),
        (Seen(takes_writes=False, witness="192.0.2.20", promoted=False), "Write WITNESS_IP=192.0.2.20 into .env here"),
        (Seen(takes_writes=True, witness="192.0.2.10", promoted=False), None),
        (Seen(takes_writes=False, witness="192.0.2.10", promoted=False), None),
    ],
)
def test_beside_the_witness_it_waits_for_the_other(seen: Seen | None, said: str | None) -> None:
    """Unless that has the same witness, it may have been promoted; away from the witness, it follows what that says."""
    why = obstacle("database-mainpc", HERE, seen, moved=False, alone=True)
    assert why is None if said is None else said in (why or "")
    assert obstacle("database-mainpc", THERE, seen, moved=False, alone=True) is None


@pytest.mark.parametrize("here", [True, False])
@pytest.mark.parametrize(
    ("takes_writes", "alone", "said"),
    [(True, True, "acknowledged changes alone"), (True, False, None), (False, True, None), (False, False, None)],
)
def test_changes_of_its_own_are_not_given_up_unasked(
    takes_writes: bool, alone: bool, said: str | None, here: bool
) -> None:
    witness = HERE if here else THERE
    seen = Seen(takes_writes=takes_writes, witness=witness.at, promoted=False)
    why = obstacle("database-mainpc", witness, seen, moved=True, alone=alone)
    assert why is None if said is None else said in (why or "")


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of pc2's database, and nothing of mainpc answers."""
    for name in ("PROMOTED", "CREATED", "WAITING", "DATA", "GIVEN_UP"):
        monkeypatch.setattr(run, name, tmp_path / name)
    monkeypatch.setattr(run, "KEEPER", (tmp_path / "keeper",))
    monkeypatch.setattr(run, "_heard", lambda: ("secondary", "Tue Dec  1 17:08:21 2026"))
    _answer(monkeypatch, {})
    return tmp_path


def _answer(monkeypatch: pytest.MonkeyPatch, answers: dict[str, type[OSError]]) -> None:
    """Have hosts answer a connection, by an error that is a refusal or silence, and all others not."""

    def connect(address: tuple[str, int], _: float) -> None:
        raise answers.get(address[0], TimeoutError)

    monkeypatch.setattr("socket.create_connection", connect)


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("host", ["database-mainpc", "witness"])
def test_a_machine_that_answers_is_not_off(
    host: str, said: bool, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its database, or its witness, or a port that refuses; whatever a person says."""
    _answer(monkeypatch, {host: ConnectionRefusedError})
    with pytest.raises(SystemExit, match=f"{host} refuses a connection at port .*the other machine is on"):
        may_promote("database-pc2", THERE, other_is_off=said)
    assert not (volume / "PROMOTED").exists()


def test_one_that_starts_meanwhile_is_not_off(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It may have asked this one before there was a note to see."""
    looks = iter([TimeoutError, TimeoutError, ConnectionRefusedError])

    def connect(*_: object) -> None:
        raise next(looks)

    monkeypatch.setattr("socket.create_connection", connect)
    with pytest.raises(SystemExit, match="the other machine is on"):
        may_promote("database-pc2", THERE, other_is_off=True)
    assert not (volume / "PROMOTED").exists()


def test_silence_is_no_proof_of_death(volume: Path) -> None:
    """A person has to say it, and is told since when nothing was heard."""
    with pytest.raises(SystemExit, match=r"which a cut link looks like too.*Tue Dec  1 17:08:21 2026"):
        may_promote("database-pc2", THERE, other_is_off=False)
    assert not (volume / "PROMOTED").exists()
    may_promote("database-pc2", THERE, other_is_off=True)
    assert (volume / "PROMOTED").exists()


@pytest.mark.parametrize("state", ["catchingup", "wait_standby", "demoted", "draining", "in no known state"])
def test_one_that_lacks_changes_is_not_promoted(state: str, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_heard", lambda: (state, ""))
    with pytest.raises(SystemExit, match="it had not all that database-mainpc has acknowledged"):
        may_promote("database-pc2", THERE, other_is_off=True)
    assert not (volume / "PROMOTED").exists()


@pytest.mark.parametrize("witness", [Witness(), HERE])
def test_a_witness_that_decides_leaves_nothing_to_promote(witness: Witness, volume: Path) -> None:
    with pytest.raises(SystemExit, match="by itself"):
        may_promote("database-mainpc", witness, other_is_off=True)
    assert not (volume / "PROMOTED").exists()


def test_one_that_was_replaced_is_not_promoted(volume: Path) -> None:
    """It waits for the other one, whose copy it is to be."""
    (volume / "WAITING").touch()
    with pytest.raises(SystemExit, match="database-mainpc was promoted, and this database lacks"):
        may_promote("database-pc2", THERE, other_is_off=True)
    assert not (volume / "PROMOTED").exists()


def test_a_word_is_void_where_the_other_has_come_back(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (volume / "PROMOTED").touch()
    (volume / "CREATED").write_text("192.0.2.10")
    _answer(monkeypatch, {"database-mainpc": ConnectionRefusedError})
    monkeypatch.setattr(run, "_look", lambda _: Seen(takes_writes=True, witness="192.0.2.10", promoted=False))
    monkeypatch.setattr(run, "_promote", lambda: pytest.fail("it was promoted"))
    waits: list[str] = []

    def wait(why: str) -> None:
        waits.append(why)
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "_wait", wait)
    with pytest.raises(KeyboardInterrupt):
        settle("database-pc2", Witness(5433, "192.0.2.20", here=True))
    assert "another witness, at 192.0.2.10" in waits[0]
    assert not (volume / "PROMOTED").exists()


@pytest.mark.parametrize(
    ("lines", "standby", "unshared"),
    [
        ("synchronous_standby_names = 'ANY 1 (pgautofailover_standby_2)'\n", False, False),
        ("synchronous_standby_names = ''\n", False, True),
        ("", False, True),
        ("synchronous_standby_names = ''\n", True, False),
    ],
)
def test_who_acknowledged_alone_knows_it(lines: str, standby: bool, unshared: bool, volume: Path) -> None:
    """A standby, and one that waited for its standby, have no change that the other one lacks."""
    (volume / "DATA").mkdir()
    (volume / "DATA/postgresql.auto.conf").write_text(lines)
    if standby:
        (volume / "DATA/standby.signal").touch()
    assert run.unshared() is unshared


@pytest.mark.parametrize("followed", [True, False])
def test_a_copy_is_made_by_who_was_replaced(followed: bool, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that the other still knows keeps its data: only the address of the witness is another one."""
    (volume / "DATA").mkdir()
    (volume / "DATA/standby.signal").touch()
    (volume / "keeper").mkdir()
    (volume / "CREATED").write_text("192.0.2.20")
    before = set(volume.rglob("*"))
    seen = Seen(takes_writes=True, witness="192.0.2.10", promoted=False, followed=followed)
    monkeypatch.setattr(run, "_look", lambda _: seen)
    settle("database-pc2", THERE)
    assert set(volume.rglob("*")) == (before if followed else set())


def test_tables_wait_for_a_node_that_is_being_made(volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server runs meanwhile too, and ends then."""
    waits: list[float] = []

    def sleep(seconds: float) -> None:
        waits.append(seconds)
        (volume / "CREATED").write_text("192.0.2.10" if len(waits) > 1 else "192.0.2.20")

    monkeypatch.setattr("time.sleep", sleep)
    answered = subprocess.CompletedProcess((), 0, b"t\n")
    monkeypatch.setattr("subprocess.run", lambda *_, **__: answered)
    run.update_tables(THERE, "SELECT")
    assert len(waits) == 2


@pytest.mark.parametrize("follows", [True, False])
def test_tables_are_what_a_newer_version_gives(follows: bool, volume: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container that runs has those of its own version; the node that follows gets them from the other one."""
    (volume / "CREATED").write_text("192.0.2.10")
    given: list[str] = []

    def answer(*_: object, **named: str) -> "subprocess.CompletedProcess[bytes]":
        given.extend([named["input"]] if "input" in named else [])
        return subprocess.CompletedProcess((), 0, b"t\n" if follows else b"f\n")

    monkeypatch.setattr("subprocess.run", answer)
    run.update_tables(THERE, "ALTER TABLE")
    assert given == ([] if follows else ["ALTER TABLE"])
    with pytest.raises(SystemExit, match=r"update_tables\.sh"):
        run.update_tables(THERE, "")


@pytest.mark.parametrize(
    ("witness", "stays", "copied", "follows", "said"),
    [
        (HERE, "t", "t", "f", "that one has to leave first"),
        (HERE, "f", "f", "f", None),
        (THERE, "t", "t", "f", None),
        (THERE, "t", "f", "f", "alone has what was committed last"),
        (THERE, "t", "f", "t", None),
        (THIRD, "t", "f", "f", "alone has what was committed last"),
        (THIRD, "f", "f", "f", None),
    ],
)
def test_what_the_other_machine_needs_does_not_leave(
    witness: Witness, stays: str, copied: str, follows: str, said: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The witness of two machines leaves last, and a database only where the other one has each commit."""
    monkeypatch.setattr(run, "_write", lambda *_: f"{stays}|{copied}")
    monkeypatch.setattr(run, "_answer", lambda _: follows)
    if said is None:
        may_leave("SystemDigitalTwin", witness)
        return
    with pytest.raises(SystemExit, match=said):
        may_leave("SystemDigitalTwin", witness)


def test_a_new_witness_has_to_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "_answer", lambda *_: "")
    monkeypatch.setattr(run, "ANSWERS_FIRST_S", 0.0)
    monkeypatch.setattr("time.sleep", lambda _: None)
    with pytest.raises(SystemExit, match="the witness does not answer: run make up-ha on its machine"):
        run.join_witness("database-pc2", THIRD)
