"""One agent as one process: start in the safe order, serve on the main thread, stop on a signal.

Nothing is bound before the settings, the keys and the store are validated. If a thread dies, the process ends,
and the engine's restart policy starts it again.
"""

import functools
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING

import structlog
import zmq

from twinhost import heap
from twinhost.agent.assembly import Assembly, Companion, Followed, Foundation, Publisher, StartAgain
from twinhost.agent.conditions import KEY_EXPIRY
from twinhost.agent.disk import Disk, budget_warnings
from twinhost.agent.followed_files import LoggedFiles
from twinhost.agent.health import Health, HealthActions, OperatorActions
from twinhost.agent.healthcheck import write_port
from twinhost.agent.host_keys import HostKeys
from twinhost.agent.http import HttpServer
from twinhost.agent.keys_seen import SEEN_FILE, KeysSeen
from twinhost.agent.live_config import ConfigWatch
from twinhost.agent.log_lines import configure_logging, log_level
from twinhost.agent.schema import SchemaActions
from twinhost.agent.self_check import SelfCheck
from twinhost.agent.settings import Settings, load_settings
from twinhost.agent.subscriptions import SubscriptionActions
from twinhost.agent.telemetry import AgentState, Telemetry
from twinhost.agent.troubles import SERVICES
from twinhost.certificates.following import ROLE_FILE, active_elsewhere
from twinhost.commands import CERTS_INIT
from twinhost.core_dumps import forbid_core_dumps
from twinhost.deployment import hosts_own
from twinhost.moments import SYSTEM_CLOCK, Clock
from twinhost.network_config import Limits
from twinhost.network_config.load import DATABASE_VARIABLE
from twinhost.secure_zmq.actions import Feature
from twinhost.secure_zmq.answer_log import LoggingDispatcher
from twinhost.secure_zmq.authenticator import Authenticator
from twinhost.secure_zmq.bound_socket import (
    ServerSocket,
    open_feed_socket,
    open_server_socket,
    open_unencrypted_feed_socket,
    open_unencrypted_server_socket,
)
from twinhost.secure_zmq.budgets import Budgets, Usage
from twinhost.secure_zmq.callers import Grants
from twinhost.secure_zmq.certificates import load_certificates
from twinhost.secure_zmq.connections import SessionLimits, require_open_files
from twinhost.secure_zmq.dispatch import Counters, Dispatcher
from twinhost.secure_zmq.errors import ConfigurationError, SocketMisuse, StoreUnavailable
from twinhost.secure_zmq.feed import MAX_EVENT_BYTES, Feed
from twinhost.secure_zmq.framing.messages import MESSAGES
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server import Server
from twinhost.secure_zmq.sessions import CallerSource, SecuredSessions
from twinhost.store.backup import prepare
from twinhost.store.damage import damage_warning, require_undamaged
from twinhost.store.database import Database
from twinhost.store.files import exclusive_lock, require_no_restore
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.store.reply_log import ReplyLog

if TYPE_CHECKING:  # it needs psycopg
    from twinhost.agent.log_watch import LogWatch
    from twinhost.store.replication.replica import Active

_log = structlog.get_logger(__name__)

_STORE_RETRY_S = 1.0  # after a store that failed
_STOOD_STILL_S = 2.5  # between two ticks; the threads that beat do so every 2 s at least

Vital = dict[str, Callable[[], bool]]  # the threads without which the process must end
_NO_REBUILDS: Mapping[str, Sequence[str]] = MappingProxyType({})
_LOG_ALONE = Followed()


class _Stopped(Exception):
    """The process was told to stop while it stood by."""


