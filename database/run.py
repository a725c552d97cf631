#!/usr/bin/env python3
"""The database of a failover: two nodes that have each commit, a witness that says which takes writes, and their keys.

pg_auto_failover makes them and keeps them; this gives it what it starts from. Each part is a container of its own,
which may be killed and started again at any moment.
"""

import fcntl
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

WITNESS = "witness"
NODES = ("database-mainpc", "database-pc2")
AGENTS = ("mainpc", "pc2")
HOLDERS = {"mainpc": ("database-mainpc", "mainpc"), "pc2": ("database-pc2", "pc2"), "witness": (WITNESS,)}  # by machine
DATABASE = ROLE = "twinhost"

HOME = Path("/var/lib/postgresql")  # the volume
DATA = HOME / "data"
CREATED = HOME / "created"  # has the address of the witness that knows this node, if two machines have no third
BEGUN = HOME / "begun"  # the data is of a creation that has not ended, so nothing was acknowledged on it
GIVEN_UP = HOME / "given-up"  # data that is being deleted, before a copy of the other node is made
PROMOTED = HOME / "promote"  # an operator has said that the other machine is off; the next start takes writes alone
KEEPER = (HOME / ".config/pg_autoctl", HOME / ".local/share/pg_autoctl")  # which witness it knows, and its state
RUN = Path("/run/postgresql")  # the socket, and what is written at each start; postgresql.conf includes settings.conf
CERTIFICATES = Path("/certificates")
WAITING = RUN / "waiting"  # no server is started yet
PROGRAMS = Path("/usr/lib/postgresql/17/bin")
RUN_SERVER = ("pg_autoctl", "run", "--pgdata", str(DATA))
GUARD = DATA / "recovery.signal"  # a server that finds it without standby.signal does not start
TABLES = Path(__file__).with_name("tables.sql")

KEYS_DAYS = 3_650
MAX_KEYS_BYTES = 65_536
UNHEALTHY_S = 5  # a node of which the witness hears nothing for this long may be gone
DEMOTE_S = 4  # a primary that may be gone has this long to say that it takes no writes, before another one does
PARTITION_S = 5  # a primary that reaches neither the witness nor its standby takes no writes after this
CUT_OFF_S = 4.0  # a node that does not reach the other one for this long stops, if the other one takes writes
FORMED_S = 180
ANSWERS_FIRST_S = 30.0  # a witness that is being made
OTHER_IS_OFF = "--other-machine-is-off"
ANSWERS_S = 2.0
LOOK_S = 1.0
SAY_EVERY_S = 30.0
PORT = 5432
# It had each change that the other one acknowledged, when it last heard of its witness.
COMPLETE = ("secondary", "prepare_promotion", "stop_replication", "primary", "wait_primary", "single", "demote_timeout")
RESERVE_BYTES = 32 * 1_048_576  # two files of PostgreSQL's log
_SET_BACK_S = 1.0  # no more than this is made up for by the times that the witness waits
# Of a node that still runs, the next report has the time that it is.
_FORGET_THE_FUTURE = "UPDATE pgautofailover.node SET reporttime = now() WHERE reporttime > now()"
# The other node has each commit, and can take writes: this one takes them and waits for that one, or follows it.
_SPARE = "SELECT pg_is_in_recovery() OR EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'))"
# The witness has heard within some seconds from the other node, which takes writes.
_TAKES_WRITES = (
    "SELECT EXISTS (SELECT FROM pgautofailover.node WHERE nodename = '{}' AND goalstate IN ('primary', 'wait_primary') "
    "AND reportedpgisrunning AND reporttime > now() - interval '{} s')"
)
_HEARD_S = CUT_OFF_S / 2  # after a node has died, the witness has not heard from it for as long as the other one
# Else a node that is cut off amid a report waits for its reply for as long as the cut, and meanwhile takes writes.
_GIVES_UP = "connect_timeout=2&tcp_user_timeout=2000&keepalives_idle=1&keepalives_interval=1&keepalives_count=1"
_NO_NOTICES = "--client-min-messages=warning"  # that something is there already

