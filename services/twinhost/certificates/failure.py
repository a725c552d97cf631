"""Why the last run that makes keys failed, in every folder of the tree, where the cli finds it.

Compose starts certs-init before everything else and shows its exit status alone; its containers keep no log.
"""

from pathlib import Path

from twinhost.certificates.layout import OPERATOR, OPERATOR_HOST
from twinhost.secure_zmq.certificates import FAILURE_FILE
from twinhost.store.files import RESTORING


def record_failure(root: Path, sentence: str, host: str | None) -> None:
    """Write why, as far as the disk lets it: the same sentence stands on standard error.

    A tree that is not there, or is half restored, stays as it is: a restore goes on by which folders there are.

    Args:
        root: the tree.
        sentence: why.
        host: the one host that this machine is; None where it is all of them.
    """
    own = root / (OPERATOR if host in (None, OPERATOR_HOST) else host)
    try:
        if not root.is_dir() or (root / RESTORING).exists():
            return
        own.mkdir(mode=0o700, exist_ok=True)  # so that the cli, which mounts it, can start and say why
        for folder in _folders(root):
            draft = folder / f"{FAILURE_FILE}.draft"
            draft.write_text(f"{sentence}\n", encoding="utf-8")
            draft.chmod(0o600)
            draft.rename(folder / FAILURE_FILE)
    except OSError:
        return  # a full or read-only volume


def forget_failure(root: Path) -> None:
    """Remove what `record_failure` wrote."""
    for folder in _folders(root):
        (folder / FAILURE_FILE).unlink(missing_ok=True)


def _folders(root: Path) -> list[Path]:
    present = root.iterdir() if root.is_dir() else ()
    return [each for each in present if each.is_dir() and not each.is_symlink() and not each.name.startswith(".")]
