"""The ways out: a webhook, an ntfy topic, e-mail. Each sends one message and says what came back, or raises NotTaken.

Certificates are verified; no redirect is followed, and no proxy of the environment is used. Nothing that is said
contains a URL, a token, or a password.
"""

import http.client
import smtplib
import ssl
from collections.abc import Callable
from email.message import EmailMessage
from email.utils import formatdate
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from twinhost.fence import one_line
from twinhost.moments import parse_time
from twinhost.network_config.model import EmailDestination, HttpDestination, Notify, require_web_address
from twinhost.notify.rules import Message
from twinhost.secure_zmq.errors import ConfigurationError

TIMEOUT_S = 10.0  # of each step of a delivery
_MAX_SECRET_BYTES = 4_096
_MAX_ANSWER = 160  # characters of an answer that are shown
_PRIORITIES = {"broken": 4, "attention": 3, "well": 2}  # of ntfy, which has 1 to 5
_TAGS = {"broken": "rotating_light", "attention": "warning", "well": "white_check_mark"}
_MAX_NTFY_BYTES = 3_800  # of the text: a server keeps 4096 bytes as a message, and makes more an attachment

Send = Callable[[Message, str], str]


class NotTaken(Exception):
    """The destination has not taken the message; the sentence says why, without a secret."""


class Destination:
    """One destination of the configuration."""

    def __init__(self, source: str, name: str, settings: HttpDestination | EmailDestination) -> None:
        self.name = name
        self._path = f"{source}: notify.destinations.{name}"
        self._settings = settings

    def send(self, message: Message, message_id: str) -> str:
        """Send a message, and return what came back.

        Raises:
            NotTaken: it was not taken.
        """
        settings = self._settings
        try:
            if isinstance(settings, EmailDestination):
                return self._mail(settings, message, message_id)
            return self._post(settings, message, message_id)
        except (OSError, http.client.HTTPException, smtplib.SMTPException) as error:
            where = settings.host if isinstance(settings, EmailDestination) else self._host_of(settings)
            raise NotTaken(f"{where}: {_reason(error)}") from None

    def check(self) -> None:
        """Read the files of the secrets.

        Raises:
            ConfigurationError: one can't be read, or has nothing usable.
        """
        if isinstance(self._settings, HttpDestination):
            self._url(self._settings)
            self._secret(self._settings.token_file, "token_file")
        else:
            self._secret(self._settings.password_file, "password_file")

    def _post(self, settings: HttpDestination, message: Message, message_id: str) -> str:
        url = urlsplit(self._url(settings))
        token = self._secret(settings.token_file, "token_file")
        headers = {"Content-Type": "application/json", "User-Agent": "twinhost", "Idempotency-Key": message_id}
        if token:
            headers["Authorization"] = f"Bearer {token}"
        target = (url.path or "/") + (f"?{url.query}" if url.query else "")
        if settings.kind == "ntfy":
            target, _, topic = url.path.rpartition("/")
            target, body = target or "/", _for_ntfy(message, topic)
        else:
            body = _for_webhook(message, message_id)
        if url.scheme == "https":
            context = ssl.create_default_context()
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                url.hostname or "", url.port, timeout=TIMEOUT_S, context=context
            )
        else:
            connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=TIMEOUT_S)
        try:
            connection.request("POST", target, body, headers)
            response = connection.getresponse()
            said = response.read(4_096).decode("utf-8", "replace")
        finally:
            connection.close()
        answer = f"HTTP {response.status} {response.reason} from {url.hostname}"
        if not 200 <= response.status < 300:
            if said and not any(secret in said for secret in (token, target) if len(secret) > 1):  # as an echo
                answer += f": {said}"
            raise NotTaken(one_line(answer, _MAX_ANSWER))
        return one_line(answer, _MAX_ANSWER)

    def _mail(self, settings: EmailDestination, message: Message, message_id: str) -> str:
        password = self._secret(settings.password_file, "password_file")
        mail = EmailMessage()
        mail["Subject"], mail["From"], mail["To"] = message.title, settings.sender, ", ".join(settings.to)
        mail["Date"] = formatdate(parse_time(message.at).timestamp())
        mail["Message-ID"] = f"<{message_id}@twinhost>"
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(message.text + "\n")
        context = ssl.create_default_context()
        if settings.encryption == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(settings.host, settings.port, timeout=TIMEOUT_S, context=context)
        else:
            server = smtplib.SMTP(settings.host, settings.port, timeout=TIMEOUT_S)
        with server:
            if settings.encryption == "starttls":
                server.starttls(context=context)  # raises where the server has none: there is no fallback
            if password:
                server.login(settings.user, password)
            refused = server.send_message(mail)
        if refused:  # by some; the others have it
            return one_line(f"{settings.host} accepted it, but not for {', '.join(refused)}", _MAX_ANSWER)
        return f"{settings.host} accepted it for {', '.join(settings.to)}"

    def _url(self, settings: HttpDestination) -> str:
        if settings.url_file is None:
            return settings.url
        key = f"{settings.kind}_file"
        try:
            example = f"https://{settings.kind}.example/topic"
            url = self._secret(settings.url_file, key)
            return require_web_address(url, unencrypted=settings.unencrypted, such_as=example, secret=True)
        except ValueError as problem:
            raise ConfigurationError(f"{self._path}.{key}: the line in {settings.url_file} {problem}") from None

    def _host_of(self, settings: HttpDestination) -> str:
        return urlsplit(self._url(settings)).hostname or ""

    def _secret(self, file: Path | None, key: str) -> str:
        if file is None:
            return ""
        try:
            secret = file.read_bytes()[: _MAX_SECRET_BYTES + 1].strip()
        except OSError as error:
            raise ConfigurationError(
                f"{self._path}.{key} names {file}, which can't be read ({error.strerror}); write the secret into it, "
                "readable by the user 10001"
            ) from None
        if not secret or len(secret) > _MAX_SECRET_BYTES or not secret.isascii() or not secret.decode().isprintable():
            raise ConfigurationError(f"{self._path}.{key} names {file}, which has no secret in one line of ASCII")
        return secret.decode()


