"""What `doctor --intruder` can't play from outside: keys that were good once, files of keys, and a store that fails."""

import os
import resource
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from twinhost.adversary.attack import Attack, AttackedAgent, AttackOutcome, breached, defended
from twinhost.adversary.clients import CurveClient, Refused
from twinhost.adversary.zmtp import Disconnected, NoAnswer
from twinhost.secure_zmq.client import Client
from twinhost.secure_zmq.errors import StoreUnavailable, TwinhostError
from twinhost.secure_zmq.key_writer import render_certificate, write_revocation
from twinhost.secure_zmq.keys import CLOCK_TOLERANCE_S, UNLIMITED, KeyOwner, KeyPair, Validity

SEEN_WITHIN_S = 5.0  # a change of the folders; promised is one second
CLOSED_WITHIN_S = 2.0  # a live session of an expired key; promised is one second
_LIVES_S = 2  # the expiring key
_WRITES_FAIL_S = 1.0
_HUGE_BYTES = 1 << 34


@dataclass(frozen=True, slots=True)
class Inside:
    """Where mainpc's files are, and its process."""

    enrolled: Path
    pid: int


def attacks(inside: Inside) -> tuple[Attack, ...]:
    return (
        Attack("revoked key", "it gets in no more, and its session is closed", lambda at: _revoked(inside, at)),
        Attack("expired key", "it gets in no more, and its session is closed", lambda at: _expired(inside, at)),
        Attack("malformed key files", "a bad file lets nobody in and keeps nobody out", lambda at: _files(inside, at)),
        Attack("a store that fails", "what could not be stored is not confirmed", lambda at: _store(inside, at)),
    )


def _revoked(inside: Inside, target: AttackedAgent) -> AttackOutcome:
    with _let_in(inside, UNLIMITED) as pair:
        return _ends(target, pair, lambda: write_revocation(pair.certificate, inside.enrolled.parent / "revoked"))


def _expired(inside: Inside, target: AttackedAgent) -> AttackOutcome:
    over_at = int(time.time()) - CLOCK_TOLERANCE_S + _LIVES_S
    with _let_in(inside, Validity(not_after=over_at)) as pair:
        return _ends(target, pair, lambda: time.sleep(max(0.0, over_at + CLOCK_TOLERANCE_S - time.time())))


def _ends(target: AttackedAgent, pair: KeyPair, withdraw: Callable[[], object]) -> AttackOutcome:
    """Have a session with an authorised key, withdraw the key, and see the session closed and the next one refused."""
    session = _session(target, pair, time.monotonic() + SEEN_WITHIN_S)
    if session is None:
        return breached("a key that is good was not let in, so nothing is proven")
    with session:
        session.call("ping")
        withdraw()
        _, over = session.connection.read_to_end(CLOSED_WITHIN_S + 1.0)
    if not over:
        return breached(f"its live session was not closed within {CLOSED_WITHIN_S:g} s")
    with suppress(Disconnected, Refused, NoAnswer), _client(target, pair) as again:
        again.handshake()
        return breached("it got a session again")
    return defended("its live session was closed, and it got no other")


def _files(inside: Inside, target: AttackedAgent) -> AttackOutcome:
    good = render_certificate(KeyPair.generate(_owner("misfiled")).certificate)
    bad = {
        "cut.key": good[: len(good) // 2].encode(),
        "bytes.key": os.urandom(2_000),
        "secret.key": good.encode() + b'    secret-key = "' + b"a" * 40 + b'"\n',
        "empty.key": b"",
    }
    links = {"link.key": "/dev/zero", "loop.key": "loop.key"}
    made = [inside.enrolled / name for name in (*bad, *links, "folder.key", "huge.key", "pipe.key")]
    try:
        for name, content in bad.items():
            (inside.enrolled / name).write_bytes(content)
        for name, to in links.items():
            (inside.enrolled / name).symlink_to(to)
        (inside.enrolled / "folder.key").mkdir()
        (inside.enrolled / "huge.key").touch()
        os.truncate(inside.enrolled / "huge.key", _HUGE_BYTES)  # a hole: nothing is written that others would wait for
        os.mkfifo(inside.enrolled / "pipe.key")
        (inside.enrolled / "cut.key").chmod(0o000)
        with _let_in(inside, UNLIMITED) as pair:  # which is seen by the same look as they
            session = _session(target, pair, time.monotonic() + SEEN_WITHIN_S)
            if session is None:
                return breached("beside bad files a good one was not seen")
            session.connection.close()
    finally:
        for path in made:
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)
    return defended(f"beside {len(made)} bad files a good one was seen")


def _store(inside: Inside, target: AttackedAgent) -> AttackOutcome:
    """Let no file grow: a change is refused as not stored, reading goes on, and with the space changes come back."""
    assert target.own_keys is not None
    own = target.own_keys.certificate.owner.name
    with target.client() as client:
        client.call("register_agent", agent_name=own, status="HEALTHY")
        confirmed = False
        resource.prlimit(inside.pid, resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))
        try:
            until = time.monotonic() + _WRITES_FAIL_S
            while time.monotonic() < until and not confirmed:
                with suppress(StoreUnavailable):
                    client.call("register_agent", agent_name=own, status="HEALTHY")
                    confirmed = True
                client.call("get_agent_endpoint", agent_name=target.agent.name)
        finally:
            resource.prlimit(inside.pid, resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        if confirmed:
            return breached("a change was confirmed that could not be stored")
        return (
            defended("changes were refused, and reading went on")
            if _stores(client, own)
            else breached("none came back")
        )


def _stores(client: Client, own: str) -> bool:
    until = time.monotonic() + SEEN_WITHIN_S
    while time.monotonic() < until:
        with suppress(TwinhostError):
            client.call("register_agent", agent_name=own, status="HEALTHY")
            return True
        time.sleep(0.1)
    return False


@contextmanager
def _let_in(inside: Inside, validity: Validity) -> Iterator[KeyPair]:
    """Enrol a key of its own for the block."""
    pair = KeyPair.generate(_owner(f"guest-{time.monotonic_ns()}"), validity)
    path = inside.enrolled / f"{pair.certificate.owner.name}.key"
    draft = path.with_suffix(".draft")
    draft.write_text(render_certificate(pair.certificate))
    draft.rename(path)
    try:
        yield pair
    finally:
        path.unlink(missing_ok=True)


def _session(target: AttackedAgent, pair: KeyPair, until: float) -> CurveClient | None:
    """Return a session with the key as soon as it is accepted; None where it never was."""
    while time.monotonic() < until:
        with suppress(Disconnected), ExitStack() as ends:  # a connection may end while it is made
            client = ends.enter_context(_client(target, pair))
            with suppress(Refused, NoAnswer):
                client.handshake()
                ends.pop_all()
                return client
        time.sleep(0.02)
    return None


def _client(target: AttackedAgent, pair: KeyPair) -> CurveClient:
    assert target.pin is not None
    return CurveClient(target.connect(), pair, target.pin, target.properties)


def _owner(name: str) -> KeyOwner:
    return KeyOwner(name, "pc2", frozenset({"agent"}))
