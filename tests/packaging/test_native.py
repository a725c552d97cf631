"""The optional compiled part of the package, as a checkout compiles it."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE = Path("services/twinhost/secure_zmq/framing/_messages.abi3.so")
SOURCE = MODULE.with_name("_messages.c")


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Another checkout with the same .venv, where nothing is compiled yet; in CI, there is a compiler."""
    if shutil.which("cc") is None and os.environ.get("CI") != "true":
        pytest.skip("needs a C compiler, as `make test` installs it on Debian 13")
    folder = tmp_path / "checkout"
    for name in ("scripts/setup/native.sh", "scripts/setup/progress.sh", SOURCE):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(REPOSITORY / name, folder / name)
    (folder / ".venv").symlink_to(sys.prefix)
    return folder


def set_up(checkout: Path, **settings: str) -> str:
    """Do what `make venv` does about the module, which never fails; return what it prints."""
    command = ["bash", "-euc", ". scripts/setup/progress.sh; compile_native"]
    done = subprocess.run(
        command, cwd=checkout, env={**os.environ, **settings}, capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout + done.stderr


def test_a_checkout_compiles_the_module_when_it_changes(checkout: Path) -> None:
    """Without a compiler set-up says nothing; a source that does not compile is shown, and ends nothing."""
    module, source = checkout / MODULE, checkout / SOURCE
    assert (set_up(checkout, CC="no-compiler"), module.exists()) == ("", False)
    os.utime(source, (1, 1))
    assert set_up(checkout) == f"==> Compiling {SOURCE}\n"
    first = module.stat().st_ino, module.stat().st_mtime_ns
    assert set_up(checkout) == ""
    assert (module.stat().st_ino, module.stat().st_mtime_ns) == first
    source.write_text("not C\n")
    os.utime(source, ns=(first[1] + 1, first[1] + 1))
    assert "It does not compile (see above)" in set_up(checkout)


def test_two_builds_of_the_module_are_the_same_bytes(checkout: Path, tmp_path: Path) -> None:
    """Elsewhere, at another time, with another umask."""
    os.utime(checkout / SOURCE, (1, 1))
    set_up(checkout)
    (tmp_path / MODULE).parent.mkdir(parents=True)
    subprocess.run(
        [REPOSITORY / "scripts/setup/native.sh", sys.executable, tmp_path / "services"],
        umask=0o077,
        check=True,
        timeout=60,
    )
    assert (tmp_path / MODULE).read_bytes() == (checkout / MODULE).read_bytes()


@pytest.mark.parametrize("file", ["None", "'/nowhere/libzmq.so'", "math.__file__"])
def test_a_pyzmq_made_otherwise_is_an_import_error(checkout: Path, file: str) -> None:
    """The functions of its libzmq are not found: agents then receive with pyzmq."""
    set_up(checkout)
    program = (
        "import math, sys, types; from importlib import util; "
        f"stub = sys.modules['zmq.backend.cython._zmq'] = types.ModuleType('_zmq'); stub.__file__ = {file}; "
        "util.module_from_spec(util.spec_from_file_location('_messages', sys.argv[1]))"
    )
    command = [sys.executable, "-c", program, str(checkout / MODULE)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("ImportError: pyzmq has loaded no libzmq")
