"""An agent with a standby: whichever process holds the epoch is the agent, and the other one follows its log.

Only an agent with a log loads this: see `store.replication.replica`.
"""

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from html import escape
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import structlog
from starlette.requests import Request
from starlette.responses import HTMLResponse
from starlette.routing import Route

from twinhost.agent.assembly import Followed
from twinhost.agent.disk import volume_of
from twinhost.agent.followed_files import FollowedFiles
from twinhost.agent.health import RoleDocument
from twinhost.agent.host_metrics import HostSample
from twinhost.agent.host_sampler import HostSampler, SamplerThread
from twinhost.agent.http import HttpServer
from twinhost.agent.log_watch import role_metrics
from twinhost.agent.machine import Machine
from twinhost.agent.self_check import INTERVAL_S, HealthyFile
from twinhost.agent.settings import Settings
from twinhost.agent.telemetry import Telemetry
from twinhost.deployment import REGISTRY_AGENT
from twinhost.moments import SYSTEM_CLOCK, iso_time
from twinhost.network_config import Agent
from twinhost.network_config.load import DATABASE_VARIABLE, process_name
from twinhost.secure_zmq.errors import ConfigurationError, SocketMisuse
from twinhost.store.backup import STAGED
from twinhost.store.damage import require_undamaged
from twinhost.store.files import part
from twinhost.store.replication.epochs import Candidate, Epoch
from twinhost.store.replication.looks import LOOK_EVERY_S, SILENT_AFTER_S, Difference, copies, written
from twinhost.store.replication.postgres import Connect, Databases, Log, OutcomeUnknown, verified, witness_fault
from twinhost.store.replication.replica import Active, Before, Replica, always, monotonic, stand_by
from twinhost.store.replication.snapshots import nothing_beside
from twinhost.store.replication.statements import Entry

_log = structlog.get_logger(__name__)

V = TypeVar("V")


def become_active(
    settings: Settings, path: Path, newest: int, followed: Followed, stop: threading.Event
) -> Active | None:
    """Follow the agent's log until this process is the active one; None if `stop` was set before.

    Args:
        path: the database file.
        newest: the schema version that this program knows.
        followed: what it needs besides the log.
        stop: ends the wait.

    Raises:
        ConfigurationError: the DSN, the log, or the file can't be used.
    """
    dsn = settings.database
    assert dsn is not None
    try:
        verified(dsn)
    except ConfigurationError as error:
        raise ConfigurationError(f"{DATABASE_VARIABLE} can't be used: {error}") from None
    candidate = Candidate(process_name(), manual=settings.config.failover == "manual")

    def watch(follower: Log) -> None:
        """Count the time in which no beat was added while no database takes writes, too: the next one has them all."""
        candidate.saw(follower.look(), monotonic())

    connect = Databases(dsn, settings.agent.name, watch)
    try:
        return _followed_until_active(settings, path, newest, followed, candidate, connect, stop)
    except ConfigurationError as error:
        with suppress(OutcomeUnknown), closing(connect()) as log:  # so that the active process can say it
            log.give_up(process_name(), str(error))
        raise


def _followed_until_active(
    settings: Settings,
    path: Path,
    newest: int,
    followed: Followed,
    candidate: Candidate,
    connect: Connect,
    stop: threading.Event,
) -> Active | None:
    name = settings.agent.name
    if part(path, STAGED).exists():
        raise ConfigurationError(
            f"a restored backup waits beside {path}, which the log would not have; start once without "
            f"{DATABASE_VARIABLE} (make leave-ha), and begin another log in an empty database (make up-ha)"
        )
    require_undamaged(path)
    keys = None if settings.certificates is None else FollowedFiles(name, followed.places(settings), settings.live.load)
    beside = followed.beside or nothing_beside
    replica = Replica(path, followed.functions, newest, _before(settings, followed, keys), beside)
    seen, well = Seen(), _well(name)

    def on_look(log: Log) -> None:
        well()
        seen.look_around(log)

    try:
        if keys is not None:
            keys.begin(path)
            replica.on_join = keys.join
        with _shown(settings, replica, seen, keys), _measured(settings) as metrics:
            look = seen.before(always if keys is None else keys.may_claim)
            differences = at_intervals(lambda: _differences(settings, keys))
            active = stand_by(
                replica,
                candidate,
                connect,
                stop,
                may_claim=look,
                on_look=on_look,
                on_connect=_first_look,
                said=lambda: written(differences(), metrics()),
            )
    finally:
        replica.close()  # so that it leaves no write-ahead log, under which a copy of another file would be read
    if active is not None and keys is not None:
        try:
            keys.begin(path)
            keys.take_over(replica.log, active.tenure.number)
        except BaseException:
            active.release()
            raise
    return active


