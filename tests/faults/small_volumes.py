"""Small file systems for a stack's volumes: ext4 in files, by loop devices; or tmpfs, where there are none."""

import os
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

from tests.containers.stack import Stack

OVERRIDE = "tests/faults/small_volumes.yaml"
SIZES_MIB = {"KEYS": 8, "MAINPC": 24, "PC2": 24}  # SQLite's log alone takes 4 before it is folded in
OWNER = 10001  # the image's user
FILLER = "filler"
# Reserved, not written: the devices share the disk of all other processes, which would wait for it.
FILL = (
    "import os, sys\n"
    "file = os.open(sys.argv[1], os.O_CREAT | os.O_WRONLY, 0o600)\n"
    "def fill(take):\n"
    "    try:\n"
    "        while True: take()\n"
    "    except OSError as error:\n"
    "        if error.errno != 28: raise\n"
    "for size in (1 << 24, 1 << 16, 1 << 12):\n"
    "    fill(lambda: os.posix_fallocate(file, os.fstat(file).st_size, size))\n"
    "os.lseek(file, 0, os.SEEK_END)\n"
    "fill(lambda: os.write(file, bytes(512)))\n"
)


class NoLoopDevice(Exception):
    """This machine gives no loop device; its standard error says why."""


@contextmanager
def ext4_volumes(folder: Path, sizes_mib: Mapping[str, int] = SIZES_MIB) -> Iterator[dict[str, str]]:
    """Make the devices for as long as the block runs; yield the settings by which the override finds them.

    Raises:
        NoLoopDevice: there are none here.
    """
    with ExitStack() as ends:
        settings: dict[str, str] = {}
        for name, size in sizes_mib.items():
            image = folder / f"{name}.ext4"
            image.touch()
            os.truncate(image, size * 1_048_576)
            made = _run("mkfs.ext4", "-q", "-m", "0", "-E", f"root_owner={OWNER}:{OWNER}", str(image))
            attached = _run("losetup", "--find", "--show", str(image)) if made.returncode == 0 else made
            if attached.returncode != 0:
                raise NoLoopDevice(attached.stderr.strip())
            device = attached.stdout.strip()
            ends.callback(_run, "losetup", "--detach", device)
            if (why := _empty(device, folder / "mounted")) is not None:
                raise NoLoopDevice(why)
            settings |= {f"{name}_TYPE": "ext4", f"{name}_DEVICE": device}
        yield settings


def tmpfs_volumes() -> dict[str, str]:
    """Return the settings for volumes in memory; each is lost when the last container that has it ends."""
    settings: dict[str, str] = {}
    for name, size in SIZES_MIB.items():
        options = f"size={size}m,uid={OWNER},gid={OWNER},mode=0700"
        settings |= {f"{name}_TYPE": "tmpfs", f"{name}_DEVICE": "tmpfs", f"{name}_OPTIONS": options}
    return settings


def fill(stack: Stack, host: str, folder: str) -> None:
    """Leave no byte of space on the volume of a folder in an agent's container."""
    done = stack.execute(host, "python", "-c", FILL, f"{folder}/{FILLER}")
    assert done.status == 0, done.err


def give_back(stack: Stack, host: str, folder: str) -> None:
    done = stack.execute(host, "rm", f"{folder}/{FILLER}")
    assert done.status == 0, done.err


def _empty(device: str, point: Path) -> str | None:
    """Leave nothing in a new file system: an engine takes a volume with something in it for one that is in use."""
    point.mkdir(exist_ok=True)
    mounted = _run("mount", device, str(point))
    if mounted.returncode != 0:
        return mounted.stderr.strip()
    point.chmod(0o700)
    (point / "lost+found").rmdir()
    _run("umount", str(point))
    return None


def _run(*command: str) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(command, check=False, capture_output=True, text=True)
    except FileNotFoundError as error:
        return subprocess.CompletedProcess(command, 127, "", f"{error.filename} is missing")