_REQUEST = "[req]\ndistinguished_name = name\n[name]\n"  # Debian's own makes every certificate a CA's
_NEW_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-noenc", "-days", str(KEYS_DAYS))
_VALID_BEFORE_S = 86_400  # its making, for a machine whose clock is late
# Both are there, each has reached the state that it was told to reach, and commits are on both. What they reported
# before the witness was started says nothing of nodes that were stopped with it.
_FORMED = (
    "SELECT count(*) = 2 AND bool_and(reportedstate = goalstate) AND bool_or(goalstate = 'primary') "
    "AND bool_or(goalstate = 'secondary') "
    "AND bool_and(reportedpgisrunning AND reporttime > pg_postmaster_start_time()) FROM pgautofailover.node"
)
_UNMADE = ("init", "wait_standby")
_FOLLOWING = {"secondary", "catchingup"}
_STATUS, _STARTED = 7, ("ready", "standby")  # a line of postmaster.pid, and what it says of a server that has started
_KNOWN = "SELECT coalesce(json_object_agg(nodename, nodeid), '{}') FROM pgautofailover.node"
_REPORTS = "SELECT reportedlsn <> '0/0' FROM pgautofailover.node WHERE nodename = '{}'"
# For a node that was registered and has no record of it. Who waits for that one begins again, too.
_FORGET_UNMADE = (
    "SELECT count(pgautofailover.remove_node(nodeid, true)) FROM pgautofailover.node "
    "WHERE reportedstate IN ('init', 'wait_standby')"
)
# For a node whose volume was lost: the other one takes writes, and has all that was acknowledged.
_FORGET_LOST = (
    "SELECT count(pgautofailover.remove_node(nodeid, true)) FROM pgautofailover.node WHERE nodename = '{}' AND EXISTS "
    "(SELECT FROM pgautofailover.node other WHERE other.nodename = '{}' AND other.reportedstate = other.goalstate "
    "AND other.goalstate IN ('wait_primary', 'primary', 'single'))"
)
# Whether another machine has not left yet, and whether the other node has each commit.
_STAYS = """
SELECT EXISTS (SELECT FROM epochs WHERE agent <> :'agent' AND log <> ''),
    EXISTS (SELECT FROM pg_stat_replication WHERE sync_state IN ('sync', 'quorum'));
"""
# Shows who is active, and then deletes nothing.
_FORGET = """
WITH gone AS (DELETE FROM epochs WHERE agent = :'agent' AND holder = '' RETURNING agent),
    a AS (DELETE FROM commits USING gone WHERE commits.agent = gone.agent),
    b AS (DELETE FROM snapshots USING gone WHERE snapshots.agent = gone.agent),
    c AS (DELETE FROM standbys USING gone WHERE standbys.agent = gone.agent)
SELECT holder FROM epochs WHERE agent = :'agent' AND holder <> '';
"""


@dataclass(frozen=True)
class Witness:
    """Where the witness is. Of two machines without a third, it is on the one that goes on when the other is off."""

    port: int = PORT
    at: str = ""  # the address of its machine, if that is one of two
    here: bool = False  # on this one of two

    @classmethod
    def of(cls, environment: "os._Environ[str] | dict[str, str]") -> "Witness":
        """Return what `docker-compose.yml` gives a part."""
        if not (port := environment.get("WITNESS_PORT")):
            return cls()
        return cls(int(port), environment["WITNESS_IP"], bool(environment.get("WITNESS_HERE")))


@dataclass(frozen=True)
class Seen:
    """What the other node has answered."""

    takes_writes: bool
    witness: str  # the address of the one that it has
    promoted: bool  # it is about to take writes, by an operator's word
    followed: bool = False  # it knows a node that follows it, which one that was promoted by hand does not

    @property
    def replaces(self) -> bool:
        """Return whether it takes writes without knowing this node. If it does, only an address is another one."""
        return self.takes_writes and not self.followed


def settings(name: str, witness: Witness = Witness()) -> str:
    """Return what a server has otherwise than PostgreSQL and pg_auto_failover would set it."""
    lines = {
        "hba_file": f"'{RUN}/pg_hba.conf'",
        "ident_file": f"'{RUN}/pg_ident.conf'",
        "ssl_min_protocol_version": "'TLSv1.3'",
        "shared_buffers": "32MB",
        "max_connections": "50",
        "maintenance_work_mem": "32MB",
        "max_wal_size": "256MB",
        "wal_keep_size": "256MB",  # for pg_rewind; pg_auto_failover takes 8 GB of a large disk
        # A file for each day of the week, so that logs do not fill the volume.
        "log_filename": "'%a.log'",
        "log_truncate_on_rotation": "on",
        "log_rotation_size": "0",
    }
    if name == WITNESS:
        lines["pgautofailover.node_considered_unhealthy_timeout"] = f"{UNHEALTHY_S}s"
        lines["pgautofailover.primary_demote_timeout"] = f"{DEMOTE_S}s"
        # A node whose machine is off or frozen refuses nothing. By default it is asked three times, for 5 s each; here
        # it takes hardly longer than the time that it may be silent, which has to have passed, too.
        lines["pgautofailover.health_check_period"] = "1s"
        lines["pgautofailover.health_check_timeout"] = "2s"
        lines["pgautofailover.health_check_max_retries"] = "1"
        lines["pgautofailover.health_check_retry_delay"] = "500ms"
    else:
        lines["synchronous_commit"] = "on"
        lines["wal_sender_timeout"] = "4s"  # a standby that is cut off stops no commit for longer
        port = "" if witness.port == PORT else f":{witness.port}"
        lines["twinhost.witness"] = f"'{WITNESS}{port}'"  # the agents ask whether it answers
        if witness.at:
            lines["twinhost.witness_at"] = f"'{witness.at}'"  # the other node asks which witness this one has
        lines["max_slot_wal_keep_size"] = "2GB"  # what is kept for one that is away; after more it needs a whole copy
    return "".join(f"{setting} = {value}\n" for setting, value in lines.items())