def listen(
    settings: Settings,
    keys: HostKeys,
    grants: Grants,
    handshakes: Handshakes,
    health: Health,
    vital: Vital,
    stack: ExitStack,
    session_limits: SessionLimits,
    clock: Clock,
) -> tuple[ServerSocket, Feed | None]:
    """Bind the request socket, and the event feed if there is one, in the safe order; `stack` closes them.

    Raises:
        SocketMisuse: an address can't be bound.
    """
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    stack.callback(context.term)
    agent, payload_bytes = settings.agent, settings.config.limits.max_payload_bytes
    address = settings.address or "*"
    requests_at, feed_at = f"tcp://{address}:{agent.zmq_port}", f"tcp://{address}:{agent.events_port}"
    feed_socket: ServerSocket | None = None
    if settings.certificates is None:
        _log.warning("link_open", reason="SECURE_ZMQ=0: nobody is authenticated and nothing is encrypted")
        requests = open_unencrypted_server_socket(context, requests_at, payload_bytes, handshakes)
        stack.callback(requests.close)
        if agent.events_port is not None:
            feed_socket = open_unencrypted_feed_socket(context, feed_at, MAX_EVENT_BYTES, handshakes)
    else:
        own_keys = settings.certificates.own_keys
        authenticator = _authenticate(context, keys, handshakes, health, vital, stack, session_limits)
        requests = open_server_socket(authenticator, own_keys, requests_at, payload_bytes)
        stack.callback(requests.close)
        if agent.events_port is not None:
            feed_socket = open_feed_socket(authenticator, own_keys, feed_at, MAX_EVENT_BYTES)
    feed = None
    if feed_socket is not None:
        feed = Feed(feed_socket, grants.allows_topic, clock=clock)
        grants.on_change = feed.request_review
        stack.callback(feed.stop)
    for name, bound in (("socket", requests), ("event feed", feed_socket)):
        if bound is not None:
            vital[f"the {name}'s monitor"] = functools.partial(getattr, bound.monitor, "alive")
            vital[f"the {name}'s handshake guard"] = functools.partial(getattr, bound.guard, "alive")
    return requests, feed


def _authenticate(
    context: "zmq.Context[zmq.Socket[bytes]]",
    keys: HostKeys,
    handshakes: Handshakes,
    health: Health,
    vital: Vital,
    stack: ExitStack,
    limits: SessionLimits,
) -> Authenticator:
    """Start the ZAP handler, before a socket is bound on its context."""
    peers = keys.peers
    keys.watch()
    stack.callback(peers.close)
    authenticator = Authenticator(context, peers, handshakes, limits=limits)
    stack.callback(authenticator.stop)
    vital |= {"the ZAP handler": lambda: authenticator.alive, "the watch of the key files": lambda: peers.watching}
    health.add(
        "zap_handler", lambda: None if authenticator.responsive else "the ZAP handler does not answer", essential=True
    )
    health.add("peers_watch", lambda: None if peers.watching else "the key folders are not watched", essential=False)
    return authenticator


def run_agent(
    name: str,
    migrations: Sequence[str],
    assemble: Callable[[Foundation], Assembly],
    *,
    quarantine_damage: bool = False,
    rebuilds: Mapping[str, Sequence[str]] = _NO_REBUILDS,
    followed: Followed = _LOG_ALONE,
) -> int:
    """Run an agent until SIGTERM or SIGINT; return the process's exit status.

    Args:
        name: the agent's name in the network configuration.
        migrations: its tables, as `Database` takes them; those of the stored replies come first.
        assemble: builds its actions.
        quarantine_damage: put a staged backup in place, and quarantine a damaged database and serve with an empty one;
            without it a damaged database stops the start.
        rebuilds: with `quarantine_damage`, how a damaged full-text index is rebuilt, as `prepare` takes it.
        followed: what its standby needs besides a log.
    """
    forbid_core_dumps()
    heap.begin()
    stop_requested = threading.Event()
    _on_signal(stop_requested.set)
    with ExitStack() as stack:
        try:
            level = log_level(os.environ)
            configure_logging(name, level)
            require_open_files()
            settings = load_settings(name)
            check = SelfCheck(name, settings.agent.zmq_port)
            server = prepare_agent(
                settings,
                migrations,
                assemble,
                stack,
                rebuilds if quarantine_damage else None,
                [check],
                log_answers=level == logging.DEBUG,
                followed=followed,
                stop=stop_requested,
            )
        except _Stopped:
            return 0
        except StartAgain as reason:
            print(f"{name} does not start: {reason}", file=sys.stderr)  # noqa: T201 - one sentence for a person
            return StartAgain.EXIT_STATUS
        except (ConfigurationError, SocketMisuse, StoreUnavailable) as error:
            print(f"{name} does not start: {error}", file=sys.stderr)  # noqa: T201 - one sentence for a person
            return ConfigurationError.EXIT_STATUS
        _on_signal(server.stop)
        if stop_requested.is_set():  # during the preparation
            server.stop()
        heap.set_apart()
        try:
            server.serve_forever()
        except StartAgain as reason:
            _log.warning("starting_again", reason=str(reason))
            return StartAgain.EXIT_STATUS
        _log.info("stopped")
    return 0


def _on_signal(stop: Callable[[], None]) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop())


