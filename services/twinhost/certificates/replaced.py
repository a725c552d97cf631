"""What restores leave in a tree: keys that gave way to a backup's, and what a restore that was cut short had received.

The keys that gave way lie in `.replaced-<UTC time>/`, folder by folder as they were. Nobody reads them: a name that
begins with a dot is no folder of keys.
"""

from pathlib import Path

from twinhost.store.files import RESTORING

REPLACED_PREFIX = ".replaced-"


def replaced_folders(root: Path) -> list[Path]:
    """Return the folders of keys that gave way, the oldest first."""
    found = root.glob(f"{REPLACED_PREFIX}*") if root.is_dir() else ()
    return sorted(path for path in found if path.is_dir() and not path.is_symlink())


def told_of_restores(root: Path) -> list[str]:
    """Return a sentence where a restore did not come to its end."""
    path = root / RESTORING
    if not path.is_dir() or not any(path.iterdir()):
        return []
    return [f"{path} is of a restore that was interrupted; run it again with the same file, or remove what it received"]
