"""What the audit log says of grants. A line holds no whole list: it has a digest, a count by role, and what changed."""

import hashlib
from collections.abc import Mapping, Set

_ALL = "*"


def summary(grants: Mapping[str, Set[str]]) -> dict[str, str]:
    """Return `grants`, how many actions a role may ask for, and `grants_sha256` of the sorted lines `role action`."""
    counts = [
        f"{role}: {_ALL if _ALL in actions else f'{len(actions)} actions'}" for role, actions in sorted(grants.items())
    ]
    return {
        "grants": "; ".join(counts),
        "grants_sha256": hashlib.sha256("\n".join(_pairs(grants)).encode()).hexdigest(),
    }


def changes(before: Mapping[str, Set[str]], after: Mapping[str, Set[str]]) -> dict[str, str]:
    """Return what is `added` and `removed`, each as `role action, role action`."""
    old, new = set(_pairs(before)), set(_pairs(after))
    return {"added": ", ".join(sorted(new - old)), "removed": ", ".join(sorted(old - new))}


def _pairs(grants: Mapping[str, Set[str]]) -> list[str]:
    return sorted(f"{role} {action}" for role, actions in grants.items() for action in actions)