def prepare_agent(
    settings: Settings,
    migrations: Sequence[str],
    assemble: Callable[[Foundation], Assembly],
    stack: ExitStack,
    rebuilds: Mapping[str, Sequence[str]] | None = None,
    further: Sequence[Companion] = (),
    clock: Clock = SYSTEM_CLOCK,
    *,
    log_answers: bool = False,
    followed: Followed = _LOG_ALONE,
    stop: threading.Event | None = None,
) -> Server:
    """Start an agent up to its loop, which `serve_forever()` of the result runs on the caller's thread.

    Args:
        stack: closes what was opened, in the reverse order.
        rebuilds: as `run_agent` takes them; None: a damaged database stops the start.
        further: threads besides those of the assembly.
        log_answers: log each answered request, at level debug.
        followed: as `run_agent` takes it.
        stop: ends the wait of a process that is not active.

    Raises:
        StartAgain: its log can't be reached now.
        ConfigurationError, SocketMisuse, StoreUnavailable: it can't start; the message is one sentence.
    """
    name = settings.agent.name
    database, replies, active = _open_store(settings, migrations, rebuilds, stack, clock, followed, stop)
    health = Health(name, settings.secure, clock)
    settings, keys = _host_keys(settings, followed, database, active, clock)
    handshakes, counters = Handshakes(), Counters()
    publisher, telemetry = Publisher(clock), Telemetry(name, clock)
    log = None if active is None else _watched(active, settings, health, telemetry, clock)
    budgets, usage, disk = _bounds(settings, keys, database, health)
    assembly = assemble(
        Foundation(
            settings, database, keys, handshakes, health, counters, publisher, telemetry, budgets, usage, disk, log
        )
    )
    stack.callback(assembly.on_stop)
    grants = Grants(settings.config.grants)
    config_watch = ConfigWatch(settings.live, grants, assembly.on_grants, clock)
    _warn(health, settings, config_watch, keys)
    documents = assembly.health or HealthActions(health.document, clock, usage)
    http = HttpServer(
        settings.agent.http_port,
        documents.document,
        telemetry.render,
        assembly.routes,
        settings.http_hosts,
        settings.address,
    )
    stack.callback(http.stop)
    vital: Vital = {}
    session_limits = SessionLimits(settings.config.limits.sessions_per_key)
    server_socket, feed = listen(settings, keys, grants, handshakes, health, vital, stack, session_limits, clock)
    follow_keys = _key_follower(settings, keys, server_socket.sessions, stack, clock)
    common: list[Feature] = [
        documents,
        OperatorActions(keys.peers, server_socket.sessions, handshakes, assembly.success),
        *([SubscriptionActions(grants, assembly.success)] if feed else []),
    ]
    actions = [*assembly.actions, *(offered for feature in common for offered in feature.actions())]
    actions += SchemaActions(name, lambda: actions, assembly.success).actions()
    dispatcher = (LoggingDispatcher if log_answers else Dispatcher)(
        actions,
        grants,
        database,
        replies,
        settings.config.limits.max_payload_bytes,
        translate=assembly.translate,
        sentence_fields=assembly.sentence_fields,
        counters=counters,
        on_refusal=assembly.on_refusal,
        on_answer=telemetry.answered,
        caller_named=keys.peers.caller_named,
        elsewhere=assembly.elsewhere,
        clock=clock,
        share_of=disk.share_of,
    )
    companions: list[Companion] = [
        http,
        config_watch,
        *([feed] if feed else []),
        *assembly.companions,
        *further,
        *([log] if log else []),
    ]
    vital |= {type(companion).__name__: functools.partial(getattr, companion, "responsive") for companion in companions}

    def change_key(pair: KeyPair) -> None:
        server.request_rekey(pair)
        if feed is not None:
            feed.request_rekey(pair)

    def read_state() -> AgentState:
        return AgentState(
            secure=settings.secure,
            uptime_s=health.uptime_s,
            store_bytes=database.size_bytes,
            loop_lag_s=server.take_longest_turn_s(),
            handshakes=handshakes.counts(),
            checks=health.checks(),
            peers=keys.peers.all(),
            sessions=server_socket.sessions.counts(),
            last_seen=server_socket.sessions.last_seen(),
            usage=usage.refresh(clock.monotonic()),
        )

    def on_tick() -> None:
        _give_way(active, disk, log, settings)
        _follow_limits(settings.config.limits, replies, session_limits, disk)
        follow_keys()
        with telemetry.collecting(read_state, assembly.on_collect):
            assembly.on_tick()
        keys.keep()

    opened_with = settings.certificates.own_keys if settings.certificates else None
    tick = _housekeeping(database, replies, on_tick, vital, _own_key_follower(keys, opened_with, change_key))
    server = Server(server_socket, dispatcher, tick, clock, budgets, None if active is None else active.require_held)
    _wake(keys, active, server.request_tick)
    config_watch.on_change = telemetry.readers.request_tick = server.request_tick
    _show(health, usage, server, database, quarantines=rebuilds is not None)
    publisher.feed = feed
    _write_port(settings)
    for companion in companions:
        companion.start()
    for companion in companions[1:]:
        stack.callback(companion.stop)
    _log.info(
        "serving",
        address=server_socket.address,
        http_port=settings.agent.http_port,
        secure=settings.secure,
        messages=MESSAGES,
    )
    return server