def access(name: str, *, made: bool = True) -> str:
    """Return pg_hba.conf: who may connect as what; over TCP, only with TLS and a certificate whose name is mapped."""
    if name == WITNESS:
        # One that is being made is stopped in between, with whatever a node has half registered there.
        remote = [("pg_auto_failover", "autoctl_node", "nodes")] if made else []
    else:
        remote = [
            (DATABASE, ROLE, "agents"),
            # postgres is pg_rewind's: without it, a node that comes back needs a whole copy.
            (f"replication,{DATABASE},postgres", "pgautofailover_replicator", "nodes"),
            ("postgres", "pgautofailover_monitor", "nodes"),
        ]
    lines = [f"hostssl {database} {role} all cert map={names}\n" for database, role, names in remote]
    return "".join(["local all all peer map=here\n", *lines])


def names() -> str:
    """Return pg_ident.conf: which certificate is good for which role."""
    lines = ["here postgres all\n", f"nodes {WITNESS} pgautofailover_monitor\n"]
    lines += [f"nodes {node} {role}\n" for node in NODES for role in ("autoctl_node", "pgautofailover_replicator")]
    lines += [f"agents {agent} {ROLE}\n" for agent in AGENTS]
    return "".join(lines)


def creation(name: str, witness: Witness = Witness()) -> list[str]:
    """Return the command that makes a server and has the witness know it."""
    command = ["pg_autoctl", "create", "monitor" if name == WITNESS else "postgres", "--skip-pg-hba"]
    command += ["--pgdata", str(DATA), "--pgctl", str(PROGRAMS / "pg_ctl"), "--hostname", name]
    command += ["--ssl-mode", "verify-full", "--ssl-ca-file", str(CERTIFICATES / "ca.crt")]
    command += ["--server-cert", str(CERTIFICATES / "node.crt"), "--server-key", str(CERTIFICATES / "node.key")]
    if name == WITNESS:
        command += ["--pgport", str(witness.port)]
    else:
        command += ["--name", name, "--dbname", DATABASE, "--monitor", _monitor(witness)]
    return command


def _monitor(witness: Witness) -> str:
    verified = f"sslmode=verify-full&sslrootcert={CERTIFICATES}/ca.crt"
    return f"postgres://autoctl_node@{WITNESS}:{witness.port}/pg_auto_failover?{verified}&{_GIVES_UP}"


def make_keys(folder: Path) -> list[str]:
    """Make the CA and the certificates that are missing, each in a folder of its own; return their names.

    A server's is good for both ends of a connection, an agent's for the client's alone: it can't pose as a server.
    """
    authority = folder / "ca"
    missing = [name for name in ("ca", WITNESS, *NODES, *AGENTS) if not (folder / name).exists()]
    for name in missing:
        if name == "ca":
            limits = ["basicConstraints=critical,CA:TRUE,pathlen:0", "keyUsage=critical,keyCertSign"]
            _certify(authority, "ca", "twinhost database", limits)
            continue
        limits = ["basicConstraints=critical,CA:FALSE", "keyUsage=critical,digitalSignature"]
        if name in AGENTS:
            _certify(folder / name, "agent", name, [*limits, "extendedKeyUsage=clientAuth"], authority)
        else:
            limits += ["extendedKeyUsage=serverAuth,clientAuth", f"subjectAltName=DNS:{name}"]
            _certify(folder / name, "node", name, limits, authority)
    return missing


def keys_for(folder: Path, machine: str) -> dict[str, dict[str, str]]:
    """Return the files of each folder that another machine needs, by folder; they are made if they are missing."""
    make_keys(folder)
    return {
        name: {path.name: path.read_text("ascii") for path in sorted((folder / name).iterdir())}
        for name in holders(machine)
    }


def take_keys(folder: Path, machine: str, text: str) -> list[str]:
    """Write the folders that mainpc's machine made for this one, and return their names; none is overwritten.

    One that is there with the same keys stays; one with others stays too, and then nothing is written.
    """
    wanted = {name: _files_of(name) for name in holders(machine)}
    try:
        given: dict[str, dict[str, str]] = json.loads(text)
        fit = {name: set(files) for name, files in given.items()} == wanted
        texts = all(isinstance(content, str) for files in given.values() for content in files.values())
    except (ValueError, AttributeError, TypeError):
        fit = texts = False
    if not (fit and texts):
        sys.exit(f"error: these are not the keys of {machine}, so nothing was written.")
    new = {}
    for name, files in given.items():
        if not (folder / name).exists():
            new[name] = files
        elif any((folder / name / file).read_text("ascii") != content for file, content in files.items()):
            sys.exit(
                f"error: this machine has other keys of {name}, of another database, so nothing was written; their "
                "volume is database-certificates."
            )
    for name, files in new.items():
        with tempfile.TemporaryDirectory(dir=folder, prefix=".making-") as temporary:
            draft = Path(temporary, name)
            draft.mkdir(mode=0o700)
            for file, content in files.items():
                (draft / file).write_text(content, "ascii")
            draft.rename(folder / name)
    return list(new)


