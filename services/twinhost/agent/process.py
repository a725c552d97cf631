"""One agent as one process: start in the safe order, serve on the main thread, stop when told.

Nothing is bound before the settings, the keys, and the store are in order. A thread that
dies takes the process with it, and the engine's restart policy brings a whole one back.
"""

import functools
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from types import MappingProxyType

import structlog

from twinhost.agent.assembly import Assembly, Companion, Foundation, Publisher
from twinhost.agent.common_actions import HealthActions, OperatorActions
from twinhost.agent.gauges import Gauges
from twinhost.agent.grants_watch import GrantsWatch
from twinhost.agent.health import Health
from twinhost.agent.healthcheck import note_port
from twinhost.agent.host_keys import HostKeys
from twinhost.agent.http import HttpServer
from twinhost.agent.listening import Vital, listen
from twinhost.agent.logs import configure_logging
from twinhost.agent.settings import Settings, load_settings
from twinhost.agent.start_again import StartAgain
from twinhost.agent.telemetry import Telemetry
from twinhost.secure_zmq.callers import Grants
from twinhost.secure_zmq.dispatch import Counters, Dispatcher
from twinhost.secure_zmq.errors import ConfigurationError, SocketMisuse, StoreUnavailable
from twinhost.secure_zmq.handshakes import Handshakes
from twinhost.secure_zmq.keys import KeyPair
from twinhost.secure_zmq.server import Server
from twinhost.store import set_aside
from twinhost.store.damage import make_way, require_whole
from twinhost.store.database import Database
from twinhost.store.reply_log import SCHEMA as REPLY_LOG_SCHEMA
from twinhost.store.reply_log import ReplyLog
from twinhost.store.restoring import require_no_restore
from twinhost.store.sole_user import hold

_log = structlog.get_logger(__name__)

_STORE_RETRY_S = 1.0  # how often a store that failed is tried again


def run_agent(
    name: str,
    migrations: Sequence[str],
    assemble: Callable[[Foundation], Assembly],
    *,
    set_aside_damage: bool = False,
    rebuilds: Mapping[str, str] = MappingProxyType({}),
) -> int:
    """Run an agent until SIGTERM or SIGINT; return the process's exit status.

    Args:
        name: the agent's name in the network configuration.
        migrations: its tables, as `Database` takes them; those of the stored replies come first.
        assemble: builds its actions.
        set_aside_damage: put a staged backup in place, and serve with an empty database where the one there is can't
            be read; without it a damaged one stops the start.
        rebuilds: with `set_aside_damage`, how a broken full-text index is made anew, as `make_way` takes it.
    """
    configure_logging(name)
    told_to_stop = threading.Event()
    _on_signal(told_to_stop.set)
    with ExitStack() as stack:
        try:
            server = _prepare(name, migrations, assemble, rebuilds if set_aside_damage else None, stack)
        except (ConfigurationError, SocketMisuse, StoreUnavailable) as error:
            print(f"{name} does not start: {error}", file=sys.stderr)  # noqa: T201 - one sentence for a person
            return ConfigurationError.EXIT_STATUS
        _on_signal(server.stop)
        if told_to_stop.is_set():  # while it was being prepared
            server.stop()
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


