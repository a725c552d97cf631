"""Certificates for the peers that speak TLS 1.3: an authority, a server, and a client, on P-256."""

import ssl
import subprocess
from dataclasses import dataclass
from pathlib import Path

from tests.benchmarks.speed.place import ADDRESS
from tests.benchmarks.speed.processes import Failed

_DAYS = "2"


@dataclass(frozen=True, slots=True)
class TlsFiles:
    """Where the certificates lie, as PEM."""

    folder: str

    @property
    def authority(self) -> str:
        return f"{self.folder}/authority.crt"

    def certificate(self, of: str) -> str:
        return f"{self.folder}/{of}.crt"

    def key(self, of: str) -> str:
        return f"{self.folder}/{of}.pem"

    def context(self, of: str) -> ssl.SSLContext:
        """Return the context of `server` or `client`: TLS 1.3 alone, and each proves itself to the other."""
        purpose = ssl.PROTOCOL_TLS_SERVER if of == "server" else ssl.PROTOCOL_TLS_CLIENT
        context = ssl.SSLContext(purpose)
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.verify_mode = ssl.CERT_REQUIRED
        context.load_verify_locations(self.authority)
        context.load_cert_chain(self.certificate(of), self.key(of))
        return context


def make_certificates(folder: Path) -> TlsFiles:
    """Make them with openssl, in an empty folder.

    Raises:
        Failed: there is no openssl, or it made none.
    """
    files = TlsFiles(str(folder))
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", _DAYS]
    key, certificate = files.key("authority"), files.authority
    _openssl("req", "-x509", *new_key, "-subj", "/CN=bench", "-keyout", key, "-out", certificate)
    for name in ("server", "client"):
        signed = ["-CA", files.authority, "-CAkey", files.key("authority")]
        names = ["-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:localhost,IP:{ADDRESS}"]
        _openssl(
            "req", "-x509", *new_key, *signed, *names, "-addext", "basicConstraints=critical,CA:FALSE",
            "-keyout", files.key(name), "-out", files.certificate(name),
        )  # fmt: skip
    return files


def _openssl(*arguments: str) -> None:
    try:
        done = subprocess.run(["openssl", *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise Failed("there is no openssl to make TLS certificates with (Debian: openssl)") from None
    if done.returncode != 0:
        raise Failed(f"openssl made no certificate: {done.stderr.strip()[-300:]}")