def holders(machine: str) -> tuple[str, ...]:
    """Return the folders of a machine's parts; of two machines without a third, either one may have the witness."""
    either = (WITNESS,) if Witness.of(os.environ).at and machine != WITNESS else ()
    return (*HOLDERS[machine], *either)


def _files_of(name: str) -> set[str]:
    stem = "agent" if name in AGENTS else "node"
    return {"ca.crt", f"{stem}.crt", f"{stem}.key"}


def require_keys(folder: Path, machine: str) -> None:
    """Fail where this machine has not got its keys yet, which are made on mainpc's."""
    if missing := [name for name in holders(machine) if not (folder / name).exists()]:
        sys.exit(
            f"error: {machine} has no keys of the database ({', '.join(missing)}), which are made on mainpc's machine. "
            f"Run there: make -s ha-keys FOR={machine} | ssh {machine} make -C twinhost/ join-ha"
        )


def _certify(folder: Path, stem: str, common_name: str, limits: list[str], authority: Path | None = None) -> None:
    """Make a folder with a key, its certificate, and the CA's: whole or not at all."""
    since = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() - _VALID_BEFORE_S))
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".making-") as temporary:
        new = Path(temporary, folder.name)
        new.mkdir(mode=0o700)
        request = Path(temporary, "request.conf")
        request.write_text(_REQUEST)
        command = ["openssl", "req", "-x509", "-config", str(request), *_NEW_KEY, "-not_before", since]
        command += ["-subj", f"/CN={common_name}"]
        command += ["-keyout", str(new / f"{stem}.key"), "-out", str(new / f"{stem}.crt")]
        for limit in limits:
            command += ["-addext", limit]
        if authority is not None:
            command += ["-CA", str(authority / "ca.crt"), "-CAkey", str(authority / "ca.key")]
            (new / "ca.crt").write_bytes((authority / "ca.crt").read_bytes())
        subprocess.run(command, check=True, capture_output=True)
        new.rename(folder)


def serve(name: str, witness: Witness) -> None:
    """Make a server unless it was made, and run it."""
    _take(HOME / "lock")
    lets_in = access(name, made=CREATED.exists())
    for file, content in (("settings", settings(name, witness)), ("pg_hba", lets_in), ("pg_ident", names())):
        (RUN / f"{file}.conf").write_text(content)
    (DATA / "postmaster.pid").unlink(missing_ok=True)  # of a container that was killed; the pid is another's here
    if name != WITNESS and witness.at and CREATED.exists():
        settle(name, witness)
    if not CREATED.exists():
        create(name, witness)
        (RUN / "pg_hba.conf").write_text(access(name))
        if name != WITNESS:
            if not (DATA / "standby.signal").exists():
                _make_tables()
            partition = ("timeout.network_partition_timeout", str(PARTITION_S))
            subprocess.run(["pg_autoctl", "config", "set", "--pgdata", str(DATA), *partition], check=True)
    if name != WITNESS:
        require_space()
        _know_witness(witness)
    BEGUN.unlink(missing_ok=True)
    CREATED.write_text(witness.at, "ascii")
    if name == WITNESS:
        if not os.fork():
            _restart_if_set_back(os.getppid())
        os.execvp(RUN_SERVER[0], RUN_SERVER)
    _run_while_of_use(name, witness)


def _know_witness(witness: Witness) -> None:
    """Have a node that was made by an earlier version reach its witness as one that is made now."""
    for file in KEEPER[0].rglob("pg_autoctl.cfg"):
        made = re.sub(r"(?m)^(monitor = )postgres://.*$", rf"\g<1>{_monitor(witness)}", file.read_text("ascii"))
        draft = file.with_suffix(".new")
        draft.write_text(made, "ascii")
        draft.replace(file)


def create(name: str, witness: Witness) -> None:
    """Make a server and have the witness know it, however often a kill, or the witness's end, breaks that off."""
    if not DATA.exists():
        BEGUN.touch()
    while subprocess.run(creation(name, witness), check=False).returncode:
        if name == WITNESS:
            _delete(DATA, *KEEPER)  # it lets nobody in before it is made, so it knows nobody
        elif _made_after_all(name, witness):
            break
        time.sleep(LOOK_S)


def _made_after_all(name: str, witness: Witness) -> bool:
    """Return whether a node is made although the last try failed; if not, delete what the next one can't go on from."""
    if not (known := _answer(_KNOWN, _monitor(witness))):
        return False
    number, state = json.loads(known).get(name), _state()
    if number is not None and number == state.get("nodeId"):
        if state["current_role"] not in _UNMADE:
            for file in KEEPER[1].rglob("*.init"):
                file.unlink()
            return True
    elif number is None or _answer(_FORGET_UNMADE, _monitor(witness)):
        _delete(*KEEPER)
        if number is not None and BEGUN.exists():
            _answer(_FORGET_LOST.format(name, _other(name)), _monitor(witness))
    else:
        return False
    if BEGUN.exists():
        _delete(DATA)
    return False


