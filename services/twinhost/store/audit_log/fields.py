"""The fields of a line: their names are the program's, their values may be a stranger's."""

import json
import math
from collections.abc import Mapping, Sequence
from itertools import islice

Value = str | int | float | bool | None | Sequence[str]
Fields = Mapping[str, Value]

RESERVED = frozenset({"seq", "time", "event", "prev", "hash"})
MAX_FIELDS = 16
MAX_NAME = 32  # characters
MAX_ITEMS = 5  # of a list; a mark stands for the others
LIMITS_BYTES = (512, 256, 128, 64, 32, 16)  # of one value as JSON; the last one makes any 16 fields fit a line
_CUT = "\u2026"  # ends a value that was cut
_MAX_INT = 2**53  # what every JSON reader keeps exact


def checked(fields: Fields) -> Fields:
    """Return the fields, if a line may have fields of these names.

    Raises:
        ValueError: a fault of the program: a name that is reserved or no identifier, or too many fields.
    """
    if len(fields) > MAX_FIELDS:
        raise ValueError(f"an audit line has at most {MAX_FIELDS} fields, not {len(fields)}")
    for name in fields:
        if name in RESERVED or len(name) > MAX_NAME or not (name.isascii() and name.isidentifier()):
            raise ValueError(f"{name!r} can't name a field of an audit line")
    return fields


def bounded(value: Value, limit: int) -> Value:
    """Return a value that JSON can say, in about `limit` bytes of it; what was cut ends in `…`."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) <= _MAX_INT else "a number out of range"  # str() of a huge one would raise
    if isinstance(value, float) and math.isfinite(value):
        return float(value)
    if isinstance(value, str | float):
        return _cut(str(value), limit)
    items = [_cut(str(item), max(8, limit // 4)) for item in islice(value, MAX_ITEMS + 1)]
    return items if len(items) <= MAX_ITEMS else [*items[:MAX_ITEMS], _CUT]


def _cut(text: str, limit: int) -> str:
    kept = text[:limit]
    while len(kept) > 1 and (size := _size(kept)) > limit:
        kept = kept[: min(len(kept) - 1, len(kept) * limit // size)]
    if len(kept) == len(text):
        return text
    room = limit - _size(_CUT)
    while kept and _size(kept) > room:
        kept = kept[:-1]
    return kept + _CUT


def _size(text: str) -> int:
    return len(json.dumps(text))
