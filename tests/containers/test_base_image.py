"""The base image is built on by its digest, as the Dockerfile pins it or the registry gave it; on it is the wheel.

With it comes the optional compiled module, which no wheel has.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
import threading
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import docker
import pytest

from tests.containers.stack import IMAGE, REPOSITORY

MANIFEST_TYPE = "application/vnd.docker.distribution.manifest.v2+json"
CONFIG_TYPE = "application/vnd.docker.container.image.v1+json"
LAYER_TYPE = "application/vnd.docker.image.rootfs.diff.tar.gzip"


def digest(content: bytes) -> str:
    return "sha256:" + hashlib.sha256(content).hexdigest()


class Registry:
    """A registry of one image, which changes with `publish`."""

    def __init__(self) -> None:
        self._blobs: dict[str, bytes] = {}
        self._manifest = b""
        blobs, registry = self._blobs, self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                what = self.path.rsplit("/", 1)[-1]
                content = b"{}"
                if "/manifests/" in self.path:
                    content = blobs.get(what, registry._manifest)
                elif "/blobs/" in self.path:
                    content = blobs[what]
                self.send_response(200)
                self.send_header("Content-Type", MANIFEST_TYPE if "/manifests/" in self.path else "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.send_header("Docker-Content-Digest", digest(content))
                self.end_headers()
                if self.command == "GET":
                    self.wfile.write(content)

            do_HEAD = do_GET  # noqa: N815 - http.server's name

            def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - http.server's name
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    @property
    def image(self) -> str:
        return f"127.0.0.1:{self.server.server_port}/python:3.13-slim-trixie"

    def publish(self, text: str) -> str:
        """Make the tag another image; return its digest."""
        archive = io.BytesIO()
        with tarfile.open(fileobj=archive, mode="w") as tar:
            member = tarfile.TarInfo("release")
            member.size = len(text)
            tar.addfile(member, io.BytesIO(text.encode()))
        layer = gzip.compress(archive.getvalue(), mtime=0)
        root = {"type": "layers", "diff_ids": [digest(archive.getvalue())]}
        config = json.dumps({"architecture": "amd64", "os": "linux", "config": {}, "rootfs": root}).encode()
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": {"mediaType": CONFIG_TYPE, "size": len(config), "digest": digest(config)},
            "layers": [{"mediaType": LAYER_TYPE, "size": len(layer), "digest": digest(layer)}],
        }
        self._manifest = json.dumps(manifest).encode()
        self._blobs.update({digest(content): content for content in (layer, config, self._manifest)})
        return digest(self._manifest)


@pytest.fixture
def registry(engine: docker.DockerClient) -> Iterator[Registry]:
    """A registry that the engine reaches; what was pulled from it is removed."""
    registry = Registry()
    yield registry
    registry.server.shutdown()
    name = registry.image.rsplit(":", 1)[0]
    for image in engine.api.images():
        if any(reference.startswith(f"{name}@") for reference in image["RepoDigests"] or []):
            engine.images.remove(image["Id"], force=True)


def base_image(checkout: Path, *arguments: str) -> str:
    """Run scripts/setup/base_image.sh, which must succeed; return what it prints."""
    command = ["scripts/setup/base_image.sh", *arguments]
    done = subprocess.run(command, cwd=checkout, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_the_base_image_is_pulled_by_its_digest(registry: Registry, tmp_path: Path) -> None:
    """With a pin, a tag that has moved changes nothing; without one, an image of a registry is named by its digest."""
    shutil.copytree(REPOSITORY / "scripts", tmp_path / "scripts")
    dockerfile, text = tmp_path / "Dockerfile", (REPOSITORY / "Dockerfile").read_text()
    line = next(line for line in text.splitlines() if line.startswith("ARG BASE_IMAGE="))
    unpinned = text.replace(line, f"ARG BASE_IMAGE={registry.image}")
    dockerfile.write_text(unpinned)
    first = registry.publish("first")
    assert base_image(tmp_path, "--pin") == ""
    pinned = f"{registry.image}@{first}"
    assert f"ARG BASE_IMAGE={pinned}\n" in dockerfile.read_text()
    assert base_image(tmp_path) == pinned
    second = registry.publish("second")
    assert second != first
    assert base_image(tmp_path) == pinned
    assert base_image(tmp_path, "--pin") == ""
    assert f"ARG BASE_IMAGE={registry.image}@{second}\n" in dockerfile.read_text()
    assert base_image(tmp_path) == f"{registry.image}@{second}"
    dockerfile.write_text(unpinned)
    assert base_image(tmp_path) == f"{registry.image}@{second}"


def test_the_dockerfile_alone_names_the_base_image() -> None:
    """Plain `docker compose build` takes it, pin and all; a value in the environment or in .env wins."""
    command = ["docker", "compose", "config", "--format", "json"]
    service = json.loads(subprocess.check_output(command, cwd=REPOSITORY))["services"]["certs-init"]
    assert not (service["build"].get("args") or {}).get("BASE_IMAGE")
    assert "python:3.13" not in (REPOSITORY / "scripts/setup/base_image.sh").read_text()


def test_the_image_has_the_files_of_the_wheel(engine: docker.DockerClient, tmp_path: Path) -> None:
    """The RECORD in the image has the hashes of what `make wheel` builds, and of what pip adds."""
    subprocess.run([REPOSITORY / "scripts/setup/wheel.sh", tmp_path, sys.executable], check=True, timeout=120)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        (name,) = [each for each in archive.namelist() if each.endswith("/RECORD")]
        built = set(archive.read(name).decode().splitlines())
    find = f"cat /opt/venv/lib/python3*/site-packages/{name}"
    shown = engine.containers.run(IMAGE, ["-c", find], entrypoint="sh", remove=True, network_mode="none")
    installed = set(shown.decode().splitlines())
    assert sorted(built - installed) == []
    added = {line.partition(",")[0] for line in installed - built}
    assert {
        each for each in added if each.startswith(("twinhost/", "main_pc_code/")) and "__pycache__" not in each
    } == set()


def test_the_image_has_the_compiled_module(engine: docker.DockerClient) -> None:
    """It loads, belongs to root, and is writable for root alone."""
    if shutil.which("cc") is None and os.environ.get("CI") != "true":
        pytest.skip("where no compiler could be installed here, none could in the image's build")
    program = (
        "from twinhost.secure_zmq.framing import _messages; import os; "
        "found = os.stat(_messages.__file__); print(oct(found.st_mode), found.st_uid, found.st_gid)"
    )
    shown = engine.containers.run(IMAGE, ["python", "-c", program], remove=True, network_mode="none")
    assert shown.decode() == "0o100644 0 0\n"


def test_an_image_with_a_client_of_postgresql_has_authorities(engine: docker.DockerClient) -> None:
    """Each by its hash, where the variable says: as the OpenSSL of that client looks for them."""
    command = ["sh", "-c", 'ls "$SSL_CERT_DIR"']
    shown = engine.containers.run(f"{IMAGE}-ha", command, remove=True, network_mode="none").decode()
    assert sum(name.endswith(".0") for name in shown.split()) > 100