def settle(name: str, witness: Witness) -> None:
    """Return once this node, of two machines without a third, takes no writes that the other one takes too.

    The one beside the witness would be made the primary although the other one was promoted by hand meanwhile. So it
    waits for the other's answer, or for an operator's word; the other one never goes on without either.
    """
    other = _other(name)
    moved = CREATED.read_text("ascii") not in ("", witness.at)
    while True:
        if PROMOTED.exists() and not _answering(other, witness):
            if moved:
                _promote()
            PROMOTED.unlink()
            break
        PROMOTED.unlink(missing_ok=True)
        seen = _look(other)
        if (why := obstacle(name, witness, seen, moved=moved, alone=unshared())) is None:
            if moved and seen is not None and seen.replaces:
                _give_up_data()
            break
        _wait(why)
    WAITING.unlink(missing_ok=True)


def obstacle(name: str, witness: Witness, seen: Seen | None, *, moved: bool, alone: bool) -> str | None:
    """Return why a node of two machines without a third can't start now; None if it can.

    Args:
        seen: what the other one has answered, None if nothing.
        moved: another witness knows this node than the present one.
        alone: it has changes that the other one may lack.
    """
    other = _other(name)
    if not (witness.here or moved):
        return None
    if seen is None:
        return (
            f"{other} does not answer, and may have been promoted meanwhile. Start its machine; or, if that is off and "
            f"was not promoted: ./twinhost promote database {OTHER_IS_OFF}"
        )
    if seen.promoted:
        return f"{other} is being promoted by an operator."
    if seen.witness != witness.at:
        return (
            f"{other} has another witness, at {seen.witness}, since it was promoted. Write WITNESS_IP={seen.witness} "
            "into .env here, and run make up-ha: this database then becomes a copy of that one."
        )
    if moved and seen.replaces and alone:
        return (
            f"it has acknowledged changes alone, which {other} may lack. To give these up and be its copy, delete "
            "this machine's volumes of the database and of both agents' state, and run make up-ha."
        )
    return None


def may_promote(name: str, witness: Witness, *, other_is_off: bool) -> None:
    """Note that the other machine is off, for the next start; refuse it while that may not be so."""
    if not witness.at:
        sys.exit(
            "error [conflict]: the witness of this deployment is on a machine of its own, and promotes a database by "
            "itself: start it there (docs/how-to/run-with-standbys.md)."
        )
    other = _other(name)
    if witness.here and not WAITING.exists():
        sys.exit(
            "error [conflict]: the witness is on this machine, so this database takes writes by itself: "
            "docker compose exec witness pg_autoctl show state says how far it is."
        )
    if WAITING.exists() and not witness.here:
        sys.exit(f"error [conflict]: {other} was promoted, and this database lacks what that one has: start it.")
    _refuse_while_it_answers(other, witness)
    state, heard = _heard()
    if not witness.here and state not in COMPLETE:
        sys.exit(
            f"error [conflict]: this database is {state}, so it had not all that {other} has "
            "acknowledged: start the other machine."
        )
    if not other_is_off:
        sys.exit(
            f"error [conflict]: {other} does not answer, which a cut link looks like too. If its machine runs, both "
            "take writes, and what one of them has acknowledged is lost later. This database last heard of the witness "
            f"at {heard}: what the other one acknowledged alone after that is only there. Switch that machine off, and "
            f"say so: ./twinhost promote database {OTHER_IS_OFF}"
        )
    PROMOTED.touch()
    try:
        _refuse_while_it_answers(other, witness)  # a machine that started meanwhile, before it could see the note
    except SystemExit:
        PROMOTED.unlink()
        raise


def _refuse_while_it_answers(other: str, witness: Witness) -> None:
    if answering := _answering(other, witness):
        sys.exit(
            f"error [conflict]: {answering}, so the other machine is on. Two databases would take writes: "
            "switch that machine off first, or start its part there: make up-ha"
        )


def _answering(other: str, witness: Witness) -> str:
    """Return what of the other machine answers, a refusal too; empty if nothing does."""
    return _answers(other, PORT) or ("" if witness.here else _answers(WITNESS, witness.port))


def _answers(host: str, port: int) -> str:
    """Return how a host answers; empty if it does not, or one end hears nothing of the other."""
    try:
        socket.create_connection((host, port), ANSWERS_S).close()
    except ConnectionRefusedError:
        return f"{host} refuses a connection at port {port}"
    except OSError:
        return ""
    return f"{host} answers at port {port}"


def _other(name: str) -> str:
    return next(node for node in NODES if node != name)


def _look(other: str) -> Seen | None:
    sql = (
        "SELECT NOT pg_is_in_recovery(), coalesce(current_setting('twinhost.witness_at', true), ''), "
        "(pg_stat_file(:'note', true)).size IS NOT NULL, EXISTS (SELECT FROM pg_replication_slots)"
    )
    dsn = f"host={other} dbname=postgres user=pgautofailover_replicator connect_timeout={ANSWERS_S:.0f}"
    command = (
        "psql",
        "--no-psqlrc",
        "--tuples-only",
        "--no-align",
        "--set=ON_ERROR_STOP=1",
        f"--set=note={PROMOTED}",
        dsn,
    )
    try:
        done = subprocess.run(command, input=sql, capture_output=True, text=True, check=True, timeout=3 * ANSWERS_S)
    except (subprocess.TimeoutExpired, subprocess.CalledProcessError):
        return None
    takes_writes, witness, promoted, followed = done.stdout.strip().split("|")
    return Seen(takes_writes == "t", witness, promoted == "t", followed == "t")


