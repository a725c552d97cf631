"""What the code relies on of libzmq and pyzmq, pinned: an upgrade that changes one of these must be noticed.

Each is a hole that secure_zmq closes; it is shown open here, with bare pyzmq.
"""

from pathlib import Path

import pytest
import zmq
import zmq.auth
from zmq.auth.thread import ThreadAuthenticator

from tests.loopback.bare_zmq import Clients, Context, curve_server, endpoint, zap_handler
from tests.waiting import PATIENCE_S, wait_until
from twinhost.secure_zmq.keys import KeyPair

ZAP_ENFORCE_DOMAIN = 93
PATIENCE_MS = int(PATIENCE_S * 1_000)
NOT_SERVED_MS = 600  # long after a served client would have been
REFUSE = [b"400", b"no", b"", b""]


def test_a_curve_server_without_a_handler_serves_any_key(
    context: "Context", clients: Clients, server_keys: KeyPair, stranger_keys: KeyPair
) -> None:
    """Even with a domain set: this is why a handler runs before anything is bound."""
    server = curve_server(context, server_keys, (zmq.ZAP_DOMAIN, b"twinhost"))
    clients.curve(stranger_keys, server, server_keys)
    assert server.poll(PATIENCE_MS)


def test_an_enforced_domain_refuses_where_no_handler_answers(
    context: "Context", clients: Clients, server_keys: KeyPair, peer_keys: KeyPair
) -> None:
    """Option 93 works in the wheel."""
    options = ((zmq.ZAP_DOMAIN, b"twinhost"), (ZAP_ENFORCE_DOMAIN, 1))
    server = curve_server(context, server_keys, *options)
    clients.curve(peer_keys, server, server_keys)
    assert not server.poll(NOT_SERVED_MS)


def test_an_empty_zap_domain_skips_the_handler(
    context: "Context", clients: Clients, server_keys: KeyPair, stranger_keys: KeyPair
) -> None:
    """The domain must never be empty: this handler refuses everybody and is not asked."""
    asked = zap_handler(context, lambda _: REFUSE)
    server = curve_server(context, server_keys, (ZAP_ENFORCE_DOMAIN, 1))
    clients.curve(stranger_keys, server, server_keys)
    assert server.poll(PATIENCE_MS)
    assert not asked.is_set()


def test_a_socket_of_another_context_bypasses_the_handler(
    context: "Context", clients: Clients, server_keys: KeyPair, stranger_keys: KeyPair
) -> None:
    """This is how the original system let everyone in."""
    asked = zap_handler(clients.context, lambda _: REFUSE)
    server = curve_server(context, server_keys, (zmq.ZAP_DOMAIN, b"twinhost"))
    clients.curve(stranger_keys, server, server_keys)
    assert server.poll(PATIENCE_MS)
    assert not asked.is_set()


def test_options_after_bind_do_nothing(context: "Context", clients: Clients, server_keys: KeyPair) -> None:
    """A plain client is served by a socket that says that it is a CURVE server."""
    server = context.socket(zmq.DEALER)
    server.bind("tcp://127.0.0.1:*")
    server.curve_secretkey, server.curve_publickey = server_keys.secret_z85, server_keys.public.z85
    server.curve_server = True
    assert server.getsockopt(zmq.MECHANISM) == zmq.CURVE
    clients.plain(server)
    assert server.poll(PATIENCE_MS)


def test_a_curve_server_without_a_secret_binds_silently(context: "Context") -> None:
    """It has the all-zero key; `bind` does not complain."""
    server = context.socket(zmq.DEALER)
    server.curve_server = True
    server.bind("tcp://127.0.0.1:*")
    assert server.getsockopt(zmq.MECHANISM) == zmq.CURVE


def test_only_a_socket_in_use_has_a_last_endpoint(context: "Context") -> None:
    """`require_fresh` relies on it, for every way to come into use."""
    fresh, bound, connected, unbound = (context.socket(zmq.DEALER) for _ in range(4))
    bound.bind("tcp://127.0.0.1:*")
    connected.connect("tcp://127.0.0.1:1")
    unbound.bind("inproc://a")
    unbound.unbind("inproc://a")
    assert endpoint(fresh) == ""
    assert all(endpoint(socket) for socket in (bound, connected, unbound))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_callback_exception_kills_pyzmqs_authenticator(
    context: "Context", clients: Clients, server_keys: KeyPair, peer_keys: KeyPair
) -> None:
    """It is why there is a handler of our own."""

    class Provider:
        def callback(self, domain: str, key: bytes) -> bool:
            raise KeyError("a fault")

    handler = ThreadAuthenticator(context)
    handler.start()
    handler.configure_curve_callback(domain="twinhost", credentials_provider=Provider())
    server = curve_server(context, server_keys, (zmq.ZAP_DOMAIN, b"twinhost"))
    clients.curve(peer_keys, server, server_keys)
    assert handler.thread is not None
    wait_until(lambda: handler.thread is not None and not handler.thread.is_alive(), PATIENCE_S, "its thread dies")
    handler.pipe = None  # type: ignore[assignment]  # whose end would wait for the dead thread


def test_pyzmqs_key_files_are_readable_and_unchecked(tmp_path: Path) -> None:
    """It is why there is a writer and a loader of our own."""
    (tmp_path / "x.key").write_text('curve\n    public-key = "abc"\n')
    assert zmq.auth.load_certificate(tmp_path / "x.key")[0] == b"abc"
