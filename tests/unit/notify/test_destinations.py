"""Each way out brings a message to a real server, says what came back, and shows no secret."""

from pathlib import Path
from typing import Any, Literal

import msgspec
import pytest

from tests.ports import free_ports
from tests.receivers import HttpReceiver, SmtpReceiver, certificate
from twinhost.network_config.model import EmailDestination, HttpDestination
from twinhost.notify.destinations import Destination, NotTaken
from twinhost.notify.rules import Message, News
from twinhost.secure_zmq.errors import ConfigurationError

MESSAGE = Message(
    "broken",
    "mainpc's disk is full",
    "mainpc's disk is full.\nAção: df -h",
    "2026-05-01T12:00:00.000+00:00",
    [News("began", "disk_full:mainpc", "disk_full", "broken", "mainpc's disk is full", 1.0)],
)
TOKEN = "s3cret-token"


def http(kind: Any, port: int, path: str = "/alerts/topic", scheme: str = "http", **fields: Any) -> Destination:
    settings: dict[str, Any] = {"url_file": None, "token_file": None, "unencrypted": False}
    url = f"{scheme}://127.0.0.1:{port}{path}"
    return Destination("c.yaml", "phone", HttpDestination(kind, url, **(settings | fields)))


def mail(port: int, encryption: Any = "none", **fields: Any) -> Destination:
    settings: dict[str, Any] = {"user": "", "password_file": None}
    return Destination(
        "c.yaml",
        "me",
        EmailDestination(
            ("ana@example.org", "ben@example.org"),
            "twinhost@example.org",
            "127.0.0.1",
            port,
            encryption,
            **(settings | fields),
        ),
    )


@pytest.fixture
def secret(tmp_path: Path) -> Path:
    path = tmp_path / "secret"
    path.write_text(f"{TOKEN}\n")
    return path


def test_a_webhook_gets_the_message_and_its_id(secret: Path) -> None:
    with HttpReceiver() as receiver:
        answer = http("webhook", receiver.port, token_file=secret).send(MESSAGE, "id-1")
    assert answer == "HTTP 200 OK from 127.0.0.1"
    (body,) = receiver.bodies
    assert (body["id"], body["level"], body["title"]) == ("id-1", "broken", "mainpc's disk is full")
    assert body["text"] == body["content"] == MESSAGE.text
    assert body["news"][0]["kind"] == "disk_full"
    assert receiver.headers[0]["Authorization"] == f"Bearer {TOKEN}"
    assert receiver.headers[0]["Idempotency-Key"] == "id-1"


def test_a_topic_of_ntfy_gets_the_message() -> None:
    """As JSON to the server's root, which allows any character in the title; this is not said twice."""
    with HttpReceiver() as receiver:
        http("ntfy", receiver.port, "/topic").send(MESSAGE, "id-1")
        http("ntfy", receiver.port, "/below/topic").send(MESSAGE, "id-1")
    assert receiver.paths == ["/", "/below"]
    assert receiver.bodies[0] == {
        "topic": "topic",
        "title": "mainpc's disk is full",
        "message": "Ação: df -h",
        "priority": 4,
        "tags": ["rotating_light"],
    }


def test_a_long_message_stays_a_message_of_ntfy() -> None:
    """A server makes an attachment of more, which it may not keep."""
    with HttpReceiver() as receiver:
        http("ntfy", receiver.port, "/topic").send(msgspec.structs.replace(MESSAGE, text="ã" * 3_000), "id-1")
    assert receiver.bodies[0]["message"] == "ã" * 1_900


def test_a_mail_server_gets_the_message(secret: Path) -> None:
    with SmtpReceiver() as receiver:
        answer = mail(receiver.port, user="ana", password_file=secret).send(MESSAGE, "id-1")
    assert answer == "127.0.0.1 accepted it for ana@example.org, ben@example.org"
    (received,) = receiver.mails
    assert received["Subject"] == "mainpc's disk is full"
    assert received["Message-ID"] == "<id-1@twinhost>"
    assert received.get_content().splitlines() == MESSAGE.text.splitlines()
    assert receiver.logins == [f"\0ana\0{TOKEN}"]