def _heard() -> tuple[str, str]:
    """Return the state that the witness has given this node last, and when it was heard of last."""
    state = _state()
    heard = state.get("last_monitor_contact", "an unknown time")
    return str(state.get("assigned_role", "in no known state")), str(heard)


def _state() -> dict[str, object]:
    """Return what this node has recorded of itself; nothing if it has no record."""
    command = ("pg_autoctl", "do", "fsm", "state")
    done = subprocess.run(command, capture_output=True, check=False, env={**os.environ, "PG_AUTOCTL_DEBUG": "1"})
    try:
        return dict(json.loads(done.stdout)["state"])
    except (ValueError, KeyError):
        return {}


def _wait(why: str) -> None:
    """Say why no server is started, again every half a minute, and wait a moment."""
    told = WAITING.exists() and WAITING.read_text("ascii") == why
    if not (told and time.time() - WAITING.stat().st_mtime < SAY_EVERY_S):
        WAITING.write_text(why, "ascii")
        sys.stderr.write(f"This database takes no writes yet: {why}\n")
    time.sleep(LOOK_S)


def _promote() -> None:
    """Have this node take writes alone; another witness gets to know it then. Begun again, it comes to the same."""
    _delete(*KEEPER)
    control = (PROGRAMS / "pg_ctl", "--pgdata", DATA, "--wait", "--silent")
    subprocess.run((*control, "--options", "-c listen_addresses=''", "start"), check=True)
    if (DATA / "standby.signal").exists():
        subprocess.run((*control, "promote"), check=True)
    for sql in (
        "ALTER SYSTEM RESET synchronous_standby_names",
        "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots",
    ):
        subprocess.run(("psql", "--no-psqlrc", "--quiet", "--command", sql, "postgres"), check=True)
    subprocess.run((*control, "--mode", "fast", "stop"), check=True)
    CREATED.unlink()


def unshared() -> bool:
    """Return whether this node, when it stopped, acknowledged changes that the other one did not have."""
    if not DATA.exists() or (DATA / "standby.signal").exists():
        return False
    lines = (DATA / "postgresql.auto.conf").read_text("utf-8").splitlines()
    names = [line.partition("=")[2].strip(" '") for line in lines if line.startswith("synchronous_standby_names")]
    return not (names and names[-1])


def _give_up_data() -> None:
    """Delete what this node has, so that it begins with a copy of the other one."""
    if DATA.exists():
        DATA.rename(GIVEN_UP)
    _delete(GIVEN_UP, *KEEPER)
    CREATED.unlink()


def _delete(*folders: Path) -> None:
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)


def require_space() -> None:
    """Fail where the volume is full: a server there would take the writes back, and could keep none."""
    if (free := _free_bytes()) < RESERVE_BYTES:
        sizes = f"{free >> 20} MB are free, and {RESERVE_BYTES >> 20} needed"
        sys.exit(f"error: the volume of this node is full ({sizes}): free space on it.")


def _free_bytes() -> int:
    volume = os.statvfs(HOME)
    return volume.f_bavail * volume.f_frsize