def _prepare(
    name: str,
    migrations: Sequence[str],
    assemble: Callable[[Foundation], Assembly],
    rebuilds: Mapping[str, str] | None,  # None: a damaged database stops the start
    stack: ExitStack,
) -> Server:
    settings = load_settings(name)
    database, replies = _open_store(settings, migrations, rebuilds, stack)
    health = Health(name, settings.secure)
    keys = HostKeys(settings)
    handshakes = Handshakes()
    counters = Counters()
    publisher = Publisher()
    telemetry = Telemetry(name)
    assembly = assemble(Foundation(settings, database, keys, handshakes, health, counters, publisher, telemetry))
    stack.callback(assembly.on_stop)
    grants = Grants(settings.config.grants)
    grants_watch = GrantsWatch(settings.config.source, grants, assembly.on_grants)
    health.warn(lambda: [grants_watch.fault] if grants_watch.fault else [])
    health.warn(keys.warnings)
    documents = assembly.health or HealthActions(health.document)
    http = HttpServer(
        settings.agent.http_port, documents.document, telemetry.render, assembly.routes, settings.http_hosts
    )
    stack.callback(http.stop)
    vital: Vital = {}
    listening = listen(settings, keys, grants, handshakes, health, vital, stack)
    feed = listening.feed
    server_socket = listening.requests
    dispatcher = Dispatcher(
        [
            *assembly.actions,
            *documents.actions(),
            *OperatorActions(keys.peers, server_socket.sessions, handshakes, assembly.success).actions(),
        ],
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
    )
    gauges = Gauges(settings.secure, database, handshakes, keys.peers, server_socket.sessions, health)
    companions: list[Companion] = [http, grants_watch, *([feed] if feed else []), *assembly.companions]
    for companion in companions:
        vital[type(companion).__name__] = functools.partial(getattr, companion, "responsive")

    def change_key(pair: KeyPair) -> None:
        server.request_rekey(pair)
        if feed is not None:
            feed.request_rekey(pair)

    def on_tick() -> None:
        keys.tell_of_ends()
        telemetry.gather(gauges.read)
        assembly.on_tick()

    opened_with = settings.certificates.own_keys if settings.certificates else None
    tick = _housekeeping(database, replies, on_tick, vital, _own_key_follower(keys, opened_with, change_key))
    server = Server(server_socket, dispatcher, tick)
    gauges.follow(server.take_longest_turn_s)
    health.add("socket_loop", lambda: None if server.responsive else "no turn within 5 s", essential=True)
    health.add("store", lambda: database.fault, essential=True)
    if rebuilds is not None:
        health.add("store_damage", lambda: set_aside.told(database.path), essential=False)
    if feed is not None:
        publisher.bind(feed)
    for companion in companions:
        companion.start()
    for companion in companions[1:]:
        stack.callback(companion.stop)
    try:
        note_port(settings.state, name, settings.agent.zmq_port)
    except OSError as error:
        raise StoreUnavailable(f"{settings.state} can't be written ({error}); free space on the volume") from None
    _log.info("serving", address=server_socket.address, http_port=settings.agent.http_port, secure=settings.secure)
    return server


def _open_store(
    settings: Settings, migrations: Sequence[str], rebuilds: Mapping[str, str] | None, stack: ExitStack
) -> tuple[Database, ReplyLog]:
    """Open the agent's database, which is its alone for as long as it runs."""
    name, limits = settings.agent.name, settings.config.limits
    stack.callback(hold(settings.state / f"{name}.lock"))
    require_no_restore(settings.state)
    path, schema = settings.state / f"{name}.sqlite3", [REPLY_LOG_SCHEMA, *migrations]
    if rebuilds is not None:
        make_way(path, rebuilds, len(schema))
    else:
        require_whole(path)
    database = Database(path, schema)
    stack.callback(database.close)
    return database, ReplyLog(database, limits.stored_replies_s, limits.stored_replies_per_caller)


def _housekeeping(
    database: Database,
    replies: ReplyLog,
    on_tick: Callable[[], None],
    vital: Vital,
    follow_own_key: Callable[[], None],
) -> Callable[[], None]:
    store_due = 0.0

    def tick() -> None:
        nonlocal store_due
        for what, lives in vital.items():
            if not lives():
                raise RuntimeError(f"{what} died; the process ends so that it is started whole")
        follow_own_key()
        try:
            on_tick()
            if database.fault is not None:
                if time.monotonic() < store_due:
                    return
                store_due = time.monotonic() + _STORE_RETRY_S
                _write_again(database)
            replies.forget_old()
        except StoreUnavailable as error:
            _log.error("housekeeping_not_stored", reason=str(error))

    return tick


def _own_key_follower(
    keys: HostKeys, opened_with: KeyPair | None, change_key: Callable[[KeyPair], None]
) -> Callable[[], None]:
    """Return what lets the server change to this host's other pair, once a rotation has put it in place."""
    in_use = opened_with  # and not what lies there by now: it may have changed since the socket was opened

    def follow() -> None:
        nonlocal in_use
        if keys.own is not None and keys.own() != in_use:
            in_use = keys.own()
            change_key(in_use)

    return follow


def _write_again(database: Database) -> None:
    """Write the schema's version in its own place: where nobody else writes, health would stay red for ever."""
    (version,) = database.execute("PRAGMA user_version").fetchone()
    with database.transaction():
        database.execute(f"PRAGMA user_version = {version}")