def destinations_of(source: str, notify: Notify) -> list[Destination]:
    """Return the destinations of a configuration, whose secrets can be read.

    Raises:
        ConfigurationError: one can't be used; the message names the file, and the path of the key.
    """
    destinations = [Destination(source, name, settings) for name, settings in notify.destinations.items()]
    for destination in destinations:
        destination.check()
    return destinations


def _for_webhook(message: Message, message_id: str) -> bytes:
    news = [msgspec.structs.asdict(each) for each in message.news]
    return msgspec.json.encode(
        {
            "id": message_id,
            "level": message.level,
            "title": message.title,
            "text": message.text,
            "content": message.text[:1_900],  # of chat services that take 2,000 characters under this name
            "at": message.at,
            "news": news,
        }
    )


def _for_ntfy(message: Message, topic: str) -> bytes:
    text = message.text.removeprefix(f"{message.title}.\n")  # which is shown above it
    return msgspec.json.encode(
        {
            "topic": topic,
            "title": message.title,
            "message": text.encode()[:_MAX_NTFY_BYTES].decode("utf-8", "ignore"),
            "priority": _PRIORITIES[message.level],
            "tags": [_TAGS[message.level]],
        }
    )


def _reason(error: Exception) -> str:
    """Return why a delivery failed; what a server said is its own text."""
    if isinstance(error, smtplib.SMTPResponseException):
        said = error.smtp_error.decode("utf-8", "replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        return one_line(f"{error.smtp_code} {said}", _MAX_ANSWER)
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return one_line(f"refused for {', '.join(error.recipients)}", _MAX_ANSWER)
    if isinstance(error, TimeoutError):
        return f"no answer within {TIMEOUT_S:g} s"
    if isinstance(error, http.client.HTTPException):
        return type(error).__name__
    return one_line(str(error) or type(error).__name__, _MAX_ANSWER)