def _run_while_of_use(name: str, witness: Witness) -> None:
    """Run a node's server until it ends by itself, but not while no commit can use it."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    while True:
        _wait_while_cut_off(name, witness)
        server = subprocess.Popen(RUN_SERVER)
        try:
            if not _stopped(server, name, witness):
                sys.exit(server.returncode)
        finally:
            server.terminate()
            server.wait()
        _report_stopped()
        require_space()


def _stopped(server: "subprocess.Popen[bytes]", name: str, witness: Witness) -> bool:
    """Stop a server that no commit can use, but may wait for; return False once it has ended by itself.

    The witness finds nothing wrong with one whose volume is full, or that reaches the witness but not the other node.
    """
    cut_off: float | None = None  # since when
    while server.poll() is None:
        time.sleep(LOOK_S)
        _end_guard()
        looked = time.monotonic()
        if _free_bytes() < RESERVE_BYTES and _answer(_SPARE) == "t":
            why = "the volume of this node is full"
        elif _answers(_other(name), PORT):
            cut_off = None
            continue
        else:
            cut_off = looked if cut_off is None else cut_off
            if time.monotonic() - cut_off < CUT_OFF_S or not _other_takes_writes(name, witness, _HEARD_S):
                continue
            why = "this node does not reach the other one"
        sys.stderr.write(f"{why}: the other one goes on\n")
        server.send_signal(signal.SIGQUIT)  # at once: what a stop would write may have no space
        server.wait()
        return True
    return False


def guard() -> None:
    """Prepare a start of the server: one of a node that follows is never one that takes writes.

    pg_auto_failover takes `standby.signal` away for a moment before it stops a server that is to follow again. If that
    has crashed, and is started in this moment, it would take writes, and its log would no longer be the other node's.
    """
    state = _state()
    if {state.get("current_role"), state.get("assigned_role")} <= _FOLLOWING:
        GUARD.touch()
    else:
        GUARD.unlink(missing_ok=True)


def _end_guard() -> None:
    """Take the guard away once a server has started: after a promotion, the next one has to start without the other."""
    of_server = DATA / "postmaster.pid"
    with suppress(OSError, IndexError):
        since_guarded = of_server.stat().st_mtime >= GUARD.stat().st_mtime
        if since_guarded and of_server.read_text("ascii").splitlines()[_STATUS].strip() in _STARTED:
            GUARD.unlink()


def _wait_while_cut_off(name: str, witness: Witness) -> None:
    """Wait while the other node takes writes and this one does not reach it: with a server, commits would wait for it.

    Once the witness does not hear from the other one, this one may have to take its place.
    """
    while not _answers(_other(name), PORT) and _other_takes_writes(name, witness, UNHEALTHY_S):
        _report_stopped()
        time.sleep(LOOK_S)


def _report_stopped() -> None:
    """Have the witness know that no server runs here; where it does not answer, this node is silent for too long."""
    report = ("pg_autoctl", "do", "monitor", "active", "--pgdata", DATA)
    environment = {**os.environ, "PG_AUTOCTL_DEBUG": "1"}  # without it, the command does not exist
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(report, check=False, capture_output=True, env=environment, timeout=3 * ANSWERS_S)


def _other_takes_writes(name: str, witness: Witness, heard_s: float) -> bool:
    where = _monitor(witness)
    return _answer(_TAKES_WRITES.format(_other(name), heard_s), where) == "t"


def _restart_if_set_back(server: int) -> None:
    """Restart the server of a witness whose clock was set back: it compares times that it has noted with now.

    Until its clock is past them, a node would count as alive that has said so before, and no check as newer than the
    start of the server. pg_autoctl starts what has stopped.
    """
    ahead = time.time() - time.monotonic()
    while os.getppid() == server:
        time.sleep(LOOK_S)
        before, ahead = ahead, time.time() - time.monotonic()
        if ahead < before - _SET_BACK_S:
            sys.stderr.write(f"the clock was set back by {before - ahead:.0f} s: the server starts again\n")
            _answer(_FORGET_THE_FUTURE, "pg_auto_failover")
            stop = (PROGRAMS / "pg_ctl", "--pgdata", DATA, "--mode", "fast", "--silent", "stop")
            subprocess.run(stop, check=False)
    os._exit(0)


def _answer(sql: str, where: str = DATABASE) -> str:
    """Return what a server says, by default that of this container; empty where it does not."""
    ask = ("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--command", sql, where)
    try:
        done = subprocess.run(ask, capture_output=True, text=True, check=False, timeout=3 * ANSWERS_S)
    except subprocess.TimeoutExpired:
        return ""
    return done.stdout.strip()


def _take(path: Path) -> None:
    """Keep a lock until the last process of this container has ended: two servers on one volume would destroy it."""
    lock = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit(f"error: another container uses this volume ({path} is locked): stop that one first.")
    os.set_inheritable(lock, True)  # noqa: FBT003 - it takes no keyword


def _make_tables() -> None:
    """Make them before the server takes connections."""
    server = (PROGRAMS / "postgres", "--single", "-j", "-D", DATA, "-c", "exit_on_error=true", DATABASE)
    with TABLES.open("rb") as tables:
        subprocess.run(server, check=True, stdin=tables, stdout=subprocess.DEVNULL)


def update_tables(witness: Witness, tables: str) -> None:
    """Make what a newer version has more of, on the node that takes writes; the other one gets it from there.

    Args:
        tables: the statements of that version, which may be newer than this container's.
    """
    if not tables:
        sys.exit("error: the statements are read from standard input (scripts/setup/update_tables.sh).")
    ask = ("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1", DATABASE)
    until = time.monotonic() + FORMED_S
    while True:  # a server runs meanwhile also while a node is made, and ends then
        made = CREATED.exists() and CREATED.read_text("ascii") == witness.at
        follows = subprocess.run((*ask, "--command", "SELECT pg_is_in_recovery()"), check=False, capture_output=True)
        if (made and follows.returncode == 0) or time.monotonic() > until:
            break
        time.sleep(LOOK_S)
    follows.check_returncode()
    if follows.stdout.strip() == b"f":
        subprocess.run(ask, check=True, input=tables, text=True, env={**os.environ, "PGOPTIONS": _NO_NOTICES})


def join_witness(name: str, witness: Witness) -> None:
    """Have a new witness know this node, in place of one that was lost; first the node that takes writes."""
    until = time.monotonic() + ANSWERS_FIRST_S
    while not (known := _answer(_KNOWN, _monitor(witness))):
        if time.monotonic() > until:
            sys.exit("error: the witness does not answer: run make up-ha on its machine, and this again.")
        time.sleep(LOOK_S)
    if name in (nodes := json.loads(known)):
        return
    if _other(name) not in nodes and _answer("SELECT pg_is_in_recovery()") != "f":
        sys.exit(f"error: this database takes no writes, so the new witness has to know {_other(name)} first.")
    # It asks the new one to forget what that does not know, and shows bytes of no text.
    subprocess.run(("pg_autoctl", "disable", "monitor", "--pgdata", DATA, "--force"), check=False, capture_output=True)
    time.sleep(2 * LOOK_S)  # a node that reads its configuration misses the signal to read it again
    subprocess.run(("pg_autoctl", "enable", "monitor", "--pgdata", DATA, _monitor(witness)), check=True)
    while _answer(_REPORTS.format(name), _monitor(witness)) != "t":
        subprocess.run(("pg_autoctl", "reload", "--pgdata", DATA), check=False, capture_output=True)
        time.sleep(LOOK_S)


def may_leave(agent: str, witness: Witness) -> None:
    """Fail where the other machine has not left, and needs what is on this one alone: its witness, or commits."""
    stays, copied = _write(agent, _STAYS).split("|")
    if stays == "t" and witness.here:
        sys.exit(
            "error: the witness of the other machine's database is on this one, so that one has to leave first: run "
            "make leave-ha there, and here again."
        )
    if stays == "t" and copied == "f" and _answer("SELECT pg_is_in_recovery()") == "f":
        sys.exit(
            "error: this machine's database alone has what was committed last, and the other machine has not left: run "
            "this again once ./twinhost status says that there are 2 copies."
        )


def forget(agent: str, witness: Witness) -> None:
    """Delete an agent's log, on whichever node takes writes, unless a process is active.

    No standby becomes active without it: its folder of keys says that it only followed.
    """
    may_leave(agent, witness)
    if holder := _write(agent, _FORGET):
        sys.exit(f"error: {agent} is active on {holder}, so its log stays.")


def _write(agent: str, sql: str) -> str:
    """Return what the node that takes writes says of an agent."""
    dsn = f"host={','.join(NODES)} dbname={DATABASE} user=pgautofailover_replicator target_session_attrs=read-write"
    ask = ("psql", "--no-psqlrc", "--quiet", "--tuples-only", "--no-align", "--set", "ON_ERROR_STOP=1")
    command = (*ask, "--set", f"agent={agent}", f"{dsn} connect_timeout=3")
    return subprocess.run(command, input=sql, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()


def wait_until_formed() -> None:
    """Wait, on the witness, until each commit is on both nodes."""
    until = time.monotonic() + FORMED_S
    ask = ("psql", "--no-psqlrc", "--tuples-only", "--no-align", "--command", _FORMED, "pg_auto_failover")
    while time.monotonic() < until:
        if subprocess.run(ask, capture_output=True, text=True, check=False).stdout.strip() == "t":
            return
        time.sleep(0.5)
    sys.exit(f"error: the two nodes are not a pair after {FORMED_S} s; their logs say why.")


def keys(command: list[str], machine: str) -> None:
    """Make or take the keys of this machine, or make another's; `machine` is empty where all are one."""
    if machine not in ("", *HOLDERS):
        sys.exit(f"error: TWINHOST_HOST is {machine!r}; set it to one of {', '.join(HOLDERS)} in .env.")
    match command:
        case [] if machine in ("", "mainpc"):
            sys.stdout.writelines(f"created {name}\n" for name in make_keys(CERTIFICATES))
        case []:
            require_keys(CERTIFICATES, machine)
        case ["for", other] if machine == "mainpc" and other in HOLDERS and other != machine:
            json.dump(keys_for(CERTIFICATES, other), sys.stdout)
        case ["take"] if machine in HOLDERS and machine != "mainpc":
            text = sys.stdin.read(MAX_KEYS_BYTES)
            sys.stdout.writelines(f"took {name}\n" for name in take_keys(CERTIFICATES, machine, text))
        case _:
            sys.exit("usage: keys | keys for pc2 | keys for witness, on mainpc; keys take, on these two")


def main(command: list[str]) -> None:
    """Do what the container is for."""
    os.umask(0o077)
    match command:
        case ["keys", *rest]:
            keys(rest, os.environ.get("TWINHOST_HOST", ""))
        case ["serve"]:
            serve(socket.gethostname(), Witness.of(os.environ))
        case ["guard"]:
            guard()
        case ["promote", *word] if word in ([], [OTHER_IS_OFF]):
            may_promote(socket.gethostname(), Witness.of(os.environ), other_is_off=bool(word))
        case ["formed"]:
            wait_until_formed()
        case ["tables"]:
            update_tables(Witness.of(os.environ), sys.stdin.read())
        case ["join-witness"]:
            join_witness(socket.gethostname(), Witness.of(os.environ))
        case ["may-leave", agent]:
            may_leave(agent, Witness.of(os.environ))
        case ["forget", agent]:
            forget(agent, Witness.of(os.environ))
        case _:
            words = f"serve | promote [{OTHER_IS_OFF}] | formed | tables | join-witness"
            sys.exit(f"usage: run.py keys | {words} | may-leave AGENT | forget AGENT")


if __name__ == "__main__":
    main(sys.argv[1:])