def _differences(settings: Settings, keys: FollowedFiles | None) -> dict[Difference, str]:
    differences = {} if keys is None else keys.differences()
    with suppress(OSError):
        if full := volume_of(settings.state, settings.config.limits.disk_reserve_bytes).fault(settings.state):
            differences[Difference.SPACE] = full
    return differences


@contextmanager
def _measured(settings: Settings) -> Iterator[Callable[[], str]]:
    """Measure the agent's own host, as the active process does there; yield what returns the newest sample as JSON."""
    if settings.place != settings.agent.host.name:
        yield str
        return
    newest = ""

    def take(sample: HostSample) -> None:
        nonlocal newest
        newest = msgspec.json.encode(sample).decode()

    sampler = HostSampler(machine=Machine(settings.disks))
    thread = SamplerThread(settings.config.limits.metrics_interval_s, take, sampler)
    thread.start()
    try:
        yield lambda: "" if thread.fault else newest
    finally:
        thread.stop()


def _before(settings: Settings, followed: Followed, keys: FollowedFiles | None) -> Before:
    """Return what writes all files that a transaction changes."""
    writers = [] if followed.files is None else [followed.files(settings.state)]
    if keys is not None:
        writers.append(keys.write)

    def write(replica: sqlite3.Connection, entry: Entry) -> None:
        for writer in writers:
            writer(replica, entry)

    return write


def _well(agent_name: str) -> Callable[[], None]:
    """Return what shows the engine's health check that this process follows, as often as the active one shows it."""
    file = HealthyFile(agent_name)
    return at_intervals(lambda: file.show(None))


def at_intervals(call: Callable[[], V]) -> Callable[[], V]:
    """Return what calls a function every INTERVAL_S at most, and has its last value meanwhile."""
    due, value = 0.0, call()

    def newest() -> V:
        nonlocal due, value
        if (now := SYSTEM_CLOCK.monotonic()) >= due:
            due, value = now + INTERVAL_S, call()
        return value

    return newest


@dataclass
class Seen:
    """The epoch, and the databases that take writes, as they were seen last."""

    epoch: Epoch | None = None
    since: str = ""  # when this epoch was seen first; `or before` where it was there at the first look
    copies: int | None = None  # databases that have each commit; None where only their service knows
    witness: str | None = None  # where it is, if the databases have one
    looked_at: float = float("-inf")  # when these two were read, monotonic

    @property
    def is_recent(self) -> bool:
        """Whether a database that takes writes was reached in the last seconds."""
        return monotonic() - self.looked_at < SILENT_AFTER_S

    def before(self, may_claim: Callable[[Epoch], bool]) -> Callable[[Epoch], bool]:
        """Return what keeps an epoch, and then asks whether it may be claimed."""

        def look(epoch: Epoch) -> bool:
            if self.epoch is None or self.epoch.number != epoch.number:
                self.since = iso_time(SYSTEM_CLOCK.time()) + (" or before" if self.epoch is None else "")
            self.epoch = epoch
            return may_claim(epoch)

        return look

    def look_around(self, log: Log) -> None:
        """Look at the databases too, every LOOK_EVERY_S."""
        if (now := monotonic()) - self.looked_at >= LOOK_EVERY_S:
            look = log.look_around()
            self.witness, self.copies = look.witness, copies(look.synchronous, whole=look.witness is not None)
            self.looked_at = now