def _bounds(settings: Settings, keys: HostKeys, database: Database, health: Health) -> tuple[Budgets, Usage, Disk]:
    budgets = Budgets(lambda: settings.config.limits.budgets)
    usage = Usage(budgets, keys.peers.caller_named)
    disk = Disk(settings.state, budgets, settings.config.limits.disk_reserve_bytes, database.clock)
    disk.count(database)
    usage.register("stored_bytes", disk.stored_bytes)
    usage.register("names", disk.names)
    health.report(lambda: budget_warnings(usage.newest, settings.agent.name))
    health.add("disk", disk.fault, essential=False)
    return budgets, usage, disk


def _warn(health: Health, settings: Settings, config_watch: ConfigWatch, keys: HostKeys) -> None:
    health.warn("configuration", config_watch.warnings)
    service = hosts_own(settings.config).get(settings.agent.name)
    again = f"docker compose restart {service}" if service in SERVICES else ""  # else it is not known how it is started
    health.warn("not_applied", settings.live.warnings, again)
    health.warn(KEY_EXPIRY, keys.expiries, f"{CERTS_INIT} verify")
    health.warn("key_files", keys.faults)


def _key_follower(
    settings: Settings, keys: HostKeys, sessions: CallerSource, stack: ExitStack, clock: Clock
) -> Callable[[], None]:
    """Return a function for the tick: it logs which keys expire, and keeps when each was used."""
    if not isinstance(sessions, SecuredSessions):  # an open link
        return keys.log_expiries
    keys.peers.last_seen, keys.peers.silences = sessions.last_message_of, sessions.silences
    seen = KeysSeen(settings.state / f"{settings.agent.name}.{SEEN_FILE}", sessions, keys.peers, clock)
    stack.callback(seen.save)

    def follow() -> None:
        keys.log_expiries()
        seen.on_tick()

    return follow


def _follow_limits(limits: Limits, replies: ReplyLog, session_limits: SessionLimits, disk: Disk) -> None:
    disk.look(limits.disk_reserve_bytes)
    replies.keep(limits.stored_replies_s, limits.stored_replies_per_caller)
    session_limits.per_key = limits.sessions_per_key


def _show(health: Health, usage: Usage, server: Server, database: Database, *, quarantines: bool) -> None:
    usage.register("unsent_bytes", server.backlog.used)
    usage.register("unhandled_bytes", server.unhandled)
    health.add(
        "socket_loop",
        lambda: None if server.responsive else "the server's loop is blocked for more than 5 s",
        essential=True,
    )
    health.add("store", lambda: database.fault, essential=True)
    if quarantines:
        health.add("store_damage", lambda: damage_warning(database.path), essential=False)


def _host_keys(
    settings: Settings, followed: Followed, database: Database, active: "Active | None", clock: Clock
) -> tuple[Settings, HostKeys]:
    """Return the keys as they are now; with a log, it has them."""
    if settings.certificates is None:
        return settings, HostKeys(settings, clock)
    if active is None:
        if (other := active_elsewhere(settings.certificates.folder)) is not None:
            raise ConfigurationError(
                f"{settings.agent.name} was active on {other} last, which these files and keys follow: start it there, "
                f"or here with {DATABASE_VARIABLE}; to lose what that machine has alone, delete "
                f"{settings.certificates.folder / ROLE_FILE}"
            )
        return settings, HostKeys(settings, clock)
    now = replace(settings, certificates=load_certificates(settings.certificates.folder))  # while it stood by
    keys = HostKeys(now, clock)
    files = LoggedFiles(database, followed.places(now), lambda: keys.peers.contents, lambda: now.config)
    keys.keep, keys.keep_listed = files.keep, files.keep_listed
    files.keep()
    if (own := keys.own) is not None:
        keys.settle = lambda: files.settle(own.on_change)
    return now, keys


def _watched(active: "Active", settings: Settings, health: Health, telemetry: Telemetry, clock: Clock) -> "LogWatch":
    """Show what there is of the log."""
    from twinhost.agent.log_watch import LogWatch  # noqa: PLC0415 - only an agent with a log needs it

    watch = LogWatch(active, settings, clock)
    health.role = watch.document
    telemetry.register(watch.metrics)
    return watch


