"""What takes messages: an HTTP and an SMTP server on 127.0.0.1, which keep what they got and refuse on demand."""

import base64
import email
import email.policy
import json
import socketserver
import threading
from email.message import EmailMessage
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any, Self


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

    def __init__(self, address: str = "127.0.0.1") -> None:
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

    @property
    def titles(self) -> list[str]:
        return [body["title"] for body in self.bodies]


class _Threading(socketserver.ThreadingTCPServer):
    daemon_threads = True
    allow_reuse_address = True


class SmtpReceiver(_Serving):
    """Keeps the mails that it gets, and the user names and passwords of logins; has no STARTTLS."""

    def __init__(self, refusal: str = "") -> None:
        """With a refusal, such as `550 no such user`, it takes no recipient."""
        self.mails: list[EmailMessage] = []
        self.logins: list[str] = []
        receiver = self

        class Handler(socketserver.StreamRequestHandler):
            def handle(self) -> None:
                self.say("220 test")
                while line := self.rfile.readline().decode().strip():
                    verb = line.split()[0].upper()
                    if verb == "EHLO":
                        self.say("250-test\r\n250 AUTH PLAIN")
                    elif verb == "AUTH":
                        receiver.logins.append(base64.b64decode(line.split()[2]).decode())
                        self.say("235 ok")
                    elif verb == "RCPT" and refusal:
                        self.say(refusal)
                    elif verb == "DATA":
                        self.say("354 go on")
                        content = b"".join(iter(self.rfile.readline, b".\r\n"))
                        mail = email.message_from_bytes(content, policy=email.policy.default)
                        assert isinstance(mail, EmailMessage)
                        receiver.mails.append(mail)
                        self.say("250 taken")
                    elif verb == "QUIT":
                        self.say("221 bye")
                        return
                    else:
                        self.say("250 ok" if verb != "STARTTLS" else "454 none")

            def say(self, line: str) -> None:
                self.wfile.write(f"{line}\r\n".encode())

        self.server = _Threading(("127.0.0.1", 0), Handler)