@contextmanager
def _shown(settings: Settings, replica: Replica, seen: "Seen", keys: FollowedFiles | None) -> Iterator[None]:
    """Answer over HTTP that this process stands by, on the port that the agent will have."""
    agent, since = settings.agent, iso_time(SYSTEM_CLOCK.time())

    def document() -> dict[str, Any]:
        role: RoleDocument = {
            "role": "standby",
            "since": since,
            "holder": seen.epoch.holder or None if seen.epoch else None,
            "transactions": replica.applied,
            "copies": seen.copies if seen.is_recent else None,
        }
        now = iso_time(SYSTEM_CLOCK.time())
        return {
            "status": "standby",
            "ready": False,
            "agent": agent.name,
            "timestamp": now,
            "warnings": [] if keys is None else keys.warnings(),
            "log": role,
        }

    def page(_: Request) -> HTMLResponse:
        automatic = settings.config.failover == "automatic"
        ask = partial(witness_fault, seen.witness or "", settings.database or "")
        return HTMLResponse(standby_page(agent, seen, replica.applied, ask, automatic=automatic))

    telemetry = Telemetry(agent.name)
    telemetry.register(lambda: role_metrics(active=False, transactions=replica.applied))
    try:
        http = HttpServer(
            agent.http_port, document, telemetry.render, [Route("/", page)], settings.http_hosts, settings.address
        )
    except SocketMisuse as error:  # as where both processes are on one machine
        _log.warning("standby_not_shown", reason=str(error))
        yield
        return
    http.start()
    try:
        yield
    finally:
        http.stop()


def standby_page(
    agent: Agent, seen: Seen, applied: int, witness_fault: Callable[[], str | None], *, automatic: bool
) -> str:
    """Return the page of a standby: which machine is active, and where to look there; and what there is of the log.

    Args:
        agent: of which this process stands by.
        seen: what it has seen of the log and of the databases.
        applied: how many transactions it has.
        witness_fault: asks the witness, and returns why it does not answer.
        automatic: whether it takes over by itself.
    """
    epoch = seen.epoch
    if epoch is None or not epoch.holder:
        active = f"No machine is active as {agent.name} now."
    else:
        holder = escape(epoch.holder)
        where = f"the address that <code>docker compose port {holder} {agent.http_port}</code> prints"
        if epoch.holder == agent.host.name:
            address = f"http://localhost:{agent.http_port}/{'' if agent.name == REGISTRY_AGENT else 'healthz'}"
            where = f'<a href="{address}">{address}</a>'
        since = f"since {escape(seen.since)} (epoch {epoch.number})"
        active = f"{agent.name} is active on <b>{holder}</b> {since}: on its machine, look at {where}."
    behind = 0 if epoch is None else max(0, epoch.durable - applied)
    count = "1 transaction" if behind == 1 else f"{behind} transactions"
    then = "when that one falls silent" if automatic else "when somebody promotes it"
    return (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{agent.name}: standby</title>"
        f"<p>{active} This process stands by, {count} behind, and takes over {then}.</p>"
        f"<p>{_said_of_databases(seen, witness_fault)}</p></html>\n"
    )


def _said_of_databases(seen: Seen, witness_fault: Callable[[], str | None]) -> str:
    if not seen.is_recent:
        return "No database that takes writes is reached now."
    said = "The service of the databases knows how many copies there are."
    if seen.copies is not None:
        said = f"{seen.copies} copies of each change."
    if seen.copies == 1:
        said = '<b style="color:#b3261e">1 copy</b> of each change: one database alone has the newest ones.'
    if seen.witness is not None:
        fault = witness_fault()
        said += " The witness answers." if fault is None else f" The witness does not answer: {escape(fault)}."
    return said


def _first_look(log: Log) -> None:
    """Say who is active; make the table if it is missing, which a role may not that can do no more than it must."""
    try:
        epoch = log.look()
    except OutcomeUnknown:
        log.create()
        epoch = log.look()
    _log.info("standing_by", epoch=epoch.number, active=epoch.holder)