def _wake(keys: HostKeys, active: "Active | None", request_tick: Callable[[], None]) -> None:
    """Have what other threads notice be taken at once."""
    if active is not None:
        active.on_successor = request_tick
    if keys.own is not None:
        keys.own.on_change = request_tick


def _give_way(active: "Active | None", disk: Disk, log: "LogWatch | None", settings: Settings) -> None:
    """End this process, after its replies, if an operator has asked for another one to be active, or it has no space.

    Then a standby that has space goes on. With `failover: manual`, the epoch would be this process's again.
    """
    if active is not None and active.successor:
        raise StartAgain(f"{active.successor} is to be active")
    if log is not None and settings.config.failover == "automatic" and (full := disk.fault()) and log.replaceable:
        raise StartAgain(f"a standby goes on, since {full}")


def _write_port(settings: Settings) -> None:
    try:
        write_port(settings.state, settings.agent.name, settings.agent.zmq_port)
    except OSError as error:
        raise StoreUnavailable(f"{settings.state} can't be written ({error}); free space on its volume") from None


def _open_store(
    settings: Settings,
    migrations: Sequence[str],
    rebuilds: Mapping[str, Sequence[str]] | None,
    stack: ExitStack,
    clock: Clock,
    followed: Followed,
    stop: threading.Event | None,
) -> "tuple[Database, ReplyLog, Active | None]":
    """Open the agent's database, locked for as long as it runs: with a log, once this process is the active one."""
    name, limits, active = settings.agent.name, settings.config.limits, None
    stack.callback(exclusive_lock(settings.state / f"{name}.lock"))
    require_no_restore(settings.state)
    path, schema = settings.state / f"{name}.sqlite3", [REPLY_LOG_SCHEMA, *migrations]
    if settings.database is not None:
        active = _become_active(settings, path, len(schema), followed, stop or threading.Event())
        stack.callback(active.release)
        database = active.open(schema, clock)
    else:
        if rebuilds is not None:
            prepare(path, rebuilds, len(schema))
        else:
            require_undamaged(path)
        database = Database(path, schema, clock)
    stack.callback(database.close)
    return database, ReplyLog(database, limits.stored_replies_s, limits.stored_replies_per_caller), active


def _become_active(settings: Settings, path: Path, newest: int, followed: Followed, stop: threading.Event) -> "Active":
    try:
        from twinhost.agent import standby  # noqa: PLC0415 - only an agent with a log needs it, and psycopg
    except ModuleNotFoundError as error:
        raise ConfigurationError(
            f"{DATABASE_VARIABLE} is set and the module {error.name} is missing; install twinhost[postgresql]"
        ) from None
    if (active := standby.become_active(settings, path, newest, followed, stop)) is None:
        raise _Stopped
    return active


def _housekeeping(
    database: Database,
    replies: ReplyLog,
    on_tick: Callable[[], None],
    vital: Vital,
    follow_own_key: Callable[[], None],
) -> Callable[[], None]:
    store_due, freed = 0.0, heap.Heap()
    ticked = judged_from = database.clock.monotonic()

    def tick() -> None:
        nonlocal store_due, ticked, judged_from
        now = database.clock.monotonic()
        freed.on_tick(now)
        if now - ticked > _STOOD_STILL_S:  # paused, maybe: the other threads stood still as well, and go on now
            judged_from = now + _STOOD_STILL_S
        ticked = now
        for what, lives in vital.items():
            if now >= judged_from and not lives():
                raise RuntimeError(f"{what} died; the process ends, so that it is restarted completely")
        follow_own_key()
        try:
            on_tick()
            if database.fault is not None:
                if database.clock.monotonic() < store_due:
                    return
                store_due = database.clock.monotonic() + _STORE_RETRY_S
                with database.transaction():  # an empty one writes while there is a fault, and ends it
                    pass
            replies.forget_old()
        except StoreUnavailable as error:
            _log.error("housekeeping_not_stored", reason=str(error))

    return tick


def _own_key_follower(
    keys: HostKeys, opened_with: KeyPair | None, change_key: Callable[[KeyPair], None]
) -> Callable[[], None]:
    """Return a function that changes the server's key pair once a rotation has replaced it."""
    in_use = opened_with  # not the current one, which may have changed since the socket was opened

    def follow() -> None:
        nonlocal in_use
        if keys.own is not None and keys.own() != in_use:
            in_use = keys.own()
            change_key(in_use)

    return follow