@pytest.mark.parametrize(
    ("status", "answer", "shown"),
    [
        (403, b"forbidden\x1b[2J", "HTTP 403 Forbidden from 127.0.0.1: forbidden\ufffd[2J"),
        (404, b"no /alerts/topic here", "HTTP 404 Not Found from 127.0.0.1"),
        (401, TOKEN.encode(), "HTTP 401 Unauthorized from 127.0.0.1"),
        (302, b"", "HTTP 302 Found from 127.0.0.1"),
    ],
)
def test_a_refusal_is_said_without_a_secret(secret: Path, status: int, answer: bytes, shown: str) -> None:
    """A redirect is one: whoever answers would choose where messages go."""
    with HttpReceiver() as receiver:
        receiver.status, receiver.answer = status, answer
        with pytest.raises(NotTaken) as refusal:
            http("webhook", receiver.port, token_file=secret).send(MESSAGE, "id-1")
    assert str(refusal.value) == shown


def test_a_server_that_is_down_is_named() -> None:
    (port,) = free_ports(1)
    for destination in (http("webhook", port), mail(port)):
        with pytest.raises(NotTaken, match=r"127\.0\.0\.1: .*refused"):
            destination.send(MESSAGE, "id-1")


@pytest.mark.parametrize("way", ["https", "starttls", "tls"])
def test_a_server_is_verified_before_it_gets_anything(
    secret: Path, tmp_path: Path, way: Literal["https", "starttls", "tls"], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Neither the message nor the secret goes to one with a certificate that nobody trusts, or of another."""
    own, other = certificate(tmp_path), certificate(tmp_path, "127.0.0.2")
    for trusted, shown, problem in ((None, own, "self-signed"), (other, other, "IP address mismatch"), (own, own, "")):
        monkeypatch.setenv("SSL_CERT_FILE", str(trusted or "/dev/null"))
        receiver = HttpReceiver(shown=shown) if way == "https" else SmtpReceiver("", way, shown)
        with receiver:
            if way == "https":
                destination = http("webhook", receiver.port, scheme="https", token_file=secret)
            else:
                destination = mail(receiver.port, way, user="ana", password_file=secret)
            if problem:
                with pytest.raises(NotTaken, match=f"CERTIFICATE_VERIFY_FAILED.*{problem}"):
                    destination.send(MESSAGE, "id-1")
            else:
                destination.send(MESSAGE, "id-1")
        messages, secrets = (
            (receiver.bodies, receiver.headers)
            if isinstance(receiver, HttpReceiver)
            else (receiver.mails, receiver.logins)
        )
        assert (len(messages), len(secrets)) == ((0, 0) if problem else (1, 1))


def test_mail_is_not_sent_without_its_encryption(secret: Path) -> None:
    """Nor is the password."""
    with SmtpReceiver() as receiver, pytest.raises(NotTaken, match="STARTTLS"):
        mail(receiver.port, "starttls", user="ana", password_file=secret).send(MESSAGE, "id-1")
    assert (receiver.mails, receiver.logins) == ([], [])


def test_a_refused_recipient_is_named() -> None:
    with SmtpReceiver("550 no such user") as receiver, pytest.raises(NotTaken, match=r"ana@example\.org"):
        mail(receiver.port).send(MESSAGE, "id-1")
    with SmtpReceiver("550 no such user") as receiver:
        receiver.refuses = "ben@"
        assert mail(receiver.port).send(MESSAGE, "id-1") == "127.0.0.1 accepted it, but not for ben@example.org"


@pytest.mark.parametrize("content", [None, b"", b"two\nlines", b"\xff"], ids=["missing", "empty", "lines", "binary"])
def test_a_secret_that_can_not_be_used_is_named(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "secret"
    if content is not None:
        path.write_bytes(content)
    for destination, key in (
        (http("ntfy", 1, token_file=path), "phone.token_file"),
        (mail(1, user="ana", password_file=path), "me.password_file"),
    ):
        with pytest.raises(ConfigurationError) as refusal:
            destination.check()
        assert str(refusal.value).startswith(f"c.yaml: notify.destinations.{key} names {path}, which ")


@pytest.mark.parametrize("line", [f"http://far.example/{TOKEN}", f"ftp://far.example/{TOKEN}"])
def test_a_url_in_a_file_is_checked_and_not_shown(tmp_path: Path, line: str) -> None:
    path = tmp_path / "url"
    path.write_text(line)
    settings = HttpDestination("webhook", "", path, None, unencrypted=False)
    with pytest.raises(ConfigurationError, match=r"notify\.destinations\.phone\.webhook_file") as refusal:
        Destination("c.yaml", "phone", settings).check()
    assert TOKEN not in str(refusal.value)
