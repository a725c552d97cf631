"""What takes messages: an HTTP and an SMTP server on 127.0.0.1, which keep what they got and refuse on demand."""

import base64
import email
import email.policy
import json
import socket
import socketserver
import ssl
import threading
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


class _Serving:
    """A server on a thread of its own, while a `with` block runs."""

    server: socketserver.BaseServer

    @property
    def port(self) -> int:
        address: Any = self.server.server_address
        return int(address[1])

    def __enter__(self) -> Self:
        self._thread = threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.server.shutdown()
        self.server.server_close()
        self._thread.join()


class HttpReceiver(_Serving):
    """Keeps the bodies, paths, and headers of what is posted; answers `status` and `answer`."""

    def __init__(self, address: str = "127.0.0.1", shown: Path | None = None) -> None:
        """Serve HTTP, or with a `certificate` HTTPS."""
        self.address = address
        self.bodies: list[dict[str, Any]] = []
        self.paths: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.status, self.answer = 200, b"ok"
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if receiver.status == 200:
                    receiver.bodies.append(json.loads(body))
                    receiver.paths.append(self.path)
                    receiver.headers.append(dict(self.headers.items()))
                self.send_response(receiver.status)
                self.send_header("Content-Length", str(len(receiver.answer)))
                self.send_header("Location", "http://127.0.0.1:1/")
                self.end_headers()
                self.wfile.write(receiver.answer)

            def log_message(self, *_: Any) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer((address, 0), Handler)
        if shown is not None:
            self.server.socket = _encrypted(self.server.socket, shown)

    @property
    def titles(self) -> list[str]:
        return [body["title"] for body in self.bodies]


def certificate(folder: Path, address: str = "127.0.0.1") -> Path:
    """Write a certificate for an address, which signs itself, and its secret into one file; return its path."""
    key, name = ec.generate_private_key(ec.SECP256R1()), x509.Name([])
    now = datetime.now(UTC)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, now - timedelta(days=1), now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(address))]), critical=True)
        .sign(key, hashes.SHA256())
    )
    secret = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    path = folder / f"{address}.pem"
    path.write_bytes(signed.public_bytes(serialization.Encoding.PEM) + secret)
    return path


def _encrypted(plain: socket.socket, shown: Path) -> ssl.SSLSocket:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(shown)
    return context.wrap_socket(plain, server_side=True)


class _Threading(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class SmtpReceiver(_Serving):
    """Keeps the mails that it gets, and the user names and passwords of logins."""

    def __init__(
        self, refusal: str = "", encryption: Literal["none", "starttls", "tls"] = "none", shown: Path | None = None
    ) -> None:
        """With a refusal, such as `550 no such user`, it takes no recipient; `shown` is its `certificate`."""
        self.mails: list[EmailMessage] = []
        self.logins: list[str] = []
        self.refusal, self.encryption, self.shown = refusal, encryption, shown
        self.refuses = ""  # the part of an address, if it takes the other ones
        self.server = _Threading(("127.0.0.1", 0), type("Handler", (_SmtpSession,), {"receiver": self}))


class _SmtpSession(socketserver.StreamRequestHandler):
    receiver: SmtpReceiver

    def setup(self) -> None:
        if self.receiver.encryption == "tls":
            self._encrypt()
        super().setup()

    def handle(self) -> None:
        self._say("220 test")
        while line := self.rfile.readline().decode().strip():
            verb = line.split()[0].upper()
            if verb == "STARTTLS" and self.receiver.encryption == "starttls":
                self._say("220 go on")
                self._encrypt()
                super().setup()
            elif verb == "DATA":
                self._say("354 go on")
                self._take(b"".join(iter(self.rfile.readline, b".\r\n")))
                self._say("250 taken")
            elif verb == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say(self._answer(verb, line))

    def _answer(self, verb: str, line: str) -> str:
        if verb == "EHLO":
            return "250-test\r\n" + "250-STARTTLS\r\n" * (self.receiver.encryption == "starttls") + "250 AUTH PLAIN"
        if verb == "AUTH":
            self.receiver.logins.append(base64.b64decode(line.split()[2]).decode())
            return "235 ok"
        if verb == "RCPT" and self.receiver.refusal and self.receiver.refuses in line:
            return self.receiver.refusal
        return "250 ok" if verb != "STARTTLS" else "454 none"

    def _take(self, content: bytes) -> None:
        mail = email.message_from_bytes(content, policy=email.policy.default)
        assert isinstance(mail, EmailMessage)
        self.receiver.mails.append(mail)

    def _encrypt(self) -> None:
        assert self.receiver.shown is not None
        self.request = _encrypted(self.request, self.receiver.shown)

    def _say(self, line: str) -> None:
        self.wfile.write(f"{line}\r\n".encode())
